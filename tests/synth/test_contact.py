"""What touches, touches on the skinned mesh: gaps near 0 and no deeper than flesh yields."""

from __future__ import annotations

import numpy as np
import pytest
from mesh_gaps import PALM_BONES, deepest, drawn, gaps_of, people

from handloom.stores.joints import FINGERS, OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.contact import touch
from handloom.synth.gestures import GESTURES
from handloom.synth.hand import (
    SHAPE_SIZE,
    RiggedHand,
    mirror,
    self_collision_mm,
)
from handloom.synth.pose import MotionStyle, draw, in_contact, sample_poses, sample_trajectory

COUNT = 60


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


@pytest.mark.parametrize(
    ("family", "finger"), [*((f"pinch_{f}", f) for f in FINGERS[1:]), ("ok", "index"), ("tripod", "index")]
)
def test_pinches_touch_on_the_mesh(hand: RiggedHand, family: str, finger: str) -> None:
    shapes = people(COUNT)
    thumb = [OPENXR26.index("thumb_distal")]
    before = gaps_of(hand, drawn(hand, family, shapes, touching=False), shapes, finger, thumb)
    after = gaps_of(hand, drawn(hand, family, shapes, touching=True), shapes, finger, thumb)
    assert np.mean(np.abs(before) <= 2) < 0.6
    assert np.mean(np.abs(after) <= 3) > 0.8
    assert abs(np.median(after)) < 1.5
    assert np.percentile(after, 2) > -5


@pytest.mark.parametrize("finger", FINGERS[1:])
def test_a_fist_s_tips_lie_in_the_palm(hand: RiggedHand, finger: str) -> None:
    shapes = people(COUNT)
    before = gaps_of(hand, drawn(hand, "fist", shapes, touching=False), shapes, finger, PALM_BONES)
    after = gaps_of(hand, drawn(hand, "fist", shapes, touching=True), shapes, finger, PALM_BONES)
    # The middle finger's limits end about 2 mm before the palm.
    assert abs(np.median(after)) < 2.5
    assert np.mean(np.abs(after) <= 4) > 0.8
    assert np.mean(np.abs(after) <= 3) > np.mean(np.abs(before) <= 3)


def test_a_fist_s_thumb_lies_on_its_fingers(hand: RiggedHand) -> None:
    shapes = people(COUNT)
    fingers = [OPENXR26.index(f"{f}_{b}") for f in FINGERS[1:4] for b in ("proximal", "intermediate", "distal")]
    gaps = gaps_of(hand, drawn(hand, "fist", shapes, touching=True), shapes, "thumb", fingers)
    assert -2 < np.median(gaps) < 4
    assert np.percentile(gaps, 2) > -5


def test_angles_move_no_more_than_they_must_and_stay_within_limits(hand: RiggedHand) -> None:
    shape = np.zeros(SHAPE_SIZE)
    poses = draw(hand, "pinch_index", np.random.default_rng(3), 100)
    closed, gaps = touch(hand, GESTURES["pinch_index"].contacts, poses, shape, np.full((100, 1), -0.4))
    assert np.abs(gaps + 0.4).max() < 0.5
    low, high = hand.limits_rad.T
    assert (closed >= low).all()
    assert (closed <= high).all()
    moved = np.degrees(np.abs(closed - poses))
    others = [i for i, d in enumerate(hand.dof) if not d.name.startswith(("thumb", "index"))]
    assert not moved[:, others].any()
    assert np.median(moved.max(axis=1)) < 12
    # What touches already is left as it is.
    again, _ = touch(hand, GESTURES["pinch_index"].contacts, closed, shape, gaps)
    assert np.degrees(np.abs(again - closed)).max() < 8
    untouched, nothing = touch(hand, GESTURES["pinch_index"].contacts, poses, shape, np.full((100, 1), np.nan))
    assert np.array_equal(untouched, poses)
    assert np.isnan(nothing).all()


def test_the_stated_share_touches(hand: RiggedHand) -> None:
    poses = draw(hand, "ok", np.random.default_rng(4), 1000)
    closed = in_contact(hand, "ok", np.random.default_rng(5), poses, np.zeros(SHAPE_SIZE))
    assert np.mean((closed != poses).any(axis=1)) == pytest.approx(GESTURES["ok"].touching, abs=0.04)
    wide = draw(hand, "wide", np.random.default_rng(4), 10)
    assert in_contact(hand, "wide", np.random.default_rng(5), wide, np.zeros(SHAPE_SIZE)) is wide


def test_a_left_hand_touches_as_a_right_one(hand: RiggedHand) -> None:
    contacts, shape = GESTURES["fist"].contacts, np.zeros(SHAPE_SIZE)
    poses = draw(hand, "fist", np.random.default_rng(6), 10)
    one, other = (touch(side, contacts, poses, shape, np.full((10, 5), -0.4))[0] for side in (hand, mirror(hand)))
    assert np.abs(one - other).max() < 1e-4


def test_motion_holds_its_contacts_and_passes_no_finger_through_another(hand: RiggedHand) -> None:
    shape = people(1)[0]
    style = MotionStyle(mixture={"ok": 1.0, "flat": 1.0})
    poses, _ = sample_trajectory(hand, np.random.default_rng(8), n_frames=600, fps=30.0, style=style, shape=shape)
    depth = self_collision_mm(hand, poses, np.tile(shape, (600, 1)))
    assert np.mean(depth <= 5) > 0.95
    assert depth.max() < 8
    some = poses[::6]
    gaps = gaps_of(hand, some, np.tile(shape, (len(some), 1)), "index", [OPENXR26.index("thumb_distal")])
    # Pinched a good part of the time, open a good part, and never through each other.
    assert np.mean(np.abs(gaps) < 2) > 0.1
    assert np.mean(gaps > 20) > 0.1
    assert gaps.min() > -6


def test_prior_poses_run_through_themselves_no_deeper_than_flesh_yields(hand: RiggedHand) -> None:
    """The mesh agrees with the capsules: tips against palm, thumb and their neighbours."""
    shapes = people(80)
    poses = sample_poses(hand, [np.random.default_rng((7, i)) for i in range(80)], shapes)
    gaps = deepest(hand, poses, shapes)
    assert np.mean(gaps > -6) > 0.95
    assert gaps.min() > -9
