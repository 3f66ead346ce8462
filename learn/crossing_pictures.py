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
from .crossing_space import latents_of_depth, random_walk, walk
from .inputs import cut, recording_views
from .model import PoseModel
from .predictions import rows_of
from .report import Gallery, Section

NAMES: Final = ("walk", "walk-moving", "between", "triplets")
ANCHORS: Final = 5
STEPS: Final = 8
TRIPLETS: Final = 8
LOOKED_AT: Final = 400


@dataclass(frozen=True, slots=True)
class Known:
    """Crops of a recording with their true poses, as a model takes them."""

    crops: Tensor
    """(n, 1, P, P)."""
    joints_mm: Tensor
    """(n, J, 3) about the crops' centres, in the model's hand."""
    frame_id: NDArray[np.uint64]
    """(n,)."""


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
    return [Section("The shared latent space", [Gallery(shown)]), Section("The depth GAN", health_blocks(run))]


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
    rng = np.random.default_rng(seed)
    stations = known.joints_mm[torch.from_numpy(rng.choice(len(known.crops), min(ANCHORS, len(known.crops)), False))]
    walked = random_walk(model, stations, steps=STEPS)
    z = latents_of_depth(model, known.crops[[first, second]])
    between = walk(model, z[0], z[1], STEPS + 1)
    spread = np.linspace(0, len(known.crops) - 1, min(TRIPLETS, len(known.crops))).round().astype(int)
    shown = triplet_picture(model, known.crops[spread], known.joints_mm[spread])
    made = {
        "walk": (walk_picture(walked, model), f"a walk past {len(stations)} poses, skeletons above generated depth"),
        "walk-moving": (walk_animation(walked, model), "the same as a moving picture"),
        "between": (
            walk_picture(between, model, what="walk between two captured frames"),
            f"from frame {known.frame_id[first]} to {known.frame_id[second]}, by the latents found in their depth",
        ),
        "triplets": (shown, "true pose, both through the shared space, estimated pose, from top to bottom"),
    }
    return {name: replace(picture, caption=what) for name, (picture, what) in made.items()}


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
    crops, poses, frames = [], [], []
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
    if len(crops) < 2:
        raise HandloomError(
            "There are no two labelled frames to draw",
            where=str(recording.path),
            why=f"{len(whole)} frames have whole poses, {len(rows)} of them are {split} frames",
            fix="--split all takes every frame",
        )
    return Known(
        torch.from_numpy(np.stack(crops)[:, None]), torch.from_numpy(np.stack(poses)), np.array(frames, np.uint64)
    )


def _farthest_pair(poses: NDArray[np.float32]) -> tuple[int, int]:
    distance = ((poses[:, None] - poses[None]) ** 2).sum(axis=-1)
    first, second = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(first), int(second)
