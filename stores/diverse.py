"""Which frames are worth a label: farthest first, and how near the chosen ones come to all the others.

The next frame is always the one farthest from every frame that is labelled or chosen already: Gonzalez' greedy
k-centre (1985, Theoretical Computer Science 38), within a factor of two of the smallest possible largest
distance. Subjects and sequences take turns, since a frame that only looks different to the metric is no
substitute for another person. Frames with a dropped image, or in which the hand was not found, are no candidates.

Distances are root mean squares in mm: over the pixels of all views' crops, thinned to 16², each clipped to the
cube of 300 mm (`crop_descriptors`); or over the joints that a model sees, about their palm (`pose_descriptors`).
Cost: 0.3 ms a crop, then 1.2 ms for each thousand candidates and frame chosen (`benchmarks/labelling.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from .crops import normalise
from .errors import HandloomError
from .recording import CENTER_SOURCES, SPLITS, Recording

CUBE_MM: Final = 300.0
SIDE_PX: Final = 16
"""Side of a view's thinned crop: a finger is about one pixel wide."""
MIN_SCORE: Final = 0.5
"""Of a located centre: farthest first would pick what was mistaken for a hand before anything else."""
MOST_CANDIDATES: Final = 20_000
"""Longer recordings are thinned evenly in time: neighbours at 30 frames a second show the same pose."""
BLOCK: Final = 256
"""Rows read, or measured, at a time."""

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Frames that can be chosen, and those with labels, ascending."""

    rows: NDArray[np.int64]
    """(n,) of the recording."""
    labelled: NDArray[np.bool_]
    """(n,) whether the frame has a label already: a centre from the start, never chosen."""
    subject: NDArray[np.int32]
    sequence: NDArray[np.int32]
    of_frames: int
    """How many frames of the split there are, with those that are no candidates."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was chosen, and what it covers."""

    rows: NDArray[np.int64]
    """(k,) of the recording, in the order of choice: a prefix is a selection, too."""
    labelled_before: int
    coverage: tuple[tuple[int, float, float, float], ...]
    """(labelled and chosen frames, distance in mm within which half, 90 % and all of the candidates lie)."""
    step_mm: float
    """Median distance of candidates next to each other in time; NaN where there are none."""

    def lines(self, metric: str) -> list[str]:
        """For people."""
        table = [f"{k:>8} {half:>11.1f} {most:>11.1f} {far:>11.1f}" for k, half, most, far in self.coverage]
        out = [
            f"  distance to the nearest of them, mm ({metric}):",
            f"{'frames':>8} {'half within':>11} {'90 % within':>11} {'all within':>11}",
            *table,
        ]
        if np.isfinite(self.step_mm):
            out.append(f"  neighbours in time differ by {self.step_mm:.1f} mm (median): no label need come nearer")
        return out


def find_candidates(recording: Recording, *, split: str, min_score: float = MIN_SCORE) -> Candidates:
    """The frames of a split that can be labelled: no image dropped, the hand found in two cameras (or the one).

    Args:
        recording: whose hand has been located.
        split: 'train', 'val', 'test' or 'all'.
        min_score: how sure a located centre must be.

    Raises:
        HandloomError: the hand has not been located, or no frame qualifies.
    """
    frames, crops = recording.frames, recording.crops
    assert frames is not None
    if crops is None or crops.committed < recording.n_frames:
        raise HandloomError(
            "The recording has no crops of the hand yet",
            where=str(recording.path),
            fix=f"handloom capture locate {recording.path}",
        )
    source, score = crops.read("center_source"), crops.read("center_score")
    sure = (source > 0) & ((source != CENTER_SOURCES.index("located")) | (score >= min_score))
    whole = np.asarray((frames.read("present") > 0).all(1))
    mine = np.asarray(frames.read("split") == SPLITS.index(split)) if split != "all" else np.ones(len(whole), bool)
    labelled = labelled_rows(recording)
    usable = np.flatnonzero(mine & whole & (sure.sum(1) >= min(2, recording.n_views)))
    free = usable[~np.isin(usable, labelled)]
    if not len(free):
        lacking, unsure = int((mine & ~whole).sum()), int((mine & whole).sum()) - len(usable)
        raise HandloomError(
            "No frame is left to choose from",
            where=str(recording.path),
            why=f"of {int(mine.sum())} frames ({split}) {lacking} lack an image, in {unsure} the hand was not found "
            f"with a score of {min_score:g}, {len(usable)} are labelled",
            fix="choose another --split or --min-score, or locate the hand again",
        )
    if len(free) > MOST_CANDIDATES:
        free = free[np.linspace(0, len(free) - 1, MOST_CANDIDATES).astype(np.int64)]
    given = labelled[mine[labelled] & np.asarray((source[labelled] > 0).any(1))]
    rows = np.union1d(free, given)
    subject, sequence = (frames.read_rows(name, rows.tolist()) for name in ("subject", "sequence"))
    return Candidates(rows, np.isin(rows, given), subject, sequence, int(mine.sum()))


def labelled_rows(recording: Recording) -> NDArray[np.int64]:
    """Rows with at least one known joint, ascending."""
    if recording.labels is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.isfinite(recording.labels.read("joints")).all(2).any(1))


