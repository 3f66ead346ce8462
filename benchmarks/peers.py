"""One image through our presets and through networks of the sizes that peers published: batch 1, one thread, one run.

    python benchmarks/peers.py [--runs 30]

The peers' code and weights are not here: their networks are built below from the sizes in their papers, with random
weights, on which the time does not depend. They are *-like*: what a paper leaves open is said beside it.

- A2J (Xiong et al., "A2J: Anchor-to-Joint Regression Network", ICCV 2019): 176x176 depth, ResNet-50 whose last stage
  keeps stride 16 by dilation; three heads of four 3x3 convolutions of 256 channels and one more: in-plane offsets and
  depths of 11 x 11 x 16 anchors from the last stage, their weights from the one before; a joint is the weighted mean.
- AWR (Huang et al., "AWR: Adaptive Weighting Regression", AAAI 2020): 128x128 depth, ResNet-18, transposed
  convolutions of 256 channels up to 64x64 (as Xiao et al. 2018), a dense map of offset and weight for each joint; a
  joint is the weighted mean of the map. How many transposed convolutions is not in the paper: four reach 64x64.

All predict NYU's 14 joints. Time is processor time of the one thread, so a busy machine changes it little; `x` is how
often our `paper` preset of MURAUER runs in it. Multiply-adds are those of convolutions and matrices.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

JOINTS = 14
ANCHORS = 16
WARM_UP = 3
OURS = tuple((method, preset) for method in ("murauer", "crossing") for preset in ("paper", "fast", "quick"))


def conv(inside: int, outside: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, and normalisation."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside))


class Residual(nn.Module):
    """A block of He et al. 2016: two 3x3 convolutions, or 1x1, 3x3, 1x1 where `wide` is four times `narrow`."""

    def __init__(self, inside: int, narrow: int, wide: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        if wide == narrow:
            layers = [conv(inside, wide, 3, stride=stride), nn.ReLU(), conv(wide, wide, 3)]
        else:
            middle = conv(narrow, narrow, 3, stride=stride, dilation=dilation)
            layers = [conv(inside, narrow, 1), nn.ReLU(), middle, nn.ReLU(), conv(narrow, wide, 1)]
        self.branch = nn.Sequential(*layers)
        same = inside == wide and stride == 1
        self.shortcut = nn.Identity() if same else conv(inside, wide, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """As published."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def resnet(blocks: tuple[int, int, int, int], *, bottleneck: bool, dilated: bool) -> nn.ModuleList:
    """Stem and four stages for one channel of depth; `dilated` keeps the last stage at stride 16."""
    stages = [nn.Sequential(conv(1, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))]
    inside = 64
    for stage, count in enumerate(blocks):
        narrow = 64 << stage
        wide = narrow * 4 if bottleneck else narrow
        last = stage == 3 and dilated
        layers = []
        for block in range(count):
            stride = 2 if block == 0 and stage > 0 and not last else 1
            layers.append(Residual(inside, narrow, wide, stride=stride, dilation=2 if last else 1))
            inside = wide
        stages.append(nn.Sequential(*layers))
    return nn.ModuleList(stages)


class A2JLike(nn.Module):
    """Anchors that vote for each joint."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = resnet((3, 4, 6, 3), bottleneck=True, dilated=True)
        self.offset = self._head(2048, 2 * ANCHORS * JOINTS)
        self.depth = self._head(2048, ANCHORS * JOINTS)
        self.weight = self._head(1024, ANCHORS * JOINTS)
        place = torch.stack(torch.meshgrid(torch.arange(44) * 4.0 + 2, torch.arange(44) * 4.0 + 2, indexing="ij"), -1)
        self.register_buffer("anchor", place.reshape(1, -1, 1, 2))

    @staticmethod
    def _head(inside: int, outside: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for width in (inside, 256, 256, 256):
            layers += [conv(width, 256, 3), nn.ReLU()]
        return nn.Sequential(*layers, nn.Conv2d(256, outside, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 176, 176) to (B, J, 3)."""
        for stage in self.stages[:4]:
            x = stage(x)
        deep = self.stages[4](x)
        batch = x.shape[0]
        offset = self.offset(deep).permute(0, 2, 3, 1).reshape(batch, -1, JOINTS, 2)
        depth = self.depth(deep).permute(0, 2, 3, 1).reshape(batch, -1, JOINTS, 1)
        share = self.weight(x).permute(0, 2, 3, 1).reshape(batch, -1, JOINTS, 1).softmax(dim=1)
        return (share * torch.cat([self.anchor + offset, depth], dim=-1)).sum(dim=1)


