from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.stores.camera import Camera, Rig, depth_to_points, project, read_rig, unproject, write_rig
from handloom.stores.errors import HandloomError


def test_a_point_on_the_axis_falls_on_the_principal_point() -> None:
    assert project([0.0, 0.0, 700.0], [500.0, 510.0, 320.0, 240.0]) == pytest.approx([320, 240])


def test_right_is_right_and_down_is_down() -> None:
    u, v = project([10.0, 20.0, 500.0], [500.0, 500.0, 320.0, 240.0])
    assert (u, v) == pytest.approx((330, 260))


def test_unprojecting_gives_the_point_back() -> None:
    points = np.random.default_rng(0).normal([0, 0, 600], 80, (50, 3))
    k = np.array([475.07, 474.0, 315.94, 245.29])
    assert unproject(project(points, k), points[:, 2], k) == pytest.approx(points, abs=1e-9)


def test_pixels_without_return_are_no_points() -> None:
    depth = np.zeros((4, 5), np.uint16)
    depth[1, 2] = 500
    assert depth_to_points(depth, [100, 100, 2, 1]) == pytest.approx(np.array([[0, 0, 500]]))


def test_rig_and_camera_frames_undo_each_other(rig: Rig) -> None:
    points = np.random.default_rng(1).normal(0, 100, (7, 3))
    for camera in rig.cameras:
        assert camera.to_rig(camera.to_camera(points)) == pytest.approx(points, abs=1e-9)


def test_rig_toml_gives_the_same_rig_back(rig: Rig, tmp_path: Path) -> None:
    rig = Rig((*rig.cameras, replace(rig.cameras[0], name="odd", serial='a"\\b\n\tü', k=(1 / 3, 1e-7, 1e17, 0.1))))
    write_rig(rig, tmp_path / "rig.toml")
    assert read_rig(tmp_path / "rig.toml") == rig


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"R": [[1, 0, 0], [0, 1, 0], [0, 0, 2]]}, "R is not a rotation"),
        ({"R": [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]}, "reflection"),
        ({"K": [500, 500, 320]}, "wrong form"),
        ({"K": [-1, 500, 320, 240]}, "intrinsics"),
        ({"dist_model": "kannala"}, "Unknown distortion model 'kannala'"),
        ({"dist_model": "brown-conrady", "dist": [0.1]}, "Wrong number of distortion"),
        ({"depth_unit_mm": 0}, "depth_unit_mm must be positive"),
        ({"depth_unit": 1}, "Unknown camera key 'depth_unit'"),
        ({"width": 0}, "size is not positive"),
        ({"t": [0, 0, float("nan")]}, "t is not finite"),
    ],
)
def test_a_bad_camera_is_named(rig: Rig, change: dict[str, Any], said: str) -> None:
    values = rig.to_dict()
    values["camera"][1].update(change)
    with pytest.raises(HandloomError, match=said) as error:
        Rig.from_dict(values, where="rig.toml")
    assert "camera" in error.value.where


def test_two_cameras_of_one_name_are_refused(rig: Rig) -> None:
    with pytest.raises(HandloomError, match="called 'left'"):
        Rig((rig.cameras[0], rig.cameras[0]))


def test_a_camera_name_cannot_leave_its_folder() -> None:
    with pytest.raises(HandloomError, match="cannot name a camera"):
        Rig((Camera("../x", 4, 4, (1, 1, 1, 1)),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a rig"),
        ("schema = ", "cannot be read"),
        (None, "no rig"),
        ('schema = "handloom-rig/1"', "lists no"),
        ('schema = "handloom-rig/1"\ncamera = [1]', "lists no"),
    ],
)
def test_what_is_no_rig_file(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "rig.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(HandloomError, match=said):
        read_rig(path)
