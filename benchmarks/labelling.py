"""What `handloom label` costs and what its choice of frames covers: CPU time of one core, ratios within this run.

A virtual capture of 600 sets of three 320 × 240 cameras is recorded first (two minutes). The choice is compared with
as many frames drawn at random and with as many spread evenly in time, by the largest and the median distance of all
candidates to the nearest chosen one (RMS depth over the crops, the metric that it chooses by).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from handloom.capture.locating import locate
from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.learn.labelling import prepare
from handloom.stores.diverse import Candidates, choose, crop_descriptors, find_candidates
from handloom.stores.recording import open_recording
from handloom.synth.anatomy import SCALE, skeleton

FRAMES, CHOSEN = 600, 40


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.zarr"
        config = VirtualConfig(frames=FRAMES, sequence_frames=60, subjects=2, transport="direct", jobs=2, seed=3)
        with VirtualRig(config) as source:
            record(source, path)
        locate(path)
        recording = open_recording(path)
        found = find_candidates(recording, split="train", min_score=0)
        start = time.process_time()
        points = crop_descriptors(recording, found.rows)
        views = recording.n_views * len(found.rows)
        print(f"descriptors of crops: {1e3 * (time.process_time() - start) / views:.2f} ms a view")
        compare(points, found)
        start = time.process_time()
        done = prepare(
            path, Path(folder) / "page", select=CHOSEN, frames=None, rest_mm=skeleton()[0] * SCALE, min_score=0, seed=0
        )
        spent, page = time.process_time() - start, done.page
        print(f"page of {done.frames} frames, {page.views} views: {spent:.1f} s with the choice")
        print(f"{page.size_bytes / page.views / 1e3:.1f} kB a view")
    many = np.random.default_rng(0).normal(0, 30, (20_000, 768)).astype(np.float16)
    everyone = np.zeros(len(many), np.int32)
    crowd = Candidates(np.arange(len(many)), np.zeros(len(many), bool), everyone, everyone, len(many))
    start = time.process_time()
    choose(many, crowd, 100, rng=np.random.default_rng(0))
    print(f"choosing 100 of 20,000 frames of three views: {time.process_time() - start:.1f} s")


def compare(points: np.ndarray, found: Candidates) -> None:
    """How near the chosen frames come to all, beside other choices of as many."""
    chosen = choose(points, found, CHOSEN, rng=np.random.default_rng(0))
    count = len(found.rows)
    even = np.linspace(0, count - 1, CHOSEN).astype(int)
    drawn = [np.random.default_rng(seed).choice(count, CHOSEN, replace=False) for seed in range(20)]
    mine = np.searchsorted(found.rows, chosen.rows)
    for name, several in (("farthest first", [mine]), ("evenly in time", [even]), ("at random (20 draws)", drawn)):
        half, most, far = np.mean([within(points, some) for some in several], axis=0)
        print(f"{CHOSEN} of {count} frames {name}: half within {half:.1f} mm, 90 % {most:.1f}, all {far:.1f}")


def within(points: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Distance to the nearest chosen frame: median, 90th percentile, largest."""
    p = points.astype(np.float32)
    nearest = np.full(len(p), np.inf, np.float32)
    for i in chosen:
        np.minimum(nearest, np.linalg.norm(p - p[i], axis=1), out=nearest)
    return np.percentile(nearest, (50, 90, 100))


if __name__ == "__main__":
    main()
