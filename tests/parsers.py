"""Every reader of a stranger's file, with a good file to begin from: for `test_parsers.py` and `fuzz.py`."""

from __future__ import annotations

import functools
import io
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from handloom.learn.config import TrainConfig
from handloom.learn.result_files import DATASETS, read_results
from handloom.stores.camera import Camera, Rig, read_rig
from handloom.stores.config import load_config
from handloom.stores.documents import read_ids
from handloom.stores.errors import HandloomError
from handloom.stores.folder import read_folder, read_joints, write_folder
from handloom.stores.label_files import msra_points, named_points
from handloom.stores.npz import read_arrays
from handloom.stores.png import read_depth_png, read_packed_depth_png
from handloom.stores.pose_csv import read_poses

RIG = Rig((Camera("a", 32, 24, (30, 30, 16, 12)), Camera("b", 40, 30, (30, 30, 20, 15))))
META = 'hand = "left"\nlayout = "openxr26"\n\n[[frames]]\nfirst = 0\nlast = 2\nsubject = 1\nsplit = "test"\n'


@dataclass(frozen=True)
class Parser:
    """A reader and what it reads."""

    file: str
    good: Callable[[], bytes]
    """A file that it reads."""
    read: Callable[[Path], object]
    mended: Callable[[bytes], bytes] = bytes
    """Puts right the checksums of a damaged file, so that the damage reaches what lies behind them."""


def attempt(parser: Parser, path: Path) -> bool:
    """Whether the file is read; refusing it in words is as good, and anything else is raised."""
    try:
        parser.read(path)
    except HandloomError as error:
        said = str(error)
    else:
        return True
    assert 0 < len(said) < 5000, "an error that nobody can read"
    return False


@functools.cache
def folder() -> Path:
    """A plain folder of two cameras."""
    path = Path(tempfile.mkdtemp()) / "folder"
    images = [
        (frame, view, np.full((c.height, c.width), 500, np.uint16), 1000 + frame, 1000 + frame)
        for frame in range(3)
        for view, c in enumerate(RIG.cameras)
    ]
    write_folder(path, RIG, images, joints={2: np.zeros((26, 3))})
    (path / "meta.toml").write_text(META)
    return path


def _within(file: str) -> Callable[[Path], object]:
    """Read the folder with one of its files put in the place of its own."""

    def read(path: Path) -> object:
        place, kept = folder() / file, (folder() / file).read_bytes()
        place.write_bytes(path.read_bytes())
        try:
            return read_folder(folder())
        finally:
            place.write_bytes(kept)

    return read


def _hands(count: int, joints: int) -> np.ndarray:
    return np.random.default_rng(0).normal((0, 0, 600), 40, (count, joints, 3))


def _lines(rows: np.ndarray, head: str = "", names: bool = False) -> Callable[[], bytes]:
    def made() -> bytes:
        texts = (f"seq/{i:04}.png " * names + " ".join(f"{x:.2f}" for x in row.ravel()) for i, row in enumerate(rows))
        return (head + "\n".join(texts) + "\n").encode()

    return made


def _poses() -> bytes:
    points = read_joints(folder() / "joints.csv")[2]
    names = (folder() / "joints.csv").read_text().splitlines()[1:]
    rows = [f"0,a,{line.split(',')[1]},1.0,2.0,{p[2] + 500}" for line, p in zip(names, points, strict=True)]
    return ("frame,camera,joint,x_mm,y_mm,z_mm\n" + "\n".join(rows) + "\n").encode()


def _png(array: np.ndarray) -> Callable[[], bytes]:
    return lambda: cv2.imencode(".png", array)[1].tobytes()


def with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks carry right checksums, as far as its lengths can be followed."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (size,) = struct.unpack(">I", out[at : at + 4])
        end = at + 8 + size
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(bytes(out[at + 4 : end])))
        at = end + 4
    return bytes(out)


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(data: bytes) -> bytes:
    """One array's bytes, good or bad, in an archive whose own checksums hold."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("u", "v", "d"):
            archive.writestr(f"{name}.npy", data)
    return stream.getvalue()


def _config() -> bytes:
    return b"method: murauer\npreset: quick\narm: full\nseed: 3\nlabels: 5%\ncube_mm: 300.0\n"


PARSERS: Mapping[str, Parser] = {
    "rig.toml": Parser("rig.toml", lambda: (folder() / "rig.toml").read_bytes(), read_rig),
    "frames.csv": Parser("frames.csv", lambda: (folder() / "frames.csv").read_bytes(), _within("frames.csv")),
    "meta.toml": Parser("meta.toml", lambda: META.encode(), _within("meta.toml")),
    "joints.csv": Parser("joints.csv", lambda: (folder() / "joints.csv").read_bytes(), read_joints),
    "poses.csv": Parser("poses.csv", _poses, lambda path: read_poses(path, RIG)),
    "depth PNG": Parser("d.png", _png(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)), read_depth_png,
                        with_checksums),
    "packed PNG": Parser("d.png", _png(np.zeros((24, 32, 3), np.uint8)), read_packed_depth_png, with_checksums),
    "NYU results": Parser("p.txt", _lines(_hands(4, 14)), lambda path: read_results(path, DATASETS["nyu"])),
    "ICVL results": Parser("p.txt", _lines(_hands(4, 16), names=True),
                           lambda path: read_results(path, DATASETS["icvl"])),
    "MSRA results": Parser("p.txt", _lines(_hands(4, 21), "4\n"), lambda path: read_results(path, DATASETS["msra"])),
    "NYU arrays": Parser("t.npz", lambda: _npy(np.full((4, 36), 300, np.float32)),
                         lambda path: read_results(path, DATASETS["nyu"]), zipped),
    "an archive": Parser("t.npz", lambda: zipped(_npy(np.zeros((2, 3)))), read_arrays),
    "an array": Parser("t.npy", lambda: _npy(np.zeros((2, 3), np.int16)), read_arrays),
    "ICVL labels": Parser("labels.txt", _lines(_hands(4, 16), names=True),
                          lambda path: list(named_points(path, joints=16))),
    "MSRA labels": Parser("joint.txt", _lines(_hands(4, 21), "4\n"), msra_points),
    "label list": Parser("ids.txt", lambda: b"1\n7\n42\n", lambda path: _ids(path)),
    "config.yaml": Parser("config.yaml", _config, lambda path: load_config(TrainConfig, path)),
}  # fmt: skip


def _ids(path: Path) -> list[int]:
    """As its callers do, who each say what the list is for."""
    try:
        return read_ids(path)
    except (OSError, ValueError) as error:
        raise HandloomError("no list", why=str(error)[:200]) from error
