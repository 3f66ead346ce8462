"""Latency of one prediction: batch 1, one thread, every preset, medians of one interleaved run; and whole batches.

    python benchmarks/predict.py [--runs 300] [--keep DIR] [--openvino]

Weights are random: the time does not depend on them. `network` is onnxruntime alone, `image` also cuts the
crop out of a 640x480 frame, `tracked` does both twice, as `predict` does. `first pose` is a fresh
process, from its start to the first pose of a frame whose hand has to be found. `batch` is the network on 32 crops at
a time, in images a second of CPU time; `batch with crops` also cuts them out of 640x480 frames, `predicted` does both
twice. --openvino adds the network in bfloat16, ungated (weights are random: how far poses move says nothing here).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

METHODS = ("murauer", "crossing")
PRESETS = ("quick", "fast", "paper")
BUDGET_BATCH = {"murauer paper": 400, "murauer fast": 4000}
BUDGET_MS = {"murauer paper": 5.0, "murauer fast": 0.5, "crossing paper": 1.0}
FIRST_POSE = """
import sys, time
from pathlib import Path
import numpy as np
from handloom.learn.predict import load
from handloom.stores.camera import Camera
model = load(Path(sys.argv[1]))
depth = np.load(sys.argv[2])
pose = model.predict(depth, Camera("camera", 640, 480, (475.0, 475.0, 320.0, 240.0)))
now = time.time()
heavy = {"torch", "numba", "zarr", "pydantic", "rich", "matplotlib"} & set(sys.modules)
print(now, pose is not None, *sorted(heavy))
"""


def export_random(method: str, preset: str, path: Path) -> None:
    """Write a model of a preset with fresh weights."""
    import torch

    from handloom.learn import crossing_recipe, murauer_recipe
    from handloom.learn.export import export
    from handloom.learn.model import PoseModel, method_module
    from handloom.stores.joints import layout_named

    config: Any
    description: dict[str, Any]
    if method == "murauer":
        config = murauer_recipe.preset(preset, "full")
        description = {
            "architecture": config.architecture.model_dump(mode="json"),
            "condition": 3,
            "domains": 1,
            "released": False,
            "identity_mapping": False,
            "mapped": True,
        }
    else:
        config = crossing_recipe.preset(preset, "full")
        sizes = {"channels": config.channels, "latent": config.latent, "hidden": config.hidden}
        description = {"architecture": sizes, "normalisation": config.normalisation}
    description |= {"layout": "openxr26", "input_px": config.input_px, "cube_mm": config.cube_mm}
    torch.manual_seed(0)
    module = method_module(method)
    nets = module.build_nets(description).eval()
    net = module.pose_net(nets, description).eval()
    layout = layout_named("openxr26")
    model = PoseModel(method, preset, "full", layout, "right", config.input_px, config.cube_mm, net, nets, description)
    export(model, path)


def frame() -> np.ndarray:
    """A 640x480 depth image with a hand-sized slab on an arm, 500 mm away."""
    depth = np.zeros((480, 640), np.uint16)
    depth[170:300, 270:370] = 500
    depth[300:480, 295:345] = 505
    return depth


def main() -> None:
    """Measure and print the lines for RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--keep", type=Path, help="keep the exported models here")
    parser.add_argument("--openvino", action="store_true", help="also in bfloat16 (extra 'openvino')")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options.keep or Path(folder), options.runs, openvino=options.openvino)


