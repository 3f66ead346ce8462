"""A plain folder as a depth source: its images in the order of their times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..stores.camera import Rig
from ..stores.folder import read_folder
from .source import Image, Moment


class FolderSource:
    """The images that frames.csv lists, with the labels of joints.csv where there are any.

    Raises:
        HandloomError: the folder is not of the form that `stores/folder.py` describes.
    """

    def __init__(self, path: Path) -> None:
        self._folder = read_folder(path)

    @property
    def rig(self) -> Rig:
        """The cameras of rig.toml."""
        return self._folder.rig

    @property
    def provenance(self) -> dict[str, Any]:
        """The folder and what its meta.toml says."""
        return {
            "source": "folder",
            "virtual": False,
            "folder": self._folder.path.name,
            "meta": dict(self._folder.meta),
        }

    @property
    def clock(self) -> str:
        """`folder`: whatever stamps the folder's writer chose."""
        return "folder"

    @property
    def n_images(self) -> int | None:
        """How many images frames.csv lists."""
        return len(self._folder.images)

    def frames(self) -> Iterator[Image]:
        """The images by host time, then frame and camera.

        Raises:
            HandloomError: a file is no depth image of its camera's size.
        """
        for image in sorted(self._folder.images, key=lambda i: (i.t_host_ns, i.frame, i.camera)):
            yield Image(image.camera, self._folder.depth(image), image.t_device_ns, image.t_host_ns, image.frame)

    def moment(self, camera: int, frame_number: int) -> Moment:
        """The labels of a frame, where joints.csv has any."""
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
