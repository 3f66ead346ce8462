"""The commands of a finished model: export, predict; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from .options import FILE, FOLDER, RECORDING, RUN, overwrite_option, print_next


@click.command()
@click.argument("run", type=RUN)
@click.option("--out", type=FILE, required=True, help="The ONNX file to write.")
@click.option("--on", type=RECORDING, help="Validation recording: makes the confidence a probability.")
@click.option("--openvino", is_flag=True, help="Allow bfloat16 (extra 'openvino'), if poses on --on move <= 0.5 mm.")
@overwrite_option
def export(run: Path, out: Path, on: Path | None, openvino: bool, overwrite: bool) -> None:
    """Write one file with weights, preprocessing, joint names, units and provenance."""
    from .learn.export import export as write_model

    if openvino and on is None:
        raise click.UsageError("--openvino needs --on, a validation recording to measure the poses on")
    made = write_model(run, out, overwrite=overwrite, on=on, openvino=openvino)
    click.echo(f"{out}: {made.size_bytes / 1e6:.1f} MB, joints within {made.parity_mm:.4f} mm of the run's")
    if made.confidence is not None and made.confidence.rank_correlation is not None:
        one, fused = made.confidence.rank_correlation
        frames = f"fitted on {made.confidence.frames} frames"
        click.echo(f"  confidence {frames}; rank correlation of doubt and error {one:.2f}, fused poses {fused:.2f}")
    if made.moved is not None:
        click.echo(f"  in bfloat16 poses move by {made.moved.mean_mm:.2f} mm, at most {made.moved.largest_mm:.2f}")
    print_next(f"handloom predict {out} INPUT --out poses.csv")


@click.command()
@click.argument("model", type=FILE)
@click.argument("source", nargs=-1, type=FILE, metavar="INPUT...")
@click.option("--out", type=FILE, help="File of poses: .csv, .jsonl or .npz. Live poses go to the output without it.")
@click.option("--overlay", type=FOLDER, help="Folder for pictures of the poses over the depth.")
@click.option("--camera", metavar="FX,FY,CX,CY", help="Intrinsics, for PNGs.")
@click.option("--depth-unit-mm", type=float, default=1.0, show_default=True, help="Unit of a PNG's depth.")
@click.option("--center", metavar="X,Y,Z", help="Where the hand is in a PNG (mm), instead of looking for it.")
@click.option("--hand", type=click.Choice(["right", "left"]), help="Which hand; else what INPUT says.")
@click.option("--joints", metavar="LAYOUT", help="Order of the joints: mediapipe21, mano21, ...; else the model's.")
@click.option("--fused", is_flag=True, help="Also write the poses of all cameras together (camera 'rig').")
@click.option("--track", is_flag=True, help="Follow the hand: the last pose says where to look.")
@click.option("--smooth", is_flag=True, help="Smooth the joints over time (One-Euro filter).")
@click.option(
    "--runtime", type=click.Choice(["onnxruntime", "openvino"]), default="onnxruntime", help="What runs the network."
)
@click.option("--live", type=click.Choice(["virtual", "realsense"]), help="Cameras instead of INPUT, until ctrl-C.")
@click.option("--rig", type=FILE, help="Where the cameras stand (rig.toml), for cameras and RealSense files.")
@click.option("--views", type=click.IntRange(1), default=3, show_default=True, help="Cameras of '--live virtual'.")
@click.option("--fps", type=click.IntRange(1), default=30, show_default=True, help="Images a second of --live.")
@click.option("--frames", type=click.IntRange(1), help="Sets at most of --live.")
@overwrite_option
def predict(
    model: Path,
    source: tuple[Path, ...],
    out: Path | None,
    overlay: Path | None,
    camera: str | None,
    depth_unit_mm: float,
    center: str | None,
    live: str | None,
    rig: Path | None,
    views: int,
    fps: int,
    frames: int | None,
    runtime: str,
    overwrite: bool,
    **given: Any,
) -> None:
    """Find the hand in INPUT and write its joints.

    INPUT is a recording, a plain folder, 16-bit PNGs of one camera (or a pattern in quotes, 'd/*.png'), or RealSense
    files, one a camera. Instead of it, --live tracks the hand before cameras and prints a JSON object a pose.
    """
    from .console import progress
    from .learn.poses import predict_to
    from .learn.predict import load

    if bool(source) == bool(live):
        raise click.UsageError("give either INPUT or --live")
    if live:
        if overlay or camera or center:
            raise click.UsageError("--overlay, --camera and --center go with INPUT, not with --live")
        net = load(model, runtime=runtime)
        _predict_live(net, live, out, rig=rig, views=views, fps=fps, frames=frames, overwrite=overwrite, **given)
        return
    if out is None:
        raise click.UsageError("--out says where to write the poses")
    with (
        progress("Predicting") as report,
        _opened(
            _matching(source), rig, camera, depth_unit_mm, _three(center) if center else None, locate=not given["track"]
        ) as images,
    ):
        done = predict_to(
            load(model, runtime=runtime), images, out, overlay=overlay, overwrite=overwrite, progress=report, **given
        )
    missed = f", no hand in {done.missed}" if done.missed else ""
    click.echo(f"{out}: poses of {done.poses} image{'s' * (done.poses != 1)}{missed}")
    if done.fused:
        click.echo(f"  {done.fused} fused; the cameras disagree by {done.disagreement_mm:.1f} mm (median)")
    if done.tracking is not None:
        t = done.tracking
        click.echo(f"  {t.tracked} of {t.instants} frames tracked, found anew in {t.found}, lost {t.lost} times")
    if overlay:
        click.echo(f"{overlay}: {done.pictures} picture{'s' * (done.pictures != 1)}")


@contextmanager
def _opened(
    paths: tuple[Path, ...],
    rig: Path | None,
    camera: str | None,
    depth_unit_mm: float,
    center_mm: tuple[float, float, float] | None,
    *,
    locate: bool,
) -> Iterator[Any]:
    """The input of these paths; RealSense files are read through the SDK."""
    if all(path.suffix.lower() != ".png" and path.is_file() for path in paths):
        from .capture.open import open_source
        from .predict_sources import file_input

        with open_source([str(path) for path in paths], rig=rig) as source:
            yield file_input(source, locate=locate)
        return
    from .learn.inputs import open_input

    if rig is not None:
        raise click.UsageError("--rig goes with RealSense files and --live; recordings and folders have their own")
    many = paths if len(paths) > 1 else paths[0]
    yield open_input(many, camera=camera, depth_unit_mm=depth_unit_mm, center_mm=center_mm, locate=locate)


def _matching(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Paths with patterns replaced by what matches them, in order of their names."""
    out: list[Path] = []
    for path in paths:
        pattern = not path.exists() and any(mark in path.name for mark in "*?[")
        out += sorted(path.parent.glob(path.name)) if pattern else [path]
    if not out:
        raise click.UsageError(f"nothing matches {' '.join(map(str, paths))}")
    return tuple(out)


