"""Finding the hand in depth without labels: one view or several, with a forearm, before a background or not.

1. Points: every camera's pixels, thinned to about 4 mm, in the rig's frame; where a background is known (a
   static camera's own recording gives it), only what stands before it.
2. Clusters: what hangs together (`cloud.py`). What is smaller than a hand or as large as a wall is left out.
3. Candidates: the far ends of each cluster, each read as a hand with an arm behind it (`palm.py`); ends that
   agree (fingertips of one hand) support each other.
4. Over time: the path through the frames' candidates that trusts each and moves as a hand does (Viterbi).

The centre is the palm's joint, inside the hand. Its score is the probability that it is within 30 mm.
Cost: 7 to 12 ms for three views of 320 × 240.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import Camera, Rig
from .cloud import Cloud, things, tips
from .palm import Calibrations, Candidate, candidate

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NEAR_MM: Final = 100.0
FAR_MM: Final = 2500.0
"""No hand is looked for nearer or farther."""
SPACING_MM: Final = 4.0
"""Pixels are thinned to about this, at half a metre."""
JUMP_MM: Final = 25.0
"""A pixel with fewer than two neighbours this near in depth is a flying pixel."""
TOUCH_MM: Final = 60.0
"""A cloud that ends next to a cut pixel this near in depth goes on there: the shoulder before the chest."""
REACH_PX: Final = 3
LEAST_AREA_MM2: Final = 1500.0
MOST_AREA_MM2: Final = 400_000.0
"""Seen surface of a hand with its arm, averaged over the views: larger is a wall or a table."""
N_CLUSTERS: Final = 5
N_TIPS: Final = 5
AGREE_MM: Final = 25.0
"""Candidates this near to each other speak of the same hand."""
LEAST_PROBABILITY: Final = 0.02
BACKGROUND_FRAMES: Final = 8
"""Fewer frames say nothing of the background."""
BEFORE_MM: Final = 20.0
BEFORE_SHARE: Final = 0.02
"""A hand stands this much before the background, plus this share of the distance."""
STEP_MM: Final = 25.0
"""Typical way of a hand from frame to frame."""
LARGEST_JUMP: Final = 8.0
"""Cost of a jump of any length: paths may break rather than follow an error for ever."""


@dataclass(frozen=True, slots=True)
class Found:
    """A hand: where, and how sure."""

    palm_mm: F64
    """(3,) of the palm's joint, rig frame."""
    score: float
    """Probability that it is within 30 mm."""

    def centers_mm(self, rig: Rig) -> F32:
        """(V, 3) float32: the palm in each camera's frame."""
        return np.array([camera.to_camera(self.palm_mm) for camera in rig.cameras], np.float32)


def find_hand(
    depth_mm: Sequence[NDArray[Any] | None],
    rig: Rig,
    *,
    background_mm: Sequence[NDArray[Any] | None] | None = None,
    calibration: Calibrations | None = None,
) -> Found | None:
    """The hand in the images of one instant, or None where nothing resembles one.

    Args:
        depth_mm: (H, W) mm by view, 0 = no return; None where the camera gave no image. One view is enough.
        rig: the cameras.
        background_mm: (H, W) mm by view without the hand, 0 = unknown; see `background_of`.
        calibration: of this rig, see `palm_calibration.calibrate`; the built-in one by default.
    """
    found = hand_candidates(depth_mm, rig, background_mm=background_mm, calibration=calibration)
    if not found:
        return None
    best = max(found, key=_support)
    return Found(best.palm_mm, probability(best))


def hand_candidates(
    depth_mm: Sequence[NDArray[Any] | None],
    rig: Rig,
    *,
    background_mm: Sequence[NDArray[Any] | None] | None = None,
    calibration: Calibrations | None = None,
) -> list[Candidate]:
    """All places where the hand may be at one instant; arguments as for `find_hand`."""
    assert len(depth_mm) == len(rig), f"{len(depth_mm)} images for {len(rig)} cameras"
    if calibration is None:
        from .palm_values import BUILT_IN  # here, so that a calibration can be made before there is one

        calibration = BUILT_IN
    backgrounds = background_mm if background_mm is not None else [None] * len(rig)
    found: list[Candidate] = []
    for cluster in clusters(point_cloud(depth_mm, rig, backgrounds)):
        ends = (candidate(cluster, tip, calibration) for tip in tips(cluster, N_TIPS))
        found += [end for end in ends if end is not None]
    return agreed(found)


