from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import read_folder, write_folder
from handloom.stores.joints import OPENXR26
from handloom.stores.png import read_depth_png


@pytest.fixture
def folder(rig: Rig, tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = [
        (
            frame,
            view,
            rng.integers(0, 2000, (c.height, c.width)).astype(np.uint16),
            100 * frame,
            100 * frame + 7,
        )
        for frame in (0, 1, 5)
        for view, c in enumerate(rig.cameras)
        if (frame, view) != (1, 0)
    ]
    joints = np.arange(78, dtype=np.float32).reshape(26, 3)
    joints[3] = np.nan
    write_folder(tmp_path / "f", rig, images, joints={5: joints})
    return tmp_path / "f"


def test_a_folder_comes_back(folder: Path, rig: Rig) -> None:
    read = read_folder(folder)
    assert read.rig == rig
    assert read.frames == (0, 1, 5)
    assert [(i.frame, i.camera) for i in read.images] == [(0, 0), (0, 1), (1, 1), (5, 0), (5, 1)]
    assert (read.images[3].t_device_ns, read.images[3].t_host_ns) == (500, 507)
    assert read.depth(read.images[1]).shape == (60, 80)
    assert list(read.joints) == [5]
    assert np.isnan(read.joints[5][3]).all()
    assert read.joints[5][25] == pytest.approx([75, 76, 77])


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def read_all(folder: Path) -> None:
    read = read_folder(folder)
    for image in read.images:
        read.depth(image)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("joints.csv", OPENXR26[0], "thum", r"Unknown joint 'thum'[\s\S]*line 2[\s\S]*wrist"),
        ("joints.csv", "5,palm", "9,palm", "Frame 9 is labelled but has no image"),
        ("joints.csv", "1.0", "nan", "not finite"),
        ("joints.csv", "1.0", "one", "'one' is not a number"),
        ("joints.csv", "x_mm", "x_m", "other columns"),
        ("frames.csv", "0,left", "0,centre", r"Unknown camera 'centre'[\s\S]*left, right"),
        ("frames.csv", "left/000000.png", "left/000099.png", "listed but not there"),
        ("frames.csv", "left/000000.png", "../../etc/passwd", "outside the folder|listed but not there"),
        ("frames.csv", "0,right", "0,left", "Two images of one frame"),
        ("frames.csv", ",7", ",7,8", "number of fields"),
        ("frames.csv", "5,left", "-5,left", "out of range"),
        ("frames.csv", "500,507", f"500,{2**63}", "out of range"),
        ("rig.toml", 'unit = "mm"', 'unit = "m"', "millimetres"),
        ("rig.toml", "width = 64", "width = 65", "disagrees with the rig"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, file: str, old: str, new: str, said: str) -> None:
    change(folder / file, old, new)
    with pytest.raises(HandloomError, match=said):
        read_all(folder)


def test_a_folder_is_not_written_over(folder: Path, rig: Rig) -> None:
    with pytest.raises(HandloomError, match="exists already"):
        write_folder(folder, rig, [])


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((48, 64), np.uint8), "8-bit grey"),
        (np.zeros((48, 64, 3), np.uint8), "8-bit RGB"),
        (np.zeros((48, 64, 3), np.uint16), "16-bit RGB"),
        (np.zeros((48, 60), np.uint16), "60 x 48, its camera 64 x 48"),
    ],
)
def test_what_is_not_depth_is_refused(tmp_path: Path, image: np.ndarray, said: str) -> None:
    cv2.imwrite(str(tmp_path / "d.png"), image)
    with pytest.raises(HandloomError, match=said):
        read_depth_png(tmp_path / "d.png", size=(64, 48))


def test_a_torn_png_is_not_read_as_empty_space(folder: Path) -> None:
    path = folder / "left/000000.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HandloomError, match="truncated or damaged"):
        read_depth_png(path)
    path.write_bytes(b"GIF89a")
    with pytest.raises(HandloomError, match="not a PNG"):
        read_depth_png(path)
    with pytest.raises(HandloomError, match="cannot be read"):
        read_depth_png(folder / "nothing.png")
