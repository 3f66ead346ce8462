"""Whole synthesis: pose, skin, render, sensor in native pixels, crop, encode, store; what bounds it; two processes.

    python benchmarks/synthesis.py [--frames 512] [--rounds 3] [--jobs 1,2] [-o sensor=stereo]

Views a second of one process are in CPU time beside wall time: on a machine that others use the first is what
one idle core takes. The stages are timed within the same runs, by timers around the functions that do them;
what lies between them is `rest`. With --jobs, whole runs of two lengths are timed: their difference gives the
pace, what the longer one took beyond it is the start of the processes, paid once a run. CPU time a view that
stays the same tells that processes do not hinder each other, wherever else the wall's time goes.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

from handloom.stores.config import load_config
from handloom.stores.table import Table
from handloom.synth import sensor, units, views
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise
from handloom.synth.render import open_renderer

CASES = {
    "320x240, f 241 px, 0.5 m": ([], 800),
    "640x480, f 588 px, 0.7 m": (["width_px=640", "height_px=480", "focal_px=588", "distance_mm=700"], 250),
}
STAGES = {
    "draw the samples": [(units, "draw_samples")],
    "pose and skin": [(units, "pose_hand")],
    "what stands around": [(units, "around")],
    "into the camera, window": [(views, "in_camera"), (views, "_window")],
    "render": [],  # the renderer's method, which has no module to be found in
    "sensor": [(sensor, "apply")],
    "cut the crop, joints seen": [(views, n) for n in ("parts_of", "nearest_pixels", "cut", "visible_joints")],
    "encode and store": [(Table, "write_unit")],
}


def timed(owner: Any, name: str, spent: dict[str, float], stage: str) -> None:
    """Have every call of `owner.name` add its CPU time, of all threads, to its stage."""
    original: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return original(*args, **kwargs)
        finally:
            spent[stage] += time.process_time() - start

    setattr(owner, name, call)


def one_process(title: str, config: SynthConfig, goal: int, rounds: int, spent: dict[str, float]) -> None:
    """Print views a second and the stages of one process."""
    count = config.frames * len(config.make_rig())
    runs, stages = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            for stage in spent:
                spent[stage] = 0.0
            cpu, wall = time.process_time(), time.perf_counter()
            synthesise(config, Path(folder) / "s.zarr", jobs=1)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        runs.append((count / cpu, count / wall))
        stages.append([*spent.values(), cpu - sum(spent.values())])
    by_cpu, by_wall = np.transpose(runs)
    print(f"\n{title}: {np.median(by_cpu):,.0f} views/s of CPU time ({by_cpu.min():,.0f} to {by_cpu.max():,.0f}),")
    print(f"  {np.median(by_wall):,.0f} of wall time ({by_wall.min():,.0f} to {by_wall.max():,.0f}); goal {goal}")
    each = np.median(stages, axis=0) / count * 1e3
    for stage, ms in zip([*spent, "rest"], each, strict=True):
        if ms >= 5e-4:
            print(f"  {stage:<26} {ms:6.3f} ms a view {100 * ms / each.sum():4.0f} %")


def several(config: SynthConfig, jobs: list[int]) -> None:
    """Print how whole runs scale over processes."""
    paces: dict[int, float] = {}
    frames = (4 * config.unit_frames, 16 * config.unit_frames)
    small, large = (count * len(config.make_rig()) for count in frames)
    print(f"\nwhole runs of {frames[0]:,} and {frames[1]:,} frames, views/s by the wall")
    print("  processes   whole run    pace   of linear   CPU ms a view   start s")
    for count in jobs:
        spent = []
        for number in frames:
            with tempfile.TemporaryDirectory() as folder:
                wall, cpu = time.perf_counter(), cpu_of_all()
                synthesise(config.model_copy(update={"frames": number}), Path(folder) / "s.zarr", jobs=count)
                spent.append((time.perf_counter() - wall, cpu_of_all() - cpu))
        (wall_small, cpu_small), (wall_large, cpu_large) = spent
        pace = paces[count] = (large - small) / (wall_large - wall_small)
        cpu_ms = (cpu_large - cpu_small) / (large - small) * 1e3
        linear = 100 * pace / paces[jobs[0]] * jobs[0] / count
        start = max(wall_large - large / pace, 0.0)
        print(f"  {count:9} {large / wall_large:11,.0f} {pace:7,.0f} {linear:9.0f} % {cpu_ms:15.3f} {start:9.1f}")


def cpu_of_all() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    """Print speed, stages and scaling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=512, help="of a run in one process")
    parser.add_argument("--rounds", type=int, default=3, help="runs in one process, of which the median counts")
    parser.add_argument("--jobs", default="1,2", help="numbers of processes to compare; empty for none")
    parser.add_argument("-o", dest="overrides", action="append", default=[], help="a value of the configuration")
    given = parser.parse_args()
    spent = dict.fromkeys(STAGES, 0.0)
    cases = {
        title: (load_config(SynthConfig, None, [f"frames={given.frames}", *values, *given.overrides]), goal)
        for title, (values, goal) in CASES.items()
    }
    first = next(iter(cases.values()))[0]
    print(f"sensor {first.sensor}, renderer {first.renderer}, {given.frames} frames by {len(first.make_rig())} cameras")
    for stage, functions in STAGES.items():
        for owner, name in functions:
            timed(owner, name, spent, stage)
    timed(type(open_renderer(first.renderer)), "render", spent, "render")
    for title, (config, goal) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            synthesise(config.model_copy(update={"frames": 1}), Path(folder) / "warm.zarr", jobs=1)
        one_process(title, config, goal, given.rounds, spent)
    counts = [int(count) for count in given.jobs.split(",") if count]
    if counts:
        several(first, counts)


if __name__ == "__main__":
    main()
