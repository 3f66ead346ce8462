"""poses.csv is read back into the rig's frame, and what is none of it is refused by line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS
from handloom.stores.pose_csv import CSV_COLUMNS, read_poses

TURNED = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))
RIG = Rig((Camera("a", 8, 8, (9, 9, 4, 4)), Camera("b", 8, 8, (9, 9, 4, 4), TURNED, (1.0, 2.0, 3.0))))
HEADER = ",".join(CSV_COLUMNS)


def file(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "poses.csv"
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_known_by_its_points(layout: str, tmp_path: Path) -> None:
    names = LAYOUTS[layout].points
    lines = [f"7,rig,{name},{i},0,0.5" for i, name in enumerate(names)]
    path = file(tmp_path, *reversed(lines))
    assert set(read_poses(path, RIG).layout.points) == set(names)
    # Two sets of 21 points have the same names in another order.
    found = read_poses(path, RIG, like=LAYOUTS[layout])
    assert found.layout.points == names
    assert found.cameras == ("rig",)
    assert found.joints_mm[7]["rig"][:, 0].tolist() == list(range(len(names)))


def test_a_camera_s_poses_come_into_the_rig(tmp_path: Path) -> None:
    point = RIG.cameras[1].to_camera([10.0, 20.0, 30.0])
    line = "3,b,wrist," + ",".join(f"{x:.3f}" for x in point)
    found = read_poses(file(tmp_path, line, "3,a,wrist,1,2,3", "4,b,palm,0,0,0"), RIG)
    wrist = found.layout.index("wrist")
    assert found.joints_mm[3]["b"][wrist] == pytest.approx([10, 20, 30], abs=1e-3)
    assert found.joints_mm[3]["a"][wrist].tolist() == [1, 2, 3]
    assert np.isnan(found.joints_mm[3]["a"]).sum() == 3 * (len(found.layout) - 1)
    assert found.cameras == ("a", "b")


def test_only_the_frames_asked_for_are_kept(tmp_path: Path) -> None:
    path = file(tmp_path, *(f"{frame},a,wrist,1,2,3" for frame in range(10)))
    found = read_poses(path, RIG, [2, 5, 77])
    assert set(found.joints_mm) == {2, 5}
    assert found.other_frames == 8


def test_lines_of_a_pose_may_lie_apart(tmp_path: Path) -> None:
    found = read_poses(file(tmp_path, "1,a,wrist,1,2,3", "2,a,wrist,4,5,6", "1,a,palm,7,8,9"), RIG)
    assert found.joints_mm[1]["a"][found.layout.index("palm")].tolist() == [7, 8, 9]
    assert found.joints_mm[1]["a"][found.layout.index("wrist")].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,c,wrist,1,2,3", "The recording has no camera 'c'"),
        ("1,a,nose,1,2,3", "'nose' is no joint"),
        ("1,a,wrist,1,2", "has the wrong form"),
        ("1,a,wrist,1,2,x", "has the wrong form"),
        ("one,a,wrist,1,2,3", "has the wrong form"),
        ("1,a,wrist,1,2,nan", "no finite number"),
        ("1,a,wrist,1e39,2,3", "no finite number"),
        ("0,a,wrist,1,2,3", "Joint 'wrist' has two rows in frame 0 of 'a'"),
    ],
)
def test_a_line_that_is_none_is_refused(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match=said) as raised:
        read_poses(file(tmp_path, "0,a,wrist,1,2,3", line), RIG)
    assert "poses.csv" in raised.value.where


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="There are no poses"):
        read_poses(tmp_path / "none.csv", RIG)
    with pytest.raises(HandloomError, match=r"This is not a poses.csv"):
        read_poses(file(tmp_path, header="frame,joint,x_mm,y_mm,z_mm"), RIG)
    (tmp_path / "binary.csv").write_bytes(b"\x93NUMPY\x00\xff")
    with pytest.raises(HandloomError, match="cannot be read"):
        read_poses(tmp_path / "binary.csv", RIG)
    empty = read_poses(file(tmp_path), RIG)
    assert not empty.joints_mm
