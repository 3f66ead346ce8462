"""One pose from several cameras: agreement, a view that is far off, confidence, what is said of the disagreement."""

import numpy as np
import pytest

from handloom.learn.fusion import fuse

POSE = np.random.default_rng(0).normal(0, 50, (26, 3))


def test_views_that_agree_are_the_answer():
    found = fuse(np.stack([POSE] * 3), np.array([0.5, 0.9, 0.1]))
    assert found.joints_mm == pytest.approx(POSE)
    assert found.disagreement_mm == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("off_mm", [150.0, 400.0, 5000.0])
def test_one_view_of_three_that_is_far_off_counts_little(off_mm: float):
    views = np.stack([POSE] * 3)
    views[2] += [off_mm, 0, 0]
    found = fuse(views, np.ones(3))
    plain = np.linalg.norm(views.mean(axis=0) - POSE, axis=-1).mean()
    assert np.linalg.norm(found.joints_mm - POSE, axis=-1).max() < 4 < plain / 10
    assert found.disagreement_mm > off_mm / 4, "and it is said that one disagrees"


def test_one_finger_of_one_view_that_is_off_moves_no_other():
    views = np.stack([POSE] * 3)
    views[1, 22:] += [0, 120, 0]
    found = fuse(views, np.ones(3))
    assert found.joints_mm[:22] == pytest.approx(POSE[:22])
    assert np.abs(found.joints_mm[22:] - POSE[22:]).max() < 7
    assert found.joint_disagreement_mm[:22] == pytest.approx(0, abs=1e-9)
    assert (found.joint_disagreement_mm[22:] > 35).all()


def test_noise_of_the_views_averages_out():
    """As a mean does: sigma / sqrt(3), the robustness costs less than 10 %."""
    rng = np.random.default_rng(1)
    away = [fuse(POSE + rng.normal(0, 8, (3, 26, 3)), np.ones(3)).joints_mm - POSE for _ in range(200)]
    assert np.std(away) < 1.1 * 8 / np.sqrt(3)


def test_two_views_meet_as_their_confidence_says():
    two = np.stack([POSE, POSE + np.array([10, 0, 0])])
    found = fuse(two, np.array([0.9, 0.1]))
    assert found.joints_mm - POSE == pytest.approx(np.broadcast_to([1, 0, 0], POSE.shape), abs=0.1)
    assert fuse(two, np.ones(2)).joints_mm - POSE == pytest.approx(np.broadcast_to([5, 0, 0], POSE.shape), abs=1e-6)
    assert fuse(two, np.ones(2)).disagreement_mm == pytest.approx(5)


def test_a_single_view_is_itself_and_no_confidence_at_all_is_no_division_by_nothing():
    assert fuse(POSE[None], np.array([0.0])).joints_mm == pytest.approx(POSE)
    assert np.isfinite(fuse(np.stack([POSE, POSE + 9]), np.zeros(2)).joints_mm).all()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("views", "spread"), [(1, 0.0), (2, 20.0), (3, 300.0), (5, 90.0)])
def test_a_fused_joint_lies_among_the_views_and_turns_with_the_rig(seed: int, views: int, spread: float):
    rng = np.random.default_rng(seed)
    joints = rng.normal(0, 50, (1, 4, 3)) + rng.normal(0, spread, (views, 4, 3))
    trust = rng.uniform(0, 1, views)
    found = fuse(joints, trust).joints_mm
    assert (found >= joints.min(axis=0) - 1e-6).all()
    assert (found <= joints.max(axis=0) + 1e-6).all()
    moved = np.array([7.0, -300, 9])
    assert fuse(joints + moved, trust).joints_mm == pytest.approx(found + moved, abs=1e-6)


@pytest.mark.parametrize("views", [1, 2, 3, 5])
def test_many_instants_at_once_are_each_by_itself(views: int):
    rng = np.random.default_rng(3)
    joints, trust = rng.normal(0, 80, (7, views, 26, 3)), rng.random((7, views))
    together = fuse(joints, trust)
    for i in range(7):
        alone = fuse(joints[i], trust[i])
        np.testing.assert_array_equal(together.joints_mm[i], alone.joints_mm)
        np.testing.assert_array_equal(together.joint_disagreement_mm[i], alone.joint_disagreement_mm)
