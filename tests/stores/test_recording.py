from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.stores.reading import load_resident
from handloom.stores.recording import Recording, create_recording, describe, open_recording
from handloom.stores.table import Appender


def fill(path: Path, rig: Rig, *, count: int = 5) -> Recording:
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "test"})
    number = np.arange(count)
    both = np.repeat(number[:, None], 2, 1)
    present = np.ones((count, 2), np.uint8)
    present[1, 0] = 0
    depth = {
        f"depth/{c.name}": np.broadcast_to(number[:, None, None] + 1, (count, c.height, c.width)) for c in rig.cameras
    }
    times = {name: np.where(present, both, -1) for name in ("t_device_ns", "t_host_ns", "frame_number")}
    row = dict.fromkeys(("frame_id", "subject", "sequence"), number) | {"split": number % 3}
    with Appender(recording.create_frames(depth=True, unit_frames=2)) as appender:
        appender.append({**depth, "present": present, **times, **row})
    return recording


def test_an_empty_folder_can_be_named_and_a_full_one_not(rig: Rig, tmp_path: Path) -> None:
    fill(tmp_path / "r.zarr", rig)
    with pytest.raises(HandloomError, match="exists already"):
        fill(tmp_path / "r.zarr", rig)
    assert open_recording(tmp_path / "r.zarr").n_frames == 5


