"""The `handloom` command: read options, call one function, print what it made and what comes next.

Nothing heavy is imported here; each command imports what it runs. Results go to standard output, progress and
errors to standard error. Exit codes: 0 done, 1 findings, 2 usage or bad input, 3 environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import click

from .cli_store import store
from .cli_synth import hand, synth
from .options import (
    FILE,
    FOLDER,
    json_option,
    overwrite_option,
    print_json,
    print_next,
    seed_option,
    set_option,
)


class _Shown(click.ClickException):
    """A `HandloomError` on its way to the terminal."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code  # type: ignore[misc]  # click calls it a class variable

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"error: {self.format_message()}", err=True)


class _Commands(click.Group):
    """A group that shows users' errors in words, and as a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> Any:
        from .stores.errors import HandloomError

        try:
            return super().invoke(ctx)
        except HandloomError as error:
            if ctx.params.get("debug"):
                raise
            raise _Shown(str(error), error.exit_code) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show a traceback instead of a short error.")
@click.version_option(package_name="handloom")
def main(debug: bool) -> None:
    """Weave synthetic and unlabelled depth into a 3-D hand tracker."""


main.add_command(hand)
main.add_command(store)
main.add_command(synth)


@main.command()
@click.option("--out", type=FOLDER, default=Path("demo"), show_default=True, help="Folder for everything it makes.")
@seed_option
@overwrite_option
def quickstart(out: Path, seed: int, overwrite: bool) -> None:
    """Run the whole loop on this machine: no camera, no GPU, eight minutes; ends in OUT/report.html."""
    from .quickstart import run

    run(out, seed=seed, overwrite=overwrite, say=click.echo)


# -- capture -------------------------------------------------------------------------------------------------


@main.group()
def capture() -> None:
    """Unlabelled multi-view depth from cameras, files and folders."""


@capture.command("record")
@click.argument("source", nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@click.option("--rig", type=FILE, help="Where the cameras stand (rig.toml); needed for several files.")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="Sets, for 'virtual'.")
@click.option("--views", type=click.IntRange(1), default=3, show_default=True, help="Cameras, for 'virtual'.")
@click.option("--locate", "find", is_flag=True, help="Find the hand right afterwards.")
@seed_option
@overwrite_option
def capture_record(
    source: tuple[str, ...],
    out: Path,
    rig: Path | None,
    frames: int,
    views: int,
    find: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Record SOURCE: a plain folder, RealSense recordings (.db3, .bag; one a camera), or 'virtual'."""
    from .capture.open import open_source
    from .capture.record import record
    from .console import progress

    with (
        open_source(source, rig=rig, frames=frames, views=views, seed=seed) as images,
        progress("Recording") as report,
    ):
        recording = record(images, out, overwrite=overwrite, progress=report)
    click.echo(f"{out}: {recording.n_frames} sets of {recording.n_views} cameras")
    if find:
        _locate(out, overwrite=False)
    else:
        print_next(f"handloom capture locate {out}")


@capture.command("locate")
@click.argument("recording", type=FOLDER)
@overwrite_option
def capture_locate(recording: Path, overwrite: bool) -> None:
    """Find the hand in every image, without labels, and write the crops."""
    _locate(recording, overwrite=overwrite)


def _locate(recording: Path, *, overwrite: bool) -> None:
    from .capture.locating import locate
    from .console import progress

    with progress("Locating") as report:
        found = locate(recording, overwrite=overwrite, progress=report)
    click.echo(f"{recording}: the hand was found in {found.located} of {found.images} images")
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
        print_next(f"handloom synth twin {out} --out twins.zarr")
    else:
        print_next(f"handloom capture locate {out}")


