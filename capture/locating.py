"""`capture locate`: find the hand in every image of a recording, without labels, and write its crops.

Pass one learns each camera's background from frames spread over the recording, pass two finds the candidates
of every set, pass three follows one hand through each sequence and cuts the crops. All is streamed by units; only the
candidates and one background a camera are held.
"""

from __future__ import annotations

import itertools
import multiprocessing
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import refuse_distortion
from ..stores.crops import crop_k, take_crop
from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26
from ..stores.locate import (
    Candidate,
    Found,
    background_of,
    follow,
    hand_candidates,
    probability,
)
from ..stores.palm_fit import fit, patches_about
from ..stores.palm_net import Net, built_in
from ..stores.recording import CENTER_SOURCES, Recording, open_recording
from ..stores.table import Appender
from .record import Progress

LOCATED: Final = CENTER_SOURCES.index("located")
BACKGROUND_SAMPLES: Final = 60
BATCH: Final = 32
SURE: Final = 0.5
"""A score above which a place is more likely right than wrong."""
LEAST_PIXELS: Final = 40
"""Crop pixels within `HAND_MM` of the centre's depth, below which the hand counts as not seen in that view."""
HAND_MM: Final = 120.0
NOWHERE_MM: Final = np.array([0.0, 0.0, 500.0])
"""Centre of a crop that shows nothing."""


@dataclass(frozen=True, slots=True)
class Located:
    """What the pass found."""

    images: int
    """Images there are."""
    located: int
    """Images in which the hand was found."""
    frames: int
    mean_score: float
    unsure: int
    """Of the located ones, those with a score below `SURE`."""
    marked: int
    """Images in which what was found scores too little to be taken for a hand."""


def locate(
    path: Path,
    *,
    overwrite: bool = False,
    jobs: int = 1,
    calibrate_on: Path | None = None,
    smooth: bool = True,
    min_score: float = 0.0,
    progress: Progress | None = None,
) -> Located:
    """Write `crops/` of a captured recording.

    Args:
        path: the recording, with full frames.
        overwrite: replace crops that are complete; those of a pass that was cut off are replaced anyhow.
        jobs: processes that look for candidates; changes nothing but the time.
        calibrate_on: a synthetic recording of the same rig; what the network says is fitted to it.
        smooth: follow one hand through each sequence; else every set is judged by itself.
        min_score: what scores less is not taken for a hand: it keeps its centre and score, but no source, and
            training leaves it out.
        progress: told of sets done, in two passes.

    Raises:
        HandloomError: not a recording, no full frames, a camera with lens distortion, crops that exist.
    """
    recording = open_recording(path)
    frames = recording.frames
    if frames is None or not recording.has_depth:
        raise HandloomError(
            "The recording holds no full frames to look for a hand in",
            where=str(path),
            why="synthetic recordings have their crops already" if recording.kind == "synthetic" else "",
        )
    refuse_distortion(recording.rig, where=str(path))
    if recording.crops is not None:
        if recording.crops.committed >= recording.n_frames and not overwrite:
            raise HandloomError("The hand was located already", where=str(path), fix="add --overwrite")
        shutil.rmtree(path / "crops")
    net = net_from(calibrate_on) if calibrate_on is not None else None
    total = 2 * recording.n_frames

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, total)

    found = _candidates(recording, net, jobs, tell)
    followed = _followed(found, frames.read("sequence")) if smooth else [_best(row) for row in found]
    return _write(recording, followed, min_score, tell)


def net_from(path: Path, *, rows: int = 400) -> Net:
    """The network fitted to the rig, sensor and hands of a synthetic recording, by its first rows.

    Raises:
        HandloomError: it has no crops with labels in the layout openxr26.
    """
    recording = open_recording(path)
    layout = recording.layout
    if recording.crops is None or recording.labels is None or layout is None or layout.name != "openxr26":
        raise HandloomError("Only a synthetic recording with crops and joints can calibrate", where=str(path))
    depth, k = recording.crops.read("crop", 0, rows), recording.crops.read("k", 0, rows)
    palms = recording.labels.read("joints", 0, rows)[:, OPENXR26.index("palm")].astype(np.float64)
    assert recording.frames is not None
    present = recording.frames.read("present", 0, rows) > 0
    rng = np.random.default_rng(0)
    patches, offsets = [], []
    for row, view in np.argwhere(present):
        camera = recording.rig.cameras[view]
        fx, fy, cx, cy = (float(value) for value in k[row, view])
        side = depth.shape[-1]
        crop = replace(camera, width=side, height=side, k=(fx, fy, cx, cy))
        image = depth[row, view] * np.float32(camera.depth_unit_mm)
        part = patches_about(palms[row], image, crop, rng)
        patches.append(part[0])
        offsets.append(part[1])
    return fit(built_in(), np.concatenate(patches), np.concatenate(offsets), where=str(path))


def _candidates(recording: Recording, net: Net | None, jobs: int, tell: Callable[[int], None]) -> list[list[Candidate]]:
    """Candidates of every set."""
    backgrounds = _backgrounds(recording)
    starts = range(0, recording.n_frames, BATCH)
    found: list[list[Candidate]] = []
    if jobs <= 1 or len(starts) < 2 * jobs:
        for start in starts:
            found += _candidates_of(recording, start, start + BATCH, backgrounds, net)
            tell(len(found))
        return found
    # Spawned, never forked: threads of OpenCV and numba do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        # The end goes along: a worker's own BATCH may be another.
        tasks = [(recording.path, start, start + BATCH, backgrounds, net) for start in starts]
        for part in pool.map(_candidates_task, tasks):
            found += part
            tell(len(found))
    return found


