"""RealSense recordings (.db3, .bag) as a depth source.

Files are told apart by their first bytes, not their names (the SDK itself looks at names only). Each file is one
camera and is played at *sensor* level: a callback copies every image into a bounded queue that this side empties.
Measured: playback through `rs.pipeline` loses images, a small `rs.frame_queue` deadlocks once the reader lets go of
the interpreter's lock, `rs.syncer` loses images; this way none was lost.
"""

from __future__ import annotations

import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ..stores.camera import Camera, Rig
from ..stores.errors import HandloomError
from .sdk import SOFTWARE_NAME, camera_of, load_sdk, sniff
from .source import Image

QUEUE_IMAGES: Final = 8
"""Images a camera's playback may run ahead of the reader."""
END_GRACE_S: Final = 0.25
"""How long a player that says it has stopped is listened to for a last image ..."""
MISSING_GRACE_S: Final = 5.0
"""... and how long if the file holds more than came: on a busy machine the last images are late."""
STALL_S: Final = 20.0
"""How long a player may stay silent without saying that it has stopped."""


class RealsenseFiles:
    """Several recordings, each one camera, as one depth source.

    Args:
        paths: .db3 or .bag files in the order of the views.
        rig: poses and names of the cameras, matched by serial number, else by order. Without it every
            camera stands at the rig's origin, which is right for a single one only; `provenance` says so.

    Raises:
        HandloomError: the SDK is missing, a file is not a recording or holds no depth stream, or the rig
            has another number of cameras or other image sizes.
    """

    live = False

    def __init__(self, paths: Sequence[Path], *, rig: Rig | None = None) -> None:
        if not paths:
            raise HandloomError("No RealSense recording was named")
        self._players: list[_Player] = []
        self._folder = tempfile.TemporaryDirectory(prefix="handloom-")
        try:
            for index, path in enumerate(paths):
                self._players.append(_Player(path, index, Path(self._folder.name)))
            cameras = [player.camera for player in self._players]
            self._order = list(range(len(paths))) if rig is None else _match(rig, cameras, paths)
            self._rig = Rig(_named(cameras)) if rig is None else _placed(rig, cameras, self._order, paths)
            clocks = {player.clock for player in self._players}
            if len(clocks) > 1:
                raise HandloomError(
                    "The recordings stamp their images with different clocks", why=", ".join(sorted(clocks))
                )
            self._clock = clocks.pop()
        except BaseException:
            self.close()
            raise
        self._provenance: dict[str, Any] = {
            "source": "realsense-files",
            "virtual": any(player.virtual for player in self._players),
            "sdk": f"pyrealsense2 {load_sdk().__version__}",
            "files": [path.name for path in paths],
            "file_kinds": [player.kind for player in self._players],
            "devices": [player.name for player in self._players],
            "clock": self._clock,
            "poses": "given" if rig is not None else "unknown" if len(paths) > 1 else "single camera",
        }

    @property
    def rig(self) -> Rig:
        """Intrinsics, sizes and depth units as recorded; names and poses from the given rig."""
        return self._rig

    @property
    def provenance(self) -> dict[str, Any]:
        """The files, the SDK's version and the devices' names."""
        return self._provenance

    @property
    def clock(self) -> str:
        """The SDK's timestamp domain."""
        return self._clock

    @property
    def n_images(self) -> int | None:
        """Images in all files, where their kind lets us count."""
        counts = [player.n_images for player in self._players]
        return None if None in counts else sum(n for n in counts if n is not None)

    def frames(self) -> Iterator[Image]:
        """Images of all files, merged by the time at which they reached the recorder.

        Raises:
            HandloomError: fewer images came than a file holds, or none for `STALL_S`.
        """
        players = [self._players[i] for i in self._order]
        streams = [player.images(view) for view, player in enumerate(players)]
        heads = [next(stream, None) for stream in streams]
        while any(head is not None for head in heads):
            view = min((h.t_host_ns, i) for i, h in enumerate(heads) if h is not None)[1]
            image = heads[view]
            assert image is not None
            yield image
            heads[view] = next(streams[view], None)

    def close(self) -> None:
        """Stop all players and remove the links made for them."""
        for player in self._players:
            player.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Player:
    """One recording played at sensor level into a bounded queue."""

    def __init__(self, path: Path, index: int, links: Path) -> None:
        rs = load_sdk()
        self.path, self.kind = path, sniff(path)
        # The SDK picks its reader by the name's ending, so it is given a link that tells the truth.
        link = links / f"{index}.{self.kind}"
        link.symlink_to(path.resolve())
        try:
            self._device = rs.context().load_device(str(link)).as_playback()
            self._device.set_real_time(False)
            self._sensor, self._profile = self._depth_stream()
        except RuntimeError as error:
            raise HandloomError("The RealSense recording cannot be opened", where=str(path), why=str(error)) from error
        self.n_images = _count_db3(path) if self.kind == "db3" else None
        self.name = self._info(rs.camera_info.name) or "RealSense"
        self.virtual = self.name.startswith(SOFTWARE_NAME)
        self._queue: queue.Queue[tuple[int, int, int, np.ndarray[Any, Any]]] = queue.Queue(QUEUE_IMAGES)
        self._stop = threading.Event()
        self._running = False
        self._taken = 0
        self._pending: list[tuple[int, int, int, np.ndarray[Any, Any]]] = []
        self._failure: BaseException | None = None
        self.clock = "hardware_clock"
        self._unit_m: float | None = None
        self._start()
        self.camera = self._describe(index)

    def _depth_stream(self) -> tuple[Any, Any]:
        rs = load_sdk()
        for sensor in self._device.query_sensors():
            for profile in sensor.get_stream_profiles():
                if profile.stream_type() == rs.stream.depth and profile.format() == rs.format.z16:
                    return sensor, profile
        raise HandloomError("The recording holds no depth stream", where=str(self.path))

    def _info(self, key: Any) -> str:
        return str(self._device.get_info(key)) if self._device.supports(key) else ""

    def _describe(self, index: int) -> Camera:
        rs = load_sdk()
        if self._unit_m is None:
            raise HandloomError("The recording does not say its depth unit", where=str(self.path))
        serial = self._info(rs.camera_info.serial_number)
        return camera_of(self._profile, unit_m=self._unit_m, name=f"cam{index}", serial=serial, where=str(self.path))

    def _start(self) -> None:
        """Begin to play and wait for the first image: only it tells unit and clock."""
        self._sensor.open(self._profile)
        self._sensor.start(self._receive)
        self._running = True
        first = self._next()
        if first is None:
            self.close()
            raise HandloomError("The recording holds no depth images", where=str(self.path))
        self._pending.append(first)

    def _receive(self, frame: Any) -> None:
        """Runs on the SDK's thread; the frame is only valid until it returns."""
        try:
            rs = load_sdk()
            if self._unit_m is None:
                self._unit_m = float(frame.as_depth_frame().get_units())
                self.clock = str(frame.get_frame_timestamp_domain()).rsplit(".", 1)[-1].split(":")[0]
            t_device_ns = round(frame.get_timestamp() * 1e6)
            arrival = rs.frame_metadata_value.time_of_arrival
            if frame.supports_frame_metadata(arrival):
                t_host_ns = int(frame.get_frame_metadata(arrival)) * 1_000_000
            else:
                t_host_ns = self._position_ns(t_device_ns)
            item = (t_device_ns, t_host_ns, int(frame.get_frame_number()), np.array(frame.get_data()))
        except Exception as error:  # an exception must not unwind into the SDK's thread
            self._failure = error
            return
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def _position_ns(self, t_device_ns: int) -> int:
        """Where in the file the image lies; recorders store arrival relative to their start."""
        try:
            return int(self._device.get_position())
        except RuntimeError:
            return t_device_ns

    def _next(self) -> tuple[int, int, int, np.ndarray[Any, Any]] | None:
        """The next image, or None at the end."""
        rs = load_sdk()
        complete = self.n_images is None or self._taken >= self.n_images
        grace_s = END_GRACE_S if complete else MISSING_GRACE_S
        silent_since = time.monotonic()
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=0.05)
                self._taken += 1
                return item
            except queue.Empty:
                if self._failure is not None:
                    raise HandloomError(
                        "The SDK handed over an image that cannot be read",
                        where=str(self.path),
                        why=repr(self._failure),
                    ) from self._failure
                silence = time.monotonic() - silent_since
                if self._device.current_status() == rs.playback_status.stopped and silence > grace_s:
                    return None
                if silence > STALL_S:
                    raise HandloomError("The player fell silent", where=str(self.path)) from None
        return None

    def images(self, view: int) -> Iterator[Image]:
        """All images of the file, as images of the given view."""
        size = (self.camera.height, self.camera.width)
        seen = 0
        while True:
            item = self._pending.pop() if self._pending else self._next()
            if item is None:
                break
            t_device_ns, t_host_ns, number, depth = item
            if depth.shape != size or depth.dtype != np.uint16:
                raise HandloomError(
                    "An image does not fit the recorded intrinsics",
                    where=f"{self.path}, frame {number}",
                    why=f"{depth.shape} {depth.dtype}, expected {size} uint16",
                )
            seen += 1
            yield Image(view, depth, t_device_ns, t_host_ns, number)
        if self.n_images is not None and seen < self.n_images and not self._stop.is_set():
            raise HandloomError(
                "The SDK played fewer images than the file holds",
                where=str(self.path),
                why=f"{seen} of {self.n_images}",
                fix="the file may be damaged: check it with `sqlite3 FILE 'pragma integrity_check'`",
            )

    def close(self) -> None:
        self._stop.set()
        if self._running:
            self._running = False
            self._sensor.stop()
            self._sensor.close()


