"""What a trained model can do in its shared latent space: poses to depth, walks, depth to pose to depth.

All images are the network's own: (B, 1, P, P) in [-1, 1], +1 where there is no hand; all poses are joints
(B, J, 3) in mm relative to the crop's centre, in its camera. A generated map
is that of the crop the pose lies in.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from .crossing_check import as_input, generating
from .crossing_nets import POSE_UNIT_MM, CrossingNets
from .model import PoseModel


@dataclass(frozen=True, slots=True)
class Walk:
    """Points of the shared latent space in both of its forms."""

    z: Tensor
    """(n, 23)."""
    joints_mm: Tensor
    """(n, J, 3)."""
    depth: Tensor
    """(n, 1, P, P)."""


def latents_of_poses(model: PoseModel, joints_mm: Tensor) -> Tensor:
    """The latents z (B, 23) of poses (B, J, 3): the VAE's means and the palm's offset."""
    nets = generating(model)
    with torch.no_grad():
        return nets.shared(joints_mm.to(_device(nets)) / POSE_UNIT_MM)


def latents_of_depth(model: PoseModel, crops: Tensor) -> Tensor:
    """The latents z (B, 23) that `pos` finds in crops (B, 1, P, P)."""
    nets = model.nets
    assert isinstance(nets, CrossingNets)  # every arm has `trunk` and `pos`
    with torch.no_grad():
        z: Tensor = nets.pos(nets.trunk(as_input(model, crops)))
    return z


def show(model: PoseModel, z: Tensor) -> Walk:
    """Both forms of points z (n, 23) of the shared latent space."""
    nets = generating(model)
    with torch.no_grad():
        return Walk(z, nets.pose_of(z) * POSE_UNIT_MM, nets.depth_of(z))


def generate_depth(model: PoseModel, joints_mm: Tensor) -> Tensor:
    """The render route: depth (B, 1, P, P) of poses (B, J, 3).

    Raises:
        HandloomError: the model has no generator.
    """
    return show(model, latents_of_poses(model, joints_mm)).depth


def walk(model: PoseModel, start: Tensor, stop: Tensor, steps: int) -> Walk:
    """Figure 1: points on the line between two latents (23,), both ends included.

    Raises:
        HandloomError: the model has no generator.
    """
    share = torch.linspace(0, 1, steps, device=start.device)[:, None]
    return show(model, torch.lerp(start[None], stop[None], share))


def walk_past(model: PoseModel, anchors_mm: Tensor, *, points: int) -> tuple[Walk, tuple[int, ...]]:
    """Figure 1: a walk through the latents of several poses (n, J, 3) in steps of one size.

    Every leg gets its share of the points by its length in the space, at least one: as equal as whole numbers allow.
    The anchors are among the points.

    Args:
        model: with a generator.
        anchors_mm: two poses at least.
        points: of the whole walk, about.

    Returns:
        The walk, and at which of its points the anchors lie.

    Raises:
        HandloomError: the model has no generator.
    """
    z = latents_of_poses(model, anchors_mm)
    length = z.diff(dim=0).norm(dim=1)
    share = length / length.sum().clamp(min=1e-9)
    steps = [max(1, round(float(s) * (points - 1))) for s in share]
    legs = [
        torch.lerp(a[None], b[None], torch.linspace(0, 1, n + 1, device=z.device)[:-1, None])
        for (a, b), n in zip(itertools.pairwise(z), steps, strict=True)
    ]
    return show(model, torch.cat([*legs, z[-1:]])), tuple(itertools.accumulate(steps, initial=0))


def reconstruct(model: PoseModel, crops: Tensor) -> Walk:
    """Figure 5: crops (B, 1, P, P) through the shared space, depth to pose to depth.

    Raises:
        HandloomError: the model has no generator.
    """
    return show(model, latents_of_depth(model, crops))


def _device(nets: CrossingNets) -> torch.device:
    return next(nets.parameters()).device
