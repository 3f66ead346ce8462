"""The plain folder as a depth source: PNGs of several cameras, in the order of their stamps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.folder import FolderImage, PlainFolder, read_folder
from ..stores.folder_meta import noted, read_facts
from ..stores.joints import OPENXR26
from .source import Image, Moment

FRAME_SPACING_NS: Final = 33_333_333
"""Assumed between frames whose stamps were not kept (all equal)."""


class FolderSource:
    """The images of a plain folder.

    Frame numbers are the folder's frames. Where frames.csv holds no times worth the name (all equal), frames are
    a thirtieth of a second apart.

    Raises:
        HandloomError: see `stores.folder.read_folder`; or a camera's first image is none of its depth. The others
            are read, and may fail, when their turn comes.
    """

    live = False

    def __init__(self, path: Path) -> None:
        self._folder: PlainFolder = read_folder(path)
        images = self._folder.images
        stamps = {image.t_device_ns for image in images}
        frames = self._folder.frames
        self._timeless = len(stamps) == 1 and len(frames) > 1
        self._facts = read_facts(self._folder.meta, frames, where=str(path / "meta.toml"))
        self._row = {frame: row for row, frame in enumerate(frames)}
        self.clock = "hardware_clock" if not self._timeless and _own_clocks(images) else "folder"
        """Domain of the stamps: `folder` where one clock made them all."""
        # A folder of the wrong kind of images is told from its first ones, before anything is made of it.
        for view in range(len(self._folder.rig)):
            first = next((image for image in images if image.camera == view), None)
            if first is not None:
                self._folder.depth(first)

    @property
    def folder(self) -> PlainFolder:
        """The tables of the folder."""
        return self._folder

    @property
    def rig(self) -> Rig:
        """As in rig.toml."""
        return self._folder.rig

    @property
    def provenance(self) -> dict[str, Any]:
        """The folder's name and its meta.toml; a folder exported from a virtual recording says so there."""
        meta = noted(self._folder.meta)
        return {
            "source": "folder",
            "virtual": bool(meta.get("virtual", False)),
            "folder": self._folder.path.resolve().name,
            "clock": self.clock,
            "meta": meta,
        }

    @property
    def n_images(self) -> int | None:
        """Lines of frames.csv."""
        return len(self._folder.images)

    def frames(self) -> Iterator[Image]:
        """The images by arrival.

        Raises:
            HandloomError: an image is damaged, 8-bit, of several channels, or of another size than its camera.
        """
        folder = self._folder
        key = (lambda i: (i.frame, i.camera)) if self._timeless else (lambda i: (i.t_host_ns, i.frame, i.camera))
        for image in sorted(folder.images, key=key):
            shift = image.frame * FRAME_SPACING_NS if self._timeless else 0
            yield Image(
                image.camera,
                np.ascontiguousarray(folder.depth(image)),
                image.t_device_ns + shift,
                image.t_host_ns + shift,
                image.frame,
            )

    def moment(self, camera: int, frame_number: int) -> Moment:
        """Who and which sequence, and the labels of a frame where joints.csv has them, of the layout openxr26."""
        row, facts = self._row.get(frame_number), self._facts
        if row is None:
            return Moment()
        return Moment(
            subject=int(facts.subject[row]),
            sequence=int(facts.sequence[row]),
            split=int(facts.split[row]),
            labels=self._labels(frame_number),
        )

    def _labels(self, frame: int) -> dict[str, NDArray[np.float32]]:
        """NaN for frames without labels, where others have some."""
        joints = self._folder.joints
        if not joints or self._folder.layout.name != "openxr26":
            return {}
        return {"joints": joints.get(frame, np.full((len(OPENXR26), 3), np.nan, np.float32))}

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _own_clocks(images: Sequence[FolderImage]) -> bool:
    """Whether each camera stamped with a clock of its own: its images of one frame lie further apart than frames do.

    Arrivals are needed to bring such clocks together; without them the stamps are taken as they are.
    """
    if len({image.t_host_ns for image in images}) < len({image.frame for image in images}):
        return False
    spans: dict[int, list[int]] = {}
    for image in images:
        spans.setdefault(image.frame, []).append(image.t_device_ns)
    apart = [max(stamps) - min(stamps) for stamps in spans.values() if len(stamps) > 1]
    firsts = [min(stamps) for _, stamps in sorted(spans.items())]
    steps = [abs(b - a) for a, b in pairwise(firsts)]
    return bool(apart and steps) and median(apart) > median(steps)
