"""The whole loop on one machine without camera and GPU: what `handloom quickstart` runs.

A synthetic set is rendered and labelled by itself. A virtual rig then records a *different* hand (another
person, another motion, a worse sensor, a room behind it) that nobody labels: the truth is kept for 50 training
frames, as if somebody had labelled those, and for the held-out sequences at the end, which nothing is trained
or chosen on. Every figure is measured on these held-out frames, around hand centres that were located.

Cost on two cores: see benchmarks/RESULTS.md.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .capture.locating import locate
from .capture.record import record
from .capture.virtual import Motion, VirtualConfig, VirtualRig
from .learn.estimators import open_estimator
from .learn.evaluate import Evaluation, evaluate_models, mean_pose
from .learn.export import export
from .learn.poses import predict_to
from .learn.predict import Estimator, load
from .learn.train import preset, train
from .stages import Say, open_folder, stage, steps_done
from .stores.recording import SPLITS, Recording, open_recording
from .synth.config import SynthConfig
from .synth.generate import synthesise
from .synth.sensor import StructuredLight
from .synth.twin import make_twins
from .synth.twin_units import TwinSettings

LABELS: Final = 50
JOBS: Final = 2

CAPTURE_MOTION: Final = Motion(spread_deg=70.0, median_deg_s=30.0, p95_deg_s=180.0)
CAPTURE_SENSOR: Final = StructuredLight(
    axial_mm=2.0,
    axial_growth_mm=3.0,
    lateral_px=1.2,
    baseline_mm=55.0,
    projector=-1,
    edge_hole=0.35,
    grazing_from_deg=55.0,
    grazing_to_deg=80.0,
    block_px=3,
)
"""Not the sensor the synthetic set imitates: noisier, with a shorter baseline, its projector on the other side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One training run."""

    name: str
    method: str
    arm: str
    title: str
    synth: tuple[str, ...] = ()
    """Synthetic recordings in the quickstart's folder."""
    real: bool = True
    """Whether the capture takes part."""
    init: str = ""
    """The run whose pre-trained networks it starts from."""


RUNS: Final = (
    Plan(
        name="synthetic-only",
        method="murauer",
        arm="synthetic-only",
        title="MURAUER, synthetic only",
        synth=("synth.zarr",),
        real=False,
    ),
    Plan(name="real-only", method="murauer", arm="real-only", title=f"MURAUER, {LABELS} labels only"),
    Plan(
        name="full",
        method="murauer",
        arm="full",
        title="MURAUER, full",
        synth=("synth.zarr", "twins.zarr"),
        init="synthetic-only",
    ),
    Plan(name="crossing", method="crossing", arm="full", title="Crossing Nets", synth=("synth.zarr",)),
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything; the tests run a smaller loop."""

    synth_frames: int = 5000
    capture_frames: int = 1200
    sequence_frames: int = 60
    test_share: float = 0.25
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By run, what differs from the quick preset."""


@dataclass(slots=True)
class Tour:
    """What the loop has made so far, for the table and the report."""

    out: Path
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)

    @property
    def synth(self) -> Path:
        """Labelled synthetic recording."""
        return self.out / "synth.zarr"

    @property
    def capture(self) -> Path:
        """Captured recording: unlabelled but for 50 frames and the held-out sequences."""
        return self.out / "capture.zarr"

    @property
    def twins(self) -> Path:
        """Synthetic twins of the labelled frames."""
        return self.out / "twins.zarr"

    def run(self, name: str) -> Path:
        """Folder of a training run."""
        return self.out / "runs" / name


def run(out: Path, *, seed: int, overwrite: bool, say: Say, sizes: Sizes | None = None) -> Tour:
    """Run the loop into a folder.

    Args:
        out: the folder for everything.
        seed: all else follows from it.
        overwrite: replace what an earlier quickstart made there.
        say: prints a line.
        sizes: how much of everything.

    Raises:
        HandloomError: the folder holds something else.
    """
    from .quickstart_report import write_report

    open_folder(out, command="quickstart", overwrite=overwrite)
    sizes, tour = sizes or Sizes(), Tour(out, seed)
    started = time.monotonic()
    _make_data(tour, sizes, say)
    _train_all(tour, sizes, say)
    _measure(tour, say)
    with stage(tour.seconds, "report", "Drawing the report", say):
        write_report(tour, out / "report.html")
    say("")
    for line in table(tour.evaluations):
        say(line)
    say("")
    say(f"{out / 'report.html'}: pictures and curves")
    say(f"{out / 'model.onnx'}: the tracker in one file")
    say(f"done in {time.monotonic() - started:.0f} s")
    say(f"next: handloom predict {out / 'model.onnx'} YOUR.png --camera FX,FY,CX,CY --out poses.csv --overlay pictures")
    return tour


def captured(sizes: Sizes, seed: int) -> VirtualConfig:
    """Another person before another sensor: wider, noisier, with a room behind, moving as people do."""
    return VirtualConfig(
        frames=sizes.capture_frames,
        fps=15.0,
        sequence_frames=sizes.sequence_frames,
        test_share=sizes.test_share,
        motion=CAPTURE_MOTION,
        sensor=CAPTURE_SENSOR,
        jobs=JOBS,
        seed=seed + 1000,
    )


