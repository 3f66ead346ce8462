"""Whole frames: what stands behind the hand, and the hand's box of pixels instead of all of them."""

from __future__ import annotations

import numpy as np
import pytest

from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import POSE_SIZE, SHAPE_SIZE, pose_hand
from handloom.synth.render import open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.scene import in_camera, render_frame
from handloom.synth.sensor import StructuredLight

RASTER = open_renderer("raster")
CAMERA = ring_rig(2).cameras[1]
NOISE = {"seed": 1, "frame": 2, "view": 1}


@pytest.fixture(scope="module")
def vertices() -> np.ndarray:
    root = np.array([[0.3, 0.5, 0.1, 10.0, 70.0, -20.0]])
    return pose_hand(builtin_hand(), np.zeros((1, POSE_SIZE)), root, np.zeros((1, SHAPE_SIZE))).vertices[0]


# A slanted wall behind the volume, as this camera sees it.
WALL = np.array([[-150, -900, -900], [-150, 900, -900], [-250, 900, 900], [-250, -900, 900]], np.float32)
WALL_FACES = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


def test_frame_shows_the_hand_as_one_drawing_of_everything(vertices: np.ndarray) -> None:
    faces = builtin_hand().faces
    k, size = np.array(CAMERA.k), (CAMERA.width, CAMERA.height)
    still = RASTER.render(in_camera(CAMERA, WALL), WALL_FACES, k, *size).depth_mm
    seen = render_frame(RASTER, CAMERA, vertices, faces, background=still, sensor=None, **NOISE)
    whole = in_camera(CAMERA, np.concatenate([vertices, WALL]))
    all_faces = np.concatenate([faces, WALL_FACES + len(vertices)])
    truth = RASTER.render(whole, all_faces, k, *size).depth_mm
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
