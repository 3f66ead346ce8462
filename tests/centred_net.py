"""A network that can be worked out by hand: every joint near the mean of the hand's pixels."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from handloom.learn.export import export
from handloom.learn.model import PoseModel
from handloom.learn.predict import Model, load
from handloom.stores.joints import layout_named

SIDE, CUBE = 32, 300.0


class Centred(nn.Module):
    """Joints 2 mm apart along x, the palm at the mean of the pixels within the middle of the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("x", ((torch.arange(SIDE) - (SIDE - 1) / 2) * (CUBE / SIDE)).repeat(SIDE, 1))
        away = torch.hypot(self.x, self.x.t())
        self.register_buffer("inside", (away < 60).float())
        self.spread = nn.Parameter(torch.arange(26.0)[:, None] * torch.tensor([2.0, 0.0, 0.0]))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, 26, 3) mm."""
        hand = (crops[:, 0] < 0.9).float() * self.inside
        count = hand.sum(dim=(1, 2)).clamp(min=1)
        x, y = (hand * self.x).sum(dim=(1, 2)) / count, (hand * self.x.t()).sum(dim=(1, 2)) / count
        z = (hand * crops[:, 0]).sum(dim=(1, 2)) / count * (CUBE / 2)
        return torch.stack([x, y, z + 12], dim=1)[:, None] + self.spread


def centred_model(path: Path) -> Model:
    """Exported to `path` and opened."""
    net = Centred()
    export(PoseModel("murauer", "quick", "full", layout_named("openxr26"), "right", SIDE, CUBE, net, net, {}), path)
    return load(path)
