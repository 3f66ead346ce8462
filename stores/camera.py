"""Pinhole cameras, the rigs they form, and the rig.toml that describes one.

A camera looks along +z, x to the right, y down, in millimetres: `x_cam = R @ x_rig + t`. Depth is the z
coordinate, not the range. Integer pixel coordinates are pixel centres (OpenCV), so

    u = fx x / z + cx,    v = fy y / z + cy.

A crop or a window of an image is again a camera of this kind with its own `k = (fx, fy, cx, cy)`, which is
why the functions take `k` arrays rather than `Camera` objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .documents import read_toml, said
from .errors import HandloomError

RIG_SCHEMA: Final = "handloom-rig/1"
CONVENTION: Final = "x right, y down, z forward; x_cam = R @ x_rig + t; integer pixel = pixel centre; 0 = no return"
RIG_NAME: Final = "rig"
"""Stands for all cameras together in files of poses, so no camera may be called so."""
LARGEST_PX: Final = 8192
"""Either side of an image: what promises more is no depth camera's, and would only fill the memory."""
LONGEST_NAME: Final = 64
PLAUSIBLE_UNIT_MM: Final = (0.002, 100.0)
"""A finer unit ends 131 mm from the camera; 0.001 is metres taken for millimetres."""
LARGEST_T_MM: Final = 1e6
DISTORTION_COEFFICIENTS: Final[Mapping[str, tuple[int, ...]]] = {
    "none": (0,),
    "brown-conrady": (4, 5, 8),
}
"""Known distortion models and how many coefficients each may carry, in OpenCV's order."""


