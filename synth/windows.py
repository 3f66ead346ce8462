"""The small loops between a mesh, a camera's window and a crop, compiled: each takes microseconds.

Numpy took 0.15 ms a view longer for the same results, more than drawing the hand takes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip

F32 = NDArray[np.float32]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def moved(points: F32, rotation: F32, shift: F32) -> F32:
    """Points (N, 3) turned by `rotation` (3, 3), then moved by `shift` (3,)."""
    out = np.empty_like(points)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        for axis in range(3):
            out[i, axis] = rotation[axis, 0] * x + rotation[axis, 1] * y + rotation[axis, 2] * z + shift[axis]
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def bounds(points: F32) -> tuple[float, float, float, float, float, float]:
    """Least and most z, x / z and y / z of points (N, 3); the last four mean nothing where a z is not positive."""
    least_z, least_x, least_y = np.inf, np.inf, np.inf
    most_z, most_x, most_y = -np.inf, -np.inf, -np.inf
    for i in range(len(points)):
        z = np.float64(points[i, 2])
        x, y = points[i, 0] / z, points[i, 1] / z
        least_z, most_z = min(least_z, z), max(most_z, z)
        least_x, most_x = min(least_x, x), max(most_x, x)
        least_y, most_y = min(least_y, y), max(most_y, y)
    return least_z, most_z, least_x, most_x, least_y, most_y


@nb.njit(cache=True, nogil=True)
def parts_of(triangle: NDArray[np.int32], parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The part of each pixel of (H, W) triangle numbers; −1 finds the last of `parts` (F + 1,)."""
    out = np.empty(triangle.shape, np.uint8)
    for v in range(triangle.shape[0]):
        for u in range(triangle.shape[1]):
            out[v, u] = parts[triangle[v, u]]
    return out


@nb.njit(cache=True, nogil=True)
def cut(
    depth: NDArray[np.uint16],
    parts: NDArray[np.uint8],
    columns: NDArray[np.intp],
    rows: NDArray[np.intp],
    crop: NDArray[np.uint16],
    crop_parts: NDArray[np.uint8],
) -> None:
    """Fill a crop and its parts from a window, nearest pixels; what lies outside the window stays as it is.

    Args:
        depth: (h, w) of the window.
        parts: (h, w) bone + 1, 0 = nothing.
        columns: (S,) of the window for each of the crop's; outside it where there is none.
        rows: (S,) likewise.
        crop: (S, S) to fill.
        crop_parts: (S, S) to fill with the bones, 255 = nothing.
    """
    height, width = depth.shape
    for j in range(len(rows)):
        v = rows[j]
        if 0 <= v < height:
            for i in range(len(columns)):
                u = columns[i]
                if 0 <= u < width:
                    crop[j, i] = depth[v, u]
                    crop_parts[j, i] = parts[v, u] - np.uint8(1)


@nb.njit(cache=True, nogil=True)
def owned(
    pixels: NDArray[np.int64], parts: NDArray[np.uint8], flesh_of: NDArray[np.bool_], out: NDArray[np.uint8]
) -> None:
    """Set `out` (J,) to 1 where one of the nine pixels around (u, v) of `pixels` (J, 2) shows the joint's flesh.

    Args:
        pixels: may lie outside the image.
        parts: (H, W) bone + 1, 0 = nothing.
        flesh_of: (J, 256) whether a bone is a joint's flesh.
        out: to fill.
    """
    height, width = parts.shape
    for joint in range(len(pixels)):
        u0, v0 = pixels[joint, 0], pixels[joint, 1]
        for v in range(max(v0 - 1, 0), min(v0 + 2, height)):
            for u in range(max(u0 - 1, 0), min(u0 + 2, width)):
                if flesh_of[joint, np.uint8(parts[v, u] - np.uint8(1))]:
                    out[joint] = 1
