"""Time of flight: what a continuous-wave camera (Kinect 2, Azure Kinect, pico flexx) makes of a scene.

A pixel measures the phase of light that was out and back, so 4π f r / c for range r; with z in m:

    σz = 0.5 + 0.7 z² / cos θ mm               noise goes with one over the signal, and that with cos θ / r²
                                               (Foix et al. 2011; Lefloch et al. 2013); the numbers are ours
    at edges: the phase of (1 − s) e^{iφ1} / z1² + s e^{iφ2} / z2², s the share of the pixel behind the edge:
                                               flying pixels between both surfaces (Lefloch et al. 2013;
                                               Sarbolandi et al. 2015); that the place of the edge in its
                                               pixel is drawn is ours
    in valleys: + multipath × sagitta          light by way of the walls comes later (Lefloch et al. 2013).
                                               The form is ours: z less the mean of what lies `multipath_deg`
                                               to both sides, where that is positive, along rows and columns

Nothing behind an edge gives no light: then the pixel is weaker, not farther. There is no step but the unit's.
With `wraps` ranges beyond c / 2f come back near, as from a device that uses a single frequency.

Cost: see benchmarks/sensors.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

import numpy as np
from annotated_types import Ge, Gt, Interval
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from .sensor_noise import LANES, draw, floats, pixel_noise, store
from .sensor_surfaces import frame_row, incidence, reserve, spans, widened

import numba as nb  # isort: skip

F32 = NDArray[np.float32]

EDGE_PX: Final = 1
"""A pixel sees a surface that ends so far from its centre."""
_LIGHT_MM_MHZ: Final = 299_792.458
"""Speed of light, mm × MHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeOfFlight:
    """Parameters of a continuous-wave time-of-flight camera."""

    # pydantic reads this where a configuration holds a sensor.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    axial_mm: Annotated[float, Ge(0)] = 0.5
    """σz very near."""
    axial_growth_mm: Annotated[float, Ge(0)] = 0.7
    """What σz gains per m² of z², face on, mm; grows with 1/cos θ."""
    modulation_mhz: Annotated[float, Gt(0)] = 80.0
    """Frequency of the light's modulation."""
    wraps: bool = False
    """Ranges beyond the ambiguity, c / 2f, come back near; else the device tells them apart by more frequencies."""
    footprint_px: Annotated[float, Gt(0)] = 1.6
    """Width of what a pixel sees: its own area and the lens's blur."""
    cover_min: Annotated[float, Interval(gt=0, le=1)] = 0.25
    """Share of a pixel that a surface before nothing must fill to be seen."""
    edge_mm: Annotated[float, Gt(0)] = 12.0
    """A step of depth between neighbours, at 0.5 m and growing with z, that makes an edge."""
    edge_hole: Annotated[float, Interval(ge=0, le=1)] = 0.3
    """Probability that a pixel at an edge is found out and has no return."""
    multipath: Annotated[float, Ge(0)] = 0.08
    """Bias in a valley, share of its sagitta."""
    multipath_deg: Annotated[float, Interval(gt=0, le=15)] = 3.0
    """Where the sagitta is taken: so far to both sides."""
    grazing_from_deg: Annotated[float, Interval(ge=0, le=90)] = 78.0
    """Angle from which returns begin to fail ..."""
    grazing_to_deg: Annotated[float, Interval(ge=0, le=90)] = 88.0
    """... and at which all have failed."""
    bias_mm: float = 0.0
    """Added to every depth."""
    bias_per_m_mm: float = 0.0
    """Added to every depth per metre of it."""
    min_mm: Annotated[float, Ge(0)] = 150.0
    max_mm: Annotated[float, Gt(0)] = 4500.0
    """Nothing returns from nearer or farther."""


def ambiguity_mm(sensor: TimeOfFlight) -> float:
    """Greatest range that one frequency tells from a smaller one: c / 2f."""
    return _LIGHT_MM_MHZ / (2 * sensor.modulation_mhz)


def reach_px(sensor: TimeOfFlight) -> int:
    """Pixels around a surface beyond which nothing matters to how it is seen."""
    return EDGE_PX + 1


def margin_px(sensor: TimeOfFlight, fx: float, *, near_mm: float, far_mm: float) -> int:
    """Pixels around a window that the sensor must see, wherever things stand."""
    return EDGE_PX + 1 + _arm_px(sensor, fx)


def _arm_px(sensor: TimeOfFlight, fx: float) -> int:
    return max(round(fx * np.tan(np.radians(sensor.multipath_deg))), 1) if sensor.multipath > 0 else 0


