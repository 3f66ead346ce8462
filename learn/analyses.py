"""What MURAUER's paper shows of a model beside its error, as sections (Poier et al., Fig. 1, 5 to 7, 9 to 12).

Each function draws one of the paper's analyses from a run and the recording it is measured on. What a run cannot show
(no twins, one camera, no labels, another method) is left out with a sentence that says why and which command gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.page import Picture
from ..stores.recording import Recording
from .charts import distance_chart, embedding_chart
from .evaluate import Evaluation, crops_of, images_of
from .figures import read_curves, training_chart
from .latent import Pairs, latents, pair_distances, twinned_rows
from .metrics import joint_errors, worst_joint
from .model import PoseModel
from .neighbours import Neighbour, nearest_in_latent, nearest_in_pose
from .pages import frame_errors, hardest_examples, has_palm, pose_sheet, title_of
from .report import Block, Code, Gallery, Section, Table, Text
from .report_tables import difference_table
from .sheets import DRAWN_MM, DRAWN_PX, Cell, cell_sheet
from .tsne import embed
from .views import ViewPrediction, predict_views, predicts_views

SHOWN: Final = 6
"""Frames of a sheet."""
HARDEST: Final = 0.05
"""Share of the images on which the baseline errs most that counts as hard."""
PAIRS: Final = 300
"""Pairs of twins whose latents are compared."""
VIEW_ROWS: Final = 40
"""Frames whose second views are predicted."""


@dataclass(frozen=True, slots=True)
class Analysed:
    """One run on the page."""

    name: str
    path: Path
    model: PoseModel


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """A recording that a run learned from, and which of its rows."""

    label: str
    recording: Recording
    rows: NDArray[np.int64]


def left_out(title: str, why: str, *commands: str) -> Section:
    """A section in whose place a sentence stands, and the command that would fill it."""
    return Section(title, [Text(f"Left out: {why}"), *([Code("\n".join(commands))] if commands else [])])


def hard_section(
    baseline: str, ours: str, evaluations: Mapping[str, Evaluation], recording: Recording, *, seed: int
) -> Section:
    """Truth, baseline and ours where the baseline errs most (Fig. 1), and on images drawn at random."""
    shown = {name: evaluations[name] for name in (baseline, ours)}
    base, mine = frame_errors(shown[baseline]), frame_errors(shown[ours])
    both = np.where(np.isfinite(mine), base, np.nan)
    known = np.flatnonzero(np.isfinite(both) & has_palm(shown[ours]))
    if not len(known):
        return left_out("Hard frames", "there is no image with a palm in which both models found a hand.")
    hard = known[np.argsort(-base[known])][: max(1, round(HARDEST * len(known)))]
    drawn = np.random.default_rng(seed).choice(known, min(SHOWN, len(known)), replace=False)
    return Section(
        "Hard frames",
        [
            Text(
                f"On the {len(hard)} images on which '{baseline}' errs most its mean error is {base[hard].mean():.1f} "
                f"mm, that of '{ours}' {mine[hard].mean():.1f} mm, less on {(mine < base)[hard].sum()}. They were "
                f"chosen by the error of '{baseline}', which looks worse here than it is: on all images the means are "
                f"{base[known].mean():.1f} and {mine[known].mean():.1f} mm."
            ),
            difference_table(shown, baseline),
            pose_sheet(
                shown,
                recording,
                hardest_examples(both, shown[ours], SHOWN),
                caption=f"The largest errors of '{baseline}', one of each half second; below each the mean error.",
            ),
            pose_sheet(shown, recording, np.sort(drawn).tolist(), caption=f"Images drawn at random (seed {seed})."),
        ],
    )


def worst_section(
    ours: Analysed, evaluation: Evaluation, recording: Recording, sets: Sequence[TrainingSet]
) -> list[Section]:
    """Frames with the largest mean and the largest single error, and the training images most like them (10 to 12)."""
    mean = frame_errors(evaluation)
    largest = worst_joint(joint_errors(evaluation.prediction_mm, evaluation.truth_mm))
    kinds = {
        "Worst frames by mean error": hardest_examples(mean, evaluation, SHOWN),
        "Worst frames by largest error": hardest_examples(
            np.where(np.isfinite(largest), largest, np.nan), evaluation, SHOWN
        ),
    }
    images = list(dict.fromkeys(image for chosen in kinds.values() for image in chosen))
    if not images:
        return [left_out("Worst frames", "there is no image with a palm in which a hand was found.")]
    found = _neighbours(ours.model, evaluation, recording, images, sets)
    sections = []
    for title, chosen in kinds.items():
        rows = _own_rows(evaluation, recording, chosen, mean, largest)
        said = []
        for label, near in found.items():
            here = [near[images.index(image)] for image in chosen]
            if any(here):
                rows[label] = [_cell(one) for one in here]
                mm = [one.pose_mm for one in here if one is not None and np.isfinite(one.pose_mm)]
                said += [f"{label.replace(chr(10), ' ')} {np.mean(mm):.0f} mm"] if mm else []
        caption = (
            "One of each half second. Below a prediction its mean and largest error, below a neighbour the mean "
            "distance of its joints from the truth above it, palms moved together."
        )
        caption += f" On average: {'; '.join(said)}." if said else ""
        titles = [title_of(evaluation, recording, image) for image in chosen]
        sheet = cell_sheet(rows, evaluation.layout, titles=titles, alt=title, caption=caption)
        sections.append(Section(title, [sheet]))
    if not found:
        sections.append(
            left_out("Nearest training images", "what the run was trained on no longer lies where the run says.")
        )
    return sections


def _neighbours(
    model: PoseModel,
    evaluation: Evaluation,
    recording: Recording,
    images: Sequence[int],
    sets: Sequence[TrainingSet],
) -> dict[str, list[Neighbour | None]]:
    """By label of the row the neighbour of each image, in pose and in z, in each training set."""
    poses, z = _as_the_network_knows(model, evaluation, recording, images)
    found = {}
    for part in sets:
        found[f"nearest in pose,\n{part.label}"] = nearest_in_pose(poses, part.recording, part.rows, model)
        found[f"nearest in z,\n{part.label}"] = nearest_in_latent(z, poses, part.recording, part.rows, model)
    return found


def _own_rows(
    evaluation: Evaluation,
    recording: Recording,
    images: Sequence[int],
    mean_mm: NDArray[np.float64],
    largest_mm: NDArray[np.float64],
) -> dict[str, list[Cell | None]]:
    crops, k = crops_of(evaluation, recording, images, input_px=DRAWN_PX, cube_mm=DRAWN_MM)
    truth: list[Cell | None] = []
    predicted: list[Cell | None] = []
    for crop, crop_k, image in zip(crops, k, images, strict=True):
        truth.append(Cell(crop, project(evaluation.truth_mm[image], crop_k)))
        note = f"{mean_mm[image]:.0f}, at most {largest_mm[image]:.0f} mm"
        predicted.append(Cell(crop, project(evaluation.prediction_mm[image], crop_k), note))
    return {"truth": truth, "predicted": predicted}


def _as_the_network_knows(
    model: PoseModel, evaluation: Evaluation, recording: Recording, images: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """True poses (n, J, 3) and latents (n, F) of some images; the other hand's are mirrored, as in prediction."""
    crops = images_of(evaluation, recording, images, input_px=model.input_px, cube_mm=model.cube_mm)
    poses = evaluation.truth_mm[list(images)]
    if recording.hand != model.hand:
        crops, poses = crops[..., ::-1].copy(), poses * np.array([-1, 1, 1], np.float32)
    return poses, latents(model, crops, real=recording.kind == "captured")


