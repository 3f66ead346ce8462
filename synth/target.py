"""A ball on a stick in a fist: what a rig is calibrated with, as the virtual rig shows it. Meshes in mm, rig frame."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from .props import Mesh, cylinder, joined, tube
from .room import Axes

F64 = NDArray[np.float64]

RINGS: Final = 48
REACH_MM: Final = np.array([110.0, 90.0, 110.0])
"""How far the ball goes from the middle of the volume: to the right, up, back."""


def smooth_ball(center_mm: F64, radius_mm: float) -> Mesh:
    """Rings of 48, on average as large as the ball: flat faces of a coarse one would be a bias of their own."""
    angle = np.linspace(-np.pi / 2 + 0.02, np.pi / 2 - 0.02, RINGS)
    # A chord over an angle a lies r a² / 24 inside its arc, on average; so it is across, along the rings and down.
    radius_mm = radius_mm * (1 + (2 * np.pi / RINGS) ** 2 / 24 + (np.pi / RINGS) ** 2 / 24)
    path = center_mm + radius_mm * np.sin(angle)[:, None] * np.array([0.0, 1.0, 0.0])
    return tube(path, radius_mm * np.cos(angle), sides=RINGS)


def held_ball(center_mm: F64, radius_mm: float, axes: Axes) -> Mesh:
    """Ball, stick, fist and forearm; the arm comes from below and behind.

    Args:
        center_mm: (3,) of the ball.
        radius_mm: of the ball.
        axes: what is right, up and behind for the cameras.
    """
    along = 0.3 * axes.right - axes.up + 0.4 * axes.back
    along /= np.linalg.norm(along)
    fist = center_mm + (160 + radius_mm) * along
    stick = cylinder(center_mm + (radius_mm + 60) * along, 62 * along, 5.0)
    arm = cylinder(fist + 180 * along, 150 * along, 38.0)
    return joined([smooth_ball(center_mm, radius_mm), stick, smooth_ball(fist, 42.0), arm])


def ball_path(count: int, axes: Axes) -> F64:
    """(count, 3) mm: through the whole volume about the rig's origin, not about its middle."""
    s = np.linspace(0, 1, count)[:, None]
    turns, phase = np.array([3.1, 2.3, 1.7]), np.array([0.1, 0.4, 0.7])
    swing = REACH_MM * np.sin(2 * np.pi * (turns * s + phase))
    out: F64 = swing @ np.stack([axes.right, -axes.up, axes.back])
    return out
