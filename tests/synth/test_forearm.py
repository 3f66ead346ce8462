"""Every rendered hand has an arm that goes on to the crop's edge and turns with the wrist."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from handloom.stores.joints import OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.forearm import WRIST_DOFS, arm_of, sample_wrist, sleeve, with_forearm
from handloom.synth.hand import (
    DOFS,
    FOREARM,
    HALF_WAY,
    N_BONES,
    PALM,
    POSE_SIZE,
    SHAPE_SIZE,
    WRIST,
    RiggedHand,
    kinematics,
    mirror,
    pose_hand,
    self_collision_mm,
)
from handloom.synth.pose import sample_pose
from handloom.synth.sampling import draw_samples


def without_forearm(hand: RiggedHand, behind_mm: float = 18.0) -> RiggedHand:
    """The hand cut off behind its wrist, as hands in files are, and closed again: its forearm pressed flat."""
    vertices = hand.vertices.copy()
    beyond = -vertices[:, 1] - behind_mm
    flat = beyond > 0
    shrink = np.clip(0.85 - beyond / 150, 0.05, 1)
    vertices[flat, 1] = -behind_mm
    vertices[flat, 0] *= shrink[flat]
    vertices[flat, 2] = -7 + (vertices[flat, 2] + 7) * shrink[flat]
    # No bone is the forearm's: neither 26 nor the helper between it and the wrist.
    arm = np.isin(hand.bone_index, [FOREARM, N_BONES + HALF_WAY.index(FOREARM)])
    index = np.where(arm, WRIST, hand.bone_index)
    parts = np.where(hand.parts == FOREARM, WRIST, hand.parts)
    return replace(hand, vertices=vertices, bone_index=index.astype(np.int32), parts=parts.astype(np.uint8))


def half_axes(vertices: np.ndarray, faces: np.ndarray, behind: float) -> tuple[np.ndarray, np.ndarray]:
    """Middle and half extents in x and z of a mesh's section behind the wrist."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    cut = trimesh.intersections.mesh_plane(mesh, [0.0, 1.0, 0.0], [0.0, -behind, 0.0]).reshape(-1, 3)[:, [0, 2]]
    return (cut.max(0) + cut.min(0)) / 2, np.ptp(cut, axis=0) / 2


BARE = {"builtin": builtin_hand, "left": lambda: mirror(builtin_hand()), "cut": lambda: without_forearm(builtin_hand())}


@pytest.fixture(params=BARE)
def bare(request: pytest.FixtureRequest) -> RiggedHand:
    return BARE[request.param]()


def at_rest(hand: RiggedHand, pose: np.ndarray | None = None) -> np.ndarray:
    angles = np.zeros(POSE_SIZE) if pose is None else pose
    return pose_hand(hand, angles[None], np.zeros((1, 6)), np.zeros((1, SHAPE_SIZE))).vertices[0]


def bent(flexion_deg: float, abduction_deg: float = 0.0) -> np.ndarray:
    pose = np.zeros(POSE_SIZE)
    pose[WRIST_DOFS] = np.radians([flexion_deg, abduction_deg])
    return pose


def test_the_arm_is_closed_outward_and_long_enough_to_leave_the_crop(bare: RiggedHand) -> None:
    hand = with_forearm(bare)
    mesh = trimesh.Trimesh(hand.vertices, hand.faces, process=False)
    assert mesh.is_watertight
    arm = trimesh.Trimesh(hand.vertices, hand.faces[len(bare.faces) :], process=False)
    assert arm.volume > 3e5
    assert (hand.parts[len(bare.faces) :] == FOREARM).all()
    assert np.abs(hand.bone_weight.sum(1) - 1).max() < 1e-5
    # The end lies outside a crop of 450 mm, and outside its corners.
    away = np.linalg.norm(hand.vertices - hand.joints[PALM], axis=1).max()
    assert away > 225 * np.sqrt(2)


def test_the_arm_goes_on_where_the_hand_ends(bare: RiggedHand) -> None:
    """Slices along the arm are as thick as their neighbours: neither a gap nor a step."""
    hand = with_forearm(bare)
    width = [2 * half_axes(hand.vertices, hand.faces, behind)[1] for behind in np.arange(4, 240, 6.0)]
    steps = np.abs(np.diff(np.array(width), axis=0))
    assert steps.max() < 7
    assert 42 < np.array(width)[:4].mean() < 60  # a wrist
    assert 62 < np.array(width)[-8:].mean() < 105  # a forearm's belly


