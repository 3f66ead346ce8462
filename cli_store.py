"""The commands about recordings: `handloom store …`; part of `cli.py`, imports nothing heavy either."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from .options import FILE, FOLDER, RECORDING, json_option, overwrite_option, print_facts, print_json, print_next


@click.group()
def store() -> None:
    """Look at recordings and check them."""


@store.command("info")
@click.argument("recording", type=RECORDING)
@json_option
def store_info(recording: Path, as_json: bool) -> None:
    """Say what a recording holds."""
    from .stores.errors import HandloomError
    from .stores.recording import describe, open_recording

    try:
        facts = describe(open_recording(recording))
    except HandloomError as error:
        if (recording / "zarr.json").is_file():
            also = f"handloom store verify {recording} --deep   lists all that is wrong"
            error.fix = f"{error.fix}\n         {also}" if error.fix else also
        raise
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
@click.argument("recording", type=RECORDING)
@click.option("--deep", is_flag=True, help="Read every byte; else descriptions, small arrays and sampled images.")
@click.option("--real", type=RECORDING, help="The recording whose twins these are.")
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


@store.command("repack")
@click.argument("recording", type=RECORDING)
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@click.option("--unit-frames", type=click.IntRange(1), default=256, show_default=True, help="Frames of a unit.")
@click.option("--codec", metavar="NAME", help="Pack all images with it: zstd-1-shuffle, say; see 'store tune'.")
@click.option("--frames-codec", metavar="NAME", help="Pack the full frames with it.")
@click.option("--crops-codec", metavar="NAME", help="Pack the crops with it.")
@overwrite_option
def store_repack(
    recording: Path,
    out: Path,
    unit_frames: int,
    codec: str | None,
    frames_codec: str | None,
    crops_codec: str | None,
    overwrite: bool,
) -> None:
    """Copy a recording into larger units, as a closed capture wants them, or with another codec."""
    from .console import progress
    from .stores.edit import repack

    asked = {"frames": frames_codec or codec, "crops": crops_codec or codec}
    codecs = {table: name for table, name in asked.items() if name is not None}
    with progress("Repacking") as report:
        made = repack(recording, out, unit_frames=unit_frames, codecs=codecs, overwrite=overwrite, progress=report)
    _made(out, made.n_frames)


@store.command("tune")
@click.argument("recording", type=RECORDING)
@click.option(
    "--goal",
    type=click.Choice(["record", "train", "archive"]),
    default="train",
    show_default=True,
    help="Keep up with the cameras, unpack fast, or be small.",
)
@click.option("--frames", type=click.IntRange(1), default=64, show_default=True, help="Frames to try codecs on.")
@click.option("--fps", type=click.FloatRange(0, min_open=True), help="With --goal record; default: the recording's.")
@json_option
def store_tune(recording: Path, goal: str, frames: int, fps: float | None, as_json: bool) -> None:
    """Try codecs on a recording's own images and say which suits a goal."""
    from .console import progress
    from .stores.recording import open_recording
    from .stores.tune import tune

    with progress("Trying codecs") as report:
        found = tune(open_recording(recording), goal=goal, frames=frames, fps=fps, progress=report)  # type: ignore[arg-type]
    if as_json:
        print_json({"recording": str(recording), "goal": goal, "tables": [one.to_dict() for one in found]})
        return
    for one in found:
        click.echo("\n".join(one.lines()))
    chosen = " ".join(f"--{one.what}-codec {one.chosen}" for one in found if one.chosen != one.current)
    if chosen:
        print_next(f"handloom store repack {recording} --out PACKED.zarr {chosen}")
    else:
        click.echo("the recording is packed with it already")


@store.command("subset")
@click.argument("recording", type=RECORDING)
@click.option("--frames", metavar="A:B|FILE", help="Rows A to B - 1, or a file with a frame_id a line.")
@click.option("--split", "part", type=click.Choice(["train", "val", "test"]), help="The frames of this split.")
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@overwrite_option
def store_subset(recording: Path, frames: str | None, part: str | None, out: Path, overwrite: bool) -> None:
    """Copy some frames of a recording."""
    from .console import progress
    from .stores.edit import chosen_rows, subset

    if (frames is None) == (part is None):
        raise click.UsageError("give either --frames or --split")
    rows = chosen_rows(recording, frames=frames, split=part)
    with progress("Copying") as report:
        made = subset(recording, out, rows=rows, overwrite=overwrite, progress=report)
    _made(out, made.n_frames)


