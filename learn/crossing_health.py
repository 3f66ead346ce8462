"""Whether the depth GAN lives: what its two sides do, how diverse its maps are, and pictures of them.

    gan/accuracy_real       share of captured images that the discriminator calls captured
    gan/accuracy_generated  share of generated ones that it calls generated; both near 1: it has won
    gan/feature_matching    mean L1 between the batch means of its last convolution
    gan/diversity           mean distance of two generated maps over that of two captured ones
    gan/collapsed           1 where that is below `COLLAPSED`
    space/reconstruction    eq. 6 of captured images through the shared space, depth -> pose -> depth

Measured on the batch of the step, but for the last, which is measured as a trained model does it: with running
statistics, and on the averaged generator where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import crossing_losses as losses
from .batches import Bank, cut, label, still
from .crossing_batches import whole
from .crossing_nets import POSE_UNIT_MM, CrossingNets
from .crossing_recipe import ARMS, CrossingConfig
from .data import TrainingData
from .ranks import ALONE, Ranks
from .sampling import uniform

COLLAPSED: Final = 0.3
"""Below this share of the captured maps' diversity a generator makes one hand. On a virtual capture one hand cut around
centres that scatter by 5 mm an axis has 0.32 (0.19 to 0.42), two maps that take turns 0.5, five 0.8."""
SHEETS: Final = 32
"""Pictures of a stage, at most: one an epoch, or as many evenly spread over its epochs."""
SHOWN: Final = 10
"""Images in a row of them."""
_COMPARED: Final = 64
_CELL_PX: Final = 64
_GAP_PX: Final = 2
_TITLE_PX: Final = 16


@dataclass(frozen=True, slots=True)
class Played:
    """One step of a game between generator and discriminator."""

    captured: Tensor
    """(B, 1, P, P)."""
    generated: Tensor
    """(B', 1, P, P)."""
    logits: Tensor | None = None
    """(B,) of the captured images; None without this task."""
    generated_logits: Tensor | None = None
    """(B',)."""
    features: Tensor | None = None
    """(B, F) of the captured images, on which features are matched."""
    generated_features: Tensor | None = None
    """(B', F)."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the pictures of a run show: the same frames and noise in each, so that they can be compared."""

    labelled: Tensor
    """(n, 1, P, P), captured ones where the arm has them."""
    poses: Tensor
    """(n, J, 3) of these, about the crop's centre in 50 mm."""
    captured: Tensor
    """(m, 1, P, P) without labels where there are such."""

    @classmethod
    def of(cls, config: CrossingConfig, data: TrainingData) -> Shown:
        """Evenly spread over the frames; none of a set whose images are read through a pool."""
        arm, banks = ARMS[config.arm], []
        if data.real is not None and arm.real:
            banks.append((data.real, whole(data.real, data.real.singles(data.labelled))))
        if data.synth is not None and arm.synth and data.pooling is None:
            banks.append((data.synth, whole(data.synth, data.synth.singles())))
        labelled, poses = _spread(config, [(bank, crops) for bank, crops in banks if len(crops)][:1], data)
        banks = []
        if data.real is not None and (arm.real or arm.unlabelled):
            hidden = data.unlabelled[~torch.isin(data.unlabelled, data.labelled)]
            banks.append((data.real, data.real.singles(hidden if arm.unlabelled and len(hidden) else data.labelled)))
        captured, _ = _spread(config, banks, data)
        return cls(labelled, poses, captured)

    @torch.no_grad()
    def rows(
        self, nets: CrossingNets, image: Callable[[Tensor], Tensor], *, noise_key: int, space: bool
    ) -> dict[str, Tensor]:
        """Titled rows of maps (n, 1, P, P); without `space` those of the depth GAN alone."""
        training = nets.training
        nets.eval()
        labelled, captured = image(self.labelled), image(self.captured)
        rows = {"labelled": labelled, "captured, no label in use": captured}
        numbers = torch.arange(2 * SHOWN, device=labelled.device)
        if space:
            z = nets.shared(self.poses)
            noise = losses.convex_combinations(z, noise_key, 0, SHOWN) if len(z) else z
            rows = {
                "labelled": labelled,
                "generated from their poses": nets.depth_of(z) if len(z) else labelled,
                "captured, no label in use": captured,
                "... through the shared space": through_the_space(nets, captured)[1] if len(captured) else captured,
                "generated from combinations of the poses above": nets.depth_of(noise) if len(z) else labelled,
            }
        else:
            made = nets.generated(2 * uniform(noise_key, numbers, nets.dims) - 1)
            rows |= {"generated from noise": made[:SHOWN], "": made[SHOWN:]}
        nets.train(training)
        return {title: images for title, images in rows.items() if len(images)}


def _spread(
    config: CrossingConfig, sources: Sequence[tuple[Bank, Tensor]], data: TrainingData
) -> tuple[Tensor, Tensor]:
    """Images and poses of a few crops of the first source, evenly spread, as they are stored."""
    side = config.input_px
    if not sources or not len(sources[0][1]):
        device = data.device
        return torch.zeros(0, 1, side, side, device=device), torch.zeros(0, len(data.layout), 3, device=device)
    bank, crops = sources[0]
    some = crops[torch.linspace(0, len(crops) - 1, min(SHOWN, len(crops)), device=crops.device).round().long()]
    geometry = still(bank, some)
    images = cut(bank, some, geometry, input_px=side, cube_mm=config.cube_mm)
    poses = label(bank, some, geometry, images, cube_mm=config.cube_mm).joints * (config.cube_mm / 2 / POSE_UNIT_MM)
    return images.image, poses


@torch.no_grad()
def health(played: Played, ranks: Ranks = ALONE) -> dict[str, Tensor | float]:
    """The figures of a step (see above) that its batch can tell."""
    spread = diversity(played.generated) / diversity(played.captured).clamp(min=1e-6)
    found: dict[str, Tensor | float] = {"gan/diversity": spread, "gan/collapsed": (spread < COLLAPSED).float()}
    if played.logits is not None and played.generated_logits is not None:
        found["gan/accuracy_real"] = (played.logits > 0).float().mean()
        found["gan/accuracy_generated"] = (played.generated_logits < 0).float().mean()
    if played.features is not None and played.generated_features is not None:
        found["gan/feature_matching"] = losses.feature_matching(played.features, played.generated_features, ranks)
    return found


def diversity(images: Tensor) -> Tensor:
    """Mean absolute difference of two of the first 64 images (B, ...), over all pairs; 0 for a single one."""
    images = images[:_COMPARED]
    count = len(images)
    if count < 2:
        return images.new_zeros(())
    flat = images.flatten(1)
    return torch.cdist(flat, flat, p=1.0).sum() / (count * (count - 1) * flat.shape[1])


@torch.no_grad()
def through_the_space(nets: CrossingNets, captured: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (B, 23) that `pos` finds in captured images (B, 1, P, P), and the maps generated of them.

    With running statistics, whatever mode the networks are in; they are left in it.
    """
    training = nets.training
    nets.eval()
    z = nets.pos(nets.trunk(captured))
    generated = nets.depth_of(z)
    nets.train(training)
    return z, generated


def epochs_shown(steps: int, epoch_steps: int) -> frozenset[int]:
    """After which steps of a stage, counted from 1, a picture is made: at the ends of its epochs, always at its end."""
    epochs = -(-steps // epoch_steps)
    every = -(-epochs // SHEETS)
    ends = [min(epoch * epoch_steps, steps) for epoch in range(every, epochs + 1, every)]
    return frozenset([*ends[: SHEETS - 1], steps])


def sheet(rows: Mapping[str, Tensor]) -> bytes:
    """A PNG of images (n, 1, P, P) in [-1, 1], a titled row each; near is bright, what is no hand is dark."""
    width = SHOWN * (_CELL_PX + _GAP_PX) + _GAP_PX
    parts: list[NDArray[np.uint8]] = []
    for title, images in rows.items():
        line = np.full((_TITLE_PX, width, 3), 24, np.uint8)
        cv2.putText(line, title, (4, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (210, 210, 210), 1, cv2.LINE_AA)
        parts += [line, _row(images[:SHOWN].detach().cpu().numpy()[:, 0], width)]
    done, data = cv2.imencode(".png", np.concatenate(parts))
    assert done
    return data.tobytes()


def _row(images: Sequence[NDArray[np.float32]] | NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    row = np.full((_CELL_PX + _GAP_PX, width, 3), 24, np.uint8)
    for place, image in enumerate(images):
        value = np.where(image < 0.95, 150 - 90 * np.clip(image, -1, 1), 14).astype(np.uint8)
        cell = cv2.resize(
            cv2.applyColorMap(value, cv2.COLORMAP_BONE), (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_AREA
        )
        left = _GAP_PX + place * (_CELL_PX + _GAP_PX)
        row[:_CELL_PX, left : left + _CELL_PX] = cell
    return row
