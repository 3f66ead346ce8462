"""Training reads of sets larger than memory: a bounded pool of decoded rows, drawn from in a shuffled order.

`order.py` says which rows are needed together; this holds them. The pool has two halves: one group is drawn from
while threads read the next one into the other half, straight from the shards (index, one `pread` a row, CRC-32C,
Blosc). Threads only fill places that are known beforehand, so their number changes nothing but the time.

    with PoolReader([Source(open_recording(path))], memory_mb=1000, seed=0) as reader:
        for batch in reader.epoch(64):
            ...                      # batch.arrays["crop"]: (64, V, S, S); batch.row, batch.source
        state = reader.state         # two numbers; `reader.seek(*state)` goes on from there

Cost: 0.03 to 0.04 ms of CPU a 192² crop, decoding and copying together (`benchmarks/reads.py`). Memory: the pool
of `memory_mb`, one compressed row a thread, and 16 bytes a row of the recordings for the order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from .columns import Column
from .errors import HandloomError
from .order import I64, Group, Order, group_rows
from .recording import Recording
from .table import Table

CROPS = ("crop",)


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of one recording in a stream."""

    recording: Recording
    rows: I64 | None = None
    """Ascending; all when left out."""

    @property
    def chosen(self) -> I64:
        """The rows."""
        return np.arange(self.recording.n_frames) if self.rows is None else self.rows


@dataclass(slots=True)
class _Half:
    base: int
    """First place in the buffers."""
    group: Group | None = None
    reading: tuple[Future[None], ...] = ()