@store.command("split")
@click.argument("recording", type=RECORDING)
@click.option("--by", type=click.Choice(["sequence", "subject", "split"]), required=True, help="What tells the parts.")
@click.option("--shares", metavar="train=0.8,val=0.1,test=0.1", help="Draw the splits: whole sequences or subjects.")
@click.option("--seed", type=int, default=0, show_default=True, help="With --shares: draws who goes where.")
@click.option(
    "--out-dir", type=FOLDER, help="Folder for the parts; without it --shares sets the recording's own split."
)
@overwrite_option
def store_split(
    recording: Path,
    by: Literal["sequence", "subject", "split"],
    shares: str | None,
    seed: int,
    out_dir: Path | None,
    overwrite: bool,
) -> None:
    """Divide a recording: into one for each sequence, subject or split, or by shares.

    With --shares whole sequences or subjects are drawn for training, validation and test. Without --out-dir only
    the frames' split is set, in the recording itself.
    """
    from .console import progress
    from .stores.edit import split
    from .stores.recording import open_recording
    from .stores.splits import Share, assign, draw, read_shares, shares_of

    if shares is None and out_dir is None:
        raise click.UsageError("give --out-dir, --shares, or both")
    if shares is not None and by == "split":
        raise click.UsageError("--shares go by sequence or by subject")
    drawn: list[Share] = []
    assigned = None
    if shares is not None and by != "split":
        asked = read_shares(shares)
        if out_dir is None:
            drawn = assign(recording, asked, by=by, seed=seed, overwrite=overwrite)
        else:
            frames = open_recording(recording).frames
            assert frames is not None
            groups = frames.read(by)
            assigned = draw(groups, asked, by=by, seed=seed, where=str(recording))
            drawn = shares_of(assigned, groups, asked)
    if out_dir is not None:
        with progress("Splitting") as report:
            parts = split(
                recording, out_dir, by="split" if assigned is not None else by, assigned=assigned,
                overwrite=overwrite, progress=report,
            )  # fmt: skip
        for part in parts:
            click.echo(f"{part.path}: {part.n_frames} frames")
    for share in drawn:
        of = sum(other.frames for other in drawn)
        groups_said = f"{share.groups} {by}{'s' * (share.groups != 1)}"
        click.echo(
            f"{share.name:<6} {share.frames} frames of {groups_said}, {share.frames / of:.1%} ({share.asked:.1%})"
        )
    print_next(f"handloom store {'verify ' + str(parts[0].path) + ' --deep' if out_dir else f'info {recording}'}")


@store.command("merge")
@click.argument("recordings", type=RECORDING, nargs=-1, required=True)
@click.option("--out", type=FOLDER, required=True, help="The recording to make.")
@click.option("--renumber", is_flag=True, help="Keep frames, sequences and subjects of different recordings apart.")
@click.option("--same-subjects", is_flag=True, help="With --renumber: equal subject numbers are the same person.")
@click.option("--real", type=RECORDING, help="Merge twins to go with this recording, merged or cut from theirs.")
@overwrite_option
def store_merge(
    recordings: tuple[Path, ...], out: Path, renumber: bool, same_subjects: bool, real: Path | None, overwrite: bool
) -> None:
    """Join recordings of one rig.

    Parts of one recording keep their numbers. With --renumber others can be joined as well: a constant is added to
    the numbers of those that come later where they would meet an earlier one's.
    """
    from .console import progress
    from .stores.edit import merge

    if same_subjects and not renumber:
        raise click.UsageError("--same-subjects goes with --renumber")
    with progress("Merging") as report:
        made = merge(
            recordings, out, renumber=renumber, same_subjects=same_subjects, real=real, overwrite=overwrite,
            progress=report,
        )  # fmt: skip
    _made(out, made.n_frames)


@store.command("copy")
@click.argument("recording", type=RECORDING)
@click.argument("out", type=FOLDER)
@overwrite_option
def store_copy(recording: Path, out: Path, overwrite: bool) -> None:
    """Copy a closed recording as it is: to S3 (s3://BUCKET/R.zarr), from there, or to another disk."""
    from .console import progress
    from .stores.copying import copy
    from .stores.s3 import located

    with progress("Copying") as report:
        done = copy(recording, out, overwrite=overwrite, progress=report)
    click.echo(f"{located(out)}: {done.frames} frames, {done.files} files, {done.bytes / 1e6:.1f} MB")
    print_next(f"handloom store verify {located(out)} --deep")


def _made(out: Path, frames: int) -> None:
    click.echo(f"{out}: {frames} frames")
    print_next(f"handloom store verify {out} --deep")


@store.command("export")
@click.argument("recording", type=RECORDING)
@click.option("--out", type=FOLDER, required=True, help="The plain folder to make.")
@overwrite_option
def store_export(recording: Path, out: Path, overwrite: bool) -> None:
    """Write a recording's full frames as a plain folder of PNGs that 'capture import' reads."""
    from .console import progress
    from .stores.export import export

    with progress("Exporting") as report:
        done = export(recording, out, overwrite=overwrite, progress=report)
    click.echo(f"{out}: {done.images} images of {done.frames} frames, {done.labelled} of them labelled")
    for what in done.left_out:
        click.echo(f"  left out: {what}")
    print_next(f"handloom capture import {out} --out R.zarr")


@store.command("label")
@click.argument("recording", type=RECORDING)
@click.option("--joints", "joints_csv", type=FILE, required=True, help="joints.csv: frame,joint,x_mm,y_mm,z_mm.")
@click.option("--layout", help="Of the joints' names; else that of the labels there are, or openxr26.")
@click.option("--merge", is_flag=True, help="Keep the labels of frames that the file does not name.")
@overwrite_option
@json_option
@click.pass_context
def store_label(
    ctx: click.Context,
    recording: Path,
    joints_csv: Path,
    layout: str | None,
    merge: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Take labels in: joints in the rig's frame, mm; ends with 1 where some of them look wrong."""
    from .stores.labels import take_labels

    if merge and overwrite:
        raise click.UsageError("give either --merge, which keeps other frames' labels, or --overwrite")
    done = take_labels(recording, joints_csv, layout=layout, overwrite=overwrite, merge=merge)
    if as_json:
        print_json(done.to_dict())
    else:
        kept = f", {done.kept} frames labelled before are kept" if done.kept else ""
        unknown = f", {done.unknown} unknown" if done.unknown else ""
        click.echo(f"{recording}: {done.frames} frames labelled, {done.joints} joints of {done.layout}{unknown}{kept}")
        for finding in done.findings:
            click.echo("\n".join(finding.lines()))
        print_next(
            f"handloom synth twin --real {recording} --out twins.zarr",
            f"handloom train murauer --preset quick --synth S.zarr --synth twins.zarr --real {recording} "
            f"--labels {done.training} --run runs/full",
        )
    ctx.exit(1 if done.findings else 0)
