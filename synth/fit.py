"""Inverse kinematics: from the points of any layout to pose, root and shape, in batches.

Levenberg–Marquardt on the residuals, all in mm,

    r = [ p_j(pose, root, shape) − target_j ;  limits ;  coupling ;  prior ],

with an analytic Jacobian, in the compiled loop of `synth/solve.py`. Limits are soft and cost nothing inside;
the last joint of a finger is held near ⅔ of the one before, everything else near rest, by fractions of a
millimetre, so that what the points do not show stays ordinary. Targets that are NaN carry no residual.

Cost: 0.2 ms a frame for pose and root with 14 points, one core; see benchmarks/fit.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import OPENXR26, Layout
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, WRIST, RiggedHand, kinematics
from .points import Model, known
from .rotation import rotation_matrix, rotation_vector
from .solve import Pull, solve

F64 = NDArray[np.float64]

LIMIT_MM: Final = 60.0
"""Cost of leaving a limit: mm per radian beyond it."""
COUPLING_MM: Final = 2.0
"""Cost of a last joint that does not bend ⅔ of the one before it: mm per radian."""
PRIOR_MM: Final = 0.6
"""Cost of bending at all: mm per radian."""
FAR_MM: Final = 0.5
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
    iterations: int = 30,
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
    if start is None:
        root = initial_root(model, targets, pose, shapes)
    pose, root, shapes = _solve(model, targets, pose, root, shapes, fit_shape, iterations)
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


def _solve(
    model: Model, targets: F64, pose: F64, root: F64, shape: F64, fit_shape: bool, iterations: int
) -> tuple[F64, F64, F64]:
    """Levenberg–Marquardt on each frame; one without points stays where it is."""
    rows = _pull(model.hand)
    low, high = (np.ascontiguousarray(limit) for limit in model.hand.limits_rad.T)
    pull = Pull(rows.T @ rows, low, high, LIMIT_MM, SHAPE_MM)
    # Contiguous copies: the kernel works in place, and is compiled once for one kind of memory.
    pose, shape, turn, place = (
        np.array(x, order="C") for x in (pose, shape, rotation_matrix(root[:, :3]), root[:, 3:])
    )
    goal, given = np.ascontiguousarray(np.nan_to_num(targets)), np.ascontiguousarray(known(targets))
    shapes = SHAPE_SIZE if fit_shape else 0
    solve(model.chain, model.terms, pull, goal, given, pose, turn, place, shape, shape.copy(), shapes, iterations)
    return pose, np.concatenate([rotation_vector(turn), place], axis=1), shape
