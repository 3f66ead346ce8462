"""Whole synthesis on one core: pose, skin, render, sensor in native pixels, crop, encode, store.

    python benchmarks/synthesis.py [--frames 512]

CPU time of the process beside wall time: on a machine that others use the first is what one idle core takes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

from handloom.synth.generate import SynthConfig, synthesise

CASES = {
    "320x240, f 241 px, 0.5 m": ({}, 800),
    "640x480, f 588 px, 0.7 m": (
        {"width_px": 640, "height_px": 480, "focal_px": 588.0, "distance_mm": 700.0},
        250,
    ),
}


def main() -> None:
    """Print views a second for each camera, the sensor on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=512)
    frames = parser.parse_args().frames
    with tempfile.TemporaryDirectory() as folder:
        for name, (values, goal) in CASES.items():
            config = SynthConfig(frames=frames, sensor="structured-light", **values)
            synthesise(config.model_copy(update={"frames": 1}), Path(folder) / "warm.zarr", jobs=1, overwrite=True)
            cpu, wall = time.process_time(), time.perf_counter()
            synthesise(config, Path(folder) / "s.zarr", jobs=1, overwrite=True)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            views = frames * config.views
            print(
                f"{name}: {views / cpu:.0f} views/s of CPU time, {views / wall:.0f} views/s of wall time (goal {goal})"
            )


if __name__ == "__main__":
    main()
