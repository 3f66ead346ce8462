"""The command that shows a recording: `handloom view …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from .options import FILE, overwrite_option, print_next


@click.command()
@click.argument("recording", type=FILE)
@click.option("--pred", type=FILE, help="Poses to show beside the labels: a poses.csv of 'handloom predict'.")
@click.option("--frames", metavar="A:B", help="Rows A to B - 1 only.")
@click.option("--every", type=click.IntRange(1), metavar="N", help="Every N-th of them.")
@click.option("--save", type=FILE, metavar="F.rrd", help="Write a file for Rerun's viewer.")
@click.option("--html", type=FILE, metavar="F.html", help="Write one page for any browser, 10 MB at most.")
@click.option("--serve", "serving", is_flag=True, help="Show it in a browser: on this machine, or through ssh -L.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of --serve.  [default: 9090]")
@click.option("--crops/--full", "crops", default=None, help="Show the hand's crops, or whole images where kept.")
@overwrite_option
def view(
    recording: Path,
    pred: Path | None,
    frames: str | None,
    every: int | None,
    save: Path | None,
    html: Path | None,
    serving: bool,
    port: int | None,
    crops: bool | None,
    overwrite: bool,
) -> None:
    """Look at RECORDING: every camera's depth, points in space, skeletons true and predicted, over time.

    Opens Rerun's viewer where there is a display (extra 'view'). It listens on this machine alone and sends nothing
    anywhere. RECORDING may be a .rrd that --save wrote.
    """
    if sum((save is not None, html is not None, serving)) > 1:
        raise click.UsageError("give one of --save, --html and --serve")
    if port is not None and not serving:
        raise click.UsageError("--port is for --serve")
    if overwrite and save is None and html is None:
        raise click.UsageError("--overwrite is for --save and --html")
    if recording.suffix == ".rrd":
        if (pred, frames, every, save, html, crops) != (None,) * 6:
            raise click.UsageError("a .rrd is shown as it is; these options are for a recording")
        _show(recording, serving, port)
        return
    from .console import progress
    from .view.shown import showing

    if html is None:
        from .view.rerun_file import load_rerun

        load_rerun()
    if html is None and save is None and not serving:
        _need_display()
    shown = showing(
        recording, poses=pred, frames=frames, every=every or 1, whole=None if crops is None else not crops
    )  # fmt: skip
    if html is not None:
        from .view.page import write_view_page

        with progress("Drawing") as report:
            page = write_view_page(shown, html, every=every, overwrite=overwrite, progress=report)
        left = f" of {page.asked}" if page.frames < page.asked else ""
        click.echo(f"{html}: {page.frames}{left} frames, {page.size_bytes / 1e6:.1f} MB, one file for any browser")
        print_next(f"scp THIS_MACHINE:{html.resolve()} .")
        return
    from .view.rerun_file import write_rerun

    if save is not None:
        with progress("Writing") as report:
            made = write_rerun(shown, save, overwrite=overwrite, progress=report)
        lost = f", {made.dropped} dropped" if made.dropped else ""
        click.echo(f"{save}: {made.frames} frames, {made.images} images{lost}, {made.size_bytes / 1e6:.1f} MB")
        print_next(f"handloom view {save}", f"handloom view {save} --serve")
        return
    with tempfile.TemporaryDirectory(prefix="handloom-view-") as folder:
        file = Path(folder) / f"{recording.resolve().stem}.rrd"
        with progress("Preparing") as report:
            write_rerun(shown, file, progress=report)
        _show(file, serving, port)


def _show(file: Path, serving: bool, port: int | None) -> None:
    from .stores.errors import HandloomError
    from .view.serve import PORT, open_viewer, serve

    if not file.is_file():
        raise HandloomError("There is no Rerun file", where=str(file))
    if serving:
        serve(file, port=port or PORT, say=click.echo)
    else:
        _need_display()
        open_viewer(file)


def _need_display() -> None:
    from .stores.errors import BAD_ENVIRONMENT, HandloomError
    from .view.serve import display

    if not display():
        raise HandloomError(
            "There is no display for the viewer's window",
            why="neither DISPLAY nor WAYLAND_DISPLAY is set",
            fix="--html F.html makes a page to copy, --serve shows it in a browser through ssh -L",
            exit_code=BAD_ENVIRONMENT,
        )
