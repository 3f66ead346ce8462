"""Whether calibration knows how well it knows: true errors of simulated rigs against the stated intervals.

    python benchmarks/calibration_coverage.py [--rigs 30] [--frames 60] [--what stereo]...

Each rig is another: places, path of the target, depth biases of −2, 0 or 2 mm. Printed for each target and sensor: the
share of cameras whose error lies in its 95 % interval, and χ² per degree of freedom of the error (1 = the stated
covariance is right), of the rotation, of where the camera sees the middle of the volume, and of the bias; root mean
square and largest error. 30 rigs of one sensor take one to two minutes of one core; make bench leaves it out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
from board_scenes import BOARD, board_poses, write_pictures

from handloom.capture.charuco_rig import calibrate_charuco
from handloom.capture.depth_rows import DepthRows
from handloom.capture.pictures import open_pictures
from handloom.capture.rig_fit import RigFit
from handloom.capture.sphere_rig import calibrate_sphere
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.synth.render import open_renderer
from handloom.synth.rigs import looking_at, ring_rig
from handloom.synth.room import room
from handloom.synth.scene import in_camera, render_frame
from handloom.synth.sensor import ActiveStereo, Sensor, StructuredLight, TimeOfFlight

from ball_scenes import RADIUS_MM, held, hidden

F64 = np.ndarray
SENSORS: dict[str, Sensor | None] = {
    "noise 1 mm": None,
    "structured-light": StructuredLight(),
    "stereo": ActiveStereo(),
    "tof": TimeOfFlight(),
}


def rig_of(rng: np.random.Generator, *, spread_deg: tuple[float, float] = (60, 130), **images: float) -> Rig:
    """Three cameras on an arc, none quite where it should be."""
    base = ring_rig(
        3,
        distance_mm=float(rng.uniform(430, 600)),
        spread_deg=float(rng.uniform(*spread_deg)),
        elevation_deg=float(rng.uniform(5, 25)),
        **images,
    )
    cameras = []
    for camera in base.cameras:
        place = -camera.rotation.T @ camera.translation + rng.normal(0, 25, 3)
        rotation, shift = looking_at(place, rng.normal(0, 15, 3))
        cameras.append(replace(camera, r=tuple(map(tuple, rotation.tolist())), t=tuple(shift.tolist())))
    return Rig(tuple(cameras))


def ball(rng: np.random.Generator, name: str, seed: int, frames: int) -> tuple[Rig, F64, RigFit]:
    """A rig, its biases, and what calibration finds of both."""
    rig, biases = rig_of(rng), rng.choice([-2.0, 0.0, 2.0], 3)
    s = np.linspace(0, 1, frames)[:, None]
    path = np.array([110.0, 90, 110]) * np.sin(2 * np.pi * (rng.uniform(1.5, 3.5, 3) * s + rng.uniform(0, 1, 3)))
    renderer, still = open_renderer("raster"), room(rig)
    images = {}
    for view, camera in enumerate(rig.cameras):
        behind = renderer.render(
            in_camera(camera, still.vertices), still.faces, np.array(camera.k), camera.width, camera.height
        ).depth_mm
        for frame, place in enumerate(path):
            mesh = held(place)
            depth = render_frame(
                renderer, camera, mesh.vertices, mesh.faces,
                background=behind, sensor=SENSORS[name], seed=seed, frame=frame, view=view,
            ).astype(np.float64)  # fmt: skip
            if SENSORS[name] is None:
                depth = np.where(depth > 0, depth + rng.normal(0, 1, depth.shape), 0)
            images[frame, view] = np.where(depth > 0, np.rint(depth + biases[view]), 0).astype(np.uint16)
    rows = DepthRows(hidden(rig), np.ones((frames, 3), bool), lambda row, view: images[row, view])
    return rig, biases, calibrate_sphere(rows, RADIUS_MM, bias=True, where="the simulation")


def board(rng: np.random.Generator, seed: int, frames: int) -> tuple[Rig, None, RigFit]:
    """A rig, and what calibration finds of it."""
    rig = rig_of(rng, spread_deg=(40, 70), width=400, height=300, focal_px=330.0)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), rig, board_poses(frames, seed=seed), seed=seed)
        return rig, None, calibrate_charuco(open_pictures(Path(folder)), BOARD, where="the simulation")


def vector(rotation: F64) -> F64:
    """The rotation vector (rad) of a small rotation."""
    r = rotation
    return np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]]) / 2


def off(truth: Rig, fit: RigFit) -> Iterator[tuple[float, float]]:
    """Of each camera but the first, (deg, mm) by which it is off, the latter about the middle of the volume."""
    a0, b0 = truth.cameras[0], fit.rig.cameras[0]
    middle = b0.translation
    for a, b in zip(truth.cameras[1:], fit.rig.cameras[1:], strict=True):
        true_r, found_r = a.rotation @ a0.rotation.T, b.rotation @ b0.rotation.T
        true_t, found_t = a.translation - true_r @ a0.translation, b.translation - found_r @ b0.translation
        moved = (found_r - true_r) @ middle + found_t - true_t
        yield float(np.degrees(np.linalg.norm(vector(found_r @ true_r.T)))), float(np.linalg.norm(moved))


def measure(name: str, rigs: int, frames: int, first: int) -> str:
    """One line."""
    rotation, place, bias, refused = [], [], [], 0
    for seed in range(first, first + rigs):
        rng = np.random.default_rng(seed)
        try:
            truth, biases, fit = board(rng, seed, frames // 2) if name == "board" else ball(rng, name, seed, frames)
        except HandloomError as error:
            refused += 1
            print(f"  rig {seed}: {error.what}: {error.why}", file=sys.stderr)
            continue
        for one, (degrees, mm) in zip(fit.cameras[1:], off(truth, fit), strict=True):
            rotation.append((degrees, one.within_deg, one.sd_deg))
            place.append((mm, one.within_mm, one.sd_mm))
        if biases is not None:
            bias += [
                (abs(c.bias_mm - b), c.bias_within_mm, c.bias_sd_mm) for c, b in zip(fit.cameras, biases, strict=True)
            ]
    parts = [
        f"{what} {np.mean([e <= w for e, w, _ in values]):.0%} "
        f"(χ² {np.mean([(e / sd) ** 2 for e, _, sd in values]):.2f}), "
        f"rms {np.sqrt(np.mean([e**2 for e, _, _ in values])):.3f} max {max(e for e, _, _ in values):.3f} {unit}"
        for what, values, unit in (("rotation", rotation, "°"), ("place", place, "mm"), ("bias", bias, "mm"))
        if values
    ]
    return f"{name}: {rigs - refused} rigs ({refused} refused); " + "; ".join(parts)


def main() -> None:
    """Print a line for each target and sensor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rigs", type=int, default=30)
    parser.add_argument("--frames", type=int, default=60, help="of a ball; a board is shown half as often")
    parser.add_argument("--first", type=int, default=1000, help="seed; the model was made on those from 0 to 29")
    parser.add_argument("--what", action="append", choices=[*SENSORS, "board"], help="default: all")
    options = parser.parse_args()
    for name in options.what or [*SENSORS, "board"]:
        print(measure(name, options.rigs, options.frames, options.first), flush=True)


if __name__ == "__main__":
    main()
