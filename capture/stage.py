"""What stands around a virtual hand: the person it belongs to, a desk, a wall. Triangle meshes in mm, rig frame.

The rig's own cameras say where the front is: the person faces them behind the volume about the rig's origin,
the desk is below it, the wall behind. Around a full ring of cameras only the desk remains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig

F64 = NDArray[np.float64]

SIDES: Final = 24
DESK_BELOW_MM: Final = 270.0
BODY_BEHIND_MM: Final = 430.0
WALL_BEHIND_MM: Final = 1300.0
ELBOW_MM: Final = 95.0
"""From where the hand's own forearm ends to the elbow."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """Vertices (N, 3) mm and faces (F, 3) int32."""

    vertices: F64
    faces: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Axes:
    """Directions as the cameras see them, and whether they agree on a front."""

    right: F64
    up: F64
    back: F64
    """Away from the cameras."""
    has_front: bool


def axes_of(rig: Rig) -> Axes:
    """What is right, up and behind for the rig's cameras together."""
    rotations = [camera.rotation for camera in rig.cameras]
    back = np.mean([r[2] for r in rotations], axis=0)
    has_front = bool(np.linalg.norm(back) > 0.3)
    if not has_front:
        back = rotations[0][2]
    up = -np.mean([r[1] for r in rotations], axis=0)
    up = up - back * (up @ back) / (back @ back)
    up, back = up / np.linalg.norm(up), back / np.linalg.norm(back)
    return Axes(np.cross(back, up), up, back, has_front)


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


def _slab(center: F64, half: Sequence[F64]) -> Mesh:
    """A box by its middle and its three half axes."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)]
    return Mesh(center + signs @ np.array(half), np.array(faces, np.int32))


def shoulder(axes: Axes, side: Literal["right", "left"]) -> F64:
    """(3,) where the arm ends: a right arm's shoulder is on the cameras' left."""
    return (BODY_BEHIND_MM - 20) * axes.back + 40 * axes.up + (-190 if side == "right" else 190) * axes.right


def room(rig: Rig) -> Mesh:
    """All that does not move."""
    axes = axes_of(rig)
    desk = _slab(
        -(DESK_BELOW_MM + 15) * axes.up + 200 * axes.back,
        [650 * axes.right, 15 * axes.up, 420 * axes.back],
    )
    if not axes.has_front:
        return desk
    wall = _slab(WALL_BEHIND_MM * axes.back, [2500 * axes.right, 1500 * axes.up, 10 * axes.back])
    spine = BODY_BEHIND_MM * axes.back + np.array([-520, -300, -100, 60, 100])[:, None] * axes.up
    torso = tube(spine, [(165, 105), (155, 105), (185, 115), (170, 90), (60, 60)], across=axes.right)
    heights = np.array([95, 150, 200, 250, 300, 345, 360])[:, None]
    head = tube(
        (BODY_BEHIND_MM - 20) * axes.back + heights * axes.up,
        [(58, 58), (62, 70), (76, 92), (82, 100), (78, 95), (52, 65), (20, 25)],
        across=axes.right,
    )
    return joined([desk, wall, torso, head])


def sleeve(stump_mm: F64, direction: F64, radius_mm: float, shoulder_mm: F64) -> Mesh:
    """The arm from where a hand's own forearm ends: on to the elbow, then to the shoulder.

    Args:
        stump_mm: (3,) middle of the forearm's end.
        direction: (3,) unit, from wrist to elbow.
        radius_mm: of the forearm there.
        shoulder_mm: (3,) where it goes.
    """
    elbow = stump_mm + ELBOW_MM * direction
    upper = shoulder_mm - elbow
    along = upper / (np.linalg.norm(upper) + 1e-9)
    path = [
        stump_mm - 12 * direction,
        stump_mm + 0.5 * ELBOW_MM * direction,
        elbow - 25 * direction,
        elbow + 10 * (direction + along),
        elbow + 45 * along,
        elbow + 0.6 * upper,
        shoulder_mm,
    ]
    return tube(np.array(path), radius_mm * np.array([1.03, 1.08, 1.1, 1.1, 1.1, 1.25, 1.5]))


def resting_hand(axes: Axes, side: Literal["right", "left"]) -> F64:
    """(3, 3) columns x, y, z of a hand held up to the cameras: fingers up and forward, palm to the front."""
    outward = 0.3 if side == "right" else -0.3
    distal = outward * axes.right + 0.75 * axes.up - 0.6 * axes.back
    distal /= np.linalg.norm(distal)
    dorsal = axes.back - distal * (distal @ axes.back)
    dorsal /= np.linalg.norm(dorsal)
    return np.stack([np.cross(distal, dorsal), distal, dorsal], axis=1)
