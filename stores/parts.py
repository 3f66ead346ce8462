"""Rows of recordings copied into a new one: what the verbs of `edit.py` share.

Rows are copied unit by unit; `frames/` is written last of a unit's tables, so that what a kill or a full disk leaves
is a shorter recording with all that is known of its frames. Memory: two units of all arrays (256 sets of three
640×480 cameras: 1 GB; take smaller units where that is much).

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

from .durable import disk_error
from .errors import HandloomError
from .numbering import Added
from .recording import Recording, create_recording, open_recording
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


def write_parts(
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
    """A new recording of the rows of all parts, one after the other.

    Args:
        command: that makes it, for the provenance.
        parts: of one rig, hand and form.
        out: where.
        unit_frames: rows of its units.
        attributes: said of it, over what its sources say.
        codecs: by table, what its images are packed with; as before where nothing is said.
        overwrite: replace a recording that is there.
        progress: told of rows done.

    Raises:
        HandloomError: a source is damaged or its tables differ in length, `out` is taken, the disk is full.
    """
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
    try:
        _copy(parts, tables, total, progress)
    except OSError as error:
        raise disk_error(error, out, fix="make room, then begin again with --overwrite") from error
    return open_recording(out)


def _copy(parts: Sequence[Part], tables: Mapping[str, Table], total: int, progress: Progress | None) -> None:
    done, names = 0, list(tables)
    with ExitStack() as stack:
        writers = {name: stack.enter_context(Appender(tables[name])) for name in reversed(names)}
        for part in parts:
            step = tables["frames"].unit_frames
            for start in range(0, len(part.rows), step):
                some = part.rows[start : start + step].tolist()
                for name in names:
                    writers[name].append({column: part.read(name, column, some) for column in tables[name].columns})
                done += len(some)
                if progress is not None:
                    progress(done, total)


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


def refuse_different(one: Part, two: Part, *, twins: bool) -> None:
    """Refuse to join what differs in more than its rows; `twins`: in whose twins they are, too.

    Raises:
        HandloomError: naming the first difference.
    """
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
