"""What Crossing Nets draw from: crops of several banks in fixed shares, whole poses, unlabelled images.

The method's labelled set X_l may come from two recordings at once (synthetic frames and labelled captured
ones), and its VAE models whole poses, so a labelled crop is one whose joints are all known. X_u are the
captured frames that are left: none of them is among the labelled ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from ..stores.errors import HandloomError
from .batches import Bank, Geometry, Images, cut, draw_geometry, label
from .crossing_nets import POSE_UNIT_MM
from .crossing_recipe import ARMS, CrossingConfig
from .data import TrainingData
from .pooled import PooledCrops, Pooling
from .ranks import ALONE, Ranks
from .samples import Sample, samples_of
from .sampling import Shuffle, key_of, noise_generator

POOLED_AT_ONCE: Final = 2
"""Sequences with images that share the memory of a pool: X_l, and what the depth GAN learns to generate."""


@dataclass(frozen=True, slots=True)
class Source:
    """Crops of one bank and how much of a batch should come from them."""

    bank: Bank
    crops: Tensor
    """(M,) numbers of crops."""
    share: float = 1.0
    pooling: Pooling | None = None
    """Where the bank's images come from, if it holds none and images are wanted."""


@dataclass(frozen=True, slots=True)
class Part:
    """An endless, shuffled sequence of the crops of one bank."""

    bank: Bank
    crops: Tensor
    """(M,) numbers of crops."""
    shuffle: Shuffle | PooledCrops
    key: int
    size: int
    """How many of a batch come from here, of all ranks together."""

    def draw(self, step: int, mine: slice) -> tuple[Tensor, Tensor | None]:
        """A rank's crops (n,) of a step and, where the bank holds none, their images (n, S, S)."""
        if isinstance(self.shuffle, PooledCrops):
            place, stored = self.shuffle.draw(step, self.size)
            return self.crops[place[mine]], stored[mine, 0]
        return self.crops[self.shuffle.draw(step, self.size)[mine]], None


@dataclass(frozen=True, slots=True)
class Pool:
    """A batch drawn from several banks, and how its crops are cut."""

    parts: tuple[Part, ...]
    config: CrossingConfig
    ranks: Ranks = ALONE

    @classmethod
    def of(cls, config: CrossingConfig, name: str, sources: Sequence[Source], batch: int, ranks: Ranks = ALONE) -> Pool:
        """A pool whose batches take their crops from each source in its share; empty ones are left out.

        Args:
            config: seed and augmentation.
            name: tells its draws from those of other pools.
            sources: where the crops come from.
            batch: crops of a batch, of all ranks together.
            ranks: the processes that share it.

        Raises:
            HandloomError: the ranks cannot share what comes from a source equally.
        """
        there = [source for source in sources if len(source.crops)]
        parts: list[Part] = []
        for place, source in enumerate(there):
            left, shares = batch - sum(part.size for part in parts), [s.share for s in there[place:]]
            size = min(max(1, round(left * shares[0] / sum(shares))), left - len(shares) + 1)
            ranks.size(size, what=name)
            key = key_of(config.seed, name, place)
            shuffle: Shuffle | PooledCrops
            if source.pooling is None:
                shuffle = Shuffle(len(source.crops), key, source.bank.device)
            else:
                items = source.crops[:, None]
                shuffle = PooledCrops(source.pooling, items, source.bank.views, name, streams=POOLED_AT_ONCE)
            parts.append(Part(source.bank, source.crops, shuffle, key, size))
        return cls(tuple(parts), config, ranks)

    @property
    def batch(self) -> int:
        """Crops of a batch, of all ranks together; 0 for an empty pool."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """How many of them come from each bank."""
        return [part.size for part in self.parts]

    def images(self, step: int) -> Tensor:
        """(B, 1, P, P) of a step, augmented."""
        return torch.cat([self._cut(part, *self._draw(part, step), step).image for part in self.parts])

    def labelled(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (B, 1, P, P) of a step and their poses (B, J, 3), about the crop's centre in 50 mm."""
        images, poses = [], []
        for part in self.parts:
            crop, geometry, stored = self._draw(part, step)
            made = self._cut(part, crop, geometry, stored, step)
            images.append(made.image)
            poses.append(self._pose(part, crop, geometry, made))
        return torch.cat(images), torch.cat(poses)

    def poses(self, step: int) -> Tensor:
        """The poses of `labelled` alone, (B, J, 3) in 50 mm: no image is cut."""
        made = []
        for part in self.parts:
            crop, geometry, _ = self._draw(part, step)
            # The roll turns the centre as it turns the joints: the palm is subtracted by whoever needs it.
            blank = Images(torch.empty(0, device=crop.device), torch.zeros(len(crop), 3, device=crop.device))
            made.append(self._pose(part, crop, geometry, blank))
        return torch.cat(made)

    def samples(self, step: int, name: str, *, images: bool = True) -> list[Sample]:
        """What a step is made of; drawn and, if `images` are used, cut again."""
        found = []
        for part in self.parts:
            crop, geometry, stored = self._draw(part, step)
            blank = Images(torch.empty(len(crop), 0, device=crop.device), geometry.center_mm)
            made = self._cut(part, crop, geometry, stored, step) if images else blank
            found += samples_of(name, part.bank, crop, [made.image, self._pose(part, crop, geometry, made)])
        return found

    def _draw(self, part: Part, step: int) -> tuple[Tensor, Geometry, Tensor | None]:
        mine = self.ranks.part(part.size)
        crop, stored = part.draw(step, mine)
        first = step * part.size
        index = torch.arange(first + mine.start, first + mine.stop, device=part.bank.device)
        rotation = self.config.rotation_deg
        return crop, draw_geometry(part.bank, crop, part.key, index, rotation_deg=rotation), stored

    def _cut(self, part: Part, crop: Tensor, geometry: Geometry, stored: Tensor | None, step: int) -> Images:
        return cut(
            part.bank,
            crop,
            geometry,
            input_px=self.config.input_px,
            cube_mm=self.config.cube_mm,
            noise_mm=self.config.noise_mm,
            generator=noise_generator(part.key, step, part.bank.device),
            stored=stored,
            among=self.ranks.among([part.size], part.bank.device),
        )

    def _pose(self, part: Part, crop: Tensor, geometry: Geometry, images: Images) -> Tensor:
        known = label(part.bank, crop, geometry, images, cube_mm=self.config.cube_mm)
        return known.joints * (self.config.cube_mm / 2 / POSE_UNIT_MM)