@pytest.mark.parametrize("pose", [bent(75), bent(-70), bent(0, 20), bent(0, -30), bent(50, -20)], ids=lambda _: "")
def test_the_wrist_s_angles_move_the_arm_and_leave_the_hand(bare: RiggedHand, pose: np.ndarray) -> None:
    hand = with_forearm(bare)
    still, moved = at_rest(hand), at_rest(hand, pose)
    fingers = np.flatnonzero(np.isin(hand.bone_index[:, 0], [OPENXR26.index(f"{f}_tip") for f in ("index", "ring")]))
    assert np.allclose(still[fingers], moved[fingers])
    arm = slice(len(bare.vertices), None)
    # A rigid turn about the wrist by the pose's angle, whatever it is.
    one, other = (v[arm].astype(float) - hand.joints[WRIST] for v in (still, moved))
    u, _, vt = np.linalg.svd(one.T @ other)
    turn = (u @ vt).T
    assert np.abs(one @ turn.T - other).max() < 0.05
    turned = np.degrees(np.arccos((np.trace(turn) - 1) / 2))
    flexion, abduction = pose[WRIST_DOFS]
    assert turned == pytest.approx(np.degrees(np.arccos(0.5 * (np.cos(flexion) + np.cos(abduction)
        + np.cos(flexion) * np.cos(abduction) - 1))), abs=0.1)  # fmt: skip


def test_a_hand_from_a_file_keeps_no_stump_beside_a_bent_arm() -> None:
    """What lies behind the wrist of a hand without a forearm follows the arm."""
    bare = without_forearm(builtin_hand(), behind_mm=30.0)
    hand = with_forearm(bare)
    moved = at_rest(hand, bent(70))
    turn = kinematics(hand, bent(70)[None], np.zeros((1, 6)), np.zeros((1, SHAPE_SIZE))).rotation[0, FOREARM]
    stump = np.flatnonzero(bare.vertices[:, 1] < -20)
    # Seen from the arm, the stump is where it is at rest: about as thick as the arm there.
    back = moved[stump] @ turn
    middle, half = half_axes(hand.vertices, hand.faces[len(bare.faces) :], 24.0)
    assert len(stump) > 20
    assert (np.abs(back[:, [0, 2]] - middle) - half).max() < 6


def test_poses_and_collisions_are_those_of_the_bare_hand() -> None:
    bare = builtin_hand()
    hand = with_forearm(bare)
    poses = np.stack([sample_pose(bare, np.random.default_rng(i)) for i in range(6)])
    shapes = np.zeros((6, SHAPE_SIZE))
    assert np.array_equal(self_collision_mm(bare, poses, shapes), self_collision_mm(hand, poses, shapes))
    posed, as_bare = (pose_hand(h, poses, np.zeros((6, 6)), shapes) for h in (hand, bare))
    assert np.array_equal(posed.joints, as_bare.joints)
    assert np.allclose(posed.vertices[:, : len(bare.vertices)], as_bare.vertices, atol=1e-4)


def test_sampled_forearms_point_wherever_a_wrist_allows() -> None:
    low, high = np.degrees([[DOFS[i].low_rad, DOFS[i].high_rad] for i in WRIST_DOFS]).T
    drawn = np.degrees([sample_wrist(np.random.default_rng(i)) for i in range(2000)])
    within = (drawn - (low + high) / 2) / ((high - low) / 2)
    assert (within**2).sum(1).max() <= 1
    # Even over the ellipse: a quarter of them within half of it.
    assert ((within**2).sum(1) < 0.25).mean() == pytest.approx(0.25, abs=0.03)
    config = SynthConfig(frames=256, seed=3)
    hand = builtin_hand()
    wide = draw_samples(config, hand, 0, 256)
    narrow = draw_samples(
        config.model_copy(update={"scene": config.scene.model_copy(update={"wide_wrist": 0.0})}), hand, 0, 256
    )
    changed = (wide.pose != narrow.pose).any(1)
    assert 0.2 < changed.mean() < 0.4
    others = np.setdiff1d(np.arange(POSE_SIZE), WRIST_DOFS)
    assert np.array_equal(wide.pose[:, others], narrow.pose[:, others])
    assert np.ptp(np.degrees(wide.pose[changed][:, WRIST_DOFS]), axis=0) == pytest.approx(high - low, rel=0.25)
    assert self_collision_mm(hand, wide.pose, wide.shape).max() < 12
    again = draw_samples(config, hand, 100, 110)
    assert np.array_equal(again.pose, wide.pose[100:110])


def test_a_sleeve_hides_the_arm_from_its_cuff_on_and_nothing_of_the_hand() -> None:
    hand = with_forearm(builtin_hand())
    cloth = sleeve(arm_of(hand), start_mm=40.0, loose_mm=6.0, folds_mm=np.zeros((14, 2)))
    body = trimesh.Trimesh(cloth.vertices, cloth.faces, process=False)
    assert body.is_watertight
    assert body.volume > 0
    assert cloth.vertices[:, 1].max() == pytest.approx(-40, abs=3)
    for behind in (50.0, 100.0, 170.0, 210.0):
        (middle, arm), (around, cover) = (half_axes(m.vertices, m.faces, behind) for m in (hand, cloth))
        assert np.abs(middle - around).max() < 2.5
        assert (cover - arm).min() > 3
