"""A hand keeps its volume whatever it does, and the measure of what it takes up is one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handloom.synth.anatomy import builtin_hand
from handloom.synth.forearm import with_forearm
from handloom.synth.gestures import GESTURES
from handloom.synth.hand import DOFS, POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, RiggedHand, mirror, pose_hand
from handloom.synth.pose import draw, sample_pose
from handloom.synth.surface import occupied_volume, volume

STEP_MM = 1.5


class Middle(np.random.Generator):
    """Draws the middle of every family of poses."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def normal(self, size: object = None) -> np.ndarray:  # type: ignore[override]
        return np.zeros(size)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


def hand_mm3(hand: RiggedHand) -> float:
    """Volume of the hand proper, what lies beyond the wrist: the forearm does not count in what is kept."""
    corners = hand.vertices[hand.faces].astype(float)
    height = np.maximum(corners[..., 1], 0)
    # Flattened onto the plane of the wrist, what is behind it encloses nothing.
    corners[..., 1] = height
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def changes(hand: RiggedHand, poses: np.ndarray, shapes: np.ndarray | None = None) -> np.ndarray:
    """(P, 2) what each pose adds to the hand's volume: as pieces of flesh, and as water displaced."""
    out = []
    for i, pose in enumerate(poses):
        shape = np.zeros((1, SHAPE_SIZE)) if shapes is None else shapes[i : i + 1]
        state = np.stack([np.zeros(POSE_SIZE), pose])
        still, posed = pose_hand(hand, state, np.zeros((2, ROOT_SIZE)), np.repeat(shape, 2, axis=0)).vertices
        proper = hand_mm3(replace(hand, vertices=still, correctives=None))
        pieces = volume(posed, hand.faces) - volume(still, hand.faces)
        water = [occupied_volume(vertices, hand.faces, step_mm=STEP_MM) for vertices in (posed, still)]
        out.append([pieces / proper, (water[0] - water[1]) / proper])
    return np.array(out)


def named(hand: RiggedHand, gesture: str) -> np.ndarray:
    return draw(hand, gesture, Middle(), 1)[0]


def test_occupied_volume_counts_an_overlap_once() -> None:
    # Two cubes of 20 mm, the second shifted: 2 × 8000 less what is in both.
    corner = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)], float) * 20
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))], np.int32)
    shift = np.array([8.0, 5.0, 12.0])
    both = np.concatenate([corner, corner + shift])
    all_faces = np.concatenate([faces, faces + 8])
    assert volume(both, all_faces) == pytest.approx(16000)
    assert occupied_volume(corner, faces, step_mm=0.5) == pytest.approx(8000, rel=0.01)
    expected = 16000 - np.prod(20 - shift)
    assert occupied_volume(both, all_faces, step_mm=0.5) == pytest.approx(expected, rel=0.01)
    assert occupied_volume(both[:, [2, 0, 1]], all_faces, step_mm=0.5) == pytest.approx(expected, rel=0.01)


def test_every_named_gesture_keeps_the_volume_by_either_measure(hand: RiggedHand) -> None:
    poses = np.array([named(hand, gesture) for gesture in GESTURES])
    found = changes(hand, poses)
    for gesture, change in zip(GESTURES, found, strict=True):
        assert np.abs(change).max() < 0.03, (gesture, change)
    # Without correctives a fist loses three times as much: the measure sees it.
    fist = list(GESTURES).index("fist")
    assert changes(replace(hand, correctives=None), poses[fist : fist + 1]).max() < -0.07


def test_either_side_and_an_arm_keep_it_too(hand: RiggedHand) -> None:
    fist = named(hand, "fist")[None]
    here = changes(hand, fist)
    assert changes(mirror(hand), fist) == pytest.approx(here, abs=2e-3)
    # The arm lies through the cut of the forearm: its flesh and the hand's are counted once only as water.
    assert changes(with_forearm(hand), fist)[0, 0] * hand_mm3(hand) == pytest.approx(
        here[0, 0] * hand_mm3(hand), rel=0.05
    )


def test_the_priors_poses_keep_it(hand: RiggedHand) -> None:
    rng = np.random.default_rng(1)
    found = np.abs(changes(hand, np.array([sample_pose(hand, rng) for _ in range(200)])))
    assert np.median(found, axis=0).max() < 0.01
    assert np.percentile(found, 95, axis=0).max() < 0.03


def test_each_angle_alone_keeps_it(hand: RiggedHand) -> None:
    low, high = hand.limits_rad.T
    poses = np.concatenate([np.diag(low), np.diag(0.5 * (low + high)), np.diag(high)])
    found = changes(hand, poses)[:, 0].reshape(3, -1)
    for dof, change in zip(DOFS, found.T, strict=True):
        assert np.abs(change).max() < 0.02, (dof.name, change)


def test_correctives_are_local(hand: RiggedHand) -> None:
    given = hand.correctives
    assert given is not None
    names = [d.name for d in DOFS]
    size = np.linalg.norm(given.offset, axis=2)
    assert size.max() < 12
    for dof, field in zip(given.dof, size, strict=True):
        joint = hand.joints[DOFS[dof].joint]
        reach = np.linalg.norm(hand.vertices[field > 0.1 * field.max()] - joint, axis=1).max()
        # A metacarpal's seam is as long as it is.
        assert reach < (70 if "cmc" in names[dof] or names[dof].startswith("wrist") else 50), names[dof]


def test_a_joint_at_rest_moves_no_skin(hand: RiggedHand) -> None:
    assert hand.correctives is not None
    assert not hand.correctives.features(np.zeros((2, POSE_SIZE))).any()
