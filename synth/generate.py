"""Synthesis of a recording: shapes first, whole units by worker processes, commits by the parent alone.

Sample k draws its pose and view from (seed, k), its subject's proportions from (seed, subject), its sensor's
noise from (seed, k, view, pixel); so a frame is the same whoever makes it, in whatever order, after whatever
interruption. Workers (`executor.py`) make whole units (`units.py`) and leave a marker each; the parent
advances `committed` over the units that are done from the first on.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..stores.camera import Rig
from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from ..stores.joints import OPENXR26
from ..stores.recording import Recording, create_recording, open_recording
from ..stores.table import Table
from . import sensor as sensors
from .config import BLOCK_FRAMES, SynthConfig
from .executor import ExecutorName, open_executor
from .formats import HandFile, hand_of
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_NAMES, SHAPE_SIZE
from .pose_set import pose_set_of
from .provenance import changed_versions, packages_of, provenance_of, versions
from .units import TABLES, UnitWork, make_unit, studio_of

__all__ = ["SynthConfig", "synthesise"]

Progress = Callable[[int, int], None]


def synthesise(
    config: SynthConfig,
    out: Path,
    *,
    jobs: int,
    executor: ExecutorName = "local",
    scheduler: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Make the recording that `config` describes: labelled depth of a hand, unit by unit, and open it.

        config = SynthConfig(frames=20000, seed=0, rig=Path("rig.toml"), sensor="sensor.yaml")
        synthesise(config, Path("S.zarr"), jobs=16)

    Frame k depends on the configuration, the seed and k alone, however the work is divided.

    Args:
        config: what to make.
        out: where; must not exist, but for `overwrite` and `resume`.
        jobs: worker processes of the local executor; one works in this process.
        executor: who makes the units.
        scheduler: address of Dask's, for that executor.
        overwrite: replace a recording that is there.
        resume: continue one that was interrupted; units that are whole are kept.
        progress: is told frames done and frames in all.

    Raises:
        HandloomError: a camera does not see the hands, the output exists, was made from another configuration,
            is being written or cannot be, the cluster cannot be reached, or a worker died. But for the last
            ones nothing has been written then.
    """
    rig = config.make_rig()
    out = out.resolve()
    decisive = versions(("handloom", *packages_of(config.renderer)))
    with (
        open_executor(executor, jobs=jobs, scheduler=scheduler, versions=decisive) as made_by,
        plain_disk_errors(out),
    ):
        recording = _continued(config, rig, out) if resume else None
        if recording is None:
            recording = create(config, rig, out, overwrite=overwrite or resume)
        tables = [_table(recording, name) for name in TABLES]
        try:
            for table in tables:
                table.lock()
                table.resize(config.frames)
            done = _units_there(tables, config) if resume else set()
            todo = [unit for unit in range(config.units) if unit not in done]
            _tell(progress, done, config)
            work = UnitWork(config, rig, out, recording.uuid)
            if todo and (jobs > 1 or executor != "local"):
                warm(work)
            for table in tables:
                table.commit_prefix(done)
            for unit in made_by.run(work, todo):
                done.add(unit)
                for table in tables:
                    table.commit_prefix(done)
                _tell(progress, done, config)
        finally:
            for table in tables:
                table.unlock()
        assert len(done) == config.units, "an executor left units out"
    return open_recording(out)


