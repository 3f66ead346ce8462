"""Which training images are most like a test image: in pose, and in the latent z (Poier et al., Fig. 12).

In pose: the mean distance of the joints, in the camera, after the palms were moved onto each other. All labelled
training frames are searched, whether a label was used in training or not: as in the paper, labels only find. In z: the
Euclidean distance; images are searched that are spread evenly over the set (every image has to pass the network).
Where the nearest in pose is far, the training set lacks such poses; where it is near and the nearest in z shows another
pose, the network takes one for the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..stores.crops import crop_k
from ..stores.joints import Layout, converted
from ..stores.reading import load_resident
from ..stores.recording import Recording
from .batches import Bank, bank_of, cut, still
from .data import without_missed_hands
from .latent import latents
from .model import PoseModel
from .sheets import DRAWN_MM, DRAWN_PX

SEARCHED: Final = 3000
"""Images of a set whose z are compared, at most."""
_TRIED: Final = 5
"""Nearest poses that are looked at for one whose image shows a hand: some are hidden by an arm."""
_SHOWS_A_HAND: Final = 0.01
"""Share of a crop's pixels."""
_FRAMES: Final = 128
"""Frames read at a time."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The training image found for one test image."""

    crop: NDArray[np.float32]
    """(P, P) about the stored centre, to be drawn on."""
    joints_mm: NDArray[np.float64]
    """(J, 3) in its camera."""
    k: NDArray[np.float64]
    """(4,) of the crop."""
    row: int
    view: int
    pose_mm: float
    """Distance of the two poses, as above."""


def pose_distance(pose_mm: NDArray[np.floating], others_mm: NDArray[np.floating], palm: int) -> NDArray[np.float64]:
    """Mean distance (N,) of the known joints of a pose (J, 3) and of others (N, J, 3), palms moved together.

    NaN where a palm or every joint is unknown.
    """
    moved = others_mm - others_mm[:, palm : palm + 1] - (pose_mm - pose_mm[palm])
    distance = np.linalg.norm(moved, axis=-1)
    known = np.isfinite(distance)
    total = np.where(known, distance, 0).sum(axis=1)
    return np.asarray(np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan), np.float64)


