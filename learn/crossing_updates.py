"""The arithmetic of Crossing Nets' stages: what a step of each lowers, over which weights.

A step is a function of its batch's tensors and of the networks (`Updates.step`); what is drawn for it, and when its
stage begins, is the learner's (`crossing.Learner`). Losses and the readings behind them stand in `crossing_losses`.

Three things that algorithm 1 leaves open, as they are done here:

- Lines 16 and 17 update both sides from one forward pass. Here the generator's step sees the discriminator as it is
  after its own step, as GANs are trained (Goodfellow et al. 2014, algorithm 1).
- Line 10 splits X and Z into equal halves that no later line uses: nothing is split.
- Z_l and Z_r pass Ali and Gen as one batch: the combinations Z_r are narrower than Z_l, and statistics of their own
  would spread them out again and undo the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Final

import torch
from torch import Tensor, nn

from . import crossing_losses as losses
from .crossing_health import Played, health, through_the_space
from .crossing_nets import POSE_UNIT_MM, CrossingNets
from .crossing_recipe import ARMS, CrossingConfig, Stage
from .device import Execution, Replayed, Terms, Update
from .ranks import Ranks
from .updates import FiniteGuard, adam

Batch = tuple[Tensor, ...]
ADAM_BETA2: Final = 0.999


class Updates:
    """The networks in training, and the optimisers of the stage that they are in."""

    def __init__(
        self,
        config: CrossingConfig,
        nets: CrossingNets,
        execution: Execution,
        guard: FiniteGuard,
        ranks: Ranks,
        *,
        synthetic: int,
    ) -> None:
        """Begin before the first stage.

        Args:
            config: of the run.
            nets: what is trained.
            execution: how it is computed.
            guard: stands before each update.
            ranks: the processes that share a batch.
            synthetic: how many of this rank's labelled images are synthetic; they are the first of X_l.
        """
        self.config, self.arm, self.nets, self.guard, self.ranks = config, ARMS[config.arm], nets, guard, ranks
        self.execution, self._synthetic = execution, synthetic
        self._trunk, self._gen = (execution.compiled(net) for net in (nets.trunk, nets.gen))
        self.stage: Stage | None = None
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.replayed: Replayed[Batch] | None = None
        """The arithmetic of a step of the stage in progress."""
        self._index = 0

    def step(self, batch: Batch, index: int, *, log: bool) -> Terms:
        """One step of the stage in progress: its number over all stages, and the terms for the log."""
        assert self.replayed is not None
        self._index = index
        return self.replayed(batch, log=log)

    def enter(self, stage: Stage) -> None:
        """Fresh optimisers over what this stage trains."""
        nets, smo = self.nets, [self.nets.smo] if self.arm.smo else []
        update: Update[Batch]
        trained: dict[str, list[nn.Module]]
        match stage:
            case "vae":
                update, trained = self._vae_update, {"vae": [nets.vae]}
            case "gan":
                update, trained = self._gan_update, {"critic": [nets.trunk, nets.gan], "generator": [nets.gen]}
            case "align":
                update, trained = self._align_update, {"heads": [nets.ali, nets.pos, *smo]}
            case "joint":
                critic = [nets.trunk, nets.pos, *smo, *([nets.gan] if self.arm.gan else [])]
                update, trained = self._joint_update, {"critic": critic, "generator": [nets.ali, nets.gen]}
            case "pose":
                update, trained = self._pose_update, {"pose": [nets.trunk, nets.pos]}
        if self.replayed is not None:
            self.replayed.release()
        self.stage, self.replayed = stage, self.execution.replayed(update)
        betas = (self.config.beta1, ADAM_BETA2)
        self.optimizers = {
            name: adam(chain.from_iterable(net.parameters() for net in part), betas=betas)
            for name, part in trained.items()
        }

    # --- stage 1: the pose VAE ---

    def _vae_update(self, batch: Batch, *, log: bool) -> Terms:
        vae, (poses, noise) = self.nets.vae, batch
        pose, _ = self.nets.about_palm(poses)
        mean, log_variance = vae.encode(pose)
        decoded = vae.decode(mean + (log_variance / 2).exp() * noise)
        divergence, squared = losses.vae_loss(pose, decoded, mean, log_variance)
        self._update("vae", {"VAE divergence": divergence, "VAE squared error": squared})
        error: Tensor = (decoded.detach() - pose).reshape(len(pose), -1, 3).norm(dim=-1).mean() * POSE_UNIT_MM
        return {"loss/vae_kl": divergence.detach(), "loss/vae_sse": squared.detach(), "vae/mean_mm": error}

    # --- stage 2: the depth GAN ---

    def _gan_update(self, batch: Batch, *, log: bool) -> Terms:
        (captured, z), run = batch, self._run
        captured = self._sloped(captured)
        fakes = run(self._gen, z, track=True)
        real_logits, _ = self._judged(run(self._trunk, captured, track=True), track=True)
        fake_logits, _ = self._judged(run(self._trunk, fakes.detach()))
        critic = {"gan": losses.says_real(real_logits) + losses.says_generated(fake_logits)}
        critic |= self._penalty(real_logits, captured)
        self._update("critic", critic)
        with torch.no_grad():
            _, real_features = self._judged(run(self._trunk, captured))
        logits, features = self._judged(run(self._trunk, fakes))
        generator = self._generator_term(real_features, features, logits)
        self._update("generator", {"generator": generator})
        terms: Terms = {f"loss/{name}": term.detach() for name, term in critic.items()}
        terms["loss/generator"] = generator.detach()
        if log:
            played = Played(captured, fakes, real_logits, fake_logits, real_features, features)
            terms |= health(played, self.ranks)
        return terms

    # --- stage 3: alignment ---

    def _align_update(self, batch: Batch, *, log: bool) -> Terms:
        nets, arm, run = self.nets, self.arm, self._run
        x, pose, z, z_r = batch
        fakes = self._rendered(torch.cat([z, z_r]))
        with torch.no_grad():
            trunk = run(self._trunk, x, track=True)
            fake_trunk = run(self._trunk, fakes) if arm.smo else None
        estimate = run(nets.pos, trunk, track=True)
        terms = {"reconstruction": losses.reconstruction(x, fakes[: len(x)])}
        terms["position"] = losses.position(estimate, z)
        if fake_trunk is not None:
            phi_self, phi_r = run(nets.smo, fake_trunk).split(len(x))
            phi = run(nets.smo, trunk, track=True)
            terms["smoothness"] = losses.smoothness(phi_r, phi, phi_self, z_r, z)
        # The terms share no trained weight: one backward pass gives Ali, pos and smo each their own gradient.
        self._update("heads", terms)
        logged: Terms = {f"loss/{name}": term.detach() for name, term in terms.items()}
        if log:
            logged["train/mean_mm"] = self._error_mm(estimate, pose)
            logged |= health(Played(x, fakes[: len(x)])) | self._space_health(x)
        return logged

    # --- stage 4: everything but the VAE ---

    def _joint_update(self, batch: Batch, *, log: bool) -> Terms:
        nets, arm, run = self.nets, self.arm, self._run
        x, pose, z, z_r, *others = batch
        n = len(x)
        captured = self._sloped(torch.cat([x, *others]) if others else x)
        fakes = self._rendered(torch.cat([z, z_r]))  # Z = Z_l u Z_r

        trunk, fake_trunk = run(self._trunk, captured, track=True), run(self._trunk, fakes.detach())
        estimate = run(nets.pos, trunk[:n], track=True)
        critic = {"position": losses.position(estimate, z)}
        if arm.smo:
            phi_self, phi_r = run(nets.smo, fake_trunk).split(n)
            phi = run(nets.smo, trunk[:n], track=True)
            critic["smoothness"] = losses.smoothness(phi_r, phi, phi_self, z_r, z)
        logits = fake_logits = features = matched = None
        if arm.gan:
            (logits, _), (fake_logits, _) = self._judged(trunk, track=True), self._judged(fake_trunk)
            critic["gan"] = losses.says_real(logits) + losses.says_generated(fake_logits)
            critic |= self._penalty(logits, captured)
        self._update("critic", critic)

        # The generator's step sees the updated discriminator, whose weights are constants in it.
        generator = {"reconstruction": losses.reconstruction(x, fakes[:n])}
        if arm.smo or arm.gan:
            with torch.no_grad():
                trunk = run(self._trunk, captured if arm.gan else x)
                phi_x = run(nets.smo, trunk[:n]) if arm.smo else None
                features = self._judged(trunk)[1] if arm.gan else None
            fake_trunk = run(self._trunk, fakes)
            if phi_x is not None:
                phi_self, phi_r = run(nets.smo, fake_trunk).split(n)
                generator["smoothness"] = losses.smoothness(phi_r, phi_x, phi_self, z_r, z)
            if features is not None:
                judged, matched = self._judged(fake_trunk)
                generator["gan"] = self._generator_term(features, matched, judged)
        self._update("generator", generator)

        logged: Terms = {f"loss/{name}": term.detach() for name, term in critic.items()}
        logged |= {f"loss/g_{name}": term.detach() for name, term in generator.items()}
        if log:
            logged["train/mean_mm"] = self._error_mm(estimate, pose)
            # Diversity is compared where the poses are the same: X_l, and what Z_l generates.
            logged |= health(Played(x, fakes[:n], logits, fake_logits, features, matched), self.ranks)
            logged |= self._space_health(captured)
        return logged

    # --- the baselines' stage: `pos` alone ---

    def _pose_update(self, batch: Batch, *, log: bool) -> Terms:
        images, pose, z = batch
        estimate = self._run(self.nets.pos, self._run(self._trunk, images, track=True), track=True)
        loss = losses.position(estimate, z)
        self._update("pose", {"position": loss})
        logged: Terms = {"loss/position": loss.detach()}
        return logged | ({"train/mean_mm": self._error_mm(estimate, pose)} if log else {})

    # --- what the stages share ---

    def _generator_term(self, captured: Tensor, generated: Tensor, logits: Tensor) -> Tensor:
        """The generator's side of the GAN: features (B, F) of both kinds, logits of generated images."""
        if self.config.generator_loss == "non-saturating":
            return losses.says_real(logits)
        return losses.feature_matching(captured, generated, self.ranks)

    def _run(self, net: Callable[..., Tensor], x: Tensor, *, track: bool = False) -> Tensor:
        """A network's output, in float32 as losses want it; inside it numbers may be shorter."""
        with self.execution.autocast():
            out = net(x, track=track)
        return self.execution.full(out)

    def _judged(self, trunk: Tensor, *, track: bool = False) -> tuple[Tensor, Tensor]:
        """Logits and features of the discriminator's own task; the logit's layer is in float32."""
        with self.execution.autocast():
            features = self.nets.gan.flat(trunk, track)
        features = self.execution.full(features)
        return self.nets.gan.score(features)[:, 0], features

    def _rendered(self, z: Tensor) -> Tensor:
        """Depth of shared latents, the render route in training."""
        return self._run(self._gen, self._run(self.nets.ali, z, track=True), track=True)

    def _update(self, name: str, terms: Mapping[str, Tensor]) -> None:
        """Check the terms, then one step of an optimiser on their sum; no other weight gets a gradient."""
        self.guard.check({f"{term} loss": value for term, value in terms.items()})
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward(inputs=_parameters(optimizer))
        scale = self.config.generator_rate if name == "generator" else 1.0
        self.guard.update(optimizer, name=f"{name} ({self.stage})", scale=scale)
        if self.nets.average is not None and name in ("generator", "heads"):
            # Short runs would never leave their start at a decay meant for long ones.
            age = self._index - self.config.vae_steps
            self.nets.follow(min(self.config.generator_average, (1 + age) / (10 + age)))

    def _sloped(self, captured: Tensor) -> Tensor:
        """The images, as leaves that R1 can ask for the slope at."""
        return captured.detach().requires_grad_() if self.config.r1 else captured

    def _penalty(self, logits: Tensor, captured: Tensor) -> dict[str, Tensor]:
        return {"r1": self.config.r1 * losses.slope_penalty(logits, captured)} if self.config.r1 else {}

    def _space_health(self, images: Tensor) -> dict[str, Tensor | float]:
        """How well captured images come back through the shared space; synthetic ones where there is no other."""
        captured = images.detach()[self._synthetic :]
        captured = captured if len(captured) else images.detach()
        _, generated = through_the_space(self.nets, captured)
        return {"space/reconstruction": losses.reconstruction(captured, generated)}

    @torch.no_grad()
    def _error_mm(self, z: Tensor, pose: Tensor) -> Tensor:
        """Mean joint error of estimated latents on this step's images."""
        error: Tensor = (self.nets.pose_of(z) - pose).norm(dim=-1).mean() * POSE_UNIT_MM
        return error


def _parameters(optimizer: torch.optim.Adam) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
