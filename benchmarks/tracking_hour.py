"""Tracking for a long time: does anything grow?

    python benchmarks/tracking_hour.py [--minutes 60] [--views 3] [--pace 30]

What `handloom predict --live --track --smooth` does, joined from the same parts: cameras in a process of their own,
their images in shared memory, the newest set taken and older ones let go, the hand tracked, smoothed, and written as
JSON lines (to nowhere). The cameras are a virtual rig at their pace: a new motion every 150 sets, so that the hand is
lost and found again; one image in a hundred is lost; clocks drift. Cameras of 30 Hz played at a lesser `--pace` are
in slow motion, for machines that have more to do.

Once a minute (or a sixtieth of the time) it notes the memory of the whole tree of processes: what is resident and not a
file's, swapped-out pages included, after garbage collection in the process that tracks; beside it threads, open files
and Python objects. Images in shared memory are counted apart: their ring has a fixed size, of which as much is resident
as ever waited at once. The growth is that of a line through all readings after the first sixth, with the 95 % interval
of its slope, and the mean of the last third of them less that of the third before.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

FRAMES_AN_HOUR = 30 * 3600
COUNTED = ("RssAnon", "VmSwap")


@dataclass(frozen=True)
class Reading:
    """What there is at one moment."""

    minutes: float
    instants: int
    tree_kb: int
    own_kb: int
    """Of the process that tracks."""
    shared_kb: int
    """Of images that waited."""
    threads: int
    files: int
    objects: int


def memory_kb(pid: int, kinds: tuple[str, ...] = COUNTED) -> int:
    """Of one process, kB; 0 of one that has just ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds)
    return 0


def tree() -> list[int]:
    """This process and all that came from it."""
    parents: dict[int, int] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError, ValueError):
                parents[int(path.name)] = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def look(minutes: float, instants: int) -> Reading:
    """Collect garbage and read."""
    gc.collect()
    own, pids = os.getpid(), tree()
    memory = {pid: memory_kb(pid) for pid in pids}
    tasks = files = 0
    for pid in pids:
        with suppress(OSError):
            tasks += len(list(Path(f"/proc/{pid}/task").iterdir()))
            files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    shared = max(memory_kb(pid, ("RssShmem",)) for pid in pids)
    return Reading(minutes, instants, sum(memory.values()), memory[own], shared, tasks, files, len(gc.get_objects()))


def open_cameras(frames: int, views: int, pace: float) -> object:
    """The source, in its process: a virtual rig that does not wait for whoever reads it."""
    from handloom.capture.virtual import VirtualConfig, VirtualRig
    from handloom.synth.rigs import ring_rig

    class Cameras(VirtualRig):
        live = True

        def frames(self) -> Iterator[Any]:
            due = time.monotonic()
            for image in super().frames():
                if image.camera == 0:
                    due = max(due + 1 / pace, time.monotonic() - 1)  # a second is made up for, no more
                    time.sleep(max(0.0, due - time.monotonic()))
                yield image

    config = VirtualConfig(frames=frames, drop=0.01, seed=5, transport="direct", jobs=1)
    return Cameras(config, rig=ring_rig(views))


def main() -> None:
    """Track and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--pace", type=float, default=30.0, help="sets a second")
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
    from handloom.predict_sources import LiveInput

    from centred_net import centred_model

    with tempfile.TemporaryDirectory() as folder:
        model = load(options.model) if options.model else centred_model(Path(folder) / "m.onnx")
    sets = round(1.2 * 60 * options.minutes * options.pace) + 1000
    opener = partial(open_cameras, sets, options.views, options.pace)
    with SourceApart(opener) as source, LiveInput(source) as images, Path(os.devnull).open("w") as sink:
        tracker = Tracker(model, source.rig, hand=images.input.hand)
        readings: list[Reading] = []
        watched = replace(images.input, views=until(options.minutes, images.input.views, tracker, readings))
        stream(tracker, watched, json_lines(sink, model.layout, flush=True), smooth=True)
        dropped = int(source.traffic.dropped.sum())
    tell(readings, tracker, options.views, images.skipped, dropped)


def until(minutes: float, views: Iterator[Any], tracker: Any, readings: list[Reading]) -> Iterator[Any]:
    """The images until it is time to stop, with a reading every so often."""
    every = min(60.0, minutes)
    start = last = 0.0
    for view in views:
        now = time.monotonic()
        start, last = start or now, last or now  # the first image comes when the renderer is compiled
        if now - start >= 60 * minutes:
            return
        if now - last >= every and tracker.counts.instants:
            last, c = now, tracker.counts
            readings.append(one := look((now - start) / 60, c.instants))
            said = f"{100 * c.tracked / c.instants:.1f} % tracked, {c.lost} lost"
            tree, own, images = (kb / 1024 for kb in (one.tree_kb, one.own_kb, one.shared_kb))
            print(
                f"  {one.minutes:5.1f} min  {c.instants:>7} frames, {said}; {tree:.1f} MB, here {own:.1f}, images "
                f"{images:.1f}; {one.threads} threads, {one.files} files, {one.objects} objects",
                flush=True,
            )
        yield view


def tell(readings: list[Reading], tracker: Any, views: int, skipped: int, dropped: int) -> None:
    """The figures."""
    c, end = tracker.counts, readings[-1]
    print(
        f"{end.instants} frames of {views} cameras in {end.minutes:.1f} min, {end.instants / 60 / end.minutes:.1f} a "
        f"second; {skipped} sets skipped, {dropped} images dropped"
    )
    print(f"tracked {100 * c.tracked / c.instants:.1f} %, lost {c.lost} times, no hand in {c.missed}")
    kept = readings[len(readings) // 6 :]
    if len(kept) < 6:
        return
    for what, name in (("tree_kb", "all processes"), ("own_kb", "the one that tracks")):
        hours, kb = np.array([one.minutes / 60 for one in kept]), np.array([getattr(one, what) for one in kept], float)
        (slope, _), covariance = np.polyfit(hours, kb, 1, cov=True)
        third = len(kb) // 3
        later = kb[-third:].mean() - kb[-2 * third : -third].mean()
        a_frame = slope * (hours[-1] - hours[0]) / (kept[-1].instants - kept[0].instants)
        print(
            f"memory of {name}: {kb[0] / 1024:.1f} MB, at the end {kb[-1] / 1024:.1f} MB: {slope:+.0f} ± "
            f"{1.96 * covariance[0, 0] ** 0.5:.0f} kB an hour, {a_frame * FRAMES_AN_HOUR:+.0f} kB per hour of 30 Hz; "
            f"last third less the one before {later:+.0f} kB"
        )
    first = kept[0]
    print(
        f"threads {first.threads} and {end.threads}, open files {first.files} and {end.files}, Python objects "
        f"{first.objects} and {end.objects}"
    )


if __name__ == "__main__":
    main()
