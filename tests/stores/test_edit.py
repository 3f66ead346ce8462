from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.edit import frame_rows, merge, repack, split, subset
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender
from handloom.stores.verify import verify

COUNT = 11


@pytest.fixture
def made(rig: Rig, tmp_path: Path) -> Recording:
    return make(tmp_path / "r.zarr", rig)


def make(path: Path, rig: Rig, first: int = 0) -> Recording:
    rng = np.random.default_rng(first)
    recording = create_recording(
        path, kind="captured", rig=rig, hand="right", provenance={"source": "test", "command": "none"},
        attributes={"people": {"0": [1.0]}, "twins_of": "u"},
    )  # fmt: skip
    number = np.arange(first, first + COUNT)
    both = np.repeat(number[:, None], 2, 1)
    images = {f"depth/{c.name}": rng.integers(400, 600, (COUNT, c.height, c.width)) for c in rig.cameras}
    times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), both)
    ids = {"frame_id": number * 7, "subject": number // 6, "sequence": number // 3, "split": number % 3}
    with Appender(recording.create_crops(parts=True, crop_px=16, unit_frames=4)) as appender:
        appender.append(
            {
                "crop": rng.integers(0, 900, (COUNT, 2, 16, 16)),
                "parts": rng.integers(0, 27, (COUNT, 2, 16, 16)),
                "center": rng.normal(size=(COUNT, 2, 3)),
                "k": rng.normal(size=(COUNT, 2, 4)),
                "center_source": np.zeros((COUNT, 2)),
                "center_score": rng.random((COUNT, 2)),
            }
        )
    with Appender(recording.create_frames(depth=True, unit_frames=4)) as appender:
        appender.append({**images, **times, **ids, "present": np.ones((COUNT, 2), np.uint8)})
    joints = rng.uniform(-40, 40, (COUNT, 26, 3)).astype(np.float32)
    recording.replace_labels(joints, layout="openxr26", attributes={"source": "hand"})
    return open_recording(path)


def arrays(recording: Recording) -> dict[str, np.ndarray]:
    """All arrays, in the order of frame_id."""
    assert recording.frames is not None
    order = np.argsort(recording.frames.read("frame_id"))
    tables = {name: getattr(recording, name) for name in ("frames", "crops", "labels")}
    return {f"{t}/{c}": table.read(c)[order] for t, table in tables.items() for c in table.columns}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray], rows: object = slice(None)) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values[rows], second[name], name)


def test_repacking_keeps_every_array_and_says_where_it_is_from(made: Recording, tmp_path: Path) -> None:
    out = repack(made.path, tmp_path / "o.zarr", unit_frames=8)
    assert_same(arrays(made), arrays(out))
    assert out.frames is not None
    assert out.frames.unit_frames == 8
    assert out.attributes == made.attributes
    assert out.provenance["command"] == "store repack"
    assert out.provenance["parents"][0]["uuid"] == made.uuid
    assert out.provenance["parents"][0]["provenance"] == made.provenance
    assert out.uuid != made.uuid
    assert verify(out.path, deep=True).clean == verify(made.path, deep=True).clean


@pytest.mark.parametrize("by", ["sequence", "subject", "split"])
def test_what_was_split_merges_to_the_same(made: Recording, tmp_path: Path, by: str) -> None:
    parts = split(made.path, tmp_path / "parts", by=by)
    assert made.frames is not None
    assert len(parts) == len(np.unique(made.frames.read(by)))
    out = merge([part.path for part in parts], tmp_path / "o.zarr")
    assert_same(arrays(made), arrays(out))
    assert out.attributes == made.attributes


def test_what_is_said_of_rows_does_not_outlive_them(made: Recording, tmp_path: Path) -> None:
    made.annotate(segments=[{"first_row": 0}, {"first_row": 6}])
    assert "segments" in repack(made.path, tmp_path / "all.zarr").attributes
    assert "segments" not in subset(made.path, tmp_path / "some.zarr", rows=np.array([7, 8])).attributes


