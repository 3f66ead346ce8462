"""Small files from whoever wrote them, JSON, TOML or images: never waited for, never read without end."""

from __future__ import annotations

import errno
import json
import tomllib
from pathlib import Path
from typing import Any, Final

LARGEST_BYTES: Final = 1 << 26
"""No description, and no depth image that a camera gives, is larger."""


def read_small(path: Path) -> bytes:
    """The bytes of a regular file of at most `LARGEST_BYTES`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a folder, a pipe or a device, or too large.
    """
    if not path.is_file():
        if path.is_dir():
            raise ValueError("it is a folder")
        if path.exists():
            raise ValueError("it is no file")
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
    if type(path) is type(Path()) and path.stat().st_size > LARGEST_BYTES:  # a path in the cloud is no such
        raise ValueError(f"it is too large for what it should be ({path.stat().st_size / 1e6:.0f} MB)")
    return path.read_bytes()


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, no object, or nested deeper than any description is.
    """
    try:
        value = json.loads(read_small(path))
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def read_ids(path: Path) -> list[int]:
    """The frame_ids of a text file, one a line.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no whole number from 0 to 2^64 - 1.
    """
    ids = [int(word) for word in read_small(path).decode("utf-8-sig").split()]
    wrong = next((number for number in ids if not 0 <= number < 1 << 64), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is no frame_id")
    return ids


def read_toml(path: Path) -> dict[str, Any]:
    """The table of a TOML file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML, or nested deeper than anybody writes.
    """
    try:
        return tomllib.loads(read_small(path).decode("utf-8-sig"))
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def said(error: BaseException) -> str:
    """What the system or a parser said, without the number and the path that are named elsewhere."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason or type(error).__name__
