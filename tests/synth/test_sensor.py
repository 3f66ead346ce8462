"""The structured-light camera against what was published of it, and window against full frame."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handloom.synth.sensor import StructuredLight, apply, margin_px

KINECT = StructuredLight()
K = (580.0, 580.0, 319.5, 239.5)
WIDTH, HEIGHT = 640, 480


def sense(depth: np.ndarray, sensor: StructuredLight | None = KINECT, **options: Any) -> np.ndarray:
    """Depth in mm, at a unit fine enough not to matter."""
    unit = 0.1
    values = {"seed": 3, "frame": 5, "view": 1, "depth_unit_mm": unit, **options}
    return apply(sensor, depth.astype(np.float32), K, **values) * unit


def plane(z_mm: float, tilt_deg: float = 0.0, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Depth of a plane through the optical axis at z, turned about the vertical."""
    x = (np.arange(width) - K[2]) / K[0]
    return np.tile(z_mm / (1 - np.tan(np.radians(tilt_deg)) * x), (height, 1)).astype(np.float32)


@pytest.mark.parametrize("z_mm", [500.0, 700.0, 1000.0, 1500.0])
def test_axial_noise_is_nguyens(z_mm: float) -> None:
    error = sense(plane(z_mm)) - z_mm
    published = 1.2 + 1.9 * (z_mm / 1000 - 0.4) ** 2
    step = z_mm**2 / (580 * 75 * 8)
    assert (error + z_mm > 0).all()
    assert error.std() == pytest.approx(np.hypot(published, step / np.sqrt(12)), rel=0.04)
    assert abs(error.mean()) < 0.1


def test_noise_grows_with_the_angle() -> None:
    middle = np.s_[:, 300:340]
    spread = []
    for tilt in (0, 50, 65):
        depth = plane(700, tilt)
        seen = sense(depth, replace(KINECT, grazing_from_deg=88, grazing_to_deg=89.5))
        spread.append(float((seen - depth)[middle].std()))
    assert spread[0] < spread[1] < spread[2]
    theta = np.radians(65)
    gain = 0.1 / np.sqrt(0.7) * theta**2 / (np.pi / 2 - theta) ** 2
    assert spread[2] - spread[0] == pytest.approx(gain, rel=0.25)


def test_disparity_steps_of_an_eighth_pixel() -> None:
    levels = np.unique(apply(KINECT, plane(700), K, depth_unit_mm=0.02, seed=0, frame=0, view=0)) * 0.02
    disparity = 580 * 75 / levels
    assert np.abs(disparity * 8 - np.rint(disparity * 8)).max() < 0.02
    assert np.diff(levels).mean() == pytest.approx(1.4, abs=0.1)


def test_steps_follow_the_camera_focal_length() -> None:
    fine = np.unique(sense(plane(700)))
    coarse = apply(
        KINECT, plane(700), (290.0, 290.0, *K[2:]), depth_unit_mm=0.1, seed=0, frame=0, view=0
    )  # fmt: skip
    assert np.diff(np.unique(coarse)).mean() * 0.1 == pytest.approx(2 * np.diff(fine).mean(), rel=0.1)


@pytest.mark.parametrize("side", [1, -1])
def test_shadow_lies_away_from_the_projector_and_is_as_wide_as_geometry_says(side: int) -> None:
    depth = np.full((HEIGHT, WIDTH), 1000, np.float32)
    depth[:, 300:400] = 600
    quiet = replace(KINECT, lateral_px=0, edge_hole=0, projector=side)
    holes = (sense(depth, quiet) == 0).mean(0)
    width = 580 * 75 * (1 / 600 - 1 / 1000)
    shadow = np.arange(WIDTH) < 300 if side > 0 else np.arange(WIDTH) >= 400
    # A shadow wider than half the object: behind an object narrower than that light falls in again.
    assert holes[shadow].sum() == pytest.approx(width, abs=1.5)
    assert holes[~shadow].sum() < 1.0
    edge = holes[299] if side > 0 else holes[400]
    assert edge == 1


def test_light_falls_behind_a_thin_object() -> None:
    depth = np.full((HEIGHT, WIDTH), 1500, np.float32)
    depth[:, 400:410] = 500
    holes = (sense(depth, replace(KINECT, lateral_px=0, edge_hole=0)) == 0).mean(0)
    assert holes[:400].sum() == pytest.approx(10, abs=1.5)
    shift = 580 * 75 * (1 / 500 - 1 / 1500)
    assert holes[int(400 - shift) : int(410 - shift)].mean() > 0.85


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("tilt", [-55.0, 55.0])
def test_a_slanted_wall_casts_no_shadow_on_itself(side: int, tilt: float) -> None:
    x = (np.arange(320) - 159.5) / 241
    wall = np.tile(2500 / (1 - np.tan(np.radians(tilt)) * x), (20, 1)).astype(np.float32)
    wall[(wall < 0) | (wall > 3800)] = 0
    quiet = replace(KINECT, lateral_px=0, edge_hole=0, projector=side, grazing_from_deg=88, grazing_to_deg=89.5)
    k = (241.0, 241.0, 159.5, 119.5)
    seen = apply(quiet, wall, k, depth_unit_mm=1.0, seed=0, frame=0, view=0)
    assert ((seen == 0) & (wall > 0)).sum() == 0


