"""`cuts.py` compiled: importing this module loads numba, and the kernel from its cache or compiles it (1 s, once)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba

# isort: split
import numba as nb  # isort: skip

DTYPES: Final = (np.dtype(np.uint16), np.dtype(np.float32))


def _signature(depth: Any) -> Any:
    """Of any layout and read-only, which lets every array in: no call compiles anew."""
    image = nb.types.Array(depth, 2, "A", readonly=True)
    return nb.void(image, nb.float64[:, ::1], nb.float32, nb.float32, nb.float32, nb.float32[:, ::1])


@nb.njit([_signature(nb.uint16), _signature(nb.float32)], cache=True, nogil=True, error_model="numpy")
def cut(
    depth: NDArray[Any],
    lines: NDArray[np.float64],
    unit_mm: np.float32,
    center_z_mm: np.float32,
    half_mm: np.float32,
    out: NDArray[np.float32],
) -> None:
    """One crop into `out` (P, P), from the columns and rows `lines` (2, P) of an image (H, W)."""
    height, width = depth.shape
    side = out.shape[0]
    columns = np.empty(side, np.int64)
    for j in range(side):
        column = lines[0, j]
        columns[j] = np.int64(column) if 0 <= column < width else -1
    for i in range(side):
        row = lines[1, i]
        line = out[i]
        if not 0 <= row < height:
            line[:] = 1
            continue
        image = depth[np.int64(row)]
        for j in range(side):
            line[j] = image[columns[j]] if columns[j] >= 0 else 0
        # A loop of its own: this one runs on vectors.
        for j in range(side):
            depth_mm = line[j] * unit_mm
            scaled = (depth_mm - center_z_mm) / half_mm
            line[j] = scaled if depth_mm > 0 and -1 <= scaled <= 1 else np.float32(1)
