"""What a camera sees beside the hand, and one whole frame of it: background, hand, sensor.

Backgrounds do not move: they are drawn once per camera into a depth image and merged with the hand by z.
Only the hand's own box of pixels is drawn for a frame; without a background the sensor sees only it, too.
Cost of a frame: 0.3 ms at 320 × 240 without background, 2.5 ms with one (the sensor then sees every pixel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera
from ..stores.crops import window_k
from . import sensor as sensors
from .render import Renderer

F32 = NDArray[np.float32]

NEAR_MM: Final = 50.0
"""A hand reaching nearer than this to the camera is drawn on the whole frame."""


@dataclass(frozen=True, slots=True, eq=False)
class Mesh:
    """Vertices (N, 3) float32 mm in the rig's frame and faces (F, 3) int32."""

    vertices: F32
    faces: NDArray[np.int32]


def box(center_mm: Sequence[float], size_mm: Sequence[float]) -> Mesh:
    """A box with its sides along the rig's axes."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [face for a, b, c, d in quads for face in ((a, b, c), (a, c, d))]
    vertices = np.asarray(center_mm, np.float32) + signs * np.asarray(size_mm, np.float32) / 2
    return Mesh(vertices.astype(np.float32), np.array(faces, np.int32))


def ellipsoid(center_mm: Sequence[float], radii_mm: Sequence[float], *, rings: int = 16) -> Mesh:
    """An ellipsoid with its axes along the rig's, poles at ±y."""
    around = 2 * rings
    theta = np.linspace(0, np.pi, rings + 1)[:, None]
    phi = np.arange(around)[None] / around * 2 * np.pi
    sphere = np.stack(
        np.broadcast_arrays(np.sin(theta) * np.cos(phi), np.cos(theta), np.sin(theta) * np.sin(phi)), axis=-1
    )
    i, j = (index.ravel() for index in np.mgrid[:rings, :around])
    a, b = i * around + j, i * around + (j + 1) % around
    faces = np.concatenate([np.stack([a, b, a + around], 1), np.stack([b, b + around, a + around], 1)])
    vertices = np.asarray(center_mm) + sphere.reshape(-1, 3) * np.asarray(radii_mm)
    return Mesh(vertices.astype(np.float32), faces.astype(np.int32))


def desk(*, table_mm: float = 260.0, wall_mm: float = 1400.0, person_mm: float = 520.0) -> tuple[Mesh, ...]:
    """A place to sit: a table below the volume, the person's trunk and head behind it, a room around them.

    Args:
        table_mm: from the volume's centre down to the table's top.
        wall_mm: back to the wall; the side walls are half as far again.
        person_mm: back to the middle of the trunk.
    """
    depth = 2.0 * wall_mm + 800
    return (
        box((0, table_mm + 20, 150), (1400, 40, 800)),
        ellipsoid((60, 160, person_mm), (210, 340, 120)),
        ellipsoid((60, -300, person_mm), (80, 115, 95)),
        box((0, -200, wall_mm - depth / 2), (3.0 * wall_mm, 2.0 * wall_mm, depth)),
    )


def background(renderer: Renderer, camera: Camera, meshes: Sequence[Mesh]) -> F32:
    """(H, W) float32 mm: what `camera` sees of meshes in the rig's frame, 0 = nothing."""
    first = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, first[:-1], strict=True)])
    return renderer.render(in_camera(camera, vertices), faces, np.array(camera.k), camera.width, camera.height).depth_mm


def in_camera(camera: Camera, vertices_rig: NDArray[Any]) -> F32:
    """Vertices (..., N, 3) float32 mm from the rig's frame into a camera's."""
    rotation, shift = camera.rotation.astype(np.float32), camera.translation.astype(np.float32)
    return np.ascontiguousarray(np.asarray(vertices_rig, np.float32) @ rotation.T + shift)


def pixel_box(camera: Camera, vertices_cam: F32, margin_px: int) -> tuple[int, int, int, int]:
    """Left, top, width, height of the pixels that vertices (N, 3) cover, clipped to the image; maybe empty."""
    z = vertices_cam[:, 2]
    if z.min() < NEAR_MM:
        return 0, 0, camera.width, camera.height
    fx, fy, cx, cy = camera.k
    # A tenth of `project`'s cost, and float32 is near enough to choose a box by, with a pixel to spare.
    x, y = vertices_cam[:, 0] / z, vertices_cam[:, 1] / z
    size = (camera.width, camera.height)
    least = (fx * float(x.min()) + cx, fy * float(y.min()) + cy)
    most = (fx * float(x.max()) + cx, fy * float(y.max()) + cy)
    low = [min(max(floor(value) - margin_px, 0), limit) for value, limit in zip(least, size, strict=True)]
    high = [min(max(ceil(value) + 1 + margin_px, 0), limit) for value, limit in zip(most, size, strict=True)]
    return low[0], low[1], high[0] - low[0], high[1] - low[1]


def render_frame(
    renderer: Renderer,
    camera: Camera,
    vertices_rig: NDArray[Any],
    faces: NDArray[Any],
    *,
    background: F32 | None,
    sensor: sensors.Sensor | None,
    seed: int,
    frame: int,
    view: int,
) -> NDArray[np.uint16]:
    """One full frame (H, W) uint16 in the camera's unit, 0 = no return.

    Args:
        renderer: what draws the hand.
        camera: that looks at it.
        vertices_rig: (N, 3) mm of the hand's mesh in the rig's frame.
        faces: (F, 3) of it.
        background: (H, W) mm of what does not move, from `background`.
        sensor: None gives exact depth.
        seed: of the sensor's noise.
        frame: index of the frame.
        view: index of the camera.
    """
    shape = (camera.height, camera.width)
    vertices = in_camera(camera, vertices_rig)
    margin = sensors.JITTER_PX + 1
    left, top, width, height = pixel_box(camera, vertices, margin)
    hand = np.zeros((height, width), np.float32)
    if width and height:
        k = window_k(camera.k, left, top)
        hand = renderer.render(vertices, faces, k, width, height).depth_mm
    place = (slice(top, top + height), slice(left, left + width))

    def sensed(depth_mm: F32, window: tuple[int, int]) -> NDArray[np.uint16]:
        return sensors.apply(
            sensor, depth_mm, camera.k, window=window, depth_unit_mm=camera.depth_unit_mm,
            seed=seed, frame=frame, view=view,
        )  # fmt: skip

    if background is None:
        out = np.zeros(shape, np.uint16)
        if width and height:
            out[place] = sensed(hand, (left, top))
        return out
    assert background.shape == shape, f"{background.shape} for a camera of {shape}"
    merged = background.copy()
    behind = merged[place]
    merged[place] = np.where((hand > 0) & ((behind == 0) | (hand < behind)), hand, behind)
    return sensed(merged, (0, 0))
