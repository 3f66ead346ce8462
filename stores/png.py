"""16-bit greyscale PNG, the one image form of depth outside a recording."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .camera import LARGEST_PX
from .documents import read_small, said
from .errors import HandloomError

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
MOST_PACKED: Final = 1100
"""Deflate makes at most 1032 bytes of one: what a header promises beyond that, no data can keep."""
_COLOUR: Final = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def read_depth_png(path: Path, *, size: tuple[int, int] | None = None) -> NDArray[np.uint16]:
    """Depth (H, W) uint16 of a PNG; `size` is the (width, height) it must have.

    Raises:
        HandloomError: missing, not PNG, not 16-bit with one channel, truncated, or of another size.
    """
    data, (bits, colour) = _checked(path, size)
    if (bits, colour) != (16, 0):
        raise HandloomError(
            "Depth must be a 16-bit PNG with one channel",
            where=str(path),
            why=f"this one is {bits}-bit {_COLOUR.get(colour, f'colour type {colour}')}",
            fix="export the sensor's raw uint16 depth, not its preview picture",
        )
    return np.asarray(_decoded(path, data, cv2.IMREAD_UNCHANGED, np.uint16), np.uint16)


def read_packed_depth_png(path: Path, *, size: tuple[int, int] | None = None) -> NDArray[np.uint16]:
    """Depth (H, W) uint16 of an 8-bit RGB PNG that keeps it as green << 8 | blue, as NYU's images do.

    Raises:
        HandloomError: missing, not PNG, not 8-bit RGB, truncated, or of another size.
    """
    data, (bits, colour) = _checked(path, size)
    if (bits, colour) != (8, 2):
        raise HandloomError(
            "Packed depth must be an 8-bit RGB PNG",
            where=str(path),
            why=f"this one is {bits}-bit {_COLOUR.get(colour, f'colour type {colour}')}",
            fix="take the data set's own depth images: green holds the high byte, blue the low one",
        )
    image = _decoded(path, data, cv2.IMREAD_COLOR, np.uint8).astype(np.uint16)
    return np.asarray(image[..., 1] << 8 | image[..., 0], np.uint16)


def _checked(path: Path, size: tuple[int, int] | None) -> tuple[bytes, tuple[int, int]]:
    """A PNG's bytes, its bits a channel and its colour type; its size is plausible, and `size` where one is given."""
    try:
        data = read_small(path)
    except (OSError, ValueError) as error:
        raise HandloomError("A depth image cannot be read", where=str(path), why=said(error)) from error
    if not data.startswith(SIGNATURE) or len(data) < 33:
        raise HandloomError("This is not a PNG", where=str(path))
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if not (0 < width <= LARGEST_PX and 0 < height <= LARGEST_PX):
        raise HandloomError("The image size is not plausible", where=str(path), why=f"{width} x {height}")
    if width * height * bits // 8 > len(data) * MOST_PACKED:
        why = f"{len(data)} bytes cannot hold {width} x {height} pixels"
        raise HandloomError("The PNG is truncated or damaged", where=str(path), why=why)
    if size is not None and (width, height) != size:
        raise HandloomError(
            "An image disagrees with the rig",
            where=str(path),
            why=f"it is {width} x {height}, its camera {size[0]} x {size[1]}",
            fix="give the camera its true width, height and K in rig.toml",
        )
    return data, (bits, colour)


def _decoded(path: Path, data: bytes, how: int, kind: type[np.generic]) -> NDArray[Any]:
    width, height = struct.unpack(">II", data[16:24])
    # OpenCV fills what a torn file lacks with zeros, which would read as 'no return'.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), how) if b"IEND" in data[-12:] else None
    if image is None or image.dtype != kind or image.shape[:2] != (height, width):
        raise HandloomError("The PNG is truncated or damaged", where=str(path), fix="copy the file again, or delete it")
    return np.asarray(image)


def write_depth_png(path: Path, depth: NDArray[Any]) -> None:
    """Write depth (H, W) uint16 as PNG."""
    assert depth.dtype == np.uint16
    assert depth.ndim == 2
    # Level 1 is four times faster than the default and 5 % larger on depth.
    done, data = cv2.imencode(".png", depth, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    path.write_bytes(data.tobytes())
