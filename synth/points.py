"""A layout's points on a posed hand, and how they answer to every angle, to the root and to the shape.

    p = M x + R_bone o,         ∂p/∂θ_d = a_d × (Σ_j M_j [d moves j] (x_j − c_d) + [d moves bone] R o),

with M the layout's blend of canonical joints x, o the offset of a point in its bone's frame (NYU's points are
centres of spheres, not joints), a_d and c_d the axis and pivot of degree of freedom d. Shape is linear in
logarithms of lengths, so its derivative is a sum over the bones of the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import OPENXR26, Layout
from .hand import (
    BONE_PARENTS,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_MAP,
    SHAPE_SIZE,
    WRIST,
    Kinematics,
    RiggedHand,
    stretch_frames,
)

F64 = NDArray[np.float64]


def known(targets: F64) -> NDArray[np.bool_]:
    """(B, J) whether each of the targets (B, J, 3) is given: none of its coordinates is NaN."""
    out: NDArray[np.bool_] = np.asarray(np.isfinite(targets).all(axis=-1))
    return out


@dataclass(frozen=True)
class Model:
    """Everything about a hand and a layout that the Jacobian needs and no frame changes."""

    hand: RiggedHand
    layout: Layout
    offset_mm: F64
    """(J, 3) of each point from its blend of joints, in the frame of its bone."""

    @cached_property
    def matrix(self) -> F64:
        """(J, 26)."""
        return self.layout.matrix()

    @cached_property
    def bone(self) -> NDArray[np.intp]:
        """(J,) the bone that carries each point's offset: that of its heaviest joint, never a tip's."""
        heaviest = self.matrix.argmax(1)
        tip = np.array([name.endswith("tip") for name in OPENXR26])
        bone: NDArray[np.intp] = np.where(tip[heaviest], heaviest - 1, heaviest)
        return bone

    @cached_property
    def above(self) -> F64:
        """(26, 26) 1 where the second joint is the first or one of its ancestors."""
        out = np.eye(26)
        for joint in range(26):
            up = joint
            while BONE_PARENTS[up] >= 0:
                up = BONE_PARENTS[up]
                out[joint, up] = 1
        return out

    @cached_property
    def moves(self) -> F64:
        """(28, 26) 1 where a rotation moves a joint: first the root's 3; not its own pivot."""
        rows = [self.above[:, WRIST] * (np.arange(26) != WRIST)] * 3
        for dof in self.hand.dof:
            # The wrist's degrees of freedom move the forearm only.
            mine = np.zeros(26) if dof.joint == WRIST else self.above[:, dof.joint].copy()
            mine[dof.joint] = 0
            rows.append(mine)
        return np.array(rows)

    @cached_property
    def turns(self) -> F64:
        """(28, J) 1 where a rotation turns the bone that carries a point's offset."""
        rows = [np.ones(len(self.layout))] * 3
        rows += [
            np.zeros(len(self.layout)) if d.joint == WRIST else self.above[self.bone, d.joint] for d in self.hand.dof
        ]
        return np.array(rows)

    @cached_property
    def lever(self) -> F64:
        """(28, J, 26) the layout's blend, restricted to what each rotation moves."""
        return self.matrix * self.moves[:, None, :]

    @cached_property
    def growth(self) -> F64:
        """(J, SHAPE_SIZE, 26 · 3): how a point answers to a bone's growth along its parent's three axes."""
        parents = np.array(BONE_PARENTS[:26])
        per_joint = SHAPE_MAP[np.maximum(parents, 0)] * (parents >= 0)[:, None, None]
        chain = self.matrix @ self.above
        out: F64 = np.einsum("pc,cak->pkca", chain, per_joint).reshape(len(self.layout), SHAPE_SIZE, -1)
        return out

    def points(self, state: Kinematics) -> tuple[F64, F64]:
        """The layout's points (B, J, 3) and the part of them that is offset (B, J, 3), mm, rig frame."""
        arm = self.hand.frames[self.bone].astype(np.float64) @ self.offset_mm[:, :, None]
        offset = (state.rotation[:, self.bone] @ arm)[..., 0]
        return self.matrix @ state.position[:, :26] + offset, offset

    def jacobian(self, state: Kinematics, offset: F64, *, with_shape: bool) -> F64:
        """(B, K, J, 3) derivatives: root rotation 3, root position 3, pose 25, shape where asked."""
        batch, count = len(offset), len(self.layout)
        joints = state.position[:, :26]
        pivots = joints[:, [WRIST] * 3 + [d.joint for d in self.hand.dof]]
        axes = np.concatenate([np.broadcast_to(np.eye(3), (batch, 3, 3)), state.axes], axis=1)
        arm = (self.lever.reshape(-1, 26) @ joints).reshape(batch, -1, count, 3)
        arm -= self.lever.sum(2)[None, :, :, None] * pivots[:, :, None]
        arm += self.turns[None, :, :, None] * offset[:, None]
        size = ROOT_SIZE + POSE_SIZE + (SHAPE_SIZE if with_shape else 0)
        out = np.empty((batch, size, count, 3))
        turned = np.empty_like(arm)
        for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
            turned[..., i] = axes[:, :, None, j] * arm[..., k] - axes[:, :, None, k] * arm[..., j]
        out[:, :3], out[:, 6:31] = turned[:, :3], turned[:, 3:]
        out[:, 3:6] = np.eye(3)[None, :, None, :]
        if with_shape:
            out[:, 31:] = self._shape_jacobian(state)
        return out

    def _shape_jacobian(self, state: Kinematics) -> F64:
        parents = np.maximum(np.array(BONE_PARENTS[:26]), 0)
        blocks = stretch_frames(self.hand)[parents]
        rest = self.hand.joints.astype(np.float64)
        # Along each of its parent's axes, the bone's stretched extent as a vector of the rig's frame.
        grown = (state.stretch[:, parents] @ (rest - rest[parents])[:, :, None])[..., 0]
        extent = np.einsum("cia,bci->bca", blocks, grown)
        directions = state.rotation[:, parents] @ blocks
        vectors = (directions * extent[:, :, None, :]).transpose(0, 1, 3, 2).reshape(len(grown), -1, 3)
        count = len(self.layout)
        out: F64 = (self.growth.reshape(-1, vectors.shape[1]) @ vectors).reshape(-1, count, SHAPE_SIZE, 3)
        return out.transpose(0, 2, 1, 3)
