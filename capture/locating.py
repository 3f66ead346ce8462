"""The locating pass: where the hand is in every image of a recording, and its crops.

Three readings of the frames: some of them for each camera's background, all of them for candidates, all of them
again for the crops. In between one path is followed through each sequence's candidates (`stores.locate`). Nothing
of the recording's labels is read. Cost: about 8 ms a set of three 320 × 240 views.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import project
from ..stores.crops import take_crop
from ..stores.errors import HandloomError
from ..stores.locate import Found, background_of, follow, hand_candidates
from ..stores.palm import Candidate
from ..stores.recording import CENTER_SOURCES, Recording, open_recording
from ..stores.table import Appender, Table

BACKGROUND_SAMPLES: Final = 96
"""Frames, evenly spread over the recording, from which a static camera's background is learned."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Located:
    """What the pass found."""

    images: int
    """Images that cameras gave."""
    located: int
    """Images that have a hand centre now."""
    median_score: float
    """Of the frames with a hand: the probability that the centre is within 30 mm."""


def locate(path: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Located:
    """Find the hand in every image of a recording and write its `crops/`.

    Args:
        path: a recording with full frames.
        overwrite: replace the crops that are there.
        progress: called with frames done and frames in all; each frame counts twice.

    Raises:
        HandloomError: the recording keeps no full frames, has crops already, or shows no hand at all.
    """
    recording = open_recording(path, writable=True)
    frames = recording.frames
    assert frames is not None
    if not recording.has_depth:
        raise HandloomError(
            "The recording keeps no full frames to look for a hand in", where=str(path), why="it holds crops only"
        )
    if recording.crops is not None and recording.crops.committed == recording.n_frames and not overwrite:
        raise HandloomError("The hand was located already", where=str(path / "crops"), fix="add --overwrite")
    total = 2 * recording.n_frames
    backgrounds = _backgrounds(recording)
    candidates: list[list[Candidate]] = []
    for images in _sets(recording):
        candidates.append(hand_candidates(images, recording.rig, background_mm=backgrounds))
        if progress is not None:
            progress(len(candidates), total)
    found = _followed(candidates, frames.read("sequence"))
    if not any(found):
        raise HandloomError(
            "No hand was found in the recording",
            where=str(path),
            why=f"none of {recording.n_frames} frames shows anything like a hand with an arm",
            fix="check depth_unit_mm and K of the cameras: handloom store info",
        )
    shutil.rmtree(path / "crops", ignore_errors=True)
    located = _write_crops(recording, found, progress)
    scores = [one.score for one in found if one is not None]
    return Located(int(frames.read("present").sum()), located, float(np.median(scores)))


def _backgrounds(recording: Recording) -> list[NDArray[Any]]:
    """(H, W) mm by view of what does not move, 0 where unknown."""
    frames = recording.frames
    assert frames is not None
    present = frames.read("present") > 0
    out = []
    for view, camera in enumerate(recording.rig.cameras):
        (rows,) = np.nonzero(present[:, view])
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, BACKGROUND_SAMPLES).astype(int))] if len(rows) else rows
        images = [frames.read(f"depth/{camera.name}", row, row + 1) for row in chosen.tolist()]
        still = np.concatenate(images) if images else np.zeros((0, camera.height, camera.width), np.uint16)
        out.append(background_of(still) * np.float32(camera.depth_unit_mm))
    return out


def _sets(recording: Recording) -> Any:
    """The images of each frame in mm, None where a camera gave none."""
    frames = recording.frames
    assert frames is not None
    names = ["present", *(f"depth/{name}" for name in recording.rig.names)]
    for _, rows in frames.iter_units(names):
        for i in range(len(rows["present"])):
            yield [
                rows[f"depth/{c.name}"][i] * np.float32(c.depth_unit_mm) if rows["present"][i, view] else None
                for view, c in enumerate(recording.rig.cameras)
            ]


def _followed(candidates: Sequence[Sequence[Candidate]], sequence: NDArray[Any]) -> list[Found | None]:
    """One hand through each run of frames of one sequence."""
    (breaks,) = np.nonzero(np.diff(sequence))
    starts = [0, *(breaks + 1).tolist(), len(sequence)]
    out: list[Found | None] = []
    for start, stop in itertools.pairwise(starts):
        out += follow(candidates[start:stop])
    return out


def _write_crops(recording: Recording, found: Sequence[Found | None], progress: Progress | None) -> int:
    frames = recording.frames
    assert frames is not None
    table = recording.create_crops(parts=False)
    names = ["present", *(f"depth/{name}" for name in recording.rig.names)]
    located = 0
    with Appender(table) as appender:
        for start, rows in frames.iter_units(names):
            unit = _crops_of(recording, rows, found[start : start + len(rows["present"])], table)
            located += int((unit["center_source"] > 0).sum())
            appender.append(unit)
            if progress is not None:
                progress(recording.n_frames + appender.rows, 2 * recording.n_frames)
    return located


def _crops_of(
    recording: Recording, rows: dict[str, NDArray[Any]], found: Sequence[Found | None], table: Table
) -> dict[str, NDArray[Any]]:
    """The rows of `crops/` for some frames; zeros where there is no hand in an image."""
    unit = {name: np.zeros((len(found), *column.shape), column.dtype) for name, column in table.columns.items()}
    crop_px, window_mm = int(table.attributes["crop_px"]), float(table.attributes["window_mm"])
    for i, one in enumerate(found):
        if one is None:
            continue
        for view, (camera, center) in enumerate(zip(recording.rig.cameras, one.centers_mm(recording.rig), strict=True)):
            if not rows["present"][i, view] or center[2] <= 0:
                continue
            u, v = project(center, camera.k)
            if not (0 <= u < camera.width and 0 <= v < camera.height):
                continue
            crop, k = take_crop(rows[f"depth/{camera.name}"][i], camera.k, center, crop_px=crop_px, window_mm=window_mm)
            unit["crop"][i, view], unit["k"][i, view], unit["center"][i, view] = crop, k, center
            unit["center_source"][i, view] = CENTER_SOURCES.index("located")
            unit["center_score"][i, view] = one.score
    return unit
