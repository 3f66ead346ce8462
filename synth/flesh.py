"""Flesh on a skeleton: round cones blended by smooth minima, meshed by marching cubes, thinned, skinned.

A body is a tree of signed distances sampled on one grid: chains of round cones (Quílez, "sdRoundCone") joined
by the quadratic smooth minimum

    smin(a, b; k) = min(a, b) − max(k − |a − b|, 0)² / 4k,

which rounds a seam over a width k and leaves everything further away untouched. Skin weights are the heat
equation on the finished mesh: each vertex starts wholly with the bone whose flesh it is, and diffuses for a
time that grows with the local girth, (M + τL) W = M P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.ndimage import map_coordinates
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from .surface import is_closed, vertex_normals, volume

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
FAR = np.float32(1e3)


@dataclass(frozen=True, slots=True)
class Cone:
    """A sphere of radius `ra` at `a` swept to one of `rb` at `b`, its section flattened along one axis."""

    bone: int
    a: F64
    b: F64
    ra: float
    rb: float
    flat_axis: F64 = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))
    flat: float = 1.0
    """Height of the section along `flat_axis` over its width."""

    def distance(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Signed distances (...) mm of points (..., 3): exact where `flat` is 1, else first-order."""
        squeeze = np.eye(3) + (1 / self.flat - 1) * np.outer(self.flat_axis, self.flat_axis)
        squeeze = squeeze.astype(points.dtype)
        p = points @ squeeze
        a, b = self.a @ squeeze, self.b @ squeeze
        axis = b - a
        length = float(np.linalg.norm(axis))
        if length <= abs(self.ra - self.rb) + 1e-6:
            centre, radius = (a, self.ra) if self.ra >= self.rb else (b, self.rb)
            d: NDArray[np.floating] = np.linalg.norm(p - centre.astype(p.dtype), axis=-1) - radius
        else:
            axis = (axis / length).astype(p.dtype)
            q = p - a.astype(p.dtype)
            along = q @ axis
            off = np.sqrt(np.maximum((q * q).sum(-1) - along * along, 0))
            slope = (self.ra - self.rb) / length
            rise = np.sqrt(1 - slope * slope)
            where = -slope * off + rise * along
            d = off * rise + along * slope - self.ra
            d = np.where(where < 0, np.hypot(off, along) - self.ra, d)
            d = np.where(where > rise * length, np.hypot(off, along - length) - self.rb, d)
        return d * min(self.flat, 1.0)


def chain(
    bones: Sequence[int],
    centres: F64,
    radii: F64,
    flat_axis: F64,
    flat: Sequence[float] | F64,
) -> list[Cone]:
    """Round cones through spheres (n, 3) with radii (n,): n − 1 cones, each of the bone given for it."""
    mean = 0.5 * (np.asarray(flat)[1:] + np.asarray(flat)[:-1])
    r = [float(radius) for radius in radii]
    return [
        Cone(bone, centres[i], centres[i + 1], r[i], r[i + 1], flat_axis, float(mean[i]))
        for i, bone in enumerate(bones)
    ]


def smooth_min(a: F32, b: F32, k: float) -> F32:
    """Minimum of two distances, rounded over a width of `k` mm."""
    h = np.maximum(k - np.abs(a - b), 0)
    out: F32 = np.minimum(a, b) - h * h / np.float32(4 * k)
    return out


def smooth_max(a: F32, b: F32, k: float) -> F32:
    """Maximum of two distances, rounded over a width of `k` mm."""
    return -smooth_min(-a, -b, k)


@dataclass(frozen=True, slots=True)
class Grid:
    """Points of a regular grid: origin (3,) mm, step mm, shape."""

    origin: F64
    step: float
    shape: tuple[int, int, int]

    def box(self, low: F64, high: F64) -> tuple[slice, slice, slice]:
        """The part of the grid between two corners (3,) mm."""
        first = np.clip(np.floor((low - self.origin) / self.step).astype(int), 0, self.shape)
        last = np.clip(np.ceil((high - self.origin) / self.step).astype(int) + 1, 0, self.shape)
        x, y, z = (slice(int(i), int(j)) for i, j in zip(first, last, strict=True))
        return x, y, z

    def points(self, box: tuple[slice, slice, slice]) -> F32:
        """(..., 3) mm of the points of a part of the grid."""
        axes = [self.origin[i] + self.step * np.arange(part.start, part.stop) for i, part in enumerate(box)]
        return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)

    def field(self, cones: Sequence[Cone], *, reach_mm: float = 14.0) -> F32:
        """Distance to the union of the cones; right within `reach_mm` of them, `FAR` beyond."""
        out = np.full(self.shape, FAR, np.float32)
        for cone in cones:
            radius = max(cone.ra, cone.rb) * max(1.0, cone.flat) + reach_mm
            box = self.box(np.minimum(cone.a, cone.b) - radius, np.maximum(cone.a, cone.b) + radius)
            if out[box].size:
                out[box] = np.minimum(out[box], cone.distance(self.points(box)))
        return out