def _cell(found: Neighbour | None) -> Cell | None:
    if found is None:
        return None
    note = f"{found.pose_mm:.0f} mm" if np.isfinite(found.pose_mm) else ""
    return Cell(found.crop, project(found.joints_mm, found.k), note)


def latent_section(
    runs: Sequence[Analysed], pairs: Pairs, *, labelled: NDArray[np.bool_], shown: str, seed: int
) -> Section:
    """t-SNE of z of captured images and their twins (Fig. 5, 9), and the distances of twins (Fig. 6).

    Args:
        runs: the baseline first.
        pairs: at least two.
        labelled: (n,) pairs that training compared.
        shown: which frames these are, in words.
        seed: of t-SNE.
    """
    planes: list[Picture] = []
    distances: dict[str, NDArray[np.float64]] = {}
    rows: list[list[Any]] = []
    for run in runs:
        real, twin = (latents(run.model, crops, real=r) for crops, r in ((pairs.real, True), (pairs.twin, False)))
        found = embed(np.concatenate([real, twin]), seed=seed)
        planes.append(
            embedding_chart(
                found.points,
                labelled,
                title=run.name,
                caption=f"t-SNE (seed {seed}, divergence {found.divergence:.2f}); a line joins an image and its twin.",
            )
        )
        apart = pair_distances(real, twin)
        distances[run.name] = apart.corresponding
        rows.append([run.name, float(np.median(apart.corresponding)), f"{100 * apart.nearest:.0f} %"])
    trained = f"; training compared {labelled.sum()} of them" if labelled.any() else "; training compared none of them"
    return Section(
        "Captured and rendered images in the latent space",
        [
            Text(
                f"{len(pairs.row)} captured images ({shown}) and their synthetic twins, the same pose from the same "
                f"camera, cut about the same point{trained}. Where a model bridges the gap, twins lie together and "
                "neighbours show like poses; where it does not, each domain has its own region. Such pictures show who "
                "is near whom, not how far: the distances below do."
            ),
            Gallery(planes),
            distance_chart(
                distances,
                caption="Distance of z of an image and its twin, over the mean distance of images and twins that do "
                "not belong together, so that models compare. Dashed: medians.",
            ),
            Table(
                ["model", "median distance", "own twin is the nearest"],
                rows,
                "1 is as far as any two; the last column is of all the twins shown.",
            ),
        ],
    )


