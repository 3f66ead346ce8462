"""The domain-gap benchmark: every arm of MURAUER over the number of labels, on captures made here.

    python benchmarks/gap.py --out gap [--quick] [--seeds 5] [--arms full,control] [--labels 0,100] [--jobs 2]

It stands in for NYU, whose images cannot be shipped. Source: the built-in hand, poses of the prior, rendered without a
sensor's model, as the paper's synthetic images are (`--source sensor` renders it with the kit's). Target: a virtual
capture of four people of other proportions, through a structured-light sensor, motions instead of drawn poses, a
room and a forearm; the hand is located without labels. Nothing of it is real: the figures say what a method does with
this gap, not with a camera's.

Each seed draws its own source, people, motions, labels and initial weights; within a seed all arms share them and one
pre-training (paired seeds). Frames of `val` sequences are for choosing hyper-parameters (`--split val`, the only
one that takes -o), those of `test` for the table, with located and with true centres. `--unlabelled 0.1,0.3` trains
`full` at n = 0 and 100 again with a share of the unlabelled frames. Everything is written as it is made: a run that was
cut off goes on where it stopped. The table's intervals are Student's t over the seeds, of the differences within each
seed.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import numpy as np
from scipy import stats

from handloom.stores.config import checked, with_overrides

LABELS = ("0", "10", "100", "all")
NEEDS_LABELS = ("real-only", "preview")
ARMS = (
    "synthetic-only", "real-only", "real+synthetic", "control", "+distribution-matching", "+view-prediction",
    "full", "preview",
)  # fmt: skip
PAIRED_SD_MM = 1.0
"""Standard deviation over seeds of the difference of two arms, as earlier runs on validation frames had it."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    synth_frames: int = 5000
    capture_frames: int = 1500
    sequence_frames: int = 60
    people: int = 4
    pretrain_steps: int = 20_000
    joint_steps: int = 1200
    real_steps: int = 6000
    """Of `real-only`, which starts from nothing."""
    preview_steps: int = 400
    sensor: str = "none"
    """Of the source."""


QUICK = Sizes(
    synth_frames=1500,
    capture_frames=600,
    sequence_frames=30,
    pretrain_steps=2000,
    joint_steps=300,
    real_steps=1000,
    preview_steps=100,
)
TINY = Sizes(60, 60, 6, 2, 4, 2, 3, 3)
"""For the test of this script."""


DATA_SIZES = ("synth_frames", "capture_frames", "sequence_frames", "people", "sensor")
"""Those of `Sizes` that the data follow from."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One training: an arm and a number of labels, by one seed."""

    seed: int
    arm: str
    labels: str
    unlabelled: float = 1.0
    """Share of the target's training frames that may be used without labels."""
    variant: str = ""

    @property
    def name(self) -> str:
        """Of its folder and its result."""
        share = "" if self.unlabelled == 1 else f"-u{self.unlabelled:g}"
        return f"{self.arm}-{self.labels}{share}" + (f"-{self.variant}" if self.variant else "")


def cells_of(arms: Sequence[str], labels: Sequence[str], shares: Sequence[float] = ()) -> list[Cell]:
    """The cells of seed 0 without those that do not exist or would be the same training; pre-training first."""
    found = [Cell(0, "synthetic-only", "0")]
    for n in labels:
        for arm in arms:
            # Without labels real+synthetic sees nothing real.
            if arm == "synthetic-only" or (n == "0" and arm in (*NEEDS_LABELS, "real+synthetic")):
                continue
            found.append(Cell(0, arm, n))
    return found + [Cell(0, "full", n, share) for n in ("0", "100") if n in labels for share in shares]


def make_data(folder: Path, seed: int, sizes: Sizes, jobs: int) -> None:
    """Source, target and twins of one seed; what is complete stays."""
    from handloom.capture.locating import locate
    from handloom.capture.record import record
    from handloom.capture.virtual import VirtualConfig, VirtualRig
    from handloom.quickstart import CAPTURE_MOTION, CAPTURE_SENSOR
    from handloom.synth.config import SynthConfig
    from handloom.synth.generate import synthesise
    from handloom.synth.twin import make_twins
    from handloom.synth.twin_units import TwinSettings

    made_of = {"sizes": {name: getattr(sizes, name) for name in DATA_SIZES}}
    if (folder / "data").exists():
        found = json.loads((folder / "data").read_text())
        if found["sizes"] != made_of["sizes"]:
            sys.exit(f"error: {folder} holds other data ({found['sizes']}): take another --out")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = checked(SynthConfig, {"frames": sizes.synth_frames, "seed": 2 * seed, "sensor": sizes.sensor})
    synthesise(source, folder / "synth.zarr", jobs=jobs)
    target = VirtualConfig(
        frames=sizes.capture_frames,
        fps=15.0,
        sequence_frames=sizes.sequence_frames,
        subjects=sizes.people,
        val_share=0.16,
        test_share=0.24,
        motion=CAPTURE_MOTION,
        sensor=CAPTURE_SENSOR,
        transport="direct",
        jobs=jobs,
        seed=2 * seed + 1,
    )
    with VirtualRig(target) as cameras:
        record(cameras, folder / "capture.zarr", keep_truth=True)
    found = locate(folder / "capture.zarr", jobs=jobs)
    make_twins(
        folder / "capture.zarr",
        folder / "twins.zarr",
        settings=TwinSettings(seed=seed, sensor=source.make_sensor()),
        jobs=jobs,
    )
    located = {"located": found.located, "images": found.images}
    (folder / "data").write_text(json.dumps(made_of | located) + "\n")


