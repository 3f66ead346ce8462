"""Every renderer draws the same picture: one suite for the z-buffer, OpenGL and rays.

The oracle is a fourth: rays by Möller and Trumbore's test, brute force, float64.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest

from handloom.cli_synth import synth_run
from handloom.stores.camera import project
from handloom.stores.errors import HandloomError
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.hand import DOFS, POSE_SIZE, SHAPE_SIZE, pose_hand
from handloom.synth.provenance import changed_versions, provenance_of
from handloom.synth.render import NEAR_MM, RENDERERS, Rendered, Renderer, open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.scene import in_camera
from handloom.synth.units import make_unit, studio_of

WIDTH, HEIGHT = 160, 128
K = (241.0, 241.0, 79.5, 63.5)


@lru_cache
def _open(name: str) -> Renderer | HandloomError:
    try:
        return open_renderer(name)  # type: ignore[arg-type]
    except HandloomError as error:
        return error


@pytest.fixture(params=RENDERERS)
def renderer(request: pytest.FixtureRequest) -> Renderer:
    opened = _open(request.param)
    if isinstance(opened, HandloomError):
        if os.environ.get("HANDLOOM_ALL_RENDERERS"):  # where nothing may be missing, as in CI
            raise opened
        pytest.skip(f"{request.param} cannot run here: {opened}")
    return opened


@dataclass(frozen=True)
class Scene:
    """A mesh in the camera's frame and the camera; what the oracle sees of it."""

    vertices: np.ndarray
    faces: np.ndarray
    k: tuple[float, ...] = K
    width: int = WIDTH
    height: int = HEIGHT

    def drawn(self, renderer: Renderer) -> Rendered:
        return renderer.render(self.vertices, self.faces, np.array(self.k), self.width, self.height)


def _hand(
    *, pose: np.ndarray | None = None, turn: float = 0.4, at: tuple[float, float, float] = (0, 60, 0),
    closer_mm: float = 0.0, **camera: object,
) -> Scene:  # fmt: skip
    hand = builtin_hand()
    root = np.array([[0.2, turn, 0.1, *at]])
    angles = np.zeros(POSE_SIZE) if pose is None else pose
    posed = pose_hand(hand, angles[None], root, np.zeros((1, SHAPE_SIZE)))
    vertices = in_camera(ring_rig(1).cameras[0], posed.vertices[0]) - np.float32([0, 0, closer_mm])
    return Scene(vertices, hand.faces, **camera)  # type: ignore[arg-type]


def _fist() -> np.ndarray:
    """A pose far beyond what flesh allows: fingers run through palm and thumb."""
    bent = {"mcp_flexion": 1.5, "pip_flexion": 1.9, "dip_flexion": 1.3, "cmc_flexion": 0.5, "ip_flexion": 1.4}
    return np.array([bent.get(dof.name.split("_", 1)[1], 0.0) for dof in DOFS])


def _triangles(*corners: tuple[tuple[float, float, float], ...], **camera: object) -> Scene:
    vertices = np.array(corners, np.float32).reshape(-1, 3)
    return Scene(vertices, np.arange(len(vertices), dtype=np.int32).reshape(-1, 3), **camera)  # type: ignore[arg-type]


def _ball(rings: int, radius_mm: float, z_mm: float) -> Scene:
    """A sphere of 4 rings² triangles."""
    v, u = np.mgrid[0 : rings + 1, 0 : 2 * rings]
    polar, around = np.pi * v / rings, np.pi * u / rings
    unit = np.stack([np.sin(polar) * np.cos(around), np.cos(polar), np.sin(polar) * np.sin(around)], -1)
    vertices = (radius_mm * unit + [3.0, -2.0, z_mm]).reshape(-1, 3).astype(np.float32)
    here = (v * 2 * rings + u)[:-1]
    right = (v * 2 * rings + (u + 1) % (2 * rings))[:-1]
    quads = np.stack([here, right, here + 2 * rings, right, right + 2 * rings, here + 2 * rings], -1)
    return Scene(vertices, quads.reshape(-1, 3).astype(np.int32))


