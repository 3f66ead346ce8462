"""Crops for training, cut and augmented on the device in one batched pass.

A `Bank` holds a recording's stored crops (192 px over 450 mm, raw uint16 depth, each with its own intrinsics)
on the device. `cut` takes any of them and makes the network's input: the moved centre, a roll of the camera
by the angle t about its optical axis, and a new window of `cube_mm` around that centre. With the source ray
r = ((u - cx) / fx, (v - cy) / fy) and the output's intrinsics (f', cx', cy'),

    r = c.xy / c.z + R(t)^T ((x - p0) / f'x, (y - p0) / f'y),   p0 = (P - 1) / 2,   f'x = P c.z / cube,

is affine in the output pixel (x, y): two multiply-adds a pixel, then the **nearest** stored pixel (bilinear
would invent depth between finger and background). Rolling the camera is rigid: joints, centre and window all
turn by R(t), so labels stay exact, also far off the axis. Depth d becomes (d - c.z) / (cube / 2); background,
missing and out-of-cube pixels become +1.

Cost on one core with noise: 0.04 ms an image at 64 px, 0.17 at 128 (a loaded machine; benchmarks/batches.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..stores.joints import Layout
from ..stores.reading import Resident
from ..stores.recording import CENTER_SOURCES
from .sampling import normal, uniform

LOCATED: Final = CENTER_SOURCES.index("located")
PIECE_PX: Final = 2**17
"""On the CPU images are cut in pieces of about so many pixels, whose dozen intermediate arrays stay in its cache; the
result is the same to the bit."""


@dataclass(frozen=True, slots=True)
class Bank:
    """The crops of one or more recordings on the device; crop n = frame * views + view."""

    crops: Tensor
    """(N, S, S) int16 holding uint16 bits: torch's uint16 lacks most operations; (N, 0, 0) where they are pooled."""
    present: Tensor
    """(N,) bool: the camera gave an image and the hand was found in it."""
    center_mm: Tensor
    """(N, 3) float32, in the camera."""
    k: Tensor
    """(N, 4) float32, fx fy cx cy of the stored crop."""
    rotation: Tensor
    """(N, 3, 3) float32, rig to camera."""
    translation_mm: Tensor
    """(N, 3) float32, rig to camera."""
    unit_mm: Tensor
    """(N,) float32, mm of one step of depth."""
    offset_mm: Tensor
    """(N,) float32: standard deviation of the centre's offset for this crop."""
    joints_mm: Tensor
    """(T, J, 3) float32, rig frame, NaN = unknown."""
    views: int
    frame_id: NDArray[np.uint64]
    """(T,)."""

    @property
    def frames(self) -> int:
        """How many frames."""
        return len(self.present) // self.views

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.present.device

    def singles(self, frames: Tensor | None = None, view: int | None = None) -> Tensor:
        """(M,) crop numbers that exist: of these frames (all), of this view (all)."""
        chosen = torch.zeros_like(self.present).reshape(-1, self.views)
        rows = slice(None) if frames is None else frames
        chosen[rows, slice(None) if view is None else view] = True
        return torch.nonzero(chosen.reshape(-1) & self.present).reshape(-1)

    def pairs(self, frames: Tensor | None = None, pair: tuple[int, int] | None = None) -> Tensor:
        """(M, 2) crop numbers (input, target) of two cameras that saw the same frame."""
        rows = torch.arange(self.frames, device=self.device) if frames is None else frames
        ordered = [(i, j) for i in range(self.views) for j in range(self.views) if i != j]
        views = torch.tensor([pair] if pair is not None else ordered, device=self.device).reshape(-1, 2)
        found = (rows[:, None, None] * self.views + views).reshape(-1, 2)
        return found[self.present[found].all(dim=1)]

    def joints_camera(self, crop: Tensor) -> Tensor:
        """(B, J, 3) mm in the camera of each crop (B,), NaN = unknown."""
        joints = self.joints_mm[crop // self.views]
        return joints @ self.rotation[crop].transpose(1, 2) + self.translation_mm[crop][:, None]


def bank_of(
    residents: Sequence[Resident],
    *,
    layout: Layout | None,
    labelled: Sequence[NDArray[np.bool_]] | None,
    offset_true_mm: float,
    offset_located_mm: float,
    located: bool,
    device: torch.device,
) -> Bank:
    """The bank of recordings that have the same number of views and crop size.

    Args:
        residents: decoded recordings; the crops of a single one are not copied.
        layout: the points to keep of their labels (converted with `Layout.matrix`); None: no labels.
        labelled: for each recording, (T,) which frames may be seen with their labels; None: all.
        offset_true_mm: offset of true and given centres.
        offset_located_mm: offset of located centres.
        located: use `offset_located_mm` for every crop, whatever its centre's source.
        device: where the bank will lie.
    """
    columns: dict[str, list[NDArray[np.generic]]] = {}
    for i, data in enumerate(residents):
        seen = None if labelled is None else labelled[i]
        offset = np.where(located | (data.center_source == LOCATED), offset_located_mm, offset_true_mm)
        for name, part in _columns(data, layout, seen, offset.astype(np.float32)).items():
            columns.setdefault(name, []).append(part)
    whole = {name: part[0] if len(part) == 1 else np.concatenate(part) for name, part in columns.items()}
    frame_id = whole.pop("frame_id").astype(np.uint64)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(part)).to(device) for name, part in whole.items()}
    return Bank(**tensors, views=len(residents[0].rig), frame_id=frame_id)


