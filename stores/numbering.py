"""Numbers that stay apart when recordings are joined: of frames, sequences and subjects.

Parts of one recording share its numbers, so nothing is to be done for them. Other recordings all begin at 0: those
that come later get a constant added, one for each kind of number, where they would meet an earlier one's. A constant
keeps the order, can be written down in one line (`provenance.parents[i].renumbered`) and lets twins follow
(`lineage.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError
from .recording import Recording

KINDS: Final = ("frame_id", "subject", "sequence")
LAST: Final = {"frame_id": 2**64 - 1, "subject": 2**31 - 1, "sequence": 2**31 - 1}


@dataclass(frozen=True, slots=True)
class Added:
    """What is added to the numbers of a recording that goes into another."""

    frame_id: int = 0
    subject: int = 0
    sequence: int = 0
    twin: int = 0
    """To the frame_ids of the real frames whose twins these are."""

    def to(self, column: str, values: NDArray[Any]) -> NDArray[Any]:
        """The values of a column of frames/ or labels/ as they are in the outcome."""
        more = getattr(self, column, 0) if column in ("twin", *KINDS) else 0
        return (values + values.dtype.type(more)).astype(values.dtype) if more else values

    def to_dict(self) -> dict[str, int]:
        """What is not zero."""
        return {name: more for name in ("twin", *KINDS) if (more := getattr(self, name))}


def kept_numbers(sources: Sequence[Recording]) -> list[Added]:
    """Nothing added.

    Raises:
        HandloomError: two of them hold a frame of the same id.
    """
    before = np.zeros(0, np.uint64)
    for i, source in enumerate(sources):
        ids = _numbers(source, "frame_id")
        twice = np.intersect1d(before, ids)
        if len(twice):
            _refuse_twice(sources[:i], source, int(twice[0]), fix="add --renumber, or leave one of these out")
        before = np.union1d(before, ids)
    return [Added()] * len(sources)


def new_numbers(sources: Sequence[Recording], *, same_subjects: bool) -> list[Added]:
    """What to add to the numbers of each recording so that those of different origin stay apart.

    Args:
        sources: in the order in which they are joined; the first keeps its numbers.
        same_subjects: equal subject numbers are the same person.

    Raises:
        HandloomError: parts of one recording hold the same frame twice, or the numbers run out.
    """
    family = _families(sources)
    taken: dict[str, NDArray[Any]] = {}
    of_family: dict[int, dict[str, int]] = {}
    for head in dict.fromkeys(family):
        members = [source for source, of in zip(sources, family, strict=True) if of == head]
        kept_numbers(members)
        of_family[head] = {}
        for kind in KINDS:
            mine = np.unique(np.concatenate([_numbers(source, kind) for source in members]))
            more = 0 if same_subjects and kind == "subject" else _more(kind, taken.get(kind), mine, members[0].path)
            of_family[head][kind] = more
            moved = (mine + mine.dtype.type(more)).astype(mine.dtype)
            taken[kind] = np.union1d(taken[kind], moved) if kind in taken else moved
    return [Added(**of_family[head]) for head in family]


def _more(kind: str, taken: NDArray[Any] | None, mine: NDArray[Any], path: Path) -> int:
    """0 where the numbers do not meet: for frames their whole ranges, so that ranges tell their origin."""
    if taken is None or not len(mine) or not len(taken):
        return 0
    first, last, least, most = int(mine[0]), int(mine[-1]), int(taken[0]), int(taken[-1])
    apart = last < least or most < first if kind == "frame_id" else not len(np.intersect1d(taken, mine))
    if apart:
        return 0
    more = most + 1 - first
    if last + more > LAST[kind]:
        raise HandloomError(
            f"There are not enough numbers left for '{kind}'",
            where=str(path),
            why=f"{most} is taken and the type ends at {LAST[kind]}",
            fix="merge this recording first",
        )
    return more


def _numbers(source: Recording, kind: str) -> NDArray[Any]:
    assert source.frames is not None
    return source.frames.read(kind)


def _families(sources: Sequence[Recording]) -> list[int]:
    """For each recording the first one that shares an origin with it, directly or through others."""
    heads = list(range(len(sources)))
    roots = [_roots(source.uuid, source.provenance) for source in sources]
    for i in range(len(sources)):
        for j in range(i):
            if roots[i] & roots[j] and heads[i] != heads[j]:
                low, high = sorted((heads[i], heads[j]))
                heads = [low if head == high else head for head in heads]
    return heads


def _roots(uuid: str, provenance: dict[str, Any]) -> set[str]:
    """Uuids of the recordings that were made by no edit and went into this one."""
    parents = provenance.get("parents")
    if not parents:
        return {uuid}
    return set().union(*(_roots(str(p.get("uuid")), p.get("provenance", {})) for p in parents))


def _refuse_twice(before: Sequence[Recording], source: Recording, frame_id: int, *, fix: str) -> None:
    first = next(other for other in before if np.isin(np.uint64(frame_id), _numbers(other, "frame_id")))
    same = _roots(first.uuid, first.provenance) & _roots(source.uuid, source.provenance)
    raise HandloomError(
        f"frame_id {frame_id} is in two of the recordings",
        where=f"{first.path}, {source.path}",
        why="both came, at least in part, from one recording"
        if same
        else "twins and lists of labelled frames name frames by it, so it must stay unique",
        fix="leave one of these out" if same else fix,
    )
