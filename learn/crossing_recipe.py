"""What a run of Crossing Nets is told: arms, lengths of its stages, presets.

Stages, in order: pose VAE, depth GAN, alignment, joint training (`Stage`). Arms that train `pos` alone
(the baselines of section 5.1) have one stage of poses in the place of the last two, of the same length.

`quick` takes 66 s on two idle cores (VAE 7, GAN 7, alignment 2, joint 49) and is bound by them, not by its rates
or widths: half the channels and twice the steps, batches of 16 or 32 and rates of 1e-3 to 3e-3 all came within
1.2 mm on a synthetic validation set of another hand and sensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from ..stores.config import checked
from ..stores.errors import HandloomError
from .config import Needs, TrainConfig
from .crossing_nets import head_convs

Stage = Literal["vae", "gan", "align", "joint", "pose"]

SAMPLES: Final = 72_757
"""NYU's training frames, of which an epoch of the paper is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one of the experiments learns from, and by which losses."""

    synth: bool = True
    """Synthetic frames are part of the labelled set."""
    real: bool = True
    """Labelled captured frames are."""
    unlabelled: bool = True
    """The remaining captured frames are the unlabelled set."""
    smo: bool = True
    """The smoothness task is played: its loss is part of L_D and L_G (section 5.2)."""
    gan: bool = True
    """Likewise the GAN task of joint training; the depth GAN of stage 2 is trained without it as well."""
    pose_only: bool = False
    """`pos` alone: neither generator nor the other two tasks."""
    pretrained: bool = True
    """The depth GAN is trained first, and its trunk kept."""


_SCRATCH: Final = Arm(pose_only=True, pretrained=False, unlabelled=False)

ARMS: Final[Mapping[str, Arm]] = {
    "full": Arm(),
    "synthetic-only": Arm(real=False, unlabelled=False),
    "real-only": Arm(synth=False, unlabelled=False),
    "real+synthetic": Arm(unlabelled=False),
    "scratch": _SCRATCH,
    "gan-pretrained": Arm(pose_only=True),
    "no-smo": Arm(smo=False),
    "no-gan": Arm(gan=False),
    "paper": Arm(synth=False),
    "paper-scratch": Arm(synth=False, pose_only=True, pretrained=False, unlabelled=False),
    "paper-gan-pretrained": Arm(synth=False, pose_only=True),
    "paper-no-smo": Arm(synth=False, smo=False),
    "paper-no-gan": Arm(synth=False, gan=False),
}
"""`paper...` and real-only use the method's own data, a partly labelled recording; the others add synthetic
frames."""


