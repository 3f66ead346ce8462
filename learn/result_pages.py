"""The page of `eval results` and of compared result files: no depth, but poses, joints on a hand, curves, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .compare import Difference
from .figures import success_chart
from .metrics import frame_means, joint_errors, worst_joint
from .pages import GOOD, headline, joint_blocks, ranks_of
from .report import Block, Facts, Report, Section, Text
from .report_tables import metrics_table, parts_section
from .results import FileEvaluation
from .sheets import DRAWN_MM, DRAWN_PX, Sample, skeleton_sheet
from .tables import told_apart

EXAMPLES: Final = 5


def results_report(files: Sequence[FileEvaluation], differences: Sequence[Difference], *, made_by: str) -> Report:
    """The page of one result file, or of several against the same truth.

    Args:
        files: one data set's; the page calls them by the ends of their paths.
        differences: of the first from each other one, by their paths.
        made_by: the command, for the last line.
    """
    paths = [str(file.path) for file in files]
    short = dict(zip(paths, told_apart(paths), strict=True))
    named = {short[str(file.path)]: file for file in files}
    subtracted = [replace(one, a=short[one.a], b=short[one.b]) for one in differences]
    metrics = {name: file.metrics for name, file in named.items()}
    worst = {name: worst_joint(joint_errors(f.prediction_mm, f.truth_mm)) for name, f in named.items()}
    caption = "Share of frames whose worst joint is within a distance, the higher and the further left the better."
    curves = success_chart(worst, caption=caption)
    i, first = files[0].metrics.interval, files[0]
    table = metrics_table(
        metrics, caption=f"{first.metrics.images} frames; ± is half the {100 * i.level:.0f} % bootstrap interval over "
        f"{i.groups} {i.unit}, seed {first.metrics.seed}.",
    )  # fmt: skip
    layouts = dict.fromkeys(named, first.dataset.layout)
    facts = {"data set": first.dataset.name, "truth": f"{first.truth} ({first.truth_kind})"}
    for name, file in named.items():
        facts[name] = "; ".join([f"read as {file.kind}", *file.stated.lines(), *file.notes])
    return Report(
        " / ".join(named),
        [
            Section("Poses", [_poses(named, min(metrics, key=lambda name: _rank(metrics[name].mean_mm)))]),
            Section("Result", [*joint_blocks(metrics, layouts, curves, subtracted), table, Text(GOOD)]),
            parts_section(metrics),
            Section("What was compared", [Facts(facts)]),
        ],
        subtitle=f"{first.dataset.name}, against {first.truth}",
        introduction=headline(metrics, subtracted),
        made_by=made_by,
    )


def _poses(named: dict[str, FileEvaluation], focus: str) -> Block:
    """Truth and every file's skeleton, without depth, from the best to the worst frame of one file."""
    one = named[focus]
    errors = frame_means(joint_errors(one.prediction_mm, one.truth_mm))
    palm = one.dataset.layout.palm
    usable = np.flatnonzero(np.isfinite(errors) & np.isfinite(one.truth_mm[:, palm]).all(axis=-1))
    order = usable[np.argsort(errors[usable], kind="stable")]
    if not len(order):
        return Text(f"There is no frame with a known palm and a pose of '{focus}'.")
    places = np.unique(np.linspace(0, len(order) - 1, min(EXAMPLES, len(order))).round().astype(int))
    nothing = np.ones((DRAWN_PX, DRAWN_PX), np.float32)
    samples = []
    for rank, frame in zip(ranks_of(len(places)), order[places].tolist(), strict=True):
        joints = {"truth": _seen(one.truth_mm[frame], one, frame)}
        joints |= {name: _seen(file.prediction_mm[frame], one, frame) for name, file in named.items()}
        mm = {
            name: float(frame_means(joint_errors(f.prediction_mm[frame], f.truth_mm[frame])[None])[0])
            for name, f in named.items()
        }
        samples.append(Sample(nothing, joints, mm, f"{rank}: line {frame + 1}"))
    caption = (
        f"The best frame of '{focus}' on the left, the median in the middle, the worst on the right; below each its "
        f"mean error. {DRAWN_MM:.0f} mm about the true palm, seen from the camera; result files hold no depth."
    )
    return skeleton_sheet(samples, ["truth", *named], one.dataset.layout, caption=caption)


def _seen(joints_mm: NDArray[np.float64], file: FileEvaluation, frame: int) -> NDArray[np.float64]:
    """(J, 2) pixels of a picture about the true palm; y of data sets whose y points up is turned."""
    dataset = file.dataset
    offset = joints_mm - file.truth_mm[frame, dataset.layout.palm]
    across = offset[:, :2] * (1.0, np.sign(dataset.k[1]))
    return np.asarray(across * (DRAWN_PX / DRAWN_MM) + (DRAWN_PX - 1) / 2, np.float64)


def _rank(mean_mm: float) -> float:
    return mean_mm if np.isfinite(mean_mm) else float("inf")
