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
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from .errors import HandloomError

COMMIT_FILE: Final = "committed.json"
LOCK_FILE: Final = ".writer"
MARKERS: Final = "units"
SHARDED_FROM_BYTES: Final = 1024
"""Rows smaller than this are not worth a chunk each: their unit is one chunk."""

Rows = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a table: rows of `shape` and `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: int | float = 0
    codec: Literal["capture", "synthesis"] = "synthesis"
    """lz4 keeps up with cameras, zstd-1 packs rendered depth to a tenth."""


class Table:
    """The open table; make one with `Table.create` or `Table.open`."""

    def __init__(self, path: Path, columns: Sequence[Column], unit_frames: int, group: zarr.Group) -> None:
        self.path = path
        self.columns: dict[str, Column] = {column.name: column for column in columns}
        self.unit_frames = unit_frames
        self._group = group
        self._committed = _read_committed(path)
        self._lock: int | None = None

    @classmethod
    def create(
        cls, path: Path, columns: Sequence[Column], *, unit_frames: int, attributes: Mapping[str, Any]
    ) -> Self:
        """An empty table in a new group at `path`."""
        group = zarr.create_group(path)
        for column in columns:
            parent = Path(column.name).parent
            if str(parent) != "." and str(parent) not in group:
                group.create_group(str(parent))
            _create_array(group, column, unit_frames)
        described = {"unit_frames": unit_frames, "columns": [asdict(column) for column in columns]}
        group.update_attributes({**attributes, **described})
        _write_committed(path, 0)
        return cls(path, columns, unit_frames, group)

    @classmethod
    def open(cls, path: Path, *, writable: bool = False) -> Self:
        """The table at `path`.

        Raises:
            HandloomError: it is missing or its description cannot be read.
        """
        try:
            group = zarr.open_group(path, mode="r+" if writable else "r")
            columns = [
                Column(**{**entry, "shape": tuple(entry["shape"])}) for entry in _list(group.attrs["columns"])
            ]
            unit_frames = int(str(group.attrs["unit_frames"]))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise HandloomError(
                "A table of the recording cannot be opened", where=str(path), why=str(error) or repr(error)
            ) from error
        return cls(path, columns, unit_frames, group)

    @property
    def attributes(self) -> dict[str, Any]:
        """What was said of the table when it was made."""
        return {k: v for k, v in self._group.attrs.items() if k not in ("columns", "unit_frames")}

    @property
    def committed(self) -> int:
        """How many rows may be read."""
        return self._committed

    def refresh(self) -> int:
        """Look again how many rows another process has committed."""
        self._committed = _read_committed(self.path)
        return self._committed

    # -- reading -----------------------------------------------------------------------------------------

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Rows `start` to `stop` of one array, clamped to `committed`.

        Raises:
            HandloomError: a shard is missing or a checksum does not match.
        """
        start, stop = max(start, 0), self._committed if stop is None else min(stop, self._committed)
        if stop <= start:
            column = self.columns[name]
            return np.zeros((0, *column.shape), column.dtype)
        for unit in range(start // self.unit_frames, -(-stop // self.unit_frames)):
            if not self._chunk_path(name, unit).exists():
                first = unit * self.unit_frames
                raise HandloomError(
                    f"'{name}' has lost rows {first} to {min(first + self.unit_frames, self._committed) - 1}",
                    where=str(self.path),
                    why="the file of that unit is missing though the rows were committed",
                    fix="copy the recording again, or record or synthesise it again",
                )
        try:
            return np.asarray(self._array(name)[start:stop])
        except Exception as error:  # codecs raise what they like: ValueError, RuntimeError, struct.error
            raise self._damage(name, start, stop) from error

    def iter_units(self, names: Sequence[str]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """The committed rows unit by unit: first row and the named arrays."""
        for start in range(0, self._committed, self.unit_frames):
            yield start, {name: self.read(name, start, start + self.unit_frames) for name in names}

    def _damage(self, name: str, start: int, stop: int) -> HandloomError:
        """Name the rows that cannot be decoded, one by one."""
        bad = [row for row in range(start, stop) if not self._decodes(name, row)]
        rows = ", ".join(map(str, bad[:8])) + (", …" if len(bad) > 8 else "")
        return HandloomError(
            f"'{name}' is damaged in row{'s' if len(bad) > 1 else ''} {rows or f'{start} to {stop - 1}'}",
            where=str(self.path),
            why="the bytes on the disk do not match their checksum",
            fix="copy the recording again, or record or synthesise it again",
        )

    def _decodes(self, name: str, row: int) -> bool:
        try:
            self._array(name)[row : row + 1]
        except Exception:
            return False
        return True

    # -- writing -----------------------------------------------------------------------------------------

    def lock(self) -> None:
        """Become the table's one writer until `unlock` or the end of the process.

        Raises:
            HandloomError: another process writes it.
        """
        handle = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise HandloomError(
                "Another process is writing this recording",
                where=str(self.path),
                fix="wait until it has ended, or write to another --out",
            ) from error
        self._lock = handle

    def unlock(self) -> None:
        """Let others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def resize(self, rows: int) -> None:
        """Make room for `rows` rows in every array without committing any."""
        for name, column in self.columns.items():
            self._array(name).resize((rows, *column.shape))

    def write_unit(self, unit: int, rows: Rows, *, marker: bool = False) -> str:
        """Write one whole unit of every array and flush it to the disk; gives the checksum of its rows.

        Args:
            unit: the unit's number; it holds the rows from `unit * unit_frames`.
            rows: all columns, `unit_frames` rows each; fewer only where they are the table's last.
            marker: leave a marker with the checksum, for `commit_prefix`.
        """
        assert set(rows) == set(self.columns), (
            f"columns {set(rows) ^ set(self.columns)} do not match the table's"
        )
        counts = {len(values) for values in rows.values()}
        assert len(counts) == 1, f"columns of different lengths: {counts}"
        (count,) = counts
        start = unit * self.unit_frames
        length = self._array(next(iter(self.columns))).shape[0]
        assert 0 < count <= self.unit_frames, f"{count} rows do not fit a unit of {self.unit_frames}"
        assert start + count <= length, f"unit {unit} lies outside the table's {length} rows: resize first"
        assert count == self.unit_frames or start + count == length, "only the last unit may be short"
        for name, column in self.columns.items():
            values = np.ascontiguousarray(rows[name], column.dtype)
            assert values.shape[1:] == column.shape, f"{name}: rows of {values.shape[1:]}, not {column.shape}"
            if start >= self._committed:
                # What an interrupted writer left may be torn, and Zarr reads a shard before it fills part of it.
                self._chunk_path(name, unit).unlink(missing_ok=True)
            self._array(name)[start : start + count] = values
            self._flush_to_disk(name, unit)
        checksum = _checksum(self.columns.values(), rows)
        if marker:
            folder = self.path / MARKERS
            folder.mkdir(exist_ok=True)
            _write_atomically(folder / f"{unit}.json", {"rows": count, "checksum": checksum})
        return checksum

    def commit(self, rows: int) -> None:
        """Declare the first `rows` rows safe to read."""
        for name in self.columns:
            _fsync(self.path / name / "zarr.json")
        _write_committed(self.path, rows)
        self._committed = rows

    def marked(self, unit: int) -> bool:
        """Whether the unit has been written whole: its marker is there and its rows match the checksum."""
        try:
            marker = json.loads((self.path / MARKERS / f"{unit}.json").read_text())
            start, count = unit * self.unit_frames, int(marker["rows"])
            rows = {name: np.asarray(self._array(name)[start : start + count]) for name in self.columns}
        except Exception:  # a torn marker or shard is as good as none: the unit is written again
            return False
        return bool(_checksum(self.columns.values(), rows) == marker["checksum"])

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
        # The configuration is not stored with the array: without it a unit of zeros would leave no file.
        return self._group[name].with_config({"write_empty_chunks": True})

    def _flush_to_disk(self, name: str, unit: int) -> None:
        path = self._chunk_path(name, unit)
        _fsync(path)
        for folder in path.parents:  # a file is durable only once its folders are
            if folder == self.path / name:
                break
            _fsync(folder)

    def _chunk_path(self, name: str, unit: int) -> Path:
        zeros = "/0" * len(self.columns[name].shape)
        return self.path / name / f"c/{unit}{zeros}"


class Appender:
    """The one writer of a growing table: rows come in any number, units go out whole.

    Use it as a context manager; leaving it writes the short last unit. An existing table is continued after
    its last committed row.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        table.lock()
        table.refresh()
        whole = table.committed // table.unit_frames * table.unit_frames
        self._unit = whole // table.unit_frames
        # The short last unit of an earlier writer is read back, so that its shard can be written whole again.
        self._pending: dict[str, list[NDArray[Any]]] = {
            name: [table.read(name, whole)] if table.committed > whole else [] for name in table.columns
        }
        self._count = table.committed - whole
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
        joined = {name: np.concatenate(parts) for name, parts in self._pending.items()}
        start = self._unit * self.table.unit_frames
        self.table.resize(start + count)
        self.table.write_unit(self._unit, {name: values[:count] for name, values in joined.items()})
        self.table.commit(start + count)
        self._pending = {name: [values[count:]] for name, values in joined.items()}
        self._count -= count
        self._unit += 1

    def close(self) -> None:
        """Write what is left as a short unit and let others write."""
        try:
            while self._count:
                self._flush(min(self._count, self.table.unit_frames))
        finally:
            self.table.unlock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, OSError):
            self.table.unlock()  # the disk refused already: what was committed stays as it is
        else:
            self.close()


def _create_array(group: zarr.Group, column: Column, unit_frames: int) -> None:
    row_bytes = int(np.prod(column.shape, dtype=np.int64)) * np.dtype(column.dtype).itemsize
    sharded = row_bytes >= SHARDED_FROM_BYTES
    outer = (unit_frames, *(max(n, 1) for n in column.shape))
    blosc = BloscCodec(
        cname="lz4" if column.codec == "capture" else "zstd",
        clevel=1 if column.codec == "synthesis" else 5,
        shuffle="shuffle",
        typesize=np.dtype(column.dtype).itemsize,
    )
    group.create_array(
        column.name,
        shape=(0, *column.shape),
        dtype=column.dtype,
        chunks=(1, *outer[1:]) if sharded else outer,
        shards=outer if sharded else None,
        compressors=[blosc, Crc32cCodec()],
        fill_value=column.fill,
        # Else a unit of zeros would leave no file and could not be told from one that was lost.
        config={"write_empty_chunks": True},
    )


def _checksum(columns: Sequence[Column] | Any, rows: Rows) -> str:
    value = 0
    for column in columns:
        value = zlib.crc32(np.ascontiguousarray(rows[column.name], column.dtype).view(np.uint8).data, value)
    return f"{value:08x}"


def _read_committed(path: Path) -> int:
    try:
        return int(json.loads((path / COMMIT_FILE).read_text())["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HandloomError(
            "The recording does not say how many rows it holds",
            where=str(path / COMMIT_FILE),
            why=f"the file is missing or torn ({type(error).__name__})",
            fix="copy the recording again, whole",
        ) from error


def _write_committed(path: Path, rows: int) -> None:
    _write_atomically(path / COMMIT_FILE, {"rows": rows})


def _write_atomically(path: Path, value: Mapping[str, Any]) -> None:
    """Old or new, never half: write beside, flush, rename, flush the folder."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise TypeError("the column list is not a list")
    return value
