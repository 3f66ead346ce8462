"""What a camera sees beside the hand, and one whole frame of it: background, hand, sensor.

Backgrounds do not move: they are drawn once per camera into a depth image and merged with the hand by z.
Only the hand's own box of pixels is drawn for a frame; without a background the sensor sees only it, too.
Cost of a frame: 0.3 ms at 320 × 240 without background, 2.5 ms with one (the sensor then sees every pixel).
"""

from __future__ import annotations

from math import ceil, floor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera
from ..stores.crops import window_k
from . import sensor as sensors
from .render import Renderer
from .windows import bounds, moved

F32 = NDArray[np.float32]

NEAR_MM: Final = 50.0
"""A hand reaching nearer than this to the camera is drawn on the whole frame."""


def in_camera(camera: Camera, vertices_rig: NDArray[Any]) -> F32:
    """Vertices (..., N, 3) float32 mm from the rig's frame into a camera's."""
    rotation, shift = camera.rotation.astype(np.float32), camera.translation.astype(np.float32)
    vertices = np.ascontiguousarray(vertices_rig, np.float32)
    out: F32 = moved(vertices.reshape(-1, 3), rotation, shift).reshape(vertices.shape)
    return out


def pixel_box(camera: Camera, vertices_cam: F32, margin_px: int) -> tuple[int, int, int, int]:
    """Left, top, width, height of the pixels that vertices (N, 3) cover, clipped to the image; maybe empty."""
    near, _, least_x, most_x, least_y, most_y = bounds(vertices_cam)
    if near < NEAR_MM:
        return 0, 0, camera.width, camera.height
    fx, fy, cx, cy = camera.k
    size = (camera.width, camera.height)
    least = (fx * least_x + cx, fy * least_y + cy)
    most = (fx * most_x + cx, fy * most_y + cy)
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
        background: (H, W) mm of what does not move, drawn once by any renderer; None: nothing stands there.
        sensor: None gives exact depth.
        seed: of the sensor's noise.
        frame: index of the frame.
        view: index of the camera.
    """
    shape = (camera.height, camera.width)
    vertices = in_camera(camera, vertices_rig)
    margin = sensors.reach_px(sensor) + 1
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
