"""The sensor models against the rasteriser, by the pixel: hands in their native windows, and full frames.

    python benchmarks/sensors.py [--hands 16] [--rounds 9]

CPU time of the process, the best of the rounds, the models and the rasteriser in turn within each round. Of a
window that holds only the hand a share of the pixels is empty: both figures are printed. Full frames hold a wall
behind the hand, so that every pixel is something; the wall is not rasterised, so there is no ratio of these.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

from handloom.stores.camera import Camera
from handloom.stores.crops import window_k
from handloom.synth import sensor as sensors
from handloom.synth.anatomy import builtin_hand
from handloom.synth.forearm import with_forearm
from handloom.synth.hand import pose_hand
from handloom.synth.pose import random_rotation, root_at, sample_poses
from handloom.synth.raster import rasterise
from handloom.synth.scene import pixel_box
from handloom.synth.subject_sizes import sample_shape

SENSORS = {
    "structured light": sensors.StructuredLight(),
    "stereo": sensors.ActiveStereo(),
    "time of flight": sensors.TimeOfFlight(),
}
CAMERAS = {
    "320x240, f 241 px": Camera("a", 320, 240, (241.0, 241.0, 159.5, 119.5)),
    "640x480, f 588 px": Camera("b", 640, 480, (588.0, 588.0, 319.5, 239.5)),
}
WINDOW_MM = 300.0


def main() -> None:
    """Print ns a pixel for each camera and distance."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hands", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    hand = with_forearm(builtin_hand())
    rngs = [np.random.default_rng(k) for k in range(given.hands)]
    shape = np.stack([sample_shape(rng) for rng in rngs])
    pose = sample_poses(hand, rngs, shape)
    rotation = np.stack([random_rotation(rng) for rng in rngs])
    for name, camera in CAMERAS.items():
        for z in (500.0, 700.0):
            root = root_at(hand, shape, rotation, np.tile([0.0, 0.0, z], (given.hands, 1)))
            vertices = pose_hand(hand, pose, root, shape).vertices.astype(np.float32)
            for wall in (False, True):
                measure(f"{name}, {z:.0f} mm, {'before a wall' if wall else 'hand'}", camera, vertices, hand.faces,
                        z, wall, given.rounds)  # fmt: skip


def measure(
    title: str, camera: Camera, vertices: np.ndarray, faces: np.ndarray, z_mm: float, wall: bool, rounds: int
) -> None:
    """Print one table: what the rasteriser and each model take for the same windows."""
    boxes = [(0, 0, camera.width, camera.height) if wall else window(camera, v, z_mm) for v in vertices]

    def draw() -> list[np.ndarray]:
        return [
            rasterise(v, faces, window_k(camera.k, box[0], box[1]), box[2], box[3])[0]
            for v, box in zip(vertices, boxes, strict=True)
        ]

    images = draw()
    if wall:
        images = [np.where(image > 0, image, np.float32(z_mm + 300)) for image in images]

    def sense(sensor: sensors.Sensor) -> Callable[[], object]:
        return lambda: [
            sensors.apply(sensor, image, camera.k, window=box[:2], depth_unit_mm=1.0, seed=0, frame=i, view=0)
            for i, (image, box) in enumerate(zip(images, boxes, strict=True))
        ]

    jobs: dict[str, Callable[[], object]] = {"rasteriser": draw, **{n: sense(s) for n, s in SENSORS.items()}}
    best = dict.fromkeys(jobs, np.inf)
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            best[name] = min(best[name], time.process_time() - start)
    pixels = sum(image.size for image in images)
    solid = sum(int((image > 0).sum()) for image in images)
    print(f"{title}: {pixels / len(images):.0f} px a window, {solid / pixels:.0%} not empty")
    for name, seconds in best.items():
        ratio = "" if wall else f"   {best['rasteriser'] / seconds:5.2f} x the rasteriser"
        print(
            f"  {name:<17} {seconds / len(images) * 1e6:7.0f} us {seconds / pixels * 1e9:6.1f} ns/px "
            f"{seconds / solid * 1e9:6.1f} ns/px not empty{ratio}"
        )


def window(camera: Camera, vertices: np.ndarray, z_mm: float) -> tuple[int, int, int, int]:
    """Left, top, width, height: the hand's box within the window of a crop, as synthesis cuts it."""
    left, top, width, height = pixel_box(camera, vertices, 8)
    half_u, half_v = WINDOW_MM / 2 * camera.k[0] / z_mm, WINDOW_MM / 2 * camera.k[1] / z_mm
    u0, v0 = max(left, int(camera.k[2] - half_u)), max(top, int(camera.k[3] - half_v))
    u1, v1 = min(left + width, int(camera.k[2] + half_u)), min(top + height, int(camera.k[3] + half_v))
    return u0, v0, u1 - u0, v1 - v0


if __name__ == "__main__":
    main()
