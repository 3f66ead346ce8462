"""What it costs to draw more than a hand: CPU time a view for each option of the scene, sensor on.

    python benchmarks/scene.py [--frames 96]

Pose, skin, surroundings, render, sensor in native pixels and crop; without encoding and storing. One thread; the
least of three runs.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

from dataclasses import replace

from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import SynthConfig
from handloom.synth.surroundings import SceneConfig
from handloom.synth.units import make_unit, studio_of
from handloom.synth.views import Studio

CAMERAS = {
    "320x240, f 241 px, 0.5 m": {},
    "640x480, f 588 px, 0.7 m": {"width_px": 640, "height_px": 480, "focal_px": 588.0, "distance_mm": 700.0},
}
SCENES = {
    "nothing": SceneConfig(),
    "sleeve": SceneConfig(sleeve=1.0),
    "desk": SceneConfig(background=1.0, background_kind="desk"),
    "wall": SceneConfig(background=1.0, background_kind="wall"),
    "boxes": SceneConfig(background=1.0, background_kind="boxes"),
    "occluder": SceneConfig(occluder=1.0),
    "second hand": SceneConfig(second_hand=1.0),
    "preset desk": SceneConfig(preset="desk"),
    "preset cluttered": SceneConfig(preset="cluttered"),
}


def seconds(config: SynthConfig, studio: Studio) -> float:
    """CPU time of one unit, the least of three."""
    make_unit(config.model_copy(update={"frames": 1}), studio, 0)
    runs = []
    for _ in range(3):
        start = time.process_time()
        make_unit(config, studio, 0)
        runs.append(time.process_time() - start)
    return min(runs)


def main() -> None:
    """Print ms a view for each camera and option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=96)
    frames = parser.parse_args().frames
    for camera, values in CAMERAS.items():
        print(camera)
        for name, scene in SCENES.items():
            config = SynthConfig(frames=frames, unit_frames=32 * -(-frames // 32), scene=scene, **values)
            studio = studio_of(config, config.make_rig())
            views = frames * config.views
            if name == "nothing":
                spent = seconds(config, replace(studio, hand=builtin_hand()))
                print(f"  {'hand cut off behind the wrist':<30} {1e3 * spent / views:.2f} ms a view")
            print(f"  {name:<30} {1e3 * seconds(config, studio) / views:.2f} ms a view")


if __name__ == "__main__":
    main()