def _candidates_task(task: tuple[Path, int, int, list[Any], Net | None]) -> list[list[Candidate]]:
    path, start, stop, backgrounds, net = task
    return _candidates_of(open_recording(path), start, stop, backgrounds, net)


def _candidates_of(
    recording: Recording, start: int, stop: int, backgrounds: list[Any], net: Net | None
) -> list[list[Candidate]]:
    """Candidates of the sets from `start` to `stop`."""
    assert recording.frames is not None
    depth, units = _read(recording, start, stop), recording.depth_unit_mm
    present = recording.frames.read("present", start, stop)
    out = []
    for row in range(len(present)):
        images = [depth[view][row] * units[view] if present[row, view] else None for view in range(len(units))]
        out.append(hand_candidates(images, recording.rig, background_mm=backgrounds, net=net))
    return out


def _read(recording: Recording, start: int, stop: int) -> list[NDArray[np.uint16]]:
    """Depth (n, H, W) of some sets by view."""
    assert recording.frames is not None
    return [recording.frames.read(f"depth/{name}", start, stop) for name in recording.rig.names]


def _backgrounds(recording: Recording) -> list[NDArray[np.float32]]:
    """What stands still before each camera, mm, 0 = unknown."""
    frames = recording.frames
    assert frames is not None
    count = recording.n_frames
    rows = np.unique(np.linspace(0, count - 1, min(BACKGROUND_SAMPLES, count)).astype(int))
    present = frames.read("present")
    out = []
    for view, camera in enumerate(recording.rig.cameras):
        kept = [int(row) for row in rows if present[row, view]]
        name = f"depth/{camera.name}"
        images = [frames.read(name, row, row + 1)[0] for row in kept]
        stack = np.stack(images) if images else np.zeros((0, camera.height, camera.width), np.uint16)
        out.append(background_of(stack).astype(np.float32) * np.float32(camera.depth_unit_mm))
    return out


def _followed(found: Sequence[list[Candidate]], sequence: NDArray[np.int32]) -> list[Found | None]:
    """The hand of every set, followed within each run of rows of one sequence."""
    edges = [0, *(np.flatnonzero(np.diff(sequence)) + 1), len(found)]
    out: list[Found | None] = []
    for start, stop in itertools.pairwise(edges):
        out += follow(found[start:stop])
    return out


def _best(found: list[Candidate]) -> Found | None:
    if not found:
        return None
    best = max(found, key=lambda one: one.logit)
    return Found(best.palm_mm, probability(best))


def _write(
    recording: Recording, found: Sequence[Found | None], min_score: float, tell: Callable[[int], None]
) -> Located:
    """Cut the crops around what was found."""
    table = recording.create_crops(parts=False)
    crop_px, window_mm = int(table.attributes["crop_px"]), float(table.attributes["window_mm"])
    assert recording.frames is not None
    images = located = unsure = marked = 0
    with Appender(table) as appender:
        for start in range(0, recording.n_frames, BATCH):
            present = recording.frames.read("present", start, start + BATCH) > 0
            part = found[start : start + BATCH]
            rows = crops_around(recording, _read(recording, start, start + BATCH), present, part, crop_px, window_mm)
            low = (rows["center_source"] > 0) & (rows["center_score"] < min_score)
            rows["center_source"][low] = 0
            appender.append(rows)
            images += int(present.sum())
            taken = rows["center_source"] > 0
            located += int(taken.sum())
            unsure += int((taken & (rows["center_score"] < SURE)).sum())
            marked += int(low.sum())
            tell(recording.n_frames + start + len(present))
    scores = [one.score for one in found if one is not None]
    mean = float(np.mean(scores)) if scores else 0.0
    return Located(images, located, recording.n_frames, mean, unsure, marked)


def crops_around(
    recording: Recording,
    depth: list[NDArray[np.uint16]],
    present: NDArray[np.bool_],
    found: Sequence[Found | None],
    crop_px: int,
    window_mm: float,
    *,
    source: int = LOCATED,
) -> dict[str, NDArray[Any]]:
    """Rows of `crops/` around what was found; a view in which the hand is not seen keeps the geometry but no source.

    Args:
        recording: whose cameras they are.
        depth: of each camera (n, H, W).
        present: (n, V) whether there is an image.
        found: of each row, in the rig's frame; None where nothing was.
        crop_px: side of a crop.
        window_mm: what it shows.
        source: where the centres come from, an index of CENTER_SOURCES.
    """
    count, views = present.shape
    out: dict[str, NDArray[Any]] = {
        "crop": np.zeros((count, views, crop_px, crop_px), np.uint16),
        "center": np.zeros((count, views, 3), np.float32),
        "k": np.zeros((count, views, 4), np.float32),
        "center_source": np.zeros((count, views), np.uint8),
        "center_score": np.zeros((count, views), np.float32),
    }
    for row, view in np.ndindex(count, views):
        camera, one = recording.rig.cameras[view], found[row]
        center = NOWHERE_MM if one is None else camera.to_camera(one.palm_mm)
        if center[2] < 1:
            center = NOWHERE_MM  # behind this camera
        out["center"][row, view] = center
        if not present[row, view] or one is None:
            out["k"][row, view] = crop_k(center, camera.k, crop_px=crop_px, window_mm=window_mm)
            continue
        crop, out["k"][row, view] = take_crop(depth[view][row], camera.k, center, crop_px=crop_px, window_mm=window_mm)
        near = np.abs(crop * camera.depth_unit_mm - center[2]) < HAND_MM
        if (near & (crop > 0)).sum() >= LEAST_PIXELS:
            out["crop"][row, view] = crop
            out["center_source"][row, view] = source
            out["center_score"][row, view] = one.score
    return out
