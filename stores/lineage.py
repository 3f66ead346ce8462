"""Which frames of an edited recording are those of another one, and whose twins therefore still fit.

An edit (`store repack|subset|split|merge`) makes a new recording with a new uuid. Its provenance names `parents`:
uuid, how many frames came from it, between which `frame_ids` they lie in the new recording, what was added to its
numbers (`renumbered`), and the parent's own provenance, so the whole descent can be read from one file.

Twins name a real recording by uuid and its frames by frame_id. They go with every recording that descends from
it, as long as the frames kept their ids and no frame of another origin could be taken for one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError
from .recording import Recording

LAST_ID: Final = 2**64 - 1
Span = tuple[int, int]
"""First and last frame_id."""


@dataclass(frozen=True, slots=True)
class Descent:
    """Where the frames of an ancestor are in a recording."""

    frame_id: int
    """What was added to the ancestor's frame_ids on the way."""
    subject: int
    """What was added to its subjects."""
    spans: tuple[Span, ...]
    """Between which frame_ids of the recording its frames lie; all others are of other origin."""

    def translated(self, ids: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The ancestor's frame_ids as the recording's, and whether they can be frames of it."""
        out = (ids.astype(np.uint64) + np.uint64(self.frame_id)).astype(np.uint64)
        inside = [(out >= np.uint64(first)) & (out <= np.uint64(last)) for first, last in self.spans]
        return out, np.asarray(np.any(inside, axis=0))


def descent(recording: Recording, uuid: str) -> Descent | None:
    """How the frames of the recording `uuid` came into this one; None where they did not.

    Raises:
        HandloomError: they cannot be told from frames of other origin, or were renumbered in several ways.
    """
    if recording.uuid == uuid:
        return Descent(0, 0, ((0, LAST_ID),))
    paths = list(_paths(recording.provenance, uuid, frame_id=0, subject=0, span=(0, LAST_ID)))
    own = [path for path in paths if path.same]
    if not own:
        return None
    shifts = {(path.frame_id, path.subject) for path in own}
    strange = any(
        mine.span[0] <= other.span[1] and other.span[0] <= mine.span[1]
        for mine in own
        for other in paths
        if not other.same
    )
    if len(shifts) > 1 or strange:
        raise HandloomError(
            "It cannot be told which frames came from one of the recording's parents",
            where=str(recording.path),
            why=f"frames of {uuid} lie among those of others" if strange else "its parts were renumbered differently",
            fix="merge again with --renumber, each recording in one piece",
        )
    ((frame_id, subject),) = shifts
    return Descent(frame_id, subject, tuple(path.span for path in own))


def twin_descent(twins: Recording, real: Recording) -> Descent:
    """How the frames that `twins` show came into `real`, whether renumbered or not.

    Raises:
        HandloomError: they are twins of something else.
    """
    of = twins.attributes.get("twins_of")
    found = descent(real, of) if isinstance(of, str) else None
    if found is None:
        raise HandloomError(
            "These twins belong to another recording",
            where=str(twins.path),
            why=f"their frames are those of {of}, not of {real.path} ({real.uuid})",
            fix=f"handloom synth twin --real {real.path} --out TWINS.zarr",
        )
    return found


def usable_twins(twins: Recording, real: Recording) -> Descent:
    """`twin_descent` of twins that can be used as they are.

    Raises:
        HandloomError: the frames have got other frame_ids since, or `twin_descent` does.
    """
    found = twin_descent(twins, real)
    if found.frame_id:
        raise HandloomError(
            "The frames of the real recording were renumbered after these twins were made",
            where=str(twins.path),
            why=f"{found.frame_id} was added to their frame_id when {real.path} was merged",
            fix=f"handloom store merge {twins.path} --real {real.path} --renumber --out TWINS.zarr",
        )
    return found


@dataclass(frozen=True, slots=True)
class _Path:
    """One way down to the ancestor, or to somebody else."""

    same: bool
    frame_id: int
    subject: int
    span: Span


def _paths(provenance: Mapping[str, Any], uuid: str, *, frame_id: int, subject: int, span: Span) -> Iterator[_Path]:
    """All origins of a recording; `frame_id` and `subject` were added to its numbers later, `span` holds it."""
    for parent in provenance.get("parents", ()):
        first, last = parent.get("frame_ids", (0, LAST_ID))
        inside = max(first + frame_id, span[0]), min(last + frame_id, span[1])
        if inside[0] > inside[1]:
            continue  # a subset or a split took none of its frames
        added = parent.get("renumbered", {})
        further = frame_id + int(added.get("frame_id", 0)), subject + int(added.get("subject", 0))
        if parent.get("uuid") == uuid:
            yield _Path(True, *further, inside)
            continue
        below = list(
            _paths(parent.get("provenance", {}), uuid, frame_id=further[0], subject=further[1], span=inside)
        )  # fmt: skip
        if any(path.same for path in below):
            yield from below
        else:
            yield _Path(False, *further, inside)
