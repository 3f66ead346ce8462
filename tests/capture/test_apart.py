"""The capture process: what goes through it is right and counted, and whatever ends it leaves nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from counting_source import Counting, Endless, broken, check, pattern

from handloom.capture.apart import SourceApart
from handloom.capture.record import record
from handloom.capture.source import DepthSource
from handloom.stores.errors import HandloomError
from handloom.stores.recording import open_recording

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_stays() -> object:
    yield
    assert not multiprocessing.active_children()
    assert not list(Path("/dev/shm").glob(f"handloom-{os.getpid()}-*"))


def test_a_source_that_can_wait_loses_nothing(tmp_path: Path) -> None:
    with SourceApart(partial(Counting, count=120), slots=2) as source:
        assert isinstance(source, DepthSource)
        assert not source.live
        made = record(source, tmp_path / "r.zarr")
        assert source.traffic.high_water == 2
    assert check(made) == list(range(120))
    assert made.attributes["drops"] == {name: {"no_room": 0, "before_us": 0} for name in ("cam0", "cam1")}
    assert made.attributes["ended"] == "source ended"


def test_every_image_that_finds_no_room_is_counted(tmp_path: Path) -> None:
    # Faster than any writer; every third image of camera 1 is lost in the camera itself.
    count, lost = 3000, tuple(range(4, 3000, 3))
    opener = partial(Counting, count=count, live=True, lost=lost)
    with SourceApart(opener, slots=8) as source:
        made = record(source, tmp_path / "r.zarr")
    check(made)
    assert made.frames is not None
    stored = made.frames.read("present").sum(axis=0, dtype=int)
    drops = made.attributes["drops"]
    assert drops["cam0"]["no_room"] > 500  # so the test tests something
    assert stored[0] + drops["cam0"]["no_room"] == count
    assert stored[1] + drops["cam1"]["no_room"] == count - len(lost)
    # After its last image a camera has no counter that could show a gap.
    assert drops["cam1"]["before_us"] == len([n for n in lost if n < count - 1])
    assert drops["cam0"]["before_us"] == 0
    assert made.attributes["segments"][0]["recorder"]["ring_high_water"] == 8


def test_drops_are_noted_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill must not take the count along; here it is the recorder's own end that is kept from being written."""
    monkeypatch.setattr("handloom.capture.record.NOTE_DROPS_EVERY_S", 0.0)
    monkeypatch.setattr("handloom.capture.record.end_segment", lambda *_: None)
    with SourceApart(partial(Counting, count=1500, live=True), slots=4) as source:
        made = record(source, tmp_path / "r.zarr")
        (segment,) = made.attributes["segments"]
        assert segment["ended"] is None
        assert 0 < segment["drops"]["cam0"]["no_room"] <= source.traffic.dropped[0]


def test_a_writer_that_stalls_costs_nothing_while_the_ring_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from handloom.stores.table import Appender

    append, stalled = Appender.append, threading.Event()

    def slow(self: Appender, rows: object) -> None:
        if not stalled.is_set() and self.rows == 20:
            stalled.set()
            threading.Event().wait(0.7)
        append(self, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Appender, "append", slow)
    monkeypatch.setattr("handloom.capture.record.QUEUE_SETS", 4)
    with SourceApart(partial(Counting, count=150, live=True, fps=100.0), slots=250) as source:
        made = record(source, tmp_path / "r.zarr")
        assert source.traffic.high_water > 20
    assert check(made) == list(range(150))


def test_a_capture_process_that_dies_leaves_all_that_came(tmp_path: Path) -> None:
    opener = partial(Counting, count=300, suicide=75)
    with SourceApart(opener) as source, pytest.raises(HandloomError, match="capture process died") as caught:
        record(source, tmp_path / "r.zarr")
    assert caught.value.where == f"{tmp_path / 'r.zarr'}, after 75 sets, which are kept"
    assert caught.value.why == "it ended with signal 9"
    assert caught.value.exit_code == 3
    made = open_recording(tmp_path / "r.zarr")
    assert check(made) == list(range(75))
    assert made.attributes["ended"] == "source failed: The capture process died"
    with SourceApart(partial(Counting, first=90, count=10)) as source:
        made = record(source, tmp_path / "r.zarr", resume=True)
    assert check(made) == [*range(75), *range(90, 100)]


def test_what_fails_in_the_capture_process_is_said_here(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="No camera is plugged in") as caught:
        SourceApart(broken)
    assert caught.value.fix == "plug one in"
    with SourceApart(partial(Counting, fail_at=40)) as source, pytest.raises(ValueError, match="no such number"):
        record(source, tmp_path / "r.zarr")
    assert check(open_recording(tmp_path / "r.zarr")) == list(range(40))


def test_images_that_disagree_with_the_rig_are_refused_there(tmp_path: Path) -> None:
    with (
        SourceApart(partial(Counting, height=60, width=80, wrong=True)) as source,
        pytest.raises(HandloomError, match=r"'cam0' disagrees with the rig[\s\S]*\(72, 96\)[\s\S]*\(60, 80\)"),
    ):
        record(source, tmp_path / "r.zarr")


def test_a_camera_that_vanishes_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handloom.capture.meter.GONE_S", 0.3)
    opener = partial(Counting, count=150, live=True, fps=150.0, silent_from=60)
    with SourceApart(opener) as source:
        made = record(source, tmp_path / "r.zarr")
    assert check(made) == list(range(150))
    assert made.frames is not None
    assert made.frames.read("present")[:, 1].tolist() == [1] * 60 + [0] * 90
    assert made.attributes["segments"][0]["vanished"] == ["cam1"]


def test_leaving_early_ends_the_process(tmp_path: Path) -> None:
    with SourceApart(partial(Endless, count=10**9, live=True, fps=200.0)) as source:
        made = record(source, tmp_path / "r.zarr", max_sets=20)
    assert check(made) == list(range(20))
    assert made.attributes["ended"] == "as many sets as asked for"
    with SourceApart(partial(Counting, count=10**9), slots=2) as source:
        first = next(iter(source.frames()))
        assert (first.depth == pattern(0, 0)).all()


def test_a_number_of_seconds(tmp_path: Path) -> None:
    with SourceApart(partial(Endless, count=10**9, live=True, fps=200.0)) as source:
        made = record(source, tmp_path / "r.zarr", seconds=0.5)
    numbers = check(made)
    assert 20 < len(numbers) < 400
    assert made.attributes["ended"] == "as many seconds as asked for"


def test_too_little_shared_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from counting_source import rig

    from handloom.capture.ring import Ring

    full = SimpleNamespace(f_bavail=20, f_frsize=4096)
    monkeypatch.setattr("os.statvfs", lambda path: full)
    with pytest.raises(HandloomError, match="no room for the cameras' images in shared memory") as caught:
        Ring.create("handloom-never", rig())
    assert "--shm-size" in caught.value.fix


def test_the_capture_process_is_deaf_to_ctrl_c_from_its_first_moment() -> None:
    """In an interpreter of its own: the first process that one spawns starts another beside it."""
    program = (
        "import re, signal\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from counting_source import Endless\n"
        "from handloom.capture.apart import SourceApart\n"
        "if __name__ == '__main__':\n"
        "    with SourceApart(partial(Endless, count=10**9, live=True, fps=30.0)) as source:\n"
        "        status = Path(f'/proc/{source.pid}/status').read_text()\n"
        "    blocked = int(re.search(r'SigBlk:\\s*(\\w+)', status)[1], 16)\n"
        "    assert blocked >> (signal.SIGINT - 1) & 1, status\n"
        "    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / '.dev'}{os.pathsep}{ROOT / 'tests'}"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
