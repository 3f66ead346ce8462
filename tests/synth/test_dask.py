"""A Dask cluster as the executor: real scheduler and worker processes on this machine's loopback."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.recording import open_recording
from handloom.synth import executor as executors
from handloom.synth.executor import open_executor
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.provenance import versions

from recording_hash import TABLES, array_hash

distributed = pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

CONFIG = SynthConfig(frames=430, unit_frames=32, views=2, crop_px=64, subjects=3, seed=9)


def local_cluster(workers: int, *, processes: bool) -> distributed.LocalCluster:
    """On the loopback, without a dashboard; its HTTP server takes whatever port is free."""
    return distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=processes, protocol="tcp", host="127.0.0.1",
        dashboard_address=None, scheduler_kwargs={"dashboard_address": "127.0.0.1:0"}, silence_logs=50,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[distributed.LocalCluster]:
    with local_cluster(2, processes=True) as cluster:
        yield cluster


def worker_pids(cluster: distributed.LocalCluster) -> list[int]:
    return [nanny.pid for nanny in cluster.workers.values() if nanny.pid]


def written(out: Path) -> dict[str, int]:
    """When each marker was written: a unit written twice has a younger one."""
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.glob("*/units/*.json")}


def test_a_worker_killed_midway_leaves_nothing_missing_and_nothing_twice(
    cluster: distributed.LocalCluster, tmp_path: Path
) -> None:
    out = tmp_path / "dask.zarr"
    first_seen: dict[str, int] = {}
    killed: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for name, at in written(out).items():
                first_seen.setdefault(name, at)
            if not killed and len(first_seen) >= 9:
                killed.append(worker_pids(cluster)[0])
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        made = synthesise(CONFIG, out, jobs=1, executor="dask", scheduler=cluster.scheduler_address)
    finally:
        stop.set()
        watcher.join()
    assert killed
    assert made.n_frames == 430
    units = range(CONFIG.units)
    assert set(written(out)) == {f"{table}/units/{unit}.json" for table in TABLES for unit in units}
    twice = [name for name, at in written(out).items() if first_seen.get(name, at) != at]
    assert not twice
    assert array_hash(made) == array_hash(synthesise(CONFIG, tmp_path / "local.zarr", jobs=1))


def test_a_unit_that_is_whole_is_not_written_again_and_a_torn_one_only_where_it_is_torn(
    cluster: distributed.LocalCluster, tmp_path: Path
) -> None:
    out = tmp_path / "a.zarr"
    config = CONFIG.model_copy(update={"frames": 96})
    expected = array_hash(synthesise(config, out, jobs=1))
    before = written(out)
    for table in TABLES:
        (out / table / "committed.json").write_text('{"rows": 32}')
    (out / "labels" / "units" / "1.json").unlink()  # as if killed between the tables of unit 1
    made = synthesise(config, out, jobs=1, resume=True, executor="dask", scheduler=cluster.scheduler_address)
    after = written(out)
    assert {name for name in before if before[name] != after[name]} == {"labels/units/1.json"}
    assert array_hash(made) == expected


def test_units_wait_for_workers_that_come_back(cluster: distributed.LocalCluster) -> None:
    """With every worker dead for a moment none of the units may be forgotten."""
    with open_executor("dask", jobs=1, scheduler=cluster.scheduler_address, versions=versions()) as made_by:
        for pid in worker_pids(cluster):
            os.kill(pid, signal.SIGKILL)
        assert sorted(made_by.run(abs, range(50))) == list(range(50))


def test_a_scheduler_that_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 2.0)
    with local_cluster(1, processes=False) as lost:

        def progress(done: int, total: int) -> None:
            if done:
                lost.close(timeout=1)

        with pytest.raises(HandloomError, match="The Dask scheduler went away") as caught:
            synthesise(
                CONFIG, tmp_path / "a.zarr", jobs=1, executor="dask", scheduler=lost.scheduler_address,
                progress=progress,
            )  # fmt: skip
    assert caught.value.exit_code == 3
    made = open_recording(tmp_path / "a.zarr")
    assert 0 < made.n_frames < CONFIG.frames
    assert array_hash(made) == array_hash(synthesise(CONFIG, tmp_path / "b.zarr", jobs=1), made.n_frames)


def test_workers_of_other_versions_are_refused_before_anything_is_written(
    cluster: distributed.LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = versions() | {"numpy": "9.9"}
    with (
        pytest.raises(HandloomError, match="other versions") as caught,
        open_executor("dask", jobs=1, scheduler=cluster.scheduler_address, versions=wanted),
    ):
        pass
    assert "numpy" in caught.value.why
    assert caught.value.exit_code == 3


def test_an_error_of_a_worker_comes_back_in_its_own_words(cluster: distributed.LocalCluster, tmp_path: Path) -> None:
    def work(unit: int) -> int:
        raise HandloomError("The unit cannot be made", where=f"unit {unit}", exit_code=3)

    with open_executor("dask", jobs=1, scheduler=cluster.scheduler_address, versions=versions()) as made_by:
        assert made_by.workers in (1, 2)  # one that was killed may not be back yet
        with pytest.raises(HandloomError, match="The unit cannot be made") as caught:
            list(made_by.run(work, [4]))
    assert (caught.value.where, caught.value.exit_code) == ("unit 4", 3)


def test_a_scheduler_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 0.5)
    with (
        local_cluster(0, processes=False) as empty,
        pytest.raises(HandloomError, match="no workers") as caught,
    ):
        synthesise(CONFIG, tmp_path / "a.zarr", jobs=1, executor="dask", scheduler=empty.scheduler_address)
    assert f"dask worker {empty.scheduler_address}" in caught.value.fix
    assert not (tmp_path / "a.zarr").exists()


def test_an_unreachable_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "CONNECT_S", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    arguments = ["synth", "run", "--out", str(tmp_path / "a.zarr"), "--executor", "dask", "--scheduler", address]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error: The Dask scheduler cannot be reached\n  where: {address}\n")
    assert done.stderr.endswith("  fix:   start it with 'dask scheduler' and give the address that it prints\n")
    assert not (tmp_path / "a.zarr").exists()


def test_an_address_is_needed_and_the_extra_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HandloomError, match="needs the address"):
        synthesise(CONFIG, tmp_path / "a.zarr", jobs=1, executor="dask")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(HandloomError) as caught:
        synthesise(CONFIG, tmp_path / "a.zarr", jobs=1, executor="dask", scheduler="tcp://127.0.0.1:1")
    assert caught.value.fix == "pip install 'handloom[dask]'"
    assert not (tmp_path / "a.zarr").exists()
