"""MURAUER (Poier et al., WACV 2019): synthetic and unlabelled real depth to a pose, in one latent space.

Features of real images are mapped into the space of synthetic ones, z = relu(m(f(x))) against relu(f(x)), and
what is known about labelled, paired and unlabelled images is asked of z (equations of the paper):

    l_p  (5)   squared error of the pose           synthetic and labelled real images
    l_c  (8)   squared distance of z               labelled real images and their twins, twin side detached
    l_g  (10)  absolute error of another view      pairs of views, real and synthetic, no label needed
    l_m  (13)  1/2 (h(z_real) - 0)^2               real images, gradient stops at f: trains m alone
    l_h  (12)  1/2 (h(z_real) - 1)^2 + 1/2 h(z_syn)^2   trains h alone, z detached

    l = l_p + 0.2 l_c + 1e-4 l_g + 1e-5 l_m  (1), with sums over the elements of a sample.

Here every term is a mean, so that a learning rate means the same at every size; the weight of a mean over n
elements is that of the sum times n / 3J (`mean_weights`). f and p are first trained on synthetic images,
then everything jointly. A step: one forward pass of all sub-batches, a step of h on detached z, l_m with the
updated h, one backward pass of the sum, a step of f, m, p, g.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from ..stores.errors import HandloomError
from ..stores.joints import layout_named
from .data import TrainingData
from .device import Terms, execution
from .murauer_batches import Batches
from .murauer_losses import learning_rate_factor
from .murauer_nets import Architecture, MurauerNets, PoseNet, Volume
from .murauer_recipe import ARMS, MurauerConfig, after_pretraining, preset
from .murauer_updates import Updates
from .ranks import ALONE, Ranks
from .samples import Sample
from .sampling import key_of
from .updates import FiniteGuard, adam_state, load_adam_state

_SEEN: Mapping[str, tuple[str, ...]] = {
    "pose loss": ("pretraining", "labelled", "twins", "synth"),
    "correspondence loss": ("labelled", "twins"),
    "view loss": ("view_real", "view_synth"),
    "matching loss": ("match_real",),
    "discriminator loss": ("match_real", "match_synth"),
}
"""The sub-batches that a term looks at; a gradient looks at all."""

AHEAD: Final = 16
"""Steps whose batches are made at once where steps are replayed; 120 MB of images at the paper's sizes."""

__all__ = ["Learner", "MurauerConfig", "after_pretraining", "build_nets", "pose_net", "preset"]