def nearest_in_pose(
    poses_mm: NDArray[np.floating], recording: Recording, rows: NDArray[np.int64], model: PoseModel
) -> list[Neighbour | None]:
    """For each pose (n, J, 3), in its camera, the image of the nearest labelled one among some rows.

    Args:
        poses_mm: in the model's layout, of the hand it knows.
        recording: a training set with labels.
        rows: of it.
        model: says how its images are cut.
    """
    joints = _joints(recording, rows, model.layout)
    in_cameras = [camera.to_camera(joints) for camera in recording.rig.cameras]
    seen = _seen(recording, rows, np.stack([each[:, model.layout.palm] for each in in_cameras], axis=1), model.cube_mm)
    views, out = recording.n_views, []
    for pose in poses_mm:
        distance = np.stack([pose_distance(pose, each, model.layout.palm) for each in in_cameras], axis=1)
        distance = np.where(seen & np.isfinite(distance), distance, np.inf).reshape(-1)
        found = None
        for at in np.argsort(distance, kind="stable")[:_TRIED].tolist():
            if found is None and np.isfinite(distance[at]):
                one = _neighbour(recording, int(rows[at // views]), at % views, float(distance[at]), model)
                found = one if (one.crop < 1).mean() > _SHOWS_A_HAND else None
        out.append(found)
    return out


def nearest_in_latent(
    z: NDArray[np.float32],
    poses_mm: NDArray[np.floating],
    recording: Recording,
    rows: NDArray[np.int64],
    model: PoseModel,
    *,
    searched: int = SEARCHED,
) -> list[Neighbour | None]:
    """For each latent (n, F) of images of known pose (n, J, 3) the nearest training image in z.

    Args:
        z: `latent.latents` of the test images.
        poses_mm: their true poses, to say how far the neighbour's is.
        recording: a training set.
        rows: of it; spread evenly, so many are taken that their images are `searched` at most.
        model: whose z it is.
        searched: see above.
    """
    views = recording.n_views
    every = max(1, -(-len(rows) * views // searched))
    best = np.full(len(z), np.inf)
    place = np.full(len(z), -1, np.int64)
    for part in _parts(rows[::every]):
        bank = _bank(recording, part, model)
        crop = without_missed_hands(bank, model.layout, cube_mm=model.cube_mm)[0].singles()
        images = cut(bank, crop, still(bank, crop), input_px=model.input_px, cube_mm=model.cube_mm).image
        theirs = latents(model, images[:, 0].numpy(), real=recording.kind == "captured")
        distance = np.linalg.norm(z[:, None].astype(np.float64) - theirs, axis=-1)
        if not distance.size:
            continue
        at, least = distance.argmin(axis=1), distance.min(axis=1)
        found = crop.numpy()[at]
        place = np.where(least < best, part[found // views] * views + found % views, place)
        best = np.minimum(best, least)
    out: list[Neighbour | None] = []
    for pose, at in zip(poses_mm, place.tolist(), strict=True):
        if at < 0:
            out.append(None)
            continue
        row, view = at // views, at % views
        joints = _joints(recording, np.array([row]), model.layout)
        camera = recording.rig.cameras[view]
        mm = float(pose_distance(pose, camera.to_camera(joints), model.layout.palm)[0])
        out.append(_neighbour(recording, row, view, mm, model))
    return out


def _neighbour(recording: Recording, row: int, view: int, pose_mm: float, model: PoseModel) -> Neighbour:
    bank = _bank(recording, np.array([row]), model)
    crop = torch.tensor([view])
    image = cut(bank, crop, still(bank, crop), input_px=DRAWN_PX, cube_mm=DRAWN_MM)
    center = bank.center_mm[view].double().numpy()
    k = crop_k(center, bank.k[view].double().numpy(), crop_px=DRAWN_PX, window_mm=DRAWN_MM)
    joints = bank.joints_camera(crop)[0].double().numpy()
    return Neighbour(image.image[0, 0].numpy(), joints, k, row, view, pose_mm)


def _bank(recording: Recording, rows: NDArray[np.int64], model: PoseModel) -> Bank:
    """Some rows as training reads them, on the CPU, all labels known."""
    return bank_of(
        [load_resident(recording, rows=rows)],
        layout=model.layout,
        labelled=None,
        offset_true_mm=0.0,
        offset_located_mm=0.0,
        located=False,
        device=torch.device("cpu"),
    )


def _parts(rows: NDArray[np.int64]) -> Sequence[NDArray[np.int64]]:
    return np.split(rows, range(_FRAMES, len(rows), _FRAMES))


def _seen(
    recording: Recording, rows: NDArray[np.int64], palm_mm: NDArray[np.float64], cube_mm: float
) -> NDArray[np.bool_]:
    """(n, V): the camera gave an image of these rows whose crop is about the palm (n, V, 3), as training wants it."""
    assert recording.frames is not None
    assert recording.crops is not None
    off = np.linalg.norm(recording.crops.read_rows("center", rows) - palm_mm, axis=-1)
    given = (recording.frames.read_rows("present", rows) > 0) & (recording.crops.read_rows("center_source", rows) > 0)
    return np.asarray(given & (off <= cube_mm / 2))


def _joints(recording: Recording, rows: NDArray[np.int64], layout: Layout) -> NDArray[np.float32]:
    """(n, J, 3) mm in the rig; NaN where the recording has no labels, or in a layout that does not convert."""
    labels, given = recording.labels, recording.layout
    if labels is None or given is None or given.name not in (layout.name, "openxr26"):
        return np.full((len(rows), len(layout), 3), np.nan, np.float32)
    return converted(labels.read_rows("joints", rows), given, layout)
