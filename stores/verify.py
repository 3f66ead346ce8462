"""Is a recording what was written? Every byte of it has a checksum; this looks at them, and then at the content.

What covers which byte: the descriptions (`zarr.json`), `committed.json` and the units' markers carry a seal, the
SHA-256 of what they say, and are compared with their canonical spelling; each row of an image array, each unit
of a small one and each shard's index carries a CRC-32C. So a flipped bit anywhere is found (the empty lock
files have none). Nothing is read through Zarr, which takes a missing file for zeros.

A quick check reads descriptions, small arrays and some rows of the images; a deep one all rows. Memory: 16
rows of images at a time, and the small arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .columns import Column, described_column
from .documents import read_json_object
from .durable import COPY_AGAIN, sealed
from .errors import HandloomError
from .findings import Finding, counted, said_once
from .recording import FORMAT, VERSION, Recording, manifest, open_recording
from .s3 import located
from .shards import read_shard, read_unit
from .table import COMMIT_FILE, LOCK_FILE, MARKERS
from .verify_content import check_content, check_images

TABLES: Final = ("frames", "crops", "labels")
AT_ONCE: Final = 16
"""Rows of images read together: from S3 each time costs a request."""
SAMPLED: Final = 48
"""Rows of each image array that a quick check reads, in neighbouring pairs."""
KNOWN: Final = {
    "frames": {
        "present", "t_device_ns", "t_host_ns", "frame_number", "frame_id", "subject", "sequence", "split", "depth",
    },
    "crops": {"crop", "center", "k", "center_source", "center_score", "parts"},
    "labels": {"joints", "visible", "pose", "shape", "root", "twin", "fit_error_mm"},
}  # fmt: skip

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check."""

    path: str
    deep: bool
    frames: int
    images: int
    """Rows of image arrays that were decoded."""
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"clean": self.clean}

    def lines(self) -> list[str]:
        """For people, within 80 columns."""
        said = said_once(self.findings)
        how = "every byte" if self.deep else "descriptions, small arrays"
        last = (
            f"{self.frames} frame{'s' * (self.frames != 1)}, {how} and {self.images} image rows read: {counted(said)}"
        )
        return [*(line for finding in said for line in finding.lines()), last]


@dataclass(slots=True)
class _Table:
    """A table as its description says, without any trust in its arrays."""

    name: str
    path: Path
    columns: dict[str, Column]
    unit_frames: int
    committed: int
    attributes: dict[str, Any]
    bad: dict[str, set[int]] = field(default_factory=dict)


