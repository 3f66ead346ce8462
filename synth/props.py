"""Simple closed bodies as triangle meshes in mm: tubes, boxes, balls, and several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

SIDES: Final = 24


@dataclass(frozen=True, slots=True)
class Mesh:
    """Vertices (N, 3) mm and faces (F, 3) int32."""

    vertices: F64
    faces: NDArray[np.int32]


def joined(meshes: Sequence[Mesh]) -> Mesh:
    """Several meshes as one."""
    first = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + np.int32(offset) for mesh, offset in zip(meshes, first, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def tube(path_mm: Any, radii_mm: Any, *, across: F64 | None = None, sides: int = SIDES) -> Mesh:
    """A closed tube, wound outward, along points (n, 3).

    Args:
        path_mm: (n, 3).
        radii_mm: (n,), or half axes (n, 2) along `across` and beside it.
        across: (3,) direction of the first half axis.
        sides: corners of a ring.
    """
    path = np.asarray(path_mm, np.float64)
    radii = np.asarray(radii_mm, np.float64)
    if radii.ndim == 1:
        radii = np.stack([radii, radii], axis=1)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    if across is None:
        across = np.eye(3)[int(np.argmin(np.abs(along).sum(0)))]
    first = across - along * (along @ across)[:, None]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(along, first)
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = (
        path[:, None]
        + radii[:, None, :1] * np.cos(angle)[None, :, None] * first[:, None]
        + radii[:, None, 1:] * np.sin(angle)[None, :, None] * second[:, None]
    )
    count = len(path)
    i, j = np.meshgrid(np.arange(count - 1), np.arange(sides), indexing="ij")
    a, b = i * sides + j, i * sides + (j + 1) % sides
    around = np.concatenate([np.stack([a, b, a + sides], -1), np.stack([b, b + sides, a + sides], -1)])
    ends = count * sides
    k = np.arange(sides)
    near = np.stack([np.full(sides, ends), (k + 1) % sides, k], axis=1)
    far = (count - 1) * sides + near[:, [0, 2, 1]]
    far[:, 0] = ends + 1
    vertices = np.concatenate([ring.reshape(-1, 3), path[[0, -1]]])
    return Mesh(vertices, np.concatenate([around.reshape(-1, 3), near, far]).astype(np.int32))


def box(center_mm: F64, half_axes_mm: Sequence[F64]) -> Mesh:
    """A box by its middle (3,) and its three half axes (3,) each, right-handed."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)]
    return Mesh(center_mm + signs @ np.array(half_axes_mm), np.array(faces, np.int32))


def ball(center_mm: F64, radius_mm: float) -> Mesh:
    """A ball of 320 triangles: an icosahedron, each face cut in four, twice."""
    corners, faces = _icosphere(2)
    return Mesh(center_mm + radius_mm * corners, faces)


def cylinder(center_mm: F64, half_axis_mm: F64, radius_mm: float) -> Mesh:
    """A round stick by its middle (3,), half of its length as a vector (3,), and its radius."""
    return tube([center_mm - half_axis_mm, center_mm + half_axis_mm], [radius_mm, radius_mm], sides=20)


@cache
def _icosphere(cuts: int) -> tuple[F64, NDArray[np.int32]]:
    """Unit vertices (n, 3) and outward faces (20 · 4^cuts, 3)."""
    golden = (1 + 5**0.5) / 2
    corners = [(0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]
    points = np.array([*corners, *((b, c, a) for a, b, c in corners), *((c, a, b) for a, b, c in corners)])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    apart = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = (apart > 0) & (apart < 1.06)  # an edge is 1.0515
    triples = [
        (i, j, k) for i in range(12) for j in range(i) for k in range(j) if near[i, j] and near[j, k] and near[i, k]
    ]
    faces = np.array(triples)
    turned = np.einsum("fi,fi->f", np.cross(points[faces[:, 0]], points[faces[:, 1]]), points[faces[:, 2]]) < 0
    faces[turned] = faces[turned][:, ::-1]
    for _ in range(cuts):
        edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        unique, inverse = np.unique(edges, axis=0, return_inverse=True)
        middles = points[unique].sum(1)
        a, b, c = faces.T
        x, y, z = (len(points) + inverse.reshape(-1, 3)).T
        points = np.concatenate([points, middles / np.linalg.norm(middles, axis=1, keepdims=True)])
        faces = np.concatenate([np.stack(f, 1) for f in ((a, x, z), (x, b, y), (z, y, c), (x, y, z))])
    return points, faces.astype(np.int32)
