"""A recording made in several goes: each is a segment with a sequence number of its own, same rig throughout.

`attributes["segments"]` lists them: first row, sequence, when it was started and ended and how, drops, sync report.
A segment that says no `ended` was cut off by a kill; the rows up to the next one's first are whole all the same.
"""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..stores.camera import Rig
from ..stores.errors import HandloomError
from ..stores.recording import Recording, open_recording
from .source import DepthSource


def continued(source: DepthSource, out: Path) -> Recording | None:
    """The recording at `out` to append to; None where there is none, or it was cut off before its first set.

    Raises:
        HandloomError: it is no capture with full frames, has labels, or was made by other cameras.
    """
    if not (out / "frames" / "committed.json").exists():
        return None
    recording = open_recording(out, writable=True)
    if recording.kind != "captured" or not recording.has_depth:
        raise HandloomError("Only a capture with its full frames can be continued", where=str(out))
    if recording.labels is not None:
        raise HandloomError(
            "A recording that has labels is not continued",
            where=str(out),
            why="new rows would have none",
            fix="record into another --out, then: handloom store merge",
        )
    virtual = (bool(recording.provenance.get("virtual")), bool(source.provenance.get("virtual")))
    other = [] if virtual[0] == virtual[1] else [f"virtual was {virtual[0]}, is {virtual[1]}"]
    hand = getattr(source, "hand", recording.hand)
    other += [] if hand == recording.hand else [f"hand was {recording.hand}, is {hand}"]
    other += differences(recording.rig, source.rig)
    if other:
        raise HandloomError(
            "The recording was begun with another rig",
            where=str(out),
            why="; ".join(other),
            fix="bring the cameras back as they were and give the same --rig, or record into another --out",
        )
    return recording


def differences(before: Rig, now: Rig) -> list[str]:
    """What of the cameras is not the same, in words; nothing where all is."""
    if before.names != now.names:
        return [f"cameras were {', '.join(before.names)}, are {', '.join(now.names)}"]
    words = {"k": "K", "r": "R", "dist": "distortion", "dist_model": "distortion model"}
    return [
        f"{a.name}: {words.get(field.name, field.name)} was {getattr(a, field.name)}, is {getattr(b, field.name)}"
        for a, b in zip(before.cameras, now.cameras, strict=True)
        for field in fields(a)
        if getattr(a, field.name) != getattr(b, field.name)
    ]


def begin_segment(recording: Recording, source: DepthSource, first_row: int, sequence: int) -> None:
    """Note that a segment has begun, before its first set: a kill leaves it without an end."""
    before = list(recording.attributes.get("segments", []))
    segment = {
        "first_row": first_row,
        "sequence": sequence,
        "started_unix_s": round(time.time(), 3),
        "source": source.provenance["source"],
        "ended": None,
    }
    recording.annotate(segments=[*before, segment])


def note_drops(recording: Recording, drops: dict[str, dict[str, int]]) -> None:
    """Note the newest segment's drops while it goes on, so that a kill does not take the count along."""
    *before, segment = recording.attributes["segments"]
    recording.annotate(segments=[*before, {**segment, "drops": drops}])


def end_segment(recording: Recording, said: dict[str, Any]) -> None:
    """Note how the newest segment went; `drops` of all of them are summed beside them."""
    *before, segment = recording.attributes["segments"]
    segments = [*before, {**segment, "ended_unix_s": round(time.time(), 3), **said}]
    drops: dict[str, dict[str, int]] = {}
    for part in segments:
        for name, counts in part.get("drops", {}).items():
            mine = drops.setdefault(name, dict.fromkeys(counts, 0))
            for kind, count in counts.items():
                mine[kind] += count
    recording.annotate(segments=segments, drops=drops, ended=said["ended"], sync=said["sync"])
