"""The sections of a report that say how good models are: table, curves, joints, skeletons, what was compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.page import Picture
from ..stores.recording import Recording
from .agreement import Agreement
from .compare import compare_evaluations
from .evaluate import CENTER_SAID, Evaluation, crops_of
from .figures import DRAWN_MM, DRAWN_PX, Sample, crop_sheet, joint_chart, skeleton_sheet, success_chart
from .inputs import cut, recording_views
from .metrics import (
    LEVEL,
    THRESHOLDS_MM,
    Interval,
    frame_means,
    groups_of,
    interval_of_mean,
    joint_errors,
    worst_joint,
)
from .report import Block, Cell, Facts, Gallery, Section, Table, Text, metrics_table

APART_ROWS: Final = 15
"""Rows between two hard examples: half a second at 30 Hz."""


def evaluation_sections(
    evaluations: Mapping[str, Evaluation], recording: Recording, *, examples: int = 6, focus: str | None = None
) -> list[Section]:
    """Result, poses and circumstances of models that were measured on the same images.

    Args:
        evaluations: from `evaluate_models`, in the order to show.
        recording: the one they were measured on.
        examples: frames drawn, from the easiest to the hardest of `focus`.
        focus: the model whose errors order them; None: the one with the smallest mean.
    """
    if not evaluations:
        return []
    first = next(iter(evaluations.values()))
    focus = focus or min(evaluations, key=lambda name: _rank(evaluations[name]))
    return [
        Section("Result", [Text(_statement(first)), *_result(evaluations)]),
        Section("Poses", [example_sheet(evaluations, recording, focus=focus, examples=examples)]),
        Section("What was compared", [Facts(_circumstances(evaluations))]),
    ]


def example_sheet(
    evaluations: Mapping[str, Evaluation], recording: Recording, *, focus: str, examples: int = 6
) -> Picture:
    """Truth and every model's skeleton over depth, from the easiest to the hardest frame of one model."""
    return pose_sheet(
        evaluations,
        recording,
        spread_examples(evaluations[focus], examples),
        caption=f"From the easiest image on the left to the hardest on the right for '{focus}'; below each its "
        f"mean error. Crops of {DRAWN_MM:.0f} mm around the true palm.",
    )


def pose_sheet(
    evaluations: Mapping[str, Evaluation], recording: Recording, images: Sequence[int], *, caption: str
) -> Picture:
    """Truth and every model's skeleton over the depth of some images, with the mean error of each (Fig. 1).

    Args:
        evaluations: of the same images; those in another layout than the first are left out.
        recording: the one they were measured on.
        images: places in the evaluations' arrays, of known palms.
        caption: below the picture.
    """
    base = next(iter(evaluations.values()))
    same = {name: e for name, e in evaluations.items() if e.layout.name == base.layout.name}
    crops, k = crops_of(base, recording, images, input_px=DRAWN_PX, cube_mm=DRAWN_MM)
    samples = []
    for crop, crop_k, image in zip(crops, k, images, strict=True):
        joints = {"truth": project(base.truth_mm[image], crop_k)}
        joints |= {name: project(e.prediction_mm[image], crop_k) for name, e in same.items()}
        errors = {name: float(frame_errors(e)[image]) for name, e in same.items()}
        samples.append(Sample(crop, joints, errors, title_of(base, recording, image)))
    return skeleton_sheet(samples, ["truth", *same], base.layout, caption=caption)


def title_of(evaluation: Evaluation, recording: Recording, image: int) -> str:
    """Which image it is: `row 12, left`."""
    return f"row {evaluation.row[image]}, {recording.rig.names[evaluation.view[image]]}"


