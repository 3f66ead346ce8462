"""`capture list` and `capture probe`, to the letter."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.capture import sdk
from handloom.capture.cameras import RealsenseCameras
from handloom.capture.folder import FolderSource
from handloom.capture.listing import Device, Mode, list_devices
from handloom.capture.probing import probe
from handloom.capture.software import SoftwareCamera
from handloom.capture.source import Image
from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def device() -> Any:
    """A camera of the SDK without hardware, with two sizes."""
    rs = pytest.importorskip("pyrealsense2")
    made = rs.software_device()
    made.register_info(rs.camera_info.name, "Intel RealSense D435")
    made.register_info(rs.camera_info.serial_number, "123622270736")
    made.register_info(rs.camera_info.firmware_version, "5.16.0.1")
    made.register_info(rs.camera_info.usb_type_descriptor, "2.1")
    sensor = made.add_sensor("Stereo Module")
    for uid, (width, height, fps) in enumerate([(640, 480, 30), (640, 480, 60), (1280, 720, 30), (640, 480, 15)]):
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid = rs.stream.depth, 0, uid
        stream.width, stream.height, stream.fps = width, height, fps
        stream.bpp, stream.fmt = 2, rs.format.z16
        sensor.add_video_stream(stream)
    colour = rs.video_stream()
    colour.type, colour.index, colour.uid = rs.stream.color, 0, 9
    colour.width, colour.height, colour.fps, colour.bpp, colour.fmt = 1920, 1080, 30, 3, rs.format.rgb8
    sensor.add_video_stream(colour)
    return made


def test_a_camera_is_listed_with_its_depth_modes(device: Any) -> None:
    (found,) = list_devices(lambda: [device])
    modes = (Mode(1280, 720, (30,)), Mode(640, 480, (15, 30, 60)))
    assert found == Device("Intel RealSense D435", "123622270736", "5.16.0.1", "2.1", modes)
    assert found.lines() == [
        "Intel RealSense D435: serial 123622270736, firmware 5.16.0.1, USB 2.1",
        "  1280 x 720 at 30 fps",
        "  640 x 480 at 15, 30, 60 fps",
        "  note: on USB 2 only small images at low rates come through; use a USB 3 port and cable",
    ]


def test_the_command_lists_what_the_sdk_finds(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handloom.capture.listing.connected", lambda: [device])
    done = run("capture", "list")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (
        0,
        "Intel RealSense D435: serial 123622270736, firmware 5.16.0.1, USB 2.1",
    )
    assert done.stdout.splitlines()[-2:] == [
        "next: handloom capture probe realsense",
        "  or: handloom capture record realsense --out R.zarr",
    ]
    said = json.loads(run("capture", "list", "--json").stdout)
    assert said["devices"][0]["modes"][1] == {"width": 640, "height": 480, "fps": [15, 30, 60]}


def test_no_camera_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyrealsense2")
    monkeypatch.setattr("handloom.capture.listing.connected", list)
    done = run("capture", "list")
    assert (done.exit_code, done.stdout) == (
        0,
        "no RealSense camera is plugged in; 'virtual' and files are sources without one\n"
        "next: handloom capture probe virtual\n",
    )
    assert json.loads(run("capture", "list", "--json").stdout) == {"devices": []}


def test_a_camera_that_cannot_be_asked_is_listed_all_the_same() -> None:
    rs = pytest.importorskip("pyrealsense2")

    class Broken:
        def supports(self, key: object) -> bool:
            return key == rs.camera_info.serial_number

        def get_info(self, key: object) -> str:
            return "7"

        def query_sensors(self) -> list[object]:
            raise RuntimeError("failed to open device, it is busy")

    (found,) = list_devices(lambda: [Broken()])
    assert found.lines() == [
        "RealSense: serial 7, firmware ?",
        "  note: it could not be asked (failed to open device, it is busy)",
    ]


def test_without_the_sdk_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pyrealsense2":
            raise ImportError(name)
        return real(name, *rest)

    sdk.load_sdk.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    done = run("capture", "list")
    monkeypatch.undo()
    assert done.exit_code == 3
    assert done.stderr == (
        "error: pyrealsense2 is not installed\n"
        "  why:   it comes with the optional extra 'realsense'\n"
        "  fix:   pip install 'handloom[realsense]'\n"
    )


# -- probe ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(small_rig: Rig, tmp_path: Path) -> Path:
    """Two cameras at 30 fps, a quarter of the pixels without return, depths of 100 to 600 mm."""
    rows = []
    for number in range(40):
        for view, camera in enumerate(small_rig.cameras):
            mm = np.linspace(100, 600, camera.width * camera.height).reshape(camera.height, camera.width)
            depth = np.round(mm / camera.depth_unit_mm).astype(np.uint16)
            depth[: camera.height // 4] = 0
            t = 1_000_000_000 + number * 33_333_333 + view * 2_000_000
            if (view, number) != (1, 7):
                rows.append((number, view, depth, t, t + 1_000_000))
    write_folder(tmp_path / "f", small_rig, rows)
    return tmp_path / "f"


def test_probing_a_folder(folder: Path) -> None:
    done = run("capture", "probe", folder, "--seconds", 1)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        "front (serial F1): 64 x 48",
        "  fx 48.25, fy 48.25, cx 31.50, cy 23.50 px; no distortion",
        "  0.25 mm a step; depth 229 to 596 mm, 25.0% of pixels without return",
        "  32 images, 30.00 fps, stamps scatter by 0.000 ms, 0 lost",
        "side (serial S2): 48 x 40",
        "  fx 40.50, fy 41.50, cx 24.25, cy 19.75 px; no distortion",
        "  1 mm a step; depth 229 to 596 mm, 25.0% of pixels without return",
        "  30 images, 30.00 fps, stamps scatter by 0.000 ms, 1 lost",
        "clock: folder, one for all cameras",
        "skew: 2.00 ms (median), 2.00 (p95)",
        "rig: poses given",
        f"next: handloom capture record {folder} --out R.zarr",
    ]


def test_probing_for_programs(folder: Path) -> None:
    said = json.loads(run("capture", "probe", folder, "--json").stdout)
    front = said["cameras"][0]
    assert (front["images"], front["lost"], front["depth_unit_mm"]) == (40, 0, 0.25)
    assert front["invalid_share"] == pytest.approx(0.25, abs=1e-4)
    # The nearest of what is left after the upper quarter is at 225 mm; a hundredth lies nearer than this.
    assert front["near_mm"] == pytest.approx(225 + 0.01 * 375, abs=0.5)
    assert front["far_mm"] == pytest.approx(600 - 0.01 * 375, abs=0.5)
    assert (said["clock"], said["poses"]) == ("folder", "given")


def test_probing_the_virtual_rig() -> None:
    done = run("capture", "probe", "virtual", "--seconds", 0.5)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "cam0 (serial VIRTUAL000): 320 x 240"
    assert lines[-1] == "next: handloom capture record virtual --out R.zarr"
    assert max(map(len, lines)) <= 80


def test_probing_cameras_that_are_plugged_in(small_rig: Rig, content: list[Image]) -> None:
    pytest.importorskip("pyrealsense2")
    plugged = [SoftwareCamera(camera, fps=30, clock="hardware_clock") for camera in small_rig.cameras]

    def play() -> None:
        for image in content:
            plugged[image.camera].send(image)

    with RealsenseCameras(rig=small_rig, devices=lambda: [camera.device for camera in plugged]) as source:
        source.start()
        thread = threading.Thread(target=play)
        thread.start()
        found = probe(source, seconds=60, images=10)
        thread.join()
    front, side = found.cameras
    assert (front.name, front.width, front.height, front.depth_unit_mm, front.serial) == ("front", 64, 48, 0.25, "F1")
    assert max(front.images, side.images) == 10
    assert found.source["source"] == "realsense-cameras"
    assert found.poses == "given"


def test_probing_files_of_cameras(db3: list[Path]) -> None:
    done = run("capture", "probe", *db3)
    assert done.exit_code == 0, done.output
    assert "clock: hardware_clock, each camera its own" in done.stdout
    assert "rig: where the cameras stand is unknown; handloom capture calibrate finds it" in done.stdout


def test_a_recording_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / "zarr.json").write_text("{}")
    done = run("capture", "probe", tmp_path / "r.zarr")
    assert done.exit_code == 2
    assert f"handloom capture sync {tmp_path / 'r.zarr'}" in done.stderr


def test_a_source_that_never_speaks_says_so(folder: Path) -> None:
    class Silent(FolderSource):
        def frames(self) -> Iterator[Image]:
            return iter(())

    with pytest.raises(HandloomError, match="gives no image"):
        probe(Silent(folder), seconds=1)
