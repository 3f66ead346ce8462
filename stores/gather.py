"""The one kernel of resampling depth: nearest pixel, along each axis on its own.

Two images of one optical centre and orientation differ only by their K, so the pixel map is separable:
u' = (u - cx) / fx * fx' + cx'. A 192² crop costs about 0.02 ms; bilinear sampling would invent depth across
edges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip


@nb.njit(cache=True, nogil=True)
def gather(
    image: NDArray[np.uint16], rows: NDArray[np.int64], columns: NDArray[np.int64], out: NDArray[np.uint16]
) -> None:
    """Fill `out[i, j]` with `image[rows[i], columns[j]]`, 0 where either lies outside the image."""
    height, width = image.shape
    for i in range(rows.size):
        v = rows[i]
        if v < 0 or v >= height:
            out[i, :] = 0
            continue
        for j in range(columns.size):
            u = columns[j]
            out[i, j] = image[v, u] if 0 <= u < width else 0