def test_overwriting_spares_what_is_no_recording(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years")
    with pytest.raises(HandloomError, match="not a recording"):
        create_recording(tmp_path / "thesis", kind="captured", rig=rig, hand="right", provenance={}, overwrite=True)
    assert (tmp_path / "thesis/chapter.tex").exists()


def test_overwriting_spares_a_users_own_file_in_a_recording(rig: Rig, tmp_path: Path) -> None:
    """It was deleted with the recording that it lay in."""
    path = tmp_path / "r.zarr"
    fill(path, rig)
    (path / "notes.txt").write_text("who sat there")
    with pytest.raises(HandloomError, match=r"not the recording's: 'notes.txt'"):
        create_recording(path, kind="captured", rig=rig, hand="right", provenance={}, overwrite=True)
    assert (path / "notes.txt").exists()
    assert open_recording(path).n_frames == 5
    (path / "notes.txt").unlink()
    (path / "zarr.json.0123.partial").write_text("")
    (path / "labels.new").mkdir()
    create_recording(path, kind="captured", rig=rig, hand="right", provenance={}, overwrite=True)


def test_everything_said_comes_back(rig: Rig, tmp_path: Path) -> None:
    made = fill(tmp_path / "r.zarr", rig)
    made.annotate(sequences=["a", "b"])
    read = open_recording(tmp_path / "r.zarr")
    assert (read.uuid, read.rig, read.kind, read.hand) == (made.uuid, rig, "captured", "right")
    assert read.attributes == {"sequences": ["a", "b"]}
    facts = describe(read)
    assert (facts["frames"], facts["dropped_images"], facts["labelled"]) == (5, 1, 0)
    assert facts["splits"] == {"train": 2, "val": 2, "test": 1}


def test_labels_arrive_later_and_are_replaced_whole(rig: Rig, tmp_path: Path) -> None:
    fill(tmp_path / "r.zarr", rig)
    recording = open_recording(tmp_path / "r.zarr")
    assert recording.layout is None
    joints = np.full((5, 26, 3), np.nan, np.float32)
    joints[2] = 7
    recording.replace_labels(joints, layout="openxr26")
    recording.replace_labels(joints[:, :14] + 1, layout="nyu14")
    read = open_recording(tmp_path / "r.zarr")
    assert read.layout is not None
    assert read.layout.name == "nyu14"
    assert read.labels is not None
    assert (read.labels.read("joints")[2] == 8).all()
    assert describe(read)["labelled"] == 1
    assert sorted(p.name for p in (tmp_path / "r.zarr").iterdir()) == ["frames", "labels", "zarr.json"]


def test_labels_cut_off_between_two_renames_are_the_new_ones(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    fill(path, rig).replace_labels(np.full((5, 26, 3), 1, np.float32), layout="openxr26")
    shutil.copytree(path / "labels", path / "labels.old")
    open_recording(path).replace_labels(np.full((5, 26, 3), 2, np.float32), layout="openxr26")
    shutil.copytree(path / "labels", path / "labels.old")
    (path / "labels").rename(path / "labels.new")
    read = open_recording(path)
    assert read.labels is not None
    assert (read.labels.read("joints") == 2).all()
    with pytest.raises(AssertionError):
        read.replace_labels(np.zeros((5, 26, 2), np.float32), layout="openxr26")
    kept = open_recording(path).labels
    assert kept is not None
    assert (kept.read("joints") == 2).all()
    read.replace_labels(np.full((5, 26, 3), 3, np.float32), layout="openxr26")
    assert sorted(p.name for p in path.iterdir()) == ["frames", "labels", "zarr.json"]


def test_first_labels_cut_off_half_way_are_none(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    fill(path, rig).create_labels(layout="openxr26", folder="labels.new")
    assert open_recording(path).labels is None
    open_recording(path).replace_labels(np.zeros((5, 26, 3), np.float32), layout="openxr26")
    assert open_recording(path).layout is not None


def test_labels_have_one_writer(rig: Rig, tmp_path: Path) -> None:
    frames = fill(tmp_path / "r.zarr", rig).frames
    assert frames is not None
    frames.lock()
    with pytest.raises(HandloomError, match="Another process"):
        open_recording(tmp_path / "r.zarr").replace_labels(np.zeros((5, 26, 3), np.float32), layout="openxr26")
    frames.unlock()


def test_training_needs_crops_and_says_how_to_get_them(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match=r"capture locate .*r\.zarr"):
        load_resident(fill(tmp_path / "r.zarr", rig))


def test_a_view_without_image_or_hand_is_not_present(rig: Rig, tmp_path: Path) -> None:
    recording = fill(tmp_path / "r.zarr", rig)
    source = np.full((5, 2), 2, np.uint8)
    source[3, 1] = 0
    with Appender(recording.create_crops(parts=False, crop_px=16, unit_frames=2)) as appender:
        appender.append(
            {
                "crop": np.arange(5 * 2 * 256).reshape(5, 2, 16, 16),
                "center": np.ones((5, 2, 3)),
                "k": np.ones((5, 2, 4)),
                "center_source": source,
                "center_score": np.ones((5, 2)),
            }
        )
    resident = load_resident(open_recording(tmp_path / "r.zarr"), rows=np.array([1, 3, 4]))
    assert resident.present.tolist() == [[False, True], [True, False], [True, True]]
    assert resident.crop[2, 1, 0, 0] == (4 * 2 + 1) * 256
    assert resident.depth_unit_mm.tolist() == [1.0, 0.5]
    assert resident.joints is None


def edit(path: Path, **changes: object) -> None:
    values = json.loads((path / "zarr.json").read_text())
    values["attributes"].update(changes)
    (path / "zarr.json").write_text(json.dumps(values))


def test_what_cannot_be_read_is_said(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "r.zarr"
    with pytest.raises(HandloomError, match="There is no recording"):
        open_recording(path)
    path.mkdir()
    with pytest.raises(HandloomError, match=r"no zarr\.json"):
        open_recording(path)
    (path / "zarr.json").write_text('{"attributes": {}}')
    with pytest.raises(HandloomError, match="not of format"):
        open_recording(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(HandloomError, match="cannot be read"):
        open_recording(path)


def test_a_newer_recording_asks_for_a_newer_handloom(rig: Rig, tmp_path: Path) -> None:
    fill(tmp_path / "r.zarr", rig)
    edit(tmp_path / "r.zarr", version=2)
    with pytest.raises(HandloomError, match=r"newer Handloom[\s\S]*version is 2[\s\S]*pip install"):
        open_recording(tmp_path / "r.zarr")


def test_a_changed_rig_is_noticed(rig: Rig, tmp_path: Path) -> None:
    recording = fill(tmp_path / "r.zarr", rig)
    moved = recording.rig.to_dict()
    moved["camera"][0]["K"][0] += 1
    edit(tmp_path / "r.zarr", rig=moved)
    with pytest.raises(HandloomError, match="no longer match the manifest"):
        open_recording(tmp_path / "r.zarr")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("zarr.json", '"test"', '"best"'),
        ("frames/zarr.json", '"codec": "capture"', '"codec": "kapture"'),
        ("frames/zarr.json", '"unit_frames": 2', '"unit_frames": 3'),
        ("frames/committed.json", "5", "3"),
        ("frames/depth/left/zarr.json", '"clevel": 5', '"clevel": 4'),
    ],
)
def test_a_changed_description_is_named_when_it_is_opened(
    rig: Rig, tmp_path: Path, file: str, old: str, new: str
) -> None:
    fill(tmp_path / "r.zarr", rig)
    path = tmp_path / "r.zarr" / file
    text = path.read_text()
    changed = text.replace(old, new, 1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(HandloomError, match="changed after it was written") as caught:
        open_recording(tmp_path / "r.zarr")
    assert caught.value.where == str(path)
    path.write_text(text)
    assert open_recording(tmp_path / "r.zarr").n_frames == 5


def test_recordings_from_before_the_seals_open(rig: Rig, tmp_path: Path) -> None:
    fill(tmp_path / "r.zarr", rig)
    for path in (tmp_path / "r.zarr").rglob("*.json"):
        values = json.loads(path.read_text())
        values.get("attributes", values).pop("seal", None)
        path.write_text(json.dumps(values))
    assert open_recording(tmp_path / "r.zarr").n_frames == 5


def test_a_recording_without_frames_is_incomplete(rig: Rig, tmp_path: Path) -> None:
    fill(tmp_path / "r.zarr", rig)
    shutil.rmtree(tmp_path / "r.zarr/frames")
    with pytest.raises(HandloomError, match="incomplete"):
        open_recording(tmp_path / "r.zarr")


@pytest.mark.parametrize("file", ["depth/right/zarr.json", "depth/right/c.1.0.0", "present/c.0.0", "zarr.json"])
def test_a_truncated_recording_is_noticed_when_it_is_opened(rig: Rig, tmp_path: Path, file: str) -> None:
    fill(tmp_path / "r.zarr", rig)
    (tmp_path / "r.zarr/frames" / file).unlink()
    with pytest.raises(HandloomError, match=r"truncated|cannot be opened"):
        open_recording(tmp_path / "r.zarr")
