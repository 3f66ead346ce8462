"""The commands that measure: eval model, compare, agreement, results; part of `cli.py`, imports nothing heavy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import FILE, RECORDING, RUN, json_option, overwrite_option, print_json, print_next, seed_option

if TYPE_CHECKING:
    from .learn.compare import Difference
    from .learn.evaluate import Evaluation
    from .learn.results import FileEvaluation
    from .stores.recording import Recording

SPLITS = click.Choice(["train", "val", "test", "all"])
KINDS = click.Choice(["uvd", "xyz"])
dataset_option = click.option("--dataset", type=click.Choice(["nyu", "icvl", "msra"]))


@dataclass(frozen=True, slots=True)
class Frames:
    """Which images of a recording are measured, and around what they are cropped."""

    center: Any
    split: str
    subjects: tuple[str, ...]
    views: tuple[str, ...]

    def of(self, recording: Recording) -> dict[str, Any]:
        """As arguments of `learn.evaluate`."""
        known = list(recording.rig.names)
        unknown = next((name for name in self.views if name not in known), None)
        if unknown is not None:
            raise click.BadParameter(f"there is no camera '{unknown}': {', '.join(known)}", param_hint="--view")
        views = [known.index(name) for name in self.views] or None
        return {"center": self.center, "split": self.split, "subjects": self.subjects, "views": views}


def reporting(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that may write a page; it gets `report`, a path that may be written, or None."""

    @click.option("--report", type=FILE, help="Also write a page: skeletons, joints, curves, tables that sort.")
    @overwrite_option
    @functools.wraps(command)
    def reported(report: Path | None, overwrite: bool, **rest: Any) -> None:
        if report is not None:
            from .learn.report_data import refuse_taken_page

            refuse_taken_page(report, overwrite=overwrite)
        command(report=report, **rest)

    return reported


def measuring(command: Callable[..., None]) -> Callable[..., None]:
    """The options of a command that measures models on a recording; it gets `frames`, and `report` as above."""

    @click.option(
        "--center",
        type=click.Choice(["truth", "located"]),
        default="located",
        show_default=True,
        help="Crops around the true palm, or around the hand as it was found.",
    )
    @click.option("--split", type=SPLITS, default="test", show_default=True, help="Which frames.")
    @click.option(
        "--subject",
        "subjects",
        multiple=True,
        metavar="NAME",
        help="These people only, of all splits unless --split is given; says whether the model has seen them.",
    )
    @click.option("--view", "views", multiple=True, metavar="CAMERA", help="These cameras only.")
    @reporting
    @seed_option
    @json_option
    @functools.wraps(command)
    def measured(center: str, split: str, subjects: tuple[str, ...], views: tuple[str, ...], **rest: Any) -> None:
        # A person is looked at on all of their frames unless a split is asked for.
        ctx = click.get_current_context()
        given = ctx.get_parameter_source("split") is not click.core.ParameterSource.DEFAULT
        command(frames=Frames(center, split if given or not subjects else "all", subjects, views), **rest)

    return measured


@click.group("eval")
def evaluate() -> None:
    """Measure models and result files, and compare them."""


@evaluate.command("model")
@click.argument("run", type=RUN)
@click.option("--on", "recording", type=RECORDING, required=True, help="Labelled recording.")
@measuring
def eval_model(run: Path, recording: Path, frames: Frames, report: Path | None, seed: int, as_json: bool) -> None:
    """Joint error of a run or an exported model on a labelled recording, with an interval."""
    from .learn.estimators import open_estimator
    from .learn.evaluate import evaluate_model
    from .learn.tables import breakdown
    from .stores.recording import open_recording

    on = open_recording(recording)
    found = evaluate_model(open_estimator(run), on, name=str(run), seed=seed, **frames.of(on))
    _write_report(report, {found.name: found}, [], on)
    if as_json:
        print_json(found.to_dict())
        return
    click.echo("\n".join([*found.lines(), "", *breakdown(found.metrics)]))
    if report is not None:
        click.echo(_numbers_said(report))
        click.echo(f"{report}: the same as a page, with pictures")


