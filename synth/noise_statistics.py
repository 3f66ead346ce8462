"""What depth noise looks like, without a model: deviations, holes, edges, in the cameras' own pixels.

Everything is counted over still geometry (`noise_scene`), by groups (a sixteenth of a camera's image each), so
that any figure made of the sums can be resampled: its spread is that of a bootstrap over groups. A simulated
capture of the same geometry goes through the same functions, with the same pixels left out.

deviation   variance over time of settled pixels, by depth and angle; and the deviation from local planes
grazing     share of holes by angle, away from edges
edges       beside steps of depth, by distance and side: holes, near, far, and flying pixels between the two
correlation of the deviations of neighbours
blocks      do neighbouring pixels fail together: correlation of holes across every column and row
sizes       of holes, in pixels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from .noise_levels import Levels
from .noise_scene import EDGE_SHARE, Still, View, envelope, local_deviation, step_mm

import numba as nb  # isort: skip

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U16 = NDArray[np.uint16]
Bool = NDArray[np.bool_]

TILES: Final = 4
"""Groups are so many by so many parts of each image."""
DEPTH_BINS: Final = np.geomspace(150, 12000, 65)
"""mm, 7 % apart."""
ANGLE_BINS: Final = np.array([0, 20, 35, 45, 52, 58, 63, 67, 71, 74, 77, 80, 90], np.float64)
GRAZING_BINS: Final = np.arange(40.0, 91.0, 2.0)
SIDES: Final = ("left", "right", "above", "below")
"""Where the background lies, seen from the foreground."""
NEAR_PX: Final = 4
FAR_PX: Final = 8
"""Pixels on the foreground and on the background that a profile of an edge covers."""
EDGE_GAP: Final = 0.06
"""Share of the depth that foreground and background of such an edge are apart at least."""
SIZE_BINS: Final = np.array([1, 2, 3, 5, 9, 17, 33, 65, 129, 1 << 30])
LOCAL_FRAMES: Final = 6
LAGS: Final = 12
PLAIN_DEG: Final = 50.0


@dataclass(frozen=True, slots=True)
class Edges:
    """Straight pieces of edges, one row each; the same for a capture and for what is simulated of it."""

    pixels: NDArray[np.int64]
    """(E, NEAR_PX + FAR_PX) flat indices, from inside the foreground to the background."""
    side: NDArray[np.int64]
    """(E,) index into SIDES."""
    group: NDArray[np.int64]
    lit: Bool
    """(E,) whether something returns everywhere along it, now and then: no shadow falls there."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Counts by group; `total(weights)` makes one set of figures of them."""

    deviation: F64
    """(G, Z, A, 8) over settled pixels: number, and sums of the variance mm², the variance in steps², the step,
    the depth, the grazing term, z² / fx and 1 / cos θ."""
    local: F64
    """The same from planes in single frames."""
    grazing: F64
    """(G, B, 2) frames of pixels, holes among them."""
    plain: F64
    """(G, 3) surfaces seen at less than 50°: frames of pixels, holes among them, sum of z² (m²) over the frames."""
    correlation: F64
    """(LAGS + 1, 2) of the deviations of pixels so many columns or rows apart: sum of products, their number."""
    edges: F64
    """(G, 4, 2, NEAR_PX + FAR_PX, 5) by side, dark or lit: frames, holes, near, far, between."""
    flips: F64
    """(G, 3) lit edges; the sum over each of p (1 − p), p how often a pixel shows the foreground; their holes."""
    columns: F64
    """(W, 2) covariance of holes of the pixels u, u + 1 and what it would be if they always failed together."""
    lines: F64
    """(H, 2) likewise down the rows."""
    sizes: F64
    """(S,) holes of each size."""
    histogram: NDArray[np.int64]
    """(65536,) of codes, over all cameras."""


