"""The commands about captures: `handloom capture …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .options import (
    FILE,
    FOLDER,
    RECORDING,
    json_option,
    one_thread,
    overwrite_option,
    print_json,
    print_next,
    seed_option,
)


def _size(_: click.Context, __: click.Parameter, text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise click.BadParameter(f"'{text}' is not of the form 640x480")
    return int(width), int(height)


@click.group()
def capture() -> None:
    """Unlabelled multi-view depth from cameras, files and folders."""


@capture.command("record")
@click.argument("source", nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@click.option("--rig", type=FILE, help="Where the cameras stand (rig.toml); needed for several.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="How long, for cameras; else until ctrl-C.")
@click.option("--frames", type=click.IntRange(1), help="Sets at most; 300 for 'virtual' without --live.")
@click.option("--fps", type=click.IntRange(1), default=30, show_default=True, help="Images a second, for cameras.")
@click.option("--live", is_flag=True, help="For 'virtual': at the pace of cameras, through their SDK.")
@click.option("--views", type=click.IntRange(1), default=3, show_default=True, help="Cameras, for 'virtual'.")
@click.option(
    "--size", default="640x480", show_default=True, callback=_size, help="Of the images, for 'virtual' with --live."
)
@click.option("--target", metavar="sphere:30mm", help="For 'virtual': a ball of that radius, instead of a hand.")
@click.option("--truth", is_flag=True, help="For 'virtual': keep its joints as labels, to measure on.")
@click.option("--resume", is_flag=True, help="Append to a recording of the same rig.")
@click.option("--locate", "find", is_flag=True, help="Find the hand right afterwards.")
@seed_option
@overwrite_option
def capture_record(
    source: tuple[str, ...],
    out: Path,
    seconds: float | None,
    frames: int | None,
    live: bool,
    target: str | None,
    truth: bool,
    resume: bool,
    find: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Record SOURCE: cameras ('realsense'), a plain folder, RealSense files (one a camera), or 'virtual'."""
    from .capture.open import open_source
    from .capture.record import record
    from .console import progress

    if resume and overwrite:
        raise click.UsageError("give either --resume, which appends to what is there, or --overwrite")
    if live and source != ("virtual",):
        raise click.UsageError("--live goes with 'virtual'; cameras are live by themselves")
    if target and (live or find or source != ("virtual",)):
        raise click.UsageError("--target goes with 'virtual', without --live; there is no hand to --locate")
    if truth and (live or target or resume or source != ("virtual",)):
        raise click.UsageError("--truth goes with a new recording of 'virtual', without --live and --target")
    if live or source == ("realsense",):
        _record_live(source[0], out, seconds, frames, resume=resume, overwrite=overwrite, **given)
    else:
        if seconds is not None:
            raise click.UsageError("--seconds goes with cameras; of files and of 'virtual' --frames limits the sets")
        rig, views, seed = given["rig"], given["views"], given["seed"]
        ball_mm = _ball_mm(target)
        with (
            open_source(source, rig=rig, frames=frames or 300, views=views, seed=seed, ball_mm=ball_mm) as images,
            progress("Recording") as report,
        ):
            recording = record(
                images, out, overwrite=overwrite, resume=resume, keep_truth=truth, max_sets=frames, progress=report
            )
        click.echo(f"{out}: {recording.n_frames} sets of {recording.n_views} cameras")
    if find:
        _locate(out, overwrite=resume)
    elif target:
        print_next(f"handloom capture calibrate {out} --target {target} --out rig.toml --report rig.html")
    else:
        crops = (out / "crops").exists()
        print_next(f"handloom capture locate {out}{' --overwrite' if crops else ''}")


def _ball_mm(target: str | None) -> float | None:
    """Radius of the ball that `--target` names."""
    if target is None:
        return None
    from .capture.targets import SphereTarget, parse_target

    shown = parse_target(target)
    if not isinstance(shown, SphereTarget):
        raise click.UsageError("the virtual rig shows a ball only, --target sphere:30mm")
    return shown.radius_mm


