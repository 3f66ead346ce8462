"""Figures that follow from the sums of `noise_statistics`: deviation curves, holes, edges, blocks.

Each takes sums over groups and weights of the groups, so that a bootstrap may weigh them anew.

Quantised deviation: a surface at a phase of the steps that differs from pixel to pixel, with noise of r steps,
varies in time by V(r) steps², V = E_phase Var(round(phase + r n)); V → r / √π for small r and r² + 1/12 for
large. Its inverse gives the noise from what is left of it, down to a tenth of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import erf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .noise_statistics import GRAZING_BINS, NEAR_PX, Sums

F64 = NDArray[np.float64]

MIN_CELL: Final = 60
"""Pixels that a cell of depth and angle needs to count."""
CELL_ERROR: Final = 0.03
"""Relative error a cell has beyond its counting error: angles and depths vary inside it."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Deviation by depth and angle, one entry a cell with enough pixels."""

    sigma_mm: F64
    """The noise before quantisation."""
    raw_mm: F64
    """As it is seen, quantisation included."""
    z_mm: F64
    angle: NDArray[np.int64]
    """Index of ANGLE_BINS."""
    grazing: F64
    """Mean of `noise_statistics.grazing_term`."""
    count: F64
    step_mm: F64
    z2_per_fx: F64
    """Mean of z² / fx, mm² / px."""
    secant: F64
    """Mean of 1 / cos θ."""


def total(sums: F64, weights: F64) -> F64:
    """Sum over groups."""
    return np.tensordot(weights, sums, axes=1)


def cells(sums: Sums, weights: F64, *, local: bool = False) -> Cells:
    """Noise by depth and angle, from deviation over time or from local planes."""
    every = total(sums.local if local else sums.deviation, weights)
    depth, angle = np.nonzero(every[..., 0] >= MIN_CELL)
    table = every[depth, angle]
    count = table[:, 0]
    mean = table[:, 1:] / count[:, None]
    if local:
        # A plane through pixels of all phases: the rounding is noise of its own there.
        sigma = np.sqrt(np.maximum(mean[:, 0] - mean[:, 2] ** 2 / 12, 0))
    else:
        sigma = before_rounding(mean[:, 1]) * mean[:, 2]
    return Cells(sigma, np.sqrt(mean[:, 0]), mean[:, 3], angle, mean[:, 4], count, mean[:, 2], mean[:, 5], mean[:, 6])


def least_squares(columns: Sequence[F64], target: F64, error: F64) -> F64:
    """Weighted least squares with coefficients ≥ 0; outliers count less (Tukey's biweight, three rounds).

    Cells hold what creeps unnoticed, an arm that is nearly at rest, say.
    """
    from scipy.optimize import nnls

    design, wanted = np.stack(columns, axis=1) / error[:, None], target / error
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1
    weight = np.ones(len(target))
    for _ in range(4):
        solution = nnls(design / scale * weight[:, None], wanted * weight)[0] / scale
        rest = wanted - design @ solution
        spread = max(1.4826 * float(np.median(np.abs(rest))), 0.3)
        weight = np.clip(1 - (rest / (4.7 * spread)) ** 2, 0, None)
    return np.asarray(solution, np.float64)


def cell_error(c: Cells, freedom: float) -> F64:
    """Standard error of each cell's σ, `freedom` = degrees of freedom of one pixel's variance.

    Noise of less than a third of a step shows only where a surface happens to lie between two levels.
    """
    hidden = 0.25 * np.exp(-((c.sigma_mm / (0.3 * c.step_mm)) ** 2))
    return np.maximum(c.sigma_mm, 0.02 * c.step_mm) * np.sqrt(1 / (2 * c.count * freedom) + CELL_ERROR**2 + hidden**2)


def hole_rates(sums: Sums, weights: F64) -> tuple[F64, F64]:
    """Share of holes in each of GRAZING_BINS, NaN where there are too few pixels, and how many frames it rests on."""
    every = total(sums.grazing, weights)
    enough = every[:, 0] >= 400
    return np.where(enough, every[:, 1] / np.maximum(every[:, 0], 1), np.nan), every[:, 0]


def grazing_range(sums: Sums, weights: F64) -> tuple[float, float] | None:
    """Angles in degrees where holes begin and where nothing returns, from a line through the rate over cos θ."""
    rate, count = hole_rates(sums, weights)
    cosine = np.cos(np.radians((GRAZING_BINS[1:] + GRAZING_BINS[:-1]) / 2))
    # One bin of holes may be anything; a rise over several is an angle's doing. Steeper than where most fail,
    # pixels are edges rather than surfaces.
    known = np.where(np.isfinite(rate), rate, 0)
    last = int(np.argmax(known))
    first = last
    while first > 0 and 0.04 < known[first - 1] < known[first]:
        first -= 1
    use = (np.arange(len(rate)) >= first) & (np.arange(len(rate)) <= last) & (rate < 0.85)
    if use.sum() < 3 or known[last] < max(0.22, 2 * known[first]):
        return None
    weight = np.sqrt(count[use] / (rate[use] * (1 - rate[use]) + 1e-3))
    weight = np.minimum(weight, 20 * np.median(weight))
    slope, at_zero = np.polyfit(cosine[use], rate[use], 1, w=weight).tolist()
    if slope >= -0.2:
        return None
    begin, end = -at_zero / slope, (1 - at_zero) / slope
    return float(np.degrees(np.arccos(np.clip(begin, 0, 1)))), float(np.degrees(np.arccos(np.clip(end, -0.05, 1))))


