"""The structured-light camera against what was published of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from handloom.synth.sensor import apply
from handloom.synth.structured_light import StructuredLight

from sensor_scenes import HEIGHT, WIDTH, K, hand_like, plane, sense

KINECT = StructuredLight()


@pytest.mark.parametrize("z_mm", [500.0, 700.0, 1000.0, 1500.0])
def test_axial_noise_is_nguyens(z_mm: float) -> None:
    error = sense(plane(z_mm), KINECT) - z_mm
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
    fine = np.unique(sense(plane(700), KINECT))
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


def test_edges_move_by_less_than_a_pixel() -> None:
    depth = np.zeros((HEIGHT, WIDTH), np.float32)
    depth[:, 200:] = 600
    seen = sense(depth, replace(KINECT, edge_hole=0)) > 0
    first = seen.argmax(1)
    assert first.mean() == pytest.approx(200, abs=0.6)
    assert 0.3 < first.std() < 1.5


def test_window_agrees_with_the_frame_in_noise_holes_and_edges() -> None:
    """What is promised of the whole window, its borders included: 10 %, over ten frames."""
    depth, box = hand_like(), np.s_[100:370, 240:420]
    sums = np.zeros((2, 3))
    for frame in range(10):
        pair = (sense(depth, KINECT, frame=frame)[box], sense(depth[box], KINECT, frame=frame, window=(240, 100)))
        for i, seen in enumerate(pair):
            solid, there = depth[box] > 0, seen > 0
            smooth = there & solid & (np.abs(seen - depth[box]) < 8)
            sums[i] += (seen - depth[box])[smooth].std(), (solid & ~there).mean(), (solid != there).mean()
    assert sums[1] == pytest.approx(sums[0], rel=0.1)
