"""One person's hand from that person's labelled frames: proportions, skeleton, and the layout's offsets.

Poses are fitted in turn with what stays the same over the frames. Proportions (`SHAPE_NAMES`) come first;
then each joint of the skeleton may move in its parent's bone and each point of the layout in its own: with
the rotations held, both are linear,

    target − p = Σ_j [j moves p] R_parent S_parent δ_j + R_bone F_bone ω_p,

a ridge regression over all frames. The mesh follows its joints. Frames whose points stay far off compared with
the person's others (labels of another finger, of another hand) have no say in what the person looks like.

Cost: about 10 ms a frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import Layout
from .fit import Fit, fit_pose
from .hand import BONE_PARENTS, CHILDREN, N_BONES, SHAPE_SIZE, WRIST, RiggedHand, kinematics, without_helpers
from .points import Model, known

F64 = NDArray[np.float64]

JOINT_RIDGE: Final = 0.1
"""Pull of a joint to where it is, mm² per mm² and frame; a point's offset is held half as firmly."""
TRUST: Final = 2.5
"""A frame farther off than this many times the person's median is not asked about the person."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What stays the same over one person's frames."""

    hand: RiggedHand
    """With the person's own skeleton: `with_joints_moved(the hand that was fitted, shift_mm)`."""
    shift_mm: F64
    """(26, 3) of each joint from its parent, at rest."""
    shape: F64
    """(SHAPE_SIZE,)."""
    offset_mm: F64
    """(J, 3) of the layout's points from their blends of joints, in their bones' frames."""


def fit_subject(
    hand: RiggedHand, targets: NDArray[Any], layout: Layout, *, rounds: int = 8, max_frames: int = 400
) -> Subject:
    """The person whose points in frames (B, J, 3) mm, NaN where unknown, these are.

    Use as `fit_pose(subject.hand, targets, layout, shape=subject.shape, offset_mm=subject.offset_mm)`.

    Args:
        hand: to start from; its side must be the person's.
        targets: frames of one person only.
        layout: whose points they are.
        rounds: of skeleton and poses in turn.
        max_frames: taken at even distances when there are more.

    Raises:
        HandloomError: no frame gives three points.
    """
    targets = np.asarray(targets, np.float64)
    targets = targets[known(targets).sum(axis=1) >= 3]
    if not len(targets):
        raise HandloomError("There is nobody to fit", why="no frame gives three points or more")
    if len(targets) > max_frames:
        targets = targets[np.linspace(0, len(targets) - 1, max_frames).astype(int)]
    shape, offset = np.zeros(SHAPE_SIZE), np.zeros((len(layout), 3))
    fit: Fit | None = None
    for _ in range(2):
        fit = fit_pose(hand, targets, layout, shape=shape, fit_shape=True, offset_mm=offset, start=fit)
        fit, targets = _trusted(fit, targets)
        shape = np.median(fit.shape, axis=0)
    person, shift = hand, np.zeros((26, 3))
    for _ in range(rounds):
        fit = fit_pose(person, targets, layout, shape=shape, offset_mm=offset, start=fit, iterations=6)
        fit, targets = _trusted(fit, targets)
        step, moved = _skeleton_step(Model(person, layout, offset), fit, targets)
        shift, offset = shift + step, offset + moved
        person = with_joints_moved(hand, shift)
    return Subject(person, shift, shape, offset)


def _trusted(fit: Fit, targets: F64) -> tuple[Fit, F64]:
    """The frames whose points stay no farther off than is usual for this person, on the whole and each."""
    worst = np.nanmax(fit.point_mm, axis=1)
    rows = np.flatnonzero(
        (fit.residual_mm <= TRUST * np.median(fit.residual_mm) + 0.5) & (worst <= TRUST * np.median(worst) + 2.0)
    )
    kept = Fit(*(getattr(fit, name)[rows] for name in ("pose", "root", "shape", "residual_mm", "point_mm")))
    return kept, targets[rows]


def _skeleton_step(model: Model, fit: Fit, targets: F64) -> tuple[F64, F64]:
    """Shifts of the joints (26, 3), rest axes, and of the offsets (J, 3) that explain the residuals best."""
    state = kinematics(model.hand, fit.pose, fit.root, fit.shape)
    points, _ = model.points(state)
    count = len(model.layout)
    given = known(targets)
    error = np.where(given[..., None], np.nan_to_num(targets) - points, 0)
    parents = np.array(BONE_PARENTS[:26])
    free = np.flatnonzero(parents >= 0)
    carried = state.rotation[:, parents[free]] @ state.stretch[:, parents[free]]
    reach = (model.matrix @ model.above)[:, free]
    axes = state.rotation[:, model.bone] @ model.hand.frames[model.bone]
    size = 3 * len(free)
    # (B, J, 3, unknowns): joints first, then each point's own offset.
    system = np.zeros((*error.shape, size + 3 * count))
    system[..., :size] = np.einsum("pj,bjik->bpijk", reach, carried).reshape(*error.shape, size)
    for point in range(count):
        low = size + 3 * point
        system[:, point, :, low : low + 3] = axes[:, point]
    system *= given[..., None, None]
    rows = system.reshape(-1, system.shape[-1])
    ridge = np.full(system.shape[-1], JOINT_RIDGE * len(targets))
    ridge[size:] *= 0.5
    solution = np.linalg.solve(rows.T @ rows + np.diag(ridge), rows.T @ error.reshape(-1))
    shift = np.zeros((26, 3))
    shift[free] = solution[:size].reshape(-1, 3)
    return shift, solution[size:].reshape(count, 3)


def with_joints_moved(hand: RiggedHand, shift_mm: F64) -> RiggedHand:
    """The hand with each joint moved by (26, 3) mm from its parent, at rest; flesh and the rest follow."""
    total = np.zeros((N_BONES, 3))
    for joint in (WRIST, *(j for j in range(26) if j != WRIST)):
        up = BONE_PARENTS[joint]
        total[joint] = shift_mm[joint] + (total[up] if up >= 0 else 0)
    total[N_BONES - 1] = total[WRIST]
    weights = without_helpers(hand.dense_weights())
    moved = weights @ total
    for bone, child in enumerate(CHILDREN):
        if child >= 0:
            # Along a bone the shift of its far end fades in.
            axis = (hand.joints[child] - hand.joints[bone]).astype(np.float64)
            along = np.clip((hand.vertices - hand.joints[bone]) @ axis / (axis @ axis), 0, 1)
            moved += (weights[:, bone] * along)[:, None] * (total[child] - total[bone])
    return replace(
        hand,
        vertices=(hand.vertices + moved).astype(np.float32),
        joints=(hand.joints + total[:26]).astype(np.float32),
    )
