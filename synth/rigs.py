"""Rigs of cameras around a volume whose centre is the rig's origin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig
from ..stores.errors import HandloomError


def looking_at(position_mm: NDArray[Any], target_mm: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """R (3, 3) and t (3,) of a camera at a position that looks at a target, its image upright.

    Upright means that the rig's y axis points down in the image.

    Raises:
        HandloomError: the camera would look straight along the rig's y axis.
    """
    forward = target_mm - position_mm
    forward = forward / np.linalg.norm(forward)
    right = np.cross([0.0, 1.0, 0.0], forward)
    length = float(np.linalg.norm(right))
    if length < 1e-6:
        raise HandloomError(
            "A camera looks straight up or down", why="its image has no upright then", fix="move it a little"
        )
    right /= length
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ position_mm


def ring_rig(
    views: int,
    *,
    distance_mm: float = 500.0,
    spread_deg: float = 80.0,
    elevation_deg: float = 12.0,
    width: int = 320,
    height: int = 240,
    focal_px: float = 241.0,
    depth_unit_mm: float = 1.0,
) -> Rig:
    """Cameras on an arc in front of the volume, all looking at its centre.

    Args:
        views: number of cameras, named cam0, cam1 …; the first stands in the middle of the arc.
        distance_mm: from the volume's centre.
        spread_deg: angle between the outermost cameras; 360 is a full ring.
        elevation_deg: the others stand above and below the first by this much, in turn.
        width: of each image, pixels.
        height: of each image, pixels.
        focal_px: of each camera.
        depth_unit_mm: of each camera.
    """
    if views < 1:
        raise HandloomError("A rig needs at least one camera", why=f"views = {views}")
    step = spread_deg / (views if spread_deg >= 360 else max(views - 1, 1))
    # 0, +1, -1, +2, -2 …: the first camera faces the hand, the others stand to both sides.
    places = [(i + 1) // 2 * (1 if i % 2 else -1) for i in range(views)]
    cameras = []
    for i, place in enumerate(places):
        azimuth = np.radians(place * step)
        elevation = np.radians(elevation_deg * (0 if i == 0 else (1 if i % 2 else -1)))
        direction = np.array(
            [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), -np.cos(azimuth) * np.cos(elevation)]
        )
        rotation, translation = looking_at(direction * distance_mm, np.zeros(3))
        (a, b, c), (d, e, f), (g, h, j) = (tuple(float(x) for x in row) for row in rotation)
        x, y, z = (float(value) for value in translation)
        cameras.append(
            Camera(
                name=f"cam{i}",
                width=width,
                height=height,
                k=(focal_px, focal_px, (width - 1) / 2, (height - 1) / 2),
                r=((a, b, c), (d, e, f), (g, h, j)),
                t=(x, y, z),
                depth_unit_mm=depth_unit_mm,
            )
        )
    return Rig(tuple(cameras))
