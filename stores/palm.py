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
joint lies inside. `calibrate` fits the factors to rendered clouds whose palm is known (regularised least
squares, logistic regression); `palm_values.py` holds those of the built-in hand on arcs of one to three cameras.

Cost: 1 ms a tip of 3,000 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

SLICES: Final = 16
SLICE_MM: Final = 16.0
ARM_MM: Final = 280.0
"""Distance from the tip at which the arm's direction is read, where so much of it is seen."""
LIMB_MM: Final = 330.0
"""What lies farther from the tip is not looked at."""
GOOD_MM: Final = 30.0
"""An estimate this near to the palm counts as right."""
SHELLS_MM: Final = (25.0, 50.0, 75.0, 100.0, 130.0, 160.0, 200.0)
_NEIGHBOURS: Final = tuple(i for i in range(-5, 6) if i)

N_PROFILE: Final = 3 * SLICES + 1
N_LATERAL: Final = len(_NEIGHBOURS) + 4
N_REFINE: Final = 2 * (4 * len(SHELLS_MM) + 2)
N_TRUST: Final = N_PROFILE + 6


@dataclass(frozen=True, slots=True)
class Cloud:
    """Surface points of something that may end in a hand."""

    points: F64
    """(n, 3) mm, rig frame."""
    area: F64
    """(n,) mm² of surface each point stands for, seen from its camera, divided by the number of cameras."""
    ray: F64
    """(n, 3) unit direction from its camera."""
    border: F64
    """(n,) 1 where the image ends, else 0."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: NDArray[np.generic]) -> Cloud:
        return Cloud(self.points[rows], self.area[rows], self.ray[rows], self.border[rows])


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


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where the hand may be."""

    palm_mm: F64
    """(3,) rig frame."""
    logit: float
    """Log odds that the palm's joint is within 30 mm of it."""


@dataclass(frozen=True, slots=True)
class _Limb:
    """A cloud seen from one of its tips."""

    cloud: Cloud
    behind: F64
    """(n,) mm behind the tip."""
    arm: F64
    """(3,) where the arm comes from."""
    profile: F64
    border: float
    """Share of the tip's points at which the image ends: a hand rarely ends there, an arm does."""


def tips(cloud: Cloud, count: int) -> F64:
    """(count, 3) extremities: each the point farthest from those before, the first from the middle."""
    points = cloud.points
    found: list[F64] = []
    nearest = ((points - points.mean(0)) ** 2).sum(1)
    for _ in range(count):
        tip = points[int(np.argmax(nearest))]
        away = ((points - tip) ** 2).sum(1)
        nearest = away if not found else np.minimum(nearest, away)
        found.append(tip)
    return np.array(found)


def candidate(cloud: Cloud, tip: F64, calibration: Calibration) -> Candidate | None:
    """The palm if the hand is at `tip`, and how much speaks for that; None where too little is seen."""
    limb = _limb(cloud, tip)
    if limb is None:
        return None
    palm, features = _follow(limb, calibration)
    squared = np.concatenate([features, features**2])
    return Candidate(palm, float(squared @ calibration.trust[:-1] + calibration.trust[-1]))


