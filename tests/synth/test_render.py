"""What every renderer promises, tried on each; `raster` is the reference of the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.stores.camera import project
from handloom.stores.crops import crop_k
from handloom.stores.errors import HandloomError
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import POSE_SIZE, SHAPE_SIZE, RiggedHand, pose_hand
from handloom.synth.raster import rasterise
from handloom.synth.render import Renderer, open_renderer
from handloom.synth.rigs import ring_rig

K = np.array([200.0, 205.0, 63.0, 61.0])
# Its edges fall between pixel centres, not on them: what happens on a tie is each renderer's own affair.
SQUARE = np.array([[-101, -101, 500], [101, -101, 500], [101, 101, 500], [-101, 101, 500]], np.float32)
QUAD = np.array([[0, 1, 2], [0, 2, 3]], np.int32)


@pytest.fixture(scope="module", params=["raster", "pyrender"])
def renderer(request: pytest.FixtureRequest) -> Iterator[Renderer]:
    try:
        yield open_renderer(request.param)
    except HandloomError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


def posed(hand: RiggedHand, *, turn: float, curl: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vertices and joints 500 mm before the camera, all joints flexed alike."""
    pose = np.array([min(curl, dof.high_rad) if dof.axis == "flexion" else 0.0 for dof in hand.dof])
    root = np.array([[0.4, turn, 0.2, 0.0, 0.0, 500.0]])
    assert len(pose) == POSE_SIZE
    done = pose_hand(hand, pose[None], root, np.zeros((1, SHAPE_SIZE)))
    return done.vertices[0], done.joints[0]


def test_a_square_is_where_it_should_be(renderer: Renderer) -> None:
    seen = renderer.render(SQUARE, QUAD, K, 128, 128)
    assert seen.depth_mm[61, 63] == pytest.approx(500, abs=1e-3)
    rows, columns = np.nonzero(seen.depth_mm)
    low, high = project(SQUARE[0], K), project(SQUARE[2], K)
    assert (columns.min(), rows.min()) == pytest.approx(np.ceil(low))
    assert (columns.max(), rows.max()) == pytest.approx(np.floor(high))
    assert set(np.unique(seen.triangle)) == {-1, 0, 1}
    assert ((seen.triangle >= 0) == (seen.depth_mm > 0)).all()


def test_depth_is_z_not_range(renderer: Renderer) -> None:
    seen = renderer.render(SQUARE * np.array([4, 4, 1], np.float32), QUAD, K, 128, 128)
    assert seen.depth_mm == pytest.approx(500, abs=1e-3)


def test_a_tilted_plane_is_perspective_correct(renderer: Renderer) -> None:
    tilted = SQUARE.copy()
    tilted[1:3, 2] = 700
    seen = renderer.render(tilted * np.array([5, 5, 1], np.float32), QUAD, K, 128, 128)
    u = np.arange(128)
    # z = 600 + slope x and x = (u - cx) z / fx
    slope = 200 / (2 * 5 * 101)
    x_per_z = (u - K[2]) / K[0]
    expected = 600 / (1 - slope * x_per_z)
    assert seen.depth_mm[61] == pytest.approx(expected, abs=2e-3)


def test_both_sides_of_a_face_are_seen(renderer: Renderer) -> None:
    front = renderer.render(SQUARE, QUAD, K, 128, 128)
    back = renderer.render(SQUARE, QUAD[:, ::-1], K, 128, 128)
    assert (front.depth_mm == back.depth_mm).mean() > 0.999


def test_the_nearer_of_two_wins(renderer: Renderer) -> None:
    both = np.concatenate([SQUARE, SQUARE * np.array([0.5, 0.5, 0.8], np.float32)])
    seen = renderer.render(both, np.concatenate([QUAD, QUAD + 4]), K, 128, 128)
    assert seen.depth_mm[61, 63] == pytest.approx(400, abs=1e-3)
    assert seen.triangle[61, 63] in (2, 3)


def test_nothing_in_front_is_nothing_seen(renderer: Renderer) -> None:
    assert not renderer.render(SQUARE * np.array([1, 1, -1], np.float32), QUAD, K, 64, 48).depth_mm.any()


def test_a_plane_that_reaches_behind_the_camera_is_clipped(renderer: Renderer) -> None:
    floor = np.array([[-500, 100, -200], [500, 100, -200], [500, 100, 2000], [-500, 100, 2000]], np.float32)
    seen = renderer.render(floor, QUAD, K, 128, 128)
    v = np.arange(90, 128)
    assert seen.depth_mm[90:, 63] == pytest.approx(100 * K[1] / (v - K[3]), rel=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (97, 61)])
@pytest.mark.parametrize(("turn", "curl"), [(0.0, 0.1), (2.0, 0.6), (-1.0, 2.2), (4.0, 2.2)])
@pytest.mark.parametrize("offset", [0.0, 70.0])
def test_renderers_see_the_same_hand(
    renderer: Renderer, hand: RiggedHand, turn: float, curl: float, offset: float, size: tuple[int, int]
) -> None:
    """Fists intersect themselves; the offset moves principal point and hand partly out of the frame."""
    vertices, joints = posed(hand, turn=turn, curl=curl)
    k = crop_k(joints[0] + np.array([offset, offset / 2, 0]), K, crop_px=128, window_mm=300.0)
    seen = renderer.render(vertices, hand.faces, k, *size)
    depth, triangle = rasterise(vertices, hand.faces, k, *size)
    assert (depth > 0).sum() > 300
    both = (depth > 0) & (seen.depth_mm > 0)
    # A pixel centre within 1/256 pixel of an edge may fall to either side: OpenGL snaps vertices to that grid.
    assert ((depth > 0) != (seen.depth_mm > 0)).sum() <= 3
    assert (np.abs(depth - seen.depth_mm)[both] < 0.05).mean() > 0.998
    assert np.median(np.abs(depth - seen.depth_mm)[both]) < 2e-3
    assert (triangle == seen.triangle)[both].mean() > 0.985


def test_the_ring_looks_at_its_centre() -> None:
    rig = ring_rig(3, distance_mm=600.0)
    assert rig.names == ("cam0", "cam1", "cam2")
    for camera in rig.cameras:
        assert camera.to_camera(np.zeros(3)) == pytest.approx([0, 0, 600])
        assert camera.to_camera([0.0, 10.0, 0.0])[1] > 9
    places = [camera.to_rig(np.zeros(3)) for camera in rig.cameras]
    spread = np.degrees(np.arccos(places[1] @ places[2] / 600**2))
    assert spread == pytest.approx(82, abs=6)
    assert len(ring_rig(1)) == 1


def test_an_impossible_rig_is_refused() -> None:
    with pytest.raises(HandloomError, match="at least one camera"):
        ring_rig(0)
    with pytest.raises(HandloomError, match="straight up or down"):
        ring_rig(2, elevation_deg=90.0)
