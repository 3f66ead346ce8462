"""The arithmetic of MURAUER's two stages: what a step of each lowers, over which weights.

A step is a function of its batch's tensors and of the networks (`Updates.pretrain`, `Updates.joint`); what is drawn for
it is the learner's (`murauer.Learner`), and nothing here holds the data: what is trained is gone with the learner,
though a step's arithmetic and the object that replays it hold each other. Losses stand in `murauer_losses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from .batches import Labelled
from .device import Execution, Terms
from .murauer_batches import REAL, JointBatch
from .murauer_losses import (
    correspondence_loss,
    discriminator_loss,
    matching_loss,
    mean_weights,
    pose_loss,
    view_loss,
)
from .murauer_nets import Groups, MurauerNets
from .murauer_recipe import ARMS, MurauerConfig
from .ranks import Ranks
from .updates import FiniteGuard, adam


class Updates:
    """The networks in training, and their three optimisers."""

    def __init__(
        self,
        config: MurauerConfig,
        nets: MurauerNets,
        execution: Execution,
        guard: FiniteGuard,
        ranks: Ranks,
        *,
        sizes: Mapping[str, int],
        anchored: bool,
    ) -> None:
        """Begin before the first stage.

        Args:
            config: of the run.
            nets: what is trained.
            execution: how it is computed.
            guard: stands before each update.
            ranks: the processes that share a batch.
            sizes: images of each sub-batch of a joint step, on this rank.
            anchored: whether m is trained at all.
        """
        self.config, self.arm, self.nets, self.guard, self.ranks = config, ARMS[config.arm], nets, guard, ranks
        self.execution = execution
        self._features, self._view = (execution.compiled(net) for net in (nets.features, nets.view))
        self.weights = mean_weights(
            config.weights,
            joints=nets.joints,
            feature_width=config.architecture.feature_width,
            input_px=config.input_px,
        )
        self.half = 0.5 if config.parity == "paper" else 1.0
        self.pretraining_groups = self._groups({"synth": ranks.size(config.batch, what="pretraining")})
        self.groups = self._groups(sizes)
        self.view_groups = self._groups({n: sizes[n] for n in ("view_real", "view_synth") if n in sizes})
        decay = config.weight_decay
        joint = (nets.features, *((nets.mapping,) if anchored else ()), nets.pose, nets.view)
        self.optimizers = {
            "pretraining": adam([*nets.features.parameters(), *nets.pose.parameters()], weight_decay=decay),
            "main": adam([p for net in joint for p in net.parameters()], weight_decay=decay),
            "critic": adam(nets.discriminator.parameters(), weight_decay=decay),
        }
        self.pretrain = execution.replayed(self._pretrain_update)
        self.joint = execution.replayed(self._joint_update)

    def _pretrain_update(self, synth: Labelled, *, log: bool) -> Terms:
        with self.execution.autocast():
            predicted = self.nets.pose(self._features(synth.images.image, self.pretraining_groups))
        predicted = self.execution.full(predicted)
        loss = pose_loss(predicted, synth.joints, synth.known, self.ranks)
        self.guard.check({"pose loss": loss})
        self.optimizers["pretraining"].zero_grad(set_to_none=True)
        loss.backward()
        self.guard.update(self.optimizers["pretraining"], name="f and p")
        terms: Terms = {"loss/pose": loss.detach()}
        return terms | ({"train/mean_mm": self._error_mm(predicted, [synth])} if log else {})

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
        self.optimizers["main"].zero_grad(set_to_none=True)
        torch.stack(list(weighted.values())).sum().backward()
        self.guard.update(self.optimizers["main"], name="f, m, p and g")
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
        self.optimizers["critic"].zero_grad(set_to_none=True)
        loss.backward()
        self.guard.update(self.optimizers["critic"], name="h")
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

    def _groups(self, sizes: Mapping[str, int]) -> Groups:
        return Groups.of(
            list(sizes.values()),
            [name in REAL for name in sizes],
            domains=2 if self.config.batch_norm == "domain" else 1,
            device=self.execution.device,
            apart=self.execution.channels_last,
        )
