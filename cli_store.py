"""The commands about recordings: `handloom store …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FOLDER, json_option, print_facts, print_json


@click.group()
def store() -> None:
    """Look at recordings and check them."""


@store.command("info")
@click.argument("recording", type=FOLDER)
@json_option
def store_info(recording: Path, as_json: bool) -> None:
    """Say what a recording holds."""
    from .stores.recording import describe, open_recording

    facts = describe(open_recording(recording))
    if as_json:
        print_json(facts)
        return
    cameras = ", ".join(f"{c['name']} {c['size']}" for c in facts["cameras"])
    splits = ", ".join(f"{name} {count}" for name, count in facts["splits"].items())
    dropped = facts["dropped_images"]
    print_facts(
        {
            "recording": facts["path"],
            "kind": f"{facts['kind']}, {facts['hand']} hand",
            "frames": f"{facts['frames']} ({splits}) in {facts['sequences']} sequences",
            "cameras": cameras,
            "images": f"{facts['images']}" + (f", {dropped} dropped" if dropped else ""),
            "hand found in": f"{facts['with_crops']} frames",
            "labelled": f"{facts['labelled']} frames" + (f" ({facts['layout']})" if facts["layout"] else ""),
            "on disk": f"{facts['bytes'] / 1e6:.1f} MB",
        }
    )


@store.command("verify")
@click.argument("recording", type=FOLDER)
@click.option("--deep", is_flag=True, help="Read every byte; else descriptions, small arrays and sampled images.")
@click.option("--real", type=FOLDER, help="The recording whose twins these are.")
@json_option
@click.pass_context
def store_verify(ctx: click.Context, recording: Path, deep: bool, real: Path | None, as_json: bool) -> None:
    """Look for damage and for what makes no sense; ends with 1 where something was found."""
    from .console import progress
    from .stores.verify import verify

    with progress("Verifying") as report:
        found = verify(recording, deep=deep, real=real, progress=report)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo("\n".join(found.lines()))
    ctx.exit(0 if found.clean else 1)
