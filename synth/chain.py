"""One hand's chain of bones, compiled: where its joints and axes are for one pose, without the flesh.

The same kinematics as `hand.kinematics`, for the loops that pose a hand hundreds of times in turn (the fitter,
contacts): one pose at a time, so that a result never depends on what else was in its batch. The forearm
and with it the wrist's two angles are left out: they move no canonical joint.

Cost: 2 µs a pose.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from .hand import BONE_PARENTS, SHAPE_MAP, WRIST, RiggedHand, stretch_frames

import numba as nb  # isort: skip

F64 = NDArray[np.float64]

JOINTS: Final = 26
KINDS: Final = ("flexion", "abduction", "axial")


class Chain(NamedTuple):
    """Arrays a kernel needs of a hand; bones are numbered as the canonical joints."""

    parent: NDArray[np.int64]
    """(26,), −1 for the wrist."""
    order: NDArray[np.int64]
    """(26,) every bone after its parent."""
    arm: F64
    """(26, 3) mm from the parent's joint at rest, along the axes in which the parent stretches."""
    own: F64
    """(26, 3, 3) rest frames."""
    block: F64
    """(26, 3, 3) axes along which each bone stretches."""
    grow: F64
    """(26, 3, SHAPE_SIZE) log of the stretch along them, per unit of shape."""
    angle: NDArray[np.int64]
    """(26, 3) the degree of freedom that is a bone's flexion, abduction and axial angle, or −1."""
    sign: float
    """−1 on a left hand: abduction and axial turn the other way."""


def chain_of(hand: RiggedHand) -> Chain:
    """The chain of a hand."""
    parent = np.array(BONE_PARENTS[:JOINTS], np.int64)
    frames, blocks = hand.frames.astype(np.float64), stretch_frames(hand)[:JOINTS]
    joints = hand.joints.astype(np.float64)
    up = np.maximum(parent, 0)
    arm = (blocks[up].transpose(0, 2, 1) @ (joints - joints[up])[:, :, None])[..., 0]
    angle = np.full((JOINTS, 3), -1, np.int64)
    for i, dof in enumerate(hand.dof):
        if dof.joint != WRIST:
            angle[dof.joint, KINDS.index(dof.axis)] = i
    order = np.array([WRIST, *(i for i in range(JOINTS) if i != WRIST)], np.int64)
    return Chain(
        parent, order, np.ascontiguousarray(arm), np.ascontiguousarray(frames), np.ascontiguousarray(blocks),
        np.ascontiguousarray(SHAPE_MAP[:JOINTS]), angle, 1.0 if hand.side == "right" else -1.0,
    )  # fmt: skip


@nb.njit(cache=True, nogil=True, error_model="numpy")
def scales(chain: Any, shape: Any, out: Any) -> None:
    """Into `out` (26, 3): the stretch of each bone along its axes."""
    for bone in range(26):
        for k in range(3):
            total = 0.0
            for s in range(shape.shape[0]):
                total += chain.grow[bone, k, s] * shape[s]
            out[bone, k] = math.exp(total)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def forward(chain: Any, pose: Any, turn: Any, place: Any, scale: Any, rotation: Any, position: Any, axes: Any) -> None:
    """Pose one hand.

    Args:
        chain: a `Chain`.
        pose: (25,) rad.
        turn: (3, 3) the root's rotation.
        place: (3,) mm, the wrist.
        scale: (26, 3) from `scales`.
        rotation: (26, 3, 3) gets each bone's rotation away from rest.
        position: (26, 3) gets the joints, mm.
        axes: (25, 3) gets the unit axes of the degrees of freedom; the wrist's are left as they are.
    """
    own = np.empty((3, 3))
    bent = np.empty((3, 3))
    for bone in chain.order:
        up = chain.parent[bone]
        if up < 0:
            for i in range(3):
                position[bone, i] = place[i]
                for j in range(3):
                    rotation[bone, i, j] = turn[i, j]
            continue
        for i in range(3):
            total = 0.0
            for k in range(3):
                total += chain.block[up, i, k] * scale[up, k] * chain.arm[bone, k]
            own[i, 0] = total
        for i in range(3):
            total = position[up, i]
            for j in range(3):
                total += rotation[up, i, j] * own[j, 0]
            position[bone, i] = total
        flexion, abduction, axial = chain.angle[bone, 0], chain.angle[bone, 1], chain.angle[bone, 2]
        if flexion < 0 and abduction < 0 and axial < 0:
            for i in range(3):
                for j in range(3):
                    rotation[bone, i, j] = rotation[up, i, j]
            continue
        f = pose[flexion] if flexion >= 0 else 0.0
        a = chain.sign * pose[abduction] if abduction >= 0 else 0.0
        r = chain.sign * pose[axial] if axial >= 0 else 0.0
        cf, sf, ca, sa, cr, sr = math.cos(f), math.sin(f), math.cos(a), math.sin(a), math.cos(r), math.sin(r)
        # The bone's own frame in the rig, before it bends.
        for i in range(3):
            for j in range(3):
                own[i, j] = (
                    rotation[up, i, 0] * chain.own[bone, 0, j]
                    + rotation[up, i, 1] * chain.own[bone, 1, j]
                    + rotation[up, i, 2] * chain.own[bone, 2, j]
                )
        for i in range(3):
            x, y, z = own[i, 0], own[i, 1], own[i, 2]
            if flexion >= 0:
                axes[flexion, i] = -x
            if abduction >= 0:
                axes[abduction, i] = chain.sign * (sf * y + cf * z)
            if axial >= 0:
                axes[axial, i] = chain.sign * (-sa * x + cf * ca * y - sf * ca * z)
            # Rx(−f) Rz(a) Ry(r), written out.
            bent[i, 0] = x * ca * cr + y * (cf * sa * cr - sf * sr) + z * (-sf * sa * cr - cf * sr)
            bent[i, 1] = -x * sa + y * cf * ca - z * sf * ca
            bent[i, 2] = x * ca * sr + y * (cf * sa * sr + sf * cr) + z * (-sf * sa * sr + cf * cr)
        for i in range(3):
            for j in range(3):
                rotation[bone, i, j] = (
                    bent[i, 0] * chain.own[bone, j, 0]
                    + bent[i, 1] * chain.own[bone, j, 1]
                    + bent[i, 2] * chain.own[bone, j, 2]
                )
