"""Files of a few bytes that promise gigabytes, read by a process that may not have them; run by `test_parsers.py`."""

from __future__ import annotations

import io
import resource
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import yaml
from scipy.io import savemat

from handloom.capture.pictures import _read as read_picture
from handloom.learn.config import TrainConfig
from handloom.learn.result_files import DATASETS, read_results
from handloom.stores.config import load_config
from handloom.stores.errors import HandloomError
from handloom.stores.npz import read_arrays
from handloom.stores.png import read_depth_png
from handloom.synth.formats import open_hand
from handloom.synth.pose_files import read_poses

ROOM = 600 << 20


def png(width: int, height: int) -> bytes:
    """A 16-bit header over a few zeros."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def npy(shape: str, kind: str = "<f8") -> bytes:
    """The header of an array of that shape, and eight bytes."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(8)


def archive(name: str, data: bytes, *, claimed: int | None = None) -> bytes:
    """An archive of one array, which may claim to unpack to any number of bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.npy", data)
    made = bytearray(stream.getvalue())
    if claimed is not None:
        at = made.index(b"PK\x01\x02")  # the central directory, which is believed
        made[at + 24 : at + 28] = struct.pack("<I", claimed)
    return bytes(made)


def glb(text: bytes, data: bytes = bytes(8)) -> bytes:
    """A container around a JSON text."""
    text += b" " * (-len(text) % 4)
    parts = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<III", 0x46546C67, 2, 12 + len(parts)) + parts


def gltf(count: int, length: int) -> bytes:
    """A mesh whose positions are said to be so many, in a buffer said to be so long."""
    return glb(
        b'{"asset": {"version": "2.0"}, "buffers": [{"byteLength": %d}],'
        b'"bufferViews": [{"buffer": 0, "byteLength": %d}],'
        b'"accessors": [{"bufferView": 0, "componentType": 5126, "count": %d, "type": "VEC3"}],'
        b'"meshes": [{"primitives": [{"attributes": {"POSITION": 0, "JOINTS_0": 0, "WEIGHTS_0": 0}}]}],'
        b'"skins": [{"joints": [0]}], "nodes": [{"mesh": 0, "skin": 0}], "scenes": [{"nodes": [0]}]}'
        % (length, length, count)
    )


def pickled(count: int) -> bytes:
    """A pickle that says that a string of so many bytes follows."""
    return b"\x80\x04\x8e" + struct.pack("<Q", count) + b"x."


def matlab(frames: int, said: int) -> bytes:
    """NYU's labels: of so many frames, all zero, or with another number of them in the header."""
    stream = io.BytesIO()
    savemat(stream, {"joint_xyz": np.zeros((1, frames, 36, 3), np.float32)}, do_compression=frames > 1)
    return stream.getvalue().replace(struct.pack("<4i", 1, frames, 36, 3), struct.pack("<4i", 1, said, 36, 3))


def laughs(depth: int) -> bytes:
    """YAML's aliases of aliases: nine to the power of `depth` values in as many lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return ("\n".join(lines) + f"\nmethod: *a{depth - 1}\n").encode()


def hand(path: Path) -> object:
    """A hand's file."""
    return open_hand(str(path))


def results(path: Path) -> object:
    """A truth in arrays."""
    return read_results(path, DATASETS["nyu"])


def config(path: Path) -> object:
    """A training's configuration."""
    return load_config(TrainConfig, path)


WIDE = "(1000000000, 1000000)"
BOMBS: dict[str, tuple[str, bytes, Callable[[Path], object]]] = {
    "a PNG of 60,000 x 60,000": ("d.png", png(60_000, 60_000), read_depth_png),
    "the largest PNG that is plausible": ("d.png", png(8192, 8192), read_depth_png),
    "an array of petabytes": ("a.npy", npy(WIDE), read_arrays),
    "an array of more than all numbers": ("a.npy", npy("(" + "9" * 18 + ", " + "9" * 18 + ")"), read_arrays),
    "an array of less than nothing": ("a.npy", npy("(-5, -100000000000)"), read_arrays),
    "an array of empty things": ("a.npy", npy(WIDE, "|V0"), read_arrays),
    "an archive of petabytes": ("a.npz", archive("u", npy(WIDE)), results),
    "an archive that claims four gigabytes": ("a.npz", archive("u", npy("(1,)"), claimed=0xFFFFFFF0), results),
    "poses of petabytes": ("p.npz", archive("pose", npy("(1000000000, 48)")), read_poses),
    "poses of petabytes by themselves": ("p.npy", npy("(1000000000, 48)"), read_poses),
    "a hand of a billion points": ("h.glb", gltf(1 << 30, 8), hand),
    "a hand in a buffer of exabytes": ("h.glb", gltf(1 << 60, 1 << 62), hand),
    "a hand's archive of petabytes": ("h.npz", archive("vertices", npy(WIDE)), hand),
    "a pickle of exabytes": ("h.pkl", pickled(1 << 62), hand),
    "a pickle of gigabytes": ("h.pkl", pickled(1 << 33), hand),
    "a MATLAB file of gigabytes": ("p.mat", matlab(1, 2_000_000_000), read_poses),
    "a MATLAB file of half a gigabyte": ("p.mat", matlab(1, 999_999), read_poses),
    "a picture of 60,000 x 60,000": ("0.png", png(60_000, 60_000), read_picture),
    "a configuration of a billion laughs": ("c.yaml", laughs(10), config),
    "a configuration nested without end": ("c.yaml", b"a: " + b"[" * 100_000, config),
}


def main() -> None:
    """Read them all; anything but an error in words ends the process."""
    cv2.imdecode(np.frombuffer(cv2.imencode(".png", np.zeros((8, 8), np.uint16))[1].tobytes(), np.uint8), -1)
    yaml.safe_load("a: 1")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, used + ROOM))
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, data, read) in BOMBS.items():
            path = Path(folder) / file
            path.write_bytes(data)
            try:
                read(path)
            except HandloomError as error:
                said = str(error)
            else:
                raise SystemExit(f"{name}: read")
            assert len(said) < 3000, name
    print(f"{len(BOMBS)} refused")  # noqa: T201


if __name__ == "__main__":
    main()
