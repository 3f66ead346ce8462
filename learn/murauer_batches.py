"""The sub-batches of MURAUER's two stages: drawn, cut, augmented.

A joint step draws four equal sub-batches (appendix A.1): labelled real images with their synthetic twins,
synthetic images, pairs of views of both domains, and images of both domains for distribution matching. That
is seven groups of images, fewer in arms that lack a part. What has no data is left out, so that n = 0 labels
cost nothing and add nothing.

A batch is a thousand small operations, whatever its size: on a GPU starting them takes longer than the whole step.
So `Batches(..., ahead=K)` makes those of K steps in one pass: a stream's samples of consecutive steps follow each
other, so they are one step's of a stream K times as large. Only pixel noise comes from a generator for each step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from ..stores.errors import HandloomError
from .batches import Bank, Geometry, Images, Labelled, cut, draw_geometry, label, still
from .config import TrainConfig
from .data import TrainingData
from .murauer_nets import Volume, camera_change, view_condition
from .murauer_recipe import ARMS, MurauerConfig
from .pooled import PooledCrops, Pooling
from .ranks import ALONE, Ranks
from .samples import Sample, samples_of
from .sampling import Shuffle, key_of, noise_generator, normal

REAL: Final = frozenset({"labelled", "view_real", "match_real"})
"""Sub-batches of real images: they pass m."""
ORDER: Final = ("labelled", "twins", "synth", "view_real", "view_synth", "match_real", "match_synth")
"""Sub-batches in the order of the concatenated batch."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One endless, shuffled source of the crops of a sub-batch."""

    bank: Bank
    items: Tensor
    """(M, 1) crops, or (M, 2) pairs of them (input, target)."""
    shuffle: Shuffle | PooledCrops
    key: int
    size: int
    """Of all ranks together."""
    rotation_deg: float
    name: str
    ranks: Ranks = ALONE

    def draw(self, step: int) -> Draw:
        """This rank's samples of a step."""
        stored, mine = None, self.ranks.part(self.size)
        if isinstance(self.shuffle, PooledCrops):
            place, stored = (part[mine] for part in self.shuffle.draw(step, self.size))
        else:
            place = self.shuffle.draw(step, self.size)[mine]
        items = self.items[place]
        index = self.index(step)
        geometry = draw_geometry(self.bank, items[:, 0], self.key, index, rotation_deg=self.rotation_deg)
        return Draw(place, items, geometry, stored)

    def index(self, step: int) -> Tensor:
        """(B,) running numbers of a step's samples over the whole training."""
        mine = self.ranks.part(self.size)
        first = step * self.size
        return torch.arange(first + mine.start, first + mine.stop, device=self.bank.device)


def make_stream(
    config: TrainConfig,
    name: str,
    bank: Bank | None,
    items: Tensor | None,
    size: int,
    *,
    turns: bool = True,
    pooling: Pooling | None = None,
    streams: int = 1,
    ranks: Ranks = ALONE,
) -> Stream | None:
    """A stream of `size` images a step, rotated if it `turns`; None where there is no recording to draw from.

    Args:
        config: seed and augmentation.
        name: of the sub-batch.
        bank: what is drawn from.
        items: (M,) crops or (M, 2) pairs.
        size: images a step.
        turns: whether images are rotated.
        pooling: where the bank's images come from, if it holds none.
        streams: how many share that memory.
        ranks: the processes that share each step's images.

    Raises:
        HandloomError: there is a recording, and not one image for this sub-batch in it, or the ranks cannot share
            the images equally.
    """
    if bank is None or items is None:
        return None
    if not len(items):
        pairs = " from both cameras of a pair" if name.startswith("view") else ""
        why, fix = f"no training frame has an image of a located hand{pairs}", "look at it: handloom store info"
        if name in REAL and round(config.unlabelled_share * bank.frames) == 0:
            why, fix = (
                f"unlabelled_share = {config.unlabelled_share:g} leaves none of its {bank.frames} frames",
                ("-o unlabelled_share=1, or an arm without unlabelled frames: --arm real+synthetic"),
            )
        raise HandloomError(
            f"There is no image for the sub-batch '{name}'",
            where="the real recording" if name in REAL else "the synthetic recordings",
            why=why,
            fix=fix,
        )
    ranks.size(size, what=name)
    key = key_of(config.seed, name)
    degrees = config.rotation_deg if turns else 0.0
    items = items.reshape(len(items), -1)
    shuffle: Shuffle | PooledCrops
    if pooling is None:
        shuffle = Shuffle(len(items), key, bank.device)
    else:
        shuffle = PooledCrops(pooling, items, bank.views, name, streams=streams)
    return Stream(bank, items, shuffle, key, size, degrees, name, ranks)


