"""The commands that learn: train, label; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from .options import (
    FILE,
    FOLDER,
    RECORDING,
    RUN,
    json_option,
    layout_option,
    overwrite_option,
    print_json,
    print_next,
    seed_option,
    set_option,
    with_options,
)

PRESETS = click.Choice(["quick", "fast", "paper"])


MURAUER_ARMS = {
    "full": "synthetic, labelled and unlabelled captured frames",
    "+view-prediction": "without distribution matching",
    "+distribution-matching": "without view prediction: enough with one camera",
    "real+synthetic": "labelled frames of both kinds and no others",
    "synthetic-only": "no capture at all",
    "real-only": "labelled captured frames alone",
    "control": "as full, without a loss on unlabelled frames",
    "preview": "captured frames alone, two cameras or more",
}
"""As `learn/murauer_recipe.py` has them."""
CROSSING_ARMS = {
    "full": "synthetic, labelled and unlabelled captured frames",
    "synthetic-only": "no capture at all",
    "real+synthetic": "labelled frames of both kinds and no others",
    "real-only": "labelled captured frames alone",
    "no-smo": "full without the smoothness of the latent space",
    "no-gan": "full without the adversarial game",
    "gan-pretrained": "the pose network alone, on a pre-trained trunk",
    "scratch": "the pose network alone",
    "paper": "full without synthetic frames, as published",
    "paper-no-smo": "the same without smoothness",
    "paper-no-gan": "the same without the game",
    "paper-gan-pretrained": "the baseline without synthetic frames",
    "paper-scratch": "the other one",
    "nearest": "nearest neighbours among labelled and synthetic frames",
    "paper-nearest": "the same without synthetic frames",
}
"""As `learn/crossing_recipe.py` has them."""


def _arm_option(arms: Mapping[str, str]) -> Callable[[Any], Any]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        return [CompletionItem(name, help=said) for name, said in arms.items() if name.startswith(incomplete)]

    return click.option(
        "--arm",
        metavar="NAME",
        shell_complete=complete,
        help="Which data and losses: see below.  [default: full]",
    )


def _arms_listed(arms: Mapping[str, str]) -> str:
    """For the end of a help text, line by line (the first character asks click for that)."""
    width = max(map(len, arms))
    return "\n".join(["\b", "Arms:", *(f"  {name:<{width}}  {said}" for name, said in arms.items())])


_DATA = (
    click.option("--synth", type=RECORDING, multiple=True, help="Synthetic recordings, twins among them."),
    click.option("--real", type=RECORDING, help="The captured recording."),
    click.option("--val", type=RECORDING, help="Labelled recording to watch; it chooses nothing."),
    click.option("--labels", help="How many labelled real frames to use (50 or 5%), or a file of frame_ids."),
    click.option("--hold-out", type=int, help="Person (subject) of the real recording to see nothing of."),
    layout_option("Points to predict."),
    click.option("--init", type=RUN, help="Run whose pre-trained networks to start from."),
)
_RUNNING = (
    click.option("--run", "--run-dir", "run_dir", type=RUN, required=True, help="Folder of the run."),
    click.option(
        "--config", "config_file", type=FILE, help="YAML file ('train recommend' writes one); options go over it."
    ),
    click.option("--preset", type=PRESETS, help="How large and how long.  [default: quick]"),
    set_option,
    click.option("--seed", type=int, help="Everything random follows from it.  [default: 0]"),
    click.option("--tensorboard", is_flag=True, default=None, help="Log as event files too: RUN/tensorboard."),
    click.option("--device", help="auto, cpu, cuda, cuda:1, ...  [default: auto]"),
    click.option(
        "--minutes", type=click.FloatRange(min=0), help="Stop at a checkpoint after so long; --resume goes on."
    ),
    click.option("--resume", is_flag=True, help="Continue from the last checkpoint."),
    overwrite_option,
)


@click.group()
def train() -> None:
    """Train a network from recordings, or ask which way.

    In several processes: torchrun --nproc-per-node N -m handloom train murauer ... --run-dir RUN (torchrun takes
    --run for an option of its own).
    """


@train.command("murauer", epilog=_arms_listed(MURAUER_ARMS))
@_arm_option(MURAUER_ARMS)
@with_options(_DATA)
@with_options(_RUNNING)
def train_murauer(**given: Any) -> None:
    """MURAUER: features of captured images are mapped to those of rendered ones (Poier et al. 2019)."""
    _train("murauer", **given)


@train.command("crossing", epilog=_arms_listed(CROSSING_ARMS))
@_arm_option(CROSSING_ARMS)
@with_options(_DATA)
@with_options(_RUNNING)
def train_crossing(**given: Any) -> None:
    """Crossing Nets: one latent space of poses and depth, two networks that meet in it (Wan et al. 2017)."""
    _train("crossing", **given)


def _train(
    method: str,
    *,
    synth: tuple[Path, ...],
    real: Path | None,
    val: Path | None,
    init: Path | None,
    run_dir: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    minutes: float | None,
    resume: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    from .console import progress
    from .learn.ranks import launched
    from .learn.train import config_of
    from .learn.train import train as run_training

    named = {name: value for name, value in given.items() if value is not None}
    if "labels" in named:
        named["labels"] = _labels(named["labels"])
    config = config_of(method, config_file, named, overrides)
    with progress("Training", quiet=not launched().ranks.first) as report:
        result = run_training(
            config,
            synth=list(synth),
            real=real,
            run_dir=run_dir,
            val=val,
            init=init,
            resume=resume,
            overwrite=overwrite,
            minutes=minutes,
            progress=lambda done, total, values: report(done, total, _note(values)),
        )
    if result.rank:
        return
    if not result.finished:
        click.echo(f"{run_dir}: {result.steps} of {result.of_steps} steps, stopped after {result.seconds:.0f} s")
        print_next("the same command with --resume goes on from there")
        return
    click.echo(f"{run_dir}: {result.steps} steps in {result.seconds:.0f} s")
    for name, value in result.metrics.items():
        if name.startswith("val/"):
            click.echo(f"  {name:<14} {value:.2f}")
    if result.metrics.get("gan/collapsed"):
        click.echo(f"  the generator has collapsed: its maps hardly differ from each other; see {run_dir}/samples")
    print_next(f"handloom eval model {run_dir} --on R.zarr", f"handloom export {run_dir} --out model.onnx")


@train.command("recommend")
@click.option("--synth", type=RECORDING, multiple=True, help="Synthetic recordings, twins among them.")
@click.option("--real", type=RECORDING, multiple=True, help="Captures; several of one rig are merged first.")
@click.option("--val", type=RECORDING, help="Labelled recording to watch.")
@click.option("--labels", help="How many labelled real frames to use (50 or 5%), or a file; else all there are.")
@click.option("--method", type=click.Choice(["murauer", "crossing"]), help="This one, whatever there is.")
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, help="It may take so long."
)
@click.option("--timing/--no-timing", default=True, show_default=True, help="Time a few steps here: seconds.")
@click.option("--machine", metavar="cores=16,memory=64,gpu=80", help="Another machine than this, memory in GiB.")
@click.option("--out", type=FILE, help="The file to write (.yaml); without it it is printed.")
@seed_option
@json_option
@overwrite_option
def train_recommend(
    synth: tuple[Path, ...],
    real: tuple[Path, ...],
    labels: str | None,
    timing: bool,
    machine: str | None,
    out: Path | None,
    as_json: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Look at recordings and at this machine, and write a configuration that says why.

    It reads what the recordings hold and times a few steps here; `handloom train ... --config FILE` takes the result.
    """
    from .console import progress
    from .learn import recommend as look
    from .learn.recommend_sets import Given
    from .stores.errors import HandloomError

    if not synth and not real:
        raise click.UsageError("give recordings: --synth, --real, or both")
    if out is not None and out.exists() and not overwrite:
        raise HandloomError("The output exists already", where=str(out), fix="add --overwrite, or another --out")
    asked = Given(synth=synth, real=real, labels=_labels(labels), **given)
    where = look.here(timing=timing) if machine is None else look.elsewhere(machine)
    with progress("Timing steps", quiet=bool(where.untimed)) as report:
        presets = itertools.count()  # three, and the chosen one in another number format
        found = look.recommend(asked, where, tell=lambda note: report(next(presets), 4, note))
    file = out or Path("config.yaml")
    text = found.yaml(file)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    if as_json:
        print_json(found.to_dict(file))
    elif out is None:
        click.echo(text, nl=False)
    else:
        click.echo("\n".join(found.lines(out)))
        for i, command in enumerate([*found.first, found.command(out)]):
            click.echo(f"{'then' if i else 'next'}: {command}")


