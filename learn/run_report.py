"""The report of a run, and of several: what they learned, where they fail, what the latent space looks like.

One run is looked at closely, beside the run it started from or another baseline; several are compared on the same
images. Everything is measured here and now on one recording; the training sets and twins that the analyses need are
those the run names, as long as they still lie where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.recording import SPLITS, Recording, open_recording
from . import analyses
from .agreement import agreement
from .analyses import Analysed, TrainingSet, left_out
from .compare import Difference, compare_evaluations
from .crossing_check import has_generator
from .curves import Result, curve_sections
from .estimators import TorchEstimator
from .evaluate import Center, Evaluation, evaluate_models
from .given import has_twins
from .latent import twin_pairs
from .model import CHECKPOINT, load_model
from .pages import evaluation_sections, headline
from .predictions import rows_of
from .report import Block, Report, Section, Table, Text
from .report_data import refuse_taken_page, write_data
from .report_tables import agreement_table, difference_table
from .tables import told_apart
from .views import predicts_views

PARTS: Final = 6
"""Of the work, for the progress."""
VIEWS_COMMAND: Final = "handloom train murauer --arm full --synth S.zarr --real R.zarr --run RUN"
Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Written:
    """What the page holds."""

    evaluations: dict[str, Evaluation]
    """Empty where the recording is not labelled."""
    size_bytes: int
    left_out: tuple[str, ...]
    """Titles of the sections in whose place a sentence stands."""


@dataclass(frozen=True, slots=True)
class Twinned:
    """A captured recording and its synthetic twins."""

    real: Recording
    twins: Recording


def write_report(
    runs: Sequence[Path],
    recording: Recording,
    out: Path,
    *,
    seed: int,
    baseline: Path | None = None,
    twins: Sequence[Path] = (),
    center: Center = "located",
    split: str = "test",
    overwrite: bool = False,
    made_by: str = "",
    progress: Progress = lambda *_, **__: None,
) -> Written:
    """Measure and draw, write one page.

    Args:
        runs: run directories; of one everything is shown, several are compared.
        recording: to measure on; without labels only what needs none is shown.
        out: the page.
        seed: of intervals, random samples and t-SNE.
        baseline: another run to stand beside; None: the one that the first run started from, where it is there.
        twins: recordings of twins, beside those the runs name.
        center: 'truth' or 'located', as in `evaluate_models`.
        split: of the recording.
        overwrite: replace a page that is there.
        made_by: the command, for the last line.
        progress: called with parts done, parts in all and a note.

    Raises:
        HandloomError: a run, the recording or the page is not as it should be.
    """
    refuse_taken_page(out, overwrite=overwrite)
    rows = rows_of(recording, split, None)
    chosen = _opened(runs, baseline)
    ours, close = chosen[-1], len(runs) == 1
    names = [run.name for run in chosen]
    progress(0, PARTS, "measuring")
    labelled = recording.labels is not None
    estimators = {run.name: TorchEstimator(run.model) for run in chosen}
    evaluations = evaluate_models(estimators, recording, seed=seed, center=center, split=split) if labelled else {}
    differences = _differences(evaluations, names, seed=seed)
    if evaluations:
        *sections, compared = evaluation_sections(
            evaluations, recording, focus=ours.name if close else None, differences=differences if close else ()
        )
        if not close:
            sections[-1] = Section(sections[-1].title, [*sections[-1].blocks, difference_table(evaluations, names[0])])
    else:
        sections = list(_without_labels(recording, estimators, split=split, seed=seed))
    progress(1, PARTS, "hard and worst frames")
    if close and evaluations:
        sections += _frames(chosen, evaluations, recording, seed=seed)
    progress(2, PARTS, "latents")
    pairing = _twinned(chosen, recording, twins)
    sections.append(_latents(chosen, pairing, recording, rows, seed=seed))
    progress(3, PARTS, "views")
    sections.append(_views(ours, pairing, recording, rows) if close else _view_errors(evaluations))
    if close and has_generator(ours.model):
        sections += _shared_space(ours, recording, split=split, seed=seed)
    progress(4, PARTS, "training")
    if not close and evaluations:
        sections += _curves(_as_results(chosen, evaluations))
    sections.append(
        analyses.training_section({run.name: run.path for run in chosen}, detailed=ours.name if close else None)
    )
    if evaluations:
        sections.append(compared)
    progress(5, PARTS, "writing")
    title = f"{ours.model.method} {ours.model.arm}: {ours.name}" if close else f"{len(runs)} runs compared"
    subtitle = f"on {split} frames of {recording.path.name}" + ("" if labelled else ", which carries no labels")
    said = headline({name: e.metrics for name, e in evaluations.items()}, differences) if evaluations else ""
    page = Report(title, sections, subtitle=subtitle, introduction=said, made_by=made_by)
    page.write(out, overwrite=overwrite)
    write_data(out, evaluations=evaluations.values(), differences=differences, runs={r.name: r.path for r in chosen})
    progress(PARTS, PARTS)
    missing = [s.title for s in sections if s.blocks and isinstance(s.blocks[0], Text) and _says_left_out(s.blocks[0])]
    return Written(evaluations, out.stat().st_size, tuple(missing))


def _says_left_out(block: Text) -> bool:
    return block.text.startswith("Left out: ")


def _opened(runs: Sequence[Path], baseline: Path | None) -> list[Analysed]:
    """The baseline, if there is one, then the runs; each path once, each under a name of its own."""
    models = {path: load_model(path) for path in dict.fromkeys(runs)}
    if baseline is None and len(models) == 1:
        init = (next(iter(models.values())).description.get("sources") or {}).get("init")
        baseline = Path(init) if init and (Path(init) / CHECKPOINT).is_file() else None
    if baseline is not None and baseline not in models:
        models = {baseline: load_model(baseline)} | models
    elif baseline is not None:
        models = {baseline: models[baseline]} | models
    shown = told_apart([str(path.resolve()) for path in models])
    return [Analysed(name, path, model) for name, (path, model) in zip(shown, models.items(), strict=True)]


def _differences(evaluations: Mapping[str, Evaluation], names: Sequence[str], *, seed: int) -> list[Difference]:
    """Of every other run from the first: below zero where that run is better."""
    base = names[0]
    pairs = ({name: evaluations[name], base: evaluations[base]} for name in names[1:] if evaluations)
    return [one for pair in pairs for one in compare_evaluations(pair, seed=seed)]


def _without_labels(
    recording: Recording, estimators: dict[str, TorchEstimator], *, split: str, seed: int
) -> Iterator[Section]:
    """What stands in place of errors: how well the cameras agree."""
    yield left_out(
        "Result",
        "the recording carries no labels, so there is no error to state, no hard frames and no error of a joint.",
        f"handloom label {recording.path} --select 100 --out labelling",
    )
    if recording.n_views > 1:
        found = agreement(estimators, recording, seed=seed, split=split)
        yield Section("Agreement of the cameras", [agreement_table(found)])
    else:
        yield left_out("Agreement of the cameras", "a single camera has nobody to agree with.")


def _frames(
    chosen: Sequence[Analysed], evaluations: dict[str, Evaluation], recording: Recording, *, seed: int
) -> Iterator[Section]:
    ours = chosen[-1]
    if len(chosen) > 1:
        yield analyses.hard_section(chosen[0].name, ours.name, evaluations, recording, seed=seed)
    else:
        yield left_out(
            "Hard frames",
            "there is no baseline: the run did not start from another one, or that is no longer there.",
            f"handloom report {ours.path} --on {recording.path} --baseline RUN --out report.html",
        )
    yield from analyses.worst_section(ours, evaluations[ours.name], recording, _training_sets(ours))


def _training_sets(run: Analysed) -> list[TrainingSet]:
    """The captured and the first synthetic recording that the run learned from, where they still lie there."""
    sources = run.model.description.get("sources") or {}
    held_out = (run.model.description.get("config") or {}).get("hold_out")
    found = []
    for label, entry in (("captured", sources.get("real")), ("rendered", next(iter(sources.get("synth") or ()), None))):
        recording = _source(entry)
        if recording is not None and recording.frames is not None and recording.crops is not None:
            trained = recording.frames.read("split") == SPLITS.index("train")
            if label == "captured" and held_out is not None:
                trained &= recording.frames.read("subject") != held_out
            rows = np.flatnonzero(trained)
            if len(rows):
                found.append(TrainingSet(label, recording, rows))
    return found


def _source(entry: Any) -> Recording | None:
    """The recording that a run's data.json names, if it is still the same one."""
    if not isinstance(entry, dict):
        return None
    try:
        recording = open_recording(Path(str(entry.get("path"))))
    except HandloomError:
        return None
    return recording if recording.uuid == entry.get("uuid") else None


