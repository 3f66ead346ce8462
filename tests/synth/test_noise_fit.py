"""Captures of the virtual rig with known sensors give their parameters back; what cannot be seen is said not to be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording
from handloom.synth.noise_estimates import before_rounding, shared_noise
from handloom.synth.noise_fit import NoiseFit, fit_noise, summary
from handloom.synth.noise_levels import find_levels
from handloom.synth.noise_report import write_report
from handloom.synth.noise_scene import View
from handloom.synth.rigs import ring_rig
from handloom.synth.sensor import ActiveStereo, Sensor, StructuredLight, TimeOfFlight, read_sensor

SIDES = {"projector", "second_imager", "block_px", "window_px"}
"""Found exactly."""
RELATIVE = {
    "axial_mm": 0.1,
    "subpixel_px": 0.1,
    "axial_growth_mm": 0.2,
    "axial_grazing_mm": 0.2,
    "baseline_mm": 0.15,
}
ABSOLUTE = {
    "lateral_px": 0.15,
    "wobble_px": 0.15,
    "footprint_px": 0.6,
    "slant": 0.2,
    "shared": 0.1,
    "edge_hole": 0.08,
    "hole": 0.01,
    "grazing_from_deg": 5.0,
    "grazing_to_deg": 5.0,
}
FRAMES = 40


def capture(
    path: Path, sensor: Sensor | None, *, unit: float = 1.0, seed: int = 0, frames: int = FRAMES, scene: bool = True
) -> Recording:
    config = VirtualConfig(
        frames=frames,
        sequence_frames=-(-frames // 2),
        transport="direct",
        seed=seed,
        scene=scene,
        sensor=sensor,
        jobs=1,
    )
    with VirtualRig(config, rig=ring_rig(2, depth_unit_mm=unit)) as source:
        return record(source, path, overwrite=True)


def check(fit: NoiseFit, truth: Sensor, *, edge_hole: float = ABSOLUTE["edge_hole"]) -> set[str]:
    """All that is identified within its tolerance; gives the names."""
    identified = set()
    for e in fit.estimates:
        true = getattr(truth, e.name)
        if not e.identified:
            continue
        identified.add(e.name)
        if e.name in SIDES:
            assert e.value == true, e
        elif e.name in RELATIVE:
            assert e.value == pytest.approx(true, rel=RELATIVE[e.name]), e
        elif e.name == "edge_hole":
            assert e.value == pytest.approx(true, abs=edge_hole), e
        elif e.name in ABSOLUTE:
            assert e.value == pytest.approx(true, abs=ABSOLUTE[e.name]), e
        else:
            assert e.name == "disparity_step_px", e
            assert fit.measured.levels.quantum_px == pytest.approx(
                getattr(truth, "baseline_mm", 0.0) / true if true else 0.0, rel=0.02
            )
    return identified


LIGHT = StructuredLight(
    axial_mm=2.5, axial_growth_mm=4.0, axial_grazing_mm=0.2, lateral_px=0.4, edge_hole=0.45, grazing_from_deg=62.0,
    grazing_to_deg=80.0, block_px=3, baseline_mm=60.0, projector=-1,
)  # fmt: skip
STEREO = ActiveStereo(
    subpixel_px=0.15, slant=1.0, shared=0.5, window_px=5, baseline_mm=55.0, second_imager=-1, wobble_px=1.0,
    edge_hole=0.3, hole=0.02,
)  # fmt: skip
TOF = TimeOfFlight(
    axial_mm=1.5, axial_growth_mm=1.6, footprint_px=1.2, edge_hole=0.2, grazing_from_deg=68.0, grazing_to_deg=85.0
)


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A structured-light camera unlike the published one, depth in half millimetres."""
    return capture(tmp_path_factory.mktemp("noise") / "light.zarr", LIGHT, unit=0.5)


@pytest.fixture(scope="module")
def light_fit(light: Recording) -> NoiseFit:
    return fit_noise(light, seed=0)


