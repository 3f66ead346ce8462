"""Depth sensors: what a structured-light camera (Kinect 1, PrimeSense) makes of a clean depth image.

The sensor works on the camera's own pixels, on the full frame or on a window of it; every draw is hashed from
(seed, frame, view, absolute pixel), so both give the same image wherever the window has a margin of
`margin_px` around what is used. With z in m, θ the angle between normal and line of sight, f b in px mm:

    σz = 1.2 + 1.9 (z − 0.4)² + 0.1 z^−½ θ² / (π/2 − θ)² mm       Nguyen et al. 2012, eq. 3 and 4
    jitter of edges σ = 0.8 px in each direction                   Nguyen et al. 2012, eq. 1
    disparity f b / z, rounded to 1/8 px                           Khoshelham & Elberink 2012, eq. 1 and 5

A surface that the projector, `baseline_mm` beside the camera, does not light gives no return (a z-buffer of
the projector's columns, row by row); nor do surfaces seen at a grazing angle, and some pixels of edges do
not either, in blocks as correlation windows fail.

Cost: one fused kernel, one hash a pixel that shows something; 0.05 to 0.1 ms a 128² window.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba

import numba as nb  # isort: skip

F32 = NDArray[np.float32]

JITTER_PX: Final = 3
"""Edges move by no more than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredLight:
    """Parameters of a structured-light camera; the defaults are the published ones of the Kinect 1."""

    # pydantic reads this where a configuration holds a sensor.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    axial_mm: float = 1.2
    """σz at 0.4 m, face on."""
    axial_growth_mm: float = 1.9
    """What σz gains per (z − 0.4 m)², mm."""
    axial_grazing_mm: float = 0.1
    """Factor of the term that grows with the angle."""
    lateral_px: float = 0.8
    """σ of the jitter of edges."""
    baseline_mm: float = 75.0
    """From camera to projector; 0 casts no shadow and keeps the disparity steps of 75 mm."""
    projector: int = 1
    """Side of the projector: 1 towards +x (shadows fall to the left of what casts them), −1 towards −x."""
    disparity_step_px: float = 0.125
    """Steps of the disparity; 0 does not quantise."""
    shadow_mm: float = 6.0
    """How far behind the lit surface a point must lie to be in its shadow."""
    edge_mm: float = 12.0
    """A step of depth between neighbours, at 0.5 m and growing with z, that makes an edge."""
    edge_hole: float = 0.2
    """Probability that a block of an edge has no return."""
    grazing_from_deg: float = 70.0
    """Angle from which returns begin to fail ..."""
    grazing_to_deg: float = 86.0
    """... and at which all have failed."""
    block_px: int = 2
    """Side of the blocks that jitter and fail together."""
    min_mm: float = 300.0
    max_mm: float = 4000.0
    """Nothing returns from nearer or farther."""


Sensor = StructuredLight


def _grazing_table() -> F32:
    """(1024,) θ² / (π/2 − θ)² by cos θ; the last degree is clipped."""
    theta = np.arccos((np.arange(1024) + 0.5) / 1024)
    return np.asarray((theta / np.maximum(np.pi / 2 - theta, np.radians(1))) ** 2, np.float32)


# A standard normal deviate by 12 bits, 4096 equally likely values: a tenth of Box-Muller's cost.
_NORMAL: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)], np.float32)
_GRAZING: Final = _grazing_table()


def describe(sensor: Sensor) -> dict[str, Any]:
    """Plain values, for a recording's provenance."""
    return {"model": "structured-light", **asdict(sensor)}


def margin_px(sensor: Sensor | None, fx: float, *, near_mm: float, far_mm: float) -> int:
    """Pixels around a window that the sensor must see for what lies between `near_mm` and `far_mm`."""
    if sensor is None:
        return 0
    shadow = fx * sensor.baseline_mm * (1 / near_mm - 1 / far_mm)
    return JITTER_PX + sensor.block_px + 1 + int(np.ceil(shadow))


