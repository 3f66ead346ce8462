"""The nearest-neighbour baseline of Crossing Nets (section 5.3): a 512-d PCA of the depth map.

Every labelled crop is kept as its coordinates on the principal components, with its joints; a new crop takes
the joints of the nearest one. Training is a single step of the shared loop: the components (randomised range
finder with power iterations, Halko et al. 2011), then the coordinates. Distances are Euclidean in the
components, |a - b|^2 = |a|^2 - 2 a.b + |b|^2, so a query costs one matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..stores.config import checked
from ..stores.errors import HandloomError
from ..stores.joints import layout_named
from .batches import cut, label, still
from .config import Memory, Needs, TrainConfig
from .crossing_batches import Source, labelled_sources
from .data import TrainingData
from .device import as_written
from .pooled import refuse_pool
from .ranks import ALONE, Ranks
from .samples import Sample
from .sampling import key_of
from .updates import FiniteGuard

Arm = Literal["nearest", "paper-nearest"]
_BATCH = 256
_POWER_ITERATIONS = 2


class NearestConfig(TrainConfig):
    """Everything a nearest-neighbour search depends on besides its recordings."""

    method: Literal["crossing"] = "crossing"
    arm: Arm
    memory_mb: Memory = None
    cube_mm: float = Field(default=250.0, gt=0)
    components: int = Field(default=512, ge=1)
    """Dimensions of the search, at most those of the images and one less than there are of them."""
    fitted_on: int = Field(default=8192, ge=2)
    """Images the components are taken from, at most."""

    @property
    def needs(self) -> Needs:
        """Labelled frames: captured ones alone for 'paper-nearest'."""
        paper = self.arm == "paper-nearest"
        return Needs(synth=not paper, real=True, labels=paper)


def preset(name: str, arm: str, **overrides: Any) -> NearestConfig:
    """The configuration of the baseline; the presets differ in the size of the input.

    Raises:
        HandloomError: the preset or an override is not one.
    """
    if name not in ("quick", "fast", "paper"):
        raise HandloomError(f"There is no preset '{name}'", why="known: quick, fast, paper")
    chosen = {} if name == "paper" else {"input_px": 64, "centers": "located"}
    return checked(NearestConfig, {"preset": name, "arm": arm} | chosen | overrides)


def after_pretraining(config: NearestConfig) -> NearestConfig:
    """Refused: there is nothing to pre-train.

    Raises:
        HandloomError: always.
    """
    raise HandloomError("A nearest-neighbour search starts from nothing", where="--init", fix="leave it out")


class NearestNets(nn.Module):
    """The principal components and the known images: what a search needs and nothing else."""

    mean: Tensor
    coordinates: Tensor
    joints_mm: Tensor

    def __init__(self, *, pixels: int, components: int, known: int, joints: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(pixels))
        self.components = nn.Parameter(torch.zeros(pixels, components), requires_grad=False)
        self.register_buffer("coordinates", torch.zeros(known, components))
        self.register_buffer("joints_mm", torch.zeros(known, joints, 3))

    def project(self, x: Tensor) -> Tensor:
        """Crops (B, 1, P, P) -> coordinates (B, C)."""
        return (x.flatten(1) - self.mean) @ self.components

    def forward(self, x: Tensor) -> Tensor:
        """Crops (B, 1, P, P) -> joints (B, J, 3) of the nearest known one, mm about the crop's centre."""
        distance = (self.coordinates**2).sum(dim=1) - 2 * self.project(x) @ self.coordinates.T
        return self.joints_mm[distance.argmin(dim=1)]


def check_data(config: NearestConfig, data: TrainingData, ranks: Ranks = ALONE) -> list[Source]:
    """What the search looks at; `data` may lack its images.

    Raises:
        HandloomError: several processes, images in a pool, or fewer than two labelled images.
    """
    if not ranks.alone:
        raise HandloomError(
            "A nearest-neighbour search is made by one process",
            why=f"it was started in {ranks.count}, and there is nothing to share",
            fix="start it without torchrun: handloom train crossing --arm nearest ...",
        )
    refuse_pool(data.pooling, what="A nearest-neighbour search")
    sources = labelled_sources(data, synth=config.needs.synth, real=True)
    known = sum(len(source.crops) for source in sources)
    if known < 2:
        raise HandloomError(
            "A nearest-neighbour search needs at least two labelled images",
            where=f"arm '{config.arm}'",
            why=f"there {'is one' if known else 'are none'}",
            fix="give a larger --labels, or --arm nearest with --synth S.zarr",
        )
    return sources


