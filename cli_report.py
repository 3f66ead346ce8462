"""The command that reports on runs: `handloom report …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import FILE, RECORDING, RUN, overwrite_option, print_next, seed_option


@click.command()
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN...")
@click.option("--on", "recording", type=RECORDING, required=True, help="Recording to measure on.")
@click.option("--baseline", type=RUN, metavar="RUN", help="Run to stand beside; else the one RUN started from.")
@click.option("--twins", type=RECORDING, multiple=True, help="Twins of captured frames, beside those RUN names.")
@click.option("--center", type=click.Choice(["truth", "located"]), default="located", show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True)
@click.option("--out", type=FILE, required=True, metavar="F.html", help="The page to write.")
@seed_option
@overwrite_option
def report(
    runs: tuple[Path, ...],
    recording: Path,
    baseline: Path | None,
    twins: tuple[Path, ...],
    center: Any,
    split: str,
    out: Path,
    seed: int,
    overwrite: bool,
) -> None:
    """Write one page on RUN: errors, hard and worst frames, latent space, predicted views, training.

    Several runs are compared on the same images: errors and their differences, error over labels, latent distances.
    The page needs no network and no other file; its numbers lie beside it as .metrics.jsonl.
    """
    from . import __version__
    from .console import progress
    from .learn.report_data import data_file
    from .learn.run_report import write_report
    from .stores.recording import open_recording

    with progress("Reporting") as said:
        done = write_report(
            runs,
            open_recording(recording),
            out,
            seed=seed,
            baseline=baseline,
            twins=twins,
            center=center,
            split=split,
            overwrite=overwrite,
            made_by=f"handloom {__version__} report --on {recording} --split {split} --center {center} --seed {seed}",
            progress=said,
        )
    for name, evaluation in done.evaluations.items():
        click.echo(f"{name:<28} {evaluation.metrics.text()}")
    for title in done.left_out:
        click.echo(f"left out: {title} (the page says why)")
    click.echo(f"{out}: {done.size_bytes / 1e6:.1f} MB, open it in any browser")
    click.echo(f"{data_file(out)}: its numbers and the training log, a JSON object a line")
    if len(runs) == 1:
        print_next(f"handloom export {runs[0]} --out model.onnx")
    else:
        print_next(f"handloom report RUN --on {recording} --out run.html")