def run(folder: Path, runs: int, *, openvino: bool) -> None:
    """Export, time in turns, print."""
    from handloom.learn.inputs import single_image
    from handloom.learn.predict import estimate, load
    from handloom.stores.camera import Camera

    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{method} {preset}" for method in METHODS for preset in PRESETS]
    paths = {name: folder / f"{name.replace(' ', '_')}.onnx" for name in names}
    for name, path in paths.items():
        if not path.exists():
            export_random(*name.split(), path)
    camera = Camera("camera", 640, 480, (475.0, 475.0, 320.0, 240.0))
    center = np.array([0.0, 0.0, 510.0])
    view = single_image(frame(), camera, center_mm=center)
    models = {name: load(path) for name, path in paths.items()}
    crops = {name: np.zeros((1, 1, model.input_px, model.input_px), np.float32) for name, model in models.items()}
    work: dict[tuple[str, str], Callable[[], object]] = {}
    for name, model in models.items():
        work[name, "network"] = lambda m=model, c=crops[name]: m.predict_crops(c)
        work[name, "image"] = lambda m=model: estimate(m, [view], center[None], mirrored=False, passes=1)
        work[name, "tracked"] = lambda m=model: estimate(m, [view], center[None], mirrored=False)
    taken: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for turn in range(runs + 10):
        for key, call in work.items():
            start = time.perf_counter()
            call()
            if turn >= 10:
                taken[key].append(1e3 * (time.perf_counter() - start))
    first = first_poses(paths, folder)
    print(f"batch 1, one thread, median of {runs} in turns (ms); first pose: median of 5 processes (s)")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| model | network | image | tracked | budget | first pose | file |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        ms = [f"{np.median(taken[name, kind]):.2f}" for kind in ("network", "image", "tracked")]
        budget = f"{BUDGET_MS[name]:g}" if name in BUDGET_MS else "–"
        size = f"{paths[name].stat().st_size / 1e6:.1f} MB"
        print(f"| {name} | {' | '.join(ms)} | {budget} | {first[name]:.2f} | {size} |")
    print("\n| batches of 32, images/s of CPU | batch | with crops | predicted | budget |")
    print("|---|---|---|---|---|")
    for name, model in models.items():
        rates = [f"{rate:.0f}" for rate in batches(model, view, center)]
        print(f"| {name} | {' | '.join(rates)} | {BUDGET_BATCH.get(name, '–')} |")
    if openvino:
        print("\n| network, batch 1, ms | onnxruntime, float32 | OpenVINO, bfloat16 |")
        print("|---|---|---|")
        for name, path in paths.items():
            both = [models[name], load(path, runtime="openvino", gated=False)]
            print(f"| {name} | {' | '.join(f'{ms:.2f}' for ms in in_turns(both, crops[name]))} |")


def in_turns(models: list[Any], crop: np.ndarray, runs: int = 100) -> list[float]:
    """Median ms of CPU of one crop, the models in turns."""
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(runs):
        for model, ms in zip(models, taken, strict=True):
            start = time.process_time()
            model.predict_crops(crop)
            ms.append(1e3 * (time.process_time() - start))
    return [float(np.median(ms[10:])) for ms in taken]


def batches(model: Any, view: Any, center: np.ndarray, *, seconds: float = 1.0) -> list[float]:
    """Images a second of CPU time: the network alone, with the crops cut, and both twice as `predict` does."""
    from handloom.learn.predict import BATCH, estimate

    crops = np.zeros((BATCH, 1, model.input_px, model.input_px), np.float32)
    views, centers = [view] * BATCH, np.repeat(center[None], BATCH, axis=0)
    rates = []
    for work in (
        lambda: model.predict_crops(crops),
        lambda: estimate(model, views, centers, mirrored=False, passes=1),
        lambda: estimate(model, views, centers, mirrored=False),
    ):
        work()
        start, count = time.process_time(), 0
        while time.process_time() - start < seconds:
            work()
            count += BATCH
        rates.append(count / (time.process_time() - start))
    return rates


def first_poses(paths: dict[str, Path], folder: Path) -> dict[str, float]:
    """Seconds from the start of a process to its first pose, median of 5."""
    np.save(folder / "frame.npy", frame())
    found: dict[str, float] = {}
    for name, path in paths.items():
        seconds = []
        for _ in range(6):
            start = time.time()
            command = [sys.executable, "-c", FIRST_POSE, str(path), str(folder / "frame.npy")]
            done = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            seconds.append(float(done[0]) - start)
            if done[1] != "True" or done[2:]:
                print(f"{name}: hand found: {done[1]}, heavy imports: {done[2:]}")
        found[name] = float(np.median(seconds[1:]))
    return found


if __name__ == "__main__":
    main()
