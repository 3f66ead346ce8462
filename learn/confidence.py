"""How far a pose is to be trusted, from what it costs nothing to know: how well its sources agree.

A view's pose is read from two crops, around the centre found and around the palm first predicted; a pose that moves
when the crop moves is a guess. That movement, `spread_mm`, is the mean way of its joints. A fused pose has the
disagreement of its cameras as well; both count, as the geometric mean of (5 mm + each). With u = that, in mm,

    confidence = P(mean joint error < 20 mm) = 1 / (1 + exp(b log(5 mm + u) - a)).

`a` and `b` are fitted to labelled frames where an export is given some (`handloom export --on VAL.zarr`); that is then
a probability, for hands and motions like those: on other sequences it was off either way (fused poses of one capture
said 0.65, and 0.35 of them were within 20 mm; of another 0.36, and 0.46 were). Else they are those of `UNCALIBRATED`,
even at 20 mm of movement: larger is surer, and no more is promised. The file says which, and the rank correlation of
doubt and error that was measured on those frames: 0.2 to 0.6 on the models of benchmarks/tracking.py. It sorts,
roughly; it does not prove.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..stores.errors import HandloomError
from ..stores.joints import converted
from .fusion import Fused, fuse

if TYPE_CHECKING:
    from ..stores.recording import Recording
    from .predict import Estimator

WITHIN_MM: Final = 20.0
SOFT_MM: Final = 5.0
"""Movements below this tell nothing apart."""
LEAST_FRAMES: Final = 30
"""Fewer labelled frames calibrate nothing."""


@dataclass(frozen=True, slots=True)
class Curve:
    """P = 1 / (1 + exp(b log(5 mm + u) - a))."""

    a: float
    b: float

    def __call__(self, doubt_mm: ArrayLike) -> NDArray[np.float64]:
        """(...) from 0 to 1; what is unknown (NaN) counts as 0 mm."""
        u = np.asarray(doubt_mm, np.float64)
        u = np.where(np.isnan(u), 0.0, u)
        return np.asarray(1 / (1 + np.exp(np.clip(self.b * np.log(SOFT_MM + u) - self.a, -60, 60))))


@dataclass(frozen=True, slots=True)
class Confidence:
    """What turns disagreement into confidence: of one view's pose, and of a fused one."""

    view: Curve
    fused: Curve
    calibrated: bool = False
    frames: int = 0
    """Labelled ones it was fitted to."""
    rank_correlation: tuple[float, float] | None = None
    """Spearman's, of doubt and mean joint error on these frames: of views and of fused poses."""

    def to_text(self) -> str:
        """As it is kept in a model file."""
        return json.dumps(asdict(self) | {"within_mm": WITHIN_MM})


UNCALIBRATED: Final = Confidence(Curve(2 * np.log(25.0), 2.0), Curve(2 * np.log(25.0), 2.0))


def from_text(text: str | None) -> Confidence:
    """What a model file says; `UNCALIBRATED` where it says nothing.

    Raises:
        ValueError: it says something else.
    """
    if text is None:
        return UNCALIBRATED
    values = json.loads(text)
    try:
        view, fused = (Curve(float(values[name]["a"]), float(values[name]["b"])) for name in ("view", "fused"))
        if not np.isfinite([view.a, view.b, fused.a, fused.b]).all() or min(view.b, fused.b) < 0:
            raise ValueError("no curve that falls")
        if values["within_mm"] != WITHIN_MM:
            raise ValueError(f"within {values['within_mm']} mm")
        rank = values["rank_correlation"]
        pair = None if rank is None else (float(rank[0]), float(rank[1]))
        return Confidence(view, fused, bool(values["calibrated"]), int(values["frames"]), pair)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"confidence: {error}") from error


def fused_doubt(spread_mm: ArrayLike, fused: Fused) -> NDArray[np.float64]:
    """The doubt u (...) of fused poses, mm: of their views' movements (..., V) and how far they lie from them."""
    spread = np.nan_to_num(np.asarray(spread_mm, np.float64), nan=0.0)
    if spread.shape[-1] == 1:
        return np.asarray(spread[..., 0])
    apart = fused.joint_disagreement_mm.mean(axis=-1)
    return np.asarray(np.sqrt((SOFT_MM + spread.mean(axis=-1)) * (SOFT_MM + apart)) - SOFT_MM)


