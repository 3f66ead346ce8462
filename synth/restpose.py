"""Where another program's hand lies and which way its bones look, in our conventions.

Everything is held against the built-in hand at rest: the rotation onto it by the joints that do not move
among themselves (Kabsch 1976), the side by which of its two mirror images fits all joints better, what a
file does not say by its proportions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import FINGERS, OPENXR26
from .anatomy import SCALE, frame, skeleton
from .hand import BONE_PARENTS, CHILDREN, PALM, WRIST
from .naming import NEEDED

F64 = NDArray[np.float64]
Side = Literal["right", "left"]
SOFT_TIP_MM: Final = 4.5
"""Flesh beyond the end of the last bone (Buryanov & Kotiuk 2010)."""
_KNUCKLES: Final = tuple(OPENXR26.index(f"{finger}_proximal") for finger in FINGERS[1:])
_BLOCK: Final = (WRIST, OPENXR26.index("thumb_metacarpal"), *_KNUCKLES)
"""Joints that hardly move among themselves."""
_SIDED: Final = tuple(OPENXR26.index(name) for name in NEEDED)
TURNED: Final = tuple(
    i
    for i, n in enumerate(OPENXR26)
    if n.endswith(("proximal", "intermediate", "distal", "tip")) or n == "thumb_metacarpal"
)
"""Bones that are laid along the built-in hand's at rest."""


@dataclass(frozen=True, slots=True)
class Template:
    """The built-in hand's joints (26, 3) mm and frames (26, 3, 3) at rest, on one side."""

    joints: F64
    frames: F64


def template_of(side: Side) -> Template:
    """The built-in skeleton of that side."""
    joints, frames = skeleton()
    if side == "left":
        flip = np.array([-1.0, 1, 1])
        joints, frames = joints * flip, frames * flip[:, None] * flip
    return Template(joints * SCALE, frames)


def rotation_onto(points: F64, goal: F64) -> tuple[F64, float]:
    """The rotation (3, 3) and rest error, relative to the goal's size, of points (n, 3) laid on others (n, 3).

    Moved and scaled as well, never mirrored (Kabsch 1976, Umeyama 1991).
    """
    a, b = points - points.mean(0), goal - goal.mean(0)
    u, strength, vt = np.linalg.svd(a.T @ b)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign @ vt).T
    explained = (strength * sign).sum() ** 2 / max((a * a).sum(), 1e-30)
    return rotation, float(np.sqrt(max(1 - explained / (b * b).sum(), 0)))


def errors_by_side(joints: F64) -> dict[Side, float]:
    """How far joints (26, 3), NaN where unknown, are from each of the two hands; relative."""
    sides: tuple[Side, Side] = ("right", "left")
    rows = list(_SIDED)
    return {side: rotation_onto(joints[rows], template_of(side).joints[rows])[1] for side in sides}


def upright(joints: F64, template: Template) -> F64:
    """(3, 3) the rotation from the file's axes into our rest frame."""
    rows = list(_BLOCK)
    rotation, _ = rotation_onto(joints[rows] - joints[WRIST], template.joints[rows] - template.joints[WRIST])
    # The middle knuckle decides where y is, as on the built-in hand.
    along = rotation @ (joints[OPENXR26.index("middle_proximal")] - joints[WRIST])
    goal = template.joints[OPENXR26.index("middle_proximal")] - template.joints[WRIST]
    return shortest_turn(along / np.linalg.norm(along), goal / np.linalg.norm(goal)) @ rotation


def shortest_turn(one: F64, other: F64) -> F64:
    """(3, 3) the rotation by the least angle that brings one unit vector (3,) onto another."""
    axis, cosine = np.cross(one, other), float(one @ other)
    if cosine < -0.999:
        away = np.eye(3)[np.abs(one).argmin()]
        axis = np.cross(one, away)
        axis /= np.linalg.norm(axis)
        return 2 * np.outer(axis, axis) - np.eye(3)
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    out: F64 = np.eye(3) + k + k @ k / (1 + cosine)
    return out


def completed(joints: F64, template: Template) -> tuple[F64, tuple[str, ...]]:
    """Joints (26, 3) at rest with metacarpals and palm filled in where they are NaN, and the names of these.

    A metacarpal's base lies as the built-in hand's does in a hand of this size, moved by a third of what its
    knuckle is away from there.
    """
    out = joints.copy()
    filled = [OPENXR26[i] for i in range(26) if np.isnan(joints[i]).any() and not OPENXR26[i].endswith("tip")]
    knuckles = list(_KNUCKLES)
    size = np.linalg.norm(out[knuckles], axis=1).sum() / np.linalg.norm(template.joints[knuckles], axis=1).sum()
    for knuckle in knuckles:
        base = knuckle - 1
        if np.isnan(out[base]).any():
            out[base] = size * template.joints[base] + (out[knuckle] - size * template.joints[knuckle]) / 3
    if np.isnan(out[PALM]).any():
        middle = OPENXR26.index("middle_metacarpal")
        out[PALM] = out[middle : middle + 2].mean(0)
    return out, tuple(filled)


