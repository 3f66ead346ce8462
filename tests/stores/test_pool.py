"""The pool's promises, on recordings whose pixels tell where they come from."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.order import Order
from handloom.stores.pool import Batch, Place, PoolReader, Source
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender

SIDE, VIEWS = 24, 2
ROW_MB = VIEWS * SIDE * SIDE * 2 / 1e6
UNIT = 16


def make(path: Path, frames: int, number: int, *, views: int = VIEWS) -> Recording:
    """Frame t of recording `number` is full of 1000 × number + t."""
    camera = Camera("a", 64, 48, (60.0, 60.0, 32.0, 24.0))
    rig = Rig(tuple(Camera(f"c{v}", 64, 48, camera.k) for v in range(views)))
    recording = create_recording(path, kind="synthetic", rig=rig, hand="right", provenance={})
    value = 1000 * number + np.arange(frames)
    given = {
        "crop": np.broadcast_to(value[:, None, None, None], (frames, views, SIDE, SIDE)),
        "split": np.arange(frames) % 3,
        "frame_id": value,
    }
    for table in (
        recording.create_crops(parts=False, crop_px=SIDE, unit_frames=UNIT),
        recording.create_frames(depth=False, unit_frames=UNIT),
    ):
        with Appender(table) as appender:
            appender.append(
                {n: given.get(n, np.ones((frames, *c.shape))).astype(c.dtype) for n, c in table.columns.items()}
            )
    return open_recording(path)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    folder = tmp_path_factory.mktemp("pool")
    return [Source(make(folder / "a.zarr", 150, 0)), Source(make(folder / "b.zarr", 53, 1))]


def reader(sources: list[Source], *, rows: float = 20, seed: int = 0, threads: int = 1, **more: int) -> PoolReader:
    return PoolReader(sources, memory_mb=2 * rows * ROW_MB, seed=seed, threads=threads, **more)


def told(batch: Batch) -> NDArray[np.int64]:
    """Which frame each crop of a batch says it is; the row and the recording must say the same."""
    crops = batch.arrays["crop"]
    assert (crops == crops[:, :1, :1, :1]).all()
    value = crops[:, 0, 0, 0].astype(np.int64)
    assert (value == 1000 * batch.source + batch.row).all()
    return value


def epoch_of(stream: PoolReader, batch: int = 7) -> NDArray[np.int64]:
    return np.array([value for part in stream.epoch(batch) for value in told(part)], np.int64)


EVERY = np.concatenate([np.arange(150), 1000 + np.arange(53)])


@pytest.mark.parametrize("rows", [2, 3, 20, 1000])
def test_each_row_comes_once_an_epoch_and_in_another_order_in_the_next(two: list[Source], rows: int) -> None:
    with reader(two, rows=rows) as stream:
        first, second = epoch_of(stream), epoch_of(stream)
        assert stream.state == Place(2, 0)
    assert (np.sort(first) == EVERY).all()
    assert (np.sort(second) == EVERY).all()
    assert (first != second).mean() > 0.9


def test_order_hangs_on_the_seed_and_not_on_threads_or_batches(two: list[Source]) -> None:
    def drawn(seed: int = 0, threads: int = 1, batch: int = 7) -> list[int]:
        with reader(two, seed=seed, threads=threads) as stream:
            return epoch_of(stream, batch).tolist()

    one = drawn()
    assert one == drawn() == drawn(threads=0) == drawn(threads=4) == drawn(batch=64)
    assert one != drawn(seed=1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_share_an_epoch_without_overlap(two: list[Source], ranks: int) -> None:
    parts = []
    for rank in range(ranks):
        with reader(two, rank=rank, ranks=ranks) as stream:
            parts.append(epoch_of(stream))
    assert (np.sort(np.concatenate(parts)) == EVERY).all()
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_the_number_of_ranks_may_change_between_epochs(two: list[Source]) -> None:
    for epoch, ranks in ((0, 1), (1, 3), (2, 2)):
        parts = []
        for rank in range(ranks):
            with reader(two, rank=rank, ranks=ranks) as stream:
                stream.seek(epoch)
                parts.append(epoch_of(stream))
        assert (np.sort(np.concatenate(parts)) == EVERY).all()


@pytest.mark.parametrize("stop", [1, 20, 21, 100, 203])
def test_a_resumed_stream_goes_on_as_one_that_never_stopped(two: list[Source], stop: int) -> None:
    with reader(two) as stream:
        straight = np.concatenate([epoch_of(stream), epoch_of(stream)])
    with reader(two) as before:
        head = told(before.read(stop))
        state = before.state
    with reader(two) as after:
        after.seek(*state)
        tail = np.concatenate([epoch_of(after), epoch_of(after)])
    assert np.concatenate([head, tail]).tolist() == straight.tolist()


def test_rows_may_be_a_part_of_a_recording(two: list[Source]) -> None:
    frames = two[0].recording.frames
    assert frames is not None
    train = np.flatnonzero(frames.read("split") == 0)
    with reader([Source(two[0].recording, train), two[1]]) as stream:
        assert (np.sort(epoch_of(stream)) == np.concatenate([train, EVERY[150:]])).all()


def test_the_pool_stays_within_its_memory(two: list[Source]) -> None:
    with reader(two, rows=20) as stream:
        for _ in stream.epoch(7):
            held = sum(values.nbytes for values in stream._pool.buffers.values())
            assert held <= 2 * 20 * ROW_MB * 1e6


def test_less_memory_than_a_file_is_enough_and_less_than_two_rows_is_refused(two: list[Source]) -> None:
    with reader(two, rows=UNIT / 4) as stream:
        assert (np.sort(epoch_of(stream)) == EVERY).all()
    with pytest.raises(HandloomError, match="too small") as caught:
        reader(two, rows=1.5)
    assert "two groups of at least two rows" in caught.value.why


def test_recordings_of_different_form_are_refused(two: list[Source], tmp_path: Path) -> None:
    other = Source(make(tmp_path / "c.zarr", 20, 2, views=3))
    with pytest.raises(HandloomError, match="one stream: 'crop' differs"):
        reader([*two, other])


def test_more_ranks_than_rows_are_refused(two: list[Source]) -> None:
    with pytest.raises(HandloomError, match="1 items cannot be shared by 2 ranks"):
        reader([Source(two[0].recording, np.array([3]))], rank=0, ranks=2)


@pytest.mark.parametrize("threads", [0, 2])
def test_damage_is_named_and_never_read(tmp_path: Path, threads: int) -> None:
    recording = make(tmp_path / "r.zarr", 40, 0)
    shard = tmp_path / "r.zarr/crops/crop/c.1.0.0.0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 16  # in the bytes of the unit's first row, which is row 16
    shard.write_bytes(data)
    with reader([Source(recording)], threads=threads) as stream:
        seen: list[int] = []
        with pytest.raises(HandloomError, match=r"'crop' is damaged in row 16\b"):
            seen.extend(int(told(batch)[0]) for batch in stream.epoch(1))
        assert 16 not in seen
    shard.unlink()
    with reader([Source(recording)], threads=threads) as stream, pytest.raises(HandloomError, match="rows 16 to 31"):
        epoch_of(stream)


def test_closing_leaves_no_thread(two: list[Source]) -> None:
    with reader(two, threads=3) as stream:
        stream.read(1)
        assert any(t.name.startswith("handloom-pool") for t in threading.enumerate())
    assert not any(t.name.startswith("handloom-pool") for t in threading.enumerate())
    assert len(told(stream.read(3))) == 3  # a closed reader may begin again
    stream.close()


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=120),
    unit=st.integers(1, 40),
    at_once=st.integers(2, 90),
    ranks=st.integers(1, 5),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_any_order_gives_each_item_once_within_its_memory(
    counts: list[int], unit: int, at_once: int, ranks: int, epoch: int, data: st.DataObject
) -> None:
    rows = np.repeat(np.arange(len(counts)), counts)
    if len(rows) < ranks:
        return
    units = np.arange(len(counts)) // unit
    drawn = []
    for rank in range(ranks):
        order = Order(rows, units, rows_at_once=at_once, seed=5, rank=rank, ranks=ranks)
        groups = [order.group(epoch, number) for number in range(order.groups(epoch))]
        mine = np.concatenate([group.items for group in groups])
        for group in groups:
            assert len(group.rows) <= at_once
            assert (group.rows[group.row] == rows[group.items]).all()
        assert len(mine) == len(order)
        place = epoch * len(order) + data.draw(st.integers(0, len(order) - 1))
        (key, some), *_ = order.spans(place, 1)
        assert order.group(*key).items[some].tolist() == [mine[place % len(order)]]
        drawn.append(mine)
    assert (np.sort(np.concatenate(drawn)) == np.arange(len(rows))).all()


def test_neighbours_part_as_far_as_the_pool_allows() -> None:
    """Pairs of a batch that are neighbours in the file: as many as a set of the group's size would give."""
    n, unit, at_once, batch = 50_000, 256, 2_000, 64
    order = Order(np.arange(n), np.arange(n) // unit, rows_at_once=at_once, seed=3)
    drawn = np.concatenate([order.group(0, number).items for number in range(order.groups(0))])
    group = n / order.groups(0)
    block = at_once // 64
    batches = drawn[: n // batch * batch].reshape(-1, batch)
    apart = np.abs(batches[:, :, None] - batches[:, None, :])[:, *np.triu_indices(batch, 1)]
    found, pairs = int((apart == 1).sum()), apart.size
    expected = pairs * 2 * (1 - 1 / block) / (group - 1)
    assert abs(found - expected) < 5 * np.sqrt(expected)
    # And the blocks of a group come from anywhere: two samples lie a third of the set apart, as at random.
    assert abs(apart.mean() / (n / 3) - 1) < 0.03
    assert group > 0.8 * at_once
