"""Infrared or colour pictures of a rig: what calibration looks at where the target is a printed board.

A folder holds them in one of three ways, looked for in this order:

    ir/<camera>/NNNNNN.png       infrared of the depth cameras' own imager, beside their rig.toml
    color/<camera>/NNNNNN.jpg    of colour cameras; color/rig.toml describes them
    <camera>/NNNNNN.png          the pictures alone; grey ones are taken for infrared

Pictures are PNG or JPEG, 8 or 16 bits, grey or colour; the number in a file's name is its frame, and pictures of one
frame belong together. A rig.toml gives names, sizes and intrinsics; without one the cameras are the folders, and their
intrinsics have to be estimated. In color/rig.toml, R and t may say where each colour camera stands at its depth camera:
x_color = R x_depth + t.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..stores.camera import LARGEST_PX, Camera, Rig, read_rig
from ..stores.documents import read_small, said
from ..stores.errors import HandloomError

Kind = Literal["ir", "color"]
SUFFIXES: Final = (".png", ".jpg", ".jpeg")
GUESSED_FOCAL: Final = 0.9
"""Focal length in image widths where nothing is known: 58° across, between what depth and colour cameras have."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureRows:
    """Pictures that belong together, by frame."""

    rig: Rig
    """The cameras that took them."""
    depth_rig: Rig | None
    """The depth cameras beside them, where they are others: R, t of `rig` then lead from these to the pictures'."""
    kind: Kind
    known: bool
    """Whether intrinsics were given; else K is a guess to start from."""
    frames: tuple[int, ...]
    """(T,) frame of each row."""
    files: Mapping[tuple[int, int], Path]
    """By (row, view)."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """(T, V) whether there is a picture."""
        out = np.zeros((len(self.frames), len(self.rig)), bool)
        for key in self.files:
            out[key] = True
        return out

    def grey(self, row: int, view: int) -> NDArray[np.uint8]:
        """(H, W) of one picture; 16 bits are stretched over the range that is used.

        Raises:
            HandloomError: it is damaged, or of another size than its camera.
        """
        camera, file = self.rig.cameras[view], self.files[row, view]
        image = _read(file)
        if image.shape[:2] != (camera.height, camera.width):
            raise HandloomError(
                "A picture disagrees with the rig",
                where=str(file),
                why=f"it is {image.shape[1]} x {image.shape[0]}, its camera {camera.width} x {camera.height}",
                fix="give the camera's true width, height and K for these pictures: K scales with the size",
            )
        return _grey(image)


def open_pictures(path: Path, *, kind: Kind | None = None) -> PictureRows:
    """The pictures of a folder.

    Args:
        path: see the module.
        kind: which pictures, where the folder holds infrared and colour.

    Raises:
        HandloomError: no such folder, no pictures, or none of a camera that the rig names.
    """
    if not path.is_dir():
        raise HandloomError("There is no such folder", where=str(path))
    if (path / "zarr.json").exists():
        raise HandloomError(
            "A recording holds depth alone, and a printed board does not show in depth",
            where=str(path),
            fix="give a folder with ir/CAMERA/NNNNNN.png or color/CAMERA/NNNNNN.png, or use --target sphere:30mm",
        )
    for name in ("ir", "color") if kind is None else (kind,):
        if (path / name).is_dir():
            return _beside(path, name)
    if kind is not None:
        raise HandloomError(f"The folder holds no {kind}/", where=str(path))
    rig = read_rig(path / "rig.toml") if (path / "rig.toml").exists() else None
    frames, files, guessed = _listed(path, rig)
    colour = _has_colour(next(iter(files.values())))
    return PictureRows(rig or guessed, None, "color" if colour else "ir", rig is not None, frames, files)


def _beside(path: Path, name: str) -> PictureRows:
    """Pictures in a folder of their own beside the depth."""
    own, outer = path / name / "rig.toml", path / "rig.toml"
    depth_rig = read_rig(outer) if outer.exists() else None
    rig = read_rig(own) if own.exists() else depth_rig if name == "ir" else None
    frames, files, guessed = _listed(path / name, rig)
    others = depth_rig if own.exists() and depth_rig is not None else None
    if others is not None and set(others.names) != set((rig or guessed).names):
        raise HandloomError(
            "The pictures' cameras are called otherwise than the depth cameras",
            where=str(own),
            why=f"{', '.join((rig or guessed).names)}; {outer} has {', '.join(others.names)}",
            fix="give a colour camera the name of the depth camera in the same housing",
        )
    return PictureRows(rig or guessed, others, "ir" if name == "ir" else "color", rig is not None, frames, files)


def _listed(path: Path, rig: Rig | None) -> tuple[tuple[int, ...], dict[tuple[int, int], Path], Rig]:
    """Frames, files by row and view, and a rig of those cameras whose intrinsics are guessed."""
    if rig is None:
        names = [entry.name for entry in sorted(path.iterdir()) if entry.is_dir() and _pictures(entry)]
    else:
        names = list(rig.names)
    by_frame: dict[tuple[int, int], Path] = {}
    for view, name in enumerate(names):
        for file in _pictures(path / name):
            match = re.search(r"(\d+)$", file.stem)
            if match is None:
                raise HandloomError("A picture has no frame number", where=str(file), fix="name them 000000.png, …")
            if (key := (int(match[1]), view)) in by_frame:
                raise HandloomError("Two pictures of one frame and camera", where=str(file), why=str(by_frame[key]))
            by_frame[key] = file
    if not by_frame:
        raise HandloomError(
            "There are no pictures",
            where=str(path),
            why=f"looked for PNG or JPEG files in {', '.join(f'{name}/' for name in names) or 'folders, one a camera'}",
            fix="put them into ir/CAMERA/NNNNNN.png (infrared) or color/CAMERA/NNNNNN.png",
        )
    frames = tuple(sorted({frame for frame, _ in by_frame}))
    rows = {frame: row for row, frame in enumerate(frames)}
    files = {(rows[frame], view): file for (frame, view), file in sorted(by_frame.items())}
    return frames, files, rig or Rig(tuple(_guessed(name, view, files) for view, name in enumerate(names)))


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _guessed(name: str, view: int, files: Mapping[tuple[int, int], Path]) -> Camera:
    height, width = _read(next(file for (_, v), file in files.items() if v == view)).shape[:2]
    focal = GUESSED_FOCAL * width
    return Camera(name, width, height, (focal, focal, (width - 1) / 2, (height - 1) / 2))


def _read(file: Path) -> NDArray[Any]:
    try:
        data = np.frombuffer(read_small(file), np.uint8)
    except (OSError, ValueError) as error:
        raise HandloomError("A picture cannot be read", where=str(file), why=said(error)) from error
    _refuse_huge(file, data.tobytes())
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise HandloomError("This is no picture of 8 or 16 bits", where=str(file), fix="copy it again, or delete it")
    return np.asarray(image)


def _grey(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.ndim == 3:
        image = cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2GRAY) if image.shape[2] >= 3 else image[..., 0]
    if image.dtype == np.uint8:
        return np.asarray(image)
    low, high = np.percentile(image, [0.5, 99.5])
    scaled = (image.astype(np.float32) - low) * (255 / max(high - low, 1.0))
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)


def _has_colour(file: Path) -> bool:
    image = _read(file)
    if image.ndim != 3 or image.shape[2] < 3:
        return False
    spread = image[..., :3].max(2).astype(np.float64) - image[..., :3].min(2)
    return bool(spread.mean() > 2)


def _refuse_huge(file: Path, data: bytes) -> None:
    """What a header promises is made before the first pixel is looked at."""
    import io
    import warnings

    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(io.BytesIO(data)).size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        width = height = LARGEST_PX + 1
    if max(width, height) > LARGEST_PX:
        raise HandloomError("This is no picture of 8 or 16 bits", where=str(file), fix="copy it again, or delete it")
