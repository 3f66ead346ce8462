"""Kinematics and skinning, judged by what a hand physically does, in mm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handloom.stores.joints import FINGERS, LAYOUTS, OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import (
    BONE_PARENTS,
    DOFS,
    FOREARM,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_NAMES,
    SHAPE_SIZE,
    WRIST,
    RiggedHand,
    kinematics,
    landmarks,
    mirror,
    pose_hand,
    self_collision_mm,
)
from handloom.synth.rotation import half_way, quaternion, quaternion_matrix, rotation_matrix, rotation_vector

NAMES = [d.name for d in DOFS]


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


def joint(name: str) -> int:
    return OPENXR26.index(name)


def bent(**degrees: float) -> np.ndarray:
    pose = np.zeros((1, POSE_SIZE))
    for name, angle in degrees.items():
        pose[0, NAMES.index(name)] = np.radians(angle)
    return pose


def shaped(**logs: float) -> np.ndarray:
    shape = np.zeros((1, SHAPE_SIZE))
    for name, value in logs.items():
        shape[0, SHAPE_NAMES.index(name)] = value
    return shape


def random_state(hand: RiggedHand, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    low, high = hand.limits_rad.T
    root = np.concatenate([rng.normal(size=(count, 3)), rng.normal(size=(count, 3)) * 100], axis=1)
    return rng.uniform(low, high, (count, POSE_SIZE)), root, rng.normal(size=(count, SHAPE_SIZE)) * 0.06


ROOT = np.zeros((1, ROOT_SIZE))
MEAN = np.zeros((1, SHAPE_SIZE))


def test_zero_pose_is_the_rest_pose(hand: RiggedHand) -> None:
    posed = pose_hand(hand, np.zeros((1, POSE_SIZE)), ROOT, MEAN)
    assert np.abs(posed.vertices[0] - hand.vertices).max() < 1e-3
    assert np.abs(posed.joints[0] - hand.joints).max() < 1e-3


def test_the_root_moves_the_hand_rigidly_and_puts_the_wrist_where_it_says(hand: RiggedHand) -> None:
    pose, root, shape = random_state(hand, 4, 0)
    still = pose_hand(hand, pose, np.zeros_like(root), shape)
    moved = pose_hand(hand, pose, root, shape)
    rotation = rotation_matrix(root[:, :3])
    for before, after in ((still.vertices, moved.vertices), (still.joints, moved.joints)):
        expected = before @ rotation.transpose(0, 2, 1) + root[:, None, 3:]
        assert np.abs(expected - after).max() < 1e-2
    assert np.abs(moved.joints[:, WRIST] - root[:, 3:]).max() < 1e-3


def test_a_batch_is_the_same_as_one_by_one(hand: RiggedHand) -> None:
    pose, root, shape = random_state(hand, 5, 1)
    together = pose_hand(hand, pose, root, shape)
    for i in range(5):
        alone = pose_hand(hand, pose[i : i + 1], root[i : i + 1], shape[i : i + 1])
        assert np.abs(alone.vertices[0] - together.vertices[i]).max() < 1e-3


@pytest.mark.parametrize("finger", FINGERS[1:])
def test_flexion_brings_the_tip_to_the_palms_side(hand: RiggedHand, finger: str) -> None:
    tip = joint(f"{finger}_tip")
    rest = hand.joints[tip]
    for name in ("mcp", "pip", "dip"):
        posed = pose_hand(hand, bent(**{f"{finger}_{name}_flexion": 40}), ROOT, MEAN).joints[0]
        moved = posed[tip] - rest
        assert moved[2] < -5
        assert moved[1] < 0
        # Only what lies beyond the joint moves.
        start = joint(f"{finger}_{ {'mcp': 'proximal', 'pip': 'intermediate', 'dip': 'distal'}[name] }")
        others = [j for j in range(26) if not start < j <= tip]
        assert np.abs(posed[others] - hand.joints[others]).max() < 1e-3


@pytest.mark.parametrize("side", ["right", "left"])
def test_abduction_turns_towards_the_thumb_on_either_side(hand: RiggedHand, side: str) -> None:
    of_side = hand if side == "right" else mirror(hand)
    toward = np.sign(of_side.joints[joint("thumb_tip"), 0] - of_side.joints[joint("little_tip"), 0])
    posed = pose_hand(of_side, bent(middle_mcp_abduction=10), ROOT, MEAN).joints[0]
    moved = posed[joint("middle_tip"), 0] - of_side.joints[joint("middle_tip"), 0]
    assert moved * toward > 10
    assert of_side.joints[joint("thumb_tip"), 0] * (-1 if side == "right" else 1) > 20


def test_the_thumb_opposes_the_little_fingers_root(hand: RiggedHand) -> None:
    across = bent(thumb_cmc_flexion=30, thumb_mcp_flexion=50, thumb_ip_flexion=50)
    posed = pose_hand(hand, across, ROOT, MEAN).joints[0]
    moved = posed[joint("thumb_tip")] - hand.joints[joint("thumb_tip")]
    assert moved[0] > 40
    # It passes in front of the palm, not through it.
    assert posed[joint("thumb_tip"), 2] < -25


def test_joints_turn_about_the_axes_that_the_kinematics_give(hand: RiggedHand) -> None:
    pose, root, shape = random_state(hand, 3, 2)
    state = kinematics(hand, pose, root, shape)
    step = 1e-6
    for i, dof in enumerate(hand.dof):
        if dof.joint == WRIST:
            continue
        ahead = pose.copy()
        ahead[:, i] += step
        speed = (kinematics(hand, ahead, root, shape).position - state.position) / step
        arm = state.position[:, dof.joint + 1] - state.position[:, dof.joint]
        assert np.abs(speed[:, dof.joint + 1] - np.cross(state.axes[:, i], arm)).max() < 1e-2, dof.name


def test_the_wrist_moves_the_forearm_and_nothing_of_the_hand(hand: RiggedHand) -> None:
    posed = pose_hand(hand, bent(wrist_flexion=60), ROOT, MEAN)
    assert np.abs(posed.joints[0] - hand.joints).max() < 1e-3
    far = hand.vertices[:, 1] > 50
    assert np.abs(posed.vertices[0][far] - hand.vertices[far]).max() < 1e-2
    # A hand flexed towards its palm sees its forearm on the palm's side.
    elbow = hand.vertices[:, 1] < -120
    assert posed.vertices[0][elbow, 2].mean() < hand.vertices[elbow, 2].mean() - 60


def test_bones_keep_their_lengths_and_shapes_change_them_as_named(hand: RiggedHand) -> None:
    up = np.array(BONE_PARENTS[:26])
    bones = np.flatnonzero(up >= 0)

    def lengths(pose: np.ndarray, shape: np.ndarray) -> np.ndarray:
        joints = pose_hand(hand, pose, ROOT, shape).joints[0]
        return np.linalg.norm(joints[bones] - joints[up[bones]], axis=1)

    rest = lengths(np.zeros((1, POSE_SIZE)), MEAN)
    pose = random_state(hand, 1, 3)[0]
    assert np.abs(lengths(pose, MEAN) - rest).max() < 1e-3
    assert np.allclose(lengths(pose, shaped(size=0.1)), rest * np.exp(0.1), rtol=1e-4)
    longer = lengths(pose, shaped(ring_length=0.2)) / rest
    ring = [OPENXR26[b].startswith("ring") and OPENXR26[up[b]].startswith("ring") for b in bones]
    phalanges = np.array(ring) & np.array([not OPENXR26[up[b]].endswith("metacarpal") for b in bones])
    assert np.allclose(longer[phalanges], np.exp(0.2), rtol=1e-4)
    assert np.allclose(longer[~phalanges], 1, rtol=1e-4)


def test_thickness_changes_girth_and_not_length(hand: RiggedHand) -> None:
    thick = pose_hand(hand, np.zeros((1, POSE_SIZE)), ROOT, shaped(finger_thickness=0.2))
    assert np.abs(thick.joints[0] - hand.joints).max() < 1e-3
    row = joint("middle_intermediate")
    local = (hand.vertices - hand.joints[row]) @ hand.frames[row]
    near = (np.abs(local[:, 1] - 11) < 8) & (np.abs(local[:, 0]) < 11)
    after = ((thick.vertices[0] - hand.joints[row]) @ hand.frames[row])[near]
    assert np.ptp(after[:, 0]) / np.ptp(local[near, 0]) == pytest.approx(np.exp(0.2), rel=0.03)


def test_a_bent_knuckle_keeps_its_girth(hand: RiggedHand) -> None:
    row = joint("middle_intermediate")
    away = hand.vertices - hand.joints[row]
    local = away @ hand.frames[row]
    on_top = (np.abs(local[:, 1]) < 3) & (np.abs(local[:, 0]) < 5) & (local[:, 2] > 0)
    assert on_top.sum() >= 2
    posed = pose_hand(hand, bent(middle_pip_flexion=100), ROOT, MEAN)
    after = np.linalg.norm(posed.vertices[0] - posed.joints[0, row], axis=1)
    assert (after[on_top] / np.linalg.norm(away, axis=1)[on_top]).min() > 0.85


def test_mirroring_twice_is_nothing_and_once_mirrors_every_pose(hand: RiggedHand) -> None:
    other = mirror(hand)
    again = mirror(other)
    assert again.name == hand.name
    assert again.side == "right"
    for name in ("vertices", "faces", "joints", "frames", "bone_index", "bone_weight", "parts"):
        assert np.array_equal(getattr(again, name), getattr(hand, name)), name
    assert hand.correctives is not None
    assert again.correctives is not None
    for name in ("dof", "function", "offset"):
        assert np.array_equal(getattr(again.correctives, name), getattr(hand.correctives, name)), name
    assert np.allclose(np.linalg.det(other.frames), 1, atol=1e-5)
    pose, root, shape = random_state(hand, 3, 4)
    flip = np.array([-1.0, 1, 1])
    # A reflection turns an axial vector's other two components around.
    reflected = np.concatenate([root[:, :3] * -flip, root[:, 3:] * flip], axis=1)
    ours, theirs = pose_hand(hand, pose, root, shape), pose_hand(other, pose, reflected, shape)
    assert np.abs(ours.vertices * flip - theirs.vertices).max() < 1e-2
    assert np.abs(ours.joints * flip - theirs.joints).max() < 1e-3


def test_correctives_move_the_skin_at_rest_before_it_is_posed(hand: RiggedHand) -> None:
    assert hand.correctives is not None
    pose, root, shape = random_state(hand, 3, 5)
    posed = pose_hand(hand, pose, root, shape).vertices
    for i, (dof, offset) in enumerate(zip(pose, hand.correctives.features(pose), strict=True)):
        assert len(dof) == POSE_SIZE
        moved = np.einsum("f,fnc->nc", offset, hand.correctives.offset.astype(float))
        bare = replace(hand, vertices=(hand.vertices + moved).astype(np.float32), correctives=None)
        expected = pose_hand(bare, pose[i : i + 1], root[i : i + 1], shape[i : i + 1]).vertices[0]
        assert np.abs(posed[i] - expected).max() < 1e-3
        assert np.abs(moved).max() > 1


def test_landmarks_of_every_layout_lie_on_the_hand(hand: RiggedHand) -> None:
    for layout in LAYOUTS.values():
        points = landmarks(layout, hand.joints[None])[0]
        assert points.shape == (len(layout), 3)
        nearest = np.linalg.norm(points[:, None] - hand.vertices[None], axis=-1).min(axis=1)
        assert nearest.max() < 20, layout.name
    assert np.allclose(landmarks(LAYOUTS["openxr26"], hand.joints), hand.joints, atol=1e-4)


def test_self_collision_tells_a_hand_that_runs_through_itself(hand: RiggedHand) -> None:
    crossed = bent(index_mcp_abduction=-25, middle_mcp_abduction=25)
    through = bent(thumb_cmc_flexion=60, thumb_cmc_abduction=-60, thumb_mcp_flexion=20)
    pinch = bent(middle_mcp_flexion=10)
    poses = np.concatenate([np.zeros((1, POSE_SIZE)), pinch, crossed, through])
    depth = self_collision_mm(hand, poses, np.zeros((4, SHAPE_SIZE)))
    assert depth[0] < 1
    assert depth[1] < 2
    assert (depth[2:] > 8).all()
    # The same gesture on a hand twice as large is twice as deep.
    large = self_collision_mm(hand, crossed, shaped(size=np.log(2.0)))
    assert large[0] == pytest.approx(2 * depth[2], rel=0.02)


def test_rotations_convert_into_each_other() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(200, 3))
    vectors *= (rng.uniform(0, np.pi - 1e-3, 200) / np.linalg.norm(vectors, axis=1))[:, None]
    vectors[0] = 0
    vectors[1] = [1e-9, 0, 0]
    vectors[2] = [np.pi - 1e-7, 0, 0]
    matrices = rotation_matrix(vectors)
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(3), atol=1e-12)
    assert np.abs(rotation_vector(matrices) - vectors).max() < 1e-6
    assert np.abs(quaternion_matrix(quaternion(matrices)) - matrices).max() < 1e-12
    turned = matrices[:100] @ rotation_matrix(0.5 * vectors[100:])
    half = half_way(matrices[:100], turned)
    assert np.abs(half - matrices[:100] @ rotation_matrix(0.25 * vectors[100:])).max() < 1e-9


def test_every_bone_with_flesh_moves_some_of_it(hand: RiggedHand) -> None:
    moved = set(hand.bones)
    fleshy = {i for i, n in enumerate(OPENXR26) if n != "palm" and not n.endswith("tip")} | {FOREARM}
    assert fleshy <= moved
