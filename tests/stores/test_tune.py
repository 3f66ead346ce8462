"""Codecs: all are readable by everything, and the table says what they really do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.codec import COMPRESSORS, MOST, SHUFFLES, codec_named
from handloom.stores.edit import repack
from handloom.stores.errors import HandloomError
from handloom.stores.pool import PoolReader, Source
from handloom.stores.reading import load_resident
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender
from handloom.stores.tune import Tried, choose, frame_rate, tune
from handloom.stores.verify import verify

FRAMES = 24


@pytest.fixture
def recording(tmp_path: Path, rig: Rig) -> Recording:
    """Noisy slopes at 20 images a second, with crops."""
    rng = np.random.default_rng(0)
    made = create_recording(tmp_path / "r.zarr", kind="captured", rig=rig, hand="right", provenance={})
    for table in (made.create_crops(parts=True, crop_px=32), made.create_frames(depth=True, unit_frames=8)):
        rows = {name: np.zeros((FRAMES, *c.shape), c.dtype) for name, c in table.columns.items()}
        for name, values in rows.items():
            if values.ndim > 2 and values.dtype == np.uint16:
                slope = 500 + 10 * np.arange(values.shape[-1])
                values[:] = slope + rng.integers(0, 4, values.shape)
            if name in ("t_device_ns", "t_host_ns"):
                values[:] = (1 + np.arange(FRAMES))[:, None] * 50_000_000
            if name in ("present", "center_source"):
                values[:] = 1
            if name == "center":
                values[:] = 0, 0, 600
            if name == "k":
                values[:] = 60, 60, 15.5, 15.5
            if name in ("frame_id", "frame_number"):
                values.T[:] = np.arange(FRAMES)
        with Appender(table) as appender:
            appender.append(rows)
    return open_recording(made.path)


EVERY = [f"{c}-{level}-{s}" for c in COMPRESSORS for level in (0, 1, MOST) for s in SHUFFLES]


def test_every_codec_is_read_by_everything(recording: Recording, tmp_path: Path) -> None:
    whole = load_resident(recording)
    assert recording.frames is not None
    depth = recording.frames.read("depth/left")
    for number, name in enumerate(EVERY[::7]):
        made = repack(recording.path, tmp_path / f"{number}.zarr", codecs={"frames": name, "crops": name})
        assert made.frames is not None
        assert made.crops is not None
        assert made.frames.columns["depth/left"].codec == made.crops.columns["parts"].codec == name
        assert (load_resident(made).crop == whole.crop).all()
        assert (made.frames.read("depth/left") == depth).all()
        assert (zarr.open_group(made.path, mode="r")["frames/depth/left"][:] == depth).all()
        with PoolReader([Source(made)], memory_mb=0.1, seed=0) as reader:
            for batch in reader.epoch(5):
                assert (batch.arrays["crop"] == whole.crop[batch.row]).all()
        assert not [f for f in verify(made.path, deep=True).findings if f.code in ("damaged", "missing")]


def test_one_table_may_be_packed_anew_and_the_other_left(recording: Recording, tmp_path: Path) -> None:
    made = repack(recording.path, tmp_path / "m.zarr", codecs={"crops": "lz4-1-noshuffle"})
    assert made.frames is not None
    assert made.crops is not None
    assert made.frames.columns["depth/left"].codec == "capture"
    assert made.crops.columns["crop"].codec == "lz4-1-noshuffle"


def test_the_table_says_what_packing_gives(recording: Recording, tmp_path: Path) -> None:
    frames, crops = tune(recording, goal="archive", frames=FRAMES)
    assert (frames.what, crops.what) == ("frames", "crops")
    assert frames.current == "lz4-5-shuffle"
    best = crops.tried[0]
    assert best.ratio == max(one.ratio for one in crops.tried)
    made = repack(recording.path, tmp_path / "m.zarr", codecs={"crops": crops.chosen})
    assert made.crops is not None
    shards = sum(file.stat().st_size for file in (made.crops.path / "crop").glob("c.*"))
    index = 256 * 16 + 4
    raw = load_resident(made).crop.nbytes
    ratio = next(one.ratio for one in crops.tried if one.codec == crops.chosen)
    assert raw / (shards - index) == pytest.approx(ratio, rel=1e-9)


def test_each_goal_takes_what_it_asks_for() -> None:
    table = [
        Tried("zstd-6-shuffle", 10.0, 50, 900),
        Tried("zstd-1-shuffle", 9.5, 300, 1500),
        Tried("lz4-9-shuffle", 9.0, 600, 3000),
        Tried("lz4-1-shuffle", 6.0, 900, 4000),
    ]
    assert choose(table, "archive", None)[0].codec == "zstd-6-shuffle"
    assert choose(table, "train", None)[0].codec == "lz4-9-shuffle"
    assert choose(table, "record", 100.0)[0].codec == "zstd-1-shuffle"
    assert choose(table, "record", 300.0)[0].codec == "lz4-9-shuffle"
    fastest, why = choose(table, "record", 3000.0)
    assert fastest.codec == "lz4-1-shuffle"
    assert "none packs 3000 MB/s" in why


def test_the_rate_is_that_of_the_recorded_times(recording: Recording) -> None:
    assert frame_rate(recording) == pytest.approx(20.0)
    frames, _ = tune(recording, goal="record", frames=2)
    assert frames.needed_mb_s == pytest.approx(20 * (64 * 48 + 80 * 60) * 2 / 1e6)
    frames, _ = tune(recording, goal="record", frames=2, fps=90)
    assert frames.needed_mb_s == pytest.approx(90 * (64 * 48 + 80 * 60) * 2 / 1e6)


@pytest.mark.parametrize("name", ["zstd", "zstd-10-shuffle", "zstd-1-byte", "snappy-1-shuffle", "", "zstd--1-shuffle"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(HandloomError, match="is no codec"):
        codec_named(name)


def test_on_the_command_line(recording: Recording, tmp_path: Path) -> None:
    run = CliRunner()
    done = run.invoke(main, ["store", "tune", str(recording.path), "--goal", "archive", "--frames", "4", "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert [one["what"] for one in said["tables"]] == ["frames", "crops"]
    done = run.invoke(main, ["store", "tune", str(recording.path), "--frames", "4"])
    lines = done.stdout.splitlines()
    assert lines[0] == "frames: 4 images, 0.0 MB raw; packed now with lz4-5-shuffle"
    assert lines[1] == "  codec                    ratio   pack MB/s  unpack MB/s"
    assert sum(line.startswith("* ") for line in lines) == 2
    assert max(map(len, lines[:-1])) <= 80
    packed = tmp_path / "p.zarr"
    assert lines[-1].startswith(f"next: handloom store repack {recording.path} --out PACKED.zarr --frames-codec ")
    again = lines[-1].removeprefix("next: handloom ").replace("PACKED.zarr", str(packed)).split()
    assert run.invoke(main, again).exit_code == 0
    assert open_recording(packed).n_frames == FRAMES
    done = run.invoke(main, ["store", "repack", str(recording.path), "--out", str(tmp_path / "q.zarr"), "--codec", "x"])
    assert done.exit_code == 2
    assert "'x' is no codec" in done.output
    assert not (tmp_path / "q.zarr").exists()