@lru_cache
def _scene(name: str) -> Scene:
    match name:
        case "open hand":
            return _hand()
        case "self-intersecting":
            return _hand(pose=_fist(), turn=2.9, at=(0, 20, 0))
        case "off-centre principal point":
            return _hand(turn=-0.8, k=(241.0, 228.0, 110.8, 40.7))
        case "partly out of frame":
            return _hand(turn=1.2, at=(150, 60, 0))
        case "odd size":
            return _hand(turn=0.9, k=(241.0, 241.0, 60.0, 90.0), width=97, height=131)
        case "hand around the camera":
            return _hand(turn=1.3, closer_mm=480)
        case "crossing the near plane":
            return _triangles(((-400, -150, 900), (300, -200, 700), (60, 90, -500)))
        case "two corners behind":
            return _triangles(((-90, -30, -200), (5, 12, 300), (120, -40, -80)), ((0, 40, 5), (9, 9, 90), (-9, 9, 15)))
        case "one huge triangle":
            return _triangles(((-9e5, -8e5, 400), (9e5, -9e5, 900), (0, 8e5, 500)))
        case "triangles below a pixel":
            return _ball(60, 40.0, 900.0)
        case "one pixel":
            return _hand(k=(3.0, 3.0, 0.0, 0.0), width=1, height=1)
        case "a row":
            return _hand(k=(241.0, 241.0, 79.5, 0.3), width=160, height=1)
        case "no area":
            # The first two lie on pixels' centres, edge on and as a line: neither shows anything.
            flat = ((-30, -30, 500), (30, 30, 500), (0, 0, 500)), ((9, 9, 400), (9, 9, 400), (-40, 30, 600))
            return _triangles(*flat, ((-20, -20, 520), (20, -20, 520), (0, 25, 510)))
        case "behind the camera":
            return _hand(closer_mm=900)
        case "out of view":
            return _hand(k=(241.0, 241.0, -900.0, 63.5))
        case "nearer than the near plane":
            return _triangles(((-9, -9, 3), (9, -9, 4), (0, 9, 5)))
        case "no triangle":
            return Scene(np.zeros((3, 3), np.float32), np.zeros((0, 3), np.int32))
    raise AssertionError(name)


SEEN = (
    "open hand", "self-intersecting", "off-centre principal point", "partly out of frame", "odd size",
    "hand around the camera", "crossing the near plane", "two corners behind", "one huge triangle",
    "triangles below a pixel", "one pixel", "a row", "no area",
)  # fmt: skip
UNSEEN = ("behind the camera", "out of view", "nearer than the near plane", "no triangle")


@lru_cache
def _truth(name: str) -> np.ndarray:
    return _rays(_scene(name))


@pytest.mark.parametrize("name", SEEN)
def test_same_picture_as_rays(renderer: Renderer, name: str) -> None:
    seen, truth = _scene(name).drawn(renderer), _truth(name)
    assert seen.depth_mm.dtype == np.float32
    assert seen.depth_mm.shape == seen.triangle.shape == truth.shape
    silhouette = int(((seen.depth_mm > 0) != (truth > 0)).sum())
    # A pixel whose centre an edge passes within 1e-3 px may fall to either side; OpenGL snaps to 1/256 px.
    assert silhouette <= (0 if renderer.name == "raster" else (truth > 0).sum() // 2000), silhouette
    both = (seen.depth_mm > 0) & (truth > 0)
    assert both.any()
    error = np.abs(seen.depth_mm - truth)[both]
    assert np.median(error) < (1e-4 if renderer.name == "raster" else 1e-3)
    # Inner edges of the hand, where one pixel may show the finger or what lies behind it.
    assert (error > 0.01).mean() <= (0 if renderer.name == "raster" else 1e-3)


@pytest.mark.parametrize("name", UNSEEN)
def test_nothing_in_view_is_nothing(renderer: Renderer, name: str) -> None:
    scene = _scene(name)
    seen = scene.drawn(renderer)
    assert seen.depth_mm.shape == seen.triangle.shape == (scene.height, scene.width)
    assert not seen.depth_mm.any()
    assert (seen.triangle == -1).all()


@pytest.mark.parametrize("name", SEEN)
def test_triangle_numbers_belong_to_the_depth(renderer: Renderer, name: str) -> None:
    """The plane of the named triangle has the depth of the pixel, wherever it is not seen edge on."""
    scene = _scene(name)
    seen = scene.drawn(renderer)
    assert seen.triangle.dtype == np.int32
    assert ((seen.triangle >= 0) == (seen.depth_mm > 0)).all()
    v, u = np.nonzero(seen.depth_mm)
    fx, fy, cx, cy = scene.k
    corners = scene.vertices[scene.faces[seen.triangle[v, u]]].astype(float)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], 1)
    flat = np.abs((normal * ray).sum(1)) > 0.05 * np.linalg.norm(normal, axis=1)
    z = (normal * corners[:, 0]).sum(1)[flat] / (normal * ray).sum(1)[flat]
    assert np.abs(z - seen.depth_mm[v, u][flat]).max() < 0.05