def point_cloud(
    depth_mm: Sequence[NDArray[Any] | None], rig: Rig, background_mm: Sequence[NDArray[Any] | None]
) -> Cloud:
    """The thinned points of all views that stand before the background, in the rig's frame."""
    columns: list[tuple[NDArray[Any], ...]] = []
    for view, (depth, camera, background) in enumerate(zip(depth_mm, rig.cameras, background_mm, strict=True)):
        if depth is not None:
            seen = _view_points(depth, camera, background)
            columns.append((*seen, np.full(len(seen[0]), view)))
    if not columns:
        return Cloud(np.empty((0, 3)), np.empty(0), np.empty((0, 3)), np.empty(0), np.empty(0, np.intp))
    points, area, ray, border, views = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Cloud(points, area, ray, border, views.astype(np.intp))


def _view_points(
    depth_mm: NDArray[Any], camera: Camera, background_mm: NDArray[Any] | None
) -> tuple[F64, F64, F64, F64]:
    """Points, areas, rays and border flags of one image."""
    assert depth_mm.shape == (camera.height, camera.width), f"{depth_mm.shape} from {camera.name}"
    step = int(np.clip(round(SPACING_MM * camera.k[0] / 500.0), 1, 8))
    z = depth_mm[::step, ::step].astype(np.float32)
    kept = (z > NEAR_MM) & (z < FAR_MM)
    if background_mm is not None:
        behind = background_mm[::step, ::step]
        kept &= (behind == 0) | (z < behind - BEFORE_MM - BEFORE_SHARE * behind)
    goes_on = _goes_on(z, kept)
    solid = kept & (_neighbours(np.where(kept, z, 0)) >= 2)
    v, u = np.nonzero(solid)
    fx, fy, cx, cy = np.array(camera.k) / step
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], axis=1)
    distance = z[v, u].astype(np.float64)
    unit = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    points = camera.to_rig(rays * distance[:, None])
    return points, distance**2 / (fx * fy), unit @ camera.rotation, goes_on[v, u].astype(np.float64)


