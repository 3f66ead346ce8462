"""Bad input at every door: an error in words with exit code 2, no traceback, nothing left at the output."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handloom.cli import main
from handloom.stores.camera import Camera, Rig, read_rig
from handloom.stores.durable import sealed
from handloom.stores.errors import HandloomError
from handloom.stores.folder import read_folder, read_joints, write_folder
from handloom.stores.png import read_depth_png
from handloom.stores.recording import manifest, open_recording

RIG = Rig((Camera("a", 32, 24, (30, 30, 16, 12)), Camera("b", 40, 30, (30, 30, 20, 15))))
JPEG = cv2.imencode(".jpg", np.zeros((24, 32, 3), np.uint8))[1].tobytes()
Change = Callable[[Path], object]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_refused(done: Result, *made: Path) -> None:
    shown = "".join(done.output.splitlines(keepends=True)[-12:])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 2, shown
    assert "error: " in done.stderr.lower()
    assert "Traceback" not in done.output
    for out in made:
        assert not out.exists(), f"left behind: {out}"
        assert not list(out.parent.glob(f".{out.name}*")), "left behind beside it"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "folder"
    images = [
        (frame, view, np.full((c.height, c.width), 500, np.uint16), 1000 + frame, 1000 + frame)
        for frame in range(3)
        for view, c in enumerate(RIG.cameras)
    ]
    write_folder(path, RIG, images, joints={2: np.zeros((26, 3))})
    return path


@pytest.fixture(scope="module")
def recording(folder: Path) -> Path:
    out = folder.parent / "r.zarr"
    assert run("capture", "import", folder, "--out", out).exit_code == 0
    return out


# -- anything but what was asked for, at every command ----------------------------------------------------


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("zarr.json", "{}")


def _sqlite(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("create table t(a)")
    connection.close()


STRANGERS: dict[str, Change] = {
    "missing": lambda path: None,
    "an empty folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(4096)),
    "a zip": _zip,
    "an HDF5": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200)),
    "a JPEG": lambda path: path.write_bytes(JPEG),
    "another zarr": lambda path: zarr.create_group(path),
    "a zarr.json that is a folder": lambda path: (path / "zarr.json").mkdir(parents=True),
    "a database of others": _sqlite,
    "a link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
}
COMMANDS: dict[str, tuple[str, ...]] = {
    "capture record": ("capture", "record", "PATH", "--out", "OUT"),
    "capture record --rig": ("capture", "record", "virtual", "--frames", "2", "--rig", "PATH", "--out", "OUT"),
    "capture locate": ("capture", "locate", "PATH"),
    "capture import": ("capture", "import", "PATH", "--out", "OUT"),
    "capture import nyu": ("capture", "import", "PATH", "--dataset", "nyu", "--split", "test", "--out", "OUT"),
    "capture import icvl": ("capture", "import", "PATH", "--dataset", "icvl", "--out", "OUT"),
    "capture import msra": ("capture", "import", "PATH", "--dataset", "msra", "--out", "OUT"),
    "capture import bighand": ("capture", "import", "PATH", "--dataset", "bighand", "--out", "OUT"),
    "capture calibrate": ("capture", "calibrate", "PATH", "--target", "sphere:30mm", "--out", "OUT"),
    "capture sync": ("capture", "sync", "PATH"),
    "capture probe": ("capture", "probe", "PATH"),
    "capture probe --rig": ("capture", "probe", "virtual", "--seconds", "0.1", "--rig", "PATH"),
    "store info": ("store", "info", "PATH"),
    "store verify": ("store", "verify", "PATH"),
    "store verify --real": ("store", "verify", "RECORDING", "--real", "PATH"),
    "store repack": ("store", "repack", "PATH", "--out", "OUT"),
    "store subset": ("store", "subset", "PATH", "--frames", "0:1", "--out", "OUT"),
    "store subset --frames": ("store", "subset", "RECORDING", "--frames", "PATH", "--out", "OUT"),
    "store split": ("store", "split", "PATH", "--by", "sequence", "--out-dir", "OUT"),
    "store merge": ("store", "merge", "RECORDING", "PATH", "--out", "OUT"),
    "store export": ("store", "export", "PATH", "--out", "OUT"),
    "synth run --rig": ("synth", "run", "--rig", "PATH", "--frames", "1", "--jobs", "1", "--out", "OUT"),
    "synth run --hand": ("synth", "run", "--hand", "PATH", "--frames", "1", "--jobs", "1", "--out", "OUT"),
    "synth run --poses": ("synth", "run", "--poses", "PATH", "--frames", "1", "--jobs", "1", "--out", "OUT"),
    "synth run --sensor": ("synth", "run", "--sensor", "PATH", "--frames", "1", "--jobs", "1", "--out", "OUT"),
    "synth preview": ("synth", "preview", "PATH", "--out", "OUT"),
    "synth twin": ("synth", "twin", "--real", "PATH", "--out", "OUT"),
    "hand export": ("hand", "export", "--hand", "PATH", "--out", "OUT"),
    "train --real": ("train", "murauer", "--real", "PATH", "--synth", "RECORDING", "--run", "OUT"),
    "train --synth": ("train", "murauer", "--arm", "synthetic-only", "--synth", "PATH", "--run", "OUT"),
    "train --config": ("train", "murauer", "--config", "PATH", "--synth", "RECORDING", "--run", "OUT"),
    "train recommend --synth": ("train", "recommend", "--synth", "PATH", "--out", "OUT"),
    "train recommend --real": ("train", "recommend", "--real", "PATH", "--out", "OUT"),
    "eval results": ("eval", "results", "PATH", "--truth", "PATH", "--dataset", "nyu"),
    "eval results --truth": ("eval", "results", "NUMBERS", "--truth", "PATH", "--dataset", "nyu"),
    "eval model": ("eval", "model", "PATH", "--on", "RECORDING"),
    "eval model --on": ("eval", "model", "PATH", "--on", "PATH"),
    "eval compare": ("eval", "compare", "PATH", "RECORDING", "--on", "RECORDING"),
    "eval compare --truth": ("eval", "compare", "NUMBERS", "PATH", "--truth", "NUMBERS", "--dataset", "nyu"),
    "eval agreement": ("eval", "agreement", "PATH", "PATH", "--on", "RECORDING"),
    "report": ("report", "PATH", "--on", "RECORDING", "--out", "OUT"),
    "report --on": ("report", "RECORDING", "--on", "PATH", "--out", "OUT"),
    "export": ("export", "PATH", "--out", "OUT"),
    "predict": ("predict", "PATH", "RECORDING", "--out", "OUT"),
    "latent pictures": ("latent", "pictures", "PATH", "--on", "RECORDING", "--out", "OUT"),
    "latent depth": ("latent", "depth", "PATH", "--on", "RECORDING", "--out", "OUT"),
    "latent hands": ("latent", "hands", "PATH", "--on", "RECORDING"),
    "bootstrap": ("bootstrap", "PATH", "--out", "OUT"),
    "label": ("label", "PATH", "--select", "2", "--out", "OUT"),
    "view": ("view", "PATH", "--html", "OUT"),
    "store label": ("store", "label", "PATH", "--joints", "JOINTS"),
    "store label --joints": ("store", "label", "RECORDING", "--joints", "PATH", "--overwrite"),
    "store tune": ("store", "tune", "PATH"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_strangers_are_refused_at_every_door(command: str, folder: Path, recording: Path, tmp_path: Path) -> None:
    for name, make in STRANGERS.items():
        path, out = tmp_path / name.replace(" ", "-"), tmp_path / "made" / "out"
        out.parent.mkdir(exist_ok=True)
        make(path)
        words = {"PATH": path, "OUT": out, "RECORDING": recording, "JOINTS": folder / "joints.csv"}
        words["NUMBERS"] = tmp_path / "numbers.txt"
        words["NUMBERS"].write_text(" ".join(["300"] * 42) + "\n")
        done = run(*(words.get(word, word) for word in COMMANDS[command]))
        assert_refused(done, out)
        assert "Usage:" not in done.stderr or "Invalid value" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["x" * 400, "a/" + "y" * 300 + "/r.zarr"])
def test_names_that_no_file_can_have_are_refused(name: str, recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for command in ("store info", "store verify", "capture import", "capture record", "capture locate", "export"):
        words = {"PATH": name, "OUT": out, "RECORDING": recording}
        assert_refused(run(*(words.get(word, word) for word in COMMANDS[command])), out)
    assert_refused(run("capture", "import", recording, "--out", tmp_path / name))


def test_a_nul_in_a_path_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["store", "info", "r\0.zarr"])
    assert_refused(done)


# -- plain folders ----------------------------------------------------------------------------------------


def rig_with(old: str, new: str) -> Change:
    def change(path: Path) -> None:
        text = (path / "rig.toml").read_text()
        assert old in text
        (path / "rig.toml").write_text(text.replace(old, new, 1))

    return change


def rewritten(file: str, make: Callable[[str], str | bytes]) -> Change:
    def change(path: Path) -> None:
        made = make((path / file).read_bytes().decode() if (path / file).exists() else "")
        (path / file).write_bytes(made.encode() if isinstance(made, str) else made)

    return change


def first_row(**changed: str) -> Change:
    def make(text: str) -> str:
        header, first, *rest = text.splitlines()
        values = dict(zip(header.split(","), first.split(","), strict=True)) | changed
        return "\n".join([header, ",".join(values.values()), *rest]) + "\n"

    return rewritten("frames.csv", make)


def replaced(file: str, make: Change) -> Change:
    def change(path: Path) -> None:
        (path / file).unlink(missing_ok=True)
        make(path / file)

    return change


def png(width: int, height: int, bits: int = 16, colour: int = 0, data: bytes | None = None) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 2 * 32) * 24)) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def image(data: bytes) -> Change:
    return lambda path: (path / "a/000000.png").write_bytes(data)


def encoded(values: np.ndarray, kind: str = ".png") -> bytes:
    return cv2.imencode(kind, values)[1].tobytes()


NAME, K, UNIT = 'name = "b"', "K = [30.0, 30.0, 16.0, 12.0]", "depth_unit_mm = 1.0"
FOLDERS: dict[str, tuple[Change, str]] = {
    # rig.toml
    "two cameras of one name": (rig_with(NAME, 'name = "a"'), "Two cameras of the rig are called 'a'"),
    "names that differ by capitals": (rig_with(NAME, 'name = "A"'), "nothing but capitals"),
    "a name that climbs": (rig_with(NAME, 'name = "../x"'), "cannot name a camera"),
    "an empty name": (rig_with(NAME, 'name = ""'), "cannot name a camera"),
    "a name of two parts": (rig_with(NAME, 'name = "a/b"'), "cannot name a camera"),
    "a name too long": (rig_with(NAME, f'name = "{"n" * 300}"'), "cannot name a camera"),
    "a NUL in a name": (rig_with(NAME, 'name = "a\\u0000"'), "cannot name a camera"),
    "a name of the fused poses": (rig_with(NAME, 'name = "rig"'), "names the poses of all cameras"),
    "a name that is a number": (rig_with(NAME, "name = 5"), "name is 5, not text"),
    "no name": (rig_with(NAME + "\n", ""), "lacks the key 'name'"),
    "K not finite": (rig_with(K, "K = [nan, 30.0, 16.0, 12.0]"), "intrinsics are not usable"),
    "K infinite": (rig_with(K, "K = [30.0, inf, 16.0, 12.0]"), "intrinsics are not usable"),
    "K negative": (rig_with(K, "K = [-30.0, 30.0, 16.0, 12.0]"), "intrinsics are not usable"),
    "K zero": (rig_with(K, "K = [30.0, 0, 16.0, 12.0]"), "intrinsics are not usable"),
    "K too short": (rig_with(K, "K = [30.0, 30.0]"), "wrong form"),
    "K in words": (rig_with(K, 'K = ["30", "30", "16", "12"]'), "K holds '30', not a number"),
    "K of truths": (rig_with(K, "K = [true, true, 16.0, 12.0]"), "K holds True, not a number"),
    "K as a matrix": (rig_with(K, "K = [[30, 0, 16], [0, 30, 12], [0, 0, 1]]"), "not a number"),
    "R of zeros": (rig_with("R = [[1.0, 0.0, 0.0]", "R = [[0.0, 0.0, 0.0]"), "R is not a rotation"),
    "R not finite": (rig_with("R = [[1.0, 0.0, 0.0]", "R = [[nan, 0.0, 0.0]"), "R is not a rotation"),
    "R a reflection": (rig_with("R = [[1.0, 0.0, 0.0]", "R = [[-1.0, 0.0, 0.0]"), "reflection"),
    "t not finite": (rig_with("t = [0.0, 0.0, 0.0]", "t = [inf, 0.0, 0.0]"), "t is not finite"),
    "t beyond the horizon": (rig_with("t = [0.0, 0.0, 0.0]", "t = [1e30, 0.0, 0.0]"), "not plausible"),
    "no width": (rig_with("width = 32", "width = 0"), "image size is not positive"),
    "half a pixel": (rig_with("width = 32", "width = 32.5"), "width is 32.5, not a whole number"),
    "infinite width": (rig_with("width = 32", "width = inf"), "not a whole number"),
    "a width of terapixels": (rig_with("width = 32", "width = 1000000000000"), "not plausible"),
    "a width of 5000 digits": (rig_with("width = 32", f"width = {'9' * 5000}"), "cannot be read"),
    "another width than the images": (rig_with("width = 32", "width = 33"), "An image disagrees with the rig"),
    "a negative unit": (rig_with(UNIT, "depth_unit_mm = -1.0"), "depth_unit_mm must be positive"),
    "a unit that is none": (rig_with(UNIT, "depth_unit_mm = nan"), "depth_unit_mm must be positive"),
    "a unit in metres": (rig_with(UNIT, "depth_unit_mm = 0.001"), "depth_unit_mm is not plausible"),
    "a lens of another model": (
        rig_with('dist_model = "none"', 'dist_model = "kannala-brandt4"'),
        "Unknown distortion model 'kannala-brandt4'",
    ),
    "a lens with too little": (
        rig_with('dist_model = "none"\ndist = []', 'dist_model = "brown-conrady"\ndist = [0.1]'),
        "Wrong number of distortion coefficients",
    ),
    "a lens not finite": (
        rig_with('dist_model = "none"\ndist = []', 'dist_model = "brown-conrady"\ndist = [nan, 0, 0, 0]'),
        "distortion coefficient is not finite",
    ),
    "a rig of later": (rig_with("handloom-rig/1", "handloom-rig/2"), "not a rig description"),
    "a rig in metres": (rig_with('unit = "mm"', 'unit = "m"'), "Rigs are in millimetres"),
    "another convention": (rig_with('convention = "x right, y down', 'convention = "x right, y up'), "convention"),
    "a key that nobody knows": (rig_with(NAME, NAME + "\nexposure = 3"), "Unknown camera key 'exposure'"),
    "TOML that is none": (rig_with("[[camera]]", "[[camera"), "cannot be read"),
    "an HDF5 for a rig": (rewritten("rig.toml", lambda _: b"\x89HDF\r\n\x1a\n\xff\xfe"), "it is not text"),
    "a rig nested without end": (rewritten("rig.toml", lambda _: "a=" + "[" * 100_000), "cannot be read"),
    "a folder for a rig": (replaced("rig.toml", Path.mkdir), "it is a folder"),
    "no rig": (replaced("rig.toml", lambda _: None), "There is no rig description"),
    # frames.csv
    "an empty table": (rewritten("frames.csv", lambda _: ""), "other columns"),
    "a table of no rows": (rewritten("frames.csv", lambda text: text.splitlines()[0]), "lists no image"),
    "other columns": (rewritten("frames.csv", lambda _: "a,b\n1,2\n"), "other columns"),
    "a row twice": (rewritten("frames.csv", lambda text: text + text.splitlines()[1] + "\n"), "listed twice"),
    "two images of one place": (
        rewritten("frames.csv", lambda text: text.replace("a/000001.png", "b/000001.png").replace("1,a", "0,a")),
        "Two images of one frame and camera",
    ),
    "a file of two rows": (first_row(file="a/000001.png"), "An image is listed twice"),
    "a camera nobody knows": (first_row(camera="zz"), "Unknown camera 'zz'"),
    "an absolute path": (first_row(file="/etc/passwd"), "outside the folder"),
    "a path that climbs": (first_row(file="../../x.png"), "outside the folder"),
    "a NUL in a path": (first_row(file="a/\0.png"), "cannot be used"),
    "a path too long": (first_row(file="a" * 400), "cannot be used"),
    "no path": (first_row(file=""), "not there"),
    "a folder for an image": (first_row(file="a"), "not there"),
    "a frame in words": (first_row(frame="one"), "'one' is not a number"),
    "half a frame": (first_row(frame="1.5"), "'1.5' is not a number"),
    "a frame before the first": (first_row(frame="-1"), "out of range"),
    "a frame of 5000 digits": (first_row(frame="9" * 5000), "is not a number"),
    "digits of another script": (first_row(frame="٣"), "is not a number"),
    "a time out of range": (first_row(t_device_ns=str(2**63)), "out of range"),
    "a time before time": (first_row(t_host_ns="-5"), "A time is negative"),
    "no time": (first_row(t_device_ns=""), "is not a number"),
    "a table in UTF-16": (rewritten("frames.csv", lambda text: text.encode("utf-16")), "cannot be read"),
    "a table of bytes": (rewritten("frames.csv", lambda _: bytes(range(256))), "cannot be read"),
    "a folder for a table": (replaced("frames.csv", Path.mkdir), "it is no file"),
    "no table": (replaced("frames.csv", lambda _: None), "No such file"),
    "an image that leads out": (replaced("a/000000.png", lambda p: p.symlink_to("/etc/passwd")), "outside"),
    "an image that leads to itself": (replaced("a/000000.png", lambda p: p.symlink_to(p)), "cannot be used"),
    # images
    "a JPEG called PNG": (image(JPEG), "This is not a PNG"),
    "an empty image": (image(b""), "This is not a PNG"),
    "eight bits": (image(encoded(np.zeros((24, 32), np.uint8))), "this one is 8-bit grey"),
    "three channels": (image(encoded(np.zeros((24, 32, 3), np.uint16))), "this one is 16-bit RGB"),
    "a TIFF called PNG": (image(encoded(np.zeros((24, 32), np.uint16), ".tiff")), "This is not a PNG"),
    "another size": (image(encoded(np.zeros((20, 32), np.uint16))), "it is 32 x 20, its camera 32 x 24"),
    "a header of ten gigapixels": (image(png(100_000, 100_000)), "The image size is not plausible"),
    "half an image": (image(encoded(np.ones((24, 32), np.uint16))[:60]), "truncated or damaged"),
    "pixels that are missing": (image(png(32, 24, data=zlib.compress(b"\0" * 70))), "truncated or damaged"),
    "a folder called PNG": (replaced("a/000000.png", Path.mkdir), "not there"),
    # joints.csv, meta.toml
    "a joint nobody has": (rewritten("joints.csv", lambda text: text + "2,elbow,1,2,3\n"), "Unknown joint 'elbow'"),
    "a joint twice": (rewritten("joints.csv", lambda text: text + "2,palm,1,2,3\n"), "given twice"),
    "a joint not finite": (rewritten("joints.csv", lambda text: text + "1,palm,nan,2,3\n"), "not finite"),
    "a joint at infinity": (rewritten("joints.csv", lambda text: text + "1,palm,1,inf,3\n"), "not finite"),
    "a joint beyond float32": (rewritten("joints.csv", lambda text: text + "1,palm,1,1e39,3\n"), "not plausible"),
    "a joint in words": (rewritten("joints.csv", lambda text: text + "1,palm,here,2,3\n"), "is not a number"),
    "labels without image": (rewritten("joints.csv", lambda text: text + "77,palm,1,2,3\n"), "has no image"),
    "labels of bytes": (rewritten("joints.csv", lambda _: bytes(range(256))), "cannot be read"),
    "a hand of both sides": (rewritten("meta.toml", lambda _: 'hand = "both"'), "known: right, left"),
    "half virtual": (rewritten("meta.toml", lambda _: 'virtual = "false"'), "known: true, false"),
    "notes nested without end": (rewritten("meta.toml", lambda _: "a=" + "[" * 50_000), "cannot be read"),
    "notes that are a folder": (replaced("meta.toml", Path.mkdir), "it is a folder"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_a_mistake_is_refused_in_words(name: str, folder: Path, tmp_path: Path) -> None:
    change, words = FOLDERS[name]
    bad, out = tmp_path / "bad", tmp_path / "made" / "r.zarr"
    shutil.copytree(folder, bad)
    change(bad)
    done = run("capture", "import", bad, "--out", out)
    assert_refused(done, out)
    assert words in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        rewritten("frames.csv", lambda text: "\ufeff" + text),
        rewritten("frames.csv", lambda text: text.replace("\r\n", "\n")),
        rewritten("frames.csv", lambda text: text.replace("\r\n", "\n").replace("\n", "\r\n")),
        rewritten("frames.csv", lambda text: text + "\n\n"),
        rewritten("rig.toml", lambda text: "\ufeff" + text),
        rewritten("rig.toml", lambda text: text.replace("\n", "\r\n").replace('serial = ""', "serial = 12345")),
        rewritten("joints.csv", lambda text: text.splitlines()[0] + "\n"),
    ],
)
def test_what_editors_do_to_tables_is_no_mistake(change: Change, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "f")
    change(tmp_path / "f")
    done = run("capture", "import", tmp_path / "f", "--out", tmp_path / "r.zarr")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.db3", b"SQLite format 3"),
        ("a.db3", b"some text\n"),
        ("a.bag", b"#ROSBAG V1.2\n" + bytes(64)),
        ("a.bag", b""),
    ],
)
def test_a_recording_of_another_kind_under_the_right_name(name: str, content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("pyrealsense2")
    (tmp_path / name).write_bytes(content)
    done = run("capture", "record", tmp_path / name, "--out", tmp_path / "r.zarr")
    assert_refused(done, tmp_path / "r.zarr")


# -- recordings -------------------------------------------------------------------------------------------


def described(path: Path, change: Callable[[dict[str, Any]], object], *, file: str = "zarr.json") -> None:
    """Change a description as somebody would who knows of seals and manifest."""
    document = json.loads((path / file).read_text())
    said = document["attributes"] if "zarr_format" in document else document
    change(said)
    if "manifest" in said:
        said["manifest"] = manifest(said)
    (path / file).write_text(json.dumps(sealed(document), indent=2))


def camera_of(index: int, **values: object) -> Callable[[dict[str, Any]], object]:
    return lambda said: said["rig"]["camera"][index].update(values)


ATTRIBUTES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a version of tomorrow": (lambda said: said.update(version=99), "written by a newer Handloom"),
    "a version in words": (lambda said: said.update(version="1"), "does not say its version"),
    "a version that is true": (lambda said: said.update(version=True), "does not say its version"),
    "version 0": (lambda said: said.update(version=0), "does not say its version"),
    "another format": (lambda said: said.update(format="zarr-of-mine"), "This is not a recording"),
    "no kind": (lambda said: said.pop("kind"), "no usable 'kind'"),
    "a kind nobody knows": (lambda said: said.update(kind="dreamt"), "no usable 'kind'"),
    "a hand of both sides": (lambda said: said.update(hand="both"), "no usable 'hand'"),
    "no uuid": (lambda said: said.pop("uuid"), "no usable 'uuid'"),
    "no rig": (lambda said: said.pop("rig"), "no usable 'rig'"),
    "a rig of nothing": (lambda said: said.update(rig=None), "no usable 'rig'"),
    "an empty rig": (lambda said: said.update(rig={}), "not a rig description"),
    "provenance of nothing": (lambda said: said.update(provenance=None), "no usable 'provenance'"),
    "a list of attributes": (lambda said: said.update(attributes=[1]), "no usable 'attributes'"),
    "two cameras of one name": (camera_of(1, name="a"), "Two cameras of the rig are called 'a'"),
    "a camera of another name": (camera_of(1, name="zz"), "of other cameras than its rig"),
    "a camera of another size": (camera_of(1, width=7), "of other cameras than its rig"),
    "a camera that climbs": (camera_of(1, name="../x"), "cannot name a camera"),
    "a lens of another model": (camera_of(1, dist_model="fisheye"), "Unknown distortion model 'fisheye'"),
    "a camera less": (lambda said: said["rig"]["camera"].pop(), "of other cameras than its rig"),
}
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "units of nothing": ("frames/zarr.json", lambda said: said.update(unit_frames=0)),
    "units in words": ("frames/zarr.json", lambda said: said.update(unit_frames="many")),
    "no columns": ("frames/zarr.json", lambda said: said.update(columns=[])),
    "columns of nothing": ("frames/zarr.json", lambda said: said.pop("columns")),
    "a column that climbs": ("frames/zarr.json", lambda said: said["columns"][0].update(name="../present")),
    "a column from the root": ("frames/zarr.json", lambda said: said["columns"][0].update(name="/etc")),
    "a column of terabytes": ("frames/zarr.json", lambda said: said["columns"][-1].update(shape=[10**5, 10**7])),
    "a column less than empty": ("frames/zarr.json", lambda said: said["columns"][-1].update(shape=[-1, 3])),
    "a column of objects": ("frames/zarr.json", lambda said: said["columns"][-1].update(dtype="O")),
    "a column of its own packing": ("frames/zarr.json", lambda said: said["columns"][-1].update(codec="zip")),
    "a column with more to say": ("frames/zarr.json", lambda said: said["columns"][-1].update(colour="red")),
    "a layout nobody knows": ("labels/zarr.json", lambda said: said.update(layout="octopus8")),
    "less than no rows": ("frames/committed.json", lambda said: said.update(rows=-1)),
    "a billion rows": ("frames/committed.json", lambda said: said.update(rows=10**9)),
    "one and a half rows": ("frames/committed.json", lambda said: said.update(rows=1.5)),
    "rows of nothing": ("frames/committed.json", lambda said: said.pop("rows")),
}
READERS = (("store", "info"), ("capture", "locate"))


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_recording_that_says_nonsense_is_refused(name: str, recording: Path, tmp_path: Path) -> None:
    change, words = ATTRIBUTES[name]
    shutil.copytree(recording, tmp_path / "r.zarr")
    described(tmp_path / "r.zarr", change)
    for command in READERS:
        done = run(*command, tmp_path / "r.zarr")
        assert_refused(done)
        assert words in done.stderr
    done = run("store", "verify", tmp_path / "r.zarr")
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code in (1, 2), done.output


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_says_nonsense_is_refused(name: str, recording: Path, tmp_path: Path) -> None:
    file, change = TABLES[name]
    shutil.copytree(recording, tmp_path / "r.zarr")
    described(tmp_path / "r.zarr", change, file=file)
    assert_refused(run("store", "info", tmp_path / "r.zarr"))
    done = run("store", "verify", tmp_path / "r.zarr")
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code in (1, 2), done.output


@pytest.mark.parametrize("file", ["zarr.json", "frames/zarr.json", "frames/committed.json", "frames/present/zarr.json"])
def test_descriptions_of_other_things_are_refused(file: str, recording: Path, tmp_path: Path) -> None:
    for content in (b"", b"null", b"3", b"[]", b"{}", b"[" * 100_000, b"9" * 5000, bytes(range(256))):
        path = tmp_path / "r.zarr"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(recording, path)
        (path / file).write_bytes(content)
        assert_refused(run("store", "info", path))
        done = run("store", "verify", path)
        assert isinstance(done.exception, SystemExit)
        assert done.exit_code in (1, 2), done.output


# -- what nobody thought of -------------------------------------------------------------------------------

FUZZ = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORDS = st.sampled_from(
    [
        "",
        "0",
        "-1",
        "nan",
        "inf",
        "1e400",
        '"x"',
        "[]",
        "[[",
        "{}",
        "true",
        "\x00",
        "\ufeff",
        "../..",
        "9" * 400,
        ",",
        "=",
    ]
)


def mutated(text: str) -> st.SearchStrategy[bytes]:
    """The text with lines, words and bytes changed, doubled, dropped or cut off."""

    @st.composite
    def strategy(draw: st.DrawFn) -> bytes:
        lines = text.splitlines(keepends=True)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(lines) - 1))
            match draw(st.integers(0, 4)):
                case 0:
                    lines[at] = ""
                case 1:
                    lines[at] *= 2
                case 2:
                    words = lines[at].replace(",", " , ").replace("=", " = ").split(" ")
                    words[draw(st.integers(0, len(words) - 1))] = draw(WORDS)
                    lines[at] = "".join(words)
                case 3:
                    cut = draw(st.integers(0, len(lines[at])))
                    lines[at] = lines[at][:cut] + draw(st.text(max_size=6)) + lines[at][cut:]
                case 4:
                    other = draw(st.integers(0, len(lines) - 1))
                    lines[at], lines[other] = lines[other], lines[at]
        data = "".join(lines).encode("utf-8", "surrogatepass")
        if draw(st.booleans()):
            data = data[: draw(st.integers(0, len(data)))]
        if data and draw(st.booleans()):
            at = draw(st.integers(0, len(data) - 1))
            data = data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]
        return data

    return strategy()


@FUZZ
@given(data=st.data())
def test_any_rig_is_read_or_refused(data: st.DataObject, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_bytes(data.draw(mutated((folder / "rig.toml").read_text())))
    try:
        rig = read_rig(path)
    except HandloomError:
        return
    assert all(camera.width > 0 and np.isfinite(camera.k).all() for camera in rig.cameras)


@FUZZ
@given(data=st.data(), file=st.sampled_from(["frames.csv", "joints.csv"]))
def test_any_table_is_read_or_refused(data: st.DataObject, file: str, folder: Path, tmp_path: Path) -> None:
    original = (folder / file).read_text()
    if not (tmp_path / "f").exists():
        shutil.copytree(folder, tmp_path / "f")
    (tmp_path / "f" / file).write_bytes(data.draw(mutated(original)))
    try:
        plain = read_folder(tmp_path / "f")
        assert all(image.file.is_file() for image in plain.images)
        read_joints(tmp_path / "f" / "joints.csv")
    except HandloomError:
        pass
    finally:
        (tmp_path / "f" / file).write_text(original)


@FUZZ
@given(data=st.data())
def test_any_png_is_read_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    """Headers with their checksum mended, so that they reach the decoder."""
    good = bytearray(encoded(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 32), st.integers(0, len(good) - 1)))
        good[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        good[29:33] = struct.pack(">I", zlib.crc32(bytes(good[12:29])))
    path = tmp_path / "d.png"
    path.write_bytes(bytes(good[: data.draw(st.integers(0, len(good)))]) if data.draw(st.booleans()) else bytes(good))
    try:
        depth = read_depth_png(path, size=(32, 24))
    except HandloomError:
        return
    assert (depth.shape, depth.dtype) == ((24, 32), np.uint16)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a", "captured"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(FUZZ, max_examples=40)
@given(
    data=st.data(), file=st.sampled_from(["zarr.json", "frames/zarr.json", "frames/committed.json", "labels/zarr.json"])
)
def test_any_description_is_read_or_refused(data: st.DataObject, file: str, recording: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    if not path.exists():
        shutil.copytree(recording, path)
    kept = (path / file).read_bytes()

    def change(said: dict[str, Any]) -> None:
        place: Any = said
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            inner = place[key]
            if not (isinstance(inner, dict | list) and inner) or data.draw(st.booleans()):
                break
            place = inner
        place[key] = data.draw(PLAIN)

    described(path, change, file=file)
    try:
        open_recording(path)
    except HandloomError:
        pass
    finally:
        (path / file).write_bytes(kept)
