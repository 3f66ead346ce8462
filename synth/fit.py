"""Inverse kinematics: from the points of any layout to pose, root and shape, in batches.

Levenberg–Marquardt on the residuals, all in mm,

    r = [ p_j(pose, root, shape) − target_j ;  limits ;  coupling ;  prior ],
    p = M x + R_bone o,         ∂p/∂θ_d = a_d × (Σ_j M_j [d moves j] (x_j − c_d) + [d moves bone] R o),

with M the layout's blend of canonical joints x, o the offset of a point in its bone's frame (NYU's points
are centres of spheres, not joints), a_d and c_d the axis and pivot of degree of freedom d. Limits are soft
and cost nothing inside; the last joint of a finger is held near ⅔ of the one before, everything else near
rest, by fractions of a millimetre, so that what the points do not show stays ordinary. Targets that are NaN
carry no residual. Shape is linear in logarithms of lengths and enters the same way.

Cost: about 0.5 ms a frame for pose and root in batches of 256, one core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

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
    kinematics,
    stretch_frames,
)
from .rotation import rotation_matrix, rotation_vector

F64 = NDArray[np.float64]

BATCH: Final = 256
LIMIT_MM: Final = 60.0
"""Cost of leaving a limit: mm per radian beyond it."""
COUPLING_MM: Final = 2.0
"""Cost of a last joint that does not bend ⅔ of the one before it: mm per radian."""
PRIOR_MM: Final = 0.6
"""Cost of bending at all: mm per radian."""
SHAPE_MM: Final = 6.0
"""Cost of another shape than the mean: mm per unit of log scale (0.1 is a tall subject)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Poses (B, 25), roots (B, 6), shapes (B, SHAPE_SIZE), and how far off the points stay, mm."""

    pose: F64
    root: F64
    shape: F64
    residual_mm: F64
    """(B,) mean distance between the points and the given targets; NaN where a frame gives none."""
    point_mm: F64
    """(B, J) the same for each point; NaN where not given."""


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
            np.zeros(len(self.layout)) if d.joint == WRIST else self.above[self.bone, d.joint]
            for d in self.hand.dof
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

    @cached_property
    def pull(self) -> F64:
        """(n, 25) mm per radian: what holds a pose ordinary, coupling of the last joints and pull to rest."""
        rows = list(PRIOR_MM * np.eye(POSE_SIZE))
        for i, dof in enumerate(self.hand.dof):
            if dof.name.endswith("dip_flexion"):
                row = np.zeros(POSE_SIZE)
                row[i], row[i - 1] = COUPLING_MM, -COUPLING_MM * 2 / 3
                rows.append(row)
        return np.array(rows)

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


def initial_root(model: Model, targets: F64, pose: F64, shape: F64) -> F64:
    """(B, 6) the root that lays the posed points on the targets (B, J, 3) best (Kabsch), palm foremost."""
    state = kinematics(model.hand, pose, np.zeros((len(pose), ROOT_SIZE)), shape)
    points, _ = model.points(state)
    firm = np.isin(model.bone, [i for i, n in enumerate(OPENXR26) if n in ("palm", "wrist")])
    knuckle = np.array([n.endswith(("metacarpal", "proximal")) for n in OPENXR26])[model.matrix.argmax(1)]
    weight = np.where(firm | knuckle, 1.0, 0.15) * np.isfinite(targets).all(-1)
    weight = (weight / np.maximum(weight.sum(1, keepdims=True), 1e-9))[..., None]
    goal = np.nan_to_num(targets)
    a, b = (weight * points).sum(1, keepdims=True), (weight * goal).sum(1, keepdims=True)
    u, _, vt = np.linalg.svd((weight * (points - a)).transpose(0, 2, 1) @ (goal - b))
    fix = np.ones((len(pose), 3))
    fix[:, 2] = np.sign(np.linalg.det(u @ vt))
    rotation = vt.transpose(0, 2, 1) @ (fix[:, :, None] * u.transpose(0, 2, 1))
    wrist = (rotation @ (state.position[:, WRIST] - a[:, 0])[..., None])[..., 0] + b[:, 0]
    return np.concatenate([rotation_vector(rotation), wrist], axis=1)


def fit_pose(
    hand: RiggedHand,
    targets: NDArray[Any],
    layout: Layout,
    *,
    shape: NDArray[Any] | None = None,
    fit_shape: bool = False,
    offset_mm: NDArray[Any] | None = None,
    start: Fit | None = None,
    iterations: int = 15,
) -> Fit:
    """Poses whose points come nearest to the targets.

    Args:
        hand: the hand to pose; its side must be the targets'.
        targets: (B, J, 3) mm in the rig's frame, NaN where unknown.
        layout: whose J points the targets are.
        shape: (SHAPE_SIZE,) or (B, SHAPE_SIZE) proportions to hold or start from; default the mean hand.
        fit_shape: free the shape of every frame as well (a subject's frames together: `fit_subject`).
        offset_mm: (J, 3) of each point from its blend of joints, in its bone's frame.
        start: where to start from, instead of a half-open hand laid on the palm.
        iterations: at most.
    """
    targets = np.asarray(targets, np.float64)
    count = len(targets)
    assert targets.shape == (count, len(layout), 3), targets.shape
    offsets = np.zeros((len(layout), 3)) if offset_mm is None else np.asarray(offset_mm, np.float64)
    model = Model(hand, layout, offsets)
    given = np.zeros(SHAPE_SIZE) if shape is None else np.asarray(shape, np.float64)
    shapes = np.array(np.broadcast_to(given, (count, SHAPE_SIZE)))
    known = np.isfinite(targets).all(-1)
    done: list[tuple[F64, F64, F64]] = []
    for low in range(0, count, BATCH):
        part = slice(low, low + BATCH)
        if start is None:
            pose = np.tile(_half_open(hand), (len(targets[part]), 1))
            root = initial_root(model, targets[part], pose, shapes[part])
        else:
            pose, root = start.pose[part].copy(), start.root[part].copy()
        done.append(_solve(model, targets[part], pose, root, shapes[part], fit_shape, iterations))
    pose, root, shapes = (
        np.concatenate([d[i] for d in done]) if done else np.zeros((0, size))
        for i, size in enumerate((POSE_SIZE, ROOT_SIZE, SHAPE_SIZE))
    )
    points, _ = model.points(kinematics(hand, pose, root, shapes))
    distance = np.where(known, np.linalg.norm(points - np.nan_to_num(targets), axis=-1), np.nan)
    some = known.any(1)
    residual = np.full(count, np.nan)
    residual[some] = np.nanmean(distance[some], axis=1)
    return Fit(pose, root, shapes, residual, distance)


@dataclass(frozen=True, slots=True)
class Subject:
    """What stays the same over one person's frames: proportions (SHAPE_SIZE,) and point offsets (J, 3) mm."""

    shape: F64
    offset_mm: F64


def fit_subject(
    hand: RiggedHand, targets: NDArray[Any], layout: Layout, *, rounds: int = 4, max_offset_mm: float = 25.0
) -> Subject:
    """One person's proportions and the layout's offsets from frames (B, J, 3) of that person alone.

    Poses and free shapes are fitted in turn with the offsets, the mean residual of a point in its bone's
    frame; the shape is the median over the frames. A few hundred varied frames are plenty.
    """
    targets = np.asarray(targets, np.float64)
    shape, offset = np.zeros(SHAPE_SIZE), np.zeros((len(layout), 3))
    fit: Fit | None = None
    for _ in range(rounds):
        fit = fit_pose(
            hand, targets, layout, shape=shape, fit_shape=True, offset_mm=offset, start=fit, iterations=8
        )
        shape = np.median(fit.shape, axis=0)
        fit = fit_pose(hand, targets, layout, shape=shape, offset_mm=offset, start=fit, iterations=8)
        model = Model(hand, layout, offset)
        state = kinematics(hand, fit.pose, fit.root, fit.shape)
        points, _ = model.points(state)
        axes = state.rotation[:, model.bone] @ hand.frames[model.bone]
        local = (axes.transpose(0, 1, 3, 2) @ (targets - points)[..., None])[..., 0]
        seen = np.isfinite(local).any(axis=(0, 2))
        offset[seen] += np.nanmedian(local[:, seen], axis=0)
        length = np.linalg.norm(offset, axis=1, keepdims=True)
        offset *= np.minimum(1, max_offset_mm / np.maximum(length, 1e-9))
    return Subject(shape, offset)


def _half_open(hand: RiggedHand) -> F64:
    """A loosely bent hand: from there neither a fist nor a flat hand is far."""
    bend = {"mcp_flexion": 0.4, "pip_flexion": 0.6, "dip_flexion": 0.4}
    return np.array(
        [0.0 if d.name.startswith("thumb") else bend.get(d.name.split("_", 1)[1], 0.0) for d in hand.dof]
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """The sum of squares (mm²) to be made small, for a batch of frames."""

    model: Model
    targets: F64
    weight: F64
    centre: F64
    fit_shape: bool

    def rows(self, index: NDArray[np.intp]) -> _Problem:
        return replace(
            self, targets=self.targets[index], weight=self.weight[index], centre=self.centre[index]
        )

    def _pull(self, pose: F64, shape: F64) -> tuple[F64, F64, F64]:
        """Regularising residuals: (B, n) of the pose, (B, 25) beyond its limits, (B, S) of the shape."""
        low, high = self.model.hand.limits_rad.T
        beyond = LIMIT_MM * (pose - np.clip(pose, low, high))
        return pose @ self.model.pull.T, beyond, SHAPE_MM * (shape - self.centre) * self.fit_shape

    def cost(self, pose: F64, root: F64, shape: F64) -> F64:
        """(B,) mm²."""
        points, _ = self.model.points(kinematics(self.model.hand, pose, root, shape))
        error = (points - self.targets) * self.weight[..., None]
        total: F64 = (error**2).sum((1, 2))
        for residual in self._pull(pose, shape):
            total += (residual**2).sum(1)
        return total

    def normal_equations(self, pose: F64, root: F64, shape: F64) -> tuple[F64, F64, F64]:
        """Gradient Jᵀr (B, K), JᵀJ (B, K, K) and the cost (B,)."""
        state = kinematics(self.model.hand, pose, root, shape)
        points, offset = self.model.points(state)
        error = ((points - self.targets) * self.weight[..., None]).reshape(len(pose), -1)
        jacobian = self.model.jacobian(state, offset, with_shape=self.fit_shape)
        jacobian *= self.weight[:, None, :, None]
        jacobian = jacobian.reshape(len(pose), jacobian.shape[1], -1)
        hessian = jacobian @ jacobian.transpose(0, 2, 1)
        gradient = (jacobian @ error[..., None])[..., 0]
        pull, beyond, shaped = self._pull(pose, shape)
        pose_part = slice(ROOT_SIZE, ROOT_SIZE + POSE_SIZE)
        hessian[:, pose_part, pose_part] += self.model.pull.T @ self.model.pull
        dofs = np.arange(ROOT_SIZE, ROOT_SIZE + POSE_SIZE)
        hessian[:, dofs, dofs] += LIMIT_MM**2 * (beyond != 0)
        gradient[:, pose_part] += pull @ self.model.pull + LIMIT_MM * beyond
        if self.fit_shape:
            shapes = np.arange(ROOT_SIZE + POSE_SIZE, hessian.shape[1])
            hessian[:, shapes, shapes] += SHAPE_MM**2
            gradient[:, shapes] += SHAPE_MM * shaped
        cost: F64 = (error**2).sum(1) + (pull**2).sum(1) + (beyond**2).sum(1) + (shaped**2).sum(1)
        return gradient, hessian, cost


def _solve(
    model: Model, targets: F64, pose: F64, root: F64, shape: F64, fit_shape: bool, iterations: int
) -> tuple[F64, F64, F64]:
    """Levenberg–Marquardt on one batch; frames that no longer improve drop out."""
    weight = np.isfinite(targets).all(axis=-1).astype(np.float64)
    live = np.flatnonzero(weight.sum(axis=1) > 0)
    problem = _Problem(model, np.nan_to_num(targets), np.asarray(weight), shape.copy(), fit_shape)
    damping = np.full(len(pose), 1e-3)
    for _ in range(iterations):
        if not len(live):
            break
        here = problem.rows(live)
        gradient, hessian, now = here.normal_equations(pose[live], root[live], shape[live])
        diagonal = hessian[:, range(hessian.shape[1]), range(hessian.shape[1])]
        hessian[:, range(hessian.shape[1]), range(hessian.shape[1])] += damping[live, None] * (diagonal + 1.0)
        step = -np.linalg.solve(hessian, gradient[..., None])[..., 0]
        turned = rotation_vector(rotation_matrix(step[:, :3]) @ rotation_matrix(root[live, :3]))
        new_root = np.concatenate([turned, root[live, 3:] + step[:, 3:6]], axis=1)
        new_pose, new_shape = pose[live] + step[:, 6:31], shape[live]
        if fit_shape:
            new_shape = new_shape + step[:, 31:]
        after = here.cost(new_pose, new_root, new_shape)
        better = after < now
        moved = live[better]
        pose[moved], root[moved], shape[moved] = new_pose[better], new_root[better], new_shape[better]
        damping[live] = np.clip(np.where(better, damping[live] / 8, damping[live] * 8), 1e-8, 1e6)
        settled = better & (now - after < 1e-4 * now + 1e-4)
        live = live[~settled & (damping[live] < 1e5)]
    return pose, root, shape
