"""Twins of labelled frames: frames a second for the fit and for the pictures, and the memory it takes.

    python benchmarks/twins.py [--frames 2048] [--layout nyu14] [--views 3]

The labels are points of sampled poses of four subjects in the layout, with 1.5 mm of noise in each direction. CPU
time of this one process, one thread; everything counts: fitting the people, the poses, drawing, encoding, storing.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

from handloom.stores.joints import layout_named
from handloom.stores.recording import create_recording
from handloom.stores.table import Appender
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.hand import kinematics, landmarks
from handloom.synth.sampling import draw_samples
from handloom.synth.twin import make_twins
from handloom.synth.twin_units import TwinSettings


def make_labels(out: Path, frames: int, layout: str, views: int) -> None:
    """A recording that has nothing but labels."""
    config = SynthConfig(frames=frames, subjects=4, views=views)
    made = create_recording(out, kind="captured", rig=config.make_rig(), hand="right", provenance={"made": "benchmark"})
    labels, table = made.create_labels(layout=layout), made.create_frames(depth=False)
    points, rng = layout_named(layout), np.random.default_rng(0)
    with Appender(labels) as to_labels, Appender(table) as to_frames:
        for first in range(0, frames, 256):
            samples = draw_samples(config, builtin_hand(), first, min(first + 256, frames))
            joints = kinematics(builtin_hand(), samples.pose, samples.root, samples.shape).position[:, :26]
            noisy = landmarks(points, joints) + rng.normal(size=(len(joints), len(points), 3)) * 1.5
            count = len(joints)
            row, none = np.arange(first, first + count), np.full((count, views), -1, np.int64)
            to_labels.append({"joints": noisy, "visible": np.ones((count, views, len(points)), np.uint8)})
            to_frames.append(
                {"present": np.ones((count, views), np.uint8), "t_device_ns": none, "t_host_ns": none,
                 "frame_number": none, "frame_id": row, "subject": samples.subject, "sequence": row,
                 "split": np.zeros(count)}
            )  # fmt: skip


def main() -> None:
    """Print frames a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2048)
    parser.add_argument("--layout", default="nyu14")
    parser.add_argument("--views", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        warm, real = Path(folder) / "warm.zarr", Path(folder) / "real.zarr"
        make_labels(warm, 32, options.layout, options.views)
        make_twins(warm, Path(folder) / "t.zarr", settings=TwinSettings(seed=0))
        make_labels(real, options.frames, options.layout, options.views)
        # The first report comes when the people are known, the last fit's half way.
        marks = [(0, time.process_time())]
        made = make_twins(
            real, Path(folder) / "twins.zarr", settings=TwinSettings(seed=0),
            progress=lambda done, total: marks.append((done, time.process_time())),
        )  # fmt: skip
        end = time.process_time()
        begun = next(t for done, t in marks[1:] if done == 0)
        fitted = next(t for done, t in marks if done >= options.frames)
        print(f"{options.layout}, {made.n_frames} of {options.frames} frames have a twin, {options.views} views")
        print(f"  people   {begun - marks[0][1]:.1f} s for four, at most 400 frames each")
        print(f"  poses    {options.frames / (fitted - begun):.0f} frames/s")
        drawn = made.n_frames / (end - fitted)
        print(f"  pictures {drawn:.0f} frames/s, {drawn * options.views:.0f} views/s")
        print(f"  all      {options.frames / (end - marks[0][1]):.0f} frames/s of CPU time")
        print(f"  memory   {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB at most")


if __name__ == "__main__":
    main()