def _twinned(chosen: Sequence[Analysed], recording: Recording, given: Sequence[Path]) -> Twinned | str:
    """The first recording of twins that goes with the one measured on, or with a run's own; else why there is none."""
    reals, twins = [recording], []
    for path in given:
        twins.append(open_recording(path))
        if not has_twins(twins[-1]):
            raise HandloomError(
                "This recording holds no twins", where=str(path), fix="handloom synth twin --real R.zarr --out T.zarr"
            )
    for run in reversed(chosen):
        sources = run.model.description.get("sources") or {}
        reals += [found] if (found := _source(sources.get("real"))) is not None else []
        twins += [found for entry in sources.get("twins") or () if (found := _source(entry)) is not None]
    for made in twins:
        for real in reals:
            if real.kind == "captured" and _of(made, real):
                return Twinned(real, made)
    if twins:
        return f"the twins ({', '.join(str(t.path) for t in twins)}) show another recording's frames."
    return "the runs name no synthetic twins of captured frames that still lie there, and none are given."


def _of(twins: Recording, real: Recording) -> bool:
    from ..stores.lineage import usable_twins

    try:
        usable_twins(twins, real)
    except HandloomError:
        return False
    return twins.n_views == real.n_views


def _latents(
    chosen: Sequence[Analysed],
    pairing: Twinned | str,
    recording: Recording,
    rows: NDArray[np.int64],
    *,
    seed: int,
) -> Section:
    title, ours = "Captured and rendered images in the latent space", chosen[-1]
    if isinstance(pairing, str):
        real = recording.path if recording.kind == "captured" else "R.zarr"
        return left_out(
            title,
            pairing,
            f"handloom synth twin --real {real} --out TWINS.zarr",
            f"handloom report {ours.path} --on {recording.path} --twins TWINS.zarr --out report.html",
        )
    sources = ours.model.description.get("sources") or {}
    labelled = [int(frame) for frame in sources.get("labelled_frames") or ()]
    measured = rows if pairing.real.uuid == recording.uuid else None
    some, said = analyses.pair_rows(pairing.real, pairing.twins, measured, labelled)
    pairs = twin_pairs(ours.model, pairing.real, pairing.twins, some, count=analyses.PAIRS, seed=seed)
    if len(pairs.row) < 4:
        return left_out(title, "fewer than four frames have a twin whose camera found the hand.")
    alike = [
        run for run in chosen if (run.model.input_px, run.model.cube_mm) == (ours.model.input_px, ours.model.cube_mm)
    ]
    assert pairing.real.frames is not None
    compared = np.isin(pairing.real.frames.read("frame_id")[pairs.row], np.array(labelled, np.uint64))
    section = analyses.latent_section(alike, pairs, labelled=compared, shown=said, seed=seed)
    others = [run.name for run in chosen if run not in alike]
    more = [Text(f"Not shown, for their input has another size: {', '.join(others)}.")] if others else []
    return Section(section.title, [*section.blocks, *more])


