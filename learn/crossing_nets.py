"""The networks of Crossing Nets (Wan et al., CVPR 2017, figure 2) and their shared latent space.

    vae    pose (B, D) <-> latent (B, 20)      D = 3 J, poses about the palm joint in units of 50 mm
    ali    shared latent (B, 23) -> latent of the depth GAN (B, 23) in (-1, 1)
    gen    latent (B, 23) -> depth (B, 1, P, P) in (-1, 1)
    trunk  depth (B, 1, P, P) -> (B, c, P/4, P/4), shared by the three tasks of the discriminator
    gan    trunk -> logit (B,) and the feature-matching layer (B, 16 c)
    pos    trunk -> shared latent (B, 23)
    smo    trunk -> phi (B, 23); smo(a, b) = phi(a) - phi(b), a Siamese pair

**The shared latent z has 23 dimensions: 20 of the VAE and the palm's offset from the crop's centre / 50 mm.**
The paper gives the number and not its meaning; the VAE models the pose relative to the palm joint.

Every convolution is 6 x 6 with stride 2 and c = 32 channels; a P x P input needs log2(P / 16) convolutions in
each head: three at 128 (the paper), two at 64 (`quick`, `fast`). Parameters at P = 128, D = 108: 6,000 and
5,268 (VAE) / 575 / 161,665 / 38,144 / 111,297 / 123,158 / 385,751.

**Batch normalisation.** Captured (and rendered) images and generated ones pass through the discriminator as
batches of their own, each normalised by its own statistics as in any DCGAN; the running statistics, which
inference uses, follow the former only (`track`).
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

POSE_UNIT_MM = 50.0
"""Poses are (joint - centre) / 50 mm."""
MOMENTUM = 0.1
"""Of the running statistics."""
KERNEL, BASE_PX = 6, 4
"""Side of every convolution, and of the smallest map."""
OFFSET_DIMS = 3
"""The palm's offset in the shared latent."""


class BatchNorm(nn.Module):
    """Batch normalisation whose running statistics follow only the batches that are tracked."""

    mean: Tensor
    variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels).normal_(1.0, 0.02))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, x: Tensor, track: bool) -> Tensor:
        """(B, c, ...) by the batch's own statistics in training, else by the running ones."""
        if not self.training:
            return functional.batch_norm(x, self.mean, self.variance, self.weight, self.bias)
        mean, variance = (self.mean, self.variance) if track else (None, None)
        return functional.batch_norm(x, mean, variance, self.weight, self.bias, True, MOMENTUM)


class Layer(nn.Module):
    """A convolution or linear map without bias, batch normalisation, leaky ReLU (slope 0: ReLU)."""

    def __init__(self, inner: nn.Module, outputs: int, slope: float) -> None:
        super().__init__()
        self.inner, self.norm, self.slope = inner, BatchNorm(outputs), slope

    def forward(self, x: Tensor, track: bool) -> Tensor:
        """(B, ...) -> (B, outputs, ...)."""
        return functional.leaky_relu(self.norm(self.inner(x), track), self.slope)


