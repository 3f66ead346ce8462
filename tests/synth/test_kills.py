"""A run that is killed at any moment shows no wrong frame, and resumed ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording
from handloom.synth.generate import SynthConfig, synthesise

from recording_hash import TABLES, array_hash

ROOT = Path(__file__).resolve().parents[2]


def command(config: SynthConfig, out: Path) -> list[str]:
    given = {name: getattr(config, name) for name in ("frames", "unit_frames", "views", "crop_px", "subjects", "seed")}
    options = [text for name, value in given.items() for text in ("-o", f"{name}={value}")]
    return [sys.executable, "-m", "handloom", "synth", "run", "--out", str(out), "--jobs", "2", "--resume", *options]


def start(config: SynthConfig, out: Path) -> subprocess.Popen[str]:
    """The command and its workers, in a process group of their own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / ".dev")}
    return subprocess.Popen(
        command(config, out), cwd=out.parent, env=environment, start_new_session=True, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def kill(run: subprocess.Popen[str]) -> bool:
    """Kill command and workers at once; whether it was still at it. What it said until then must be no error."""
    alive = run.poll() is None
    if alive:
        os.killpg(run.pid, signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    assert "rror" not in said, said
    return alive


def markers(out: Path) -> int:
    return len(list(out.glob("*/units/*.json")))


def readable(out: Path, whole: Recording) -> int:
    """Frames that can be read, after making sure that all of them are right; 0 where there is none yet."""
    if not (out / "frames" / "committed.json").exists():
        with pytest.raises(HandloomError):  # killed while it was made: nothing takes it for a recording
            open_recording(out)
        return 0
    recording = open_recording(out)
    for name in TABLES:
        table, truth = getattr(recording, name), getattr(whole, name)
        for column in table.columns:
            values = table.read(column)
            assert np.array_equal(values, truth.read(column, 0, len(values)), equal_nan=True), f"{name}/{column}"
    counts = [getattr(recording, name).committed for name in ("crops", "labels", "frames")]
    assert counts == sorted(counts, reverse=True), "a frame without its crop or label"
    return recording.n_frames


def finish(config: SynthConfig, out: Path) -> Recording:
    run = start(config, out)
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 0, said
    return open_recording(out)


def test_killed_twice_and_resumed_it_is_the_same(tmp_path: Path) -> None:
    config = SynthConfig(frames=250, unit_frames=32, views=2, crop_px=64, subjects=3, seed=5)
    whole = synthesise(config, tmp_path / "whole.zarr", jobs=1)
    out = tmp_path / "killed.zarr"
    for at in (4, 14):  # of the 24 markers
        run = start(config, out)
        deadline = time.monotonic() + 60
        while markers(out) < at and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        assert kill(run)
        assert readable(out, whole) < 250
    assert array_hash(finish(config, out)) == array_hash(whole)
    assert not [path for path in out.rglob(".*") if path.name != ".writer"]


@pytest.mark.slow
def test_killed_at_twelve_random_moments(tmp_path: Path) -> None:
    """Anywhere from the first import to the last commit; the end is the uninterrupted run's, by hash."""
    config = SynthConfig(frames=2400, unit_frames=32, views=2, crop_px=96, subjects=5, seed=8)
    began = time.monotonic()
    whole = finish(config, tmp_path / "whole.zarr")
    took = time.monotonic() - began
    expected = array_hash(whole)
    out = tmp_path / "killed.zarr"
    rng = np.random.default_rng(2026)
    kills, frames = 0, []
    for _ in range(40):
        run = start(config, out)
        time.sleep(rng.uniform(0, 0.6 * took))
        kills += kill(run)
        frames.append(readable(out, whole))
        if kills >= 12 and frames[-1] == config.frames:
            break
        if frames[-1] == config.frames:  # killed too late: begin another one
            assert array_hash(finish(config, out)) == expected
            out = tmp_path / f"killed{len(frames)}.zarr"
    assert kills >= 12
    assert len(set(frames)) > 3, frames
    assert array_hash(finish(config, out)) == expected


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Alone, not with its group: they would wait for work for ever, and write into what comes after."""
    config = SynthConfig(frames=3200, unit_frames=32, views=2, crop_px=64, subjects=3, seed=5)
    out = tmp_path / "s.zarr"
    run = start(config, out)
    while markers(out) < 1 and run.poll() is None:
        time.sleep(0.005)
    group = [pid for pid in _processes() if pid != run.pid and _group(pid) == run.pid]
    assert len(group) >= 2
    os.kill(run.pid, signal.SIGKILL)
    run.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while (left := [pid for pid in group if _group(pid) == run.pid]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None
