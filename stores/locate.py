"""Finding the hand in depth without labels: one view or several, with a forearm, before a background or not.

1. Points: every camera's pixels, thinned to about 4 mm, in the rig's frame; where a background is known (a
   static camera's own recording gives it), only what stands before it.
2. Things: what hangs together (`cloud.py`). What is smaller than a hand or as large as a wall is left out.
3. Places: evenly over what is left, no point of it farther than 55 mm from one.
4. Looks: a small network looks at each place by each camera (`palm_net.py`) and tells where the palm is, how
   exactly, and whether there is one. Where it leads is merged, and the best are looked at once more.
5. Over time: the path through the frames' candidates that trusts each and moves as a hand does (Viterbi).

The centre is the palm's joint, inside the hand. Its score is the probability that it is within 30 mm.
Cost: see benchmarks/RESULTS.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import Camera, Rig
from .cloud import Cloud, spread_over, things
from .palm_net import Looks, Net, built_in, fuse, look

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

NEAR_MM: Final = 100.0
FAR_MM: Final = 2500.0
"""No hand is looked for nearer or farther."""
STEEPEST: Final = 11.0
"""x / z, beyond which nothing is looked for."""
SPACING_MM: Final = 4.0
"""Pixels are thinned to about this, at half a metre."""
JUMP_MM: Final = 25.0
"""A pixel with fewer than two neighbours this near in depth is a flying pixel."""
LEAST_AREA_MM2: Final = 1500.0
MOST_AREA_MM2: Final = 400_000.0
"""Seen surface of a hand with its arm, averaged over the views: larger is a wall or a table."""
N_THINGS: Final = 6
APART_MM: Final = 55.0
N_PLACES: Final = 48
"""At most so many places are looked at, so far from each other."""
SAME_MM: Final = 35.0
"""Places that lead so near to each other show the same hand."""
N_AGAIN: Final = 4
"""Candidates that are looked at once more."""
N_FEATURES: Final = 9
"""Of a candidate, from which its probability is read; the last is how many cameras see it."""
LEAST_PROBABILITY: Final = 0.02
LEAST_BEFORE: Final = 0.1
"""Where nothing before the background is a hand with this probability, it is looked for in the background, too."""
BACKGROUND_FRAMES: Final = 8
"""Fewer frames say nothing of the background."""
NOISE_SIGMAS: Final = 4.0
"""From the farthest returns of a pixel to the near edge of its noise."""
BEFORE_MM: Final = 20.0
BEFORE_SHARE: Final = 0.02
"""A hand stands this much before the background, plus this share of the distance."""
STEP_MM: Final = 25.0
"""Typical way of a hand from frame to frame."""
LARGEST_JUMP: Final = 8.0
"""Cost of a jump of any length: paths may break rather than follow an error for ever."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One place where the hand may be."""

    palm_mm: F64
    """(3,) rig frame."""
    logit: float
    """Log odds that the palm's joint is within 30 mm of it."""


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
    net: Net | None = None,
) -> Found | None:
    """The hand in the images of one instant, or None where nothing resembles one.

    Args:
        depth_mm: (H, W) mm by view, 0 = no return; None where the camera gave no image. One view is enough.
        rig: the cameras.
        background_mm: (H, W) mm by view without the hand, 0 = unknown; see `background_of`.
        net: fitted to this rig, see `palm_fit.fit`; the built-in one by default.
    """
    found = hand_candidates(depth_mm, rig, background_mm=background_mm, net=net)
    if not found:
        return None
    best = max(found, key=lambda one: one.logit)
    return Found(best.palm_mm, probability(best))


def hand_candidates(
    depth_mm: Sequence[NDArray[Any] | None],
    rig: Rig,
    *,
    background_mm: Sequence[NDArray[Any] | None] | None = None,
    net: Net | None = None,
) -> list[Candidate]:
    """The places where the hand may be at one instant, the likeliest first.

    Args:
        depth_mm: (H, W) mm by view, as for `find_hand`, whose other arguments these are, too.
        rig: the cameras.
        background_mm: (H, W) mm by view without the hand.
        net: what judges palms.
    """
    assert len(depth_mm) == len(rig), f"{len(depth_mm)} images for {len(rig)} cameras"
    net = net or built_in()
    edges = edges_of(background_mm, rig)
    found = _candidates(depth_mm, rig, edges, net)
    if background_mm is None or (found and probability(found[0]) > LEAST_BEFORE):
        return found
    # A hand that keeps still for a whole recording becomes background: look without it, too.
    more = _candidates(depth_mm, rig, [None] * len(rig), net)
    return sorted([*found, *more], key=lambda one: -one.logit)[:N_AGAIN]


