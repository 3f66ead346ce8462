"""The losses of Crossing Nets (Wan et al., CVPR 2017), in the reading under which they train.

Where the paper's text cannot be meant as it stands, this is what is computed, and why:

- Eq. 6 and algorithm 1, line 14 write max(., tau) and call it a *clipped* error: it is the squared error of
  each pixel, at most tau = 1 (`reconstruction`).
- Eq. 9 to 11 sum Euclidean norms of columns and divide by N; algorithm 1, lines 14 and 15 do not even divide. Here
  every term is a mean over samples **and** dimensions, so that equal weights mean the same at any input size.
- Eq. 10 takes a norm of logarithms: plain binary cross entropy (`says_real`, `says_generated`). Its sign in
  eq. 7 and 8 is reversed, algorithm 1 is right: the discriminator lowers its cross entropy.
- The generator's side of it is feature matching (section 3.2, Salimans et al. 2016), in the mean L1 form
  (`feature_matching`), of what the last convolution's normalisation and leaky ReLU leave; the non-saturating loss
  `says_real` of generated images is the option.
- Eq. 9's smo(a, b) is phi(a) - phi(b) (figure 2, Siamese).
- "z_y = Ali(z_x)" is the wrong way round: a pose's latent becomes the depth GAN's (`crossing_nets.Alignment`).
- Algorithm 1, line 9 encodes images; Enc takes poses (`crossing.Learner._shared`).
- "Gaussian noise with 0.05 standard deviation" behind Enc is that of epsilon in z = mean + sigma epsilon, in the
  VAE's own stage too (`crossing_nets.CrossingNets.shared`).
- What else algorithm 1 leaves open, the order of its two updates and its unused split, stands in `crossing_updates`.
- Noise of stage 4 is drawn as convex combinations of labelled latents (section 4.4, `convex_combinations`),
  not from the prior (algorithm 1, line 7), which is the option.

All functions are pure; scalars are means. The VAE's loss is the exception: KL + SSE / 2 are summed over
dimensions, as the evidence bound has them, and averaged over samples (eq. 2 to 4 with unit variance).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .ranks import ALONE, Ranks
from .sampling import uniform

CLIP = 1.0
"""tau of eq. 6: no pixel costs more, whatever the sensor did to it."""
COMBINED = 5
"""How many labelled latents make one of stage 4's noise vectors."""


def vae_loss(pose: Tensor, decoded: Tensor, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 2 to 4: KL(N(mean, sigma^2) | N(0, 1)) and SSE / 2, both summed over dimensions, mean over (B,).

    Args:
        pose: (B, D).
        decoded: (B, D), of a latent sampled around the mean.
        mean: (B, 20).
        log_variance: (B, 20).
    """
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(dim=1)
    return divergence.mean(), 0.5 * ((decoded - pose) ** 2).sum(dim=1).mean()


def reconstruction(captured: Tensor, generated: Tensor) -> Tensor:
    """Eq. 6 read as a clipped error: mean over pixels of min((x - x')^2, 1); images (B, 1, P, P)."""
    return ((captured - generated) ** 2).clamp(max=CLIP).mean()


def smoothness(phi_r: Tensor, phi_l: Tensor, phi_self: Tensor, z_r: Tensor, z_l: Tensor) -> Tensor:
    """Eq. 9: how far differences of phi are from differences of the latents behind the images.

    mean[(phi(x'_r) - phi(x_l) - (z_r - z_l))^2 + (phi(x'_l) - phi(x_l))^2].

    Args:
        phi_r: (B, 23) of images generated from the noise `z_r`.
        phi_l: (B, 23) of the labelled images.
        phi_self: (B, 23) of images generated from the labelled images' own latents `z_l`.
        z_r: (B, 23).
        z_l: (B, 23).
    """
    combined = phi_r - phi_l - (z_r - z_l)
    return (combined**2 + (phi_self - phi_l) ** 2).mean()


def position(estimate: Tensor, z_l: Tensor) -> Tensor:
    """Eq. 11: mean squared error of the estimated latents (B, 23)."""
    return functional.mse_loss(estimate, z_l)


def says_real(logits: Tensor) -> Tensor:
    """BCE(D, 1) of logits (B,) of captured images; of generated ones, the non-saturating generator's loss."""
    return functional.softplus(-logits).mean()


def says_generated(logits: Tensor) -> Tensor:
    """BCE(D, 0) of logits (B,): the discriminator on generated images."""
    return functional.softplus(logits).mean()


def feature_matching(captured: Tensor, generated: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Mean L1 between the batch means of two sets of features (B, F), (B', F), of all ranks."""
    return (ranks.mean(captured.mean(dim=0)) - ranks.mean(generated.mean(dim=0))).abs().mean()


def convex_combinations(latents: Tensor, key: int, step: int, count: int) -> Tensor:
    """(count, 23) noise: each row combines 5 rows of the latents (B, 23) with weights U(0, 1), normalised."""
    rows = torch.arange(step * count, (step + 1) * count, device=latents.device)
    draws = uniform(key, rows, 2 * COMBINED)
    chosen = (draws[:, :COMBINED] * len(latents)).to(torch.int64).clamp_(max=len(latents) - 1)
    weights = draws[:, COMBINED:] / draws[:, COMBINED:].sum(dim=1, keepdim=True)
    return (weights[:, :, None] * latents[chosen]).sum(dim=1)


def slope_penalty(logits: Tensor, captured: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): mean over captured images (B, 1, P, P) of the squared slope of D there, halved.

    Args:
        logits: (B,), of these images.
        captured: leaves of the graph.
    """
    (slope,) = torch.autograd.grad(logits.sum(), captured, create_graph=True)
    return 0.5 * slope.square().flatten(1).sum(dim=1).mean()
