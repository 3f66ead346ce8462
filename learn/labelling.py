"""`handloom label`: which frames people should label, and a page on which each begins with the best guess there is.

A model, where there is one, gives a pose fused over the views: it fills the page in, and distances between poses can
choose the frames. Without one, frames are chosen by their crops and a hand at rest is laid where the hand was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.diverse import (
    MIN_SCORE,
    Selection,
    choose,
    crop_descriptors,
    find_candidates,
    labelled_rows,
    pose_descriptors,
)
from ..stores.documents import read_ids
from ..stores.edit import frame_rows
from ..stores.errors import HandloomError
from ..stores.joints import Layout, layout_named
from ..stores.label_page import LabelPage, Prefill, palm_of, write_label_page
from ..stores.page import refuse_taken
from ..stores.recording import Recording, open_recording

if TYPE_CHECKING:
    from .predict import Estimator

BLOCK = 32
"""Frames predicted at a time."""
METRICS = {"crops": "RMS depth over the crops", "poses": "RMS joint of the model's poses"}
Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What `prepare` made."""

    page: LabelPage
    frames: int
    of_frames: int
    """Frames of the split, or of the whole recording where the frames were given."""
    selection: Selection | None
    """None where the frames were given."""
    metric: str
    labelled_before: int
    """Labelled frames of the recording."""
    sources: dict[str, int]
    """How many frames begin with labels, a model's pose, a hand at rest."""


