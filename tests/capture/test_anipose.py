from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from handloom.capture.anipose import read_anipose, read_any_rig, with_intrinsics, write_anipose
from handloom.stores.camera import Rig, write_rig
from handloom.stores.errors import HandloomError
from handloom.synth.rigs import ring_rig

FOREIGN = """
[cam_0]
name = "A"
size = [ 640, 480,]
matrix = [ [ 600.5, 0.0, 320.0,], [ 0.0, 601.5, 239.0,], [ 0.0, 0.0, 1.0,],]
distortions = [ -0.1, 0.02, 0.0, 0.0, 0.0,]
rotation = [ 0.0, 1.5707963267948966, 0.0,]
translation = [ 1.0, 2.0, 3.0,]
fisheye = false

[metadata]
adjusted = false
error = 0.31
"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    rig = ring_rig(3)
    write_anipose(rig, tmp_path / "calibration.toml")
    back = read_anipose(tmp_path / "calibration.toml")
    for a, b in zip(rig.cameras, back.cameras, strict=True):
        assert (a.name, a.width, a.height, a.k, a.dist) == (b.name, b.width, b.height, b.k, b.dist)
        np.testing.assert_allclose(a.rotation, b.rotation, atol=1e-12)
        np.testing.assert_allclose(a.translation, b.translation, atol=1e-12)


def test_a_file_as_anipose_writes_it(tmp_path: Path) -> None:
    (tmp_path / "calibration.toml").write_text(FOREIGN)
    (camera,) = read_any_rig(tmp_path / "calibration.toml").cameras
    assert (camera.name, camera.k, camera.dist[0]) == ("A", (600.5, 601.5, 320.0, 239.0), -0.1)
    np.testing.assert_allclose(camera.rotation, [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], atol=1e-12)


def test_our_own_file_is_told_apart(tmp_path: Path) -> None:
    rig = ring_rig(2)
    write_rig(rig, tmp_path / "rig.toml")
    assert read_any_rig(tmp_path / "rig.toml") == rig


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("fisheye = false", "fisheye = true", "A fisheye lens is not supported"),
        ("matrix =", "Matrix =", "neither a rig.toml nor an anipose calibration"),
        ("size = [ 640, 480,]", "size = [ 640,]", "A camera entry has the wrong form"),
        ('name = "A"\n', "", "A camera lacks the key 'name'"),
        ("[ [ 600.5, 0.0,", "[ [ 600.5, 3.0,", "A camera's axes are skewed"),
        ("[cam_0]", "[cam_0", "cannot be read"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in FOREIGN
    (tmp_path / "calibration.toml").write_text(FOREIGN.replace(old, new))
    with pytest.raises(HandloomError, match=says):
        read_any_rig(tmp_path / "calibration.toml")


def test_intrinsics_are_taken_by_name_and_of_the_same_size() -> None:
    rig = ring_rig(2)
    better = replace(rig.cameras[1], k=(250.0, 250.0, 160.0, 120.0), t=(9.0, 9.0, 9.0))
    out = with_intrinsics(rig, Rig((better,)), where="given")
    assert out.cameras[0] == rig.cameras[0]
    assert (out.cameras[1].k, out.cameras[1].t) == (better.k, rig.cameras[1].t)
    with pytest.raises(HandloomError, match="of another image size"):
        with_intrinsics(rig, Rig((replace(better, width=100),)), where="given")
    with pytest.raises(HandloomError, match="of other cameras"):
        with_intrinsics(rig, Rig((replace(better, name="x"),)), where="given")