def test_structured_light_is_recognised_and_gives_its_parameters_back(light_fit: NoiseFit) -> None:
    fit = light_fit
    assert fit.model == "structured-light"
    assert check(fit, LIGHT) >= {
        "axial_mm", "axial_growth_mm", "lateral_px", "baseline_mm", "projector", "disparity_step_px", "edge_hole",
        "grazing_from_deg", "grazing_to_deg", "block_px",
    }  # fmt: skip
    kept = {e.name: e for e in fit.estimates if not e.identified}
    assert {"bias_mm", "bias_per_m_mm", "edge_mm", "min_mm", "max_mm"} <= set(kept)
    assert all(e.note for e in kept.values())
    assert all(e.value == e.default for e in kept.values())


def test_what_is_printed_as_json_is_plain(light_fit: NoiseFit) -> None:
    found = json.loads(json.dumps(summary(light_fit)))
    assert found["model"] == "structured-light"
    assert "bias_mm" in found["not_identified"]
    assert found["parameters"]["baseline_mm"]["value"] == light_fit.sensor.baseline_mm
    assert found["frames"] == [FRAMES, FRAMES]


def test_stereo_is_recognised_and_gives_its_parameters_back(tmp_path: Path) -> None:
    fit = fit_noise(capture(tmp_path / "s.zarr", STEREO, unit=0.25), seed=0)
    assert fit.model == "stereo"
    assert check(fit, STEREO) >= {
        "baseline_mm", "second_imager", "subpixel_px", "slant", "shared", "disparity_step_px", "window_px", "wobble_px",
        "edge_hole", "hole",
    }  # fmt: skip


def test_time_of_flight_is_recognised_and_gives_its_parameters_back(tmp_path: Path) -> None:
    fit = fit_noise(capture(tmp_path / "t.zarr", TOF, unit=0.25, seed=2), seed=0)
    assert fit.model == "tof"
    assert check(fit, TOF, edge_hole=0.1) >= {
        "axial_mm", "axial_growth_mm", "footprint_px", "edge_hole", "grazing_from_deg", "grazing_to_deg",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sensor", "unit", "seed"),
    [
        (StructuredLight(), 1.0, 0),
        (StructuredLight(baseline_mm=50.0, disparity_step_px=1 / 16, projector=-1), 0.25, 0),
        (StructuredLight(disparity_step_px=0.0, axial_mm=0.8), 0.5, 1),
        (StructuredLight(baseline_mm=110.0, disparity_step_px=0.1, lateral_px=1.2, block_px=1), 1.0, 3),
        (ActiveStereo(), 1.0, 0),
        (ActiveStereo(window_px=9, shared=0.9, subpixel_px=0.1, second_imager=-1), 0.5, 4),
        (TimeOfFlight(), 1.0, 0),
        (TimeOfFlight(axial_mm=1.0, axial_growth_mm=1.2, footprint_px=1.8), 0.5, 5),
    ],
)
def test_other_settings(sensor: Sensor, unit: float, seed: int, tmp_path: Path) -> None:
    fit = fit_noise(capture(tmp_path / "r.zarr", sensor, unit=unit, seed=seed), seed=0)
    names = {StructuredLight: "structured-light", ActiveStereo: "stereo", TimeOfFlight: "tof"}
    assert fit.model == names[type(sensor)]
    check(fit, sensor, edge_hole=0.1 if isinstance(sensor, TimeOfFlight) else 0.08)


def test_a_hand_before_nothing_still_gives_noise_and_steps(tmp_path: Path) -> None:
    sensor = StructuredLight(disparity_step_px=0.2)
    fit = fit_noise(capture(tmp_path / "r.zarr", sensor, scene=False), seed=0)
    identified = {e.name: e for e in fit.estimates if e.identified}
    assert fit.measured.levels.quantum_px == pytest.approx(375.0, rel=0.02)
    assert identified["axial_mm"].value == pytest.approx(1.2, rel=0.15)
    assert not identified.keys() & {"baseline_mm", "edge_hole", "lateral_px", "grazing_from_deg", "block_px"}
    assert any("Nothing stands still" in note for note in fit.notes)
    write_report(fit, tmp_path / "noise.html", name="r.zarr", seed=0)
    assert "Nothing stands still" in (tmp_path / "noise.html").read_text()