def pair_rows(
    real: Recording, twins: Recording, measured: NDArray[np.int64] | None, labelled: Sequence[int]
) -> tuple[NDArray[np.int64], str]:
    """Which twinned rows to compare, the ones training saw least of first, and what they are.

    Args:
        real: the recording of the twins.
        twins: made for it.
        measured: rows the run is measured on, where it is on this recording.
        labelled: frame_ids of the labels in use.
    """
    assert real.frames is not None
    twinned = np.flatnonzero(twinned_rows(real, twins) >= 0)
    split, ids = real.frames.read("split")[twinned], real.frames.read("frame_id")[twinned]
    used = np.isin(ids, np.array(list(labelled), np.uint64))
    choices = [
        ("the frames measured on", np.isin(twinned, measured) if measured is not None else np.zeros_like(used)),
        ("frames held out of training", split != 0),
        ("training frames whose labels were not used", ~used),
        ("training frames", np.ones_like(used)),
    ]
    for said, chosen in choices:
        if chosen.sum() > 1:
            return twinned[chosen], said
    return twinned, "training frames"


def views_section(
    model: PoseModel,
    real: Recording,
    rows: NDArray[np.int64],
    twins: Recording | None,
    synth: TrainingSet | None,
) -> Section:
    """Predicted second views of captured and of rendered input, beside the truth (Fig. 7), and their error.

    Args:
        model: that predicts views.
        real: captured, two cameras or more.
        rows: of it.
        twins: its twins, for rendered input of the same frames.
        synth: rendered frames instead, where there are no twins of these rows.
    """
    assert predicts_views(model)
    some = rows[np.unique(np.linspace(0, len(rows) - 1, min(VIEW_ROWS, len(rows))).round().astype(int))]
    sources: dict[str, ViewPrediction] = {"captured": predict_views(model, real, some, real=True)}
    if twins is not None and (twinned_rows(real, twins)[some] >= 0).any():
        here = twinned_rows(real, twins)[some]
        sources["rendered twin"] = predict_views(model, twins, np.sort(here[here >= 0]), real=False)
    elif synth is not None:
        count = min(VIEW_ROWS, len(synth.rows))
        spread = synth.rows[np.unique(np.linspace(0, len(synth.rows) - 1, count).round().astype(int))]
        sources["rendered"] = predict_views(model, synth.recording, spread, real=False)
    sheet: dict[str, list[Cell | None]] = {}
    table: list[list[Any]] = []
    for label, found in sources.items():
        first = np.flatnonzero((found.pair == found.pair[0]).all(axis=1)) if len(found.row) else np.zeros(0, np.int64)
        places = first[np.unique(np.linspace(0, len(first) - 1, min(SHOWN, len(first))).round().astype(int))]
        for what, images in (("input", found.source), ("other camera", found.target), ("predicted", found.predicted)):
            cells: list[Cell | None] = [Cell(images[i]) for i in places.tolist()]
            sheet[f"{label}:\n{what}"] = cells + [None] * (SHOWN - len(cells))
        empty = float(np.abs(1 - found.target).mean()) if len(found.row) else float("nan")
        table.append([label, f"{found.mae:.3f}", f"{empty:.3f}", len(found.row)])
    titles = [""] * SHOWN
    return Section(
        "Predicted second views",
        [
            Text(
                "What another camera should see, decoded from the latent of one image. Where the views predicted from "
                "captured input are as good as those from rendered input, the latent holds the pose of both."
            ),
            cell_sheet(sheet, model.layout, titles=titles, alt="Second views", caption="One pair of cameras."),
            Table(
                ["input", "mean absolute error", "an empty image's", "pairs"],
                table,
                "In units in which the cube spans 2, over all pixels and pairs of cameras. The paper has 0.107 (NYU, "
                "another data set).",
            ),
        ],
    )