def make_share(
    config: SynthConfig,
    out: Path,
    share: range,
    *,
    jobs: int,
    executor: ExecutorName = "local",
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> int:
    """Make the units of some samples, beside others who make the others; `synthesise` with `resume` joins them.

    Any number of these may run at once, on machines that see the same folder: whoever comes first makes the
    recording, each writes its own units with their markers, none commits. Units that are whole are kept.

    Args:
        config: of the whole recording, the same for all.
        out: where; made if it is not there.
        share: samples, whole units of them.
        jobs: worker processes of the local executor.
        executor: who makes the units.
        scheduler: address of Dask's, for that executor.
        progress: is told frames done and frames of the share.

    Returns:
        units made or found whole.

    Raises:
        HandloomError: the share is not aligned to units or lies outside the recording; see `synthesise`.
    """
    units = _units_of(config, share)
    rig = config.make_rig()
    out = out.resolve()
    decisive = versions(("handloom", *packages_of(config.renderer)))
    with (
        open_executor(executor, jobs=jobs, scheduler=scheduler, versions=decisive) as made_by,
        plain_disk_errors(out),
    ):
        recording = _continued(config, rig, out) or _created_at_once(config, rig, out)
        tables = [_table(recording, name) for name in TABLES]
        try:
            for table in tables:
                table.lock(shared=True)
            work = UnitWork(config, rig, out, recording.uuid)
            warm(work)
            for done, _ in enumerate(made_by.run(work, units), start=1):
                if progress is not None:
                    progress(min(done * config.unit_frames, len(share)), len(share))
        finally:
            for table in tables:
                table.unlock()
    return len(units)


def _units_of(config: SynthConfig, share: range) -> range:
    size = config.unit_frames
    whole = share.start % size == 0 and (share.stop % size == 0 or share.stop == config.frames)
    if not whole or not 0 <= share.start < share.stop <= config.frames:
        low, high = share.start // size * size, min(-(-share.stop // size) * size, config.frames)
        raise HandloomError(
            "A share must be whole units" if not whole else "The share lies outside the recording",
            where=f"--share {share.start}:{share.stop}",
            why=f"units are {size} samples and there are {config.frames} samples",
            fix=f"--share {low}:{high}" if low < high else f"a share inside 0:{config.frames}",
        )
    return range(share.start // size, -(-share.stop // size))


def _created_at_once(config: SynthConfig, rig: Rig, out: Path) -> Recording:
    """The recording with all its rows, there from one moment to the next; another's where that was quicker."""
    beside = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        made = create(config, rig, beside, overwrite=False)
        for name in TABLES:
            _table(made, name).resize(config.frames)
        beside.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    found = _continued(config, rig, out)
    if found is None:
        raise HandloomError("The output exists and is not a recording", where=str(out), fix="choose another --out")
    return found


@contextmanager
def plain_disk_errors(out: Path) -> Iterator[None]:
    """Say what is the matter where the disk is full or cannot be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise HandloomError(
            "The disk is full" if full else "The recording cannot be written",
            where=str(out),
            why=error.strerror or str(error),
            fix="free some space and run again with --resume; what is committed stays readable"
            if full
            else "choose another --out, or mend this and run again with --resume",
            exit_code=BAD_ENVIRONMENT,
        ) from error


def _units_there(tables: list[Table], config: SynthConfig) -> set[int]:
    """The units that are committed, and those beyond that lie whole on the disk."""
    first = min(table.committed for table in tables) // config.unit_frames
    if min(table.committed for table in tables) == config.frames:
        first = config.units  # the last may be short
    return set(range(first)) | {
        unit for unit in range(first, config.units) if all(table.marked(unit) for table in tables)
    }


def create(config: SynthConfig, rig: Rig, out: Path, *, overwrite: bool) -> Recording:
    """An empty recording of this configuration; nothing is left of it where that fails."""
    there = out.exists()
    try:
        return _created(config, rig, out, overwrite=overwrite)
    except OSError:
        if overwrite or not there:
            shutil.rmtree(out, ignore_errors=True)
        raise


def _created(config: SynthConfig, rig: Rig, out: Path, *, overwrite: bool) -> Recording:
    hand = hand_of(config).hand
    # Before anything is made: poses that cannot be used leave nothing behind.
    poses = pose_set_of(config, studio_of(config, rig).hand).description if config.poses_from_file else config.poses
    values = config.model_dump(mode="json")
    recording = create_recording(
        out,
        kind="synthetic",
        rig=rig,
        hand=config.side,
        provenance={
            **provenance_of(config.renderer),
            "command": "synth run",
            "config": values,
            "seed": config.seed,
            "sensor": None if (sensor := config.make_sensor()) is None else sensors.describe(sensor),
            "hand": hand_of(config).provenance(),
            "poses": poses,
        },
        overwrite=overwrite,
    )
    recording.create_crops(
        parts=config.parts, crop_px=config.crop_px, window_mm=config.window_mm, unit_frames=config.unit_frames
    )
    recording.create_labels(
        layout="openxr26", pose_size=POSE_SIZE, shape_size=SHAPE_SIZE, root_size=ROOT_SIZE,
        fit_error=config.poses_from_file,
        attributes={
            "joint_names": list(OPENXR26),
            "pose_names": [dof.name for dof in hand.dof],
            "shape_names": list(SHAPE_NAMES),
        },
        unit_frames=config.unit_frames,
    )  # fmt: skip
    # The last: a recording that has it has the others.
    recording.create_frames(depth=False, unit_frames=config.unit_frames)
    return recording


def _continued(config: SynthConfig, rig: Rig, out: Path) -> Recording | None:
    """The interrupted recording at `out`; None where there is none yet, or it was cut off at its beginning."""
    if not out.exists() or not (out / "frames" / "committed.json").exists():
        return None
    recording = open_recording(out, writable=True)
    before = recording.provenance.get("config")
    if not isinstance(before, Mapping) or recording.kind != "synthetic":
        raise HandloomError("This recording was not made by 'synth run'", where=str(out))
    now = config.model_dump(mode="json")
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed or recording.rig != rig:
        name = changed[0] if changed else "rig"
        raise HandloomError(
            "The recording was begun with another configuration",
            where=str(out),
            why=f"'{name}' was {before.get(name)!r} and is now {now.get(name)!r}",
            fix="resume with the same options, or give --overwrite instead of --resume to begin again",
        )
    _same_hand(recording, hand_of(config))
    if config.poses_from_file:
        _same_poses(recording, pose_set_of(config, studio_of(config, rig).hand).description)
    other = changed_versions(recording.provenance)
    if other:
        raise HandloomError(
            "The recording was begun with other versions, which may draw other frames",
            where=str(out),
            why=other,
            fix="install those versions and resume, or give --overwrite instead of --resume to begin again",
        )
    return recording


def _same_hand(recording: Recording, hand: HandFile) -> None:
    """The path of a hand's file may be the same and what lies there another hand."""
    before = recording.provenance.get("hand")
    if isinstance(before, Mapping) and before.get("sha256") != hand.sha256:
        raise HandloomError(
            "The recording was begun with another hand",
            where=hand.source,
            why=f"its sha256 was {before.get('sha256')} and is now {hand.sha256}",
            fix="bring back the hand as it was, or give --overwrite instead of --resume to begin again",
        )


def _same_poses(recording: Recording, poses: Mapping[str, Any]) -> None:
    before = recording.provenance.get("poses")
    if isinstance(before, Mapping) and before.get("sha256") != poses["sha256"]:
        raise HandloomError(
            "The recording was begun with other poses",
            where=str(poses["source"]),
            why=f"their sha256 was {before.get('sha256')} and is now {poses['sha256']}",
            fix="bring back the file as it was, or give --overwrite instead of --resume to begin again",
        )


def _table(recording: Recording, name: str) -> Table:
    table: Table | None = getattr(recording, name)
    assert table is not None, name
    return table


def _tell(progress: Progress | None, done: set[int], config: SynthConfig) -> None:
    if progress is not None:
        rows = sum(
            min(config.unit_frames, config.frames - unit * config.unit_frames)
            for unit in done
        )  # fmt: skip
        progress(rows, config.frames)


def warm(work: UnitWork) -> None:
    """Have numba compile and cache every kernel before several workers would do it at once.

    A whole block is drawn: one sample shows no pinch, say, and would leave its kernel to the workers.
    """
    make_unit(work.config.model_copy(update={"frames": BLOCK_FRAMES}), studio_of(work.config, work.rig), 0)
