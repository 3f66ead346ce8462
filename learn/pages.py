"""The sections of a report that say how good models are: skeletons over depth, each joint, curves, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.joints import Layout
from ..stores.page import Drawing, Picture
from ..stores.recording import Recording
from .compare import Difference
from .evaluate import CENTER_SAID, Evaluation, crops_of
from .figures import joint_chart, success_chart
from .hand_map import difference_map, hand_map
from .inputs import cut, recording_views
from .metrics import Metrics, frame_means, joint_errors
from .report import Block, Facts, Gallery, Report, Section, Text
from .report_tables import (
    known_images,
    metrics_table,
    parts_section,
    share_intervals,
    share_table,
    worst_errors,
)
from .sheets import DRAWN_MM, DRAWN_PX, Sample, crop_sheet, skeleton_sheet
from .tables import told_apart

APART_ROWS: Final = 15
"""Rows between two hard examples: half a second at 30 Hz."""


GOOD: Final = (
    "What good looks like: published methods reach 7 to 13 mm on NYU and 6 to 7 mm on ICVL, real depth with tens of "
    "thousands of labels and true centres. Other data are harder or easier, so take that as an order of size. An AUC "
    "of 1 would be no error at all."
)
"""By the peers' own result files (`specs/evaluation.md`)."""


def evaluation_report(
    evaluations: Mapping[str, Evaluation], differences: Sequence[Difference], recording: Recording, *, made_by: str
) -> Report:
    """The page of one model, or of several on the same images.

    Args:
        evaluations: by path; the page calls them by the ends of their paths.
        differences: of the first from each other one.
        recording: the one they were measured on.
        made_by: the command, for the last line.
    """
    short = dict(zip(evaluations, told_apart(list(evaluations)), strict=True))
    named = {short[name]: replace(e, name=short[name]) for name, e in evaluations.items()}
    subtracted = [replace(one, a=short[one.a], b=short[one.b]) for one in differences]
    first = next(iter(named.values()))
    *sections, compared = evaluation_sections(named, recording, differences=subtracted)
    parts = parts_section({name: e.metrics for name, e in named.items()})
    return Report(
        first.name if len(named) == 1 else " / ".join(named),
        [*sections, parts, compared],
        subtitle=first.title(),
        introduction=headline({name: e.metrics for name, e in named.items()}, subtracted),
        made_by=made_by,
    )


def headline(results: Mapping[str, Metrics], differences: Sequence[Difference] = ()) -> str:
    """What a page has to say, in a paragraph: the smallest mean error, and which differences are to be relied on."""
    known = {name: m for name, m in results.items() if np.isfinite(m.mean_mm)}
    if not known:
        return "No hand was found in any image." if any(m.images for m in results.values()) else "No image has a label."
    name = min(known, key=lambda name: known[name].mean_mm)
    m, many = known[name], len(results) > 1
    i = m.interval
    least = f"Smallest mean joint error: '{name}' with" if many else "Mean joint error:"
    between = f", {100 * i.level:.0f} % interval {i.low:.2f} to {i.high:.2f}" if i.groups > 1 else ""
    said = [f"{least} {m.mean_mm:.2f} mm ({m.images} images{between})."]
    said += [f"{one.a} against {one.b}: {one.verdict}." for one in differences]
    return " ".join(said)


def evaluation_sections(
    evaluations: Mapping[str, Evaluation],
    recording: Recording,
    *,
    examples: int = 5,
    focus: str | None = None,
    differences: Sequence[Difference] = (),
) -> list[Section]:
    """Poses, result and circumstances of models that were measured on the same images.

    Args:
        evaluations: from `evaluate_models`, in the order to show.
        recording: the one they were measured on.
        examples: frames drawn, from the easiest to the hardest of `focus`.
        focus: the model whose errors order them; None: the one with the smallest mean.
        differences: of pairs of them, to be shown joint by joint.
    """
    if not evaluations:
        return []
    focus = focus or min(evaluations, key=lambda name: _rank(evaluations[name]))
    return [
        Section("Poses", [_example_block(evaluations, recording, focus=focus, examples=examples)]),
        Section(
            "Result",
            [
                *joint_blocks(
                    {name: e.metrics for name, e in evaluations.items()},
                    {name: e.layout for name, e in evaluations.items()},
                    _curves(evaluations),
                    differences,
                ),
                *_result(evaluations),
            ],
        ),
        Section("What was compared", [Facts(_circumstances(evaluations))]),
    ]


def _example_block(evaluations: Mapping[str, Evaluation], recording: Recording, *, focus: str, examples: int) -> Block:
    """Truth and every model's skeleton over depth, from the easiest to the hardest frame of one model."""
    images = spread_examples(evaluations[focus], examples)
    if not images:
        return Text(f"There is no image with a known palm in which '{focus}' found a hand.")
    of = f" for '{focus}'" if len(evaluations) > 1 else ""
    caption = (
        f"The best image on the left, the median in the middle, the worst on the right{of}; below each its mean error. "
        f"Crops of {DRAWN_MM:.0f} mm around the true palm."
    )
    return pose_sheet(evaluations, recording, images, caption=caption, ranks=ranks_of(len(images)))


