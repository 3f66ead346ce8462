"""The network's inputs, cut out of depth images: nearest pixel, normalised, +1 where no hand is.

A crop is the image of a camera of its own (`stores/crops.py`): separable, so P columns and P rows say which pixels it
takes. Many are cut by a compiled kernel (`cut_kernel.py`), a few by numpy, as loading numba takes as long as the kernel
saves in 40,000 crops of 64 px; both do the same arithmetic in the same order and agree to the bit. CPU time of a crop
in batches: 0.015 ms at 64², 0.031 at 128², compiled 0.004 and 0.008 (benchmarks/predict.py).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

COMPILED_FROM: Final = 40_000
"""Crops for which the kernel is worth its import."""
KERNEL: Final = f"{__package__}.cut_kernel"


class Image(Protocol):
    """What is cut out of; `inputs.DepthView` is one."""

    @property
    def depth(self) -> NDArray[Any]:
        """(H, W) uint16 in the camera's unit, or floating mm."""

    @property
    def k(self) -> NDArray[np.float64]:
        """(4,)."""

    @property
    def unit_mm(self) -> float:
        """Millimetres of one step of `depth`."""


def cut_all(
    images: Sequence[Image], centers_mm: NDArray[np.float64], *, input_px: int, cube_mm: float
) -> NDArray[np.float32]:
    """The inputs (B, 1, P, P) in [-1, 1] of B images around centres (B, 3) mm, all before their camera."""
    out = np.empty((len(images), 1, input_px, input_px), np.float32)
    half_mm = np.float32(cube_mm / 2)
    kernel = sys.modules.get(KERNEL)
    places = _lines(images, centers_mm, input_px, cube_mm)
    for crop, image, center, lines in zip(out[:, 0], images, centers_mm, places, strict=True):
        compiled = kernel is not None and image.depth.dtype in kernel.DTYPES
        fill = kernel.cut if kernel is not None and compiled else _cut
        fill(image.depth, lines, np.float32(image.unit_mm), np.float32(center[2]), half_mm, crop)
    return out


def compile_for(crops: int | None) -> None:
    """Load the kernel if so many crops are to come (None: nobody knows)."""
    if crops is not None and crops >= COMPILED_FROM:
        importlib.import_module(KERNEL)


def _lines(
    images: Sequence[Image], centers_mm: NDArray[np.float64], input_px: int, cube_mm: float
) -> NDArray[np.float64]:
    """(B, 2, P): the columns and rows that each crop takes of its image; some lie outside it.

    This is `crops.crop_k` and its inverse, in plain numbers up to the lines: arrays of one cost ten times as much.
    """
    middle = (input_px - 1) / 2
    numbers = []
    for image, (x, y, z) in zip(images, centers_mm.tolist(), strict=True):
        fx, fy, cx, cy = image.k.tolist()
        crop_fx = input_px * z / cube_mm
        crop_fy = crop_fx * fy / fx
        numbers.append((middle - crop_fx * x / z, middle - crop_fy * y / z, crop_fx, crop_fy, fx, fy, cx, cy))
    crop_c, crop_f, f, c = np.array(numbers, np.float64).reshape(-1, 4, 2, 1).swapaxes(0, 1)
    grid, half = _grid(input_px)
    lines: NDArray[np.float64] = grid - crop_c
    lines /= crop_f
    lines *= f
    lines += c
    lines += half
    return np.floor(lines, out=lines)


@lru_cache(maxsize=8)
def _grid(input_px: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels of a crop, and what is added before rounding down.

    A 64 px input out of a stored crop falls between two pixels everywhere: were all ties rounded up, the hand would
    move by half a pixel, 1.2 mm. Rounded up and down in turns they leave it where it is.
    """
    grid = np.arange(input_px, dtype=np.float64)
    return grid, 0.5 + 1e-3 * (-1.0) ** grid


def _cut(
    depth: NDArray[Any],
    lines: NDArray[np.float64],
    unit_mm: np.float32,
    center_z_mm: np.float32,
    half_mm: np.float32,
    out: NDArray[np.float32],
) -> None:
    """One crop into `out` (P, P), from the columns and rows `lines` (2, P) of an image (H, W)."""
    columns, rows = lines.astype(np.intp)
    found = depth.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
    # In place and in few passes: each takes as long as the gathering.
    np.multiply(found, unit_mm, out=out, casting="same_kind")
    np.subtract(out, center_z_mm, out=out)
    np.divide(out, half_mm, out=out)
    shown = np.abs(out) <= 1
    if not center_z_mm > half_mm:  # else a depth of 0 lies before the cube anyhow
        shown &= found > 0
    np.copyto(out, 1, where=~shown)
    outside = (lines < 0) | (lines >= [[depth.shape[1]], [depth.shape[0]]])
    if outside.any():
        out[:, outside[0]] = 1
        out[outside[1]] = 1