@evaluate.command("compare")
@click.argument("models", type=FILE, nargs=-1, required=True, metavar="A B...")
@click.option("--on", "recording", type=RECORDING, help="Labelled recording, for runs and exported models.")
@click.option("--truth", type=FILE, help="Labels, for result files.")
@dataset_option
@measuring
def eval_compare(
    models: tuple[Path, ...],
    recording: Path | None,
    truth: Path | None,
    dataset: str | None,
    frames: Frames,
    report: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Is A better than B, and than C? Paired on the same frames, with an interval of the difference.

    With --on R.zarr for runs and exported models, with --truth GT.txt --dataset NAME for result files.
    """
    if len(models) < 2 or len({str(path) for path in models}) < len(models):
        raise click.UsageError("give two models or more, each once")
    if (recording is None) == (truth is None):
        raise click.UsageError("give --on R.zarr for models, or --truth GT.txt --dataset NAME for result files")
    if recording is None and dataset is None:
        raise click.UsageError("--truth needs --dataset nyu|icvl|msra")
    from .learn.tables import compared_table

    if recording is None:
        from .learn.result_files import dataset_named
        from .learn.results import compare_results

        assert truth is not None
        assert dataset is not None
        files, differences = compare_results(models, truth, dataset_named(dataset), seed=seed)
        _write_results(report, files, differences)
        said = [file.to_dict() for file in files]
        lines = compared_table({str(file.path): file.metrics for file in files}, f"{dataset}, against {truth}")
        notes = {str(file.path): [*file.stated.lines(), *file.notes] for file in files}
    else:
        from .learn.compare import compare_evaluations
        from .learn.estimators import open_estimator
        from .learn.evaluate import evaluate_models
        from .stores.recording import open_recording

        on = open_recording(recording)
        estimators = {str(path): open_estimator(path) for path in models}
        found = evaluate_models(estimators, on, seed=seed, **frames.of(on))
        differences = compare_evaluations(found, seed=seed)
        _write_report(report, found, differences, on)
        said = [one.to_dict() for one in found.values()]
        first = next(iter(found.values()))
        lines = compared_table({name: one.metrics for name, one in found.items()}, first.title())
        notes = {name: [*one.circumstances(), *one.notes] for name, one in found.items()}
    if as_json:
        print_json({"models": said, "differences": [one.to_dict() for one in differences]})
        return
    for difference in differences:
        lines += ["", *difference.lines()]
    for name, texts in notes.items():
        lines += ["", name, *(f"  {text}" for text in texts)]
    if report is not None:
        lines += ["", _numbers_said(report), f"{report}: the models as a page, with pictures"]
    click.echo("\n".join(lines))


@evaluate.command("agreement")
@click.argument("models", type=FILE, nargs=-1, required=True, metavar="RUN|MODEL...")
@click.option("--on", "recording", type=RECORDING, required=True, help="Recording of two cameras or more.")
@click.option("--split", type=SPLITS, default="all", show_default=True)
@seed_option
@json_option
def eval_agreement(models: tuple[Path, ...], recording: Path, split: str, seed: int, as_json: bool) -> None:
    """Compare models without labels: how far apart are the poses that the cameras of a rig give of one moment?"""
    from .learn.agreement import agreement, lines
    from .learn.estimators import open_estimator
    from .stores.recording import open_recording

    on = open_recording(recording)
    found = agreement({str(path): open_estimator(path) for path in models}, on, seed=seed, split=split)
    if as_json:
        print_json({"recording": str(recording), "split": split, "models": [one.to_dict() for one in found]})
        return
    click.echo("\n".join(lines(found, on, seed=seed)))
    if len(found) > 1 and not found[0].name.endswith(".onnx"):
        print_next(f"handloom export {found[0].name} --out model.onnx")


@evaluate.command("results")
@click.argument("prediction", type=FILE)
@click.option("--truth", type=FILE, required=True, help="Labels in the same form.")
@click.option("--dataset", type=click.Choice(["nyu", "icvl", "msra"]), required=True)
@click.option("--kind", type=KINDS, help="How to read the prediction; else inferred.")
@click.option("--truth-kind", type=KINDS, help="How to read the truth; else inferred.")
@click.option("--labels", "n_labels", type=click.IntRange(0), help="Labelled frames the model learned from, if known.")
@click.option("--label-seed", type=int, help="What drew them, if known.")
@click.option("--center", type=click.Choice(["gt", "predicted"]), help="What its crops lay around, if known.")
@click.option("--chosen-by", help="Which frames chose the model, if known.")
@reporting
@seed_option
@json_option
def eval_results(
    prediction: Path,
    truth: Path,
    dataset: str,
    kind: Any,
    truth_kind: Any,
    report: Path | None,
    seed: int,
    as_json: bool,
    **stated: Any,
) -> None:
    """Joint error of a published result file."""
    from .learn.result_files import dataset_named
    from .learn.results import Stated, evaluate_results
    from .learn.tables import breakdown

    found = evaluate_results(
        prediction,
        truth,
        dataset_named(dataset),
        seed=seed,
        kind=kind,
        truth_kind=truth_kind,
        stated=Stated(**stated),
    )
    _write_results(report, [found], [])
    if as_json:
        print_json(found.to_dict())
        return
    click.echo("\n".join([*found.metrics.lines(), *found.stated.lines(), "", *breakdown(found.metrics)]))
    if report is not None:
        click.echo(_numbers_said(report))
        click.echo(f"{report}: the same as a page, with pictures")
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def _numbers_said(report: Path) -> str:
    from .learn.report_data import data_file

    return f"{data_file(report)}: these numbers, a JSON object a line"


def _write_report(
    report: Path | None, found: Mapping[str, Evaluation], differences: Sequence[Difference], recording: Recording
) -> None:
    """The page of what was measured; that it may be written was seen to before."""
    if report is None:
        return
    from . import __version__
    from .learn.pages import evaluation_report
    from .learn.report_data import write_data

    page = evaluation_report(found, differences, recording, made_by=f"handloom {__version__} eval")
    page.write(report, overwrite=True)
    write_data(report, evaluations=found.values(), differences=differences)


def _write_results(report: Path | None, found: Sequence[FileEvaluation], differences: Sequence[Difference]) -> None:
    """The page of measured result files."""
    if report is None:
        return
    from . import __version__
    from .learn.report_data import write_data
    from .learn.result_pages import results_report

    page = results_report(found, differences, made_by=f"handloom {__version__} eval")
    page.write(report, overwrite=True)
    write_data(report, evaluations=found, differences=differences)