def _predict_live(
    model: Any,
    name: Any,
    out: Path | None,
    *,
    rig: Path | None,
    views: int,
    fps: int,
    frames: int | None,
    overwrite: bool,
    hand: Any,
    joints: str | None,
    fused: bool,
    smooth: bool,
    track: bool,
) -> None:
    """Write poses until the cameras end or it is told to stop; tracked they are anyhow, `--track` or not.

    However it ends, the file has all poses until then.
    """
    from functools import partial

    from .capture.apart import SourceApart
    from .capture.open import open_live
    from .capture.stopping import until_told
    from .learn.pose_writers import format_of, json_lines, pose_file
    from .learn.poses import layout_written, stream
    from .learn.tracking import Tracker
    from .predict_sources import LiveInput
    from .stores.errors import HandloomError

    layout = layout_written(model, joints)
    if out is not None:
        format_of(out)
        if out.exists() and not overwrite:
            raise HandloomError("The output exists already", where=str(out), fix="--overwrite replaces it")
        out.parent.mkdir(parents=True, exist_ok=True)
    opener = partial(open_live, name, rig=rig, fps=fps, views=views, size=(640, 480), seed=0)
    with SourceApart(opener) as cameras, LiveInput(cameras) as images, until_told(images.stop) as told:
        tracker = Tracker(model, cameras.rig, hand=hand or images.input.hand)
        printed = nullcontext(json_lines(sys.stdout, layout, flush=True))
        try:
            with printed if out is None else pose_file(out, layout, keep=True) as write:
                stream(tracker, images.input, write, smooth=smooth, joints=joints, fused=fused, frames=frames)
        finally:
            t = tracker.counts
            said = f"{t.tracked} of {t.instants} frames tracked, found anew in {t.found}, no hand in {t.missed}"
            click.echo(f"{said}, {images.skipped} skipped", err=out is None)
    if told.signal is not None:
        raise click.exceptions.Exit(128 + told.signal)


def _three(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("give three numbers: X,Y,Z", param_hint="--center") from error
    return x, y, z
