"""The sections of a report that say how good models are: table, curves, joints, skeletons, what was compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.page import Picture
from ..stores.recording import Recording
from .evaluate import CENTER_SAID, Evaluation, crops_of
from .figures import Sample, joint_chart, skeleton_sheet, success_chart
from .metrics import frame_means, joint_errors, worst_joint
from .report import Block, Facts, Gallery, Section, Text, metrics_table

DRAWN_PX: Final = 128
DRAWN_MM: Final = 300.0


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
    chosen = spread_examples(evaluations[focus], examples)
    base = evaluations[focus]
    crops, k = crops_of(base, recording, chosen, input_px=DRAWN_PX, cube_mm=DRAWN_MM)
    samples = []
    for crop, crop_k, image in zip(crops, k, chosen, strict=True):
        joints = {"truth": project(base.truth_mm[image], crop_k)}
        errors = {}
        for name, evaluation in evaluations.items():
            if evaluation.layout.name == base.layout.name:
                joints[name] = project(evaluation.prediction_mm[image], crop_k)
                errors[name] = float(_frame_errors(evaluation)[image])
        title = f"row {base.row[image]}, {recording.rig.names[base.view[image]]}"
        samples.append(Sample(crop, joints, errors, title))
    names = ["truth", *(n for n, e in evaluations.items() if e.layout.name == base.layout.name)]
    return skeleton_sheet(
        samples,
        names,
        base.layout,
        caption=f"From the easiest image on the left to the hardest on the right for '{focus}'; below each its "
        f"mean error. Crops of {DRAWN_MM:.0f} mm around the true palm.",
    )


def spread_examples(evaluation: Evaluation, count: int) -> list[int]:
    """Images from the smallest to the largest error, evenly spread over the ranks; missed ones left out."""
    errors = _frame_errors(evaluation)
    found = np.flatnonzero(np.isfinite(errors) & _has_palm(evaluation))
    order = found[np.argsort(errors[found], kind="stable")]
    places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [int(image) for image in order[places]] if len(order) else []


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
            {name: _worst(e) for name, e in evaluations.items()},
            caption="Share of images whose worst joint is within a distance.",
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
        "centre": f"center = {CENTER_SAID[first.center]} ({first.center}), {first.passes} crops an image",
    }
    for name, evaluation in evaluations.items():
        drawn = f", drawn by seed {evaluation.label_seed}" if evaluation.label_seed is not None else ""
        labels = "" if evaluation.n_labels is None else f"{evaluation.n_labels} labels{drawn}; "
        facts[name] = f"{labels}{evaluation.layout.name}; chosen by {evaluation.chosen_by}"
    notes = dict.fromkeys(note for e in evaluations.values() for note in e.notes)
    return facts | {f"note {i}": note for i, note in enumerate(notes, start=1)}


def _frame_errors(evaluation: Evaluation) -> NDArray[np.float64]:
    return frame_means(joint_errors(evaluation.prediction_mm, evaluation.truth_mm))


def _worst(evaluation: Evaluation) -> NDArray[np.float64]:
    known = np.isfinite(evaluation.truth_mm).all(axis=-1).any(axis=-1)
    return worst_joint(joint_errors(evaluation.prediction_mm, evaluation.truth_mm)[known])


def _has_palm(evaluation: Evaluation) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(evaluation.truth_mm[:, evaluation.layout.palm]).all(axis=-1))


def _rank(evaluation: Evaluation) -> float:
    mean = evaluation.metrics.mean_mm
    return mean if np.isfinite(mean) else float("inf")
