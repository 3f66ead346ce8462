"""The full frames of a recording or of a plain folder, one image at a time: what calibration looks at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import HandloomError
from ..stores.folder import read_folder
from ..stores.locate import background_of
from ..stores.recording import open_recording

BACKGROUND_ROWS: Final = 60
"""Images that a background is made of."""
STILL_SHARE: Final = 0.02
"""Of the distance; returns that near to the background are returns from it."""


@dataclass(frozen=True, slots=True, eq=False)
class DepthRows:
    """Rows of images that belong together."""

    rig: Rig
    present: NDArray[np.bool_]
    """(T, V) whether there is an image."""
    depth: Callable[[int, int], NDArray[np.uint16]]
    """(row, view) → (H, W) steps of the camera's unit; only where there is an image."""

    def depth_mm(self, row: int, view: int) -> NDArray[np.float32]:
        """(H, W) mm of one image."""
        unit = np.float32(self.rig.cameras[view].depth_unit_mm)
        return np.asarray(self.depth(row, view).astype(np.float32) * unit)


def background_mm(rows: DepthRows, view: int) -> NDArray[np.float32]:
    """(H, W) mm of what stands still before a camera, 0 = unknown."""
    there = np.flatnonzero(rows.present[:, view])
    camera = rows.rig.cameras[view]
    if not len(there):
        return np.zeros((camera.height, camera.width), np.float32)
    kept = there[np.unique(np.linspace(0, len(there) - 1, BACKGROUND_ROWS).astype(int))]
    stack = np.stack([rows.depth(int(row), view) for row in kept])
    return np.asarray(background_of(stack).astype(np.float32) * np.float32(camera.depth_unit_mm))


def still_mm(rows: DepthRows, view: int) -> NDArray[np.float32]:
    """(H, W) mm of what stands still, the mean of all returns from it: its background lies behind most of them."""
    behind = background_mm(rows, view)
    there = np.flatnonzero(rows.present[:, view])
    if not len(there):
        return behind
    total, count = np.zeros(behind.shape), np.zeros(behind.shape)
    for row in there[np.unique(np.linspace(0, len(there) - 1, BACKGROUND_ROWS).astype(int))]:
        depth = rows.depth_mm(int(row), view)
        near = (depth > 0) & (np.abs(depth - behind) < STILL_SHARE * behind)
        total += np.where(near, depth, 0)
        count += near
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), 0), np.float32)


def open_depth_rows(path: Path) -> DepthRows:
    """The images at `path`.

    Raises:
        HandloomError: neither a recording nor a plain folder, or a recording without full frames.
    """
    if (path / "rig.toml").exists() and not (path / "zarr.json").exists():
        return _of_folder(path)
    recording = open_recording(path)
    frames = recording.frames
    if frames is None or not recording.has_depth:
        raise HandloomError("The recording holds no full frames to look at", where=str(path))
    names = recording.rig.names

    def depth(row: int, view: int) -> NDArray[np.uint16]:
        return np.asarray(frames.read(f"depth/{names[view]}", row, row + 1)[0], np.uint16)

    return DepthRows(recording.rig, frames.read("present") > 0, depth)


def _of_folder(path: Path) -> DepthRows:
    folder = read_folder(path)
    rows = {frame: row for row, frame in enumerate(folder.frames)}
    images = {(rows[image.frame], image.camera): image for image in folder.images}
    present = np.zeros((len(rows), len(folder.rig)), bool)
    for key in images:
        present[key] = True
    return DepthRows(folder.rig, present, lambda row, view: folder.depth(images[row, view]))
