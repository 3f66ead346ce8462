"""Do the options that steady a GAN help? Crossing Nets with each of them, on validation frames of the gap benchmark.

    python benchmarks/gan_options.py --out gap [--seeds 3] [--first-seed 0] [--labels 100] [--jobs 2] [--short]

`plain` is the `quick` preset's `full` arm; each other run changes one key of it. Seeds are paired (data, labels and
initial weights); the table says the joint error around true centres (what a hand finder misses would drown the
differences), the reconstruction of captured images through the shared space, the diversity of generated maps and the
discriminator's accuracy at the last log line. An averaged generator changes what a model shows, never what it
estimates. It goes on in a folder of gap.py, and where it stopped. `--short` takes a quarter of the steps behind the
pose VAE, which no option touches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from gap import Sizes, half_width, make_data

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "r1 = 0.1": {"r1": 0.1},
    "r1 = 1": {"r1": 1.0},
    "generator_rate = 0.25": {"generator_rate": 0.25},
    "generator_average = 0.98": {"generator_average": 0.98},
    "non-saturating": {"generator_loss": "non-saturating"},
    "non-saturating, r1 = 1": {"generator_loss": "non-saturating", "r1": 1.0},
}
SHOWN = ("mean_mm", "space/reconstruction", "gan/diversity", "gan/accuracy_real", "gan/accuracy_generated")


def train_option(out: Path, seed: int, name: str, labels: int, short: bool) -> dict[str, Any]:
    """Train and measure one cell, or read what an earlier run measured."""
    folder = out / f"seed-{seed}"
    stem = name.replace(" ", "").replace(",", "-").replace("=", "-") + ("-short" if short else "")
    result = folder / "options" / f"{stem}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    import torch

    from handloom.learn.estimators import open_estimator
    from handloom.learn.evaluate import evaluate_model
    from handloom.learn.train import preset, train
    from handloom.stores.recording import open_recording

    torch.set_num_threads(1)
    lengths = {"gan_steps": 20, "align_steps": 10, "joint_steps": 100} if short else {}
    given = {"seed": seed, "label_seed": seed, "labels": labels} | lengths | OPTIONS[name]
    run = folder / "options" / stem
    train(
        preset("crossing", "quick", "full", given),
        synth=[folder / "synth.zarr"],
        real=folder / "capture.zarr",
        run_dir=run,
        resume=(run / "config.yaml").exists(),
    )
    capture = open_recording(folder / "capture.zarr")
    found = evaluate_model(open_estimator(run), capture, seed=seed, split="val", center="truth")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    values = last | {"seed": seed, "name": name, "mean_mm": found.metrics.mean_mm}
    result.write_text(json.dumps(values) + "\n")
    return values


def main() -> None:
    """Train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--options", default=";".join(OPTIONS), help="separated by semicolons")
    args = parser.parse_args()
    seeds, names = range(args.first_seed, args.first_seed + args.seeds), args.options.split(";")
    for seed in seeds:
        make_data(args.out / f"seed-{seed}", seed, Sizes(), args.jobs)
    results = []
    with ProcessPoolExecutor(args.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        cells = [
            pool.submit(train_option, args.out, seed, name, args.labels, args.short) for seed in seeds for name in names
        ]
        for done in as_completed(cells):
            results.append(done.result())
            print(
                f"seed {results[-1]['seed']}  {results[-1]['name']:<26}{results[-1]['mean_mm']:6.2f} mm",
                file=sys.stderr,
            )
    print(f"{'':<26}{'mm':>7}{'- plain (95 %)':>18}{'rebuilt':>9}{'diverse':>9}{'real':>7}{'made':>7}")
    by = {(r["name"], r["seed"]): r for r in results}
    for name in names:
        rows = [by[name, seed] for seed in seeds]
        mean = [float(np.mean([r[key] for r in rows])) for key in SHOWN]
        d = np.array([by[name, seed]["mean_mm"] - by["plain", seed]["mean_mm"] for seed in seeds])
        width = half_width(float(d.std(ddof=1)) if len(d) > 1 else 0.0, len(d))
        apart = "" if name == "plain" else f"{d.mean():+.2f} +- {width:.2f}"
        print(f"{name:<26}{mean[0]:>7.2f}{apart:>18}{mean[1]:>9.3f}{mean[2]:>9.2f}{mean[3]:>7.2f}{mean[4]:>7.2f}")


if __name__ == "__main__":
    main()
