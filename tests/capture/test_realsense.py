from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handloom.capture.realsense import RealsenseFiles
from handloom.capture.record import record
from handloom.capture.sdk import shortest, sniff
from handloom.capture.software import write_db3
from handloom.capture.source import Image
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError

pytest.importorskip("pyrealsense2")


def test_kinds_are_told_by_content_not_by_name(db3: list[Path], tmp_path: Path) -> None:
    misnamed = tmp_path / "camera.bag"
    shutil.copy(db3[0], misnamed)
    assert sniff(misnamed) == "db3"
    with RealsenseFiles([misnamed]) as source:
        assert len(list(source.frames())) == source.n_images


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with b''"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "not a RealSense recording"),
        (b"#ROSBAG V2.0\n" + bytes(range(200)), "cannot be opened"),
        (b"SQLite format 3\0", "truncated"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "camera.db3"
    path.write_bytes(content)
    with pytest.raises(HandloomError, match=message):
        RealsenseFiles([path])


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db3")
    connection.execute("CREATE TABLE songs (name TEXT)")
    connection.commit()
    connection.close()
    with pytest.raises(HandloomError, match="cannot be opened"):
        RealsenseFiles([tmp_path / "other.db3"])


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="no such RealSense recording"):
        RealsenseFiles([tmp_path / "absent.db3"])


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_cut_file_is_not_played_as_if_whole(db3: list[Path], share: float, tmp_path: Path) -> None:
    data = db3[0].read_bytes()
    path = tmp_path / "cut.db3"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(HandloomError, match="truncated"):
        RealsenseFiles([path])


def test_images_that_vanished_from_a_file_are_missed(
    db3: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handloom.capture.realsense.MISSING_GRACE_S", 0.5)
    path = tmp_path / "damaged.db3"
    shutil.copy(db3[0], path)
    with RealsenseFiles([path]) as source:
        # As if the SDK had played two images fewer than the file's tables list.
        player = source._players[0]
        assert player.n_images is not None
        player.n_images += 2
        with pytest.raises(HandloomError, match=r"played fewer images[\s\S]*23 of 25"):
            list(source.frames())


def test_a_rig_of_other_cameras_is_refused(db3: list[Path], small_rig: Rig) -> None:
    front, side = small_rig.cameras
    with pytest.raises(HandloomError, match="another number of cameras"):
        RealsenseFiles(db3, rig=Rig((front,)))
    with pytest.raises(HandloomError, match="serial X9"):
        RealsenseFiles(db3, rig=Rig((front, replace(side, serial="X9"))))
    with pytest.raises(HandloomError, match="another image size"):
        RealsenseFiles(db3, rig=Rig((front, replace(side, width=50))))


def test_cameras_are_matched_by_serial_number(db3: list[Path], small_rig: Rig, content: list[Image]) -> None:
    front, side = small_rig.cameras
    with RealsenseFiles([db3[1], db3[0]], rig=small_rig) as source:
        assert [camera.serial for camera in source.rig.cameras] == [front.serial, side.serial]
        first = next(image for image in source.frames() if image.camera == 1)
    assert (first.depth == next(i for i in content if i.camera == 1).depth).all()


def test_recordings_of_software_cameras_stay_known_as_virtual(db3: list[Path], tmp_path: Path) -> None:
    with RealsenseFiles(db3) as source:
        made = record(source, tmp_path / "r.zarr")
    assert made.provenance["virtual"] is True
    assert made.provenance["file_kinds"] == ["db3", "db3"]
    assert made.provenance["poses"] == "unknown"


def test_views_with_clocks_of_their_own_are_grouped(
    db3: list[Path], small_rig: Rig, content: list[Image], tmp_path: Path
) -> None:
    with RealsenseFiles(db3, rig=small_rig) as source:
        made = record(source, tmp_path / "r.zarr")
    assert made.frames is not None
    number = made.frames.read("frame_number")
    expected = np.full((24, 2), -1)
    for image in content:
        expected[image.frame_number, image.camera] = image.frame_number
    assert np.array_equal(number, expected)
    for image in content:
        stored = made.frames.read(f"depth/{small_rig.names[image.camera]}")[image.frame_number]
        assert (stored == image.depth).all()


def test_what_cannot_be_written_is_said(small_rig: Rig, content: list[Image], tmp_path: Path) -> None:
    camera = small_rig.cameras[0]
    (tmp_path / "there.db3").write_bytes(b"mine")
    with pytest.raises(HandloomError, match="exists"):
        write_db3(tmp_path / "there.db3", camera, content)
    assert (tmp_path / "there.db3").read_bytes() == b"mine"
    with pytest.raises(HandloomError, match=r"\.db3 files only"):
        write_db3(tmp_path / "new.bag", camera, content)
    with pytest.raises(HandloomError, match="another size than its camera"):
        write_db3(tmp_path / "new.db3", camera, [i for i in content if i.camera == 1])


def test_floats_of_the_sdk_read_as_they_were_written() -> None:
    assert shortest(float(np.float32(0.00025))) == 0.00025
    assert shortest(float(np.float32(241.1))) == 241.1