def apply(
    sensor: Sensor | None,
    depth_mm: F32,
    k_full: NDArray[Any] | tuple[float, ...],
    *,
    window: tuple[int, int] = (0, 0),
    depth_unit_mm: float,
    seed: int,
    frame: int,
    view: int,
) -> NDArray[np.uint16]:
    """The uint16 depth (H, W) that the camera gives for clean z-depth (H, W) mm, 0 = nothing there.

    Args:
        sensor: None rounds to the unit and does nothing else.
        depth_mm: (H, W) float32, native pixels.
        k_full: fx, fy, cx, cy of the full frame.
        window: left and top pixel of `depth_mm` in the full frame.
        depth_unit_mm: mm of one step of the result.
        seed: of the data set.
        frame: index of the frame; two frames have independent noise.
        view: index of the camera, likewise.
    """
    depth = np.ascontiguousarray(depth_mm, np.float32)
    assert depth.ndim == 2, depth.shape
    fx, fy, cx, cy = (float(x) for x in k_full)
    if sensor is None:
        steps = np.rint(depth / np.float32(depth_unit_mm))
        return np.where(steps <= 65535, steps, 0).astype(np.uint16)
    out = np.zeros(depth.shape, np.uint16)
    low, high = np.cos(np.radians([sensor.grazing_to_deg, sensor.grazing_from_deg]))
    # Every number a float: an integer in its place would compile the kernel anew.
    _structured_light(
        depth, out, (fx, fy, cx, cy), int(window[0]), int(window[1]), 1.0 / depth_unit_mm,
        _key(seed, frame, view),
        _floats(sensor.axial_mm, sensor.axial_growth_mm, sensor.axial_grazing_mm, sensor.lateral_px),
        _floats(fx * sensor.baseline_mm, fx * (sensor.baseline_mm or 75.0), sensor.disparity_step_px),
        _floats(sensor.shadow_mm, sensor.edge_mm / 500.0, sensor.edge_hole, low, high),
        int(sensor.projector), int(sensor.block_px), _floats(sensor.min_mm, sensor.max_mm),
    )  # fmt: skip
    return out


def _floats(*values: float) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _key(seed: int, frame: int, view: int) -> np.uint64:
    """64 bits that differ in half of their places for any two images: three rounds of splitmix64."""
    mask, key = 2**64 - 1, 0
    for value in (seed, frame, view):
        key = (key ^ value) + 0x9E3779B97F4A7C15 & mask
        key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & mask
        key = (key ^ key >> 27) * 0x94D049BB133111EB & mask
        key ^= key >> 31
    return np.uint64(key)


