"""Fitting the factors of `palm.py` to rendered clouds whose palm is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .cloud import Cloud, tips
from .errors import HandloomError
from .palm import (
    N_TRUST,
    Calibration,
    Calibrations,
    Limb,
    lateral_vectors,
    limb_behind,
    read_limb,
    refine_vectors,
)

F64 = NDArray[np.float64]

GOOD_MM: Final = 30.0
"""An estimate this near to the palm counts as right."""
_Labelled = tuple[Limb, F64 | None, bool]
"""A limb, where the palm of its scene is, and whether the limb ends in that hand."""
LEAST_LIMBS: Final = 100
"""Fewer say too little to fit some 250 factors to, with their penalties."""


@dataclass(frozen=True, slots=True)
class Example:
    """A rendered cloud whose palm is known; `palm_mm` None for what is no hand at all."""

    cloud: Cloud
    palm_mm: F64 | None
    wrist_mm: F64 | None


def calibrate(examples: Iterable[Example], *, base: Calibrations | None = None, n_tips: int = 5) -> Calibrations:
    """Fit the maps to rendered examples; a few hundred of the rig in question suffice.

    Args:
        examples: with and without hands, by one camera and by several.
        base: kept where there are fewer than `LEAST_LIMBS` hands to fit to.
        n_tips: far ends looked at, as when the hand is looked for.

    Raises:
        HandloomError: too few examples and no `base`.
    """
    limbs: dict[bool, list[_Labelled]] = {True: [], False: []}
    for example in examples:
        if len(example.cloud) < 100:
            continue
        for tip in tips(example.cloud, n_tips):
            limb = limb_behind(example.cloud, tip)
            if limb is not None:
                is_hand = _is_hand_end(limb, tip.point_mm, example)
                limbs[example.cloud.n_views == 1].append((limb, example.palm_mm, is_hand))
    one = _fitted(limbs[True], base.one if base else None)
    several = _fitted(limbs[False], base.several if base else None)
    return Calibrations(one, several)


def _fitted(limbs: Sequence[_Labelled], base: Calibration | None) -> Calibration:
    """The four maps of one kind of cloud."""
    right = [(limb, palm) for limb, palm, is_hand in limbs if is_hand and palm is not None]
    if len(right) < LEAST_LIMBS:
        if base is None:
            raise HandloomError("Too few hands to calibrate with", why=f"{len(right)} of at least {LEAST_LIMBS}")
        return base
    profiles = np.array([limb.profile for limb, _ in right])
    wanted = np.array([_behind(limb, palm) for limb, palm in right])
    axial = _ridge(profiles, wanted, 3.0)
    nothing = (np.zeros(2 * N_TRUST + 1), np.zeros((2, N_TRUST)))

    s_palm = profiles @ axial[:-1] + axial[-1]
    pairs = [(lateral_vectors(limb, float(s)), palm) for (limb, palm), s in zip(right, s_palm, strict=True)]
    lateral = _vector_ridge([v for (_, v), _ in pairs], [palm - c for (c, _), palm in pairs], 20.0)
    firsts = [c + lateral @ v for (c, v), _ in pairs]
    refine = _vector_ridge(
        [refine_vectors(limb, first) for (limb, _), first in zip(right, firsts, strict=True)],
        [palm - first for (_, palm), first in zip(right, firsts, strict=True)],
        10.0,
    )
    fitted = Calibration(axial, lateral, refine, *nothing)
    features, good = [], []
    for limb, palm, _ in limbs:
        estimate, feature = read_limb(limb, fitted)
        features.append(feature)
        good.append(palm is not None and bool(np.linalg.norm(estimate - palm) < GOOD_MM))
    seen = np.percentile(features, [0.5, 99.5], axis=0)
    trust = _logistic(np.clip(features, *seen), np.array(good), 3.0)
    return Calibration(axial, lateral, refine, trust, seen)


def _is_hand_end(limb: Limb, tip: F64, example: Example) -> bool:
    """Whether the tip lies beyond the palm as seen from the wrist, not on the arm."""
    if example.palm_mm is None or example.wrist_mm is None:
        return False
    along = example.palm_mm - example.wrist_mm
    return bool((tip - example.wrist_mm) @ along > 0 and (limb.arm - example.palm_mm) @ along < 0)


def _behind(limb: Limb, palm: F64) -> float:
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