@capture.command("calibrate")
@click.argument("source", type=FOLDER)
@click.option("--target", required=True, metavar="sphere:RADIUSmm", help="What was moved through the volume.")
@click.option("--out", type=FILE, required=True, help="The rig.toml to write.")
@click.option("--report", type=FILE, help="A page (.html) to write: cameras, shared views, residuals.")
@click.option(
    "--origin",
    type=click.Choice(["volume", "first-camera"]),
    default="volume",
    show_default=True,
    help="The rig's origin; its axes are the first camera's.",
)
@click.option("--bias/--no-bias", default=True, show_default=True, help="Estimate each camera's depth bias.")
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
    initial: Path | None,
    form: Any,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Find where the cameras stand, from a ball of known radius in SOURCE: a recording or a plain folder."""
    from .capture.calibrate import calibrate, lines, parse_target, refuse_existing, write_calibration
    from .console import progress

    shown = parse_target(target)
    for path in (out, *([report] if report else [])):
        refuse_existing(path, overwrite=overwrite)
    with progress("Looking for the target") as tell:
        fit = calibrate(source, shown, origin=origin, bias=bias, initial=initial, progress=tell)
    write_calibration(fit, out, form)
    if report:
        from .capture.calibrate_report import write_report

        write_report(fit, report, name=source.name, target=str(shown))
    if as_json:
        print_json(fit.to_dict())
        return
    click.echo(f"{out}: {len(fit.rig)} cameras from {int((fit.seen.sum(1) > 1).sum())} of {len(fit.seen)} frames")
    click.echo("\n".join(lines(fit)))
    if report:
        click.echo(f"{report}: cameras, shared views, residuals")
    if form == "handloom":
        print_next(f"handloom capture record SOURCE --rig {out} --out R.zarr")


# -- learn ---------------------------------------------------------------------------------------------------


@main.command()
@click.argument("method", type=click.Choice(["murauer", "crossing"]))
@click.option("--arm", default="full", show_default=True, help="Which data and losses; see the README.")
@click.option("--synth", type=FOLDER, multiple=True, help="Synthetic recordings, twins among them.")
@click.option("--real", type=FOLDER, help="The captured recording.")
@click.option("--val", type=FOLDER, help="Labelled recording to watch; it chooses nothing.")
@click.option("--labels", help="How many labelled real frames to use (50 or 5%), or a file of frame_ids.")
@click.option("--layout", help="Points to predict.")
@click.option("--init", type=FOLDER, help="Run whose pre-trained networks to start from.")
@click.option("--run", "run_dir", type=FOLDER, required=True, help="Folder of the run.")
@click.option("--preset", type=click.Choice(["quick", "fast", "paper"]), default="quick", show_default=True)
@set_option
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
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
    resume: bool,
    overwrite: bool,
    **given: Any,
) -> None:
    """Train a network from recordings: MURAUER's feature mapping or Crossing Nets."""
    from .console import progress
    from .learn.train import preset as named_preset
    from .learn.train import train as run_training
    from .stores.config import with_overrides

    named = {name: value for name, value in given.items() if value is not None}
    if str(named.get("labels", "")).isdigit():
        named["labels"] = int(named["labels"])
    config = named_preset(method, preset, arm, with_overrides(named, overrides))
    with progress("Training") as report:
        result = run_training(
            config,
            synth=list(synth),
            real=real,
            run_dir=run_dir,
            val=val,
            init=init,
            resume=resume,
            overwrite=overwrite,
            progress=lambda done, total, values: report(done, total, _note(values)),
        )
    click.echo(f"{run_dir}: {result.steps} steps in {result.seconds:.0f} s")
    for name, value in result.metrics.items():
        if name.startswith("val/"):
            click.echo(f"  {name:<14} {value:.2f}")
    print_next(f"handloom eval model {run_dir} --on R.zarr", f"handloom export {run_dir} --out model.onnx")


@main.group("eval")
def evaluate() -> None:
    """Measure models and result files."""


@evaluate.command("model")
@click.argument("run", type=FOLDER)
@click.option("--on", "recording", type=FOLDER, required=True, help="Labelled recording.")
@click.option("--center", type=click.Choice(["truth", "located"]), default="located", show_default=True)
@click.option("--split", type=click.Choice(["train", "val", "test", "all"]), default="test", show_default=True)
@seed_option
@json_option
def eval_model(run: Path, recording: Path, center: Any, split: str, seed: int, as_json: bool) -> None:
    """Joint error of a run or an exported model on a labelled recording, with an interval."""
    from .learn.estimators import open_estimator
    from .learn.evaluate import evaluate_model
    from .stores.recording import open_recording

    found = evaluate_model(
        open_estimator(run), open_recording(recording), name=str(run), center=center, split=split, seed=seed
    )
    if as_json:
        print_json(found.to_dict())
        return
    click.echo("\n".join(found.lines()))