def _labels(text: str | None) -> Any:
    """As a configuration has them."""
    return int(text) if text is not None and text.isdigit() else text


@click.command()
@click.argument("recording", type=RECORDING)
@click.option("--out", type=FOLDER, required=True, help="Folder for index.html, the page, and frames.txt.")
@click.option("--select", type=click.IntRange(1), help="How many frames to choose.")
@click.option("--frames", type=FILE, help="The frames to label instead: a frame_id a line.")
@click.option("--model", type=FILE, help="Exported model whose poses to begin with.")
@click.option("--run", "run_dir", type=RUN, help="Run whose poses to begin with.")
@click.option("--by", type=click.Choice(["crops", "poses"]), help="What to compare; poses where there is a model.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="train",
    show_default=True,
    help="Whose frames to choose from.",
)
@click.option("--min-score", type=float, default=0.5, show_default=True, help="How surely the hand must be found.")
@layout_option("Of the joints; else that of the labels there are, of the model, or openxr26.")
@seed_option
@overwrite_option
def label(
    recording: Path,
    out: Path,
    select: int | None,
    frames: Path | None,
    model: Path | None,
    run_dir: Path | None,
    by: Any,
    split: str,
    min_score: float,
    layout: str | None,
    seed: int,
    overwrite: bool,
) -> None:
    """Choose the frames worth a label, and write one offline page to label them on."""
    from .console import progress
    from .learn.labelling import prepare
    from .synth.anatomy import SCALE, skeleton

    if (select is None) == (frames is None):
        raise click.UsageError("give either --select, how many frames to choose, or --frames, a file that lists them")
    if model and run_dir:
        raise click.UsageError("give either --model or --run")
    with progress("Preparing the page") as report:
        done = prepare(
            recording,
            out,
            select=select,
            frames=frames,
            rest_mm=skeleton()[0] * SCALE,
            model=model or run_dir,
            by=by,
            split=split,
            min_score=min_score,
            layout=layout,
            seed=seed,
            overwrite=overwrite,
            progress=report,
        )
    page, chosen = done.page, done.selection
    begin = {"labels": "their labels", "model": "the model's pose", "rest": "a hand at rest"}
    said = ", ".join(f"{count} begin with {begin[name]}" for name, count in done.sources.items() if count)
    click.echo(f"{page.path}: {done.frames} frames, {page.views} images, {page.size_bytes / 1e6:.1f} MB; {said}")
    if chosen is not None:
        before = f", beside {chosen.labelled_before} labelled before" if chosen.labelled_before else ""
        click.echo(f"{page.frames_file}: chosen from {done.of_frames} frames{before}")
        click.echo("\n".join(chosen.lines(done.metric)))
    click.echo("open the page in a browser; it works offline and saves joints.csv")
    print_next(f"handloom store label {recording} --joints joints.csv" + (" --merge" * (done.labelled_before > 0)))


def _note(values: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.3g}" for name, value in values.items() if name.endswith(("pose", "mean_mm"))]
    return "  ".join(shown[:2])
