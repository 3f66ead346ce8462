"""The arrays of a table: what a column is, how Zarr lays it out, whether it is still what it was."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec

from .codec import codec_named
from .documents import read_json_object
from .durable import COPY_AGAIN, refuse_changed
from .errors import HandloomError

LARGEST_ROW_BYTES: Final = 1 << 29
"""Four of the largest images; a column of larger rows is a mistake."""
DTYPES: Final = ("u1", "u2", "u8", "i4", "i8", "f4")
SHARDED_FROM_BYTES: Final = 1024
"""Rows smaller than this are not worth a chunk each: their unit is one chunk."""
BLOCK_BYTES: Final = 1 << 18
"""Blosc's own choice is smaller: twice the time to decode, half as much again to encode, 4 % fewer bytes."""


@dataclass(frozen=True, slots=True)
class Column:
    """One array of a table: rows of `shape` and `dtype`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: int | float = 0
    codec: str = "synthesis"
    """What rows are packed with from now on (`codec.py`); what was written says itself how it is read."""

    @property
    def sharded(self) -> bool:
        """Whether each row is a chunk of its own."""
        row_bytes = int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize
        return row_bytes >= SHARDED_FROM_BYTES

    def unit_key(self, unit: int) -> str:
        """Where the file of a unit lies, from the table's folder."""
        return f"{self.name}/c.{unit}{'.0' * len(self.shape)}"


def described_column(entry: Any) -> Column:
    """The column that a table's description speaks of.

    Raises:
        ValueError: it is none: an array of it would lie elsewhere, or have no size.
        KeyError: something of it is not said.
        TypeError: something else is.
    """
    column = Column(**{**entry, "shape": tuple(entry["shape"])})
    sizes = all(type(size) is int and size > 0 for size in column.shape)
    if not sizes or column.dtype not in DTYPES:
        raise ValueError(f"a column of {column.shape} {column.dtype}")
    try:
        codec_named(column.codec)
    except (HandloomError, AttributeError) as error:
        raise ValueError(f"a column packed as {column.codec!r}") from error
    if math.prod(column.shape) * np.dtype(column.dtype).itemsize > LARGEST_ROW_BYTES:
        raise ValueError(f"rows of {column.shape} {column.dtype} would fill the memory")
    parts = column.name.split("/")
    if not all(part and part.replace("-", "").replace("_", "").isalnum() for part in parts):
        raise ValueError(f"a column of the name {column.name!r}")
    return column


def create_array(group: zarr.Group, column: Column, unit_frames: int) -> None:
    """Add the array of a column, without rows, to a table's group."""
    folder = PurePath(column.name).parent.as_posix()
    if folder != "." and folder not in group:
        group.create_group(folder)
    outer = (unit_frames, *column.shape)
    codec = codec_named(column.codec, where=str(group.store_path))
    blosc = BloscCodec(
        cname=codec.compressor,
        clevel=codec.level,
        shuffle=codec.shuffle,
        typesize=np.dtype(column.dtype).itemsize,
        blocksize=BLOCK_BYTES,
    )
    group.create_array(
        column.name,
        shape=(0, *column.shape),
        dtype=column.dtype,
        chunks=(1, *column.shape) if column.sharded else outer,
        shards=outer if column.sharded else None,
        compressors=[blosc, Crc32cCodec()],
        fill_value=column.fill,
        # One folder an array: every folder more has to be flushed too.
        chunk_key_encoding={"name": "default", "separator": "."},
    )


def check_array(table: Path, column: Column, rows: int) -> None:
    """Refuse an array that is not as its column says or shorter than the committed `rows`.

    Raises:
        HandloomError: it is so, or its description is gone.
    """
    where = table / column.name / "zarr.json"
    try:
        described = read_json_object(where)
        length, *shape = described["shape"]
        kind = str(described["data_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HandloomError(
            f"The recording is truncated: the description of '{column.name}' cannot be read",
            where=str(where),
            why=str(error),
            fix=COPY_AGAIN,
        ) from error
    expected = np.dtype(column.dtype).name
    if tuple(shape) != column.shape or kind != expected or length < rows:
        raise HandloomError(
            f"The array '{column.name}' is not what its table says",
            where=str(where),
            why=f"{length} rows of {tuple(shape)} {kind}; the table has {rows} of {column.shape} {expected}",
            fix=COPY_AGAIN,
        )
    refuse_changed(where, described)


def checksum(columns: Iterable[NDArray[Any]]) -> str:
    """CRC-32 of the rows of all columns."""
    value = 0
    for values in columns:
        value = zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"
