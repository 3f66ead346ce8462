"""The five networks of MURAUER (Poier et al., WACV 2019, appendix A.1) and their latent space.

    f features       (B, 1, P, P) -> (B, F)      residual (paper) or plain strided convolutions (quick)
    m mapping        (B, F) -> (B, F)            two residual blocks, real images only
    p pose           (B, F) -> (B, 3 J)
    g view decoder   (B, F + C) -> (B, 1, P, P)  in [-1, 1]
    h discriminator  (B, F) -> (B,)              raw score

Parameters at P = 128, F = 1024, J = 14: 5,111,520 / 4,198,400 / 1,092,650 / 11,168,640 / 4,199,425.

**Grouped batch normalisation.** In the authors' program every sub-batch is a forward pass of its own, so each
is normalised by its own statistics, yet one set of running statistics serves at test time. Here all go
through as one batch with statistics per group: the same arithmetic in a seventh of the launches. Groups of
equal size are interleaved (sample i of group g at place i G + g), so that a (n G, c, H, W) batch *is* a
(n, G c, H, W) batch and the native kernel normalises every group for itself without a copy.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from .batches import Bank

MOMENTUM: Final = 0.1
"""Of the running statistics, as PyTorch's default."""


class Architecture(BaseModel):
    """Sizes of the five networks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Literal["residual", "plain"] = "residual"
    stem: int = 32
    """Channels of the first convolution."""
    channels: tuple[int, ...] = (64, 128, 256, 256)
    """Of each stage; every stage halves the image."""
    mid: tuple[int, ...] = (16, 32, 64, 64)
    """Inner channels of the bottleneck blocks ('residual' only)."""
    blocks: int = 5
    """Bottleneck blocks a stage ('residual' only)."""
    feature_width: int = 1024
    """F, the width of the latent space and of the layers of m, p and h."""
    view_channels: tuple[int, ...] = (512, 256, 128, 64)
    """Of the view decoder, from 4 x 4 pixels on, each twice as large as the one before."""


@dataclass(frozen=True, slots=True)
class Groups:
    """The sub-batches of a concatenated batch."""

    sizes: tuple[int, ...]
    weight: Tensor
    """(D, G): how much of each group's statistics enters each domain's running ones."""
    keep: Tensor
    """(D, 1): how much of the old running statistics stays."""
    apart: bool = False
    """Groups stay one after the other, each normalised by a call of its own, whatever their sizes."""

    @classmethod
    def of(
        cls,
        sizes: Sequence[int],
        real: Sequence[bool],
        *,
        domains: int,
        device: torch.device | str,
        apart: bool = False,
    ) -> Self:
        """Groups in batch order; with two domains synthetic groups feed statistics 0, real ones 1.

        The weights are what updating group after group with `MOMENTUM` comes to.
        """
        domain = [int(r) if domains == 2 else 0 for r in real]
        weight = torch.zeros(domains, len(sizes), device=device)
        keep = torch.ones(domains, 1, device=device)
        for group, d in enumerate(domain):
            weight[d] *= 1 - MOMENTUM
            weight[d, group] = MOMENTUM
            keep[d] *= 1 - MOMENTUM
        return cls(tuple(sizes), weight, keep, apart)

    @property
    def equal(self) -> bool:
        """Whether the batch is interleaved inside the networks."""
        return len(set(self.sizes)) == 1 and not self.apart

    def interleave(self, x: Tensor) -> Tensor:
        """(G n, ...) group after group -> sample after sample; unequal groups stay as they are."""
        if not self.equal or len(self.sizes) == 1:
            return x
        turned: Tensor = x.unflatten(0, (len(self.sizes), -1)).transpose(0, 1).flatten(0, 1)
        return turned

    def separate(self, x: Tensor) -> Tensor:
        """`interleave` undone: (G n, ...) sample after sample -> group after group."""
        if not self.equal or len(self.sizes) == 1:
            return x
        turned: Tensor = x.unflatten(0, (-1, len(self.sizes))).transpose(0, 1).flatten(0, 1)
        return turned


class GroupedBatchNorm(nn.Module):
    """Batch normalisation with statistics per group, and one set of running statistics or one a domain."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, domains: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(domains, channels))
        self.register_buffer("running_var", torch.ones(domains, channels))

    def forward(self, x: Tensor, groups: Groups | None, domain: int = -1) -> Tensor:
        """Normalise (B, c, H, W); in eval mode by the running statistics of a domain (-1: the last, real)."""
        if groups is None or not self.training:
            return functional.batch_norm(
                x,
                self.running_mean[domain],
                self.running_var[domain],
                self.weight,
                self.bias,
                False,
                0.0,
                self.eps,
            )
        count, channels = len(groups.sizes), x.shape[1]
        # Momentum 1 leaves the group's own mean and unbiased variance in these buffers; float32, whatever x is.
        mean, var = (self.running_mean.new_empty(count * channels) for _ in range(2))
        if groups.equal:
            wide = x.reshape(-1, count * channels, *x.shape[2:])
            weight, bias = self.weight.repeat(count), self.bias.repeat(count)
            out = functional.batch_norm(wide, mean.zero_(), var.zero_(), weight, bias, True, 1.0, self.eps)
            out = out.reshape(x.shape)
        else:
            means, variances = mean.zero_().split(channels), var.zero_().split(channels)
            parts = [
                functional.batch_norm(part, m, v, self.weight, self.bias, True, 1.0, self.eps)
                for part, m, v in zip(x.split(groups.sizes), means, variances, strict=True)
            ]
            out = torch.cat(parts)
        with torch.no_grad():
            for running, fresh in ((self.running_mean, mean), (self.running_var, var)):
                running.mul_(groups.keep).add_(groups.weight @ fresh.reshape(count, channels))
        return out


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """No bias, padded so that the size is divided by the stride; N(0, sqrt(2 / (k^2 C_out)))."""
    conv = nn.Conv2d(inputs, outputs, size, stride, (size - stride + 1) // 2, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / (size * size * outputs)))
    return conv


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 with batch normalisation after each, added to a shortcut, then ReLU."""

    def __init__(self, inputs: int, mid: int, outputs: int, stride: int, domains: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([_conv(inputs, mid, 1), _conv(mid, mid, 3, stride), _conv(mid, outputs, 1)])
        self.norms = nn.ModuleList([GroupedBatchNorm(c, domains=domains) for c in (mid, mid, outputs)])
        changes = stride != 1 or inputs != outputs
        self.shortcut = _conv(inputs, outputs, 1, stride) if changes else None
        self.shortcut_norm = GroupedBatchNorm(outputs, domains=domains) if changes else None

    def forward(self, x: Tensor, groups: Groups | None, domain: int) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        y = functional.relu(self.norms[0](self.convs[0](x), groups, domain))
        y = functional.relu(self.norms[1](self.convs[1](y), groups, domain))
        y = self.norms[2](self.convs[2](y), groups, domain)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x = self.shortcut_norm(self.shortcut(x), groups, domain)
        return functional.relu(x + y)


class ResidualFeatures(nn.Module):
    """f of the paper: 5 x 5 convolution, pooling, four stages of bottleneck blocks, one linear layer."""

    def __init__(self, sizes: Architecture, input_px: int, domains: int) -> None:
        super().__init__()
        self.stem = _conv(1, sizes.stem, 5)
        blocks, inputs = [], sizes.stem
        for outputs, mid in zip(sizes.channels, sizes.mid, strict=True):
            for i in range(sizes.blocks):
                blocks.append(Bottleneck(inputs, mid, outputs, 1 if i else 2, domains))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.norm = GroupedBatchNorm(inputs, domains=domains)
        side = input_px // 2 ** (1 + len(sizes.channels))
        self.linear = nn.Linear(inputs * side * side, sizes.feature_width)

    def forward(self, x: Tensor, groups: Groups | None = None, domain: int = -1) -> Tensor:
        """(B, 1, P, P) -> (B, F)."""
        x = groups.interleave(x) if groups is not None else x
        x = functional.max_pool2d(self.stem(x), 2)
        for block in self.blocks:
            x = block(x, groups, domain)
        x = functional.relu(self.norm(x, groups, domain))
        features: Tensor = self.linear(x.flatten(1))
        return groups.separate(features) if groups is not None else features


class PlainFeatures(nn.Module):
    """f of the quick preset: an 8 x 8 convolution of stride 4, then 3 x 3 of stride 2, each with norm and ReLU.

    Nothing is computed at half the input's size: there memory traffic costs more than it teaches.
    """

    def __init__(self, sizes: Architecture, input_px: int, domains: int) -> None:
        super().__init__()
        widths = (1, sizes.stem, *sizes.channels)
        self.convs = nn.ModuleList(
            [_conv(a, b, 8, 4) if a == 1 else _conv(a, b, 3, 2) for a, b in itertools.pairwise(widths)]
        )
        self.norms = nn.ModuleList([GroupedBatchNorm(b, domains=domains) for b in widths[1:]])
        side = input_px // 2 ** (1 + len(self.convs))
        self.linear = nn.Linear(widths[-1] * side * side, sizes.feature_width)

    def forward(self, x: Tensor, groups: Groups | None = None, domain: int = -1) -> Tensor:
        """(B, 1, P, P) -> (B, F)."""
        x = groups.interleave(x) if groups is not None else x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x), groups, domain))
        features: Tensor = self.linear(x.flatten(1))
        return groups.separate(features) if groups is not None else features


class ResidualBlock(nn.Module):
    """x + W2 relu(W1 x); the released program discards the inner activation: x + W x."""

    def __init__(self, width: int, *, affine: bool) -> None:
        super().__init__()
        self.inner = None if affine else nn.Linear(width, width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, F)."""
        y = x if self.inner is None else functional.relu(self.inner(x))
        out: Tensor = x + self.outer(y)
        return out


def mapping_network(width: int, *, affine: bool) -> nn.Sequential:
    """m: two residual blocks without normalisation (paper A.1, after Rad et al. 2018)."""
    return nn.Sequential(ResidualBlock(width, affine=affine), ResidualBlock(width, affine=affine))


def discriminator_network(width: int, *, affine: bool) -> nn.Sequential:
    """h: the blocks of m and a linear layer to one raw score."""
    return nn.Sequential(*mapping_network(width, affine=affine), nn.Linear(width, 1), nn.Flatten(0))


class PoseHead(nn.Module):
    """p: ReLU, linear, ReLU, linear. Its first ReLU makes p(z) = p(m(f)) for z = relu(m(f))."""

    def __init__(self, width: int, joints: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, 3 * joints)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, F): what the released program feeds the view decoder with."""
        return functional.relu(self.first(functional.relu(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, F) -> (B, J, 3) in half cubes about the crop's centre."""
        # Not unflatten: in an exported graph that is five operators, this is one.
        flat: Tensor = self.second(self.hidden(x))
        return flat.reshape(-1, self.second.out_features // 3, 3)


class ViewDecoder(nn.Module):
    """g: transposed 4 x 4 convolutions from one pixel up, DCGAN style, then tanh."""

    def __init__(self, inputs: int, channels: Sequence[int], output_px: int, domains: int) -> None:
        super().__init__()
        side = 4 * 2 ** len(channels)
        assert output_px in (side, 2 * side), (output_px, side)
        self.doubled = output_px == 2 * side
        widths = (inputs, *channels)
        self.convs = nn.ModuleList(
            [
                nn.ConvTranspose2d(a, b, 4, 2 if i else 1, 1 if i else 0, bias=False)
                for i, (a, b) in enumerate(itertools.pairwise(widths))
            ]
        )
        self.norms = nn.ModuleList([GroupedBatchNorm(c, domains=domains) for c in channels])
        self.last = nn.ConvTranspose2d(channels[-1], 1, 4, 2, 1, bias=False)

    def forward(self, z: Tensor, condition: Tensor, groups: Groups | None = None, domain: int = -1) -> Tensor:
        """(B, F) and the view conditioning (B, C) -> (B, 1, P, P) in [-1, 1]."""
        x = torch.cat([z, condition], dim=1)[:, :, None, None]
        x = groups.interleave(x) if groups is not None else x
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.leaky_relu(norm(conv(x), groups, domain), 0.2)
        x = self.last(x)
        if self.doubled:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = x.tanh()
        return groups.separate(x) if groups is not None else x


class MurauerNets(nn.Module):
    """The five networks; `latent` is the one place that says what z is."""

    def __init__(
        self,
        sizes: Architecture,
        *,
        input_px: int,
        joints: int,
        condition: int,
        domains: int = 1,
        released: bool = False,
        identity_mapping: bool = False,
    ) -> None:
        super().__init__()
        self.joints, width = joints, sizes.feature_width
        extract = ResidualFeatures if sizes.features == "residual" else PlainFeatures
        self.features = extract(sizes, input_px, domains)
        self.mapping = mapping_network(width, affine=released)
        self.pose = PoseHead(width, joints)
        self.view = ViewDecoder(width + condition, sizes.view_channels, input_px, domains)
        self.discriminator = discriminator_network(width, affine=released)
        if identity_mapping:
            for block in self.mapping.children():
                assert isinstance(block, ResidualBlock)
                nn.init.zeros_(block.outer.weight)
                nn.init.zeros_(block.outer.bias)

    def latent(self, features: Tensor, *, real: bool) -> Tensor:
        """Latent z (B, F), what all but l_p are asked of: relu(m(f(x))) real, relu(f(x)) synthetic."""
        return functional.relu(self.mapping(features) if real else features)


class PoseNet(nn.Module):
    """Inference: p(m(f(x))) for real depth, in mm; without m where nothing trained it.

    `domain` chooses the running statistics of f: -1, those of real images, where it has seen any.
    """

    def __init__(self, nets: MurauerNets, *, cube_mm: float, mapped: bool, domain: int) -> None:
        super().__init__()
        self.features, self.pose = nets.features, nets.pose
        self.mapping = nets.mapping if mapped else nn.Identity()
        self.half_mm = cube_mm / 2
        self.domain = domain

    def forward(self, x: Tensor) -> Tensor:
        """Crops (B, 1, P, P) -> joints (B, J, 3), mm relative to the crop's centre."""
        features = self.mapping(self.features(x, None, self.domain))
        return self.pose(features) * self.half_mm  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Volume:
    """Where hands are in the cameras: scales centres to [-1, 1]; part of the model."""

    middle_mm: tuple[float, float, float]
    half_mm: tuple[float, float, float]

    def to_dict(self) -> dict[str, list[float]]:
        """Plain values, as kept in the model."""
        return {"middle_mm": list(self.middle_mm), "half_mm": list(self.half_mm)}

    @classmethod
    def of(cls, *banks: Bank | None) -> Volume:
        """The box around every centre in use."""
        centers = torch.cat([b.center_mm[b.present] for b in banks if b is not None])
        low, high = centers.amin(dim=0).cpu(), centers.amax(dim=0).cpu()
        middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=1.0)
        return cls(tuple(middle.tolist()), tuple(half.tolist()))


