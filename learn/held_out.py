"""People of a recording by name or number, and whether a model has seen them in training.

A number means a person inside one recording and what was cut from it or merged with it: `store split|subset|merge`
keep or shift the numbers and say so, which `stores/lineage.py` reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.lineage import descent
from ..stores.recording import SPLITS, Recording, open_recording

LISTED: Final = 20
"""People an error names at most."""


def subject_names(recording: Recording) -> dict[int, str]:
    """What the people of a recording are called: by its source where that says so, else by their number."""
    assert recording.frames is not None
    given = recording.provenance.get("subjects")
    names = given if isinstance(given, list) and all(isinstance(name, str) for name in given) else []
    numbers = np.unique(recording.frames.read("subject")).tolist()
    return {n: names[n] if 0 <= n < len(names) else str(n) for n in numbers}


def subject_numbers(recording: Recording, wanted: Sequence[str]) -> list[int]:
    """The numbers of people given by name or number.

    Raises:
        HandloomError: the recording shows nobody of that name.
    """
    known = subject_names(recording)
    found = []
    for text in wanted:
        fitting = [n for n, name in known.items() if text in (name, str(n))]
        if not fitting:
            who = ", ".join(list(known.values())[:20]) + (" ..." if len(known) > 20 else "")
            raise HandloomError(
                f"The recording has no subject '{text}'", where=str(recording.path), why=f"it has {who}"
            )
        found += fitting[:1]
    return found


def held_out_notes(said: Mapping[str, Any], recording: Recording, numbers: Sequence[int]) -> list[str]:
    """A line a person: held out of the model's training frames, not held out, or not known.

    Args:
        said: what the model says of its training (`estimators.said_of`).
        recording: whose numbers the people have.
        numbers: of the people.
    """
    names = subject_names(recording)
    sources = said.get("sources")
    if not sources:
        return [f"whether subject {names[n]} was held out is not known: the model names no recordings" for n in numbers]
    real = sources.get("real")
    if not real:
        return [f"subject {names[n]} was held out: the model saw no real frames" for n in numbers]
    trained = _open(real, recording)
    shift = None if trained is None else _shift(trained, recording)
    if trained is None or shift is None:
        where = Path(str(real.get("path", "?"))).name
        why = f"{where}, which it was trained on, " + ("is not at hand" if trained is None else "is another recording")
        return [f"whether subject {names[n]} was held out is not known: {why}" for n in numbers]
    shown = _training_subjects(trained)
    config = said.get("config") or {}
    if config.get("hold_out") is not None:
        shown = shown[shown != config["hold_out"]]
    notes = []
    for n in numbers:
        count = int((shown == n + shift).sum())
        if count:
            notes.append(
                f"warning: subject {names[n]} was not held out: {count} of the model's {len(shown)} real training "
                "frames show them"
            )
        else:
            notes.append(f"subject {names[n]} was held out: on none of the model's {len(shown)} real training frames")
    return notes


def _training_subjects(recording: Recording) -> NDArray[np.int32]:
    assert recording.frames is not None
    subject = recording.frames.read("subject")
    return np.asarray(subject[recording.frames.read("split") == SPLITS.index("train")])


def _open(real: Mapping[str, Any], recording: Recording) -> Recording | None:
    """The recording that a model was trained on, if it is this one or lies where it lay."""
    if real.get("uuid") == recording.uuid:
        return recording
    try:
        found = open_recording(Path(str(real.get("path", ""))))
    except (HandloomError, OSError):
        return None
    return found if found.uuid == real.get("uuid") and found.frames is not None else None


def _shift(trained: Recording, recording: Recording) -> int | None:
    """What to add to a subject's number in `recording` for their number in `trained`; None if they share no origin."""
    ours = set(_origins(recording.uuid, recording.provenance))
    for uuid in _origins(trained.uuid, trained.provenance):
        if uuid in ours:
            try:
                theirs, mine = descent(trained, uuid), descent(recording, uuid)
            except HandloomError:
                continue
            if theirs is not None and mine is not None:
                return theirs.subject - mine.subject
    return None


def _origins(uuid: str, provenance: Mapping[str, Any]) -> Iterator[str]:
    yield uuid
    for parent in provenance.get("parents", []):
        yield from _origins(str(parent.get("uuid")), parent.get("provenance", {}))
