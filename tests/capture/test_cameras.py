"""Cameras of the SDK that exist in software only, which go through all that hardware does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from handloom.capture.apart import SourceApart
from handloom.capture.cameras import QUEUE_IMAGES, RealsenseCameras
from handloom.capture.record import record
from handloom.capture.replay import DISTINCT_SETS, ReplayedRig
from handloom.capture.software import SoftwareCamera
from handloom.capture.source import DepthSource, Image, Lossy, Played, Stoppable
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.synth.rigs import ring_rig

pytest.importorskip("pyrealsense2")

SMALL = ring_rig(2, width=80, height=60, focal_px=60.0)
QUIET = VirtualConfig(fps=120, scene=False, jobs=1, seed=4)


@pytest.fixture
def plugged(small_rig: Rig) -> list[SoftwareCamera]:
    return [SoftwareCamera(camera, fps=30, clock="hardware_clock") for camera in small_rig.cameras]


@pytest.fixture
def cameras(plugged: list[SoftwareCamera], small_rig: Rig) -> Iterator[RealsenseCameras]:
    # Plugged in in another order than the rig's.
    with RealsenseCameras(rig=small_rig, devices=lambda: [camera.device for camera in reversed(plugged)]) as source:
        yield source


def test_they_are_a_live_source(cameras: RealsenseCameras, small_rig: Rig) -> None:
    assert isinstance(cameras, DepthSource)
    assert isinstance(cameras, Stoppable)
    assert isinstance(cameras, Lossy)
    assert cameras.live
    assert cameras.rig == small_rig
    assert cameras.provenance["source"] == "realsense-cameras"
    assert cameras.provenance["virtual"] is True  # software devices, and they say so
    assert cameras.clock == "hardware_clock"


def test_every_image_comes_through(
    cameras: RealsenseCameras, plugged: list[SoftwareCamera], content: list[Image]
) -> None:
    cameras.start()

    def send() -> None:
        for image in content:
            plugged[image.camera].send(image)
        cameras.stop()

    sender = threading.Thread(target=send)
    sender.start()
    got = list(cameras.frames())
    sender.join()
    assert len(got) + sum(cameras.let_go) == len(content)
    sent = {(image.camera, image.frame_number): image for image in content}
    for image in got:
        assert (image.depth == sent[image.camera, image.frame_number].depth).all()
        assert abs(image.t_device_ns - sent[image.camera, image.frame_number].t_device_ns) <= 1


def test_what_the_reader_is_too_slow_for_is_counted(
    cameras: RealsenseCameras, plugged: list[SoftwareCamera], content: list[Image]
) -> None:
    cameras.start()
    front, side = (next(image for image in content if image.camera == view) for view in (0, 1))
    for number in range(2 * QUEUE_IMAGES + 7):
        plugged[0].send(replace(front, frame_number=number))
    plugged[1].send(replace(side, frame_number=0))
    cameras.stop()
    assert list(cameras.let_go) == [7, 1]
    assert [image.frame_number for image in cameras.frames()] == list(range(2 * QUEUE_IMAGES))


def test_cameras_that_have_all_fallen_silent(
    cameras: RealsenseCameras, plugged: list[SoftwareCamera], content: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handloom.capture.cameras.SILENCE_S", 0.2)
    cameras.start()
    plugged[0].send(content[0])
    frames = cameras.frames()
    assert next(frames).frame_number == 0
    with pytest.raises(HandloomError, match="fallen silent"):
        next(frames)


def test_the_wrong_cameras_are_refused(plugged: list[SoftwareCamera], small_rig: Rig) -> None:
    def open_with(*cameras: object, **given: object) -> None:
        rig = Rig(cameras) if cameras else None  # type: ignore[arg-type]
        RealsenseCameras(rig=rig, devices=lambda: [camera.device for camera in plugged], **given)  # type: ignore[arg-type]

    front, side = small_rig.cameras
    with pytest.raises(HandloomError, match=r"serial 'X9' is not plugged in[\s\S]*there are F1, S2"):
        open_with(front, replace(side, serial="X9"))
    with pytest.raises(HandloomError, match="same serial number"):
        open_with(front, replace(side, serial="F1"))
    with pytest.raises(HandloomError, match=r"no stream of 50 x 40 at 30 fps[\s\S]*serial S2[\s\S]*it has 48 x 40"):
        open_with(front, replace(side, width=50))
    with pytest.raises(HandloomError, match=r"no stream of depth at 90 fps"):
        open_with(fps=90)
    with pytest.raises(HandloomError, match="No RealSense camera is plugged in") as caught:
        RealsenseCameras(devices=list)
    assert caught.value.exit_code == 3


def test_without_a_rig_the_poses_are_unknown(plugged: list[SoftwareCamera]) -> None:
    with RealsenseCameras(devices=lambda: [camera.device for camera in plugged]) as source:
        assert source.rig.names == ("cam0", "cam1")
        assert [camera.serial for camera in source.rig.cameras] == ["F1", "S2"]
        assert [camera.depth_unit_mm for camera in source.rig.cameras] == [0.25, 1.0]
        assert source.provenance["poses"] == "unknown"


def test_the_virtual_rig_at_the_pace_of_cameras(tmp_path: Path) -> None:
    with SourceApart(partial(ReplayedRig, QUIET, rig=SMALL, frames=60)) as source:
        assert source.live
        made = record(source, tmp_path / "r.zarr")
        traffic = source.traffic
    assert made.provenance["virtual"] is True
    assert made.provenance["transport"] == "rs.software_device"
    assert made.frames is not None
    number = made.frames.read("frame_number")
    dropped = traffic.dropped
    assert ((number > 0).sum(axis=0) + dropped).tolist() == [60, 60]
    if not dropped.any():
        assert number.tolist() == [[k, k] for k in range(1, 61)]  # clocks seven seconds apart were brought together
    assert traffic.source_cpu_s > 0
    config = QUIET.model_copy(update={"frames": DISTINCT_SETS, "transport": "direct"})
    with VirtualRig(config, rig=SMALL) as virtual:
        shown = {(image.frame_number, image.camera): image.depth for image in virtual.frames()}
    there_and_back = [*range(1, DISTINCT_SETS + 1), *range(DISTINCT_SETS - 1, 1, -1)]
    for view, name in enumerate(made.rig.names):
        for row, depth in enumerate(made.frames.read(f"depth/{name}")):
            k = int(number[row, view])
            if k > 0:
                assert (depth == shown[there_and_back[(k - 1) % len(there_and_back)], view]).all()


def test_a_replay_stops_when_told_to() -> None:
    with ReplayedRig(QUIET, rig=SMALL) as source:
        assert isinstance(source, Played)
        assert source.n_images is None
        frames = source.frames()
        for _ in range(5):
            next(frames)
        source.stop()
        assert len(list(frames)) < 100
    assert not [thread for thread in threading.enumerate() if thread.name == "virtual-player"]