def test_depth_is_z_not_range(renderer: Renderer) -> None:
    wall = _triangles(((-900, -900, 400), (900, -900, 400), (0, 1500, 400)))
    depth = wall.drawn(renderer).depth_mm
    assert np.abs(depth - 400).max() < 1e-2


def test_back_faces_are_seen(renderer: Renderer) -> None:
    vertices = np.array([[-50, -50, 400], [50, -50, 400], [0, 50, 400]], np.float32)
    for faces in ([[0, 1, 2]], [[0, 2, 1]]):
        seen = Scene(vertices, np.array(faces, np.int32)).drawn(renderer)
        assert seen.depth_mm[63, 79] == pytest.approx(400, abs=1e-2)


def test_integer_coordinates_are_pixel_centres(renderer: Renderer) -> None:
    """A square whose corners project to a quarter pixel around pixels 40 and 60 covers 41 to 60."""
    corners = np.array([[40.25, 30.25], [60.25, 30.25], [60.25, 50.25], [40.25, 50.25]])
    xy = (corners - K[2:]) / K[:2] * 500
    vertices = np.concatenate([xy, np.full((4, 1), 500)], axis=1).astype(np.float32)
    assert np.allclose(project(vertices, K), corners, atol=1e-4)
    seen = Scene(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32)).drawn(renderer)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[31:51, 41:61] = True
    assert ((seen.depth_mm > 0) == expected).all()


@pytest.mark.parametrize("jitter_px", [0.0, 0.3])
def test_neighbours_leave_no_crack(renderer: Renderer, jitter_px: float) -> None:
    """A wall of triangles whose corners lie on pixels' centres, or anywhere near them: every pixel shows it."""
    v, u = np.mgrid[-2:27, -2:33].astype(float) * 5
    corners = np.stack([u, v], -1) + jitter_px * np.random.default_rng(1).uniform(-1, 1, (29, 35, 2))
    xy = (corners - K[2:]) / K[:2] * 450
    vertices = np.concatenate([xy, np.full((29, 35, 1), 450)], -1).reshape(-1, 3).astype(np.float32)
    here = np.arange(29 * 35).reshape(29, 35)[:-1, :-1].reshape(-1, 1)
    faces = np.concatenate([here + np.array(corner) for corner in ([0, 1, 35], [36, 35, 1])]).astype(np.int32)
    seen = Scene(vertices, faces).drawn(renderer)
    cracks = int((seen.triangle < 0).sum())
    # Embree loses two of the 560 pixels where a corner of six triangles lies on the ray.
    assert cracks <= (4 if renderer.name == "open3d" else 0), cracks
    assert np.abs(seen.depth_mm - 450)[seen.triangle >= 0].max() < 1e-2


def test_a_window_is_a_part_of_the_frame() -> None:
    raster, scene = open_renderer("raster"), _scene("self-intersecting")
    whole = scene.drawn(raster)
    left, top, width, height = 43, 31, 61, 57
    part = raster.render(scene.vertices, scene.faces, np.array(K) - [0, 0, left, top], width, height)
    cut = np.s_[top : top + height, left : left + width]
    assert (part.triangle >= 0).sum() > 1000
    assert (part.depth_mm == whole.depth_mm[cut]).all()
    assert (part.triangle == whole.triangle[cut]).all()


