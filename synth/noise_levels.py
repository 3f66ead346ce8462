"""The comb of depth levels: sensors that measure disparity in steps return only some depths, evenly spaced in 1/z.

With disparity d = f b / z in steps of s px the levels are z_k = q / (k + φ), q = f b / s ("quantum"). q is the
frequency of the levels over 1/z: the peak of the spectrum

    R(q) = |Σ_k exp(2πi q / z_k)| / Σ_k 1

over the codes that occur. Codes are rounded to the depth unit, so R is looked at only where a step is larger
than 1.5 units, z² / q ≥ 1.5 u; multiples of q peak as well and the smallest is taken. The relative error of
q is about 1e-3. f and b cannot be told apart here: shadows say more (`noise_fit`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .noise_scene import View

F64 = NDArray[np.float64]

MIN_LEVELS: Final = 6
"""Steps that the visible depths must span."""
MIN_PEAK: Final = 0.4
"""Of R, relative to what rounding to the unit leaves of a perfect comb."""


@dataclass(frozen=True, slots=True)
class Levels:
    """The comb that was found, if one was."""

    quantum_px: float
    """b / s, mm a px: times a camera's fx it is f b / s; 0 without a comb."""
    quantum_sd: float
    """Standard deviation of it."""
    offset: float
    """φ in (−0.5, 0.5]: 0 for levels at whole steps."""
    peak: float
    """R relative to a perfect comb's."""
    unit_codes: int
    """Greatest common divisor of the codes: above 1 the true depth unit is so many times the stated one."""


def find_levels(views: Sequence[View]) -> Levels:
    """Look for the comb in all frames of all cameras."""
    codes, depths, inverse, weights = [], [], [], []
    for view in views:
        counts = np.bincount(view.codes.ravel(), minlength=2)
        counts[0] = 0
        occupied = np.flatnonzero(counts >= 3)
        z = occupied * view.camera.depth_unit_mm
        codes.append(occupied)
        depths.append(z)
        # fx / z: the cameras' combs over it have the same frequency b / s.
        inverse.append(view.camera.k[0] / np.maximum(z, 1e-9))
        weights.append(np.sqrt(counts[occupied]))
    every = np.concatenate(codes)
    divisor = int(np.gcd.reduce(every)) if len(every) else 1
    units = np.concatenate(
        [np.full(len(c), divisor * v.camera.depth_unit_mm) for c, v in zip(codes, views, strict=True)]
    )
    w, z = np.concatenate(inverse), np.concatenate(depths)
    weight = np.concatenate(weights)
    none = Levels(0.0, 0.0, 0.0, 0.0, divisor)
    if len(w) < 12:
        return none
    # fx u / z² is the width of a unit over fx / z: steps 1 / κ must be 1.5 times as wide.
    width = w * units / z
    low, high = MIN_LEVELS / (w.max() - w.min()), 1 / (1.5 * np.quantile(width, 0.02))
    peaks: list[tuple[float, float]] = []
    start = low
    while start < high:
        peaks += _octave(w, weight, width, start, min(2 * start, high))
        start *= 2
    if not peaks or max(score for score, _ in peaks) < MIN_PEAK:
        return none
    best = max(score for score, _ in peaks)
    score, frequency = min((p for p in peaks if p[0] >= 0.75 * best), key=lambda p: p[1])
    use = width * frequency * 1.5 <= 1
    frequency, phasor = _sharpen(w[use], weight[use], frequency, np.abs)
    # Over a narrow range of depths frequency and offset hang together: none, if that explains the levels as well.
    plain, plain_phasor = _sharpen(w[use], weight[use], frequency, np.real)
    if plain_phasor.real >= 0.97 * abs(phasor):
        frequency, phasor = plain, complex(plain_phasor.real)
    share = min(abs(phasor), 0.9999)
    noise = np.sqrt((1 - share**2) / (2 * share**2)) / (2 * np.pi)
    sd = noise / (np.std(w[use]) * np.sqrt(use.sum()))
    return Levels(frequency, float(sd), float(np.angle(phasor) / (2 * np.pi)), float(score), divisor)


def _octave(w: F64, weight: F64, width: F64, low: float, high: float) -> list[tuple[float, float]]:
    """(R relative to a perfect comb, frequency) of the peaks between two frequencies."""
    use = width * high * 1.5 <= 1
    if use.sum() < 12 or (w[use].max() - w[use].min()) * low < MIN_LEVELS:
        return []
    w, weight, width = w[use], weight[use], width[use]
    begin, span = w.min(), w.max() - w.min()
    bins = int(np.ceil(span * high * 8))
    size = 1 << int(np.ceil(np.log2(4 * bins)))
    # A taper: without it the ends of the range ring through the spectrum.
    weight = weight * np.sin(np.pi * (w - begin + 0.02 * span) / (1.04 * span)) ** 2
    histogram = np.bincount(np.rint((w - begin) / span * (bins - 1)).astype(int), weight, bins)
    spectrum = np.abs(np.fft.rfft(histogram, size)) / weight.sum()
    frequency = np.arange(len(spectrum)) * (bins - 1) / (span * size)
    inside = np.flatnonzero((frequency >= low) & (frequency <= high))
    inside = inside[(inside > 0) & (inside < len(spectrum) - 1)]
    top = inside[(spectrum[inside] >= spectrum[inside - 1]) & (spectrum[inside] >= spectrum[inside + 1])]
    top = top[np.argsort(-spectrum[top])[:5]]
    out = []
    for i in top:
        expected = float(np.sum(weight * np.sinc(np.minimum(width * frequency[i], 1))) / weight.sum())
        out.append((min(float(spectrum[i]) / expected, 1.0), float(frequency[i])))
    return out


def _sharpen(w: F64, weight: F64, frequency: float, part: Callable[[Any], Any]) -> tuple[float, complex]:
    """The frequency nearby where a part (absolute or real) of the mean phasor is greatest, and the phasor."""
    reach = 0.5 / (w.max() - w.min())
    for _ in range(4):
        tried = frequency + np.linspace(-reach, reach, 41)
        phasor = np.exp(2j * np.pi * tried[:, None] * w[None, :]) @ weight / weight.sum()
        best = int(np.argmax(part(phasor)))
        frequency = float(tried[best])
        reach /= 8
    return frequency, complex(phasor[best])
