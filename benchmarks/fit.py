"""Inverse kinematics on real hands: how far the 14 NYU points stay off, and frames a second on one core.

    python benchmarks/fit.py test_36_joints_uvd.npz [--train-share 1]

The file holds `u`, `v`, `d` (8252 × 36) of NYU's test set: pixels, and mm with y upward under NYU's own
intrinsics. Frames 0 to 2439 show one subject, the others another. A check only: nothing that is fitted here is
kept. For each subject, `fit_subject` finds bone lengths and the points' offsets from at most 400 of the frames;
then every frame's pose is fitted. CPU time of the process: the fit of the poses, several starts included, with
the subject known; the subject's own fit is given beside it. Compiling and loading are not counted.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np

from handloom.stores.camera import unproject
from handloom.stores.joints import NYU14_OF_36, layout_named
from handloom.synth.anatomy import builtin_hand
from handloom.synth.fit import fit_pose
from handloom.synth.subject import fit_subject

SUBJECTS = ((0, 2440), (2440, 8252))


def main() -> None:
    """Print the figures of each subject and of all frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--train-share", type=float, default=1.0,
        help="fit the subject on this share of its frames, the first ones, and measure on the others (1: on all)",
    )  # fmt: skip
    options = parser.parse_args()
    with np.load(options.file) as file:
        uv, depth = np.stack([file["u"], file["v"]], axis=-1).astype(float), file["d"].astype(float)
    # NYU's y points up with a focal length of −587.07: positive, it points down, and the hand is a right one.
    points = unproject(uv, depth, (588.03, 587.07, 320, 240))[:, list(NYU14_OF_36)]
    hand, layout = builtin_hand(), layout_named("nyu14")
    fit_subject(hand, points[:20], layout, rounds=1)
    errors, seconds = [], 0.0
    for first, last in SUBJECTS:
        frames = points[first:last]
        known = len(frames) if options.train_share >= 1 else max(int(options.train_share * len(frames)), 20)
        start = time.process_time()
        person = fit_subject(hand, frames[:known], layout)
        learned = time.process_time() - start
        frames = frames if known == len(frames) else frames[known:]
        start = time.process_time()
        fit = fit_pose(person.hand, frames, layout, shape=person.shape, offset_mm=person.offset_mm)
        took = time.process_time() - start
        errors.append(fit.residual_mm)
        seconds += took
        print(
            f"frames {first} to {last - 1}: {len(frames)} fitted, {fit.residual_mm.mean():.3f} mm in the mean, "
            f"{np.percentile(fit.residual_mm, 99):.2f} at 99 %, {len(frames) / took:.0f} frames/s; "
            f"the subject alone {learned:.2f} s"
        )
    every = np.concatenate(errors)
    print(
        f"{len(every)} frames: {every.mean():.3f} mm in the mean on the 14 points (goal 1.5), "
        f"{np.median(every):.3f} median, {every.max():.2f} worst; {len(every) / seconds:.0f} frames/s (goal 1500)"
    )


if __name__ == "__main__":
    main()
