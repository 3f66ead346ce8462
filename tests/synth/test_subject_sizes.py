"""Subjects are as large as published: measured on their meshes, by sex, and whole at either end."""

from __future__ import annotations

import numpy as np
import pytest

from handloom.stores.joints import OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, RiggedHand, pose_hand, without_helpers
from handloom.synth.pose import typical_pose
from handloom.synth.subject_sizes import BUILTIN_MM, CORRELATION, SIZES_MM, Sex, sample_shape
from handloom.synth.surface import volume

COUNT = 600


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


def measured(hand: RiggedHand, shapes: np.ndarray) -> np.ndarray:
    """(B, 3) mm: wrist to middle tip, breadth over the knuckles of four fingers, index at its middle joint."""
    posed = pose_hand(hand, np.zeros((len(shapes), POSE_SIZE)), np.zeros((len(shapes), ROOT_SIZE)), shapes)
    thumb = [i for i, name in enumerate(OPENXR26) if name.startswith("thumb")]
    weights = without_helpers(hand.dense_weights())
    y = hand.vertices[:, 1]
    knuckles = (y > 66) & (y < 90) & (weights[:, thumb].sum(1) < 0.3)
    row = OPENXR26.index("index_intermediate")
    local = (hand.vertices - hand.joints[row]) @ hand.frames[row]
    finger = (np.abs(local[:, 1]) < 4.5) & (np.abs(local[:, [0, 2]]) < 13).all(axis=1)
    across = posed.vertices[:, finger] @ hand.frames[row][:, 0]
    return np.stack(
        [posed.vertices[:, :, 1].max(1), np.ptp(posed.vertices[:, knuckles, 0], axis=1), np.ptp(across, axis=1)], axis=1
    )


def people(sex: Sex, count: int) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.stack([sample_shape(rng, sex=sex) for _ in range(count)])


def test_the_built_in_hands_sizes_are_those_that_proportions_start_from(hand: RiggedHand) -> None:
    assert measured(hand, np.zeros((1, SHAPE_SIZE)))[0] == pytest.approx(BUILTIN_MM, rel=0.005)


@pytest.mark.parametrize("sex", ["male", "female"])
def test_each_sex_has_its_published_sizes(hand: RiggedHand, sex: Sex) -> None:
    found = measured(hand, people(sex, COUNT))
    for sizes, (mean, sigma) in zip(found.T, SIZES_MM[sex], strict=True):
        assert sizes.mean() == pytest.approx(mean, rel=0.015)
        assert sizes.std() == pytest.approx(sigma, rel=0.2)
    together = np.corrcoef(found.T)[np.triu_indices(3, 1)]
    assert together == pytest.approx(np.full(3, CORRELATION), abs=0.1)


def test_either_sex_is_drawn_alike_often(hand: RiggedHand) -> None:
    rng = np.random.default_rng(6)
    found = measured(hand, np.stack([sample_shape(rng) for _ in range(COUNT)]))
    expected = [(one[0] + other[0]) / 2 for one, other in zip(SIZES_MM["male"], SIZES_MM["female"], strict=True)]
    assert found.mean(axis=0) == pytest.approx(expected, rel=0.015)


def test_the_smallest_and_the_largest_are_whole_in_a_fist(hand: RiggedHand) -> None:
    shapes = np.concatenate([people("male", 300), people("female", 300)])
    ends = np.unique(np.concatenate([shapes.argmin(axis=0), shapes.argmax(axis=0)]))
    fist = typical_pose(hand, "fist")
    for shape in shapes[ends]:
        two = np.stack([np.zeros(POSE_SIZE), fist])
        still, closed = pose_hand(hand, two, np.zeros((2, ROOT_SIZE)), np.tile(shape, (2, 1))).vertices
        whole = volume(still, hand.faces)
        assert whole > 3e5
        # The hand is 0.42 of the mesh, the rest its forearm.
        assert abs(volume(closed, hand.faces) - whole) < 0.03 * 0.42 * whole