class AWRLike(nn.Module):
    """A dense map of offsets and weights at half the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = resnet((2, 2, 2, 2), bottleneck=False, dilated=False)
        up: list[nn.Module] = []
        for inside in (512, 256, 256, 256):
            up += [nn.ConvTranspose2d(inside, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
        self.up = nn.Sequential(*up)
        self.dense = nn.Conv2d(256, 4 * JOINTS, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 128, 128) to (B, J, 3)."""
        for stage in self.stages:
            x = stage(x)
        dense = self.dense(self.up(x))
        offset = dense[:, : 3 * JOINTS].reshape(x.shape[0], JOINTS, 3, -1)
        share = dense[:, 3 * JOINTS :].reshape(x.shape[0], JOINTS, 1, -1).softmax(dim=-1)
        return (share * offset).sum(dim=-1)


def ours(method: str, preset: str) -> tuple[nn.Module, int]:
    """The inference path of a preset with fresh weights, and the side of its input."""
    from handloom.learn import crossing_recipe, murauer_recipe
    from handloom.learn.model import method_module

    config: Any
    if method == "murauer":
        config = murauer_recipe.preset(preset, "full")
        description: dict[str, Any] = {
            "architecture": config.architecture.model_dump(mode="json"),
            "condition": 3, "domains": 1, "released": False, "identity_mapping": False, "mapped": True,
        }  # fmt: skip
    else:
        config = crossing_recipe.preset(preset, "full")
        sizes = {"channels": config.channels, "latent": config.latent, "hidden": config.hidden}
        description = {"architecture": sizes, "normalisation": config.normalisation}
    description |= {"layout": "nyu14", "input_px": config.input_px, "cube_mm": config.cube_mm}
    module = method_module(method)
    return module.pose_net(module.build_nets(description), description), config.input_px


def multiply_adds(net: nn.Module, crop: Tensor) -> int:
    """Of convolutions and matrices, for one image."""
    total = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.ConvTranspose2d):
            total += given[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Conv2d):
            total += made.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += made.numel() * layer.in_features

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [layer.register_forward_hook(count) for layer in net.modules() if isinstance(layer, layers)]
    with torch.no_grad():
        net(crop)
    for hook in hooks:
        hook.remove()
    return total


def session_of(net: nn.Module, crop: Tensor, path: Path) -> onnxruntime.InferenceSession:
    """The network in onnxruntime, one thread, as `predict` runs ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (crop,), path, dynamo=False, opset_version=17, input_names=["crop"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Measure in turns and print the lines for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    torch.manual_seed(0)
    nets: dict[str, tuple[nn.Module, int]] = {f"{m} {p}": ours(m, p) for m, p in OURS}
    nets |= {"A2J-like, ResNet-50": (A2JLike(), 176), "AWR-like, ResNet-18": (AWRLike(), 128)}
    work: dict[tuple[str, str], Callable[[], object]] = {}
    said: dict[str, tuple[int, float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (net, side) in nets.items():
            net.eval()
            crop = torch.rand(1, 1, side, side) * 2 - 1
            session = session_of(net, crop, Path(folder) / "net.onnx")
            theirs = session.run(None, {"crop": crop.numpy()})[0]
            with torch.no_grad():
                apart = float(np.abs(theirs - net(crop).numpy()).max())
            assert theirs.shape == (1, JOINTS, 3), name
            assert apart < 0.05, f"{name}: onnxruntime and torch differ by {apart}"
            size = sum(p.numel() for p in net.parameters())
            said[name] = side, size / 1e6, multiply_adds(net, crop) / 1e6
            array = crop.numpy()
            work[name, "onnxruntime"] = lambda s=session, c=array: s.run(None, {"crop": c})
            work[name, "torch"] = lambda n=net, c=crop: n(c)
        taken: dict[tuple[str, str], list[float]] = {key: [] for key in work}
        with torch.inference_mode():
            for turn in range(runs + WARM_UP):
                for key, call in work.items():
                    start = time.process_time()
                    call()
                    if turn >= WARM_UP:
                        taken[key].append(1e3 * (time.process_time() - start))
    middle = {key: float(np.median(values)) for key, values in taken.items()}
    base = middle["murauer paper", "onnxruntime"]
    print(
        f"batch 1, one thread, processor time, median of {runs} in turns (ms); onnxruntime {onnxruntime.__version__},"
    )
    print(f"torch {torch.__version__}; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| network | input | parameters | multiply-adds | onnxruntime | x | torch |")
    print("|---|---|---|---|---|---|---|")
    for name, (side, size, adds) in said.items():
        fast, slow = middle[name, "onnxruntime"], middle[name, "torch"]
        print(f"| {name} | {side}² | {size:.2f} M | {adds:,.1f} M | {fast:.2f} | {fast / base:.2f} | {slow:.2f} |")


if __name__ == "__main__":
    main()
