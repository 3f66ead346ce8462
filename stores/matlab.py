"""Arrays of numbers from MATLAB's files of version 5 to 7, which may come from strangers.

SciPy's reader takes a damaged type code for the place of a pointer and crashes the process. This one knows arrays of
real numbers and nothing else: no structures, cells or text, and nothing is made larger than what the file holds.

Format: MathWorks, MAT-File Format, Level 5: a header of 128 bytes; then elements of a type, a length and so many bytes,
each a matrix (14) or one compressed by zlib (15); a matrix is its flags, dimensions, name and numbers.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

HEADER_BYTES: Final = 128
MATRIX: Final = 14
COMPRESSED: Final = 15
NUMBERS: Final = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
NUMERIC_CLASSES: Final = range(6, 16)
COMPLEX: Final = 0x0800


def read_matlab(data: bytes, name: str, *, most_bytes: int) -> NDArray[Any] | None:
    """The array of that name, None where there is none.

    Args:
        data: the file.
        name: of the variable.
        most_bytes: a compressed variable may unpack to.

    Raises:
        ValueError: it is no such file, damaged, or the variable holds no real numbers.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or data[124:128] == bytes(4):
        raise ValueError("it is no MATLAB file of version 5 to 7; save it with -v7")
    for kind, body in _elements(memoryview(data)[HEADER_BYTES:], order):
        inner = [(kind, body)]
        if kind == COMPRESSED:
            inner = list(_elements(memoryview(_unpacked(body, most_bytes)), order))
        for one, matrix in inner:
            if one == MATRIX and _name_of(matrix, order) == name:
                return _numbers(matrix, order)
    return None


def _unpacked(body: memoryview, most_bytes: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        out = stream.decompress(body, most_bytes)
    except zlib.error as error:
        raise ValueError(f"a variable cannot be unpacked: {error}") from error
    if not stream.eof:
        raise ValueError("a variable is cut off, or larger than any that is looked for")
    return out


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and bytes of each element; those of at most four bytes may lie within the tag itself."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack(f"{order}II", data[at : at + 8])
        if kind >> 16:
            size, kind, start, step = kind >> 16, kind & 0xFFFF, at + 4, 8
            if size > 4:
                raise ValueError("a small element is too large")
        else:
            start = at + 8
            # What is compressed is not padded to eight bytes.
            step = 8 + (size if kind == COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError("it is cut off")
        yield kind, data[start : start + size]
        at += step


def _name_of(matrix: memoryview, order: str) -> str:
    parts = _elements(matrix, order)
    for number, (_, body) in enumerate(parts):
        if number == 2:
            return bytes(body).decode("ascii", "replace")
    raise ValueError("a variable has no name")


def _numbers(matrix: memoryview, order: str) -> NDArray[Any]:
    parts = list(_elements(matrix, order))
    if len(parts) < 4 or len(parts[0][1]) < 4 or len(parts[1][1]) % 4:
        raise ValueError("a variable is cut off")
    (flags,) = struct.unpack(f"{order}I", parts[0][1][:4])
    if flags & 0xFF not in NUMERIC_CLASSES or flags & COMPLEX:
        raise ValueError("the variable holds no real numbers")
    shape = tuple(np.frombuffer(parts[1][1], f"{order}i4").tolist())
    kind, body = parts[3]
    if kind not in NUMBERS:
        raise ValueError(f"its numbers are of the unknown type {kind}")
    dtype = np.dtype(order + NUMBERS[kind])
    if min(shape, default=-1) < 0 or prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"an array of {' x '.join(map(str, shape[:6]))} has {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape, order="F")
