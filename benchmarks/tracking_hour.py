"""Tracking for a long time: does anything grow?

    python benchmarks/tracking_hour.py [--minutes 60] [--views 3]

A virtual rig (moving hand, arm, person, desk, wall) renders in a process of its own, as cameras would be read, and
gives its images as fast as they come; this process tracks the hand, smooths it, and writes JSON lines to nowhere. Once
a minute (or a sixth of the time) it says how much memory this process has, counted after garbage collection. The growth
is that of a line through all readings after the first sixth, in kB an hour of 108,000 frames.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

FRAMES_AN_HOUR = 30 * 3600


def resident_kb() -> float:
    """Memory of this process that is its own, kB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def open_virtual(frames: int, views: int) -> object:
    """The source, in its process."""
    from handloom.capture.virtual import VirtualConfig, VirtualRig
    from handloom.synth.rigs import ring_rig

    return VirtualRig(VirtualConfig(frames=frames, seed=5, transport="direct"), rig=ring_rig(views))


def main() -> None:
    """Track and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument(
        "--model", type=Path, help="an exported model; else joints about the middle of the hand's pixels"
    )
    options = parser.parse_args()

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from handloom.capture.apart import SourceApart
    from handloom.learn.pose_writers import json_lines
    from handloom.learn.poses import stream
    from handloom.learn.predict import load
    from handloom.learn.tracking import Tracker
    from handloom.predict_sources import file_input

    from centred_net import centred_model

    with tempfile.TemporaryDirectory() as folder:
        model = load(options.model) if options.model else centred_model(Path(folder) / "m.onnx")
    every = max(2.0, min(60.0, 10 * options.minutes))
    opener = partial(open_virtual, 2_000_000, options.views)
    with SourceApart(opener) as source, Path(os.devnull).open("w") as sink:
        given = file_input(source, locate=False)
        tracker = Tracker(model, given.rig)
        readings: list[tuple[int, float]] = []
        start = time.monotonic()
        watched = replace(given, views=until(60 * options.minutes, every, given.views, tracker, readings))
        stream(tracker, watched, json_lines(sink, model.layout), smooth=True)
        seconds = time.monotonic() - start
    counts = tracker.counts
    rate = f"{counts.instants / seconds:.0f} a second"
    print(f"{counts.instants} frames of {options.views} cameras in {seconds / 60:.1f} min, {rate}")
    share = 100 * counts.tracked / counts.instants
    print(f"tracked {share:.1f} %, lost {counts.lost} times, no hand in {counts.missed}")
    kept = np.array(readings[len(readings) // 6 + 1 :], float)
    if len(kept) > 2:
        slope = np.polyfit(kept[:, 0], kept[:, 1], 1)[0] * FRAMES_AN_HOUR
        first, last = kept[0, 1] / 1024, kept[-1, 1] / 1024
        print(f"memory {first:.1f} MB, at the end {last:.1f} MB: {slope:+.0f} kB an hour of 30 Hz")


def until(
    seconds: float, every: float, views: Iterator[Any], tracker: Any, readings: list[tuple[int, float]]
) -> Iterator[Any]:
    """The images until it is time to stop, with a reading of the memory every so often."""
    start = last = 0.0
    for view in views:
        now = time.monotonic()
        start, last = start or now, last or now  # the first image comes when the renderer is compiled
        if now - start >= seconds:
            return
        if now - last >= every and tracker.counts.instants:
            last, c = now, tracker.counts
            readings.append((c.instants, resident_kb()))
            share, minutes = 100 * c.tracked / c.instants, (now - start) / 60
            said = f"{share:.1f} % tracked, {c.lost} lost, {readings[-1][1] / 1024:.1f} MB"
            print(f"  {minutes:5.1f} min  {c.instants:>8} frames, {said}", flush=True)
        yield view


if __name__ == "__main__":
    main()
