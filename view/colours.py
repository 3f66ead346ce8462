"""Colours that people tell apart whatever their eyes: fingers, cameras, depth.

The eight of Okabe and Ito ("Color Universal Design", 2008) for fingers and cameras, and cividis (Nuñez, Anderton and
Renslow, PLoS ONE 13(7), 2018) for depth. Where two things share a colour, a second mark tells them apart: predicted
bones are dashed on the page and all of one colour in Rerun.
"""

from __future__ import annotations

from typing import Final

from ..stores.joints import FINGER_COLORS, finger_of

CAMERA_COLORS: Final = ("#56b4e9", "#e69f00", "#cc79a7", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#b0b7bf")
"""In turns where a rig has more cameras."""
PREDICTED: Final = "#ff40e0"
"""Of predicted bones where lines cannot be dashed."""


def finger_color(point: str) -> str:
    """`#rrggbb` of a layout's point, and of the bone that ends in it."""
    return FINGER_COLORS[finger_of(point)]


def camera_color(view: int) -> str:
    """`#rrggbb` of a camera's points."""
    return CAMERA_COLORS[view % len(CAMERA_COLORS)]


def rgb(color: str) -> tuple[int, int, int]:
    """Of `#rrggbb`."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