def find_edges(view: View, still: Still, counts: F64, first_group: int) -> Edges:
    """The straight edges of a camera's still geometry.

    Args:
        view: the camera and its frames.
        still: its geometry.
        counts: from `count_pixels` of the capture: says where nothing ever returns.
        first_group: number of the camera's first group.
    """
    z = still.filled_mm
    flat = np.arange(z.size).reshape(z.shape)
    returns = (counts[..., 0] - counts[..., 1]).ravel()
    seen, near, far = (counts[..., i].ravel() for i in (0, 2, 3))
    group = _groups(view, first_group).ravel()
    pixels, sides, groups, lits = [], [], [], []
    for side, (turn, mirrored) in enumerate(((False, True), (False, False), (True, True), (True, False))):
        # Every side is "background to the right" of a turned or mirrored image.
        image, index = (z.T, flat.T) if turn else (z, flat)
        if mirrored:
            image, index = image[:, ::-1], index[:, ::-1]
        span = NEAR_PX + FAR_PX
        if image.shape[1] < span:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(image, span, axis=1)
        places = np.lib.stride_tricks.sliding_window_view(index, span, axis=1)
        fore, back = runs[..., NEAR_PX - 1], runs[..., NEAR_PX]
        edge = (fore > 0) & (back - fore > EDGE_GAP * fore)
        rows, columns = np.nonzero(edge)
        run, place = runs[rows, columns], places[rows, columns]
        small = np.abs(np.diff(run, axis=1)) <= EDGE_SHARE * run[:, 1:]
        small[:, NEAR_PX - 1] = True
        good = small.all(1) & (run > 0).all(1) & (seen[place] >= 0.9 * len(view.codes)).all(1)
        place = place[good]
        # Off the edge one surface only: else something creeps there, an arm say.
        enough, dark = np.maximum(returns[place], 1), returns[place] < 5
        pure = (near[place] >= 0.9 * enough)[:, : NEAR_PX - 3].all(1)
        pure &= ((far[place] >= 0.9 * enough) | dark)[:, NEAR_PX + 3]
        place = place[pure]
        pixels.append(place)
        sides.append(np.full(len(place), side))
        groups.append(group[place[:, NEAR_PX]])
        lits.append((returns[place] >= 5).all(1))
    return Edges(
        np.concatenate(pixels or [np.zeros((0, NEAR_PX + FAR_PX), np.int64)]),
        np.concatenate(sides or [np.zeros(0, np.int64)]),
        np.concatenate(groups or [np.zeros(0, np.int64)]),
        np.concatenate(lits or [np.zeros(0, np.bool_)]),
    )


def count_pixels(view: View, still: Still, levels: Levels) -> F64:
    """(H, W, 9) over the steady frames of each pixel.

    Frames, holes, near, far, between near and far; returns of the still surface, their mean difference from
    it (mm), their variance (mm²) and half the mean square from one to the next (mm², less where they drift),
    with the rounding to units undone where the comb of levels is known.
    """
    near, far = envelope(still.filled_mm)
    quantum = levels.quantum_px * view.camera.k[0]
    tolerance = np.maximum(EDGE_SHARE * still.depth_mm, still.tolerance_mm)
    out = _count_pixels(
        view.codes, still.steady, np.float32(view.camera.depth_unit_mm), still.depth_mm, tolerance, near, far,
        float(quantum), float(levels.offset),
    )  # fmt: skip
    return np.asarray(out, np.float64)


