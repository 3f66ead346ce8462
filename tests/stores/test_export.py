from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.capture.importing import import_folder
from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.stores.export import export
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender


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


def test_labels_of_another_layout_are_said_to_be_left_out(made: Recording, tmp_path: Path) -> None:
    made.replace_labels(np.zeros((5, 14, 3), np.float32), layout="nyu14")
    done = CliRunner().invoke(main, ["store", "export", str(made.path), "--out", str(tmp_path / "f")])
    assert done.stdout == (
        f"{tmp_path}/f: 9 images of 5 frames, 0 of them labelled\n"
        "  left out: the labels, of layout nyu14 (the folder takes openxr26)\n"
        f"next: handloom capture import {tmp_path}/f --out R.zarr\n"
    )
