"""What checking, copying and joining a capture cost: CPU time an image, memory at the peak, all in one run.

    python benchmarks/edits.py [--sets 192]

The capture is three 640×480 cameras of a virtual rig, with a room, without labels; its frames are rendered once and
then repeated, each a little shifted. Files are in the page cache; flushing them to the disk costs time but no CPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.camera import Rig
from handloom.stores.edit import merge, repack
from handloom.stores.export import export
from handloom.stores.recording import create_recording, open_recording
from handloom.stores.table import Appender
from handloom.stores.verify import verify
from handloom.synth.rigs import ring_rig

RENDERED = 16


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=192)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = (capture(folder / f"{seed}.zarr", options.sets, seed) for seed in (0, 1))
        images = 3 * options.sets
        size = sum(file.stat().st_size for file in first.rglob("*") if file.is_file())
        print(f"{options.sets} sets of three 640x480 images, {size / images / 1e3:.0f} kB an image on disk")
        tell("verify", lambda: verify(first), images)
        tell("verify --deep", lambda: verify(first, deep=True), images)
        tell("repack, units of 64", lambda: repack(first, folder / "r.zarr", unit_frames=64), images)
        tell("merge --renumber of two", lambda: merge([first, second], folder / "m.zarr", renumber=True), 2 * images)
        tell("export to PNG", lambda: export(first, folder / "plain"), images)
        tracemalloc.start()
        repack(first, folder / "again.zarr", unit_frames=64)
        peak = tracemalloc.get_traced_memory()[1]
        unit = 64 * 3 * 640 * 480 * 2
        print(f"{'peak of repack:':<28}{peak / 1e6:.0f} MB, {peak / unit:.1f} units of 64 sets")


def tell(name: str, work: Callable[[], object], images: int) -> None:
    """CPU time of all threads."""
    start = time.process_time()
    work()
    print(f"{name + ':':<28}{1e3 * (time.process_time() - start) / images:.2f} ms CPU an image")


def capture(path: Path, sets: int, seed: int) -> Path:
    """Rendered sets, repeated with a millimetre more each time so that no image is there twice."""
    rig: Rig = ring_rig(3, width=640, height=480, focal_px=588.0)
    config = VirtualConfig(frames=RENDERED, transport="direct", jobs=1, seed=seed)
    with tempfile.TemporaryDirectory() as name, VirtualRig(config, rig=rig) as source:
        shot = record(source, Path(name) / "shot.zarr")
        assert shot.frames is not None
        depth = {f"depth/{camera}": shot.frames.read(f"depth/{camera}") for camera in rig.names}
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "benchmark"})
    with Appender(recording.create_frames(depth=True, unit_frames=16)) as appender:
        for start in range(0, sets, RENDERED):
            number = np.arange(start, min(start + RENDERED, sets))
            both = number[:, None].repeat(3, 1)
            rows = {name: images[: len(number)] + (images[: len(number)] > 0) * start for name, images in depth.items()}
            times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), both)
            ids = {"frame_id": number, "subject": number * 0, "sequence": number * 0, "split": number * 0}
            appender.append({**rows, **times, **ids, "present": np.ones((len(number), 3))})
    assert open_recording(path).n_frames == sets
    return path


if __name__ == "__main__":
    main()
