"""The plain folder: the form of a capture that everyone can write and read.

rig.toml                 the cameras, see `camera.read_rig`
frames.csv               frame,camera,file,t_device_ns,t_host_ns; a missing row is a dropped image
<camera>/NNNNNN.png      16-bit depth
joints.csv               optional: frame,joint,x_mm,y_mm,z_mm in the rig's frame, OpenXR names, any frames
meta.toml                optional: hand, layout, subjects, sequences and splits (`folder_meta.py`), whatever was noted
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from .camera import Rig, read_rig, write_rig
from .documents import read_toml, said
from .errors import HandloomError
from .folder_meta import read_layout
from .joints import OPENXR26, Layout
from .png import read_depth_png, write_depth_png

FRAME_COLUMNS: Final = ("frame", "camera", "file", "t_device_ns", "t_host_ns")
JOINT_COLUMNS: Final = ("frame", "joint", "x_mm", "y_mm", "z_mm")
FARTHEST_MM: Final = 1e5
"""No camera sees a hand 100 m away."""
N = TypeVar("N", int, float)


@dataclass(frozen=True, slots=True)
class FolderImage:
    """One line of frames.csv."""

    frame: int
    camera: int
    file: Path
    t_device_ns: int
    t_host_ns: int


@dataclass(frozen=True, slots=True)
class PlainFolder:
    """A plain folder whose tables were read and checked; images are read when asked for."""

    path: Path
    rig: Rig
    images: tuple[FolderImage, ...]
    """In the order of frame, then camera."""
    joints: Mapping[int, NDArray[np.float32]]
    """Labelled frames: (J, 3) mm in the rig, NaN where a joint was not given."""
    layout: Layout
    """Of the joints; openxr26 where meta.toml names no other."""
    meta: Mapping[str, Any]

    @property
    def frames(self) -> tuple[int, ...]:
        """The frames that have at least one image, ascending."""
        return tuple(sorted({image.frame for image in self.images}))

    def depth(self, image: FolderImage) -> NDArray[np.uint16]:
        """The depth (H, W) of one image.

        Raises:
            HandloomError: the file is no depth image of its camera's size.
        """
        camera = self.rig.cameras[image.camera]
        return read_depth_png(image.file, size=(camera.width, camera.height))


def read_folder(path: Path) -> PlainFolder:
    """The plain folder at `path`.

    Raises:
        HandloomError: a file is missing or holds something it must not.
    """
    if not path.is_dir():
        raise HandloomError("There is no such folder", where=str(path))
    rig = read_rig(path / "rig.toml")
    images = tuple(_read_frames(path, rig))
    if not images:
        raise HandloomError("The folder lists no image", where=str(path / "frames.csv"))
    frames = {image.frame for image in images}
    meta = _read_meta(path / "meta.toml")
    layout = read_layout(meta, where=str(path / "meta.toml"))
    return PlainFolder(path, rig, images, _labels(path / "joints.csv", frames, layout), layout, meta)


def write_folder(
    path: Path,
    rig: Rig,
    images: Iterable[tuple[int, int, NDArray[np.uint16], int, int]],
    *,
    joints: Mapping[int, NDArray[Any]] | None = None,
) -> None:
    """Write a plain folder.

    Args:
        path: a folder that does not exist or is empty.
        rig: its cameras.
        images: (frame, camera index, depth (H, W), t_device_ns, t_host_ns); leave out what was dropped.
        joints: labelled frames, (26, 3) mm in the rig's frame; NaN joints are left out.

    Raises:
        HandloomError: the folder holds something.
    """
    if path.exists() and any(path.iterdir()):
        raise HandloomError("The output exists already", where=str(path), fix="choose an empty folder")
    for camera in rig.cameras:
        (path / camera.name).mkdir(parents=True, exist_ok=True)
    write_rig(rig, path / "rig.toml")
    with (path / "frames.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FRAME_COLUMNS)
        for frame, view, depth, t_device_ns, t_host_ns in images:
            name = f"{rig.cameras[view].name}/{frame:06d}.png"
            write_depth_png(path / name, depth)
            writer.writerow((frame, rig.cameras[view].name, name, t_device_ns, t_host_ns))
    if joints is not None:
        write_joints(path / "joints.csv", joints)


def write_joints(path: Path, joints: Mapping[int, NDArray[Any]], *, points: Sequence[str] = OPENXR26) -> None:
    """Write joints.csv: (J, 3) mm a frame of these points, joints with NaN left out, float32 to the last bit."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(JOINT_COLUMNS)
        for frame in sorted(joints):
            for name, point in zip(points, joints[frame], strict=True):
                if np.isfinite(point).all():
                    writer.writerow((frame, name, *(str(np.float32(x)) for x in point)))


