"""The commands about hands and synthesis: `handloom synth …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import FILE, FOLDER, overwrite_option, print_next, seed_option, set_option


@click.group()
def synth() -> None:
    """Labelled multi-view depth of a hand mesh."""


@synth.command("run")
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@click.option("--frames", type=click.IntRange(1), help="Poses; each is seen by every camera.")
@click.option("--config", type=FILE, help="YAML file; the options below override it.")
@set_option
@click.option("--views", type=click.IntRange(1), help="How many cameras.")
@click.option("--cameras", type=click.Choice(["ring", "line", "dome"]), help="How they stand around the hand.")
@click.option("--rig", type=FILE, help="Your own cameras (rig.toml) instead of --cameras.")
@click.option("--sensor", type=click.Choice(["none", "structured-light"]), help="Depth sensor to imitate.")
@click.option("--renderer", type=click.Choice(["raster", "pyrender", "open3d"]), help="What draws the mesh.")
@click.option("--seed", type=int, help="Everything random follows from it and the frame's number.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@overwrite_option
def synth_run(
    out: Path,
    config: Path | None,
    overrides: tuple[str, ...],
    jobs: int,
    resume: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Make a synthetic recording: crops, bone masks, joints, visibility, and all that made them."""
    from .console import progress
    from .stores.config import load_config
    from .synth.config import SynthConfig
    from .synth.generate import synthesise

    named = [f"{name}={value}" for name, value in given.items() if value is not None]
    settings = load_config(SynthConfig, config, [*named, *overrides])
    with progress("Synthesising") as report:
        recording = synthesise(settings, out, jobs=jobs, overwrite=overwrite, resume=resume, progress=report)
    click.echo(f"{out}: {recording.n_frames} poses seen by {recording.n_views} cameras")
    print_next(f"handloom train murauer --arm synthetic-only --preset quick --synth {out} --run runs/synthetic")


@synth.command("twin")
@click.option("--real", type=FOLDER, required=True, help="Recording with labelled frames.")
@click.option("--out", type=FOLDER, required=True, help="The recording of twins to make.")
@click.option("--max-fit-error-mm", type=float, default=8.0, show_default=True, help="Leave out worse fits.")
@seed_option
@overwrite_option
def synth_twin(real: Path, out: Path, max_fit_error_mm: float, seed: int, overwrite: bool) -> None:
    """Render the synthetic twin of every labelled real frame."""
    from .console import progress
    from .synth.twin import make_twins

    with progress("Fitting and rendering") as report:
        made = make_twins(real, out, seed=seed, max_fit_error_mm=max_fit_error_mm, overwrite=overwrite, progress=report)
    click.echo(f"{out}: twins of {made.n_frames} labelled frames")
    print_next(f"handloom train murauer --preset quick --synth S.zarr --synth {out} --real {real} --run runs/full")
