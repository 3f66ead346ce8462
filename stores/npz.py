"""Arrays from `.npy` and `.npz` files of strangers: nothing is unpickled, nothing made larger than its bytes.

A header may claim a shape of terabytes, and an archive may claim that it unpacks to as much: both are held against
what is there before anything is allocated.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .documents import said
from .errors import HandloomError

MAX_BYTES: Final = 1 << 29
"""Of an array, and of all of an archive."""

Arrays = dict[str, NDArray[Any]]


def read_archive(data: bytes, *, where: str, names: Collection[str] | None = None) -> Arrays:
    """The arrays of an `.npz` archive: all of them, or those of these names that it has.

    Raises:
        HandloomError: it is no such archive, is damaged, too large, or holds Python objects.
    """
    out: Arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.infolist() if names is None or m.filename.removesuffix(".npy") in names]
            if sum(member.file_size for member in members) > MAX_BYTES:
                why = f"it unpacks to more than {MAX_BYTES} bytes"
                raise HandloomError("The archive is too large", where=where, why=why)
            for member in members:
                out[member.filename.removesuffix(".npy")] = _array(archive.read(member))
    except HandloomError:
        raise
    except Exception as error:  # zipfile and numpy raise a dozen kinds on damaged bytes
        raise HandloomError(
            "The archive cannot be read",
            where=where,
            why=_reason(error),
            fix="an .npz of plain arrays, as numpy.savez writes it",
        ) from error
    return out


def read_arrays(path: Path, names: Collection[str] | None = None) -> Arrays:
    """The arrays of an `.npz` file, all or those of these names; a `.npy` file's one is called ''.

    Raises:
        HandloomError: it cannot be read, is damaged, too large, or holds Python objects.
    """
    where = str(path)
    try:
        if not path.is_file():
            raise OSError("no such file" if not path.exists() else "it is no file")
        if path.stat().st_size > MAX_BYTES:
            raise HandloomError("The file is too large", where=where, why=f"more than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise HandloomError("The arrays cannot be read", where=where, why=said(error)) from error
    if path.suffix.lower() != ".npy":
        return read_archive(data, where=where, names=names)
    try:
        return {"": _array(data)}
    except Exception as error:
        raise HandloomError(
            "The array cannot be read", where=where, why=_reason(error), fix="a plain array, as numpy.save writes it"
        ) from error


def _array(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    major, _ = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("Python objects would have to be unpickled")
    count = 1
    for size in shape:
        count *= size
    if dtype.itemsize == 0 or not 0 <= count * dtype.itemsize <= len(data) - stream.tell():
        raise ValueError(f"an array of shape {shape} is cut off")
    flat = np.frombuffer(data, dtype, count, stream.tell())
    out: NDArray[Any] = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
    return out


def _reason(error: Exception) -> str:
    return "it holds Python objects" if "pickle" in str(error) else str(error)[:200]
