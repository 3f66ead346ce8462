"""The commands of Crossing Nets' shared space: pictures, poses to depth, which crops are no hand."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, FOLDER, RECORDING, RUN, json_option, overwrite_option, print_json, print_next, seed_option


@click.group()
def latent() -> None:
    """Look into, and use, what Crossing Nets share: poses and depth are two views of one latent."""


@latent.command("pictures")
@click.argument("run", type=RUN)
@click.option("--on", "recording", type=RECORDING, required=True, help="Labelled recording whose frames to start from.")
@click.option("--out", type=FOLDER, required=True, help="Folder for the pictures.")
@click.option("--frames", metavar="A,B", help="Two frame_ids to go between; else the two that differ most.")
@click.option(
    "--split", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True,
    help="Whose frames to take.",
)  # fmt: skip
@seed_option
@overwrite_option
def latent_pictures(
    run: Path, recording: Path, out: Path, frames: str | None, split: str, seed: int, overwrite: bool
) -> None:
    """Draw a random walk (also as a moving picture), the way between two frames, and truth beside estimate.

    A run whose training frames are the recording's shows what it knows; its test frames show what it can do.
    """
    from .learn.crossing_pictures import draw
    from .learn.model import load_model
    from .stores.recording import open_recording

    ends = _two(frames) if frames else None
    made = draw(load_model(run), open_recording(recording), out, ends=ends, split=split, seed=seed, overwrite=overwrite)
    for path, what in made.items():
        click.echo(f"{path}: {what}")
    print_next(f"handloom latent hands {run} --on {recording}")


@latent.command("depth")
@click.argument("run", type=RUN)
@click.option("--on", "recording", type=RECORDING, required=True, help="Recording whose rig, and labels, to take.")
@click.option("--poses", type=FILE, help="A poses.csv instead of the labels.")
@click.option("--frames", "count", type=click.IntRange(1), help="How many, evenly spread; all if left out.")
@click.option("--out", type=FOLDER, required=True, help="The plain folder to write.")
def latent_depth(run: Path, recording: Path, poses: Path | None, count: int | None, out: Path) -> None:
    """Let the generator make the depth images that a rig's cameras would give of poses.

    What it writes is a plain folder: rig.toml, frames.csv, 16-bit PNGs, joints.csv. OUT must not exist or be empty.
    """
    from .console import progress
    from .learn.crossing_render import poses_of, render, some_of
    from .learn.model import load_model
    from .stores.recording import open_recording

    model, on = load_model(run), open_recording(recording)
    chosen = some_of(poses_of(on, model.layout, poses), count)
    with progress("Generating") as report:
        done = render(model, on.rig, chosen, out, hand=on.hand, progress=report)
    left = f"; {done.left_out} could not be drawn" if done.left_out else ""
    click.echo(f"{out}: {done.images} depth images of {done.frames} frames{left}")
    print_next(f"handloom capture import {out} --out GENERATED.zarr")


@latent.command("hands")
@click.argument("run", type=RUN)
@click.option("--on", "recording", type=RECORDING, required=True, help="Recording to look through; needs no labels.")
@json_option
@click.pass_context
def latent_hands(ctx: click.Context, run: Path, recording: Path, as_json: bool) -> None:
    """List the images whose crop shows no hand that the model knows; ends with 1 if there are any.

    Each crop goes depth -> pose -> depth. The limit is what one training image in fifty exceeds.
    """
    from .console import progress
    from .learn.crossing_check import check_hands
    from .learn.model import load_model
    from .stores.recording import open_recording

    with progress("Looking") as report:
        found = check_hands(load_model(run), open_recording(recording), progress=report)
    if as_json:
        print_json({"run": str(run), "recording": str(recording), **found.to_dict()})
    else:
        click.echo("\n".join(found.lines()))
        if found.flagged.any():
            print_next(f"handloom view {recording}")
    ctx.exit(int(found.flagged.any()))


def _two(text: str) -> tuple[int, int]:
    try:
        a, b = (int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("give two frame_ids: A,B", param_hint="--frames") from error
    return a, b
