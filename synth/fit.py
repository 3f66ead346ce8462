"""Inverse kinematics: from the points of any layout to pose, root and shape, in batches.

Levenberg–Marquardt on the residuals, all in mm,

    r = [ p_j(pose, root, shape) − target_j ;  limits ;  coupling ;  prior ],

with the analytic Jacobian of `synth/points.py`. Limits are soft and cost nothing inside; the last joint of a
finger is held near ⅔ of the one before, everything else near rest, by fractions of a millimetre, so that what
the points do not show stays ordinary. Targets that are NaN carry no residual.

Cost: about 0.5 ms a frame for pose and root in batches of 256, one core.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import OPENXR26, Layout
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, WRIST, RiggedHand, kinematics
from .points import Model, known
from .rotation import rotation_matrix, rotation_vector

F64 = NDArray[np.float64]

BATCH: Final = 256
LIMIT_MM: Final = 60.0
"""Cost of leaving a limit: mm per radian beyond it."""
COUPLING_MM: Final = 2.0
"""Cost of a last joint that does not bend ⅔ of the one before it: mm per radian."""
PRIOR_MM: Final = 0.6
"""Cost of bending at all: mm per radian."""
FAR_MM: Final = 1.5
"""A frame whose points stay further away than this and than 2.5 times the median is tried from elsewhere."""
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


def initial_root(model: Model, targets: F64, pose: F64, shape: F64) -> F64:
    """(B, 6) the root that lays the posed points on the targets (B, J, 3) best (Kabsch), palm foremost."""
    state = kinematics(model.hand, pose, np.zeros((len(pose), ROOT_SIZE)), shape)
    points, _ = model.points(state)
    firm = np.isin(model.bone, [i for i, n in enumerate(OPENXR26) if n in ("palm", "wrist")])
    knuckle = np.array([n.endswith(("metacarpal", "proximal")) for n in OPENXR26])[model.matrix.argmax(1)]
    weight = np.where(firm | knuckle, 1.0, 0.15) * known(targets)
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
    begin = np.zeros(SHAPE_SIZE) if shape is None else np.asarray(shape, np.float64)
    shapes = np.array(np.broadcast_to(begin, (count, SHAPE_SIZE)))
    pose, root = np.tile(_bent(hand, 0.5), (count, 1)), np.zeros((count, ROOT_SIZE))
    if start is not None:
        pose, root = start.pose.copy(), start.root.copy()
    for low in range(0, count, BATCH):
        part = slice(low, low + BATCH)
        if start is None:
            root[part] = initial_root(model, targets[part], pose[part], shapes[part])
        here = (pose[part], root[part], shapes[part])
        pose[part], root[part], shapes[part] = _solve(model, targets[part], *here, fit_shape, iterations)
    fit = _measured(model, targets, pose, root, shapes)
    if start is None and known(targets).any():
        # A hand taken for its other side stays so: frames far off are tried again, closed and open.
        for bend in (1.2, 0.0):
            far = np.flatnonzero(fit.residual_mm > max(FAR_MM, 2.5 * float(np.nanmedian(fit.residual_mm))))
            tried = np.tile(_bent(hand, bend), (len(far), 1))
            given = np.array(np.broadcast_to(begin, (count, SHAPE_SIZE)))[far]
            from_here = (tried, initial_root(model, targets[far], tried, given), given)
            found = _solve(model, targets[far], *from_here, fit_shape, iterations)
            _keep_better(fit, far, _measured(model, targets[far], *found))
    return fit


def _keep_better(fit: Fit, rows: NDArray[np.intp], again: Fit) -> None:
    """Take over what a second try of some rows brought nearer, in place."""
    better = again.residual_mm < fit.residual_mm[rows]
    for name in ("pose", "root", "shape", "residual_mm", "point_mm"):
        getattr(fit, name)[rows[better]] = getattr(again, name)[better]


def _measured(model: Model, targets: F64, pose: F64, root: F64, shape: F64) -> Fit:
    """The fit with its distances to the targets."""
    given = known(targets)
    points, _ = model.points(kinematics(model.hand, pose, root, shape))
    distance = np.where(given, np.linalg.norm(points - np.nan_to_num(targets), axis=-1), np.nan)
    residual = np.full(len(pose), np.nan)
    some = given.any(axis=1)
    residual[some] = np.nanmean(distance[some], axis=1)
    return Fit(pose, root, shape, residual, distance)


def _pull(hand: RiggedHand) -> F64:
    """(n, 25) mm per radian: every angle to rest, last joints to ⅔ of the ones before."""
    rows = list(PRIOR_MM * np.eye(POSE_SIZE))
    for i, dof in enumerate(hand.dof):
        if dof.name.endswith("dip_flexion"):
            row = np.zeros(POSE_SIZE)
            row[i], row[i - 1] = COUPLING_MM, -COUPLING_MM * 2 / 3
            rows.append(row)
    return np.array(rows)


def _bent(hand: RiggedHand, share: float) -> F64:
    """(25,) fingers bent by a share of a loose fist: half open is far from nothing."""
    bend = {"mcp_flexion": 0.8, "pip_flexion": 1.2, "dip_flexion": 0.8}
    return np.array(
        [0.0 if d.name.startswith("thumb") else share * bend.get(d.name.split("_", 1)[1], 0.0) for d in hand.dof]
    )


@dataclass(frozen=True, slots=True)
class _Problem:
    """The sum of squares (mm²) to be made small, for a batch of frames."""

    model: Model
    targets: F64
    weight: F64
    centre: F64
    fit_shape: bool
    pull: F64
    """(n, 25) mm per radian: what holds a pose ordinary."""

    def rows(self, index: NDArray[np.intp]) -> _Problem:
        return replace(self, targets=self.targets[index], weight=self.weight[index], centre=self.centre[index])

    def _pull(self, pose: F64, shape: F64) -> tuple[F64, F64, F64]:
        """Regularising residuals: (B, n) of the pose, (B, 25) beyond its limits, (B, S) of the shape."""
        low, high = self.model.hand.limits_rad.T
        beyond = LIMIT_MM * (pose - np.clip(pose, low, high))
        return pose @ self.pull.T, beyond, SHAPE_MM * (shape - self.centre) * self.fit_shape

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
        hessian[:, pose_part, pose_part] += self.pull.T @ self.pull
        dofs = np.arange(ROOT_SIZE, ROOT_SIZE + POSE_SIZE)
        hessian[:, dofs, dofs] += LIMIT_MM**2 * (beyond != 0)
        gradient[:, pose_part] += pull @ self.pull + LIMIT_MM * beyond
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
    weight = known(targets).astype(np.float64)
    live = np.flatnonzero(weight.sum(axis=1))
    pull = _pull(model.hand)
    problem = _Problem(model, np.nan_to_num(targets), weight, shape.copy(), fit_shape, pull)
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
