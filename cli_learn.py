"""The commands that learn: train, label; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .options import FILE, FOLDER, overwrite_option, print_next, seed_option, set_option


@click.command()
@click.argument("method", type=click.Choice(["murauer", "crossing"]))
@click.option("--arm", default="full", show_default=True, help="Which data and losses; see the README.")
@click.option("--synth", type=FOLDER, multiple=True, help="Synthetic recordings, twins among them.")
@click.option("--real", type=FOLDER, help="The captured recording.")
@click.option("--val", type=FOLDER, help="Labelled recording to watch; it chooses nothing.")
@click.option("--labels", help="How many labelled real frames to use (50 or 5%), or a file of frame_ids.")
@click.option("--hold-out", type=int, help="Person (subject) of the real recording to see nothing of.")
@click.option("--layout", help="Points to predict.")
@click.option("--init", type=FOLDER, help="Run whose pre-trained networks to start from.")
@click.option("--run", "--run-dir", "run_dir", type=FOLDER, required=True, help="Folder of the run.")
@click.option("--preset", type=click.Choice(["quick", "fast", "paper"]), default="quick", show_default=True)
@set_option
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0), help="Stop at a checkpoint after so long; --resume goes on.")
@click.option("--resume", is_flag=True, help="Continue from the last checkpoint.")
@overwrite_option
def train(
    method: str,
    arm: str,
    synth: tuple[Path, ...],
    real: Path | None,
    val: Path | None,
    init: Path | None,
    run_dir: Path,
    preset: str,
    overrides: tuple[str, ...],
    minutes: float | None,
    resume: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Train a network from recordings: MURAUER's feature mapping or Crossing Nets.

    In several processes: torchrun --nproc-per-node N -m handloom train ... --run-dir RUN (torchrun takes --run for
    an option of its own).
    """
    from .console import progress
    from .learn.ranks import launched
    from .learn.train import preset as named_preset
    from .learn.train import train as run_training
    from .stores.config import with_overrides

    named = {name: value for name, value in given.items() if value is not None}
    if str(named.get("labels", "")).isdigit():
        named["labels"] = int(named["labels"])
    config = named_preset(method, preset, arm, with_overrides(named, overrides))
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


@click.command()
@click.argument("recording", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="Folder for index.html, the page, and frames.txt.")
@click.option("--select", type=click.IntRange(1), help="How many frames to choose.")
@click.option("--frames", type=FILE, help="The frames to label instead: a frame_id a line.")
@click.option("--model", type=FILE, help="Exported model whose poses to begin with.")
@click.option("--run", "run_dir", type=FOLDER, help="Run whose poses to begin with.")
@click.option("--by", type=click.Choice(["crops", "poses"]), help="What to compare; poses where there is a model.")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="train",
    show_default=True,
    help="Whose frames to choose from.",
)
@click.option("--min-score", type=float, default=0.5, show_default=True, help="How surely the hand must be found.")
@click.option("--layout", help="Of the joints; else that of the labels there are, of the model, or openxr26.")
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
