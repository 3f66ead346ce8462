"""How good a model is on frames that nobody labelled: do its poses from different cameras agree?

Each image of a frame is predicted by itself and the poses are brought into the rig's frame. Where two cameras' errors
had nothing in common and were equally large, the distance of their poses would be √2 times either's error: the
disagreement of a frame is the mean over joints and pairs of cameras of

    |x_i − x_j| / √2   mm,

an error that needs no truth. What all cameras get wrong in the same way (a wrong scale, say) is not in it, so it is a
score to compare models by, not an error to publish. Nor is it a loss: a model that says the same pose always agrees
with itself.
Where labels exist the true error and its rank correlation with the disagreement are said beside it. For models that
predict other views, how well these match what the other camera saw (`learn/views.py`) is a second opinion.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import converted
from ..stores.recording import Recording
from .evaluate import view_error
from .metrics import Groups, Interval, groups_of, interval_of_mean
from .predict import Estimator
from .predictions import predict_all, rows_of

LEAST_MODELS: Final = 4
"""Fewer ranks than this correlate by chance."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """One model on the frames that two or more cameras saw."""

    name: str
    frames: int
    disagreement_mm: float
    """Mean over frames."""
    interval: Interval
    view_mae: float | None
    """Mean absolute error of predicted second views; None for models that predict none."""
    error_mm: float | None
    """True mean joint error of the same images, where they are labelled."""
    rank_correlation: float | None
    """Spearman's, of disagreement and true error over the frames."""
    row: NDArray[np.int64] = field(repr=False)
    """(N,) of each frame."""
    frame_mm: NDArray[np.float64] = field(repr=False)
    """(N,) disagreement of each frame."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the frames."""
        kept = asdict(self)
        del kept["row"], kept["frame_mm"]
        return kept


def pairwise_mm(joints_rig_mm: NDArray[Any]) -> float:
    """Disagreement of the poses (V, J, 3) of V ≥ 2 cameras, all in the rig's frame."""
    distances = [
        np.linalg.norm(joints_rig_mm[i] - joints_rig_mm[j], axis=-1).mean()
        for i, j in itertools.combinations(range(len(joints_rig_mm)), 2)
    ]
    return float(np.mean(distances) / np.sqrt(2))


def agreement(
    estimators: Mapping[str, Estimator],
    recording: Recording,
    *,
    seed: int,
    split: str = "all",
    rows: Sequence[int] | NDArray[np.int64] | None = None,
) -> list[Agreement]:
    """Score models without labels, best first.

    Args:
        estimators: the models by name.
        recording: seen by two cameras or more, the hand located in it.
        seed: of the interval's bootstrap.
        split: 'train', 'val', 'test' or 'all'.
        rows: (n,) rows of the recording, instead of a split.

    Raises:
        HandloomError: it has one camera, or no frame in which two of them found the hand.
    """
    if recording.n_views < 2:
        raise HandloomError(
            "A single camera has nobody to agree with",
            where=str(recording.path),
            why="the score compares the poses that several cameras give of one moment",
            fix=f"with labels: handloom eval model MODEL --on {recording.path}",
        )
    chosen = rows_of(recording, split, rows)
    predicted = predict_all(estimators, recording, chosen)
    assert recording.frames is not None
    sequence = recording.frames.read("sequence")
    found = []
    for name, estimator in estimators.items():
        joints = _in_rig(predicted.joints_mm[name], recording, predicted.view)
        seen = np.isfinite(joints).all(axis=(1, 2))
        images = np.flatnonzero(seen)  # row after row
        frames, first = np.unique(predicted.row[images], return_index=True)
        parts = np.split(images, first[1:])
        shown = [(row, part) for row, part in zip(frames, parts, strict=False) if len(part) > 1]
        if not shown:
            raise HandloomError(
                "No frame was seen by two cameras that found the hand",
                where=str(recording.path),
                fix=f"handloom capture locate {recording.path}",
            )
        row = np.array([r for r, _ in shown], np.int64)
        frame_mm = np.array([pairwise_mm(joints[images]) for _, images in shown])
        errors = _errors(joints, recording, estimator, shown)
        groups = groups_of(sequence[row], row)
        found.append(
            Agreement(
                name=name,
                frames=len(row),
                disagreement_mm=float(frame_mm.mean()),
                interval=interval_of_mean(frame_mm, groups, seed=seed),
                view_mae=view_error(estimator, recording, row),
                error_mm=None if errors is None else float(np.nanmean(errors)),
                rank_correlation=None if errors is None else spearman(frame_mm, errors),
                row=row,
                frame_mm=frame_mm,
            )
        )
    return sorted(found, key=lambda one: one.disagreement_mm)


