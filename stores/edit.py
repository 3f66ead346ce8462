"""Recordings out of recordings: some rows of one, all of several, or the same in other units.

Rows are copied unit by unit; `frames/` is written last of a unit's tables, so that what a kill leaves is a
shorter recording with all that is known of its frames. `frame_id`, subject and sequence keep their numbers.
Memory: two units of all arrays (256 sets of three 640×480 cameras: 1 GB; take smaller units where that is much).

Provenance of the outcome: `command`, and `parents` with each source's uuid and provenance (`lineage.py`). It is no
longer said to be of 'synth run': a row's number, which the renderer's noise hangs on, may be another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .codec import codec_named
from .errors import HandloomError
from .lineage import twin_descent
from .numbering import Added, kept_numbers, new_numbers
from .recording import SPLITS, UNIT_FRAMES, Recording, create_recording, open_recording
from .table import Appender, Table

TABLES: Final = ("crops", "labels", "frames")
"""In the order in which a unit of them is written."""
Progress = Callable[..., None]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Rows of a recording that go into another, and what their numbers become there."""

    source: Recording
    rows: NDArray[np.int64]
    added: Added = field(default_factory=Added)
    split: int | None = None
    """The split that all of them get."""

    def read(self, table: str, column: str, rows: Sequence[int]) -> NDArray[Any]:
        """Rows of one array as they will be."""
        stored: Table = getattr(self.source, table)
        values = stored.read_rows(column, rows)
        if column == "split" and self.split is not None:
            return np.full_like(values, self.split)
        return self.added.to(column, values) if table != "crops" else values

    @property
    def attributes(self) -> dict[str, Any]:
        """Of the recording, people under their new numbers."""
        said = dict(self.source.attributes)
        if len(self.rows) < self.source.n_frames:
            said.pop("segments", None)  # they say at which row each go of the recorder began
        if "people" in said:
            said["people"] = {str(int(who) + self.added.subject): hand for who, hand in said["people"].items()}
        return said

    @property
    def frame_ids(self) -> list[int]:
        """The first and the last, as they will be; of no frames the last comes before the first."""
        assert self.source.frames is not None
        ids = self.added.to("frame_id", self.source.frames.read("frame_id")[self.rows])
        return [int(ids.min()), int(ids.max())] if len(ids) else [1, 0]


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
    return _write(
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
    """The given rows, ascending.

    Raises:
        HandloomError: no or no such rows; see `repack`.
    """
    source = open_recording(path)
    if not len(rows):
        raise HandloomError("No frame of the recording was chosen", where=str(path))
    if rows.min() < 0 or rows.max() >= source.n_frames:
        raise HandloomError("There is no such frame", where=str(path), why=f"it has frames 0 to {source.n_frames - 1}")
    return _write("store subset", [Part(source, rows)], out, UNIT_FRAMES, overwrite=overwrite, progress=progress)


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
        parts.append(_write("store split", [part], out, UNIT_FRAMES, overwrite=overwrite, progress=told))
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
        _same(joined[0], other, twins=real is None)
    return _write(
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
    """Rows of the frames with these `frame_id`, ascending.

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
    """Rows of a recording: those of a `split`, rows `A:B`, or those whose frame_ids a file lists.

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
        ids = [int(line) for line in Path(frames).read_text().split()]
    except (OSError, ValueError) as error:
        raise HandloomError(
            "The frames to keep cannot be read", where=frames, why=str(error), fix="give A:B or a frame_id a line"
        ) from error
    return frame_rows(recording, ids)


def _same(one: Part, two: Part, *, twins: bool) -> None:
    """Refuse to join what differs in more than its rows; `twins`: in whose twins they are, too."""
    first, other = one.source, two.source
    for mine, its in zip(first.rig.cameras, other.rig.cameras, strict=False):
        here, there = mine.to_dict(), its.to_dict()
        for key in here:
            if here[key] != there.get(key):
                _differ(first, other, f"{key} of camera '{mine.name}'", here[key], there.get(key))
    says, also = _form(first), _form(other)
    for name, said in says.items():
        if said != also[name] and (twins or name != "twins_of"):
            _differ(first, other, name, said, also[name])
    before, people = one.attributes.get("people", {}), two.attributes.get("people", {})
    for who in set(before) & set(people):
        if before[who] != people[who]:
            _differ(first, other, f"the fitted hand of subject {who}", "one", "another")


def _form(recording: Recording) -> dict[str, Any]:
    """What must be equal beside the cameras themselves."""
    tables: dict[str, Table | None] = {name: getattr(recording, name) for name in TABLES}
    return {
        "cameras": list(recording.rig.names),
        "kind": recording.kind,
        "hand": recording.hand,
        "twins_of": recording.attributes.get("twins_of"),
        **{f"columns of {name}/": _columns(table) for name, table in tables.items()},
        **{f"attributes of {name}/": _attributes(table) for name, table in tables.items()},
    }


def _columns(table: Table | None) -> list[str]:
    """In words, in the table's order; whatever the codec."""
    return [f"{c.name} {c.shape} {c.dtype}" for c in table.columns.values()] if table else []


def _attributes(table: Table | None) -> dict[str, Any]:
    return table.attributes if table else {}


def _differ(first: Recording, other: Recording, what: str, one: object, two: object) -> None:
    raise HandloomError(
        f"The recordings differ: {what}",
        where=f"{first.path}, {other.path}",
        why=f"{one} and {two}"[:300],
        fix="merge only recordings of one rig, hand and form",
    )


def _write(
    command: str,
    parts: Sequence[Part],
    out: Path,
    unit_frames: int,
    *,
    attributes: Mapping[str, Any] | None = None,
    codecs: Mapping[str, str] | None = None,
    overwrite: bool,
    progress: Progress | None,
) -> Recording:
    first = parts[0].source
    for part in parts:
        _check_source(part.source, out)
    total = sum(len(part.rows) for part in parts)
    made = create_recording(
        out,
        kind=first.kind,
        rig=first.rig,
        hand=first.hand,
        provenance=_provenance(command, parts, total),
        attributes={**_joined([part.attributes for part in parts]), **(attributes or {})},
        overwrite=overwrite,
    )
    names = [name for name in TABLES if getattr(first, name) is not None]
    tables = {}
    for name in names:
        before: Table = getattr(first, name)
        codec = (codecs or {}).get(name)
        columns = [replace(c, codec=codec) if codec and c.sharded else c for c in before.columns.values()]
        tables[name] = Table.create(out / name, columns, unit_frames=unit_frames, attributes=before.attributes)
        setattr(made, name, tables[name])
    done = 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(Appender(tables[name])) for name in reversed(names)}
        for part in parts:
            for start in range(0, len(part.rows), unit_frames):
                some = part.rows[start : start + unit_frames].tolist()
                for name in names:
                    writers[name].append({column: part.read(name, column, some) for column in tables[name].columns})
                done += len(some)
                if progress is not None:
                    progress(done, total)
    return open_recording(out)


def _check_source(source: Recording, out: Path) -> None:
    here, there = source.path.resolve(), out.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise HandloomError("The output would lie on its own source", where=str(out), fix="choose another --out")
    for name in ("crops", "labels"):
        table: Table | None = getattr(source, name)
        if table is not None and table.committed != source.n_frames:
            raise HandloomError(
                f"'{name}' has {table.committed} rows for {source.n_frames} frames",
                where=str(source.path),
                fix=f"handloom capture locate {source.path} --overwrite" if name == "crops" else "label it again",
            )


def _provenance(command: str, parts: Sequence[Part], rows: int) -> dict[str, Any]:
    """What all sources agree on, but for how to make it again; and what each said and became (`lineage.py`)."""
    sources = [part.source for part in parts]
    first = sources[0].provenance
    kept = {k: v for k, v in first.items() if all(s.provenance.get(k) == v for s in sources)}
    for made_by in ("command", "config", "twin_config"):
        kept.pop(made_by, None)
    parents = [
        {
            "uuid": part.source.uuid,
            "frames": part.source.n_frames,
            "frame_ids": part.frame_ids,
            **({"renumbered": added} if (added := part.added.to_dict()) else {}),
            "provenance": part.source.provenance,
        }
        for part in parts
    ]
    return {**kept, "command": command, "rows": rows, "parents": parents}


def _joined(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes on which all agree, everyone's fitted hand, and what is said by one alone in a list."""
    first = several[0]
    out = {k: v for k, v in first.items() if all(k in other and other[k] == v for other in several)}
    people = {who: hand for one in several for who, hand in one.get("people", {}).items()}
    if people:
        out["people"] = people
    if len(several) > 1 and any(set(one) - set(out) for one in several):
        out["of_parents"] = [{k: v for k, v in one.items() if k not in out} for one in several]
    return out
