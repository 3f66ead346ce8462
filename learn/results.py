"""Peers' result files against the truth: the error, and the traps that such files set.

A file is measured as it stands; where another reading would bring the error down, that is said in a warning and not
done: a y that points the other way, joints in another order, metres. Only uvd and xyz are told apart by the error
where the numbers leave it open. Several files are compared on the same frames. Source: `specs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from .compare import Compared, Difference, difference
from .evaluate import labels_said
from .metrics import Metrics, groups_of, measure
from .result_files import Dataset, Kind, ResultFile, read_results

FLIP_SUSPECT_MM: Final = 100.0
FLIP_MENDS_MM: Final = 20.0
ORDER_MENDS: Final = 0.7
"""Joints in another order that bring the error below this share of it are named."""
METRES: Final = 10.0
"""Depths of a hand below this are no millimetres."""
UNKNOWN: Final = "unknown: a result file does not say"


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file's maker says of the model, since the file does not."""

    n_labels: int | None = None
    label_seed: int | None = None
    center: Literal["gt", "predicted"] | None = None
    chosen_by: str | None = None

    def lines(self) -> list[str]:
        """What no error can be read without."""
        labels = UNKNOWN if self.n_labels is None else labels_said(self.n_labels, self.label_seed)
        return [f"center = {self.center or UNKNOWN}", f"labels = {labels}", f"chosen by {self.chosen_by or UNKNOWN}"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, null where nothing is known."""
        return {
            "center": self.center,
            "n_labels": self.n_labels,
            "label_seed": self.label_seed,
            "chosen_by": self.chosen_by,
        }


@dataclass(frozen=True, slots=True)
class FileEvaluation:
    """The errors of one file, and what they depend on."""

    path: Path
    truth: Path
    dataset: Dataset
    kind: Kind
    """How the prediction was read."""
    truth_kind: Kind
    metrics: Metrics
    stated: Stated
    notes: tuple[str, ...]
    prediction_mm: NDArray[np.float64] = field(repr=False)
    """(T, J, 3)."""
    truth_mm: NDArray[np.float64] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the poses."""
        return {
            "prediction": str(self.path),
            "truth": str(self.truth),
            "dataset": self.dataset.name,
            "kind": self.kind,
            "truth_kind": self.truth_kind,
            **self.stated.to_dict(),
            "notes": list(self.notes),
            "metrics": self.metrics.to_dict(),
        }


def evaluate_results(
    prediction: Path,
    truth: Path,
    dataset: Dataset,
    *,
    seed: int,
    kind: Kind | None = None,
    truth_kind: Kind | None = None,
    stated: Stated | None = None,
) -> FileEvaluation:
    """Measure a result file against the truth.

    Args:
        prediction: the peer's file.
        truth: the labels, in the same form (uvd and xyz may be mixed).
        dataset: whose joints and camera.
        seed: of the bootstrap.
        kind: how to read the prediction; None infers it.
        truth_kind: how to read the truth; None infers it.
        stated: what is known of the model from elsewhere.

    Raises:
        HandloomError: a file cannot be read, or the two have different numbers of lines.
    """
    known = read_results(truth, dataset, kind=truth_kind)
    return _evaluate(prediction, known, dataset, seed=seed, kind=kind, stated=stated or Stated())


def compare_results(
    predictions: Sequence[Path],
    truth: Path,
    dataset: Dataset,
    *,
    seed: int,
    truth_kind: Kind | None = None,
) -> tuple[list[FileEvaluation], list[Difference]]:
    """Measure several files against one truth, and the first against each other one, frame by frame.

    Raises:
        HandloomError: see `evaluate_results`.
    """
    known = read_results(truth, dataset, kind=truth_kind)
    found = [_evaluate(path, known, dataset, seed=seed, kind=None, stated=Stated()) for path in predictions]
    count = len(known.joints_mm)
    part = dataset.part_of(count)
    groups = groups_of(np.zeros(count, np.int64) if part is None else part, np.arange(count))
    first, *others = (Compared(str(one.path), one.prediction_mm, one.truth_mm) for one in found)
    points = dataset.layout.points
    return found, [difference(first, other, joint_names=points, groups=groups, seed=seed) for other in others]


def _evaluate(
    prediction: Path, known: ResultFile, dataset: Dataset, *, seed: int, kind: Kind | None, stated: Stated
) -> FileEvaluation:
    found = read_results(prediction, dataset, kind=kind)
    rows, expected = len(found.joints_mm), len(known.joints_mm)
    if rows != expected:
        raise HandloomError(
            f"The prediction has {rows} lines, the truth {expected}",
            where=str(prediction),
            why=f"they must list the same frames as {known.path}",
            fix=f"{dataset.name}'s test set has {dataset.frames} frames" if dataset.frames else "",
        )
    notes = [*found.notes, *known.notes]
    if dataset.frames not in (None, expected):
        notes.append(f"{dataset.name}'s test set has {dataset.frames} frames, these files {expected}")
    found, advice = _reconcile(found, known, dataset, fixed=kind is not None)
    part = dataset.part_of(expected)
    metrics = measure(
        found.joints_mm,
        known.joints_mm,
        joint_names=dataset.layout.points,
        seed=seed,
        sequence=part,
        by={} if part is None else {dataset.part: part},
    )
    return FileEvaluation(
        path=prediction,
        truth=known.path,
        dataset=dataset,
        kind=found.kind,
        truth_kind=known.kind,
        metrics=metrics,
        stated=stated,
        notes=(*notes, *advice, f"read as: prediction {found.kind}, truth {known.kind}"),
        prediction_mm=found.joints_mm,
        truth_mm=known.joints_mm,
    )


def _reconcile(found: ResultFile, known: ResultFile, dataset: Dataset, *, fixed: bool) -> tuple[ResultFile, list[str]]:
    """Look at the size of the error for a file that was read the wrong way."""
    error = _mean_mm(found.joints_mm, known.joints_mm)
    if error <= FLIP_MENDS_MM:
        return found, []
    if not fixed and error > FLIP_SUSPECT_MM:
        # All of a short file may lie in the positive quadrant: let the error tell pixels from millimetres.
        other: Kind = "xyz" if found.kind == "uvd" else "uvd"
        again = read_results(found.path, dataset, kind=other)
        if _mean_mm(again.joints_mm, known.joints_mm) < FLIP_MENDS_MM:
            return again, [f"{found.path.name} looked like {found.kind} but agrees with the truth as {other}"]
    said = f"the mean error is {error:.1f} mm as the files stand"
    for file in (found, known):
        if (np.abs(file.joints_mm[..., 2]) < METRES).all():
            return found, [f"warning: the depths of {file.path.name} are below {METRES:.0f}: metres, not mm? {said}"]
    flipped = _mean_mm(found.joints_mm * (1.0, -1.0, 1.0), known.joints_mm)
    if error > FLIP_SUSPECT_MM and flipped < FLIP_MENDS_MM:
        return found, [
            f"warning: y is flipped: {said}, {flipped:.1f} mm with the prediction's y negated "
            "(NYU's y points up: fy = -587.07)"
        ]
    return found, _order_warning(found, known, dataset, said)


def _order_warning(found: ResultFile, known: ResultFile, dataset: Dataset, said: str) -> list[str]:
    """Whether the joints come in another order: each predicted one is given to the true one it is nearest to."""
    from scipy.optimize import linear_sum_assignment

    joints = len(dataset.layout)
    distance = np.array(
        [[np.linalg.norm(found.joints_mm[:, i] - known.joints_mm[:, j], axis=1).mean() for i in range(joints)]
         for j in range(joints)]
    )  # fmt: skip
    _, order = linear_sum_assignment(distance)
    best = float(distance[np.arange(joints), order].mean())
    if best >= ORDER_MENDS * distance.diagonal().mean():
        return []
    moved = [j for j in range(joints) if order[j] != j]
    points = dataset.layout.points
    first = f"{points[moved[0]]} is joint {order[moved[0]] + 1} of its lines, not {moved[0] + 1}"
    return [
        f"warning: the joints seem to come in another order: {said}, {best:.1f} mm with {len(moved)} of "
        f"{joints} joints exchanged ({first}); {dataset.name}'s order: {', '.join(points)}"
    ]


def _mean_mm(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())