def _linear(inputs: int, outputs: int, *, bias: bool, std: float = 0.05) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, 0.0, std)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _down(inputs: int, outputs: int) -> Layer:
    """Half the side; LeakyReLU 0.2."""
    conv = nn.Conv2d(inputs, outputs, KERNEL, 2, (KERNEL - 2) // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, 0.05)
    return Layer(conv, outputs, 0.2)


def _up(inputs: int, outputs: int, *, bias: bool) -> nn.ConvTranspose2d:
    """Twice the side."""
    conv = nn.ConvTranspose2d(inputs, outputs, KERNEL, 2, (KERNEL - 2) // 2, bias=bias)
    nn.init.normal_(conv.weight, 0.0, 0.05)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def head_convs(input_px: int) -> int:
    """Convolutions of a head, log2(P / 16): two in the trunk and these lead from P to 4 pixels.

    Raises:
        ValueError: P is not 32, 64, 128, ...
    """
    convs = round(math.log2(input_px / (4 * BASE_PX))) if input_px > 0 else 0
    if convs < 1 or input_px != 4 * BASE_PX * 2**convs:
        raise ValueError(f"an input of {input_px} px does not come down to 4 px: 32, 64, 128 and 256 do")
    return convs


class PoseVae(nn.Module):
    """The pose VAE: D -> 40 ReLU -> mean and log variance of 20; 20 -> 40 LeakyReLU 0.01 -> D."""

    def __init__(self, pose_dims: int, *, hidden: int, latent: int) -> None:
        super().__init__()
        self.enter = _linear(pose_dims, hidden, bias=True, std=0.01)
        self.mean = _linear(hidden, latent, bias=True, std=0.01)
        self.log_variance = _linear(hidden, latent, bias=True, std=0.01)
        self.open = _linear(latent, hidden, bias=True, std=0.01)
        self.leave = _linear(hidden, pose_dims, bias=True, std=0.01)

    @torch.no_grad()
    def start_from_principal_components(self, poses: Tensor) -> None:
        """Input and output layers from the principal components of poses (n, D), as many as there are.

        The hidden units then start as the coordinates of the pose about its mean in the components' basis.
        """
        mean = poses.double().mean(dim=0)
        centred = poses.double() - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / max(1, len(poses) - 1))
        count = min(self.enter.out_features, int((values > 1e-8 * values[-1].clamp(min=1e-12)).sum()))
        basis = vectors.flip(1)[:, :count].T  # (count, D), widest first
        # The sign of an eigenvector is arbitrary: fix it, so that every machine starts alike.
        basis = basis * basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)).sign()
        self.enter.weight[:count] = basis.to(self.enter.weight)
        self.enter.bias[:count] = (-basis @ mean).to(self.enter.bias)
        self.leave.weight[:, :count] = basis.T.to(self.leave.weight)
        self.leave.bias.copy_(mean)

    def encode(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Poses (B, D) -> mean and log variance (B, 20)."""
        hidden = functional.relu(self.enter(pose))
        return self.mean(hidden), self.log_variance(hidden)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents (B, 20) -> poses (B, D)."""
        pose: Tensor = self.leave(functional.leaky_relu(self.open(latent), 0.01))
        return pose


class Alignment(nn.Module):
    """Ali: one linear layer without bias, batch normalisation, tanh; from the shared latent to the GAN's.

    The paper also writes it the other way round, z_y = Ali(z_x); its figure 2 and its losses need z_x = Ali(z_y).
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.linear, self.norm = _linear(dims, dims, bias=False), BatchNorm(dims)

    def forward(self, z: Tensor, track: bool = False) -> Tensor:
        """(B, 23) -> (B, 23)."""
        return torch.tanh(self.norm(self.linear(z), track))


class Generator(nn.Module):
    """Gen: linear to c x 4 x 4, transposed convolutions up to P x P, tanh."""

    def __init__(self, dims: int, channels: int, input_px: int) -> None:
        super().__init__()
        self.channels = channels
        flat = channels * BASE_PX**2
        self.enter = Layer(_linear(dims, flat, bias=False), flat, 0.0)
        self.layers = nn.ModuleList(
            [Layer(_up(channels, channels, bias=False), channels, 0.0) for _ in range(head_convs(input_px) + 1)]
        )
        self.leave = _up(channels, 1, bias=True)

    def forward(self, z: Tensor, track: bool = False) -> Tensor:
        """(B, 23) -> (B, 1, P, P)."""
        x = self.enter(z, track).unflatten(1, (self.channels, BASE_PX, BASE_PX))
        for layer in self.layers:
            x = layer(x, track)
        return torch.tanh(self.leave(x))


class Trunk(nn.Module):
    """The first two convolutions of the discriminator, which all its tasks share."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_down(1, channels), _down(channels, channels)])

    def forward(self, x: Tensor, track: bool = False) -> Tensor:
        """(B, 1, P, P) -> (B, c, P/4, P/4)."""
        for layer in self.layers:
            x = layer(x, track)
        return x


class Head(nn.Module):
    """The convolutions of one task, flattened to 16 c."""

    def __init__(self, channels: int, input_px: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_down(channels, channels) for _ in range(head_convs(input_px))])

    def flat(self, x: Tensor, track: bool) -> Tensor:
        """(B, c, P/4, P/4) -> (B, 16 c)."""
        for layer in self.layers:
            x = layer(x, track)
        return x.flatten(1)


class GanHead(Head):
    """Captured or generated; its last convolution is the layer on which features are matched."""

    def __init__(self, channels: int, input_px: int) -> None:
        super().__init__(channels, input_px)
        self.score = _linear(channels * BASE_PX**2, 1, bias=True)

    def forward(self, x: Tensor, track: bool = False) -> tuple[Tensor, Tensor]:
        """Trunk features -> logits (B,) (the sigmoid is part of the loss) and matched features (B, 16 c)."""
        features = self.flat(x, track)
        return self.score(features)[:, 0], features


class LatentHead(Head):
    """`pos` and `smo`: a hidden layer of some width, then the shared latent."""

    def __init__(self, channels: int, input_px: int, width: int, dims: int) -> None:
        super().__init__(channels, input_px)
        self.hidden = Layer(_linear(channels * BASE_PX**2, width, bias=False), width, 0.2)
        self.leave = _linear(width, dims, bias=True)

    def forward(self, x: Tensor, track: bool = False) -> Tensor:
        """Trunk features -> (B, 23)."""
        latent: Tensor = self.leave(self.hidden(self.flat(x, track), track))
        return latent