def _read_frames(folder: Path, rig: Rig) -> list[FolderImage]:
    path, root = folder / "frames.csv", folder.resolve()
    images: dict[tuple[int, int], FolderImage] = {}
    lines: dict[Path, int] = {}
    for line, row in _rows(path, FRAME_COLUMNS):
        where = f"{path}, line {line}"
        if row["camera"] not in rig.names:
            raise HandloomError(
                f"Unknown camera '{row['camera']}'", where=where, why=f"rig.toml has: {', '.join(rig.names)}"
            )
        file = folder / row["file"]
        try:
            inside, there = file.resolve().is_relative_to(root), file.is_file()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, links in a circle
            raise HandloomError(
                "The name of an image cannot be used", where=where, why=f"{row['file'][:80]!r}: {said(error)}"
            ) from error
        if not inside:
            raise HandloomError("An image lies outside the folder", where=where, why=row["file"])
        if not there:
            raise HandloomError(
                "An image is listed but not there",
                where=f"{where}: {row['file']}",
                fix="copy the image, or delete the line: a missing line is a dropped image",
            )
        numbers = [_number(row[name], int, f"{where}, {name}") for name in ("frame", "t_device_ns", "t_host_ns")]
        if numbers[0] < 0 or any(abs(number) >= 2**63 for number in numbers):
            raise HandloomError("A number is out of range", where=where, why="frames count from 0, times are int64 ns")
        if min(numbers[1:]) < -1:
            raise HandloomError("A time is negative", where=where, fix="write -1 where a time is unknown")
        if file in lines:
            raise HandloomError("An image is listed twice", where=where, why=f"{row['file']}, as in line {lines[file]}")
        lines[file] = line
        image = FolderImage(numbers[0], rig.names.index(row["camera"]), file, numbers[1], numbers[2])
        key = (image.frame, image.camera)
        if key in images:
            raise HandloomError("Two images of one frame and camera", where=where)
        images[key] = image
    return [images[key] for key in sorted(images)]


def _labels(path: Path, frames: set[int], layout: Layout) -> dict[int, NDArray[np.float32]]:
    """The folder's labels, if it has any, all of frames that have an image."""
    joints = read_joints(path, points=layout.points) if path.exists() else {}
    for frame in joints:
        if frame not in frames:
            raise HandloomError(f"Frame {frame} is labelled but has no image", where=str(path))
    return joints


def read_joints(path: Path, *, points: Sequence[str] = OPENXR26) -> dict[int, NDArray[np.float32]]:
    """Read joints.csv: (J, 3) mm a frame, NaN where a joint was not given.

    Args:
        path: the file.
        points: the names of the J joints.

    Raises:
        HandloomError: it cannot be read, names another joint or one twice, or holds what is no number.
    """
    joints: dict[int, NDArray[np.float32]] = {}
    given: set[tuple[int, str]] = set()
    for line, row in _rows(path, JOINT_COLUMNS):
        where = f"{path}, line {line}"
        if row["joint"] not in points:
            raise HandloomError(f"Unknown joint '{row['joint']}'", where=where, why=f"known: {', '.join(points)}")
        frame = _number(row["frame"], int, f"{where}, frame")
        point = [_number(row[name], float, f"{where}, {name}") for name in JOINT_COLUMNS[2:]]
        if not np.isfinite(point).all():
            raise HandloomError("A joint is not finite", where=where, fix="leave out joints that are unknown")
        if max(map(abs, point)) > FARTHEST_MM:
            raise HandloomError("A joint is not plausible", where=where, why=f"{point} mm in the rig's frame")
        if (frame, row["joint"]) in given:
            raise HandloomError(f"'{row['joint']}' of frame {frame} is given twice", where=where)
        given.add((frame, row["joint"]))
        hand = joints.setdefault(frame, np.full((len(points), 3), np.nan, np.float32))
        hand[points.index(row["joint"])] = point
    return joints


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        meta = read_toml(path)
    except (ValueError, OSError) as error:
        raise HandloomError("meta.toml cannot be read", where=str(path), why=said(error)) from error
    checked: tuple[tuple[str, tuple[Any, Any]], ...] = (("hand", ("right", "left")), ("virtual", (True, False)))
    for key, known in checked:
        if key in meta and not (type(meta[key]) is type(known[0]) and meta[key] in known):
            raise HandloomError(
                f"'{key}' of meta.toml is not valid",
                where=str(path),
                why=f"it is {str(meta[key])[:40]!r}; known: {', '.join(str(value).lower() for value in known)}",
            )
    return meta


def _rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV file with their numbers, its header checked."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise HandloomError("A table of the folder cannot be read", where=str(path), why=said(error)) from error
    reader = csv.reader(text.splitlines())
    try:
        header = next(reader, [])
        if tuple(name.strip() for name in header) != columns:
            raise HandloomError(
                "A table has other columns",
                where=str(path),
                why=f"expected {','.join(columns)}; found {','.join(header)}",
            )
        rows = []
        for values in reader:
            if not values:
                continue
            if len(values) != len(columns):
                raise HandloomError(
                    "A line has another number of fields",
                    where=f"{path}, line {reader.line_num}",
                    why=f"{len(values)} instead of {len(columns)}",
                )
            rows.append((reader.line_num, dict(zip(columns, (v.strip() for v in values), strict=True))))
    except csv.Error as error:
        raise HandloomError("A table of the folder is not CSV", where=str(path), why=str(error)) from error
    return rows


def _number(text: str, kind: type[N], where: str) -> N:
    try:
        # Python would take 1_0 for ten, and digits of any script.
        if not text.isascii() or "_" in text:
            raise ValueError(text)
        return kind(text)
    except (ValueError, OverflowError) as error:
        raise HandloomError(f"'{text[:40]}' is not a number", where=where) from error
