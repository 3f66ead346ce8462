"""MURAUER as published, on a machine with a GPU: speed of a joint step, and a training whose error over steps is drawn.

    python benchmarks/paper.py --out paper --minutes 8

One command, given again and again until it says that it is done: it renders the data (100,800 synthetic and
20,160 captured crops, 192 px; twins of the labelled frames), measures joint steps a second at the paper's batch and at
1024 for each way of computing them (`learn/device.py`), trains the `paper` preset (12,000 steps on synthetic images,
20,000 jointly with 100 labelled frames), measures it on the frames kept for testing, and writes

    OUT/lines.md    the figures, as rows of benchmarks/RESULTS.md
    OUT/curve.csv, OUT/curve.png    error on validation frames over the steps

Each call ends by itself within `--minutes`, plus at most a minute to save, with exit code 0; what is done lies in OUT.
No part takes longer than that: the data are made within three minutes a part on two cores, training stops at a
checkpoint. `--tiny` does all of it with a few frames and small networks, in a minute on a CPU: does it run?

Where nothing can be installed from the network, bring the wheels: on another machine, from the root of this repository,

    pip download -d wheels -c constraints.txt --only-binary=:all: --python-version 3.12 zarr numba trimesh ...

with the packages that this script names as missing, and here `pip install --no-index --find-links wheels zarr ...`,
or `--wheels wheels`, which does that into OUT/packages. torch is not among them: the one that is here is taken (2.11
or later). The package itself need not be installed: PYTHONPATH=.dev finds it.

Source and target are those of benchmarks/gap.py: the built-in hand under one sensor model, and captures of other
people through another, in a room, located without labels. Nothing of it is real.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from handloom.learn.config import TrainConfig
    from handloom.learn.data import TrainingData

NEEDED = {
    "torch": "torch", "numpy": "numpy", "scipy": "scipy", "zarr": "zarr", "numba": "numba", "trimesh": "trimesh",
    "click": "click", "rich": "rich", "pydantic": "pydantic", "yaml": "pyyaml", "cv2": "opencv-python-headless",
    "safetensors": "safetensors", "matplotlib": "matplotlib", "jinja2": "jinja2", "skimage": "scikit-image",
}  # fmt: skip
"""Modules that this script cannot do without, and the packages that hold them."""

WAYS: tuple[dict[str, Any], ...] = (
    {"precision": "fp32"},
    {"precision": "fp32", "channels_last": True},
    {"precision": "bf16"},
    {"precision": "bf16", "channels_last": True},
    {"precision": "bf16", "graph": True},
    {"precision": "bf16", "graph": True, "channels_last": True},
    {"precision": "bf16", "compile": True},
    {"precision": "bf16", "graph": True, "compile": True},
    {"precision": "bf16", "graph": True, "compile": True, "channels_last": True},
)
"""What a joint step is measured with; a graph where there is a GPU."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything."""

    synth_frames: int = 33_600
    """Of three views."""
    capture_frames: int = 6_720
    sequence_frames: int = 60
    people: int = 8
    labels: int = 100
    pretrain_steps: int = 12_000
    joint_steps: int = 20_000
    val_every: int = 500
    batches: tuple[int, ...] = (64, 1024)
    speed_seconds: float = 5.0
    """How long each way is measured, once its first steps are over."""
    warm_steps: int = 20
    part_minutes: float = 3.0
    """No part of data, speed or test takes longer on two cores: one is begun only where so much is left."""
    compiled: bool = True
    """Whether ways that compile are measured: each takes a minute before its first step."""
    networks: tuple[tuple[str, Any], ...] = ()
    """What differs from the `paper` preset."""


TINY = Sizes(
    60, 80, 4, 2, 6, 6, 8, 4, (16, 32), 0.5, 2, 0.0, False,
    networks=(
        ("input_px", 32), ("batch", 16), ("log_every", 2), ("save_every", 5),
        ("architecture", {
            "stem": 4, "channels": (8, 8), "mid": (4, 4), "blocks": 1, "feature_width": 16, "view_channels": (8, 4),
        }),
    ),
)  # fmt: skip
"""For the test of this script."""