def _columns(
    data: Resident, layout: Layout | None, seen: NDArray[np.bool_] | None, offset_mm: NDArray[np.float32]
) -> dict[str, NDArray[np.generic]]:
    t, v = data.crop.shape[:2]
    cameras = data.rig.cameras
    joints = np.full((t, len(layout) if layout else 0, 3), np.nan, np.float32)
    wanted = seen is None or seen.any()  # labels that nobody may see need not convert
    if wanted and layout is not None and data.joints is not None and data.layout is not None:
        joints = convert_layout(data.joints, data.layout, layout)
        if seen is not None:
            joints[~seen] = np.nan
    return {
        "crops": data.crop.view(np.int16).reshape(t * v, *data.crop.shape[2:]),
        "present": (data.present & (data.center[..., 2] > 0)).reshape(-1),
        "center_mm": data.center.reshape(-1, 3),
        "k": data.k.reshape(-1, 4),
        "rotation": np.tile(np.stack([c.rotation for c in cameras]).astype(np.float32), (t, 1, 1)),
        "translation_mm": np.tile(np.stack([c.translation for c in cameras]).astype(np.float32), (t, 1)),
        "unit_mm": np.tile(data.depth_unit_mm, t),
        "offset_mm": offset_mm.reshape(-1),
        "joints_mm": joints,
        "frame_id": data.frame_id,
    }


def convert_layout(joints: NDArray[np.float32], source: Layout, target: Layout) -> NDArray[np.float32]:
    """Points (..., J, 3) of one layout as those of another; NaN where a point they rest on is unknown.

    Only the canonical 26 joints can be converted (`Layout.matrix`); equal layouts are passed through.
    """
    if source.name == target.name:
        return joints.astype(np.float32, copy=True)
    assert source.name == "openxr26", source.name
    matrix = target.matrix()
    unknown = np.isnan(joints).any(axis=-1).astype(np.float64)
    made: NDArray[np.float32] = (matrix @ np.nan_to_num(joints)).astype(np.float32)
    made[unknown @ (matrix != 0).T > 0] = np.nan
    return made


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where each crop of a batch is centred and how it is turned; a real frame and its twin share one."""

    roll_rad: Tensor
    """(B,)."""
    center_mm: Tensor
    """(B, 3) in the camera, before the roll."""


def draw_geometry(bank: Bank, crop: Tensor, key: int, index: Tensor, *, rotation_deg: float) -> Geometry:
    """Roll and moved centre of the crops (B,) as samples with these running numbers (B,)."""
    roll = (2 * uniform(key, index, 1)[:, 0] - 1) * float(np.deg2rad(rotation_deg))
    shift = normal(key ^ 1, index, 3) * bank.offset_mm[crop, None]
    return Geometry(roll, bank.center_mm[crop] + shift)


def still(bank: Bank, crop: Tensor) -> Geometry:
    """No roll, the stored centre: the geometry of targets and of inference."""
    return Geometry(torch.zeros(len(crop), device=crop.device), bank.center_mm[crop])


@dataclass(frozen=True, slots=True)
class Images:
    """Network inputs and where they are."""

    image: Tensor
    """(B, 1, P, P) float32 in [-1, 1]."""
    center_mm: Tensor
    """(B, 3) float32 in the rolled camera: what a prediction is relative to."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Inputs whose joints are known."""

    images: Images
    joints: Tensor
    """(B, J, 3) float32, (joint - centre) / (cube / 2); 0 where unknown."""
    known: Tensor
    """(B, J) bool."""


