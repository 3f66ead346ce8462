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
from .sensor_noise import NORMAL, draw, floats, pixel_noise
from .sensor_surfaces import frame_row, incidence, inverted, jump, mark_unseen, spans

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


def _grazing_table() -> F32:
    """(1025,) θ² / (π/2 − θ)² by 1024 cos θ; the last degree is clipped."""
    theta = np.arccos(np.minimum((np.arange(1025) + 0.5) / 1024, 1))
    return np.asarray((theta / np.maximum(np.pi / 2 - theta, np.radians(1))) ** 2, np.float32)


_GRAZING: Final = _grazing_table()


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
    lit = mark_unseen(disparity, side, highest, JITTER_PX, shadows)
    reach = spans(disparity, JITTER_PX)
    image = np.zeros((height, width + 2), np.float32)
    blocks, block_row = np.empty((3, width), np.float32), -1
    luck = np.empty((height, width), np.float32)
    for v in range(height):
        first, n = reach[0, v], reach[1, v] - reach[0, v] + 1
        if n <= 0:
            continue
        if (top + v) // block != block_row:
            block_row = (top + v) // block
            _draw_blocks(key, block_row, left, block, blocks)
        jump(lit, v, first, JITTER_PX, blocks[0, first:], blocks[1, first:], lateral, edge_share,
             image[v, 1 + first : 1 + first + n])  # fmt: skip
        frame_row(image[v], 1)
        source, target = blocks[2, first:], luck[v, first:]
        for u in range(n):
            target[u] = source[u]
    secant, own, spare = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for v in range(height):
        first, n = reach[0, v], reach[1, v] - reach[0, v] + 1
        if n > 0:
            pixel_noise(key, left + first, top + v, own[:n], spare[:n])
            incidence(image, v, first, 1, edge_share, k32, left, top, secant[:n])
            _measure(image[v, 1 + first :], secant, luck[v, first:], own, numbers, out[v, first : first + n])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _draw_blocks(key, row, left, block, out):  # type: ignore[no-untyped-def]
    """Fill `out` (3, W) for a row of blocks: jitter in u and in v, normal deviates, and luck, uniform."""
    place, within, u = left // block, left % block, 0
    while u < out.shape[1]:
        bits = draw(key, place + 0x40000000, row)
        move_u, move_v = NORMAL[bits & np.uint64(4095)], NORMAL[(bits >> np.uint64(12)) & np.uint64(4095)]
        luck = np.float32((bits >> np.uint64(40)) & np.uint64(0xFFFFFF)) * np.float32(2**-24)
        for i in range(u, min(u + block - within, out.shape[1])):
            out[0, i], out[1, i], out[2, i] = move_u, move_v, luck
        u, place, within = u + block - within, place + 1, 0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _measure(disparity, secant, luck, own, numbers, out):  # type: ignore[no-untyped-def]
    """Fill `out` (n,) with the depth of a row in units: noise, steps, failed returns, bias."""
    (fb, step_px, levels, axial, growth, grazing_mm, edge_hole, cos_low, cos_range, bias, gain,
     near, far, steps_per_mm) = numbers  # fmt: skip
    one, nothing = np.float32(1), np.float32(0)
    for u in range(out.size):
        cosine = one / abs(secant[u]) if disparity[u] > 0 else one
        fail = (cos_low - cosine) * cos_range + one
        fail = edge_hole if (secant[u] < 0) & (edge_hole > fail) else fail
        z = fb / disparity[u]
        kept = (disparity[u] > 0) & (luck[u] >= fail) & (z >= near) & (z <= far)
        beyond = z - np.float32(400)
        sigma = axial + growth * beyond * beyond
        sigma += grazing_mm / np.sqrt(z) * _GRAZING[np.int32(cosine * np.float32(1024))]
        z += sigma * own[u]
        z = fb / (np.rint(fb / z * levels) * step_px) if levels > 0 else z
        steps = np.rint((gain * z + bias) * steps_per_mm)
        kept = kept & (steps > 0) & (steps <= 65535)
        out[u] = np.uint16(steps if kept else nothing)
