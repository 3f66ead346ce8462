from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.capture.folder import FolderSource
from handloom.capture.importing import import_folder
from handloom.capture.record import record
from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.stores.export import export
from handloom.stores.lineage import descent
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender, Table


@pytest.fixture
def made(rig: Rig, tmp_path: Path) -> Recording:
    rng = np.random.default_rng(0)
    path, count = tmp_path / "r.zarr", 5
    recording = create_recording(path, kind="captured", rig=rig, hand="left", provenance={"source": "test"})
    present = np.ones((count, 2), np.uint8)
    present[1, 0] = 0
    there = present[:, 0] > 0
    images = {f"depth/{c.name}": rng.integers(1, 2**16, (count, c.height, c.width)) for c in rig.cameras}
    images["depth/left"] *= there[:, None, None]
    ids = np.array([3, 4, 7, 9, 12])
    number = np.where(present, ids[:, None], -1)
    times = {"t_device_ns": number * 5, "t_host_ns": number * 6, "frame_number": number}
    times = {name: np.where(present, values, -1) for name, values in times.items()}
    with Appender(recording.create_frames(depth=True, unit_frames=2)) as appender:
        nothing = dict.fromkeys(("subject", "sequence", "split"), np.zeros(count))
        appender.append({**images, **times, **nothing, "present": present, "frame_id": ids})
    joints = rng.normal(0, 100, (count, 26, 3)).astype(np.float32)
    joints[2] = np.nan
    joints[3, 5] = np.nan
    recording.replace_labels(joints, layout="openxr26")
    return open_recording(path)


def test_an_export_imports_to_the_same(made: Recording, tmp_path: Path) -> None:
    done = export(made.path, tmp_path / "f")
    assert (done.images, done.frames, done.labelled, done.left_out) == (9, 5, 4, ())
    again = import_folder(tmp_path / "f", tmp_path / "again.zarr")
    assert (again.rig, again.hand) == (made.rig, "left")
    assert made.frames is not None
    assert again.frames is not None
    for name in made.frames.columns:
        np.testing.assert_array_equal(made.frames.read(name), again.frames.read(name), name)
    assert made.labels is not None
    assert again.labels is not None
    np.testing.assert_array_equal(made.labels.read("joints"), again.labels.read("joints"))


def test_what_lies_there_is_spared(made: Recording, tmp_path: Path) -> None:
    out = tmp_path / "f"
    out.mkdir()
    (out / "thesis.txt").write_text("years")
    for overwrite in (False, True):
        with pytest.raises(HandloomError, match=r"exists already|not a plain folder"):
            export(made.path, out, overwrite=overwrite)
    assert (out / "thesis.txt").exists()
    export(made.path, tmp_path / "g")
    export(made.path, tmp_path / "g", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "g").iterdir()) == [
        "frames.csv", "joints.csv", "left", "meta.toml", "rig.toml", "right",
    ]  # fmt: skip


def test_a_users_own_file_in_an_exported_folder_is_spared(made: Recording, tmp_path: Path) -> None:
    export(made.path, tmp_path / "g")
    (tmp_path / "g/plots").mkdir()
    with pytest.raises(HandloomError, match=r"not the folder's: 'plots'"):
        export(made.path, tmp_path / "g", overwrite=True)
    assert (tmp_path / "g/plots").exists()
    assert (tmp_path / "g/rig.toml").exists()


def test_labels_of_another_layout_come_back_in_it(made: Recording, tmp_path: Path) -> None:
    points = np.random.default_rng(1).normal(0, 90, (5, 14, 3)).astype(np.float32)
    made.replace_labels(points, layout="nyu14")
    done = CliRunner().invoke(main, ["store", "export", str(made.path), "--out", str(tmp_path / "f")])
    assert done.stdout == (
        f"{tmp_path}/f: 9 images of 5 frames, 5 of them labelled\n"
        f"next: handloom capture import {tmp_path}/f --out R.zarr\n"
    )
    again = import_folder(tmp_path / "f", tmp_path / "again.zarr")
    assert again.layout is not None
    assert again.labels is not None
    assert again.layout.name == "nyu14"
    np.testing.assert_array_equal(again.labels.read("joints"), points)


def test_who_when_and_for_what_survive(made: Recording, tmp_path: Path) -> None:
    """Subject, sequence and split were lost on the way."""
    table = Table.open(made.path / "frames", writable=True)
    said = {"subject": [0, 0, 4, 4, 0], "sequence": [0, 1, 1, 2, 0], "split": [0, 2, 2, 1, 0]}
    for name, values in said.items():
        table.rewrite(name, np.array(values))
    made.annotate(virtual=True)
    export(made.path, tmp_path / "f")
    text = (tmp_path / "f/meta.toml").read_text()
    assert text.count("[[frames]]") == 3
    assert '[[frames]]\nfirst = 4\nlast = 4\nsubject = 0\nsequence = 1\nsplit = "test"\n' in text
    for again in (
        import_folder(tmp_path / "f", tmp_path / "again.zarr"),
        record(FolderSource(tmp_path / "f"), tmp_path / "recorded.zarr", keep_truth=True),
    ):
        assert again.frames is not None
        order = np.argsort(again.frames.read("frame_number").max(1))  # sets of a few ns are not told apart by time
        assert {name: again.frames.read(name)[order].tolist() for name in said} == said


def test_twins_go_with_a_folder_whose_frames_are_as_they_were(made: Recording, tmp_path: Path) -> None:
    export(made.path, tmp_path / "f")
    again = import_folder(tmp_path / "f", tmp_path / "again.zarr")
    assert descent(again, made.uuid) is not None
    frames = tmp_path / "f/frames.csv"
    lines = frames.read_text().splitlines()
    frames.write_text("\n".join(lines[:-1]) + "\n")
    assert descent(import_folder(tmp_path / "f", tmp_path / "cut.zarr"), made.uuid) is None


def test_a_rendered_recording_does_not_come_back_as_a_real_one(rig: Rig, tmp_path: Path) -> None:
    recording = create_recording(tmp_path / "s.zarr", kind="synthetic", rig=rig, hand="right", provenance={})
    images = {f"depth/{c.name}": np.full((2, c.height, c.width), 500) for c in rig.cameras}
    numbers = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), np.arange(2)[:, None].repeat(2, 1))
    nothing = dict.fromkeys(("subject", "sequence", "split"), np.zeros(2))
    with Appender(recording.create_frames(depth=True)) as appender:
        appender.append({**images, **numbers, **nothing, "present": np.ones((2, 2)), "frame_id": np.arange(2)})
    export(recording.path, tmp_path / "f")
    assert import_folder(tmp_path / "f", tmp_path / "r.zarr").provenance["virtual"] is True
