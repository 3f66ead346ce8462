"""`capture sync`: what it says of recordings whose stamps are known, to the letter, and the codes it ends with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.capture.sync_findings import judge, sync_of
from handloom.capture.sync_report import sync_report
from handloom.cli import main
from handloom.stores.camera import Camera, Rig
from handloom.stores.recording import create_recording
from handloom.stores.table import Appender

from camera_session import PERIOD_NS, Cam, Simulated, columns, grouped


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def write(path: Path, stamps: dict[str, np.ndarray], *, clock: str = "hardware_clock") -> None:
    """A recording of these stamps, its images of one pixel."""
    rows, views = stamps["frame_number"].shape
    rig = Rig(tuple(Camera(f"cam{v}", 1, 1, (1, 1, 0, 0)) for v in range(views)))
    made = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"clock": clock})
    table = made.create_frames(depth=False)
    with Appender(table) as appender:
        appender.append(
            stamps
            | {"present": (stamps["frame_number"] >= 0).astype(np.uint8), "frame_id": np.arange(rows, dtype=np.uint64)}
            | {name: np.zeros(rows, np.int32) for name in ("subject", "sequence")}
            | {"split": np.zeros(rows, np.uint8)}
        )


def stamps_of(cams: Sequence[Cam], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return columns(grouped(Simulated(cams, count, seed=seed).images, len(cams)))


CALM = (Cam(7, 40), Cam(2 * 3600, -60), Cam(3, 20))


def test_a_calm_rig_has_nothing_wrong(tmp_path: Path) -> None:
    write(tmp_path / "r.zarr", stamps_of(CALM, 3600))
    done = run("capture", "sync", tmp_path / "r.zarr")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "camera        images    rate  jitter  lost  back           drift    late   phase",
        "                         1/s      ms                         ppm      ms      ms",
    ]
    for line, drift in zip(lines[2:5], (-40, 60, -20), strict=True):
        name, images, rate, jitter, lost, back, found, _, unsure, late, phase = line.split()
        assert (name[:3], images, rate, lost, back) == ("cam", "3600", "30.00", "0", "0")
        assert float(jitter) == pytest.approx(0.2, abs=0.02)
        assert float(found) == pytest.approx(drift, abs=4 * float(unsure) + 0.5)
        assert float(late) == pytest.approx(5, rel=0.1)
        assert abs(float(phase)) < 0.3
    assert lines[-1] == "3600 sets, stamps of the hardware_clock domain: nothing found"
    assert max(map(len, lines)) <= 80
    said = json.loads(run("capture", "sync", tmp_path / "r.zarr", "--json").stdout)
    assert said["clean"] is True
    assert said["segments"][0]["cameras"]["cam1"]["drift_ppm"] == pytest.approx(60, abs=5)


@pytest.mark.parametrize(
    ("cams", "code", "words"),
    [
        ((CALM[0], Cam(5, phase_ns=0.4 * PERIOD_NS)), "skew", "a quarter of a period is 8.3 ms"),
        ((CALM[0], Cam(5, 400.0)), "drift", "ppm off the host's"),
        ((CALM[0], Cam(5, lost=0.03)), "lost", "images were lost"),
        ((CALM[0], Cam(5, steps=((600, -2.0),))), "step", "its clock stepped by -2.0"),
        ((CALM[0], Cam(5, every=2)), "rates", "cam0 30.00, cam1 15.00"),
        ((CALM[0], Cam(5, twice=(100, 101))), "duplicates", "2 images came twice"),
        ((CALM[0], Cam(5, jitter_ns=6e6)), "jitter", "scatter by 6."),
        ((CALM[0], CALM[1], Cam(5, start=300)), "missing", "began late or ended early"),
        ((CALM[0], CALM[1], Cam(5, stop=0)), "silent", "gave no image"),
    ],
)
def test_what_is_wrong_is_said(cams: tuple[Cam, ...], code: str, words: str, tmp_path: Path) -> None:
    write(tmp_path / "r.zarr", stamps_of(cams, 1800))
    found = {finding.code: finding for finding in sync_of(tmp_path / "r.zarr").findings}
    assert code in found, found
    assert found[code].severity in ("warning", "error")
    done = run("capture", "sync", tmp_path / "r.zarr")
    assert done.exit_code == 1
    assert words in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_wrong_where_nothing_is(seed: int) -> None:
    cams = [Cam(99.0 * v, 30.0 * (v - 2), lost=0.003, latency_ns=20e6) for v in range(4)]
    stamps = stamps_of(cams, 1200, seed)
    report = sync_report([f"cam{v}" for v in range(4)], **stamps, shared_clock=False)
    assert {finding.severity for finding in judge(report)} <= {"note"}


def test_cameras_plugged_in_anew_between_two_goes_are_no_step(tmp_path: Path) -> None:
    one, two = stamps_of((Cam(5), Cam(900)), 300), stamps_of((Cam(80), Cam(1)), 300, seed=1)
    pause = np.int64(60e9)
    two["t_host_ns"] += pause
    write(tmp_path / "r.zarr", {name: np.concatenate([one[name], two[name]]) for name in one})
    assert {f.code for f in sync_of(tmp_path / "r.zarr").findings} == {"step", "reset"}
    from handloom.stores.recording import open_recording

    open_recording(tmp_path / "r.zarr", writable=True).annotate(segments=[{"first_row": 0}, {"first_row": 300}])
    found = sync_of(tmp_path / "r.zarr")
    assert found.findings == ()
    assert [first for first, _ in found.segments] == [0, 300]
    assert [line for line in found.lines() if line.startswith("from")] == ["from row 0:", "from row 300:"]


def test_a_recording_without_times_is_refused(tmp_path: Path) -> None:
    nothing = {name: np.full((4, 2), -1, np.int64) for name in ("t_device_ns", "t_host_ns", "frame_number")}
    write(tmp_path / "r.zarr", nothing)
    done = run("capture", "sync", tmp_path / "r.zarr")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: The recording holds no times\n")
