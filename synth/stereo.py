"""Active stereo (RealSense D415, D435): what matching two images with a projected texture makes of a scene.

All in pixels of disparity d = f b / z, as the device works, with θ the angle of incidence:

    σd = 0.08 px (1 + `slant` (1/cos θ − 1)), so σz = z² / (f b) σd   Keselman et al. 2017, eq. 2; 0.08 px is what
                                                  Grunnet-Jepsen et al. (tuning guide) call a good D4xx; slant is ours
    d rounded to 1/32 px                          Grunnet-Jepsen et al. (white paper on subpixel linearity)
    matching window of 7 × 7 px                   Keselman et al. 2017 (of the R200; we take it for the D4xx too)
    nothing nearer than 126 px of disparity       tuning guide

A window at an edge holds two surfaces and the nearer one wins: it grows by half a window, over other surfaces
and over nothing. What the second imager does not see there, the grown surface taken into account as by the
device's left-right check, is lost, and so is the band at the border that lies outside of its image. Windows
overlap, so noise, wobble of edges and lost matches are smooth fields over the window, not dots: normal
deviates at a lattice of the window's pitch, interpolated, brought back to unit variance. That all is ours.

Cost: see benchmarks/sensors.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from .sensor_noise import LANES, between, floats, lattice_columns, lattice_row, normals, store, uniform
from .sensor_shadows import mark_unseen
from .sensor_surfaces import (
    frame_row,
    grown,
    incidence,
    inverted,
    jump,
    movements,
    reserve,
    spans,
    widened,
)

import numba as nb  # isort: skip

F32 = NDArray[np.float32]

WOBBLE_PX: Final = 2
"""Edges move by no more than this beyond half a window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveStereo:
    """Parameters of an active stereo camera; the defaults are a D435's, its depth in the left imager's pixels."""

    # pydantic reads this where a configuration holds a sensor.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    baseline_mm: Annotated[float, Gt(0)] = 50.0
    """Between the imagers; a D415 has 55."""
    second_imager: Literal[1, -1] = 1
    """Its side: 1 towards +x (shadows fall to the left of what casts them), −1 towards −x."""
    subpixel_px: Annotated[float, Ge(0)] = 0.08
    """σ of the disparity, face on."""
    slant: Annotated[float, Ge(0)] = 0.5
    """Share by which σ grows per 1/cos θ beyond 1."""
    shared: Annotated[float, Interval(ge=0, le=1)] = 0.8
    """Share of the noise's variance that neighbours have in common, over a window."""
    disparity_step_px: Annotated[float, Ge(0)] = 1 / 32
    """Steps of the disparity; 0 does not quantise."""
    window_px: Annotated[int, Interval(ge=1, le=31)] = 7
    """Side of the matching window; foreground grows by half of it, rounded down."""
    wobble_px: Annotated[float, Ge(0)] = 0.6
    """σ of the further movement of edges, each direction."""
    edge_mm: Annotated[float, Gt(0)] = 12.0
    """A step of depth between neighbours, at 0.5 m and growing with z, that makes an edge."""
    edge_hole: Annotated[float, Interval(ge=0, le=1)] = 0.15
    """Probability that the match at an edge fails."""
    hole: Annotated[float, Interval(ge=0, le=1)] = 0.002
    """Probability that a match fails at 1 m, for want of texture; grows as z²."""
    grazing_from_deg: Annotated[float, Interval(ge=0, le=90)] = 72.0
    """Angle from which matches begin to fail ..."""
    grazing_to_deg: Annotated[float, Interval(ge=0, le=90)] = 87.0
    """... and at which all have failed."""
    bias_mm: float = 0.0
    """Added to every depth."""
    bias_per_m_mm: float = 0.0
    """Added to every depth per metre of it."""
    search_px: Annotated[float, Gt(0)] = 126.0
    """Greatest disparity that is found."""
    min_mm: Annotated[float, Ge(0)] = 100.0
    max_mm: Annotated[float, Gt(0)] = 6000.0
    """Nothing returns from nearer or farther."""