def gather(views: Sequence[View], stills: Sequence[Still], edges: Sequence[Edges], levels: Levels) -> Sums:
    """All sums over some cameras.

    Args:
        views: frames, of the capture or simulated.
        stills: the geometry, in either case the capture's.
        edges: its edges, from `find_edges`.
        levels: the comb, of the capture in either case.
    """
    n_groups = TILES * TILES * len(views)
    shape = (n_groups, len(DEPTH_BINS) - 1, len(ANGLE_BINS) - 1, 8)
    deviation, local = np.zeros(shape), np.zeros(shape)
    grazing = np.zeros((n_groups, len(GRAZING_BINS) - 1, 2))
    plain, correlation = np.zeros((n_groups, 3)), np.zeros((LAGS + 1, 2))
    profile = np.zeros((n_groups, len(SIDES), 2, NEAR_PX + FAR_PX, 5))
    flips = np.zeros((n_groups, 3))
    columns = np.zeros((max(v.camera.width for v in views), 2))
    lines = np.zeros((max(v.camera.height for v in views), 2))
    sizes = np.zeros(len(SIZE_BINS) - 1)
    histogram = np.zeros(65536, np.int64)
    for number, (view, still, edge) in enumerate(zip(views, stills, edges, strict=True)):
        first = number * TILES * TILES
        group = _groups(view, first)
        counts = count_pixels(view, still, levels)
        quantum = levels.quantum_px * view.camera.k[0]
        _add_deviation(deviation, view, still, counts, group, quantum)
        _add_local(local, view, still, group, quantum)
        use = (still.cosine > 0) & still.single & (counts[..., 0] > 0)
        angle = np.degrees(np.arccos(np.clip(still.cosine[use], 0, 1)))
        place = np.digitize(angle, GRAZING_BINS) - 1
        inside = (place >= 0) & (place < len(GRAZING_BINS) - 1)
        np.add.at(grazing, (group[use][inside], place[inside]), counts[use][inside][:, :2])
        smooth = use & (still.cosine > np.cos(np.radians(PLAIN_DEG)))
        seen = counts[smooth][:, 0]
        values = np.stack([seen, counts[smooth][:, 1], seen * (still.depth_mm[smooth] / 1000) ** 2], axis=1)
        np.add.at(plain, group[smooth], values)
        correlation += _correlation(view, still, counts, quantum, levels.offset)
        _add_edges(profile, flips, edge, counts)
        mixed = (counts[..., 1] > 0.05 * counts[..., 0]) & (counts[..., 1] < 0.95 * counts[..., 0])
        zero = view.codes == 0
        columns[: view.camera.width] += _together(zero, still.steady, mixed & (still.depth_mm > 0), 1)
        lines[: view.camera.height] += _together(zero, still.steady, mixed & (still.depth_mm > 0), 0)
        _add_sizes(sizes, zero, still)
        histogram += np.bincount(view.codes.ravel(), minlength=65536)
    return Sums(deviation, local, grazing, plain, correlation, profile, flips, columns, lines, sizes, histogram)


def local_frames(view: View) -> list[int]:
    """Which of a view's frames local deviation is measured on."""
    return [int(i) for i in np.unique(np.linspace(0, len(view.codes) - 1, LOCAL_FRAMES).round().astype(int))]


def grazing_term(z_mm: Any, angle_rad: Any) -> Any:
    """What a factor of 1 mm adds to σ at an angle, Nguyen et al. 2012, eq. 4."""
    return np.sqrt(1000 / z_mm) * (angle_rad / np.maximum(np.pi / 2 - angle_rad, np.radians(1))) ** 2


def _groups(view: View, first: int) -> NDArray[np.int64]:
    height, width = view.camera.height, view.camera.width
    row = np.arange(height) * TILES // height
    column = np.arange(width) * TILES // width
    return np.asarray(first + row[:, None] * TILES + column[None, :], np.int64)


def _add_deviation(out: F64, view: View, still: Still, counts: F64, group: Any, quantum: float) -> None:
    unit, fx = view.camera.depth_unit_mm, view.camera.k[0]
    use = _at_rest(still, counts)
    step = step_mm(still.depth_mm[use].astype(np.float64), quantum) if quantum else np.full(use.sum(), unit)
    step = np.maximum(step, unit)
    _bin(out, group[use], still.depth_mm[use], still.cosine[use], counts[use][:, 7], step, fx)


def _at_rest(still: Still, counts: F64) -> Bool:
    """(H, W) settled pixels that do not creep: an arm held up varies less from frame to frame than over all."""
    use = still.settled & (counts[..., 5] >= 8)
    ratio = counts[..., 8] / np.maximum(counts[..., 7], 1e-6)
    vary = use & (counts[..., 7] > 1e-6)
    # Where all of it creeps nothing stands still.
    usual = max(float(np.median(ratio[vary])), 0.8) if vary.any() else 1.0
    return np.asarray(use & (~vary | (ratio > 0.55 * usual)), np.bool_)