def ranks_of(count: int) -> list[str]:
    """What the columns of a sheet from best to worst are called."""
    if count < 2:
        return ["only image"][:count]
    shares = [100 * i / (count - 1) for i in range(count)]
    names = {0.0: "best", 50.0: "median", 100.0: "worst"}
    return [names.get(share, f"{share:.0f} %") for share in shares]


def joint_blocks(
    results: Mapping[str, Metrics],
    layouts: Mapping[str, Layout],
    curves: Picture,
    differences: Sequence[Difference],
) -> list[Block]:
    """Error of each joint on a hand beside the curves, and where two models differ; one scale for all.

    Args:
        results: metrics by model; hands are drawn of those in the first one's layout.
        layouts: of each model's joints.
        curves: what stands beside the hands.
        differences: of pairs of models, to be shown joint by joint.
    """
    layout = next(iter(layouts.values()))
    same = {name: m.per_joint_mm for name, m in results.items() if layouts[name].name == layout.name}
    largest = max((e for errors in same.values() for e in errors if np.isfinite(e)), default=1.0)
    hands = [hand_map(name, errors, layout, largest_mm=largest) for name, errors in same.items()]
    charts = [curves]
    if len(same) > 1:
        charts.append(joint_chart(same, layout.points, caption="Mean error of each joint."))
    blocks: list[Block] = [
        Gallery([*hands, *charts]),
        Text("On a hand: the mean error of each joint, mm. An open right hand is drawn, whatever was seen."),
    ]
    by_points = {one.points: one for one in layouts.values()}
    drawable = {one: drawn for one in differences if (drawn := by_points.get(tuple(j.name for j in one.joints)))}
    if drawable:
        sizes = [abs(j.difference_mm) for one in drawable for j in one.joints if np.isfinite(j.difference_mm)]
        most = max(sizes, default=1.0)
        blocks += [
            Gallery(
                [difference_map(one.a, one.b, one.joints, drawn, largest_mm=most) for one, drawn in drawable.items()]
            ),
            Text(
                "Error of the first minus that of the second, mm, on the same images: blue where the first is better, "
                "red where the second is. A dashed ring: the joint's own 95 % interval holds zero. Of 26 joints one "
                "is coloured by chance."
            ),
        ]
    return blocks


def pose_sheet(
    evaluations: Mapping[str, Evaluation],
    recording: Recording,
    images: Sequence[int],
    *,
    caption: str,
    ranks: Sequence[str] = (),
) -> Drawing:
    """Truth and every model's skeleton over the depth of some images, with the mean error of each (Fig. 1).

    Args:
        evaluations: of the same images; those in another layout than the first are left out.
        recording: the one they were measured on.
        images: places in the evaluations' arrays, of known palms.
        caption: below the picture.
        ranks: what each image is among the others, for its title.
    """
    base = next(iter(evaluations.values()))
    same = {name: e for name, e in evaluations.items() if e.layout.name == base.layout.name}
    crops, k = crops_of(base, recording, images, input_px=DRAWN_PX, cube_mm=DRAWN_MM)
    means = {name: frame_errors(e) for name, e in same.items()}
    samples = []
    for i, (crop, crop_k, image) in enumerate(zip(crops, k, images, strict=True)):
        rank = f"{ranks[i]}: " if ranks else ""
        joints = {"truth": project(base.truth_mm[image], crop_k)}
        joints |= {name: project(e.prediction_mm[image], crop_k) for name, e in same.items()}
        errors = {name: float(found[image]) for name, found in means.items()}
        samples.append(Sample(crop, joints, errors, rank + title_of(base, recording, image)))
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
    return [Text(_statement(first)), table, share_table(evaluations), Text(GOOD)]


def _curves(evaluations: Mapping[str, Evaluation]) -> Picture:
    first = next(iter(evaluations.values()))
    return success_chart(
        {name: worst_errors(e)[known_images(e)] for name, e in evaluations.items()},
        intervals={name: share_intervals(e) for name, e in evaluations.items()},
        caption="Share of images whose worst joint is within a distance, the higher and the further left the better; "
        f"upright lines are {100 * first.metrics.interval.level:.0f} % intervals.",
    )


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


def domain_sheet(recordings: Mapping[str, Recording], *, count: int = 8) -> Drawing:
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


def frame_errors(evaluation: Evaluation) -> NDArray[np.float64]:
    """Mean joint error (N,) mm of each image, NaN where there is none."""
    return frame_means(joint_errors(evaluation.prediction_mm, evaluation.truth_mm))


def has_palm(evaluation: Evaluation) -> NDArray[np.bool_]:
    """(N,) whether the true palm is known, about which images are drawn."""
    return np.asarray(np.isfinite(evaluation.truth_mm[:, evaluation.layout.palm]).all(axis=-1))


def _rank(evaluation: Evaluation) -> float:
    mean = evaluation.metrics.mean_mm
    return mean if np.isfinite(mean) else float("inf")
