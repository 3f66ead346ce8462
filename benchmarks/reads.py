"""Random training reads of a closed recording beside a PNG folder and resident memory, in one run.

    python benchmarks/reads.py [--recording R.zarr] [--frames 512] [--rounds 25]

Every round reads the same 64 random crops (192², uint16) in each way, in turns; a figure is the median CPU time
a crop, which on a machine that others use too is what one idle core takes. Files are in the page cache for all.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import cv2
import numpy as np
import zarr

from handloom.stores.camera import Camera
from handloom.stores.crops import take_crop
from handloom.stores.png import read_depth_png, write_depth_png
from handloom.stores.reading import load_resident
from handloom.stores.recording import Recording, open_recording

CROPS = 64
BUDGET_MS = {"recording, random rows": 0.05, "resident": 0.01}


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, help="a recording with crops; one is synthesised without")
    parser.add_argument("--frames", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.recording or synthesised(Path(folder) / "s.zarr", options.frames)
        measure(open_recording(path), Path(folder) / "png", options.rounds)


def synthesised(path: Path, frames: int) -> Path:
    """Three views of the built-in hand through the structured-light sensor."""
    from handloom.synth.generate import SynthConfig, synthesise

    synthesise(SynthConfig(frames=frames, sensor="structured-light"), path, jobs=1)
    return path


def measure(recording: Recording, folder: Path, rounds: int) -> None:
    """Time every way of reading in turns and print the medians."""
    crops = recording.crops
    assert crops is not None
    cpu = time.process_time()
    resident = load_resident(recording)
    load_ms = 1e3 * (time.process_time() - cpu) / resident.crop[:, :, 0, 0].size
    count, views = resident.crop.shape[:2]
    side = resident.crop.shape[-1]
    folder.mkdir()
    for row in range(count):
        for view in range(views):
            write_depth_png(folder / f"{row}_{view}.png", resident.crop[row, view])
    array = zarr.open_group(crops.path, mode="r")["crop"]
    flat = resident.crop.reshape(-1, side, side)

    # A row holds all views of a frame: the recording reads them together, as a batch of several views does.
    def of(rows: np.ndarray) -> list[tuple[int, int]]:
        return [(int(row), view) for row in rows for view in range(views)]

    ways: dict[str, Callable[[np.ndarray], object]] = {
        "recording, random rows": lambda rows: crops.read_rows("crop", rows),
        "recording, whole units": lambda rows: crops.read("crop", 0, len(rows)),
        "Zarr, one row at a time": lambda rows: [array[int(row)] for row in rows],
        "Zarr, oindex": lambda rows: array.oindex[np.sort(rows)],
        "PNG folder": lambda rows: [read_depth_png(folder / f"{row}_{view}.png") for row, view in of(rows)],
        "PNG folder, cv2.imread": lambda rows: [
            cv2.imread(str(folder / f"{row}_{view}.png"), cv2.IMREAD_UNCHANGED) for row, view in of(rows)
        ],
        "resident": lambda rows: flat[[row * views + view for row, view in of(rows)]],
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    rng = np.random.default_rng(0)
    for turn in range(rounds + 2):
        rows = rng.choice(count, CROPS // views, replace=False)
        for name, read in ways.items():
            cpu = time.process_time()
            read(rows)
            if turn >= 2:
                taken[name].append(1e3 * (time.process_time() - cpu) / (len(rows) * views))
    png_bytes = sum(file.stat().st_size for file in folder.iterdir()) / count / views
    stored = sum(file.stat().st_size for file in (crops.path / "crop").iterdir()) / count / views
    print(f"{count} frames, {views} views, crops of {side} px; CPU time a crop, medians of {rounds} rounds in turns")
    for name, values in taken.items():
        goal = f"  (goal {BUDGET_MS[name]:g})" if name in BUDGET_MS else ""
        print(f"{name + ':':<26}{np.median(values):.4f} ms{goal}")
    print(f"{'decoding all, once:':<26}{load_ms:.4f} ms")
    print(f"{'cutting a crop of 640x480:':<26}{cutting_ms(rounds):.4f} ms")
    raw = side * side * 2
    print(f"{'on disk:':<26}{stored / 1e3:.1f} kB a crop, PNG {png_bytes / 1e3:.1f} kB, raw {raw / 1e3:.1f} kB")


def cutting_ms(rounds: int) -> float:
    """CPU time of one `take_crop`, median."""
    camera = Camera("camera", 640, 480, (475.0, 475.0, 320.0, 240.0))
    depth = np.random.default_rng(0).integers(400, 900, (480, 640)).astype(np.uint16)
    values = []
    for _ in range(rounds):
        cpu = time.process_time()
        for _ in range(50):
            take_crop(depth, camera.k, [10.0, 5.0, 600.0])
        values.append(1e3 * (time.process_time() - cpu) / 50)
    return float(np.median(values))


if __name__ == "__main__":
    main()
