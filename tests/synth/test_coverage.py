"""Views by side: counted where they are, found even where they are, and flagged where they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.recording import create_recording
from handloom.synth.anatomy import builtin_hand
from handloom.synth.coverage import BANDS, SECTORS, count_directions, coverage, draw_coverage, view_directions
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.hand import PALM
from handloom.synth.pose import random_rotation
from handloom.synth.rigs import ring_rig
from handloom.synth.rotation import rotation_matrix

EYES = np.stack([camera.to_rig(np.zeros(3)) for camera in ring_rig(3).cameras])


def directions(rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the three cameras of an arc, for hands turned so at the rig's origin; and their frames."""
    look = EYES / np.linalg.norm(EYES, axis=1, keepdims=True)
    return (look[None] @ rotations).reshape(-1, 3), np.repeat(np.arange(len(rotations)), 3)


def test_the_prior_is_seen_from_all_sides_alike() -> None:
    rng = np.random.default_rng(0)
    cover = count_directions(*directions(np.stack([random_rotation(rng) for _ in range(5000)])))
    assert cover.views == 15000
    assert cover.counts.shape == (BANDS, SECTORS)
    assert cover.p_value > 0.02
    assert cover.even
    # Views of one frame hang together, yet χ² stays near the cells less one.
    assert cover.expected_chi2 == pytest.approx(BANDS * SECTORS - 1, rel=0.1)
    assert cover.chi2 < 1.4 * cover.expected_chi2
    assert cover.unseen == 0
    assert "alike often" in cover.summary()


def test_p_is_uniform_when_views_are() -> None:
    """One recording in ten has p below 0.1: the test says what it claims."""
    rng = np.random.default_rng(1)
    p = [
        count_directions(*directions(np.stack([random_rotation(rng) for _ in range(60)])), seed=i).p_value
        for i in range(40)
    ]
    assert 0.3 < np.mean(p) < 0.7
    assert np.mean(np.array(p) < 0.1) < 0.3


def test_a_bias_is_flagged() -> None:
    rng = np.random.default_rng(2)
    rotations = np.stack([random_rotation(rng) for _ in range(2000)])
    away = rotation_matrix(rng.normal(size=(300, 3)) * 0.4)
    few = count_directions(*directions(np.concatenate([rotations, away])))
    assert not few.even
    only = count_directions(*directions(away))
    assert only.unseen > 0.4
    assert "more often from some sides" in only.summary()
    assert "p ≤ 0.0033" in only.summary()


def test_a_motion_is_one_piece() -> None:
    """Frames that hang together are no evidence against uniform views of the motions they belong to."""
    rng = np.random.default_rng(3)
    starts = np.stack([random_rotation(rng) for _ in range(30)])
    shaken = rotation_matrix(rng.normal(size=(30, 50, 3)) * 0.1) @ starts[:, None]
    found, frame = directions(shaken.reshape(-1, 3, 3))
    assert count_directions(found, frame // 50).even
    assert not count_directions(found, frame).even


def test_a_recording_is_counted_where_its_cameras_stand(tmp_path: Path) -> None:
    config = SynthConfig(frames=6, unit_frames=32, views=2, crop_px=32, sensor="none", seed=5)
    for side in ("right", "left"):
        made = synthesise(config.model_copy(update={"side": side}), tmp_path / f"{side}.zarr", jobs=1)
        assert made.labels is not None
        found, row = view_directions(made)
        assert row.tolist() == np.repeat(np.arange(6), 2).tolist()
        root, joints = made.labels.read("root"), made.labels.read("joints")
        eye = made.rig.cameras[1].to_rig(np.zeros(3))
        expected = rotation_matrix(root[3, :3]).T @ (eye - joints[3, PALM])
        expected[0] *= 1 if side == "right" else -1
        assert np.allclose(found[7], expected / np.linalg.norm(expected), atol=1e-5)
        assert coverage(made).views == 12
        # Without stored roots the palm's points tell how the hand is turned.
        without = tmp_path / f"{side}-labels.zarr"
        plain = create_recording(without, kind="captured", rig=made.rig, hand=side, provenance={})  # type: ignore[arg-type]
        plain.create_labels(layout="openxr26", unit_frames=32)
        plain.create_frames(depth=False, unit_frames=32)
        for name in ("labels", "frames"):
            table, given = getattr(plain, name), getattr(made, name)
            table.resize(6)
            table.write_unit(0, {column: given.read(column) for column in table.columns})
            table.commit_prefix({0})
        guessed, _ = view_directions(plain)
        assert np.degrees(np.arccos(np.clip((guessed * found).sum(1), -1, 1))).max() < 8


def test_sides_are_where_they_are_called() -> None:
    """A camera before the palm lies in the middle of the map, one over the thumb's side left of it."""
    hand = builtin_hand()
    thumb = hand.joints[3] - hand.joints[PALM]
    assert thumb[0] < 0
    palmwards = np.array([[0.0, 0.0, -1.0]])
    assert count_directions(palmwards, np.zeros(1)).counts[:, SECTORS // 2].sum() == 1
    assert count_directions(np.array([[-1.0, 0.0, -1e-3]]), np.zeros(1)).counts[:, SECTORS // 4].sum() == 1


def test_the_map_is_a_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    even = draw_coverage(count_directions(*directions(np.stack([random_rotation(rng) for _ in range(200)]))))
    turned = rotation_matrix(rng.normal(size=(200, 3)) * 0.3)
    biased = draw_coverage(count_directions(*directions(turned)))
    assert even[:8] == biased[:8] == b"\x89PNG\r\n\x1a\n"
    assert even != biased


def test_a_recording_without_labels_is_refused(tmp_path: Path) -> None:
    bare = create_recording(tmp_path / "a.zarr", kind="captured", rig=ring_rig(1), hand="right", provenance={})
    with pytest.raises(HandloomError, match="no labels"):
        coverage(bare)
