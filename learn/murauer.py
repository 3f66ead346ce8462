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

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.func import functional_call

from ..stores.errors import HandloomError
from ..stores.joints import layout_named
from .batches import Labelled
from .data import TrainingData
from .device import Terms, execution
from .murauer_batches import REAL, Batches, JointBatch
from .murauer_losses import (
    correspondence_loss,
    discriminator_loss,
    learning_rate_factor,
    matching_loss,
    mean_weights,
    pose_loss,
    view_loss,
)
from .murauer_nets import Architecture, Groups, MurauerNets, PoseNet, Volume
from .murauer_recipe import ARMS, MurauerConfig, after_pretraining, preset
from .ranks import ALONE, Ranks
from .samples import Sample
from .sampling import key_of
from .updates import FiniteGuard, adam, adam_state, load_adam_state

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
        self._features, self._view = (self.execution.compiled(net) for net in (self.nets.features, self.nets.view))
        self.weights = mean_weights(
            config.weights,
            joints=len(data.layout),
            feature_width=config.architecture.feature_width,
            input_px=config.input_px,
        )
        self.half = 0.5 if config.parity == "paper" else 1.0
        ahead = AHEAD if self.execution.graph and data.pooling is None else 1
        self.batches = Batches(config, data, self.volume, ranks, ahead=ahead)
        sizes = self.batches.sizes
        self.pretraining_groups = self._groups({"synth": ranks.size(config.batch, what="pretraining")})
        self.groups = self._groups(sizes)
        self.view_groups = self._groups({n: sizes[n] for n in ("view_real", "view_synth") if n in sizes})
        nets, decay = self.nets, config.weight_decay
        self.pretraining = adam([*nets.features.parameters(), *nets.pose.parameters()], weight_decay=decay)
        joint = (nets.features, *((nets.mapping,) if self._anchored else ()), nets.pose, nets.view)
        self.main = adam([p for net in joint for p in net.parameters()], weight_decay=decay)
        self.critic = adam(nets.discriminator.parameters(), weight_decay=decay)
        self.pretrain_update = self.execution.replayed(self._pretrain_update)
        self.joint_update = self.execution.replayed(self._joint_update)

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
        terms = self.pretrain_update(self.batches.pretraining(step), log=log)
        return terms | {"epoch": epoch, "lr": rate}

    def _pretrain_update(self, synth: Labelled, *, log: bool) -> Terms:
        with self.execution.autocast():
            predicted = self.nets.pose(self._features(synth.images.image, self.pretraining_groups))
        predicted = self.execution.full(predicted)
        loss = pose_loss(predicted, synth.joints, synth.known, self.ranks)
        self.guard.check({"pose loss": loss})
        self.pretraining.zero_grad(set_to_none=True)
        loss.backward()
        self.guard.update(self.pretraining, name="f and p")
        terms: Terms = {"loss/pose": loss.detach()}
        return terms | ({"train/mean_mm": self._error_mm(predicted, [synth])} if log else {})

    # --- stage 2: everything ---

    def _joint_step(self, step: int, *, log: bool) -> Terms:
        if not step:
            self.pretrain_update.release()
        epoch, rate = self._schedule(step, self.config.joint_steps, self.config.joint_epochs)
        self.guard.begin(self.config.pretrain_steps + step, rate)
        terms = self.joint_update(self.batches.joint(step), log=log)
        return terms | {"epoch": epoch, "lr": rate}

    def _joint_update(self, batch: JointBatch, *, log: bool) -> Terms:
        nets, cast, full = self.nets, self.execution.autocast, self.execution.full
        with cast():
            features = self._features(torch.cat(list(batch.images.values())), self.groups)
            sizes = [len(images) for images in batch.images.values()]
            z = self._latents(dict(zip(batch.images, features.split(sizes), strict=True)))
        terms: dict[str, Tensor] = {}

        supervised = list(batch.labelled.values())
        predicted = None
        if supervised:
            with cast():
                predicted = nets.pose(torch.cat([z[name] for name in batch.labelled]))
            predicted = full(predicted)
            truth = torch.cat([part.joints for part in supervised])
            known = torch.cat([part.known for part in supervised])
            terms["pose"] = pose_loss(predicted, truth, known, self.ranks)
        if batch.paired is not None:
            real, twin = full(z["labelled"]), full(z["twins"])
            terms["correspondence"] = correspondence_loss(real, twin, batch.paired, self.ranks)
        if batch.views is not None:
            target, condition = batch.views
            with cast():
                seen = torch.cat([z["view_real"], z["view_synth"]])
                if self.config.parity == "released":
                    seen = nets.pose.hidden(seen)
                shown = self._view(seen, condition, self.view_groups)
            terms["view"] = view_loss(full(shown), target)
        logged: Terms = {}
        if self.arm.match:
            # h and its least squares in float32: scores are near 0 and 1, and their gradients small.
            real, synth = full(z["match_real"]), full(z["match_synth"])
            logged["loss/discriminator"] = self._train_discriminator(real, synth, terms)
            # The updated h judges, but its weights are constants here: l_m trains m alone.
            frozen = {name: p.detach() for name, p in nets.discriminator.named_parameters()}
            score = functional_call(nets.discriminator, frozen, (real,))
            terms["matching"] = matching_loss(score, half=self.half)
        self.guard.check({f"{name} loss": term for name, term in terms.items()})
        weighted = {name: self.weights[name] * term for name, term in terms.items()}
        if log:
            logged |= self._mapping_gradients(weighted)
            if predicted is not None:
                logged["train/mean_mm"] = self._error_mm(predicted, supervised)
        self.main.zero_grad(set_to_none=True)
        torch.stack(list(weighted.values())).sum().backward()
        self.guard.update(self.main, name="f, m, p and g")
        return logged | {f"loss/{name}": term.detach() for name, term in terms.items()}

    def _latents(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The latents z of every sub-batch; the gradient of 'match_real' stops at f."""
        stopped = {n: f.detach() if n == "match_real" else f for n, f in features.items()}
        real = [name for name in stopped if name in REAL]
        z = {n: self.nets.latent(f, real=False) for n, f in stopped.items() if n not in REAL}
        if real:
            mapped = self.nets.latent(torch.cat([stopped[name] for name in real]), real=True)
            z |= dict(zip(real, mapped.split([len(stopped[name]) for name in real]), strict=True))
        return z

    def _train_discriminator(self, z_real: Tensor, z_synth: Tensor, others: Mapping[str, Tensor]) -> Tensor:
        """A step of h on detached latents; nothing is updated when any term of the step is not finite."""
        real, synth = z_real.detach(), z_synth.detach()
        scores = self.nets.discriminator(torch.cat([real, synth]))
        loss = discriminator_loss(scores[: len(real)], scores[len(real) :], half=self.half)
        self.guard.check({f"{n} loss": t for n, t in others.items()} | {"discriminator loss": loss})
        self.critic.zero_grad(set_to_none=True)
        loss.backward()
        self.guard.update(self.critic, name="h")
        return loss.detach()

    def _mapping_gradients(self, weighted: Mapping[str, Tensor]) -> Terms:
        """Norm of the gradient of each weighted term on m."""
        parameters = list(self.nets.mapping.parameters())
        norms: Terms = {}
        for name, term in weighted.items():
            parts = torch.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
            present = [part for part in parts if part is not None]
            self.ranks.average_(present)
            norms[f"grad_m/{name}"] = torch.stack(torch._foreach_norm(present)).norm() if present else 0.0
        return norms

    def _error_mm(self, predicted: Tensor, supervised: Sequence[Labelled]) -> Tensor:
        """Mean joint error of this step's augmented training images."""
        truth = torch.cat([part.joints for part in supervised])
        known = torch.cat([part.known for part in supervised])
        distance = (predicted.detach() - truth).norm(dim=-1) * known * (self.config.cube_mm / 2)
        mean: Tensor = distance.sum() / self.ranks.counted(known.sum())
        return mean

    def _schedule(self, step: int, steps: int, epochs: int) -> tuple[float, float]:
        """Epoch of a step and its learning rate; the epochs are spread over the steps of the stage."""
        epoch = step * epochs // steps
        return float(epoch), self.config.learning_rate * learning_rate_factor(epoch, self.config.decay)

    def _groups(self, sizes: Mapping[str, int]) -> Groups:
        return Groups.of(
            list(sizes.values()),
            [name in REAL for name in sizes],
            domains=2 if self.config.batch_norm == "domain" else 1,
            device=self.data.device,
            apart=self.execution.channels_last,
        )

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
        return {name: adam_state(getattr(self, name)) for name in ("pretraining", "main", "critic")}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Undo `training_state`."""
        for name in ("pretraining", "main", "critic"):
            load_adam_state(getattr(self, name), state[name])


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