def _count_db3(path: Path) -> int | None:
    """Depth images in a .db3, or None when its tables are others than those we know."""
    query = (
        "SELECT count(*) FROM messages JOIN topics ON messages.topic_id = topics.id "
        "WHERE topics.name LIKE '/device_0/sensor_0/Depth_0/image/data%'"
    )
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            (count,) = connection.execute(query).fetchone()
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeDecodeError):  # the second where what SQLite says of a damaged file is no text
        return None
    return int(count) or None


def _named(cameras: Sequence[Camera]) -> tuple[Camera, ...]:
    return tuple(replace(camera, name=f"cam{i}") for i, camera in enumerate(cameras))


def _match(rig: Rig, cameras: Sequence[Camera], paths: Sequence[Path]) -> list[int]:
    """For each camera of the rig the file that is its recording."""
    if len(rig) != len(cameras):
        raise HandloomError(
            "The rig has another number of cameras than there are recordings",
            why=f"{len(rig)} cameras, {len(cameras)} files",
        )
    serials = [camera.serial for camera in cameras]
    wanted = [camera.serial for camera in rig.cameras]
    if not all(wanted):
        return list(range(len(cameras)))
    missing = [serial for serial in wanted if serial not in serials]
    if missing:
        raise HandloomError(
            f"No recording is of the rig's camera with serial {missing[0]}",
            where=", ".join(map(str, paths)),
            why=f"the recordings are of {', '.join(serials)}",
        )
    return [serials.index(serial) for serial in wanted]


def _placed(rig: Rig, cameras: Sequence[Camera], order: Sequence[int], paths: Sequence[Path]) -> Rig:
    """The recorded cameras at the poses of the rig, after checking that they are the same cameras."""
    placed = []
    for wanted, index in zip(rig.cameras, order, strict=True):
        found = cameras[index]
        if (wanted.width, wanted.height) != (found.width, found.height):
            raise HandloomError(
                f"The rig's camera '{wanted.name}' has another image size than its recording",
                where=str(paths[index]),
                why=f"rig {wanted.width} x {wanted.height}, recording {found.width} x {found.height}",
            )
        placed.append(replace(found, name=wanted.name, r=wanted.r, t=wanted.t))
    return Rig(tuple(placed))
