"""The losses of MURAUER and what weighs them, as means (Poier et al., WACV 2019).

The paper sums each term over the elements of a sample. Here every term is a mean, so that a learning rate
means the same at every size; the weight of a mean over n elements is that of the sum times n / 3J, with 3J
the elements of the pose (`mean_weights`: 4.876, 0.0390, 2.4e-7 at 42 outputs, 1024 features, 128 x 128 px).
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from .ranks import ALONE, Ranks


class Weights(BaseModel):
    """Weights of the terms as the paper gives them: for sums over the elements of a sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    correspondence: float = Field(default=0.2, ge=0)
    view: float = Field(default=1e-4, ge=0)
    matching: float = Field(default=1e-5, ge=0)


def pose_loss(predicted: Tensor, joints: Tensor, known: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """l_p, Eq. 5: mean squared error over the known coordinates of (B, J, 3), of all ranks."""
    squared = (predicted - joints).square() * known[..., None]
    return squared.sum() / ranks.counted(3 * known.sum())


def correspondence_loss(z_real: Tensor, z_twin: Tensor, paired: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """l_c, Eq. 8: mean squared distance of (B, F) where (B,) says there is a twin; trains the real side."""
    squared = (z_real - z_twin.detach()).square() * paired[:, None]
    return squared.sum() / ranks.counted(paired.sum() * z_real.shape[1])


def view_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """l_g, Eq. 10: mean absolute error over the pixels of (B, 1, S, S)."""
    return (predicted - target).abs().mean()


def matching_loss(score_real: Tensor, *, half: float = 0.5) -> Tensor:
    """l_m, Eq. 13: scores (B, 1) of real latents should be those of synthetic ones, 0."""
    return half * score_real.square().mean()


def discriminator_loss(score_real: Tensor, score_synth: Tensor, *, half: float = 0.5) -> Tensor:
    """l_h, Eq. 12: real latents score 1, synthetic ones 0; each (B, 1)."""
    return half * ((score_real - 1).square().mean() + score_synth.square().mean())


def mean_weights(weights: Weights, *, joints: int, feature_width: int, input_px: int) -> dict[str, float]:
    """Weights of the means that equal the paper's weights of sums, relative to l_p's mean over 3J."""
    outputs = 3 * joints
    return {
        "pose": 1.0,
        "correspondence": weights.correspondence * feature_width / outputs,
        "view": weights.view * input_px**2 / outputs,
        "matching": weights.matching / outputs,
    }


def learning_rate_factor(epoch: int, decay: float = 0.04) -> float:
    """Eq. 15: two warm-up stages of two epochs, then exponential decay."""
    return 0.33 ** (2 - epoch // 2) if epoch < 4 else math.exp(-decay * epoch)