@pytest.mark.slow
def test_noise_below_the_steps_is_not_claimed(tmp_path: Path) -> None:
    sensor = StructuredLight(axial_mm=0.4, axial_growth_mm=0.5, axial_grazing_mm=0.0, disparity_step_px=0.5)
    fit = fit_noise(capture(tmp_path / "r.zarr", sensor), model="structured-light", seed=0)
    axial = next(e for e in fit.estimates if e.name == "axial_mm")
    assert not axial.identified
    assert "rounding" in axial.note


@pytest.mark.parametrize("quantum_px", [150.0, 600.0, 1733.0, 4000.0])
def test_the_comb_of_levels_gives_baseline_over_step(quantum_px: float, view_of: Callable[[np.ndarray], View]) -> None:
    z = np.random.default_rng(0).uniform(450, 2600, 76800)
    q = quantum_px * 241.0
    codes = np.rint(q / np.rint(q / z) / 0.5).astype(np.uint16)
    levels = find_levels([view_of(codes)])
    assert levels.quantum_px == pytest.approx(quantum_px, rel=1e-3)
    assert levels.offset == 0


def test_even_depths_make_no_comb(view_of: Callable[[np.ndarray], View]) -> None:
    codes = np.rint(np.random.default_rng(0).uniform(450, 2600, 76800) / 0.5).astype(np.uint16)
    assert find_levels([view_of(codes)]).quantum_px == 0


@pytest.fixture(scope="module")
def view_of() -> Callable[[np.ndarray], View]:
    """One frame of given codes."""
    camera = ring_rig(1, depth_unit_mm=0.5).cameras[0]
    return lambda codes: View(camera, 0, np.arange(1), codes.reshape(1, 240, 320))


@pytest.mark.parametrize("noise_steps", [0.1, 0.3, 0.6, 2.0])
def test_noise_is_found_below_the_rounding(noise_steps: float) -> None:
    rng = np.random.default_rng(1)
    seen = np.rint(rng.uniform(0, 1, (4000, 1)) + noise_steps * rng.normal(size=(4000, 60)))
    variance = float(seen.var(axis=1, ddof=1).mean())
    assert float(before_rounding(np.array(variance))) == pytest.approx(noise_steps, rel=0.06)


def test_a_synthetic_recording_without_frames_is_refused(light: Recording) -> None:
    bare = replace_frames(light)
    with pytest.raises(HandloomError, match="holds no full frames"):
        fit_noise(bare, seed=0)


def replace_frames(recording: Recording) -> Recording:
    copy = open_recording(recording.path)
    assert copy.frames is not None
    for camera in copy.rig.cameras:
        copy.frames.columns.pop(f"depth/{camera.name}")
    return copy


def test_a_short_capture_is_refused(tmp_path: Path) -> None:
    short = capture(tmp_path / "r.zarr", None, frames=8)
    with pytest.raises(HandloomError, match="too few frames") as error:
        fit_noise(short, seed=0)
    assert "8 images" in error.value.why


def test_the_command_writes_the_same_sensor_for_synthesis_to_read(
    light: Recording, light_fit: NoiseFit, tmp_path: Path
) -> None:
    out = tmp_path / "sensor.yaml"
    command = ["synth", "fit-noise", "--real", str(light.path), "--out", str(out)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{out}: structured-light, from {FRAMES} frames of 2 cameras"
    assert lines[-1] == f"next: handloom synth run --out S.zarr --sensor {out}"
    assert max(len(line) for line in lines[1:-1]) <= 80
    assert read_sensor(out) == light_fit.sensor
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_a_file_that_is_no_yaml_is_refused_before_the_work(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["synth", "fit-noise", "--real", str(tmp_path), "--out", str(tmp_path / "a.txt")])
    assert result.exit_code == 2
    assert "ends in .yaml" in result.output


def test_shared_noise_of_white_noise_is_none(light_fit: NoiseFit) -> None:
    white = replace(light_fit.measured.sums, correlation=np.array([[1.0, 1.0]] + [[0.0, 1.0]] * 12))
    assert shared_noise(white)[0] == 0
