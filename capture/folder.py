"""The plain folder as a depth source: PNGs of several cameras, in the order of their stamps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from ..stores.camera import Rig
from ..stores.folder import PlainFolder, read_folder
from .source import Image, Moment

FRAME_SPACING_NS: Final = 33_333_333
"""Assumed between frames whose stamps were not kept (all equal)."""


class FolderSource:
    """The images of a plain folder.

    Frame numbers are the folder's frames. Where frames.csv holds no times worth the name (all equal), frames are
    a thirtieth of a second apart.

    Raises:
        HandloomError: see `stores.folder.read_folder`; an image is read, and may fail, when its turn comes.
    """

    clock = "folder"
    live = False

    def __init__(self, path: Path) -> None:
        self._folder: PlainFolder = read_folder(path)
        images = self._folder.images
        stamps = {image.t_device_ns for image in images}
        self._timeless = len(stamps) == 1 and len(self._folder.frames) > 1

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
        meta = {k: v if isinstance(v, str | int | float | bool) else str(v) for k, v in self._folder.meta.items()}
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
        """The labels of a frame, where joints.csv has them."""
        joints = self._folder.joints.get(frame_number)
        return Moment() if joints is None else Moment(labels={"joints": joints})

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
