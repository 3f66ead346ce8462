"""Whether a rig's cameras see the volume that hands are placed in.

The palm lies anywhere in a ball about the rig's origin, and its hand in a cube around it. A camera that sees
few of these cubes whole gives cropped hands; one that sees none gives empty views, for as long as a run takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig, project
from ..stores.errors import HandloomError
from .scene import NEAR_MM

CUBE_MM: Final = 300.0
"""Side of the cube around a palm that holds a hand; what networks look at."""
POINTS: Final = 2000


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the volume a camera sees, shares in [0, 1]."""

    camera: str
    palms: float
    """Of the volume's points, those that fall into the image; the others give empty crops."""
    cubes: float
    """Mean share of a hand's cube, at its palm's depth, that lies inside the image."""
    where: str
    """Where the middle of the volume lies for this camera, in words."""


def coverage(rig: Rig, radius_mm: float) -> list[Coverage]:
    """What each camera sees of a ball of `radius_mm` about the rig's origin."""
    return [_of_camera(camera, radius_mm) for camera in rig.cameras]


def check_rig(rig: Rig, radius_mm: float, *, where: str) -> None:
    """Refuse a rig of which a camera sees no point of the volume.

    Raises:
        HandloomError: with the camera's name and where the volume lies for it.
    """
    blind = [seen for seen in coverage(rig, radius_mm) if seen.palms == 0]
    if blind:
        raise HandloomError(
            f"Camera '{blind[0].camera}' does not see the volume where the hands are",
            where=where,
            why=blind[0].where,
            fix="put the rig's origin in the middle of the volume (R and t of rig.toml), or leave the camera out",
        )


def ball(count: int, radius_mm: float) -> NDArray[np.float64]:
    """(count, 3) mm, points that fill a ball evenly: a golden spiral whose radii grow with the cube root."""
    i = np.arange(count) + 0.5
    turn = np.pi * (1 + 5**0.5) * i
    z = 1 - 2 * np.modf(i * 0.7548776662466927)[0]  # the plastic number's sequence: no beat with the radii
    flat = np.sqrt(1 - z * z)
    direction = np.stack([flat * np.cos(turn), flat * np.sin(turn), z], axis=1)
    return np.asarray(direction * (radius_mm * np.cbrt(i / count))[:, None])


def _of_camera(camera: Camera, radius_mm: float) -> Coverage:
    points = camera.to_camera(ball(POINTS, radius_mm))
    front = points[:, 2] >= NEAR_MM
    pixels = project(points[front], camera.k)
    size = np.array([camera.width, camera.height])
    inside = ((pixels >= -0.5) & (pixels < size - 0.5)).all(axis=1)
    half = CUBE_MM / 2 * np.array(camera.k[:2]) / points[front, 2:]
    low, high = np.clip(pixels - half, -0.5, size - 0.5), np.clip(pixels + half, -0.5, size - 0.5)
    shares = ((high - low) / (2 * half)).prod(axis=1)
    return Coverage(camera.name, inside.sum() / POINTS, shares.sum() / POINTS, _place(camera))


def _place(camera: Camera) -> str:
    x, y, z = camera.to_camera(np.zeros(3))
    at = f"its middle is at ({x:.0f}, {y:.0f}, {z:.0f}) mm in the camera"
    if z < NEAR_MM:
        return at + (", behind it" if z <= 0 else ", too near")
    u, v = project(np.array([x, y, z]), camera.k)
    return f"{at}, pixel ({u:.0f}, {v:.0f}) of {camera.width} x {camera.height}"


def lines(seen: Sequence[Coverage]) -> list[str]:
    """For people: a line a camera."""
    return [f"{s.camera} {s.palms:.0%} of palms, {s.cubes:.0%} of hands" for s in seen]
