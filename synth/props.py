"""Simple closed bodies as triangle meshes in mm: tubes, boxes, balls, and several as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def tube(path_mm: Any, radii_mm: Any, *, across: F64 | None = None) -> Mesh:
    """A closed tube along points (n, 3), of radius (n,) or of half axes (n, 2) along `across` and beside it."""
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
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)
    ring = (
        path[:, None]
        + radii[:, None, :1] * np.cos(angle)[None, :, None] * first[:, None]
        + radii[:, None, 1:] * np.sin(angle)[None, :, None] * second[:, None]
    )
    count = len(path)
    i, j = np.meshgrid(np.arange(count - 1), np.arange(SIDES), indexing="ij")
    a, b = i * SIDES + j, i * SIDES + (j + 1) % SIDES
    sides = np.concatenate([np.stack([a, a + SIDES, b], -1), np.stack([b, a + SIDES, b + SIDES], -1)])
    ends = count * SIDES
    k = np.arange(SIDES)
    near = np.stack([np.full(SIDES, ends), k, (k + 1) % SIDES], axis=1)
    far = (count - 1) * SIDES + near
    far[:, 0] = ends + 1
    vertices = np.concatenate([ring.reshape(-1, 3), path[[0, -1]]])
    return Mesh(vertices, np.concatenate([sides.reshape(-1, 3), near, far]).astype(np.int32))


def box(center_mm: F64, half_axes_mm: Sequence[F64]) -> Mesh:
    """A box by its middle (3,) and its three half axes (3,) each, right-handed."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)]
    return Mesh(center_mm + signs @ np.array(half_axes_mm), np.array(faces, np.int32))
