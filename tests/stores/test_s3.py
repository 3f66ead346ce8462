"""Recordings in S3, on moto's server: real requests with real bytes over loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.copying import copy
from handloom.stores.errors import HandloomError
from handloom.stores.pool import PoolReader, Source
from handloom.stores.reading import load_resident
from handloom.stores.recording import create_recording, open_recording
from handloom.stores.s3 import S3Path, located
from handloom.stores.table import Appender
from handloom.stores.verify import verify

MOTO = "HANDLOOM_MOTO"
"""A Python that has moto, where the one of the tests has not."""
if find_spec("obstore") is None:
    pytest.skip("obstore is not installed (extra 's3')", allow_module_level=True)
if MOTO not in os.environ and find_spec("moto") is None:
    pytest.skip(
        f"moto is not installed: python -m venv M; M/bin/pip install 'moto[s3]' flask flask-cors; {MOTO}=M/bin/python",
        allow_module_level=True,
    )

FRAMES, SIDE = 40, 24


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [os.environ.get(MOTO, sys.executable), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # Without its parent's path: its own site-packages are meant.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    log = (tmp_path_factory.mktemp("moto") / "log").open("wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                send(f"{url}/moto-api/")
                break
            except OSError:
                assert process.poll() is None, "moto's server did not start"
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket 'lab', and an environment that leads there."""
    send(f"{server}/moto-api/reset", b"")
    send(f"{server}/lab", b"", "PUT")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "some")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    return "s3://lab"


def send(url: str, data: bytes | None = None, method: str | None = None) -> None:
    # Without a type of its own urllib calls the bytes a form, which moto then does not read.
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(url, data, headers, method=method or ("POST" if data is not None else "GET"))
    with urllib.request.urlopen(request, timeout=5) as answer:
        answer.read()


@pytest.fixture
def path(tmp_path: Path, rig: Rig) -> Path:
    """A small recording with crops, depth and labels."""
    rng = np.random.default_rng(0)
    made = create_recording(tmp_path / "r.zarr", kind="synthetic", rig=rig, hand="right", provenance={})
    for table in (
        made.create_crops(parts=False, crop_px=SIDE, unit_frames=16),
        made.create_labels(layout="openxr26", unit_frames=16),
        made.create_frames(depth=True, unit_frames=16),
    ):
        rows = {name: np.zeros((FRAMES, *c.shape), c.dtype) for name, c in table.columns.items()}
        for name, values in rows.items():
            if values.ndim > 2 and values.dtype == np.uint16:
                values[:] = 500 + rng.integers(0, 200, values.shape)
            if name in ("frame_id", "frame_number", "t_device_ns", "t_host_ns"):
                values.T[:] = np.arange(FRAMES) * (1 if name.startswith("frame") else 33_000_000)
            if name in ("present", "center_source"):
                values[:] = 1
            if name == "center":
                values[:] = 0, 0, 300
            if name == "k":
                values[:] = 60, 60, 12, 12
        with Appender(table) as appender:
            appender.append(rows)
    return made.path


def errors(where: str | Path) -> list[str]:
    found = [f for f in verify(Path(where), deep=True).findings if f.code in ("damaged", "missing")]
    return [f"{f.where} {f.rows}: {f.what}" for f in found]


def test_what_comes_back_is_what_was_sent(bucket: str, path: Path, tmp_path: Path) -> None:
    done = copy(path, Path(f"{bucket}/a/r.zarr"))
    assert (done.frames, done.bytes) == (FRAMES, sum(located(Path(f"{bucket}/a/r.zarr")).sizes().values()))  # type: ignore[attr-defined]
    copy(Path(f"{bucket}/a/r.zarr"), Path(f"{bucket}/b.zarr"))
    copy(Path(f"{bucket}/b.zarr"), tmp_path / "back.zarr")
    here = {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".writer"}
    there = tmp_path / "back.zarr"
    assert here == {f.relative_to(there): f.read_bytes() for f in there.rglob("*") if f.is_file()}


def test_a_recording_is_read_where_it_is(bucket: str, path: Path) -> None:
    copy(path, Path(f"{bucket}/r.zarr"))
    far, near = open_recording(Path(f"{bucket}/r.zarr")), open_recording(path)
    assert (far.uuid, far.n_frames, far.rig) == (near.uuid, near.n_frames, near.rig)
    one, two = load_resident(far), load_resident(near)
    assert (one.crop == two.crop).all()
    assert (one.frame_id == two.frame_id).all()
    with (
        PoolReader([Source(far)], memory_mb=0.05, seed=1) as reader,
        PoolReader([Source(near)], memory_mb=0.05, seed=1) as local,
    ):
        for mine, its in zip(reader.epoch(9), local.epoch(9), strict=True):
            assert (mine.row == its.row).all()
            assert (mine.arrays["crop"] == its.arrays["crop"]).all()
    assert verify(Path(f"{bucket}/r.zarr"), deep=True).to_dict() | {"path": ""} == verify(path, deep=True).to_dict() | {
        "path": ""
    }