def training_section(runs: Mapping[str, Path], *, detailed: str | None = None) -> Section:
    """Curves of training: the error of every run, and of one its losses and the gradient norms on m.

    Args:
        runs: by name; those without metrics are left out.
        detailed: the one whose terms are drawn.
    """
    curves = {name: read_curves(path) for name, path in runs.items() if (path / "metrics.jsonl").is_file()}
    if not curves:
        return left_out("Training", "the run has no metrics.jsonl.")
    charts = []
    for key, label in (("train/mean_mm", "training batches"), ("val/mean_mm", "validation recording")):
        shown = {name: values[key] for name, values in curves.items() if key in values}
        if shown:
            caption = "Augmented images, so above the final error." if key.startswith("train") else ""
            charts.append(training_chart(shown, ylabel=f"error on the {label} (mm)", log=True, caption=caption))
    blocks: list[Block] = []
    if detailed in curves:
        terms = curves[detailed]
        for prefix, label in (("loss/", "loss"), ("grad_m/", "gradient norm on m")):
            found = {k.removeprefix(prefix): v for k, v in terms.items() if k.startswith(prefix)}
            if found:
                caption = "Each weighted as in the sum." if prefix == "grad_m/" else "Each term before its weight."
                charts.append(training_chart(found, ylabel=label, log=True, caption=f"'{detailed}'. {caption}"))
        blocks += _gradient_table(terms)
    return Section("Training", [Gallery(charts), *blocks])


def _gradient_table(terms: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[Block]:
    """How hard each term pulls at m in the last quarter of the log, against the strongest."""
    found: dict[str, float] = {}
    for name, (_, values) in terms.items():
        if name.startswith("grad_m/"):
            found[name.removeprefix("grad_m/")] = float(np.median(values[-max(1, len(values) // 4) :]))
    strongest = max(found.values(), default=0.0)
    if not strongest:
        return []
    rows: list[list[Any]] = [[name, f"{norm:.2e}", f"{norm / strongest:.2g}"] for name, norm in found.items()]
    return [
        Table(
            ["term", "gradient norm on m", "against the strongest"],
            rows,
            "Median over the last quarter of training.",
        )
    ]
