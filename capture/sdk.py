"""The RealSense SDK: how it is loaded, and what its files and numbers look like."""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from ..stores.camera import Camera
from ..stores.errors import HandloomError, missing_extra
from ..stores.libusb import load_libusb

MAGIC: Final = {b"SQLite format 3\0": "db3", b"#ROSBAG V2.0\n": "bag"}
SOFTWARE_NAME: Final = "Handloom virtual camera"
"""Begins the name of every camera that exists in software only, so that its recordings stay known as virtual."""


@lru_cache(maxsize=1)
def load_sdk() -> Any:
    """The module `pyrealsense2`, with the libusb it needs loaded before it.

    Raises:
        HandloomError: it is not installed, with the command that brings it.
    """
    load_libusb()
    try:
        import pyrealsense2
    except ImportError as error:
        raise missing_extra("pyrealsense2", "realsense") from error
    return pyrealsense2


def sniff(path: Path) -> Literal["db3", "bag"]:
    """The kind of recording a file is, by its first bytes.

    Raises:
        HandloomError: missing, unreadable, neither kind, or a .db3 shorter than its own header says.
    """
    try:
        with path.open("rb") as file:
            head = file.read(32)
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise HandloomError("There is no such RealSense recording", where=str(path)) from error
    except OSError as error:
        raise HandloomError("The file cannot be read", where=str(path), why=str(error)) from error
    kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
    if kind is None:
        raise HandloomError(
            "This is not a RealSense recording",
            where=str(path),
            why=f"it begins with {head[:12]!r}; a .db3 begins with 'SQLite format 3', a .bag with '#ROSBAG V2.0'",
        )
    if kind == "bag":
        return "bag"
    # The SDK plays what is left of a cut .db3 without a word: compare with the size in SQLite's header.
    expected = _sqlite_bytes(head)
    if size < expected:
        raise HandloomError(
            "The RealSense recording is truncated",
            where=str(path),
            why=f"{size} bytes are there, its header speaks of {expected}",
            fix="copy the file again, or record again and let the recorder close it",
        )
    return "db3"


def _sqlite_bytes(head: bytes) -> int:
    """Size that a SQLite file's first 32 bytes speak of."""
    if len(head) < 32:
        return 32
    (page,) = struct.unpack(">H", head[16:18])
    (pages,) = struct.unpack(">I", head[28:32])
    return int(pages) * (65536 if page == 1 else int(page))


def shortest(value: float) -> float:
    """A float32 of the SDK as the shortest decimal that gives it back: 0.00025, not 0.0002500000118743628."""
    return float(str(np.float32(value)))


def camera_of(profile: Any, *, unit_m: float, name: str, serial: str, where: str) -> Camera:
    """The camera that a depth stream's profile describes, at the rig's origin.

    Args:
        profile: of the stream.
        unit_m: metres of one step of its depth.
        name: what the camera is to be called.
        serial: its serial number.
        where: the device or file, for errors.

    Raises:
        HandloomError: its lens has a distortion model that we do not know.
    """
    rs = load_sdk()
    intrinsics = profile.as_video_stream_profile().get_intrinsics()
    model, dist = "none", tuple[float, ...]()
    coefficients = tuple(shortest(c) for c in intrinsics.coeffs)
    if any(coefficients) and intrinsics.model != rs.distortion.none:
        if intrinsics.model != rs.distortion.brown_conrady:
            raise HandloomError(
                f"Depth images with the distortion model '{intrinsics.model}' are not supported", where=where
            )
        model, dist = "brown-conrady", coefficients
    fx, fy, cx, cy = (shortest(v) for v in (intrinsics.fx, intrinsics.fy, intrinsics.ppx, intrinsics.ppy))
    return Camera(
        name=name,
        width=int(intrinsics.width),
        height=int(intrinsics.height),
        k=(fx, fy, cx, cy),
        depth_unit_mm=round(shortest(unit_m) * 1000.0, 9),
        dist_model=model,
        dist=dist,
        serial=serial,
    )
