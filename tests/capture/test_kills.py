"""A recorder that is killed at any moment, it or its capture process: no wrong frame, none lost that was committed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from counting_source import Counting, check
from process_group import group

from handloom.capture.record import record
from handloom.stores.errors import HandloomError
from handloom.stores.recording import OPEN_UNIT_FRAMES, open_recording

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Run:
    """A recorder with its capture process, in a process group of their own."""

    process: subprocess.Popen[str]
    capture_pid: int | None = None

    @classmethod
    def start(cls, out: Path, *, first: int, count: int = 10**6, **given: object) -> Run:
        """Images at 200 a second that wait where the disk is slow, so that a gap is a lost frame."""
        options = json.dumps({"first": first, "count": count, "fps": 200.0, **given})
        environment = os.environ | {"PYTHONPATH": str(ROOT / ".dev")}
        command = [sys.executable, str(ROOT / "tests" / "counting_source.py"), str(out), options]
        return cls(
            subprocess.Popen(
                command, env=environment, start_new_session=True, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip

    def begun(self) -> None:
        """Wait for the capture process, and until the writer has taken a set."""
        assert self.process.stdout is not None
        self.capture_pid = int(self.process.stdout.readline())
        self.process.stdout.readline()

    def end(self) -> tuple[int, str]:
        """Sets that the writer had taken, and what was said; nothing of it is left then."""
        said, errors = self.process.communicate(timeout=60)
        deadline = time.monotonic() + 30
        while (left := group(self.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left
        assert not list(Path("/dev/shm").glob(f"handloom-{self.process.pid}-*"))
        lines = said.split()
        # The first line, if it was not read yet, is the capture process's number.
        taken = lines if self.capture_pid is not None else lines[1:]
        return int(taken[-1]) if taken else 0, errors


def readable(out: Path) -> list[int]:
    """The numbers of all rows, each checked; none where it was killed before it had a recording."""
    if not out.exists():
        return []
    return check(open_recording(out))


def kill(run: Run, how: str) -> None:
    match how:
        case "recorder":
            os.kill(run.process.pid, signal.SIGKILL)
        case "capture":
            assert run.capture_pid is not None
            os.kill(run.capture_pid, signal.SIGKILL)
        case _:
            os.killpg(run.process.pid, signal.SIGKILL)


def killed(out: Path, before: list[int], how: str, wait_s: float) -> list[int]:
    """The numbers of the rows after one more go that was killed, with all that must hold."""
    first = before[-1] + 10 if before else 0
    run = Run.start(out, first=first)
    if wait_s > 0 or how == "capture":
        run.begun()
    time.sleep(abs(wait_s))
    kill(run, how)
    taken, errors = run.end()
    numbers = readable(out)
    assert numbers[: len(before)] == before
    assert numbers[len(before) :] == list(range(first, first + len(numbers) - len(before)))
    if how == "capture":
        assert "The capture process died" in errors
        assert len(numbers) >= taken
        assert open_recording(out).attributes["ended"] == "source failed: The capture process died"
    else:
        assert taken - len(numbers) <= OPEN_UNIT_FRAMES, "more than the open unit is lost"
        assert "Traceback" not in errors, errors
    return numbers


def finished(out: Path, before: list[int]) -> None:
    """Append once more, to the end."""
    first = before[-1] + 10 if before else 0
    run = Run.start(out, first=first, count=40)
    _, errors = run.end()
    assert run.process.returncode == 0, errors
    assert readable(out) == [*before, *range(first, first + 40)]
    assert open_recording(out).attributes["ended"] == "source ended"


def test_killed_and_continued(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    numbers: list[int] = []
    for how, wait_s in (("recorder", 0.4), ("capture", 0.2), ("both", 0.3)):
        numbers = killed(out, numbers, how, wait_s)
    finished(out, numbers)
    recording = open_recording(out)
    segments = recording.attributes["segments"]
    assert [segment["ended"] for segment in segments] == [
        None, "source failed: The capture process died", None, "source ended",
    ]  # fmt: skip
    assert [segment["sequence"] for segment in segments] == [0, 1, 2, 3]
    assert recording.frames is not None
    sequence = recording.frames.read("sequence")
    starts = [segment["first_row"] for segment in segments]
    assert np.flatnonzero(np.diff(sequence, prepend=-1)).tolist() == starts


@pytest.mark.slow
def test_killed_at_thirty_random_moments(tmp_path: Path) -> None:
    """From the first import on; recorder, capture process or both."""
    rng = np.random.default_rng(2026)
    out = tmp_path / "r.zarr"
    numbers: list[int] = []
    grown = 0
    for _ in range(30):
        how = ("recorder", "capture", "both")[rng.integers(3)]
        # A quarter of the kills comes before anything is written: negative waits count from the start.
        wait_s = float(rng.uniform(0, 1.2)) if rng.random() < 0.75 else -float(rng.uniform(0, 1.5))
        after = killed(out, numbers, how, wait_s)
        grown += len(after) > len(numbers)
        numbers = after
    assert grown > 12
    finished(out, numbers)


def test_ctrl_c_keeps_every_set(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    run = Run.start(out, first=0, fps=50.0, live=True)
    run.begun()
    time.sleep(0.3)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to all of them
    taken, errors = run.end()
    assert run.process.returncode == 0, errors
    made = open_recording(out)
    assert made.attributes["ended"] == "interrupted"
    numbers = readable(out)
    assert len(numbers) == taken
    # The capture process gave all that it had; only what found no room, on a busy machine, is not there.
    drops = made.attributes["drops"]["cam0"]
    assert drops["before_us"] == 0
    assert numbers[-1] + 1 - len(numbers) <= drops["no_room"]


def test_two_recorders_never_write_one_recording(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    run = Run.start(out, first=0)
    run.begun()

    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(HandloomError, match="Another process is writing this recording"):
            record(Counting(count=5), out, **options)
    os.kill(run.process.pid, signal.SIGTERM)  # politely: as ctrl-C
    taken, errors = run.end()
    assert run.process.returncode == 0, errors
    assert readable(out) == list(range(taken))
