from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from handloom.capture.importing import import_folder
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder
from handloom.stores.recording import describe, open_recording

RIG = Rig((Camera("a", 32, 24, (30, 30, 16, 12)), Camera("b", 40, 30, (30, 30, 20, 15), depth_unit_mm=0.25)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = [
        (frame, view, np.full((c.height, c.width), 10 * frame + view + 1, np.uint16), frame, frame)
        for frame in (2, 5, 9)
        for view, c in enumerate(RIG.cameras)
        if (frame, view) != (5, 1)
    ]
    write_folder(tmp_path / "f", RIG, images, joints={9: np.ones((26, 3))})
    return tmp_path / "f"


def test_frames_keep_their_numbers_and_gaps(folder: Path, tmp_path: Path) -> None:
    import_folder(folder, tmp_path / "r.zarr")
    read = open_recording(tmp_path / "r.zarr")
    assert read.frames is not None
    assert read.frames.read("frame_id").tolist() == [2, 5, 9]
    assert read.frames.read("present").tolist() == [[1, 1], [1, 0], [1, 1]]
    assert read.frames.read("depth/b")[:, 0, 0].tolist() == [22, 0, 92]
    facts = describe(read)
    assert (facts["kind"], facts["labelled"], facts["dropped_images"]) == ("captured", 1, 1)
    assert read.provenance["source"] == "folder"


def test_a_folder_without_labels_has_none(folder: Path, tmp_path: Path) -> None:
    (folder / "joints.csv").unlink()
    assert import_folder(folder, tmp_path / "r.zarr").labels is None


def test_a_wrong_first_image_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(folder / "a/000002.png"), np.zeros((24, 32, 3), np.uint8))
    with pytest.raises(HandloomError, match="16-bit PNG with one channel"):
        import_folder(folder, tmp_path / "r.zarr")
    assert not (tmp_path / "r.zarr").exists()