class Learner:
    """MURAUER in training (`train.Learner`)."""

    def __init__(self, config: MurauerConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
        self.config, self.data, self.arm, self.ranks = config, data, ARMS[config.arm], ranks
        # Not channels last unless told so: groups are interleaved, and normalised without a copy, in the other order.
        self.execution = execution(config, data.device, ranks, channels_last=False)
        self.guard = FiniteGuard(data.device, ranks)
        self.volume = Volume.of(data.synth, data.real)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_of(config.seed, "weights") >> 1)
            self.nets = self.execution.laid_out(build_nets(self.describe()).to(data.device))
        ahead = AHEAD if self.execution.graph and data.pooling is None else 1
        self.batches = Batches(config, data, self.volume, ranks, ahead=ahead)
        self.updates = Updates(
            config, self.nets, self.execution, self.guard, ranks, sizes=self.batches.sizes, anchored=self._anchored
        )

    @property
    def total_steps(self) -> int:
        """Pre-training and joint training."""
        return self.config.pretrain_steps + self.config.joint_steps

    def step(self, index: int, *, log: bool) -> Terms:
        """One step of whichever stage `index` falls in."""
        if index < self.config.pretrain_steps:
            return self._pretrain_step(index, log=log)
        return self._joint_step(index - self.config.pretrain_steps, log=log)

    def samples(self, index: int, term: str) -> list[Sample]:
        """The samples that a term of a step looks at."""
        joint = index >= self.config.pretrain_steps
        found = self.batches.samples(index - self.config.pretrain_steps if joint else index, joint=joint)
        return [sample for sample in found if term not in _SEEN or sample.sub_batch in _SEEN[term]]

    # --- stage 1: f and p on synthetic images ---

    def _pretrain_step(self, step: int, *, log: bool) -> Terms:
        epoch, rate = self._schedule(step, self.config.pretrain_steps, self.config.pretrain_epochs)
        self.guard.begin(step, rate)
        terms = self.updates.pretrain(self.batches.pretraining(step), log=log)
        return terms | {"epoch": epoch, "lr": rate}

    # --- stage 2: everything ---

    def _joint_step(self, step: int, *, log: bool) -> Terms:
        if not step:
            self.updates.pretrain.release()
        epoch, rate = self._schedule(step, self.config.joint_steps, self.config.joint_epochs)
        self.guard.begin(self.config.pretrain_steps + step, rate)
        terms = self.updates.joint(self.batches.joint(step), log=log)
        return terms | {"epoch": epoch, "lr": rate}

    def _schedule(self, step: int, steps: int, epochs: int) -> tuple[float, float]:
        """Epoch of a step and its learning rate; the epochs are spread over the steps of the stage."""
        epoch = step * epochs // steps
        return float(epoch), self.config.learning_rate * learning_rate_factor(epoch, self.config.decay)

    # --- what a run keeps ---

    def sheets(self, done: int) -> dict[str, bytes]:
        """None: there is nothing to watch by eye."""
        return {}

    def pose_net(self) -> PoseNet:
        """The inference path over the weights in training."""
        return pose_net(self.nets, self.describe())

    def describe(self) -> dict[str, Any]:
        """Plain values from which `build_nets` and `pose_net` make the networks again."""
        config, data = self.config, self.data
        return {
            "method": "murauer",
            "preset": config.preset,
            "arm": config.arm,
            "layout": data.layout.name,
            "hand": data.hand,
            "input_px": config.input_px,
            "cube_mm": config.cube_mm,
            "architecture": config.architecture.model_dump(mode="json"),
            "condition": 15 if config.view_pair is None else 3,
            "domains": 2 if config.batch_norm == "domain" else 1,
            "released": config.parity == "released",
            "identity_mapping": config.mapping_start == "identity",
            "mapped": self._maps(),
            "statistics": "real" if self._sees_real() else "synthetic",
            "volume": self.volume.to_dict(),
            "n_labels": data.n_labels,
            "execution": self.execution.describe(),
            "config": config.model_dump(mode="json"),
        }

    @property
    def _anchored(self) -> bool:
        """Whether m is trained at all: see `mapping_start`."""
        return self.data.n_labels > 0 or self.config.mapping_start != "identity"

    def _maps(self) -> bool:
        """Whether any term trains m; if none does, inference goes past it."""
        if not self.config.joint_steps or not self._anchored:
            return False
        return self.data.n_labels > 0 or self.arm.view or self.arm.match

    def _sees_real(self) -> bool:
        """Whether captured images pass f, so that it has statistics of theirs; m may be left alone all the same."""
        arm = self.arm
        return bool(self.config.joint_steps) and (self.data.n_labels > 0 or arm.view or arm.match or arm.passing)

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Take f and p from a synthetic-only (or any other) run of the same architecture and layout."""
        theirs, ours = checkpoint["description"], self.describe()
        for name in ("method", "layout", "input_px", "cube_mm", "architecture", "hand"):
            if theirs.get(name) != ours[name]:
                raise HandloomError(
                    f"The run to start from differs in {name}",
                    where="--init",
                    why=f"{theirs.get(name)} there, {ours[name]} here",
                    fix="pre-train with the same preset, layout and options",
                )
        own = self.nets.state_dict()
        with torch.no_grad():
            for name, value in checkpoint["weights"].items():
                if name.startswith(("features.", "pose.")):
                    own[name].copy_(value.to(own[name].device).expand_as(own[name]))

    def training_state(self) -> dict[str, Any]:
        """The three optimisers; draws, noise and schedule follow from the step."""
        return {name: adam_state(optimizer) for name, optimizer in self.updates.optimizers.items()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Undo `training_state`."""
        for name, optimizer in self.updates.optimizers.items():
            load_adam_state(optimizer, state[name])


def check_data(config: MurauerConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
    """Refuse what no step could be made of; `data` may lack its images.

    Raises:
        HandloomError: a sub-batch has no image, a camera is not there, or the ranks cannot share the batch.
    """
    Batches(config, data, Volume.of(data.synth, data.real), ranks)


def build_nets(description: Mapping[str, Any]) -> MurauerNets:
    """The five networks of a described model, with fresh weights from PyTorch's generator."""
    return MurauerNets(
        Architecture.model_validate(description["architecture"]),
        input_px=description["input_px"],
        joints=len(layout_named(description["layout"])),
        condition=description["condition"],
        domains=description["domains"],
        released=description["released"],
        identity_mapping=description["identity_mapping"],
    )


def pose_net(nets: MurauerNets, description: Mapping[str, Any]) -> PoseNet:
    """The inference path of described networks, over their weights."""
    mapped = description["mapped"]
    real = description.get("statistics", "real" if mapped else "synthetic") == "real"
    return PoseNet(nets, cube_mm=description["cube_mm"], mapped=mapped, domain=-1 if real else 0)