def reach_px(sensor: ActiveStereo) -> int:
    """Pixels around a surface beyond which nothing matters to how it is seen."""
    return 2 * max(sensor.window_px // 2, 1) + WOBBLE_PX


def margin_px(sensor: ActiveStereo, fx: float, *, near_mm: float, far_mm: float) -> int:
    """Pixels around a window that the sensor must see for what lies between `near_mm` and `far_mm`."""
    shadow = fx * sensor.baseline_mm * (1 / near_mm - 1 / far_mm)
    return 2 * (sensor.window_px // 2) + WOBBLE_PX + 3 + int(np.ceil(shadow))


def sense(
    sensor: ActiveStereo,
    depth_mm: F32,
    k_full: tuple[float, ...],
    window: tuple[int, int],
    depth_unit_mm: float,
    key: np.uint64,
) -> NDArray[np.uint16]:
    """Depth (H, W) in units, 0 = no return, of clean depth (H, W) mm; see `sensor.apply`."""
    out = np.zeros(depth_mm.shape, np.uint16)
    fx, cx = k_full[0], k_full[2]
    fb = fx * sensor.baseline_mm
    low, high = np.cos(np.radians([sensor.grazing_to_deg, sensor.grazing_from_deg]))
    # The first or last column whose match may lie in the second image; its width is that of a centred one.
    border = -0.5 if sensor.second_imager > 0 else 2 * cx + 0.5
    _sense(
        depth_mm, out, k_full, int(window[0]), int(window[1]), key,
        floats(fb, sensor.second_imager, sensor.disparity_step_px, sensor.search_px, border),
        floats(sensor.subpixel_px, sensor.slant, sensor.shared, sensor.wobble_px),
        floats(sensor.edge_mm / 500.0, sensor.edge_hole, sensor.hole, low, high),
        int(sensor.window_px),
        floats(sensor.bias_mm, sensor.bias_per_m_mm, sensor.min_mm, sensor.max_mm, 1.0 / depth_unit_mm),
    )  # fmt: skip
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sense(depth, out, k, left, top, key, matching, noise, failure, window, output):  # type: ignore[no-untyped-def]
    """The kernel; see the module's docstring for the model."""
    height, width = depth.shape
    reserve(height * width)
    fb, side, step_px = np.float32(matching[0]), np.float32(matching[1]), np.float32(matching[2])
    edge_share, wobble = np.float32(failure[0]), np.float32(noise[3])
    numbers = (
        fb, step_px, np.float32(1) / step_px if step_px > 0 else np.float32(0),
        np.float32(noise[0]), np.float32(noise[1]), np.float32(np.sqrt(noise[2])), np.float32(np.sqrt(1 - noise[2])),
        np.float32(failure[1]), np.float32(failure[2] * 1e-6),
        np.float32(failure[3]), np.float32(1.0 / max(failure[4] - failure[3], 1e-6)),
        np.float32(output[0]), np.float32(1 + output[1] * 1e-3),
        np.float32(output[2]), np.float32(output[3]), np.float32(output[4]),
    )  # fmt: skip
    k32 = (np.float32(k[0]), np.float32(k[1]), np.float32(k[2]), np.float32(k[3]))
    disparity = np.empty((height, width), np.float32)
    highest = inverted(depth.reshape(-1), fb, disparity.reshape(-1))
    if highest == 0:
        return
    disparity = grown(disparity, window // 2, edge_share)
    whole = spans(disparity)
    seen = mark_unseen(disparity, whole, side, highest, WOBBLE_PX, True)
    unseen = seen.reshape(-1)
    for v in range(height):
        if whole[1, v] >= 0:
            # The span, and the frame on both sides of it.
            _drop_unmatched(
                unseen, (WOBBLE_PX + v) * seen.shape[1] + whole[0, v], whole[1, v] + 1 - whole[0, v] + 2 * WOBBLE_PX,
                np.float32(left - WOBBLE_PX + whole[0, v]), side, np.float32(matching[3]), np.float32(matching[4]),
            )  # fmt: skip
    reach = widened(whole, WOBBLE_PX, width)
    padded, span = width + LANES, max(window // 2, 1)
    stride = padded + 2 * span
    image = np.zeros((height, stride), np.float32)
    flat, units = image.reshape(-1), out.reshape(-1)
    # Smooth fields: luck, noise, and the wobble in u and v, at the lattice's rows above the pixels' and the next.
    fields = np.empty((height // window + 3) * 4 * padded, np.float32)
    node, column_shares = lattice_columns(left, window, padded)
    nodes, shares = np.empty(node[padded - 1] + 2, np.float32), lattice_columns(top, window, height)[1]
    have, cell_0 = -1, top // window
    luck, drift = np.empty(padded, np.float32), np.empty(padded, np.float32)
    secant, own, steps = np.empty(padded, np.float32), np.empty(padded, np.float32), np.empty(padded, np.int32)
    for v in range(height):
        first, n = reach[0, v], reach[2, v]
        if n == 0:
            continue
        cell = (top + v) // window - cell_0
        for i in range(max(cell, have + 1), cell + 2):
            # It is for two rows of cells.
            low, high = padded, 0
            for row in range(max((cell_0 + i - 1) * window - top, 0), min((cell_0 + i + 1) * window - top, height)):
                low, high = (
                    min(low, reach[0, row]),
                    max(high, reach[0, row] + reach[2, row] if reach[2, row] > 0 else 0),
                )
            lattice_row(key, cell_0 + i, left // window, low, high, node, column_shares.reshape(-1), nodes, fields,
                        4 * i * padded)  # fmt: skip
        have = cell + 1
        rest, place = shares[0, v], shares[1, v]
        above, below = 4 * cell * padded + first, 4 * (cell + 1) * padded + first
        between(fields, above + 2 * padded, below + 2 * padded, n, rest, place, luck)
        between(fields, above + 3 * padded, below + 3 * padded, n, rest, place, drift)
        movements(luck, drift, n, wobble, WOBBLE_PX, seen.shape[1], steps)
        jump(seen, v, first, n, WOBBLE_PX, steps, edge_share, flat, v * stride + span + first)
        frame_row(flat, v * stride + span, width, span)
    line = np.empty(padded, np.int32)
    for v in range(height):
        first, n = reach[0, v], reach[2, v]
        if n == 0:
            continue
        cell = (top + v) // window - cell_0
        rest, place = shares[0, v], shares[1, v]
        above, below = 4 * cell * padded + first, 4 * (cell + 1) * padded + first
        between(fields, above, below, n, rest, place, luck)
        between(fields, above + padded, below + padded, n, rest, place, drift)
        uniform(luck, n)
        normals(key, left + first, top + v, n, own)
        incidence(image, v, first, n, span, edge_share, k32, left, top, secant)
        _measure(flat, v * stride + span + first, n, secant, luck, drift, own, numbers, line)
        store(line, reach[1, v] + 1 - first, units, v * width + first)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _drop_unmatched(marked, at, n, first, side, search, border):  # type: ignore[no-untyped-def]
    """Take for unseen what no match can lie for: `n` pixels from index `at` of `mark_unseen`, column `first`, on."""
    begin = nb.uintp(at)
    for u in range(n):
        i = begin + nb.uintp(u)
        d = abs(marked[i])
        beyond = (first + np.float32(u) - side * d - border) * side < 0
        marked[i] = -d if (d > search) | beyond else marked[i]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _measure(disparity, at, n, secant, luck, drift, own, numbers, out):  # type: ignore[no-untyped-def]
    """Fill `out` with `n` depths in units of a row that begins at an index: noise, steps, lost matches, bias."""
    (fb, step_px, levels, subpixel, slant, common, apart, edge_hole, hole, cos_low, cos_range, bias, gain,
     near, far, steps_per_mm) = numbers  # fmt: skip
    one, nothing = np.float32(1), np.float32(0)
    begin = nb.uintp(at)
    for u in range(n):
        seen, slanted = disparity[begin + nb.uintp(u)], abs(secant[u])
        d = seen
        z = fb / d
        fail, grazing = hole * z * z, (cos_low - one / slanted) * cos_range + one
        fail = grazing if grazing > fail else fail
        fail = edge_hole if (secant[u] < 0) & (edge_hole > fail) else fail
        d += subpixel * (one + slant * (slanted - one)) * (common * drift[u] + apart * own[u])
        d = np.rint(d * levels) * step_px if levels > 0 else d
        steps = np.rint((gain * fb / d + bias) * steps_per_mm)
        good = (seen > 0) & (d > 0) & (luck[u] >= fail) & (z >= near) & (z <= far)
        good = good & (steps > 0) & (steps <= 65535)
        out[u] = np.int32(steps if good else nothing)