class OutOfTime(Exception):
    """The rest is for the next call."""


@dataclass(frozen=True, slots=True)
class Session:
    """One call of the script."""

    out: Path
    sizes: Sizes
    until: float
    """`time.monotonic` at which to stop."""
    jobs: int
    device: str

    def minutes_left(self) -> float:
        """Until this call should end."""
        return (self.until - time.monotonic()) / 60

    def once(self, name: str, work: Callable[[], Any]) -> Any:
        """What `work` gave, in this call or an earlier one; begun only if enough time is left.

        Raises:
            OutOfTime: it is not.
        """
        path = self.out / "parts" / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())
        if self.minutes_left() < self.sizes.part_minutes:
            raise OutOfTime(name)
        started = time.monotonic()
        found = work()
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".writing")
        beside.write_text(json.dumps(found) + "\n")
        beside.replace(path)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        return found


# --- the data ---


def make_data(session: Session) -> None:
    """Source, target, validation frames and twins."""
    from handloom.capture.locating import locate
    from handloom.capture.record import record
    from handloom.capture.virtual import VirtualConfig, VirtualRig
    from handloom.quickstart import CAPTURE_MOTION, CAPTURE_SENSOR
    from handloom.stores.edit import chosen_rows, subset
    from handloom.synth.config import SynthConfig
    from handloom.synth.generate import synthesise
    from handloom.synth.twin import make_twins
    from handloom.synth.twin_units import TwinSettings

    out, sizes, jobs = session.out, session.sizes, session.jobs
    capture, source = out / "capture.zarr", SynthConfig(frames=sizes.synth_frames)

    def synth() -> dict[str, Any]:
        made = synthesise(source, out / "synth.zarr", jobs=jobs, resume=True)
        return {"crops": made.n_frames * made.n_views}

    def target() -> dict[str, Any]:
        config = VirtualConfig(
            frames=sizes.capture_frames,
            fps=15.0,
            sequence_frames=sizes.sequence_frames,
            subjects=sizes.people,
            val_share=0.1,
            test_share=0.2,
            motion=CAPTURE_MOTION,
            sensor=CAPTURE_SENSOR,
            transport="direct",
            jobs=jobs,
            seed=1,
        )
        with VirtualRig(config) as cameras:
            made = record(cameras, capture, keep_truth=True, overwrite=capture.exists())
        return {"crops": made.n_frames * made.n_views}

    def crops() -> dict[str, Any]:
        found = locate(capture, jobs=jobs)
        return {"located": found.located, "images": found.images}

    def validation() -> dict[str, Any]:
        rows = chosen_rows(capture, frames=None, split="val")
        made = subset(capture, out / "val.zarr", rows=rows, overwrite=(out / "val.zarr").exists())
        return {"frames": made.n_frames}

    def twins() -> dict[str, Any]:
        settings = TwinSettings(seed=0, sensor=source.make_sensor())
        made = make_twins(capture, out / "twins.zarr", settings=settings, jobs=jobs, resume=True)
        return {"frames": made.n_frames}

    session.once("synth", synth)
    session.once("capture", target)
    session.once("crops", crops)
    session.once("val", validation)
    session.once("twins", twins)


# --- speed ---


def configuration(session: Session, arm: str, **given: Any) -> TrainConfig:
    """The paper's, of so many steps as the session trains."""
    from handloom.learn.train import preset

    sizes = session.sizes
    steps = {"pretrain_steps": 0, "joint_steps": sizes.joint_steps}
    if arm == "synthetic-only":
        steps = {"pretrain_steps": sizes.pretrain_steps, "joint_steps": 0}
    values: dict[str, Any] = {
        "labels": sizes.labels,
        "device": session.device,
        "memory_mb": None,
        "val_every": sizes.val_every,
    }
    values["centers"] = "located"  # as the target's are, which pre-training does not see
    return preset("murauer", "paper", arm, values | steps | dict(sizes.networks) | given)