@dataclass(frozen=True, slots=True)
class Camera:
    """One depth camera of a rig; all of it hashable, so equal cameras compare equal.

        camera = Camera("front", width=640, height=480, k=(588.0, 588.0, 319.5, 239.5))
        project(camera.to_camera([[0.0, 0.0, 500.0]]), camera.k)  # (1, 2) pixels of a point of the rig

    Raises:
        HandloomError: a size, K, R, t, depth unit or distortion that no camera has.
    """

    name: str
    """Of letters, digits, - and _; unlike those of the other cameras."""
    width: int
    """Columns of the image."""
    height: int
    """Rows of the image."""
    k: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels."""
    r: tuple[tuple[float, float, float], ...] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    """Rotation from rig to camera, row by row."""
    t: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Translation from rig to camera, mm."""
    depth_unit_mm: float = 1.0
    """Millimetres of one step of the uint16 depth."""
    dist_model: str = "none"
    """A key of `DISTORTION_COEFFICIENTS`; most commands take cameras without distortion only."""
    dist: tuple[float, ...] = ()
    """Coefficients, in OpenCV's order."""
    serial: str = ""
    """By which a plugged-in camera is found to be this one."""

    def __post_init__(self) -> None:
        where = f"camera '{self.name}'"
        if self.width < 1 or self.height < 1:
            raise HandloomError("The image size is not positive", where=where, why=f"{self.width} x {self.height}")
        if max(self.width, self.height) > LARGEST_PX:
            size = f"{self.width} x {self.height}; no side may exceed {LARGEST_PX}"
            raise HandloomError("The image size is not plausible", where=where, why=size)
        if np.shape(self.k) != (4,) or np.asarray(self.k).dtype.kind not in "fiu":
            raise HandloomError(
                "The intrinsics are four numbers", where=where, why=f"this is {str(self.k)[:100]}", fix="fx, fy, cx, cy"
            )
        if not (np.isfinite(self.k).all() and self.k[0] > 0 and self.k[1] > 0):
            raise HandloomError("The intrinsics are not usable", where=where, why=f"fx, fy, cx, cy = {self.k}")
        if not (np.isfinite(self.depth_unit_mm) and self.depth_unit_mm > 0):
            raise HandloomError("depth_unit_mm must be positive", where=where, why=f"it is {self.depth_unit_mm}")
        rotation = self.rotation
        if rotation.shape != (3, 3) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4):
            raise HandloomError("R is not a rotation", where=where, why="R @ R.T differs from the identity")
        if np.linalg.det(rotation) < 0:
            raise HandloomError("R is a reflection, not a rotation", where=where, why="its determinant is -1")
        if not np.isfinite(self.t).all():
            raise HandloomError("t is not finite", where=where, why=f"t = {self.t}")
        allowed = DISTORTION_COEFFICIENTS.get(self.dist_model)
        if allowed is None:
            known = ", ".join(DISTORTION_COEFFICIENTS)
            raise HandloomError(f"Unknown distortion model '{self.dist_model}'", where=where, why=f"known: {known}")
        if len(self.dist) not in allowed:
            raise HandloomError(
                "Wrong number of distortion coefficients",
                where=where,
                why=f"{len(self.dist)} given, '{self.dist_model}' takes {' or '.join(map(str, allowed))}",
            )
        if not np.isfinite(self.dist).all():
            raise HandloomError("A distortion coefficient is not finite", where=where, why=f"dist = {self.dist}")

    @property
    def rotation(self) -> NDArray[np.float64]:
        """(3, 3) float64, rig to camera."""
        return np.array(self.r, np.float64)

    @property
    def translation(self) -> NDArray[np.float64]:
        """(3,) float64, mm, rig to camera."""
        return np.array(self.t, np.float64)

    def to_camera(self, points_rig: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 3) mm from the rig's frame into this camera's."""
        return np.asarray(points_rig, np.float64) @ self.rotation.T + self.translation

    def to_rig(self, points_camera: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 3) mm from this camera's frame into the rig's."""
        return (np.asarray(points_camera, np.float64) - self.translation) @ self.rotation

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to rig.toml and to a recording's attributes."""
        return {
            "name": self.name,
            "serial": self.serial,
            "width": self.width,
            "height": self.height,
            "K": [float(x) for x in self.k],
            "dist_model": self.dist_model,
            "dist": [float(x) for x in self.dist],
            "depth_unit_mm": float(self.depth_unit_mm),
            "R": [[float(x) for x in row] for row in self.r],
            "t": [float(x) for x in self.t],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """The camera written by `to_dict`.

        Raises:
            HandloomError: a key is missing, unknown or of the wrong form.
        """
        unknown = set(values) - {
            "name", "serial", "width", "height", "K", "dist_model", "dist", "depth_unit_mm", "R", "t",
        }  # fmt: skip
        if unknown:
            raise HandloomError(f"Unknown camera key '{min(unknown)}'", where=where)
        try:
            fx, fy, cx, cy = _numbers("K", values["K"])
            tx, ty, tz = _numbers("t", values.get("t", (0, 0, 0)))
            rows = [_numbers("R", row) for row in values.get("R", np.eye(3).tolist())]
            (a, b, c), (d, e, f), (g, h, i) = rows
            return cls(
                name=_text("name", values["name"]),
                width=_whole("width", values["width"]),
                height=_whole("height", values["height"]),
                k=(fx, fy, cx, cy),
                r=((a, b, c), (d, e, f), (g, h, i)),
                t=(tx, ty, tz),
                depth_unit_mm=_numbers("depth_unit_mm", [values.get("depth_unit_mm", 1.0)])[0],
                dist_model=_text("dist_model", values.get("dist_model", "none")),
                dist=_numbers("dist", values.get("dist", ())),
                serial=str(values.get("serial", "")),
            )
        except KeyError as error:
            raise HandloomError(f"A camera lacks the key {error}", where=where) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise HandloomError("A camera entry has the wrong form", where=where, why=str(error)) from error


def _numbers(key: str, values: Any) -> tuple[float, ...]:
    """A list of numbers; neither text nor truth values, which Python would take for some."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise TypeError(f"{key} is {values!r:.60}, not a list of numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{key} holds {value!r:.60}, not a number")
    return tuple(float(value) for value in values)


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{key} is {value!r:.60}, not a whole number")
    return value


def _text(key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r:.60}, not text in quotes")
    return value


@dataclass(frozen=True, slots=True)
class Rig:
    """The cameras that look at one volume, in the order of the views of a recording."""

    cameras: tuple[Camera, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not names:
            raise HandloomError("A rig needs at least one camera")
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise HandloomError(f"Two cameras of the rig are called '{twice}'", fix="give each camera its own name")
        for name in names:
            if not (re.fullmatch(r"[A-Za-z0-9_-]+", name) and len(name) <= LONGEST_NAME):
                raise HandloomError(
                    f"{name[:LONGEST_NAME]!r} cannot name a camera",
                    why=f"names become folders: at most {LONGEST_NAME} of a-z, A-Z, 0-9, '-' and '_'",
                )
            if name == RIG_NAME:
                raise HandloomError(f"'{name}' cannot name a camera", why="it names the poses of all cameras together")
        folded = [name.casefold() for name in names]
        if len(set(folded)) != len(folded):
            twice = next(name for name in names if folded.count(name.casefold()) > 1)
            raise HandloomError(
                f"Two cameras differ from '{twice}' by nothing but capitals",
                why="names become folders, and some disks take both for one",
                fix="give each camera its own name",
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras' names, in view order."""
        return tuple(camera.name for camera in self.cameras)

    def __len__(self) -> int:
        return len(self.cameras)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as written to rig.toml and to a recording's attributes."""
        return {
            "schema": RIG_SCHEMA,
            "unit": "mm",
            "convention": CONVENTION,
            "camera": [camera.to_dict() for camera in self.cameras],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """The rig written by `to_dict`.

        Raises:
            HandloomError: another schema or unit, no camera, or a camera that is not one.
        """
        if values.get("schema") != RIG_SCHEMA:
            raise HandloomError(
                "This is not a rig description",
                where=where,
                why=f"schema is {values.get('schema')!r}, not '{RIG_SCHEMA}'",
            )
        if values.get("unit", "mm") != "mm":
            raise HandloomError("Rigs are in millimetres", where=where, why=f"unit = {values['unit']!r}")
        if values.get("convention", CONVENTION) != CONVENTION:
            raise HandloomError(
                "The rig states another convention",
                where=where,
                why=f"{str(values['convention'])[:120]!r}; ours is: {CONVENTION}",
                fix="turn the poses into ours, then leave the line out",
            )
        unknown = set(values) - {"schema", "unit", "convention", "camera"}
        if unknown:
            raise HandloomError(f"Unknown key '{min(unknown)}' of a rig", where=where)
        entries = values.get("camera")
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise HandloomError("The rig lists no [[camera]]", where=where)
        return cls(tuple(Camera.from_dict(entry, where=f"{where}, camera {i}") for i, entry in enumerate(entries)))


def refuse_distortion(rig: Rig, *, where: str) -> None:
    """Stop where a camera is no pinhole: crops and renders would be of another geometry than its images.

    Raises:
        HandloomError: naming the camera.
    """
    for camera in rig.cameras:
        if any(camera.dist):
            raise HandloomError(
                f"Camera '{camera.name}' has lens distortion",
                where=where,
                why=f"dist = {list(camera.dist)}; crops and rendered images are those of pinhole cameras",
                fix="undistort its images (cv2.initUndistortRectifyMap and cv2.remap, nearest pixel), "
                "then give the new K without dist",
            )


def read_rig(path: str | Path) -> Rig:
    """The rig of a rig.toml, as `capture calibrate` and `write_rig` write it.

    Raises:
        HandloomError: the file is missing, not TOML, or not a rig.
    """
    path = Path(path) if isinstance(path, str) else path
    try:
        values = read_toml(path)
    except FileNotFoundError as error:
        raise HandloomError("There is no rig description", where=str(path)) from error
    except (ValueError, OSError) as error:
        raise HandloomError("The rig description cannot be read", where=str(path), why=said(error)) from error
    rig = Rig.from_dict(values, where=str(path))
    for camera in rig.cameras:
        farthest_m = camera.depth_unit_mm * 65.535
        if not PLAUSIBLE_UNIT_MM[0] <= camera.depth_unit_mm <= PLAUSIBLE_UNIT_MM[1]:
            raise HandloomError(
                "depth_unit_mm is not plausible",
                where=f"{path}, camera '{camera.name}'",
                why=f"with {camera.depth_unit_mm:g} mm a step the farthest depth is {farthest_m:.4g} m",
                fix="give millimetres: 1.0 for depth in whole mm, 0.25 for a quarter, not metres",
            )
        if max(map(abs, camera.t)) > LARGEST_T_MM:
            where, why = f"{path}, camera '{camera.name}'", f"t = {list(camera.t)} mm"
            raise HandloomError("The camera is not plausible", where=where, why=why)
    return rig


def write_rig(rig: Rig, path: Path) -> None:
    """Write a rig.toml that `read_rig` gives back exactly."""
    lines = [f'schema = "{RIG_SCHEMA}"', 'unit = "mm"', f'convention = "{CONVENTION}"']
    for camera in rig.cameras:
        lines += ["", "[[camera]]"]
        # repr of a float is the shortest text that reads back to the same number; TOML strings are JSON's.
        lines += [f"{key} = {_toml(value)}" for key, value in camera.to_dict().items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _toml(value: object) -> str:
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            return repr(value)


def project(points_mm: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Pixels (..., 2) of points (..., 3) mm in the camera's frame; `k` (..., 4) = fx fy cx cy."""
    p, k = np.asarray(points_mm, np.float64), np.asarray(k, np.float64)
    uv: NDArray[np.float64] = p[..., :2] / p[..., 2:3] * k[..., :2] + k[..., 2:]
    return uv


def unproject(uv_px: ArrayLike, depth_mm: ArrayLike, k: ArrayLike) -> NDArray[np.float64]:
    """Points (..., 3) mm in the camera's frame of pixels (..., 2) at z-depth (...) mm: `project` undone."""
    uv, z, k = (
        np.asarray(uv_px, np.float64),
        np.asarray(depth_mm, np.float64)[..., None],
        np.asarray(k, np.float64),
    )
    return np.concatenate([(uv - k[..., 2:]) / k[..., :2] * z, z], axis=-1)


def depth_to_points(depth_mm: NDArray[Any], k: ArrayLike) -> NDArray[np.float64]:
    """Points (n, 3) mm of the pixels of a (H, W) depth image that have a return (depth > 0)."""
    v, u = np.nonzero(depth_mm)
    return unproject(np.stack([u, v], axis=-1), depth_mm[v, u], k)
