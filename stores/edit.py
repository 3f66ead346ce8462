"""Recordings out of recordings: some rows of one, all of several, or the same in other units.

Rows are copied unit by unit; `frames/` is written last of a unit's tables, so that what a kill leaves is a
shorter recording with all that is known of its frames. `frame_id`, subject and sequence keep their numbers.
Memory: two units of all arrays (256 sets of three 640×480 cameras: 1 GB; take smaller units where that is much).

Provenance of the outcome: `command`, and `parents` with the uuid and the provenance of each source. It is no
longer said to be of 'synth run': a row's number, which the renderer's noise hangs on, may be another one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError
from .recording import SPLITS, UNIT_FRAMES, Recording, create_recording, open_recording
from .table import Appender, Table

TABLES: Final = ("crops", "labels", "frames")
"""In the order in which a unit of them is written."""
Progress = Callable[..., None]
Part = tuple[Recording, NDArray[np.int64]]


def repack(
    path: Path,
    out: Path,
    *,
    unit_frames: int = UNIT_FRAMES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """All rows in units of `unit_frames`: an open capture's small units cost space and time to read.

    Raises:
        HandloomError: the source is damaged or its tables differ in length, `out` exists.
    """
    source = open_recording(path)
    rows = np.arange(source.n_frames)
    return _write("store repack", [(source, rows)], out, unit_frames, overwrite=overwrite, progress=progress)


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
    return _write("store subset", [(source, rows)], out, UNIT_FRAMES, overwrite=overwrite, progress=progress)


def split(
    path: Path, folder: Path, *, by: str, overwrite: bool = False, progress: Progress | None = None
) -> list[Recording]:
    """One recording for each `sequence`, `subject` or `split`, as FOLDER/subject-3.zarr or FOLDER/test.zarr.

    Raises:
        HandloomError: one of them exists; see `repack`.
    """
    source = open_recording(path)
    assert source.frames is not None
    values = source.frames.read(by)
    names = {int(v): SPLITS[v] if by == "split" else f"{by}-{v}" for v in np.unique(values)}
    outs = {value: folder / f"{name}.zarr" for value, name in names.items()}
    for out in outs.values():
        if out.exists() and not overwrite:
            raise HandloomError("The output exists already", where=str(out), fix="add --overwrite")
    return [
        _write("store split", [(source, np.flatnonzero(values == value))], out, UNIT_FRAMES,
               overwrite=overwrite, progress=progress)
        for value, out in outs.items()
    ]  # fmt: skip


def merge(paths: Sequence[Path], out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Recording:
    """The rows of all, one after the other. Subjects and sequences of equal numbers are taken for the same.

    Raises:
        HandloomError: rigs, hands, layouts, columns or twins differ, or frame_ids collide; see `repack`.
    """
    sources = [open_recording(path) for path in paths]
    for other in sources[1:]:
        _same(sources[0], other)
    seen: dict[int, Path] = {}
    for source in sources:
        assert source.frames is not None
        for one in source.frames.read("frame_id").tolist():
            if one in seen:
                raise HandloomError(
                    f"frame_id {one} is in two of the recordings",
                    where=f"{seen[one]}, {source.path}",
                    why="twins and lists of labelled frames name frames by it, so it must stay unique",
                    fix="merge parts of one recording, or leave one of these out",
                )
            seen[one] = source.path
    parts = [(source, np.arange(source.n_frames)) for source in sources]
    return _write("store merge", parts, out, UNIT_FRAMES, overwrite=overwrite, progress=progress)


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


def _same(first: Recording, other: Recording) -> None:
    """Refuse to join what differs in more than its rows."""
    for mine, its in zip(first.rig.cameras, other.rig.cameras, strict=False):
        one, two = mine.to_dict(), its.to_dict()
        for key in one:
            if one[key] != two.get(key):
                _differ(first, other, f"{key} of camera '{mine.name}'", one[key], two.get(key))
    one_says, two_says = _form(first), _form(other)
    for name, said in one_says.items():
        if said != two_says[name]:
            _differ(first, other, name, said, two_says[name])
    before, people = first.attributes.get("people", {}), other.attributes.get("people", {})
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
    overwrite: bool,
    progress: Progress | None,
) -> Recording:
    first = parts[0][0]
    for source, _ in parts:
        _check_source(source, out)
    total = sum(len(rows) for _, rows in parts)
    made = create_recording(
        out,
        kind=first.kind,
        rig=first.rig,
        hand=first.hand,
        provenance=_provenance(command, [source for source, _ in parts], total),
        attributes=_joined([source.attributes for source, _ in parts]),
        overwrite=overwrite,
    )
    names = [name for name in TABLES if getattr(first, name) is not None]
    tables = {}
    for name in names:
        before: Table = getattr(first, name)
        tables[name] = Table.create(
            out / name, list(before.columns.values()), unit_frames=unit_frames, attributes=before.attributes
        )
        setattr(made, name, tables[name])
    done = 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(Appender(tables[name])) for name in reversed(names)}
        for source, rows in parts:
            for start in range(0, len(rows), unit_frames):
                some = rows[start : start + unit_frames].tolist()
                for name in names:
                    table: Table = getattr(source, name)
                    writers[name].append({column: table.read_rows(column, some) for column in table.columns})
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


def _provenance(command: str, sources: Sequence[Recording], rows: int) -> dict[str, Any]:
    """What all sources agree on, but for how to make it again; and what each said."""
    first = sources[0].provenance
    kept = {k: v for k, v in first.items() if all(s.provenance.get(k) == v for s in sources)}
    for made_by in ("command", "config", "twin_config"):
        kept.pop(made_by, None)
    parents = [{"uuid": s.uuid, "frames": s.n_frames, "provenance": s.provenance} for s in sources]
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