def verify(
    path: Path, *, deep: bool = False, real: Path | None = None, progress: Progress | None = None
) -> Verification:
    """Check the recording at `path`.

    Args:
        path: the recording.
        deep: read every byte, not descriptions, small arrays and samples of the images.
        real: the recording that a recording of twins says it shows the twins of.
        progress: told of units done.

    Raises:
        HandloomError: there is no recording, or the real one cannot be opened.
    """
    path = located(path)
    values = _root(path)
    real_recording = None if real is None else open_recording(real)
    found: list[Finding] = list(_description(path, path / "zarr.json"))
    if values is not None:
        version = values.get("version")
        if isinstance(version, int) and version > VERSION:
            what = f"version {version}, this Handloom reads up to {VERSION}: nothing else was checked"
            newer = Finding("error", "newer", "zarr.json", what, fix="pip install --upgrade handloom")
            return Verification(str(path), deep, 0, 0, (*found, newer))
        if values.get("manifest") != manifest(values):
            what = "rig, K, kind or hand no longer match the manifest: the geometry may be wrong"
            found.append(Finding("error", "manifest", "zarr.json", what, fix="restore zarr.json"))
    tables = {name: table for name in TABLES if (table := _table(path, name, found)) is not None}
    if "frames" not in tables and not (path / "frames").exists():
        found.append(Finding("error", "missing", "frames", "the table is missing", fix=COPY_AGAIN))
    for table in tables.values():
        found += _structure(path, table)
    images = 0
    units = sum(-(-table.committed // table.unit_frames) for table in tables.values())
    small: dict[str, dict[str, NDArray[Any]]] = {}
    done = 0
    for table in tables.values():
        small[table.name] = {
            name: np.zeros((table.committed, *column.shape), column.dtype)
            for name, column in table.columns.items()
            if not column.sharded
        }
        for unit in range(-(-table.committed // table.unit_frames)):
            images += _unit(table, unit, deep=deep, small=small[table.name], found=found)
            done += 1
            if progress is not None:
                progress(done, units)
        for name, rows in table.bad.items():
            what = "the bytes are missing or do not match their checksum"
            found.append(Finding("error", "damaged", f"{table.name}/{name}", what, tuple(sorted(rows)), COPY_AGAIN))
    lengths = {name: table.committed for name, table in tables.items()}
    if "frames" in lengths:
        found += _counts(path, lengths)
    found += _content(path, tables, small, found, deep=deep, real=real_recording, progress=progress)
    return Verification(str(path), deep, lengths.get("frames", 0), images, tuple(found))


def _content(
    path: Path,
    tables: Mapping[str, _Table],
    small: Mapping[str, Mapping[str, NDArray[Any]]],
    found: Sequence[Finding],
    *,
    deep: bool,
    real: Recording | None,
    progress: Progress | None,
) -> list[Finding]:
    """Findings of what the recording says, as far as its bytes are right; and what was not looked at for that."""
    lost = {
        row for table in tables.values() for name, rows in table.bad.items() if table.columns[name].sharded
        for row in rows
    }  # fmt: skip
    known = {f"{t.name}/{name}" for t in tables.values() for name in t.bad if t.columns[name].sharded}
    others = sorted({f.where for f in found if f.severity == "error" and f.where not in known})
    if others:
        what = "not looked at for these errors: times, units, images, joints, twins"
        return [Finding("note", "skipped", "content", what, fix="mend them, then verify again")]
    out: list[Finding] = []
    try:
        recording = open_recording(path, check=False)
        rows = [row for row in _samples(recording.n_frames, deep=deep) if row not in lost]
        out += check_content(recording, small, real)
        out += check_images(recording, rows, progress)
    except HandloomError as error:
        out.append(Finding("error", "unreadable", error.where or str(path), error.what, fix=error.fix))
        out.append(Finding("note", "skipped", "content", "the checks of the content ended there"))
    if lost:
        what = "not looked at for these errors: images of the damaged rows"
        out.append(Finding("note", "skipped", "content", what, tuple(sorted(lost))))
    return out


def _samples(count: int, *, deep: bool) -> list[int]:
    """Rows to look at: all, or pairs of neighbours from all over."""
    if deep or count <= SAMPLED:
        return list(range(count))
    first = np.linspace(0, count - 2, SAMPLED // 2).astype(int)
    return sorted({int(row) for start in first for row in (start, start + 1)})


def _root(path: Path) -> dict[str, Any] | None:
    """The recording's attributes; None where they cannot be read though tables lie there."""
    tables = any((path / name / COMMIT_FILE).exists() for name in TABLES)
    if not path.is_dir() or not (tables or (path / "zarr.json").is_file()):
        raise HandloomError("There is no recording", where=str(path))
    try:
        values = read_json_object(path / "zarr.json")["attributes"]
        if values["format"] == FORMAT:
            return dict(values)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if not tables:
        raise HandloomError("This is not a recording", where=str(path))
    return None


def _description(root: Path, file: Path) -> Iterator[Finding]:
    """Findings of one JSON file: gone, torn, changed."""
    where = file.relative_to(root).as_posix()
    try:
        text, value = file.read_bytes(), read_json_object(file)
        kept = sealed(value)
    except FileNotFoundError:
        yield Finding("error", "missing", where, "the file is gone", fix=COPY_AGAIN)
        return
    except (OSError, ValueError, TypeError, AttributeError) as error:
        yield Finding("error", "damaged", where, f"cannot be read ({type(error).__name__})", fix=COPY_AGAIN)
        return
    said = value.get("attributes", value) if "zarr_format" in value else value
    if not isinstance(said, dict) or "seal" not in said:
        yield Finding("warning", "unsealed", where, "has no seal: changed, or written before there were seals")
    elif kept != value or json.dumps(value, indent=2).encode() != text:
        yield Finding("error", "changed", where, "was changed after it was written", fix=COPY_AGAIN)


def _table(path: Path, name: str, found: list[Finding]) -> _Table | None:
    folder = path / name
    if not folder.exists():
        return None
    found += [*_description(path, folder / "zarr.json"), *_description(path, folder / COMMIT_FILE)]
    try:
        said = read_json_object(folder / "zarr.json")["attributes"]
        columns = [described_column(entry) for entry in said["columns"]]
        committed = int(read_json_object(folder / COMMIT_FILE)["rows"])
        unit_frames = int(said["unit_frames"])
        if committed < 0 or unit_frames < 1 or not all(np.dtype(column.dtype).itemsize for column in columns):
            raise ValueError(committed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        what = "the table's description is damaged: its arrays were not checked"
        found.append(Finding("error", "damaged", name, what, fix=COPY_AGAIN))
        return None
    # A torn number may speak of billions: no more is looked for than there can be.
    units = max((sum(1 for _ in (folder / column.name).glob("c.*")) for column in columns), default=0)
    if committed > (units + 1) * unit_frames:
        what = f"{committed} rows are committed, the arrays have files of {units * unit_frames} at most"
        found.append(Finding("error", "count", f"{name}/{COMMIT_FILE}", what, fix=COPY_AGAIN))
        committed = units * unit_frames
    return _Table(name, folder, {column.name: column for column in columns}, unit_frames, committed, said)


def _structure(root: Path, table: _Table) -> Iterator[Finding]:
    """Findings of the files beside the data: descriptions of the arrays, markers, what nobody knows."""
    ahead: dict[int, list[str]] = {}
    for name, column in table.columns.items():
        where = f"{table.name}/{name}"
        file = table.path / name / "zarr.json"
        yield from _description(root, file)
        if name.split("/")[0] not in KNOWN[table.name]:
            yield Finding("warning", "unknown", where, "this Handloom knows no such column")
        try:
            length, *shape = read_json_object(file)["shape"]
            if tuple(shape) != column.shape or length < table.committed:
                what = f"{length} rows of {tuple(shape)}, the table has {table.committed} of {column.shape}"
                yield Finding("error", "shape", where, what, fix=COPY_AGAIN)
            elif length > table.committed:
                ahead.setdefault(length, []).append(name)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # said already
    for length, names in ahead.items():
        what = f"shape {length} runs ahead of the {table.committed} committed rows in {len(names)} arrays: normal "
        what += "after a crash and while it is written; going on with --resume, or opening to write, mends it"
        yield Finding("note", "ahead", table.name, what)
    inner = {PurePath(name).parent.as_posix() for name in table.columns} - {"."}
    for name in sorted(inner):
        yield from _description(root, table.path / name / "zarr.json")
    for file in sorted(table.path.glob(f"{MARKERS}/*.json")):
        yield from _description(root, file)
    told = {*table.columns, *inner, MARKERS}
    for entry in sorted(table.path.iterdir()):
        if entry.name not in {*told, "zarr.json", COMMIT_FILE, LOCK_FILE}:
            where = entry.relative_to(root).as_posix()
            yield Finding("note", "leftover", where, "belongs to no array: left by a writer that was killed?")


def _unit(table: _Table, unit: int, *, deep: bool, small: dict[str, NDArray[Any]], found: list[Finding]) -> int:
    """Look at one unit of all arrays; gives how many image rows were decoded."""
    first = unit * table.unit_frames
    last = min(first + table.unit_frames, table.committed)
    images = 0
    for name, column in table.columns.items():
        file = table.path / column.unit_key(unit)
        bad = table.bad.setdefault(name, set())
        if not column.sharded:
            values = read_unit(file, (table.unit_frames, *column.shape), np.dtype(column.dtype))
            if values is None:
                bad |= set(range(first, last))
            else:
                small[name][first:last] = values[: last - first]
        elif not file.exists():
            bad |= set(range(first, last))
        else:
            rows = (
                range(first, last) if deep else [r for r in _samples(table.committed, deep=False) if first <= r < last]
            )
            for start in range(0, len(rows), AT_ONCE):
                some = [row - first for row in rows[start : start + AT_ONCE]]
                out = np.empty((len(some), *column.shape), column.dtype)
                bad |= {first + lost for lost in read_shard(file, table.unit_frames, some, out)}
            images += len(rows)
        if not bad:
            del table.bad[name]
    return images


def _counts(path: Path, rows: dict[str, int]) -> Iterator[Finding]:
    frames = rows["frames"]
    if not frames:
        yield Finding("warning", "empty", "frames", "the recording holds no frame")
    for name in ("crops", "labels"):
        if name in rows and rows[name] != frames:
            what = f"{rows[name]} rows for {frames} frames"
            fix = f"handloom capture locate {path} --overwrite" if name == "crops" else "label it again"
            yield Finding("warning" if rows[name] < frames else "note", "count", name, what, fix=fix)
