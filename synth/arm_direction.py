"""Which way the forearm goes behind a fitted hand: no label says it, the depth image does.

For each direction that a wrist allows (a grid over its ellipse, `forearm.sample_wrist`) points are laid along the
forearm's axis, 55 to 165 mm behind the wrist, and looked up in every view: a surface that lies before the point by
about the arm's radius speaks for the direction, one that lies behind it against it; anything nearer hides the
place and says nothing. The mean of the best directions is taken, if enough speaks for them.

Cost: 0.5 ms a frame of three views.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from .forearm import WRIST_DOFS
from .hand import DOFS, FOREARM, POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, WRIST, RiggedHand, kinematics
from .rotation import rotation_matrix

F64 = NDArray[np.float64]

BEHIND_MM: Final = np.linspace(55, 165, 8)
RADIUS_MM: Final = 30.0
"""How far the arm's skin lies before its axis; half as far or half as far again is half as convincing."""
PALMAR_MM: Final = 5.0
"""How far the arm's middle lies from the wrist joint's level, to the palm's side."""
THROUGH_MM: Final = 12.0
"""A surface behind the axis by more than this shows that no arm is there."""
ENOUGH: Final = 4.0
"""Places, less those that speak against, that must speak for a direction."""
STRAIGHT: Final = 0.5
"""What a direction at the wrist's limit has to bring more than a straight one."""


def wrist_candidates() -> F64:
    """(C, 2) rad flexion and abduction, an even grid over the wrist's ellipse."""
    low, high = np.array([[DOFS[i].low_rad, DOFS[i].high_rad] for i in WRIST_DOFS]).T
    unit = np.stack(np.meshgrid(np.linspace(-1, 1, 19), np.linspace(-1, 1, 9), indexing="ij"), axis=-1).reshape(-1, 2)
    unit = unit[(unit**2).sum(1) <= 1.0]
    out: F64 = 0.5 * (low + high) + 0.5 * (high - low) * unit
    return out


def wrist_from_depth(hand: RiggedHand, root: NDArray[Any], crops: NDArray[np.uint16], k: NDArray[Any], rig: Rig) -> F64:
    """Flexion and abduction of the wrist (B, 2) rad; NaN where the images do not show an arm.

    Args:
        hand: whose wrist; any subject's.
        root: (B, 6) of the fitted hands, rig frame.
        crops: (B, V, S, S) depth in each camera's unit, 0 = no return.
        k: (B, V, 4) of the crops; all zeros where there is none.
        rig: the cameras.
    """
    angles = wrist_candidates()
    poses = np.zeros((len(angles), POSE_SIZE))
    poses[:, WRIST_DOFS] = angles
    state = kinematics(hand, poses, np.zeros((len(angles), ROOT_SIZE)), np.zeros((len(angles), SHAPE_SIZE)))
    _, distal, dorsal = np.moveaxis(state.rotation[:, FOREARM] @ hand.frames[WRIST].astype(np.float64), 2, 0)
    # (C, places, 3) on the axis of every candidate's arm, the wrist at the origin; then for every frame.
    axis = -BEHIND_MM[:, None] * distal[:, None] - PALMAR_MM * dorsal[:, None]
    turn = rotation_matrix(np.asarray(root[:, :3], np.float64))
    points = np.asarray(root[:, None, None, 3:], np.float64) + axis @ turn[:, None].transpose(0, 1, 3, 2)
    score = np.zeros(points.shape[:2])
    for view, camera in enumerate(rig.cameras):
        depth_mm = crops[:, view] * np.float32(camera.depth_unit_mm)
        score += _spoken(points @ camera.rotation.T + camera.translation, depth_mm, k[:, view])
    limit = np.array([DOFS[i].high_rad - DOFS[i].low_rad for i in WRIST_DOFS]) / 2
    preferred = score - STRAIGHT * ((angles / limit) ** 2).sum(1)
    # The arm is as wide as several directions: their middle is its axis.
    weight = np.where(preferred >= preferred.max(axis=1, keepdims=True) - 1.0, 1.0, 0.0)
    out: F64 = weight @ angles / weight.sum(axis=1, keepdims=True)
    out[score.max(axis=1) < ENOUGH] = np.nan
    return out


def _spoken(points: F64, depth_mm: NDArray[Any], k: NDArray[Any]) -> F64:
    """(B, C) places of one view that speak for an arm, less those that speak against it."""
    side = depth_mm.shape[-1]
    z = np.maximum(points[..., 2], 1.0)
    fx, fy, cx, cy = np.asarray(k, np.float64).T[:, :, None, None]
    u = np.floor(fx * points[..., 0] / z + cx + 0.5).astype(np.int64)
    v = np.floor(fy * points[..., 1] / z + cy + 0.5).astype(np.int64)
    inside = (u >= 0) & (u < side) & (v >= 0) & (v < side) & (points[..., 2] > 1) & (fx > 0)
    frame = np.arange(len(depth_mm))[:, None, None]
    seen = depth_mm[frame, np.where(inside, v, 0), np.where(inside, u, 0)].astype(np.float64)
    behind = seen - z
    known = inside & (seen > 0)
    there = known * np.maximum(1 - np.abs(behind + RADIUS_MM) / RADIUS_MM, 0)
    through = known & (behind > THROUGH_MM)
    out: F64 = there.sum(-1) - through.sum(-1)
    return out
