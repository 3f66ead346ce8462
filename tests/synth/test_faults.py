"""What goes wrong on the machine while a run is on: said in words, what is committed stays, a resume mends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.durable import sealed
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording
from handloom.synth.generate import SynthConfig, synthesise

from recording_hash import TABLES, array_hash

CONFIG = SynthConfig(frames=320, unit_frames=32, views=2, crop_px=64, subjects=3, seed=6)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return synthesise(CONFIG, tmp_path_factory.mktemp("faults") / "whole.zarr", jobs=1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def resized(disk: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_full_disk_stops_the_run_and_a_larger_one_lets_it_go_on(
    small_disk: Path, whole: Recording, jobs: int
) -> None:
    out = small_disk / "s.zarr"
    pages = sum(-(-file.stat().st_size // 4096) for file in whole.path.rglob("*") if file.is_file())
    resized(small_disk, 4096 * pages // 2)
    with pytest.raises(HandloomError) as caught:
        synthesise(CONFIG, out, jobs=jobs)
    assert str(caught.value) == (
        "The disk is full\n"
        f"  where: {out}\n"
        "  why:   No space left on device\n"
        "  fix:   free some space and run again with --resume; what is committed stays readable"
    )
    assert caught.value.exit_code == 3
    made = open_recording(out)
    # Of two processes the slower one may have the first unit: then the disk is full before anything can be committed.
    assert (0 if jobs > 1 else 1) <= made.n_frames < CONFIG.frames
    assert array_hash(made, made.n_frames) == array_hash(whole, made.n_frames)
    with pytest.raises(HandloomError, match="The disk is full"):
        synthesise(CONFIG, out, jobs=jobs, resume=True)
    assert open_recording(out).n_frames >= made.n_frames
    resized(small_disk, 1 << 24)
    assert array_hash(synthesise(CONFIG, out, jobs=jobs, resume=True)) == array_hash(whole)


def test_nothing_is_left_of_a_recording_that_did_not_fit_at_all(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 24) - 40000))
    out = small_disk / "s.zarr"
    with pytest.raises(HandloomError, match="The disk is full"):
        synthesise(CONFIG, out, jobs=1)
    assert not out.exists()
    filler.unlink()
    synthesise(CONFIG.model_copy(update={"frames": 32}), out, jobs=1)


def test_a_disk_that_cannot_be_written(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = CliRunner().invoke(main, ["synth", "run", "--out", str(small_disk / "s.zarr"), "--frames", "3"])
    assert done.exit_code == 3
    assert done.stderr.startswith(
        f"error: The recording cannot be written\n  where: {small_disk / 's.zarr'}\n  why:   Read-only file system\n"
    )


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HandloomError, match="The recording cannot be written") as caught:
        synthesise(CONFIG, tmp_path / "file" / "s.zarr", jobs=1)
    assert caught.value.why in ("Not a directory", "File exists")


def test_a_worker_that_dies(tmp_path: Path, whole: Recording) -> None:
    out = tmp_path / "s.zarr"

    def progress(done: int, total: int) -> None:
        if done and open_recording(out).n_frames:
            for worker in multiprocessing.active_children()[:1]:
                assert worker.pid
                os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(HandloomError, match="A worker process died") as caught:
        synthesise(CONFIG.model_copy(update={"frames": 3200}), out, jobs=2, progress=progress)
    assert "--resume" in caught.value.fix
    assert caught.value.exit_code == 3
    rows = min(open_recording(out).n_frames, 320)
    assert rows > 0
    assert array_hash(open_recording(out), rows) == array_hash(whole, rows)


def test_two_runs_never_write_one_recording(tmp_path: Path, whole: Recording) -> None:
    out = tmp_path / "s.zarr"
    refused: list[str] = []

    def progress(done: int, total: int) -> None:
        for options in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(HandloomError, match="Another process is writing this recording") as caught:
                synthesise(CONFIG, out, jobs=1, **options)
            refused.append(caught.value.fix)

    made = synthesise(CONFIG, out, jobs=1, progress=progress)
    assert set(refused) == {"wait until it has ended, or write to another --out"}
    assert array_hash(made) == array_hash(whole)


def test_what_is_not_a_recording_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(HandloomError, match="not a recording"):
            synthesise(CONFIG, tmp_path, jobs=1, **options)
    assert (tmp_path / "thesis.txt").exists()


def test_a_recording_of_other_versions_is_not_continued(tmp_path: Path, whole: Recording) -> None:
    import json
    import shutil

    shutil.copytree(whole.path, tmp_path / "s.zarr")
    about = tmp_path / "s.zarr" / "zarr.json"
    values = json.loads(about.read_text())
    values["attributes"]["provenance"]["packages"]["numba"] = "0.1"
    about.write_text(json.dumps(sealed(values)))
    with pytest.raises(HandloomError, match="other versions") as caught:
        synthesise(CONFIG, tmp_path / "s.zarr", jobs=1, resume=True)
    assert caught.value.why.startswith("numba was 0.1, is ")


def test_a_worker_does_not_write_into_a_recording_made_in_its_place(tmp_path: Path) -> None:
    from handloom.synth.units import UnitWork

    out = tmp_path / "s.zarr"
    config = CONFIG.model_copy(update={"frames": 32})
    before = synthesise(config, out, jobs=1)
    work = UnitWork(config, before.rig, out, before.uuid)
    after = synthesise(config.model_copy(update={"seed": 7}), out, jobs=1, overwrite=True)
    expected = array_hash(after)
    for table in TABLES:
        (out / table / "units" / "0.json").unlink()
    with pytest.raises(HandloomError, match="was replaced"):
        work(0)
    assert array_hash(open_recording(out)) == expected
    assert np.array_equal(list(out.glob("*/units/*")), [])
