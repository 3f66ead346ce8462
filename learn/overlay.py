"""A pose drawn over the depth it was read from, with OpenCV alone: the pictures of `predict --overlay`.

Left the whole image with the crop's box, right the hand at the network's window. Near is bright; a finger's
far bones are drawn first.
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..stores.camera import project
from ..stores.crops import crop_k
from ..stores.joints import FINGER_COLORS, Layout, finger_of

SIDE_PX: Final = 480
"""Height of the picture."""
FIXED_POINT: Final = 4
"""Bits of OpenCV's sub-pixel coordinates."""


def draw_overlay(
    depth_mm: NDArray[Any],
    k: ArrayLike,
    joints_mm: NDArray[Any],
    center_mm: ArrayLike,
    layout: Layout,
    *,
    window_mm: float,
    note: str = "",
    whole: bool = True,
    line_px: int = 4,
) -> NDArray[np.uint8]:
    """The picture (480, W, 3) BGR of one pose.

    Args:
        depth_mm: (H, W), 0 = no return.
        k: fx, fy, cx, cy.
        joints_mm: (J, 3) in the camera.
        center_mm: (3,) of the crop the network saw.
        layout: says which joints are joined.
        window_mm: side of that crop.
        note: written below.
        whole: draw the whole image on the left; not for depth that is a crop itself.
        line_px: width of the bones at the window's size; more for pictures that will be shrunk.
    """
    center, k = np.asarray(center_mm, np.float64), np.asarray(k, np.float64)
    near_mm, far_mm = center[2] - window_mm / 2, center[2] + window_mm / 2
    close_k = crop_k(center, k, crop_px=SIDE_PX, window_mm=window_mm)
    close = _shade(_zoom(depth_mm, k, close_k), near_mm, far_mm)
    _skeleton(close, project(joints_mm, close_k), joints_mm[:, 2], layout, width_px=line_px)
    panels = [close]
    if whole:
        scale = SIDE_PX / depth_mm.shape[0]
        width = max(1, round(depth_mm.shape[1] * scale))
        small = cv2.resize(depth_mm.astype(np.float32), (width, SIDE_PX), interpolation=cv2.INTER_NEAREST)
        image = _shade(small, near_mm, far_mm)
        whole_k = k * scale
        whole_k[2:] = (k[2:] + 0.5) * scale - 0.5
        corners = _window_corners(center, window_mm, whole_k)
        cv2.rectangle(image, *corners, (170, 150, 120), 1, cv2.LINE_AA)
        _skeleton(image, project(joints_mm, whole_k), joints_mm[:, 2], layout, width_px=2)
        panels = [image, np.full((SIDE_PX, 4, 3), 60, np.uint8), close]
    picture = np.hstack(panels)
    if note:
        picture[SIDE_PX - 28 :] //= 3
        place = (10, SIDE_PX - 10)
        cv2.putText(picture, note, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (230, 230, 230), 1, cv2.LINE_AA)
    return picture


def _zoom(depth_mm: NDArray[Any], k: NDArray[np.float64], new_k: NDArray[np.float64]) -> NDArray[np.float32]:
    """The image as the crop's camera shows it, nearest pixel, 0 outside."""
    grid = np.arange(SIDE_PX)
    u = np.clip((grid - new_k[2]) / new_k[0] * k[0] + k[2], -1, depth_mm.shape[1]).astype(np.float32)
    v = np.clip((grid - new_k[3]) / new_k[1] * k[1] + k[3], -1, depth_mm.shape[0]).astype(np.float32)
    map_u, map_v = np.meshgrid(np.rint(u), np.rint(v))
    found = cv2.remap(depth_mm.astype(np.float32), map_u, map_v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(found, np.float32)


def _shade(depth_mm: NDArray[np.float32], near_mm: float, far_mm: float) -> NDArray[np.uint8]:
    """Depth as bluish grey (H, W, 3): bright at the hand, dim behind it, nearly black without a return."""
    span = np.clip((far_mm - depth_mm) / (far_mm - near_mm), 0, 1)
    value = np.where(depth_mm > 0, 55 + 160 * span, 14).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(value, cv2.COLORMAP_BONE), np.uint8)


def _window_corners(
    center: NDArray[np.float64], window_mm: float, k: NDArray[np.float64]
) -> tuple[tuple[int, int], tuple[int, int]]:
    middle = project(center, k)
    half = window_mm / 2 / center[2] * k[0]
    low, high = np.rint(middle - half).astype(int), np.rint(middle + half).astype(int)
    limit = 1 << 14  # OpenCV draws with 16-bit fixed point
    low, high = np.clip(low, -limit, limit), np.clip(high, -limit, limit)
    return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))


def _skeleton(
    image: NDArray[np.uint8],
    joints_px: NDArray[np.float64],
    depth_mm: NDArray[Any],
    layout: Layout,
    *,
    width_px: int,
) -> None:
    """Draw bones and joints, far ones first, each with a dark rim."""
    unit = 1 << FIXED_POINT
    drawable = np.isfinite(joints_px).all(axis=1) & (np.abs(joints_px) < 1 << 13).all(axis=1) & (depth_mm > 0)
    points = np.zeros(joints_px.shape, np.int64)
    points[drawable] = np.rint(joints_px[drawable] * unit)
    bones = [(a, b) for a, b in layout.edges if drawable[a] and drawable[b]]
    for a, b in sorted(bones, key=lambda bone: -float(depth_mm[list(bone)].mean())):
        ends = tuple(map(int, points[a])), tuple(map(int, points[b]))
        color = _bgr(layout.points[b])
        cv2.line(image, *ends, (20, 20, 20), width_px + 2, cv2.LINE_AA, FIXED_POINT)
        cv2.line(image, *ends, color, width_px, cv2.LINE_AA, FIXED_POINT)
    for joint in np.argsort(-np.nan_to_num(depth_mm)):
        if drawable[joint] and width_px > 2:
            place = (int(points[joint][0]), int(points[joint][1]))
            radius = round((width_px * 0.75 + 0.5) * unit)
            cv2.circle(image, place, radius + unit, (20, 20, 20), -1, cv2.LINE_AA, FIXED_POINT)
            cv2.circle(image, place, radius, _bgr(layout.points[joint]), -1, cv2.LINE_AA, FIXED_POINT)


def _bgr(point: str) -> tuple[int, int, int]:
    color = FINGER_COLORS[finger_of(point)]
    return int(color[5:7], 16), int(color[3:5], 16), int(color[1:3], 16)
