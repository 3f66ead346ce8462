"""Calibrations in anipose's TOML, which aniposelib and its relatives (Pose2Sim, FreeMoCap) read and write.

    [cam_0]
    name = "front"
    size = [640, 480]
    matrix = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    distortions = [k1, k2, p1, p2, k3]
    rotation = [x, y, z]         rotation vector, rad
    translation = [x, y, z]      x_cam = R x + t

The axes are OpenCV's, as ours. The file knows no unit of length, depth unit or serial number: we write mm, and say so
under [metadata]; what others wrote may be in any unit, so of theirs only the intrinsics are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..stores.camera import Camera, Rig, read_rig
from ..stores.documents import read_toml, said
from ..stores.errors import HandloomError


def read_any_rig(path: Path) -> Rig:
    """The rig of a rig.toml or of an anipose TOML, told apart by what they hold.

    Raises:
        HandloomError: it is neither.
    """
    try:
        values = read_toml(path)
    except (OSError, ValueError):
        return read_rig(path)  # which says what is wrong
    return read_rig(path) if "schema" in values or "camera" in values else _parsed(values, where=str(path))


def read_anipose(path: Path) -> Rig:
    """The rig of an anipose TOML.

    Raises:
        HandloomError: it is missing, no TOML, holds no camera, a fisheye lens, or a camera of the wrong form.
    """
    try:
        values = read_toml(path)
    except (OSError, ValueError) as error:
        raise HandloomError("The calibration cannot be read", where=str(path), why=said(error)) from error
    return _parsed(values, where=str(path))


def write_anipose(rig: Rig, path: Path) -> None:
    """Write what `read_anipose` reads; serial numbers and depth units are lost."""
    lines = []
    for index, camera in enumerate(rig.cameras):
        fx, fy, cx, cy = camera.k
        rotation = cv2.Rodrigues(camera.rotation)[0].reshape(3)
        lines += [
            f"[cam_{index}]",
            f'name = "{camera.name}"',
            f"size = [{camera.width}, {camera.height}]",
            f"matrix = [[{fx!r}, 0.0, {cx!r}], [0.0, {fy!r}, {cy!r}], [0.0, 0.0, 1.0]]",
            f"distortions = {[float(x) for x in camera.dist] or [0.0] * 5}",
            f"rotation = {rotation.tolist()}",
            f"translation = {camera.translation.tolist()}",
            "",
        ]
    lines += ["[metadata]", 'unit = "mm"', 'written_by = "handloom"', ""]
    path.write_text("\n".join(lines), encoding="utf-8")


def with_intrinsics(rig: Rig, given: Rig, *, where: str) -> Rig:
    """The rig with K and distortion of the cameras of the same names; those that are not given keep theirs.

    Raises:
        HandloomError: no name in common, or another image size.
    """
    by_name = {camera.name: camera for camera in given.cameras}
    if not set(by_name) & set(rig.names):
        raise HandloomError(
            "The given intrinsics are of other cameras",
            where=where,
            why=f"it has {', '.join(given.names)}; the source has {', '.join(rig.names)}",
        )
    return Rig(tuple(_with(camera, by_name.get(camera.name), where) for camera in rig.cameras))


def _with(camera: Camera, other: Camera | None, where: str) -> Camera:
    if other is None:
        return camera
    if (other.width, other.height) != (camera.width, camera.height):
        raise HandloomError(
            f"The given intrinsics of {camera.name} are of another image size",
            where=where,
            why=f"{other.width} x {other.height}; its images are {camera.width} x {camera.height}",
        )
    return replace(camera, k=other.k, dist_model=other.dist_model, dist=other.dist)


def _parsed(values: Mapping[str, Any], *, where: str) -> Rig:
    entries = [value for key, value in values.items() if key != "metadata" and isinstance(value, dict)]
    if not entries or not all("matrix" in entry for entry in entries):
        raise HandloomError(
            "This is neither a rig.toml nor an anipose calibration",
            where=where,
            why="an anipose calibration has tables [cam_0], [cam_1] … with name, size and matrix",
        )
    return Rig(tuple(_camera(entry, f"{where}, camera {index}") for index, entry in enumerate(entries)))


def _camera(entry: Mapping[str, Any], where: str) -> Camera:
    if entry.get("fisheye"):
        raise HandloomError(
            "A fisheye lens is not supported", where=where, why="its distortion is not OpenCV's Brown-Conrady model"
        )
    try:
        matrix = np.array(entry["matrix"], np.float64)
        width, height = (int(x) for x in entry["size"])
        dist = [float(x) for x in entry.get("distortions", [])]
        rotation = np.array(entry.get("rotation", [0, 0, 0]), np.float64)
        tx, ty, tz = (float(x) for x in entry.get("translation", [0, 0, 0]))
        name = str(entry["name"])
        if matrix.shape != (3, 3) or rotation.shape != (3,):
            raise ValueError("matrix must be 3 x 3, rotation a vector of 3")
    except KeyError as error:
        raise HandloomError(f"A camera lacks the key {error}", where=where) from error
    except (TypeError, ValueError) as error:
        raise HandloomError("A camera entry has the wrong form", where=where, why=str(error)) from error
    if abs(matrix[0, 1]) > 1e-6:
        raise HandloomError("A camera's axes are skewed", where=where, why=f"matrix[0][1] = {matrix[0, 1]:g}")
    (a, b, c), (d, e, f), (g, h, i) = cv2.Rodrigues(rotation)[0].tolist()
    return Camera(
        name,
        width,
        height,
        (float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])),
        r=((a, b, c), (d, e, f), (g, h, i)),
        t=(tx, ty, tz),
        dist_model="brown-conrady" if any(dist) else "none",
        dist=tuple(dist) if any(dist) else (),
    )
