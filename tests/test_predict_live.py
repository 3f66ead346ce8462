"""`handloom predict --live`: however it ends, every pose until then is there, and nothing is left running."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from process_group import group

from handloom.capture.source import Image
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError

from centred_net import centred_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    centred_model(path)
    return path


@dataclass
class Live:
    """The command before virtual cameras, leader of a process group of its own as in a terminal."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, model: Path, *arguments: object, stdout: int = subprocess.PIPE) -> Live:
        command = [sys.executable, "-m", "handloom", "predict", model, "--live", "virtual", "--views", 2, "--fps", 10]
        environment = os.environ | {"PYTHONPATH": str(ROOT / ".dev")}
        return cls(
            subprocess.Popen(
                [str(word) for word in (*command, *arguments)], env=environment, start_new_session=True, text=True,
                stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE,
            )
        )  # fmt: skip

    def lines(self, count: int) -> list[str]:
        """The first lines of its output."""
        assert self.process.stdout is not None
        return [self.process.stdout.readline() for _ in range(count)]

    def begun(self, file: Path, size: int) -> None:
        """Wait until it has written so much."""
        deadline = time.monotonic() + 120
        while not file.exists() or file.stat().st_size < size:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def end(self) -> tuple[int, str, str]:
        """Exit code and what was said; nothing of it is left then, and no traceback was shown."""
        said, errors = self.process.communicate(timeout=60)
        deadline = time.monotonic() + 30
        while (left := group(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left
        assert not list(Path("/dev/shm").glob(f"handloom-{self.process.pid}-*"))
        assert "Traceback" not in errors, errors
        assert "Exception ignored" not in errors, errors
        return self.process.returncode, said, errors


def poses(file: Path) -> int:
    """Poses of a file of which each must be whole."""
    if file.suffix == ".npz":
        with np.load(file) as found:
            assert {len(found[name]) for name in found if name not in ("joints", "layout")} == {len(found["frame"])}
            return len(found["frame"])
    text = file.read_text()
    assert text.endswith("\n")
    if file.suffix == ".jsonl":
        assert all(len(json.loads(line)["joints_mm"]) == 26 for line in text.splitlines())
        return len(text.splitlines())
    rows = list(csv.reader(text.splitlines()))
    assert {len(row) for row in rows} == {8}
    assert len(rows) % 26 == 1
    return len(rows) // 26


def test_ctrl_c_keeps_every_pose(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyrealsense2")
    out = tmp_path / "new" / "p.csv"
    live = Live.start(model, "--smooth", "--out", out)
    live.begun(out.with_name("p.csv.writing"), 4000)
    os.killpg(live.process.pid, signal.SIGINT)  # as a terminal does: to all of them
    code, said, errors = live.end()
    assert (code, errors) == (130, "")
    assert "frames tracked, found anew in" in said
    assert poses(out) >= 2
    assert [path.name for path in out.parent.iterdir()] == ["p.csv"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "suffix", "whole"),
    [
        (signal.SIGTERM, ".jsonl", True),
        (signal.SIGTERM, ".csv", False),
        (signal.SIGHUP, ".jsonl", False),
        (signal.SIGINT, ".npz", False),
    ],
)
def test_signals_to_it_alone_and_to_its_cameras(
    model: Path, tmp_path: Path, number: signal.Signals, suffix: str, whole: bool
) -> None:
    pytest.importorskip("pyrealsense2")
    out = tmp_path / f"p{suffix}"
    live = Live.start(model, "--out", out)
    if suffix == ".npz":  # nothing shows how far it is
        live.begun(out.with_name(out.name + ".writing"), 0)
        time.sleep(5)
    else:
        live.begun(out.with_name(out.name + ".writing"), 4000)
    (os.killpg if whole else os.kill)(live.process.pid, number)
    assert live.end()[0] == 128 + number
    assert poses(out) >= 1


@pytest.mark.slow
def test_lines_on_the_way_to_another_program_are_whole(model: Path) -> None:
    pytest.importorskip("pyrealsense2")
    live = Live.start(model)
    first = live.lines(2)
    os.kill(live.process.pid, signal.SIGINT)
    code, said, errors = live.end()
    assert code == 130
    assert said == "" or said.endswith("\n")
    lines = [*first, *said.splitlines()]
    assert all(len(json.loads(line)["joints_mm"]) == 26 for line in lines)
    assert f" of {json.loads(lines[-1])['frame'] + 1} frames tracked" in errors


@pytest.mark.slow
def test_a_reader_that_has_enough(model: Path) -> None:
    pytest.importorskip("pyrealsense2")
    live = Live.start(model)
    live.lines(2)
    assert live.process.stdout is not None
    live.process.stdout.close()
    live.process.stdout = None
    code, _, errors = live.end()
    assert code == 141
    assert "frames tracked" in errors


@pytest.mark.slow
def test_an_output_without_room(model: Path) -> None:
    pytest.importorskip("pyrealsense2")
    with Path("/dev/full").open("w") as full:
        live = Live.start(model, stdout=full.fileno())
    code, _, errors = live.end()
    assert code == 3
    assert errors.endswith("error: No space left on device\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_stopped_while_the_cameras_open(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    pytest.importorskip("pyrealsense2")
    live = Live.start(model, "--out", tmp_path / "p.csv")
    deadline = time.monotonic() + 60
    while len(group(live.process.pid)) < 3:  # it, the resource tracker, the capture process
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(live.process.pid, number)
    code, _, errors = live.end()
    assert code == (-9 if number == signal.SIGKILL else 130)
    assert number == signal.SIGKILL or "Interrupted" in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_cameras_whose_process_dies(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyrealsense2")
    out = tmp_path / "p.csv"
    live = Live.start(model, "--out", out)
    live.begun(tmp_path / "p.csv.writing", 4000)
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) in group(live.process.pid):
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"--multiprocessing-fork" in words:
                os.kill(int(path.name), signal.SIGKILL)
    code, said, errors = live.end()
    assert code == 3
    assert "The capture process died" in errors
    assert "frames tracked" in said
    assert poses(out) >= 2


class Scripted:
    """A live source in this process: a virtual rig of which one camera or all fall silent."""

    live = True
    clock = "hardware_clock"
    hand = "right"
    n_images = None

    def __init__(self, *, silent: int | None = None, fails: bool = False) -> None:
        self.silent, self.fails = silent, fails
        self._rig = VirtualRig(VirtualConfig(frames=40, seed=3, transport="direct", scene=False, fps=30))

    @property
    def rig(self) -> Rig:
        return self._rig.rig

    def frames(self) -> Iterator[Image]:
        for image in self._rig.frames():
            if image.camera == 0:
                time.sleep(0.01)  # the tracker looks at every set, or nearly
            if image.frame_number > 25 and self.fails:
                raise HandloomError("The cameras have fallen silent", exit_code=3)
            if image.frame_number <= 10 or image.camera != self.silent:
                yield image

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._rig.close()


def test_cameras_that_fail_leave_the_poses_until_then(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handloom.capture.apart.SourceApart", lambda _: Scripted(fails=True))
    out = tmp_path / "p.csv"
    done = CliRunner().invoke(main, ["predict", str(model), "--live", "virtual", "--out", str(out)])
    assert (done.exit_code, done.stderr) == (3, "error: The cameras have fallen silent\n")
    assert poses(out) >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_one_camera_that_vanishes_leaves_the_others(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handloom.capture.apart.SourceApart", lambda _: Scripted(silent=2))
    out = tmp_path / "p.jsonl"
    done = CliRunner().invoke(main, ["predict", str(model), "--live", "virtual", "--fused", "--out", str(out)])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    last = [row["camera"] for row in rows if row["frame"] == rows[-1]["frame"]]
    assert last == ["cam0", "cam1", "rig"]


def test_what_cannot_be_written_is_known_before_the_cameras_open(model: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["predict", str(model), "--live", "virtual", "--out", str(tmp_path / "p.txt")])
    assert done.exit_code == 2
    assert "not written as '.txt'" in done.stderr
    assert not list(tmp_path.iterdir())
