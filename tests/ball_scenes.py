"""A ball on a stick in a fist, moved before cameras: what calibration is tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stores.camera import Camera, Rig
from handloom.synth.props import Mesh
from handloom.synth.render import open_renderer
from handloom.synth.room import Axes, room
from handloom.synth.scene import in_camera
from handloom.synth.target import ball_path, held_ball, smooth_ball

__all__ = ["RADIUS_MM", "errors", "held", "hidden", "images_of", "path_of", "smooth_ball"]

F64 = NDArray[np.float64]
RADIUS_MM = 30.0
AXES = Axes(np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, 1.0]), has_front=True)


def held(center: F64, *, radius_mm: float = RADIUS_MM) -> Mesh:
    """Ball, stick, fist and forearm before cameras that look along z."""
    return held_ball(center, radius_mm, AXES)


def path_of(count: int) -> F64:
    """(n, 3) mm: through the whole volume, not about its middle."""
    return ball_path(count, AXES)


def images_of(
    rig: Rig, meshes: list[Mesh], *, noise_mm: float, bias_mm: tuple[float, ...], seed: int
) -> dict[tuple[int, int], NDArray[np.uint16]]:
    """Depth of every frame and view before a person, a desk and a wall, with noise and a bias a camera."""
    renderer, rng = open_renderer("raster"), np.random.default_rng(seed)
    still = room(rig)
    out = {}
    for view, camera in enumerate(rig.cameras):

        def drawn(mesh: Mesh, camera: Camera = camera) -> Any:
            vertices = in_camera(camera, mesh.vertices)
            return renderer.render(vertices, mesh.faces, np.array(camera.k), camera.width, camera.height).depth_mm

        behind = drawn(still)
        for frame, mesh in enumerate(meshes):
            front = drawn(mesh)
            z = np.where((front > 0) & ((behind == 0) | (front < behind)), front, behind).astype(np.float64)
            measured = z + bias_mm[view] + rng.normal(0, noise_mm, z.shape)
            steps = np.rint(measured / camera.depth_unit_mm)
            out[frame, view] = np.where(z > 0, steps, 0).astype(np.uint16)
    return out


def hidden(rig: Rig) -> Rig:
    """The same cameras, their places unknown."""
    return Rig(
        tuple(replace(c, r=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), t=(0.0, 0.0, 0.0)) for c in rig.cameras)
    )


def errors(found: Rig, truth: Rig) -> list[tuple[float, float]]:
    """(degrees, mm) by which each camera's pose in the first camera's frame is off."""
    out = []
    a0, b0 = found.cameras[0], truth.cameras[0]
    for a, b in zip(found.cameras[1:], truth.cameras[1:], strict=True):
        ra, rb = a.rotation @ a0.rotation.T, b.rotation @ b0.rotation.T
        ta, tb = a.translation - ra @ a0.translation, b.translation - rb @ b0.translation
        angle = np.degrees(np.arccos(np.clip((np.trace(ra @ rb.T) - 1) / 2, -1, 1)))
        out.append((float(angle), float(np.linalg.norm(ta - tb))))
    return out
