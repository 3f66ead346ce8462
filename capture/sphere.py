"""Finding a ball of known radius in a depth image, without labels, whatever holds it.

1. What stands before the background (where one is known) votes: a pixel at p whose surface faces the camera with
   unit normal n is on a ball whose centre is p − r n (generalised Hough transform, Ballard 1981). Normals come from
   planes fitted to windows about a fifth of the ball's image wide.
2. Each dense place among the votes is refined by Gauss–Newton on ‖p − c‖ − r over the pixels that face the camera
   within 60°, with Tukey's weights: a stick, fingers and flying pixels lose theirs. The residual is the depth error
   times the cosine of the incidence, so grazing pixels, the worst that a depth camera has, count least.
3. It is a ball only if most of the pixels that a ball would show are there, and if the surface ends where a ball's
   does: a head, a shoulder or a tube goes on.

A bias of the depth moves all points, and with them the centre, along the rays; the fit is no worse for it, and
`sphere_rig.py` may estimate it. Then the points that were used, kept with the ball, are set right and fitted again
(`fit_points`): what is nearer by 2 mm looks larger by 0.1 mm, too, and a part of a ball whose radius is taken wrong
has its centre beside the true one. Cost: 4 ms for an image of 320 × 240.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

BEFORE_MM: Final = 15.0
BEFORE_SHARE: Final = 0.015
"""A ball stands this much before the background, plus this share of the distance."""
VOTING_PX: Final = 14.0
"""Images are thinned until the ball's radius is about this."""
LEAST_RADIUS_PX: Final = 4.0
"""A smaller ball shows too few pixels to be told from noise."""
CAP: Final = 0.87
"""Sine of the largest incidence that is used: 60°."""
CANDIDATES: Final = 4
LEAST_CONFIDENCE: Final = 0.45
GROWN_PX: Final = 3.0
"""Pixels by which a surface may look larger than it is."""
LARGEST_RMS: Final = 0.12
"""Of the fit, in radii: a fist or a ball of another size fits worse."""
RADIUS_OFF: Final = 0.25
"""How far the radius that the pixels themselves say may be from the given one, in radii."""
FLOOR_MM: Final = 0.05
"""Standard deviation of a centre that no number of pixels takes away."""
MOST_POINTS: Final = 1500
"""Kept of a ball; a nearer one has more pixels, which say nothing new."""
PATCHES: Final = 4
"""Across the ball: pixels of one patch err together, those of two patches do not."""


@dataclass(frozen=True, slots=True)
class Sphere:
    """A ball in one image."""

    center_mm: F64
    """(3,) in the camera's frame, as the camera measures depth."""
    covariance: F64
    """(3, 3) mm² of the centre."""
    confidence: float
    """0 to 1: share of the ball's expected pixels that are there, less what goes on beyond its edge."""
    pixels: int
    rms_mm: float
    """Of the pixels that were used, from the ball's surface."""
    points_mm: NDArray[np.float32]
    """(n, 3) of the pixels that face the camera, as measured."""


@dataclass(frozen=True, slots=True, eq=False)
class PointFit:
    """A ball fitted to points."""

    center_mm: F64
    """(3,)"""
    covariance: F64
    """(3, 3) mm² if every point erred by itself."""
    together: float
    """By how much the variance is larger because neighbours err together."""
    rms_mm: float
    used: int


