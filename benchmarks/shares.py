"""Error over the share of labelled frames: Crossing Nets and MURAUER side by side on the same frames, with baselines.

    python benchmarks/shares.py --out gap [--seeds 3] [--shares 2,5,10,25,100] [--arms ...] [--jobs 2] [--px 64]
                               [--longer 4]

The data are those of `gap.py`, whose folder it goes on with where there is one: what is trained here lies apart, in
seed-*/shares. m % of the real training frames keep their labels; every arm sees the same ones, drawn by the seed, and
all arms of 64 px (on a GPU, `--px 128`: the paper's input; results of their own), `quick` lengths (`--longer K`:
Crossing Nets' stages K times as long, results of their own):

    murauer full            synthetic frames and twins, m % labelled, the rest unlabelled
    crossing full           the same without twins
    crossing paper          the paper's setting: m % labelled real frames, the rest unlabelled, nothing synthetic
    crossing paper-scratch  its baseline: `pos` alone, from random weights, on the labelled frames
    crossing paper-nearest  nearest neighbour in a 512-d PCA of the labelled frames

and, where --arms names them, the paper's other baseline and its two ablations: crossing paper-gan-pretrained,
crossing paper-no-smo, crossing paper-no-gan.

Seeds are paired: within one all arms share data, labels and initial weights; intervals are Student's t over the seeds,
of the differences within each. Everything is written as it is made: a run that was cut off goes on where it stopped.
Ends with shares-test.html: both curves, the paper's own on NYU beside them, and the share of frames under a distance.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gap import QUICK, TINY, Cell, Sizes, half_width, make_data, options
from gap import train_cell as train_gap_cell

SHARES = (2.0, 5.0, 10.0, 25.0, 100.0)
ARMS = ("murauer full", "crossing full", "crossing paper", "crossing paper-scratch", "crossing paper-nearest")
ALSO = ("crossing paper-gan-pretrained", "crossing paper-no-smo", "crossing paper-no-gan")
ASKED = (
    ("crossing full", "murauer full"),
    ("crossing paper", "crossing paper-scratch"),
    *(("crossing paper", other) for other in ALSO),
    ("crossing paper", "crossing paper-nearest"),
    ("crossing full", "crossing paper"),
)
"""Which differences the table tells."""
VIEW_CHANNELS_128 = [64, 32, 16, 16]
"""Of MURAUER's view decoder, which ends at twice the side of its last layer, as the paper's does."""


@dataclass(frozen=True, slots=True)
class ShareCell:
    """One training."""

    seed: int
    arm: str
    percent: float
    px: int = 64
    longer: int = 1

    @property
    def name(self) -> str:
        """Of its folder and its result."""
        return f"{self.arm.replace(' ', '-')}-{self.percent:g}{mark(self.px, self.longer)}"


def mark(px: int, longer: int = 1) -> str:
    """The end of a name: nothing for the presets' own input and lengths."""
    return ("" if px == 64 else f"-{px}px") + ("" if longer == 1 else f"-x{longer}")


def base(seed: int, px: int) -> Cell:
    """MURAUER's pre-training, which gap.py shares at 64 px."""
    return Cell(seed, "synthetic-only", "0", variant=mark(px).removeprefix("-"))


def lengths(arm: str, sizes: Sizes, longer: int) -> dict[str, Any]:
    """Steps of the stages where they are not those of the presets."""
    method, _, name = arm.partition(" ")
    if method == "murauer":
        return {"joint_steps": sizes.joint_steps}
    if name == "paper-nearest":
        return {}
    if sizes == TINY:
        steps = {"vae_steps": 2, "gan_steps": 2, "align_steps": 1, "joint_steps": 2}
    elif sizes == Sizes():
        from handloom.learn.train import preset

        given = preset("crossing", "quick", name, {}).model_dump()
        steps = {stage: given[stage] for stage in ("vae_steps", "gan_steps", "align_steps", "joint_steps")}
    else:
        steps = {"vae_steps": 1000, "gan_steps": 20, "align_steps": 10, "joint_steps": 100}
    return {stage: longer * n for stage, n in steps.items()}