def load(session: Session, config: TrainConfig) -> TrainingData:
    """What a training of the full arm sees, on the device."""
    from handloom.learn.data import load_training_data
    from handloom.learn.train import pick_device

    out = session.out
    return load_training_data(
        config,
        synth=[out / "synth.zarr", out / "twins.zarr"],
        real=out / "capture.zarr",
        device=pick_device(session.device),
    )


def per_second(step: Callable[[int], None], device: torch.device, seconds: float, first: int) -> float:
    """Steps a second from number `first` on; the device is waited for at both ends only."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    count, index, started = 4, first, time.perf_counter()
    while True:
        for _ in range(count):
            step(index)
            index += 1
        wait()
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return (index - first) / elapsed
        count = max(1, min(2 * count, int(count * (seconds - elapsed) / elapsed) + 1))


def speed(session: Session, data: TrainingData, way: Mapping[str, Any], batch: int) -> dict[str, Any]:
    """Joint steps a second with fresh batches, and with one that is there already: the rest is data wait."""
    import torch

    from handloom.learn import murauer
    from handloom.stores.errors import HandloomError

    sizes, cuda = session.sizes, data.device.type == "cuda"
    found: dict[str, Any] = {"way": name_of(way), "batch": batch, "machine": machine_of(session.device)}
    try:
        config = configuration(session, "full", **({"graph": False} | dict(way) | {"batch": batch}))
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(data.device)
        learner = murauer.Learner(config, data)  # type: ignore[arg-type]
        learner.nets.train()
        for index in range(sizes.warm_steps):
            learner.step(index, log=False)
        learner.guard.raise_if_found()
        first, seconds = sizes.warm_steps, sizes.speed_seconds
        fresh = per_second(lambda i: drop(learner.step(i, log=False)), data.device, seconds, first)
        kept = learner.batches.joint(0)

        def again(index: int) -> None:
            learner.guard.begin(index, 1e-4)
            learner.updates.joint(kept, log=False)

        ready = per_second(again, data.device, seconds, first)
        images = sum(learner.batches.sizes.values())
        found |= {
            "steps_per_s": fresh,
            "images_per_s": fresh * images,
            "images": images,
            "data_wait": max(0.0, 1 - fresh / ready),
            "peak_gb": torch.cuda.max_memory_allocated(data.device) / 1e9 if cuda else None,
            "execution": learner.execution.describe(),
        }
    except (HandloomError, torch.OutOfMemoryError) as error:
        found["failed"] = str(error).splitlines()[0]
    return found


def drop(terms: Mapping[str, Any]) -> None:
    """A step's terms stay on the device."""


def name_of(way: Mapping[str, Any]) -> str:
    """A way in few words."""
    return " + ".join([str(way["precision"]), *(name for name in way if name != "precision")])


def measure_speed(session: Session) -> list[dict[str, Any]]:
    """Every way at every batch."""
    from handloom.learn.train import pick_device

    cuda = pick_device(session.device).type == "cuda"
    rows: list[dict[str, Any]] = []
    data: TrainingData | None = None
    for batch in session.sizes.batches:
        for way in WAYS:
            if way.get("graph") and not cuda:
                continue
            if way.get("compile") and not session.sizes.compiled:
                continue

            def row(way: dict[str, Any] = way, batch: int = batch) -> dict[str, Any]:
                nonlocal data
                if data is None:
                    data = load(session, configuration(session, "full"))
                return speed(session, data, way, batch)

            name = f"speed-{batch}-{name_of(way).replace(' + ', '-')}"
            rows.append(session.once(name, row))
    return rows


# --- training ---


