"""The tables of reports: errors of models, their differences, shares of images, errors by joint, camera and person."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .agreement import Agreement
from .compare import compare_evaluations
from .evaluate import Evaluation
from .metrics import (
    LEVEL,
    THRESHOLDS_MM,
    Interval,
    Metrics,
    Part,
    groups_of,
    interval_of_mean,
    joint_errors,
    worst_joint,
)
from .report import Cell, Measured, Section, Signed, Table

LISTED: Final = 200
"""Rows of a table of parts at most: rendered sets have a sequence a frame."""


def metrics_table(results: Mapping[str, Metrics], *, caption: str = "", details: Sequence[str] = ()) -> Table:
    """The table of errors: one row a model, the best mean in bold.

    Args:
        results: metrics by name.
        caption: below the table.
        details: one more cell for each row (what a model had seen, say); empty: no such column.
    """
    means = [m.mean_mm for m in results.values()]
    known = [mean for mean in means if not math.isnan(mean)]
    best = means.index(min(known)) if known else None
    columns = [
        "model",
        *(["labels"] if details else []),
        "mean error (mm)",
        "median",
        "≤ 40 mm",
        "AUC 80",
        "missed",
    ]
    rows: list[list[Cell]] = []
    for i, (name, m) in enumerate(results.items()):
        within = m.success[m.thresholds_mm.index(40.0)]
        rows.append(
            [
                name,
                *([details[i]] if details else []),
                _measured(m),
                m.median_mm,
                "–" if math.isnan(within) else f"{100 * within:.0f} %",
                "–" if math.isnan(m.auc) else f"{m.auc:.3f}",
                m.missed,
            ]
        )
    return Table(columns, rows, caption, best)


def parts_section(results: Mapping[str, Metrics]) -> Section:
    """Tables of errors by joint, and by camera, person and sequence where there are several; a column a model.

    Args:
        results: metrics by name, all on the same images.
    """
    first = next(iter(results.values()))
    same = {name: m for name, m in results.items() if m.joint_names == first.joint_names}
    joints: list[list[Cell]] = [
        [joint, *(Measured(m.per_joint_mm[i]) for m in same.values())] for i, joint in enumerate(first.joint_names)
    ]
    tables = [Table(["joint", *(f"{name} (mm)" for name in same)], joints, "Mean error of each joint.")]
    for what, parts in first.parts.items():
        if len(parts) > 1:
            tables.append(_parts_table(what, parts, results))
    found = [what for what, parts in first.parts.items() if len(parts) > 1]
    return Section("By " + ", ".join(["joint", *found]), tables)


def _measured(of: Metrics | Part) -> Measured:
    """A mean with its interval; that of a single group is a point, and says nothing."""
    return Measured(of.mean_mm, of.interval if of.interval.groups > 1 else None)


def _parts_table(what: str, parts: Sequence[Part], results: Mapping[str, Metrics]) -> Table:
    """A row a part; the worst for the first model where they are very many."""
    theirs = [{part.name: part for part in m.parts[what]} for m in results.values()]
    shown, caption = list(parts), f"Mean error by {what}."
    if len(parts) > LISTED:
        unknown_last = [-math.inf if math.isnan(part.mean_mm) else part.mean_mm for part in parts]
        worst = sorted(range(len(parts)), key=lambda i: -unknown_last[i])[:LISTED]
        shown = [parts[i] for i in sorted(worst)]
        caption = f"Mean error by {what}: the {LISTED} of {len(parts)} with the largest; --json has them all."
    rows: list[list[Cell]] = []
    for part in shown:
        columns = [by_name.get(part.name) for by_name in theirs]
        rows.append([part.name, part.images, *(None if c is None else _measured(c) for c in columns)])
    return Table([what, "images", *(f"{name} (mm)" for name in results)], rows, caption)


def agreement_table(found: Sequence[Agreement]) -> Table:
    """Disagreement of the cameras of each model, the best first: what can be said without labels."""
    rows: list[list[Cell]] = [
        [one.name, one.disagreement_mm, f"{one.interval.low:.1f} to {one.interval.high:.1f}", one.view_mae]
        for one in found
    ]
    return Table(
        ["model", "disagreement (mm)", f"{100 * LEVEL:.0f} % interval", "predicted views"],
        rows,
        f"How far apart the poses are that the cameras give of one moment: the mean over {found[0].frames} frames that "
        "two of them or more saw. What all get wrong alike is not in it.",
        best=0,
    )


def worst_errors(evaluation: Evaluation) -> NDArray[np.float64]:
    """Largest error (N,) mm of each image, inf where it was missed."""
    return worst_joint(joint_errors(evaluation.prediction_mm, evaluation.truth_mm))


def known_images(evaluation: Evaluation) -> NDArray[np.bool_]:
    """(N,) which images have a label."""
    return np.asarray(np.isfinite(evaluation.truth_mm).all(axis=-1).any(axis=-1))


def share_intervals(evaluation: Evaluation) -> list[Interval]:
    """Of the share of images whose worst joint is within each of `metrics.THRESHOLDS_MM`."""
    known, seed = known_images(evaluation), evaluation.metrics.seed
    worst = worst_errors(evaluation)[known]
    groups = groups_of(evaluation.sequence[known], evaluation.row[known])
    return [interval_of_mean((worst <= t).astype(np.float64), groups, seed=seed) for t in THRESHOLDS_MM]


def share_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Share of images whose worst joint is within t: a row a threshold, a column a model, with intervals."""
    columns = []
    for evaluation in evaluations.values():
        pairs = zip(evaluation.metrics.success, share_intervals(evaluation), strict=True)
        columns.append([_share(s, i) for s, i in pairs])
    rows = [[f"{t:.0f} mm", *cells] for t, *cells in zip(THRESHOLDS_MM, *columns, strict=True)]
    return Table(["worst joint within", *evaluations], rows, f"Share of images, with the {100 * LEVEL:.0f} % interval.")


def _share(share: float, interval: Interval) -> str:
    between = f" ({100 * interval.low:.1f} to {100 * interval.high:.1f})" if interval.groups > 1 else ""
    return "–" if math.isnan(share) else f"{100 * share:.1f} %{between}"


def difference_table(evaluations: Mapping[str, Evaluation], reference: str) -> Table:
    """Each model's error minus the reference's on the same images, as `eval compare` says it."""
    base = evaluations[reference]
    rows: list[list[Cell]] = []
    interval = base.metrics.interval
    for name, evaluation in evaluations.items():
        if name == reference:
            continue
        (found,) = compare_evaluations({name: evaluation, reference: base}, seed=base.metrics.seed)
        interval = found.interval
        says = "undecided" if not found.sure else "better" if found.difference_mm < 0 else "worse"
        less = f"{100 * found.a_better:.0f} % of images"
        rows.append(
            [name, Signed(found.difference_mm, "mm"), f"{interval.low:+.2f} to {interval.high:+.2f}", less, says]
        )
    return Table(
        ["model", f"error minus that of {reference}", f"{100 * LEVEL:.0f} % interval", "smaller on", ""],
        rows,
        f"On the images that both found a hand in; bootstrap over {interval.groups} {interval.unit}. It holds for "
        "these trained models on these frames: another seed of training is not in the interval.",
    )