def whole(bank: Bank, crops: Tensor) -> Tensor:
    """Those of the crops (M,) whose joints are all known."""
    known = ~torch.isnan(bank.joints_mm).any(dim=-1).any(dim=-1)
    return crops[known[crops // bank.views]]


def labelled_sources(data: TrainingData, *, synth: bool, real: bool, real_share: float = 0.5) -> list[Source]:
    """Crops with whole poses: synthetic ones, labelled captured ones or both.

    Raises:
        HandloomError: there is none.
    """
    sources = []
    if synth and data.synth is not None:
        sources.append(Source(data.synth, whole(data.synth, data.synth.singles()), 1 - real_share, data.pooling))
    if real and data.real is not None:
        sources.append(Source(data.real, whole(data.real, data.real.singles(data.labelled)), real_share))
    if not any(len(source.crops) for source in sources):
        raise HandloomError(
            "No labelled frame in use shows a whole pose",
            where=f"layout '{data.layout.name}'",
            why=f"Crossing Nets learn from frames in which all {len(data.layout)} joints are known",
            fix="label whole hands, or take MURAUER, which learns from single joints too",
        )
    return sources


def labelled_pool(
    config: CrossingConfig,
    data: TrainingData,
    name: str,
    batch: int,
    *,
    images: bool = True,
    ranks: Ranks = ALONE,
) -> Pool:
    """X_l, as the arm has it; without `images` only its poses are drawn.

    Raises:
        HandloomError: no frame shows a whole pose.
    """
    arm = ARMS[config.arm]
    sources = labelled_sources(data, synth=arm.synth, real=arm.real, real_share=config.real_share)
    if not images:
        sources = [replace(source, pooling=None) for source in sources]
    return Pool.of(config, name, sources, batch, ranks)


def unlabelled_pool(config: CrossingConfig, data: TrainingData, name: str, ranks: Ranks = ALONE) -> Pool:
    """X_u of joint training: captured frames without the labelled ones; empty where no loss wants them."""
    arm = ARMS[config.arm]
    if data.real is None or not arm.unlabelled or not arm.gan or arm.pose_only:
        return Pool((), config)
    frames = data.unlabelled[~torch.isin(data.unlabelled, data.labelled)]
    return Pool.of(config, name, [Source(data.real, data.real.singles(frames))], config.batch, ranks)


def image_pool(config: CrossingConfig, data: TrainingData, name: str, ranks: Ranks = ALONE) -> Pool:
    """What the depth GAN of stage 2 learns to generate: every image the arm may see, labelled or not."""
    arm, sources = ARMS[config.arm], []
    if arm.synth and data.synth is not None:
        sources.append(Source(data.synth, data.synth.singles(), 1 - config.real_share, data.pooling))
    if data.real is not None and (arm.real or arm.unlabelled):
        frames = data.unlabelled if arm.unlabelled else data.labelled
        sources.append(Source(data.real, data.real.singles(frames), config.real_share))
    return Pool.of(config, name, sources, config.gan_batch, ranks)
