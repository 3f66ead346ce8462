"""Errors of joints in millimetres and what is said about them: means, curves, intervals.

A frame's error is the mean over its known joints of the Euclidean distance; the mean error is the mean over
frames. The success curve counts the frames whose **worst** joint is within t; its area to 80 mm is

    AUC = 1/80 ∫₀⁸⁰ share(t) dt = mean over frames of max(0, 1 - worst / 80),

exact, no matter at which t the curve is drawn. Consecutive frames are no independent samples, so intervals
resample whole sequences, or blocks of consecutive frames where there are too few sequences (and say so).
Source: `specs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLDS_MM: Final = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0)
AUC_LIMIT_MM: Final = 80.0
LEVEL: Final = 0.95
RESAMPLES: Final = 2000
MIN_SEQUENCES: Final = 8
"""With fewer sequences than this, resampling them says little: blocks of frames take their place."""
BLOCK_FRAMES: Final = 100
"""Frames of a block at most: more than three seconds at 30 Hz, longer than a pose lasts."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A bootstrap percentile interval and what was resampled for it."""

    low: float
    high: float
    groups: int
    unit: str
    """'sequences', or 'blocks of n frames'."""
    level: float = LEVEL

    @property
    def half_width(self) -> float:
        """Half the distance between the ends: the figure behind a ± sign."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Groups:
    """Which resampling group each image belongs to."""

    ids: NDArray[np.int64]
    """(N,) from 0."""
    unit: str

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.ids.max()) + 1 if len(self.ids) else 0


@dataclass(frozen=True, slots=True)
class Part:
    """The errors of some of the images: those of one camera, one person or one sequence."""

    name: str
    images: int
    missed: int
    mean_mm: float
    median_mm: float
    interval: Interval
    """Of the mean."""
    within_40mm: float
    """Share of images whose worst joint is within 40 mm."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What is said about one model on one set of images; errors in mm."""

    images: int
    """Images with at least one known joint; the missed ones are among them."""
    missed: int
    """Images without a prediction: no part of the means, failures at every threshold of the curve."""
    mean_mm: float
    """Mean over joints, then over frames."""
    median_mm: float
    """Median over frames of a frame's mean error."""
    interval: Interval
    """Of the mean."""
    joint_names: tuple[str, ...]
    per_joint_mm: tuple[float, ...]
    parts: Mapping[str, tuple[Part, ...]]
    """The same by 'view', 'subject', 'sequence' or whatever the images were told apart by."""
    thresholds_mm: tuple[float, ...]
    success: tuple[float, ...]
    """Share of images whose worst joint is within each threshold."""
    auc: float
    """Area under the success curve to 80 mm, from 0 to 1."""
    seed: int
    """Of the bootstrap."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json and for result files."""
        return asdict(self)

    def text(self) -> str:
        """`12.69 ± 1.39 mm`: the mean with half the width of its interval."""
        return f"{self.mean_mm:.2f} ± {self.interval.half_width:.2f} mm"

    def lines(self) -> list[str]:
        """The summary a terminal shows, at most 80 characters a line."""
        i = self.interval
        missed = f", {self.missed} without a prediction" if self.missed else ""
        at = "".join(f"{t:>6.0f}" for t in self.thresholds_mm)
        share = "".join(f"{100 * s:>6.1f}" for s in self.success)
        return [
            f"mean joint error   {self.mean_mm:.3f} mm   {100 * i.level:.0f} % interval {i.low:.2f} to {i.high:.2f}",
            f"median frame       {self.median_mm:.3f} mm over {self.images} images{missed}",
            f"worst joint within{at} mm",
            f"  of the images   {share} %",
            f"area to {AUC_LIMIT_MM:.0f} mm      {self.auc:.4f}",
            f"bootstrap over {i.groups} {i.unit}, seed {self.seed}",
        ]


def joint_errors(prediction_mm: ArrayLike, truth_mm: ArrayLike) -> NDArray[np.float64]:
    """Euclidean distances (..., J) mm of joints (..., J, 3); NaN where either is unknown."""
    difference = np.asarray(prediction_mm, np.float64) - np.asarray(truth_mm, np.float64)
    distance: NDArray[np.float64] = np.linalg.norm(difference, axis=-1)
    return distance


