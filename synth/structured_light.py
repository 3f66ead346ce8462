"""Structured light (Kinect 1, PrimeSense): what a camera beside a projector of dots makes of a scene.

With z in m, θ the angle between normal and line of sight, f b in px mm:

    σz = 1.2 + 1.9 (z − 0.4)² + 0.1 z^−½ θ² / (π/2 − θ)² mm       Nguyen et al. 2012, eq. 3 and 4
    jitter of edges σ = 0.8 px in each direction                   Nguyen et al. 2012, eq. 1
    disparity f b / z, rounded to 1/8 px                           Khoshelham & Elberink 2012, eq. 1 and 5

A surface that the projector, `baseline_mm` beside the camera, does not light gives no return; nor do surfaces
seen at a grazing angle, and some pixels of edges do not either, in blocks as correlation windows fail.

Cost: see benchmarks/sensors.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

import numpy as np
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from .sensor_noise import LANES, floats, normals, pixel_noise, store
from .sensor_shadows import mark_unseen
from .sensor_surfaces import frame_row, incidence, inverted, jump, movements, reserve, spans, widened

import numba as nb  # isort: skip

F32 = NDArray[np.float32]

JITTER_PX: Final = 3
"""Edges move by no more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredLight:
    """Parameters of a structured-light camera; the defaults are the published ones of the Kinect 1."""

    # pydantic reads this where a configuration holds a sensor.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    axial_mm: Annotated[float, Ge(0)] = 1.2
    """σz at 0.4 m, face on."""
    axial_growth_mm: Annotated[float, Ge(0)] = 1.9
    """What σz gains per (z − 0.4 m)², mm."""
    axial_grazing_mm: Annotated[float, Ge(0)] = 0.1
    """Factor of the term that grows with the angle."""
    lateral_px: Annotated[float, Ge(0)] = 0.8
    """σ of the jitter of edges."""
    baseline_mm: Annotated[float, Ge(0)] = 75.0
    """From camera to projector; 0 casts no shadow and keeps the disparity steps of 75 mm."""
    projector: Literal[1, -1] = 1
    """Side of the projector: 1 towards +x (shadows fall to the left of what casts them), −1 towards −x."""
    disparity_step_px: Annotated[float, Ge(0)] = 0.125
    """Steps of the disparity; 0 does not quantise."""
    edge_mm: Annotated[float, Gt(0)] = 12.0
    """A step of depth between neighbours, at 0.5 m and growing with z, that makes an edge."""
    edge_hole: Annotated[float, Interval(ge=0, le=1)] = 0.2
    """Probability that a block of an edge has no return."""
    grazing_from_deg: Annotated[float, Interval(ge=0, le=90)] = 70.0
    """Angle from which returns begin to fail ..."""
    grazing_to_deg: Annotated[float, Interval(ge=0, le=90)] = 86.0
    """... and at which all have failed."""
    block_px: Annotated[int, Interval(ge=1, le=31)] = 2
    """Side of the blocks that jitter and fail together."""
    bias_mm: float = 0.0
    """Added to every depth."""
    bias_per_m_mm: float = 0.0
    """Added to every depth per metre of it."""
    min_mm: Annotated[float, Ge(0)] = 300.0
    max_mm: Annotated[float, Gt(0)] = 4000.0
    """Nothing returns from nearer or farther."""


_ARC_COSINE: Final = tuple(np.float32(x) for x in (1.5707288, -0.2121144, 0.0742610, -0.0187293))
"""arccos x = √(1 − x) times this polynomial within 7e-5, 0 to 1 (Abramowitz & Stegun 1964, 4.4.45)."""


def reach_px(sensor: StructuredLight) -> int:
    """Pixels around a surface beyond which nothing matters to how it is seen."""
    return JITTER_PX + 1


def margin_px(sensor: StructuredLight, fx: float, *, near_mm: float, far_mm: float) -> int:
    """Pixels around a window that the sensor must see for what lies between `near_mm` and `far_mm`."""
    shadow = fx * sensor.baseline_mm * (1 / near_mm - 1 / far_mm)
    return JITTER_PX + 4 + int(np.ceil(shadow))