class ShardPool:
    """Two groups of rows of some arrays, all in `crops/` or all in `frames/`; `close` it, or use it as a context."""

    def __init__(
        self, sources: Sequence[Source], order: Order, *, arrays: Sequence[str] = CROPS, threads: int = 1
    ) -> None:
        """Nothing is read or allocated before the first draw.

        Args:
            sources: whose rows, one after the other, are the rows that the order counts.
            order: of the items.
            arrays: which arrays to read.
            threads: that read ahead; 0: reading happens in the draw.

        Raises:
            HandloomError: a recording lacks an array, or it has other sizes there.
        """
        self.order, self._threads = order, threads
        self.columns = shared_columns(sources, arrays)
        self._tables = [_table(source.recording, arrays) for source in sources]
        self._chosen = [source.chosen for source in sources]
        self._ends = np.cumsum([len(rows) for rows in self._chosen])
        self._halves: tuple[_Half, _Half] = (_Half(0), _Half(order.rows_at_once))
        self._buffers: dict[str, NDArray[Any]] = {}
        self._workers: ThreadPoolExecutor | None = None

    def draw(self, place: int, n: int) -> Iterator[tuple[I64, I64]]:
        """The items at the n places from `place` on, in parts: items (m,) and where in `buffers` their rows lie (m,).

        What a part points to stays in memory until the next one is asked for.

        Raises:
            HandloomError: a row is damaged or lost; it says which, of which array.
        """
        for key, some in self.order.spans(place, n):
            half = self._hold(key)
            assert half.group is not None
            yield half.group.items[some], half.base + half.group.row[some]

    @property
    def buffers(self) -> dict[str, NDArray[Any]]:
        """By array, (2 × rows of a group, …)."""
        if not self._buffers:
            rows = 2 * self.order.rows_at_once
            self._buffers = {c.name: np.empty((rows, *c.shape), c.dtype) for c in self.columns}
        return self._buffers

    def source_of(self, rows: I64) -> tuple[I64, I64]:
        """For rows as the order counts them: the number of their recording (n,) and their row there (n,)."""
        number = np.searchsorted(self._ends, rows, "right")
        within = rows - (self._ends - np.array([len(r) for r in self._chosen]))[number]
        row = np.zeros(len(rows), np.int64)
        for i, chosen in enumerate(self._chosen):
            row[number == i] = chosen[within[number == i]]
        return number, row

    def close(self) -> None:
        """Stop reading and give the memory back; a later draw begins anew."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)
        self._workers = None
        self._buffers = {}
        for half in self._halves:
            half.group, half.reading = None, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hold(self, key: tuple[int, int]) -> _Half:
        """The half with this group, read; the next group is on its way into the other."""
        here, other = self._halves
        if other.group is not None and other.group.key == key:
            here, other = other, here
        if here.group is None or here.group.key != key:
            self._start(here, key)
        for future in here.reading:
            future.result()
        here.reading = ()
        following = self.order.after(key)
        if self._threads and (other.group is None or other.group.key != following):
            self._start(other, following)
        return here

    def _start(self, half: _Half, key: tuple[int, int]) -> None:
        for future in half.reading:
            future.exception()  # whatever it was, nobody wants this group any more
        half.group, half.reading = None, ()
        group = self.order.group(*key)
        numbers, rows = self.source_of(group.rows)
        buffers = {name: values[half.base : half.base + len(rows)] for name, values in self.buffers.items()}
        jobs = [
            (self._tables[int(numbers[part.start])], rows[part], {n: b[part] for n, b in buffers.items()})
            for part in _parts(numbers, rows, [t.unit_frames for t in self._tables])
        ]
        if self._threads:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(self._threads, thread_name_prefix="handloom-pool")
            half.reading = tuple(self._workers.submit(_read, *job) for job in jobs)
        else:
            for job in jobs:
                _read(*job)
        half.group = group


def _read(table: Table, rows: I64, out: dict[str, NDArray[Any]]) -> None:
    for name, values in out.items():
        table.read_rows(name, rows, out=values)


def _parts(numbers: I64, rows: I64, unit_frames: Sequence[int]) -> Iterator[slice]:
    """Runs of rows that lie in one file."""
    units = np.array(unit_frames)[numbers]
    ends = np.flatnonzero((np.diff(numbers) != 0) | (np.diff(rows // units) != 0)) + 1
    bounds = [0, *ends.tolist(), len(rows)]
    for start, stop in pairwise(bounds):
        yield slice(start, stop)


def _table(recording: Recording, arrays: Sequence[str]) -> Table:
    for table in (recording.crops, recording.frames):
        if table is not None and all(name in table.columns for name in arrays):
            if table.committed < recording.n_frames:
                raise HandloomError(
                    "The recording has no crops of the hand yet",
                    where=str(recording.path),
                    why=f"{table.committed} of {recording.n_frames} frames were located",
                    fix=f"handloom capture locate {recording.path}",
                )
            return table
    raise HandloomError(
        f"The recording has no {' and '.join(repr(name) for name in arrays)} to read",
        where=str(recording.path),
        fix=f"handloom capture locate {recording.path}" if "crop" in arrays else "handloom store info",
    )


def shared_columns(sources: Sequence[Source], arrays: Sequence[str]) -> list[Column]:
    """What the arrays are, the same in every recording.

    Raises:
        HandloomError: one lacks an array, or has it in another size.
    """
    assert sources
    found = [[_table(source.recording, arrays).columns[name] for name in arrays] for source in sources]
    for source, columns in zip(sources, found, strict=True):
        for mine, first in zip(columns, found[0], strict=True):
            if (mine.shape, mine.dtype) != (first.shape, first.dtype):
                raise HandloomError(
                    f"The recordings cannot be read as one stream: '{mine.name}' differs",
                    where=f"{sources[0].recording.path}, {source.recording.path}",
                    why=f"{first.shape} {first.dtype} and {mine.shape} {mine.dtype}",
                    fix="read recordings with the same number of cameras and crop size together",
                )
    return found[0]


def row_bytes(columns: Sequence[Column]) -> int:
    """What a row of these arrays takes in memory."""
    return sum(int(np.prod(c.shape, dtype=np.int64)) * np.dtype(c.dtype).itemsize for c in columns)


def units_of(sources: Sequence[Source], arrays: Sequence[str] = CROPS) -> I64:
    """(T,) the file of each row of all sources, one after the other, numbered through."""
    parts, first = [], 0
    for source in sources:
        table = _table(source.recording, arrays)
        parts.append(first + source.chosen // table.unit_frames)
        first += -(-table.committed // table.unit_frames)
    return np.concatenate(parts)


class Place(NamedTuple):
    """Where a reader stands: all that a resume needs."""

    epoch: int
    position: int
    """Rows of this rank already given in the epoch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows in the order in which they were drawn."""

    source: I64
    """(B,) the number of the recording."""
    row: I64
    """(B,) in that recording."""
    arrays: dict[str, NDArray[Any]]
    """By name, (B, …); the batch's own."""

    def __len__(self) -> int:
        return len(self.row)