def crop_descriptors(
    recording: Recording, rows: NDArray[np.int64], *, progress: Progress | None = None
) -> NDArray[np.float16]:
    """(n, V · 16²) of the rows' crops: Euclidean distances are RMS depth differences in mm, nothing counts as far.

    A view in which the hand was not found says nothing: it gets the mean of the others' rows.
    """
    crops = recording.crops
    assert crops is not None
    window_mm, side = float(crops.attributes["window_mm"]), crops.columns["crop"].shape[-1]
    kept = min(side, round(side * CUBE_MM / window_mm))
    low = (side - kept) // 2
    views = recording.n_views
    out = np.full((len(rows), views, SIDE_PX * SIDE_PX), np.nan, np.float16)
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK].tolist()
        crop, center, source = (crops.read_rows(name, some) for name in ("crop", "center", "center_source"))
        middle = crop[:, :, low : low + kept, low : low + kept] * recording.depth_unit_mm[:, None, None]
        cube = normalise(middle, center[..., 2], CUBE_MM) * np.float32(CUBE_MM / 2)
        for i, view in np.argwhere(source > 0):
            out[start + i, view] = cv2.resize(cube[i, view], (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).ravel()
        if progress is not None:
            progress(start + len(some), len(rows))
    for view in range(views):
        lost = np.isnan(out[:, view, 0])
        if lost.any():
            out[lost, view] = out[~lost, view].mean(0, dtype=np.float32) if not lost.all() else CUBE_MM / 2
    return out.reshape(len(rows), -1) / np.float16(np.sqrt(views) * SIDE_PX)


def pose_descriptors(joints_mm: NDArray[Any], palm: int) -> NDArray[np.float16]:
    """(n, 3 J) of poses (n, J, 3): Euclidean distances are RMS distances of the joints about their palm, mm."""
    relative = joints_mm - joints_mm[:, palm : palm + 1]
    scaled = relative.reshape(len(relative), -1) / np.sqrt(joints_mm.shape[1])
    return np.asarray(scaled, np.float16)


def choose(descriptors: NDArray[Any], candidates: Candidates, n: int, *, rng: np.random.Generator) -> Selection:
    """Pick n frames farthest first, subjects and sequences in turns; labelled frames are centres from the start.

    Args:
        descriptors: (N, D), a row a candidate.
        candidates: what can be chosen.
        n: how many.
        rng: draws the first frame where none is labelled.

    Raises:
        HandloomError: there are fewer candidates.
    """
    free = ~candidates.labelled
    if n > int(free.sum()):
        raise HandloomError(
            f"--select {n} asks for more frames than can be chosen",
            why=f"{int(free.sum())} have all images, a hand that was found, and no label",
            fix=f"give at most {int(free.sum())}",
        )
    nearest = np.full(len(descriptors), np.inf, np.float32)
    for i in np.flatnonzero(candidates.labelled):
        np.minimum(nearest, _distances(descriptors, int(i)), out=nearest)
    turns = [_Turns(candidates.subject, candidates), _Turns(candidates.sequence, candidates)]
    for turn in turns:
        turn.share(n)
    before = int(candidates.labelled.sum())
    coverage = [_within(before, nearest)] if before else []
    stops = {max(1, n // 4), max(1, n // 2), n}
    chosen: list[int] = []
    while len(chosen) < n:
        allowed = free & turns[0].open & turns[1].open
        if not allowed.any():
            for turn in turns:
                turn.more()
            continue
        first = not before and not chosen
        pick = int(rng.choice(np.flatnonzero(allowed)) if first else np.where(allowed, nearest, -1).argmax())
        chosen.append(pick)
        free[pick] = False
        for turn in turns:
            turn.take(pick)
        np.minimum(nearest, _distances(descriptors, pick), out=nearest)
        if len(chosen) in stops:
            coverage.append(_within(before + len(chosen), nearest))
    return Selection(candidates.rows[chosen], before, tuple(coverage), _step(descriptors, candidates))


class _Turns:
    """How many of each group were taken, and which may be taken still."""

    def __init__(self, groups: NDArray[Any], candidates: Candidates) -> None:
        self._names, self._of = np.unique(groups, return_inverse=True)
        self._taken = np.bincount(self._of[candidates.labelled], minlength=len(self._names))
        self._cap = 0

    def share(self, n: int) -> None:
        """Let every group have its equal share of what is labelled and what is chosen."""
        self._cap = -(-(int(self._taken.sum()) + n) // len(self._names))

    @property
    def open(self) -> NDArray[np.bool_]:
        """(N,) whether a candidate's group has not had its share."""
        return np.asarray((self._taken < self._cap)[self._of])

    def take(self, candidate: int) -> None:
        self._taken[self._of[candidate]] += 1

    def more(self) -> None:
        self._cap += 1


def _distances(descriptors: NDArray[Any], to: int) -> NDArray[np.float32]:
    """(N,) mm."""
    out = np.empty(len(descriptors), np.float32)
    center = descriptors[to].astype(np.float32)
    for start in range(0, len(out), 8 * BLOCK):
        away = descriptors[start : start + 8 * BLOCK].astype(np.float32) - center
        out[start : start + 8 * BLOCK] = np.sqrt(np.einsum("ij,ij->i", away, away))
    return out


def _within(count: int, nearest: NDArray[np.float32]) -> tuple[int, float, float, float]:
    half, most, far = np.percentile(nearest, (50, 90, 100)).tolist()
    return count, half, most, far


def _step(descriptors: NDArray[Any], candidates: Candidates) -> float:
    """Median distance of rows that follow each other in a sequence."""
    follows = np.flatnonzero((np.diff(candidates.rows) == 1) & (np.diff(candidates.sequence) == 0))
    if not len(follows):
        return float("nan")
    some = follows[np.linspace(0, len(follows) - 1, min(len(follows), 500)).astype(int)]
    away = descriptors[some + 1].astype(np.float32) - descriptors[some].astype(np.float32)
    return float(np.median(np.linalg.norm(away, axis=1)))