def tip_of(vertices: F64, share: F64, joint: F64, before: F64) -> F64 | None:
    """(3,) where a finger's last bone ends, by the flesh it moves; None if it moves none.

    Args:
        vertices: (N, 3) mm.
        share: (N,) weight of the last bone.
        joint: (3,) where it begins.
        before: (3,) where the bone before it begins.
    """
    mine = vertices[share > 0.5]
    if len(mine) < 3:
        return None
    axis = (joint - before) / np.linalg.norm(joint - before)
    along = (mine - joint) @ axis
    end = mine[along > along.max() - SOFT_TIP_MM].mean(0)
    reach = float(along.max()) - SOFT_TIP_MM
    if reach <= 1:
        return None
    way = end - joint
    out: F64 = joint + way / np.linalg.norm(way) * reach
    return out


def rest_frames(joints: F64, template: Template, axes: F64 | None) -> tuple[F64, bool]:
    """Frames (26, 3, 3) of joints (26, 3), and whether their backs are the file's own.

    Args:
        joints: at rest.
        template: the built-in hand of that side.
        axes: (26, 3, 3) columns: the axes that the file gives its joints, in our rest frame; NaN for none.
    """
    frames = np.tile(np.eye(3), (26, 1, 1))
    for bone, child in enumerate(CHILDREN[:26]):
        if child < 0:
            continue
        way = joints[child] - joints[bone]
        way = way / np.linalg.norm(way)
        dorsal = shortest_turn(template.frames[bone, :, 1], way) @ template.frames[bone, :, 2]
        frames[bone] = frame(way, dorsal)
    own = None if axes is None else _dorsal_axis(frames, axes)
    if own is not None and axes is not None:
        for bone in _bones_with(axes):
            frames[bone] = frame(frames[bone, :, 1], own[1] * axes[bone, :, own[0]])
    for i, name in enumerate(OPENXR26):
        if name.endswith("tip"):
            frames[i] = frames[i - 1]
    return frames, own is not None


def _bones_with(axes: F64) -> list[int]:
    return [bone for bone, child in enumerate(CHILDREN[:26]) if child >= 0 and np.isfinite(axes[bone]).all()]


def _dorsal_axis(frames: F64, axes: F64) -> tuple[int, float] | None:
    """Column and sign of the file's axis that points out of the back on every bone of four fingers.

    One of its other axes must run along the bones, as in every rig that was made with care.
    """
    bones = [
        b for b in _bones_with(axes) if not OPENXR26[b].startswith("thumb") and not OPENXR26[b].endswith("metacarpal")
    ]
    if len(bones) < 12:
        return None
    along = np.einsum("bi,bij->bj", frames[bones, :, 1], axes[bones])
    back = np.einsum("bi,bij->bj", frames[bones, :, 2], axes[bones])
    if np.abs(along).min(axis=0).max() < 0.9:
        return None
    column = int(np.abs(back).min(axis=0).argmax())
    sign = float(np.sign(back[:, column].sum()))
    return (column, sign) if (sign * back[:, column]).min() > 0.8 else None


def laid_along(joints: F64, frames: F64, template: Template) -> tuple[F64, F64, float]:
    """Rotations (26, 3, 3) and places (26, 3) that lay the fingers along the built-in hand's.

    Last, the most that a joint has to be turned for it, degrees.
    """
    turn = np.tile(np.eye(3), (26, 1, 1))
    turned = list(TURNED)
    turn[turned] = template.frames[turned] @ frames[turned].transpose(0, 2, 1)
    place = joints.copy()
    for bone, up in enumerate(BONE_PARENTS[:26]):
        if bone > WRIST:
            place[bone] = place[up] + turn[up] @ (joints[bone] - joints[up])
    above = np.maximum(BONE_PARENTS[:26], 0)  # the wrist, which nothing turns, has none
    cosine = 0.5 * (np.einsum("bij,bij->b", turn[above], turn) - 1)
    return turn, place, float(np.degrees(np.arccos(np.clip(cosine, -1, 1)).max()))


def unknown_joints() -> F64:
    """(26, 3) NaN: joints of which nothing is known yet."""
    return np.full((26, 3), np.nan)


def placed(points: Mapping[str, F64]) -> F64:
    """(26, 3) joints by name, NaN where there is none."""
    out = unknown_joints()
    for name, point in points.items():
        if name in OPENXR26:
            out[OPENXR26.index(name)] = point
    return out