def test_some_frames(made: Recording, tmp_path: Path) -> None:
    rows = frame_rows(made, [70, 7, 14])
    assert rows.tolist() == [1, 2, 10]
    assert_same(arrays(made), arrays(subset(made.path, tmp_path / "o.zarr", rows=rows)), rows)
    for wrong in ([], [11], [-1]):
        with pytest.raises(HandloomError):
            subset(made.path, tmp_path / "n.zarr", rows=np.array(wrong, np.int64))
    with pytest.raises(HandloomError, match="frame_id 5"):
        frame_rows(made, [7, 5])


def test_what_cannot_be_merged_is_said(made: Recording, rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="frame_id 0 is in two"):
        merge([made.path, repack(made.path, tmp_path / "again.zarr").path], tmp_path / "o.zarr")
    turned = Rig((replace(rig.cameras[0], k=(61.0, 61.0, 31.5, 23.5)), rig.cameras[1]))
    other = make(tmp_path / "other.zarr", turned, first=100)
    with pytest.raises(HandloomError, match="differ: K of camera 'left'"):
        merge([made.path, other.path], tmp_path / "o.zarr")
    named = make(tmp_path / "named.zarr", rig, first=100)
    named.replace_labels(np.zeros((COUNT, 14, 3), np.float32), layout="nyu14")
    with pytest.raises(HandloomError, match="differ: columns of labels/"):
        merge([made.path, named.path], tmp_path / "o.zarr")
    assert not (tmp_path / "o.zarr").exists()


def test_a_source_is_never_written_over(made: Recording) -> None:
    with pytest.raises(HandloomError, match="its own source"):
        repack(made.path, made.path, overwrite=True)
    assert open_recording(made.path).n_frames == COUNT


def test_a_kill_leaves_a_shorter_recording(made: Recording, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repack(made.path, tmp_path / "o.zarr", unit_frames=4, progress=stop)
    out = open_recording(tmp_path / "o.zarr")
    assert out.n_frames == 8
    assert_same(arrays(made), arrays(out), slice(8))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, as if the disk were full.

    Not a fixture: pytest reports the test before it tears down, into a file that may be larger than this.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_and_the_source_is_as_it_was(made: Recording, tmp_path: Path) -> None:
    again, folder = tmp_path / "again.zarr", tmp_path / "folder"
    for size, *command in ((9000, "repack", "--out", again), (1500, "export", "--out", folder)):
        with largest_file(size):
            done = CliRunner().invoke(main, ["store", command[0], str(made.path), *map(str, command[1:])])
        assert (done.exit_code, done.stderr.splitlines()[0]) == (3, "error: The disk is full"), done.output
    assert open_recording(again).n_frames == 0
    assert not folder.exists()
    assert_same(arrays(made), arrays(open_recording(made.path)))


def test_the_commands(made: Recording, tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["store", *map(str, arguments)])
        return done.exit_code, done.stdout

    out = tmp_path / "o.zarr"
    ids = tmp_path / "ids.txt"
    ids.write_text("7\n70\n")
    said = f"next: handloom store verify {out} --deep\n"
    assert run("subset", made.path, "--frames", "2:5", "--out", out) == (0, f"{out}: 3 frames\n{said}")
    assert run("subset", made.path, "--frames", "2:5", "--out", out)[0] == 2
    assert run("subset", made.path, "--frames", ids, "--out", out, "--overwrite") == (0, f"{out}: 2 frames\n{said}")
    assert run("subset", made.path, "--split", "test", "--out", out, "--overwrite") == (0, f"{out}: 3 frames\n{said}")
    assert run("repack", made.path, "--out", out, "--overwrite") == (0, f"{out}: 11 frames\n{said}")
    parts = tmp_path / "parts"
    code, text = run("split", made.path, "--by", "subject", "--out-dir", parts)
    assert code == 0
    assert text == (
        f"{parts}/subject-0.zarr: 6 frames\n{parts}/subject-1.zarr: 5 frames\n"
        f"next: handloom store verify {parts}/subject-0.zarr --deep\n"
    )
    several = (parts / "subject-0.zarr", parts / "subject-1.zarr")
    assert run("merge", *several, "--out", out, "--overwrite") == (0, f"{out}: 11 frames\n{said}")
    assert run("subset", made.path, "--out", out, "--overwrite")[0] == 2
