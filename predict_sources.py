"""Depth sources as the input of prediction: RealSense files that are read to their end, cameras that go on.

Prediction knows nothing of cameras (`learn` imports no `capture`); this joins the two for the command line. Images of
several cameras are put together by `capture.sync`. A live source is read by a thread of its own, and whoever is slower
than the cameras gets the newest set and skips those before it: a pose is as new as it can be, nothing piles up.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from .learn.inputs import DepthInput, DepthView, with_centers

if TYPE_CHECKING:
    from .capture.source import DepthSource, Image
    from .stores.camera import Rig

Set = list["Image"]
"""The images of one instant."""


def file_input(source: DepthSource, *, locate: bool) -> DepthInput:
    """All sets of a source that waits to be read; the hand found in each where `locate` says so."""

    def views() -> Iterator[DepthView]:
        for number, images in enumerate(_sets(source)):
            shown = _views(source.rig, number, images)
            yield from with_centers(shown) if locate else shown

    return DepthInput(source.rig, getattr(source, "hand", None), source.n_images, views())


class LiveInput:
    """The newest sets of a live source, until it ends or the block is left.

    Args:
        source: it is not closed.
    """

    def __init__(self, source: DepthSource) -> None:
        self.skipped = 0
        """Sets that were not looked at, because newer ones had come."""
        self._source = source
        self._changed = threading.Condition()
        self._newest: Set | None = None
        self._ended = self._told = False
        self._failure: BaseException | None = None
        self._reader = threading.Thread(target=self._read, name="live-input", daemon=True)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop = getattr(self._source, "stop", None)
        if stop is not None:
            stop()
        with self._changed:
            self._ended = True
        self._reader.join(10.0)

    def stop(self) -> None:
        """Give no more sets; may be called from a signal handler."""
        self._told = True

    @property
    def input(self) -> DepthInput:
        """What prediction reads."""
        return DepthInput(self._source.rig, getattr(self._source, "hand", None), None, self._views())

    def _views(self) -> Iterator[DepthView]:
        number = 0
        while (images := self._take()) is not None:
            yield from _views(self._source.rig, number, images)
            number += 1

    def _take(self) -> Set | None:
        with self._changed:
            while self._newest is None and not self._ended and not self._told:
                self._changed.wait(0.2)  # a signal is heard only between waits
            images, self._newest = self._newest, None
        if self._told:  # a kill of the whole group has ended the cameras, too, and that is no failure
            return None
        if images is None and self._failure is not None:
            raise self._failure
        return images

    def _read(self) -> None:
        try:
            for images in _sets(self._source):
                with self._changed:
                    if self._ended:
                        return
                    self.skipped += self._newest is not None
                    self._newest = images
                    self._changed.notify()
        except BaseException as error:  # it must surface where the sets are taken
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


def _sets(source: DepthSource) -> Iterator[Set]:
    from .capture.source import HOST_CLOCKS
    from .capture.sync import Grouper

    if len(source.rig) == 1:  # nothing to wait for
        for image in source.frames():
            yield [image]
        return
    grouper = Grouper(len(source.rig), shared_clock=source.clock in HOST_CLOCKS)
    for image in source.frames():
        yield from (_there(one.images) for one in grouper.push(image))
    yield from (_there(one.images) for one in grouper.flush())


def _there(images: tuple[Image | None, ...]) -> Set:
    return [image for image in images if image is not None]


def _views(rig: Rig, number: int, images: Set) -> list[DepthView]:
    return [
        DepthView(number, i.camera, rig.cameras[i.camera], i.depth, np.array(rig.cameras[i.camera].k), t_ns=i.t_host_ns)
        for i in images
    ]