def _candidates(
    depth_mm: Sequence[NDArray[Any] | None], rig: Rig, edges_mm: Sequence[NDArray[Any] | None], net: Net
) -> list[Candidate]:
    places = hand_places(depth_mm, rig, edges_mm)
    if not len(places):
        return []
    palms, features = read_places(places, depth_mm, rig, edges_mm, net)
    found = [Candidate(palm, float(logit)) for palm, logit in zip(palms, net.trust(features), strict=True)]
    found.sort(key=lambda one: -one.logit)
    return [one for i, one in enumerate(found) if i == 0 or probability(one) > LEAST_PROBABILITY]


def edges_of(background_mm: Sequence[NDArray[Any] | None] | None, rig: Rig) -> list[NDArray[Any] | None]:
    """The nearest depth (H, W) that counts as background, by view."""
    if background_mm is None:
        return [None] * len(rig)
    return [None if behind is None else background_edge(behind) for behind in background_mm]


def background_edge(behind_mm: NDArray[Any]) -> NDArray[Any]:
    """The nearest depth (H, W) that counts as background, 0 = unknown."""
    return np.where(behind_mm > 0, behind_mm - BEFORE_MM - BEFORE_SHARE * behind_mm, 0).astype(np.float32)


def read_places(
    places_mm: F64,
    depth_mm: Sequence[NDArray[Any] | None],
    rig: Rig,
    edges_mm: Sequence[NDArray[Any] | None],
    net: Net,
) -> tuple[F64, F64]:
    """Palms (m, 3) to which places (n, 3) lead, the likeliest first, and what speaks for them (m, N_FEATURES)."""
    first = look(places_mm, depth_mm, rig.cameras, edges_mm, net)
    led, _ = fuse(first)
    hands = _hands(first)
    kept = _apart(led, hands, N_AGAIN)
    # All that lead to the same hand, by how much they speak for one: steadier than the best alone.
    near = np.linalg.norm(led[kept][:, None] - led, axis=2) < SAME_MM
    weight = near * np.exp(hands - hands[kept][:, None])
    starts = weight @ led / weight.sum(1, keepdims=True)
    again = look(starts, depth_mm, rig.cameras, edges_mm, net, again=True)
    palms, covariance = fuse(again)
    features = _features(again, palms, covariance, np.linalg.norm(palms - starts, axis=1))
    order = np.argsort(-features[:, 0], kind="stable")
    order = order[_apart(palms[order], features[order, 0], N_AGAIN)]
    return palms[order], features[order]


def _hands(looks: Looks) -> F64:
    """(n,) how much all cameras together speak for a hand."""
    return np.asarray(np.clip(looks.logit, -4, 6).sum(1), np.float64)


def _apart(palms_mm: F64, worth: F64, most: int) -> NDArray[np.intp]:
    """The worthiest of places (n, 3) that lie near each other, at most so many, the worthiest first."""
    left = np.ones(len(palms_mm), bool)
    out: list[int] = []
    while left.any() and len(out) < most:
        best = int(np.argmax(np.where(left, worth, -np.inf)))
        out.append(best)
        left &= np.linalg.norm(palms_mm - palms_mm[best], axis=1) > SAME_MM
        left[best] = False
    return np.array(out, np.intp)


def _features(looks: Looks, palms_mm: F64, covariance: F64, moved_mm: F64) -> F64:
    """(n, N_FEATURES) of what the trust is made of: agreement, exactness, and what each camera says."""
    seen = looks.seen
    count = np.maximum(seen.sum(1), 1)
    logits = np.where(seen, np.clip(looks.logit, -8, 10), 0)
    belief = seen / (1 + np.exp(-logits))
    away = np.linalg.norm(looks.palm_mm - palms_mm[:, None], axis=2)
    spread = np.sqrt((belief * away**2).sum(1) / np.maximum(belief.sum(1), 1e-3))
    return np.stack(
        [
            logits.sum(1) / 3,
            np.where(seen, logits, -9).max(1) / 3,
            np.where(seen, logits, 11).min(1) / 3,
            belief.sum(1),
            belief.sum(1) / count,
            np.log(np.sqrt(np.trace(covariance, axis1=1, axis2=2)) + 1),
            np.log(spread + 3),
            np.log(moved_mm + 3),
            seen.sum(1),
        ],
        axis=1,
    )


