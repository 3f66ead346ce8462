"""Whole frames: what stands behind the hand, and the hand's box of pixels instead of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from handloom.stores.camera import depth_to_points
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import POSE_SIZE, SHAPE_SIZE, pose_hand
from handloom.synth.render import open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.scene import background, box, desk, ellipsoid, in_camera, render_frame
from handloom.synth.sensor import StructuredLight

RASTER = open_renderer("raster")
CAMERA = ring_rig(2).cameras[1]
NOISE = {"seed": 1, "frame": 2, "view": 1}


@pytest.fixture(scope="module")
def vertices() -> np.ndarray:
    root = np.array([[0.3, 0.5, 0.1, 10.0, 70.0, -20.0]])
    return pose_hand(builtin_hand(), np.zeros((1, POSE_SIZE)), root, np.zeros((1, SHAPE_SIZE))).vertices[0]


def test_box_and_ellipsoid_lie_where_they_should() -> None:
    depth = background(RASTER, CAMERA, [box((20, 10, 100), (80, 60, 40))])
    points = CAMERA.to_rig(depth_to_points(depth, CAMERA.k))
    local = np.abs(points - [20, 10, 100]) / [40, 30, 20]
    assert len(points) > 200
    assert np.abs(local.max(1) - 1).max() < 2e-3
    depth = background(RASTER, CAMERA, [ellipsoid((0, 30, 50), (60, 90, 40), rings=48)])
    points = CAMERA.to_rig(depth_to_points(depth, CAMERA.k))
    radius = np.linalg.norm((points - [0, 30, 50]) / [60, 90, 40], axis=1)
    assert radius.max() < 1 + 1e-3
    assert radius.min() > 0.99


def test_a_desk_fills_the_view_behind_the_volume() -> None:
    for camera in ring_rig(3).cameras:
        depth = background(RASTER, camera, desk())
        assert (depth > 0).all()
        assert depth.max() < StructuredLight().max_mm
        near = np.linalg.norm(camera.to_rig(depth_to_points(depth, camera.k)), axis=1)
        assert near.min() > 200  # nothing where hands are


def test_frame_shows_the_hand_as_one_drawing_of_everything(vertices: np.ndarray) -> None:
    faces = builtin_hand().faces
    scene = desk()
    still = background(RASTER, CAMERA, scene)
    seen = render_frame(RASTER, CAMERA, vertices, faces, background=still, sensor=None, **NOISE)
    whole = in_camera(CAMERA, np.concatenate([vertices, *(mesh.vertices for mesh in scene)]))
    starts = np.cumsum([len(vertices), *(len(mesh.vertices) for mesh in scene)])
    all_faces = np.concatenate([faces, *(mesh.faces + at for mesh, at in zip(scene, starts[:-1], strict=True))])
    truth = RASTER.render(whole, all_faces, np.array(CAMERA.k), CAMERA.width, CAMERA.height).depth_mm
    assert np.abs(seen.astype(float) - truth).max() <= 0.51
    assert (seen < still - 5).sum() > 500


@pytest.mark.parametrize("sensor", [None, StructuredLight()])
def test_drawing_only_the_hand_s_box_changes_nothing(vertices: np.ndarray, sensor: StructuredLight | None) -> None:
    faces = builtin_hand().faces
    seen = render_frame(RASTER, CAMERA, vertices, faces, background=None, sensor=sensor, **NOISE)
    empty = np.zeros((CAMERA.height, CAMERA.width), np.float32)
    full = render_frame(RASTER, CAMERA, vertices, faces, background=empty, sensor=sensor, **NOISE)
    assert (seen > 0).sum() > 1000
    assert np.array_equal(seen, full)


def test_a_hand_out_of_sight_gives_an_empty_frame(vertices: np.ndarray) -> None:
    for away in ([3000, 0, 0], [0, 0, -5000]):
        moved = vertices + np.array(away, np.float32)
        seen = render_frame(
            RASTER, CAMERA, moved, builtin_hand().faces, background=None, sensor=StructuredLight(), **NOISE
        )
        assert seen.shape == (CAMERA.height, CAMERA.width)
        assert not seen.any()
