from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from handloom.capture.source import Image
from handloom.capture.sync import Grouper, ImageSet, fit_clock, sync_report

PERIOD_NS = 1e9 / 30
EMPTY = np.zeros((1, 1), np.uint16)


@dataclass
class Session:
    """Three cameras: each its own clock, late arrivals, lost images."""

    seed: int = 0
    count: int = 900
    offset_ns: tuple[float, ...] = (0.0, 7.3e12, -4e9)
    drift_ppm: tuple[float, ...] = (20.0, -60.0, 90.0)
    phase_ns: tuple[float, ...] = (0.0, 0.0, 0.0)
    jitter_ns: float = 0.3e6
    latency_ns: float = 6e6
    lost: float = 0.05

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        views = len(self.offset_ns)
        true = 5e9 + np.arange(self.count)[:, None] * PERIOD_NS + np.array(self.phase_ns)
        self.gone = rng.random((self.count, views)) < self.lost
        rate = 1 + np.array(self.drift_ppm) * 1e-6
        jitter = rng.normal(0, self.jitter_ns, true.shape)
        self.device = (1e13 + np.array(self.offset_ns) + true * rate + jitter).astype(np.int64)
        self.host = np.maximum.accumulate(true + 2e6 + rng.exponential(self.latency_ns, true.shape)).astype(np.int64)

    def images(self) -> list[Image]:
        """In order of arrival."""
        found = [
            Image(v, EMPTY, int(self.device[k, v]), int(self.host[k, v]), k)
            for k, v in np.ndindex(self.device.shape)
            if not self.gone[k, v]
        ]
        return sorted(found, key=lambda image: image.t_host_ns)


def grouped(images: list[Image], views: int = 3, *, shared_clock: bool = False) -> list[ImageSet]:
    grouper = Grouper(views, shared_clock=shared_clock)
    sets = [one for image in images for one in grouper.push(image)]
    return sets + grouper.flush()


def numbers(sets: list[ImageSet]) -> np.ndarray:
    return np.array([[-1 if image is None else image.frame_number for image in one.images] for one in sets])


def stamps(sets: list[ImageSet], name: str) -> np.ndarray:
    return np.array([[-1 if i is None else getattr(i, name) for i in one.images] for one in sets], np.int64)


@pytest.mark.parametrize("seed", range(3))
def test_images_of_one_instant_form_one_set(seed: int) -> None:
    session = Session(seed=seed)
    found = numbers(grouped(session.images()))
    expected = np.where(session.gone, -1, np.arange(session.count)[:, None])
    assert np.array_equal(found, expected[(expected >= 0).any(axis=1)])


def test_a_reference_that_falls_silent_for_a_second_leaves_the_others_together() -> None:
    session = Session(lost=0.0, count=300)
    session.gone[100:130, 0] = True
    found = numbers(grouped(session.images()))
    assert len(found) == 300
    assert np.array_equal(found[100:130], np.stack([np.full(30, -1), *[np.arange(100, 130)] * 2], axis=1))


def test_a_camera_that_never_speaks_does_not_stop_the_others() -> None:
    session = Session(lost=0.0, count=120)
    session.gone[:, 2] = True
    found = numbers(grouped(session.images()))
    assert np.array_equal(found[:, :2], np.repeat(np.arange(120)[:, None], 2, axis=1))
    assert (found[:, 2] == -1).all()


def test_a_camera_that_vanishes_midway_leaves_the_rest_complete() -> None:
    session = Session(lost=0.0, count=200)
    session.gone[80:, 0] = True
    found = numbers(grouped(session.images()))
    assert np.array_equal(found[80:, 1:], np.repeat(np.arange(80, 200)[:, None], 2, axis=1))


def test_free_running_cameras_of_any_phase_give_full_sets() -> None:
    session = Session(lost=0.0, phase_ns=(0.0, 0.42 * PERIOD_NS, -0.42 * PERIOD_NS), jitter_ns=0.1e6, latency_ns=1e6)
    found = numbers(grouped(session.images()))
    assert (found[5:-5] >= 0).all()
    assert np.ptp(found[5:-5], axis=1).max() <= 1


def test_no_image_is_lost_or_doubled() -> None:
    # A clock that jumps, bursts of losses, arrivals all at once: whatever happens, each image has one row.
    session = Session(lost=0.3, count=400, jitter_ns=8e6)
    session.device[200:, 1] += int(3.3 * PERIOD_NS)
    images = session.images()
    found = numbers(grouped(images))
    for view in range(3):
        column = found[:, view]
        assert sorted(column[column >= 0]) == sorted(i.frame_number for i in images if i.camera == view)


def test_stamps_of_one_clock_need_no_arrivals() -> None:
    session = Session(offset_ns=(0.0, 0.0, 0.0), drift_ppm=(0.0, 0.0, 0.0), latency_ns=0.0, lost=0.02)
    images = [Image(i.camera, EMPTY, i.t_device_ns, 0, i.frame_number) for i in session.images()]
    found = numbers(grouped(images, shared_clock=True))
    assert (np.ptp(np.where(found >= 0, found, found.max(axis=1, keepdims=True)), axis=1) == 0).all()


def test_one_frame_of_one_camera_is_a_set() -> None:
    assert numbers(grouped([Image(0, EMPTY, 0, 0, 7)], views=1)).tolist() == [[7]]
    assert grouped([], views=2) == []


def test_clocks_are_recovered_under_late_arrivals() -> None:
    session = Session(count=1800, lost=0.0)
    for view, drift in enumerate(session.drift_ppm):
        clock = fit_clock(session.device[:, view], session.host[:, view])
        # The camera runs fast by `drift`, so the host seems slow by it; 6 ms of scatter over a minute.
        assert clock.drift_ppm == pytest.approx(-drift, abs=8)


def test_a_short_recording_does_not_take_scatter_for_drift() -> None:
    session = Session(count=40, lost=0.0, drift_ppm=(0.0, 0.0, 0.0))
    clocks = [fit_clock(session.device[:, view], session.host[:, view]) for view in range(3)]
    assert max(abs(clock.drift_ppm) for clock in clocks) < 200


def test_the_report_finds_what_was_put_in() -> None:
    session = Session(lost=0.0, count=900)
    session.gone[300:303, 1] = True
    sets = grouped(session.images())
    report = sync_report(
        ("a", "b", "c"),
        stamps(sets, "t_device_ns"),
        stamps(sets, "t_host_ns"),
        numbers(sets),
        shared_clock=False,
    )
    assert (report["sets"], report["complete"], report["unmatched"]) == (900, 897, 0)
    assert report["cameras"]["b"]["lost"] == 3
    assert report["cameras"]["a"]["lost"] == 0
    for camera in report["cameras"].values():
        assert camera["fps"] == pytest.approx(30, abs=0.01)
        assert camera["jitter_ms"] == pytest.approx(0.3, rel=0.15)
    # Spread of three stamps with 0.3 ms of jitter; clocks fitted to a fraction of a millisecond.
    assert 0.2 < report["skew_ms"]["median"] < 1.5
    assert report["skew_ms"]["max"] < 5