def train_cell(out: Path, cell: Cell, sizes: Sizes, split: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Train and measure one cell, or read what an earlier run measured."""
    folder = out / f"seed-{cell.seed}"
    result = folder / "results" / f"{cell.name}-{split}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    import torch

    from handloom.learn.agreement import agreement
    from handloom.learn.estimators import open_estimator
    from handloom.learn.evaluate import evaluate_model
    from handloom.learn.train import preset, train
    from handloom.stores.recording import open_recording

    torch.set_num_threads(1)
    run, started = folder / "runs" / cell.name, time.monotonic()
    given: dict[str, Any] = {
        "seed": cell.seed,
        "label_seed": cell.seed,
        "labels": None if cell.labels == "all" else int(cell.labels),
        "unlabelled_share": cell.unlabelled,
        "device": "auto",
    }
    if cell.arm == "synthetic-only":
        given["pretrain_steps"] = sizes.pretrain_steps
    elif cell.arm == "preview":
        given["steps"] = sizes.preview_steps
    else:
        given["joint_steps"] = sizes.real_steps if cell.arm == "real-only" else sizes.joint_steps
    config = preset("murauer", "quick", cell.arm, with_overrides(given, overrides))
    base = folder / "runs" / "synthetic-only-0"
    train(
        config,
        synth=[] if cell.arm in NEEDS_LABELS else [folder / "synth.zarr", folder / "twins.zarr"],
        real=None if cell.arm == "synthetic-only" else folder / "capture.zarr",
        run_dir=run,
        init=base if cell.arm not in ("synthetic-only", *NEEDS_LABELS) else None,
        resume=(run / "config.yaml").exists(),
    )
    capture = open_recording(folder / "capture.zarr")
    model = open_estimator(run)
    metrics = evaluate_model(model, capture, seed=cell.seed, split=split, center="located").metrics
    true = evaluate_model(model, capture, seed=cell.seed, split=split, center="truth").metrics
    (unlabelled,) = agreement({cell.name: model}, capture, seed=cell.seed, split="val")
    values = asdict(cell) | {
        "split": split,
        "mean_mm": metrics.mean_mm,
        "median_mm": metrics.median_mm,
        "within_40_mm": metrics.success[metrics.thresholds_mm.index(40)],
        "images": metrics.images,
        "true_center_mean_mm": true.mean_mm,
        "disagreement_mm": unlabelled.disagreement_mm,
        "unlabelled_share": cell.unlabelled,
        "overrides": list(overrides),
        "seconds": round(time.monotonic() - started, 1),
    }
    result.parent.mkdir(exist_ok=True)
    result.write_text(json.dumps(values) + "\n")
    return values


def run(
    out: Path, seeds: Sequence[int], cells: Sequence[Cell], sizes: Sizes, *, jobs: int, split: str,
    overrides: Sequence[str],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The results of all cells of all seeds as they come; each seed's pre-training goes before what starts from it."""
    context = multiprocessing.get_context("spawn")
    for seed in seeds:
        make_data(out / f"seed-{seed}", seed, sizes, jobs)
    first, *others = cells
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        started = {pool.submit(train_cell, out, replace(first, seed=s), sizes, split, ()): s for s in seeds}
        rest = []
        for done in as_completed(started):
            yield done.result()
            rest += [
                pool.submit(train_cell, out, replace(cell, seed=started[done]), sizes, split, overrides)
                for cell in others
            ]
        for done in as_completed(rest):
            yield done.result()


def half_width(sd: float, n: int) -> float:
    """Of a 95 % interval of a mean of n."""
    return math.inf if n < 2 else float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)


Key = tuple[str, str, float]
"""Arm, labels, share of the unlabelled frames."""