@dataclass(frozen=True, slots=True)
class Draw:
    """Which samples, and how they are moved and turned."""

    place: Tensor
    """(B,) places in the stream's items."""
    items: Tensor
    """(B, 1 or 2)."""
    geometry: Geometry
    stored: Tensor | None
    """(B, 1 or 2, S, S) int16, where the bank holds no images."""

    def image(self, column: int) -> Tensor | None:
        """(B, S, S) of one column of the items, where the bank holds none."""
        return None if self.stored is None else self.stored[:, column]


@dataclass(frozen=True, slots=True)
class JointBatch:
    """The images of one joint step by sub-batch, and what is known of them."""

    images: Mapping[str, Tensor]
    """(B, 1, P, P) of each sub-batch in use, in `ORDER`."""
    labelled: Mapping[str, Labelled]
    """Of 'labelled', 'twins' and 'synth', where in use."""
    paired: Tensor | None
    """(B,) bool: which of 'labelled' have their own twin at the same place of 'twins'."""
    views: tuple[Tensor, Tensor] | None
    """Targets (2 B, 1, P, P) and conditioning (2 B, C) of 'view_real', then 'view_synth'."""

    def part(self, number: int, of: int) -> JointBatch:
        """That of one of the consecutive steps whose samples this batch holds."""

        def mine(x: Tensor, halves: int = 1) -> Tensor:
            """What is stored half after half holds each step in both."""
            rows: Tensor = x.unflatten(0, (halves, of, -1))[:, number]
            return rows.flatten(0, 1)

        return JointBatch(
            images={name: mine(image) for name, image in self.images.items()},
            labelled={name: labelled_part(known, number, of) for name, known in self.labelled.items()},
            paired=None if self.paired is None else mine(self.paired),
            views=None if self.views is None else (mine(self.views[0], 2), mine(self.views[1], 2)),
        )


def labelled_part(known: Labelled, number: int, of: int) -> Labelled:
    """Those of one of the consecutive steps whose samples `known` holds."""
    image, center, joints, there = (
        x.unflatten(0, (of, -1))[number]
        for x in (known.images.image, known.images.center_mm, known.joints, known.known)
    )
    return Labelled(Images(image, center), joints, there)