def test_a_face_without_its_vertex_does_not_reach_the_kernel() -> None:
    with pytest.raises(AssertionError, match="a vertex that is not there"):
        Scene(np.ones((3, 3), np.float32), np.array([[0, 1, 3]])).drawn(open_renderer("raster"))


def test_twice_the_same_is_the_same(renderer: Renderer) -> None:
    one, other = (_scene("self-intersecting").drawn(renderer) for _ in range(2))
    assert (one.depth_mm == other.depth_mm).all()
    assert (one.triangle == other.triangle).all()


def test_a_recording_is_the_same_whatever_draws_it(renderer: Renderer) -> None:
    """From the configuration to the stored crop: depth differs by rounding to whole millimetres alone."""
    config = SynthConfig(frames=6, sensor="none", renderer="raster", hand="builtin")
    studio = studio_of(config, config.make_rig())
    ours = make_unit(config, studio, 0)["crops"]
    theirs = make_unit(config, replace(studio, renderer=renderer), 0)["crops"]
    one, other = (rows["crop"].astype(int) for rows in (ours, theirs))
    assert (one > 0).sum() > 40_000
    assert ((one > 0) != (other > 0)).sum() <= (one > 0).sum() // 2000
    assert (np.abs(one - other) > 1).mean() <= 1e-4
    assert (ours["parts"] != theirs["parts"]).sum() <= (one > 0).sum() // 1000


def test_without_open3d_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(HandloomError) as caught:
        open_renderer("open3d")
    assert str(caught.value) == (
        "open3d is not installed\n"
        "  why:   it comes with the optional extra 'open3d'\n"
        "  fix:   pip install 'handloom[open3d]'"
    )


def test_open3d_without_a_library_of_the_system_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("libusb-1.0.so.0: cannot open shared object file")

    monkeypatch.setattr("handloom.synth.embree.importlib.import_module", missing)
    with pytest.raises(HandloomError, match=r"libusb-1\.0\.so\.0.*\n.*apt install .*libusb-1\.0-0"):
        open_renderer("open3d")


def test_a_recording_names_what_drew_it() -> None:
    opened = _open("open3d")
    version = "none" if isinstance(opened, HandloomError) else importlib.import_module("open3d").__version__
    made = provenance_of("open3d")
    assert made["packages"]["open3d"] == version
    assert "open3d" not in provenance_of("raster")["packages"]
    assert not changed_versions(made)
    made["packages"]["open3d"] = "0.1"
    assert changed_versions(made) == f"open3d was 0.1, is {version}"


def test_the_command_offers_every_renderer() -> None:
    (option,) = (p for p in synth_run.params if p.name == "renderer")
    assert tuple(option.type.choices) == RENDERERS  # type: ignore[attr-defined]


def _rays(scene: Scene) -> np.ndarray:
    """(H, W) z of the nearest hit beyond the near plane, by brute force over the pixels of each triangle's box."""
    fx, fy, cx, cy = scene.k
    last = [scene.width - 1, scene.height - 1]
    best = np.full((scene.height, scene.width), np.inf)
    for a, b, c in scene.vertices[scene.faces].astype(np.float64):
        corners = np.array([a, b, c])
        low, high = np.array([0, 0]), np.array(last)
        if (corners[:, 2] > NEAR_MM).all():  # else it may cover anything
            uv = project(corners, scene.k)
            low = np.maximum(np.floor(uv.min(0)), 0).astype(int)
            high = np.minimum(np.ceil(uv.max(0)), last).astype(int)
        if (high < low).any() or (corners[:, 2] < NEAR_MM).all():
            continue
        v, u = np.mgrid[low[1] : high[1] + 1, low[0] : high[0] + 1]
        ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)], -1)
        one, two = b - a, c - a
        p = np.cross(ray, two)
        det = p @ one
        with np.errstate(divide="ignore", invalid="ignore"):
            s = -(p @ a) / det
            q = np.cross(-a, one)
            t = (ray @ q) / det
            z = (two @ q) / det
            inside = (s >= 0) & (t >= 0) & (s + t <= 1) & (z >= NEAR_MM)
        here = best[v, u]
        best[v, u] = np.where(inside & (z < here), z, here)
    return np.where(np.isfinite(best), best, 0)
