"""Randomness of the sensor kernels: counted draws, and fields that are smooth over a window.

Every draw is hashed from (seed, frame, view, absolute pixel or block), so a window of a frame holds the frame's
own bits, and two frames or views are independent. The device functions are inlined into the kernels of other
modules; numba looks at a kernel's own file only, so `stores/numba_cache.py` keys its folder by all of them.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip

F32 = NDArray[np.float32]

NORMAL: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)], np.float32)
"""A standard normal deviate by 12 bits, 4096 equally likely values: a tenth of Box-Muller's cost."""


UNIFORM: Final = np.array([NormalDist().cdf(i / 256 - 4) for i in range(2049)], np.float32)
"""Probability that a normal deviate is less than i / 256 − 4: makes a uniform one of it."""


def key_of(seed: int, frame: int, view: int) -> np.uint64:
    """64 bits that differ in half of their places for any two images: three rounds of splitmix64."""
    mask, key = 2**64 - 1, 0
    for value in (seed, frame, view):
        key = (key ^ value) + 0x9E3779B97F4A7C15 & mask
        key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & mask
        key = (key ^ key >> 27) * 0x94D049BB133111EB & mask
        key ^= key >> 31
    return np.uint64(key)


def floats(*values: float) -> tuple[float, ...]:
    """Every number a float: an integer in its place would compile a kernel anew."""
    return tuple(float(value) for value in values)


@nb.njit(cache=True, inline="always")
def mix(x):  # type: ignore[no-untyped-def]
    """The finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@nb.njit(cache=True, inline="always")
def draw(key, u, v):  # type: ignore[no-untyped-def]
    """64 random bits of pixel (u, v); blocks have counters of their own by an offset of u."""
    counter = (np.uint64(v) << np.uint64(32)) | np.uint64(u)
    return mix(key + counter * np.uint64(0x9E3779B97F4A7C15))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def pixel_noise(key, left, row, normal, luck):  # type: ignore[no-untyped-def]
    """Fill `normal` and `luck` (n,), a normal and a uniform deviate for each pixel from column `left` on."""
    for u in range(normal.size):
        bits = draw(key, left + u, row)
        normal[u] = NORMAL[bits & np.uint64(4095)]
        luck[u] = np.float32((bits >> np.uint64(40)) & np.uint64(0xFFFFFF)) * np.float32(2**-24)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def lattice_row(key, row, left, pitch, out):  # type: ignore[no-untyped-def]
    """Fill `out` (4, W): four fields of unit variance along a row of a lattice, from column `left` on.

    Normal deviates at nodes `pitch` pixels apart, interpolated; half-way between two of them their mean has half
    their variance, which is made up for.
    """
    place, within, bits_here = left // pitch, left % pitch, draw(key, left // pitch + 0x40000000, row)
    u, width = 0, out.shape[1]
    while u < width:
        bits_next = draw(key, place + 1 + 0x40000000, row)
        run = min(pitch - within, width - u)
        for j in range(run):
            share = np.float32(within + j + 0.5) / np.float32(pitch)
            rest = np.float32(1) - share
            unit = np.float32(1) / np.sqrt(share * share + rest * rest)
            for i in range(4):
                here = NORMAL[(bits_here >> np.uint64(12 * i)) & np.uint64(4095)]
                ahead = NORMAL[(bits_next >> np.uint64(12 * i)) & np.uint64(4095)]
                out[i, u + j] = (rest * here + share * ahead) * unit
        u, place, within, bits_here = u + run, place + 1, 0, bits_next


@nb.njit(cache=True, nogil=True, error_model="numpy")
def between(above, below, place, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with the field between two rows of the lattice, at `place` (0 to 1) of the way."""
    rest = np.float32(1) - place
    unit = np.float32(1) / np.sqrt(place * place + rest * rest)
    for i in range(out.size):
        out[i] = (rest * above[i] + place * below[i]) * unit


@nb.njit(cache=True, nogil=True, error_model="numpy")
def uniform(values):  # type: ignore[no-untyped-def]
    """Turn normal deviates (n,) into uniform ones, in place."""
    low, high = np.float32(-4), np.float32(4)
    for u in range(values.size):
        x = values[u]
        x = low if x < low else x
        x = high if x > high else x
        values[u] = UNIFORM[np.int32((x + high) * np.float32(256))]
