from __future__ import annotations

import numpy as np
import pytest

from handloom.capture.sphere import find_sphere, radius_of
from handloom.stores.camera import Rig
from handloom.synth.props import Mesh, cylinder, joined
from handloom.synth.render import open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.room import room
from handloom.synth.scene import in_camera, render_frame
from handloom.synth.sensor import ActiveStereo

from ball_scenes import RADIUS_MM, held, images_of, path_of, smooth_ball

SEEN = 12


@pytest.fixture(scope="module")
def rig() -> Rig:
    return ring_rig(2, width=240, height=180, focal_px=180.0)


def background(rig: Rig, view: int) -> np.ndarray:
    # A speck far outside every image: the room alone.
    speck = smooth_ball(np.array([0.0, 1e5, 0.0]), 1.0)
    return images_of(rig, [speck], noise_mm=0, bias_mm=(0, 0), seed=0)[0, view].astype(np.float32)


def found_in(rig: Rig, meshes: list[Mesh], *, radius_mm: float = RADIUS_MM, bias: float = 0.0, noise: float = 1.0):
    images = images_of(rig, meshes, noise_mm=noise, bias_mm=(bias, bias), seed=1)
    behind = background(rig, 0)
    return [
        find_sphere(images[frame, 0].astype(np.float32), rig.cameras[0].k, radius_mm, background_mm=behind)
        for frame in range(len(meshes))
    ]


def test_the_centre_of_a_held_ball_is_found_to_a_millimetre(rig: Rig) -> None:
    places = path_of(SEEN)
    found = found_in(rig, [held(place) for place in places])
    off = [
        np.linalg.norm(one.center_mm - rig.cameras[0].to_camera(place))
        for one, place in zip(found, places, strict=True)
        if one is not None
    ]
    assert len(off) >= SEEN - 1
    assert max(off) < 1.0


def test_a_bias_moves_the_centre_along_the_ray_by_as_much(rig: Rig) -> None:
    place = np.array([90.0, -60.0, 20.0])
    (one,) = found_in(rig, [held(place)], bias=8.0)
    assert one is not None
    true = rig.cameras[0].to_camera(place)
    np.testing.assert_allclose(one.center_mm, true * (1 + 8.0 / true[2]), atol=0.8)


def test_the_stated_covariance_covers_the_error(rig: Rig) -> None:
    place = np.array([20.0, 10.0, 0.0])
    images = [found_in(rig, [held(place)] * 10, noise=2.0)][0]
    true = rig.cameras[0].to_camera(place)
    distances = [
        (one.center_mm - true) @ np.linalg.inv(one.covariance) @ (one.center_mm - true) for one in images if one
    ]
    assert len(distances) == 10
    assert 0.1 < np.mean(distances) < 9  # three degrees of freedom


def test_a_ball_whose_edges_stereo_grew_is_found() -> None:
    """At 320 x 240 its window adds a fifth to the ball's radius: that is no surface that goes on beyond it."""
    rig = ring_rig(2)
    camera, renderer = rig.cameras[0], open_renderer("raster")
    still = room(rig)
    behind = renderer.render(
        in_camera(camera, still.vertices), still.faces, np.array(camera.k), camera.width, camera.height
    ).depth_mm
    off = []
    for frame, place in enumerate(path_of(SEEN)):
        mesh = held(place)
        depth = render_frame(
            renderer, camera, mesh.vertices, mesh.faces,
            background=behind, sensor=ActiveStereo(), seed=1, frame=frame, view=0,
        )  # fmt: skip
        if (one := find_sphere(depth.astype(np.float32), camera.k, RADIUS_MM, background_mm=behind)) is not None:
            off.append(one.center_mm - camera.to_camera(place))
    assert len(off) >= SEEN - 1
    assert np.abs(np.median(off, axis=0)).max() < 1.0
    assert np.sqrt(np.mean(np.square(off))) < 1.5


def ball_depth(center: np.ndarray, radius_mm: float, *, noise_mm: float, seed: int) -> np.ndarray:
    """Exact z-depth (120, 160) of a ball alone, and noise along the rays."""
    v, u = np.mgrid[:120, :160]
    rays = np.stack([(u - 80) / 240, (v - 60) / 240, np.ones(u.shape)], -1)
    a, b = (rays**2).sum(-1), rays @ center
    root = b * b - a * (center @ center - radius_mm**2)
    z = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0)
    return np.where(z > 0, z + np.random.default_rng(seed).normal(0, noise_mm, z.shape), 0)


def test_the_radius_that_the_points_say_is_unbiased_by_noise() -> None:
    """Normals towards noisy points made a ball 0.2 mm smaller."""
    center, said = np.array([20.0, -10.0, 500.0]), []
    for seed in range(30):
        one = find_sphere(ball_depth(center, 30.0, noise_mm=1.0, seed=seed), (240.0, 240.0, 80.0, 60.0), 31.0)
        assert one is not None
        told = radius_of(one.points_mm.astype(np.float64), 31.0, one.center_mm)
        assert told is not None
        said.append(told[0])
    assert np.mean(said) == pytest.approx(30.0, abs=0.08)


@pytest.mark.parametrize("what", ["nothing", "a fist", "a stick", "a head", "a smaller ball", "a larger ball"])
def test_what_is_no_such_ball_is_not_taken_for_one(rig: Rig, what: str) -> None:
    meshes = {
        "nothing": [],
        "a fist": [held(np.array([0.0, -190.0, -80.0]), radius_mm=0.5)],
        "a stick": [cylinder(np.zeros(3), np.array([10.0, 150.0, 20.0]), RADIUS_MM)],
        "a head": [smooth_ball(np.zeros(3), 90.0)],
        "a smaller ball": [smooth_ball(np.zeros(3), RADIUS_MM / 2)],
        "a larger ball": [smooth_ball(np.zeros(3), RADIUS_MM * 2)],
    }[what]
    speck = smooth_ball(np.array([0.0, 1e5, 0.0]), 1.0)
    assert found_in(rig, [joined([speck, *meshes])]) == [None]


def test_an_image_without_returns_has_no_ball() -> None:
    assert find_sphere(np.zeros((40, 60)), (50.0, 50.0, 30.0, 20.0), RADIUS_MM) is None