def edge_jitter(sums: Sums, weights: F64) -> float:
    """σ in pixels of where edges lie from frame to frame: √π Σ p (1 − p) across an edge, if it is normal."""
    every = total(sums.flips, weights)
    return float(np.sqrt(np.pi) * every[1] / max(every[0], 1e-9))


def edge_holes(sums: Sums, weights: F64) -> float:
    """Holes beside lit edges, as a share of the two pixels next to the edge."""
    every = total(sums.flips, weights)
    return float(every[2] / max(every[0], 1e-9) / 2)


def plain_holes(sums: Sums, weights: F64) -> float:
    """Share of holes in smooth surfaces that are not steep, per m² of z²."""
    every = total(sums.plain, weights)
    return float(every[1] / max(every[2], 1e-9))


def neighbours(sums: Sums) -> F64:
    """(LAGS + 1,) correlation of the noise of pixels so many columns or rows apart; zeros where it was not measured."""
    mean = sums.correlation[:, 0] / np.maximum(sums.correlation[:, 1], 1)
    return np.asarray(mean / mean[0], np.float64) if mean[0] > 0 else np.zeros(len(mean))


def shared_noise(sums: Sums) -> tuple[float, int]:
    """Share of the noise that neighbours have in common, and the side of the window they have it over.

    The model's: normal deviates at a lattice of the window's pitch, interpolated linearly, brought back to unit
    variance; so the correlation over a distance is a mean over the places of the first pixel in its cell.
    """
    measured = neighbours(sums)[1:]
    best = (np.inf, 0.0, 1)
    for window in range(1, 16):
        shape = _lattice_correlation(window, len(measured))
        norm = float(shape @ shape)
        share = float(np.clip(shape @ measured / norm, 0, 1)) if norm > 0 else 0.0
        error = float(np.sum((measured - share * shape) ** 2))
        if error < best[0] - 1e-4:
            best = (error, share, window)
    return best[1], best[2]


def _lattice_correlation(window: int, lags: int) -> F64:
    place = (np.arange(window) % window) / window
    out = np.zeros(lags)
    for lag in range(1, lags + 1):
        values = []
        for i in range(window):
            cell, t = divmod(i + lag, window)
            mine = np.array([1 - place[i], place[i]])
            its = np.array([1 - t / window, t / window])
            common = mine @ its if cell == 0 else (mine[1] * its[0] if cell == 1 else 0.0)
            values.append(common / (np.linalg.norm(mine) * np.linalg.norm(its)))
        out[lag - 1] = np.mean(values)
    return out


def flying_share(sums: Sums, weights: F64) -> float:
    """Share of the returns within two pixels of lit edges that lie between both surfaces."""
    lit = total(sums.edges, weights)[:, 1, NEAR_PX - 2 : NEAR_PX + 2].sum((0, 1))
    return float(lit[4] / max(lit[0] - lit[1], 1))


def block_size(sums: Sums) -> tuple[int, float]:
    """Side of the blocks whose pixels fail together, and how much more they do so than across blocks (0 … 1)."""
    best, contrast = 1, 0.0
    for side in range(2, 9):
        within, across = np.zeros(2), np.zeros(2)
        for line in (sums.columns, sums.lines):
            border = np.arange(len(line)) % side == side - 1
            within += line[~border].sum(0)
            across += line[border].sum(0)
        if within[1] > 5 and across[1] > 5:
            inside, outside = within[0] / within[1], across[0] / across[1]
            if inside - outside > contrast + 0.02:
                best, contrast = side, inside - outside
    return (best, float(contrast)) if contrast > 0.15 else (1, float(contrast))


@cache
def _rounded() -> tuple[F64, F64]:
    """Noise of r steps and the variance V(r) in steps² that is left of it on average."""
    r = np.concatenate([[0.0], np.geomspace(0.01, 2.5, 60)])
    phases = (np.arange(48) + 0.5) / 48
    borders = np.arange(-12, 13) + 0.5
    values = [0.0]
    for noise in r[1:]:
        below = np.vectorize(erf)((borders[None, :] - phases[:, None]) / (noise * np.sqrt(2)))
        share = np.diff(below, axis=1) / 2
        level = (borders[1:] + borders[:-1]) / 2
        mean = share @ level
        values.append(float(np.mean(share @ level**2 - mean**2)))
    return r, np.array(values)


def before_rounding(variance_steps: F64) -> F64:
    """Noise in steps of which rounding leaves a variance, in steps²."""
    r, v = _rounded()
    return np.where(
        variance_steps < v[-1], np.interp(variance_steps, v, r), np.sqrt(np.maximum(variance_steps - 1 / 12, 0))
    )