def _record_live(
    name: Any,
    out: Path,
    seconds: float | None,
    frames: int | None,
    *,
    resume: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    from functools import partial

    from .capture.apart import SourceApart
    from .capture.open import open_live
    from .capture.record import record
    from .recording_panel import recording_panel, summary
    from .stores.recording import prepare_output

    if not (resume or overwrite):
        prepare_output(out, overwrite=False)  # before the cameras are opened
    with SourceApart(partial(open_live, name, **given)) as images, recording_panel() as watch:
        recording = record(
            images, out, overwrite=overwrite, resume=resume, max_sets=frames, seconds=seconds, watch=watch
        )  # fmt: skip
    click.echo(f"{out}: {recording.n_frames} sets of {recording.n_views} cameras")
    click.echo("\n".join(summary(recording.attributes["segments"][-1])))


@capture.command("locate")
@click.argument("recording", type=RECORDING)
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes that look for it.")
@click.option(
    "--min-score",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="What scores less is marked as not found; training leaves it out.",
)
@click.option("--smooth/--no-smooth", default=True, show_default=True, help="Follow the hand over time.")
@click.option("--calibrate-on", type=RECORDING, metavar="S.zarr", help="Synthetic recording of the same rig to fit to.")
@click.option("--report", type=FILE, help="A page (.html) to write: score over time, sets with what was found.")
@json_option
@overwrite_option
def capture_locate(recording: Path, report: Path | None, as_json: bool, overwrite: bool, **given: Any) -> None:
    """Find the hand in every image, without labels, and write the crops.

    A centre's score is the probability that it is within 30 mm of the palm's joint.
    """
    if report:
        from .stores.page import refuse_taken

        refuse_taken(report, overwrite=overwrite)
    _locate(recording, report, as_json=as_json, overwrite=overwrite, **given)


def _locate(
    recording: Path, report: Path | None = None, *, as_json: bool = False, overwrite: bool, **given: Any
) -> None:
    one_thread()
    from .capture.locating import locate
    from .console import progress

    with progress("Locating") as tell:
        found = locate(recording, overwrite=overwrite, progress=tell, **given)
    if report:
        from .capture.locating_report import write_report

        write_report(recording, report, min_score=given.get("min_score", 0.0), overwrite=overwrite)
    if as_json:
        print_json(asdict(found))
        return
    click.echo(f"{recording}: the hand was found in {found.located} of {found.images} images")
    if found.marked:
        click.echo(f"{found.marked} more score below {given['min_score']:g} and are marked as not found")
    if found.unsure:
        click.echo(f"{found.unsure} of those found score below 0.5: as likely wrong as right, or worse")
    if report:
        click.echo(f"{report}: score over time, and sets with what was found")
    print_next(f"handloom train murauer --preset quick --synth S.zarr --real {recording} --labels 0 --run runs/full")


@capture.command("import")
@click.argument("folder", type=FOLDER)
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@click.option(
    "--dataset",
    type=click.Choice(["folder", "nyu", "icvl", "msra", "bighand"]),
    default="folder",
    show_default=True,
    help="What FOLDER is: a plain folder, or a published data set as it was unpacked.",
)
@click.option("--split", type=click.Choice(["train", "test"]), help="Only this part of a data set; NYU needs it.")
@click.option("--test-subject", type=click.IntRange(0, 8), help="Of MSRA15, whom to keep for testing.")
@click.option("--frames", type=click.IntRange(1), help="Only the first N frames of a data set.")
@click.option(
    "--center",
    type=click.Choice(["none", "labels"]),
    default="none",
    show_default=True,
    help="Cut a data set's crops around its labels' palm; else 'capture locate' does it.",
)
@click.option("--hand", type=click.Choice(["right", "left"]), help="Which hand, where a data set does not say so.")
@overwrite_option
def capture_import(folder: Path, out: Path, dataset: Any, overwrite: bool, **given: Any) -> None:
    """Read a plain folder (rig.toml, frames.csv, PNGs, perhaps joints.csv) or a data set into a recording."""
    from .capture.datasets import import_dataset
    from .capture.importing import import_folder
    from .console import progress

    if dataset == "folder":
        for name, value in given.items():
            if value not in (None, "none"):
                raise click.UsageError(f"--{name.replace('_', '-')} goes with --dataset nyu, icvl, msra or bighand")
        with progress("Importing") as report:
            recording = import_folder(folder, out, overwrite=overwrite, progress=report)
    else:
        with progress("Importing") as report:
            recording = import_dataset(folder, out, dataset=dataset, overwrite=overwrite, progress=report, **given)
    click.echo(f"{out}: {recording.n_frames} frames of {recording.n_views} cameras")
    if recording.crops is not None:
        print_next(f"handloom synth twin --real {out} --out twins.zarr")
    else:
        print_next(f"handloom capture locate {out}")


@capture.command("calibrate")
@click.argument("source", type=FOLDER)
@click.option(
    "--target",
    required=True,
    metavar="TARGET",
    help="What was moved through the volume, see above.",
)
@click.option("--out", type=FILE, required=True, help="The rig.toml to write.")
@click.option("--report", type=FILE, help="A page (.html) to write: cameras, shared views, residuals.")
@click.option(
    "--origin",
    type=click.Choice(["volume", "first-camera"]),
    default="volume",
    show_default=True,
    help="The rig's origin; its axes are the first camera's.",
)
@click.option("--bias/--no-bias", default=True, help="Ball: estimate each camera's depth bias, too.  [default: bias]")
@click.option(
    "--intrinsics",
    type=click.Choice(["keep", "refine", "distortion"]),
    default="keep",
    show_default=True,
    help="Board: keep K as it is, refine it, or refine it with the lens distortion.",
)
@click.option("--images", type=click.Choice(["ir", "color"]), help="Board: which, where SOURCE holds both.")
@click.option(
    "--refine",
    type=click.Choice(["none", "icp"]),
    default="none",
    show_default=True,
    help="icp: align what stands still, too, and keep the better rig; needs the extra open3d, and depth.",
)
@click.option("--initial", type=FILE, help="Intrinsics: a rig.toml or an anipose TOML, by camera name.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["handloom", "anipose"]),
    default="handloom",
    show_default=True,
    help="Of --out.",
)
@json_option
@overwrite_option
def capture_calibrate(
    source: Path,
    target: str,
    out: Path,
    report: Path | None,
    origin: Any,
    bias: bool,
    intrinsics: Any,
    images: Any,
    refine: Any,
    initial: Path | None,
    form: Any,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Find where the cameras stand, from a target shown to them.

    \b
    --target sphere:30mm      a ball of that radius, seen in depth
    --target charuco:7x5,square=30mm,marker=22mm,dict=4X4_50
                              a board of 7 x 5 squares, in infrared or colour

    SOURCE is a recording or a plain folder for a ball; for a board a folder of pictures: ir/CAMERA/NNNNNN.png,
    color/CAMERA/NNNNNN.jpg or CAMERA/NNNNNN.png, with a rig.toml where intrinsics are known.
    """  # noqa: D301 - click's mark for lines that stay
    from .capture.calibrate import calibrate, lines, parse_target, refuse_existing, write_calibration
    from .console import progress

    shown = parse_target(target)
    for path in (out, *([report] if report else [])):
        refuse_existing(path, overwrite=overwrite)
    with progress("Looking for the target") as tell:
        fit = calibrate(
            source,
            shown,
            origin=origin,
            bias=bias,
            initial=initial,
            intrinsics=intrinsics,
            images=images,
            refine=refine,
            progress=tell,
        )
    write_calibration(fit, out, form)
    if report:
        from .capture.calibrate_report import write_report

        write_report(fit, report, name=source.name, target=str(shown))
    if as_json:
        print_json(fit.to_dict())
        return
    click.echo(f"{out}: {len(fit.rig)} cameras from {int((fit.seen.sum(1) > 1).sum())} of {len(fit.seen)} frames")
    click.echo("\n".join([*lines(fit), *fit.notes]))
    if report:
        click.echo(f"{report}: cameras, shared views, residuals")
    if form == "handloom":
        print_next(f"handloom capture record SOURCE --rig {out} --out R.zarr")


@capture.command("sync")
@click.argument("recording", type=RECORDING)
@json_option
@click.pass_context
def capture_sync(ctx: click.Context, recording: Path, as_json: bool) -> None:
    """Judge the cameras' clocks by a recording's stamps; ends with 1 where something is wrong."""
    from .capture.sync_findings import sync_of

    found = sync_of(recording)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo("\n".join(found.lines()))
    ctx.exit(0 if found.clean else 1)


@capture.command("list")
@json_option
def capture_list(as_json: bool) -> None:
    """List the cameras that are plugged in, with serial number, firmware, USB and depth modes."""
    from .capture.listing import list_devices

    devices = list_devices()
    if as_json:
        print_json({"devices": [device.to_dict() for device in devices]})
        return
    for device in devices:
        click.echo("\n".join(device.lines()))
    if devices:
        print_next("handloom capture probe realsense", "handloom capture record realsense --out R.zarr")
    else:
        click.echo("no RealSense camera is plugged in; 'virtual' and files are sources without one")
        print_next("handloom capture probe virtual")


@capture.command("probe")
@click.argument("source", nargs=-1, required=True)
@click.option("--rig", type=FILE, help="Where the cameras stand (rig.toml); needed for several files.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=2.0, show_default=True, help="How long to look.")
@seed_option
@json_option
def capture_probe(source: tuple[str, ...], rig: Path | None, seconds: float, seed: int, as_json: bool) -> None:
    """Look at SOURCE, as 'capture record' takes it, for a moment: intrinsics, rates, clocks, valid depth."""
    from .capture.open import open_live, open_source
    from .capture.probing import probe, refuse_recording

    refuse_recording(source)
    if source == ("realsense",):
        images = open_live("realsense", rig=rig, fps=30, views=1, size=(640, 480), seed=seed)
    else:
        images = open_source(source, rig=rig, frames=round(30 * seconds), seed=seed)
    with images:
        found = probe(images, seconds=seconds)
    if as_json:
        print_json(found.to_dict())
        return
    click.echo("\n".join(found.lines()))
    said = " ".join(source) + (f" --rig {rig}" if rig else "")
    print_next(f"handloom capture record {said} --out R.zarr")
