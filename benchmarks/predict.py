"""Prediction from a frame to a file: one image, whole batches, a recording, the start, memory; one core throughout.

    python benchmarks/predict.py [--runs 200] [--keep DIR] [--openvino]

Weights are random: the time does not depend on them. All but `first pose` is CPU time, medians of runs in turns.

- one image: `network` is onnxruntime alone, `one crop` also cuts it out of a 640x480 frame, `two crops` does both
  twice, as `predict` does. Each model's three follow each other, as in a stream of frames; `cold` is its first
  prediction after another model has had the cache.
- batches of 32, images a second: the network alone, with crops, with two crops as `predict` takes them; the crops by
  numpy and by the compiled kernel, which long recordings get (`learn/cuts.py`).
- a recording of two cameras, 640x480: images a second from the files to poses.csv, and what reading them, predicting
  and writing take by themselves (its files are read in a thread of their own: with a second core the wall time is
  less than the CPU time); what memory grows by while 20 times as many images go through.
- `first pose` is a fresh process, from its start to the first pose of a frame whose hand has to be found.

--openvino adds the network in bfloat16, ungated (weights are random: how far poses move says nothing here).
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="keep the exported models here")
    parser.add_argument("--openvino", action="store_true", help="also in bfloat16 (extra 'openvino')")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options.keep or Path(folder), Path(folder), options.runs, openvino=options.openvino)


def run(folder: Path, scratch: Path, runs: int, *, openvino: bool) -> None:
    """Export, time in turns, print."""
    from handloom.learn.inputs import single_image
    from handloom.learn.predict import load
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
    taken = one_image(models, view, center, runs)
    first = first_poses(paths, scratch)
    print(f"batch 1, one thread, CPU ms, median of {runs} in turns; first pose: wall, median of 5 processes (s)")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| model | network | one crop | two crops | cold | budget | first pose | file |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        ms = [f"{np.median(taken[name][kind]):.2f}" for kind in ("network", "one crop", "two crops", "cold")]
        budget = f"{BUDGET_MS[name]:g}" if name in BUDGET_MS else "–"
        size = f"{paths[name].stat().st_size / 1e6:.1f} MB"
        print(f"| {name} | {' | '.join(ms)} | {budget} | {first[name]:.2f} | {size} |")
    rates = {name: batches(model, view, center) for name, model in models.items()}
    from handloom.learn import cuts

    recording(models["murauer fast"], scratch)
    cuts.compile_for(cuts.COMPILED_FROM)
    print(
        "\n| batches of 32, images/s of CPU | network | one crop | two crops | one, compiled | two, compiled | budget |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, model in models.items():
        said = [f"{rate:.0f}" for rate in (*rates[name], *batches(model, view, center)[1:])]
        print(f"| {name} | {' | '.join(said)} | {BUDGET_BATCH.get(name, '–')} |")
    if openvino:
        crops = {name: np.zeros((1, 1, model.input_px, model.input_px), np.float32) for name, model in models.items()}
        print("\n| network, batch 1, ms | onnxruntime, float32 | OpenVINO, bfloat16 |")
        print("|---|---|---|")
        for name, path in paths.items():
            both = [models[name], load(path, runtime="openvino", gated=False)]
            print(f"| {name} | {' | '.join(f'{ms:.2f}' for ms in in_turns(both, crops[name]))} |")


def one_image(models: dict[str, Any], view: Any, center: np.ndarray, runs: int) -> dict[str, dict[str, list[float]]]:
    """CPU ms of each kind of work on one image, by model."""
    from handloom.learn.predict import estimates

    found: dict[str, dict[str, list[float]]] = {name: {} for name in models}
    for _ in range(runs):
        for name, model in models.items():
            crop = np.zeros((1, 1, model.input_px, model.input_px), np.float32)
            twice = lambda m=model: estimates(m, [view], center[None], mirrored=False)  # noqa: E731
            work: dict[str, Callable[[], object]] = {
                "cold": twice,
                "again": twice,
                "network": lambda m=model, c=crop: m.predict_crops(c),
                "one crop": lambda m=model: estimates(m, [view], center[None], mirrored=False, passes=1),
                "two crops": twice,
            }
            for kind, call in work.items():
                start = time.process_time()
                call()
                found[name].setdefault(kind, []).append(1e3 * (time.process_time() - start))
    return found


def recording(model: Any, folder: Path, images: int = 512) -> None:
    """Print what a recording takes from its files to a file of poses, and what memory grows by."""
    from handloom.learn.inputs import open_input
    from handloom.learn.pose_writers import FORMATS
    from handloom.learn.poses import located, predict_to

    path = written(folder / "r.zarr", images // 2)
    views = list(open_input(path).views)

    def endless(times: int) -> Any:
        """The images again and again, from memory."""
        shown = (replace(v, frame=v.frame + n * images) for n, v in itertools.product(range(times), views))
        return replace(open_input(path), images=times * images, views=shown)

    def to_file(suffix: str, source: Any = path) -> None:
        predict_to(model, source, folder / f"poses{suffix}", overwrite=True)

    work: dict[str, Callable[[], object]] = {
        "reading": lambda: list(open_input(path).views),
        "predicting": lambda: list(located(model, endless(1))),
        **{f"to poses{suffix}": lambda s=suffix: to_file(s) for suffix in FORMATS},
        "predicted from memory to poses.csv": lambda: to_file(".csv", endless(1)),
    }
    for call in work.values():
        call()
    seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in work}
    for kind, call in [*work.items()] * 5:
        start, begun = time.process_time(), time.perf_counter()
        call()
        seconds[kind].append((time.process_time() - start, time.perf_counter() - begun))
    print(
        f"\n| MURAUER fast, {images} images of two cameras, 640x480 | images/s of CPU | ms an image | images/s, wall |"
    )
    print("|---|---|---|---|")
    for kind, each in seconds.items():
        cpu, wall = np.median(each, axis=0).tolist()
        print(f"| {kind} | {images / cpu:.0f} | {1e3 * cpu / images:.3f} | {images / wall:.0f} |")
    to_file(".csv", endless(2))
    before = resident_mb()
    to_file(".csv", endless(20))
    print(f"| memory after {22 * images} images − after {2 * images} | {resident_mb() - before:+.1f} MB | | |")


def resident_mb() -> float:
    """What the process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def written(path: Path, frames: int) -> Path:
    """A captured recording of two cameras with full frames, noise in its depth, and stored centres."""
    from handloom.stores.camera import Camera, Rig
    from handloom.stores.recording import create_recording
    from handloom.stores.table import Appender

    rng = np.random.default_rng(0)
    cameras = tuple(Camera(name, 640, 480, (475.0, 475.0, 320.0, 240.0)) for name in ("left", "right"))
    made = create_recording(path, kind="captured", rig=Rig(cameras), hand="right", provenance={"source": "benchmark"})
    tables = [made.create_frames(depth=True), made.create_crops(parts=False)]
    given: dict[str, Callable[[], np.ndarray]] = {
        "present": lambda: np.ones((1, 2), np.uint8),
        "center": lambda: np.array([[[0, 0, 510.0]] * 2]) + rng.normal(0, 10, (1, 2, 3)),
        "center_source": lambda: np.full((1, 2), 2, np.uint8),
        "center_score": lambda: np.ones((1, 2), np.float32),
    }
    for camera in cameras:
        given[f"depth/{camera.name}"] = lambda: noisy(rng)[None]
    for table in tables:
        with Appender(table) as appender:
            for t in range(frames):
                nothing = {name: np.zeros((1, *column.shape)) for name, column in table.columns.items()}
                numbers = {"frame_id": np.array([t])} if "frame_id" in nothing else {}
                appender.append(nothing | {n: make() for n, make in given.items() if n in nothing} | numbers)
    return path


def noisy(rng: np.random.Generator) -> np.ndarray:
    """A frame as a camera gives it: a wall 1.2 m away, 2 mm of noise, a hundredth of the pixels without a return."""
    depth = frame()
    depth[depth == 0] = 1200
    depth = np.rint(depth + rng.normal(0, 2, depth.shape)).astype(np.uint16)
    depth[rng.random(depth.shape) < 0.01] = 0
    return depth


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