def difference(a: Agreement, b: Agreement, recording: Recording, *, seed: int) -> tuple[float, Interval]:
    """Mean and interval of a − b over the frames both have, mm."""
    assert recording.frames is not None
    row, in_a, in_b = np.intersect1d(a.row, b.row, return_indices=True)
    values = a.frame_mm[in_a] - b.frame_mm[in_b]
    groups: Groups = groups_of(recording.frames.read("sequence")[row], row)
    return float(values.mean()), interval_of_mean(values, groups, seed=seed)


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    """Rank correlation of (N,) and (N,), where both are known; None with fewer than 4 or without any spread."""
    from scipy.stats import rankdata

    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < LEAST_MODELS:
        return None
    a, b = rankdata(x[known]), rankdata(y[known])
    if not a.std() or not b.std():
        return None
    return float(np.corrcoef(a, b)[0, 1])


def lines(found: Sequence[Agreement], recording: Recording, *, seed: int) -> list[str]:
    """A table of at most 80 characters, best first, and what it says."""
    labelled = any(one.error_mm is not None for one in found)
    head = f"{'':<28} {'disagree':>8}  {'95 % interval':>15} {'views':>6}"
    out = [
        f"disagreement of {recording.n_views} cameras on {found[0].frames} frames of {recording.path}, mm",
        head + (f" {'error':>6} {'rank r':>6}" if labelled else ""),
    ]
    for one in found:
        views = "" if one.view_mae is None else f"{one.view_mae:.3f}"
        line = (
            f"{one.name[-28:]:<28} {one.disagreement_mm:>8.2f}"
            f"  {one.interval.low:>6.2f} to {one.interval.high:>5.2f} {views:>6}"
        )
        if labelled:
            error = "" if one.error_mm is None else f"{one.error_mm:.2f}"
            rank = "" if one.rank_correlation is None else f"{one.rank_correlation:.2f}"
            line += f" {error:>6} {rank:>6}"
        out.append(line.rstrip())
    if len(found) > 1:
        mean, interval = difference(found[0], found[1], recording, seed=seed)
        sure = "" if interval.high < 0 else ": no difference to rely on"
        out.append(
            f"the first agrees better than the second by {-mean:.2f} mm "
            f"({-interval.high:.2f} to {-interval.low:.2f}){sure}"
        )
    if labelled and len(found) >= LEAST_MODELS:
        errors = np.array([np.nan if one.error_mm is None else one.error_mm for one in found])
        over = spearman(np.array([one.disagreement_mm for one in found]), errors)
        if over is not None:
            out.append(f"rank correlation of disagreement and true error over the models: {over:.2f}")
    return out


def _in_rig(joints_mm: NDArray[np.float32], recording: Recording, view: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.empty(joints_mm.shape, np.float64)
    for number, camera in enumerate(recording.rig.cameras):
        out[view == number] = camera.to_rig(joints_mm[view == number])
    return out


def _errors(
    joints_rig_mm: NDArray[np.float64],
    recording: Recording,
    estimator: Estimator,
    shown: Sequence[tuple[int, NDArray[np.int64]]],
) -> NDArray[np.float64] | None:
    """True error of each frame, the mean over its images; None where nothing is labelled or comparable."""
    layout = recording.layout
    if recording.labels is None or layout is None:
        return None
    truth = recording.labels.read("joints")
    if layout.name != estimator.layout.name:
        if layout.name != "openxr26":
            return None
        truth = converted(truth, layout, estimator.layout)
    distance = [np.linalg.norm(joints_rig_mm[images] - truth[row], axis=-1) for row, images in shown]
    errors = np.array([d[np.isfinite(d)].mean() if np.isfinite(d).any() else np.nan for d in distance])
    return errors if np.isfinite(errors).any() else None
