"""The z-buffer on the CPU: triangles to depth, one thread, no OpenGL.

A triangle's 1/z is affine over the image (a plane through the camera's pixels), so each row of it is one
span between two edges and one addition a pixel. Pixel centres lie at integer coordinates; a pixel on an
edge belongs to both of its triangles, which leaves no crack and lets the nearer one win. Nothing is culled:
where skinning turns a patch inside out it is still seen. A triangle that reaches nearer than `NEAR_MM` is
clipped there.

Spans instead of testing every pixel of a triangle's box are worth a factor 1.5 at 2,500 triangles on 128²,
where the mean triangle covers two pixels and its box six.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip

from .render import NEAR_MM

AREA_PX2: Final = 1e-9
"""A triangle smaller than this in the image is a line."""


def rasterise(
    vertices_mm: NDArray[Any], faces: NDArray[Any], k: NDArray[Any], width: int, height: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Depth and nearest triangle of a mesh.

    Args:
        vertices_mm: (N, 3) in the camera's frame.
        faces: (F, 3) vertex numbers.
        k: (4,) fx, fy, cx, cy in pixels.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        depth (H, W) float32 mm, 0 where nothing is seen, and triangle (H, W) int32, −1 there.
    """
    vertices = np.ascontiguousarray(vertices_mm, np.float32)
    triangles = np.ascontiguousarray(faces, np.int32)
    # The kernel does not check bounds: a wrong number would end the process.
    assert vertices.ndim == 2
    assert vertices.shape[1] == 3
    assert triangles.ndim == 2
    assert triangles.shape[1] == 3
    assert triangles.size == 0 or (triangles.min() >= 0 and triangles.max() < len(vertices))
    assert width > 0
    assert height > 0
    depth = np.zeros((height, width), np.float32)
    nearest = np.full((height, width), -1, np.int32)
    fx, fy, cx, cy = (float(x) for x in k)
    _draw(vertices, triangles, fx, fy, cx, cy, depth, nearest)
    return depth, nearest


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _draw(
    vertices: NDArray[np.float32],
    faces: NDArray[np.int32],
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    depth: NDArray[np.float32],
    nearest: NDArray[np.int32],
) -> None:
    """Fill `depth` with 1/z, nearest wins, then turn it into z."""
    count = vertices.shape[0]
    uvw = np.zeros((count, 3))
    for i in range(count):
        z = vertices[i, 2]
        if z >= NEAR_MM:
            uvw[i, 0] = fx * vertices[i, 0] / z + cx
            uvw[i, 1] = fy * vertices[i, 1] / z + cy
            uvw[i, 2] = 1.0 / z
    polygon = np.zeros((4, 3))
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        behind = (uvw[a, 2] == 0.0) + (uvw[b, 2] == 0.0) + (uvw[c, 2] == 0.0)
        if behind == 0:
            _fill(uvw[a], uvw[b], uvw[c], f, depth, nearest)
        elif behind < 3:
            corners = _clip(vertices, a, b, c, fx, fy, cx, cy, polygon)
            for i in range(2, corners):
                _fill(polygon[0], polygon[i - 1], polygon[i], f, depth, nearest)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            if depth[v, u] > 0:
                depth[v, u] = 1.0 / depth[v, u]


@nb.njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _fill(
    p: NDArray[np.float64],
    q: NDArray[np.float64],
    r: NDArray[np.float64],
    face: int,
    inverse: NDArray[np.float32],
    nearest: NDArray[np.int32],
) -> None:
    """Draw one triangle of corners (u, v, 1/z)."""
    height, width = inverse.shape
    pu, pv, pw = p[0], p[1], p[2]
    qu, qv, qw = q[0], q[1], q[2]
    ru, rv, rw = r[0], r[1], r[2]
    first = max(math.ceil(min(pv, qv, rv)), 0)
    last = min(math.floor(max(pv, qv, rv)), height - 1)
    if first > last or math.ceil(min(pu, qu, ru)) > min(math.floor(max(pu, qu, ru)), width - 1):
        return
    area = (qu - pu) * (rv - pv) - (ru - pu) * (qv - pv)
    # Seen edge on: a slope of 1/z by rounding alone would be a wild one.
    if abs(area) < AREA_PX2:
        return
    du = ((qw - pw) * (rv - pv) - (rw - pw) * (qv - pv)) / area
    dv = ((rw - pw) * (qu - pu) - (qw - pw) * (ru - pu)) / area
    for v in range(first, last + 1):
        # Where the row crosses each edge. An edge gives the same number in both of its triangles because
        # it is always walked from its upper end.
        low, high = math.inf, -math.inf
        for e in range(3):
            if e == 0:
                au, av, bu, bv = pu, pv, qu, qv
            elif e == 1:
                au, av, bu, bv = qu, qv, ru, rv
            else:
                au, av, bu, bv = ru, rv, pu, pv
            if av > bv or (av == bv and au > bu):
                au, av, bu, bv = bu, bv, au, av
            if av <= v <= bv:
                if av == bv:
                    low, high = min(low, au), max(high, bu)
                else:
                    x = au + (v - av) / (bv - av) * (bu - au)
                    low, high = min(low, x), max(high, x)
        left, right = max(math.ceil(low), 0), min(math.floor(high), width - 1)
        w = pw + (v - pv) * dv + (left - pu) * du
        for u in range(left, right + 1):
            if w > inverse[v, u]:
                inverse[v, u] = w
                nearest[v, u] = face
            w += du


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _clip(
    vertices: NDArray[np.float32],
    a: int,
    b: int,
    c: int,
    fx: float,
    fy: float,
    cx: float,
    cy: float,
    out: NDArray[np.float64],
) -> int:
    """The part of a triangle beyond `NEAR_MM` as 3 or 4 corners (u, v, 1/z); gives their number."""
    corners = 0
    order = (a, b, c)
    for i in range(3):
        one, other = vertices[order[i]], vertices[order[(i + 1) % 3]]
        inside, next_inside = one[2] >= NEAR_MM, other[2] >= NEAR_MM
        if inside:
            out[corners, 0] = fx * one[0] / one[2] + cx
            out[corners, 1] = fy * one[1] / one[2] + cy
            out[corners, 2] = 1.0 / one[2]
            corners += 1
        if inside != next_inside:
            t = (NEAR_MM - one[2]) / (other[2] - one[2])
            out[corners, 0] = fx * (one[0] + t * (other[0] - one[0])) / NEAR_MM + cx
            out[corners, 1] = fy * (one[1] + t * (other[1] - one[1])) / NEAR_MM + cy
            out[corners, 2] = 1.0 / NEAR_MM
            corners += 1
    return corners