def calibrate(estimator: Estimator, recording: Recording, rows: Sequence[int]) -> Confidence:
    """Fit the curves to labelled rows of a recording, their hands found as `predict` finds them.

    Raises:
        HandloomError: fewer than `LEAST_FRAMES` rows have labels and a hand, or they are of another layout.
    """
    measured = _measured(estimator, recording, rows)
    if len(measured) < LEAST_FRAMES:
        raise HandloomError(
            "Too few labelled frames to calibrate the confidence on",
            where=str(recording.path),
            why=f"{len(measured)} have labels and a hand that was found; {LEAST_FRAMES} are needed",
        )
    views = np.concatenate([np.stack([spread, _errors(rig, truth)], axis=1) for rig, spread, truth in measured])
    view = _fit(views)
    fused = np.array([_fused(view, *frame) for frame in measured])
    rank = (rank_correlation(*views.T), rank_correlation(*fused.T))
    return Confidence(view, _fit(fused), True, len(measured), rank)


Frame = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float32]]
"""Poses of the views (V, J, 3) in the rig, their movements (V,), and the truth (J, 3); mm."""


def _measured(estimator: Estimator, recording: Recording, rows: Sequence[int]) -> list[Frame]:
    from .inputs import recording_views, usable
    from .predict import estimates

    layout = recording.layout
    if recording.labels is None or layout is None or layout.name not in ("openxr26", estimator.layout.name):
        of = f"of {layout.name}" if layout else "none"
        raise HandloomError(
            "The recording's labels do not fit the model", where=str(recording.path), why=f"its labels are {of}"
        )
    found: list[Frame] = []
    for row in rows:
        truth = converted(recording.labels.read("joints", row, row + 1)[0], layout, estimator.layout)
        shown = [v for _, v in recording_views(recording, row, row + 1) if v.center_mm is not None]
        shown = [v for v in shown if usable(np.asarray(v.center_mm))]
        if not shown or not np.isfinite(truth).all():
            continue
        centers = np.array([v.center_mm for v in shown], np.float64)
        poses = estimates(estimator, shown, centers, mirrored=recording.hand != estimator.hand)
        in_rig = np.stack([v.camera.to_rig(j) for v, j in zip(shown, poses.joints_mm, strict=True)])
        found.append((in_rig, poses.spread_mm, truth))
    return found


def _errors(joints_mm: NDArray[np.float64], truth_mm: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(joints_mm - truth_mm, axis=-1).mean(axis=-1))


def _fused(
    view: Curve, joints_mm: NDArray[np.float64], spread_mm: NDArray[np.float64], truth_mm: NDArray[np.float32]
) -> tuple[float, float]:
    """Doubt and error of the fused pose."""
    one = fuse(joints_mm, view(spread_mm))
    return float(fused_doubt(spread_mm, one)), float(_errors(one.joints_mm, truth_mm))


def _fit(measured: NDArray[np.float64], *, steps: int = 50) -> Curve:
    """Logistic regression of (error < 20 mm) on log(5 mm + doubt), by Newton's method.

    A weak prior (b = 2 +- 2, and one frame on either side) keeps it finite where no frame, or each, is within.
    """
    x, y = np.log(SOFT_MM + measured[:, 0]), (measured[:, 1] < WITHIN_MM).astype(np.float64)
    middle = x.mean()
    z = x - middle
    theta: NDArray[np.float64] = np.array([0.0, 2.0])  # logit at the middle, and b
    design = np.stack([np.ones_like(z), -z], axis=1)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-design @ theta))
        q = 1 / (1 + np.exp(-theta[0]))
        slope = design.T @ (y - p) + np.array([1 - 2 * q, (2 - theta[1]) / 4])
        curvature = (design * (p * (1 - p))[:, None]).T @ design + np.diag([2 * q * (1 - q), 0.25])
        step = np.asarray(np.linalg.solve(curvature, slope))
        theta = np.asarray(theta + np.clip(step, -1, 1))
        if np.abs(step).max() < 1e-9:
            break
    b = max(float(theta[1]), 0.0)
    return Curve(float(theta[0]) + b * float(middle), b)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's, of two rows of numbers; 0 where one of them is constant."""
    ranks = np.array([np.argsort(np.argsort(np.asarray(x))) for x in (a, b)], np.float64)
    if min(np.ptp(np.asarray(x)) for x in (a, b)) == 0:
        return 0.0
    return float(np.asarray(np.corrcoef(ranks))[0, 1])
