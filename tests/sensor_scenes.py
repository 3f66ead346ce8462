"""Clean depth for the tests of sensors: planes, steps and something like a hand, before a camera of 580 px."""

from __future__ import annotations

from typing import Any

import numpy as np

from handloom.synth.sensor import Sensor, apply

K = (580.0, 580.0, 319.5, 239.5)
WIDTH, HEIGHT = 640, 480


def sense(depth: np.ndarray, sensor: Sensor | None, **options: Any) -> np.ndarray:
    """Depth in mm, at a unit fine enough not to matter."""
    unit = 0.1
    values = {"seed": 3, "frame": 5, "view": 1, "depth_unit_mm": unit, **options}
    return apply(sensor, depth.astype(np.float32), K, **values) * unit


def plane(z_mm: float, tilt_deg: float = 0.0, *, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Depth of a plane through the optical axis at z, turned about the vertical; 0 where it lies behind the camera."""
    x = (np.arange(width) - K[2]) / K[0]
    inverse = (1 - np.tan(np.radians(tilt_deg)) * x) / z_mm
    depth = np.where(inverse > 1e-4, 1 / np.maximum(inverse, 1e-4), 0)
    return np.tile(depth, (height, 1)).astype(np.float32)


def step(near_mm: float, far_mm: float, first: int, last: int) -> np.ndarray:
    """A bar from column `first` to before `last` over the whole height; before a wall, or nothing where far is 0."""
    depth = np.full((HEIGHT, WIDTH), far_mm, np.float32)
    depth[:, first:last] = near_mm
    return depth


def hand_like() -> np.ndarray:
    """Fingers over a palm: edges, slopes, shadows of one on the other."""
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    depth = np.zeros((HEIGHT, WIDTH))
    palm = ((u - 330) / 70) ** 2 + ((v - 260) / 90) ** 2
    depth[palm < 1] = (720 - 40 * np.sqrt(np.maximum(1 - palm, 0)))[palm < 1]
    for i in range(4):
        across = (u - 280 - 32 * i) / 9
        finger = (np.abs(across) < 1) & (v > 120) & (v < 290)
        depth[finger] = (640 + 0.1 * v - 8 * np.sqrt(np.maximum(1 - across**2, 0)))[finger]
    return depth.astype(np.float32)
