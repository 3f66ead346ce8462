"""Rigs of cameras around a volume whose centre is the rig's origin: a ring, a bar, a dome, or one that you bring."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig, project
from ..stores.errors import HandloomError

F64 = NDArray[np.float64]
Arrangement = Literal["ring", "line", "dome"]

GOLDEN_ANGLE: Final = np.pi * (3 - np.sqrt(5))
SEEN_AT_LEAST: Final = 0.5
"""Share of the volume that at least one camera of a rig must see."""
HAND_MM: Final = 300.0
"""Side of the cube around a palm that holds the hand; what networks look at."""

MAX_STEPS: Final = 65535
"""Depth is stored as uint16."""


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


class Images(TypedDict, total=False):
    """What all cameras of a made rig have in common: pixels, and mm of a step of depth.

    Default 320 × 240, f 241 px, 1 mm; the principal point is the image's middle.
    """

    width: int
    height: int
    focal_px: float
    depth_unit_mm: float


def ring_rig(
    views: int,
    *,
    distance_mm: float = 500.0,
    spread_deg: float = 80.0,
    elevation_deg: float = 12.0,
    **images: Unpack[Images],
) -> Rig:
    """Cameras on an arc in front of the volume, all looking at its centre.

    Args:
        views: number of cameras, named cam0, cam1 …; the first stands in the middle of the arc.
        distance_mm: from the volume's centre.
        spread_deg: angle between the outermost cameras; 360 is a full ring.
        elevation_deg: the others stand above and below the first by this much, in turn.
        images: their size, focal length and unit.
    """
    step = spread_deg / (views if spread_deg >= 360 else max(views - 1, 1))
    directions = []
    for i, place in enumerate(_from_the_middle(views)):
        azimuth = np.radians(place * step)
        elevation = np.radians(elevation_deg * (0 if i == 0 else (1 if i % 2 else -1)))
        directions.append(
            [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), -np.cos(azimuth) * np.cos(elevation)]
        )
    positions = np.array(directions).reshape(-1, 3) * distance_mm
    return _rig(positions, np.zeros_like(positions), images)


def line_rig(
    views: int,
    *,
    distance_mm: float = 500.0,
    spread_deg: float = 80.0,
    elevation_deg: float = 0.0,
    toe_in: bool = True,
    **images: Unpack[Images],
) -> Rig:
    """Cameras at even distances on a straight bar in front of the volume.

    Args:
        views: number of cameras, named cam0, cam1 …; the first stands in the middle of the bar.
        distance_mm: from the bar's middle to the volume's centre; the outer cameras are farther from it.
        spread_deg: angle between the outermost cameras as the volume sees them, below 180.
        elevation_deg: how high above the volume the bar is, as the volume sees it.
        toe_in: whether all look at the volume's centre; else their axes are parallel.
        images: their size, focal length and unit.

    Raises:
        HandloomError: a bar cannot spread so far.
    """
    if not 0 <= spread_deg < 180:
        raise HandloomError(
            "A bar of cameras cannot spread so far",
            why=f"spread_deg = {spread_deg:g}; the ends of a straight bar are less than 180 degrees apart",
            fix="take a smaller spread_deg, or cameras=ring",
        )
    step = 2 * distance_mm * np.tan(np.radians(spread_deg / 2)) / max(views - 1, 1)
    elevation = np.radians(elevation_deg)
    # y points down in the rig's frame: above is negative.
    middle = distance_mm * np.array([0.0, -np.sin(elevation), -np.cos(elevation)])
    positions = middle + step * np.outer(_from_the_middle(views, centred=True), [1.0, 0.0, 0.0])
    return _rig(positions, np.zeros_like(positions) if toe_in else positions - middle, images)


def dome_rig(
    views: int,
    *,
    distance_mm: float = 500.0,
    spread_deg: float = 80.0,
    elevation_deg: float = 0.0,
    **images: Unpack[Images],
) -> Rig:
    """Cameras spread over a cap of a sphere, all looking at its centre: a Fibonacci lattice (Swinbank & Purser 2006).

    Args:
        views: number of cameras, named cam0, cam1 …; the first stands on the cap's axis, the last at its rim.
        distance_mm: from the volume's centre.
        spread_deg: opening of the cap: 180 is a hemisphere, 360 the whole sphere.
        elevation_deg: of the cap's axis above the horizon.
        images: their size, focal length and unit.
    """
    at = np.arange(views)
    cosine = 1 - (1 - np.cos(np.radians(min(spread_deg, 360) / 2))) * at / max(views - 1, 1)
    sine = np.sqrt(np.maximum(1 - cosine**2, 0))
    elevation = np.radians(elevation_deg)
    back, up = (
        np.array([0.0, -np.sin(elevation), -np.cos(elevation)]),
        np.array([0.0, -np.cos(elevation), np.sin(elevation)]),
    )

    def turned(by: float) -> F64:
        angle = at * GOLDEN_ANGLE + by
        right = np.array([1.0, 0.0, 0.0])
        out: F64 = cosine[:, None] * back + sine[:, None] * (
            np.cos(angle)[:, None] * right + np.sin(angle)[:, None] * up
        )
        return out

    # A camera straight above or below has no upright: turn the lattice so that all stay away from there.
    lattices = [turned(by) for by in np.arange(48) * np.pi / 24]
    directions = min(lattices, key=lambda lattice: float(np.abs(lattice[:, 1]).max(initial=0)))
    positions = distance_mm * directions
    return _rig(positions, np.zeros_like(positions), images)


def _from_the_middle(views: int, *, centred: bool = False) -> F64:
    """0, +1, −1, +2, −2 …: the first camera faces the hand, the others stand to both sides.

    Centred, an even number lies alike far to both sides, half a step off the middle.
    """
    places = [(i + 1) // 2 * (1 if i % 2 else -1) for i in range(views)]
    return np.array(places, float) - (0.5 if centred and views % 2 == 0 else 0.0)


def _rig(positions: F64, targets: F64, images: Images) -> Rig:
    """Cameras cam0, cam1 … at positions (V, 3) that look at targets (V, 3), mm, rig frame."""
    if not len(positions):
        raise HandloomError("A rig needs at least one camera", why="views = 0")
    width, height = images.get("width", 320), images.get("height", 240)
    focal_px, depth_unit_mm = images.get("focal_px", 241.0), images.get("depth_unit_mm", 1.0)
    cameras = []
    for i, (position, target) in enumerate(zip(positions, targets, strict=True)):
        rotation, translation = looking_at(position, target)
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


def volume_share(rig: Rig, radius_mm: float) -> tuple[float, ...]:
    """For each camera the share of a ball about the rig's origin that lies inside its image, 0 to 1."""
    return tuple(float(share.mean()) for share in _shares(rig, radius_mm, 0.0))


