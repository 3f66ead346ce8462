"""Tracking: the last pose says where to look, a lost hand is found again, nothing drifts and nothing grows."""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.learn.predict import Model
from handloom.learn.smoothing import OneEuro
from handloom.learn.tracking import FORGET_NS, PERIOD_NS, Tracker
from handloom.stores import locate
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError

from centred_net import centred_model

FRAMES = 16


@dataclass(frozen=True)
class Session:
    """A moving hand before three cameras, with an arm, a person, a desk and a wall."""

    rig: Rig
    sets: list[list[np.ndarray]]
    palms_mm: np.ndarray

    def blank(self) -> list[np.ndarray]:
        return [np.zeros_like(image) for image in self.sets[0]]


@pytest.fixture(scope="module")
def session() -> Session:
    with VirtualRig(VirtualConfig(frames=FRAMES, seed=3, transport="direct")) as source:
        sets: list[list[Any]] = [[None] * 3 for _ in range(FRAMES)]
        for image in source.frames():
            sets[image.frame_number - 1][image.camera] = image.depth
        palms = np.array([source.moment(0, k + 1).labels["joints"][0] for k in range(FRAMES)])
        return Session(source.rig, sets, palms)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return centred_model(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the whole images are searched."""
    done: list[int] = []
    search: Callable[..., Any] = locate.find_hand

    def counted(*args: Any, **kwargs: Any) -> Any:
        done.append(1)
        return search(*args, **kwargs)

    monkeypatch.setattr(locate, "find_hand", counted)
    return done


def test_a_hand_is_looked_for_once_and_then_followed(session: Session, model: Model, searches: list[int]):
    tracker = Tracker(model, session.rig)
    poses = [tracker.update(images) for images in session.sets]
    assert sum(searches) == 1
    assert (tracker.counts.found, tracker.counts.tracked, tracker.counts.missed) == (1, FRAMES - 1, 0)
    for pose, palm in zip(poses, session.palms_mm, strict=True):
        assert pose is not None
        assert np.linalg.norm(pose.joints_mm[0] - palm) < 45
        assert set(pose.views) == {0, 1, 2}
        assert pose.score > 0.35
        assert 0 <= pose.confidence <= 1
    assert [pose.source for pose in poses if pose] == ["located", *["tracked"] * (FRAMES - 1)]


def test_a_hand_that_goes_and_comes_back_elsewhere_is_found_again(session: Session, model: Model, searches: list[int]):
    tracker = Tracker(model, session.rig)
    assert tracker.update(session.sets[0]) is not None
    assert [tracker.update(session.blank()) for _ in range(3)] == [None] * 3
    pose = tracker.update(session.sets[-1])
    assert pose is not None
    assert np.linalg.norm(pose.joints_mm[0] - session.palms_mm[-1]) < 45
    assert tracker.counts.missed == 3
    assert tracker.counts.lost >= 1


@pytest.mark.parametrize("off_mm", [(250, 0, 0), (0, 180, 100), (-300, -100, 200)])
def test_a_tracker_that_slid_off_the_hand_notices(session: Session, model: Model, off_mm: tuple[float, ...]):
    """On the arm, the person or nothing: the second opinion refuses it, and the hand is found again soon."""
    tracker = Tracker(model, session.rig)
    tracker.update(session.sets[0])
    tracker._palm_mm = session.palms_mm[0] + np.array(off_mm, float)
    poses = [tracker.update(images) for images in session.sets[1:6]]
    assert tracker.counts.lost >= 1
    off = [
        pose is not None and np.linalg.norm(pose.joints_mm[0] - palm) > 45
        for pose, palm in zip(poses, session.palms_mm[1:6], strict=True)
    ]
    assert sum(off) <= 1, "one place in thirty deceives it, but not for long"
    assert poses[-1] is not None
    assert not off[-1]


def test_after_a_pause_the_whole_images_are_searched(session: Session, model: Model, searches: list[int]):
    tracker = Tracker(model, session.rig)
    tracker.update(session.sets[0], 0)
    tracker.update(session.sets[1], PERIOD_NS)
    tracker.update(session.sets[2], 2 * PERIOD_NS + FORGET_NS)
    assert sum(searches) == 2
    tracker.update(session.sets[3], 0)
    assert sum(searches) == 3, "time that runs backwards tells nothing of where the hand is"


def test_cameras_that_give_nothing(session: Session, model: Model):
    tracker = Tracker(model, session.rig)
    for images in session.sets[:2]:
        tracker.update(images)
    pose = tracker.update([None, session.sets[2][1], None])
    assert pose is not None
    assert set(pose.views) == {1}
    assert pose.disagreement_mm == 0
    assert tracker.update([None, None, None]) is None
    assert tracker.update(session.sets[3]) is not None


@pytest.mark.parametrize("value", [0, 1, 65535])
def test_images_without_a_hand(session: Session, model: Model, value: int):
    tracker = Tracker(model, session.rig)
    images = [np.full_like(image, value) for image in session.sets[0]]
    assert [tracker.update(images) for _ in range(2)] == [None, None]


def test_images_of_other_cameras_are_refused(session: Session, model: Model):
    with pytest.raises(HandloomError, match="no image of this camera"):
        Tracker(model, session.rig).update([np.zeros((4, 4), np.uint16)] * 3)


def test_one_camera_alone(session: Session, model: Model):
    rig = Rig(session.rig.cameras[:1])
    tracker = Tracker(model, rig)
    poses = [tracker.update(images[:1]) for images in session.sets[:6]]
    assert all(pose is not None for pose in poses)
    assert tracker.counts.tracked >= 4


def test_smoothing_changes_the_fused_joints_alone(session: Session, model: Model):
    plain, smooth = Tracker(model, session.rig), Tracker(model, session.rig, smooth=OneEuro())
    for images in session.sets[:5]:
        a, b = plain.update(images), smooth.update(images)
    assert a is not None
    assert b is not None
    assert not np.array_equal(a.joints_mm, b.joints_mm)
    assert np.linalg.norm(a.joints_mm - b.joints_mm, axis=-1).max() < 25
    assert a.views[0].joints_mm == pytest.approx(b.views[0].joints_mm)


def test_memory_does_not_grow(session: Session, model: Model):
    tracker = Tracker(model, session.rig, smooth=OneEuro())
    tracemalloc.start()
    try:
        for images in [*session.sets[:6], *session.sets[4::-1]]:
            tracker.update(images)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for images in [*session.sets, *session.sets[-2::-1]]:
            tracker.update(images)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 30_000, "of 31 instants, each of which has 460 kB of images and 6 kB of poses"
