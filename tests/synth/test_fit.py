"""Inverse kinematics: what was posed is found again, to fractions of a millimetre."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.stores.camera import unproject
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS, NYU14_OF_36, OPENXR26, layout_named
from handloom.synth.anatomy import builtin_hand
from handloom.synth.fit import Fit, fit_pose
from handloom.synth.hand import (
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_NAMES,
    SHAPE_SIZE,
    RiggedHand,
    kinematics,
    landmarks,
    mirror,
    pose_hand,
)
from handloom.synth.points import Model
from handloom.synth.pose import sample_pose, sample_view
from handloom.synth.rotation import rotation_matrix, rotation_vector
from handloom.synth.subject import fit_subject, with_joints_moved
from handloom.synth.subject_sizes import sample_shape

NYU = Path(__file__).parents[3] / "shared/data/nyu/test_36_joints_uvd.npz"


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


def sampled(hand: RiggedHand, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        np.array([sample_pose(hand, rng) for _ in range(count)]),
        np.array([sample_view(hand, rng) for _ in range(count)]),
    )


def joints_of(hand: RiggedHand, pose: np.ndarray, root: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return kinematics(hand, pose, root, np.broadcast_to(shape, (len(pose), SHAPE_SIZE))).position[:, :26]


@pytest.mark.parametrize("name", list(LAYOUTS))
def test_points_of_every_layout_are_found_again(hand: RiggedHand, name: str) -> None:
    pose, root = sampled(hand, 200, 0)
    truth = joints_of(hand, pose, root, np.zeros(SHAPE_SIZE))
    fit = fit_pose(hand, landmarks(LAYOUTS[name], truth), LAYOUTS[name])
    assert fit.residual_mm.max() < 0.3
    error = np.linalg.norm(joints_of(hand, fit.pose, fit.root, fit.shape) - truth, axis=-1)
    # Joints that a layout does not show are guessed; on average they are near all the same.
    complete = {"openxr26", "mediapipe21", "mano21", "msra21", "nyu36"}
    assert error.mean() < (0.05 if name in complete else 0.5)
    assert name not in complete or error.max() < 2.0
    low, high = hand.limits_rad.T
    assert (fit.pose > low - np.radians(1)).all()
    assert (fit.pose < high + np.radians(1)).all()


def test_the_jacobian_is_the_derivative(hand: RiggedHand) -> None:
    rng = np.random.default_rng(1)
    layout = layout_named("nyu36")
    for side in (hand, mirror(hand)):
        model = Model(side, layout, rng.normal(size=(36, 3)) * 6)
        pose, root = sampled(side, 3, 2)
        shape = rng.normal(size=(3, SHAPE_SIZE)) * 0.1
        jacobian = model.jacobian(pose, root, shape)
        direction = rng.normal(size=jacobian.shape[1])
        direction /= np.linalg.norm(direction)

        def ahead(
            step: float,
            model: Model = model,
            pose: np.ndarray = pose,
            root: np.ndarray = root,
            shape: np.ndarray = shape,
            direction: np.ndarray = direction,
        ) -> np.ndarray:
            turned = rotation_matrix(step * direction[:3]) @ rotation_matrix(root[:, :3])
            moved = np.concatenate([rotation_vector(turned), root[:, 3:] + step * direction[3:6]], axis=1)
            state = kinematics(model.hand, pose + step * direction[6:31], moved, shape + step * direction[31:])
            return model.points(state)[0]

        numeric = (ahead(1e-5) - ahead(-1e-5)) / 2e-5
        analytic = np.einsum("bkpc,k->bpc", jacobian, direction)
        assert np.abs(numeric - analytic).max() < 1e-4 * np.abs(analytic).max()


def test_a_frame_is_fitted_the_same_whatever_else_is_in_its_batch(hand: RiggedHand) -> None:
    pose, root = sampled(hand, 30, 9)
    targets = joints_of(hand, pose, root, np.zeros(SHAPE_SIZE)) + np.random.default_rng(9).normal(size=(30, 26, 3))
    layout = layout_named("openxr26")
    start = fit_pose(hand, targets, layout, iterations=0)
    whole = fit_pose(hand, targets, layout, start=start)
    one = Fit(*(value[7:8] for value in (start.pose, start.root, start.shape, start.residual_mm, start.point_mm)))
    alone = fit_pose(hand, targets[7:8], layout, start=one)
    assert np.array_equal(alone.pose[0], whole.pose[7])
    assert np.array_equal(alone.root[0], whole.root[7])


def test_unknown_points_are_left_out(hand: RiggedHand) -> None:
    layout = layout_named("mediapipe21")
    pose, root = sampled(hand, 60, 3)
    truth = joints_of(hand, pose, root, np.zeros(SHAPE_SIZE))
    targets = landmarks(layout, truth)
    rng = np.random.default_rng(0)
    hidden = rng.random((60, 21)) < 0.2
    targets[hidden] = np.nan
    targets[0] = np.nan
    targets[1, 4, 0] = np.nan
    fit = fit_pose(hand, targets, layout)
    assert np.isnan(fit.residual_mm[0])
    assert np.isfinite(fit.pose).all()
    assert np.isfinite(fit.root).all()
    assert np.nanmax(fit.residual_mm[1:]) < 0.5
    assert np.isnan(fit.point_mm[hidden]).all()
    assert np.isnan(fit.point_mm[1, 4])
    assert fit_pose(hand, targets[:0], layout).pose.shape == (0, POSE_SIZE)


def test_noise_is_averaged_and_limits_hold(hand: RiggedHand) -> None:
    pose, root = sampled(hand, 100, 4)
    truth = joints_of(hand, pose, root, np.zeros(SHAPE_SIZE))
    noisy = truth + np.random.default_rng(0).normal(size=truth.shape) * 4
    fit = fit_pose(hand, noisy, layout_named("openxr26"))
    error = np.linalg.norm(joints_of(hand, fit.pose, fit.root, fit.shape) - truth, axis=-1)
    assert error.mean() < 0.8 * np.linalg.norm(noisy - truth, axis=-1).mean()
    low, high = hand.limits_rad.T
    assert np.maximum(low - fit.pose, fit.pose - high).max() < np.radians(12)


def test_a_left_hand_is_fitted_as_a_left_hand(hand: RiggedHand) -> None:
    left = mirror(hand)
    pose, root = sampled(left, 40, 5)
    truth = joints_of(left, pose, root, np.zeros(SHAPE_SIZE))
    layout = layout_named("openxr26")
    assert fit_pose(left, truth, layout).residual_mm.max() < 0.5
    assert np.median(fit_pose(hand, truth, layout).residual_mm) > 4


def test_a_free_shape_finds_the_proportions(hand: RiggedHand) -> None:
    rng = np.random.default_rng(6)
    pose, root = sampled(hand, 50, 6)
    shape = sample_shape(rng)
    truth = joints_of(hand, pose, root, shape)
    layout = layout_named("openxr26")
    fixed = fit_pose(hand, truth, layout)
    free = fit_pose(hand, truth, layout, fit_shape=True)
    assert np.median(free.residual_mm) < 0.3
    assert np.median(fixed.residual_mm) > 4 * np.median(free.residual_mm)
    lengths = [i for i, n in enumerate(SHAPE_NAMES) if n.endswith("_length") and not n.startswith("palm")]
    found = np.median(free.shape[:, lengths] + free.shape[:, :1], axis=0)
    assert np.abs(found - shape[lengths] - shape[0]).max() < 0.02


def test_a_person_is_found_from_points_beside_the_joints(hand: RiggedHand) -> None:
    rng = np.random.default_rng(7)
    layout = layout_named("nyu14")
    shift = rng.normal(size=(26, 3)) * 2.0
    person = with_joints_moved(hand, shift)
    shape = sample_shape(rng)
    pose, root = sampled(person, 240, 8)
    offset = rng.normal(size=(14, 3)) * 4
    state = kinematics(person, pose, root, np.tile(shape, (240, 1)))
    points, _ = Model(person, layout, offset).points(state)
    points += rng.normal(size=points.shape) * 0.5
    subject = fit_subject(hand, points[:160], layout, rounds=5)
    given = {"shape": subject.shape, "offset_mm": subject.offset_mm}
    plain = fit_pose(hand, points[160:], layout)
    fitted = fit_pose(subject.hand, points[160:], layout, **given)
    # The noise alone is 0.8 mm; the other frames were not used.
    assert fitted.residual_mm.mean() < 1.6
    assert fitted.residual_mm.mean() < 0.4 * plain.residual_mm.mean()


def test_a_person_needs_points(hand: RiggedHand) -> None:
    with pytest.raises(HandloomError, match="nobody to fit"):
        fit_subject(hand, np.full((4, 14, 3), np.nan), layout_named("nyu14"))


def test_moved_joints_take_the_flesh_along(hand: RiggedHand) -> None:
    shift = np.zeros((26, 3))
    shift[OPENXR26.index("index_proximal")] = [-3, 2, 0]
    moved = with_joints_moved(hand, shift)
    beyond = [OPENXR26.index(f"index_{n}") for n in ("proximal", "intermediate", "distal", "tip")]
    others = [i for i in range(26) if i not in beyond]
    assert np.allclose(moved.joints[beyond] - hand.joints[beyond], [-3, 2, 0], atol=1e-4)
    assert np.array_equal(moved.joints[others], hand.joints[others])
    tip = hand.vertices[:, 1] > hand.joints[OPENXR26.index("index_distal"), 1]
    tip &= hand.vertices[:, 0] < -12
    assert np.allclose((moved.vertices - hand.vertices)[tip], [-3, 2, 0], atol=0.05)
    still = pose_hand(moved, np.zeros((1, POSE_SIZE)), np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE)))
    assert np.abs(still.vertices[0] - moved.vertices).max() < 1e-3


@pytest.mark.skipif(not NYU.exists(), reason="the NYU labels are not on this machine")
def test_real_hands_are_fitted_to_the_labels_own_noise(hand: RiggedHand) -> None:
    with np.load(NYU) as file:
        uv = np.stack([file["u"], file["v"]], axis=-1).astype(np.float64)
        depth = file["d"].astype(np.float64)
    # NYU's y points up with a focal length of −587.07: positive, it points down, and the hand is a right one.
    points = unproject(uv, depth, (588.03, 587.07, 320, 240))[:, list(NYU14_OF_36)]
    layout = layout_named("nyu14")
    for first, last in ((0, 2440), (2440, 8252)):
        frames = points[np.linspace(first, last - 1, 250).astype(int)]
        subject = fit_subject(hand, frames[::2], layout)
        fit = fit_pose(subject.hand, frames[1::2], layout, shape=subject.shape, offset_mm=subject.offset_mm)
        assert fit.residual_mm.mean() < 1.8
