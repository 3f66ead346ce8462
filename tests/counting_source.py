"""Cameras whose images tell their number in every pixel; spawn imports this module by name."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from handloom.capture.apart import SourceApart
from handloom.capture.record import record
from handloom.capture.source import Image
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording
from handloom.stores.table import Appender

PERIOD_NS = 33_333_333
START_NS = 1_000_000_000


def rig(views: int = 2, width: int = 96, height: int = 72) -> Rig:
    k = (0.8 * width, 0.8 * width, width / 2, height / 2)
    return Rig(tuple(Camera(f"cam{v}", width, height, k, t=(60.0 * v, 0, 500), serial=f"S{v}") for v in range(views)))


def pattern(view: int, number: int, height: int = 72, width: int = 96) -> np.ndarray:
    """(H, W) uint16: the number in every pixel, in its own way."""
    pixel = np.arange(height * width, dtype=np.uint32).reshape(height, width)
    return (1 + (pixel * 31 + number * 977 + view * 7919) % 60000).astype(np.uint16)


def check(recording: Recording) -> list[int]:
    """The numbers of the rows, after making sure that every image is the one its number says."""
    frames = recording.frames
    assert frames is not None
    number, present = frames.read("frame_number"), frames.read("present")
    assert ((number >= 0) == (present == 1)).all()
    for view, camera in enumerate(recording.rig.cameras):
        depth = frames.read(f"depth/{camera.name}")
        for row, image in enumerate(depth):
            if present[row, view]:
                assert (image == pattern(view, number[row, view], camera.height, camera.width)).all()
            else:
                assert not image.any()
    ids = frames.read("frame_id")
    assert (np.diff(ids.astype(np.int64)) > 0).all()
    return number.max(axis=1).tolist()


@dataclass
class Counting:
    """Two cameras on one clock.

    `fps` 0 gives images as fast as they are taken. From image `silent_from` on, camera 1 gives none, as it does of
    the numbers in `lost`; at `suicide` the process that reads it is killed.
    """

    count: int = 100
    fps: float = 0.0
    live: bool = False
    views: int = 2
    first: int = 0
    silent_from: int | None = None
    suicide: int | None = None
    fail_at: int | None = None
    lost: tuple[int, ...] = ()
    wrong: bool = False
    width: int = 96
    height: int = 72
    clock: str = "global_time"
    provenance: dict[str, Any] = field(default_factory=lambda: {"source": "counting", "virtual": True})

    @property
    def rig(self) -> Rig:
        return rig(self.views, self.width, self.height)

    @property
    def n_images(self) -> int | None:
        return None if self.live else self.views * self.count

    def frames(self) -> Iterator[Image]:
        began = time.monotonic()
        for number in range(self.first, self.first + self.count):
            if number == self.suicide:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.fail_at:
                raise ValueError("no such number")
            if self.fps:
                time.sleep(max(0.0, began + (number - self.first) / self.fps - time.monotonic()))
            for view in range(self.views):
                silent = self.silent_from is not None and number >= self.silent_from
                if view == 1 and (silent or number in self.lost):
                    continue
                t = START_NS + number * PERIOD_NS + view * 1_000_000
                size = (72, 96) if self.wrong else (self.height, self.width)
                yield Image(view, pattern(view, number, *size), t, t + 3_000_000, number)

    def close(self) -> None:
        pass

    def __enter__(self) -> Counting:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Endless(Counting):
    """One that knows how to stop."""

    stopping = False

    def frames(self) -> Iterator[Image]:
        for image in super().frames():
            if self.stopping:
                return
            yield image

    def stop(self) -> None:
        self.stopping = True


def broken() -> Counting:
    raise HandloomError("No camera is plugged in", fix="plug one in")


def main(out: str, options: str) -> None:
    """Record with --resume, saying the capture process's id, and what the writer has taken."""
    append = Appender.append

    def told(self: Appender, rows: Any) -> None:
        append(self, rows)
        sys.stdout.write(f"{self.rows}\n")
        sys.stdout.flush()

    with SourceApart(partial(Endless, **json.loads(options))) as source:
        sys.stdout.write(f"{source.pid}\n")
        sys.stdout.flush()
        Appender.append = told  # type: ignore[method-assign]
        record(source, Path(out), resume=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