def find_sphere(
    depth_mm: NDArray[Any], k: tuple[float, ...], radius_mm: float, *, background_mm: NDArray[Any] | None = None
) -> Sphere | None:
    """The likeliest ball of an image, or None.

    Args:
        depth_mm: (H, W) mm, 0 = no return.
        k: fx, fy, cx, cy of the camera.
        radius_mm: of the ball.
        background_mm: (H, W) mm of what does not move, 0 = unknown.
    """
    depth = np.asarray(depth_mm, np.float32)
    before = depth > 0
    if background_mm is not None:
        known = background_mm > 0
        before &= ~known | (depth < background_mm * (1 - BEFORE_SHARE) - BEFORE_MM)
    # Beyond this the ball is too small to be found, and so are most rooms.
    before &= depth < min(k[0], k[1]) * radius_mm / LEAST_RADIUS_PX
    box = _box(before)
    if box is None:
        return None
    rows, columns = box
    part = np.where(before, depth, 0)[box]
    k_part = np.array([k[0], k[1], k[2] - columns.start, k[3] - rows.start])
    found = [
        sphere
        for start in _densest(part, k_part, radius_mm)
        if (sphere := _refined(depth, k, radius_mm, before, start)) is not None
    ]
    best = max(found, key=lambda sphere: sphere.confidence, default=None)
    return best if best is not None and best.confidence >= LEAST_CONFIDENCE else None


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _densest(depth: NDArray[np.float32], k: F64, radius_mm: float) -> list[F64]:
    """Centres (3,) that most pixels vote for, relative to how many a ball there would have."""
    near = float(np.median(depth[depth > 0]))
    step = max(1, int(k[0] * radius_mm / near / VOTING_PX))
    depth = np.ascontiguousarray(depth[::step, ::step])
    k = k / step
    votes = _votes(depth, k, radius_mm)
    votes = votes[votes[:, 2] > radius_mm] if len(votes) else votes
    if not len(votes):
        return []
    expected = 0.5 * np.pi * radius_mm**2 * k[0] * k[1] / votes[:, 2] ** 2
    score, middle = _support(votes, 1 / expected, radius_mm / 2)
    out: list[F64] = []
    for index in np.argsort(-score)[: 40 * CANDIDATES]:
        if score[index] < 0.2 or len(out) == CANDIDATES:
            break
        if all(np.linalg.norm(middle[index] - other) > radius_mm for other in out):
            out.append(middle[index])
    return out


def _support(votes: F64, weight: F64, cell_mm: float) -> tuple[F64, F64]:
    """Summed weight (n,) and mean vote (n, 3) of cubes of two cells' side, each cell being a corner of eight."""
    cells = np.floor(votes / cell_mm).astype(np.int64)
    cells -= cells.min(0) - 1
    size = cells.max(0) + 2
    key = (cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]
    shifts = np.array([(x * size[1] + y) * size[2] + z for x in (0, 1) for y in (0, 1) for z in (0, 1)])
    keys, inverse = np.unique((key[:, None] - shifts).reshape(-1), return_inverse=True)
    repeated = np.repeat(weight, 8)
    total = np.bincount(inverse, repeated, len(keys))
    sums = [np.bincount(inverse, repeated * np.repeat(votes[:, axis], 8), len(keys)) for axis in range(3)]
    middle: F64 = np.stack(sums, 1) / total[:, None]
    return np.asarray(total, np.float64), middle