def _make_data(tour: Tour, sizes: Sizes, say: Say) -> None:
    source = SynthConfig(frames=sizes.synth_frames, seed=tour.seed)
    with stage(tour.seconds, "synthesise", "Synthesising", say) as report:
        made = synthesise(source, tour.synth, jobs=JOBS, progress=report)
        say(f"  {made.n_frames} labelled poses seen by {made.n_views} cameras")
    with stage(tour.seconds, "record", "Recording", say) as report:
        with VirtualRig(captured(sizes, tour.seed)) as cameras:
            recording = record(cameras, tour.capture, keep_truth=True, progress=report)
        kept = forget_labels(recording, LABELS, seed=tour.seed)
        np.savetxt(tour.out / "labelled_frames.txt", kept, fmt="%d")
        transport = recording.provenance["transport"]
        say(f"  {recording.n_frames} sets of {recording.n_views} cameras (virtual rig, {transport}), {LABELS} labelled")
    with stage(tour.seconds, "locate", "Finding the hand", say) as report:
        found = locate(tour.capture, progress=report)
        say(f"  found in {found.located} of {found.images} images, without labels")
    with stage(tour.seconds, "twins", "Twins of the labelled frames", say) as report:
        # Through the sensor of the synthetic set: that is the depth that f learns to read.
        settings = TwinSettings(seed=tour.seed, sensor=source.make_sensor())
        twins = make_twins(tour.capture, tour.twins, settings=settings, jobs=JOBS, progress=report)
        say(f"  {twins.n_frames} frames fitted and rendered again")


def forget_labels(recording: Recording, count: int, *, seed: int) -> NDArray[np.int64]:
    """Leave only `count` labelled frames of the training split, and those of the held-out one.

    Returns:
        The `frame_id` of the frames that stay labelled for training, ascending.
    """
    frames, labels = recording.frames, recording.labels
    assert frames is not None
    assert labels is not None
    split, joints = frames.read("split"), labels.read("joints")
    (training,) = np.nonzero(split == SPLITS.index("train"))
    kept = np.sort(np.random.default_rng([seed, count]).choice(training, min(count, len(training)), replace=False))
    forgotten = np.setdiff1d(training, kept)
    joints[forgotten] = np.nan
    recording.replace_labels(joints, layout="openxr26", attributes=labels.attributes)
    return np.asarray(frames.read("frame_id")[kept], np.int64)


def _train_all(tour: Tour, sizes: Sizes, say: Say) -> None:
    labels = {"labels": tour.out / "labelled_frames.txt", "seed": tour.seed}
    for plan in RUNS:
        config = preset(plan.method, "quick", plan.arm, {**labels, **sizes.overrides.get(plan.name, {})})
        with stage(tour.seconds, plan.name, f"Training {plan.title}", say) as report:
            result = train(
                config,
                synth=[tour.out / name for name in plan.synth],
                real=tour.capture if plan.real else None,
                run_dir=tour.run(plan.name),
                init=tour.run(plan.init) if plan.init else None,
                progress=partial(steps_done, report),
            )
            say(f"  {result.steps} steps")


def _measure(tour: Tour, say: Say) -> None:
    recording = open_recording(tour.capture)
    with stage(tour.seconds, "evaluate", "Measuring on held-out frames", say):
        models: dict[str, Estimator] = {
            "mean pose": mean_pose(open_recording(tour.synth)),
            "synthetic only": open_estimator(tour.run("synthetic-only")),
            f"{LABELS} labels only": open_estimator(tour.run("real-only")),
            "full": open_estimator(tour.run("full")),
            "Crossing Nets": open_estimator(tour.run("crossing")),
        }
        tour.evaluations = evaluate_models(models, recording, seed=tour.seed, center="located", split="test")
    with stage(tour.seconds, "predict", "Exporting and predicting", say) as report:
        exported = export(tour.run("full"), tour.out / "model.onnx")
        say(f"  model.onnx: {exported.size_bytes / 1e6:.1f} MB, joints within {exported.parity_mm:.4f} mm of torch's")
        done = predict_to(
            load(exported.path),
            tour.capture,
            tour.out / "poses.csv",
            fused=True,
            overlay=tour.out / "overlay",
            pictures=12,
            progress=report,
        )
        say(f"  poses.csv: {done.poses} images, {done.images / done.seconds:.0f} a second")


def table(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """The result in lines of at most 80 characters."""
    first = next(iter(evaluations.values())).metrics
    unit = f"bootstrap over {first.interval.groups} {first.interval.unit}"
    lines = [
        f"mean joint error on {first.images} held-out captured images, located centres",
        f"{'':<18} {'mean':>7}  {'95 % interval':>15}  {'median':>7}   worst <= 40 mm",
    ]
    for name, evaluation in evaluations.items():
        m = evaluation.metrics
        share = m.success[m.thresholds_mm.index(40)]
        lines.append(
            f"{name:<18} {m.mean_mm:>7.2f}  {m.interval.low:>6.2f} to {m.interval.high:>5.2f}"
            f"  {m.median_mm:>7.2f}   {100 * share:>5.1f} %"
        )
    return [*lines, f"mm; {unit}, seed {first.seed}"]
