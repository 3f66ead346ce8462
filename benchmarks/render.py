"""The z-buffer against pyrender and Open3D, each as shipped and as corrected here, on one hand in one run.

    python benchmarks/render.py [--rounds 60]

Each round draws the same pose with every renderer, in turn, so that what else the machine does hits all of
them; the ratio to the z-buffer is taken within the round. Time is CPU time of the process, which is kept on
one core: what one idle core takes. Depth and silhouettes are compared with the z-buffer's, which agrees with
rays in float64 to the pixel (tests/synth/test_render.py).
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
from handloom.stores.libusb import load_libusb
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.hand import PALM, pose_hand
from handloom.synth.render import RENDERERS, Renderer, open_renderer
from handloom.synth.sampling import draw_samples
from handloom.synth.scene import in_camera

Draw = Callable[[np.ndarray, np.ndarray, int, int], np.ndarray]
"""Vertices mm, K, width and height to depth mm."""


def ours(renderer: Renderer, faces: np.ndarray) -> Draw:
    """A renderer behind the package's protocol."""
    return lambda vertices, k, width, height: renderer.render(vertices, faces, k, width, height).depth_mm


def pyrender_as_shipped(faces: np.ndarray) -> Draw:
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


def open3d_as_shipped(faces: np.ndarray) -> Draw:
    """Open3D's RaycastingScene used as its tutorial does: a scene a pose, its own pinhole rays, OpenCV's cx and cy."""
    load_libusb()
    import open3d

    triangles = open3d.core.Tensor(faces.astype(np.uint32))

    def draw(vertices: np.ndarray, k: np.ndarray, width: int, height: int) -> np.ndarray:
        scene = open3d.t.geometry.RaycastingScene()
        scene.add_triangles(open3d.core.Tensor(vertices), triangles)
        intrinsic = np.array([[k[0], 0, k[2]], [0, k[1], k[3]], [0, 0, 1]])
        rays = scene.create_rays_pinhole(intrinsic, np.eye(4), width, height)
        depth = scene.cast_rays(rays)["t_hit"].numpy()
        return np.where(np.isfinite(depth), depth, 0)

    return draw


def main() -> None:
    """Print draws a second and errors for a 128² crop and for a VGA frame."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    if hasattr(os, "sched_setaffinity"):  # Embree's threads follow it
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    hand, config = builtin_hand(), SynthConfig(distance_mm=700.0, width_px=640, height_px=480, focal_px=588.0)
    camera = config.make_rig().cameras[0]
    sample = draw_samples(config, hand, 0, rounds)
    posed = pose_hand(hand, sample.pose, sample.root, sample.shape)
    draws: dict[str, Draw] = {}
    shipped = {"pyrender": pyrender_as_shipped, "open3d": open3d_as_shipped}
    for name in RENDERERS:
        try:
            renderer = open_renderer(name)
        except HandloomError as error:
            print(error)
            continue
        if name in shipped:
            draws[f"{name}, as shipped"] = shipped[name](hand.faces)
        draws[f"{name}, corrected" if name in shipped else name] = ours(renderer, hand.faces)
    print(f"{len(hand.faces):,} triangles, {rounds} poses, one core; x raster: median (10 to 90 %)")
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
                draw(vertices, k, width, height)  # its own code and buffers in the cache again
                start = time.process_time()
                depth = draw(vertices, k, width, height)
                seconds[name][row] = time.process_time() - start
                truth = depth if truth is None else truth
                both = (depth > 0) & (truth > 0)
                wrong[name].append(((depth > 0) != (truth > 0)).sum() / max((truth > 0).sum(), 1))
                error[name].append(np.abs(depth - truth)[both])
        print(f"\n{size:<22} draws/s  x raster             silhouette   depth mm off")
        print(f"{'':<52}off   median    p99.9")
        for name in draws:
            ratio = np.percentile(seconds[name] / seconds["raster"], [50, 10, 90])
            spread = f"{ratio[0]:.1f} ({ratio[1]:.1f} to {ratio[2]:.1f})" if name != "raster" else "1"
            off = np.concatenate(error[name])
            errors = f"{100 * np.mean(wrong[name]):7.2f} %  {np.median(off):7.1e}  {np.percentile(off, 99.9):7.1e}"
            line = f"{name:<22} {1 / np.median(seconds[name]):>7,.0f}  {spread:<18} "
            print(line + errors if name != "raster" else line.rstrip())


if __name__ == "__main__":
    main()