def _votes(depth: NDArray[np.float32], k: F64, radius_mm: float) -> F64:
    """(n, 3) centres of the balls of that radius that pixels with a good normal lie on.

    1/z of a plane is linear in the pixel: 1/z = a u + b v + c, with the plane's normal along
    (a fx, b fy, c + a cx + b cy). It is fitted to the window around each pixel.
    """
    fx, fy, cx, cy = k
    mask = (depth > 0).astype(np.float64)
    seen = depth > 0
    height, width = depth.shape
    half = int(np.clip(round(fx * radius_mm / float(np.median(depth[seen])) / 5), 1, 8))
    u, v = np.meshgrid(np.arange(width) - cx, np.arange(height) - cy)
    w = np.where(seen, 1.0 / np.where(seen, depth, 1.0), 0.0)

    def total(image: F64) -> F64:
        window = 2 * half + 1
        out: F64 = cv2.boxFilter(image, cv2.CV_64F, (window, window), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return out

    n = np.maximum(total(mask), 1)
    mu, mv, mw = total(mask * u) / n, total(mask * v) / n, total(w) / n
    uu, vv, uv = total(mask * u * u) / n - mu**2, total(mask * v * v) / n - mv**2, total(mask * u * v) / n - mu * mv
    uw, vw = total(w * u) / n - mu * mw, total(w * v) / n - mv * mw
    determinant = uu * vv - uv**2
    good = seen & (n >= 0.6 * (2 * half + 1) ** 2) & (determinant > 0.02)
    good &= np.abs(mw - w) < 0.4 * radius_mm * w * mw  # the window does not span two surfaces
    a = (vv * uw - uv * vw)[good] / determinant[good]
    b = (uu * vw - uv * uw)[good] / determinant[good]
    c = mw[good] - a * mu[good] - b * mv[good]  # 1/z on the optical axis: u, v count from there
    normal = np.stack([a * fx, b * fy, c], 1)  # points away from the camera: 1/z > 0
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    z = depth[good].astype(np.float64)
    points = np.stack([u[good] * z / fx, v[good] * z / fy, z], 1)
    facing = (normal * points).sum(1) / np.linalg.norm(points, axis=1)
    kept = facing > np.sqrt(1 - CAP**2)
    out: F64 = points[kept] + radius_mm * normal[kept]
    return out


def _refined(
    depth: NDArray[np.float32], k: tuple[float, ...], radius_mm: float, before: NDArray[np.bool_], start: F64
) -> Sphere | None:
    """The ball fitted to the pixels about a first guess of its centre (3,)."""
    center = start.copy()
    sigma, inside = 6.0, np.empty((0, 3))
    for _ in range(12):
        if not np.isfinite(center).all() or center[2] < 1.2 * radius_mm:
            return None
        inside = _near(depth, k, before, center, CAP * radius_mm)
        step = _step(inside, center, radius_mm, sigma)
        if step is None:
            return None
        center += step.move
        sigma = float(np.clip(step.sigma, 0.4, max(0.7 * sigma, 0.4, 0.02 * radius_mm)))
        if np.linalg.norm(step.move) < 0.01:
            break
    last = _step(inside, center, radius_mm, sigma)
    if last is None or last.rms > LARGEST_RMS * radius_mm:
        return None
    if abs(_free_radius(inside[last.weight > 0]) / radius_mm - 1) > RADIUS_OFF:
        return None
    used = int((last.weight > 0).sum())
    share = _share(used, center, k, CAP * radius_mm, depth.shape)
    beyond = _beyond(depth, k, center, radius_mm)
    covariance = last.rms**2 * np.linalg.inv(last.hessian) + FLOOR_MM**2 * np.eye(3)
    kept = inside[:: max(1, len(inside) // MOST_POINTS)].astype(np.float32)
    return Sphere(center, covariance, max(0.0, min(share, 1.0) * (1 - beyond)), used, last.rms, kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One step of Gauss–Newton on ‖p − c‖ − r with Tukey's weights."""

    move: F64
    hessian: F64
    normals: F64
    error: F64
    weight: F64
    sigma: float
    rms: float


def _step(points: F64, center: F64, radius_mm: float, sigma: float) -> _Step | None:
    away = points - center
    distance = np.linalg.norm(away, axis=1)
    return _weighted(away / distance[:, None], distance - radius_mm, sigma)


def _weighted(normals: F64, error: F64, sigma: float) -> _Step | None:
    """The step of points that are off the surface by `error` (n,), or None where too few are near it."""
    reach = 4.0 * sigma
    used = np.abs(error) < reach
    if used.sum() < 20:
        return None
    error = np.asarray(np.where(used, error, 0.0), np.float64)
    weight = np.asarray(np.where(used, (1 - (error / reach) ** 2) ** 2, 0.0), np.float64)
    weighted = normals * weight[:, None]
    hessian = np.asarray(weighted.T @ normals, np.float64)
    try:
        move = np.linalg.solve(hessian + 1e-6 * len(normals) * np.eye(3), weighted.T @ error)
    except np.linalg.LinAlgError:
        return None
    spread = 1.4826 * float(np.median(np.abs(error[used])))
    return _Step(
        np.asarray(move, np.float64), hessian, normals, error, weight, spread, float(np.sqrt(np.mean(error[used] ** 2)))
    )


def fit_points(points_mm: F64, radius_mm: float, start: F64) -> PointFit | None:
    """The ball of a radius through points (n, 3) mm that lie about it, from a good guess of its centre."""
    center, sigma = start.copy(), 3.0
    for _ in range(8):
        step = _ray_step(points_mm, center, radius_mm, sigma)
        if step is None:
            return None
        center += step.move
        sigma = float(np.clip(step.sigma, 0.2, max(0.7 * sigma, 0.4)))
        if np.linalg.norm(step.move) < 1e-3:
            break
    last = _ray_step(points_mm, center, radius_mm, sigma)
    if last is None:
        return None
    inverse = np.asarray(np.linalg.inv(last.hessian), np.float64)
    covariance = np.asarray(last.rms**2 * inverse, np.float64)
    return PointFit(center, covariance, _together(last, inverse), last.rms, int((last.weight > 0).sum()))


def radius_of(points_mm: F64, radius_mm: float, start: F64) -> tuple[float, float] | None:
    """The radius that points (n, 3) about a ball say, and its standard deviation if every point erred by itself, mm.

    How much the surface bends tells it from the distance, but badly: with the noise of a depth camera a single image
    is good for about 1 % of it.
    """
    center, radius, sigma, told = start.copy(), radius_mm, 3.0, None
    for _ in range(12):
        step = _ray_step(points_mm, center, radius, sigma)
        if step is None:
            return None
        root = np.sqrt(step.weight)
        four = np.column_stack([step.normals, np.ones(len(points_mm))]) * root[:, None]
        both = np.linalg.inv(four.T @ four + 1e-9 * np.eye(4))
        move = both @ (four.T @ (step.error * root))
        center, radius = center + move[:3], radius + float(move[3])
        sigma = float(np.clip(step.sigma, 0.2, max(0.7 * sigma, 0.4)))
        if not 0.5 < radius / radius_mm < 2.0:
            return None
        told = radius, step.rms * float(np.sqrt(both[3, 3]))
        if np.abs(move).max() < 1e-3:
            break
    return told


def _ray_step(points: F64, center: F64, radius_mm: float, sigma: float) -> _Step | None:
    """As `_step`, with the normals of where the rays meet the ball.

    A depth camera errs along its rays. Normals towards the points themselves would err with them, and the surface would
    seem to bend more than it does: by 0.2 mm of 30 with 1 mm of noise.
    """
    rays = points / points[:, 2:]
    a, b = (rays * rays).sum(1), rays @ center
    root = b * b - a * (center @ center - radius_mm**2)
    meets = root > 0
    normals = (rays * ((b - np.sqrt(np.maximum(root, 0))) / a)[:, None] - center) / radius_mm
    along = (normals * rays).sum(1)
    error = (points[:, 2] - (b - np.sqrt(np.maximum(root, 0))) / a) * along
    return _weighted(normals, np.where(meets, error, np.inf), sigma)


def _together(step: _Step, inverse: F64) -> float:
    """Variance of the centre by patches of the surface, over that by single points.

    Stereo matches windows, and whatever is smoothed errs in patches (clustered errors, Liang & Zeger 1986).
    """
    scores = step.normals * (step.weight * step.error)[:, None]
    cell = np.clip(((step.normals[:, :2] / CAP + 1) / 2 * PATCHES).astype(int), 0, PATCHES - 1)
    patch = cell[:, 0] * PATCHES + cell[:, 1]
    sums = np.stack([np.bincount(patch, scores[:, axis], PATCHES**2) for axis in range(3)], 1)
    count = int((np.bincount(patch, minlength=PATCHES**2) > 0).sum())
    if count < 8:
        return 1.0
    clustered = inverse @ (sums.T @ sums) @ inverse * count / (count - 3)
    single = inverse @ (scores.T @ scores) @ inverse
    return float(max(np.trace(clustered) / max(np.trace(single), 1e-12), 0.2))


def _free_radius(points: F64) -> float:
    """Radius of the ball through points (n, 3), mm, whatever was given: |p|² = 2 c·p + (r² − |c|²) is linear."""
    middle = points.mean(0)
    p = points - middle
    solution = np.linalg.lstsq(np.column_stack([2 * p, np.ones(len(p))]), (p**2).sum(1), rcond=None)[0]
    return float(np.sqrt(max(solution[3] + (solution[:3] ** 2).sum(), 0.0)))


def _near(
    depth: NDArray[np.float32], k: tuple[float, ...], mask: NDArray[np.bool_], center: F64, radius_mm: float
) -> F64:
    """Points (n, 3) of the pixels whose ray passes the centre nearer than the radius, on its near side."""
    fx, fy, cx, cy = k
    rows, columns = _window(depth.shape, k, center, radius_mm)
    v, u = np.nonzero(mask[rows, columns])
    z = depth[rows, columns][v, u].astype(np.float64)
    rays = np.stack([(u + columns.start - cx) / fx, (v + rows.start - cy) / fy, np.ones(len(u))], 1)
    along = rays @ center / (rays * rays).sum(1)
    aside = ((center - along[:, None] * rays) ** 2).sum(1)
    kept = (aside < radius_mm**2) & (z < center[2]) & (z > center[2] - 3 * radius_mm)
    out: F64 = rays[kept] * z[kept, None]
    return out


def _window(shape: tuple[int, ...], k: tuple[float, ...], center: F64, radius_mm: float) -> tuple[slice, slice]:
    """Pixels around a ball's image."""
    fx, fy, cx, cy = k
    u, v = fx * center[0] / center[2] + cx, fy * center[1] / center[2] + cy
    # The near side of a ball off the axis reaches a little farther than r f / z.
    reach = 1.15 * radius_mm / (center[2] - radius_mm) * max(fx, fy) + 1
    low_u, high_u = np.clip([u - reach, u + reach + 1], 0, shape[1]).astype(int)
    low_v, high_v = np.clip([v - reach, v + reach + 1], 0, shape[0]).astype(int)
    return slice(int(low_v), int(high_v)), slice(int(low_u), int(high_u))


def _share(used: int, center: F64, k: tuple[float, ...], radius_mm: float, shape: tuple[int, ...]) -> float:
    """Pixels that were used, of those the cap would have if all of it were seen; cut by the image it has fewer."""
    fx, fy, cx, cy = k
    whole = np.pi * radius_mm**2 * fx * fy / center[2] ** 2
    u, v = fx * center[0] / center[2] + cx, fy * center[1] / center[2] + cy
    reach_u, reach_v = fx * radius_mm / center[2], fy * radius_mm / center[2]
    inside = (u - reach_u > -0.5) and (v - reach_v > -0.5)
    inside = inside and (u + reach_u < shape[1] - 0.5) and (v + reach_v < shape[0] - 0.5)
    # A ball that the image's edge cuts is not counted as whole: its centre would lean on one side.
    return float(used / whole if inside else 0.5 * used / whole)


def _beyond(depth: NDArray[np.float32], k: tuple[float, ...], center: F64, radius_mm: float) -> float:
    """Share of the ring just outside the ball's image that shows a surface at the ball's own depth."""
    fx, fy, cx, cy = k
    # Stereo grows edges by half its matching window: what is that near belongs to the ball.
    inner = max(1.2 * radius_mm, radius_mm + GROWN_PX * center[2] / fx)
    outer = inner + 0.2 * radius_mm
    rows, columns = _window(depth.shape, k, center, outer)
    v, u = np.mgrid[rows, columns]
    z = depth[rows, columns]
    off_u = (u - fx * center[0] / center[2] - cx) * center[2] / fx
    off_v = (v - fy * center[1] / center[2] - cy) * center[2] / fy
    off = np.hypot(off_u, off_v)
    ring = (off > inner) & (off < outer)
    at_depth = ring & (np.abs(z - center[2]) < 1.0 * radius_mm) & (z > 0)
    return float(at_depth.sum() / max(int(ring.sum()), 1))
