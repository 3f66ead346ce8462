"""Recordings hurt on purpose: bits, files, descriptions, and content written again with right checksums."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from handloom.stores.codec import codec_named
from handloom.stores.columns import BLOCK_BYTES, Column
from handloom.stores.durable import sealed
from handloom.stores.recording import manifest, open_recording
from handloom.stores.shards import CRC_BYTES, ENTRY_BYTES, encode_shard
from handloom.stores.table import Table

TABLES = ("frames", "crops", "labels")


def copy(path: Path, to: Path) -> Path:
    shutil.copytree(path, to)
    return to


def tables(path: Path) -> dict[str, Table]:
    recording = open_recording(path)
    return {name: table for name in TABLES if (table := getattr(recording, name)) is not None}


def rewrite(path: Path, array: str, change: Callable[[np.ndarray], Any]) -> None:
    """Let `change` work on all rows of `table/array` and write them as a writer would."""
    name, _, column_name = array.partition("/")
    table = Table.open(path / name, writable=True)
    column, values = table.columns[column_name], table.read(column_name)
    change(values)
    for start in range(0, len(values), table.unit_frames):
        part = values[start : start + table.unit_frames]
        if column.sharded:
            codec = codec_named(column.codec)
            shard = encode_shard(part, table.unit_frames, codec=codec, block_bytes=BLOCK_BYTES)
            (table.path / column.unit_key(start // table.unit_frames)).write_bytes(shard)
        else:
            table._array(column_name)[start : start + len(part)] = part


def redescribe(
    path: Path, change: Callable[[dict[str, Any]], Any], *, file: str = "zarr.json", kept: bool = True
) -> None:
    """Change a description and seal it again; `kept`: the manifest is made to fit, as if it had been written so."""
    values = json.loads((path / file).read_text())
    change(values.get("attributes", values))
    if file == "zarr.json" and kept:
        values["attributes"]["manifest"] = manifest(values["attributes"])
    (path / file).write_text(json.dumps(sealed(values), indent=2))


@dataclass(frozen=True)
class Flip:
    """A flipped bit of an array's file and the rows that it may have hurt."""

    file: Path
    array: str
    rows: set[int]

    def undo(self, before: bytes) -> None:
        self.file.write_bytes(before)


def flip(path: Path, rng: np.random.Generator) -> tuple[Flip, bytes]:
    """Flip one bit anywhere in the data of a random array."""
    all_tables = tables(path)
    names = [(t, c) for t, table in all_tables.items() for c in table.columns]
    name, column_name = names[int(rng.integers(len(names)))]
    table = all_tables[name]
    column = table.columns[column_name]
    unit = int(rng.integers(-(-table.committed // table.unit_frames)))
    file = table.path / column.unit_key(unit)
    before = file.read_bytes()
    data = bytearray(before)
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    file.write_bytes(data)
    first, last = unit * table.unit_frames, min((unit + 1) * table.unit_frames, table.committed)
    rows = _hurt(column, before, place, table.unit_frames)
    hurt = set(range(first, last)) if rows is None else {first + row for row in rows}
    return Flip(file, f"{name}/{column_name}", hurt), before


def _hurt(column: Column, data: bytes, place: int, chunks: int) -> set[int] | None:
    """The row of a shard that a byte belongs to; None: it belongs to all, as its index does."""
    length = chunks * ENTRY_BYTES + CRC_BYTES
    if not column.sharded or place >= len(data) - length:
        return None
    index = np.frombuffer(data[-length:-CRC_BYTES], "<u8").reshape(chunks, 2)
    return {row for row, (offset, size) in enumerate(index.tolist()) if offset <= place < offset + size}