def hand_places(depth_mm: Sequence[NDArray[Any] | None], rig: Rig, edges_mm: Sequence[NDArray[Any] | None]) -> F64:
    """(n, 3) evenly over all that may hold a hand."""
    likely = clusters(point_cloud(depth_mm, rig, edges_mm))
    if not likely:
        return np.zeros((0, 3))
    return spread_over(np.concatenate([thing.points for thing in likely]), APART_MM, N_PLACES)


def point_cloud(depth_mm: Sequence[NDArray[Any] | None], rig: Rig, edges_mm: Sequence[NDArray[Any] | None]) -> Cloud:
    """The thinned points of all views (H, W) that stand before the background, in the rig's frame."""
    columns: list[tuple[NDArray[Any], ...]] = []
    for view, (depth, camera, edge) in enumerate(zip(depth_mm, rig.cameras, edges_mm, strict=True)):
        if depth is not None:
            points, area = _view_points(depth, camera, edge)
            columns.append((points, area, np.full(len(points), view)))
    if not columns:
        return Cloud(np.empty((0, 3)), np.empty(0), np.empty(0, np.intp))
    points, area, views = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Cloud(points, area, views.astype(np.intp))


def _view_points(depth_mm: NDArray[Any], camera: Camera, edge_mm: NDArray[Any] | None) -> tuple[F64, F64]:
    """Points (n, 3) and areas (n,) of one image."""
    assert depth_mm.shape == (camera.height, camera.width), f"{depth_mm.shape} from {camera.name}"
    step = int(np.clip(round(SPACING_MM * camera.k[0] / 500.0), 1, 8))
    z = depth_mm[::step, ::step].astype(np.float32)
    kept = (z > NEAR_MM) & (z < FAR_MM)
    if edge_mm is not None:
        behind = edge_mm[::step, ::step]
        kept &= (behind == 0) | (z < behind)
    solid = kept & (_neighbours(np.where(kept, z, 0)) >= 2)
    v, u = np.nonzero(solid)
    fx, fy, cx, cy = np.array(camera.k) / step
    distance = z[v, u].astype(np.float64)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], axis=1)
    # No lens shows a hand at 85 degrees from its axis: such a K is wrong, and its points would fill any memory.
    ahead = (np.abs(rays[:, :2]) < STEEPEST).all(axis=1)
    return camera.to_rig(rays[ahead] * distance[ahead, None]), distance[ahead] ** 2 / (fx * fy)


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
    return [thing for _, thing in sorted(likely, key=lambda pair: -pair[0])[:N_THINGS]]


def probability(one: Candidate) -> float:
    """Of a candidate to be right."""
    return float(1 / (1 + np.exp(-np.clip(one.logit, -30, 30))))


def background_of(depth: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The static scene (H, W) behind what moved in frames (n, H, W) of one camera, same unit; 0 = unknown.

    A pixel's background is its twentieth farthest return of a hundred, if a twelfth of the frames lie near
    it. A hand that stays before a wall for most of a recording still lets the wall be seen that often; where
    nothing is behind it, at worst its farthest places are lost. What is given is the near edge of the pixel's
    noise: a stereo camera's far wall trembles by centimetres, and would else be full of things.
    """
    count = len(depth)
    if count < BACKGROUND_FRAMES:
        return np.zeros(depth.shape[1:], np.uint16)
    top = np.partition(depth, count - 1 - count // 20, axis=0)[count - 1 - count // 20]
    near = np.abs(depth.astype(np.int32) - top) <= 0.02 * top
    known = (near & (depth > 0)).sum(0) >= max(count / 12, 3)
    edge = np.maximum(top - NOISE_SIGMAS * _noise(depth, top), 0.8 * top)
    return np.where(known, edge, 0).astype(np.uint16)


def _noise(depth: NDArray[np.uint16], top: NDArray[np.uint16]) -> F32:
    """(H, W) standard deviation of the returns near `top`, from frame to frame: what comes and stays adds little."""
    reach = (0.08 * top).astype(np.float32)
    total, pairs = np.zeros(top.shape, np.float32), np.zeros(top.shape, np.float32)
    before, solid_before = depth[0].astype(np.float32), depth[0] > top - reach
    for image in depth[1:]:
        here = image.astype(np.float32)
        solid = here > top - reach
        both = solid & solid_before
        total += np.where(both, np.minimum(np.abs(here - before), 0.5 * reach), 0)
        pairs += both
        before, solid_before = here, solid
    # Of two normal numbers the mean distance is 2 σ / √π.
    return np.asarray(total / np.maximum(pairs, 1) * np.float32(np.sqrt(np.pi) / 2), np.float32)


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
