"""Training speed of Crossing Nets: images a second and CPU seconds a step of each stage, on one core or a GPU.

    python benchmarks/crossing_steps.py gap/seed-0 [--presets quick,paper] [--steps 5] [--device cpu]

The folder is one of gap.py's (synth.zarr and capture.zarr). Images are those that a step reads: labelled and
unlabelled ones; the generated ones come on top. Steps before the first timed one warm up.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

STAGES = {"gan": "gan_steps", "align": "align_steps", "joint": "joint_steps"}


def main() -> None:
    """Time, print a line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--presets", default="quick,paper")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    import torch

    from handloom.learn import crossing
    from handloom.learn.data import load_training_data

    torch.set_num_threads(1)
    device = torch.device(args.device)
    print(f"{'preset':<8}{'stage':<8}{'images':>7}{'images/s':>10}{'CPU s a step':>14}")
    for preset in args.presets.split(","):
        for stage, length in STAGES.items():
            lengths = dict.fromkeys(("vae_steps", *STAGES.values()), 0) | {length: args.steps + 2}
            config = crossing.preset(preset, "full", labels=100, memory_mb=None, device=args.device, **lengths)
            given = {"synth": [args.folder / "synth.zarr"], "real": args.folder / "capture.zarr"}
            data = load_training_data(config, device=device, **given)  # type: ignore[arg-type]
            learner = crossing.Learner(config, data)  # type: ignore[arg-type]
            learner.nets.train()
            pools = {"gan": [learner.seen], "align": [learner.labelled]}
            images = sum(pool.batch for pool in pools.get(stage, [learner.labelled, learner.unlabelled]))
            for index in range(args.steps + 2):
                if index == 2:
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    wall, cpu = time.perf_counter(), time.process_time()
                learner.step(index, log=False)
            if device.type == "cuda":
                torch.cuda.synchronize()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            rate = images * args.steps / (wall if device.type == "cuda" else cpu)
            print(f"{preset:<8}{stage:<8}{images:>7}{rate:>10.0f}{cpu / args.steps:>14.3f}")


if __name__ == "__main__":
    main()
