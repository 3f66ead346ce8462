"""Files that survive a kill and a power cut: written beside, flushed, renamed, their folders flushed as well.

A flush waits for the disk (4 ms each on a small server, two or three a file); `in_parallel` lets the waits of
all arrays of a unit overlap, which the file system merges into a few.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from .errors import BAD_ENVIRONMENT, HandloomError

COPY_AGAIN: Final = "copy the recording again, whole, or record or synthesise it again"
T = TypeVar("T")
WRITERS: Final = 8
"""Threads that wait for the disk at the same time."""


class DurableStore(LocalStore):  # type: ignore[misc]  # zarr is untyped to us
    """Zarr's folder on the disk, whose writes have reached the disk when they return; Zarr's own have not."""

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write one file."""
        write_bytes(self.root / key, value.as_buffer_like())

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file without blocking Zarr's event loop."""
        await asyncio.to_thread(self.set_sync, key, value)


def durable_store(path: Path) -> Store:
    """A writable store of the group at `path`."""
    return DurableStore(path)


def write_bytes(path: Path, data: Any) -> None:
    """Old or new, never half, whatever is cut off when."""
    made = _make_folders(path.parent)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    flush(path.parent)
    for folder in made:
        flush(folder.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """`write_bytes` of a JSON object."""
    write_bytes(path, json.dumps(value, indent=2).encode())


def sealed(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the SHA-256 of all else that it says, as `seal`: in its attributes where it is Zarr's."""
    out = {key: value for key, value in document.items() if key != "seal"}
    if "zarr_format" in out:
        said = {key: value for key, value in (out.get("attributes") or {}).items() if key != "seal"}
        out["attributes"] = said
        out["attributes"] = said | {"seal": _digest(out)}
        return out
    return out | {"seal": _digest(out)}


def seal_file(path: Path) -> None:
    """Seal the description that Zarr wrote at `path`."""
    path.write_text(json.dumps(sealed(json.loads(path.read_text())), indent=2))


def seal_holds(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object still says what it did when it was sealed; what was never sealed cannot tell."""
    said = (document.get("attributes") or {}) if "zarr_format" in document else document
    return "seal" not in said or sealed(document) == document


def refuse_changed(path: Path, document: Mapping[str, Any]) -> None:
    """Stop where the JSON object of a file does not match its seal; costs 0.05 ms.

    Raises:
        HandloomError: it was changed after it was written.
    """
    if not seal_holds(document):
        raise HandloomError(
            "A file of the recording was changed after it was written",
            where=str(path),
            why="what it says does not match its seal",
            fix=COPY_AGAIN,
        )


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def disk_error(error: OSError, where: Path, *, fix: str = "") -> HandloomError:
    """What the disk said, in the user's words."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return HandloomError(
        "The disk is full" if full else "The output cannot be written",
        where=str(where),
        why=error.strerror or str(error),
        fix=fix,
        exit_code=BAD_ENVIRONMENT,
    )


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def in_parallel(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do `work` on all items in a few threads; the first error is raised when all have ended."""
    with ThreadPoolExecutor(WRITERS, thread_name_prefix="handloom-disk") as pool:
        for _ in pool.map(work, items):
            pass


def _make_folders(folder: Path) -> list[Path]:
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made
