"""The latent z of images, whatever the method: the one place that says where each keeps it.

    MURAUER        relu(m(f(x))) of real images (past m where nothing trained it, as inference goes), relu(f(x)) of
                   synthetic ones: what l_c, l_m, h and g see (Poier et al., WACV 2019)
    preview        the 50 tanh units between its encoder and its decoders
    Crossing Nets  the 23 numbers that `pos` finds in depth, of either domain (Wan et al., CVPR 2017)
    nearest        the principal components it searches in

What labels, twins and unlabelled images did to a model can be seen here: how far apart a real image and its synthetic
twin, the same pose from the same camera, still are. Distances of two models compare after division by the mean
distance of pairs that do not correspond, for nothing fixes the scale of z.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..stores.lineage import usable_twins
from ..stores.recording import Recording
from .inputs import DepthView, cut, recording_views, usable
from .model import PoseModel


@torch.no_grad()
def latent_of(model: PoseModel, images: Tensor, *, real: bool) -> Tensor:
    """The latents z (B, F) of crops (B, 1, P, P) that lie on the model's device.

    Args:
        model: in eval mode.
        images: the network's own: [-1, 1], +1 where there is no hand.
        real: captured images, not rendered ones.
    """
    nets: Any = model.nets
    match model.method, model.arm:
        case "murauer", "preview":
            z = nets.latent(images)
        case "murauer", _:
            mapped = real and bool(model.description["mapped"])
            domain = model.net.domain if real else 0  # the statistics that inference normalises real images by
            z = nets.latent(nets.features(images, None, domain), real=mapped)
        case "crossing", "nearest" | "paper-nearest":
            z = nets.project(images)
        case _:
            from .crossing_space import latents_of_depth

            z = latents_of_depth(model, images)
    return torch.as_tensor(z)


def latents(model: PoseModel, crops: NDArray[np.float32], *, real: bool, batch: int = 256) -> NDArray[np.float32]:
    """The latents z (n, F) of crops (n, P, P) in [-1, 1]."""
    device = next(model.net.parameters()).device
    parts = [
        latent_of(model, part[:, None].to(device), real=real).cpu() for part in torch.from_numpy(crops).split(batch)
    ]
    return np.asarray(torch.cat(parts).numpy(), np.float32)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Real images and their synthetic twins, cut about the same point of space."""

    real: NDArray[np.float32]
    """(n, P, P)."""
    twin: NDArray[np.float32]
    """(n, P, P)."""
    row: NDArray[np.int64]
    """(n,) of the real recording."""
    view: NDArray[np.int64]
    """(n,) its camera."""


def twinned_rows(real: Recording, twins: Recording) -> NDArray[np.int64]:
    """(T,) for each row of the real recording that of its twin, -1 where it has none.

    Raises:
        HandloomError: they are twins of another recording.
    """
    assert real.frames is not None
    assert twins.labels is not None
    ids, known = usable_twins(twins, real).translated(twins.labels.read("twin"))
    place = {int(frame): row for row, frame in enumerate(ids.tolist()) if known[row]}
    return np.array([place.get(int(frame), -1) for frame in real.frames.read("frame_id").tolist()], np.int64)


def twin_pairs(
    model: PoseModel, real: Recording, twins: Recording, rows: NDArray[np.int64], *, count: int, seed: int
) -> Pairs:
    """One camera's image of each of some frames, and its twin's: at most `count` pairs, drawn at random.

    Both are cut about the centre stored with the real image, as in training. Images whose centre is further from the
    palm than half the cube are left out, as they are there: they do not show the hand.

    Args:
        model: says how large the crops are.
        real: captured.
        twins: made for it (`synth twin`), of the same cameras.
        rows: (n,) of the real recording; those without twins are passed over.
        count: how many pairs at most.
        seed: which.
    """
    twin_row = twinned_rows(real, twins)
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(rows[twin_row[rows] >= 0])
    size: dict[str, Any] = {"input_px": model.input_px, "cube_mm": model.cube_mm}
    found: list[tuple[NDArray[np.float32], NDArray[np.float32], int, int]] = []
    for row in drawn.tolist():
        if len(found) == count:
            break
        shown, same = _by_camera(real, row), _by_camera(twins, int(twin_row[row]))
        both = [v for v in shown if v in same and _near(shown[v], same[v], model.cube_mm / 2)]
        if both:
            view = int(rng.choice(both))
            center = shown[view].center_mm
            assert center is not None
            found.append((cut(shown[view], center, **size), cut(same[view], center, **size), row, view))
    nothing = np.zeros((0, model.input_px, model.input_px), np.float32)
    return Pairs(
        np.array([f[0] for f in found]) if found else nothing,
        np.array([f[1] for f in found]) if found else nothing,
        np.array([f[2] for f in found], np.int64),
        np.array([f[3] for f in found], np.int64),
    )


@dataclass(frozen=True, slots=True)
class PairDistances:
    """How far apart the latents of corresponding images are."""

    corresponding: NDArray[np.float64]
    """(n,) |z_real - z_twin| over the mean distance of pairs that do not correspond: 1 is 'as far as any other'."""
    nearest: float
    """Share of real images whose nearest twin in z is their own."""
    scale: float
    """That mean distance, in the units of z."""


def pair_distances(z_real: NDArray[np.float32], z_twin: NDArray[np.float32]) -> PairDistances:
    """Distances of latents (n, F) of real images and of their twins (n, F); n > 1."""
    n = len(z_real)
    assert len(z_twin) == n > 1
    a, b = z_real.astype(np.float64), z_twin.astype(np.float64)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    distance = np.sqrt(np.maximum(squared, 0))
    distance[np.diag_indices(n)] = np.linalg.norm(a - b, axis=1)  # exact where they are close
    scale = float(distance[~np.eye(n, dtype=bool)].mean())
    return PairDistances(
        np.diagonal(distance) / scale if scale else np.zeros(n),
        float((distance.argmin(axis=1) == np.arange(n)).mean()),
        scale,
    )


def _by_camera(recording: Recording, row: int) -> dict[int, DepthView]:
    """The images of a row whose hand has a place, by camera."""
    views = (view for _, view in recording_views(recording, row, row + 1))
    return {v.view: v for v in views if v.center_mm is not None and usable(v.center_mm)}


def _near(real: DepthView, twin: DepthView, most_mm: float) -> bool:
    """Whether the real image's centre is where its twin's true one is."""
    assert real.center_mm is not None
    assert twin.center_mm is not None
    return float(np.linalg.norm(real.center_mm - twin.center_mm)) <= most_mm
