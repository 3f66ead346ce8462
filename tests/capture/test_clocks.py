"""Clocks, grouping and the report under what cameras do: each image ends in exactly one set, clocks are recovered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.capture.source import Image
from handloom.capture.sync import MAX_HELD, Grouper, ImageSet
from handloom.capture.sync_report import counter_steps, step_starts, sync_report

from camera_session import EMPTY, NOON_NS, PERIOD_NS, Cam, Simulated, columns, grouped

HOUR_S = 3600.0
LAB = (Cam(7 * HOUR_S, 40), Cam(-5 * HOUR_S, -60), Cam(12.5, 90))
"""Three cameras of other origins and rates."""


def exactly_once(images: list[Image], sets: list[ImageSet]) -> bool:
    given_out = [id(image) for one in sets for image in one.images if image is not None]
    return sorted(given_out) == sorted(map(id, images))


def report_of(sets: list[ImageSet], views: int) -> dict:
    return sync_report([f"cam{v}" for v in range(views)], **columns(sets), shared_clock=False)


@pytest.mark.parametrize(
    ("cams", "count"),
    [
        pytest.param(LAB, 900, id="offsets-of-hours"),
        pytest.param((Cam(7, 200), Cam(-9, -200), Cam(1, 5)), 1800, id="drift-of-200-ppm"),
        pytest.param([Cam(i * 1000, 20.0 * i, latency_ns=30e6) for i in range(3)], 1800, id="arrivals-30-ms-late"),
        pytest.param([Cam(i * 1000, 20.0 * i, jitter_ns=3e6) for i in range(3)], 900, id="stamps-3-ms-off"),
        pytest.param((LAB[0], Cam(2, -60, every=2), LAB[2]), 900, id="one-at-half-the-rate"),
        pytest.param((LAB[0], Cam(HOUR_S, start=200), Cam(3, start=31)), 600, id="two-start-late"),
        pytest.param((LAB[0], LAB[1], Cam(3, stop=300, phase_ns=8e6)), 3000, id="one-vanishes"),
        pytest.param((Cam(1, 9, stop=300, phase_ns=8e6), *LAB[:2]), 3000, id="the-reference-vanishes"),
        pytest.param((LAB[0], Cam(9, steps=((400, 3.5), (600, -20.0)))), 900, id="one-clock-steps"),
        pytest.param((Cam(9, steps=((400, 86400.0), (600, -1e6))), *LAB[:2]), 900, id="the-reference-steps-by-days"),
        pytest.param((LAB[0], Cam(HOUR_S, resets=(400, 430))), 900, id="one-is-reset"),
        pytest.param([Cam(100.0 * i, resets=(400,)) for i in range(3)], 900, id="all-are-reset-at-once"),
        pytest.param((Cam(1, wrap=256), Cam(2, wrap=100), Cam(3)), 900, id="counters-wrap"),
        pytest.param((Cam(1, bursts=((300, 6),)), *LAB[:2]), 600, id="a-burst-of-one"),
        pytest.param([Cam(i, bursts=((300, 30),)) for i in range(3)], 600, id="a-burst-of-all"),
        pytest.param((Cam(1, twice=(200, 300)), *LAB[:2]), 600, id="handed-over-twice"),
        pytest.param([Cam(i, lost=0.3) for i in range(3)], 900, id="a-third-lost"),
        pytest.param([Cam(100.0 * i, 5.0 * i, lost=0.02) for i in range(8)], 450, id="eight"),
    ],
)
def test_images_of_one_instant_are_one_set(cams: tuple[Cam, ...], count: int) -> None:
    session = Simulated(cams, count, seed=1)
    sets = grouped(session.images, len(cams))
    assert exactly_once(session.images, sets)
    found = session.truth(sets)
    spread = np.array([np.ptp(row[row >= 0]) for row in found])
    assert not spread.any(), "a set holds images of different instants"
    seen = [{shot.instant for shot in session.shots if shot.image.camera == v} for v in range(len(cams))]
    assert (found >= 0).all(axis=1).sum() == len(set.intersection(*seen))
    # Only an image that came twice takes a row more.
    assert len(sets) == len(set.union(*seen)) + sum(len(cam.twice) for cam in cams)
    for one in sets:
        assert (one.skew_ns is None) == (sum(image is not None for image in one.images) == 1)


def test_an_image_that_comes_too_late_for_its_set_has_a_row_of_its_own() -> None:
    session = Simulated((Cam(1, bursts=((300, 30),)), *LAB[:2]), 600)
    sets = grouped(session.images, 3)
    assert exactly_once(session.images, sets)
    found = session.truth(sets)
    late = (found[:, 0] >= 0) & (found[:, 1:] < 0).all(axis=1)
    assert 15 < late.sum() < 30
    assert ((found >= 0).all(axis=1)).sum() == 600 - late.sum()


def test_a_set_back_of_less_than_a_period_is_noticed_within_three_seconds() -> None:
    """Stamps still rise and the shift is that of a busy host: only time tells. Until then pairs are one off."""
    session = Simulated((LAB[0], Cam(9, -60, steps=((400, -0.02),)), LAB[2]), 900)
    sets = grouped(session.images, 3)
    assert exactly_once(session.images, sets)
    found = session.truth(sets)
    mixed = np.flatnonzero([np.ptp(row[row >= 0]) > 0 for row in found])
    assert mixed.min() >= 398
    assert mixed.max() < 490
    steps = report_of(sets, 3)["cameras"]["cam1"]["steps"]
    assert [abs(step["row"] - 400) <= 3 for step in steps] == [True]
    assert steps[0]["ms"] == pytest.approx(-20, abs=3)


def test_free_running_cameras_stay_together_while_their_phases_pass_each_other() -> None:
    """200 ppm apart they are half a period from each other after 83 s and a whole one after 167 s."""
    session = Simulated((Cam(0, 0), Cam(5, -0.0, jitter_ns=0.5e6)), 6000)
    for shot in session.shots:
        if shot.image.camera == 1:  # its instants themselves are 200 ppm further apart
            shot.true_ns *= 1.0002
    images = [
        Image(1, EMPTY, s.image.t_device_ns + round(0.0002 * s.instant * PERIOD_NS),
              s.image.t_host_ns + round(0.0002 * s.instant * PERIOD_NS), s.image.frame_number)
        if s.image.camera == 1 else s.image
        for s in session.shots
    ]  # fmt: skip
    images.sort(key=lambda image: image.t_host_ns)
    sets = grouped(images, 2)
    assert exactly_once(images, sets)
    number = columns(sets)["frame_number"]
    whole = (number >= 0).all(axis=1)
    # One image of the faster camera must stay alone at each slip, and there is one slip in 200 s.
    assert (~whole).sum() <= 8
    assert set(np.unique(number[whole, 0] - number[whole, 1])) <= {0, 1}


@pytest.mark.parametrize("shared", [True, False])
def test_a_camera_whose_stamps_are_a_day_ahead_does_not_stop_the_others(shared: bool) -> None:
    cams = (Cam(0), Cam(0, lost=0.02), Cam(86400.0))
    session = Simulated(cams, 300)
    grouper = Grouper(3, shared_clock=shared)
    sets, held = [], 0
    for image in session.images:
        sets += grouper.push(image)
        held = max(held, grouper.held)
    sets += grouper.flush()
    assert exactly_once(session.images, sets)
    assert held <= 3 * MAX_HELD
    found = session.truth(sets)
    both = (found[:, :2] >= 0).all(axis=1)
    assert (found[both, 0] == found[both, 1]).all()
    assert both.sum() == len(set(found[:, 1]) - {-1})
    assert (found >= 0).all(axis=1).any() != shared


def test_a_pause_of_an_hour_costs_no_time_and_no_image() -> None:
    session = Simulated([Cam(9.0 * v, 30.0 * v) for v in range(3)], 200)
    pause = 3600e9 + 0.3 * PERIOD_NS
    images = []
    for shot in session.shots:
        image, later = shot.image, round(pause) if shot.instant >= 100 else 0
        drifted = round(later * (1 + 30e-6 * image.camera))
        images.append(
            Image(image.camera, EMPTY, image.t_device_ns + drifted, image.t_host_ns + later, image.frame_number)
        )
    sets = grouped(images, 3)
    assert exactly_once(images, sets)
    number = columns(sets)["frame_number"]
    assert (np.ptp(number, axis=1) == 0).all()
    assert len(sets) == 200


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_is_pushed_is_in_exactly_one_set(data: st.DataObject) -> None:
    views = data.draw(st.integers(1, 4))
    time = st.integers(-(2**62), 2**62)
    near = st.integers(0, 10**10)
    images = [
        Image(v, EMPTY, t_device, t_host, number)
        for v, t_device, t_host, number in data.draw(
            st.lists(
                st.tuples(st.integers(0, views - 1), st.one_of(near, near, time), near, st.integers(0, 300)),
                max_size=150,
            )
        )
    ]
    grouper = Grouper(views, shared_clock=data.draw(st.booleans()))
    sets = []
    for image in images:
        sets += grouper.push(image)
        assert grouper.held <= views * MAX_HELD
    sets += grouper.flush()
    assert exactly_once(images, sets)
    assert all(any(one.images) for one in sets)


def test_the_same_object_pushed_twice_comes_out_twice() -> None:
    image = Image(0, EMPTY, 5, 5, 0)
    assert exactly_once([image, image], grouped([image, image], 2))


# -- what the report says ---------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", [-200.0, -50.0, -5.0, 0.0, 5.0, 50.0, 200.0])
@pytest.mark.parametrize("latency_ms", [5.0, 30.0])
def test_drift_is_found_within_its_uncertainty(drift: float, latency_ms: float) -> None:
    """A minute of arrivals that scatter by 5 ms tells the drift within 8 ppm, by 30 ms within 40."""
    cams = [Cam(HOUR_S * v, drift, latency_ns=latency_ms * 1e6) for v in range(3)]
    session = Simulated(cams, 1800, seed=int(drift) + 200)
    cameras = report_of(grouped(session.images, 3), 3)["cameras"].values()
    for camera in cameras:
        # A camera that runs fast makes the host seem slow.
        assert camera["drift_ppm"] == pytest.approx(-drift, abs=1.5 * latency_ms)
        assert abs(camera["drift_ppm"] + drift) < 4 * camera["drift_sd_ppm"] + 0.5
        assert camera["drift_sd_ppm"] < latency_ms


def test_ten_minutes_tell_the_drift_within_one_ppm() -> None:
    session = Simulated((Cam(HOUR_S, 37.0), Cam(0, -12.0)), 18_000)
    stamps = columns([ImageSet((a, b)) for a, b in _pairs(session)])
    cameras = sync_report(("a", "b"), **stamps, shared_clock=False)["cameras"]
    assert cameras["a"]["drift_ppm"] == pytest.approx(-37, abs=1)
    assert cameras["b"]["drift_ppm"] == pytest.approx(12, abs=1)


def _pairs(session: Simulated) -> Iterator[tuple[Image, Image]]:
    one = [s.image for s in session.shots if s.image.camera == 0]
    two = [s.image for s in session.shots if s.image.camera == 1]
    return zip(one, two, strict=True)


@pytest.mark.parametrize("jitter_ms", [0.05, 0.5, 3.0])
def test_jitter_of_stamps_and_of_arrivals_is_told_apart(jitter_ms: float) -> None:
    cams = [Cam(v, 30.0, jitter_ns=jitter_ms * 1e6, latency_ns=8e6) for v in range(2)]
    for camera in report_of(grouped(Simulated(cams, 1200).images, 2), 2)["cameras"].values():
        assert camera["jitter_ms"] == pytest.approx(jitter_ms, rel=0.1)
        assert camera["arrival_jitter_ms"] == pytest.approx(8, rel=0.2)


def test_gaps_wraps_resets_and_repeats_are_counted_for_what_they_are() -> None:
    cams = (Cam(1), Cam(2, resets=(300,)), Cam(3, twice=(100,)))
    session = Simulated(cams, 600)
    images = [i for i in session.images if not (i.camera == 0 and i.frame_number in (50, 51, 200))]
    report = report_of(grouped(images, 3), 3)
    a, b, c = report["cameras"].values()
    assert (a["lost"], a["resets"], a["duplicates"], a["backward"], a["steps"]) == (3, 0, 0, 0, [])
    assert (b["lost"], b["resets"], b["duplicates"], b["backward"]) == (0, 1, 0, 1)
    assert [step["row"] for step in b["steps"]] == [301]  # the image that came twice has a row of its own
    # It came at zero instead of 12 s after its start at 2 s.
    assert b["steps"][0]["ms"] == pytest.approx(-12_000, abs=5)
    assert (c["lost"], c["duplicates"]) == (0, 1)
    assert (report["sets"], report["complete"], report["unmatched"]) == (601, 597, 1)


@pytest.mark.parametrize("wrap", [2**16, 2**32])
def test_a_counter_that_wraps_loses_nothing(wrap: int) -> None:
    number = (wrap - 5 + np.delete(np.arange(12), 7)) % wrap
    device = np.delete(np.arange(12), 7) * 33_000_000
    steps, resets, still = counter_steps(number, device)
    assert (steps.tolist(), resets, still) == ([1, 1, 1, 1, 1, 1, 2, 1, 1, 1], 0, 0)


@pytest.mark.parametrize("seconds", [-1e6, -3.5, -0.05, 0.05, 3.5, 1e6])
def test_a_step_is_found_where_it_was_made(seconds: float) -> None:
    session = Simulated((Cam(HOUR_S, 80.0, steps=((450, seconds),)),), 900)
    device, host = (np.array([getattr(i, n) for i in session.images]) for n in ("t_device_ns", "t_host_ns"))
    start, found = step_starts(device, host)
    assert start == 0
    assert abs(found - 450) <= 1
    camera = report_of([ImageSet((image,)) for image in session.images], 1)["cameras"]["cam0"]
    assert camera["steps"][0]["ms"] == pytest.approx(1e3 * seconds, abs=3)
    assert camera["fps"] == pytest.approx(30, abs=0.02)
    assert camera["drift_ppm"] == pytest.approx(-80, abs=25)


@pytest.mark.parametrize("seed", range(20))
def test_a_calm_clock_has_no_steps(seed: int) -> None:
    session = Simulated((Cam(9, 150.0, latency_ns=30e6, bursts=((200, 30),)),), 600, seed=seed)
    device, host = (np.array([getattr(i, n) for i in session.images]) for n in ("t_device_ns", "t_host_ns"))
    assert step_starts(device, host) == [0]


def test_a_clock_that_wanders_with_the_room_s_temperature_is_followed() -> None:
    """5 ppm up and down within an hour move stamps by 5.7 ms about their line; sets and skew must not see it."""
    rng = np.random.default_rng(2)
    true = np.arange(108_000)[:, None] * PERIOD_NS
    hour = 2 * np.pi / 3600e9
    wander = np.array([5e-6, -5e-6]) / hour * (1 - np.cos(hour * true))
    device = true * (1 + np.array([30e-6, -70e-6])) + wander + rng.normal(0, 0.2e6, (108_000, 2))
    host = np.maximum.accumulate(true + rng.exponential(2e6, device.shape))
    number = np.repeat(np.arange(108_000)[:, None], 2, axis=1)
    report = sync_report(("a", "b"), device.astype(np.int64), host.astype(np.int64), number, shared_clock=False)
    assert report["skew_ms"]["p99"] < 1.2
    assert report["cameras"]["a"]["wander_ms"] > 3
    assert report["cameras"]["a"]["jitter_ms"] == pytest.approx(0.2, rel=0.1)


def hours(cams: int, seconds: int) -> Iterator[Image]:
    """Stamps of many cameras, made as they are needed: nothing is kept."""
    rng = np.random.default_rng(5)
    rate = 1 + rng.normal(0, 50e-6, cams)
    start = rng.uniform(0, 1e13, cams)
    for second in range(seconds):
        true = (second * 30 + np.arange(30)[:, None]) * PERIOD_NS + rng.normal(0, 0.2e6, (30, cams))
        slow = 3e-6 / (2 * np.pi / 7200e9) * (1 - np.cos(2 * np.pi * true / 7200e9))
        device = (start + true * rate + slow * np.arange(-1, cams - 1)).astype(np.int64)
        host = np.maximum.accumulate(NOON_NS + true + rng.exponential(5e6, true.shape)).astype(np.int64)
        gone = rng.random(true.shape) < 0.001
        for k, v in sorted(np.ndindex(true.shape), key=lambda at: host[at]):
            if not gone[k, v]:
                yield Image(v, EMPTY, int(device[k, v]), int(host[k, v]), second * 30 + k)


def grouped_in_bounded_memory(cams: int, seconds: int) -> None:
    grouper = Grouper(cams, shared_clock=False)
    mixed = sets = held = 0
    peaks = []
    tracemalloc.start()
    for count, image in enumerate(hours(cams, seconds)):
        for one in grouper.push(image):
            numbers = {i.frame_number for i in one.images if i is not None}
            mixed += len(numbers) > 1
            sets += 1
        held = max(held, grouper.held)
        if count % (cams * 30 * seconds // 4) == 0:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()
    peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    sets += len(grouper.flush())
    assert mixed == 0
    assert sets == 30 * seconds
    assert held <= 3 * 15 * cams
    assert max(peaks[1:]) < 6e6  # ten minutes of least late pairs for each camera, and what waits


def test_memory_stays_bounded_and_sets_whole() -> None:
    grouped_in_bounded_memory(3, 40)


@pytest.mark.slow
def test_memory_stays_bounded_over_a_quarter_of_an_hour() -> None:
    """Longer than what a clock is fitted to, ten minutes; benchmarks/clocks.py goes through hours."""
    grouped_in_bounded_memory(4, 900)