def train_all(session: Session) -> dict[str, Any]:
    """Pre-training, then joint training from it; each goes on where an earlier call stopped."""
    from handloom.learn.train import train
    from handloom.stores.errors import HandloomError

    out, found = session.out, {}
    for arm, synth, init in (
        ("synthetic-only", ["synth.zarr"], None),
        ("full", ["synth.zarr", "twins.zarr"], out / "synthetic-only"),
    ):

        def one(arm: str = arm, synth: list[str] = synth, init: Path | None = init) -> dict[str, Any]:
            result = train(
                configuration(session, arm),
                synth=[out / name for name in synth],
                real=None if arm == "synthetic-only" else out / "capture.zarr",
                run_dir=out / arm,
                val=out / "val.zarr",
                init=init,
                resume=True,
                minutes=max(0.0, session.minutes_left()),
                progress=lambda done, total, metrics: report(arm, done, total, metrics),
            )
            if not result.finished:
                raise OutOfTime(f"{arm}, {result.steps} of {result.of_steps} steps done")
            return {"steps": result.steps, "machine": machine_of(session.device)}

        try:
            found[arm] = session.once(f"train-{arm}", one)
        except HandloomError as error:
            raise SystemExit(f"{error}") from error
    return found


def report(arm: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
    """A line where there is news of the error."""
    if "val/mean_mm" in metrics:
        said = f"{arm} {done}/{total}: {metrics['val/mean_mm']:.2f} mm, {metrics['steps_per_s']:.1f} steps/s"
        print(said, file=sys.stderr, flush=True)


def evaluate(session: Session) -> dict[str, Any]:
    """Error of both runs on the frames kept for testing."""
    from handloom.learn.estimators import open_estimator
    from handloom.learn.evaluate import evaluate_model
    from handloom.stores.recording import open_recording

    found = {}
    for arm in ("synthetic-only", "full"):

        def one(arm: str = arm) -> dict[str, Any]:
            estimator, recording = open_estimator(session.out / arm), open_recording(session.out / "capture.zarr")
            metrics = evaluate_model(estimator, recording, seed=0, split="test", center="located").metrics
            return {"mean_mm": metrics.mean_mm, "median_mm": metrics.median_mm, "images": metrics.images}

        found[arm] = session.once(f"test-{arm}", one)
    return found


def curve(out: Path) -> list[tuple[int, float, str]]:
    """(step over both trainings, mean error in mm on validation frames, arm) as the runs logged them."""
    points, before = [], 0
    for arm in ("synthetic-only", "full"):
        lines = [json.loads(line) for line in (out / arm / "metrics.jsonl").read_text().splitlines()]
        points += [(before + int(line["step"]), line["val/mean_mm"], arm) for line in lines if "val/mean_mm" in line]
        before += int(lines[-1]["step"])
    return points


def draw(out: Path) -> None:
    """curve.csv and curve.png."""
    from matplotlib.figure import Figure

    points = curve(out)
    with (out / "curve.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "val_mean_mm", "arm"])
        writer.writerows([(step, f"{error:.3f}", arm) for step, error, arm in points])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for arm, name in (("synthetic-only", "on synthetic images"), ("full", "joint training, full")):
        chosen = [(step, error) for step, error, of in points if of == arm]
        axes.plot(*zip(*chosen, strict=True), marker=".", label=name)
    axes.set(xlabel="steps", ylabel="mean joint error, mm", title="MURAUER paper preset, validation frames")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out / "curve.png", dpi=120)


# --- the figures ---


def lines(
    session: Session, made: Mapping[str, Any], rows: list[dict[str, Any]], tested: Mapping[str, Any]
) -> Iterator[str]:
    """Rows for RESULTS.md."""
    tiny = " --tiny" * (session.sizes == TINY)
    command, today = f"`python benchmarks/paper.py --out paper{tiny}`", date.today().isoformat()
    for row in rows:
        what = f"MURAUER joint step, batch {row['batch']}, {row['way']} ({row['machine']})"
        if "failed" in row:
            yield f"| {what} | not measured: {row['failed']} | – | {command} | {today} |"
            continue
        memory = "" if row["peak_gb"] is None else f", peak {row['peak_gb']:.1f} GB"
        budget = "350 steps/s, 2 %" if row["batch"] == 64 else "–"
        yield (
            f"| {what} | {row['steps_per_s']:.1f} steps/s, {row['images_per_s']:,.0f} images/s through f, "
            f"data wait {row['data_wait']:.1%}{memory} | {budget} | {command} | {today} |"
        )
    for arm, name in (("synthetic-only", "synthetic images alone"), ("full", f"full, n = {session.sizes.labels}")):
        test, trained = tested[arm], made[f"train-{arm}"]
        yield (
            f"| MURAUER `paper`, {name}: mean / median on {test['images']:,} test images, located centres "
            f"({trained['machine']}) | {test['mean_mm']:.2f} / {test['median_mm']:.2f} mm after {trained['steps']:,} "
            f"steps | – | {command} | {today} |"
        )
    synth, capture, crops = made["synth"], made["capture"], made["crops"]
    yield (
        f"| … data: synthetic / captured crops, hands found | {synth['crops']:,} / {capture['crops']:,}, "
        f"{crops['located'] / crops['images']:.1%} | 100,000 / 20,000 | {command} | {today} |"
    )


def machine_of(device: str) -> str:
    """What the figures were made on."""
    import torch

    from handloom.learn.train import pick_device

    chosen = pick_device(device)
    name = torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else f"CPU, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}, Python {platform.python_version()}"


def missing_packages() -> list[str]:
    """Packages that are not here."""
    return [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]


def bring(wheels: Path, target: Path, packages: list[str]) -> None:
    """Install packages from a folder of wheels beside the results."""
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(wheels), "--target", str(target)]
    subprocess.run([*pip, *packages], check=True)
    importlib.invalidate_caches()


