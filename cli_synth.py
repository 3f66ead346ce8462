"""The commands about hands and synthesis: `handloom synth …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .console import Rate
from .options import (
    FILE,
    FOLDER,
    RECORDING,
    hand_option,
    json_option,
    mapping_option,
    one_thread,
    overwrite_option,
    print_facts,
    print_json,
    print_next,
    seed_option,
    set_option,
    side_option,
    with_options,
)

if TYPE_CHECKING:
    from .synth.config import SynthConfig


@click.group()
def hand() -> None:
    """The hand that synthesis draws: the built-in one, or one of a file."""


@hand.command("show")
@hand_option
@side_option
@mapping_option
@click.option("--pose", metavar="NAME|FILE", help="A gesture, or a YAML file of joint angles in degrees.")
@click.option("--out", type=FILE, help="A PNG: the hand from six sides and in every gesture, or in --pose.")
@json_option
@overwrite_option
def hand_show(
    hand: str | None,
    side: str | None,
    hand_mapping: Path | None,
    pose: str | None,
    out: Path | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Say what a hand is made of, and draw it."""
    from .synth.formats import facts, hand_named

    if pose is not None and out is None:
        raise click.UsageError("--pose is drawn: it needs --out F.png")
    found = hand_named(hand, side=side, mapping=hand_mapping)
    if out is not None:
        from .synth.portrait import pose_named, write_sheet

        drawn = None if pose is None else pose_named(found.hand, pose)
        write_sheet(found.hand, out, drawn, overwrite=overwrite)
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
            **{f"note {i}": _wrapped(note) for i, note in enumerate(found.notes, start=1)},
            **({} if out is None else {"picture": str(out)}),
        }
    )
    print_next(f"handloom synth run --out S.zarr{_of(hand, _side_to_say(found.hand.side), hand_mapping)}")


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
    print_next(
        f"handloom hand show --hand {out}",
        f"handloom synth run --out S.zarr{_of(str(out), _side_to_say(found.hand.side), None)}",
    )


def _wrapped(text: str) -> str:
    """Text beside a column of names, within 80 columns."""
    return ("\n" + 15 * " ").join(textwrap.wrap(text, 65))


def _side_to_say(side: str) -> str | None:
    """What `synth run` must be told to draw this side: it draws right hands, a left hand's file mirrored."""
    return None if side == "right" else side


def _of(hand: str | None, side: str | None, mapping: Path | None) -> str:
    """The options that name a hand, as they were given."""
    given = {"--hand": hand, "--side": side, "--hand-mapping": mapping}
    return "".join(f" {name} {value}" for name, value in given.items() if value is not None)


@click.group()
def synth() -> None:
    """Labelled multi-view depth of a hand mesh."""


sensor_option = click.option(
    "--sensor", metavar="MODEL|FILE", help="Depth sensor: none, structured-light, stereo, tof, or a sensor's .yaml."
)

_SETTINGS: tuple[Callable[[Any], Any], ...] = (
    click.option("--frames", type=click.IntRange(1), help="Poses; each is seen by every camera."),
    click.option(
        "--config", "config_file", type=FILE, help="YAML file, or a recording to make again; options go over it."
    ),
    set_option,
    click.option("--views", type=click.IntRange(1), help="How many cameras."),
    click.option("--cameras", type=click.Choice(["ring", "line", "dome"]), help="How they stand around the hand."),
    click.option("--rig", type=FILE, help="Your own cameras (rig.toml) instead of --cameras."),
    hand_option,
    side_option,
    mapping_option,
    click.option(
        "--poses",
        metavar="prior|trajectory|FILE",
        help="What the hand does: drawn, in motion, or as a file of poses has it.",
    ),
    click.option("--scene", type=click.Choice(["none", "desk", "cluttered"]), help="What stands around the hand."),
    sensor_option,
    click.option("--renderer", type=click.Choice(["raster", "pyrender", "open3d"]), help="What draws the mesh."),
    click.option("--seed", type=int, help="Everything random follows from it and the frame's number."),
)
"""What is to be made; each but --config and -o is a key of the configuration."""