def test_returns_fail_at_grazing_angles_more_and_more() -> None:
    rates = [(sense(plane(700, tilt))[:, 310:330] == 0).mean() for tilt in (0, 60, 74, 78, 82)]
    assert rates[0] == 0
    assert rates[1] < 0.01
    assert all(a < b for a, b in itertools.pairwise(rates[1:])), rates
    assert rates[-1] > 0.6


def test_edges_move_by_less_than_a_pixel() -> None:
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    depth[:, 200:] = 600
    seen = sense(depth, replace(KINECT, edge_hole=0)) > 0
    first = seen.argmax(1)
    assert first.mean() == pytest.approx(200, abs=0.6)
    assert 0.3 < first.std() < 1.5


def hand_like() -> np.ndarray:
    """Fingers over a palm: edges, slopes, shadows of one on the other."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    depth = np.zeros((HEIGHT, WIDTH))
    palm = ((u - 330) / 70) ** 2 + ((v - 260) / 90) ** 2
    depth[palm < 1] = (720 - 40 * np.sqrt(np.maximum(1 - palm, 0)))[palm < 1]
    for i in range(4):
        across = (u - 280 - 32 * i) / 9
        finger = (np.abs(across) < 1) & (v > 120) & (v < 290)
        depth[finger] = (640 + 0.1 * v - 8 * np.sqrt(np.maximum(1 - across**2, 0)))[finger]
    return depth.astype(np.float32)


def test_window_is_the_full_frame_to_the_bit_inside_its_margin() -> None:
    depth = hand_like()
    full = sense(depth)
    margin = margin_px(KINECT, K[0], near_mm=620, far_mm=730)
    assert 5 < margin < 60
    for left, top in ((200, 130), (233, 171)):
        box = np.s_[top : top + 200, left : left + 210]
        window = sense(depth[box], window=(left, top))
        inner = np.s_[margin:-margin, margin:-margin]
        assert (window[inner] > 0).any()
        assert (window[inner] == 0).any()
        assert np.array_equal(window[inner], full[box][inner])


def test_window_agrees_with_the_frame_in_noise_holes_and_edges() -> None:
    """What is promised of the whole window, its borders included: 10 %, over ten frames."""
    depth, box = hand_like(), np.s_[100:370, 240:420]
    sums = np.zeros((2, 3))
    for frame in range(10):
        pair = (sense(depth, frame=frame)[box], sense(depth[box], frame=frame, window=(240, 100)))
        for i, seen in enumerate(pair):
            solid, there = depth[box] > 0, seen > 0
            smooth = there & solid & (np.abs(seen - depth[box]) < 8)
            sums[i] += (seen - depth[box])[smooth].std(), (solid & ~there).mean(), (solid != there).mean()
    assert sums[1] == pytest.approx(sums[0], rel=0.1)


def test_noise_depends_on_seed_frame_view_and_on_nothing_else() -> None:
    depth = hand_like()
    first = sense(depth)
    assert np.array_equal(first, sense(depth))
    for change in ({"seed": 4}, {"frame": 6}, {"view": 0}):
        other = sense(depth, **change)
        both = (first > 0) & (other > 0)
        assert (first != other)[both].mean() > 0.5
        residual = [(image - depth)[both & (depth > 0)] for image in (first, other)]
        near = (np.abs(residual[0]) < 8) & (np.abs(residual[1]) < 8)
        assert abs(np.corrcoef(residual[0][near], residual[1][near])[0, 1]) < 0.05


def test_without_a_sensor_depth_is_rounded_to_the_unit() -> None:
    depth = np.array([[0, 499.6, 500.4], [70000, 65535, 1]], np.float32)
    seen = apply(None, depth, K, depth_unit_mm=1.0, seed=0, frame=0, view=0)
    assert seen.tolist() == [[0, 500, 500], [0, 65535, 1]]


def test_nothing_returns_from_too_near_or_too_far() -> None:
    for z in (KINECT.min_mm - 30, KINECT.max_mm + 30):
        assert (sense(plane(z)) == 0).all()
    assert (sense(np.zeros((40, 30))) == 0).all()
