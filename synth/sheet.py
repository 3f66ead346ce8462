"""A contact sheet: samples side by side, every camera's crop with the skeleton over it, below it the bones.

Drawn with OpenCV in RGBA, what is not seen transparent, so that one picture sits on a light and on a dark page.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.crops import crop_k, resample
from ..stores.joints import FINGERS, OPENXR26, Layout
from ..stores.recording import NO_PART, Recording

SHOWN_MM: Final = 260.0
"""Side of the cube around the palm that a tile shows: a whole hand, little of the arm."""
TILE_PX: Final = 128
WIDTH_PX: Final = 1600
"""Of the sheet, which is meant to be seen at two thirds of it."""
GAP_PX: Final = 10
CELL: Final = (128, 140, 153, 34)
FINGER_RGB: Final = {
    "thumb": (229, 72, 77),
    "index": (245, 165, 36),
    "middle": (48, 164, 108),
    "ring": (59, 130, 246),
    "little": (181, 101, 216),
    "": (139, 149, 161),
}
"""One colour a finger; wrist and palm share the last."""
FIXED_POINT: Final = 4
"""Bits of OpenCV's sub-pixel coordinates."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a sheet shows of n samples by V cameras."""

    rows: NDArray[np.int64]
    """(n,) of the recording."""
    depth: NDArray[np.uint16]
    """(n, V, P, P) in each camera's unit."""
    parts: NDArray[np.uint8] | None
    """(n, V, P, P), 255 where there is no hand; None where the recording keeps none."""
    joints_px: NDArray[np.float64]
    """(n, V, J, 2) in these pictures."""
    joints_z_mm: NDArray[np.float64]
    """(n, V, J)."""
    center_z: NDArray[np.float64]
    """(n, V) in each camera's unit; 0 where the hand is not seen."""
    unit_mm: NDArray[np.float32]
    """(V,)."""
    layout: Layout


def read_shown(recording: Recording, rows: NDArray[np.int64]) -> Shown:
    """Crops and skeletons of some rows, the cube around each hand alone."""
    crops, labels, layout = recording.crops, recording.labels, recording.layout
    assert crops is not None
    assert labels is not None
    assert layout is not None
    stored, k, center = (crops.read_rows(name, rows.tolist()) for name in ("crop", "k", "center"))
    seen = crops.read_rows("center_source", rows.tolist()) > 0
    bones = crops.read_rows("parts", rows.tolist()) if "parts" in crops.columns else None
    joints = labels.read_rows("joints", rows.tolist())
    shape = (len(rows), recording.n_views, TILE_PX, TILE_PX)
    depth, parts = np.zeros(shape, np.uint16), np.full(shape, NO_PART, np.uint8)
    pixels = np.full((*shape[:2], len(layout), 2), np.nan)
    z = np.zeros(pixels.shape[:3])
    for i, view in np.argwhere(seen):
        camera = recording.rig.cameras[view]
        new_k = crop_k(center[i, view], camera.k, crop_px=TILE_PX, window_mm=SHOWN_MM)
        depth[i, view] = resample(stored[i, view], k[i, view], new_k, width=TILE_PX, height=TILE_PX)
        if bones is not None:
            # Outside the crop `resample` gives 0: number the bones from 1 meanwhile, nothing being 0.
            moved = resample(bones[i, view] + np.uint8(1), k[i, view], new_k, width=TILE_PX, height=TILE_PX)
            parts[i, view] = moved - np.uint8(1)
        there = camera.to_camera(joints[i])
        pixels[i, view], z[i, view] = project(there, new_k), there[:, 2]
    unit = recording.depth_unit_mm
    return Shown(
        rows, depth, None if bones is None else parts, pixels, z, np.where(seen, center[..., 2], 0) / unit, unit, layout
    )


def draw_sheet(shown: Shown) -> NDArray[np.uint8]:
    """(H, W, 4) RGBA."""
    count, views = shown.depth.shape[:2]
    lines = 1 if shown.parts is None else 2
    block = (lines * TILE_PX + GAP_PX + 14, views * TILE_PX + GAP_PX)
    columns = max(1, min((WIDTH_PX + GAP_PX) // block[1], count))
    sheet = np.zeros((-(-count // columns) * block[0], columns * block[1], 4), np.uint8)
    for i in range(count):
        top, left = i // columns * block[0], i % columns * block[1]
        for view in range(views):
            x = left + view * TILE_PX
            sheet[top : top + TILE_PX - 1, x : x + TILE_PX - 1] = _depth_tile(shown, i, view)[:-1, :-1]
            if shown.parts is not None:
                y = top + TILE_PX
                sheet[y : y + TILE_PX - 1, x : x + TILE_PX - 1] = _parts_tile(shown.parts[i, view])[:-1, :-1]
        label = sheet[top + lines * TILE_PX : top + block[0]]
        place, colour = (left, 12), (130, 140, 150, 255)
        cv2.putText(label, str(int(shown.rows[i])), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
    return sheet[:, :-GAP_PX]


def _depth_tile(shown: Shown, i: int, view: int) -> NDArray[np.uint8]:
    """Near is bright, and the skeleton over it, far bones first."""
    depth, center = shown.depth[i, view].astype(np.float32), shown.center_z[i, view]
    tile = np.empty((TILE_PX, TILE_PX, 4), np.uint8)
    tile[:] = CELL
    if center == 0:
        return tile
    near = np.clip(0.5 - (depth - center) * shown.unit_mm[view] / (0.7 * SHOWN_MM), 0, 1)[..., None]
    grey = np.array([46, 58, 78]) + near * np.array([160, 164, 156])
    inside = (depth > 0) & (np.abs(depth - center) * shown.unit_mm[view] < SHOWN_MM / 2)
    tile[inside, :3], tile[inside, 3] = grey[inside], 255
    behind = (depth > 0) & ~inside
    tile[behind] = (128, 140, 153, 90)
    points = shown.joints_px[i, view]
    z = shown.joints_z_mm[i, view]
    edges = [(a, b) for a, b in shown.layout.edges if np.isfinite(points[[a, b]]).all()]
    for a, b in sorted(edges, key=lambda edge: -float(z[list(edge)].mean())):
        finger = next((f for f in FINGERS if shown.layout.points[b].startswith(f)), "")
        one, two = (np.rint(points[[a, b]] * 2**FIXED_POINT)).astype(int).tolist()
        cv2.line(tile, one, two, (*FINGER_RGB[finger], 255), 2, cv2.LINE_AA, FIXED_POINT)
    return tile


def _parts_tile(parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return _PART_RGBA[parts]


def _part_colours() -> NDArray[np.uint8]:
    """(256, 4): a finger's colour, lighter towards its tip; arm and nothing grey."""
    out = np.zeros((256, 4), np.uint8)
    out[:] = CELL
    out[: len(OPENXR26) + 1] = (100, 110, 124, 255)
    for bone, name in enumerate(OPENXR26):
        finger = next((f for f in FINGERS if name.startswith(f)), "")
        segments = ("metacarpal", "proximal", "intermediate", "distal", "tip")
        segment = next((i for i, part in enumerate(segments) if name.endswith(part)), 0)
        lighter = 0.16 * segment
        colour = np.array(FINGER_RGB[finger]) * (1 - lighter) + 255 * lighter
        out[bone, :3], out[bone, 3] = colour, 255
    return out


_PART_RGBA: Final = _part_colours()
