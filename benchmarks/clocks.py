"""What grouping costs an image, and what it holds in memory: eight cameras at 30 fps on clocks of their own.

Stamps alone, made as they are needed: clocks of ± 50 ppm that wander by 3 ppm, arrivals 5 ms late on average, one
image in a thousand lost. `--hours 24` is the day of recording.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterator

import numpy as np

from handloom.capture.source import Image
from handloom.capture.sync import Grouper
from handloom.capture.sync_report import sync_report

CAMERAS, FPS = 8, 30
NOTHING = np.zeros((1, 1), np.uint16)


def seconds(count: int, seed: int) -> Iterator[list[Image]]:
    """The images of one second after the other, in the order of arrival."""
    rng = np.random.default_rng(seed)
    rate, start = 1 + rng.normal(0, 50e-6, CAMERAS), rng.uniform(0, 1e13, CAMERAS)
    wave = 2 * np.pi / 7200e9
    for second in range(count):
        true = (second * FPS + np.arange(FPS)[:, None]) * 1e9 / FPS + rng.normal(0, 0.2e6, (FPS, CAMERAS))
        wander = 3e-6 / wave * (1 - np.cos(wave * true)) * np.linspace(-1, 1, CAMERAS)
        device = (start + true * rate + wander).astype(np.int64).ravel()
        late = 1_800_000_000_000_000_000 + true + rng.exponential(5e6, true.shape)
        host = np.maximum.accumulate(late, axis=0).astype(np.int64).ravel()  # a camera's images come in their order
        kept = np.flatnonzero(rng.random(FPS * CAMERAS) > 0.001)
        yield [
            Image(int(i % CAMERAS), NOTHING, int(device[i]), int(host[i]), second * FPS + int(i // CAMERAS))
            for i in kept[np.argsort(host[kept], kind="stable")]
        ]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    grouper = Grouper(CAMERAS, shared_clock=False)
    images = sets = whole = mixed = held = 0
    spent = 0.0
    started_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for batch in seconds(round(options.hours * 3600), options.seed):
        begin = time.process_time()
        found = [one for image in batch for one in grouper.push(image)]
        spent += time.process_time() - begin
        images += len(batch)
        held = max(held, grouper.held)
        for one in found:
            numbers = {image.frame_number for image in one.images if image is not None}
            sets, mixed = sets + 1, mixed + (len(numbers) > 1)
            whole += None not in one.images
    grown_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - started_mb
    print(f"{options.hours:g} h of {CAMERAS} cameras: {images} images, {sets} sets, {whole} complete, {mixed} mixed")
    print(f"grouping: {spent / images * 1e6:.1f} us an image, {100 * spent / (options.hours * 3600):.2f} % of a core")
    print(f"memory: {grown_mb:.1f} MB grown, at most {held} images held")
    rows = 108_000
    rng = np.random.default_rng(options.seed)
    device = np.arange(rows)[:, None] * 1e9 / FPS + rng.normal(0, 0.2e6, (rows, CAMERAS))
    host = np.maximum.accumulate(device + rng.exponential(5e6, device.shape))
    number = np.repeat(np.arange(rows)[:, None], CAMERAS, axis=1)
    begin = time.process_time()
    sync_report(
        [f"cam{v}" for v in range(CAMERAS)], device.astype(np.int64), host.astype(np.int64), number, shared_clock=False
    )
    print(f"report: {time.process_time() - begin:.1f} s of CPU for an hour of {CAMERAS} cameras")


if __name__ == "__main__":
    main()
