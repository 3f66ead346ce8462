"""A ball on a stick in a fist, moved before cameras: what calibration is tested on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from handloom.stores.camera import Camera, Rig
from handloom.synth.props import Mesh, cylinder, joined, tube
from handloom.synth.render import open_renderer
from handloom.synth.room import room
from handloom.synth.scene import in_camera

F64 = NDArray[np.float64]
RADIUS_MM = 30.0
HOLD = np.array([0.3, 1.0, 0.4]) / np.linalg.norm([0.3, 1.0, 0.4])


def smooth_ball(center: F64, radius_mm: float) -> Mesh:
    """Rings of 48, on average as large as the ball: flat faces of a coarse one would be a bias of their own."""
    angle = np.linspace(-np.pi / 2 + 0.02, np.pi / 2 - 0.02, 48)
    # A chord over an angle a lies r a² / 24 inside its arc, on average; so it is across, along the rings and down.
    radius_mm = radius_mm * (1 + (2 * np.pi / 48) ** 2 / 24 + (np.pi / 48) ** 2 / 24)
    path = center + radius_mm * np.sin(angle)[:, None] * np.array([0.0, 1.0, 0.0])
    return tube(path, radius_mm * np.cos(angle), sides=48)


def held(center: F64, *, radius_mm: float = RADIUS_MM) -> Mesh:
    """Ball, stick, fist and forearm."""
    fist = center + 190 * HOLD
    stick = cylinder(center + (radius_mm + 60) * HOLD, 62 * HOLD, 5.0)
    return joined(
        [smooth_ball(center, radius_mm), stick, smooth_ball(fist, 42.0), cylinder(fist + 180 * HOLD, 150 * HOLD, 38.0)]
    )


def path_of(count: int) -> F64:
    """(n, 3) mm: through the whole volume, not about its middle."""
    s = np.linspace(0, 1, count)[:, None]
    turns, phase = np.array([3.1, 2.3, 1.7]), np.array([0.1, 0.4, 0.7])
    out: F64 = np.array([110.0, 90.0, 110.0]) * np.sin(2 * np.pi * (turns * s + phase))
    return out


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
