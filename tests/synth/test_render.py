"""Every renderer draws the same picture: one suite for the z-buffer and for OpenGL."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from handloom.stores.camera import project
from handloom.stores.errors import HandloomError
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import DOFS, POSE_SIZE, SHAPE_SIZE, pose_hand
from handloom.synth.render import Renderer, open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.scene import in_camera

WIDTH, HEIGHT = 160, 128
K = np.array([241.0, 241.0, 79.5, 63.5])


@lru_cache
def _open(name: str) -> Renderer | str:
    try:
        return open_renderer(name)  # type: ignore[arg-type]
    except HandloomError as error:
        return str(error)


@pytest.fixture(params=["raster", "pyrender"])
def renderer(request: pytest.FixtureRequest) -> Renderer:
    opened = _open(request.param)
    if isinstance(opened, str):
        pytest.skip(f"{request.param} cannot run here: {opened}")
    return opened


def _fist() -> np.ndarray:
    """A pose far beyond what flesh allows: fingers run through palm and thumb."""
    bent = {"mcp_flexion": 1.5, "pip_flexion": 1.9, "dip_flexion": 1.3, "cmc_flexion": 0.5, "ip_flexion": 1.4}
    return np.array([bent.get(dof.name.split("_", 1)[1], 0.0) for dof in DOFS])


def _mesh(pose: np.ndarray, *, turn: float = 0.4, at: tuple[float, float, float] = (0, 60, 0)):
    hand = builtin_hand()
    root = np.array([[0.2, turn, 0.1, *at]])
    posed = pose_hand(hand, pose[None], root, np.zeros((1, SHAPE_SIZE)))
    return in_camera(ring_rig(1).cameras[0], posed.vertices[0]), hand.faces


OFF_CENTRE = np.array([0.0, -13.0, 31.3, -22.8])

SCENES = {
    "open": (np.zeros(POSE_SIZE), 0.4, (0.0, 60.0, 0.0), K),
    "self-intersecting": (_fist(), 2.9, (0.0, 20.0, 0.0), K),
    "off-centre": (np.zeros(POSE_SIZE), -0.8, (0.0, 60.0, 0.0), K + OFF_CENTRE),
    "partly outside": (np.zeros(POSE_SIZE), 1.2, (150.0, 60.0, 0.0), K),
}


@pytest.mark.parametrize("scene", SCENES)
def test_same_picture_as_rays(renderer: Renderer, scene: str) -> None:
    """An independent oracle: rays through the pixel centres, Möller-Trumbore in float64."""
    pose, turn, at, k = SCENES[scene]
    vertices, faces = _mesh(pose, turn=turn, at=at)
    seen = renderer.render(vertices, faces, k, WIDTH, HEIGHT)
    truth = _rays(vertices, faces, k)
    silhouette = int(((seen.depth_mm > 0) != (truth > 0)).sum())
    # Pixels whose centre an edge passes within 1e-3 px may fall to either side; OpenGL snaps to 1/256 px.
    assert silhouette <= (0 if renderer.name == "raster" else max(2, (truth > 0).sum() // 1500)), silhouette
    both = (seen.depth_mm > 0) & (truth > 0)
    assert both.sum() > 800
    error = np.abs(seen.depth_mm - truth)[both]
    assert np.median(error) < 5e-4
    # Inner edges of the hand, where one pixel may show the finger or what lies behind it.
    assert (error > 0.5).mean() <= (0 if renderer.name == "raster" else 1e-3)


def test_triangle_numbers_belong_to_the_depth(renderer: Renderer) -> None:
    pose, turn, at, k = SCENES["self-intersecting"]
    vertices, faces = _mesh(pose, turn=turn, at=at)
    seen = renderer.render(vertices, faces, k, WIDTH, HEIGHT)
    assert ((seen.triangle >= 0) == (seen.depth_mm > 0)).all()
    v, u = np.nonzero(seen.depth_mm)
    corners = vertices[faces[seen.triangle[v, u]]].astype(float)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    ray = np.stack([(u - k[2]) / k[0], (v - k[3]) / k[1], np.ones(len(u))], 1)
    flat = np.abs((normal * ray).sum(1)) > 0.05 * np.linalg.norm(normal, axis=1)
    z = (normal * corners[:, 0]).sum(1)[flat] / (normal * ray).sum(1)[flat]
    assert np.abs(z - seen.depth_mm[v, u][flat]).max() < 0.05


def test_back_faces_are_seen(renderer: Renderer) -> None:
    vertices = np.array([[-50, -50, 400], [50, -50, 400], [0, 50, 400]], np.float32)
    for faces in ([[0, 1, 2]], [[0, 2, 1]]):
        seen = renderer.render(vertices, np.array(faces, np.int32), K, WIDTH, HEIGHT)
        assert seen.depth_mm[63, 79] == pytest.approx(400, abs=1e-2)


def test_integer_coordinates_are_pixel_centres(renderer: Renderer) -> None:
    """A square whose corners project to a quarter pixel around pixels 40 and 60 covers 41 to 60."""
    corners = np.array([[40.25, 30.25], [60.25, 30.25], [60.25, 50.25], [40.25, 50.25]])
    xy = (corners - K[2:]) / K[:2] * 500
    vertices = np.concatenate([xy, np.full((4, 1), 500)], axis=1).astype(np.float32)
    assert np.allclose(project(vertices, K), corners, atol=1e-4)
    seen = renderer.render(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), K, WIDTH, HEIGHT)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[31:51, 41:61] = True
    assert ((seen.depth_mm > 0) == expected).all()


def _rays(vertices: np.ndarray, faces: np.ndarray, k: np.ndarray) -> np.ndarray:
    """(H, W) z of the nearest hit, by brute force over the pixels of each triangle's box."""
    corners = vertices[faces].astype(np.float64)
    best = np.full((HEIGHT, WIDTH), np.inf)
    uv = project(corners, k)
    for (a, b, c), box in zip(corners, uv, strict=True):
        low = np.maximum(np.floor(box.min(0)).astype(int), 0)
        high = np.minimum(np.ceil(box.max(0)).astype(int), [WIDTH - 1, HEIGHT - 1])
        if (high < low).any():
            continue
        v, u = np.mgrid[low[1] : high[1] + 1, low[0] : high[0] + 1]
        ray = np.stack([(u - k[2]) / k[0], (v - k[3]) / k[1], np.ones(u.shape)], -1)
        one, two = b - a, c - a
        p = np.cross(ray, two)
        det = p @ one
        with np.errstate(divide="ignore", invalid="ignore"):
            s = -(p @ a) / det
            q = np.cross(-a, one)
            t = (ray @ q) / det
            z = (two @ q) / det
            inside = (s >= 0) & (t >= 0) & (s + t <= 1) & (z > 0)
        here = best[v, u]
        best[v, u] = np.where(inside & (z < here), z, here)
    return np.where(np.isfinite(best), best, 0)