@dataclass(frozen=True, slots=True)
class Blob:
    """An ellipsoid: centre, semi-axes mm and their directions (columns)."""

    centre: F64
    radii: F64
    axes: F64

    def field(self, grid: Grid) -> F32:
        """First-order signed distance on the grid."""
        axes = [grid.origin[i] + grid.step * np.arange(grid.shape[i]) for i in range(3)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        q = (points - self.centre) @ self.axes
        k0 = np.linalg.norm(q / self.radii, axis=-1)
        k1 = np.linalg.norm(q / self.radii**2, axis=-1)
        out: F32 = (k0 * (k0 - 1) / np.maximum(k1, 1e-6)).astype(np.float32)
        return out


def surface(values: F32, grid: Grid) -> tuple[F64, NDArray[np.int32]]:
    """The zero surface of a field by marching cubes, closed and wound outward: vertices mm, triangles."""
    points, faces, _, _ = marching_cubes(values, 0.0, spacing=(grid.step,) * 3)
    points = points.astype(np.float64) + grid.origin
    faces = faces.astype(np.int32)
    if volume(points, faces) < 0:
        faces = np.ascontiguousarray(faces[:, ::-1])
    assert is_closed(faces), "the flesh reaches the edge of its grid"
    return points, faces


def thinned(vertices: F64, faces: NDArray[np.int32], *, triangles: int) -> tuple[F64, NDArray[np.int32]] | None:
    """About `triangles` of a closed surface's triangles by quadric edge collapse; None if none leaves it closed."""
    # A collapse may pinch the surface into two sheets on one edge; another order of collapses often does not.
    for haste in (7, 6, 5):
        thin, corners = fast_simplification.simplify(
            vertices.astype(np.float32), faces, target_count=triangles, agg=haste
        )
        if is_closed(corners) and len(corners) < 1.2 * triangles:
            used, corners = np.unique(corners, return_inverse=True)
            return thin[used].astype(np.float64), corners.reshape(-1, 3).astype(np.int32)
    return None


def neighbours(
    vertices: F64, faces: NDArray[np.int32], thin: F64, corners: NDArray[np.int32]
) -> tuple[NDArray[np.intp], F64]:
    """For each vertex of a thinned mesh the 6 of the fine one it stands for (M, 6), and their shares.

    A normal that differs by a radian counts as 10 mm: the finger next door faces the other way.
    """
    tree = cKDTree(np.concatenate([vertices, 10 * vertex_normals(vertices, faces)], axis=1))
    distance, near = tree.query(np.concatenate([thin, 10 * vertex_normals(thin, corners)], axis=1), 6)
    share = 1 / (distance + 0.5) ** 2
    return near, share / share.sum(1, keepdims=True)


def settled(vertices: F64, values: F32, grid: Grid) -> F64:
    """Vertices (N, 3) moved onto the field's zero surface: two Newton steps of at most 2 mm."""
    slopes = np.gradient(values, grid.step)
    out = vertices.copy()
    for _ in range(2):
        at = ((out - grid.origin) / grid.step).T
        value = map_coordinates(values, at, order=1)
        slope = np.stack([map_coordinates(s, at, order=1) for s in slopes], axis=1)
        step = -(value / np.maximum((slope**2).sum(1), 0.1))[:, None] * slope
        length = np.linalg.norm(step, axis=1, keepdims=True)
        out += step * np.minimum(1, 2 / np.maximum(length, 1e-9))
    return out


def laplacian(vertices: F64, faces: NDArray[np.int32]) -> tuple[sparse.csr_matrix, F64]:
    """Cotangent Laplacian (N, N), positive semidefinite, and the vertices' areas (N,) mm²."""
    n = len(vertices)
    rows, cols, values = [], [], []
    area = np.zeros(n)
    for i in range(3):
        a, b, c = faces[:, i], faces[:, (i + 1) % 3], faces[:, (i + 2) % 3]
        u, v = vertices[b] - vertices[a], vertices[c] - vertices[a]
        double = np.linalg.norm(np.cross(u, v), axis=1)
        # Obtuse triangles would give negative weights, and heat that flows uphill.
        cot = np.maximum((u * v).sum(1) / np.maximum(double, 1e-9), 0.05)
        rows += [b, c, b, c]
        cols += [c, b, b, c]
        values += [-cot / 2, -cot / 2, cot / 2, cot / 2]
        np.add.at(area, a, double / 6)
    matrix = sparse.coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))), (n, n))
    return matrix.tocsr(), area


def diffuse(vertices: F64, faces: NDArray[np.int32], owner: NDArray[np.intp], width_mm: F64, n_bones: int) -> F64:
    """(N, n_bones) weights: bone ownership (N,) diffused over about `width_mm` (N,) mm, rows sum to 1."""
    matrix, area = laplacian(vertices, faces)
    tau = sparse.diags(0.5 * width_mm**2)
    start = np.zeros((len(vertices), n_bones))
    start[np.arange(len(vertices)), owner] = 1
    # τ multiplies the rows, so each row still sums to the vertex's area: weights stay a partition of one.
    system = (sparse.diags(area) + tau @ matrix).tocsc()
    weights = np.maximum(splu(system).solve(area[:, None] * start), 0)
    out: F64 = weights / weights.sum(1, keepdims=True)
    return out
