"""RealSense cameras that are plugged in, as a live depth source.

Each camera runs at *sensor* level: the SDK's thread hands every image to a callback that copies it into one bounded
queue for all of them and never waits (`rs.pipeline`, `rs.frame_queue` and `rs.syncer` lose or block, see
`realsense.py`). A full queue lets the image go and counts it. A camera that falls silent costs the others nothing.

Which devices there are is asked of the SDK, or of a function that is given: devices that exist in software only cannot
be found by the SDK, and go through everything else here as hardware does.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ..stores.camera import Camera, Rig
from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .sdk import SOFTWARE_NAME, camera_of, load_sdk
from .source import Image

Devices = Callable[[], Sequence[Any]]
"""Gives the `rs.device`s there are."""

QUEUE_IMAGES: Final = 16
"""By camera, between the SDK's threads and the reader."""
SILENCE_S: Final = 5.0
"""With no image from any camera for so long, there is nothing left to record."""
DEFAULT_SIZE: Final = (640, 480)


def connected() -> Sequence[Any]:
    """The devices that the SDK finds."""
    return list(load_sdk().context().query_devices())


class RealsenseCameras:
    """All cameras of a rig as one source.

    Args:
        rig: names, poses and image sizes of the cameras, matched by serial number. Without it all that are plugged
            in are taken, at 640 × 480 where they can, each standing at the rig's origin.
        fps: images a second.
        devices: gives the devices there are.

    Raises:
        HandloomError: the SDK is missing, no camera is there, one of the rig is not, or has no such stream.
    """

    live = True

    def __init__(self, *, rig: Rig | None = None, fps: int = 30, devices: Devices = connected) -> None:
        rs = load_sdk()
        found = {_info(device, rs.camera_info.serial_number): device for device in devices()}
        if not found:
            raise HandloomError(
                "No RealSense camera is plugged in",
                why="the SDK finds none",
                fix="check cable and USB port; on Linux also the udev rules; 'handloom doctor' says more",
                exit_code=BAD_ENVIRONMENT,
            )
        wanted = dict.fromkeys(sorted(found)) if rig is None else {c.serial: c for c in rig.cameras}
        missing = sorted(set(wanted) - set(found))
        if missing or (rig is not None and len(wanted) < len(rig)):
            raise HandloomError(
                f"The rig's camera with serial {missing[0]!r} is not plugged in"
                if missing
                else "Two cameras of the rig have the same serial number",
                why=f"there are {', '.join(sorted(found))}",
                fix="plug it in, or give the rig of these cameras: --rig RIG.toml",
                exit_code=BAD_ENVIRONMENT,
            )
        self._cameras = [
            _Camera(found[serial], f"cam{view}", placed, fps) for view, (serial, placed) in enumerate(wanted.items())
        ]
        self._rig = Rig(tuple(camera.camera for camera in self._cameras))
        self._clock = "global_time" if all(camera.global_time for camera in self._cameras) else "hardware_clock"
        self._provenance: dict[str, Any] = {
            "source": "realsense-cameras",
            "virtual": any(camera.name.startswith(SOFTWARE_NAME) for camera in self._cameras),
            "sdk": f"pyrealsense2 {rs.__version__}",
            "devices": [camera.name for camera in self._cameras],
            "firmware": [camera.firmware for camera in self._cameras],
            "fps": fps,
            "clock": self._clock,
            "poses": "given" if rig is not None else "unknown" if len(found) > 1 else "single camera",
        }
        self._images: queue.SimpleQueue[Image] = queue.SimpleQueue()
        self._room = QUEUE_IMAGES * len(self._cameras)
        self._let_go = [0 for _ in self._cameras]
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._started = False
        self.receive_ns = 0
        """Processor time of the callbacks."""

    @property
    def rig(self) -> Rig:
        """Intrinsics, sizes and depth units of the devices; names and poses of the given rig."""
        return self._rig

    @property
    def provenance(self) -> dict[str, Any]:
        """Devices, their firmware, the SDK's version."""
        return self._provenance

    @property
    def clock(self) -> str:
        """`global_time` where the SDK maps all stamps to the host's clock, else each camera's own."""
        return self._clock

    @property
    def n_images(self) -> int | None:
        """Nobody knows."""
        return None

    @property
    def let_go(self) -> Sequence[int]:
        """Images by camera that the reader was too slow for."""
        return self._let_go

    def start(self) -> None:
        """Have the cameras begin; `frames` does it where it was not done.

        Raises:
            HandloomError: one cannot be started.
        """
        self._started = True
        for view, camera in enumerate(self._cameras):
            camera.start(self._receiver(view))

    def frames(self) -> Iterator[Image]:
        """The images of all cameras as they arrive, until `stop`.

        Raises:
            HandloomError: none came from any camera for `SILENCE_S`, or the SDK gave one that cannot be read.
        """
        if not self._started:
            self.start()
        heard = time.monotonic()
        while True:
            try:
                image = self._images.get(timeout=0.05)
            except queue.Empty:
                if self._stopping.is_set():
                    return
                if self._failure is not None:
                    raise HandloomError(
                        "The SDK handed over an image that cannot be read", why=repr(self._failure)
                    ) from self._failure
                if time.monotonic() - heard > SILENCE_S:
                    raise HandloomError(
                        "The cameras have fallen silent",
                        why=f"none has given an image for {SILENCE_S:.0f} s",
                        fix="check cables and power, then record again with --resume",
                        exit_code=BAD_ENVIRONMENT,
                    ) from None
                continue
            heard = time.monotonic()
            yield image

    def stop(self) -> None:
        """Take no more images; those that have come are given."""
        self._stopping.set()

    def close(self) -> None:
        """Stop the cameras."""
        self._stopping.set()
        for camera in self._cameras:
            camera.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _receiver(self, view: int) -> Callable[[Any], None]:
        """The callback of one camera; it runs on a thread of the SDK, and the frame is valid until it returns."""
        arrival = load_sdk().frame_metadata_value.time_of_arrival

        def receive(frame: Any) -> None:
            began = time.thread_time_ns()
            if self._stopping.is_set():
                return
            try:
                if self._images.qsize() >= self._room:
                    self._let_go[view] += 1
                    return
                known = frame.supports_frame_metadata(arrival)
                host_ns = int(frame.get_frame_metadata(arrival)) * 1_000_000 if known else time.time_ns()
                depth = np.array(frame.get_data())
                number = int(frame.get_frame_number())
                self._images.put(Image(view, depth, round(frame.get_timestamp() * 1e6), host_ns, number))
            except Exception as error:  # an exception must not unwind into the SDK's thread
                self._failure = error
            finally:
                self.receive_ns += time.thread_time_ns() - began

        return receive


