"""A whole joint batch of MURAUER: sampling, rotation, offset, crop, normalisation and white noise, on one core.

    python benchmarks/batches.py [--recording S.zarr] [--frames 192] [--rounds 15]

The batch is the paper's, 64 samples: labelled frames with their twins, synthetic frames, pairs of views and images for
matching, of both domains, which are 144 images. Figures are medians over the rounds of CPU time of the process, which
on a machine that others use too is what one idle core takes; a sample is a 64th of the batch (up to two images), an
image a 144th. What takes the time is told twice: by parts (each run alone), and by torch's own profile of the whole.

In turns with it, the same images are made one by one, as the loaders of others do: cv2 with one warp an image (as
good as it gets), cv2 rotating and then cutting (DeepPrior's way, and most loaders' after it), scipy's affine_transform.
All take the nearest pixel; without noise the one-warp ways must give our images, which is checked first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["KINETO_LOG_LEVEL"] = "5"  # torch's profiler announces itself on stderr

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from handloom.learn import batches, murauer_batches, murauer_recipe
from handloom.learn.batches import Bank, Geometry, bank_of, cut, draw_geometry
from handloom.learn.data import TrainingData
from handloom.learn.murauer_nets import Volume
from handloom.learn.sampling import noise_generator
from handloom.stores.joints import LAYOUTS
from handloom.stores.reading import Resident, load_resident
from handloom.stores.recording import open_recording

BUDGET_MS = {128: 0.4, 64: 0.1}
"""CPU a sample."""
SAMPLES, CUBE_MM, NOISE_MM = 64, 300.0, 5.0
F32 = NDArray[np.float32]
PARTS = {
    "sampling and geometry": ("aten::argsort", "aten::sort", "aten::bitwise", "aten::__", "aten::log", "aten::cos"),
    "gather": ("aten::take", "aten::index", "aten::gather"),
    "noise": ("aten::randn", "aten::normal"),
    "to indices": ("aten::floor", "aten::clamp", "aten::copy", "aten::to", "aten::_to"),
    "normalise": ("aten::where", "aten::abs", "aten::le", "aten::ne"),
}
"""Operations of torch by what they are for; all others are arithmetic on the grid and on depths."""


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, help="a synthetic recording; one is made without")
    parser.add_argument("--frames", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = options.recording or synthesised(Path(folder) / "s.zarr", options.frames)
        resident = load_resident(open_recording(path))
    for input_px in (128, 64):
        measure(resident, input_px, options.rounds)


def synthesised(path: Path, frames: int) -> Path:
    """Three views of the built-in hand through the structured-light sensor."""
    from handloom.synth.generate import SynthConfig, synthesise

    synthesise(SynthConfig(frames=frames, sensor="structured-light"), path, jobs=1)
    return path


def bank(data: Resident) -> Bank:
    """On the CPU, with labels."""
    device = torch.device("cpu")
    given: dict[str, Any] = {"offset_true_mm": 5.0, "offset_located_mm": 15.0, "located": False, "device": device}
    return bank_of([data], layout=LAYOUTS["openxr26"], labelled=None, **given)


def joint_batches(data: Resident, input_px: int) -> murauer_batches.Batches:
    """Of the full arm; the frames serve as synthetic, real and twins alike, so that every sub-batch is there."""
    here, rows = bank(data), torch.arange(len(data))
    given = TrainingData(
        layout=LAYOUTS["openxr26"],
        hand="right",
        synth=here,
        twins=bank(data),
        real=bank(data),
        labelled=rows,
        twin_of=rows,
        unlabelled=rows,
        sources={},
    )
    config = murauer_recipe.preset("paper", "full", input_px=input_px, batch=SAMPLES) if input_px == 128 else None
    config = config or murauer_recipe.preset("fast", "full", batch=SAMPLES)
    assert isinstance(config, murauer_recipe.MurauerConfig)
    return murauer_batches.Batches(config, given, Volume.of(here))


# --- others' ways, an image at a time ---


def affine(there: Bank, crop: int, geometry: Geometry, place: int, input_px: int) -> NDArray[np.float64]:
    """(2, 3) from pixels of the input to those of the stored crop: roll, offset and window in one."""
    fx, fy, cx, cy = there.k[crop].double().numpy()
    x, y, z = geometry.center_mm[place].double().numpy()
    roll = float(geometry.roll_rad[place])
    scale, middle = CUBE_MM / (input_px * z), (input_px - 1) / 2
    c, s = np.cos(roll), np.sin(roll)
    turn = np.array([[fx * c, fx * s * fx / fy], [-fy * s, fy * c * fx / fy]]) * scale
    shift = np.array([fx * x / z + cx, fy * y / z + cy]) - turn @ [middle, middle]
    return np.column_stack([turn, shift])


def normalised(depth: F32, z: float, noise: F32 | None) -> F32:
    """[-1, 1] about the centre, +1 where there is nothing."""
    value = (depth - z) / (CUBE_MM / 2)
    if noise is not None:
        value = value + noise * (NOISE_MM / (CUBE_MM / 2))
    return np.where((depth > 0) & (np.abs(value) <= 1), value, np.float32(1))


class Others:
    """The crops of a bank as numpy arrays, cut one at a time."""

    def __init__(self, there: Bank, input_px: int) -> None:
        self.bank, self.px = there, input_px
        self.crops = there.crops.numpy().view(np.uint16)
        self.unit = there.unit_mm.numpy()
        self.rng = np.random.default_rng(0)

    def noise(self, side: int, noisy: bool) -> F32 | None:
        """White, of unit deviation."""
        return self.rng.standard_normal((side, side), np.float32) if noisy else None

    def one_warp(self, crop: int, geometry: Geometry, place: int, *, noisy: bool = True) -> F32:
        """cv2.warpAffine once, the noise on what is left."""
        matrix = affine(self.bank, crop, geometry, place, self.px)
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        cropped = cv2.warpAffine(self.crops[crop], matrix, (self.px, self.px), flags=flags, borderValue=0)
        depth = cropped.astype(np.float32) * self.unit[crop]
        return normalised(depth, float(geometry.center_mm[place, 2]), self.noise(self.px, noisy))

    def scipy(self, crop: int, geometry: Geometry, place: int, *, noisy: bool = True) -> F32:
        """ndimage.affine_transform of order 0."""
        matrix = affine(self.bank, crop, geometry, place, self.px)[::-1][:, [1, 0, 2]]  # rows first
        size = (self.px, self.px)
        cropped = ndimage.affine_transform(self.crops[crop], matrix[:, :2], matrix[:, 2], size, order=0, cval=0)
        depth = cropped.astype(np.float32) * self.unit[crop]
        return normalised(depth, float(geometry.center_mm[place, 2]), self.noise(self.px, noisy))

    def rotate_then_cut(self, crop: int, geometry: Geometry, place: int) -> F32:
        """Noise on the stored crop, then the rotation of all of it, then the window, resized."""
        side = self.crops.shape[1]
        depth = self.crops[crop].astype(np.float32) * self.unit[crop]
        noise = self.noise(side, True)
        depth = np.where(depth > 0, depth + NOISE_MM * noise, 0).astype(np.float32)
        fx, fy, cx, cy = self.bank.k[crop].tolist()
        x, y, z = geometry.center_mm[place].tolist()
        u, v = fx * x / z + cx, fy * y / z + cy
        turn = cv2.getRotationMatrix2D((u, v), -np.rad2deg(float(geometry.roll_rad[place])), 1)
        turned = cv2.warpAffine(depth, turn, (side, side), flags=cv2.INTER_NEAREST, borderValue=0)
        half = CUBE_MM / 2 / z * np.array([fx, fy])
        left, top, right, bottom = (round(w) for w in (u - half[0], v - half[1], u + half[0], v + half[1]))
        padded = cv2.copyMakeBorder(turned, side, side, side, side, cv2.BORDER_CONSTANT, value=0)
        window = padded[side + top : side + bottom, side + left : side + right]
        return normalised(cv2.resize(window, (self.px, self.px), interpolation=cv2.INTER_NEAREST), z, None)


# --- figures ---


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of the process for one call."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def measure(data: Resident, input_px: int, rounds: int) -> None:
    """Print the figures of one input size."""
    made = joint_batches(data, input_px)
    images = sum(made.sizes.values()) + sum(made.sizes[name] for name in ("view_real", "view_synth"))
    there = bank(data)
    size: dict[str, Any] = {"input_px": input_px, "cube_mm": CUBE_MM}
    crops = torch.randint(0, len(there.present), (images,), generator=torch.Generator().manual_seed(0))
    geometry = draw_geometry(there, crops, 7, torch.arange(images), rotation_deg=60)
    others = Others(there, input_px)
    agree = agreement(others, crops, geometry, cut(there, crops, geometry, **size).image[:, 0].numpy())
    noise = noise_generator(1, 2, there.device)
    numbers = list(enumerate(crops.tolist()))
    work: dict[str, Callable[[int], object]] = {
        "the whole batch": lambda step: made.joint(step),
        "sampling and geometry": lambda step: [stream.draw(step) for stream in made.streams.values()],
        "cut without noise": lambda step: cut(there, crops, geometry, **size),
        "cut with noise": lambda step: cut(there, crops, geometry, noise_mm=NOISE_MM, generator=noise, **size),
        "labels": lambda step: batches.label(
            there, crops[:48], _part(geometry, 48), _blank(geometry, 48), cube_mm=CUBE_MM
        ),
        "cv2, one warp": lambda step: [others.one_warp(crop, geometry, i) for i, crop in numbers],
        "cv2, rotate then cut": lambda step: [others.rotate_then_cut(crop, geometry, i) for i, crop in numbers],
        "scipy": lambda step: [others.scipy(crop, geometry, i) for i, crop in numbers],
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for step in range(rounds + 2):
        for name, call in work.items():
            spent = cpu_ms(lambda call=call, step=step: call(step))
            if step >= 2:
                taken[name].append(spent)
    median = {name: float(np.median(spent)) for name, spent in taken.items()}
    whole, low, high = median["the whole batch"], min(taken["the whole batch"]), max(taken["the whole batch"])
    print(f"{input_px}²: {whole / SAMPLES:.3f} ms CPU a sample ({low / SAMPLES:.3f}-{high / SAMPLES:.3f}), ", end="")
    print(f"{whole / images:.3f} an image; budget {BUDGET_MS[input_px]} a sample")
    noise_ms = median["cut with noise"] - median["cut without noise"]
    parts = {
        "sampling and geometry": median["sampling and geometry"],
        "cut (rotation, offset, crop, normalise)": median["cut without noise"],
        "noise": noise_ms,
        "labels": median["labels"],
    }
    print("  parts, ms a sample: " + ", ".join(f"{name} {spent / SAMPLES:.3f}" for name, spent in parts.items()))
    print("  profile of the whole: " + ", ".join(f"{name} {share:.0%}" for name, share in profile(made).items()))
    for name in ("cv2, one warp", "cv2, rotate then cut", "scipy"):
        ratio = median[name] / median["cut with noise"]
        print(f"  {name}: {median[name] / images:.3f} ms an image, {ratio:.2f} x our cut's {_of(median, images)}")
    print(f"  pixels that agree with ours: cv2 {agree['cv2, one warp']:.2%}, scipy {agree['scipy']:.2%}", flush=True)


def _of(median: dict[str, float], images: int) -> str:
    return f"{median['cut with noise'] / images:.3f}"


def _part(geometry: Geometry, n: int) -> Geometry:
    return Geometry(geometry.roll_rad[:n], geometry.center_mm[:n])


def _blank(geometry: Geometry, n: int) -> batches.Images:
    return batches.Images(torch.empty(n, 0), geometry.center_mm[:n])


def agreement(others: Others, crops: torch.Tensor, geometry: Geometry, ours: F32) -> dict[str, float]:
    """Share of pixels within 0.1 mm of ours; the nearest of two equally near pixels is a matter of rounding."""
    found = {}
    for name, way in (("cv2, one warp", others.one_warp), ("scipy", others.scipy)):
        theirs = np.stack([way(crop, geometry, i, noisy=False) for i, crop in enumerate(crops.tolist())])
        found[name] = float((np.abs(theirs - ours) < 0.1 / (CUBE_MM / 2)).mean())
        assert found[name] > 0.97, (name, found[name])
    return found


def profile(made: murauer_batches.Batches) -> dict[str, float]:
    """Shares of torch's own time by what its operations are for."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for step in range(5):
            made.joint(step)
    total = dict.fromkeys([*PARTS, "arithmetic"], 0.0)
    for event in seen.key_averages():
        part = next((part for part, names in PARTS.items() if event.key.startswith(names)), "arithmetic")
        total[part] += event.self_cpu_time_total
    whole = sum(total.values())
    return {name: spent / whole for name, spent in total.items()}


if __name__ == "__main__":
    main()
