"""The z-buffer against pyrender, as shipped and corrected, on one hand in one run.

    python benchmarks/render.py [--rounds 60]

Each round draws the same pose with every renderer, in turn, so that what else the machine does hits all of
them; the ratio to the z-buffer is taken within the round and its median printed. Depth and silhouettes are
compared with the z-buffer's, which agrees with rays to the pixel (tests/synth/test_render.py).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["LP_NUM_THREADS"] = "1"
os.environ.setdefault("PYOPENGL_PLATFORM", "egl")

import numpy as np

from handloom.stores.crops import crop_k
from handloom.stores.errors import HandloomError
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.hand import PALM, pose_hand
from handloom.synth.render import open_renderer
from handloom.synth.sampling import draw_samples
from handloom.synth.scene import in_camera

Draw = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]


def as_shipped(faces: np.ndarray) -> Draw:
    """Pyrender used as its readme does for depth: a mesh a pose, DEPTH_ONLY, OpenCV's cx and cy."""
    import pyrender

    context: dict[tuple[int, int], pyrender.OffscreenRenderer] = {}

    def draw(vertices: np.ndarray, k: np.ndarray, width: int, height: int) -> np.ndarray:
        if (width, height) not in context:
            context[width, height] = pyrender.OffscreenRenderer(width, height)
        positions = (vertices * [1, -1, -1]).astype(np.float32)
        mesh = pyrender.Mesh([pyrender.Primitive(positions=positions, indices=faces, mode=4)])
        scene = pyrender.Scene()
        scene.add(mesh)
        scene.add(pyrender.IntrinsicsCamera(*k, znear=50.0, zfar=2000.0), pose=np.eye(4))
        return context[width, height].render(scene, flags=pyrender.RenderFlags.DEPTH_ONLY)

    return draw


def main() -> None:
    """Print draws a second and errors for a 128² crop and for a VGA frame."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    hand, config = builtin_hand(), SynthConfig(distance_mm=700.0, width_px=640, height_px=480, focal_px=588.0)
    camera = config.make_rig().cameras[0]
    sample = draw_samples(config, hand, 0, rounds)
    posed = pose_hand(hand, sample.pose, sample.root, sample.shape)
    raster = open_renderer("raster")
    draws: dict[str, Draw] = {
        "raster": lambda v, k, w, h: raster.render(v, hand.faces, k, w, h).depth_mm,
    }
    try:
        gl = open_renderer("pyrender")
        draws["pyrender corrected"] = lambda v, k, w, h: gl.render(v, hand.faces, k, w, h).depth_mm
        draws["pyrender as shipped"] = as_shipped(hand.faces)
    except HandloomError as error:
        print(error)
    print(f"{len(hand.faces)} triangles, {rounds} poses, seconds of wall time within one run")
    for size in ("128 px crop", "640x480"):
        seconds = {name: np.zeros(rounds) for name in draws}
        wrong, error = {name: [] for name in draws}, {name: [] for name in draws}
        for row in range(rounds):
            vertices = in_camera(camera, posed.vertices[row])
            center = camera.to_camera(posed.joints[row, PALM])
            crop = size.startswith("128")
            width, height = (128, 128) if crop else (640, 480)
            k = crop_k(center, camera.k, crop_px=128, window_mm=300.0) if crop else np.array(camera.k)
            truth = None
            for name, draw in draws.items():
                if row == 0:
                    draw(vertices, k, width, height)
                start = time.perf_counter()
                depth = draw(vertices, k, width, height)
                seconds[name][row] = time.perf_counter() - start
                truth = depth if truth is None else truth
                both = (depth > 0) & (truth > 0)
                wrong[name].append(((depth > 0) != (truth > 0)).sum() / max((truth > 0).sum(), 1))
                error[name].append(np.abs(depth - truth)[both])
        for name in draws:
            ratio = np.median(seconds[name] / seconds["raster"])
            off = np.concatenate(error[name])
            print(
                f"{size}, {name}: {1 / np.median(seconds[name]):.0f}/s, {ratio:.1f} x the raster's time;"
                f" silhouette {100 * np.mean(wrong[name]):.2f} % off, depth median {np.median(off):.1e} mm,"
                f" p99.9 {np.percentile(off, 99.9):.1e} mm"
            )


if __name__ == "__main__":
    main()
