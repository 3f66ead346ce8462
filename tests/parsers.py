"""Every reader of a stranger's file, with a good file to begin from: for `test_parsers.py` and `fuzz.py`."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sqlite3
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
    alone: bool = True
    """Not put in the place of one of several files."""


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


def with_zip_checksums(data: bytes) -> bytes:
    """An archive of unpacked entries whose own checksums hold, as far as its directory can be followed."""
    out, end = bytearray(data), data.rfind(b"PK\x05\x06")
    if end < 0 or end + 20 > len(out):
        return bytes(out)
    (at,) = struct.unpack("<I", out[end + 16 : end + 20])
    while at + 46 <= end and out[at : at + 4] == b"PK\x01\x02":
        size, _, name, extra, note = struct.unpack("<IIHHH", out[at + 20 : at + 34])
        (local,) = struct.unpack("<I", out[at + 42 : at + 46])
        if local + 30 > end or out[at + 10 : at + 12] != b"\0\0":
            break
        skipped = sum(struct.unpack("<HH", out[local + 26 : local + 30]))
        crc = struct.pack("<I", zlib.crc32(bytes(out[local + 30 + skipped : local + 30 + skipped + size])))
        out[at + 16 : at + 20] = out[local + 14 : local + 18] = crc
        at += 46 + name + extra + note
    return bytes(out)


def _hand(kind: str) -> Callable[[], bytes]:
    """A hand's file by the function of `hand_writers.py` or `formats.py` that writes such."""

    @functools.cache
    def made() -> bytes:
        from handloom.synth.anatomy import builtin_hand
        from handloom.synth.formats import save_hand

        from hand_writers import mano, mano_pickle, simple_glb, sketch

        path, hand = Path(tempfile.mkdtemp()) / f"hand.{kind}", builtin_hand()
        if kind == "glb":
            return simple_glb(sketch()).bytes()
        if kind == "npz":
            save_hand(hand, path)
            with np.load(path) as packed:
                arrays = dict(packed.items())
            np.savez(path, **arrays)
            return path.read_bytes()
        entries = {k: v for k, v in mano(hand).items() if k not in ("posedirs", "hands_components", "hands_coeffs")}
        few = {"posedirs": np.zeros((1, 1)), "shapedirs": entries["shapedirs"][:, :, :1]}
        return mano_pickle({**entries, **few})

    return made


def _read_hand(path: Path) -> object:
    from handloom.synth.formats import open_hand

    return open_hand(str(path))


