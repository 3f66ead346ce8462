"""The palm by what its neighbourhood looks like: a small network on a patch of depth about a place.

A place where the hand may be (`palm.py`) is looked at again by each camera that sees it, as DeepPrior++ does
(Oberweger and Lepetit, ICCV workshops 2017, section 3.2): a patch 320 mm across goes through a small
convolutional network, which tells how far the palm's joint is from the patch's middle, how exactly it knows,
and whether there is a hand at all. Here the patch is looked at along its own ray, so that what is learned holds
wherever in the image the hand is, and for any camera; depths in it are ranges along that ray.

Of several cameras each gives a normal distribution of the palm, exact across its ray and less so along it or
the other way round; their product is the estimate. A camera before which something else stands knows little and
says so: it was trained on such views (negative log likelihood).

Trained on renders alone by benchmarks/palm_training.py, weights in `palm_net.safetensors`. Plain numpy: the
network has 0.6 million multiplications a patch. Cost: 0.05 ms a patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import Camera

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

PATCH_PX: Final = 32
HALF_MM: Final = 160.0
"""Half of what a patch shows, across and in depth."""
LEAST_SEEN: Final = 25
"""A patch with fewer returns says nothing."""
WEIGHTS: Final = Path(__file__).parent / "palm_net.safetensors"
Kernel = tuple[int, int, int, int]
FIRST: Final[tuple[Kernel, ...]] = ((1, 16, 5, 2), (16, 32, 3, 2), (32, 48, 3, 2))
AGAIN: Final[tuple[Kernel, ...]] = ((1, 24, 5, 2), (24, 48, 3, 2), (48, 64, 3, 1), (64, 96, 3, 2))
"""Channels in and out, side and stride of the convolutions, each with half a side of padding."""
NOTHING: Final = 1e-9
"""Precision (1/mm²) of where a place is before any camera has looked."""
OUTPUTS: Final = 6
"""Offset x, y, r in half patches; log σ across and along; logit of a hand."""


@dataclass(frozen=True, slots=True)
class Net:
    """Two networks, for the first look at many places and the second at few, and the trust in what comes of it."""

    weights: dict[str, F32]
    """By name: first.conv0, … (as matrices), first.hidden, first.out, each with its `_bias`; again.…; trust."""

    def trust(self, features: F64) -> F64:
        """(n,) log odds that a palm is within 30 mm, of features (n, N_FEATURES) as `locate.py` makes them."""
        several = (features[:, -1] > 1).astype(int)
        low, high = (self.weights["trust_range"][several, i].astype(np.float64) for i in range(2))
        x = np.clip(features, low, high)
        factors = self.weights["trust"][several].astype(np.float64)
        return np.asarray((np.concatenate([x, x**2], axis=1) * factors[:, :-1]).sum(1) + factors[:, -1], np.float64)


@dataclass(frozen=True, slots=True)
class Looks:
    """What each camera says of each place."""

    palm_mm: F64
    """(n, V, 3) rig frame."""
    precision: F64
    """(n, V, 3, 3) 1/mm², zero where the camera sees nothing there."""
    logit: F64
    """(n, V) of a hand being there, 0 where nothing is seen."""
    seen: NDArray[np.bool_]
    """(n, V)."""


@cache
def built_in() -> Net:
    """The network that comes with the package."""
    from safetensors.numpy import load_file

    return Net({name: value.astype(np.float32) for name, value in load_file(WEIGHTS).items()})


def look(
    places_mm: F64,
    images: Sequence[NDArray[Any] | None],
    cameras: Sequence[Camera],
    backgrounds: Sequence[NDArray[Any] | None],
    net: Net,
    *,
    again: bool = False,
) -> Looks:
    """Look at places (n, 3), rig frame, by every camera.

    Args:
        places_mm: (n, 3).
        images: (H, W) mm by camera, None where it gave none.
        cameras: of the rig.
        backgrounds: (H, W) mm, nearest depth that counts as background, 0 = unknown; None without one.
        net: the networks.
        again: whether it is the second look, at places to which the first led.
    """
    count, views = len(places_mm), len(cameras)
    patches, frames, index = [], [], []
    for view, (image, camera, behind) in enumerate(zip(images, cameras, backgrounds, strict=True)):
        if image is None or not count:
            continue
        here = camera.to_camera(places_mm)
        ahead = np.flatnonzero(here[:, 2] > 100)
        if not len(ahead):
            continue
        axes = ray_axes(here[ahead])
        cut = cut_patches(image, camera, here[ahead], axes, behind)
        good = (cut < 1).sum((1, 2)) >= LEAST_SEEN
        patches.append(cut[good])
        frames.append(axes[good] @ camera.rotation)
        index.append(np.stack([ahead[good], np.full(int(good.sum()), view)], axis=1))
    palm, precision = np.repeat(places_mm[:, None], views, axis=1), np.zeros((count, views, 3, 3))
    logit, seen = np.zeros((count, views)), np.zeros((count, views), bool)
    if patches and sum(map(len, patches)):
        out = run(net, np.concatenate(patches), again=again).astype(np.float64)
        axes, (row, view) = np.concatenate(frames), np.concatenate(index).T
        palm[row, view] = places_mm[row] + HALF_MM * np.einsum("ni,nij->nj", out[:, :3], axes)
        across, along = np.exp(-2 * np.clip(out[:, 3:5].T, -5, 3)) / HALF_MM**2
        weight = np.stack([across, across, along], axis=1)
        precision[row, view] = np.einsum("nki,nk,nkj->nij", axes, weight, axes)
        logit[row, view], seen[row, view] = out[:, 5], True
    return Looks(palm, precision, logit, seen)


def fuse(looks: Looks) -> tuple[F64, F64]:
    """Palms (n, 3) by all cameras together, and their covariances (n, 3, 3) mm²; a place nobody sees stays."""
    # Cameras whose place shows no hand, but something before it, count less.
    belief = 1 / (1 + np.exp(-np.clip(looks.logit, -20, 20)))
    weighted = looks.precision * (0.05 + belief)[..., None, None] * looks.seen[..., None, None]
    total = weighted.sum(1) + np.eye(3) * NOTHING
    covariance = np.linalg.inv(total)
    pull = np.einsum("nvij,nvj->ni", weighted, looks.palm_mm) + NOTHING * looks.palm_mm.mean(1)
    return np.einsum("nij,nj->ni", covariance, pull), covariance


def ray_axes(centers_mm: F64) -> F64:
    """(n, 3, 3) rows x, y, r in the camera's frame: r the ray of each centre (n, 3), x as level as can be."""
    r = centers_mm / np.linalg.norm(centers_mm, axis=1, keepdims=True)
    x = np.stack([r[:, 2], np.zeros(len(r)), -r[:, 0]], axis=1)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([x, np.cross(r, x), r], axis=1)