class Batches:
    """Batches as a function of the step, for one run's configuration and data."""

    def __init__(
        self, config: MurauerConfig, data: TrainingData, volume: Volume, ranks: Ranks = ALONE, *, ahead: int = 1
    ) -> None:
        """Describe the sub-batches.

        Args:
            config: sizes and augmentation.
            data: what they are drawn from.
            volume: what centres are told relative to.
            ranks: the processes that share each step's images.
            ahead: steps whose batches are made in one pass; 1 where several processes share them or images are
                pooled.

        Raises:
            HandloomError: there is no image for a sub-batch, or the ranks cannot share it.
        """
        assert ahead == 1 or (ranks.alone and data.pooling is None)
        self._config, self._data, self._volume, self._ranks = config, data, volume, ranks
        self._pretraining = make_stream(
            config, "pretraining", data.synth, _singles(data.synth), config.batch, pooling=data.pooling, ranks=ranks
        )
        self.streams = _joint_streams(config, data, ranks) if config.joint_steps else {}
        self._twin_crop, self._paired = _twin_crops(data, self.streams.get("labelled"))
        self.ahead = ahead
        self._made: dict[bool, tuple[int, Any]] = {}

    @property
    def sizes(self) -> dict[str, int]:
        """This rank's images of each joint sub-batch, in `ORDER`."""
        sizes = {name: stream.size // self._ranks.count for name, stream in self.streams.items()}
        if self._twin_crop is not None:
            sizes["twins"] = sizes["labelled"]
        return {name: sizes[name] for name in ORDER if name in sizes}

    def pretraining(self, step: int) -> Labelled:
        """Synthetic images of any view."""
        if self.ahead == 1:
            return self._make_pretraining(step, 1)
        return labelled_part(self._block(step, joint=False), step % self.ahead, self.ahead)

    def joint(self, step: int) -> JointBatch:
        """All sub-batches of a joint step; each recording's images are cut in one pass."""
        if self.ahead == 1:
            return self._make_joint(step, 1)
        made: JointBatch = self._block(step, joint=True)
        return made.part(step % self.ahead, self.ahead)

    def _block(self, step: int, *, joint: bool) -> Any:
        """The batches of the steps that are made together with this one."""
        block = step // self.ahead
        if self._made.get(joint, (-1, None))[0] != block:
            make = self._make_joint if joint else self._make_pretraining
            self._made = {joint: (block, make(block, self.ahead))}
        return self._made[joint][1]

    def _make_pretraining(self, block: int, steps: int) -> Labelled:
        """Those of so many steps, the first of which is number block * steps."""
        assert self._pretraining is not None
        stream = _longer(self._pretraining, steps)
        draw, noise = stream.draw(block), _Noise.of(stream.key, block, steps, self._data.device)
        white = noise.drawn([stream.size // steps], self._config.input_px) if steps > 1 else None
        among = self._among([stream])
        crop = draw.items[:, 0]
        images = self._cut(stream.bank, crop, draw.geometry, noise.only, draw.image(0), among, white)
        return self._label(stream.bank, crop, draw.geometry, images)

    def _make_joint(self, block: int, steps: int) -> JointBatch:
        if self._pretraining is not None and isinstance(self._pretraining.shuffle, PooledCrops):
            self._pretraining.shuffle.close()  # its memory is wanted here
        noise = _Noise.of(key_of(self._config.seed, "joint"), block, steps, self._data.device)
        streams = {name: _longer(stream, steps) for name, stream in self.streams.items()}
        draws = {name: stream.draw(block) for name, stream in streams.items()}
        images: dict[str, Images] = {}
        for bank in (self._data.real, self._data.synth):
            here = {name: draw for name, draw in draws.items() if streams[name].bank is bank}
            if bank is not None and here:
                images |= self._cut_all(bank, here, noise)
        labelled: dict[str, Labelled] = {
            name: self._label(streams[name].bank, draws[name].items[:, 0], draws[name].geometry, images[name])
            for name in ("labelled", "synth")
            if name in draws
        }
        paired = None
        if self._twin_crop is not None:
            labelled["twins"], paired = self._twins(draws["labelled"], noise)
            images["twins"] = labelled["twins"].images
        return JointBatch(
            images={name: images[name].image for name in ORDER if name in images},
            labelled={name: labelled[name] for name in ORDER if name in labelled},
            paired=paired,
            views=self._views(streams, block, draws, images) if ARMS[self._config.arm].view else None,
        )

    def samples(self, step: int, *, joint: bool) -> list[Sample]:
        """What a step of either stage is made of; drawn and cut again."""
        if not joint:
            assert self._pretraining is not None
            known, crop = self.pretraining(step), self._pretraining.draw(step).items[:, 0]
            return samples_of("pretraining", self._pretraining.bank, crop, [known.images.image, known.joints])
        batch = self.joint(step)
        draws = {name: stream.draw(step) for name, stream in self.streams.items()}
        targets = batch.views[0].split([self.sizes["view_real"], self.sizes["view_synth"]]) if batch.views else ()
        target = dict(zip(("view_real", "view_synth"), targets, strict=bool(targets)))
        found = []
        for name, image in batch.images.items():
            if name == "twins":
                assert self._data.twins is not None
                assert self._twin_crop is not None
                bank, crop = self._data.twins, self._twin_crop[draws["labelled"].place]
            else:
                bank, crop = self.streams[name].bank, draws[name].items[:, 0]
            joints = [batch.labelled[name].joints] if name in batch.labelled else []
            found += samples_of(name, bank, crop, [image, *joints, *([target[name]] if name in target else [])])
        return found

    def _twins(self, draw: Draw, noise: _Noise) -> tuple[Labelled, Tensor]:
        """The twins of labelled images, under the same roll and about the same point of space.

        The real crop's centre may be located, the twin's own is true: cut about its own, it would show the
        pose at another place than the real image does.
        """
        twins = self._data.twins
        assert twins is not None
        assert self._twin_crop is not None
        crop, paired = self._twin_crop[draw.place], self._paired[draw.place]
        center = torch.where(paired[:, None], draw.geometry.center_mm, twins.center_mm[crop])
        geometry = Geometry(draw.geometry.roll_rad, center)
        white = noise.drawn([len(crop) // noise.steps], self._config.input_px) if noise.steps > 1 else None
        among = self._among([self.streams["labelled"]])
        images = self._cut(twins, crop, geometry, noise.only, among=among, white=white)
        return self._label(twins, crop, geometry, images), paired

    def _views(
        self, streams: Mapping[str, Stream], block: int, draws: Mapping[str, Draw], images: Mapping[str, Images]
    ) -> tuple[Tensor, Tensor]:
        """Targets, cut about their own centres and without noise, and the decoder's conditioning."""
        targets, conditions = [], []
        for name in ("view_real", "view_synth"):
            stream = streams[name]
            source, target = draws[name].items.unbind(1)
            still_there = still(stream.bank, target)
            targets.append(self._cut(stream.bank, target, still_there, None, draws[name].image(1)).image)
            jitter = normal(stream.key ^ 2, stream.index(block), 3) * self._config.view_center_noise_mm
            fixed = self._config.view_pair is not None
            between = None if fixed else camera_change(stream.bank, source, target)
            conditions.append(view_condition(images[name].center_mm + jitter, self._volume, between))
        return torch.cat(targets), torch.cat(conditions)

    def _cut_all(self, bank: Bank, draws: Mapping[str, Draw], noise: _Noise) -> dict[str, Images]:
        rolls = torch.cat([draw.geometry.roll_rad for draw in draws.values()])
        centers = torch.cat([draw.geometry.center_mm for draw in draws.values()])
        crops = torch.cat([draw.items[:, 0] for draw in draws.values()])
        stored = [image for draw in draws.values() if (image := draw.image(0)) is not None]
        among = self._among([self.streams[name] for name in draws])
        sizes = [len(draw.items) for draw in draws.values()]
        white = noise.drawn([n // noise.steps for n in sizes], self._config.input_px) if noise.steps > 1 else None
        images = torch.cat(stored) if stored else None
        whole = self._cut(bank, crops, Geometry(rolls, centers), noise.only, images, among, white)
        parts = zip(whole.image.split(sizes), whole.center_mm.split(sizes), strict=True)
        return {name: Images(*part) for name, part in zip(draws, parts, strict=True)}

    def _among(self, streams: Sequence[Stream]) -> tuple[int, Tensor] | None:
        """Which rows of these streams' whole batch are this rank's."""
        return self._ranks.among([stream.size for stream in streams], self._data.device)

    def _cut(
        self,
        bank: Bank,
        crop: Tensor,
        geometry: Geometry,
        noise: torch.Generator | None,
        stored: Tensor | None = None,
        among: tuple[int, Tensor] | None = None,
        white: Tensor | None = None,
    ) -> Images:
        return cut(
            bank,
            crop,
            geometry,
            input_px=self._config.input_px,
            cube_mm=self._config.cube_mm,
            noise_mm=self._config.noise_mm if noise is not None else 0.0,
            generator=noise,
            stored=stored,
            among=among,
            white=white,
        )

    def _label(self, bank: Bank, crop: Tensor, geometry: Geometry, images: Images) -> Labelled:
        released = self._config.parity == "released"
        return label(bank, crop, geometry, images, cube_mm=self._config.cube_mm, parity=released)


@dataclass(frozen=True, slots=True)
class _Noise:
    """The pixel noise of consecutive steps, of each from a generator of its own."""

    generators: tuple[torch.Generator, ...]

    @classmethod
    def of(cls, key: int, block: int, steps: int, device: torch.device) -> _Noise:
        """Of so many steps, the first of which is number block * steps."""
        return cls(tuple(noise_generator(key, block * steps + k, device) for k in range(steps)))

    @property
    def steps(self) -> int:
        """How many there are."""
        return len(self.generators)

    @property
    def only(self) -> torch.Generator:
        """The first step's, which is the only one's of a pass that makes one."""
        return self.generators[0]

    def drawn(self, sizes: Sequence[int], px: int) -> Tensor:
        """(B, P, P) for sub-batches of so many images a step, each with its images step after step.

        A step's noise is that of one draw for all its sub-batches, as a pass that makes one step has it.
        """
        device = self.only.device
        steps = [
            torch.randn((sum(sizes), px, px), device=device, generator=g).split(list(sizes)) for g in self.generators
        ]
        return torch.cat([part for sub_batch in zip(*steps, strict=True) for part in sub_batch])


def _longer(stream: Stream, steps: int) -> Stream:
    """The stream whose step is so many of this one."""
    return stream if steps == 1 else replace(stream, size=steps * stream.size)


def _singles(bank: Bank | None, frames: Tensor | None = None, view: int | None = None) -> Tensor | None:
    return None if bank is None else bank.singles(frames, view)


def pairs_of(bank: Bank | None, frames: Tensor | None, pair: tuple[int, int] | None) -> Tensor | None:
    """Pairs of views; of a one-camera rig (control arm only) its single views."""
    if bank is None or bank.views < 2:
        return _singles(bank, frames)
    if pair is not None and max(pair) >= bank.views:
        raise HandloomError(
            f"view_pair {pair} names a camera the rig does not have",
            why=f"it has {bank.views}, counted from 0",
            fix="-o view_pair=null uses every pair",
        )
    return bank.pairs(frames, pair)


def _joint_streams(config: MurauerConfig, data: TrainingData, ranks: Ranks) -> dict[str, Stream]:
    """The sub-batches that this arm and these data have, each with its own sequence."""
    arm, real, synth, frontal = ARMS[config.arm], data.real, data.synth, config.frontal_view
    # The program draws 21, 21, 11, 11 samples where the paper says 16 of each.
    large, small = (16, 16) if config.parity == "paper" else (21, 11)
    large, small = (max(1, round(config.batch * share / 64)) for share in (large, small))
    found: dict[str, Stream | None] = {}
    if data.n_labels:
        size = large if arm.synth else config.batch
        found["labelled"] = make_stream(
            config, "labelled", real, _singles(real, data.labelled, frontal), size, ranks=ranks
        )
    viewed, matched = arm.view or arm.passing, arm.match or arm.passing
    streams = 1 + viewed + matched
    shared: dict[str, Any] = {"streams": streams, "ranks": ranks}
    found["synth"] = make_stream(config, "synth", synth, _singles(synth), large, pooling=data.pooling, **shared)
    for domain, bank, frames in (("real", real, data.unlabelled), ("synth", synth, None)):
        pooling = data.pooling if domain == "synth" else None
        if viewed:
            pairs = pairs_of(bank, frames, config.view_pair)
            found[f"view_{domain}"] = make_stream(
                config, f"view_{domain}", bank, pairs, small, turns=False, pooling=pooling, **shared
            )
        if matched:
            singles = _singles(bank, frames, frontal)
            found[f"match_{domain}"] = make_stream(
                config, f"match_{domain}", bank, singles, small, pooling=pooling, **shared
            )
    return {name: stream for name, stream in found.items() if stream is not None}


def _twin_crops(data: TrainingData, labelled: Stream | None) -> tuple[Tensor | None, Tensor]:
    """For each labelled crop that of its twin, and whether it is its own.

    A labelled frame without a twin takes another's: an image to learn the pose from, not to compare with.
    """
    twins, real, device = data.twins, data.real, data.device
    if twins is None or real is None or labelled is None:
        return None, torch.zeros(0, dtype=torch.bool, device=device)
    if twins.views != real.views:
        raise HandloomError(
            "The twins were rendered with another rig",
            why=f"they have {twins.views} views, the real recording {real.views}",
        )
    items = labelled.items[:, 0]
    frame = torch.full((real.frames,), -1, dtype=torch.int64, device=device)
    frame[data.labelled] = data.twin_of
    frame = frame[items // real.views]
    crop = frame * twins.views + items % real.views
    paired = (frame >= 0) & twins.present[crop.clamp(min=0)]
    spare = twins.singles()
    others = spare[torch.arange(len(items), device=device) % len(spare)]
    return torch.where(paired, crop, others), paired
