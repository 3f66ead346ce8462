"""Calibration of a hidden rig of three cameras: how far off, and how long it takes.

    python benchmarks/calibration.py [--frames 90] [--pictures 30]

A ball of radius 30 mm in a fist before a person, a desk and a wall, 320 x 240, 1 mm of noise and depth biases of 2, −2
and 2 mm, and the same with the sensor models; a ChArUco board in pictures of 640 x 480 through lenses, kept intrinsics
and refined ones. CPU seconds of `calibrate` alone, on one thread; errors against the first camera, the worst of two.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import cv2
import numpy as np
from board_scenes import board_poses, with_lenses, write_pictures

from handloom.capture.charuco_rig import calibrate_charuco
from handloom.capture.depth_rows import DepthRows
from handloom.capture.pictures import open_pictures
from handloom.capture.rig_fit import RigFit
from handloom.capture.sphere_rig import calibrate_sphere
from handloom.capture.targets import CharucoTarget
from handloom.stores.camera import Rig
from handloom.synth.render import open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.room import room
from handloom.synth.scene import in_camera, render_frame
from handloom.synth.sensor import ActiveStereo, Sensor, StructuredLight, TimeOfFlight

from ball_scenes import RADIUS_MM, errors, held, hidden, images_of, path_of

BIAS_MM = (2.0, -2.0, 2.0)
BOARD = CharucoTarget(7, 5, 30.0, 22.0, "4X4_50")


def sensed(rig: Rig, sensor: Sensor, frames: int) -> dict[tuple[int, int], np.ndarray]:
    """The ball as a sensor sees it, and the biases."""
    renderer, still = open_renderer("raster"), room(rig)
    out = {}
    for view, camera in enumerate(rig.cameras):
        behind = renderer.render(
            in_camera(camera, still.vertices), still.faces, np.array(camera.k), camera.width, camera.height
        ).depth_mm
        for frame, place in enumerate(path_of(frames)):
            mesh = held(place)
            depth = render_frame(
                renderer, camera, mesh.vertices, mesh.faces,
                background=behind, sensor=sensor, seed=1, frame=frame, view=view,
            ).astype(np.float64)  # fmt: skip
            out[frame, view] = np.where(depth > 0, depth + BIAS_MM[view], 0).astype(np.uint16)
    return out


def report(what: str, truth: Rig, fit: RigFit, seconds: float) -> None:
    """One line."""
    degrees, mm = (max(values) for values in zip(*errors(fit.rig, truth), strict=True))
    biases = [abs(one.bias_mm - b) for one, b in zip(fit.cameras, BIAS_MM, strict=True) if one.bias_mm is not None]
    told = f", bias {max(biases):.2f} mm off" if biases else ""
    seen = sum(one.seen for one in fit.cameras)
    print(f"{what}: {degrees:.3f}°, {mm:.2f} mm{told}; target in {seen} of {fit.seen.size} images; {seconds:.1f} s CPU")


def main() -> None:
    """Print a line for each target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=90)
    parser.add_argument("--pictures", type=int, default=30)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rig = ring_rig(3)
    sensors: dict[str, Sensor | None] = {
        "1 mm of noise": None,
        "structured light": StructuredLight(),
        "stereo": ActiveStereo(),
        "time of flight": TimeOfFlight(),
    }
    for name, sensor in sensors.items():
        if sensor is None:
            meshes = [held(place) for place in path_of(options.frames)]
            images = images_of(rig, meshes, noise_mm=1.0, bias_mm=BIAS_MM, seed=7)
        else:
            images = sensed(rig, sensor, options.frames)
        rows = DepthRows(hidden(rig), np.ones((options.frames, 3), bool), lambda r, v, images=images: images[r, v])
        start = time.process_time()
        fit = calibrate_sphere(rows, RADIUS_MM, bias=True, where=name)
        report(f"ball, {name}", rig, fit, time.process_time() - start)
    lens = with_lenses(
        ring_rig(3, width=640, height=480, focal_px=540.0, spread_deg=60.0), dist=(-0.12, 0.03, 0.001, -0.0005)
    )
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), lens, board_poses(options.pictures, seed=3), target=BOARD, seed=1)
        for how in ("keep", "refine", "distortion"):
            pictures = open_pictures(Path(folder))
            if how != "keep":
                fx, fy, cx, cy = lens.cameras[0].k
                off = (0.95 * fx, 0.95 * fy, cx + 6, cy - 4)
                pictures = replace(pictures, rig=Rig(tuple(replace(c, k=off) for c in pictures.rig.cameras)))
            start = time.process_time()
            fit = calibrate_charuco(pictures, BOARD, intrinsics=how, where="the benchmark")  # type: ignore[arg-type]
            report(f"board, intrinsics {how}", lens, fit, time.process_time() - start)


if __name__ == "__main__":
    main()