class _Camera:
    """One device with its depth stream chosen."""

    def __init__(self, device: Any, name: str, placed: Camera | None, fps: int) -> None:
        rs = load_sdk()
        self.name = _info(device, rs.camera_info.name) or "RealSense"
        self.firmware = _info(device, rs.camera_info.firmware_version)
        serial = _info(device, rs.camera_info.serial_number)
        self._where = f"{self.name}, serial {serial}"
        self._device = device
        size = None if placed is None else (placed.width, placed.height)
        self._sensor, self._profile = self._stream(size, fps)
        unit_m = float(self._sensor.get_option(rs.option.depth_units))
        found = camera_of(self._profile, unit_m=unit_m, name=name, serial=serial, where=self._where)
        self.camera = found if placed is None else replace(found, name=placed.name, r=placed.r, t=placed.t)
        self.global_time = False
        if self._sensor.supports(rs.option.global_time_enabled):
            self._sensor.set_option(rs.option.global_time_enabled, 1.0)
            self.global_time = True
        self._running = False

    def _stream(self, size: tuple[int, int] | None, fps: int) -> tuple[Any, Any]:
        """The sensor and the profile of that size, or the default one, or the first there is."""
        rs = load_sdk()
        there: list[tuple[tuple[int, int], Any, Any]] = []
        for sensor in self._device.query_sensors():
            for profile in sensor.get_stream_profiles():
                depth = profile.stream_type() == rs.stream.depth and profile.format() == rs.format.z16
                if depth and profile.fps() == fps:
                    video = profile.as_video_stream_profile()
                    there.append(((video.width(), video.height()), sensor, profile))
        chosen = [entry for entry in there if entry[0] == (size or DEFAULT_SIZE)]
        if size is None and not chosen:
            chosen = there
        if not chosen:
            asked = f"{size[0]} x {size[1]} at {fps} fps" if size else f"depth at {fps} fps"
            sizes = ", ".join(sorted({f"{width} x {height}" for (width, height), _, _ in there}))
            raise HandloomError(
                f"The camera has no stream of {asked}",
                where=self._where,
                why=f"at {fps} fps it has {sizes or 'none'}; over USB 2 there are fewer",
                fix="plug it into a USB 3 port, or choose another --fps or size",
                exit_code=BAD_ENVIRONMENT,
            )
        _, sensor, profile = chosen[0]
        return sensor, profile

    def start(self, receive: Callable[[Any], None]) -> None:
        try:
            self._sensor.open(self._profile)
            self._running = True
            self._sensor.start(receive)
        except RuntimeError as error:
            raise HandloomError(
                "A camera cannot be started",
                where=self._where,
                why=str(error),
                fix="close what else uses it; unplug it and plug it in again",
                exit_code=BAD_ENVIRONMENT,
            ) from error

    def stop(self) -> None:
        if self._running:
            self._running = False
            try:
                self._sensor.stop()
                self._sensor.close()
            except RuntimeError:
                pass  # unplugged


def _info(device: Any, key: Any) -> str:
    return str(device.get_info(key)) if device.supports(key) else ""
