"""Recordings out of recordings: some rows of one, all of several, or the same in other units.

All stream, a unit at a time (`parts.py`). `frame_id`, subject and sequence keep their numbers, but for those of
recordings of different origin that are merged (`numbering.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codec import codec_named
from .documents import read_ids
from .errors import HandloomError
from .lineage import twin_descent
from .numbering import kept_numbers, new_numbers
from .parts import Part, Progress, refuse_different, write_parts
from .recording import SPLITS, UNIT_FRAMES, Recording, open_recording


def repack(
    path: Path,
    out: Path,
    *,
    unit_frames: int = UNIT_FRAMES,
    codecs: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """All rows in units of `unit_frames`: an open capture's small units cost space and time to read.

    Args:
        path: the source.
        out: the recording to make.
        unit_frames: rows of a unit.
        codecs: for `frames` and `crops`, what their images are packed with from now on (`codec.codec_named`);
            as before where nothing is said.
        overwrite: replace what lies at `out`.
        progress: told of rows done.

    Raises:
        HandloomError: the source is damaged or its tables differ in length, `out` exists, there is no such codec.
    """
    for name in (codecs or {}).values():
        codec_named(name)
    source = open_recording(path)
    rows = np.arange(source.n_frames)
    return write_parts(
        "store repack",
        [Part(source, rows)],
        out,
        unit_frames,
        codecs=codecs,
        overwrite=overwrite,
        progress=progress,
    )


def subset(
    path: Path, out: Path, *, rows: NDArray[np.int64], overwrite: bool = False, progress: Progress | None = None
) -> Recording:
    """A new recording of the given rows (n,), ascending.

    Raises:
        HandloomError: no or no such rows; see `repack`.
    """
    source = open_recording(path)
    if not len(rows):
        raise HandloomError("No frame of the recording was chosen", where=str(path))
    if rows.min() < 0 or rows.max() >= source.n_frames:
        raise HandloomError("There is no such frame", where=str(path), why=f"it has frames 0 to {source.n_frames - 1}")
    return write_parts("store subset", [Part(source, rows)], out, UNIT_FRAMES, overwrite=overwrite, progress=progress)


def split(
    path: Path,
    folder: Path,
    *,
    by: str,
    assigned: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[Recording]:
    """One recording for each `sequence`, `subject` or `split`, as FOLDER/subject-3.zarr or FOLDER/test.zarr.

    Args:
        path: of the recording.
        folder: of the parts.
        by: what tells them.
        assigned: (T,) with `split`: another split than the recording's own, see `splits.draw`.
        overwrite: replace parts that are there.
        progress: told of rows done, of all parts.

    Raises:
        HandloomError: one of them exists; see `repack`.
    """
    source = open_recording(path)
    assert source.frames is not None
    values = source.frames.read(by) if assigned is None else assigned
    names = {int(v): SPLITS[v] if by == "split" else f"{by}-{v}" for v in np.unique(values)}
    outs = {value: folder / f"{name}.zarr" for value, name in names.items()}
    for out in outs.values():
        if out.exists() and not overwrite:
            raise HandloomError("The output exists already", where=str(out), fix="add --overwrite")
    parts: list[Recording] = []
    for value, out in outs.items():
        before = sum(part.n_frames for part in parts)

        def told(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, len(values))

        part = Part(source, np.flatnonzero(values == value), split=None if assigned is None else value)
        parts.append(write_parts("store split", [part], out, UNIT_FRAMES, overwrite=overwrite, progress=told))
    return parts


def merge(
    paths: Sequence[Path],
    out: Path,
    *,
    renumber: bool = False,
    same_subjects: bool = False,
    real: Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """The rows of all, one after the other.

    Args:
        paths: parts of one recording, whose numbers are kept, or with `renumber` any of one rig and form.
        out: the recording to make.
        renumber: frames, sequences and subjects of recordings of different origin get numbers of their own, by
            adding a constant to those that come later.
        same_subjects: with `renumber`: equal subject numbers are the same person.
        real: the recordings are twins, and `real` came of theirs by edits: what they show is named as it is there,
            subjects too; twins of frames that did not come along are left out.
        overwrite: replace a recording that is there.
        progress: told of rows done.

    Raises:
        HandloomError: rigs, hands, layouts, columns or twins differ, or frame_ids collide; see `repack`.
    """
    sources = [open_recording(path) for path in paths]
    rows = [np.arange(source.n_frames) for source in sources]
    same = same_subjects or real is not None  # twins take those of `real`
    added = new_numbers(sources, same_subjects=same) if renumber else kept_numbers(sources)
    joined = [Part(*part) for part in zip(sources, rows, added, strict=True)]
    attributes: dict[str, Any] = {}
    if real is not None:
        truth = open_recording(real)
        joined = [_following(part, truth) for part in joined]
        attributes["twins_of"] = truth.uuid
    for other in joined[1:]:
        refuse_different(joined[0], other, twins=real is None)
    return write_parts(
        "store merge", joined, out, UNIT_FRAMES, attributes=attributes, overwrite=overwrite, progress=progress
    )


def _following(part: Part, real: Recording) -> Part:
    """Twins that name the frames of `real`, and only those that are there."""
    found, labels = twin_descent(part.source, real), part.source.labels
    assert labels is not None
    assert real.frames is not None
    ids, here = found.translated(labels.read("twin"))
    rows = np.flatnonzero(here & np.isin(ids, real.frames.read("frame_id")))
    if not len(rows):
        raise HandloomError("None of these twins shows a frame of the real recording", where=str(part.source.path))
    added = replace(part.added, twin=found.frame_id, subject=found.subject)
    return Part(part.source, rows, added)


def frame_rows(recording: Recording, ids: Sequence[int]) -> NDArray[np.int64]:
    """Rows (n,) of the frames with these `frame_id`, ascending.

    Raises:
        HandloomError: there is no such frame.
    """
    assert recording.frames is not None
    known = recording.frames.read("frame_id")
    rows = np.flatnonzero(np.isin(known, np.array(ids, np.uint64)))
    lost = sorted(set(ids) - set(known[rows].tolist()))
    if lost:
        raise HandloomError(f"No frame has the frame_id {lost[0]}", where=str(recording.path))
    return rows


def chosen_rows(path: Path, *, frames: str | None, split: str | None) -> NDArray[np.int64]:
    """Rows (n,) of a recording: those of a `split`, rows `A:B`, or those whose frame_ids a file lists.

    Raises:
        HandloomError: the file cannot be read or names what is not there.
    """
    recording = open_recording(path)
    assert recording.frames is not None
    if frames is None:
        return np.flatnonzero(recording.frames.read("split") == SPLITS.index(str(split)))
    first, colon, last = frames.partition(":")
    if colon and (first + last).isdigit():
        return np.arange(int(first or 0), int(last or recording.n_frames))
    try:
        ids = read_ids(Path(frames))
    except (OSError, ValueError) as error:
        raise HandloomError(
            "The frames to keep cannot be read", where=frames, why=str(error), fix="give A:B or a frame_id a line"
        ) from error
    return frame_rows(recording, ids)
