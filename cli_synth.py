"""The commands about hands and synthesis: `handloom synth …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    FILE,
    FOLDER,
    hand_option,
    json_option,
    mapping_option,
    overwrite_option,
    print_facts,
    print_json,
    print_next,
    seed_option,
    set_option,
    side_option,
)


@click.group()
def hand() -> None:
    """The hand that synthesis draws: the built-in one, or one of a file."""


@hand.command("show")
@hand_option
@side_option
@mapping_option
@json_option
def hand_show(hand: str | None, side: str | None, hand_mapping: Path | None, as_json: bool) -> None:
    """Say what a hand is made of."""
    from .synth.formats import facts, hand_named

    found = hand_named(hand, side=side, mapping=hand_mapping)
    known = facts(found)
    if as_json:
        print_json(known)
        return
    print_facts(
        {
            "hand": f"{known['hand']}, {known['side']}",
            "mesh": f"{known['vertices']} vertices, {known['triangles']} triangles, "
            f"{'closed' if known['closed'] else 'open'}, {known['volume_cm3']} cm³",
            "length": f"{known['wrist_to_middle_tip_mm']} mm from the wrist to the middle finger's tip",
            "forearm": "yes" if known["forearm"] else "no, the mesh ends at the wrist",
            **{f"note {i}": note for i, note in enumerate(found.notes, start=1)},
        }
    )
    print_next(f"handloom synth run --out S.zarr{_of(hand, side, hand_mapping)}")


@hand.command("export")
@hand_option
@side_option
@mapping_option
@click.option("--out", type=FILE, required=True, help="The file to write; its ending says of which kind.")
@overwrite_option
def hand_export(hand: str | None, side: str | None, hand_mapping: Path | None, out: Path, overwrite: bool) -> None:
    """Write a hand as a file that reads back as the same hand."""
    from .synth.formats import hand_named, save_hand

    found = hand_named(hand, side=side, mapping=hand_mapping)
    save_hand(found.hand, out, overwrite=overwrite)
    click.echo(f"{out}: {found.hand.side} hand, {len(found.hand.vertices)} vertices")
    print_next(f"handloom hand show --hand {out}", f"handloom synth run --out S.zarr --hand {out}")


def _of(hand: str | None, side: str | None, mapping: Path | None) -> str:
    """The options that name a hand, as they were given."""
    given = {"--hand": hand, "--side": side, "--hand-mapping": mapping}
    return "".join(f" {name} {value}" for name, value in given.items() if value is not None)


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
@hand_option
@side_option
@mapping_option
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