def _goes_on(z: NDArray[np.float32], kept: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels at the image's border, or next to a pixel of about their depth that was not kept."""
    out = np.ones(z.shape, bool)
    out[1:-1, 1:-1] = False
    cut = (z > 0) & ~kept
    for axis in (0, 1):
        for shift in (-REACH_PX, REACH_PX):
            beside = np.roll(z, shift, axis)
            # What the roll brings in from the other side lies beside a border, which is marked anyhow.
            out |= np.roll(cut, shift, axis) & (np.abs(beside - z) < TOUCH_MM)
    return out


def _neighbours(z: NDArray[np.float32]) -> NDArray[np.int8]:
    """How many of a pixel's four neighbours lie on the same surface."""
    count = np.zeros(z.shape, np.int8)
    across = (np.abs(z[:, 1:] - z[:, :-1]) < JUMP_MM) & (z[:, 1:] > 0) & (z[:, :-1] > 0)
    down = (np.abs(z[1:] - z[:-1]) < JUMP_MM) & (z[1:] > 0) & (z[:-1] > 0)
    count[:, 1:] += across
    count[:, :-1] += across
    count[1:] += down
    count[:-1] += down
    return count


def clusters(cloud: Cloud) -> list[Cloud]:
    """The connected parts of a cloud that may hold a hand, largest first."""
    found = [(float(thing.area.sum()), thing) for thing in things(cloud)]
    likely = [pair for pair in found if LEAST_AREA_MM2 <= pair[0] <= MOST_AREA_MM2]
    return [thing for _, thing in sorted(likely, key=lambda pair: -pair[0])[:N_CLUSTERS]]


def probability(one: Candidate) -> float:
    """Of a candidate to be right."""
    return float(1 / (1 + np.exp(-np.clip(one.logit, -30, 30))))


def _support(one: Candidate) -> float:
    return one.logit


def agreed(found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that lie together become one: the weighted mean, stronger by each that agrees."""
    if not found:
        return []
    palms = np.array([one.palm_mm for one in found])
    odds = np.array([probability(one) for one in found])
    kernel = np.exp(-0.5 * ((palms[:, None] - palms) ** 2).sum(-1) / AGREE_MM**2)
    # Squared: many weak ends along an arm must not outvote the one hand.
    support = kernel @ odds**2
    left = np.ones(len(found), bool)
    out: list[Candidate] = []
    while left.any():
        best = int(np.argmax(np.where(left, support, -1)))
        weight = kernel[best] * odds * left
        merged = min(0.999, float(np.sqrt(support[best])))
        if merged < LEAST_PROBABILITY and out:
            break
        out.append(Candidate(weight @ palms / weight.sum(), float(np.log(merged / (1 - merged)))))
        left &= kernel[best] < np.exp(-2)
    return out


def background_of(depth: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The static scene (H, W) behind what moved in frames (n, H, W) of one camera, same unit; 0 = unknown.

    A pixel's background is its twentieth farthest return of a hundred, if a twelfth of the frames lie near
    it. A hand that stays before a wall for most of a recording still lets the wall be seen that often; where
    nothing is behind it, at worst its farthest places are lost.
    """
    count = len(depth)
    if count < BACKGROUND_FRAMES:
        return np.zeros(depth.shape[1:], np.uint16)
    top = np.partition(depth, count - 1 - count // 20, axis=0)[count - 1 - count // 20]
    near = np.abs(depth.astype(np.int32) - top) <= 0.02 * top
    known = (near & (depth > 0)).sum(0) >= max(count / 12, 3)
    return np.where(known, top, 0).astype(np.uint16)


def follow(frames: Sequence[Sequence[Candidate]]) -> list[Found | None]:
    """One hand through the candidates of consecutive frames; None where there were none.

    The path maximises Σ log P − Σ min(|step|² / (2 · 25² mm² · frames between), 8) (Viterbi); then each place
    is averaged with the path two frames before and after, where those are near.
    """
    rows = [i for i, found in enumerate(frames) if found]
    out: list[Found | None] = [None] * len(frames)
    if not rows:
        return out
    path = _viterbi(frames, rows)
    chosen = {row: frames[row][index] for row, index in zip(rows, path, strict=True)}
    for row in rows:
        near = [(chosen[r], abs(r - row)) for r in range(row - 2, row + 3) if r in chosen]
        out[row] = _smoothed(chosen[row], near)
    return out


def _viterbi(frames: Sequence[Sequence[Candidate]], rows: Sequence[int]) -> list[int]:
    """Index of the chosen candidate in each of the given frames."""
    places = [np.array([one.palm_mm for one in frames[row]]) for row in rows]
    gains = [np.log([max(probability(one), 1e-3) for one in frames[row]]) for row in rows]
    total, back = gains[0], []
    for i in range(1, len(rows)):
        away = ((places[i][:, None] - places[i - 1]) ** 2).sum(-1)
        cost = np.minimum(away / (2 * STEP_MM**2 * (rows[i] - rows[i - 1])), LARGEST_JUMP)
        score = total[None, :] - cost
        back.append(score.argmax(1))
        total = score.max(1) + gains[i]
    path = [int(total.argmax())]
    for step in reversed(back):
        path.append(int(step[path[-1]]))
    return path[::-1]


def _smoothed(here: Candidate, near: Sequence[tuple[Candidate, int]]) -> Found:
    """A place averaged with its neighbours in time; agreement with them makes it surer, jumps less sure."""
    palm, weights, logits = np.zeros(3), 0.0, 0.0
    for other, frames in near:
        weight = probability(other) * np.exp(-0.5 * frames**2)
        together = np.linalg.norm(other.palm_mm - here.palm_mm) < 2 * STEP_MM * max(frames, 1)
        logits += weight * (other.logit if together else -1.0)
        if together:
            palm += weight * other.palm_mm
        else:
            palm += weight * here.palm_mm
        weights += weight
    score = float(1 / (1 + np.exp(-logits / weights)))
    return Found(palm / weights, score)
