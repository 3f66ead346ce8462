"""Which crops of a recording show no hand: depth -> pose -> depth, and how far what comes back is from what went in.

`pos` finds a latent in any crop, and the generator makes a hand of any latent. Where the crop shows a hand the two
maps agree; where it shows a desk, a face or an empty arm, no hand the model knows looks like that. And the palm of a
hand lies where the crop was cut, as far as its finder is right. The distance of an image, with H and H' the pixels of
the two hands and p' the palm of the pose, mm about the crop's centre, is

    d = 1 - |H and H'| / |H or H'| + mean min((x - x')^2, 1) + |p'| / 100 mm

(silhouettes, eq. 6 over all pixels, the palm). The first term alone passes crops full of something, the second one
empty crops; without the third, one of two models passed seven forearms of ten. Sum and quantile were chosen on
validation frames of two virtual captures (benchmarks/hand_check.py): half the palm's weight tells fewer forearms by one
model, twice of it by the other, and a larger second term lets empty crops pass. The threshold is that of the training
images' own distances, which a run measures at its end and keeps in its description ("hand_check"). It says 'unlike what
the model has seen', not 'wrong': a hand in a pose, or of a person, that training had nothing of comes back badly too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..stores.errors import HandloomError
from .crossing_health import through_the_space
from .crossing_losses import CLIP
from .crossing_nets import POSE_UNIT_MM, CrossingNets, stretched
from .crossing_recipe import ARMS
from .inputs import READ_FRAMES, cut, recording_views, usable

if TYPE_CHECKING:
    from ..stores.recording import Recording
    from .model import PoseModel

HAND_BELOW: Final = 0.95
"""Pixels below this belong to the hand: +1 is none, and a generator's tanh comes only near it."""
PALM_MM: Final = 100.0
"""A palm so far from the crop's centre counts as much as silhouettes that share no pixel."""
MEASURE: Final = "silhouettes + depth + palm"
"""What a model's quantiles are of: those of another distance are no threshold of this one."""
QUANTILES: Final = (0.5, 0.9, 0.95, 0.98, 0.99)
LIMIT: Final = "0.98"
"""The quantile that is the threshold: one training image in fifty lies above it."""
BATCH: Final = 64


def reconstruction_distance(captured: Tensor, generated: Tensor) -> Tensor:
    """The first two terms (B,) for maps (B, 1, P, P) and what came back of them; 0 where neither shows anything."""
    ours, theirs = (captured < HAND_BELOW).flatten(1), (generated < HAND_BELOW).flatten(1)
    common, either = (ours & theirs).sum(dim=1), (ours | theirs).sum(dim=1)
    silhouettes = (either - common) / either.clamp(min=1)
    return silhouettes + ((captured - generated) ** 2).clamp(max=CLIP).flatten(1).mean(dim=1)


def distances(nets: CrossingNets, captured: Tensor) -> Tensor:
    """Distance d (B,) of crops (B, 1, P, P) as the networks take them."""
    parts = []
    for part in captured.split(BATCH):
        z, generated = through_the_space(nets, part)
        palm_mm = z[:, nets.latent :].norm(dim=1) * POSE_UNIT_MM
        parts.append(reconstruction_distance(part, generated) + palm_mm / PALM_MM)
    return torch.cat(parts) if parts else captured.new_zeros(0)


def described(found: Tensor, images: str) -> dict[str, Any]:
    """What a model keeps of its training images' distances (N,)."""
    values = np.quantile(found.cpu().double().numpy(), QUANTILES)
    return {
        "measure": MEASURE,
        "images": images,
        "count": len(found),
        "quantiles": {f"{q:g}": round(float(v), 6) for q, v in zip(QUANTILES, values, strict=True)},
    }


