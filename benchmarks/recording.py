"""The recorder at 30 fps, 640×480: drops, how far its queues filled, its processor time, and the source's apart.

    python benchmarks/recording.py [--cameras 3,8] [--seconds 60] [--fps 30]

The cameras are the virtual rig's, through the RealSense SDK's software devices; twelve sets are rendered beforehand
and replayed from memory, so what is measured is the recorder. Processor time is in cores: seconds of it by second of
recording. `capture` is the process that reads the cameras, without what the player of the sets takes there, which
stands beside it as `player` (hardware has none); `recorder` is grouping, packing, writing. Whether the player kept its
own pace is said, too: a late player is a machine with too much else to do. Before it, the SDK alone: how many images
a second one thread can put through it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from handloom.capture.apart import SourceApart
from handloom.capture.open import open_live
from handloom.capture.record import record
from handloom.capture.software import SoftwareCamera
from handloom.capture.source import Image
from handloom.capture.virtual import VirtualConfig, VirtualRig, arc

SIZE = (640, 480)


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cameras", default="3,8", help="how many, runs apart by commas")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="where to record; a temporary folder without")
    options = parser.parse_args()
    sdk_alone()
    for views in map(int, options.cameras.split(",")):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            measure(Path(folder) / "r.zarr", views, options.seconds, options.fps)


def sdk_alone(images: int = 600) -> None:
    """What the SDK's software device costs from Python, a copy of the image in its callback included."""
    import numpy as np

    rig = arc(1, SIZE)
    with VirtualRig(VirtualConfig(frames=1, transport="direct"), rig=rig) as source:
        (image,) = source.frames()
    device = SoftwareCamera(rig.cameras[0], fps=30, clock="hardware_clock")
    copies: list[Any] = [None]

    def receive(frame: Any) -> None:
        copies[0] = np.array(frame.get_data())

    device.start(receive)
    cpu = time.process_time()
    for number in range(images):
        device.send(Image(0, image.depth, number * 33_333_333, number * 33_333_333, number))
    cpu = time.process_time() - cpu
    device.stop()
    print(f"{'SDK alone, one camera':<28} {images / cpu:8.0f} images/s of CPU, {1e3 * cpu / images:.3f} ms an image")


def measure(out: Path, views: int, seconds: float, fps: int) -> None:
    """One recording and what it says of itself."""
    opener = partial(open_live, "virtual", rig=None, fps=fps, views=views, size=SIZE, seed=0)
    with SourceApart(opener) as source:
        made = record(source, out, seconds=seconds)
    written = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    (segment,) = made.attributes["segments"]
    took, recorder, label = segment["sync"], segment["recorder"], f"{views} cameras, {seconds:g} s"
    dropped = sum(count["no_room"] for count in segment["drops"].values())
    before = sum(count["before_us"] for count in segment["drops"].values())
    images = sum(camera["images"] for camera in took["cameras"].values())
    print(
        f"{label:<28} {dropped} of {images + dropped} images dropped, {before} lost before us;"
        f" {took['complete']} of {took['sets']} sets whole"
    )
    print(
        f"{'  ring / queue at most':<28} {recorder['ring_high_water']} of {recorder['ring_images']} images"
        f" / {recorder['queue_high_water']} of {recorder['queue_sets']} sets"
    )
    print(
        f"{'  cores':<28} recorder {recorder['cpu_s'] / seconds:.2f},"
        f" capture {recorder['capture_cpu_s'] / seconds:.2f};"
        f" player {recorder['source_cpu_s'] / seconds:.2f}, late by at most {recorder['source_late_ms']:.0f} ms"
    )
    print(f"{'  written':<28} {written / 1e6 / seconds:.0f} MB/s, {written / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
