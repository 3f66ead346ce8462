"""The built-in hand: a closed body with the sizes of one, whole in a fist, and a cache that only saves time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.stores.joints import FINGERS, OPENXR26
from handloom.synth import anatomy
from handloom.synth.anatomy import FOREARM_MM, SCALE, builtin_hand, recipe_hash
from handloom.synth.hand import (
    DOFS,
    FOREARM,
    N_MOVERS,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_SIZE,
    WRIST,
    RiggedHand,
    mirror,
    pose_hand,
    without_helpers,
)

ROOT, MEAN = np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE))


@pytest.fixture(scope="module")
def right() -> RiggedHand:
    return builtin_hand()


@pytest.fixture(scope="module", params=["right", "left"])
def hand(request: pytest.FixtureRequest, right: RiggedHand) -> RiggedHand:
    return right if request.param == "right" else mirror(right)


def signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    a, b, c = (vertices[faces[:, i]].astype(float) for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def winding_number(point: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> float:
    """1 inside a closed surface, 0 outside (van Oosterom & Strackee 1983)."""
    a, b, c = (vertices[faces[:, i]].astype(float) - point for i in range(3))
    la, lb, lc = (np.linalg.norm(v, axis=1) for v in (a, b, c))
    top = np.einsum("ij,ij->i", a, np.cross(b, c))
    bottom = la * lb * lc + (a * b).sum(1) * lc + (b * c).sum(1) * la + (c * a).sum(1) * lb
    return float(2 * np.arctan2(top, bottom).sum() / (4 * np.pi))


def girth(hand: RiggedHand, low: float, high: float, axis: int) -> float:
    """Extent across of the slice between two distances from the wrist, the thumb left out."""
    weights = without_helpers(hand.dense_weights())
    thumb = [i for i, n in enumerate(OPENXR26) if n.startswith("thumb")]
    y = hand.vertices[:, 1]
    here = (y > low) & (y < high) & (weights[:, thumb].sum(1) < 0.3)
    return float(np.ptp(hand.vertices[here, axis]))


def fist() -> np.ndarray:
    pose = np.zeros((1, POSE_SIZE))
    bend = {"mcp_flexion": 84, "pip_flexion": 101, "dip_flexion": 67}
    for i, dof in enumerate(DOFS):
        kind = dof.name.split("_", 1)[1]
        if kind in bend and not dof.name.startswith("thumb"):
            pose[0, i] = np.radians(bend[kind])
    return pose


def test_the_mesh_is_one_closed_body_wound_outward(hand: RiggedHand) -> None:
    faces = hand.faces.astype(np.int64)
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    directed = {(int(a), int(b)) for a, b in edges}
    assert len(directed) == len(edges)
    assert all((b, a) in directed for a, b in directed)
    # Euler's number of a sphere: one piece, no handles, no vertex left over.
    assert len(hand.vertices) - len(edges) // 2 + len(faces) == 2
    assert np.array_equal(np.unique(faces), np.arange(len(hand.vertices)))
    assert signed_volume(hand.vertices, hand.faces) > 4e5
    assert 2300 <= len(faces) <= 5000


def test_weights_and_parts_cover_the_mesh(hand: RiggedHand) -> None:
    assert np.abs(hand.bone_weight.sum(1) - 1).max() < 1e-5
    assert hand.bone_weight.min() >= 0
    assert hand.bone_index.min() >= 0
    assert hand.bone_index.max() < N_MOVERS
    assert hand.parts.shape == (len(hand.faces),)
    fleshy = {i for i, n in enumerate(OPENXR26) if n != "palm" and not n.endswith("tip")} | {FOREARM}
    assert set(hand.parts.tolist()) == fleshy


def test_a_part_lies_around_its_bone(right: RiggedHand) -> None:
    middles = right.vertices[right.faces].mean(1)
    for finger in FINGERS:
        for kind in ("proximal", "intermediate", "distal"):
            name = f"{finger}_{kind}"
            if name not in OPENXR26:
                continue
            row = OPENXR26.index(name)
            length = np.linalg.norm(right.joints[row + 1] - right.joints[row])
            local = (middles[right.parts == row] - right.joints[row]) @ right.frames[row]
            assert local[:, 1].min() > -8, name
            assert local[:, 1].max() < length + 8, name
            assert np.hypot(local[:, 0], local[:, 2]).max() < 19, name
    assert middles[right.parts == FOREARM, 1].max() < 12
    assert middles[right.parts == FOREARM, 1].min() < -150


def test_it_has_the_sizes_of_an_adults_hand(right: RiggedHand) -> None:
    # Hand length 174.5 mm and breadth 79.5 mm are the means of both sexes.
    assert right.vertices[:, 1].max() == pytest.approx(174.5, abs=4)
    assert girth(right, 58, 82, 0) == pytest.approx(79.5, abs=5)
    assert girth(right, 65, 80, 2) == pytest.approx(29, abs=4)
    wrist = girth(right, -8, 0, 0)
    assert 48 < wrist < 60
    assert girth(right, -160, -90, 0) > wrist + 15
    assert right.vertices[:, 1].min() == pytest.approx(-FOREARM_MM * SCALE, abs=3)
    tips = {f: right.joints[OPENXR26.index(f"{f}_tip"), 1] for f in FINGERS}
    assert tips["middle"] > tips["ring"] > tips["index"] - 5 > tips["little"] > tips["thumb"]


def test_every_joint_lies_in_the_flesh_open_and_in_a_fist(right: RiggedHand) -> None:
    for pose in (np.zeros((1, POSE_SIZE)), fist()):
        posed = pose_hand(right, pose, ROOT, MEAN)
        for name, point in zip(OPENXR26, posed.joints[0], strict=True):
            assert winding_number(point.astype(float), posed.vertices[0], right.faces) > 0.5, name


def test_bending_tears_nothing(right: RiggedHand) -> None:
    posed = pose_hand(right, fist(), ROOT, MEAN).vertices[0]
    ends = right.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    before = np.linalg.norm(right.vertices[ends[:, 0]] - right.vertices[ends[:, 1]], axis=1)
    after = np.linalg.norm(posed[ends[:, 0]] - posed[ends[:, 1]], axis=1)
    assert (after - before).max() < 16


def test_the_thumbs_flexion_crosses_that_of_the_fingers(right: RiggedHand) -> None:
    thumb, index = (right.frames[OPENXR26.index(n)] for n in ("thumb_proximal", "index_proximal"))
    between = np.degrees(np.arccos(np.clip(thumb[:, 0] @ index[:, 0], -1, 1)))
    assert 45 < between < 100
    # The thumb points outward and in front of the palm.
    assert thumb[0, 1] < -0.3
    assert thumb[2, 1] < -0.2


def test_the_cache_gives_back_the_same_hand(right: RiggedHand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = builtin_hand()
    (file,) = (tmp_path / "handloom").glob("hand-*.npz")
    assert recipe_hash(2.0) in file.name
    calls = []
    monkeypatch.setattr(anatomy, "generate", lambda **_: calls.append(1))
    again = builtin_hand()
    assert not calls
    for name in ("vertices", "faces", "bone_index", "bone_weight", "parts", "joints", "frames"):
        assert np.array_equal(getattr(made, name), getattr(again, name)), name
        assert np.array_equal(getattr(made, name), getattr(right, name)), name
    for name in ("dof", "function", "offset"):
        kept = [getattr(hand.correctives, name) for hand in (made, again, right)]
        assert all(np.array_equal(kept[0], other) for other in kept[1:]), name


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not npz"])
def test_a_damaged_cache_is_made_anew(
    right: RiggedHand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(anatomy, "generate", lambda **_: right)
    builtin_hand()
    (file,) = (tmp_path / "handloom").glob("hand-*.npz")
    whole = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        bad = bytearray(whole)
        bad[len(bad) // 2] ^= 0x40
        file.write_bytes(bytes(bad))
    else:
        file.write_text("not a hand")
    assert np.array_equal(builtin_hand().vertices, right.vertices)
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_time_only(
    right: RiggedHand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(anatomy, "generate", lambda **_: right)
    assert np.array_equal(builtin_hand().vertices, right.vertices)


def test_the_recipes_hash_follows_its_parameters() -> None:
    assert recipe_hash(2.0) != recipe_hash(2.5)
    assert recipe_hash(2.0) == recipe_hash(2.0)


def test_the_wrist_is_the_origin(right: RiggedHand) -> None:
    assert np.abs(right.joints[WRIST]).max() < 1e-6