def cut_patches(
    image_mm: NDArray[Any], camera: Camera, centers_mm: F64, axes: F64, behind_mm: NDArray[Any] | None
) -> F32:
    """(n, PATCH_PX, PATCH_PX) ranges about each centre (n, 3), camera's frame, in [-1, 1]; 1 is nothing.

    Nearest pixels; axes (n, 3, 3) as `ray_axes` gives them, or turned about the ray.
    """
    step = 2 * HALF_MM / PATCH_PX
    grid = ((np.arange(PATCH_PX) - (PATCH_PX - 1) / 2) * step).astype(np.float32)
    center, axes = centers_mm.astype(np.float32), axes.astype(np.float32)
    fx, fy, cx, cy = (np.float32(value) for value in camera.k)
    # (n, row, column) of each coordinate of the plane across the ray.
    x, y, z = (
        center[:, i, None, None] + axes[:, 0, i, None, None] * grid + axes[:, 1, i, None, None] * grid[:, None]
        for i in range(3)
    )
    ahead = z > 20
    z = np.where(ahead, z, 1)
    u = np.rint(np.clip(fx * x / z + cx, -9, camera.width + 9)).astype(np.int32)
    v = np.rint(np.clip(fy * y / z + cy, -9, camera.height + 9)).astype(np.int32)
    inside = ahead & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    u, v = np.where(inside, u, 0), np.where(inside, v, 0)
    depth = image_mm[v, u].astype(np.float32)
    kept = inside & (depth > 0)
    if behind_mm is not None:
        edge = behind_mm[v, u]
        kept &= (edge == 0) | (depth < edge)
    ray = axes[:, 2, :, None, None]
    along = depth * ((u - cx) / fx * ray[:, 0] + (v - cy) / fy * ray[:, 1] + ray[:, 2])
    value = (along - np.linalg.norm(center, axis=1)[:, None, None]) / np.float32(HALF_MM)
    return np.where(kept & (value > -1) & (value < 1), value, np.float32(1))


def run(net: Net, patches: F32, *, again: bool) -> F32:
    """(n, OUTPUTS) of one of the networks for patches (n, PATCH_PX, PATCH_PX)."""
    name = "again" if again else "first"
    out = hidden(net, patches, again=again) @ net.weights[f"{name}.out"] + net.weights[f"{name}.out_bias"]
    return np.asarray(out, np.float32)


def hidden(net: Net, patches: F32, *, again: bool) -> F32:
    """(n, features) of patches (n, PATCH_PX, PATCH_PX): all layers but the last."""
    w, name = net.weights, "again" if again else "first"
    out = 1 - patches[..., None]  # nothing is 0, so that padding is nothing, too
    for i, kernel in enumerate(AGAIN if again else FIRST):
        out = np.maximum(_convolve(out, w[f"{name}.conv{i}"], w[f"{name}.conv{i}_bias"], kernel), 0)
    flat = out.reshape(len(out), -1) @ w[f"{name}.hidden"] + w[f"{name}.hidden_bias"]
    return np.asarray(np.maximum(flat, 0), np.float32)


def _convolve(images: F32, matrix: F32, bias: F32, kernel: Kernel) -> F32:
    """Of images (n, h, w, c) by a matrix (side² c, channels)."""
    _, channels, side, stride = kernel
    half = side // 2
    padded = np.pad(images, ((0, 0), (half, half), (half, half), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))[:, ::stride, ::stride]
    n, h, w = windows.shape[:3]
    # (n, h, w, c, side, side) -> rows of the matrix are side, side, c.
    columns = windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, -1)
    return np.asarray((columns @ matrix + bias).reshape(n, h, w, channels), np.float32)
