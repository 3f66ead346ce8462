"""The order of a training stream over sets larger than memory: a permutation an epoch that needs few rows at a time.

An *item* is what is drawn (a row, a crop, a pair of crops) and needs one row of a recording. Rows lie in blocks of
neighbours, which are read together. An epoch is made of counters alone:

    blocks   are shuffled by (seed, epoch): the same for every rank;
    ranks    take equal, disjoint slices of the items in that order (their sizes differ by one at most);
    groups   are runs of blocks, as many as half the pool holds; the items of a group are shuffled among
             themselves by (seed, epoch, rank, number of ranks, group).

So each item comes exactly once an epoch, any place of the sequence is found without reading what lies before it,
and no more than two groups are in memory: the one that is drawn from and the one that is being read.

**How well it shuffles.** Two items of a batch are neighbours in the file with probability 2 (1 - 1/b) / (G - 1),
G the rows of a group and b those of a block, instead of 2 / N for the whole set: a batch is drawn as if the
set were G rows large, made of G / b blocks from anywhere. `Order` therefore takes the smallest blocks that are
worth a read, so that a group has at least `BLOCKS` of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError

I64 = NDArray[np.int64]

BLOCKS: Final = 64
"""Blocks of a group, wherever a block would not have to be smaller than a row for it."""


@dataclass(frozen=True, slots=True)
class Group:
    """What is in memory together: some items in the order in which they are drawn."""

    epoch: int
    number: int
    start: int
    """Place in the epoch of the first item."""
    items: I64
    """(n,)."""
    rows: I64
    """(m,) that they need, ascending; m never exceeds the order's `rows_at_once`."""
    row: I64
    """(n,) the place in `rows` of each item's row."""

    @property
    def key(self) -> tuple[int, int]:
        """Epoch and number."""
        return self.epoch, self.number


@dataclass(frozen=True, slots=True)
class _Epoch:
    blocks: I64
    """Blocks of this rank in their order."""
    first: I64
    """(blocks,) the first item of each that belongs to this rank ..."""
    count: I64
    """... and how many do."""
    bounds: I64
    """(groups + 1,) places in `blocks`."""
    starts: I64
    """(groups + 1,) places in the epoch."""


