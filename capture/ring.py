"""Images in memory that two processes share: slots of one image each, counters before them.

One process writes into slots that are free, the other copies out of them; which slot holds what travels through a
pipe (`apart.py`), whose calls also order the memory. Free slots are handed out last in, first out: only as many as
were ever full at once are touched, so the memory that is really taken is the high-water mark, not the ring's size.

The segment's name is needed until both sides have it and removed then: from there on the kernel frees it with the
last of the two processes, however they end.
"""

from __future__ import annotations

import os
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import BAD_ENVIRONMENT, HandloomError

RING_SECONDS: Final = 3.0
"""How long the reader may stand still at 30 fps before an image finds no room; a disk's hiccup takes one second."""
MAX_SLOTS: Final = 1024
"""Their numbers must fit the pipe at once (64 KiB), or sending one could block."""
SHARED_MEMORY: Final = Path("/dev/shm")

COUNTERS: Final = ("came", "missed", "no_room", "let_go")
"""By camera: images that reached us; counter gaps before that; found no slot; let go by the source's own queue."""
TOTALS: Final = ("sent", "high_water", "cpu_ns", "source_cpu_ns", "source_late_us")


class Ring:
    """The segment as one of the two processes sees it; make one with `Ring.create` or `Ring.attach`."""

    def __init__(self, memory: SharedMemory, rig: Rig, slots: int) -> None:
        self.slots = slots
        self._memory = memory
        self._shapes = [(camera.height, camera.width) for camera in rig.cameras]
        views, pixels = len(rig), _slot_pixels(rig)
        self.counters: NDArray[np.int64] = np.ndarray((len(COUNTERS), views), np.int64, memory.buf)
        self.totals: NDArray[np.int64] = np.ndarray(len(TOTALS), np.int64, memory.buf, self.counters.nbytes)
        self._pixels: NDArray[np.uint16] = np.ndarray((slots, pixels), np.uint16, memory.buf, _header_bytes(views))

    @classmethod
    def create(cls, name: str, rig: Rig, slots: int | None = None) -> Self:
        """A new segment.

        Args:
            name: of the segment.
            rig: the cameras, whose largest image a slot has room for.
            slots: how many; for `RING_SECONDS` when left out, as far as the machine has room.

        Raises:
            HandloomError: the machine's shared memory has no room for four images a camera.
        """
        slots = _slots(rig) if slots is None else slots
        memory = SharedMemory(name, create=True, size=_header_bytes(len(rig)) + slots * _slot_pixels(rig) * 2)
        return cls(memory, rig, slots)

    @classmethod
    def attach(cls, name: str, rig: Rig, slots: int) -> Self:
        """The segment that the other process has made; its name is removed."""
        memory = SharedMemory(name)
        memory.unlink()
        return cls(memory, rig, slots)

    def write(self, slot: int, depth: NDArray[np.uint16]) -> None:
        """Put an image into a slot."""
        self._pixels[slot, : depth.size] = depth.reshape(-1)

    def read(self, slot: int, view: int) -> NDArray[np.uint16]:
        """(H, W) copy of the image of camera `view` in a slot."""
        height, width = self._shapes[view]
        return self._pixels[slot, : height * width].reshape(height, width).copy()

    def close(self) -> None:
        """Let go of the segment."""
        # The buffer cannot be closed while arrays look at it.
        self.counters, self.totals = self.counters.copy(), self.totals.copy()
        self._pixels = np.empty((0, 0), np.uint16)
        self._memory.close()


def unlink(name: str) -> None:
    """Remove a segment's name where the other side never came to do it."""
    with suppress(FileNotFoundError, ValueError):  # ValueError: killed before it had a size
        memory = SharedMemory(name)
        memory.close()
        memory.unlink()


def _slot_pixels(rig: Rig) -> int:
    return max(camera.height * camera.width for camera in rig.cameras)


def _header_bytes(views: int) -> int:
    return -(-(len(COUNTERS) * views + len(TOTALS)) * 8 // 64) * 64


def _slots(rig: Rig) -> int:
    wanted = min(MAX_SLOTS, round(RING_SECONDS * 30) * len(rig))
    if not SHARED_MEMORY.is_dir():
        return wanted
    stat = os.statvfs(SHARED_MEMORY)
    free, slot_bytes = stat.f_bavail * stat.f_frsize, 2 * _slot_pixels(rig)
    # Half of it: others use it too, and a segment that outgrows it kills the process that writes.
    slots = min(wanted, int(0.5 * free) // slot_bytes)
    if slots < 4 * len(rig):
        raise HandloomError(
            "There is no room for the cameras' images in shared memory",
            where=str(SHARED_MEMORY),
            why=f"{free / 1e6:.0f} MB are free, {8 * len(rig) * slot_bytes / 1e6:.0f} MB are the least",
            fix="make it larger: mount -o remount,size=1g /dev/shm (in Docker: --shm-size=1g)",
            exit_code=BAD_ENVIRONMENT,
        )
    return slots
