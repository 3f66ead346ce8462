"""A layout's points on a posed hand, and how they answer to every angle, to the root and to the shape.

    p = M x + R_bone o,         ∂p/∂θ_d = a_d × (Σ_j M_j [d moves j] (x_j − c_d) + [d moves bone] R o),

with M the layout's blend of canonical joints x, o the offset of a point in its bone's frame (NYU's points are
centres of spheres, not joints), a_d and c_d the axis and pivot of degree of freedom d. Shape is linear in
logarithms of lengths, so its derivative is a sum over the bones of the chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26, Layout
from .chain import Chain, chain_of
from .hand import BONE_PARENTS, POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, WRIST, Kinematics, RiggedHand
from .rotation import rotation_matrix
from .solve import Terms, jacobians

F64 = NDArray[np.float64]

MIN_POINTS: Final = 6
"""A frame with fewer known points does not determine a hand."""
REACH_MM: Final = (15.0, 400.0)
"""Between centimetres taken for millimetres, 11 at most, and a giant's hand."""


def known(targets: F64) -> NDArray[np.bool_]:
    """(B, J) whether each of the targets (B, J, 3) is given: none of its coordinates is NaN."""
    out: NDArray[np.bool_] = np.asarray(np.isfinite(targets).all(axis=-1))
    return out


def refuse_other_units(targets: F64, *, where: str) -> None:
    """Stop where the points (B, J, 3), NaN where unknown, span no hand in millimetres.

    A fit would follow them all the same, with bones of no length and every point beside its joint.

    Raises:
        HandloomError: the farthest point from a frame's mean, in the median frame, is nearer or farther than
            `REACH_MM`.
    """
    whole = targets[known(targets).sum(axis=1) >= MIN_POINTS]
    if not len(whole):
        return
    middle = np.nanmean(whole, axis=1, keepdims=True)
    reach = float(np.median(np.nanmax(np.linalg.norm(whole - middle, axis=-1), axis=1)))
    low, high = REACH_MM
    if not low <= reach <= high:
        raise HandloomError(
            "The points are not those of a hand in millimetres",
            where=where,
            why=f"they reach {reach:.3g} mm from their middle; a fist's reach about 50 mm, an open hand's 110 mm",
            fix="multiply them by 1000 if they are metres, by 10 if they are centimetres",
        )


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
    def chain(self) -> Chain:
        """What the compiled loops need of the hand."""
        return chain_of(self.hand)

    @cached_property
    def terms(self) -> Terms:
        """What the compiled loops need of the layout."""
        count = len(self.layout)
        width = int((self.matrix != 0).sum(1).max())
        joint = np.argsort(self.matrix == 0, axis=1, kind="stable")[:, :width]
        weight = np.take_along_axis(self.matrix, joint, axis=1)
        # A rotation moves the joints below its own, and turns its own bone; the wrist's two move the forearm only.
        pivot = np.array([d.joint for d in self.hand.dof], np.int64)
        moves = (self.above[:, pivot].T > 0) & (np.arange(26) != pivot[:, None])
        turns = self.above[np.ix_(self.bone, pivot)].T > 0
        moves[pivot == WRIST], turns[pivot == WRIST] = False, False
        offset = (self.hand.frames[self.bone].astype(np.float64) @ self.offset_mm[:, :, None])[..., 0]
        has_offset = np.abs(self.offset_mm).max(axis=1, initial=0) > 0
        touched = [(moves @ (row != 0)) | (turns[:, p] & has_offset[p]) for p, row in enumerate(self.matrix)]
        most = max(int(mine.sum()) for mine in touched)
        column = np.full((count, max(most, 1)), -1, np.int64)
        for row, mine in zip(column, touched, strict=True):
            row[: mine.sum()] = np.flatnonzero(mine)
        return Terms(
            joint.astype(np.int64), weight, self.bone.astype(np.int64), np.ascontiguousarray(offset),
            column, pivot, moves, turns,
        )  # fmt: skip

    def points(self, state: Kinematics) -> tuple[F64, F64]:
        """The layout's points (B, J, 3) and the part of them that is offset (B, J, 3), mm, rig frame."""
        arm = self.hand.frames[self.bone].astype(np.float64) @ self.offset_mm[:, :, None]
        offset = (state.rotation[:, self.bone] @ arm)[..., 0]
        return self.matrix @ state.position[:, :26] + offset, offset

    def jacobian(self, pose: F64, root: F64, shape: F64) -> F64:
        """(B, 43, J, 3) derivatives: root rotation 3, root position 3, pose 25, shape 12; what the fitter uses."""
        out = np.empty((len(pose), ROOT_SIZE + POSE_SIZE + SHAPE_SIZE, len(self.layout), 3))
        turn, place = rotation_matrix(root[:, :3]), root[:, 3:]
        jacobians(self.chain, self.terms, *(np.ascontiguousarray(x) for x in (pose, turn, place, shape)), out)
        return out
