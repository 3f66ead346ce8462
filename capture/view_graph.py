"""Which cameras saw the target together, and the first guess of where they stand that follows from it.

Cameras are joined where they saw the target in enough of the same frames. Poses are chained from the first camera along
the widest spanning tree (most shared frames first); each link is a rigid motion that many frames agree on (RANSAC,
Fischler & Bolles 1981; closed form by Kabsch 1976).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pose = tuple[F64, F64]
"""R (3, 3) and t (3,) mm."""

LEAST_FRAMES: Final = 10
"""Frames that a camera, and a pair of cameras, must have."""
TRIALS: Final = 300
LEAST_SPREAD_MM: Final = 20.0
"""How far the target must leave a line, standard deviation."""


def shared_views(seen: Bools) -> NDArray[np.int64]:
    """(V, V): frames in which both cameras saw the target, of `seen` (T, V); on the diagonal, each alone."""
    counts = seen.astype(np.int64)
    out: NDArray[np.int64] = counts.T @ counts
    return out


def groups(shared: NDArray[Any], least: int = LEAST_FRAMES) -> list[list[int]]:
    """Cameras that are joined, directly or through others, by at least so many shared frames."""
    left, out = list(range(len(shared))), []
    while left:
        group, todo = [], [left[0]]
        while todo:
            view = todo.pop()
            if view not in group:
                group.append(view)
                todo += [other for other in left if other not in group and shared[view, other] >= least]
        out.append(sorted(group))
        left = [view for view in left if view not in group]
    return out


def check_views(seen: Bools, names: Sequence[str], *, where: str, hint: str, least: int = LEAST_FRAMES) -> None:
    """Stop where the frames cannot place every camera.

    Args:
        seen: (T, V) whether the camera saw the target in the frame.
        names: the cameras.
        where: the source.
        hint: what a user may do about a target that was not found.
        least: frames that a camera and a link need.

    Raises:
        HandloomError: a camera saw it never or hardly, or the cameras fall into groups.
    """
    counts, total = seen.sum(0), len(seen)
    for view, name in enumerate(names):
        if counts[view] < least:
            others = ", ".join(f"{n}: {c}" for n, c in zip(names, counts, strict=True) if n != name)
            raise HandloomError(
                f"{name} {'never saw' if counts[view] == 0 else 'hardly ever saw'} the target",
                where=where,
                why=f"{name}: {counts[view]} of {total} frames; {others}; each camera needs {least}",
                fix=hint,
            )
    shared = shared_views(seen)
    parts = groups(shared, least)
    if len(parts) > 1:
        apart = " | ".join(", ".join(names[view] for view in part) for part in parts)
        first, second = max(
            ((a, b) for a in parts[0] for part in parts[1:] for b in part), key=lambda pair: int(shared[pair])
        )
        raise HandloomError(
            "The cameras fall into groups that never saw the target together",
            where=where,
            why=f"groups: {apart}; at most {shared[first, second]} shared frames between them "
            f"({names[first]} and {names[second]}), {least} are needed",
            fix=f"show the target to {names[first]} and {names[second]} at once",
        )


def chained(shared: NDArray[Any], link: Callable[[int, int], Pose]) -> list[Pose]:
    """Pose of every camera from the first camera's frame into its own.

    Args:
        shared: (V, V) frames in common; connected.
        link: (a, b) → the motion from a's frame into b's.
    """
    poses: dict[int, Pose] = {0: (np.eye(3), np.zeros(3))}
    while len(poses) < len(shared):
        a, b = max(
            ((a, b) for a in poses for b in range(len(shared)) if b not in poses), key=lambda pair: int(shared[pair])
        )
        rotation, shift = link(a, b)
        poses[b] = rotation @ poses[a][0], rotation @ poses[a][1] + shift
    return [poses[view] for view in range(len(shared))]


def rigid(source_mm: F64, target_mm: F64) -> Pose:
    """R, t with target ≈ R source + t, of points (n, 3) each: least squares, closed form (Kabsch 1976)."""
    a, b = source_mm.mean(0), target_mm.mean(0)
    left, _, right = np.linalg.svd((target_mm - b).T @ (source_mm - a))
    sign = np.sign(np.linalg.det(left @ right))
    rotation = (left * np.array([1.0, 1.0, sign])) @ right
    return rotation, b - rotation @ a


def agreed_motion(source_mm: F64, target_mm: F64, *, tolerance_mm: float, where: str) -> Pose:
    """`rigid` of the pairs of points (n, 3) that agree within a tolerance; the others are mistakes.

    Raises:
        HandloomError: the points lie on a line, or most of them disagree.
    """
    # Each call draws the same triples: a calibration run twice gives the same rig.
    rng = np.random.default_rng(0)
    count = len(source_mm)
    best = np.zeros(count, bool)
    for _ in range(TRIALS):
        three = rng.choice(count, 3, replace=False)
        rotation, shift = rigid(source_mm[three], target_mm[three])
        near = np.linalg.norm(source_mm @ rotation.T + shift - target_mm, axis=1) < tolerance_mm
        if near.sum() > best.sum():
            best = near
            if best.all():
                break
    if best.sum() < max(LEAST_FRAMES, 0.3 * count):
        raise HandloomError(
            "Two cameras do not agree on how the target moved",
            where=where,
            why=f"at most {best.sum()} of {count} shared frames fit one place of both within {tolerance_mm:g} mm",
            fix="check that the images of a frame belong together, K and depth_unit_mm; move the target more slowly",
        )
    spread = np.linalg.svd(source_mm[best] - source_mm[best].mean(0), compute_uv=False) / np.sqrt(best.sum())
    if spread[1] < LEAST_SPREAD_MM:
        raise HandloomError(
            "The target was moved along a line only",
            where=where,
            why=f"it left that line by {spread[1]:.0f} mm (standard deviation), {LEAST_SPREAD_MM:.0f} are needed: "
            "the cameras may still turn about it",
            fix="move the target through the whole volume, in all directions",
        )
    return rigid(source_mm[best], target_mm[best])
