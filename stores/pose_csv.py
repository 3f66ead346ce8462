"""poses.csv, what `handloom predict` writes, a row a joint.

Its columns are `frame,camera,joint,x_mm,y_mm,z_mm`, then `confidence,disagreement_mm`, which older files lack. `frame`
is the recording's `frame_id` or a plain folder's number, and joints lie in the camera's frame; the pose of all cameras
together has `camera = rig` and lies in the rig's frame.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import Rig
from .documents import said
from .errors import HandloomError
from .joints import LAYOUTS, Layout

CSV_COLUMNS: Final = ("frame", "camera", "joint", "x_mm", "y_mm", "z_mm")
TRUST_COLUMNS: Final = ("confidence", "disagreement_mm")
"""Of the pose, and of the joint in fused poses; files without them are read as well."""
FARTHEST_MM: Final = 1e9
"""Beyond this a number is none, nor is it float32's."""
FUSED: Final = "rig"
"""The `camera` of fused poses."""


@dataclass(frozen=True, slots=True)
class Poses:
    """The poses of some frames, all in the rig's frame."""

    layout: Layout
    cameras: tuple[str, ...]
    """Who has poses: cameras in the rig's order, then `rig` where there are fused ones."""
    joints_mm: dict[int, dict[str, NDArray[np.float32]]]
    """By frame and camera: (J, 3) in the rig, NaN where a joint has no row."""
    other_frames: int
    """Frames of the file that were not asked for."""


def read_poses(path: Path, rig: Rig, frames: Collection[int] | None = None, *, like: Layout | None = None) -> Poses:
    """The poses of a poses.csv; 12 bytes a joint.

    Args:
        path: the file.
        rig: whose cameras it names.
        frames: the frames to keep; all where left out.
        like: the layout to take where several have these points, as MSRA's and BigHand's 21.

    Raises:
        HandloomError: it cannot be read, has other columns, names a camera or joint that is none, or holds no number
            where one belongs.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder" if path.is_dir() else "it is no file")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return _read(csv.reader(file), path, rig, None if frames is None else frozenset(frames), like)
    except FileNotFoundError as error:
        raise HandloomError("There are no poses", where=str(path), fix="handloom predict writes them") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HandloomError("The poses cannot be read", where=str(path), why=said(error)) from error


def _read(rows: Any, path: Path, rig: Rig, frames: frozenset[int] | None, like: Layout | None) -> Poses:
    header = tuple(next(rows, ()))
    if header not in (CSV_COLUMNS, (*CSV_COLUMNS, *TRUST_COLUMNS)):
        raise HandloomError(
            "This is not a poses.csv",
            where=str(path),
            why=f"its first line is '{','.join(header)[:60]}'",
            fix=f"the columns are {','.join(CSV_COLUMNS)}",
        )
    cameras = {camera.name: camera for camera in rig.cameras}
    found: dict[tuple[int, str], tuple[tuple[str, ...], NDArray[np.float64]]] = {}
    named: dict[tuple[str, ...], tuple[str, ...]] = {}
    others: set[int] = set()
    for key, lines, where in _poses(rows, path, len(header)):
        frame, camera = key
        if camera != FUSED and camera not in cameras:
            known = ", ".join((*cameras, FUSED))
            raise HandloomError(f"The recording has no camera '{camera}'", where=where, why=f"it has {known}")
        names = tuple(name for name, _ in lines)
        points = np.array([point for _, point in lines])
        if frames is not None and frame not in frames:
            others.add(frame)
            points = points[:0]
        elif key in found:
            names, points = found[key][0] + names, np.concatenate([found[key][1], points])
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise HandloomError(f"Joint '{twice}' has two rows in frame {frame} of '{camera}'", where=where)
        names = named.setdefault(names, names)  # one tuple for all poses, not one each
        if len(points):
            found[key] = names, points
    layout = _layout_of({name for names in named for name in names}, path, like)
    joints: dict[int, dict[str, NDArray[np.float32]]] = {}
    for (frame, camera), (names, points) in found.items():
        whole = np.full((len(layout), 3), np.nan)
        whole[[layout.points.index(name) for name in names]] = points
        rig_mm = whole if camera == FUSED else cameras[camera].to_rig(whole)
        joints.setdefault(frame, {})[camera] = rig_mm.astype(np.float32)
    who = {camera for _, camera in found}
    return Poses(layout, tuple(name for name in (*cameras, FUSED) if name in who), joints, len(others))


Line = tuple[str, tuple[float, float, float]]


def _poses(rows: Any, path: Path, columns: int) -> Iterator[tuple[tuple[int, str], list[Line], str]]:
    """Frame and camera with the lines that follow each other about them, and where these end."""
    current: tuple[int, str] | None = None
    lines: list[Line] = []
    where = ""
    for row in rows:
        here = f"{path}, line {rows.line_num}"
        try:
            if len(row) != columns:
                raise ValueError(f"{len(row)} values for {columns} columns")
            frame, camera, joint, x, y, z = row[: len(CSV_COLUMNS)]
            key, point = (int(frame), camera), (float(x), float(y), float(z))
        except ValueError as error:
            raise HandloomError("A line of the poses has the wrong form", where=here, why=str(error)) from error
        if not all(abs(value) < FARTHEST_MM for value in point):  # NaN is not, either
            raise HandloomError("A joint is no finite number", where=here, why=f"{x},{y},{z}")
        if current is not None and key != current:
            yield current, lines, where
            lines = []
        current, where = key, here
        lines.append((joint, point))
    if current is not None:
        yield current, lines, where


def _layout_of(names: Collection[str], path: Path, like: Layout | None) -> Layout:
    """The smallest layout that has all these joints; the canonical one where there are none."""
    if not names:
        return LAYOUTS["openxr26"]
    fitting = [layout for layout in LAYOUTS.values() if set(names) <= set(layout.points)]
    if fitting:
        return min(fitting, key=lambda layout: (len(layout), layout is not like))
    unknown = next((n for n in names if not any(n in layout.points for layout in LAYOUTS.values())), None)
    raise HandloomError(
        f"'{unknown}' is no joint" if unknown else "The joints belong to several layouts",
        where=str(path),
        why=f"layouts: {', '.join(LAYOUTS)}",
    )
