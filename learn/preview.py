"""The `preview` arm: view prediction on real data alone (Poier et al., CVPR 2018), no synthetic image at all.

A network of its own at 64 px over a 250 mm cube: four 4 x 4 convolutions of stride 2 (64, 128, 256, 512
channels, batch normalisation on the last three, LeakyReLU 0.2), a valid 4 x 4 convolution to 50 tanh units, a
mirrored decoder from these and the view's conditioning, and one linear layer from the 50 to the pose.

    loss = mean |x_j - g(z_i, condition)| + 10 Huber(joints)      the second on labelled frames only

Half of a batch of 128 are pairs of any frames, half those of labelled ones (if there are any). No rotation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..stores.config import checked
from ..stores.errors import HandloomError
from ..stores.joints import layout_named
from .batches import cut, label, still
from .config import Needs, TrainConfig
from .data import TrainingData
from .device import as_written
from .murauer_batches import Stream, make_stream, pairs_of
from .murauer_losses import view_loss
from .murauer_nets import GroupedBatchNorm, Groups, ViewDecoder, Volume, camera_change, view_condition
from .ranks import ALONE, Ranks
from .samples import Sample, samples_of
from .sampling import key_of, noise_generator, normal
from .updates import FiniteGuard, adam, adam_state, load_adam_state

LATENT = 50
CHANNELS = (64, 128, 256, 512)


class PreviewConfig(TrainConfig):
    """Everything a run of the preview arm depends on besides its recording."""

    method: Literal["murauer"] = "murauer"
    arm: Literal["preview"] = "preview"
    input_px: Literal[64] = 64
    cube_mm: float = Field(default=250.0, gt=0)
    rotation_deg: float = Field(default=0.0, ge=0, le=0)
    batch: int = Field(default=128, ge=4)
    """Pairs a step, of all processes together."""
    steps: int = Field(default=100 * 568, ge=1)
    """100 epochs of NYU's 72,757 frames."""
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    pose_weight: float = Field(default=10.0, ge=0)
    view_pair: tuple[int, int] | None = None
    """The only (input, target) cameras; None: every ordered pair."""
    view_center_noise_mm: float = Field(default=15.0, ge=0)

    @property
    def needs(self) -> Needs:
        """Frames seen by two cameras; labels are welcome."""
        return Needs(synth=False, real=True, pairs=True)


def preset(name: str, **overrides: Any) -> PreviewConfig:
    """The configuration of the arm; the presets differ in length only.

    Raises:
        HandloomError: the preset or an override is not one.
    """
    steps = {"quick": 400, "fast": 10_000, "paper": 100 * 568}
    if name not in steps:
        raise HandloomError(f"There is no preset '{name}'", why=f"known: {', '.join(steps)}")
    centers = "true" if name == "paper" else "located"
    return checked(PreviewConfig, {"preset": name, "steps": steps[name], "centers": centers} | overrides)


def after_pretraining(config: PreviewConfig) -> PreviewConfig:
    """Refused: the arm has no pre-training.

    Raises:
        HandloomError: always.
    """
    raise HandloomError("The arm 'preview' starts from nothing", where="--init", fix="leave --init out")


class PreviewNets(nn.Module):
    """Encoder, view decoder and pose layer."""

    def __init__(self, *, joints: int, condition: int) -> None:
        super().__init__()
        widths = (1, *CHANNELS)
        self.convs = nn.ModuleList(
            [nn.Conv2d(a, b, 4, 2, 1, bias=False) for a, b in zip(widths, CHANNELS, strict=False)]
        )
        self.norms = nn.ModuleList([GroupedBatchNorm(c, domains=1) for c in CHANNELS[1:]])
        self.last = nn.Conv2d(CHANNELS[-1], LATENT, 4)
        self.view = ViewDecoder(LATENT + condition, CHANNELS[::-1], 64, domains=1)
        self.pose = nn.Linear(LATENT, 3 * joints)

    def latent(self, x: Tensor, groups: Groups | None = None) -> Tensor:
        """(B, 1, 64, 64) -> (B, 50) in [-1, 1]."""
        x = functional.leaky_relu(self.convs[0](x), 0.2)
        for conv, norm in zip(list(self.convs)[1:], self.norms, strict=True):
            x = functional.leaky_relu(norm(conv(x), groups), 0.2)
        z: Tensor = self.last(x).flatten(1).tanh()
        return z


class PreviewPose(nn.Module):
    """Inference: crops (B, 1, 64, 64) -> joints (B, J, 3), mm about the crop's centre."""

    def __init__(self, nets: PreviewNets, *, cube_mm: float) -> None:
        super().__init__()
        self.nets, self.half_mm = nets, cube_mm / 2

    def forward(self, x: Tensor) -> Tensor:
        """Crops to mm."""
        return self.nets.pose(self.nets.latent(x)).unflatten(-1, (-1, 3)) * self.half_mm  # type: ignore[no-any-return]