def view_condition(center_mm: Tensor, volume: Volume, between: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """(B, 3 or 15): the input's centre in [-1, 1], and the target camera seen from the input camera.

    `between` is the rotation (B, 3, 3) and translation (B, 3) mm from the input's camera to the target's;
    None where there is only one pair of cameras. Translations are in units of the volume's distance.
    """
    middle, half = _box(volume, center_mm.device)
    scaled = (center_mm - middle) / half
    if between is None:
        return scaled
    rotation, translation = between
    return torch.cat([scaled, rotation.flatten(1), translation / middle[2]], dim=1)


@lru_cache(maxsize=8)
def _box(volume: Volume, device: torch.device) -> tuple[Tensor, Tensor]:
    """The volume's middle and half sides (3,) on a device; kept, as bringing numbers there waits for it."""
    return torch.tensor(volume.middle_mm, device=device), torch.tensor(volume.half_mm, device=device)


def camera_change(bank: Bank, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation (B, 3, 3) and translation (B, 3) mm from the cameras of crops (B,) to those of others (B,)."""
    rotation = bank.rotation[target] @ bank.rotation[source].transpose(1, 2)
    moved = (rotation @ bank.translation_mm[source][:, :, None])[:, :, 0]
    return rotation, bank.translation_mm[target] - moved