@dataclass(frozen=True, slots=True)
class HandCheck:
    """The distance of every image of a recording whose hand was found."""

    threshold: float
    distance: NDArray[np.float64]
    """(N,)."""
    frame_id: NDArray[np.uint64]
    """(N,)."""
    view: NDArray[np.int64]
    """(N,) camera."""
    cameras: tuple[str, ...]
    unlooked: int
    """Images without a centre to look around."""

    @property
    def flagged(self) -> NDArray[np.bool_]:
        """(N,) which lie above the threshold."""
        return np.asarray(self.distance > self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; the images that are flagged, the farthest first."""
        order = [int(i) for i in np.argsort(-self.distance, kind="stable") if self.flagged[i]]
        return {
            "images": len(self.distance),
            "without_a_centre": self.unlooked,
            "threshold": self.threshold,
            "median": float(np.median(self.distance)) if len(self.distance) else None,
            "flagged": [
                {
                    "frame": int(self.frame_id[i]),
                    "camera": self.cameras[self.view[i]],
                    "distance": round(float(self.distance[i]), 4),
                }
                for i in order
            ],
        }

    def lines(self, *, shown: int = 20) -> list[str]:
        """What a terminal shows."""
        said = self.to_dict()
        flagged = said["flagged"]
        lines = [
            f"{len(flagged)} of {said['images']} images come back unlike any hand of the training "
            f"(distance above {self.threshold:.3f})"
        ]
        lines += [f"  frame {one['frame']} {one['camera']}: {one['distance']:.3f}" for one in flagged[:shown]]
        if len(flagged) > shown:
            lines.append(f"  ... and {len(flagged) - shown} more; --json lists them all")
        if self.unlooked:
            lines.append(f"{self.unlooked} images have no centre to look around: handloom capture locate finds them")
        return lines


def check_hands(
    model: PoseModel, recording: Recording, *, progress: Callable[[int, int], None] | None = None
) -> HandCheck:
    """Send every crop of a recording through the shared space, as `predict` would cut it around its stored centre.

    Raises:
        HandloomError: the model has no generator, or was trained before models kept their own distances.
    """
    nets = generating(model)
    kept: Mapping[str, Any] | None = model.description.get("hand_check")
    if not kept or kept.get("measure") != MEASURE:
        raise HandloomError(
            "The model does not say how its training images come back",
            where=f"{model.method} {model.arm}",
            why="it was trained by an earlier version, or its run is not finished",
            fix="train it again, or finish it with --resume",
        )
    mirrored = recording.hand != model.hand
    found: list[Tensor] = []
    place: list[tuple[int, int]] = []
    unlooked = 0
    for start in range(0, recording.n_frames, READ_FRAMES):
        stop = min(start + READ_FRAMES, recording.n_frames)
        crops = []
        for _, view in recording_views(recording, start, stop):
            if view.center_mm is None or not usable(view.center_mm):
                unlooked += 1
                continue
            crop = cut(view, view.center_mm, input_px=model.input_px, cube_mm=model.cube_mm)
            crops.append(crop[:, ::-1].copy() if mirrored else crop)
            place.append((view.frame, view.view))
        if crops:
            found.append(distances(nets, as_input(model, torch.from_numpy(np.stack(crops)[:, None]))))
        if progress is not None:
            progress(stop, recording.n_frames)
    return HandCheck(
        float(kept["quantiles"][LIMIT]),
        torch.cat(found).double().cpu().numpy() if found else np.zeros(0),
        np.array([frame for frame, _ in place], np.uint64),
        np.array([view for _, view in place], np.int64),
        recording.rig.names,
        unlooked,
    )


def has_generator(model: PoseModel) -> bool:
    """Whether a model is Crossing Nets of which some stage trained the generator."""
    return isinstance(model.nets, CrossingNets) and not ARMS[model.arm].pose_only


def generating(model: PoseModel) -> CrossingNets:
    """The networks of a model that has a shared space.

    Raises:
        HandloomError: it has none, or no stage trained its generator.
    """
    if not has_generator(model):
        raise HandloomError(
            "This model has no generator",
            where=f"{model.method} {model.arm}",
            fix="handloom train crossing --arm full ...",
        )
    assert isinstance(model.nets, CrossingNets)
    return model.nets


def as_input(model: PoseModel, crops: Tensor) -> Tensor:
    """Crops (B, 1, P, P) on the model's device, normalised as its networks were taught."""
    crops = crops.to(next(model.nets.parameters()).device)
    return stretched(crops) if model.description["normalisation"] == "min-max" else crops
