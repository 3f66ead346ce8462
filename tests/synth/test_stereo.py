"""The active stereo camera: noise and steps in disparity, fattened edges, what the second imager does not see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handloom.synth.sensor import apply
from handloom.synth.stereo import ActiveStereo

from sensor_scenes import HEIGHT, WIDTH, K, plane, sense, step

D435 = ActiveStereo()
FB = K[0] * D435.baseline_mm
SHARP = replace(D435, wobble_px=0.0, edge_hole=0.0, hole=0.0, subpixel_px=0.0)
RADIUS = D435.window_px // 2


def whole(depth: np.ndarray, sensor: ActiveStereo, frames: int = 4) -> np.ndarray:
    """Some frames, without the band that the second imager does not see."""
    return np.stack([sense(depth, sensor, frame=f) for f in range(frames)])[:, :, 120:520]


@pytest.mark.parametrize("z_mm", [500.0, 700.0, 1000.0])
def test_noise_is_that_of_the_disparity(z_mm: float) -> None:
    seen = whole(plane(z_mm), D435)
    error = (seen - z_mm)[seen > 0]
    sigma = z_mm**2 / FB * np.hypot(0.08, 1 / 32 / np.sqrt(12))
    assert error.std() == pytest.approx(sigma, rel=0.04)
    assert abs(error.mean()) < 0.05 * sigma


@pytest.mark.parametrize(("angle", "gain"), [(0.0, 1.0), (45.0, 1.207), (60.0, 1.5)])
def test_noise_grows_with_the_angle(angle: float, gain: float) -> None:
    depth = plane(700, angle)
    seen = np.stack([sense(depth, D435, frame=f) for f in range(8)])[:, :, 310:330]
    error = FB / seen[seen > 0] - FB / np.broadcast_to(depth[:, 310:330], seen.shape)[seen > 0]
    assert error.std() == pytest.approx(np.hypot(0.08 * gain, 1 / 32 / np.sqrt(12)), rel=0.06)


@pytest.mark.parametrize("sensor", [D435, replace(D435, disparity_step_px=0.25)])
def test_steps_of_the_disparity(sensor: ActiveStereo) -> None:
    steps = np.unique(apply(sensor, plane(700), K, depth_unit_mm=0.02, seed=0, frame=0, view=0))[1:]
    disparity = FB / (steps * 0.02) / sensor.disparity_step_px
    assert np.abs(disparity - np.rint(disparity)).max() < 0.03
    assert len(disparity) > 2


def test_neighbours_share_their_noise_over_a_window_and_no_farther() -> None:
    error = whole(plane(700), replace(D435, disparity_step_px=0.0), 3) - 700
    error[np.abs(error) > 50] = 0

    def correlation(lag: int) -> float:
        return float((error[..., lag:] * error[..., :-lag]).mean() / (error**2).mean())

    assert correlation(1) == pytest.approx(0.8, abs=0.06)
    assert 0.2 < correlation(4) < 0.7
    assert abs(correlation(14)) < 0.08


@pytest.mark.parametrize("far_mm", [1200.0, 0.0])
def test_the_nearer_surface_grows_by_half_a_window(far_mm: float) -> None:
    seen = sense(step(600, far_mm, 300, 360), SHARP)
    near = np.abs(seen - 600) < 10
    assert near.sum(1).mean() == 60 + 2 * RADIUS
    assert near[:, 300 - RADIUS : 360 + RADIUS].all()
    if far_mm == 0:
        assert (seen[:, : 300 - RADIUS] == 0).all()
        assert (seen[:, 360 + RADIUS :] == 0).all()


def test_growth_of_edges_wobbles_by_less_than_a_pixel_or_so() -> None:
    first = np.concatenate([(sense(step(600, 0, 300, 360), replace(D435, edge_hole=0, hole=0), frame=f) > 0).argmax(1)
                            for f in range(4)])  # fmt: skip
    assert first.mean() == pytest.approx(300 - RADIUS, abs=0.5)
    assert 0.3 < first.std() < 1.2
    assert first.min() >= 300 - RADIUS - 2


@pytest.mark.parametrize("side", [1, -1])
def test_what_the_second_imager_does_not_see_is_as_wide_as_geometry_says(side: int) -> None:
    seen = sense(step(600, 1200, 290, 370), replace(SHARP, second_imager=side))
    holes = (seen[:, 100:540] == 0).mean(0)
    width = FB * (1 / 600 - 1 / 1200)
    beside = np.arange(100, 540) < 290 if side > 0 else np.arange(100, 540) >= 370
    assert holes[beside].sum() == pytest.approx(width, abs=1.0)
    assert holes[~beside].sum() == 0
    # It begins where the grown surface ends.
    edge = 290 - RADIUS - 1 if side > 0 else 370 + RADIUS
    assert holes[edge - 100] == 1


@pytest.mark.parametrize(("side", "band"), [(1, slice(0, 41)), (-1, slice(WIDTH - 41, WIDTH))])
def test_nothing_is_matched_outside_the_second_image(side: int, band: slice) -> None:
    seen = sense(plane(700), replace(SHARP, second_imager=side))
    assert pytest.approx(41.4, abs=0.1) == FB / 700
    assert (seen[:, band] == 0).all()
    assert (seen == 0).sum() == HEIGHT * 41


def test_nothing_nearer_than_the_search_reaches() -> None:
    limit = FB / D435.search_px
    assert (whole(plane(limit - 5), SHARP, 1)[:, :, 10:] == 0).all()
    assert (whole(plane(limit + 5), SHARP, 1)[:, :, 10:] > 0).all()


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("tilt", [-55.0, 55.0])
def test_a_slanted_wall_hides_nothing_of_itself_and_keeps_its_place(side: int, tilt: float) -> None:
    wall = plane(900, tilt)
    wall[wall > 2000] = 0
    sensor = replace(SHARP, second_imager=side, disparity_step_px=0.0, grazing_from_deg=88, grazing_to_deg=89.5)
    seen = sense(wall, sensor)[:, 150:490]
    there = (wall > 0)[:, 150:490]
    assert (seen[there] > 0).all()
    assert np.abs(seen - wall[:, 150:490])[there].max() < 0.2


@pytest.mark.parametrize("z_mm", [700.0, 1400.0])
def test_lost_matches_grow_as_the_square_of_the_distance_and_come_in_patches(z_mm: float) -> None:
    seen = whole(plane(z_mm), replace(D435, hole=0.02), 12)
    holes = seen == 0
    assert holes.mean() == pytest.approx(0.02 * (z_mm / 1000) ** 2, rel=0.3)
    beside = holes[..., 1:][holes[..., :-1]].mean()
    assert beside > 0.6  # of dots it would be the rate itself


def test_matches_fail_at_edges_at_the_rate_that_is_asked_for() -> None:
    sensor = replace(D435, wobble_px=0.0, hole=0.0, edge_hole=0.3)
    rows = np.concatenate([sense(step(600, 0, 290, 370), sensor, frame=f) for f in range(20)])
    assert (rows[:, 290 - RADIUS] == 0).mean() == pytest.approx(0.3, abs=0.05)
    assert (rows[:, 330] == 0).mean() == 0
