"""What every depth sensor promises: window against full frame, independent noise, nothing from nothing, its file."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.recording import open_recording
from handloom.synth.config import SynthConfig
from handloom.synth.sensor import (
    ActiveStereo,
    Sensor,
    StructuredLight,
    TimeOfFlight,
    apply,
    describe,
    margin_px,
    parse_sensor,
    reach_px,
    read_sensor,
    write_sensor,
)

from sensor_scenes import HEIGHT, WIDTH, K, hand_like, plane, sense

SENSORS = (StructuredLight(), ActiveStereo(), TimeOfFlight())
OTHERS = (
    StructuredLight(projector=-1, block_px=3, lateral_px=1.3, bias_per_m_mm=2.0),
    ActiveStereo(second_imager=-1, window_px=10, wobble_px=1.5, hole=0.05),
    TimeOfFlight(wraps=True, modulation_mhz=230.0, multipath=0.2, footprint_px=2.5),
    TimeOfFlight(multipath=0.0),
    StructuredLight(baseline_mm=0.0, disparity_step_px=0.0),
    ActiveStereo(window_px=1, shared=0.0, disparity_step_px=0.0),
)
every_sensor = pytest.mark.parametrize("sensor", SENSORS, ids=lambda s: type(s).__name__)
any_sensor = pytest.mark.parametrize("sensor", SENSORS + OTHERS, ids=lambda s: type(s).__name__)


@any_sensor
@pytest.mark.parametrize("shift", [(0, 0), (-260, -110), (150, 130)], ids=["middle", "corner", "other corner"])
def test_window_is_the_full_frame_to_the_bit_inside_its_margin(sensor: Sensor, shift: tuple[int, int]) -> None:
    depth = np.roll(hand_like(), shift, (1, 0))
    full = sense(depth, sensor)
    margin = margin_px(sensor, K[0], near_mm=620, far_mm=730)
    assert margin < 60
    for left, top, size in ((200, 130, 200), (233, 171, 150), (207, 100, 183)):
        u0, v0 = max(left + shift[0], 0), max(top + shift[1], 0)
        u1, v1 = min(left + shift[0] + size, WIDTH), min(top + shift[1] + size, HEIGHT)
        window = sense(depth[v0:v1, u0:u1], sensor, window=(u0, v0))
        # Where the window ends with the frame nothing is missing, and no margin is needed.
        a, b = (0 if low == 0 else margin for low in (v0, u0))
        c, d = (None if end == whole else -margin for end, whole in ((v1, HEIGHT), (u1, WIDTH)))
        inner = np.s_[a:c, b:d]
        assert (window[inner] > 0).any()
        assert (window[inner] == 0).any()
        assert np.array_equal(window[inner], full[v0:v1, u0:u1][inner])


@any_sensor
def test_window_before_a_background_too(sensor: Sensor) -> None:
    depth = hand_like()
    depth[depth == 0] = plane(1100, 30)[depth == 0]
    full, margin = sense(depth, sensor), margin_px(sensor, K[0], near_mm=620, far_mm=1600)
    left, top = 180, 90
    window = sense(depth[top : top + 300, left : left + 330], sensor, window=(left, top))
    inner = np.s_[margin:-margin, margin:-margin]
    assert window[inner].size > 5000
    assert np.array_equal(window[inner], full[top : top + 300, left : left + 330][inner])


@any_sensor
def test_the_hand_s_own_box_and_what_it_reaches_beyond_it_is_all(sensor: Sensor) -> None:
    depth = hand_like()
    v, u = np.nonzero(depth)
    reach = reach_px(sensor)
    box = np.s_[v.min() - reach : v.max() + 1 + reach, u.min() - reach : u.max() + 1 + reach]
    full = sense(depth, sensor)
    window = sense(depth[box], sensor, window=(int(u.min()) - reach, int(v.min()) - reach))
    assert np.array_equal(window, full[box])
    full[box] = 0
    assert (full == 0).all()


@every_sensor
def test_noise_depends_on_seed_frame_view_and_on_nothing_else(sensor: Sensor) -> None:
    wall = plane(700, 20)[:, 100:600]
    first = sense(wall, sensor, window=(100, 0))
    assert np.array_equal(first, sense(wall, sensor, window=(100, 0)))
    for change in ({"seed": 4}, {"frame": 6}, {"view": 0}):
        other = sense(wall, sensor, window=(100, 0), **change)
        both = (first > 0) & (other > 0)
        assert (first != other)[both].mean() > 0.5
        # 240,000 pixels, or 5,000 windows of a stereo camera: four standard deviations of what chance gives.
        assert abs(np.corrcoef((first - wall)[both], (other - wall)[both])[0, 1]) < 0.06


@every_sensor
def test_nothing_returns_from_too_near_too_far_or_nothing(sensor: Sensor) -> None:
    for z in (sensor.min_mm - 30, sensor.max_mm + 60):
        assert (sense(plane(z, width=60, height=40), sensor) == 0).all()
    for height, width in ((40, 30), (1, 1), (1, 7), (7, 1)):
        assert (sense(np.zeros((height, width)), sensor) == 0).all()


@any_sensor
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_the_smallest_images(sensor: Sensor, size: tuple[int, int]) -> None:
    # In the middle of the full frame, so that no match lies outside of the second image.
    seen = np.stack([sense(np.full(size, 600.0), sensor, window=(320, 240), frame=f) for f in range(20)])
    there = seen[seen > 0]
    assert len(there) > 0.9 * seen.size
    assert np.abs(there - 600 - 0.6 * sensor.bias_per_m_mm).max() < 12


@every_sensor
@pytest.mark.parametrize("angle", [0.0, 45.0])
def test_bias_is_added_to_the_depth(sensor: Sensor, angle: float) -> None:
    depth = plane(700, angle)[100:200, 280:380]
    biased = replace(sensor, bias_mm=-4.0, bias_per_m_mm=10.0)
    window = {"window": (280, 100)}
    pairs = [(sense(depth, sensor, frame=f, **window), sense(depth, biased, frame=f, **window)) for f in range(3)]
    with_bias, without = np.stack([b for _, b in pairs]), np.stack([a for a, _ in pairs])
    both = (with_bias > 0) & (without > 0)
    expected = (0.01 * depth - 4)[None] + np.zeros_like(without)
    assert np.abs((with_bias - without - expected)[both]).max() < 0.4  # 2 units, and 1 % of the noise


@every_sensor
def test_returns_fail_at_grazing_angles_more_and_more(sensor: Sensor) -> None:
    low, high = sensor.grazing_from_deg, sensor.grazing_to_deg
    tilts = (0.0, low - 6, low + 0.3 * (high - low), low + 0.6 * (high - low), low + 0.9 * (high - low))
    rates = []
    for tilt in tilts:
        depth = plane(700, tilt)
        rates.append(np.mean([(sense(depth, sensor, frame=f)[:, 312:328] == 0).mean() for f in range(2)]))
    assert rates[0] < 0.01
    assert rates[1] < 0.02
    assert all(a < b for a, b in itertools.pairwise(rates[1:])), rates
    assert rates[-1] > 0.6


@every_sensor
def test_a_unit_too_large_or_small_gives_no_false_depth(sensor: Sensor) -> None:
    depth = plane(700, width=50, height=50)
    coarse = apply(sensor, depth, K, depth_unit_mm=5.0, seed=0, frame=0, view=0, window=(300, 200))
    assert set(np.unique(coarse)) <= set(range(138, 143)) | {0}
    fine = apply(sensor, depth, K, depth_unit_mm=0.01, seed=0, frame=0, view=0, window=(300, 200))
    assert (fine == 0).all()  # 70,000 units do not fit into 16 bits


def test_without_a_sensor_depth_is_rounded_to_the_unit() -> None:
    depth = np.array([[0, 499.6, 500.4], [70000, 65535, 1]], np.float32)
    seen = apply(None, depth, K, depth_unit_mm=1.0, seed=0, frame=0, view=0)
    assert seen.tolist() == [[0, 500, 500], [0, 65535, 1]]


@any_sensor
def test_a_sensor_s_file_reads_back_as_the_sensor(sensor: Sensor, tmp_path: Path) -> None:
    write_sensor(sensor, tmp_path / "s.yaml")
    assert read_sensor(tmp_path / "s.yaml") == sensor
    assert parse_sensor(describe(sensor)) == sensor


def test_a_sensor_s_file_may_say_as_little_as_its_model(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("model: stereo\nbaseline_mm: 55\n")
    assert read_sensor(tmp_path / "s.yaml") == ActiveStereo(baseline_mm=55.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("baseline_mm: 55\n", "The sensor has no model"),
        ("model: lidar\n", "There is no sensor model 'lidar'"),
        ("model: tof\nbaseline_mm: 55\n", "Unknown key 'baseline_mm'"),
        ("model: stereo\nwindow_px: 0\n", "'window_px' is not valid"),
        ("model: structured-light\nprojector: 2\n", "'projector' is not valid"),
        ("model: [\n", "The configuration cannot be read"),
    ],
)
def test_what_is_wrong_with_a_sensor_s_file(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(HandloomError, match=says.replace("[", r"\[")) as caught:
        read_sensor(tmp_path / "s.yaml")
    assert str(tmp_path / "s.yaml") in caught.value.where
    if "Unknown" in says:
        assert all(field.name in (caught.value.why or "") for field in fields(TimeOfFlight))


def resolved(**values: Any) -> SynthConfig:
    return SynthConfig.model_validate(values)


def test_a_configuration_keeps_what_a_sensor_s_file_said(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    write_sensor(TimeOfFlight(axial_mm=0.9, multipath=0.0), file)
    config = resolved(sensor=str(file), tof={"edge_hole": 0.5})
    assert config.sensor == "tof"
    assert config.make_sensor() == TimeOfFlight(axial_mm=0.9, multipath=0.0, edge_hole=0.5)
    file.unlink()
    assert resolved(**config.model_dump(mode="json")) == config


def test_a_configuration_names_each_model() -> None:
    assert resolved(sensor="none").make_sensor() is None
    for sensor in SENSORS:
        assert resolved(sensor=describe(sensor)["model"]).make_sensor() == sensor


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_command_takes_a_sensor_s_file_and_keeps_its_values(tmp_path: Path) -> None:
    out, file = tmp_path / "s.zarr", tmp_path / "mine.yaml"
    file.write_text("model: stereo\nbaseline_mm: 55\nwindow_px: 5\n")
    options = ("--out", out, "--frames", 2, "--views", 1, "--jobs", 1, "-o", "crop_px=32", "--sensor", file)
    assert run("synth", "run", *options).exit_code == 0
    said = open_recording(out).provenance
    assert said["sensor"] == describe(ActiveStereo(baseline_mm=55.0, window_px=5))
    assert (said["config"]["sensor"], said["config"]["stereo"]["window_px"]) == ("stereo", 5)
    assert run("synth", "run", *options, "--resume").exit_code == 0
    # The file is another now, under the same name.
    file.write_text("model: stereo\nbaseline_mm: 55\nwindow_px: 7\n")
    other = run("synth", "run", *options, "--resume")
    assert other.exit_code == 2
    assert "The recording was begun with another configuration" in other.stderr
    assert "'window_px': 7" in other.stderr


def test_a_sensor_that_the_command_does_not_know(tmp_path: Path) -> None:
    done = run("synth", "run", "--out", tmp_path / "s.zarr", "--sensor", "lidar")
    assert done.exit_code == 2
    assert done.stderr == (
        "error: There is no sensor 'lidar'\n"
        "  why:   it is none, structured-light, stereo, tof or a file that ends in .yaml\n"
    )
    missing = run("synth", "run", "--out", tmp_path / "s.zarr", "--sensor", tmp_path / "no.yaml")
    assert missing.exit_code == 2
    assert str(tmp_path / "no.yaml") in missing.stderr
    assert not (tmp_path / "s.zarr").exists()
