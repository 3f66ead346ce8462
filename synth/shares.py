"""Skin weights of a file's joints as shares of our bones and helpers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import FINGERS, OPENXR26
from .hand import BONE_PARENTS, FOREARM, HALF_WAY, N_BONES, N_MOVERS, PALM, WRIST

F64 = NDArray[np.float64]
TOLERANCE: Final = 0.02
"""By which the weights of a vertex may miss 1: four that are kept in 8 bits miss it by 0.008."""
_METACARPALS: Final = tuple(OPENXR26.index(f"{finger}_metacarpal") for finger in FINGERS[1:])


def bone_of_joints(found: Mapping[str, int], parents: Sequence[int], count: int) -> NDArray[np.int64]:
    """(J,) our bone for each joint of the file; −1 where there is none.

    A tip goes to its last bone, the palm to the wrist's; a joint that is none of a hand's to the next one
    above it that is; what lies above the wrist to the forearm.
    """
    bones = np.full(count, -1, np.int64)
    for name, number in found.items():
        bone = FOREARM if name == "forearm" else OPENXR26.index(name)
        bones[number] = WRIST if bone == PALM else bone - 1 if name.endswith("tip") else bone
    own = bones >= 0
    above = set()
    at = parents[found["wrist"]]
    while at >= 0 and at not in above:
        above.add(at)
        at = parents[at]
    for number in np.flatnonzero(~own).tolist():
        at, steps = parents[number], 0
        while at >= 0 and not own[at] and steps < count:
            at, steps = parents[at], steps + 1
        if at >= 0 and own[at]:
            bones[number] = bones[at]
        elif number in above:
            bones[number] = FOREARM
    return bones


def bone_shares(
    index: NDArray[np.int64], weight: F64, bones: NDArray[np.int64], names: Sequence[str], *, where: str
) -> F64:
    """(N, 27) shares of the bones, rows sum to 1, of weights (N, K) of the file's joints (N, K).

    Raises:
        HandloomError: weights are negative or do not sum to 1, or belong to a joint that is none of a hand's.
    """
    if len(weight) and (index.min() < 0 or index.max() >= len(bones)):
        raise HandloomError("A vertex names a joint that the file does not have", where=where)
    total = weight.sum(axis=1)
    wrong = (np.abs(total - 1) > TOLERANCE) | (weight < 0).any(axis=1) | ~np.isfinite(total)
    if wrong.any():
        first = int(wrong.argmax())
        raise HandloomError(
            f"The weights of {int(wrong.sum())} of {len(weight)} vertices do not sum to 1",
            where=where,
            why=f"vertex {first} has {', '.join(f'{w:.3g}' for w in weight[first])}",
            fix="normalise the weights (Blender: Weights > Normalize All, then Limit Total to 4) and export again",
        )
    orphans = np.unique(index[(bones[index] < 0) & (weight > TOLERANCE)])
    if len(orphans):
        raise HandloomError(
            f"The joint '{names[orphans[0]]}' moves vertices, but it is none of a hand's and hangs on none of them",
            where=where,
            fix="name it in a mapping file (--hand-mapping), or leave everything but the hand out of the export",
        )
    out = np.zeros((len(weight), N_BONES))
    rows = np.repeat(np.arange(len(weight)), weight.shape[1])
    kept = bones[index].reshape(-1) >= 0
    np.add.at(out, (rows[kept], bones[index].reshape(-1)[kept]), weight.reshape(-1)[kept])
    total_one: F64 = out / out.sum(axis=1, keepdims=True)
    return total_one


def with_metacarpals(shares: F64, vertices: F64, joints: F64) -> F64:
    """Shares (N, 27) in which the four metacarpals move their part of a palm that the file moves as one block.

    A vertex of the wrist's bone goes over to the metacarpals by how far along them it lies, to each by how
    near it is (Gaussian, 9 mm).

    Args:
        shares: of the bones.
        vertices: (N, 3) mm at rest.
        joints: (26, 3) mm at rest.
    """
    if shares[:, list(_METACARPALS)].any():
        return shares
    along, near = [], []
    for bone in _METACARPALS:
        a, b = joints[bone], joints[bone + 1]
        t = (vertices - a) @ (b - a) / ((b - a) @ (b - a))
        foot = a + np.clip(t, 0, 1)[:, None] * (b - a)
        distance = np.linalg.norm(vertices - foot, axis=1)
        along.append(np.clip(t, 0, 1))
        near.append(distance)
    apart = np.array(near)
    closeness = np.exp(-0.5 * ((apart - apart.min(axis=0)) / 9) ** 2)
    closeness /= closeness.sum(axis=0)
    t = np.array(along)
    moved = closeness * t * t * (3 - 2 * t)
    out = shares.copy()
    out[:, list(_METACARPALS)] += (moved * shares[:, WRIST]).T
    out[:, WRIST] *= 1 - moved.sum(axis=0)
    return out


def with_helpers(shares: F64) -> F64:
    """(N, 42) shares of bones and helpers that blend to the same as shares (N, 27) of bones alone."""
    out = np.zeros((len(shares), N_MOVERS))
    out[:, :N_BONES] = shares
    for helper, joint in enumerate(HALF_WAY, start=N_BONES):
        up = BONE_PARENTS[joint]
        both = np.minimum(out[:, joint], out[:, up])
        out[:, joint] -= both
        out[:, up] -= both
        out[:, helper] = 2 * both
    return out
