"""What models say of the images of a recording, which are read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.recording import SPLITS, Recording
from .inputs import READ_FRAMES, DepthView, recording_views, usable
from .predict import BATCH, PASSES, Estimator, estimate


@dataclass(frozen=True, slots=True)
class Predictions:
    """What several models say of the same images, which were read once."""

    joints_mm: Mapping[str, NDArray[np.float32]]
    """By model (N, J, 3) in each image's camera, NaN where no hand was found."""
    center_mm: Mapping[str, NDArray[np.float32]]
    """By model (N, 3) of the last crop."""
    row: NDArray[np.int64]
    """(N,) row of the recording."""
    view: NDArray[np.int64]
    """(N,) its camera."""
    score: NDArray[np.float64]
    """(N,) how sure the locating was."""


def predict_all(
    estimators: Mapping[str, Estimator],
    recording: Recording,
    rows: NDArray[np.int64],
    *,
    views: Sequence[int] | None = None,
    passes: int = PASSES,
    centers: Callable[[Sequence[tuple[int, DepthView]]], NDArray[np.float64]] | None = None,
) -> Predictions:
    """Run models over the images of some rows.

    Args:
        estimators: the models by name.
        recording: with full frames, or crops.
        rows: its rows, ascending.
        views: cameras by number; None takes all.
        passes: crops an image.
        centers: where to look in each (row, image) first, (B, 3) mm in its camera; None: the stored centres.

    Raises:
        HandloomError: none of the rows has an image.
    """
    wanted = set(range(recording.n_views)) if views is None else set(views)
    predicted: dict[str, list[NDArray[np.float32]]] = {name: [] for name in estimators}
    used: dict[str, list[NDArray[np.float32]]] = {name: [] for name in estimators}
    row: list[int] = []
    view: list[int] = []
    score: list[float] = []
    for batch in _batches(recording, rows, wanted):
        places = (centers or stored_centers)(batch)
        found = np.flatnonzero(usable(places))
        for name, estimator in estimators.items():
            pose = np.full((len(batch), len(estimator.layout), 3), np.nan, np.float32)
            center = np.full((len(batch), 3), np.nan, np.float32)
            if len(found):
                pose[found], center[found] = estimate(
                    estimator,
                    [batch[i][1] for i in found.tolist()],
                    places[found],
                    mirrored=recording.hand != estimator.hand,
                    passes=passes,
                )
            predicted[name].append(pose)
            used[name].append(center)
        row += [r for r, _ in batch]
        view += [v.view for _, v in batch]
        score += [v.center_score for _, v in batch]
    if not row:
        raise HandloomError("None of the frames has an image", where=str(recording.path))
    return Predictions(
        {name: np.concatenate(parts) for name, parts in predicted.items()},
        {name: np.concatenate(parts) for name, parts in used.items()},
        np.array(row, np.int64),
        np.array(view, np.int64),
        np.array(score),
    )


def rows_of(
    recording: Recording,
    split: str,
    rows: Sequence[int] | NDArray[np.int64] | None,
    *,
    subjects: Sequence[int] = (),
) -> NDArray[np.int64]:
    """The rows given, or those of a split, ascending; of these people only, if any are named.

    Raises:
        HandloomError: no such split, or none of its frames.
    """
    frames = recording.frames
    assert frames is not None
    marks, subject = frames.read("split"), frames.read("subject")
    mine = np.isin(subject, subjects) if len(subjects) else np.ones(len(subject), bool)
    if rows is not None:
        chosen = np.unique(np.asarray(rows, np.int64))
        assert not len(chosen) or (chosen[0] >= 0 and chosen[-1] < recording.n_frames), "no such row"
        return np.asarray(chosen[mine[chosen]])
    if split not in (*SPLITS, "all"):
        raise HandloomError(f"There is no split '{split}'", why=f"known: {', '.join(SPLITS)}, all")
    chosen = np.flatnonzero(mine if split == "all" else mine & (marks == SPLITS.index(split)))
    if not len(chosen):
        counts = ", ".join(f"{name} {int((marks[mine] == i).sum())}" for i, name in enumerate(SPLITS))
        raise HandloomError(
            f"The recording has no {split} frames" + " of these subjects" * (len(subjects) > 0),
            where=str(recording.path),
            why=f"frames by split: {counts}",
            fix="--split all takes every frame",
        )
    return chosen


def stored_centers(batch: Sequence[tuple[int, DepthView]]) -> NDArray[np.float64]:
    """(B, 3) mm in each image's camera, NaN where no hand was located."""
    nowhere = np.full(3, np.nan)
    return np.array([nowhere if view.center_mm is None else view.center_mm for _, view in batch])


def _batches(recording: Recording, rows: NDArray[np.int64], wanted: set[int]) -> Iterator[list[tuple[int, DepthView]]]:
    """(row, image) of the rows' cameras, about a network's batch at a time."""
    batch: list[tuple[int, DepthView]] = []
    for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
        for start in range(int(run[0]), int(run[-1]) + 1, READ_FRAMES):
            stop = min(start + READ_FRAMES, int(run[-1]) + 1)
            batch += [(row, view) for row, view in recording_views(recording, start, stop) if view.view in wanted]
            if len(batch) >= BATCH:
                yield batch
                batch = []
    if batch:
        yield batch