class Order:
    """The sequence of one rank; endless, its epochs one after the other."""

    def __init__(
        self,
        rows: I64,
        units: I64,
        *,
        rows_at_once: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        name: str = "",
    ) -> None:
        """Describe the sequence; nothing is drawn yet.

        Args:
            rows: (M,) the row that each item needs, ascending; rows that nothing needs are never read.
            units: (T,) the file that each row lies in, ascending; blocks never cross files.
            rows_at_once: how many rows a group may have.
            seed: of all permutations.
            rank: which of the `ranks` that share the items this is.
            ranks: how many there are.
            name: tells this sequence from others with the same seed.

        Raises:
            HandloomError: there are fewer items than ranks, or two rows do not fit.
        """
        assert 0 <= rank < ranks
        assert (np.diff(rows) >= 0).all(), "rows of the items must ascend"
        if len(rows) < ranks:
            raise HandloomError(f"{len(rows)} items cannot be shared by {ranks} ranks", fix="start fewer processes")
        if rows_at_once < 2:
            raise HandloomError("The memory for the pool holds less than two rows", fix="give it more")
        self.rows_at_once, self.rank, self.ranks = rows_at_once, rank, ranks
        self._rows, self._seed, self._name = rows, seed, name
        self._first, self._rows_of = _blocks(rows, units, max(1, rows_at_once // BLOCKS))
        total = len(rows)
        self._slice = total * rank // ranks, total * (rank + 1) // ranks
        self._epochs: dict[int, _Epoch] = {}

    def __len__(self) -> int:
        """Items of this rank in an epoch."""
        return self._slice[1] - self._slice[0]

    def groups(self, epoch: int) -> int:
        """How many groups an epoch has."""
        return len(self._epoch(epoch).bounds) - 1

    def group(self, epoch: int, number: int) -> Group:
        """One group of an epoch."""
        plan = self._epoch(epoch)
        some = slice(plan.bounds[number], plan.bounds[number + 1])
        first, count = plan.first[some], plan.count[some]
        ends = np.cumsum(count)
        items = np.repeat(first - (ends - count), count) + np.arange(ends[-1])
        items = items[_shuffled(len(items), self._name, self._seed, epoch, self.rank, self.ranks, number)]
        rows, row = np.unique(self._rows[items], return_inverse=True)
        assert len(rows) <= self.rows_at_once
        return Group(epoch, number, int(plan.starts[number]), items, rows, row)

    def at(self, place: int) -> tuple[int, int]:
        """Epoch and number of the group that holds a place of the endless sequence."""
        epoch, offset = divmod(place, len(self))
        return epoch, int(np.searchsorted(self._epoch(epoch).starts, offset, "right")) - 1

    def after(self, group: tuple[int, int]) -> tuple[int, int]:
        """Epoch and number of the next group."""
        epoch, number = group
        return (epoch, number + 1) if number + 1 < self.groups(epoch) else (epoch + 1, 0)

    def spans(self, place: int, n: int) -> Iterator[tuple[tuple[int, int], slice]]:
        """The groups that hold the n places from `place` on, each with its part of the places within it."""
        while n:
            epoch, number = self.at(place)
            starts = self._epoch(epoch).starts
            offset = place % len(self) - int(starts[number])
            some = min(n, int(starts[number + 1] - starts[number]) - offset)
            yield (epoch, number), slice(offset, offset + some)
            place, n = place + some, n - some

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            for old in [e for e in self._epochs if abs(e - epoch) > 1]:
                del self._epochs[old]
            self._epochs[epoch] = self._planned(epoch)
        return self._epochs[epoch]

    def _planned(self, epoch: int) -> _Epoch:
        order = _shuffled(len(self._rows_of), self._name, self._seed, epoch)
        count = np.diff(self._first)[order]
        ends = np.cumsum(count)
        low, high = self._slice
        # A block on the border of two ranks is read by both, each of its items drawn by one.
        some = slice(int(np.searchsorted(ends, low, "right")), int(np.searchsorted(ends, high, "left")) + 1)
        blocks, ends, count = order[some], ends[some], count[some]
        skipped = np.maximum(low - (ends - count), 0)
        first = self._first[blocks] + skipped
        count = count - skipped - np.maximum(ends - high, 0)
        bounds = _cut(self._rows_of[blocks], self.rows_at_once)
        starts = np.concatenate([[0], np.cumsum(count)])[bounds]
        return _Epoch(blocks, first, count, bounds, starts)


def _blocks(rows: I64, units: I64, largest: int) -> tuple[I64, I64]:
    """Blocks of neighbouring rows of one file: (blocks + 1,) their first items, (blocks,) how many rows they need."""
    needed, first = np.unique(rows, return_index=True)
    unit = units[needed]
    place = np.arange(len(needed))
    starts = np.flatnonzero(np.diff(unit, prepend=-1))
    within = place - np.repeat(starts, np.diff(starts, append=len(needed)))
    cuts = np.flatnonzero(within % largest == 0)
    return np.append(first[cuts], len(rows)), np.diff(cuts, append=len(needed))


def _cut(sizes: I64, most: int) -> I64:
    """Bounds of the fewest runs of about equal size in which no run of `sizes` adds up to more than `most`."""
    ends = np.cumsum(sizes)
    parts = -(-int(ends[-1]) // most)
    while True:
        targets = ends[-1] * np.arange(1, parts) // parts
        inner = np.searchsorted(ends, targets, "left") + 1
        bounds = np.unique(np.concatenate([[0], np.minimum(inner, len(sizes)), [len(sizes)]]))
        if np.diff(np.append(0, ends)[bounds]).max() <= most:
            return bounds
        parts += 1


def _shuffled(n: int, *key: int | str) -> I64:
    """A permutation of n numbers by a key; raw words, which numpy promises never to change, are sorted."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    words = np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(n)
    return np.argsort(words, kind="stable")


def group_rows(row_bytes: int, memory_mb: float, *, where: Sequence[str]) -> int:
    """How many rows of this size a group may have so that two groups fit the memory.

    Raises:
        HandloomError: not even two rows fit twice.
    """
    rows = int(memory_mb * 1e6 / 2 / row_bytes)
    if rows < 2:
        raise HandloomError(
            f"A pool of {memory_mb:g} MB is too small",
            where=", ".join(where),
            why=f"a row takes {row_bytes / 1e6:.3g} MB, and two groups of at least two rows must fit",
            fix=f"give it {max(1, -(-4 * row_bytes // 10**6))} MB or more; 1000 shuffle well",
        )
    return rows