def test_a_flipped_byte_is_found_and_named(bucket: str, path: Path) -> None:
    import obstore

    copy(path, Path(f"{bucket}/r.zarr"))
    place = located(Path(f"{bucket}/r.zarr/frames/depth/left/c.1.0.0"))
    assert isinstance(place, S3Path)
    whole = place.read_bytes()
    frames = open_recording(Path(f"{bucket}/r.zarr")).frames
    assert frames is not None
    # In the first row's bytes, and in the index of all rows.
    for at, rows in ((3, (16,)), (-40, tuple(range(16, 32)))):
        data = bytearray(whole)
        data[at] ^= 4
        obstore.put(place.store, place.key, bytes(data))
        said = f"frames/depth/left {rows}: the bytes are missing or do not match their checksum"
        assert errors(f"{bucket}/r.zarr") == [said]
        with pytest.raises(HandloomError, match="'depth/left' is damaged in row"):
            frames.read("depth/left")
    obstore.put(place.store, place.key, whole[: len(whole) // 2])  # and one that was cut short
    with pytest.raises(HandloomError, match="'depth/left' is damaged in row"):
        frames.read("depth/left")
    obstore.delete(place.store, place.key)
    with pytest.raises(HandloomError, match="has lost rows 16 to 31"):
        open_recording(Path(f"{bucket}/r.zarr"))


@pytest.mark.parametrize("sent", [0, 5, 20, -1])
def test_an_interrupted_copy_is_no_recording(
    bucket: str, path: Path, sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    target = Path(f"{bucket}/r.zarr")
    files = [file for file in path.rglob("*") if file.is_file() and file.name != ".writer"]
    put, count = obstore.put, [0]

    def cut_off(*given: object) -> None:
        count[0] += 1
        if count[0] > sent % len(files):
            raise KeyboardInterrupt
        put(*given)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", cut_off)
        with pytest.raises(KeyboardInterrupt):
            copy(path, target)
    with pytest.raises(HandloomError, match=r"There is no recording|This is not a recording"):
        open_recording(target)
    if sent:
        with pytest.raises(HandloomError, match="Something lies at the output already") as caught:
            copy(path, target)
        assert "left by an interrupted copy" in caught.value.why
    copy(path, target, overwrite=True)
    assert not errors(target)


def test_replacing_goes_through_no_recording_and_leaves_nothing_of_the_old(
    bucket: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    target = Path(f"{bucket}/r.zarr")
    copy(path, target)
    place = located(target / "crops/old")
    assert isinstance(place, S3Path)
    obstore.put(place.store, place.key, b"x")
    with pytest.raises(HandloomError, match="The output exists already"):
        copy(path, target)

    def nothing(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(obstore, "put", nothing)
        with pytest.raises(KeyboardInterrupt):
            copy(path, target, overwrite=True)
    with pytest.raises(HandloomError, match="This is not a recording"):
        open_recording(target)
    copy(path, target, overwrite=True)
    assert not place.is_file()
    obstore.put(place.store, "notes/day1.txt", b"keep me")
    with pytest.raises(HandloomError, match="Refusing to overwrite what is not a recording"):
        copy(path, Path(f"{bucket}/notes"), overwrite=True)


def test_an_interrupted_fetch_leaves_no_recording(
    bucket: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(path, Path(f"{bucket}/r.zarr"))
    read, count = S3Path.read_parts, [0]

    def cut_off(self: S3Path) -> Iterator[bytes]:
        count[0] += 1
        if count[0] > 20:
            raise KeyboardInterrupt
        return read(self)

    with monkeypatch.context() as patch:
        patch.setattr(S3Path, "read_parts", cut_off)
        with pytest.raises(KeyboardInterrupt):
            copy(Path(f"{bucket}/r.zarr"), tmp_path / "back.zarr")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["r.zarr"]


def told(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["store", *arguments])
    return done.exit_code, done.output


def test_what_can_go_wrong_is_said_with_its_exit_code(
    bucket: str, server: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = f"{bucket}/r.zarr"
    assert told("copy", str(path), far)[0] == 0
    code, said = told("info", far)
    assert (code, f"recording      {far}" in said) == (0, True)
    assert told("verify", far)[1] == told("verify", str(path))[1]
    code, said = told("copy", str(path), far)
    assert (code, said.splitlines()[-3:]) == (
        2,
        ["error: The output exists already", f"  where: {far}", "  fix:   add --overwrite, or choose another place"],
    )
    for asked in (("info", "s3://none/r.zarr"), ("copy", str(path), "s3://none/r.zarr")):
        code, said = told(*asked)
        assert (code, "There is no bucket 'none'" in said) == (2, True)
    code, said = told("info", f"{bucket}/other.zarr")
    assert (code, "There is no recording" in said) == (2, True)
    code, said = told("repack", str(path), "--out", f"{bucket}/q.zarr")
    assert (code, "A recording in S3 is only read" in said) == (2, True)
    assert "store copy R.zarr s3://lab/q.zarr" in said
    with pytest.raises(HandloomError, match="is only read"):
        open_recording(Path(far), writable=True)
    with pytest.raises(HandloomError, match="is only read"):
        open_recording(Path(far)).annotate(a=1)
    with pytest.raises(HandloomError, match="is only read"):
        open_recording(Path(far)).replace_labels(np.zeros((FRAMES, 26, 3), np.float32), layout="openxr26")
    # Wrong credentials: from now on the server looks at them.
    send(f"{server}/moto-api/reset-auth", b"0")
    try:
        code, said = told("info", far)
        assert (code, "S3 refuses access" in said) == (3, True)
        assert "AWS_ACCESS_KEY_ID" in said
        assert told("copy", str(path), f"{bucket}/p.zarr")[0] == 3
    finally:
        send(f"{server}/moto-api/reset-auth", b"inf")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        code, said = told("info", far)
        assert (code, "There are no credentials for S3" in said) == (3, True)
    with socket.socket() as closed:  # bound and not listening: nobody answers there
        closed.bind(("127.0.0.1", 0))
        with monkeypatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
            code, said = told("info", far)
            assert (code, "S3 cannot be reached" in said) == (3, True)
    assert not (tmp_path / "s3:").exists()