def difference(
    results: Sequence[dict[str, Any]], a: Key, b: Key, value: str = "mean_mm"
) -> tuple[float, float, int] | None:
    """Mean and half-width of a − b over the seeds that have both, mm."""
    by = {(r["arm"], r["labels"], r["unlabelled"], r["seed"]): r[value] for r in results}
    pairs = [(by[(*a, seed)], by[(*b, seed)]) for *key, seed in by if tuple(key) == a and (*b, seed) in by]
    if not pairs:
        return None
    d = np.array([x - y for x, y in pairs])
    sd = float(d.std(ddof=1)) if len(d) > 1 else math.inf
    return float(d.mean()), half_width(sd, len(d)), len(d)


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Means with located and with true centres, then the differences that the question is about."""
    arms = [arm for arm in ARMS if any(r["arm"] == arm for r in results)]
    counts = [n for n in LABELS if any(r["labels"] == n for r in results)]
    shares = sorted({r["unlabelled"] for r in results} - {1.0})
    lines = []
    for value, centers in (("mean_mm", "located"), ("true_center_mean_mm", "true")):
        lines.append(f"{f'mean joint error, {centers} centres, mm':<38}" + "".join(f"{'n = ' + n:>10}" for n in counts))
        for arm, share in [*((arm, 1.0) for arm in arms), *(("full", share) for share in shares)]:
            row = f"{arm if share == 1 else f'full, {100 * share:g} % of the unlabelled frames':<38}"
            for n in counts:
                values = [r[value] for r in results if (r["arm"], r["labels"], r["unlabelled"]) == (arm, n, share)]
                row += f"{np.mean(values):>10.2f}" if values else f"{'':>10}"
            lines.append(row.rstrip())
        lines.append("")
    lines.append("difference within each seed, located centres, mm (95 % interval, seeds)")
    asked: list[tuple[Key, Key]] = []
    for n in counts:
        asked += [(("full", n, 1.0), (other, n, 1.0)) for other in arms if other not in ("full", "synthetic-only")]
        asked += [(("full", n, 1.0), ("full", n, share)) for share in shares]
    asked += [(("full", n, 1.0), ("synthetic-only", "0", 1.0)) for n in counts]
    asked += [(("full", "100", 1.0), ("real-only", "all", 1.0))]
    for a, b in asked:
        found = difference(results, a, b)
        if found is not None:
            mean, width, seeds = found
            says = "better" if mean + width < 0 else "worse" if mean - width > 0 else "undecided"
            name = f"{a[0]} n={a[1]} - {b[0]} n={b[1]}" + ("" if b[2] == 1 else f" of {100 * b[2]:g} %")
            lines.append(f"{name:<50} {mean:>+6.2f} +- {width:<5.2f} ({seeds}) {says}")
    return lines


def options(description: str | None, arms: Sequence[str], *, seeds: int) -> argparse.ArgumentParser:
    """What every benchmark of trainings over seeds is told."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a third of the data and a quarter of the steps")
    size.add_argument("--tiny", action="store_true", help="a few frames and steps: does it run?")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--arms", default=",".join(arms))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--split", choices=["test", "val"], default="test")
    return parser


def main() -> None:
    """Make the data, train the cells, print the table."""
    parser = options(__doc__, ARMS, seeds=5)
    parser.add_argument("--labels", default=None, help="default 0,10,100,all")
    parser.add_argument("--unlabelled", default="", metavar="SHARE,...", help="full with less of the unlabelled frames")
    parser.add_argument("--source", choices=["clean", "sensor"], default="clean", help="how synthetic depth is made")
    parser.add_argument("--variant", default="", help="a name for what -o changes")
    parser.add_argument("-o", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    if args.overrides and (args.split == "test" or not args.variant):
        parser.error("-o is for choosing on validation frames: add --split val and --variant NAME")
    sizes = QUICK if args.quick else TINY if args.tiny else Sizes()
    sizes = replace(sizes, sensor="none" if args.source == "clean" else "structured-light")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    counts = args.labels.split(",") if args.labels else ["0", "10", "all"] if args.tiny else list(LABELS)
    shares = [float(share) for share in args.unlabelled.split(",") if share]
    first, *others = cells_of(args.arms.split(","), counts, shares)
    cells = [first, *(replace(cell, variant=args.variant) for cell in others)]
    print(f"{len(cells)} trainings x {len(seeds)} seeds; a difference of two arms is expected to be known to within")
    print(
        f"+- {half_width(PAIRED_SD_MM, len(seeds)):.2f} mm (95 %), if it varies by {PAIRED_SD_MM} mm from seed to seed"
    )
    results, started = [], time.monotonic()
    for result in run(args.out, seeds, cells, sizes, jobs=args.jobs, split=args.split, overrides=args.overrides):
        results.append(result)
        print(
            f"{time.monotonic() - started:7.0f} s  seed {result['seed']}  {result['arm']:<24} n = {result['labels']:<4}"
            f" {result['mean_mm']:6.2f} mm",
            file=sys.stderr,
        )
    lines = table(results)
    (args.out / f"table-{args.split}{args.variant and '-' + args.variant}.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