def train_share(out: Path, cell: ShareCell, sizes: Sizes, split: str) -> dict[str, Any]:
    """Train and measure one cell, or read what an earlier run measured."""
    folder = out / f"seed-{cell.seed}"
    result = folder / "shares" / f"{cell.name}-{split}.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    import torch

    from handloom.learn.estimators import open_estimator
    from handloom.learn.evaluate import evaluate_model
    from handloom.learn.metrics import joint_errors, worst_joint
    from handloom.learn.train import preset, train
    from handloom.stores.recording import open_recording

    torch.set_num_threads(1)
    started = time.monotonic()
    method, _, arm = cell.arm.partition(" ")
    run = folder / "shares" / cell.name
    given = {"seed": cell.seed, "label_seed": cell.seed, "labels": f"{cell.percent:g}%", "device": "auto"}
    given["input_px"] = cell.px
    if method == "murauer" and cell.px == 128:
        given["architecture"] = {"view_channels": VIEW_CHANNELS_128}
    synthetic = [] if arm.startswith("paper") else [folder / "synth.zarr"]
    trained = train(
        preset(method, "quick", arm, given | lengths(cell.arm, sizes, cell.longer)),
        synth=[*synthetic, folder / "twins.zarr"] if method == "murauer" else synthetic,
        real=folder / "capture.zarr",
        run_dir=run,
        init=folder / "runs" / base(cell.seed, cell.px).name if method == "murauer" else None,
        resume=(run / "config.yaml").exists(),
    )
    found = evaluate_model(
        open_estimator(run), open_recording(folder / "capture.zarr"), seed=cell.seed, split=split, center="located"
    )
    worst = worst_joint(joint_errors(found.prediction_mm, found.truth_mm))
    values = {
        "seed": cell.seed,
        "arm": cell.arm,
        "percent": cell.percent,
        "labels": found.n_labels,
        "split": split,
        "mean_mm": found.metrics.mean_mm,
        "images": found.metrics.images,
        "worst_mm": [round(float(mm), 1) for mm in worst],
        "steps": trained.steps,
        "seconds": round(time.monotonic() - started, 1),
    }
    result.write_text(json.dumps(values) + "\n")
    return values


def run(
    out: Path,
    seeds: Sequence[int],
    arms: Sequence[str],
    shares: Sequence[float],
    sizes: Sizes,
    *,
    jobs: int,
    split: str,
    px: int,
    longer: int,
) -> Iterator[dict[str, Any]]:
    """The results of all cells as they come; MURAUER's pre-training goes first."""
    for seed in seeds:
        make_data(out / f"seed-{seed}", seed, sizes, jobs)
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        if any(arm.startswith("murauer") for arm in arms):
            larger = () if px == 64 else (f"input_px={px}", f"architecture.view_channels={VIEW_CHANNELS_128}")
            before = [pool.submit(train_gap_cell, out, base(seed, px), sizes, split, larger) for seed in seeds]
            for done in as_completed(before):
                done.result()
        cells = [ShareCell(seed, arm, percent, px, longer) for seed in seeds for percent in shares for arm in arms]
        rest = [pool.submit(train_share, out, cell, sizes, split) for cell in cells]
        for done in as_completed(rest):
            yield done.result()


def means(results: Sequence[dict[str, Any]]) -> dict[tuple[str, float], list[float]]:
    """Mean errors by arm and share, a number a seed."""
    by: dict[tuple[str, float], list[float]] = {}
    for r in sorted(results, key=lambda r: r["seed"]):
        by.setdefault((r["arm"], r["percent"]), []).append(r["mean_mm"])
    return by


def paired(results: Sequence[dict[str, Any]], a: str, b: str, percent: float) -> tuple[float, float, int] | None:
    """Mean and half-width of a - b over the seeds that have both, mm."""
    by = {(r["arm"], r["seed"]): r["mean_mm"] for r in results if r["percent"] == percent}
    d = np.array([mean - by[b, seed] for (arm, seed), mean in by.items() if arm == a and (b, seed) in by])
    if not len(d):
        return None
    return float(d.mean()), half_width(float(d.std(ddof=1)) if len(d) > 1 else 0.0, len(d)), len(d)