def sense(
    sensor: StructuredLight,
    depth_mm: F32,
    k_full: tuple[float, ...],
    window: tuple[int, int],
    depth_unit_mm: float,
    key: np.uint64,
) -> NDArray[np.uint16]:
    """Depth (H, W) in units, 0 = no return, of clean depth (H, W) mm; see `sensor.apply`."""
    out = np.zeros(depth_mm.shape, np.uint16)
    fx = k_full[0]
    low, high = np.cos(np.radians([sensor.grazing_to_deg, sensor.grazing_from_deg]))
    _sense(
        depth_mm, out, k_full, int(window[0]), int(window[1]), key, sensor.baseline_mm > 0, int(sensor.block_px),
        floats(fx * (sensor.baseline_mm or 75.0), sensor.projector, sensor.disparity_step_px),
        floats(sensor.axial_mm, sensor.axial_growth_mm, sensor.axial_grazing_mm, sensor.lateral_px),
        floats(sensor.edge_mm / 500.0, sensor.edge_hole, low, high),
        floats(sensor.bias_mm, sensor.bias_per_m_mm, sensor.min_mm, sensor.max_mm, 1.0 / depth_unit_mm),
    )  # fmt: skip
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sense(  # type: ignore[no-untyped-def]
    depth, out, k, left, top, key, shadows, block, light, noise, failure, output
):
    """The kernel; see the module's docstring for the model."""
    height, width = depth.shape
    reserve(height * width)
    fb, side, step_px, lateral = np.float32(light[0]), np.float32(light[1]), np.float32(light[2]), np.float32(noise[3])
    edge_share = np.float32(failure[0])
    numbers = (
        fb, step_px, np.float32(1) / step_px if step_px > 0 else np.float32(0),
        np.float32(noise[0]), np.float32(noise[1] * 1e-6), np.float32(noise[2] * np.sqrt(1e3)),
        np.float32(failure[1]), np.float32(failure[2]), np.float32(1.0 / max(failure[3] - failure[2], 1e-6)),
        np.float32(output[0]), np.float32(1 + output[1] * 1e-3),
        np.float32(output[2]), np.float32(output[3]), np.float32(output[4]),
    )  # fmt: skip
    k32 = (np.float32(k[0]), np.float32(k[1]), np.float32(k[2]), np.float32(k[3]))
    disparity = np.empty((height, width), np.float32)
    highest = inverted(depth.reshape(-1), fb, disparity.reshape(-1))
    if highest == 0:
        return
    own = spans(disparity)
    lit = mark_unseen(disparity, own, side, highest, JITTER_PX, shadows)
    reach = widened(own, JITTER_PX, width)
    padded = width + LANES
    stride = padded + 2
    image = np.zeros((height, stride), np.float32)
    flat = image.reshape(-1)
    cell, cells = np.empty(padded, np.int32), padded // block + 2
    for u in range(padded):
        cell[u] = (left + u) // block - left // block
    normal, spare, move_v = np.empty(padded, np.float32), np.empty(padded, np.float32), np.empty(cells, np.float32)
    move_u, block_luck, block_steps = (
        np.empty(cells, np.float32),
        np.empty(cells, np.float32),
        np.empty(cells, np.int32),
    )
    rows = height // block + 2
    steps, lucks, block_row = np.empty(padded, np.int32), np.empty(rows * padded, np.float32), -1
    for v in range(height):
        first, n = reach[0, v], reach[2, v]
        if n == 0:
            continue
        row = (top + v) // block
        if row != block_row:
            # Blocks begin far from the pixels, and those of the second movement far from those of the first.
            normals(key, left // block + 0x48000000, row, cells, move_v)
            pixel_noise(key, left // block + 0x40000000, row, cells, move_u, block_luck)
            movements(move_u, move_v, cells, lateral, JITTER_PX, lit.shape[1], block_steps)
            block_row = row
            low, high = first, first + n
            for other in range(v + 1, min((row + 1) * block - top, height)):
                low, high = min(low, reach[0, other]), max(high, reach[0, other] + reach[2, other])
            _spread(cell, low, high, block_steps, block_luck, steps, lucks, (row - top // block) * padded)
        jump(lit, v, first, n, JITTER_PX, steps[first:], edge_share, flat, v * stride + 1 + first)
        frame_row(flat, v * stride + 1, width, 1)
    secant, line, units = np.empty(padded, np.float32), np.empty(padded, np.int32), out.reshape(-1)
    for v in range(height):
        first, n = reach[0, v], reach[2, v]
        if n > 0:
            pixel_noise(key, left + first, top + v, n, normal, spare)
            incidence(image, v, first, n, 1, edge_share, k32, left, top, secant)
            luck = ((top + v) // block - top // block) * padded + first
            _measure(flat, v * stride + 1 + first, n, secant, lucks, luck, normal, numbers, line)
            store(line, reach[1, v] + 1 - first, units, v * width + first)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _spread(cell, first, last, block_steps, block_luck, steps, lucks, at):  # type: ignore[no-untyped-def]
    """Give columns from `first` to `last` their blocks' `steps` and `lucks`; a row of these begins at `at`."""
    skip, begin = nb.uintp(first), nb.uintp(at + first)
    for u in range(last - first):
        block = nb.uintp(cell[skip + nb.uintp(u)])
        steps[skip + nb.uintp(u)], lucks[begin + nb.uintp(u)] = block_steps[block], block_luck[block]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _measure(disparity, at, n, secant, lucks, luck_at, own, numbers, out):  # type: ignore[no-untyped-def]
    """Fill `out` with `n` depths of a row in units: noise, steps, failed returns, bias; rows begin at the indices."""
    (fb, step_px, levels, axial, growth, grazing_mm, edge_hole, cos_low, cos_range, bias, gain,
     near, far, steps_per_mm) = numbers  # fmt: skip
    one, nothing, right = np.float32(1), np.float32(0), np.float32(np.pi / 2)
    c0, c1, c2, c3 = _ARC_COSINE
    grazing = grazing_mm / np.sqrt(fb)  # √d of it is 1/√z
    begin, luck_begin = nb.uintp(at), nb.uintp(luck_at)
    for u in range(n):
        d, luck = disparity[begin + nb.uintp(u)], lucks[luck_begin + nb.uintp(u)]
        cosine = one / abs(secant[u])
        fail = (cos_low - cosine) * cos_range + one
        fail = edge_hole if (secant[u] < 0) & (edge_hole > fail) else fail
        z = fb / d
        kept = (d > 0) & (luck >= fail) & (z >= near) & (z <= far)
        beyond = z - np.float32(400)
        sigma = axial + growth * beyond * beyond
        rest = one - cosine
        rest = rest if rest > 0 else nothing
        theta = np.sqrt(rest) * (c0 + cosine * (c1 + cosine * (c2 + cosine * c3)))
        left = right - theta
        share = theta / (left if left > np.float32(np.pi / 180) else np.float32(np.pi / 180))
        sigma += grazing * np.sqrt(d) * (share * share)
        z += sigma * own[u]
        z = fb / (np.rint(fb / z * levels) * step_px) if levels > 0 else z
        steps = np.rint((gain * z + bias) * steps_per_mm)
        kept = kept & (steps > 0) & (steps <= 65535)
        out[u] = np.int32(steps if kept else nothing)
