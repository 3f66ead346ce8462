"""Where in the cloud of an arm the palm is: a profile along the arm, then two linear steps.

A depth camera shows a hand's surface with an arm behind it, cut where image or reach end. For a tip t (a far
end of the cloud) let e be the middle of the points about 28 cm from it; s(p) = max|p − e| − |p − e| is then
how far a point lies behind the tip. Over slices of s the seen area and the two larger spreads tell how the
limb widens and narrows: fingers, palm, wrist, arm. Linear maps read them:

    s_palm  = axial · profile                    where along the limb the palm is
    palm_1  = c(s_palm) + Σ lateral_i v_i        v: means of neighbouring slices, axis, viewing rays
    palm_2  = palm_1 + Σ refine_i w_i            w: moments of shells around palm_1
    P(right) = σ(trust · (x, x²))                x: profile, length of both steps, the image's border

v_i and w_i are vectors of the cloud and their factors scalars, so the result turns and moves with the cloud:
no direction is preferred. The viewing rays carry the surface bias: a camera sees the near skin, the palm's
joint lies inside. `palm_calibration.calibrate` fits the factors to rendered clouds whose palm is known;
`palm_values.py` holds those of the built-in hand.

Cost: 1 ms a tip of 3,000 points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .cloud import Cloud, Tip

F64 = NDArray[np.float64]

SLICES: Final = 16
SLICE_MM: Final = 16.0
ARM_MM: Final = 290.0
"""Distance from the tip at which the arm's direction is read, where so much of it is seen."""
LIMB_MM: Final = 340.0
"""What lies farther from the tip is not looked at."""
SHELLS_MM: Final = (25.0, 50.0, 75.0, 100.0, 130.0, 160.0, 200.0)
_NEIGHBOURS: Final = tuple(i for i in range(-5, 6) if i)

N_PROFILE: Final = 3 * SLICES + 1
N_LATERAL: Final = len(_NEIGHBOURS) + 4
N_REFINE: Final = 2 * (4 * len(SHELLS_MM) + 2)
N_TRUST: Final = N_PROFILE + 8


@dataclass(frozen=True, slots=True)
class Calibration:
    """The factors of the module's four maps."""

    axial: F64
    """(N_PROFILE + 1,), constant last."""
    lateral: F64
    """(N_LATERAL,)."""
    refine: F64
    """(N_REFINE,)."""
    trust: F64
    """(2 N_TRUST + 1,): of the features, of their squares, constant last."""
    seen: F64
    """(2, N_TRUST): lowest and highest value of each feature that was fitted to; beyond, trust is not asked."""


@dataclass(frozen=True, slots=True)
class Calibrations:
    """One calibration for what a single camera sees, one for what several see together."""

    one: Calibration
    several: Calibration

    def of(self, cloud: Cloud) -> Calibration:
        """The one that fits a cloud."""
        return self.one if cloud.n_views == 1 else self.several


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where the hand may be."""

    palm_mm: F64
    """(3,) rig frame."""
    logit: float
    """Log odds that the palm's joint is within 30 mm of it."""


@dataclass(frozen=True, slots=True)
class Limb:
    """A cloud seen from one of its tips."""

    cloud: Cloud
    behind: F64
    """(n,) mm behind the tip."""
    arm: F64
    """(3,) where the arm comes from."""
    profile: F64
    whole: float
    """Logarithm of the seen area of all the cloud, of which the limb is a part; 1 is 10,000 mm²."""
    entry: tuple[float, float]
    """Where the surface goes on unseen, in [0, 1]: how much of it near the tip, and the way there. An arm does."""


def candidate(cloud: Cloud, tip: Tip, calibrations: Calibrations) -> Candidate | None:
    """The palm if the hand is at `tip`, and how much speaks for that; None where too little is seen."""
    limb = limb_behind(cloud, tip)
    if limb is None:
        return None
    calibration = calibrations.of(cloud)
    palm, features = read_limb(limb, calibration)
    features = np.clip(features, *calibration.seen)
    squared = np.concatenate([features, features**2])
    return Candidate(palm, float(squared @ calibration.trust[:-1] + calibration.trust[-1]))


