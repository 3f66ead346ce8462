from __future__ import annotations

import multiprocessing
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
import zarr

from handloom.stores.errors import HandloomError
from handloom.stores.table import Appender, Table

from table_writers import append_for_ever, make, rows, write_marked_unit


@pytest.fixture
def filled(tmp_path: Path) -> Table:
    table = make(tmp_path / "t")
    with Appender(table) as appender:
        appender.append(rows(0, 20))
    return Table.open(tmp_path / "t")


def test_rows_come_back_however_they_were_given(tmp_path: Path) -> None:
    table, given = make(tmp_path / "t"), []
    with Appender(table) as appender:
        for first, count in ((0, 3), (3, 14), (17, 1), (18, 9)):
            given.append(rows(first, count))
            appender.append(given[-1])
    read = Table.open(tmp_path / "t")
    assert read.committed == 27
    assert read.attributes == {"note": "x"}
    for name in read.columns:
        assert (read.read(name) == np.concatenate([part[name] for part in given])).all()
    assert (read.read("id", 6, 11) == np.arange(6, 11)).all()
    assert [start for start, _ in read.iter_units(["id"])] == [0, 8, 16, 24]


def test_an_existing_table_is_continued(filled: Table) -> None:
    with Appender(Table.open(filled.path, writable=True)) as appender:
        assert appender.rows == 20
        appender.append(rows(20, 5))
    read = Table.open(filled.path)
    assert (read.read("id") == np.arange(25)).all()
    assert (read.read("depth/cam0")[:, 0, 0] == np.arange(25)).all()


def test_shards_are_those_of_zarr_to_the_byte(filled: Table) -> None:
    """Ours are made without Zarr; a whole unit and a short last one, both codecs, empty rows too."""
    group = zarr.open_group(filled.path, mode="r+")
    for name in ("crop", "depth/cam0"):
        values = filled.read(name)
        values[10] = 0
        with Appender(make(filled.path.parent / name.replace("/", "-"))) as appender:
            for first, count in ((0, 8), (8, 12)):
                given = rows(first, count)
                given[name] = values[first : first + count]
                appender.append(given)
        array = group[name].with_config({"write_empty_chunks": True})
        for unit in range(3):
            key = filled.columns[name].unit_key(unit)
            (filled.path / key).unlink()
            array[8 * unit : min(8 * unit + 8, 20)] = values[8 * unit : 8 * unit + 8]
            assert (filled.path / key).read_bytes() == (appender.table.path / key).read_bytes()
        assert (zarr.open_group(appender.table.path, mode="r")[name][:] == values).all()


def test_readers_clamp_to_what_was_committed(filled: Table) -> None:
    """The arrays run ahead of `committed` after a crash; what lies beyond is never read."""
    Table.open(filled.path, writable=True).resize(64)
    read = Table.open(filled.path)
    assert read.committed == 20
    assert len(read.read("crop", 0, 64)) == 20
    assert len(read.read("crop", 30, 64)) == 0


def test_a_killed_writer_loses_at_most_the_open_unit(tmp_path: Path) -> None:
    make(tmp_path / "t")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    writer = context.Process(target=append_for_ever, args=(tmp_path / "t", ready))
    writer.start()
    assert ready.wait(60)
    os.kill(writer.pid or 0, signal.SIGKILL)
    writer.join()
    read = Table.open(tmp_path / "t")
    assert read.committed >= 24
    assert read.committed % 8 == 0
    assert (read.read("id") == np.arange(read.committed)).all()
    assert (read.read("depth/cam0")[:, 5, 5] == np.arange(read.committed)).all()
    (tmp_path / "t/crop/.c.9.0.0.0.123.456").write_bytes(b"half")  # what a kill within a write leaves
    with Appender(Table.open(tmp_path / "t", writable=True)) as appender:
        appender.append(rows(read.committed, 4))
    assert read.refresh() == appender.rows
    assert [file.name for file in (tmp_path / "t").rglob(".*")] == [".writer"]


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    table = make(tmp_path / "t")
    with Appender(table), pytest.raises(HandloomError, match="Another process"):
        Appender(Table.open(tmp_path / "t", writable=True))
    Appender(Table.open(tmp_path / "t", writable=True)).close()


@pytest.mark.parametrize("name", ["crop", "depth/cam0", "time", "id"])
def test_a_flipped_bit_is_reported_with_array_and_row(filled: Table, name: str) -> None:
    shard = filled.path / filled.columns[name].unit_key(1)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(HandloomError, match=f"'{name}' is damaged in row"):
        filled.read(name)
    assert len(filled.read(name, 0, 8)) == 8


def test_a_lost_shard_is_not_read_as_zeros(filled: Table) -> None:
    (filled.path / filled.columns["crop"].unit_key(1)).unlink()
    with pytest.raises(HandloomError, match="'crop' has lost rows 8 to 15"):
        filled.read("crop")


