"""A table of rows in one Zarr group that grows in whole units and says how many rows are safe to read.

Every array's outer chunk (shard) along the rows is one unit; inside it each row is a chunk of its own with a
CRC-32C, so one image can be read and one flipped bit found. The rules that keep a table true:

- a writer writes whole units only; the last one may be short. Two writers never share a shard.
- `committed` moves after the data is on the disk (data fsync, then an atomic rename), never before.
- readers clamp to `committed`, never to an array's shape, which runs ahead of the data after a crash.
- a shard that is missing below `committed` is an error; Zarr alone would read it as zeros.

Captures have one writer (`Appender`). Synthesis makes the shapes first (`resize`), then any process writes
the units it owns (`write_unit` leaves a marker with a checksum) and the parent alone moves `committed`
(`commit_prefix`).

Zarr makes the arrays and writes the small ones; all reading, and rows with a chunk of their own, go through
`shards.py`, which takes a tenth of Zarr's time for scattered rows and a third for a unit, and reads from S3 too.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, Final, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from .codec import codec_named
from .columns import BLOCK_BYTES, Column, check_array, checksum, create_array, described_column
from .documents import read_json_object
from .durable import (
    COPY_AGAIN,
    durable_store,
    flush,
    in_parallel,
    refuse_changed,
    seal_file,
    sealed,
    write_bytes,
    write_json,
)
from .errors import HandloomError
from .s3 import S3Path
from .shards import encode_shard, read_shard, read_unit

COMMIT_FILE: Final = "committed.json"
LOCK_FILE: Final = ".writer"
MARKERS: Final = "units"

Rows = Mapping[str, NDArray[Any]]


class Table:
    """The open table; make one with `Table.create` or `Table.open`."""

    def __init__(
        self,
        path: Path,
        columns: Sequence[Column],
        unit_frames: int,
        attributes: Mapping[str, Any],
        group: zarr.Group | None,
    ) -> None:
        self.path = path
        self.attributes = dict(attributes)
        """What was said of the table when it was made."""
        self.columns: dict[str, Column] = {column.name: column for column in columns}
        self.unit_frames = unit_frames
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._committed = _read_committed(path)
        self._lock: int | None = None

    @classmethod
    def create(cls, path: Path, columns: Sequence[Column], *, unit_frames: int, attributes: Mapping[str, Any]) -> Self:
        """An empty table in a new group at `path`."""
        described = {"unit_frames": unit_frames, "columns": [asdict(column) for column in columns]}
        group = zarr.create_group(path, attributes={**attributes, **described})
        for column in columns:
            create_array(group, column, unit_frames)
        for description in path.rglob("zarr.json"):
            seal_file(description)
        write_json(path / COMMIT_FILE, sealed({"rows": 0}))
        return cls(path, columns, unit_frames, attributes, zarr.open_group(durable_store(path)))

    @classmethod
    def open(cls, path: Path, *, writable: bool = False, check: bool = True) -> Self:
        """The table at `path`.

        Args:
            path: of its group.
            writable: whether units will be written.
            check: look for the files of all committed rows; a worker that writes one unit of thousands need not.

        Raises:
            HandloomError: it is missing, its description cannot be read, or files of committed rows are gone.
        """
        try:
            described = read_json_object(path / "zarr.json")
            refuse_changed(path / "zarr.json", described)
            group = zarr.open_group(durable_store(path), mode="r+") if writable else None
            said = described["attributes"]
            columns = [described_column(entry) for entry in _list(said["columns"])]
            unit_frames = int(str(said["unit_frames"]))
            if unit_frames < 1 or not columns:
                raise ValueError(f"units of {unit_frames} rows, {len(columns)} columns")
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise HandloomError(
                "A table of the recording cannot be opened", where=str(path), why=str(error) or repr(error)
            ) from error
        attributes = {name: value for name, value in said.items() if name not in ("columns", "unit_frames", "seal")}
        table = cls(path, columns, unit_frames, attributes, group)
        for column in columns if check else ():
            check_array(path, column, table.committed)
            there = {file.name for file in (path / column.name).iterdir()}
            for unit in range(-(-table.committed // unit_frames)):
                if PurePath(column.unit_key(unit)).name not in there:
                    raise table._lost(column, unit)
        return table

    @property
    def committed(self) -> int:
        """How many rows may be read."""
        return self._committed

    def refresh(self) -> int:
        """Look again how many rows another process has committed."""
        self._committed = _read_committed(self.path)
        self._arrays.clear()  # they know the shape they were opened with
        return self._committed

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows `start` to `stop` of one array, clamped to `committed`.

        Raises:
            HandloomError: a shard is missing or a checksum does not match.
        """
        start, stop = max(start, 0), self._committed if stop is None else min(stop, self._committed)
        return self.read_rows(name, range(start, max(start, stop)))

    def read_rows(self, name: str, rows: Iterable[int], *, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The given rows of one array, in their order; all of them committed.

        Costs 0.03 ms a 192² crop; rows of one unit that follow each other share the opening of their file.

        Args:
            name: of the array.
            rows: their numbers.
            out: (rows, …) contiguous, of the array's type, to read into; a new array is made without.

        Raises:
            HandloomError: a shard is missing or a checksum does not match.
        """
        column, wanted = self.columns[name], np.fromiter(rows, np.int64)
        assert not len(wanted) or (wanted.min() >= 0 and wanted.max() < self._committed), "rows beyond `committed`"
        if out is None:
            out = np.empty((len(wanted), *column.shape), column.dtype)
        assert (out.shape, out.dtype) == ((len(wanted), *column.shape), np.dtype(column.dtype)), "out does not fit"
        read = self._read_shards if column.sharded else self._read_small
        return read(column, wanted, out)

    def _read_shards(self, column: Column, wanted: NDArray[np.int64], out: NDArray[Any]) -> NDArray[Any]:
        bad: list[int] = []
        for unit, part in _runs(wanted // self.unit_frames):
            first = unit * self.unit_frames
            try:
                path = self.path / column.unit_key(unit)
                lost = read_shard(path, self.unit_frames, (wanted[part] - first).tolist(), out[part])
            except FileNotFoundError as error:
                raise self._lost(column, unit) from error
            bad += [first + row for row in lost]
        if bad:
            raise self._damaged(column.name, sorted(set(bad)))
        return out

    def _read_small(self, column: Column, wanted: NDArray[np.int64], out: NDArray[Any]) -> NDArray[Any]:
        for unit, part in _runs(wanted // self.unit_frames):
            first, path = unit * self.unit_frames, self.path / column.unit_key(unit)
            values = read_unit(path, (self.unit_frames, *column.shape), np.dtype(column.dtype))
            if values is None:
                if not path.exists():
                    raise self._lost(column, unit)
                raise self._damaged(column.name, list(range(first, min(first + self.unit_frames, self._committed))))
            out[part] = values[wanted[part] - first]
        return out

    def iter_units(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """The committed rows unit by unit: first row and the named arrays."""
        for start in range(0, self._committed, self.unit_frames):
            yield start, {name: self.read(name, start, start + self.unit_frames) for name in names}

    def _lost(self, column: Column, unit: int) -> HandloomError:
        first = unit * self.unit_frames
        last = min(first + self.unit_frames, self._committed) - 1
        return HandloomError(
            f"The recording is truncated: '{column.name}' has lost rows {first} to {last}",
            where=str(self.path / column.unit_key(unit)),
            why="the file of these rows is gone though they were committed",
            fix=COPY_AGAIN,
        )

    def _damaged(self, name: str, rows: list[int]) -> HandloomError:
        said = ", ".join(map(str, rows)) if len(rows) <= 8 else f"{rows[0]} to {rows[-1]}, {len(rows)} in all"
        return HandloomError(
            f"'{name}' is damaged in row{'s' if len(rows) > 1 else ''} {said}",
            where=str(self.path / name),
            why="the bytes on the disk are missing or do not match their checksum",
            fix=COPY_AGAIN,
        )

    # -- writing -----------------------------------------------------------------------------------------

    def lock(self, *, shared: bool = False) -> None:
        """Become the table's one writer until `unlock` or the end of the process.

        Args:
            shared: become one of several that write units of their own and commit nothing.

        Raises:
            HandloomError: another process writes it.
        """
        if isinstance(self.path, S3Path):
            self.path.refuse()
        self._lock = _locked(self.path, shared=shared)
        if shared:
            return
        for left in self.path.rglob(".*.*"):  # what killed writers had not renamed yet
            left.unlink(missing_ok=True)

    def unlock(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def resize(self, rows: int) -> None:
        """Make room for `rows` rows in every array without committing any; never fewer than are committed."""
        assert rows >= self._committed

        def grow(column: Column) -> None:
            # Not Array.resize: its write would not be flushed before it replaces the description.
            path = self.path / column.name / "zarr.json"
            write_json(path, sealed(json.loads(path.read_text()) | {"shape": [rows, *column.shape]}))

        in_parallel(grow, self.columns.values())
        self._arrays.clear()

    def write_unit(self, unit: int, rows: Rows, *, marker: bool = False) -> None:
        """Write one whole unit of every array; it lies on the disk when this returns.

        Args:
            unit: the unit's number; it holds the rows from `unit * unit_frames`.
            rows: all columns, `unit_frames` rows each; fewer only where they are the table's last.
            marker: leave a marker with the checksum, for `commit_prefix`.
        """
        assert set(rows) == set(self.columns), f"columns {set(rows) ^ set(self.columns)} do not match the table's"
        counts = {len(values) for values in rows.values()}
        assert len(counts) == 1, f"columns of different lengths: {counts}"
        (count,) = counts
        start = unit * self.unit_frames
        length = self._array(next(iter(self.columns))).shape[0]
        assert 0 < count <= self.unit_frames, f"{count} rows do not fit a unit of {self.unit_frames}"
        assert start + count <= length, f"unit {unit} lies outside the table's {length} rows: resize first"
        assert count == self.unit_frames or start + count == length, "only the last unit may be short"
        values = {name: np.ascontiguousarray(rows[name], column.dtype) for name, column in self.columns.items()}
        for name, column in self.columns.items():
            assert values[name].shape[1:] == column.shape, f"{name}: rows of {values[name].shape[1:]}"
            self._array(name)  # opened before the threads would do it at once

        def put(name: str) -> None:
            column = self.columns[name]
            if column.sharded:
                codec = codec_named(column.codec, where=str(self.path))
                shard = encode_shard(values[name], self.unit_frames, codec=codec, block_bytes=BLOCK_BYTES)
                write_bytes(self.path / column.unit_key(unit), shard)
                return
            if start >= self._committed:
                # What an interrupted writer left may be torn, and Zarr reads a shard before it fills part of it.
                (self.path / self.columns[name].unit_key(unit)).unlink(missing_ok=True)
            self._array(name)[start : start + count] = values[name]

        in_parallel(put, self.columns)
        if marker:
            value = {"rows": count, "checksum": checksum(values[name] for name in self.columns)}
            write_json(self.path / MARKERS / f"{unit}.json", sealed(value))

    def rewrite(self, name: str, values: NDArray[Any]) -> None:
        """Replace all committed rows of a small array, unit by unit, each old or new and never half."""
        column = self.columns[name]
        assert not column.sharded, f"{name}: its rows are chunks of their own"
        assert values.shape == (self._committed, *column.shape)
        for start in range(0, self._committed, self.unit_frames):
            self._array(name)[start : start + self.unit_frames] = values[start : start + self.unit_frames]

    def commit(self, rows: int) -> None:
        """Declare the first `rows` rows safe to read."""
        if self._committed == 0:
            self._flush_descriptions()
        write_json(self.path / COMMIT_FILE, sealed({"rows": rows}))
        self._committed = rows

    def _flush_descriptions(self) -> None:
        """Once: what was made with the table and the recording, and the folders they lie in."""
        recording = self.path.parent
        names = {Path(name) for name in self.columns} | {Path(name).parent for name in self.columns} | {Path()}
        folders = [self.path / name for name in names]
        files = [path for path in (*(f / "zarr.json" for f in folders), recording / "zarr.json") if path.exists()]
        in_parallel(flush, [*files, *folders, recording, recording.parent])

    def marked(self, unit: int) -> bool:
        """Whether the unit has been written whole: its marker is there and its rows match the checksum."""
        try:
            marker = json.loads((self.path / MARKERS / f"{unit}.json").read_text())
            start, count = unit * self.unit_frames, int(marker["rows"])
            return bool(
                checksum(self._written(column, start, count) for column in self.columns.values()) == marker["checksum"]
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError):
            return False  # a torn marker or shard is as good as none: the unit is written again

    def _written(self, column: Column, start: int, count: int) -> NDArray[Any]:
        """Rows of one unit, committed or not; a third of Zarr's time where each has a chunk."""
        if not column.sharded:
            return np.asarray(self._array(column.name)[start : start + count])
        out = np.empty((count, *column.shape), column.dtype)
        path = self.path / column.unit_key(start // self.unit_frames)
        if count > self.unit_frames or read_shard(path, self.unit_frames, range(count), out):
            raise ValueError("the shard is torn")
        return out

    def commit_prefix(self, done: set[int]) -> int:
        """Commit the units that are `done` from the first on, without a gap; gives the committed rows."""
        length = int(self._array(next(iter(self.columns))).shape[0])
        unit = self._committed // self.unit_frames
        while unit in done:
            unit += 1
        rows = min(unit * self.unit_frames, length)
        if rows > self._committed:
            self.commit(rows)
        return self._committed

    def _array(self, name: str) -> zarr.Array[Any]:
        if name not in self._arrays:
            assert self._group is not None, "the table was opened for reading"
            # The configuration is not stored with the array: without it a unit of zeros would leave no file.
            self._arrays[name] = self._group[name].with_config({"write_empty_chunks": True})
        return self._arrays[name]


class Appender:
    """The one writer of a growing table: rows come in any number, units go out whole.

    Use it as a context manager; leaving it writes the short last unit. An existing table is continued after
    its last committed row.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        table.lock()
        table.refresh()
        self._unit, self._count = divmod(table.committed, table.unit_frames)
        self._failed = False
        self._pending: dict[str, list[NDArray[Any]]] = {name: [] for name in table.columns}
        if self._count:  # the short last unit of an earlier writer, whose shard is to be written whole again
            try:
                for name, parts in self._pending.items():
                    parts.append(table.read(name, self._unit * table.unit_frames))
            except HandloomError:
                table.unlock()
                raise
        self.rows = table.committed
        """Rows given so far, committed or not."""

    def append(self, rows: Rows) -> None:
        """Take some rows of every column; writes and commits each unit that is full."""
        counts = {len(values) for values in rows.values()}
        assert len(counts) == 1
        assert set(rows) == set(self.table.columns)
        for name, values in rows.items():
            self._pending[name].append(np.array(values, self.table.columns[name].dtype))
        given = counts.pop()
        self.rows += given
        self._count += given
        while self._count >= self.table.unit_frames:
            self._flush(self.table.unit_frames)

    def _flush(self, count: int) -> None:
        start = self._unit * self.table.unit_frames
        joined = {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in self._pending.items()}
        self._failed = True
        self.table.resize(start + count)
        self.table.write_unit(self._unit, {name: values[:count] for name, values in joined.items()})
        self.table.commit(start + count)
        self._failed = False
        # A copy: what is left of a unit, be it nothing, would keep the whole of it in memory.
        self._pending = {
            name: [values[count:].copy()] if len(values) > count else [] for name, values in joined.items()
        }
        self._count -= count
        self._unit += 1

    def close(self) -> None:
        """Write what is left as a short unit and let others write.

        Where writing has failed already, as on a full disk, what was committed stays as it is.
        """
        try:
            while self._count and not self._failed:
                self._flush(min(self._count, self.table.unit_frames))
        finally:
            self.table.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def refuse_if_written(path: Path) -> None:
    """Make sure that nobody writes the table at `path`, before it is removed.

    Raises:
        HandloomError: another process does.
    """
    if (path / LOCK_FILE).exists():
        os.close(_locked(path))


def _locked(path: Path, *, shared: bool = False) -> int:
    handle = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise HandloomError(
            "Another process is writing this recording",
            where=str(path),
            fix="wait until it has ended, or write to another --out",
        ) from error
    return handle


def _runs(units: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Each unit with the slice of neighbours that lie in it."""
    ends = [*(np.flatnonzero(np.diff(units)) + 1).tolist(), len(units)] if len(units) else []
    start = 0
    for end in ends:
        yield int(units[start]), slice(start, end)
        start = end


def _read_committed(path: Path) -> int:
    try:
        said = read_json_object(path / COMMIT_FILE)
        rows = said["rows"]
        if type(rows) is not int or rows < 0:
            raise ValueError(rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HandloomError(
            "The recording does not say how many rows it holds",
            where=str(path / COMMIT_FILE),
            why=f"the file is missing or torn ({type(error).__name__})",
            fix=COPY_AGAIN,
        ) from error
    refuse_changed(path / COMMIT_FILE, said)
    return rows


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise TypeError("the column list is not a list")
    return value
