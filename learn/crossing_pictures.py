"""The pictures of `handloom latent pictures`: which frames of a recording to draw from, and the files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..stores.errors import HandloomError
from ..stores.joints import converted
from ..stores.page import Picture, refuse_taken, write_page
from ..stores.recording import Recording
from .crossing_check import generating
from .crossing_figures import health_blocks, triplet_picture, walk_animation, walk_picture
from .crossing_space import latents_of_depth, walk, walk_past
from .inputs import cut, recording_views
from .model import PoseModel
from .predictions import rows_of
from .report import Gallery, Section, Text

NAMES: Final = ("walk", "walk-moving", "between", "triplets")
STATIONS: Final = 6
"""Poses a walk goes past."""
STEP_SHARES: Final = (0.15, 0.4)
"""Between which shares of the other poses, the nearest first, the next station lies: near, and not the same again."""
POINTS, MOVING_POINTS, BETWEEN_POINTS = 24, 48, 8
"""Of the still walk (three bands of eight), the moving one, the way between two frames."""
TRIPLETS: Final = 8
LOOKED_AT: Final = 400
READING: Final = (
    "What good looks like: fingers of the generated depth follow those of the pose above, a step changes both a "
    "little, and the estimate lies on the depth as the truth does. A pose says nothing of the forearm, so the "
    "generator mixes those it saw with such a hand: several pale arms are no error of the pose. Speckle is one: where "
    "the generator does not know whether a finger or the ground is there, it decides pixel by pixel."
)
"""Of the pictures, for a reader who has not read the paper."""


@dataclass(frozen=True, slots=True)
class Known:
    """Crops of a recording with their true poses, as a model takes them."""

    crops: Tensor
    """(n, 1, P, P)."""
    joints_mm: Tensor
    """(n, J, 3) about the crops' centres, in the model's hand."""
    frame_id: NDArray[np.uint64]
    """(n,)."""
    view: NDArray[np.int64]
    """(n,) the camera each is seen from."""


def draw(
    model: PoseModel,
    recording: Recording,
    out: Path,
    *,
    ends: tuple[int, int] | None,
    split: str,
    seed: int,
    overwrite: bool,
) -> dict[Path, str]:
    """Write walk.png, walk-moving.png, between.png and triplets.png into `out`; what each shows, by path.

    Args:
        model: Crossing Nets with a generator.
        recording: whose labelled frames to take.
        out: a folder; made where there is none.
        ends: the two frames to go between; None: the two of those looked at whose poses differ most.
        split: whose frames.
        seed: draws the walk's stations.
        overwrite: replace pictures that are there.

    Raises:
        HandloomError: no generator, no such frames with whole poses, or a picture is there already.
    """
    generating(model)
    files = {name: out / f"{name}.png" for name in NAMES}
    for path in files.values():
        refuse_taken(path, overwrite=overwrite, what="picture")
    pictures = pictures_of(model, recording, ends=ends, split=split, seed=seed)
    for name, picture in pictures.items():
        write_page(picture.light, files[name], overwrite=overwrite, what="picture")
    return {files[name]: picture.caption for name, picture in pictures.items()}


def space_sections(model: PoseModel, run: Path, recording: Recording, *, split: str, seed: int) -> list[Section]:
    """What a report says of Crossing Nets beside their errors: the shared space in pictures, and the GAN's health.

    Raises:
        HandloomError: the model has no generator, or the recording not two whole labels to start from.
    """
    pictures = pictures_of(model, recording, ends=None, split=split, seed=seed)
    shown = [pictures[name] for name in ("walk-moving", "between", "triplets", "walk")]
    return [
        Section("The shared latent space", [Gallery(shown), Text(READING)]),
        Section("The depth GAN", health_blocks(run)),
    ]


def pictures_of(
    model: PoseModel, recording: Recording, *, ends: tuple[int, int] | None, split: str, seed: int
) -> dict[str, Picture]:
    """The pictures by `NAMES`; arguments and errors as `draw`."""
    generating(model)
    known = known_crops(model, recording, split=split, also=ends or ())
    about_palm = (known.joints_mm - known.joints_mm[:, model.layout.palm, None]).flatten(1).numpy()
    if ends is None:
        first, second = _farthest_pair(about_palm)
    else:
        places = [np.flatnonzero(known.frame_id == frame) for frame in ends]
        for frame, place in zip(ends, places, strict=True):
            if not len(place):
                raise HandloomError(
                    f"Frame {frame} cannot be drawn",
                    where=str(recording.path),
                    why="it has no image whose hand was found, or a joint of it is unknown",
                )
        first, second = (int(place[0]) for place in places)
    stations, view = walk_stations(known, seed=seed)
    walked, at = walk_past(model, known.joints_mm[stations], points=POINTS)
    back, _ = walk_past(model, known.joints_mm[[*stations, stations[0]]], points=MOVING_POINTS)
    z = latents_of_depth(model, known.crops[[first, second]])
    between = walk(model, z[0], z[1], BETWEEN_POINTS)
    spread = np.linspace(0, len(known.crops) - 1, min(TRIPLETS, len(known.crops))).round().astype(int)
    shown = triplet_picture(model, known.crops[spread], known.joints_mm[spread])
    made = {
        "walk": (
            walk_picture(walked, model, stations=at),
            f"A walk past {len(stations)} true poses as {recording.rig.names[view]} sees them (they carry a bar): "
            "poses above the depth generated of them.",
        ),
        "walk-moving": (
            walk_animation(back, model),
            "A walk as a moving picture, and back to its start: poses beside the depth generated of them.",
        ),
        "between": (
            walk_picture(between, model, what="walk between two captured frames"),
            f"From frame {known.frame_id[first]} to {known.frame_id[second]}, by the latents found in their depth.",
        ),
        "triplets": (shown, "True pose, both through the shared space, estimated pose, from top to bottom."),
    }
    return {name: replace(picture, caption=what) for name, (picture, what) in made.items()}


def walk_stations(known: Known, *, seed: int) -> tuple[list[int], int]:
    """Which of some poses a walk goes past, all seen from one camera, and its number.

    The first is drawn at random, each next one among those left that lie near it (`STEP_SHARES`), by the joints'
    distances: a walk through all of a camera's poses at random would turn the hand over at every station.
    """
    rng = np.random.default_rng(seed)
    views, counts = np.unique(known.view, return_counts=True)
    view = int(views[counts.argmax()])
    left = np.flatnonzero(known.view == view).tolist()
    poses = known.joints_mm.flatten(1).numpy()
    stations = [left.pop(int(rng.integers(len(left))))]
    while left and len(stations) < STATIONS:
        distance = np.linalg.norm(poses[left] - poses[stations[-1]], axis=1)
        first, last = (int(share * len(left)) for share in STEP_SHARES)
        near = np.argsort(distance, kind="stable")[first : max(last, first + 1)]
        stations.append(left.pop(int(rng.choice(near))))
    return stations, view


def known_crops(model: PoseModel, recording: Recording, *, split: str, also: tuple[int, ...] = ()) -> Known:
    """Crops around the stored centres of labelled frames, evenly spread, one camera each in turn.

    Raises:
        HandloomError: there are fewer than two with a whole pose in the model's layout.
    """
    if recording.labels is None or recording.layout is None:
        raise HandloomError("The recording has no labels to start from", where=str(recording.path))
    if recording.layout.name not in (model.layout.name, "openxr26"):
        raise HandloomError(
            f"The labels are '{recording.layout.name}', the model's joints '{model.layout.name}'",
            where=str(recording.path),
        )
    assert recording.frames is not None
    joints = converted(recording.labels.read("joints"), recording.layout, model.layout)
    frame_id = recording.frames.read("frame_id")
    whole = np.flatnonzero(np.isfinite(joints).all(axis=(1, 2)))
    rows = np.intersect1d(rows_of(recording, split, None), whole)
    some = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).round().astype(int)] if len(rows) else rows
    some = np.union1d(some, np.intersect1d(whole, np.flatnonzero(np.isin(frame_id, np.array(also, np.uint64)))))
    turn = np.array([-1.0, 1.0, 1.0], np.float32) if recording.hand != model.hand else np.ones(3, np.float32)
    crops, poses, frames, cameras = [], [], [], []
    for number, row in enumerate(some.tolist()):
        views = [view for _, view in recording_views(recording, row, row + 1) if view.center_mm is not None]
        if not views:
            continue
        view = views[number % len(views)]
        assert view.center_mm is not None
        crop = cut(view, view.center_mm, input_px=model.input_px, cube_mm=model.cube_mm)
        crops.append(crop if turn[0] > 0 else crop[:, ::-1].copy())
        poses.append(((view.camera.to_camera(joints[row]) - view.center_mm) * turn).astype(np.float32))
        frames.append(frame_id[row])
        cameras.append(view.view)
    if len(crops) < 2:
        raise HandloomError(
            "There are no two labelled frames to draw",
            where=str(recording.path),
            why=f"{len(whole)} frames have whole poses, {len(rows)} of them are {split} frames",
            fix="--split all takes every frame",
        )
    return Known(
        torch.from_numpy(np.stack(crops)[:, None]),
        torch.from_numpy(np.stack(poses)),
        np.array(frames, np.uint64),
        np.array(cameras, np.int64),
    )


def _farthest_pair(poses: NDArray[np.float32]) -> tuple[int, int]:
    distance = ((poses[:, None] - poses[None]) ** 2).sum(axis=-1)
    first, second = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(first), int(second)