_RUNNING: tuple[Callable[[Any], Any], ...] = (
    click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes on this machine."),
    click.option(
        "--executor",
        type=click.Choice(["local", "dask"]),
        default="local",
        show_default=True,
        help="Who makes it: processes here, or a Dask cluster.",
    ),
    click.option("--scheduler", metavar="ADDRESS", help="Dask's scheduler, tcp://HOST:8786."),
    click.option("--resume", is_flag=True, help="Continue an interrupted run."),
)
"""Who makes it."""


def _begin_or_continue(resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise click.UsageError("give either --resume, which keeps what is there, or --overwrite, which begins again")


def _settings(config_file: Path | None, overrides: tuple[str, ...], given: Mapping[str, Any]) -> SynthConfig:
    """The configuration of a file or a recording, the named options and the overrides."""
    from .synth.config import load_settings

    for name in ("views", "cameras"):
        if given.get("rig") is not None and given.get(name) is not None:
            raise click.UsageError(f"give either --rig or --{name}: a rig.toml says which cameras there are")
    # A preset of the scene leaves room for `-o scene.sleeve=0.3` beside it.
    keys = {"scene": "scene.preset"}
    named = [f"{keys.get(name, name)}={value}" for name, value in given.items() if value is not None]
    return load_settings(config_file, [*named, *overrides])


@synth.command("plan")
@click.option("--out", type=FOLDER, required=True, help="Where the recording would go.")
@with_options(_SETTINGS)
@with_options(_RUNNING)
@overwrite_option
@json_option
def synth_plan(
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    jobs: int,
    executor: Any,
    scheduler: str | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Say what 'synth run' with the same options would make, take and cost, without making it.

    Ends with 1 if the disk is too small for it.
    """
    _begin_or_continue(resume, overwrite)
    one_thread()
    from .synth.plan import make_plan

    settings = _settings(config_file, overrides, given)
    plan = make_plan(
        settings, out, jobs=jobs, executor=executor, scheduler=scheduler, resume=resume, overwrite=overwrite
    )
    if as_json:
        print_json(plan.to_dict())
    else:
        print_facts(plan.facts())
        if plan.fits:
            print_next(f"handloom synth run --out {out} …, with the same options")
    if not plan.fits:
        click.get_current_context().exit(1)


@synth.command("run")
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@with_options(_SETTINGS)
@with_options(_RUNNING)
@click.option("--share", metavar="A:B", help="Only samples A to B - 1, whole units, for one of many machines.")
@overwrite_option
def synth_run(
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    jobs: int,
    executor: Any,
    scheduler: str | None,
    resume: bool,
    share: str | None,
    overwrite: bool,
    **given: Any,
) -> None:
    """Make a synthetic recording: crops, bone masks, joints, visibility, and all that made them.

    Machines that see one folder may each make a --share of it, at once; the same command with --resume instead
    then joins the shares and makes what is missing.
    """
    _begin_or_continue(resume, overwrite)
    one_thread()
    from .console import progress
    from .synth.generate import make_share, synthesise

    settings = _settings(config_file, overrides, given)
    rate, views = Rate("views"), len(settings.make_rig())
    if share is not None:
        if overwrite:
            raise click.UsageError("a --share never overwrites what others may be making")
        wanted = _range(share, "--share")
        with progress("Synthesising") as report:
            units = make_share(
                settings, out, wanted, jobs=jobs, executor=executor, scheduler=scheduler,
                progress=lambda done, total: report(done, total, rate(done * views)),
            )  # fmt: skip
        click.echo(f"{out}: {units} units of {settings.units} are written, samples {wanted.start} to {wanted.stop - 1}")
        print_next(f"handloom synth run --out {out} … --resume, when all shares are there")
        return
    with progress("Synthesising") as report:
        recording = synthesise(
            settings, out, jobs=jobs, executor=executor, scheduler=scheduler, overwrite=overwrite, resume=resume,
            progress=lambda done, total: report(done, total, rate(done * views)),
        )  # fmt: skip
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 1e6
    click.echo(f"{out}: {recording.n_frames} poses seen by {recording.n_views} cameras, {size:.1f} MB")
    click.echo(f"  {rate}")
    if isinstance(poses := recording.provenance.get("poses"), dict):
        click.echo(f"  {_poses_line(poses)}")
    print_next(
        f"handloom synth preview {out} --out {out.with_suffix('.html')}",
        f"handloom train murauer --arm synthetic-only --preset quick --synth {out} --run runs/synthetic",
    )


def _poses_line(poses: Mapping[str, Any]) -> str:
    """What of a file of poses was used, and how well it was fitted."""
    out = f"poses: {poses['used']} of {poses['rows']} frames of {Path(poses['source']).name} ({poses['kind']})"
    if poses["kind"] != "parameters":
        out += f", fitted at {poses['median_fit_error_mm']:.1f} mm"
    left = [f"{count} {reason.replace('_', ' ')}" for reason, count in poses["left_out"].items() if count]
    return out + (f"; left out: {', '.join(left)}" if left else "")


@synth.command("preview")
@click.argument("recording", type=RECORDING, required=False)
@click.option("--out", type=FILE, required=True, help="sheet.html, or sheet.png for the contact sheet alone.")
@click.option("--count", type=click.IntRange(1, 400), default=48, show_default=True, help="Samples on the sheet.")
@with_options(_SETTINGS)
@overwrite_option
def synth_preview(
    recording: Path | None,
    out: Path,
    count: int,
    config_file: Path | None,
    overrides: tuple[str, ...],
    overwrite: bool,
    **given: Any,
) -> None:
    """Show samples of RECORDING; without one, of what 'synth run' with these options would make.

    With RECORDING only --seed counts, which chooses the samples.
    """
    from .stores.recording import open_recording
    from .synth.preview import check_output, preview_of_config, write_preview

    check_output(out, overwrite=overwrite)
    seed = given["seed"] or 0
    if recording is None:
        settings = _settings(config_file, overrides, given)
        shown = preview_of_config(settings, out, count=count, overwrite=overwrite)
    else:
        idle = [name for name, value in given.items() if value is not None and name != "seed"]
        if idle or config_file is not None or overrides:
            raise click.UsageError("give either RECORDING or the options of what is to be made")
        shown = write_preview(open_recording(recording), out, count=count, seed=seed, overwrite=overwrite)
    click.echo(f"{out}: {shown} samples")


@synth.command("replay")
@click.argument("recording", type=RECORDING)
@click.option("--frame", type=click.IntRange(0), help="Which frame.")
@click.option("--frames", metavar="A:B", help="Frames A to B - 1 instead.")
@click.option("--out", type=FILE, help="PNG of the first frame: stored, drawn again, where they differ.")
@json_option
def synth_replay(recording: Path, frame: int | None, frames: str | None, out: Path | None, as_json: bool) -> None:
    """Draw stored frames again and compare every bit; ends with 1 if something differs."""
    from .synth.replay import replay, write_picture

    if (frame is None) == (frames is None):
        raise click.UsageError("give either --frame K or --frames A:B")
    wanted = _range(frames, "--frames") if frames is not None else range(frame or 0, (frame or 0) + 1)
    found = replay(recording, wanted)
    if out is not None:
        write_picture(recording, found.differences[0].frame if found.differences else found.first, out)
    if as_json:
        print_json(found.to_dict())
    else:
        click.echo("\n".join(found.lines()))
    if not found.identical:
        click.get_current_context().exit(1)


def _range(text: str, option: str) -> range:
    first, colon, last = text.partition(":")
    try:
        found = range(int(first), int(last if colon else ""))
    except ValueError as error:
        raise click.BadParameter("give two numbers: 0:100", param_hint=option) from error
    if not found or found.start < 0:
        raise click.BadParameter(f"'{text}' holds no frame", param_hint=option)
    return found


@synth.command("twin")
@click.option("--real", type=RECORDING, required=True, help="Recording with labelled frames.")
@click.option("--out", type=FOLDER, required=True, help="The recording of twins to make.")
@click.option("--max-fit-error-mm", type=float, default=6.0, show_default=True, help="Leave out worse fits.")
@click.option(
    "--max-point-error-mm",
    type=float,
    default=15.0,
    show_default=True,
    help="Leave out fits of which one point stays farther off.",
)
@hand_option
@mapping_option
@sensor_option
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes on this machine.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@seed_option
@overwrite_option
def synth_twin(
    real: Path,
    out: Path,
    max_fit_error_mm: float,
    max_point_error_mm: float,
    hand: str | None,
    hand_mapping: Path | None,
    sensor: str | None,
    jobs: int,
    resume: bool,
    seed: int,
    overwrite: bool,
) -> None:
    """Render the synthetic twin of every labelled real frame.

    The labels' person is fitted first: one hand a subject of the recording. Without --sensor the twins are clean; give
    the sensor of the synthetic set that they are trained with.
    """
    _begin_or_continue(resume, overwrite)
    from .console import progress
    from .synth.config import BUILTIN
    from .synth.twin import make_twins
    from .synth.twin_units import TwinSettings

    settings = TwinSettings(
        seed=seed,
        sensor=_settings(None, (), {"sensor": sensor or "none"}).make_sensor(),
        hand=hand or BUILTIN,
        hand_mapping=hand_mapping,
        max_fit_error_mm=max_fit_error_mm,
        max_point_error_mm=max_point_error_mm,
    )
    with progress("Fitting and rendering") as report:
        made = make_twins(
            real, out, settings=settings, jobs=jobs, overwrite=overwrite, resume=resume, progress=report
        )  # fmt: skip
    twins = made.attributes["twins"]
    click.echo(
        f"{out}: twins of {made.n_frames} labelled frames, median fit error {twins['median_fit_error_mm']:.1f} mm"
    )
    for who, counts in list(twins["subjects"].items())[:SUBJECTS_LISTED]:
        out_of = [f"{counts[name]} {words}" for name, words in _LEFT_OUT.items() if counts[name]]
        if out_of:
            click.echo(f"  subject {who}: left out {', '.join(out_of)}")
    print_next(f"handloom train murauer --preset quick --synth S.zarr --synth {out} --real {real} --run runs/full")


@synth.command("fit-noise")
@click.option("--real", type=RECORDING, required=True, help="A capture with full frames; labels are not needed.")
@click.option("--out", type=FILE, required=True, help="The sensor's file (.yaml) to write.")
@click.option(
    "--model",
    type=click.Choice(["auto", "structured-light", "stereo", "tof"]),
    default="auto",
    show_default=True,
    help="What kind of camera it was.",
)
@click.option("--report", type=FILE, help="A page (.html) to write: real beside synthetic.")
@seed_option
@json_option
@overwrite_option
def synth_fit_noise(
    real: Path, out: Path, model: str, report: Path | None, seed: int, as_json: bool, overwrite: bool
) -> None:
    """Estimate a depth sensor's parameters from a capture, for synthesis with the same noise."""
    from .console import progress
    from .stores.recording import open_recording
    from .synth.noise_fit import check_outputs, fit_noise, summary, table
    from .synth.sensor import write_sensor

    check_outputs(out, report, overwrite=overwrite)
    recording = open_recording(real)
    with progress("Fitting noise") as report_progress:
        fit = fit_noise(recording, model=model, seed=seed, progress=report_progress)  # type: ignore[arg-type]
    write_sensor(fit.sensor, out)
    if report is not None:
        from .synth.noise_report import write_report

        write_report(fit, report, name=real.name, seed=seed, overwrite=overwrite)
    if as_json:
        print_json(summary(fit))
        return
    click.echo(
        f"{out}: {fit.model}, from {len(fit.measured.views[0].rows)} frames of {len(fit.measured.views)} cameras"
    )
    click.echo("\n".join(table(fit)))
    if report is not None:
        click.echo(f"{report}: real beside synthetic")
    print_next(f"handloom synth run --out S.zarr --sensor {out}")


SUBJECTS_LISTED = 12
_LEFT_OUT = {
    "too_few_points": "with too few points",
    "badly_fitted": "that fit badly",
    "point_off": "with one point far off",
}
