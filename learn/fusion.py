"""One pose from those of several cameras: a robust mean in the rig's frame, weighted by confidence.

Each joint is the weighted mean that minimises a sum of Geman and McClure's function ("Statistical Methods for
Tomographic Image Reconstruction", 1987), rho(d) = d² / (1 + d² / s²), of the distances d to the views' joints, found by
iteratively reweighted least squares from the views' median:

    w = confidence / (1 + (d / s)²)²,    s = 60 mm,

so that a view that is far off, because a finger is hidden from it or its crop shows something else, counts for little.
Two views that contradict each other are met half-way, as their confidence says: there is no majority of two.

s was chosen on validation frames of three rendered captures (20 to 60 mm differ by 3 %); see benchmarks/tracking.py for
what it is worth on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

SCALE_MM: Final = 60.0
STEPS: Final = 5
LEAST_WEIGHT: Final = 1e-3
"""A view of no confidence still counts where there is no other."""


@dataclass(frozen=True, slots=True)
class Fused:
    """The pose of all cameras together, or those of several instants."""

    joints_mm: NDArray[np.float64]
    """(..., J, 3) in the rig's frame."""
    joint_disagreement_mm: NDArray[np.float64]
    """(..., J) mean distance of the views' joint to it; 0 of a single view."""

    @property
    def disagreement_mm(self) -> float:
        """Mean over everything."""
        return float(self.joint_disagreement_mm.mean())


def fuse(joints_rig_mm: NDArray[Any], confidence: NDArray[Any]) -> Fused:
    """The pose of several views, or of each of several instants: 0.2 ms of one, 0.02 ms each of 32 together.

    Args:
        joints_rig_mm: (..., V, J, 3), all in the rig's frame.
        confidence: (..., V), each at least 0.
    """
    joints = np.asarray(joints_rig_mm, np.float64)
    if joints.shape[-3] == 1:
        return Fused(joints[..., 0, :, :], np.zeros(joints.shape[:-3] + joints.shape[-2:-1]))
    trust = np.maximum(np.asarray(confidence, np.float64), LEAST_WEIGHT)[..., None]
    middle = np.median(joints, axis=-3, keepdims=True)
    for _ in range(STEPS):
        weight = trust / (1 + (_away(joints, middle) / SCALE_MM) ** 2) ** 2
        middle = (weight[..., None] * joints).sum(axis=-3, keepdims=True) / weight.sum(-2)[..., None, :, None]
    return Fused(middle[..., 0, :, :], _away(joints, middle).mean(axis=-2))


def _away(joints: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., V, J) distances of the views' joints from those in their midst."""
    return np.asarray(np.linalg.norm(joints - middle, axis=-1))