def hand_share(rig: Rig, radius_mm: float) -> tuple[float, ...]:
    """For each camera the mean share of a hand that its image holds, the palm anywhere in a ball about the origin.

    A hand is its cube, seen as a square at the palm's depth.
    """
    return tuple(float(share.mean()) for share in _shares(rig, radius_mm, HAND_MM))


def _shares(rig: Rig, radius_mm: float, side_mm: float) -> Iterator[NDArray[np.float64]]:
    """Of each camera, for points that fill the ball: which part of a square around each its image holds."""
    axis = np.linspace(-1, 1, 12)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    points = radius_mm * points[np.linalg.norm(points, axis=1) <= 1]
    for camera in rig.cameras:
        seen = camera.to_camera(points)
        ahead = seen[:, 2] > 1.0
        pixels = project(np.where(ahead[:, None], seen, [0.0, 0.0, 1.0]), camera.k)
        size = np.array([camera.width, camera.height])
        # A point is a square of a thousandth of a pixel.
        half = np.maximum(side_mm / 2 * np.array(camera.k[:2]) / np.where(ahead, seen[:, 2], 1.0)[:, None], 5e-4)
        low, high = (np.clip(pixels + sign * half, -0.5, size - 0.5) for sign in (-1, 1))
        yield (ahead * ((high - low) / (2 * half)).prod(axis=1)).round(9)


def check_volume(rig: Rig, radius_mm: float, *, where: str, every: bool = False) -> None:
    """Stop where the cameras do not see the ball about the rig's origin that the palm moves in.

    Args:
        rig: the cameras.
        radius_mm: of the ball.
        where: what to name in the error.
        every: whether every camera must see half of it; else one that does is enough, if the others see some.

    Raises:
        HandloomError: naming the best camera, the worst with `every`, one that sees nothing, or one whose
            steps of depth are too small to reach the hands.
    """
    shares = volume_share(rig, radius_mm)
    share = min(shares) if every else max(shares)
    fix = "put the rig's origin where the hand is, or take a smaller volume_radius_mm or focal_px"
    if share < SEEN_AT_LEAST:
        name = rig.names[shares.index(share)]
        raise HandloomError(
            f"Camera '{name}' does not see the volume" if every else "No camera sees the volume",
            where=where,
            why=f"{'it' if every else f'the best, {name!r},'} sees {share:.0%} of a ball of {radius_mm:g} mm about the "
            "rig's origin",
            fix=fix,
        )
    if min(shares) == 0:
        # One view in so many would stay empty, for as long as the run takes.
        camera = rig.cameras[shares.index(0)]
        x, y, z = camera.to_camera(np.zeros(3))
        raise HandloomError(
            f"Camera '{camera.name}' sees nothing of the volume",
            where=where,
            why=f"the rig's origin lies at ({x:.0f}, {y:.0f}, {z:.0f}) mm in it, x right, y down, z forward",
            fix=f"correct its R and t, or leave it out; {fix}",
        )
    _check_depth(rig, radius_mm, where=where)


def _check_depth(rig: Rig, radius_mm: float, *, where: str) -> None:
    """Stop where uint16 steps of depth end before the hands do: what is farther would be stored as nothing."""
    for camera in rig.cameras:
        reach_mm = MAX_STEPS * camera.depth_unit_mm
        farthest_mm = float(camera.to_camera(np.zeros(3))[2]) + radius_mm + HAND_MM / 2
        if farthest_mm > reach_mm:
            raise HandloomError(
                f"Camera '{camera.name}' cannot store the depth of the volume",
                where=where,
                why=f"{MAX_STEPS} steps of depth_unit_mm = {camera.depth_unit_mm:g} reach to {reach_mm:.0f} mm, "
                f"hands to {farthest_mm:.0f} mm",
                fix=f"take a depth_unit_mm of {farthest_mm / MAX_STEPS:.2g} or more; most cameras have 1",
            )