def cut(
    bank: Bank,
    crop: Tensor,
    geometry: Geometry,
    *,
    input_px: int,
    cube_mm: float,
    noise_mm: float = 0.0,
    generator: torch.Generator | None = None,
    stored: Tensor | None = None,
    among: tuple[int, Tensor] | None = None,
    white: Tensor | None = None,
) -> Images:
    """Inputs of the crops (B,), moved, rolled and with white noise on the depth that there is.

    Of a bank without images, these are `stored` (B, S, S). Where the crops are the rows (B,) `among` so many, the
    noise is drawn for all of these: each image has the same, whoever makes it. Noise that was drawn before is
    `white` (B, P, P), of standard deviation 1.
    """
    if noise_mm > 0:
        count = len(crop) if among is None else among[0]
        if white is None:
            white = torch.randn((count, input_px, input_px), device=bank.device, generator=generator)
        white = white if among is None else white[among[1]]
    n = max(1, PIECE_PX // input_px**2 if bank.device.type == "cpu" else len(crop))
    columns = (crop, geometry.roll_rad, geometry.center_mm, stored, white if noise_mm > 0 else None)
    pieces = zip(*(itertools.repeat(None) if c is None else c.split(n) for c in columns), strict=False)
    size: dict[str, Any] = {"input_px": input_px, "cube_mm": cube_mm, "noise_mm": noise_mm}
    parts = [_cut_piece(bank, some, Geometry(roll, at), held, grain, **size) for some, roll, at, held, grain in pieces]
    image = parts[0] if len(parts) == 1 else torch.cat(parts)
    return Images(image, _roll(geometry.center_mm[:, None], geometry.roll_rad)[:, 0])


def _cut_piece(
    bank: Bank,
    crop: Tensor,
    geometry: Geometry,
    stored: Tensor | None,
    white: Tensor | None,
    *,
    input_px: int,
    cube_mm: float,
    noise_mm: float,
) -> Tensor:
    """(B, 1, P, P) of `cut`; `white` (B, P, P), if there is to be noise."""
    center = geometry.center_mm
    z = center[:, 2].clamp(min=1.0)
    fx, fy, cx, cy = bank.k[crop].unbind(1)
    scale = cube_mm / (input_px * z)
    cos, sin = geometry.roll_rad.cos(), geometry.roll_rad.sin()
    grid = torch.arange(input_px, device=bank.device, dtype=torch.float32) - (input_px - 1) / 2
    # R(t)^T (dx, dy * fx / fy), scaled to the stored crop's pixels; + 0.5 so that the cast rounds to nearest.
    aspect = fx / fy
    u = _affine(grid, fx * scale * cos, fx * scale * aspect * sin, fx * center[:, 0] / z + cx + 0.5)
    v = _affine(grid, -fy * scale * sin, fy * scale * aspect * cos, fy * center[:, 1] / z + cy + 0.5)
    images, place = (bank.crops, crop) if stored is None else (stored, torch.arange(len(crop), device=bank.device))
    side = images.shape[-1]
    assert side, "this bank's images are pooled"
    inside = (u >= 0) & (u < side) & (v >= 0) & (v < side)
    # Below 2^24 floats count pixels exactly: one cast to int64 instead of two.
    pixel = v.floor_().mul_(side).add_(u.floor_()).clamp_(0, side * side - 1).to(torch.int64)
    raw = images.reshape(-1).take(pixel.add_((place * (side * side))[:, None, None]))
    steps = raw.view(torch.uint16).to(torch.float32)
    half = cube_mm / 2
    value = steps * (bank.unit_mm[crop] / half)[:, None, None] - (z / half)[:, None, None]
    if white is not None:
        value.add_(white, alpha=noise_mm / half)
    hand = inside & (raw != 0) & (value.abs() <= 1)
    return torch.where(hand, value, value.new_ones(()))[:, None]


def label(
    bank: Bank, crop: Tensor, geometry: Geometry, images: Images, *, cube_mm: float, parity: bool = False
) -> Labelled:
    """`cut`'s images of the crops (B,) with their joints.

    With `parity` the joints are turned as the authors of MURAUER do: as pixels about the crop's centre, at
    their own depth, which is not rigid (6 mm off on average at 200 mm off the axis).
    """
    joints = bank.joints_camera(crop)
    center = images.center_mm[:, None]
    if parity:
        middle = geometry.center_mm[:, None]
        ray = _roll(_rays(joints) - _rays(middle), geometry.roll_rad) + _rays(middle)
        relative = torch.cat([ray * joints[..., 2:], joints[..., 2:]], dim=-1) - middle
    else:
        relative = _roll(joints, geometry.roll_rad) - center
    known = ~torch.isnan(relative).any(dim=-1)
    relative = torch.where(known[..., None], relative, relative.new_zeros(()))
    return Labelled(images, relative * (2 / cube_mm), known)


def _affine(grid: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """(B, P, P): a x + b y + c with x along the last axis."""
    return (a[:, None] * grid)[:, None, :] + (b[:, None] * grid + c[:, None])[:, :, None]


def _rays(points: Tensor) -> Tensor:
    return points[..., :2] / points[..., 2:]


def _roll(points: Tensor, angle: Tensor) -> Tensor:
    """Points (B, n, 2 or 3) turned about the optical axis by (B,) rad."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y = points[..., 0], points[..., 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y, *points[..., 2:].unbind(-1)], dim=-1)
