"""Cameras of the RealSense SDK without hardware, and .db3 recordings written through its own recorder.

A `SoftwareCamera` is an `rs.software_device` with one depth sensor: frames given to it pass through the SDK's
sensor, recorder and file, bit-exact with their stamps, so machines without a camera exercise the same code as those
with one. The SDK writes .db3 only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..stores.camera import Camera
from ..stores.errors import HandloomError
from .sdk import SOFTWARE_NAME, load_sdk
from .source import Image


class SoftwareCamera:
    """A camera of the SDK without hardware: what is sent to it comes out of its sensor's callback.

    `send` runs the callback on the calling thread before it returns (measured), so a callback that waits
    for the sender would wait for ever: send from a thread of its own.
    """

    def __init__(self, camera: Camera, *, fps: float, clock: str) -> None:
        rs = load_sdk()
        self.camera, self._clock = camera, getattr(rs.timestamp_domain, clock)
        self._device = rs.software_device()
        self._device.register_info(rs.camera_info.name, f"{SOFTWARE_NAME} {camera.name}")
        self._device.register_info(rs.camera_info.serial_number, camera.serial or camera.name)
        self._sensor = self._device.add_sensor("Depth")
        stream = rs.video_stream()
        stream.type, stream.index, stream.uid = rs.stream.depth, 0, 1
        stream.width, stream.height, stream.fps = camera.width, camera.height, max(1, round(fps))
        stream.bpp, stream.fmt = 2, rs.format.z16
        stream.intrinsics = _intrinsics(camera)
        self._profile = self._sensor.add_video_stream(stream).as_video_stream_profile()
        self._unit_m = camera.depth_unit_mm / 1000.0
        self._sensor.add_read_only_option(rs.option.depth_units, self._unit_m)
        self._recorder: Any = None
        self._tap: Any = None
        self._running = False

    @property
    def device(self) -> Any:
        """The `rs.device`, for what takes those of hardware."""
        return self._device

    def start(self, callback: Callable[[Any], None]) -> None:
        """Let the sensor hand every `rs.frame` to `callback`."""
        sensor = self._recorder.query_sensors()[0] if self._recorder is not None else self._sensor
        sensor.open(sensor.get_stream_profiles()[0])
        sensor.start(callback)
        self._tap, self._running = sensor, True

    def record(self, path: Path) -> None:
        """From the next `start` on also write a .db3."""
        self._recorder = load_sdk().recorder(str(path), self._device)

    def send(self, image: Image) -> None:
        """Give one image to the sensor."""
        rs = load_sdk()
        depth = np.ascontiguousarray(image.depth)
        frame = rs.software_video_frame()
        frame.pixels, frame.bpp, frame.stride = depth, 2, self.camera.width * 2
        frame.timestamp, frame.domain = image.t_device_ns / 1e6, self._clock
        frame.frame_number, frame.depth_units, frame.profile = image.frame_number, self._unit_m, self._profile
        # The SDK keeps whole milliseconds of arrival.
        self._sensor.set_metadata(rs.frame_metadata_value.time_of_arrival, image.t_host_ns // 1_000_000)
        self._sensor.on_video_frame(frame)

    def stop(self) -> None:
        """Stop the sensor; a recording is complete after it."""
        if self._running:
            self._running = False
            self._tap.stop()
            self._tap.close()
            self._tap = self._recorder = None


def _intrinsics(camera: Camera) -> Any:
    rs = load_sdk()
    intrinsics = rs.intrinsics()
    intrinsics.width, intrinsics.height = camera.width, camera.height
    intrinsics.fx, intrinsics.fy, intrinsics.ppx, intrinsics.ppy = camera.k
    intrinsics.model = rs.distortion.brown_conrady if any(camera.dist) else rs.distortion.none
    intrinsics.coeffs = ([float(c) for c in camera.dist] + [0.0] * 5)[:5]
    return intrinsics


def write_db3(
    path: Path, camera: Camera, images: Iterable[Image], *, fps: float = 30.0, clock: str = "hardware_clock"
) -> int:
    """Write the images of one camera as a RealSense .db3 through the SDK's own recorder; returns how many.

    Raises:
        HandloomError: the SDK is missing, the file exists, or an image has another size than the camera.
    """
    if path.exists():
        raise HandloomError("The file exists", where=str(path), fix="choose another name or delete it")
    if path.suffix != ".db3":
        raise HandloomError("The SDK writes .db3 files only", where=str(path), fix="end the name in .db3")
    device = SoftwareCamera(camera, fps=fps, clock=clock)
    device.record(path)
    arrived = threading.Semaphore(0)
    device.start(lambda frame: arrived.release())
    count = 0
    try:
        for image in images:
            if image.depth.shape != (camera.height, camera.width):
                raise HandloomError(
                    "An image has another size than its camera",
                    where=f"frame {image.frame_number}",
                    why=f"{image.depth.shape}, expected {(camera.height, camera.width)}",
                )
            device.send(image)
            count += 1
            # The recorder drops what it has no room for: one image at a time, none is lost.
            arrived.acquire(timeout=5.0)
    finally:
        device.stop()
    return count