@nb.njit(cache=True, inline="always")
def _mix(x):  # type: ignore[no-untyped-def]
    """The finaliser of splitmix64: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@nb.njit(cache=True, inline="always")
def _draw(key, u, v):  # type: ignore[no-untyped-def]
    """64 random bits of pixel (u, v)."""
    counter = (np.uint64(v) << np.uint64(32)) | np.uint64(u)
    return _mix(key + counter * np.uint64(0x9E3779B97F4A7C15))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _shadows(depth, row, left, fb, side, tolerance_mm, edge_share, lit, dark):  # type: ignore[no-untyped-def]
    """Mark in `dark` what the projector does not reach in one row; `lit` is its z-buffer, by column."""
    width = depth.shape[1]
    first, last = width, -1
    for u in range(width):
        dark[u] = False
        if depth[row, u] > 0:
            first, last = min(first, u), u
    if fb == 0 or last < 0:
        return
    lit[:] = 0
    base = left - (lit.size - width - 2) if side > 0 else left
    # Where a surface faces the projector its pixels leave columns between them: those are lit as well.
    previous, previous_d = -1, np.float32(0)
    for u in range(first, last + 1):
        z = depth[row, u]
        if z <= 0:
            previous = -1
            continue
        d = fb / z
        column = int(np.floor(np.float64(left + u) - side * d)) - base
        lit[column] = max(lit[column], d)
        if previous >= 0 and abs(d - previous_d) < 4.0:
            for between in range(min(previous, column) + 1, max(previous, column)):
                lit[between] = max(lit[between], min(d, previous_d))
        previous, previous_d = column, d
    for u in range(first, last + 1):
        z = depth[row, u]
        if z > 0:
            d = fb / z
            column = int(np.floor(np.float64(left + u) - side * d)) - base
            # Two pixels of a slanted surface may share a column: they do not shade each other.
            slack = tolerance_mm
            for side_u in (max(u - 1, 0), min(u + 1, width - 1)):
                step = abs(depth[row, side_u] - z)
                if step <= edge_share * z:
                    slack = max(slack, np.float32(1.5) * step)
            dark[u] = lit[column] > fb / max(z - slack, np.float32(1.0))


@nb.njit(cache=True, inline="always")
def _slope(here, before, after, edge):  # type: ignore[no-untyped-def]
    """Depth's change a pixel: the smaller of both sides', 0 where both are edges; and whether one is."""
    back, ahead = here - before, after - here
    back_edge = before <= 0 or abs(back) > edge
    ahead_edge = after <= 0 or abs(ahead) > edge
    if back_edge and ahead_edge:
        return np.float32(0), True
    if back_edge:
        return ahead, True
    if ahead_edge:
        return back, True
    return (back if abs(back) < abs(ahead) else ahead), False


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _structured_light(  # type: ignore[no-untyped-def]
    depth, out, k, left, top, steps_per_mm, key, noise, disparity, failure, side, block, span
):  # fmt: skip
    """The fused kernel; see the module's docstring for the model."""
    height, width = depth.shape
    fx, fy, cx, cy = np.float32(k[0]), np.float32(k[1]), np.float32(k[2]), np.float32(k[3])
    axial, growth = np.float32(noise[0]), np.float32(noise[1] * 1e-6)
    grazing, lateral = np.float32(noise[2]), np.float32(noise[3])
    shadow_fb, fb, step_px = np.float32(disparity[0]), np.float32(disparity[1]), disparity[2]
    shadow_mm, edge_share, edge_hole = np.float32(failure[0]), np.float32(failure[1]), np.float32(failure[2])
    cos_low, cos_high = failure[3], failure[4]
    inverse_fx, inverse_fy = np.float32(1) / fx, np.float32(1) / fy
    near, far = np.float32(span[0]), np.float32(span[1])
    cos_range = np.float32(1.0 / max(cos_high - cos_low, 1e-6))
    cos_low = np.float32(cos_low)
    levels = np.float32(1.0 / step_px) if step_px > 0 else np.float32(0)
    quantum = fb * levels
    reach, du, dv, bits, luck = JITTER_PX, 0, 0, np.uint64(0), np.float32(0)
    begin = np.full(height, width, np.int64)
    end = np.full(height, -1, np.int64)
    nearest = np.float32(1e9)
    for v in range(height):
        for u in range(width):
            z = depth[v, u]
            if z > 0:
                begin[v] = min(begin[v], u)
                end[v] = u
                nearest = min(nearest, z)
    # One column of the projector for each the window can reach.
    size = width + 2 + (int(shadow_fb / nearest) + 1 if nearest < 1e9 else 0)
    lit = np.zeros(size, np.float32)
    dark = np.zeros((height, width), np.bool_)
    if shadow_fb > 0:
        for v in range(height):
            if end[v] >= 0:
                _shadows(depth, v, left, shadow_fb, side, shadow_mm, edge_share, lit, dark[v])
    for v in range(height):
        first, last = width, -1
        for other in range(max(v - reach, 0), min(v + reach + 1, height)):
            first, last = min(first, begin[other]), max(last, end[other])
        if last < 0:
            continue
        begin_u = max(first - reach, 0)
        block_row, block_column, within = (top + v) // block, (left + begin_u) // block, -1
        for u in range(begin_u, min(last + reach + 1, width)):
            # The block's bits say how it jitters and whether it fails, the pixel's own how noisy it is.
            if within < 0 or within == block:
                if within == block:
                    block_column, within = block_column + 1, 0
                else:
                    within = (left + u) % block
                bits = _draw(key, block_column + 0x40000000, block_row)
                du = int(np.rint(lateral * _NORMAL[bits & np.uint64(4095)]))
                dv = int(np.rint(lateral * _NORMAL[(bits >> np.uint64(12)) & np.uint64(4095)]))
                du, dv = min(max(du, -reach), reach), min(max(dv, -reach), reach)
                luck = np.float32((bits >> np.uint64(40)) & np.uint64(0xFFFFFF)) * np.float32(2**-24)
            within += 1
            su = min(max(u + du, 0), width - 1)
            sv = min(max(v + dv, 0), height - 1)
            z, moved = depth[v, u], depth[sv, su]
            edge = edge_share * max(z, moved)
            if (z > 0) == (moved > 0) and abs(z - moved) <= edge:
                su, sv = u, v  # no edge nearby: jitter would only add noise to a slope
            else:
                z = moved
            if z < near or z > far or dark[sv, su]:
                continue
            zu, edge_u = _slope(
                z,
                depth[sv, su - 1] if su > 0 else z,
                depth[sv, su + 1] if su + 1 < width else z,
                edge_share * z,
            )
            zv, edge_v = _slope(
                z,
                depth[sv - 1, su] if sv > 0 else z,
                depth[sv + 1, su] if sv + 1 < height else z,
                edge_share * z,
            )
            # The normal (−fx z_u, −fy z_v, z + (u − cx) z_u + (v − cy) z_v) times the ray is just z.
            a, b = np.float32(left + su) - cx, np.float32(top + sv) - cy
            nx, ny, nz = fx * zu, fy * zv, z + a * zu + b * zv
            rx, ry = a * inverse_fx, b * inverse_fy
            cosine = z / np.sqrt((nx * nx + ny * ny + nz * nz) * (rx * rx + ry * ry + np.float32(1)))
            fail = (cos_low - cosine) * cos_range + np.float32(1)  # 1 at cos_low, 0 at cos_high
            if edge_u or edge_v:
                fail = max(fail, edge_hole)
            if fail > luck:
                continue
            own = _draw(key, left + u, top + v)
            beyond = z - np.float32(400)
            sigma = axial + growth * beyond * beyond
            index = min(int(cosine * np.float32(1024)), 1023)
            # 31.62 = √1000: z^−½ with z in m.
            sigma += grazing * np.float32(31.622776) / np.sqrt(z) * _GRAZING[index]
            z += sigma * _NORMAL[own & np.uint64(4095)]
            if levels > 0:
                z = quantum / np.rint(quantum / z)
            steps = np.rint(z * np.float32(steps_per_mm))
            if steps <= 65535:
                out[v, u] = np.uint16(steps)