class CrossingNets(nn.Module):
    """All networks; `shared` and `pose_of` are the one place that says what the shared latent is."""

    def __init__(
        self,
        *,
        input_px: int,
        joints: int,
        palm: int,
        channels: int = 32,
        latent: int = 20,
        hidden: int = 40,
        averaged: bool = False,
    ) -> None:
        super().__init__()
        self.joints, self.palm, self.latent, self.dims = joints, palm, latent, latent + OFFSET_DIMS
        self.vae = PoseVae(3 * joints, hidden=hidden, latent=latent)
        self.ali = Alignment(self.dims)
        self.gen = Generator(self.dims, channels, input_px)
        self.trunk = Trunk(channels)
        self.gan = GanHead(channels, input_px)
        self.pos = LatentHead(channels, input_px, self.dims, self.dims)
        self.smo = LatentHead(channels, input_px, channels * BASE_PX**2, self.dims)
        self.average = nn.ModuleList(copy.deepcopy([self.ali, self.gen])) if averaged else None
        """A slower copy of `ali` and `gen`, which stands in for them outside training."""

    def about_palm(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Poses (B, J, 3) about the crop's centre -> those about the palm (B, 3 J) and the palm (B, 3)."""
        palm = pose[:, self.palm]
        return (pose - palm[:, None]).flatten(1), palm

    def shared(self, pose: Tensor, noise: Tensor | None = None) -> Tensor:
        """The latents z (B, 23) of poses (B, J, 3) in 50 mm: mean + sigma * noise, and the palm's offset.

        Args:
            pose: joints about the crop's centre / 50 mm.
            noise: (B, 20), N(0, 0.05^2) in training; None: the mean.
        """
        relative, palm = self.about_palm(pose)
        mean, log_variance = self.vae.encode(relative)
        if noise is not None:
            mean = mean + (log_variance / 2).exp() * noise
        return torch.cat([mean, palm], dim=1)

    def pose_of(self, z: Tensor) -> Tensor:
        """Poses (B, J, 3) about the crop's centre / 50 mm, of latents (B, 23)."""
        relative = self.vae.decode(z[:, : self.latent]).reshape(-1, self.joints, 3)
        return relative + z[:, None, self.latent :]

    def depth_of(self, z: Tensor, track: bool = False) -> Tensor:
        """The render route: depth (B, 1, P, P) of latents (B, 23), Gen(Ali(z))."""
        ali, gen = (self.ali, self.gen) if self.average is None or self.training else self.average
        depth: Tensor = gen(ali(z, track), track)
        return depth

    def generated(self, z_x: Tensor) -> Tensor:
        """Depth (B, 1, P, P) of the depth GAN's own latents (B, 23) in (-1, 1), outside training."""
        depth: Tensor = (self.gen if self.average is None else self.average[1])(z_x)
        return depth

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Let the copy keep `decay` of what it is and take the rest from `ali` and `gen`, statistics as well."""
        assert self.average is not None
        for kept, now in zip(self.average, (self.ali, self.gen), strict=True):
            for old, new in zip(kept.state_dict().values(), now.state_dict().values(), strict=True):
                old.lerp_(new, 1 - decay)


class PoseNet(nn.Module):
    """Inference: trunk, `pos` and the VAE's decoder in one graph."""

    def __init__(self, nets: CrossingNets, *, min_max: bool) -> None:
        super().__init__()
        self.trunk, self.pos, self.vae = nets.trunk, nets.pos, nets.vae
        self.joints, self.latent, self.min_max = nets.joints, nets.latent, min_max

    def forward(self, x: Tensor) -> Tensor:
        """Crops (B, 1, P, P) -> joints (B, J, 3), mm relative to the crop's centre."""
        z: Tensor = self.pos(self.trunk(stretched(x) if self.min_max else x))
        relative = self.vae.decode(z[:, : self.latent]).reshape(-1, self.joints, 3)
        return (relative + z[:, None, self.latent :]) * POSE_UNIT_MM


def stretched(x: Tensor) -> Tensor:
    """The authors' normalisation of (B, 1, S, S): each image's hand (x < 1) over [-1, 1]; absolute depth is lost."""
    hand = x < 1
    low = x.amin(dim=(1, 2, 3), keepdim=True)
    high = torch.where(hand, x, low).amax(dim=(1, 2, 3), keepdim=True)
    spread = (x - low) * (2 / (high - low).clamp(min=1e-6)) - 1
    return torch.where(hand, spread, torch.ones_like(x))