def table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Means, then differences."""
    shares = sorted({r["percent"] for r in results})
    by = means(results)
    labels = {r["percent"]: r["labels"] for r in results}
    lines = [f"{'mean joint error, mm':<30}" + "".join(f"{f'{m:g} %':>9}" for m in shares)]
    lines.append(f"{'labelled frames':<30}" + "".join(f"{labels[m]:>9}" for m in shares))
    for arm in (*ARMS, *ALSO):
        if any((arm, m) in by for m in shares):
            cells = [f"{np.mean(by[arm, m]):>9.2f}" if (arm, m) in by else f"{'':>9}" for m in shares]
            lines.append(f"{arm:<30}" + "".join(cells))
    lines += ["", "difference within each seed, mm (95 % interval, seeds)"]
    for a, b in ASKED:
        for m in shares:
            found = paired(results, a, b, m)
            if found is not None:
                mean, width, seeds = found
                says = "better" if mean + width < 0 else "worse" if mean - width > 0 else "undecided"
                lines.append(f"{a} - {b}, {m:g} %".ljust(53) + f"{mean:>+6.2f} +- {width:<5.2f} ({seeds}) {says}")
    return lines


def page_tables(results: Sequence[dict[str, Any]]) -> list[Any]:
    """The same two tables for the page, to sort."""
    from handloom.learn.report import Signed, Table

    shares = sorted({r["percent"] for r in results})
    by = means(results)
    rows = [
        [arm, *(float(np.mean(by[arm, m])) if (arm, m) in by else None for m in shares)]
        for arm in (*ARMS, *ALSO)
        if any((arm, m) in by for m in shares)
    ]
    labels = {r["percent"]: r["labels"] for r in results}
    columns = ["mean joint error (mm)", *(f"{m:g} % ({labels[m]} labels)" for m in shares)]
    differences: list[list[Any]] = []
    for a, b in ASKED:
        for m in shares:
            found = paired(results, a, b, m)
            if found is not None:
                mean, width, seeds = found
                says = "better" if mean + width < 0 else "worse" if mean - width > 0 else "undecided"
                between = "one seed: none" if np.isinf(width) else f"{mean - width:+.2f} to {mean + width:+.2f}"
                differences.append([a, b, f"{m:g} %", Signed(mean), between, seeds, says])
    return [
        Table(columns, rows, "Mean over seeds."),
        Table(
            ["A", "B", "labelled", "error of A minus B (mm)", "95 % interval", "seeds", "A is"],
            differences,
            "Within each seed both saw the same data and labels; Student's t over the seeds.",
        ),
    ]


def write_page(out: Path, results: Sequence[dict[str, Any]], split: str, end: str = "") -> Path:
    """The figures as one page."""
    from handloom.learn.crossing_figures import Share, paper_chart, shares_chart
    from handloom.learn.figures import success_chart
    from handloom.learn.report import Gallery, Report, Section

    by, arms = means(results), [arm for arm in (*ARMS, *ALSO) if any(r["arm"] == arm for r in results)]
    shares = sorted({r["percent"] for r in results})
    curves = {
        arm: [
            Share(m, float(np.mean(by[arm, m])), half_width(float(np.std(by[arm, m], ddof=1)), len(by[arm, m])))
            if len(by[arm, m]) > 1
            else Share(m, by[arm, m][0], float("inf"))
            for m in shares
            if (arm, m) in by
        ]
        for arm in arms
    }
    least = shares[0]
    worst = {
        arm: np.concatenate([r["worst_mm"] for r in results if r["arm"] == arm and r["percent"] == least])
        for arm in arms
        if any(r["arm"] == arm and r["percent"] == least for r in results)
    }
    said = (
        f"Virtual captures of four people each, {len({r['seed'] for r in results})} seeds, {split} frames, located "
        "centres. Nothing of it is real: the figures say what a method does with this gap, not with a camera's."
    )
    bars = "Bars: 95 % intervals of the mean over seeds, cut off where they leave the picture; none for a single seed."
    under = f"Share of images whose worst joint is within a distance, {least:g} % labelled."
    pictures = [shares_chart(curves, caption=bars), paper_chart(), success_chart(worst, caption=under)]
    blocks = [Gallery(pictures), *page_tables(results)]
    section = Section("Crossing Nets and MURAUER", blocks)
    page = Report("Error over the share of labelled frames", [section], introduction=said)
    path = out / f"shares-{split}{end}.html"
    page.write(path, overwrite=True)
    return path


def main() -> None:
    """Make what is missing of the data, train the cells, print the table."""
    parser = options(__doc__, ARMS, seeds=3)
    parser.add_argument("--shares", default=None, help="percent, default 2,5,10,25,100")
    parser.add_argument("--px", type=int, default=64, choices=[64, 128], help="side of the input")
    parser.add_argument("--longer", type=int, default=1, metavar="K", help="stages of Crossing Nets, times K")
    args = parser.parse_args()
    sizes = QUICK if args.quick else TINY if args.tiny else Sizes()
    shares = [float(m) for m in args.shares.split(",")] if args.shares else [25.0, 100.0] if args.tiny else list(SHARES)
    arms = args.arms.split(",")
    unknown = sorted(set(arms) - {*ARMS, *ALSO})
    if unknown:
        parser.error(f"unknown arm '{unknown[0]}'; known: {', '.join((*ARMS, *ALSO))}")
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    print(f"{len(arms) * len(shares)} trainings x {len(seeds)} seeds")
    results, started = [], time.monotonic()
    for result in run(
        args.out, seeds, arms, shares, sizes, jobs=args.jobs, split=args.split, px=args.px, longer=args.longer
    ):
        results.append(result)
        print(
            f"{time.monotonic() - started:7.0f} s  seed {result['seed']}  {result['arm']:<24} {result['percent']:>4g} %"
            f"  {result['labels']:>5} labels {result['mean_mm']:6.2f} mm  ({result['seconds']:.0f} s)",
            file=sys.stderr,
        )
    lines = table(results)
    (args.out / f"shares-{args.split}{mark(args.px, args.longer)}.txt").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    print(write_page(args.out, results, args.split, mark(args.px, args.longer)))


if __name__ == "__main__":
    main()