def _limb(cloud: Cloud, tip: F64) -> _Limb | None:
    """The slices behind a tip."""
    away = np.linalg.norm(cloud.points - tip, axis=1)
    near = away < LIMB_MM
    if near.sum() < 30:
        return None
    cloud, away = cloud[near], away[near]
    reach = np.sort(away[away <= ARM_MM + 10])
    far = reach[-max(3, len(reach) // 100)]
    arm = cloud.points[(away > far - 40) & (away <= far + 10)].mean(0)
    distance = np.linalg.norm(cloud.points - arm, axis=1)
    behind = np.sort(distance)[-max(3, len(distance) // 200)] - distance
    at_tip = away < 40
    border = float(np.average(cloud.border[at_tip], weights=cloud.area[at_tip])) if at_tip.any() else 0.0
    slices = _slices(cloud, behind)
    profile = np.append(slices, np.linalg.norm(tip - arm) / 200)
    return _Limb(cloud, behind, arm, profile, border)


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


def _follow(limb: _Limb, calibration: Calibration) -> tuple[F64, F64]:
    """Palm (3,) of a limb and the features (N_TRUST,) of its trust."""
    s_palm = float(limb.profile @ calibration.axial[:-1] + calibration.axial[-1])
    start, vectors = _lateral(limb, s_palm)
    first = start + calibration.lateral @ vectors
    step = calibration.refine @ _refine(limb, first)
    palm = first + step
    around = np.linalg.norm(limb.cloud.points - palm, axis=1)
    extra = [
        limb.border,
        s_palm / 100,
        float(np.linalg.norm(first - start)) / 20,
        float(np.linalg.norm(step)) / 20,
        limb.cloud.area[around < 90].sum() / 10_000,
        limb.cloud.area[around < 45].sum() / 5_000,
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


def _lateral(limb: _Limb, s_palm: float) -> tuple[F64, F64]:
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


def _refine(limb: _Limb, palm: F64) -> F64:
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


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered cloud whose palm is known; `palm_mm` None for what is no hand at all."""

    cloud: Cloud
    palm_mm: F64 | None
    wrist_mm: F64 | None


def calibrate(examples: Sequence[Example], *, n_tips: int = 4) -> Calibration:
    """Fit the four maps to rendered examples; a few hundred of the rig in question suffice."""
    limbs: list[tuple[_Limb, F64 | None, bool]] = []
    for example in examples:
        if len(example.cloud) < 100:
            continue
        for tip in tips(example.cloud, n_tips):
            limb = _limb(example.cloud, tip)
            if limb is not None:
                limbs.append((limb, example.palm_mm, _is_hand_end(limb, tip, example)))
    right = [(limb, palm) for limb, palm, is_hand in limbs if is_hand and palm is not None]
    profiles = np.array([limb.profile for limb, _ in right])
    wanted = np.array([_behind(limb, palm) for limb, palm in right])
    axial = _ridge(profiles, wanted, 3.0)
    zero = Calibration(axial, np.zeros(N_LATERAL), np.zeros(N_REFINE), np.zeros(2 * N_TRUST + 1))

    s_palm = profiles @ axial[:-1] + axial[-1]
    pairs = [(_lateral(limb, float(s)), palm) for (limb, palm), s in zip(right, s_palm, strict=True)]
    lateral = _vector_ridge([v for (_, v), _ in pairs], [palm - c for (c, _), palm in pairs], 20.0)
    firsts = [c + lateral @ v for (c, v), _ in pairs]
    refine = _vector_ridge(
        [_refine(limb, first) for (limb, _), first in zip(right, firsts, strict=True)],
        [palm - first for (_, palm), first in zip(right, firsts, strict=True)],
        10.0,
    )
    fitted = Calibration(axial, lateral, refine, zero.trust)
    features, good = [], []
    for limb, palm, _ in limbs:
        estimate, feature = _follow(limb, fitted)
        features.append(feature)
        good.append(palm is not None and bool(np.linalg.norm(estimate - palm) < GOOD_MM))
    return Calibration(axial, lateral, refine, _logistic(np.array(features), np.array(good), 3.0))


def _is_hand_end(limb: _Limb, tip: F64, example: Example) -> bool:
    """Whether the tip lies beyond the palm as seen from the wrist, not on the arm."""
    if example.palm_mm is None or example.wrist_mm is None:
        return False
    along = example.palm_mm - example.wrist_mm
    return bool((tip - example.wrist_mm) @ along > 0 and (limb.arm - example.palm_mm) @ along < 0)


def _behind(limb: _Limb, palm: F64) -> float:
    """How far a point lies behind the tip, its s."""
    reach = float(limb.behind[0] + np.linalg.norm(limb.cloud.points[0] - limb.arm))
    return reach - float(np.linalg.norm(palm - limb.arm))


def _ridge(features: F64, values: F64, weight: float) -> F64:
    """(n + 1,) factors and constant of regularised least squares."""
    a = np.column_stack([features, np.ones(len(features))])
    penalty = np.eye(a.shape[1]) * weight
    penalty[-1, -1] = 0
    return np.asarray(np.linalg.solve(a.T @ a + penalty, a.T @ values), np.float64)


def _vector_ridge(vectors: Sequence[F64], targets: Sequence[F64], weight: float) -> F64:
    """(n,) scalar factors of vectors (n, 3) that best add up to the targets (3,); wild targets left out."""
    count = len(vectors[0])
    gram, right, used = np.zeros((count, count)), np.zeros(count), 0
    for v, target in zip(vectors, targets, strict=True):
        if np.linalg.norm(target) < 80:
            gram += v @ v.T
            right += v @ target
            used += 1
    return np.asarray(np.linalg.solve(gram + np.eye(count) * weight * used, right), np.float64)


def _logistic(features: F64, good: NDArray[np.bool_], weight: float) -> F64:
    """(2 n + 1,) factors of features, their squares and 1: regularised logistic regression, Newton's method.

    Fitted on standardised features, so that the penalty treats them alike, and written for raw ones.
    """
    mean, spread = features.mean(0), features.std(0) + 1e-6
    z = (features - mean) / spread
    a = np.column_stack([z, z**2, np.ones(len(z))])
    penalty = np.full(a.shape[1], weight)
    penalty[-1] = 1e-6
    factors = np.zeros(a.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(a @ factors, -30, 30)))
        gradient = a.T @ (p - good) + penalty * factors
        hessian = (a * (p * (1 - p))[:, None]).T @ a + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        factors -= step
        if np.abs(step).max() < 1e-6:
            break
    count = features.shape[1]
    one, two = factors[:count] / spread, factors[count:-1] / spread**2
    constant = factors[-1] - one @ mean + two @ mean**2
    return np.concatenate([one - 2 * two * mean, two, [constant]])