def _add_local(out: F64, view: View, still: Still, group: Any, quantum: float) -> None:
    """Deviation from little planes: in a few frames, wherever there is a surface; also where nothing is still."""
    unit = view.camera.depth_unit_mm
    for i in local_frames(view):
        z = view.codes[i] * np.float32(unit)
        tolerance = 2.5 * step_mm(z, quantum) + 2 * unit
        sigma, cosine = local_deviation(view.camera, z, tolerance)
        cosine = np.where((still.cosine > 0) & ~still.moving[i], still.cosine, cosine)
        use = np.isfinite(sigma) & (cosine > 0)
        step = np.maximum(step_mm(z[use].astype(np.float64), quantum), unit)
        _bin(out, group[use], z[use], cosine[use], sigma[use].astype(np.float64) ** 2, step, view.camera.k[0])


def _bin(out: F64, group: Any, z: Any, cosine: Any, variance: Any, step: Any, fx: float) -> None:
    angle = np.arccos(np.clip(cosine, 0, 1))
    depth_bin = np.digitize(z, DEPTH_BINS) - 1
    angle_bin = np.digitize(np.degrees(angle), ANGLE_BINS) - 1
    inside = (depth_bin >= 0) & (depth_bin < out.shape[1]) & (angle_bin >= 0) & (angle_bin < out.shape[2])
    index = np.ravel_multi_index((group[inside], depth_bin[inside], angle_bin[inside]), out.shape[:3])
    wide = z.astype(np.float64) ** 2 / fx
    values = (np.ones_like(variance), variance, variance / step**2, step, z, grazing_term(z, angle), wide, 1 / cosine)
    for i, value in enumerate(values):
        flat = np.bincount(index, np.asarray(value, np.float64)[inside], out[..., i].size)
        out[..., i] += flat.reshape(out.shape[:3])


def _correlation(view: View, still: Still, counts: F64, quantum: float, offset: float) -> F64:
    """(LAGS + 1, 2) products of the disparity's deviations along rows and columns, in a few frames."""
    out = np.zeros((LAGS + 1, 2))
    unit = view.camera.depth_unit_mm
    rests = _at_rest(still, counts)
    for i in local_frames(view):
        z = view.codes[i].astype(np.float64) * unit
        use = rests & still.steady[i] & (z > 0)
        if quantum:
            stepped = use & (z * z > quantum * unit)
            z[stepped] = quantum / (np.rint(quantum / z[stepped] - offset) + offset)
        mean = np.where(use, still.depth_mm + counts[..., 6], 1.0)
        rest = np.where(use, (z - mean) / mean**2, 0.0)
        # In units of each pixel's own deviation, so that none counts more than others; where noise hardly crosses
        # from one level to the next it says nothing of its neighbours.
        scale = np.sqrt(np.maximum(counts[..., 7], 1e-9)) / mean**2
        use &= (np.abs(rest) <= 4 * scale) & (counts[..., 7] > 0.04 * step_mm(mean, quantum) ** 2)
        rest = np.where(use, rest / scale, 0.0)
        for lag in range(LAGS + 1):
            stop = -lag or None
            out[lag, 0] += (rest[:, :stop] * rest[:, lag:]).sum() + (rest[:stop] * rest[lag:]).sum()
            out[lag, 1] += (use[:, :stop] & use[:, lag:]).sum() + (use[:stop] & use[lag:]).sum()
    return out


def _add_edges(profile: F64, flips: F64, edge: Edges, counts: F64) -> None:
    flat = counts.reshape(-1, counts.shape[-1])
    along = flat[edge.pixels]
    np.add.at(profile, (edge.group, edge.side, edge.lit.astype(int)), along[..., :5])
    lit, group = along[edge.lit], edge.group[edge.lit]
    returns = np.maximum(lit[..., 0] - lit[..., 1], 1)
    share = (lit[..., 2] + 0.5 * lit[..., 4]) / returns
    flip = share * (1 - share) * returns / np.maximum(returns - 1, 1)
    np.add.at(flips[:, 0], group, 1.0)
    # Farther off, `envelope` no longer sees both surfaces.
    near = slice(NEAR_PX - 4, NEAR_PX + 4)
    np.add.at(flips[:, 1], group, flip[:, near].sum(1))
    np.add.at(flips[:, 2], group, (lit[..., 1] / np.maximum(lit[..., 0], 1))[:, near].sum(1))


