"""What stands still before the cameras of a capture: the geometry that the sensor's noise is measured on.

A camera that does not move sees the same surfaces again and again. Their depth, averaged over frames and fitted
by little planes, is a clean image of them: temporal deviation, holes and edges are measured against it, and
the same geometry is sent through a sensor model for comparison. Planes are fitted to 1/z, which is linear in
the pixel for any plane:

    1/z = a + b Δu + c Δv,   n ∝ (fx b, fy c, 1/z − x' fx b − y' fy c),   cos θ = (1/z) / (|n| |ray|)

with x' = (u − cx) / fx. What moves (the hand, its arm) is found frame by frame, and its surroundings, as far
as its shadow may reach, are left out. Where nothing stands still there is no geometry, only single frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from ..stores.camera import Camera
from ..stores.errors import HandloomError
from ..stores.recording import Recording

import numba as nb  # isort: skip

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U16 = NDArray[np.uint16]
Bool = NDArray[np.bool_]

MIN_FRAMES: Final = 12
"""Fewer frames of a camera say nothing of how its pixels vary."""
MAX_FRAMES: Final = 48
MAX_PIXELS: Final = 12_000_000
"""Of one camera, over all its frames: 0.05 s a million."""
MAX_CAMERAS: Final = 3
EDGE_SHARE: Final = 0.024
"""A step between neighbours of more than this share of their depth is an edge: the sensor models' 12 mm at 0.5 m."""
RADIUS_PX: Final = 4
"""Half the side of the planes fitted to the still geometry ..."""
LOCAL_RADIUS_PX: Final = 2
"""... and to single frames."""


@dataclass(frozen=True, slots=True)
class View:
    """The frames looked at of one camera."""

    camera: Camera
    number: int
    """Of the camera in its rig."""
    rows: NDArray[np.int64]
    codes: U16
    """(n, H, W) as recorded, in units of the camera."""


@dataclass(frozen=True, slots=True)
class Still:
    """What stands still before one camera, all (H, W)."""

    depth_mm: F32
    """0 where nothing does, or where nothing ever returned."""
    filled_mm: F32
    """The same, holes closed along the row with the farther side: what probably lies in the shadows."""
    cosine: F32
    """Of the angle between normal and line of sight; 0 where no plane could be fitted."""
    tolerance_mm: F32
    """Returns farther than this from the surface are of another one."""
    settled: Bool
    """Pixels away from edges that return one surface, nearly always: what temporal deviation is measured on."""
    single: Bool
    """Pixels that return one surface, whenever they return anything."""
    steady: Bool
    """(n, H, W) whether a frame's pixel is away from what moves and from where its shadow may fall."""
    moving: Bool
    """(n, H, W) what moves."""


