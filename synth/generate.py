"""Synthesis of a recording: shapes first, whole units by worker processes, commits by the parent alone.

Sample k draws its pose and view from (seed, k), its subject's proportions from (seed, subject), its sensor's
noise from (seed, k, view, pixel); so a frame is the same whoever makes it, in whatever order, after whatever
interruption. Workers are spawned, run one thread each and leave a marker a unit; the parent advances
`committed` over the units that are done from the first on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from ..stores.joints import OPENXR26
from ..stores.recording import Recording, create_recording, open_recording
from ..stores.table import Table
from . import sensor as sensors
from .anatomy import builtin_hand
from .config import BLOCK_FRAMES, SynthConfig
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_NAMES, SHAPE_SIZE, mirror, pose_hand
from .render import Renderer, open_renderer
from .sampling import draw_samples
from .views import Studio, blank, crop_rows, shoot

__all__ = ["SynthConfig", "synthesise"]

Progress = Callable[[int, int], None]
Rows = dict[str, NDArray[Any]]
TABLES: Final = ("crops", "labels", "frames")
"""Committed in this order: no reader sees a frame without its crop and label."""


def synthesise(
    config: SynthConfig,
    out: Path,
    *,
    jobs: int,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Make the recording that `config` describes.

    Args:
        config: what to make.
        out: where; must not exist, but for `overwrite` and `resume`.
        jobs: worker processes; one works in this process.
        overwrite: replace a recording that is there.
        resume: continue one that was interrupted; units that are whole are kept.
        progress: is told frames done and frames in all.

    Raises:
        HandloomError: the output exists, was made from another configuration, or a worker died.
    """
    studio = _studio(config)
    recording = _continued(config, out) if resume else None
    if recording is None:
        recording = _created(config, studio, out, overwrite=overwrite or resume)
    tables = [_table(recording, name) for name in TABLES]
    for table in tables:
        table.lock()
        table.resize(config.frames)
    try:
        units = -(-config.frames // config.unit_frames)
        first = min(table.committed for table in tables) // config.unit_frames
        done = set(range(first))
        if resume:
            done |= {unit for unit in range(first, units) if all(table.marked(unit) for table in tables)}
        todo = [unit for unit in range(units) if unit not in done]
        _tell(progress, done, config)
        for unit in _worked(config, out, todo, jobs):
            done.add(unit)
            for table in tables:
                table.commit_prefix(done)
            _tell(progress, done, config)
        for table in tables:
            table.commit_prefix(done)
    except OSError as error:
        raise HandloomError(
            "Writing the recording failed", where=str(out), why=str(error),
            fix="free some space and run again with --resume; what is committed stays readable",
            exit_code=BAD_ENVIRONMENT,
        ) from error  # fmt: skip
    finally:
        for table in tables:
            table.unlock()
    return open_recording(out)


def provenance_of(renderer: str) -> dict[str, Any]:
    """What every rendered recording says of how it was made."""
    packages = ("numpy", "numba", "scipy", "zarr", "pyrender")
    return {
        "handloom": version("handloom"),
        "packages": {name: version(name) for name in packages},
        "renderer": renderer,
    }


def make_unit(config: SynthConfig, studio: Studio, unit: int) -> dict[str, Rows]:
    """The rows of one unit of the three tables."""
    start = unit * config.unit_frames
    stop = min(start + config.unit_frames, config.frames)
    samples = draw_samples(config, studio.hand, start, stop)
    shots, joints = blank(studio, stop - start), []
    for first in range(0, stop - start, BLOCK_FRAMES):
        # Blocks of one size: a matrix product's last bit may depend on how many rows it has.
        pick = np.minimum(np.arange(first, first + BLOCK_FRAMES), stop - start - 1)
        posed = pose_hand(studio.hand, samples.pose[pick], samples.root[pick], samples.shape[pick])
        for i in range(min(BLOCK_FRAMES, stop - start - first)):
            joints.append(posed.joints[i])
            shoot(
                studio, posed.vertices[i], posed.joints[i],
                frame=start + first + i, into=shots, row=first + i,
            )  # fmt: skip

    labels = {"joints": np.stack(joints), "visible": shots.visible}
    labels |= {"pose": samples.pose, "shape": samples.shape, "root": samples.root}
    return {
        "frames": frame_rows(np.arange(start, stop), samples.subject, len(studio.rig)),
        "crops": crop_rows(shots, parts=config.parts),
        "labels": labels,
    }


def frame_rows(frame_id: NDArray[Any], subject: NDArray[Any], views: int) -> Rows:
    """Rows of `frames/` for rendered frames, each a sequence of its own: nothing links one to the next."""
    count = len(frame_id)
    nothing = np.full((count, views), -1, np.int64)
    return {
        "present": np.ones((count, views), np.uint8),
        "t_device_ns": nothing,
        "t_host_ns": nothing,
        "frame_number": nothing,
        "frame_id": frame_id.astype(np.uint64),
        "subject": subject.astype(np.int32),
        "sequence": frame_id.astype(np.int32),
        "split": np.zeros(count, np.uint8),
    }


@lru_cache(maxsize=1)
def _studio(config: SynthConfig) -> Studio:
    """Hand, cameras and renderer; a worker makes them once."""
    hand = builtin_hand()
    return Studio(
        hand=mirror(hand) if config.hand == "left" else hand,
        rig=config.make_rig(),
        renderer=open_renderer(config.renderer),
        sensor=config.make_sensor(),
        seed=config.seed,
        crop_px=config.crop_px,
        window_mm=config.window_mm,
    )


def _created(config: SynthConfig, studio: Studio, out: Path, *, overwrite: bool) -> Recording:
    values = config.model_dump(mode="json")
    recording = create_recording(
        out,
        kind="synthetic",
        rig=studio.rig,
        hand=config.hand,
        provenance={
            **provenance_of(config.renderer),
            "command": "synth run",
            "config": values,
            "seed": config.seed,
            "sensor": None if studio.sensor is None else sensors.describe(studio.sensor),
            "hand": studio.hand.name,
        },
        overwrite=overwrite,
    )
    recording.create_crops(
        parts=config.parts, crop_px=config.crop_px, window_mm=config.window_mm, unit_frames=config.unit_frames
    )
    recording.create_labels(
        layout="openxr26", pose_size=POSE_SIZE, shape_size=SHAPE_SIZE, root_size=ROOT_SIZE,
        attributes={
            "joint_names": list(OPENXR26),
            "pose_names": [dof.name for dof in studio.hand.dof],
            "shape_names": list(SHAPE_NAMES),
        },
        unit_frames=config.unit_frames,
    )  # fmt: skip
    # The last: a recording that has it has the others.
    recording.create_frames(depth=False, unit_frames=config.unit_frames)
    return recording


def _continued(config: SynthConfig, out: Path) -> Recording | None:
    """The interrupted recording at `out`; None where there is none yet, or it was cut off at its beginning."""
    if not out.exists() or not (out / "frames" / "committed.json").exists():
        return None
    recording = open_recording(out, writable=True)
    before = recording.provenance.get("config")
    if not isinstance(before, Mapping) or recording.kind != "synthetic":
        raise HandloomError("This recording was not made by 'synth run'", where=str(out))
    now = config.model_dump(mode="json")
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed or recording.rig != config.make_rig():
        name = changed[0] if changed else "rig"
        raise HandloomError(
            "The recording was begun with another configuration",
            where=str(out),
            why=f"'{name}' was {before.get(name)!r} and is now {now.get(name)!r}",
            fix="resume with the same options, or add --overwrite to begin again",
        )
    return recording


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


def _worked(config: SynthConfig, out: Path, todo: list[int], jobs: int) -> Iterator[int]:
    """Make and write the units, each yielded when it lies on the disk."""
    if jobs == 1 or len(todo) < 2:
        for unit in todo:
            yield _make_and_write(config, out, unit)
        return
    _warm(_studio(config).renderer, config)
    with _one_thread_each():
        pool = ProcessPoolExecutor(min(jobs, len(todo)), mp_context=get_context("spawn"))
        try:
            yield from _first_come(pool, config, out, todo)
        except BrokenProcessPool as error:
            raise HandloomError(
                "A worker process died",
                where=str(out),
                why="the system ended it, most often for want of memory",
                fix="run again with --resume and fewer --jobs",
                exit_code=BAD_ENVIRONMENT,
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _first_come(pool: ProcessPoolExecutor, config: SynthConfig, out: Path, todo: list[int]) -> Iterator[int]:
    pending: set[Future[int]] = {pool.submit(_make_and_write, config, out, unit) for unit in todo}
    while pending:
        ready, pending = wait(pending, return_when=FIRST_COMPLETED)
        for future in ready:
            yield future.result()


def _make_and_write(config: SynthConfig, out: Path, unit: int) -> int:
    rows = make_unit(config, _studio(config), unit)
    for name in TABLES:
        Table.open(out / name, writable=True).write_unit(unit, rows[name], marker=True)
    return unit


def _warm(renderer: Renderer, config: SynthConfig) -> None:
    """Have numba compile and cache every kernel before several workers would do it at once."""
    if renderer.name == "raster":
        small = config.model_copy(update={"frames": 1})
        make_unit(small, _studio(config), 0)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let the processes that start meanwhile run one thread each: threads inside one cost more than they give."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
