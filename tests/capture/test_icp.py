"""A rig that is a little off is put right by what stands still, and a right one is left alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handloom.capture.bundle import turned
from handloom.capture.calibrate import calibrate
from handloom.capture.icp import Alignment, aligned, cloud_of
from handloom.capture.targets import SphereTarget
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.synth.props import Mesh, box, joined
from handloom.synth.render import open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.room import room
from handloom.synth.scene import in_camera

from ball_scenes import errors, smooth_ball


@pytest.fixture(scope="module")
def open3d() -> Any:
    pytest.importorskip("open3d")
    from handloom.capture.icp import load_open3d

    return load_open3d()


@pytest.fixture(scope="module")
def truth() -> Rig:
    return ring_rig(3, width=200, height=150, focal_px=150.0)


def furnished(rig: Rig) -> Mesh:
    """The room, and things on its desk."""
    things = [
        box(np.array([120.0, 60, 80]), np.diag([60.0, 80.0, 40.0])),
        box(np.array([-140.0, 20, 160]), np.diag([30.0, 120.0, 60.0])),
        smooth_ball(np.array([-20.0, 40, 200]), 90.0),
    ]
    return joined([room(rig), *things])


def clouds(rig: Rig, mesh: Mesh, *, noise_mm: float) -> list[np.ndarray]:
    renderer, rng = open_renderer("raster"), np.random.default_rng(5)
    out = []
    for view, camera in enumerate(rig.cameras):
        vertices = in_camera(camera, mesh.vertices)
        z = renderer.render(vertices, mesh.faces, np.array(camera.k), camera.width, camera.height).depth_mm
        out.append(cloud_of(np.where(z > 0, z + rng.normal(0, noise_mm, z.shape), 0), rig, view))
    return out


def pushed(rig: Rig, *, deg: float, mm: float) -> Rig:
    """Every camera but the first a little off."""
    rng = np.random.default_rng(8)
    cameras = [rig.cameras[0]]
    for camera in rig.cameras[1:]:
        axis, step = rng.normal(size=3), rng.normal(size=3)
        turn = turned(np.radians(deg) * axis / np.linalg.norm(axis))
        r, t = turn @ camera.rotation, turn @ camera.translation + mm * step / np.linalg.norm(step)
        cameras.append(replace(camera, r=tuple(map(tuple, r.tolist())), t=tuple(t.tolist())))
    return Rig(tuple(cameras))


def test_a_rig_that_is_off_is_put_right(open3d: Any, truth: Rig) -> None:
    start = pushed(truth, deg=1.0, mm=8.0)
    found = aligned(clouds(truth, furnished(truth), noise_mm=1.0), start, open3d=open3d)
    assert found.kept
    assert found.after_mm < 0.6 * found.before_mm
    for (deg, mm), (deg_before, _) in zip(errors(found.rig, truth), errors(start, truth), strict=True):
        assert deg < 0.3 < deg_before
        assert mm < 3.0


def test_a_right_rig_gets_no_worse(open3d: Any, truth: Rig) -> None:
    found = aligned(clouds(truth, furnished(truth), noise_mm=1.0), truth, open3d=open3d)
    assert max(deg for deg, _ in errors(found.rig, truth)) < 0.15
    assert max(mm for _, mm in errors(found.rig, truth)) < 1.5
    assert found.kept == (found.after_mm < found.before_mm)
    if not found.kept:
        assert found.rig == truth


def test_a_lone_wall_aligns_nothing(open3d: Any, truth: Rig) -> None:
    wall = box(np.array([0.0, 0, 400]), np.diag([900.0, 700.0, 5.0]))
    start = pushed(truth, deg=0.3, mm=3.0)
    found = aligned(clouds(truth, wall, noise_mm=1.0), start, open3d=open3d)
    assert found.rig == start
    assert "flat" in found.why


def test_nothing_that_stands_still_aligns_nothing(open3d: Any, truth: Rig) -> None:
    found = aligned([np.zeros((0, 3))] * 3, truth, open3d=open3d)
    assert (found.rig, found.kept, found.why) == (truth, False, "too little stands still before some camera")
    assert isinstance(found, Alignment)


def test_without_open3d_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(HandloomError) as raised:
        calibrate(tmp_path, SphereTarget(30.0), refine="icp")
    assert raised.value.fix == "pip install 'handloom[open3d]'"
