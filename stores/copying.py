"""Whole recordings copied as they are, byte by byte: from disk to S3, back, or from disk to disk.

The description of the recording (its own `zarr.json`) is written last, and removed first where an old recording is
replaced: what an interrupted copy leaves is never taken for a recording. On a disk the copy is made in a hidden
folder beside and renamed when it is whole. Whether what arrived is what was sent, `store verify --deep` says: every
byte of a recording is covered by a checksum. Files go in parts of some MB: memory does not grow with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Final

from .durable import flush, in_parallel
from .errors import HandloomError
from .recording import open_recording, prepare_output
from .s3 import S3Path, asking, located, sizes_below
from .table import COMMIT_FILE, LOCK_FILE, refuse_if_written

ROOT: Final = "zarr.json"
TRANSFERS: Final = 8
"""Files on their way at the same time."""

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was copied."""

    frames: int
    files: int
    bytes: int


def copy(source: Path, destination: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Copied:
    """Copy a closed recording; either side may be s3://BUCKET/R.zarr.

    Args:
        source: a recording that nobody writes.
        destination: where nothing lies yet.
        overwrite: replace what lies there: a recording, or in S3 what an interrupted copy left.
        progress: told of bytes done.

    Raises:
        HandloomError: the source is no recording or being written, the destination is taken, S3 refuses.
    """
    source, destination = located(source), located(destination)
    frames = open_recording(source).n_frames
    for name in ("frames", "crops", "labels"):
        if not isinstance(source, S3Path):
            refuse_if_written(source / name)
    sizes = {
        name: size
        for name, size in sorted(sizes_below(source).items(), key=lambda item: _turn(item[0]))
        if PurePosixPath(name).name != LOCK_FILE and not PurePosixPath(name).name.startswith(".")
    }
    if source == destination or destination in source.parents or source in destination.parents:
        raise HandloomError("The copy would lie on its own source", where=str(destination), fix="choose another place")
    if isinstance(destination, S3Path):
        _to_bucket(source, destination, sizes, overwrite=overwrite, progress=progress)
    else:
        _to_disk(source, destination, sizes, overwrite=overwrite, progress=progress)
    return Copied(frames, len(sizes), sum(sizes.values()))


def _turn(name: str) -> tuple[int, str]:
    """Data before what describes it, the recording's own description last."""
    path = PurePosixPath(name)
    if name == ROOT:
        return 3, name
    return {ROOT: 1, COMMIT_FILE: 2}.get(path.name, 0), name


def _to_bucket(
    source: Path, destination: S3Path, sizes: dict[str, int], *, overwrite: bool, progress: Progress | None
) -> None:
    import obstore

    if not destination.key:
        raise HandloomError(
            "A recording needs a name in its bucket", where=str(destination), fix=f"{destination}/R.zarr"
        )
    there = destination.sizes()
    if there and not overwrite:
        whole = ROOT in there
        raise HandloomError(
            "The output exists already" if whole else "Something lies at the output already",
            where=str(destination),
            why="" if whole else f"{len(there)} objects, and no recording: left by an interrupted copy?",
            fix="add --overwrite, or choose another place",
        )
    if there and ROOT not in there and not any(name.endswith(f"/{ROOT}") or "/c." in name for name in there):
        raise HandloomError(
            "Refusing to overwrite what is not a recording", where=str(destination), fix="choose another place"
        )
    store = destination.store
    with asking(destination):
        if ROOT in there:
            obstore.delete(store, f"{destination.key}/{ROOT}")

    def put(name: str) -> None:
        target, place = f"{destination.key}/{name}", source / name
        if not isinstance(place, S3Path):
            with asking(destination / name):
                obstore.put(store, target, place)
            return
        with TemporaryFile() as between:  # obstore cannot read and write in one call
            _fetch(place, between)
            between.seek(0)
            with asking(destination / name):
                obstore.put(store, target, between)

    _in_turns(put, sizes, progress)
    stale = [f"{destination.key}/{name}" for name in there if name not in sizes]
    if stale:
        with asking(destination):
            obstore.delete(store, stale)


def _to_disk(
    source: Path, destination: Path, sizes: dict[str, int], *, overwrite: bool, progress: Progress | None
) -> None:
    if destination.exists() and not overwrite:
        prepare_output(destination, overwrite=False)
    beside = destination.with_name(f".{destination.name}.copying")
    shutil.rmtree(beside, ignore_errors=True)
    for folder in {beside / PurePosixPath(name).parent for name in sizes}:
        folder.mkdir(parents=True, exist_ok=True)

    def fetch(name: str) -> None:
        if isinstance(source, S3Path):
            with (beside / name).open("wb") as file:
                _fetch(source / name, file)
        else:
            shutil.copyfile(source / name, beside / name)

    try:
        _in_turns(fetch, sizes, progress)
        folders = {beside, *(folder for folder in beside.rglob("*") if folder.is_dir())}
        in_parallel(flush, [*(beside / name for name in sizes), *folders])
        prepare_output(destination, overwrite=overwrite)
        beside.rename(destination)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    flush(destination.parent)


def _fetch(place: S3Path, file: IO[bytes]) -> None:
    for part in place.read_parts():
        file.write(part)


def _in_turns(move: Callable[[str], None], sizes: dict[str, int], progress: Progress | None) -> None:
    """Move the files of each turn at the same time, the turns one after the other."""
    done, total = 0, sum(sizes.values())
    for turn in range(4):
        names = [name for name in sizes if _turn(name)[0] == turn]
        with ThreadPoolExecutor(TRANSFERS, thread_name_prefix="handloom-copy") as pool:
            futures = {name: pool.submit(move, name) for name in names}
            try:
                for name, future in futures.items():
                    future.result()
                    done += sizes[name]
                    if progress is not None:
                        progress(done, total)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