def frame_means(errors_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean (N,) over the known joints of errors (N, J); NaN where none is known."""
    known = ~np.isnan(errors_mm)
    total = np.where(known, errors_mm, 0.0).sum(axis=-1)
    count = known.sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def measure(
    prediction_mm: ArrayLike,
    truth_mm: ArrayLike,
    *,
    joint_names: Sequence[str],
    seed: int,
    sequence: Sequence[str] | NDArray[Any] | None = None,
    order: ArrayLike | None = None,
    by: Mapping[str, NDArray[Any]] | None = None,
) -> Metrics:
    """Compare predicted with true joints.

    Args:
        prediction_mm: (N, J, 3); NaN where the model gave none.
        truth_mm: (N, J, 3), NaN = unknown. Images without any known joint are left out.
        joint_names: J names.
        seed: of the bootstrap.
        sequence: (N,) the sequence each image is of; None: they are all of one.
        order: (N,) the running number of the frame each image shows (views of a frame share it); None: each
            image is its own frame.
        by: what else to tell images apart by, (N,) a name or number each: `{"view": …}` gives `parts["view"]`.
    """
    truth = np.asarray(truth_mm, np.float64)
    errors = joint_errors(prediction_mm, truth)
    labelled = ~np.isnan(truth).any(axis=-1).all(axis=-1) if len(truth) else np.zeros(0, bool)
    kept = np.flatnonzero(labelled)
    names = np.zeros(len(truth), np.int64) if sequence is None else np.asarray(sequence)
    places = np.arange(len(truth)) if order is None else np.asarray(order, np.int64)
    errors, names, places = errors[kept], names[kept], places[kept]
    per_frame, worst = frame_means(errors), worst_joint(errors)
    whole = _part("", per_frame, worst, groups_of(names, places), seed=seed)
    return Metrics(
        images=whole.images,
        missed=whole.missed,
        mean_mm=whole.mean_mm,
        median_mm=whole.median_mm,
        interval=whole.interval,
        joint_names=tuple(joint_names),
        per_joint_mm=tuple(float(x) for x in frame_means(errors.T)),
        parts={
            what: tuple(
                _part(str(name), per_frame[mine], worst[mine], groups_of(names[mine], places[mine]), seed=seed)
                for name in np.unique(values[kept])
                if len(mine := np.flatnonzero(values[kept] == name))
            )
            for what, values in (by or {}).items()
        },
        thresholds_mm=THRESHOLDS_MM,
        success=tuple(float(x) for x in success_curve(worst, THRESHOLDS_MM)),
        auc=float(np.clip(1 - worst / AUC_LIMIT_MM, 0, 1).mean()) if len(worst) else float("nan"),
        seed=seed,
    )


def _part(
    name: str, per_frame_mm: NDArray[np.float64], worst_mm: NDArray[np.float64], groups: Groups, *, seed: int
) -> Part:
    """What is said of images with these errors (N,), NaN and inf where there is no prediction."""
    found = ~np.isnan(per_frame_mm)
    errors = per_frame_mm[found]
    return Part(
        name=name,
        images=len(found),
        missed=int((~found).sum()),
        mean_mm=float(errors.mean()) if len(errors) else float("nan"),
        median_mm=float(np.median(errors)) if len(errors) else float("nan"),
        interval=interval_of_mean(errors, Groups(groups.ids[found], groups.unit), seed=seed),
        within_40mm=float((worst_mm <= 40).mean()) if len(worst_mm) else float("nan"),
    )


def worst_joint(errors_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest error (N,) of each frame of errors (N, J); inf where there is no prediction."""
    known = ~np.isnan(errors_mm)
    return np.where(known.any(axis=1), np.where(known, errors_mm, 0.0).max(axis=1, initial=0.0), np.inf)


def success_curve(worst_mm: NDArray[np.float64], thresholds_mm: ArrayLike) -> NDArray[np.float64]:
    """Share of frames whose worst joint (N,) is within each threshold; NaN without frames."""
    thresholds = np.asarray(thresholds_mm, np.float64)
    if not len(worst_mm):
        return np.full(thresholds.shape, np.nan)
    return np.searchsorted(np.sort(worst_mm), thresholds, side="right") / len(worst_mm)


def groups_of(sequence: NDArray[Any], order: NDArray[np.int64]) -> Groups:
    """What to resample: the sequences (N,) if there are enough, else blocks of consecutive frames in them."""
    _, ids = np.unique(sequence, return_inverse=True)
    if len(ids) and ids.max() + 1 >= MIN_SEQUENCES:
        return Groups(ids.astype(np.int64), "sequences")
    frames = len(np.unique(order))
    length = int(np.clip(frames // 20, 1, BLOCK_FRAMES))
    blocks = np.zeros(len(ids), np.int64)
    for name in np.unique(ids):
        inside = np.flatnonzero(ids == name)
        _, rank = np.unique(order[inside], return_inverse=True)
        blocks[inside] = rank // length
    pairs = np.stack([ids, blocks], axis=1)
    _, ids = np.unique(pairs, axis=0, return_inverse=True)
    unit = f"blocks of {length} frames" if length > 1 else "frames"
    return Groups(ids.reshape(-1).astype(np.int64), unit)


def interval_of_mean(values: NDArray[np.float64], groups: Groups, *, seed: int) -> Interval:
    """Bootstrap interval of the mean of values (N,), whole groups resampled with replacement.

    For two models on the same images pass the differences of their frames' errors: the interval is then that
    of the paired difference.
    """
    if not len(values):
        return Interval(float("nan"), float("nan"), 0, groups.unit)
    _, ids = np.unique(groups.ids, return_inverse=True)
    total = np.bincount(ids, weights=values)
    count = np.bincount(ids)
    drawn = np.random.default_rng(seed).integers(len(total), size=(RESAMPLES, len(total)))
    means = total[drawn].sum(axis=1) / count[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), len(total), groups.unit)
