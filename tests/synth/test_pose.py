"""What is sampled: within anatomy, wide enough, at human speeds, and from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.joints import FINGERS, OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.gestures import GESTURES, MIXTURE
from handloom.synth.hand import (
    DOFS,
    PALM,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_SIZE,
    RiggedHand,
    mirror,
    pose_hand,
    self_collision_mm,
)
from handloom.synth.pose import TOLERANCE_MM, MotionStyle, draw, sample_pose, sample_trajectory, sample_view
from handloom.synth.rotation import rotation_matrix, rotation_vector
from handloom.synth.subject_sizes import sample_shape

NAMES = [d.name for d in DOFS]


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


@pytest.fixture(scope="module")
def poses(hand: RiggedHand) -> np.ndarray:
    rng = np.random.default_rng(11)
    return np.array([sample_pose(hand, rng) for _ in range(1500)])


def dofs(kind: str) -> list[int]:
    return [NAMES.index(f"{finger}_{kind}") for finger in FINGERS[1:]]


def turns_deg(root: np.ndarray) -> np.ndarray:
    rotation = rotation_matrix(root[:, :3])
    vectors = rotation_vector(rotation[1:] @ rotation[:-1].transpose(0, 2, 1))
    return np.degrees(np.linalg.norm(vectors, axis=1))


def test_poses_stay_within_the_limits_and_out_of_each_other(hand: RiggedHand, poses: np.ndarray) -> None:
    low, high = hand.limits_rad.T
    assert (poses >= low - 1e-9).all()
    assert (poses <= high + 1e-9).all()
    depth = self_collision_mm(hand, poses, np.zeros((len(poses), SHAPE_SIZE)))
    assert np.mean(depth <= TOLERANCE_MM + 1e-6) > 0.99
    assert depth.max() < 2 * TOLERANCE_MM


def test_poses_cover_what_hands_can_do(hand: RiggedHand, poses: np.ndarray) -> None:
    low, high = hand.limits_rad.T
    reached = (np.percentile(poses, 99, axis=0) - np.percentile(poses, 1, axis=0)) / (high - low)
    kinds = ("mcp_flexion", "pip_flexion")
    assert min(reached[i] for kind in kinds for i in dofs(kind)) > 0.85
    assert min(reached[NAMES.index(n)] for n in NAMES if n.startswith("thumb")) > 0.75
    # Not a few synergies: real free motion has nine components to 90 % of its variance.
    variance = np.sort(np.linalg.eigvalsh(np.cov(poses.T)))[::-1]
    assert np.searchsorted(np.cumsum(variance) / variance.sum(), 0.9) + 1 >= 7


def test_fingers_are_coupled_as_peoples_are(poses: np.ndarray) -> None:
    together = np.corrcoef(poses[:, dofs("mcp_flexion")].T)
    neighbours = together[[0, 1, 2], [1, 2, 3]]
    assert (neighbours > 0.4).all()
    assert (neighbours < 0.85).all()
    assert together[0, 3] < neighbours.min()
    last, middle = poses[:, dofs("dip_flexion")].ravel(), poses[:, dofs("pip_flexion")].ravel()
    bent = middle > np.radians(30)
    assert np.median(last[bent] / middle[bent]) == pytest.approx(2 / 3, abs=0.06)
    spread, knuckle = np.abs(poses[:, dofs("mcp_abduction")]), poses[:, dofs("mcp_flexion")]
    assert spread[knuckle > np.radians(75)].mean() < 0.5 * spread[knuckle < np.radians(15)].mean()


@pytest.mark.parametrize(("gesture", "finger"), [(f"pinch_{f}", f) for f in FINGERS[1:]] + [("ok", "index")])
def test_pinches_touch(hand: RiggedHand, gesture: str, finger: str) -> None:
    drawn = draw(hand, gesture, np.random.default_rng(0), 400)
    state = np.zeros((400, ROOT_SIZE)), np.zeros((400, SHAPE_SIZE))
    joints = pose_hand(hand, drawn, *state).joints
    thumb, other = (OPENXR26.index(f"{f}_tip") for f in ("thumb", finger))
    apart = np.linalg.norm(joints[:, thumb] - joints[:, other], axis=1)
    # Two fleshy tips of 7 mm that touch have their bones' ends about 14 mm apart.
    assert 8 < np.median(apart) < 22


def test_gestures_are_what_they_are_called(hand: RiggedHand) -> None:
    def openness(gesture: str) -> np.ndarray:
        drawn = draw(hand, gesture, np.random.default_rng(1), 100)
        joints = pose_hand(hand, drawn, np.zeros((100, ROOT_SIZE)), np.zeros((100, SHAPE_SIZE))).joints
        tips = joints[:, [OPENXR26.index(f"{f}_tip") for f in FINGERS[1:]]]
        roots = joints[:, [OPENXR26.index(f"{f}_proximal") for f in FINGERS[1:]]]
        rest = [i for f in FINGERS[1:] for i in (OPENXR26.index(f"{f}_tip"),)]
        full = hand.joints[rest] - hand.joints[[OPENXR26.index(f"{f}_proximal") for f in FINGERS[1:]]]
        return np.median(np.linalg.norm(tips - roots, axis=-1) / np.linalg.norm(full, axis=-1), axis=0)

    assert (openness("flat") > 0.97).all()
    assert (openness("fist") < 0.55).all()
    point = openness("point")
    assert point[0] > 0.95
    assert (point[1:] < 0.55).all()
    two = openness("two")
    assert (two[:2] > 0.95).all()
    assert (two[2:] < 0.55).all()


def test_every_family_can_be_drawn_without_collision(hand: RiggedHand) -> None:
    assert set(GESTURES) | {"wide", "between"} == set(MIXTURE)
    rng = np.random.default_rng(2)
    for family in MIXTURE:
        depth = self_collision_mm(hand, draw(hand, family, rng, 100), np.zeros((100, SHAPE_SIZE)))
        assert np.mean(depth <= TOLERANCE_MM) > 0.15, family


def test_an_unknown_family_is_named(hand: RiggedHand) -> None:
    with pytest.raises(HandloomError, match="Unknown family of poses 'vulcan'"):
        sample_pose(hand, np.random.default_rng(0), mixture={"vulcan": 1.0})


def test_sampling_depends_on_the_generator_alone(hand: RiggedHand) -> None:
    one, other = (np.random.default_rng(5) for _ in range(2))
    first = (sample_shape(one), sample_pose(hand, one), sample_view(hand, one))
    np.random.default_rng(6).random()
    second = (sample_shape(other), sample_pose(hand, other), sample_view(hand, other))
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)
    # A left hand is drawn from the same prior.
    assert np.array_equal(
        sample_pose(hand, np.random.default_rng(7)), sample_pose(mirror(hand), np.random.default_rng(7))
    )


def test_views_are_uniform_and_put_the_palm_in_the_ball(hand: RiggedHand) -> None:
    rng = np.random.default_rng(4)
    shape = sample_shape(rng)
    roots = np.array([sample_view(hand, rng, shape=shape, radius_mm=80) for _ in range(3000)])
    shapes = np.tile(shape, (3000, 1))
    palms = pose_hand(hand, np.zeros((3000, POSE_SIZE)), roots, shapes).joints[:, PALM]
    distance = np.linalg.norm(palms, axis=1)
    assert distance.max() < 80.01
    assert np.median(distance) == pytest.approx(80 * 0.5 ** (1 / 3), abs=1.5)
    assert np.abs(palms.mean(axis=0)).max() < 4
    rotation = rotation_matrix(roots[:, :3])
    # Uniform: every entry has mean 0 and variance 1/3, and the angle has density (1 − cos) / π.
    assert np.abs(rotation.mean(axis=0)).max() < 0.05
    assert np.abs((rotation**2).mean(axis=0) - 1 / 3).max() < 0.03
    angle = np.linalg.norm(roots[:, :3], axis=1)
    assert angle.mean() == pytest.approx(np.pi / 2 + 2 / np.pi, abs=0.04)


def test_motion_has_human_speeds(hand: RiggedHand) -> None:
    rng = np.random.default_rng(8)
    pose, root = sample_trajectory(hand, rng, n_frames=6000, fps=30.0)
    assert pose.shape == (6000, POSE_SIZE)
    assert root.shape == (6000, ROOT_SIZE)
    turns = turns_deg(root)
    assert np.median(turns) == pytest.approx(0.7, abs=0.25)
    assert np.percentile(turns, 95) == pytest.approx(4.8, abs=1.6)
    low, high = hand.limits_rad.T
    assert (pose >= low - 1e-9).all()
    assert (pose <= high + 1e-9).all()
    depth = self_collision_mm(hand, pose, np.zeros((6000, SHAPE_SIZE)))
    assert np.mean(depth <= TOLERANCE_MM + 1) > 0.95
    joints = pose_hand(hand, pose, root, np.zeros((6000, SHAPE_SIZE))).joints
    assert np.linalg.norm(joints[:, PALM], axis=1).max() < 100.01
    travel_mm_s = 30 * np.linalg.norm(np.diff(joints[:, PALM], axis=0), axis=1)
    assert np.median(travel_mm_s) == pytest.approx(60, rel=0.3)
    assert np.percentile(travel_mm_s, 95) == pytest.approx(300, rel=0.3)
    # Smooth: what changes between two steps is little against the fastest step.
    steps = np.diff(joints, axis=0)
    speed = np.linalg.norm(steps, axis=-1).max(axis=1)
    jolt = np.linalg.norm(np.diff(steps, axis=0), axis=-1).max(axis=1)
    assert np.percentile(jolt, 99) < 0.5 * np.percentile(speed, 99)


def test_fingers_move_without_jumps(hand: RiggedHand) -> None:
    """No faster than people tap, 600°/s, and no acceleration that a tendon could not give."""
    for seed in range(4):
        pose, _ = sample_trajectory(hand, np.random.default_rng(seed), n_frames=600, fps=30.0)
        speed = np.degrees(np.diff(pose, axis=0)) * 30
        assert np.abs(speed).max() < 600
        assert np.abs(np.diff(speed, axis=0)).max() * 30 < 9000
        assert 5 < np.percentile(np.abs(speed).max(axis=1), 75) < 150


def test_motion_is_the_same_at_any_frame_rate(hand: RiggedHand) -> None:
    slow, fast = (
        sample_trajectory(hand, np.random.default_rng(9), n_frames=100 * fps, fps=float(fps))[1] for fps in (30, 90)
    )
    assert np.median(turns_deg(slow)) / np.median(turns_deg(fast)) == pytest.approx(3, rel=0.35)


def test_a_hand_may_stay_where_it_is(hand: RiggedHand) -> None:
    _, root = sample_trajectory(
        hand, np.random.default_rng(3), n_frames=300, fps=30.0, style=MotionStyle(radius_mm=0.0)
    )  # fmt: skip
    palms = pose_hand(hand, np.zeros((300, POSE_SIZE)), root, np.zeros((300, SHAPE_SIZE))).joints[:, PALM]
    assert np.abs(palms).max() < 0.01


def test_a_style_moves_as_it_says(hand: RiggedHand) -> None:
    facing = (0.0, np.pi, 0.0)
    style = MotionStyle(
        mixture={"relaxed": 1.0, "grip": 1.0},
        median_deg_s=60,
        p95_deg_s=160,
        facing=facing,
        facing_spread_deg=25,
        radius_mm=40,
    )
    pose, root = sample_trajectory(hand, np.random.default_rng(10), n_frames=3000, fps=30.0, style=style)
    away = rotation_vector(rotation_matrix(root[:, :3]) @ rotation_matrix(np.array(facing)).T)
    assert np.degrees(np.linalg.norm(away, axis=1)).mean() < 35
    assert np.median(turns_deg(root)) == pytest.approx(2.0, rel=0.4)
    assert np.degrees(pose[:, dofs("pip_flexion")]).max() < 95
    palms = pose_hand(hand, pose, root, np.zeros((3000, SHAPE_SIZE))).joints[:, PALM]
    assert np.linalg.norm(palms, axis=1).max() < 40.01
