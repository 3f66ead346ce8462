"""Crossing Nets (Wan et al., CVPR 2017): a pose VAE and a depth GAN whose latent spaces cross.

A pose y has a latent z = Enc(y); the render route Gen(Ali(z)) makes depth of it, and the discriminator's
`pos` finds z again in depth. Four stages, each step a function of (seed, step) as the shared loop asks:

    vae    eq. 2 to 4 on poses
    gan    depth GAN on every image, generator by feature matching; z ~ U(-1, 1)
    align  Ali by the reconstruction loss (Gen frozen); pos and smo on the frozen trunk
    joint  algorithm 1: a step of {trunk, gan, pos, smo} on L_D, then a step of {Ali, Gen} on L_G; VAE frozen
           L_D = pos + smo + gan,  L_G = recons + smo + gan

**Where unlabelled images enter**: with the labelled ones they are the captured batch X_l u X_u of the
discriminator's term, of the feature matching's mean, and of the trunk's batch statistics. Only X_l has poses.

This module says what is drawn for a step and when a stage begins; what a step lowers stands in `crossing_updates`.

Cost of a joint step: 0.2 CPU seconds at 64 px and batch 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..stores.errors import HandloomError
from ..stores.joints import layout_named
from . import crossing_losses as losses
from .crossing_batches import Pool, Source, image_pool, labelled_pool, unlabelled_pool
from .crossing_check import described, distances
from .crossing_health import Shown, epochs_shown, sheet
from .crossing_nets import CrossingNets, PoseNet, stretched
from .crossing_recipe import ARMS, CrossingConfig, Stage, after_pretraining, preset
from .crossing_updates import Batch, Updates
from .data import TrainingData
from .device import execution
from .ranks import ALONE, Ranks
from .samples import Sample
from .sampling import key_of, normal, uniform
from .updates import FiniteGuard, adam_state, load_adam_state

__all__ = ["Learner", "after_pretraining", "build_nets", "pose_net", "preset"]

_CHECKED = 1024
"""How many training images tell what the distance of a hand is (`crossing_check`)."""
_STARTING_POSES = 4096
"""How many poses the principal components are taken from."""


class Learner:
    """Crossing Nets in training (`train.Learner`)."""

    def __init__(self, config: CrossingConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
        self.config, self.data, self.arm, self.ranks = config, data, ARMS[config.arm], ranks
        check_latent(config, data)
        self.execution = execution(
            config,
            data.device,
            ranks,
            channels_last=True,
            no_graph="the averaged generator's decay is another in each step" if config.generator_average else "",
        )
        self.guard = FiniteGuard(data.device, ranks)
        self._hand_check: dict[str, Any] | None = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_of(config.seed, "weights") >> 1)
            self.nets = self.execution.laid_out(build_nets(self.describe()).to(data.device))
        self._key = key_of(config.seed, "crossing")
        self.posed = labelled_pool(config, data, "poses", config.vae_batch, images=False, ranks=ranks)
        self.labelled = labelled_pool(config, data, "labelled", config.batch, ranks=ranks)
        self.unlabelled = unlabelled_pool(config, data, "unlabelled", ranks)
        self.seen = image_pool(config, data, "images", ranks)
        batches = range(max(1, _STARTING_POSES // config.vae_batch))
        whole = replace(self.posed, ranks=ALONE)  # every rank starts from the poses of all
        poses = torch.cat([whole.poses(step) for step in batches])
        self.nets.vae.start_from_principal_components(self.nets.about_palm(poses)[0])
        synthetic = sum(part.size // ranks.count for part in self.labelled.parts if part.bank is data.synth)
        self.updates = Updates(config, self.nets, self.execution, self.guard, ranks, synthetic=synthetic)
        self._shown = Shown.of(config, data)

    @property
    def total_steps(self) -> int:
        """All stages."""
        return sum(steps for _, steps in self.config.stages)

    def step(self, index: int, *, log: bool) -> dict[str, Tensor | float]:
        """One step of whichever stage `index` falls in."""
        place, step = self._place(index)
        stages = self.config.stages
        stage, steps = stages[place]
        if stage != self.updates.stage:
            self.updates.enter(stage)
        rate = self._rate(stage, step, steps, final=stage == "vae" or place == len(stages) - 1)
        self.guard.begin(index, rate)
        terms = self.updates.step(self._batch(stage, step), index, log=log)
        if index + 1 == self.total_steps and not self.arm.pose_only:
            self._hand_check = self._known_hands()
        return {"stage": float(place), "lr": rate} | terms

    def _place(self, index: int) -> tuple[int, int]:
        """The number of the stage that a step falls in, and that of the step in it."""
        place, step = 0, index
        stages = self.config.stages
        while step >= stages[place][1]:
            step -= stages[place][1]
            place += 1
        return place, step

    def samples(self, index: int, term: str) -> list[Sample]:
        """The samples of a step, whatever the term."""
        place, step = self._place(index)
        match self.config.stages[place][0]:
            case "vae":
                return self.posed.samples(step, "poses", images=False)
            case "gan":
                return self.seen.samples(step, "images")
            case "joint":
                return self.labelled.samples(step, "labelled") + self.unlabelled.samples(step, "unlabelled")
            case _:
                return self.labelled.samples(step, "labelled")

    def _rate(self, stage: Stage, step: int, steps: int, *, final: bool) -> float:
        """Learning rate; where a stage leaves networks as they stay, it may fall to zero at the end."""
        config = self.config
        rates = {"vae": config.vae_rate, "gan": config.gan_rate, "align": config.align_rate}
        rate, cooling = rates.get(stage, config.joint_rate), config.cooldown * steps
        return rate * min(1.0, (steps - step) / cooling) if final and cooling else rate

    def _batch(self, stage: Stage, step: int) -> Batch:
        """All that is drawn for a step of a stage: its arithmetic is a function of these tensors."""
        match stage:
            case "vae":
                return (self.posed.poses(step), self._latent_noise("vae", step, self.posed))
            case "gan":
                z = 2 * uniform(self._key ^ 1, self._numbers(step, self.seen), self.nets.dims) - 1
                return (self._image(self.seen.images(step)), z)
            case "align":
                return self._labelled_batch(step)
            case "joint":
                others = (self._image(self.unlabelled.images(step)),) if self.unlabelled.batch else ()
                return (*self._labelled_batch(step), *others)
            case "pose":
                images, pose = self.labelled.labelled(step)
                return (self._image(images), pose, self._shared(step, pose))

    def _labelled_batch(self, step: int) -> Batch:
        """Images X_l, their poses in 50 mm, latents Z_l and noise Z_r."""
        images, pose = self.labelled.labelled(step)
        z = self._shared(step, pose)
        if self.config.noise == "convex":
            sizes, everybody = self.labelled.sizes, self.ranks.gathered(z, self.labelled.sizes)
            z_r = losses.convex_combinations(everybody, self._key ^ 2, step, len(everybody))
            z_r = z_r if self.ranks.alone else z_r[self.ranks.rows(sizes, z.device)]
        else:
            # The prior says nothing about the palm's offset: it stays that of the labelled frame.
            rows = self._numbers(step, self.labelled)
            z_r = torch.cat([normal(self._key ^ 2, rows, self.nets.latent), z[:, self.nets.latent :]], dim=1)
        return self._image(images), pose, z, z_r

    def _shared(self, step: int, pose: Tensor) -> Tensor:
        """Z_l = Enc(Y_l) with the noise of training, of poses, whatever algorithm 1, line 9 says.

        The VAE is frozen wherever this is used.
        """
        with torch.no_grad():
            return self.nets.shared(pose, self._latent_noise("labelled", step, self.labelled))

    def _latent_noise(self, stream: str, step: int, pool: Pool) -> Tensor:
        rows = self._numbers(step, pool)
        return self.config.latent_noise * normal(key_of(self._key, stream), rows, self.nets.latent)

    def _numbers(self, step: int, pool: Pool) -> Tensor:
        """(n,) running numbers over the training of this rank's samples of a step."""
        return step * pool.batch + self.ranks.rows(pool.sizes, self.data.device)

    def _image(self, images: Tensor) -> Tensor:
        return stretched(images) if self.config.normalisation == "min-max" else images

    def _known_hands(self) -> dict[str, Any]:
        """How training images come back through the shared space: captured ones as they are, else synthetic ones."""
        data, config = self.data, self.config
        pool, images = replace(self.seen, ranks=ALONE), "synthetic"
        if data.real is not None and (self.arm.real or self.arm.unlabelled):
            images = "captured"
            frames = data.unlabelled if self.arm.unlabelled else data.labelled
            # Around the centres as they were found: what a recording will be looked at around.
            bank = replace(data.real, offset_mm=torch.zeros_like(data.real.offset_mm))
            pool = Pool.of(config, "check", [Source(bank, bank.singles(frames))], config.gan_batch)
        steps = range(max(1, min(_CHECKED // pool.batch, sum(len(part.crops) for part in pool.parts) // pool.batch)))
        found = [distances(self.nets, self._image(pool.images(step))) for step in steps]
        return described(torch.cat(found), images)

    # --- what a run keeps ---

    def sheets(self, done: int) -> dict[str, bytes]:
        """A picture of captured and generated maps at the end of an epoch, and of a stage: PNG by file name."""
        place, step = self._place(done - 1)
        stage, steps = self.config.stages[place]
        epoch_steps = self._epoch_steps(stage)
        generates = stage == "gan" or (stage in ("align", "joint") and not self.arm.pose_only)
        if not generates or step + 1 not in epochs_shown(steps, epoch_steps):
            return {}
        rows = self._shown.rows(self.nets, self._image, noise_key=self._key ^ 3, space=stage != "gan")
        return {f"{stage}-{-(-(step + 1) // epoch_steps):04d}.png": sheet(rows)}

    def _epoch_steps(self, stage: Stage) -> int:
        """Steps in which a stage sees as many crops as it draws from."""
        pools = {"gan": [self.seen], "joint": [self.labelled, self.unlabelled]}.get(stage, [self.labelled])
        crops = sum(len(part.crops) for pool in pools for part in pool.parts)
        return max(1, crops // sum(pool.batch for pool in pools))

    def pose_net(self) -> PoseNet:
        """The inference path over the weights in training."""
        return pose_net(self.nets, self.describe())

    def describe(self) -> dict[str, Any]:
        """Plain values from which `build_nets` and `pose_net` make the networks again."""
        config, data = self.config, self.data
        return {
            "method": "crossing",
            "preset": config.preset,
            "arm": config.arm,
            "layout": data.layout.name,
            "hand": data.hand,
            "input_px": config.input_px,
            "cube_mm": config.cube_mm,
            "normalisation": config.normalisation,
            "architecture": {
                "channels": config.channels,
                "latent": config.latent,
                "hidden": config.hidden,
                **({"averaged": True} if config.generator_average else {}),
            },
            "n_labels": data.n_labels if self.arm.real else 0,
            "hand_check": self._hand_check,
            "execution": self.execution.describe(),
            "config": config.model_dump(mode="json"),
            "torch": str(torch.__version__),
        }

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Take every network of another run: VAE and `pos` speak one latent language, neither goes alone."""
        theirs, ours = checkpoint["description"], self.describe()
        for name in ("method", "layout", "input_px", "cube_mm", "normalisation", "architecture", "hand"):
            if theirs.get(name) != ours[name]:
                raise HandloomError(
                    f"The run to start from differs in {name}",
                    where="--init",
                    why=f"{theirs.get(name)} there, {ours[name]} here",
                    fix="pre-train with the same preset, layout and options",
                )
        self.nets.load_state_dict(checkpoint["weights"])

    def training_state(self) -> dict[str, Any]:
        """The optimisers of the stage in progress; draws, noise and rates follow from the step."""
        states = {name: adam_state(optimizer) for name, optimizer in self.updates.optimizers.items()}
        return {"stage": self.updates.stage, "optimizers": states}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Undo `training_state`."""
        if state["stage"] is None:
            return
        self.updates.enter(state["stage"])
        for name, optimizer in self.updates.optimizers.items():
            load_adam_state(optimizer, state["optimizers"][name])


def check_latent(config: CrossingConfig, data: TrainingData) -> None:
    """Refuse a latent that has more dimensions than a pose about its palm.

    Raises:
        HandloomError: it has.
    """
    free = 3 * (len(data.layout) - 1)
    if config.latent > free:
        raise HandloomError(
            f"A latent of {config.latent} dimensions is larger than the pose itself",
            where="key 'latent'",
            why=f"the {len(data.layout)} joints of layout '{data.layout.name}' are {free} numbers about the palm",
            fix=f"-o latent={min(20, free)}",
        )


def check_data(config: CrossingConfig, data: TrainingData, ranks: Ranks = ALONE) -> None:
    """Refuse what no step could be made of; `data` may lack its images.

    Raises:
        HandloomError: the latent is too large, no frame shows a whole pose, or the ranks cannot share the batch.
    """
    check_latent(config, data)
    labelled_pool(config, data, "poses", config.vae_batch, images=False, ranks=ranks)
    labelled_pool(config, data, "labelled", config.batch, ranks=ranks)
    unlabelled_pool(config, data, "unlabelled", ranks)
    image_pool(config, data, "images", ranks)


def build_nets(description: Mapping[str, Any]) -> CrossingNets:
    """The networks of a described model, with fresh weights from PyTorch's generator."""
    layout = layout_named(description["layout"])
    nets = CrossingNets(
        input_px=description["input_px"],
        joints=len(layout),
        palm=layout.palm,
        **description["architecture"],
    )
    # Channels last: a joint step on the CPU takes a fifth less.
    nets.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return nets


def pose_net(nets: CrossingNets, description: Mapping[str, Any]) -> PoseNet:
    """The inference path of described networks, over their weights."""
    return PoseNet(nets, min_max=description["normalisation"] == "min-max")