@pytest.mark.parametrize("left", [0, 3, 700, -1])
def test_a_cut_shard_is_reported(filled: Table, left: int) -> None:
    shard = filled.path / filled.columns["crop"].unit_key(1)
    shard.write_bytes(shard.read_bytes()[:left])
    with pytest.raises(HandloomError, match="'crop' is damaged in rows 8, 9, 10, 11, 12, 13, 14, 15"):
        Table.open(filled.path).read("crop")
    assert len(filled.read("crop", 16)) == 4


def test_an_array_shorter_than_its_table_is_refused(filled: Table) -> None:
    path = filled.path / "time/zarr.json"
    path.write_text(path.read_text().replace("20,", "12,", 1))
    with pytest.raises(HandloomError, match=r"'time' is not what its table says[\s\S]*12 rows[\s\S]*has 20"):
        Table.open(filled.path)


def test_scattered_rows_come_in_the_order_they_were_asked_for(filled: Table) -> None:
    wanted = [17, 3, 3, 19, 0, 8]
    for name in filled.columns:
        assert (filled.read_rows(name, wanted) == filled.read(name)[wanted]).all()
    assert filled.read_rows("crop", []).shape == (0, 2, 32, 32)


def test_zarr_reads_what_we_read(filled: Table) -> None:
    group = zarr.open_group(filled.path, mode="r")
    for name in filled.columns:
        assert (np.asarray(group[name])[:20] == filled.read(name)).all()


def test_a_unit_of_zeros_is_kept(tmp_path: Path) -> None:
    table = make(tmp_path / "t")
    with Appender(table) as appender:
        appender.append({name: np.zeros_like(values) for name, values in rows(0, 8).items()})
    assert not Table.open(tmp_path / "t").read("crop").any()


def test_a_row_that_was_never_written_is_not_zeros(filled: Table) -> None:
    zarr.open_group(filled.path, mode="r+")["crop"][9] = 0  # Zarr drops a chunk that holds nothing but fill
    with pytest.raises(HandloomError, match="'crop' is damaged in row 9"):
        filled.read("crop")


def test_a_torn_short_unit_is_written_again(tmp_path: Path) -> None:
    table = make(tmp_path / "t")
    table.resize(5)
    table.write_unit(0, rows(0, 5))
    shard = table.path / table.columns["crop"].unit_key(0)
    shard.write_bytes(shard.read_bytes()[:100])
    table.write_unit(0, rows(0, 5))
    table.commit(5)
    assert (table.read("crop") == rows(0, 5)["crop"]).all()


def test_a_reader_follows_a_writer(filled: Table) -> None:
    assert len(filled.read("id")) == 20
    with Appender(Table.open(filled.path, writable=True)) as appender:
        appender.append(rows(20, 10))
    assert len(filled.read("id")) == 20
    assert filled.refresh() == 30
    for name in filled.columns:
        assert (filled.read(name, 20) == rows(20, 10)[name]).all()


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    table = make(tmp_path / "t")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up() -> None:
        with Appender(table) as appender:
            appender.append(rows(0, 12))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
            try:
                appender.append(rows(12, 12))
            except OSError as error:
                raise HandloomError("The disk is full") from error

    try:
        with pytest.raises(HandloomError, match="is full"):  # the first error, not one of closing
            fill_up()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [file.name for file in (tmp_path / "t").rglob(".*")] == [".writer"]
    assert (Table.open(tmp_path / "t").read("id") == np.arange(8)).all()
    with Appender(Table.open(tmp_path / "t", writable=True)) as appender:
        appender.append(rows(8, 3))
    read = Table.open(tmp_path / "t")
    assert (read.read("crop")[:, 0, 0, 0] // 10 <= np.arange(11) + 5).all()
    assert (read.read("depth/cam0")[:, 0, 0] == np.arange(11)).all()


def test_a_torn_commit_is_said(filled: Table) -> None:
    (filled.path / "committed.json").write_text("{")
    with pytest.raises(HandloomError, match="how many rows"):
        Table.open(filled.path)


def test_units_of_two_processes_are_committed_in_order(tmp_path: Path) -> None:
    table = make(tmp_path / "t")
    table.resize(20)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_marked_unit, args=(table.path, u, n)) for u, n in ((2, 4), (1, 8))]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert table.commit_prefix({1, 2}) == 0
    write_marked_unit(table.path, 0, 8)
    assert [table.marked(unit) for unit in range(3)] == [True] * 3
    assert table.commit_prefix({0, 1, 2}) == 20
    assert (Table.open(table.path).read("id") == np.arange(20)).all()


def test_a_marker_over_other_rows_does_not_count(tmp_path: Path) -> None:
    table = make(tmp_path / "t")
    table.resize(16)
    write_marked_unit(table.path, 0, 8)
    table.write_unit(0, rows(100, 8))
    assert not table.marked(0)
    assert not table.marked(1)


@pytest.mark.parametrize(("unit", "count"), [(0, 7), (0, 9), (2, 5), (3, 8)])
def test_what_is_not_a_whole_unit_is_refused(tmp_path: Path, unit: int, count: int) -> None:
    table = make(tmp_path / "t")
    table.resize(20)
    with pytest.raises(AssertionError):
        table.write_unit(unit, rows(0, count))