def _together(zero: Bool, steady: Bool, use: Bool, axis: int) -> F64:
    """(W or H, 2) covariance of holes between a pixel and the next along an axis (of H, W), and its bound."""
    if axis == 0:
        zero, steady, use = zero.transpose(0, 2, 1), steady.transpose(0, 2, 1), use.T
    out = np.zeros((use.shape[1], 2))
    rows, columns = np.nonzero(use[:, :-1] & use[:, 1:])
    if not len(rows):
        return out
    if len(rows) > 20000:
        chosen = np.linspace(0, len(rows) - 1, 20000).astype(int)
        rows, columns = rows[chosen], columns[chosen]
    both = steady[:, rows, columns] & steady[:, rows, columns + 1]
    a, b = zero[:, rows, columns] & both, zero[:, rows, columns + 1] & both
    n = np.maximum(both.sum(0), 1)
    mean_a, mean_b = a.sum(0) / n, b.sum(0) / n
    good = (n >= 8) & (mean_a > 0) & (mean_a < 1) & (mean_b > 0) & (mean_b < 1)
    covariance = (a & b).sum(0) / n - mean_a * mean_b
    bound = np.minimum(mean_a, mean_b) - mean_a * mean_b
    np.add.at(out[:, 0], columns[good], covariance[good])
    np.add.at(out[:, 1], columns[good], bound[good])
    return out


def _add_sizes(sizes: F64, zero: Bool, still: Still) -> None:
    """Holes in surfaces that return somewhere, not in the shadows."""
    import cv2

    for i in np.unique(np.linspace(0, len(zero) - 1, 2 * LOCAL_FRAMES).round().astype(int)).tolist():
        holes = (zero[i] & still.steady[i] & (still.depth_mm > 0)).astype(np.uint8)
        areas = cv2.connectedComponentsWithStats(holes, connectivity=4)[2][1:, cv2.CC_STAT_AREA]
        sizes += np.histogram(areas, SIZE_BINS)[0]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _count_pixels(codes, steady, unit, depth, tolerance, near, far, quantum, offset):  # type: ignore[no-untyped-def]
    n, height, width = codes.shape
    out = np.zeros((height, width, 9), np.float32)
    for v in range(height):
        for u in range(width):
            surface = depth[v, u]
            w_near, w_far = np.float32(1) / near[v, u], np.float32(0)
            if far[v, u] > 0:
                w_far = np.float32(1) / far[v, u]
            apart = max(w_near - w_far, np.float32(1e-9))
            total = square = onward = last = 0.0
            inside = 0
            for i in range(n):
                if not steady[i, v, u]:
                    continue
                out[v, u, 0] += 1
                if codes[i, v, u] == 0:
                    out[v, u, 1] += 1
                    continue
                z = codes[i, v, u] * unit
                share = (w_near - np.float32(1) / z) / apart
                out[v, u, 2 if share < 0.15 else (3 if share > 0.85 else 4)] += 1
                if surface > 0 and abs(z - surface) <= tolerance[v, u]:
                    exact = np.float64(z)
                    if quantum > 0 and exact * exact > quantum * unit:
                        exact = quantum / (np.rint(quantum / exact - offset) + offset)
                    difference = exact - surface
                    if inside:
                        onward += (difference - last) ** 2
                    last = difference
                    total += difference
                    square += difference * difference
                    inside += 1
            out[v, u, 5] = inside
            if inside > 1:
                out[v, u, 6] = total / inside
                out[v, u, 7] = max(square - total * total / inside, 0.0) / (inside - 1)
                out[v, u, 8] = onward / (2 * (inside - 1))
    return out