def _views(ours: Analysed, pairing: Twinned | str, recording: Recording, rows: NDArray[np.int64]) -> Section:
    title = "Predicted second views"
    if not predicts_views(ours.model):
        return left_out(
            title,
            f"the arm '{ours.model.arm}' of {ours.model.method} predicts no views.",
            VIEWS_COMMAND,
        )
    if recording.n_views < 2:
        return left_out(title, "the recording has one camera.")
    synth = next((s for s in _training_sets(ours) if s.label == "rendered"), None)
    twins = pairing.twins if isinstance(pairing, Twinned) and pairing.real.uuid == recording.uuid else None
    try:
        return analyses.views_section(ours.model, recording, rows, twins, synth)
    except HandloomError as error:
        return left_out(title, str(error).splitlines()[0])


def _view_errors(evaluations: dict[str, Evaluation]) -> Section:
    """The error of predicted views of several runs."""
    rows: list[list[Any]] = [[name, f"{e.view_mae:.3f}"] for name, e in evaluations.items() if e.view_mae is not None]
    blocks: list[Block] = [
        Table(
            ["model", "mean absolute error"], rows, "Of the view of another camera, in units in which the cube spans 2."
        )
    ]
    if not rows:
        return left_out("Predicted second views", "none of the runs predicts views.", VIEWS_COMMAND)
    return Section("Predicted second views", blocks)


def _shared_space(ours: Analysed, recording: Recording, *, split: str, seed: int) -> list[Section]:
    """Crossing Nets' own pictures, and how their GAN fared."""
    from .crossing_pictures import space_sections

    try:
        return space_sections(ours.model, ours.path, recording, split=split, seed=seed)
    except HandloomError as error:
        return [left_out("The shared latent space", f"{error.what}.")]


def _curves(results: Sequence[Result]) -> list[Section]:
    """Error over labels and unlabelled data, where that is what tells the runs apart."""
    title = "Error over the number of labels"
    trainings = {(one.arm, one.labels, one.unlabelled_share) for one in results}
    if len({(one.arm, one.labels, one.unlabelled_share, one.seed) for one in results}) < len(results):
        why = "two of the runs have arm, labels and seed in common; what else they differ in, a curve would hide."
        return [left_out(title, why)]
    if len(trainings) < 2:
        return [
            left_out(
                title,
                "a curve takes runs of several arms or of several numbers of labels.",
                "handloom train murauer --arm full --labels 100 --synth S.zarr --synth TWINS.zarr --real R.zarr "
                "--run RUN",
            )
        ]
    return curve_sections(results)


def _as_results(chosen: Sequence[Analysed], evaluations: dict[str, Evaluation]) -> list[Result]:
    """The runs as points of curves; a method's arms keep their names, Crossing Nets' get its own."""
    found = []
    for run in chosen:
        config = run.model.description.get("config") or {}
        n = int(run.model.description.get("n_labels") or 0)
        arm = run.model.arm if run.model.method == "murauer" else f"{run.model.method} {run.model.arm}"
        mean = evaluations[run.name].metrics.mean_mm
        if np.isfinite(mean):
            share = float(config.get("unlabelled_share", 1.0))
            found.append(Result(arm, str(n), int(config.get("seed", 0)), mean, n, share))
    return found