@functools.cache
def _model() -> bytes:
    """A model of 26 joints at one place, made without torch."""
    import onnx
    from onnx import helper, numpy_helper

    from handloom.learn.confidence import UNCALIBRATED
    from handloom.learn.model_file import CHECKSUM_MARK, signed
    from handloom.learn.predict import CROP, FORMAT, NORMALISATION, VERSION
    from handloom.stores.joints import layout_named

    side, layout = 4, layout_named("openxr26")
    weights = np.zeros((side * side, 26 * 3), np.float32)
    nodes = [
        helper.make_node("Flatten", ["crop"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["all"]),
        helper.make_node("Reshape", ["all", "shape"], ["joints"]),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("crop", onnx.TensorProto.FLOAT, ["n", 1, side, side])],
        [helper.make_tensor_value_info("joints", onnx.TensorProto.FLOAT, ["n", 26, 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([-1, 26, 3]), "shape")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    said = {
        "format": FORMAT, "version": str(VERSION), "layout": layout.name, "joints": json.dumps(list(layout.points)),
        "hand": "right", "input_px": str(side), "cube_mm": "300.0", "units": "mm", "normalisation": NORMALISATION,
        "crop": CROP, "description": "{}", "provenance": '{"seed": 3}', "confidence": UNCALIBRATED.to_text(),
        "checksum": (CHECKSUM_MARK + b"0" * 64).decode(),
    }  # fmt: skip
    helper.set_model_props(model, {f"handloom.{key}": value for key, value in said.items()})
    return signed(model.SerializeToString())


def _signed(data: bytes) -> bytes:
    from handloom.learn.model_file import CHECKSUM_MARK, signed

    return signed(data) if CHECKSUM_MARK in data and len(data) - data.rfind(CHECKSUM_MARK) > 80 else data


def _run_model(path: Path) -> object:
    """Open it and have it look at a crop, as `predict` does."""
    from handloom.learn.predict import load

    model = load(path)
    return model.predict_crops(np.zeros((2, 1, model.input_px, model.input_px), np.float32)), model.provenance


@functools.cache
def _checkpoint() -> bytes:
    import torch

    from handloom.learn.model import CHECKPOINT, write_checkpoint

    run = Path(tempfile.mkdtemp())
    write_checkpoint(run, description={"method": "murauer"}, weights={"w": torch.zeros(3)}, training={"step": 3})
    return (run / CHECKPOINT).read_bytes()


def _read_checkpoint(path: Path) -> object:
    from handloom.learn.model import read_checkpoint

    return read_checkpoint(path)


def _read_curves(path: Path) -> object:
    from handloom.learn.figures import read_curves

    return read_curves(path.parent)


def _result() -> bytes:
    row = {"split": "test", "arm": "full", "labels": "50", "seed": 1, "mean_mm": 9.5}
    return json.dumps(row | {"variant": "", "unlabelled_share": 0.5}).encode()


def _read_result(path: Path) -> object:
    from handloom.learn.curves import read_results as read_curve_results

    place = path.parent / "seed-1/results/full.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(path.read_bytes())
    return read_curve_results(path.parent, split="test")


def _anipose() -> bytes:
    from handloom.capture.anipose import write_anipose

    path = Path(tempfile.mkdtemp()) / "a.toml"
    write_anipose(RIG, path)
    return path.read_bytes()


def _read_rig(path: Path) -> object:
    from handloom.capture.anipose import read_anipose, read_any_rig

    with contextlib.suppress(HandloomError):
        read_anipose(path)
    return read_any_rig(path)


def _sensor() -> bytes:
    from handloom.synth.sensor import StructuredLight, write_sensor

    path = Path(tempfile.mkdtemp()) / "s.yaml"
    write_sensor(StructuredLight(), path)
    return path.read_bytes()


def _read_sensor(path: Path) -> object:
    from handloom.synth.sensor import read_sensor

    return read_sensor(path)


def _read_settings(path: Path) -> object:
    from handloom.synth.config import load_settings

    return load_settings(path)


def _read_mapping(path: Path) -> object:
    from handloom.synth.naming import read_mapping

    return read_mapping(path)


def _read_pose_file(path: Path) -> object:
    from handloom.synth.pose_files import read_poses as read_pose_file

    return read_pose_file(path)


def _mat() -> bytes:
    from scipy.io import savemat

    stream = io.BytesIO()
    savemat(stream, {"joint_xyz": np.full((1, 3, 36, 3), 500.0)})
    return stream.getvalue()


def _msra() -> bytes:
    return struct.pack("<6i", 320, 240, 10, 10, 14, 13) + np.full(12, 400, "<f4").tobytes()


def _read_msra(path: Path) -> object:
    from handloom.capture.published import read_msra_bin

    return read_msra_bin(path)


def _read_picture(path: Path) -> object:
    from handloom.capture.pictures import _read

    return _read(path)


def _db3() -> bytes:
    path = Path(tempfile.mkdtemp()) / "a.db3"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, data BLOB)")
        database.execute("INSERT INTO topics VALUES (1, '/device_0/sensor_0/Depth_0/image/data')")
        database.execute("INSERT INTO messages VALUES (1, 1, x'00')")
        database.commit()
    return path.read_bytes()


def _count_db3(path: Path) -> object:
    from handloom.capture.realsense import _count_db3 as count
    from handloom.capture.sdk import sniff

    return count(path) if sniff(path) == "db3" else None


@functools.cache
def _recording() -> Path:
    """Two frames of one small camera with crops."""
    from handloom.capture.folder import FolderSource
    from handloom.capture.record import record

    path = Path(tempfile.mkdtemp()) / "r.zarr"
    with FolderSource(folder()) as source:
        record(source, path)
    return path


def _sealed(data: bytes) -> bytes:
    """A document whose own seal holds, as far as it is one."""
    from handloom.stores.durable import sealed

    try:
        values = json.loads(data)
        return json.dumps(sealed(values)).encode() if isinstance(values, dict) else data
    except (ValueError, RecursionError):
        return data


def _document(name: str) -> Parser:
    """One of a recording's descriptions, put in the place of its own."""

    def read(path: Path) -> object:
        from handloom.stores.recording import open_recording

        place = _recording() / name
        kept = place.read_bytes()
        place.write_bytes(path.read_bytes())
        try:
            return open_recording(_recording())
        finally:
            place.write_bytes(kept)

    return Parser("zarr.json", lambda: (_recording() / name).read_bytes(), read, _sealed, alone=False)


def _config() -> bytes:
    return b"method: murauer\npreset: quick\narm: full\nseed: 3\nlabels: 5%\ncube_mm: 300.0\n"


PARSERS: Mapping[str, Parser] = {
    "rig.toml": Parser("rig.toml", lambda: (folder() / "rig.toml").read_bytes(), read_rig),
    "frames.csv": Parser("frames.csv", lambda: (folder() / "frames.csv").read_bytes(), _within("frames.csv"),
                         alone=False),
    "meta.toml": Parser("meta.toml", lambda: META.encode(), _within("meta.toml"), alone=False),
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
    "synth.yaml": Parser("synth.yaml", lambda: b"frames: 30\nseed: 2\nsensor: tof\ncrop_px: 64\n", _read_settings),
    "sensor.yaml": Parser("sensor.yaml", _sensor, _read_sensor),
    "hand mapping": Parser("map.yaml", lambda: b"joints: {wrist: Hand, palm: Palm}\nside: left\nscale_mm: 10\n",
                           _read_mapping),
    "anipose.toml": Parser("calibration.toml", _anipose, _read_rig),
    "glTF": Parser("hand.glb", _hand("glb"), _read_hand),
    "MANO pickle": Parser("hand.pkl", _hand("pkl"), _read_hand),
    "hand archive": Parser("hand.npz", _hand("npz"), _read_hand, with_zip_checksums),
    "poses of NYU": Parser("joint_data.mat", _mat, _read_pose_file),
    "poses of MANO": Parser("poses.npy", lambda: _npy(np.zeros((2, 48))), _read_pose_file),
    "poses in lines": Parser("poses.txt", _lines(_hands(4, 16), names=True), _read_pose_file),
    "ONNX model": Parser("model.onnx", _model, _run_model, _signed),
    "checkpoint": Parser("checkpoint.pt", _checkpoint, _read_checkpoint, with_zip_checksums),
    "metrics.jsonl": Parser("metrics.jsonl", lambda: b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1}\n',
                            _read_curves),
    "a picture": Parser("0.png", _png(np.zeros((8, 9), np.uint8)), _read_picture, with_checksums),
    "gap result": Parser("full.json", _result, _read_result, alone=False),
    "MSRA image": Parser("000000_depth.bin", _msra, _read_msra),
    "RealSense db3": Parser("a.db3", _db3, _count_db3),
    "recording": _document("zarr.json"),
    "recording's frames": _document("frames/zarr.json"),
    "recording's array": _document("frames/depth/a/zarr.json"),
}  # fmt: skip


def _ids(path: Path) -> list[int]:
    """As its callers do, who each say what the list is for."""
    try:
        return read_ids(path)
    except (OSError, ValueError) as error:
        raise HandloomError("no list", why=str(error)[:200]) from error