def limb_behind(cloud: Cloud, end: Tip) -> Limb | None:
    """The slices behind a tip."""
    tip = end.point_mm
    whole = float(np.log10(cloud.area.sum() + 1)) - 3
    at_tip = float((cloud.area * cloud.border)[np.linalg.norm(cloud.points - tip, axis=1) < 80].sum())
    # As one walks: an upper arm may come near through the air without belonging to this limb.
    near = end.walk_mm < LIMB_MM
    cloud, away = cloud[near], end.walk_mm[near]
    if len(cloud) < 30:
        return None
    reach = np.sort(away[away <= ARM_MM + 10])
    far = reach[-max(3, len(reach) // 100)]
    arm = cloud.points[(away > far - 40) & (away <= far + 10)].mean(0)
    distance = np.linalg.norm(cloud.points - arm, axis=1)
    behind = np.sort(distance)[-max(3, len(distance) // 200)] - distance
    slices = _slices(cloud, behind)
    profile = np.append(slices, np.linalg.norm(tip - arm) / 200)
    return Limb(cloud, behind, arm, profile, whole, (min(at_tip / 400, 1.0), end.entry))


def _slices(cloud: Cloud, behind: F64) -> F64:
    """(3 SLICES,) area, width and thickness of each slice, scaled to about 1."""
    index = np.clip((behind / SLICE_MM).astype(np.intp), 0, SLICES)
    area = np.bincount(index, cloud.area, SLICES + 1) + 1e-6
    mean = np.stack([np.bincount(index, cloud.area * p, SLICES + 1) for p in cloud.points.T], axis=1) / area[:, None]
    offset = cloud.points - mean[index]
    spread = np.empty((SLICES + 1, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            moment = np.bincount(index, cloud.area * offset[:, i] * offset[:, j], SLICES + 1) / area
            spread[:, i, j] = spread[:, j, i] = moment
    widths = np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 0))
    return np.concatenate([area[:SLICES] / 2000, widths[:SLICES, 2] / 20, widths[:SLICES, 1] / 20])


def read_limb(limb: Limb, calibration: Calibration) -> tuple[F64, F64]:
    """Palm (3,) of a limb and the features (N_TRUST,) of its trust."""
    s_palm = float(limb.profile @ calibration.axial[:-1] + calibration.axial[-1])
    start, vectors = lateral_vectors(limb, s_palm)
    first = start + calibration.lateral @ vectors
    step = calibration.refine @ refine_vectors(limb, first)
    palm = first + step
    around = np.linalg.norm(limb.cloud.points - palm, axis=1)
    extra = [
        *limb.entry,
        s_palm / 100,
        float(np.linalg.norm(first - start)) / 20,
        float(np.linalg.norm(step)) / 20,
        limb.cloud.area[around < 90].sum() / 10_000,
        limb.cloud.area[around < 45].sum() / 5_000,
        limb.whole,
    ]
    return palm, np.concatenate([limb.profile, extra])


def _mean(cloud: Cloud, rows: NDArray[np.bool_], around: F64) -> F64:
    """(3,) area-weighted mean of some points relative to `around`; nothing seen there gives zero."""
    area = cloud.area[rows]
    if area.sum() < 50:
        return np.zeros(3)
    out: F64 = (area @ cloud.points[rows]) / area.sum() - around
    return out


def _mean_ray(cloud: Cloud, rows: NDArray[np.bool_]) -> F64:
    """(3,) mean viewing direction; its length falls as the views that see the points differ more."""
    area = cloud.area[rows]
    out: F64 = (area @ cloud.ray[rows]) / max(area.sum(), 1e-6)
    return out


def lateral_vectors(limb: Limb, s_palm: float) -> tuple[F64, F64]:
    """Middle of the palm's slice (3,) and the vectors (N_LATERAL, 3) that lead from it to the joint."""
    cloud, offset = limb.cloud, limb.behind - s_palm
    for half in (20.0, 80.0, np.inf):
        rows = np.abs(offset) < half
        if cloud.area[rows].sum() > 50:
            break
    start = np.average(cloud.points[rows], axis=0, weights=cloud.area[rows])
    axis = start - limb.arm
    axis /= np.linalg.norm(axis) + 1e-9
    vectors = [_mean(cloud, np.abs(offset - 16 * i) < 12, start) for i in _NEIGHBOURS]
    away = np.linalg.norm(cloud.points - start, axis=1)
    vectors += [_mean(cloud, away < radius, start) for radius in (60, 100)]
    return start, np.array([*vectors, 20 * axis, 20 * _mean_ray(cloud, rows)])


def refine_vectors(limb: Limb, palm: F64) -> F64:
    """(N_REFINE, 3): first moments of shells around the palm, towards the tip and towards the arm."""
    cloud = limb.cloud
    offset = cloud.points - palm
    away = np.linalg.norm(offset, axis=1)
    on_arm = (away > 110) & (away < 220) & (offset @ (limb.arm - palm) > 0)
    axis = -_mean(cloud, on_arm, palm) if on_arm.any() else palm - limb.arm
    axis = axis / (np.linalg.norm(axis) + 1e-9)
    shell = np.searchsorted(SHELLS_MM, away) + np.where(offset @ axis > 0, 0, len(SHELLS_MM) + 1)
    count = 2 * (len(SHELLS_MM) + 1)
    area = np.bincount(shell, cloud.area, count)
    moment = np.stack([np.bincount(shell, cloud.area * x, count) for x in offset.T], axis=1)
    kept = np.delete(np.arange(count), [len(SHELLS_MM), count - 1])
    # As much as a mean where much is seen, fading to nothing where little is.
    means = moment[kept] / (area[kept, None] + 150)
    number = np.tile(np.arange(1, len(SHELLS_MM) + 1), 2)
    masses = 25 * axis * (area[kept] / (500 * number))[:, None]
    rows = away < 70
    ray = _mean_ray(cloud, rows if rows.any() else np.ones(len(cloud), bool))
    vectors = np.concatenate([means, masses, [20 * axis, 20 * ray]])
    # One view or many: the ray's length tells, and the factors may depend on it.
    return np.concatenate([vectors, vectors * (np.linalg.norm(ray) - 0.7)])