class Learner:
    """The search in training (`train.Learner`): one step that looks at every labelled crop."""

    def __init__(self, config: NearestConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
        as_written(config, "A nearest-neighbour search")
        self.config, self.data = config, data
        self.sources = check_data(config, data, ranks)
        self.guard = FiniteGuard(data.device)
        self.known = sum(len(source.crops) for source in self.sources)
        self.components = min(config.components, self.known - 1, config.input_px**2)
        self.nets = build_nets(self.describe()).to(data.device)

    @property
    def total_steps(self) -> int:
        """One."""
        return 1

    def step(self, index: int, *, log: bool) -> dict[str, Tensor | float]:
        """Fit the components, then keep every labelled crop."""
        nets, every = self.nets, max(1, -(-self.known // self.config.fitted_on))
        fitted = torch.cat([images[::every] for images, _ in self._crops()]).flatten(1)
        nets.mean.copy_(fitted.mean(dim=0))
        fitted -= nets.mean
        nets.components.copy_(self._principal(fitted))
        kept = ((fitted @ nets.components) ** 2).sum() / (fitted**2).sum()
        start = 0
        for images, joints in self._crops():
            rows = slice(start, start + len(images))
            nets.coordinates[rows], nets.joints_mm[rows] = nets.project(images), joints
            start += len(images)
        return {"known": float(self.known), "variance_kept": kept}

    def samples(self, index: int, term: str) -> list[Sample]:
        """None: nothing is checked."""
        return []

    def _principal(self, centred: Tensor) -> Tensor:
        """(pixels, C) orthonormal: the leading right singular vectors of (n, pixels)."""
        rank = min(self.components, len(centred) - 1)
        wide = min(rank + 10, *centred.shape)
        generator = torch.Generator().manual_seed(key_of(self.config.seed, "components") >> 1)
        probe = torch.randn(centred.shape[1], wide, generator=generator).to(centred)
        for _ in range(_POWER_ITERATIONS):
            probe = centred.T @ torch.linalg.qr(centred @ probe)[0]
        basis = torch.linalg.qr(centred @ probe)[0]
        found = torch.linalg.svd(basis.T @ centred, full_matrices=False)[2][:rank].T
        return torch.nn.functional.pad(found, (0, self.components - rank))

    def _crops(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 1, P, P) about their stored centres and their joints (B, J, 3) in mm."""
        cube_mm = self.config.cube_mm
        for source in self.sources:
            for crop in source.crops.split(_BATCH):
                bank, geometry = source.bank, still(source.bank, crop)
                images = cut(bank, crop, geometry, input_px=self.config.input_px, cube_mm=cube_mm)
                known = label(bank, crop, geometry, images, cube_mm=cube_mm)
                yield images.image, known.joints * (cube_mm / 2)

    def sheets(self, done: int) -> dict[str, bytes]:
        """None: there is nothing to watch by eye."""
        return {}

    def pose_net(self) -> NearestNets:
        """The search itself."""
        return self.nets

    def describe(self) -> dict[str, Any]:
        """Plain values from which `build_nets` makes the search again."""
        config, data = self.config, self.data
        return {
            "method": "crossing",
            "preset": config.preset,
            "arm": config.arm,
            "layout": data.layout.name,
            "hand": data.hand,
            "input_px": config.input_px,
            "cube_mm": config.cube_mm,
            "architecture": {"components": self.components, "known": self.known},
            "n_labels": data.n_labels,
            "config": config.model_dump(mode="json"),
            "torch": str(torch.__version__),
        }

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Never reached: `after_pretraining` refuses."""
        raise AssertionError

    def training_state(self) -> dict[str, Any]:
        """Nothing: the only step starts from nothing."""
        return {}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to undo."""


def build_nets(description: Mapping[str, Any]) -> NearestNets:
    """The empty search of a described model."""
    return NearestNets(
        pixels=description["input_px"] ** 2,
        joints=len(layout_named(description["layout"])),
        **description["architecture"],
    )


def pose_net(nets: NearestNets, description: Mapping[str, Any]) -> NearestNets:
    """The search is its own inference path."""
    return nets