@evaluate.command("results")
@click.argument("prediction", type=FILE)
@click.option("--truth", type=FILE, required=True, help="Labels in the same form.")
@click.option("--dataset", type=click.Choice(["nyu", "icvl", "msra"]), required=True)
@click.option("--kind", type=click.Choice(["uvd", "xyz"]), help="How to read the prediction; else inferred.")
@seed_option
@json_option
def eval_results(prediction: Path, truth: Path, dataset: str, kind: Any, seed: int, as_json: bool) -> None:
    """Joint error of a published result file."""
    from .learn.results import dataset_named, evaluate_results

    metrics, notes = evaluate_results(prediction, truth, dataset_named(dataset), seed=seed, kind=kind)
    if as_json:
        print_json(metrics.to_dict() | {"notes": list(notes)})
        return
    click.echo("\n".join(metrics.lines()))
    for note in notes:
        click.echo(f"note: {note}", err=True)


@main.command()
@click.argument("run", type=FOLDER)
@click.option("--out", type=FILE, required=True, help="The ONNX file to write.")
@overwrite_option
def export(run: Path, out: Path, overwrite: bool) -> None:
    """Write one file with weights, preprocessing, joint names, units and provenance."""
    from .learn.export import export as write_model

    made = write_model(run, out, overwrite=overwrite)
    click.echo(f"{out}: {made.size_bytes / 1e6:.1f} MB, joints within {made.parity_mm:.4f} mm of the run's")
    print_next(f"handloom predict {out} INPUT --out poses.csv")


@main.command()
@click.argument("model", type=FILE)
@click.argument("source", type=FILE, metavar="INPUT")
@click.option("--out", type=FILE, required=True, help="poses.csv: frame,camera,joint,x_mm,y_mm,z_mm.")
@click.option("--overlay", type=FOLDER, help="Folder for pictures of the poses over the depth.")
@click.option("--camera", metavar="FX,FY,CX,CY", help="Intrinsics, for a PNG.")
@click.option("--depth-unit-mm", type=float, default=1.0, show_default=True, help="Unit of a PNG's depth.")
@click.option("--center", metavar="X,Y,Z", help="Where the hand is in a PNG (mm), instead of looking for it.")
@click.option("--hand", type=click.Choice(["right", "left"]), help="Which hand; else what INPUT says.")
@click.option("--fused", is_flag=True, help="Also write the poses of all cameras together (camera 'rig').")
@overwrite_option
def predict(
    model: Path,
    source: Path,
    out: Path,
    overlay: Path | None,
    camera: str | None,
    depth_unit_mm: float,
    center: str | None,
    hand: str | None,
    fused: bool,
    overwrite: bool,
) -> None:
    """Find the hand in INPUT (a recording, a plain folder or a 16-bit PNG) and write its joints."""
    from .console import progress
    from .learn.poses import predict_to
    from .learn.predict import load

    with progress("Predicting") as report:
        done = predict_to(
            load(model),
            source,
            out,
            camera=camera,
            depth_unit_mm=depth_unit_mm,
            center_mm=_three(center) if center else None,
            hand=hand,
            fused=fused,
            overlay=overlay,
            overwrite=overwrite,
            progress=report,
        )
    missed = f", no hand in {done.missed}" if done.missed else ""
    click.echo(f"{out}: poses of {done.poses} images{missed}")
    if done.fused:
        click.echo(f"  {done.fused} fused; the cameras disagree by {done.disagreement_mm:.1f} mm (median)")
    if overlay:
        click.echo(f"{overlay}: {done.pictures} picture{'s' * (done.pictures != 1)}")


# -- printing ------------------------------------------------------------------------------------------------


def _three(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter("give three numbers: X,Y,Z", param_hint="--center") from error
    return x, y, z


def _note(values: Mapping[str, float]) -> str:
    shown = [f"{name} {value:.3g}" for name, value in values.items() if name.endswith(("pose", "mean_mm"))]
    return "  ".join(shown[:2])


if __name__ == "__main__":
    sys.exit(main())