class PoolReader:
    """Batches of whole rows of several recordings, each row exactly once an epoch over all ranks together.

    What comes is a function of (recordings and their rows, `seed`, epoch, `rank`, `ranks`, `memory_mb`); threads
    change nothing. The number of ranks may change from one epoch to the next: make a new reader and `seek`.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        memory_mb: float,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        arrays: Sequence[str] = CROPS,
        threads: int = 1,
    ) -> None:
        """Describe the stream; nothing is read yet.

        Args:
            sources: recordings with the same arrays, and which of their rows.
            memory_mb: bound of the decoded rows, both halves of the pool together.
            seed: of the order.
            rank: which of the `ranks` processes that share an epoch this is.
            ranks: how many there are.
            arrays: of `crops/`, or of `frames/`.
            threads: that read ahead; 0: none.

        Raises:
            HandloomError: nothing to read, arrays that do not go together, or too little memory.
        """
        if not sum(len(source.chosen) for source in sources):
            raise HandloomError(
                "There are no rows to read", where=", ".join(str(source.recording.path) for source in sources)
            )
        for source in sources:
            assert (np.diff(source.chosen) > 0).all(), "rows must ascend"
        size = row_bytes(shared_columns(sources, arrays))
        units = units_of(sources, arrays)
        at_once = group_rows(size, memory_mb, where=[str(source.recording.path) for source in sources])
        rows = np.arange(len(units))
        at_once = min(at_once, max(2, len(rows)))
        self._order = Order(rows, units, rows_at_once=at_once, seed=seed, rank=rank, ranks=ranks, name="rows")
        self._pool = ShardPool(sources, self._order, arrays=arrays, threads=threads)
        self._place = Place(0, 0)

    def __len__(self) -> int:
        """Rows of this rank in an epoch."""
        return len(self._order)

    @property
    def state(self) -> Place:
        """Where the next batch begins."""
        return self._place

    def seek(self, epoch: int, position: int = 0) -> None:
        """Go on from there, as a reader would that had come so far without a stop."""
        assert 0 <= position <= len(self), f"position {position} of {len(self)}"
        self._place = Place(epoch, position)

    def read(self, n: int) -> Batch:
        """The next n rows, fewer at the end of an epoch; none once there, until `seek` begins another one.

        Raises:
            HandloomError: a row is damaged or lost; it says which, of which array.
        """
        epoch, position = self._place
        n = min(n, len(self) - position)
        arrays = {c.name: np.empty((n, *c.shape), c.dtype) for c in self._pool.columns}
        rows, done = np.zeros(n, np.int64), 0
        for items, slots in self._pool.draw(epoch * len(self) + position, n):
            part = slice(done, done + len(items))
            rows[part] = items
            for name, values in arrays.items():
                np.take(self._pool.buffers[name], slots, axis=0, out=values[part], mode="clip")  # "raise" copies twice
            done += len(items)
        self._place = Place(epoch, position + n)
        return Batch(*self._pool.source_of(rows), arrays)

    def epoch(self, batch: int) -> Iterator[Batch]:
        """What is left of the current epoch in batches, the last one short; then the next epoch begins."""
        while self._place.position < len(self):
            yield self.read(batch)
        self.seek(self._place.epoch + 1)

    def close(self) -> None:
        """Stop reading ahead and give the memory back."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
