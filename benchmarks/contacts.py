"""How well pinches and fists touch, on the skinned mesh: gaps before and after contacts are solved.

    python benchmarks/contacts.py [--count 300]

One pose of each family for each of so many people. A gap is measured along the nearest vertex's normal, negative
inside. Then what a pose of the prior costs, contacts and the test for collisions included, and how deep fingers,
thumb and palm lie in each other on the mesh for poses as synthesis draws them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from mesh_gaps import PALM_BONES, deepest, drawn, gaps_of, people

from handloom.stores.joints import FINGERS, OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.config import BLOCK_FRAMES
from handloom.synth.pose import sample_poses

PINCHES = (*((f"pinch_{finger}", finger) for finger in FINGERS[1:]), ("ok", "index"), ("tripod", "index"))


def main() -> None:
    """Print a line a contact, and the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    count = parser.parse_args().count
    hand, shapes = builtin_hand(), people(count)
    bones = [OPENXR26.index(f"{f}_{b}") for f in FINGERS[1:] for b in ("proximal", "intermediate", "distal")]
    contacts = [(family, finger, [OPENXR26.index("thumb_distal")], "thumb") for family, finger in PINCHES]
    contacts += [("fist", finger, PALM_BONES, "palm") for finger in FINGERS[1:]] + [("fist", "thumb", bones, "fingers")]
    for family, tip, onto, name in contacts:
        for touching in (False, True):
            gaps = gaps_of(hand, drawn(hand, family, shapes, touching=touching), shapes, tip, onto)
            low, middle, high = np.percentile(gaps, [5, 50, 95])
            print(
                f"{family:12} {tip:6} to {name:7} {'solved' if touching else 'drawn ':6}  gap {middle:5.1f} mm "
                f"({low:5.1f} to {high:5.1f}), within 2 mm {np.mean(np.abs(gaps) <= 2):4.0%}, "
                f"deeper than 6 mm {np.mean(gaps < -6):5.1%}"
            )
    # Once unmeasured: the kernels compile.
    sample_poses(hand, [np.random.default_rng((8, i)) for i in range(BLOCK_FRAMES)], people(BLOCK_FRAMES))
    rngs = [np.random.default_rng((7, i)) for i in range(count)]
    blocks = [slice(low, low + BLOCK_FRAMES) for low in range(0, count, BLOCK_FRAMES)]
    start = time.process_time()
    poses = np.concatenate([sample_poses(hand, rngs[block], shapes[block]) for block in blocks])
    took = time.process_time() - start
    depth = -deepest(hand, poses, shapes)
    print(f"prior: {1e3 * took / count:.2f} ms of CPU time a pose in blocks of {BLOCK_FRAMES}")
    print(
        f"prior, on the mesh: {np.mean(depth <= 5):.1%} no deeper than 5 mm, {np.mean(depth <= 6):.1%} than 6 mm, "
        f"{np.percentile(depth, 99):.1f} mm at 99 %, {depth.max():.1f} mm the deepest of {count}"
    )


if __name__ == "__main__":
    main()