def main() -> None:
    """Do what is left to do, as long as there is time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="stop after so long; the same command goes on")
    parser.add_argument("--tiny", action="store_true", help="a few frames and steps on small networks: does it run?")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=min(16, os.cpu_count() or 1))
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install what is missing from")
    args = parser.parse_args()
    until = time.monotonic() + 60 * args.minutes
    packages = args.out / "packages"
    sys.path.insert(0, str(packages))
    missing = missing_packages()
    if missing and args.wheels:
        bring(args.wheels, packages, missing)
        missing = missing_packages()
    if missing:
        names = " ".join(missing)
        print(f"missing here: {names}", file=sys.stderr)
        print(f"with a network: pip install -c constraints.txt {names}", file=sys.stderr)
        print(
            "without: on another machine: pip download -d wheels -c constraints.txt --only-binary=:all: "
            f"--python-version {sys.version_info.major}.{sys.version_info.minor} {names}\n"
            "here: the same command with --wheels wheels",
            file=sys.stderr,
        )
        raise SystemExit(3)
    session = Session(args.out, TINY if args.tiny else Sizes(), until, args.jobs, args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    again = args.out / "sizes.json"
    said = json.dumps(asdict(session.sizes), default=list)
    if again.exists() and again.read_text() != said:
        parser.error(f"{args.out} was begun with other sizes (--tiny, or another version): take another --out")
    again.write_text(said)
    print(machine_of(args.device), file=sys.stderr)
    try:
        make_data(session)
        rows = measure_speed(session)
        train_all(session)
        tested = evaluate(session)
    except OutOfTime as error:
        print(f"the time is up, next comes: {error}\nthe same command goes on", file=sys.stderr)
        return
    draw(args.out)
    made = {path.stem: json.loads(path.read_text()) for path in (args.out / "parts").glob("*.json")}
    found = list(lines(session, made, rows, tested))
    (args.out / "lines.md").write_text("\n".join(found) + "\n")
    print("\n".join(found))
    print(f"done: {args.out / 'lines.md'}, {args.out / 'curve.csv'}, {args.out / 'curve.png'}", file=sys.stderr)


if __name__ == "__main__":
    main()
