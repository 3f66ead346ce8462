"""The time-of-flight camera: noise by signal, flying pixels, late light in valleys, wrapped phases."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handloom.synth.tof import TimeOfFlight, ambiguity_mm

from sensor_scenes import HEIGHT, WIDTH, K, plane, sense, step

TOF = TimeOfFlight()
PURE = replace(TOF, axial_mm=0.0, axial_growth_mm=0.0, edge_hole=0.0, multipath=0.0)


@pytest.mark.parametrize("z_mm", [500.0, 700.0, 1000.0])
@pytest.mark.parametrize("angle", [0.0, 45.0, 60.0])
def test_noise_goes_with_one_over_the_signal(z_mm: float, angle: float) -> None:
    depth = plane(z_mm, angle)
    error = (sense(depth, TOF) - depth)[:, 300:340]
    sigma = 0.5 + 0.7 * (z_mm / 1000) ** 2 / np.cos(np.radians(angle))
    assert error.std() == pytest.approx(sigma, rel=0.06)
    assert abs(error.mean()) < 0.05
    assert 0.5 < sigma < 2.0


def test_neighbours_noise_is_independent_and_has_no_steps_but_the_unit() -> None:
    error = sense(plane(700), TOF) - 700
    assert abs((error[:, 1:] * error[:, :-1]).mean() / (error**2).mean()) < 0.01
    levels = np.unique(np.rint(sense(plane(700), TOF) / 0.1)).astype(int)
    assert (np.diff(levels[5:-5]) == 1).all()


def test_flying_pixels_lie_between_both_surfaces_and_only_beside_the_edge() -> None:
    seen = sense(step(600, 900, 290, 370), PURE)
    plain = (np.abs(seen - 600) < 0.2) | (np.abs(seen - 900) < 0.2)
    assert plain[:, 291:369].all()
    assert plain[:, :289].all()
    assert plain[:, 371:].all()
    flying = seen[:, [289, 290, 369, 370]]
    assert flying.min() > 599.8
    assert flying.max() < 900.2
    # The edge lies anywhere between two pixels; within 0.8 px of a centre the other surface has a share.
    assert (~plain)[:, [289, 290, 369, 370]].mean() == pytest.approx(0.8, abs=0.03)
    # More light comes from the nearer surface: half a pixel of each is nearer to it than half-way.
    assert np.median(flying[:, 0][flying[:, 0] < 899]) < 900


def test_equal_shares_mix_as_their_phasors_do() -> None:
    """Far from half the ambiguity a mixed phase is the mean, by the light of each."""
    wide = replace(PURE, footprint_px=1e6, modulation_mhz=20.0)  # any place of the edge gives half of each
    seen = sense(step(600, 700, 290, 370), wide)[240]
    near, far = 1 / 600**2, 1 / 700**2
    mean = (near * 600 + far * 700) / (near + far)
    assert seen[[289, 290, 369, 370]] == pytest.approx(mean, abs=1.0)


def test_before_nothing_a_pixel_is_weaker_not_farther() -> None:
    seen = sense(step(600, 0, 290, 370), PURE)
    assert set(np.unique(seen)) <= {0.0, 600.0} or np.abs(seen[seen > 0] - 600).max() < 0.2
    assert (seen[:, 290:370] > 0).all()
    grown = (seen[:, [289, 370]] > 0).mean()
    # Half a pixel less the edge's distance must be a quarter of a pixel of 1.6 px width: 0.4 px and less.
    assert grown == pytest.approx(0.4, abs=0.04)
    assert (seen[:, :289] == 0).all()
    assert (seen[:, 371:] == 0).all()
    loud = sense(step(600, 0, 290, 370), replace(TOF, edge_hole=0.0, multipath=0.0))
    beside = loud[:, 370][loud[:, 370] > 0]
    # Shares from a quarter to a half, evenly: the term that goes with the signal is 2.8 times as large in the mean.
    assert beside.std() == pytest.approx(0.5 + 2.8 * 0.7 * 0.36, rel=0.12)


def test_pixels_at_edges_are_dropped_at_the_rate_that_is_asked_for() -> None:
    rows = np.concatenate([sense(step(600, 900, 290, 370), TOF, frame=f) for f in range(4)])
    assert (rows[:, [289, 290, 369, 370]] == 0).mean() == pytest.approx(TOF.edge_hole, abs=0.03)
    assert (rows[:, 300:360] > 0).all()


def corner(z_mm: float) -> np.ndarray:
    """Two walls at right angles, each at 45°, that meet farthest from the camera, in the middle."""
    x = np.abs((np.arange(WIDTH) - K[2]) / K[0])
    return np.tile(z_mm / (1 + x), (HEIGHT, 1)).astype(np.float32)


def test_light_comes_late_in_a_concave_corner_and_not_over_a_convex_one() -> None:
    sensor = replace(PURE, multipath=0.1)
    error = (sense(corner(700), sensor) - corner(700)).mean(0)
    arm_px = round(K[0] * np.tan(np.radians(sensor.multipath_deg)))
    sagitta = 700 - 700 / (1 + arm_px / K[0])
    assert error[319:321].mean() == pytest.approx(0.1 * sagitta, rel=0.05)
    assert error[319] > 2.0
    assert (np.diff(error[320 : 320 + arm_px]) <= 0.11).all()
    assert np.abs(error[320 + arm_px + 1 : -arm_px - 1]).max() < 0.15
    x = np.abs((np.arange(WIDTH) - K[2]) / K[0])
    ridge = np.tile(500 / (1 - x), (HEIGHT, 1)).astype(np.float32)
    assert np.abs(sense(ridge, sensor) - ridge)[:, arm_px:-arm_px].max() < 0.15
    flat = plane(700, 40)
    assert np.abs(sense(flat, sensor) - flat)[:, arm_px:-arm_px].max() < 0.4  # a tilted plane is no valley


def test_one_frequency_wraps_and_several_do_not() -> None:
    single = replace(PURE, modulation_mhz=200.0, wraps=True)
    assert ambiguity_mm(single) == pytest.approx(749.48, abs=0.01)
    depth = plane(1000, width=WIDTH)[200:280, 280:360]
    seen = sense(depth, single, window=(280, 200))
    v, u = np.mgrid[200:280, 280:360]
    ray = np.sqrt(1 + ((u - K[2]) / K[0]) ** 2 + ((v - K[3]) / K[1]) ** 2)
    assert np.abs(seen - ((1000 * ray) % ambiguity_mm(single)) / ray).max() < 0.2
    several = sense(depth, replace(single, wraps=False), window=(280, 200))
    assert np.abs(several - 1000).max() < 0.2
