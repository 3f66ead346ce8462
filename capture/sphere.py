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
`bundle.py` may estimate it. Cost: 4 ms for an image of 320 × 240.
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
LARGEST_RMS: Final = 0.12
"""Of the fit, in radii: a fist or a ball of another size fits worse."""
RADIUS_OFF: Final = 0.25
"""How far the radius that the pixels themselves say may be from the given one, in radii."""
FLOOR_MM: Final = 0.3
"""Standard deviation of a centre that no number of pixels takes away: pixels of one image err together."""


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
    normals, weight, error = np.empty((0, 3)), np.empty(0), np.empty(0)
    for _ in range(12):
        if not np.isfinite(center).all() or center[2] < 1.2 * radius_mm:
            return None
        inside = _near(depth, k, before, center, CAP * radius_mm)
        if len(inside) < 20:
            return None
        away = inside - center
        distance = np.linalg.norm(away, axis=1)
        normals, error = away / distance[:, None], distance - radius_mm
        reach = 4.0 * sigma
        weight = np.where(np.abs(error) < reach, (1 - (error / reach) ** 2) ** 2, 0.0)
        if (weight > 0).sum() < 20:
            return None
        hessian = (normals * weight[:, None]).T @ normals
        try:
            step = np.linalg.solve(hessian + 1e-6 * len(inside) * np.eye(3), (normals * weight[:, None]).T @ error)
        except np.linalg.LinAlgError:
            return None
        center += step
        sigma = float(
            np.clip(1.4826 * np.median(np.abs(error[weight > 0])), 0.4, max(0.7 * sigma, 0.4, 0.02 * radius_mm))
        )
        if np.linalg.norm(step) < 0.01:
            break
    used = weight > 0
    rms = float(np.sqrt(np.mean(error[used] ** 2)))
    if rms > LARGEST_RMS * radius_mm or abs(_free_radius(inside[used]) / radius_mm - 1) > RADIUS_OFF:
        return None
    share = _share(int(used.sum()), center, k, CAP * radius_mm, depth.shape)
    beyond = _beyond(depth, k, center, radius_mm)
    hessian = (normals * weight[:, None]).T @ normals
    covariance = rms**2 * np.linalg.inv(hessian) + FLOOR_MM**2 * np.eye(3)
    return Sphere(center, covariance, max(0.0, min(share, 1.0) * (1 - beyond)), int(used.sum()), rms)


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
    rows, columns = _window(depth.shape, k, center, 1.45 * radius_mm)
    v, u = np.mgrid[rows, columns]
    z = depth[rows, columns]
    off_u = (u - fx * center[0] / center[2] - cx) * center[2] / fx
    off_v = (v - fy * center[1] / center[2] - cy) * center[2] / fy
    off = np.hypot(off_u, off_v)
    ring = (off > 1.2 * radius_mm) & (off < 1.4 * radius_mm)
    at_depth = ring & (np.abs(z - center[2]) < 1.0 * radius_mm) & (z > 0)
    return float(at_depth.sum() / max(int(ring.sum()), 1))