def sample_views(recording: Recording, *, max_frames: int = MAX_FRAMES) -> list[View]:
    """Frames spread evenly over a recording, of up to three cameras.

    Raises:
        HandloomError: there are no full frames, or too few.
    """
    frames = recording.frames
    if frames is None or not recording.has_depth:
        raise HandloomError(
            "The recording holds no full frames",
            where=str(recording.path),
            why="noise is measured on the cameras' own pixels, and a synthetic recording keeps crops only",
            fix="give a capture: handloom capture record --out R.zarr",
        )
    present = frames.read("present")
    chosen = np.unique(np.linspace(0, recording.n_views - 1, min(recording.n_views, MAX_CAMERAS)).round().astype(int))
    views = []
    for number in chosen.tolist():
        camera = recording.rig.cameras[number]
        rows = np.flatnonzero(present[:, number])
        if len(rows) < MIN_FRAMES:
            raise HandloomError(
                "There are too few frames to measure noise",
                where=f"{recording.path}, camera '{camera.name}'",
                why=f"{len(rows)} images; {MIN_FRAMES} at least, 40 or more are better",
                fix="record a longer capture: handloom capture record --frames 100 …",
            )
        count = min(max_frames, max(MIN_FRAMES, MAX_PIXELS // (camera.width * camera.height)), len(rows))
        rows = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
        views.append(View(camera, number, rows, frames.read_rows(f"depth/{camera.name}", rows)))
    if not any(view.codes.any() for view in views):
        raise HandloomError("All frames are empty", where=str(recording.path), why="no pixel has a return")
    return views


def find_still(view: View, quantum_mm: float, *, jitters: bool = True) -> Still:
    """The still geometry of one camera.

    Args:
        view: its frames.
        quantum_mm: f b / step: depth comes in steps of z² / `quantum_mm`; 0 where no steps were seen.
        jitters: edges move from frame to frame; else they stay and pixels beside them fly.
    """
    import cv2

    unit = view.camera.depth_unit_mm
    median, spread, count = _middle(view.codes)
    median *= unit
    typical = _typical_spread(median, spread * unit, count, unit, quantum_mm)
    tolerance = 5 * typical + step_mm(median, quantum_mm) + 2 * unit
    mean, inside = _mean_inside(view.codes, np.float32(unit), median, tolerance.astype(np.float32))
    n = len(view.codes)
    known = (inside >= max(4, n // 12)) & (inside > 0.4 * count)
    depth = np.where(known, mean, np.float32(0)).astype(np.float32)
    edge = edges(depth, tolerance)
    value, b, c, _, fitted = _planes(_inverse(depth), edge, RADIUS_PX, 0.6)
    cosine = _cosine(view.camera, value, b, c, fitted)
    plane = 1 / np.where(fitted, value, 1)
    smooth = fitted & known & (np.abs(plane - depth) < tolerance)
    cosine[~smooth] = 0
    # Planes also close the little holes of surfaces that rarely return.
    filled = _fill(np.where(smooth | (fitted & ~known), plane, depth).astype(np.float32))
    depth = np.where(smooth, plane, depth).astype(np.float32)
    near, far = envelope(filled)
    margin = np.maximum(EDGE_SHARE * np.maximum(far, 1), tolerance).astype(np.float32)
    moving = np.empty(view.codes.shape, np.bool_)
    steady = np.empty(view.codes.shape, np.bool_)
    # The shadow of a hand at half a metre before a wall falls an eighth of the image away at most.
    around = np.ones((9, 2 * (view.camera.width // 8) + 1), np.uint8)
    speck = np.ones((3, 3), np.uint8)
    for i, codes in enumerate(view.codes):
        z = codes * np.float32(unit)
        moves = (codes > 0) & ((z < near - margin) | (z > far + margin))
        # Single pixels are flying ones or noise; what moves is larger.
        opened = cv2.morphologyEx(moves.astype(np.uint8), cv2.MORPH_OPEN, speck)
        moving[i] = opened > 0
        steady[i] = cv2.dilate(opened, around) == 0
    beside = cv2.dilate(edges(filled, 2 * tolerance).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    ragged = beside & (far - near > 2 * EDGE_SHARE * near) & (filled > 0) & ~smooth
    crisp = _outermost(view.codes, steady, np.float32(unit), near, far, ragged, jitters)
    if jitters:  # the mean of the farthest quarter of normal noise
        crisp -= np.float32(1.27) * typical * (crisp > 0)
    depth = np.where(crisp > 0, crisp, depth)
    filled = np.where(crisp > 0, crisp, filled)
    # Where a hand rests in some frames and is gone in others, the planes are of neither surface.
    # Beside nothing at all lies an edge as well.
    mixed = (known & (inside < 0.8 * count)) | (filled == 0)
    single = smooth & (cv2.dilate(mixed.astype(np.uint8), np.ones((2 * RADIUS_PX + 1, 2 * RADIUS_PX + 1))) == 0)
    narrow = spread * unit <= 1.6 * typical + 0.5 * step_mm(depth, quantum_mm)
    settled = single & (inside >= 0.97 * count) & narrow
    return Still(depth, filled, cosine, np.asarray(tolerance, np.float32), settled, single, steady, moving)


def step_mm(z_mm: Any, quantum_mm: float) -> Any:
    """Steps of depth that steps of disparity make at z."""
    return z_mm * z_mm / quantum_mm if quantum_mm else 0 * z_mm


def edges(depth_mm: F32, tolerance_mm: Any = 0.0) -> Bool:
    """(H, W) pixels beside a step of depth, of both sides; holes (0) are no steps."""
    out = np.zeros(depth_mm.shape, np.bool_)
    limit = np.maximum(EDGE_SHARE * depth_mm, tolerance_mm)
    for axis in (0, 1):
        ahead = [slice(None), slice(None)]
        back = [slice(None), slice(None)]
        ahead[axis], back[axis] = slice(1, None), slice(None, -1)
        one, other = depth_mm[tuple(back)], depth_mm[tuple(ahead)]
        step = np.abs(one - other) > np.maximum(limit[tuple(back)], limit[tuple(ahead)])
        step &= (one > 0) & (other > 0)
        out[tuple(back)] |= step
        out[tuple(ahead)] |= step
    return out


def local_deviation(camera: Camera, depth_mm: F32, tolerance_mm: float) -> tuple[F32, F32]:
    """Deviation from little planes in one frame, (H, W) mm, NaN near edges and holes; and the cosine there."""
    edge = edges(depth_mm, tolerance_mm)
    value, b, c, rest, fitted = _planes(_inverse(depth_mm), edge, LOCAL_RADIUS_PX, 1.0)
    z = 1 / np.where(fitted, value, 1)
    return np.where(fitted, np.sqrt(rest) * z * z, np.float32(np.nan)), _cosine(camera, value, b, c, fitted)


def smoothed(view: View, frame: int) -> F32:
    """One frame, mm, its noise taken down: planes where they fit, else the median of nine; holes stay."""
    import cv2

    z = view.codes[frame] * np.float32(view.camera.depth_unit_mm)
    calm = cv2.medianBlur(np.ascontiguousarray(z, np.float32), 3)
    value, _, _, _, fitted = _planes(_inverse(z), edges(z), LOCAL_RADIUS_PX, 0.6)
    out: F32 = np.where(fitted, 1 / np.where(fitted, value, 1), calm).astype(np.float32)
    return out


def thinned(depth_mm: F32, grown_px: int) -> F32:
    """Geometry before a camera grew its foreground by so many pixels: what lies behind gets them back."""
    import cv2

    kernel = np.ones((2 * grown_px + 1, 2 * grown_px + 1), np.uint8)
    inverse = _inverse(depth_mm)
    behind = cv2.erode(inverse, kernel)
    edge = inverse - behind > 2 * EDGE_SHARE * inverse
    # On slopes the farthest of a window is farther than the surface: only where a step is as large as an edge.
    edge &= cv2.dilate(edges(depth_mm).astype(np.uint8), kernel) > 0
    back = np.where(behind > 0, 1 / np.maximum(behind, 1e-9), 0)
    return np.where(edge & (depth_mm > 0), back, depth_mm).astype(np.float32)


def _typical_spread(median: F32, spread: F32, count: Any, unit: float, quantum_mm: float) -> F32:
    """(H, W) mm the usual deviation of still pixels at each pixel's depth, never less than half a step."""
    use = (count >= count.max() // 2) & (median > 0)
    if use.sum() < 100:
        return np.asarray(np.maximum(unit, 0.01 * median), np.float32)
    borders = np.quantile(median[use], np.linspace(0, 1, 13))
    middles = (borders[1:] + borders[:-1]) / 2
    group = np.clip(np.searchsorted(borders, median[use]) - 1, 0, 11)
    values = np.array([np.median(spread[use][group == i]) if (group == i).any() else 0.0 for i in range(12)])
    floor = np.maximum(0.5 * step_mm(middles, quantum_mm), 0.5 * unit)
    out = np.interp(median, middles, np.maximum(values, floor))
    return np.asarray(out, np.float32)


def _inverse(depth_mm: F32) -> F32:
    return np.where(depth_mm > 0, 1 / np.maximum(depth_mm, np.float32(1)), np.float32(0)).astype(np.float32)


def _cosine(camera: Camera, value: F32, b: F32, c: F32, fitted: Bool) -> F32:
    fx, fy, cx, cy = camera.k
    x = ((np.arange(camera.width) - cx) / fx)[None, :]
    y = ((np.arange(camera.height) - cy) / fy)[:, None]
    nx, ny = fx * b, fy * c
    nz = value - x * nx - y * ny
    length = np.sqrt((nx * nx + ny * ny + nz * nz) * (x * x + y * y + 1))
    return np.where(fitted, value / np.maximum(length, 1e-12), 0).astype(np.float32)


def _fill(depth_mm: F32) -> F32:
    """Close the holes of each row with the farther of both sides; those at the border stay."""
    known = depth_mm > 0
    column = np.arange(depth_mm.shape[1])[None, :]
    left = np.maximum.accumulate(np.where(known, column, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, column, len(column[0]))[:, ::-1], axis=1)[:, ::-1]
    between = ~known & (left >= 0) & (right < len(column[0])) & (right - left <= len(column[0]) // 3)
    rows = np.arange(len(depth_mm))[:, None]
    far = np.maximum(depth_mm[rows, np.maximum(left, 0)], depth_mm[rows, np.minimum(right, len(column[0]) - 1)])
    return np.where(between, far, depth_mm).astype(np.float32)


def envelope(depth_mm: F32) -> tuple[F32, F32]:
    """The nearest and the farthest depth within four pixels; where nothing is known, at infinity and at 0."""
    import cv2

    around = np.ones((9, 9), np.uint8)
    empty = depth_mm <= 0
    near = cv2.erode(np.where(empty, np.float32(1e9), depth_mm), around)
    return near, cv2.dilate(depth_mm, around)


@nb.njit(cache=True, nogil=True)
def _middle(codes):  # type: ignore[no-untyped-def]
    """(H, W) median of each pixel's returns, a deviation from its quartiles, and how many there are."""
    n, height, width = codes.shape
    median = np.zeros((height, width), np.float32)
    spread = np.zeros((height, width), np.float32)
    count = np.zeros((height, width), np.int32)
    line = np.empty(n, np.uint16)
    for v in range(height):
        for u in range(width):
            m = 0
            for i in range(n):
                if codes[i, v, u] > 0:
                    line[m] = codes[i, v, u]
                    m += 1
            count[v, u] = m
            if m:
                ordered = np.sort(line[:m])
                median[v, u] = ordered[m // 2]
                spread[v, u] = (np.float32(ordered[(3 * m) // 4]) - np.float32(ordered[m // 4])) / np.float32(1.349)
    return median, spread, count


@nb.njit(cache=True, nogil=True)
def _mean_inside(codes, unit, middle, tolerance):  # type: ignore[no-untyped-def]
    """(H, W) mean of the returns within a tolerance of the middle, mm, and their number."""
    n, height, width = codes.shape
    mean = np.zeros((height, width), np.float32)
    count = np.zeros((height, width), np.int32)
    for v in range(height):
        for u in range(width):
            total = 0.0
            for i in range(n):
                z = codes[i, v, u] * unit
                if z > 0 and abs(z - middle[v, u]) <= tolerance[v, u]:
                    total += z
                    count[v, u] += 1
            if count[v, u]:
                mean[v, u] = total / count[v, u]
    return mean, count


@nb.njit(cache=True, nogil=True)
def _outermost(codes, steady, unit, near, far, ragged, jitters):  # type: ignore[no-untyped-def]
    """(H, W) the surface that pixels beside edges belong to, mm, where it is the foreground; else 0.

    Where edges jitter, a pixel of a round thing's rim shows its neighbours inside as often as itself, and fails
    more often than they: the farthest quarter of its returns is its own. Where they do not, the first pixel
    behind an edge lies between both surfaces often, and is not the foreground's.
    """
    n, height, width = codes.shape
    out = np.zeros((height, width), np.float32)
    line, rest = np.empty(n, np.float32), np.empty(n, np.float32)
    for v in range(height):
        for u in range(width):
            if not ragged[v, u]:
                continue
            fore = back = hole = pure = flying = 0
            w_near = 1 / near[v, u]
            apart = w_near - 1 / far[v, u]
            for i in range(n):
                if not steady[i, v, u]:
                    continue
                if codes[i, v, u] == 0:
                    hole += 1
                    continue
                z = codes[i, v, u] * unit
                share = (w_near - 1 / z) / apart
                pure += share < 0.15
                flying += (share >= 0.15) & (share <= 0.85)
                if share < 0.5:
                    line[fore] = z
                    fore += 1
                else:
                    rest[back] = z
                    back += 1
            if fore < 4 or fore + 0.5 * hole < back:
                continue
            ordered = np.sort(line[:fore])
            if jitters:
                out[v, u] = np.mean(ordered[(3 * fore) // 4 :])
            elif pure < 0.8 * (fore + back) and flying > 0.06 * (fore + back):
                out[v, u] = np.sort(rest[:back])[back - 1 - back // 4] if back else far[v, u]
            else:
                out[v, u] = ordered[fore // 2]
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _planes(w, edge, radius, share):  # type: ignore[no-untyped-def]
    """Least-squares planes w = a + b Δu + c Δv around each pixel: a, b, c, residual variance, and where.

    Windows that touch an edge, or of which less than `share` is known, have none.
    """
    height, width = w.shape
    a = np.zeros((height, width), np.float32)
    b = np.zeros((height, width), np.float32)
    c = np.zeros((height, width), np.float32)
    rest = np.zeros((height, width), np.float32)
    fitted = np.zeros((height, width), np.bool_)
    need = share * (2 * radius + 1) ** 2
    for v in range(radius, height - radius):
        for u in range(radius, width - radius):
            base = w[v, u]
            n, clear = 0.0, True
            su = sv = suu = svv = suv = s = sd = sud = svd = 0.0
            for dv in range(-radius, radius + 1):
                for du in range(-radius, radius + 1):
                    value = w[v + dv, u + du]
                    if edge[v + dv, u + du]:
                        clear = False
                        break
                    if value > 0:
                        if base <= 0:
                            base = value
                        d = np.float64(value - base)
                        n += 1
                        su += du
                        sv += dv
                        suu += du * du
                        svv += dv * dv
                        suv += du * dv
                        s += d
                        sd += d * d
                        sud += du * d
                        svd += dv * d
                if not clear:
                    break
            if not clear or n < need or n < 6:
                continue
            # Normal equations about the mean.
            muu, mvv, muv = suu - su * su / n, svv - sv * sv / n, suv - su * sv / n
            mud, mvd, mdd = sud - su * s / n, svd - sv * s / n, sd - s * s / n
            determinant = muu * mvv - muv * muv
            if determinant < 1e-6:
                continue
            slope_u = (mud * mvv - mvd * muv) / determinant
            slope_v = (mvd * muu - mud * muv) / determinant
            a[v, u] = base + (s - slope_u * su - slope_v * sv) / n
            b[v, u], c[v, u] = slope_u, slope_v
            rest[v, u] = max(mdd - slope_u * mud - slope_v * mvd, 0.0) / (n - 3)
            fitted[v, u] = a[v, u] > 0
    return a, b, c, rest, fitted
