"""Randomness of the sensor kernels: counted draws, and fields that are smooth over a window.

Every draw is hashed from (seed, frame, view, absolute pixel or block), so a window of a frame holds the frame's
own bits, and two frames or views are independent. The device functions are inlined into the kernels of other
modules; numba looks at a kernel's own file only, so `stores/numba_cache.py` keys its folder by all of them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip

F32 = NDArray[np.float32]

LANES: Final = 32
"""Row passes run over whole multiples of so many pixels, into columns beyond the row that buffers keep for it: what
is left over would otherwise be done one by one."""
_NORMAL: Final = tuple(np.float32(x) for x in (3.2931036, 0.90065564, -1.6678830, 2.4102063))
"""Odd polynomial that makes a normal deviate of the sum of four bytes, −1 to 1: least squares against the quantiles,
unit variance. Kurtosis 3.000; beyond 3 σ lie 0.269 % (0.270 %), beyond 4 σ 57 ppm (63 ppm)."""

_ERROR_FUNCTION: Final = tuple(
    np.float32(x) for x in (0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
)
"""erfc x = (1 + a1 x + … + a6 x⁶)^−16 within 3e-7 (Abramowitz & Stegun 1964, 7.1.28);
the powers in float32 add as much again."""


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


@nb.njit(cache=True, inline="always")
def _bits(counter, one, other):  # type: ignore[no-untyped-def]
    """32 random bits by two rounds of multiplication with 64 bits of a key: vectors have no 64-bit multiplication."""
    # Each step is cut to 32 bits, or numba would go on with 64.
    x = np.uint32(np.uint32(counter * np.uint32(0x9E3779B9)) + one)
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) + other)
    x = np.uint32(x * np.uint32(0x846CA68B))
    return np.uint32(x ^ np.uint32(x >> np.uint32(16)))


@nb.njit(cache=True, inline="always")
def _normal(x):  # type: ignore[no-untyped-def]
    """The normal deviate of 32 random bits."""
    c0, c1, c2, c3 = _NORMAL
    mask = np.uint32(0xFF00FF)
    pair = np.uint32(np.uint32(x & mask) + np.uint32(np.uint32(x >> np.uint32(8)) & mask))
    total = np.int32(np.uint32(np.uint32(pair & np.uint32(0xFFFF)) + np.uint32(pair >> np.uint32(16))))
    t = np.float32(np.int32(total - np.int32(510))) * np.float32(1 / 510)
    t2 = t * t
    return t * (c0 + t2 * (c1 + t2 * (c2 + t2 * c3)))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def normals(key, left, row, n, out):  # type: ignore[no-untyped-def]
    """Fill `out` with a normal deviate for each of `n` pixels from column `left` on."""
    bits, begin = draw(key, 0x60000000, row), np.uint32(left)
    one, other = np.uint32(bits), np.uint32(bits >> np.uint64(32))
    for u in range(n):
        out[u] = _normal(_bits(np.uint32(begin + np.uint32(u)), one, other))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def pixel_noise(key, left, row, n, normal, luck):  # type: ignore[no-untyped-def]
    """Fill `normal` and `luck` with a normal and a uniform deviate for each of `n` pixels from column `left` on."""
    bits, begin = draw(key, 0x60000000, row), np.uint32(left)
    one, other = np.uint32(bits), np.uint32(bits >> np.uint64(32))
    for u in range(n):
        x = _bits(np.uint32(begin + np.uint32(u)), one, other)
        normal[u] = _normal(x)
        x = np.uint32(np.uint32(x + one) * np.uint32(0x9E3779B1))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x85EBCA77))
        luck[u] = np.float32(np.int32(np.uint32(x >> np.uint32(8)))) * np.float32(2**-24)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def lattice_columns(left, pitch, n):  # type: ignore[no-untyped-def]
    """(n,) int32 node before each of `n` columns from `left` on, the first's 0; (2, n) what it and the next give.

    Half-way between two normal deviates their mean has half their variance, which is made up for.
    """
    node, shares = np.empty(n, np.int32), np.empty((2, n), np.float32)
    for u in range(n):
        after = np.float32((left + u) % pitch + 0.5) / np.float32(pitch)
        before = np.float32(1) - after
        unit = np.float32(1) / np.sqrt(after * after + before * before)
        node[u], shares[0, u], shares[1, u] = (left + u) // pitch - left // pitch, before * unit, after * unit
    return node, shares


@nb.njit(cache=True, nogil=True, error_model="numpy")
def lattice_row(key, row, first_node, first, last, node, shares, nodes, out, at):  # type: ignore[no-untyped-def]
    """Four fields of unit variance along a row of a lattice: normal deviates at nodes, interpolated.

    Args:
        key: of the image.
        row: of the lattice.
        first_node: that lies before the first column.
        first: column to fill from ...
        last: ... to before this one.
        node: of `lattice_columns` ...
        shares: ... all as one.
        nodes: float32 of any content, a value for each node.
        out: float32, the fields one after the other, as many columns as `node` has ...
        at: ... from this index on.
    """
    width = node.size
    for i in range(4):
        # A field's nodes begin far from another's and from the pixels.
        normals(key, first_node + 0x40000000 + i * 0x8000000, row, nodes.size, nodes)
        begin, skip, rest = nb.uintp(at + i * width + first), nb.uintp(first), nb.uintp(width + first)
        for u in range(last - first):
            j = nb.uintp(u)
            place = nb.uintp(node[skip + j])
            out[begin + j] = shares[skip + j] * nodes[place] + shares[rest + j] * nodes[place + nb.uintp(1)]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def between(lattice, above, below, n, rest, place, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with the field between two rows of the lattice, at these indices, by `rest` and `place`."""
    one, other = nb.uintp(above), nb.uintp(below)
    for i in range(n):
        out[i] = rest * lattice[one + nb.uintp(i)] + place * lattice[other + nb.uintp(i)]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def uniform(values, n):  # type: ignore[no-untyped-def]
    """Turn `n` normal deviates into uniform ones, in place: each becomes the probability of a lesser one."""
    a1, a2, a3, a4, a5, a6 = _ERROR_FUNCTION
    one = np.float32(1)
    for u in range(n):
        value = values[u]
        x = abs(value) * np.float32(np.sqrt(0.5))
        power = one + x * (a1 + x * (a2 + x * (a3 + x * (a4 + x * (a5 + x * a6)))))
        power *= power
        power *= power
        power *= power
        power *= power
        beyond = np.float32(0.5) / power
        values[u] = one - beyond if value > 0 else beyond


@nb.njit(cache=True, nogil=True, error_model="numpy")
def store(line, n, out, at):  # type: ignore[no-untyped-def]
    """Put `n` depths in units, int32, into `out` from index `at` on."""
    begin = nb.uintp(at)
    for u in range(n):
        out[begin + nb.uintp(u)] = np.uint16(line[u])