class CrossingConfig(TrainConfig):
    """Everything a run of Crossing Nets depends on besides its recordings."""

    method: Literal["crossing"] = "crossing"
    cube_mm: float = Field(default=250.0, gt=0)
    """Side of the cube around the hand's centre that the input shows."""
    rotation_deg: float = Field(default=0.0, ge=0, le=180)
    """In-plane rotation, uniform in +- this; the paper has none."""
    noise_mm: float = Field(default=0.0, ge=0)
    """Standard deviation of the white depth noise; the paper has none."""
    normalisation: Literal["cube", "min-max"] = "cube"
    """'min-max': the authors' stretch of each image, which loses absolute depth."""

    channels: int = Field(default=32, ge=1)
    """Of every convolution."""
    latent: int = Field(default=20, ge=1)
    """Dimensions of the VAE; the shared latent has three more."""
    hidden: int = Field(default=40, ge=1)
    """Hidden units of the VAE."""

    vae_steps: int = Field(default=200 * SAMPLES // 200, ge=0)
    gan_steps: int = Field(default=1001 * SAMPLES // 100, ge=0)
    align_steps: int = Field(default=20 * SAMPLES // 200, ge=0)
    joint_steps: int = Field(default=80 * SAMPLES // 200, ge=0)
    """'Up to epoch 100': the 20 epochs of alignment are counted among them."""
    batch: int = Field(default=200, ge=2)
    """Labelled samples a step of the last two stages, and as many unlabelled ones; of all processes together."""
    gan_batch: int = Field(default=100, ge=2)
    vae_batch: int = Field(default=200, ge=2)
    vae_rate: float = Field(default=3e-4, gt=0)
    gan_rate: float = Field(default=3e-4, gt=0)
    align_rate: float = Field(default=0.01, gt=0)
    """Of `Ali` and of the heads: the spec gives one number for the stage."""
    joint_rate: float = Field(default=1e-3, gt=0)
    cooldown: float = Field(default=0.0, ge=0, le=1)
    """Share of the VAE's and of the last stage over which the learning rate falls to zero; the paper's is
    constant."""
    beta1: float = Field(default=0.5, ge=0, lt=1)
    """Adam's first; its second is 0.999."""

    latent_noise: float = Field(default=0.05, ge=0)
    """Standard deviation of epsilon in z = mean + sigma epsilon, wherever a labelled pose is encoded."""
    noise: Literal["convex", "prior"] = "convex"
    """Z_r of joint training: convex combinations of labelled latents (section 4.4), or N(0, 1)."""
    generator_loss: Literal["feature-matching", "non-saturating"] = "feature-matching"
    r1: float = Field(default=0.0, ge=0)
    """Weight of the discriminator's squared slope at captured images, |dD/dx|^2 / 2 in the mean (R1; Mescheder et
    al. 2018); 0, the paper's: none. Not spectral normalisation: batch normalisation follows each convolution of the
    discriminator and would divide out again whatever the weights are divided by."""
    generator_rate: float = Field(default=1.0, gt=0)
    """Learning rate of {Ali, Gen} in the two games over the discriminator's; below 1 it follows a discriminator that
    has had time to answer (two time scales, Heusel et al. 2017)."""
    generator_average: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a running average of {Ali, Gen}, which then makes what a trained model shows; 0: no average."""
    real_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of captured frames in a batch that mixes them with synthetic ones."""

    @field_validator("input_px")
    @classmethod
    def _comes_down_to_four(cls, value: int) -> int:
        head_convs(value)
        return value

    @property
    def needs(self) -> Needs:
        """What this arm cannot do without."""
        arm = ARMS[self.arm]
        return Needs(synth=arm.synth, real=arm.real or arm.unlabelled, labels=arm.real and not arm.synth)

    @property
    def stages(self) -> tuple[tuple[Stage, int], ...]:
        """The stages of this arm and their steps, in order; those without steps are left out."""
        arm = ARMS[self.arm]
        plan: list[tuple[Stage, int]] = [("vae", self.vae_steps)]
        if arm.pretrained:
            plan.append(("gan", self.gan_steps))
        if arm.pose_only:
            plan.append(("pose", self.align_steps + self.joint_steps))
        else:
            plan += [("align", self.align_steps), ("joint", self.joint_steps)]
        return tuple((stage, steps) for stage, steps in plan if steps)


def preset(name: str, arm: str, **overrides: Any) -> TrainConfig:
    """The configuration called quick, fast or paper for one of `ARMS` or a nearest-neighbour baseline.

    Raises:
        HandloomError: the preset, the arm or an override is not one.
    """
    if arm in ("nearest", "paper-nearest"):
        from . import nearest

        return nearest.preset(name, arm, **overrides)
    if arm not in ARMS:
        known = ", ".join([*ARMS, "nearest", "paper-nearest"])
        raise HandloomError(f"Crossing Nets have no arm '{arm}'", why=f"known: {known}")
    chosen: dict[str, Any]
    match name:
        case "quick":
            chosen = {
                "input_px": 64,
                "centers": "located",
                "vae_steps": 4000,
                "vae_rate": 3e-3,
                "gan_steps": 80,
                "gan_rate": 1e-3,
                "gan_batch": 48,
                "align_steps": 40,
                "joint_steps": 400,
                "joint_rate": 2e-3,
                "batch": 32,
                "cooldown": 0.5,
            }
        case "fast":
            chosen = {
                "input_px": 64,
                "centers": "located",
                "vae_steps": 20_000,
                "vae_rate": 1e-3,
                "gan_steps": 20_000,
                "align_steps": 2_000,
                "joint_steps": 20_000,
                "batch": 64,
                "cooldown": 0.3,
            }
        case "paper":
            chosen = {}
        case _:
            raise HandloomError(f"There is no preset '{name}'", why="known: quick, fast, paper")
    return checked(CrossingConfig, {"preset": name, "arm": arm} | chosen | overrides)


def after_pretraining(config: CrossingConfig) -> CrossingConfig:
    """The configuration of a run whose networks start from another run's: neither VAE nor depth GAN anew."""
    return config.model_copy(update={"vae_steps": 0, "gan_steps": 0})