def sense(
    sensor: TimeOfFlight,
    depth_mm: F32,
    k_full: tuple[float, ...],
    window: tuple[int, int],
    depth_unit_mm: float,
    key: np.uint64,
) -> NDArray[np.uint16]:
    """Depth (H, W) in units, 0 = no return, of clean depth (H, W) mm; see `sensor.apply`."""
    out = np.zeros(depth_mm.shape, np.uint16)
    low, high = np.cos(np.radians([sensor.grazing_to_deg, sensor.grazing_from_deg]))
    arm_px = _arm_px(sensor, k_full[0])
    _sense(
        depth_mm, out, k_full, int(window[0]), int(window[1]), key, int(arm_px), bool(sensor.wraps),
        floats(sensor.axial_mm, sensor.axial_growth_mm, ambiguity_mm(sensor)),
        floats(sensor.footprint_px, sensor.cover_min, sensor.edge_mm / 500.0, sensor.edge_hole, low, high),
        floats(sensor.multipath, arm_px / k_full[0]),
        floats(sensor.bias_mm, sensor.bias_per_m_mm, sensor.min_mm, sensor.max_mm, 1.0 / depth_unit_mm),
    )  # fmt: skip
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sense(  # type: ignore[no-untyped-def]
    depth, out, k, left, top, key, arm, wraps, noise, failure, multipath, output
):
    """The kernel; see the module's docstring for the model."""
    height, width = depth.shape
    reserve(height * width)
    edge_share = np.float32(failure[2])
    numbers = (
        np.float32(noise[0]), np.float32(noise[1] * 1e-6),
        np.float32(failure[4]), np.float32(1.0 / max(failure[5] - failure[4], 1e-6)),
        np.float32(output[2]), np.float32(output[3]),
    )  # fmt: skip
    edge_numbers = (
        np.float32(noise[0]), np.float32(noise[1] * 1e-6), np.float32(noise[2]),
        np.float32(failure[0]), np.float32(failure[1]), np.float32(failure[3]),
        np.float32(output[2]), np.float32(output[3]),
    )  # fmt: skip
    bias, gain, steps_per_mm = np.float32(output[0]), np.float32(1 + output[1] * 1e-3), np.float32(output[4])
    k32 = (np.float32(k[0]), np.float32(k[1]), np.float32(k[2]), np.float32(k[3]))
    reach = widened(spans(depth), EDGE_PX, width)
    padded = width + LANES
    stride = padded + 2 * arm
    image, wide = np.zeros((height, padded + 2), np.float32), np.zeros(height * stride, np.float32)
    flat, plain, units = image.reshape(-1), depth.reshape(-1), out.reshape(-1)
    for v in range(height):
        first, n = reach[0, v], reach[1, v] + 1 - reach[0, v]
        if n > 0:
            _invert(plain, v * width + first, n, flat, v * (padded + 2) + 1 + first, wide, v * stride + arm + first)
            frame_row(flat, v * (padded + 2) + 1, width, 1)
    value, secant, late = np.empty(padded, np.float32), np.empty(padded, np.float32), np.zeros(padded, np.float32)
    own, luck, line = np.empty(padded, np.float32), np.empty(padded, np.float32), np.empty(padded, np.int32)
    for v in range(height):
        first, n, exact = reach[0, v], reach[2, v], reach[1, v] - reach[0, v] + 1
        if n == 0:
            continue
        pixel_noise(key, left + first, top + v, n, own, luck)
        incidence(image, v, first, n, 1, edge_share, k32, left, top, secant)
        here = v * stride + arm + first
        if arm > 0:
            strength, slope = np.float32(multipath[0]), np.float32(2 * multipath[1])
            _valley(wide, here, arm, n, strength, slope, False, late)
            if v >= arm and v + arm < height:
                _valley(wide, here, arm * stride, n, strength, slope, True, late)
        _measure(wide, here, n, secant, late, own, luck, numbers, value)
        for i in range(exact):
            if secant[i] < 0:
                bits = draw(key, left + first + i + 0x20000000, top + v)
                place = np.float32(bits >> np.uint64(40)) * np.float32(2**-24)
                value[i] = _edge(depth, v, first + i, value[i], secant[i], place, own[i], luck[i], k32, left, top,
                                 edge_share, edge_numbers)  # fmt: skip
        if wraps:
            _wrap(value, n, k32, left + first, top + v, np.float32(noise[2]))
        _in_units(value, n, bias, gain, steps_per_mm, line)
        store(line, exact, units, v * width + first)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _invert(depth, at, n, inverse, inverse_at, copy, copy_at):  # type: ignore[no-untyped-def]
    """Write 1000 / z of a row, and the row again, from these indices on."""
    begin, one, other = nb.uintp(at), nb.uintp(inverse_at), nb.uintp(copy_at)
    for u in range(n):
        z = depth[begin + nb.uintp(u)]
        inverse[one + nb.uintp(u)] = np.float32(1000) / z if z > 0 else np.float32(0)
    for u in range(n):
        copy[other + nb.uintp(u)] = depth[begin + nb.uintp(u)]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _valley(depth, at, step, n, strength, slope, add, out):  # type: ignore[no-untyped-def]
    """Fill or add to `out` how much later light comes to `n` pixels from walls a step before and after them."""
    here, before, after = nb.uintp(at), nb.uintp(at - step), nb.uintp(at + step)
    for u in range(n):
        z, a, b = depth[here + nb.uintp(u)], depth[before + nb.uintp(u)], depth[after + nb.uintp(u)]
        # Walls no steeper than about 63° from face on: beyond that it is another thing, too far to light this one.
        near = (a > 0) & (b > 0) & (abs(z - a) < slope * z) & (abs(z - b) < slope * z)
        sagitta = z - np.float32(0.5) * (a + b)
        late = strength * sagitta if near & (sagitta > 0) else np.float32(0)
        out[u] = out[u] + late if add else late


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _measure(depth, at, n, secant, late, own, luck, numbers, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the noisy depth of `n` pixels from index `at` on, 0 where there is no return; edges aside."""
    axial, growth, cos_low, cos_range, near, far = numbers
    one, nothing = np.float32(1), np.float32(0)
    begin = nb.uintp(at)
    for u in range(n):
        z, slanted = depth[begin + nb.uintp(u)], abs(secant[u])
        fail = (cos_low - one / slanted) * cos_range + one
        noisy = z + late[u] + (axial + growth * z * z * slanted) * own[u]
        good = (z >= near) & (z <= far) & (z > 0) & (luck[u] >= fail)
        out[u] = noisy if good else nothing


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _edge(  # type: ignore[no-untyped-def]
    depth, v, u, plain, secant, place, own, luck, k, left, top, edge_share, numbers
):  # fmt: skip
    """Depth of a pixel beside an edge; `plain` is what it would be without, `place` where the edge lies."""
    axial, growth, ambiguity, footprint, cover_min, edge_hole, near, far = numbers
    height, width = depth.shape
    z = depth[v, u]
    other, most = np.float32(0), np.float32(0)
    for i in range(4):
        nv, nu = v + (i == 0) - (i == 1), u + (i == 2) - (i == 3)
        if nv < 0 or nv >= height or nu < 0 or nu >= width or depth[nv, nu] <= 0:
            continue
        step = abs(np.float32(1) / depth[nv, nu] - (np.float32(1) / z if z > 0 else np.float32(0)))
        if step > most and (z <= 0 or abs(depth[nv, nu] - z) > edge_share * min(z, depth[nv, nu])):
            other, most = depth[nv, nu], step
    if luck < edge_hole:
        return np.float32(0)
    behind = max(np.float32(0.5) - place / footprint, np.float32(0))
    if z <= 0:
        if behind < cover_min or other < near or other > far:
            return np.float32(0)
        return other + (axial + growth * other * other / behind) * own
    if plain == 0 or behind == 0:
        return plain
    if other == 0:
        return plain + growth * z * z * abs(secant) * (behind / (np.float32(1) - behind)) * own
    # The sum of both phasors, relative to the pixel's own, whose phase is 0.
    x, y = (np.float32(left + u) - k[2]) / k[0], (np.float32(top + v) - k[3]) / k[1]
    ray = np.sqrt(x * x + y * y + np.float32(1))
    turn = np.float32(2 * np.pi) * ray * (other - z) / ambiguity
    mine, its = (np.float32(1) - behind), behind * (z / other) ** 2
    real, imaginary = mine + its * np.cos(turn), its * np.sin(turn)
    signal = max(np.sqrt(real * real + imaginary * imaginary), np.float32(0.05))
    shift = np.arctan2(imaginary, real) * ambiguity / (np.float32(2 * np.pi) * ray)
    mixed = plain + shift + growth * z * z * abs(secant) * (np.float32(1) / signal - np.float32(1)) * own
    return mixed if mixed > 0 else np.float32(0)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _wrap(values, n, k, column, row, ambiguity):  # type: ignore[no-untyped-def]
    """Take whole ambiguities off the ranges of a row's depths (n,), in place."""
    y = (np.float32(row) - k[3]) / k[1]
    for u in range(n):
        x = (np.float32(column + u) - k[2]) / k[0]
        ray = np.sqrt(x * x + y * y + np.float32(1))
        turns = np.floor(values[u] * ray / ambiguity)
        values[u] -= turns * ambiguity / ray


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _in_units(values, n, bias, gain, steps_per_mm, out):  # type: ignore[no-untyped-def]
    """Fill `out` with `n` depths in units, int32."""
    for u in range(n):
        steps = np.rint((gain * values[u] + bias) * steps_per_mm)
        good = (values[u] > 0) & (steps > 0) & (steps <= 65535)
        out[u] = np.int32(steps if good else np.float32(0))
