"""What a plain folder's meta.toml says of its frames: who, in which sequence, for training or not, and where from.

    hand = "right"
    layout = "nyu14"            of joints.csv, where it is not openxr26

    [[frames]]                  numbers of frames.csv, both included; frames of no table are 0, 0, "train"
    first = 0
    last = 119
    subject = 1
    sequence = 3
    split = "test"

    [origin]                    of a folder that `store export` wrote
    uuid = "..."
    frames_sha256 = "..."       of frames.csv: while it is unchanged, twins of that recording are twins of this folder

Anything else that a user notes there is kept as it is, in the provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError
from .joints import Layout, layout_named
from .recording import SPLITS

KEYS: Final = ("first", "last", "subject", "sequence", "split")


@dataclass(frozen=True, slots=True, eq=False)
class FrameFacts:
    """Of each frame, in the folder's order."""

    subject: NDArray[np.int32]
    sequence: NDArray[np.int32]
    split: NDArray[np.uint8]
    """(T,) index into `recording.SPLITS`."""


def write_meta(
    path: Path, plain: Mapping[str, str | bool], frames: Sequence[int], facts: FrameFacts, *, origin: str
) -> None:
    """Write meta.toml.

    Args:
        path: of the file, beside a frames.csv that is complete.
        plain: what else is to be said, at its top.
        frames: (T,) numbers of frames.csv.
        facts: of these frames.
        origin: uuid of the recording they are of.
    """
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    for first, last, subject, sequence, split in _runs(frames, facts):
        if subject or sequence or split:
            lines += ["", "[[frames]]", f"first = {first}", f"last = {last}", f"subject = {subject}"]
            lines += [f"sequence = {sequence}", f'split = "{SPLITS[split]}"']
    lines += ["", "[origin]", f'uuid = "{origin}"', f'frames_sha256 = "{_digest(path.with_name("frames.csv"))}"']
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_facts(meta: Mapping[str, Any], frames: Sequence[int], *, where: str) -> FrameFacts:
    """What meta.toml says of the frames.

    Raises:
        HandloomError: a table is not as the module's docstring says, or two speak of one frame.
    """
    number = np.asarray(frames, np.int64)
    count = len(number)
    facts = FrameFacts(np.zeros(count, np.int32), np.zeros(count, np.int32), np.zeros(count, np.uint8))
    told = np.full(len(number), -1)
    tables = meta.get("frames", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise HandloomError("'frames' of meta.toml is no list of tables", where=where, fix="write [[frames]]")
    for i, table in enumerate(tables):
        here = f"{where}, [[frames]] {i}"
        first, last, subject, sequence, split = _values(table, here)
        mine = (number >= first) & (number <= last)
        if (told[mine] >= 0).any():
            frame, other = number[mine & (told >= 0)][0], told[mine & (told >= 0)][0]
            raise HandloomError(f"Frame {frame} is in two tables", where=here, why=f"the other is [[frames]] {other}")
        told[mine] = i
        facts.subject[mine], facts.sequence[mine], facts.split[mine] = subject, sequence, split
    return facts


def read_layout(meta: Mapping[str, Any], *, where: str) -> Layout:
    """The layout of joints.csv.

    Raises:
        HandloomError: there is none of that name.
    """
    try:
        return layout_named(str(meta.get("layout", "openxr26")))
    except HandloomError as error:
        raise HandloomError(error.what, where=f"{where}, layout", why=error.why, fix=error.fix) from error


def origin_of(meta: Mapping[str, Any], folder: Path, frames: Sequence[int]) -> list[dict[str, Any]]:
    """`provenance.parents` of an import: the recording that the folder was exported from, its frames unchanged."""
    said = meta.get("origin")
    if not isinstance(said, dict) or not isinstance(said.get("uuid"), str):
        return []
    if said.get("frames_sha256") != _digest(folder / "frames.csv"):
        return []
    return [{"uuid": said["uuid"], "frames": len(frames), "frame_ids": [min(frames), max(frames)], "provenance": {}}]


def noted(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What else a user wrote down, in plain values."""
    others = {key: value for key, value in meta.items() if key not in ("frames", "origin")}
    return {key: value if isinstance(value, str | int | float | bool) else str(value) for key, value in others.items()}


def _values(table: Mapping[str, Any], where: str) -> tuple[int, int, int, int, int]:
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise HandloomError(f"Unknown key '{unknown[0]}'", where=where, why=f"known: {', '.join(KEYS)}")
    numbers = []
    for key, most in (("first", 2**63), ("last", 2**63), ("subject", 2**31), ("sequence", 2**31)):
        value = table.get(key, None if key in ("first", "last") else 0)
        if type(value) is not int or not 0 <= value < most:
            raise HandloomError(f"'{key}' is no number of 0 or more", where=where, why=f"it is {value!r}")
        numbers.append(value)
    split = table.get("split", SPLITS[0])
    if split not in SPLITS:
        raise HandloomError("'split' is none", where=where, why=f"{split!r}; known: {', '.join(SPLITS)}")
    if numbers[0] > numbers[1]:
        raise HandloomError("'first' comes after 'last'", where=where, why=f"{numbers[0]} and {numbers[1]}")
    return numbers[0], numbers[1], numbers[2], numbers[3], SPLITS.index(split)


def _runs(frames: Sequence[int], facts: FrameFacts) -> Iterator[tuple[int, int, int, int, int]]:
    """Frames that follow each other in the file and are alike: first, last, subject, sequence, split."""
    order = np.argsort(np.asarray(frames))
    run: tuple[int, int, int, int, int] | None = None
    for row in order.tolist():
        alike = int(facts.subject[row]), int(facts.sequence[row]), int(facts.split[row])
        if run is not None and run[2:] == alike:
            run = run[0], int(frames[row]), *alike
        else:
            if run is not None:
                yield run
            run = int(frames[row]), int(frames[row]), *alike
    if run is not None:
        yield run


def _digest(frames_csv: Path) -> str:
    return hashlib.sha256(frames_csv.read_bytes()).hexdigest()
