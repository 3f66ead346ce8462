"""Shards without Zarr: single rows out of one by index, one `pread`, CRC-32C, Blosc; and a whole one made.

A shard holds `chunks` rows, each compressed on its own and followed by the CRC-32C of its bytes; at its end
lies the index, offset and length of every row as little-endian uint64, with a CRC-32C of its own (the Zarr v3
sharding codec with the codecs [bytes, blosc, crc32c]). Through Zarr a random 192² crop costs 0.32 ms of CPU
(`oindex` 1.5), a PNG 0.15; this takes 0.03 (three views a row, one core; `benchmarks/reads.py`). Writing a
crop and its bone mask takes 0.08 ms of CPU, nearly all of it compression, to the same bytes as Zarr's in 0.25.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from .codec import SHUFFLES, Codec
from .s3 import S3Path

CRC_BYTES: Final = 4
ENTRY_BYTES: Final = 16
"""Offset and length of a row in the index."""
BLOSC_HEADER_BYTES: Final = 16
NEVER_WRITTEN: Final = 2**63
"""Offsets from here on are those of rows that were never written."""


def read_shard(path: Path, chunks: int, rows: Sequence[int], out: NDArray[Any]) -> list[int]:
    """Decode `rows` of the shard into `out`, one after another.

    Args:
        path: the shard.
        chunks: how many rows it has room for.
        rows: the wanted rows, counted within the shard.
        out: (len(rows), ...) of the array's type, contiguous.

    Returns:
        The rows that are missing or whose bytes do not match their checksum; their part of `out` is undefined.

    Raises:
        FileNotFoundError: there is no such shard.
    """
    if isinstance(path, S3Path):
        return _read_remote(path, chunks, rows, out)
    handle = os.open(path, os.O_RDONLY)
    try:
        index = _read_index(handle, chunks)
        if index is None:
            return list(rows)
        return [row for place, row in enumerate(rows) if not _decode(handle, index[row], out[place])]
    finally:
        os.close(handle)


def encode_shard(rows: NDArray[Any], chunks: int, *, codec: Codec, block_bytes: int) -> bytes:
    """The bytes of a shard that holds `rows` (n, ...), contiguous, and has room for `chunks` ≥ n.

    They are those that Zarr writes for the codecs [bytes, blosc, crc32c].
    """
    assert len(rows) <= chunks
    index = np.full((chunks, 2), 2**64 - 1, "<u8")
    parts: list[bytes] = []
    name, shuffle = codec.compressor.encode(), SHUFFLES[codec.shuffle]
    offset = 0
    for row, values in enumerate(rows):
        body = blosc.compress(values, name, codec.level, shuffle, block_bytes, values.dtype.itemsize)
        parts += [body, _crc(body)]
        index[row] = offset, len(body) + CRC_BYTES
        offset += len(body) + CRC_BYTES
    table = index.tobytes()
    return b"".join([*parts, table, _crc(table)])


def _crc(body: bytes) -> bytes:
    return int(google_crc32c.value(body)).to_bytes(CRC_BYTES, "little")


def _read_index(handle: int, chunks: int) -> NDArray[np.uint64] | None:
    length = chunks * ENTRY_BYTES + CRC_BYTES
    start = os.fstat(handle).st_size - length
    return _index(os.pread(handle, length, start), chunks) if start >= 0 else None


def _index(tail: bytes, chunks: int) -> NDArray[np.uint64] | None:
    data = _checked(tail) if len(tail) == chunks * ENTRY_BYTES + CRC_BYTES else None
    return None if data is None else np.frombuffer(data, "<u8").reshape(chunks, 2)


def _read_remote(path: S3Path, chunks: int, rows: Sequence[int], out: NDArray[Any]) -> list[int]:
    """`read_shard` by two requests: the index, then all rows."""
    index = _index(path.read_tail(chunks * ENTRY_BYTES + CRC_BYTES), chunks)
    if index is None:
        return list(rows)
    entries = {row: (int(index[row, 0]), int(index[row, 1])) for row in rows}
    there = {row: entry for row, entry in entries.items() if sum(entry) < NEVER_WRITTEN}
    parts = dict(zip(there, path.read_ranges(list(there.values())), strict=True)) if there else {}
    return [row for place, row in enumerate(rows) if row not in parts or not _unpack(parts[row], out[place])]


def _decode(handle: int, entry: NDArray[np.uint64], out: NDArray[Any]) -> bool:
    offset, length = entry.tolist()
    # A row that was never written has offset = length = 2^64 - 1.
    if offset + length > os.fstat(handle).st_size:
        return False
    return _unpack(os.pread(handle, length, offset), out)


def _unpack(stored: bytes, out: NDArray[Any]) -> bool:
    """Decode a row with its checksum; whether it is what was written."""
    data = _checked(stored)
    if data is None or len(data) < BLOSC_HEADER_BYTES or int.from_bytes(data[4:8], "little") != out.nbytes:
        return False
    try:
        blosc.decompress(data, out)
    except (RuntimeError, ValueError):
        return False
    return True


def _checked(data: bytes) -> bytes | None:
    """The bytes without their trailing CRC-32C, None where it does not match."""
    body, crc = data[:-CRC_BYTES], data[-CRC_BYTES:]
    return body if len(crc) == CRC_BYTES and google_crc32c.value(body) == int.from_bytes(crc, "little") else None


def read_unit(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """A chunk (shape) with one CRC-32C, as small arrays have one a unit; None where it is missing or damaged."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    out = np.empty(shape, dtype)
    return out if _unpack(stored, out) else None
