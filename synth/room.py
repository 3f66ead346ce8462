"""What stands around a hand that is filmed: the person it belongs to, a desk, a wall. Triangle meshes in mm, rig frame.

The rig's own cameras say where the front is: the person faces them behind the volume about the rig's origin,
the desk is below it, the wall behind. Around a full ring of cameras only the desk remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from .props import Mesh, box, joined, tube

F64 = NDArray[np.float64]

DESK_BELOW_MM: Final = 270.0
BODY_BEHIND_MM: Final = 430.0
WALL_BEHIND_MM: Final = 1300.0
ELBOW_MM: Final = 95.0
"""From where the hand's own forearm ends to the elbow."""


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


def shoulder(axes: Axes, side: Literal["right", "left"]) -> F64:
    """(3,) where the arm ends: a right arm's shoulder is on the cameras' left."""
    return (BODY_BEHIND_MM - 20) * axes.back + 40 * axes.up + (-190 if side == "right" else 190) * axes.right


def room(rig: Rig, *, with_person: bool = True) -> Mesh:
    """All that does not move; the person may be left out, to be drawn elsewhere."""
    axes = axes_of(rig)
    desk = box(
        -(DESK_BELOW_MM + 15) * axes.up + 200 * axes.back,
        [650 * axes.right, 15 * axes.up, 420 * axes.back],
    )
    if not axes.has_front:
        return desk
    wall = box(WALL_BEHIND_MM * axes.back, [2500 * axes.right, 1500 * axes.up, 10 * axes.back])
    return joined([desk, wall, person(axes)] if with_person else [desk, wall])


def person(axes: Axes) -> Mesh:
    """Torso and head of who sits behind the volume and faces the cameras."""
    spine = BODY_BEHIND_MM * axes.back + np.array([-520, -300, -100, 60, 100])[:, None] * axes.up
    torso = tube(spine, [(165, 105), (155, 105), (185, 115), (170, 90), (60, 60)], across=axes.right)
    heights = np.array([95, 150, 200, 250, 300, 345, 360])[:, None]
    head = tube(
        (BODY_BEHIND_MM - 20) * axes.back + heights * axes.up,
        [(58, 58), (62, 70), (76, 92), (82, 100), (78, 95), (52, 65), (20, 25)],
        across=axes.right,
    )
    return joined([torso, head])


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
