"""What a run of MURAUER is told: arms, presets, every number of the paper's appendix A.1.

`paper` is the published recipe; `fast` halves the widths at 64 px; `quick` is for minutes on two CPU cores,
its lengths chosen by time and its rates on synthetic validation data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from ..stores.config import checked
from ..stores.errors import HandloomError
from .config import Needs, TrainConfig
from .murauer_losses import Weights
from .murauer_nets import Architecture

EPOCH_STEPS: Final = 1137
"""Steps of an epoch of the paper: 72,757 samples in batches of 64, whatever data is used."""


@dataclass(frozen=True, slots=True)
class Arm:
    """What one of the paper's experiments (Fig. 4) learns from."""

    synth: bool = True
    labelled: bool = True
    view: bool = False
    match: bool = False
    passing: bool = False
    """Unlabelled images go through the networks (so through batch normalisation) and add no loss."""


ARMS: Final[Mapping[str, Arm]] = {
    "synthetic-only": Arm(labelled=False),
    "real-only": Arm(synth=False),
    "real+synthetic": Arm(),
    "+distribution-matching": Arm(match=True),
    "+view-prediction": Arm(view=True),
    "full": Arm(view=True, match=True),
    "control": Arm(passing=True),
}


class MurauerConfig(TrainConfig):
    """Everything a run of MURAUER depends on besides its recordings."""

    method: Literal["murauer"] = "murauer"
    architecture: Architecture = Architecture()
    weights: Weights = Weights()
    batch: int = Field(default=64, ge=4)
    """Samples a step, of all processes together: four sub-batches of a quarter each in joint training."""
    learning_rate: float = Field(default=3.3e-4, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    decay: float = Field(default=0.04, ge=0)
    """Exponential decay of the learning rate an epoch, from the fourth on."""
    pretrain_steps: int = Field(default=150 * EPOCH_STEPS, ge=0)
    pretrain_epochs: int = Field(default=150, ge=1)
    """Epochs of the schedule that the steps of pre-training are spread over."""
    joint_steps: int = Field(default=120 * EPOCH_STEPS, ge=0)
    joint_epochs: int = Field(default=120, ge=1)
    parity: Literal["paper", "released"] = "paper"
    """'released': what the authors' program does where it differs from their paper."""
    batch_norm: Literal["shared", "domain"] = "shared"
    """Running statistics: one set for both domains, or one each."""
    mapping_start: Literal["default", "identity"] = "default"
    """Initial m: PyTorch's default, or one that passes its input through and is left so while there is no labelled
    frame. Only l_g and l_m would move it then, whose gradients are thousands of times smaller than the others', and
    Adam makes full steps of them all the same: on validation frames of the gap benchmark the error rose by half, and
    with m left alone it did not (benchmarks/RESULTS.md)."""
    frontal_view: int | None = Field(default=None, ge=0)
    """The only view labelled and matched images are drawn from; None: every view."""
    view_pair: tuple[int, int] | None = None
    """The only (input, target) cameras of view prediction; None: every ordered pair."""
    view_center_noise_mm: float = Field(default=15.0, ge=0)
    """Standard deviation of the noise on the centre the view decoder is told."""

    @model_validator(mode="after")
    def _stages_have_data(self) -> Self:
        if self.pretrain_steps and not ARMS[self.arm].synth:
            raise ValueError(f"pretrain_steps must be 0: the arm '{self.arm}' has no synthetic images")
        if self.joint_steps and self.arm == "synthetic-only":
            raise ValueError("joint_steps must be 0: the arm 'synthetic-only' ends with pre-training")
        return self

    @model_validator(mode="after")
    def _views_are_as_large_as_images(self) -> Self:
        stages = len(self.architecture.view_channels)
        side = 4 * 2**stages
        if self.input_px not in (side, 2 * side):
            raise ValueError(
                f"input_px must be {side} or {2 * side}: so large are the views that {stages} stages of "
                "architecture.view_channels make"
            )
        return self

    @property
    def needs(self) -> Needs:
        """What this arm cannot do without."""
        arm = ARMS[self.arm]
        return Needs(
            synth=arm.synth,
            real=self.arm != "synthetic-only",
            labels=self.arm == "real-only",
            twins=arm.synth and arm.labelled and self.weights.correspondence > 0,
            pairs=arm.view,
        )


def preset(name: str, arm: str, **overrides: Any) -> TrainConfig:
    """The configuration called quick, fast or paper for one of `ARMS` or 'preview'.

    Raises:
        HandloomError: the preset, the arm or an override is not one.
    """
    if arm == "preview":
        from . import preview

        return preview.preset(name, **overrides)
    if arm not in ARMS:
        raise HandloomError(f"MURAUER has no arm '{arm}'", why=f"known: {', '.join(ARMS)}, preview")
    chosen: dict[str, Any]
    match name:
        case "quick":
            chosen = {
                "input_px": 64,
                "architecture": Architecture(
                    features="plain",
                    stem=32,
                    channels=(64, 128),
                    mid=(),
                    feature_width=256,
                    view_channels=(64, 32, 16),
                ),
                "batch": 32,
                # Measured on synthetic validation hands: 4e-3 learns most from scratch, but in joint training it
                # loses what pre-training had learned.
                "learning_rate": 4e-3 if arm in ("synthetic-only", "real-only") else 2e-3,
                "weight_decay": 0.0,
                "centers": "located",
                "mapping_start": "identity",
                # At 4,000 the network has not learned the synthetic set itself: see the quickstart in RESULTS.md.
                "pretrain_steps": 10_000,
                "pretrain_epochs": 120,
                "joint_steps": 1200,
            }
        case "fast":
            chosen = {
                "input_px": 64,
                "architecture": Architecture(
                    stem=16,
                    channels=(32, 64, 128, 128),
                    mid=(8, 16, 32, 32),
                    feature_width=256,
                    view_channels=(256, 128, 64, 32),
                ),
                "pretrain_steps": 40_000,
                "joint_steps": 30_000,
                "centers": "located",
                "mapping_start": "identity",
            }
        case "paper":
            chosen = {"frontal_view": 0}
        case _:
            raise HandloomError(f"There is no preset '{name}'", why="known: quick, fast, paper")
    if not ARMS[arm].synth:
        chosen["pretrain_steps"] = 0
    if arm == "synthetic-only":
        chosen["joint_steps"] = 0
    return checked(MurauerConfig, {"preset": name, "arm": arm} | chosen | overrides)


def after_pretraining(config: MurauerConfig) -> MurauerConfig:
    """The configuration of a run whose f and p come from another run."""
    return config.model_copy(update={"pretrain_steps": 0})