def prepare(
    path: Path,
    out: Path,
    *,
    select: int | None,
    frames: Path | None,
    rest_mm: NDArray[Any],
    model: Path | None = None,
    by: Literal["crops", "poses"] | None = None,
    split: str = "train",
    min_score: float = MIN_SCORE,
    layout: str | None = None,
    seed: int,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Prepared:
    """Choose frames and write the page.

    Args:
        path: a located recording.
        out: folder for index.html and frames.txt.
        select: how many frames to choose; or
        frames: a file with a frame_id a line, those to label instead.
        rest_mm: (26, 3) canonical joints of a right hand at rest: x to the little finger, y distal, z dorsal.
        model: an exported model (.onnx) or a run.
        by: what distances are of; poses where there is a model, else crops.
        split: whose frames can be chosen.
        min_score: of a located centre.
        layout: of the labels; that of the labels that are there, else the model's, else openxr26.
        seed: draws the first frame where none is labelled.
        overwrite: replace a page that is there.
        progress: called with what was done and in all.

    Raises:
        HandloomError: the recording is not located or has too few frames, or the model's layout does not go with it.
    """
    assert (select is None) != (frames is None)
    for name in ("index.html", "frames.txt"):
        refuse_taken(out / name, overwrite=overwrite, what="labelling page")
    recording = open_recording(path)
    estimator = _opened(model)
    known = _layout(recording, estimator, layout)
    by = by or ("poses" if estimator else "crops")
    if by == "poses" and estimator is None:
        raise HandloomError("--by poses needs a model to see them", fix="give --model, or --by crops")
    selection, seen = None, {}
    if frames is not None:
        rows = frame_rows(recording, _read_ids(frames))
        of_frames = recording.n_frames
    else:
        candidates = find_candidates(recording, split=split, min_score=min_score)
        of_frames = candidates.of_frames
        if by == "poses":
            assert estimator is not None
            poses = predict_fused(estimator, recording, candidates.rows, progress=progress)
            assert np.isfinite(poses).all(), "every candidate has a located hand"
            points = pose_descriptors(poses, estimator.layout.palm)
            seen = dict(zip(candidates.rows.tolist(), poses, strict=True))
        else:
            points = crop_descriptors(recording, candidates.rows, progress=progress)
        assert select is not None
        selection = choose(points, candidates, select, rng=np.random.default_rng(seed))
        rows = selection.rows
    prefill = prefilled(recording, rows, known, estimator, rest_mm, seen=seen)
    page = write_label_page(
        recording, rows.tolist(), out, layout=known, prefill=prefill, overwrite=overwrite, progress=progress
    )
    sources = {name: prefill.source.count(name) for name in ("labels", "model", "rest")}
    before = len(labelled_rows(recording))
    return Prepared(page, len(rows), of_frames, selection, METRICS[by], before, sources)


def prefilled(
    recording: Recording,
    rows: NDArray[np.int64],
    layout: Layout,
    estimator: Estimator | None,
    rest_mm: NDArray[Any],
    *,
    seen: dict[int, NDArray[np.float64]] | None = None,
) -> Prefill:
    """Where each frame's joints begin: its labels, else the model's pose, else a hand at rest.

    Args:
        recording: located.
        rows: of the frames.
        layout: of the joints.
        estimator: the model, of this layout or openxr26.
        rest_mm: see `prepare`.
        seen: poses of the model that are known already, by row.
    """
    joints = np.full((len(rows), len(layout), 3), np.nan, np.float32)
    source = ["rest"] * len(rows)
    if recording.labels is not None and recording.layout == layout:
        given = recording.labels.read_rows("joints", rows.tolist())
        for i in np.flatnonzero(np.isfinite(given).all(2).any(1)).tolist():
            joints[i], source[i] = given[i], "labels"
    if estimator is not None:
        seen = dict(seen or {})
        todo = [int(row) for row, said in zip(rows, source, strict=True) if said == "rest" and int(row) not in seen]
        new = predict_fused(estimator, recording, np.array(todo, np.int64))
        seen |= {row: pose for row, pose in zip(todo, new, strict=True) if np.isfinite(pose).all()}
        for i, row in enumerate(rows.tolist()):
            if source[i] == "rest" and row in seen:
                pose = seen[row]
                joints[i] = pose if estimator.layout == layout else layout.matrix() @ pose
                source[i] = "model"
    crops = recording.crops
    assert crops is not None
    for i in [i for i, said in enumerate(source) if said == "rest"]:
        center, found = (crops.read_rows(name, [int(rows[i])])[0] for name in ("center", "center_source"))
        palm = palm_of(recording, center, found)
        if palm is None:
            frame = int(recording.frames.read_rows("frame_id", [int(rows[i])])[0]) if recording.frames else -1
            raise HandloomError(
                f"The hand was not found in frame {frame}",
                where=str(recording.path),
                fix="leave it out, or locate the hand again",
            )
        joints[i] = layout.matrix() @ at_rest(recording, int(np.flatnonzero(found)[0]), palm, rest_mm)
    return Prefill(joints, tuple(source))


def at_rest(
    recording: Recording, view: int, palm_mm: tuple[float, float, float], rest_mm: NDArray[Any]
) -> NDArray[np.float64]:
    """(26, 3) mm in the rig: a hand at rest, its palm at `palm_mm`, fingers up in the view and palm to the camera."""
    little = 1.0 if recording.hand == "left" else -1.0  # a right hand held so has its little finger on the left
    axes = np.array([[little, 0, 0], [0, -1, 0], [0, 0, 1]])  # rows: what x, y and z of the hand are in the camera
    camera = recording.rig.cameras[view]
    turned = (np.asarray(rest_mm, np.float64) - rest_mm[0]) @ axes @ camera.rotation
    return np.asarray(turned + np.array(palm_mm))


def predict_fused(
    estimator: Estimator, recording: Recording, rows: NDArray[np.int64], *, progress: Progress | None = None
) -> NDArray[np.float64]:
    """(n, J, 3) mm in the rig: the model's pose of each row, fused over the views; NaN where no hand was found."""
    from .confidence import UNCALIBRATED
    from .fusion import fuse
    from .inputs import recording_views, usable
    from .predict import estimates

    out = np.full((len(rows), len(estimator.layout), 3), np.nan)
    mirrored = recording.hand != estimator.hand
    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK].tolist()
        views = [(i, v) for i, row in enumerate(some) for _, v in recording_views(recording, row, row + 1)]
        views = [(i, v) for i, v in views if v.center_mm is not None and usable(v.center_mm)]
        if views:
            shown = [v for _, v in views]
            centers = np.array([v.center_mm for v in shown], np.float64)
            read = estimates(estimator, shown, centers, mirrored=mirrored)
            confidence = UNCALIBRATED.view(read.spread_mm)
            of = np.array([i for i, _ in views])
            for i in np.unique(of):
                mine = np.flatnonzero(of == i).tolist()
                rig = np.stack([shown[n].camera.to_rig(read.joints_mm[n]) for n in mine])
                out[start + i] = fuse(rig, confidence[mine]).joints_mm
        if progress is not None:
            progress(start + len(some), len(rows))
    return out


def _opened(model: Path | None) -> Estimator | None:
    if model is None:
        return None
    from .estimators import open_estimator

    return open_estimator(model)


def _layout(recording: Recording, estimator: Estimator | None, asked: str | None) -> Layout:
    there = recording.layout if len(labelled_rows(recording)) else None
    known = layout_named(asked) if asked else there or (estimator.layout if estimator else layout_named("openxr26"))
    if there is not None and there != known:
        raise HandloomError(
            f"The recording's labels are of {there.name}, not of {known.name}",
            where=str(recording.path),
            why="one recording has labels of one layout",
            fix=f"--layout {there.name}",
        )
    if estimator is not None and estimator.layout not in (known, layout_named("openxr26")):
        raise HandloomError(
            f"The model's joints are those of {estimator.layout.name}, the labels those of {known.name}",
            why="only the 26 canonical joints (openxr26) convert to other layouts",
            fix=f"--layout {estimator.layout.name}, or no --model",
        )
    return known


def _read_ids(path: Path) -> list[int]:
    try:
        return read_ids(path)
    except (OSError, ValueError) as error:
        raise HandloomError(
            "The list of frames cannot be read", where=str(path), why=str(error), fix="one frame_id a line"
        ) from error