class Learner:
    """The preview arm in training (`train.Learner`)."""

    def __init__(self, config: PreviewConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
        assert data.real is not None
        as_written(config, "The arm 'preview'")
        self.config, self.data, self.real, self.ranks = config, data, data.real, ranks
        self.guard = FiniteGuard(data.device, ranks)
        self.volume = Volume.of(data.real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_of(config.seed, "weights") >> 1)
            self.nets = build_nets(self.describe()).to(data.device)
        self.streams = streams_of(config, data, ranks)
        self.optimizer = adam(self.nets.parameters(), weight_decay=config.weight_decay)
        self.groups = Groups.of([config.batch // ranks.count], [True], domains=1, device=data.device)

    @property
    def total_steps(self) -> int:
        """One stage."""
        return self.config.steps

    def step(self, index: int, *, log: bool) -> dict[str, Tensor | float]:
        """One step on both halves of the batch."""
        config, nets = self.config, self.nets
        noise = noise_generator(key_of(config.seed, "preview"), index, self.data.device)
        draws = [stream.draw(index) for stream in self.streams]
        size = {"input_px": config.input_px, "cube_mm": config.cube_mm}
        noisy = size | {"noise_mm": config.noise_mm, "generator": noise}
        images, targets, conditions = [], [], []
        for stream, draw in zip(self.streams, draws, strict=True):
            source, target = draw.items.unbind(1)
            among = self.ranks.among([stream.size], self.data.device)
            images.append(cut(self.real, source, draw.geometry, among=among, **noisy))  # type: ignore[arg-type]
            targets.append(cut(self.real, target, still(self.real, target), **size).image)  # type: ignore[arg-type]
            jitter = normal(stream.key ^ 2, stream.index(index), 3) * config.view_center_noise_mm
            between = None if config.view_pair else camera_change(self.real, source, target)
            conditions.append(view_condition(images[-1].center_mm + jitter, self.volume, between))
        z = nets.latent(torch.cat([part.image for part in images]), self.groups)
        seen = nets.view(z, torch.cat(conditions), self.groups)
        terms = {"view": view_loss(seen, torch.cat(targets))}
        if self.data.n_labels:
            draw = draws[1]
            truth = label(self.real, draw.items[:, 0], draw.geometry, images[1], cube_mm=config.cube_mm)
            predicted = nets.pose(z[len(images[0].image) :]).unflatten(-1, (-1, 3))
            huber = functional.huber_loss(predicted, truth.joints, reduction="none") * truth.known[..., None]
            terms["pose"] = huber.sum() / self.ranks.counted(3 * truth.known.sum())
        self.guard.begin(index, config.learning_rate)
        self.guard.check({f"{name} loss": term for name, term in terms.items()})
        total = terms["view"]
        if "pose" in terms:
            total = total + config.pose_weight * terms["pose"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.guard.update(self.optimizer, name="the networks")
        return {f"loss/{name}": term.detach() for name, term in terms.items()}

    def samples(self, index: int, term: str) -> list[Sample]:
        """The pairs of a step, by their input, as stored."""
        found, size = [], {"input_px": self.config.input_px, "cube_mm": self.config.cube_mm}
        for stream in self.streams:
            items = stream.draw(index).items
            cuts = [cut(self.real, crop, still(self.real, crop), **size) for crop in items.unbind(1)]  # type: ignore[arg-type]
            joints = self.real.joints_mm[items[:, 0] // self.real.views].nan_to_num(nan=0.0, posinf=torch.inf)
            found += samples_of(stream.name, self.real, items[:, 0], [*(one.image for one in cuts), joints])
        return found

    def sheets(self, done: int) -> dict[str, bytes]:
        """None: there is nothing to watch by eye."""
        return {}

    def pose_net(self) -> PreviewPose:
        """The inference path over the weights in training."""
        return pose_net(self.nets, self.describe())

    def describe(self) -> dict[str, Any]:
        """Plain values from which `build_nets` and `pose_net` make the networks again."""
        return {
            "method": "murauer",
            "preset": self.config.preset,
            "arm": "preview",
            "layout": self.data.layout.name,
            "hand": self.data.hand,
            "input_px": self.config.input_px,
            "cube_mm": self.config.cube_mm,
            "condition": 15 if self.config.view_pair is None else 3,
            "volume": self.volume.to_dict(),
            "n_labels": self.data.n_labels,
            "config": self.config.model_dump(mode="json"),
        }

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Never called: `after_pretraining` refuses."""
        raise AssertionError

    def training_state(self) -> dict[str, Any]:
        """The optimiser."""
        return {"optimizer": adam_state(self.optimizer)}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Undo `training_state`."""
        load_adam_state(self.optimizer, state["optimizer"])


def streams_of(config: PreviewConfig, data: TrainingData, ranks: Ranks) -> list[Stream]:
    """Pairs of any frames, and of labelled ones if there are any.

    Raises:
        HandloomError: there is no pair, or the ranks cannot share the batch.
    """
    half = config.batch // 2 if data.n_labels else config.batch
    parts = [("view_real", data.unlabelled, half)]
    parts += [("labelled", data.labelled, config.batch - half)] if data.n_labels else []
    made = []
    for name, frames, size in parts:
        pairs = pairs_of(data.real, frames, config.view_pair)
        stream = make_stream(config, name, data.real, pairs, size, turns=False, ranks=ranks)
        assert stream is not None
        made.append(stream)
    return made


def check_data(config: PreviewConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
    """Refuse what no step could be made of; `data` may lack its images.

    Raises:
        HandloomError: as `streams_of`.
    """
    streams_of(config, data, ranks)


def build_nets(description: Mapping[str, Any]) -> PreviewNets:
    """The networks of a described model, with fresh weights from PyTorch's generator."""
    joints = len(layout_named(description["layout"]))
    return PreviewNets(joints=joints, condition=description["condition"])


def pose_net(nets: PreviewNets, description: Mapping[str, Any]) -> PreviewPose:
    """The inference path of described networks, over their weights."""
    return PreviewPose(nets, cube_mm=description["cube_mm"])