def spread_examples(evaluation: Evaluation, count: int) -> list[int]:
    """Images from the smallest to the largest error, evenly spread over the ranks; missed ones left out."""
    errors = frame_errors(evaluation)
    found = np.flatnonzero(np.isfinite(errors) & has_palm(evaluation))
    order = found[np.argsort(errors[found], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(image) for image in order[places]] if len(order) else []


def hardest_examples(
    errors_mm: NDArray[np.float64], evaluation: Evaluation, count: int, *, apart: int = APART_ROWS
) -> list[int]:
    """Images of the largest errors (N,), the worst first, one of each stretch of a sequence.

    The worst frames of a sequence are one pose over and over (90 of the paper's 100 were variations of three).
    """
    chosen: list[int] = []
    usable = np.flatnonzero(np.isfinite(errors_mm) & has_palm(evaluation))
    for image in usable[np.argsort(-errors_mm[usable], kind="stable")].tolist():
        alike = [c for c in chosen if evaluation.sequence[c] == evaluation.sequence[image]]
        if len(chosen) < count and all(abs(evaluation.row[image] - evaluation.row[c]) >= apart for c in alike):
            chosen.append(image)
    return chosen


def _result(evaluations: Mapping[str, Evaluation]) -> list[Block]:
    first = next(iter(evaluations.values()))
    interval = first.metrics.interval
    table = metrics_table(
        {name: e.metrics for name, e in evaluations.items()},
        details=["–" if e.n_labels is None else str(e.n_labels) for e in evaluations.values()],
        caption=f"{first.metrics.images} images; ± is half the {100 * interval.level:.0f} % bootstrap interval "
        f"over {interval.groups} {interval.unit}, seed {first.metrics.seed}. 'labels' counts the labelled real "
        "frames a model learned from.",
    )
    same = [e for e in evaluations.values() if e.layout.name == first.layout.name]
    charts = [
        success_chart(
            {name: _worst(e)[known_images(e)] for name, e in evaluations.items()},
            intervals={name: share_intervals(e) for name, e in evaluations.items()},
            caption="Share of images whose worst joint is within a distance; upright lines are "
            f"{100 * interval.level:.0f} % intervals.",
        ),
        joint_chart(
            {e.name: e.metrics.per_joint_mm for e in same},
            first.layout.points,
            caption="Mean error of each joint.",
        ),
    ]
    return [table, Gallery(charts)]


def _statement(evaluation: Evaluation) -> str:
    recording, m = evaluation.recording, evaluation.metrics
    around = "the true palm" if evaluation.center == "truth" else "the located hand"
    again = ", then around the palm predicted" if evaluation.passes > 1 else ""
    return (
        f"Mean joint error on {m.images} images of the {recording['kind']} recording {recording['path']} "
        f"({evaluation.split} frames). The network sees a crop around {around}{again}."
    )


def _circumstances(evaluations: Mapping[str, Evaluation]) -> dict[str, str]:
    first = next(iter(evaluations.values()))
    facts = {
        "recording": f"{first.recording['path']} ({first.recording['uuid']})",
        "frames": f"{first.split}, {len(np.unique(first.row))} rows, {len(np.unique(first.view))} cameras",
        "centre": f"center = {CENTER_SAID[first.center]} ({first.center}), {first.passes} "
        f"crop{'s' * (first.passes > 1)} an image",
    }
    for name, evaluation in evaluations.items():
        drawn = f", drawn by seed {evaluation.label_seed}" if evaluation.label_seed is not None else ""
        labels = "" if evaluation.n_labels is None else f"{evaluation.n_labels} labels{drawn}; "
        facts[name] = f"{labels}{evaluation.layout.name}; chosen by {evaluation.chosen_by}"
    notes = dict.fromkeys(note for e in evaluations.values() for note in e.notes)
    return facts | {f"note {i}": note for i, note in enumerate(notes, start=1)}


def domain_sheet(recordings: Mapping[str, Recording], *, count: int = 8) -> Picture:
    """Crops of each recording, a row each: frames spread evenly over it, one camera after the other."""
    rows = {}
    for label, recording in recordings.items():
        shown = []
        for column, row in enumerate(np.linspace(0, recording.n_frames - 1, count).astype(int).tolist()):
            seen = [v for _, v in recording_views(recording, row, row + 1) if v.center_mm is not None]
            if seen:
                view = seen[column % len(seen)]
                assert view.center_mm is not None
                shown.append(cut(view, view.center_mm, input_px=DRAWN_PX, cube_mm=DRAWN_MM))
        rows[label] = np.array(shown)
    caption = f"Crops of {DRAWN_MM:.0f} mm around the hand's centre, camera after camera."
    return crop_sheet(rows, columns=count, caption=caption)


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


def frame_errors(evaluation: Evaluation) -> NDArray[np.float64]:
    """Mean joint error (N,) mm of each image, NaN where there is none."""
    return frame_means(joint_errors(evaluation.prediction_mm, evaluation.truth_mm))


def _worst(evaluation: Evaluation) -> NDArray[np.float64]:
    """Largest error (N,) mm of each image, inf where it was missed."""
    return worst_joint(joint_errors(evaluation.prediction_mm, evaluation.truth_mm))


def known_images(evaluation: Evaluation) -> NDArray[np.bool_]:
    """(N,) which images have a label."""
    return np.asarray(np.isfinite(evaluation.truth_mm).all(axis=-1).any(axis=-1))


def share_intervals(evaluation: Evaluation) -> list[Interval]:
    """Of the share of images whose worst joint is within each of `metrics.THRESHOLDS_MM`."""
    known, seed = known_images(evaluation), evaluation.metrics.seed
    worst = _worst(evaluation)[known]
    groups = groups_of(evaluation.sequence[known], evaluation.row[known])
    return [interval_of_mean((worst <= t).astype(np.float64), groups, seed=seed) for t in THRESHOLDS_MM]


def share_table(evaluations: Mapping[str, Evaluation]) -> Table:
    """Share of images whose worst joint is within t: a row a threshold, a column a model, with intervals."""
    columns = []
    for evaluation in evaluations.values():
        pairs = zip(evaluation.metrics.success, share_intervals(evaluation), strict=True)
        columns.append([f"{100 * s:.1f} % ({100 * i.low:.1f} to {100 * i.high:.1f})" for s, i in pairs])
    rows = [[f"{t:.0f} mm", *cells] for t, *cells in zip(THRESHOLDS_MM, *columns, strict=True)]
    return Table(["worst joint within", *evaluations], rows, f"Share of images, with the {100 * LEVEL:.0f} % interval.")


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
            [name, f"{found.difference_mm:+.2f} mm", f"{interval.low:+.2f} to {interval.high:+.2f}", less, says]
        )
    return Table(
        ["model", f"error minus that of {reference}", f"{100 * LEVEL:.0f} % interval", "smaller on", ""],
        rows,
        f"On the images that both found a hand in; bootstrap over {interval.groups} {interval.unit}. It holds for "
        "these trained models on these frames: another seed of training is not in the interval.",
    )


def has_palm(evaluation: Evaluation) -> NDArray[np.bool_]:
    """(N,) whether the true palm is known, about which images are drawn."""
    return np.asarray(np.isfinite(evaluation.truth_mm[:, evaluation.layout.palm]).all(axis=-1))


def _rank(evaluation: Evaluation) -> float:
    mean = evaluation.metrics.mean_mm
    return mean if np.isfinite(mean) else float("inf")
