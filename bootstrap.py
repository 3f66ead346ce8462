"""From one unlabelled capture to a tracker: what `handloom bootstrap` runs.

    check -> locate -> fit the sensor's noise -> render hands with this rig's cameras -> train without labels
          -> compare what was trained without labels -> export -> report

Two models are trained, one on rendered hands alone and one that also uses the capture, and the one whose poses agree
better between the cameras (`learn/agreement.py`) is exported: unlabelled frames do not always help, and nothing but the
capture itself can tell. With one camera there is nothing to predict another view of and nobody to agree with: the
capture is then used by distribution matching alone, and that model is exported.

Every stage leaves its result in the run's folder; `--resume` goes on with the first that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from .capture.locating import locate
from .learn.agreement import Agreement, agreement
from .learn.config import TrainConfig
from .learn.estimators import open_estimator
from .learn.export import export
from .learn.train import preset, train
from .stages import Say, open_folder, stage, steps_done
from .stores.camera import Rig, refuse_distortion, write_rig
from .stores.errors import HandloomError
from .stores.recording import Recording, open_recording
from .stores.verify import Verification, verify
from .synth.config import SynthConfig
from .synth.generate import synthesise
from .synth.noise_fit import NoiseFit, fit_noise
from .synth.noise_report import write_report as write_noise_report
from .synth.sensor import write_sensor

MARGIN_MM: Final = 30.0
"""Hands are rendered this much farther out than nearly all were found."""
MOST_RADIUS_MM: Final = 400.0
MOST_SCORED: Final = 2000
"""Frames, evenly spread, on which models are compared: an hour's capture has a hundred thousand."""
LEAST_SCORE: Final = 0.5
"""Located hands less sure than this say nothing about where hands are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the user can choose."""

    seed: int
    frames: int = 5000
    """Rendered poses."""
    preset: str = "quick"
    jobs: int = 2
    overrides: tuple[str, ...] = ()
    """KEY=VALUE of both trainings."""


@dataclass(slots=True)
class Made:
    """What was found and made, for the report."""

    recording: Path
    out: Path
    settings: Settings
    checked: Verification | None = None
    located: str = ""
    noise: NoiseFit | None = None
    scores: list[Agreement] = field(default_factory=list)
    chosen: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, arm: str) -> Path:
        """Folder of a training run."""
        return self.out / "runs" / arm


def run(recording: Path, out: Path, *, settings: Settings, resume: bool, overwrite: bool, say: Say) -> Made:
    """Make a tracker of an unlabelled capture.

    Args:
        recording: captured, with full frames; crops are added to it where it has none.
        out: folder for everything.
        settings: what was chosen.
        resume: go on in a folder where an earlier call stopped.
        overwrite: replace what an earlier call made there.
        say: prints a line.

    Raises:
        HandloomError: the recording is damaged, is no capture or shows no hand; or the folder is taken.
    """
    from .bootstrap_report import write_report

    captured = open_recording(recording)
    _check_kind(captured)
    open_folder(out, command="bootstrap", resume=resume, overwrite=overwrite)
    made = Made(recording, out, settings)
    _check(made, say)
    _locate(made, say)
    captured = open_recording(recording)
    _fit_noise(made, captured, say)
    _render(made, captured, say)
    arms = _train(made, captured, say)
    _choose(made, captured, arms, say)
    with stage(made.seconds, "export", "Exporting", say):
        exported = export(made.run(made.chosen), out / "model.onnx", overwrite=True)
        say(f"  model.onnx: {exported.size_bytes / 1e6:.1f} MB, joints within {exported.parity_mm:.4f} mm of torch's")
    with stage(made.seconds, "report", "Drawing the report", say):
        write_report(made, captured, out / "report.html")
    say(f"{out / 'report.html'}: pictures and scores")
    say(f"{out / 'model.onnx'}: the tracker in one file")
    return made


def volume_of(recording: Recording) -> tuple[np.ndarray, float]:
    """Middle (3,) and radius, mm in the rig's frame, of where hands were found: 95 % of them and a margin.

    Raises:
        HandloomError: the hand was found with some certainty in no image.
    """
    crops = recording.crops
    assert crops is not None
    center, source, score = (crops.read(name) for name in ("center", "center_source", "center_score"))
    used = (source > 0) & (score >= LEAST_SCORE)
    if not used.any():
        raise HandloomError(
            "The hand was found with some certainty in no image of the recording",
            where=str(recording.path),
            why=f"the surest of {source.size} images has {float(score.max(initial=0)):.2f} of {LEAST_SCORE}",
            fix=f"look at what was recorded: handloom view {recording.path} --html view.html",
        )
    palms = np.concatenate(
        [camera.to_rig(center[used[:, v], v].astype(np.float64)) for v, camera in enumerate(recording.rig.cameras)]
    )
    middle = np.median(palms, axis=0)
    radius = float(np.quantile(np.linalg.norm(palms - middle, axis=1), 0.95)) + MARGIN_MM
    return middle, min(radius, MOST_RADIUS_MM)


def moved(rig: Rig, origin_mm: np.ndarray) -> Rig:
    """The same cameras with the rig's origin at a point (3,) of its frame."""
    cameras = []
    for camera in rig.cameras:
        x, y, z = (float(v) for v in camera.to_camera(origin_mm))
        cameras.append(replace(camera, t=(x, y, z)))
    return Rig(tuple(cameras))


def _check_kind(recording: Recording) -> None:
    if recording.kind != "captured":
        raise HandloomError(
            "A tracker is bootstrapped from a capture",
            where=str(recording.path),
            why="this recording is synthetic",
            fix=f"handloom train murauer --arm synthetic-only --synth {recording.path} --run runs/synthetic",
        )
    if not recording.has_depth:
        raise HandloomError(
            "The recording holds no full frames",
            where=str(recording.path),
            why="the sensor's noise is fitted to them",
            fix="record or import it again with its images",
        )
    refuse_distortion(recording.rig, where=str(recording.path))


def _check(made: Made, say: Say) -> None:
    with stage(made.seconds, "check", "Checking the recording", say) as report:
        made.checked = verify(made.recording, progress=report)
        errors = [finding for finding in made.checked.findings if finding.severity == "error"]
        if errors:
            raise HandloomError(
                "The recording is damaged",
                where=f"{made.recording}: {errors[0].where}",
                why=errors[0].what,
                fix=f"handloom store verify {made.recording} --deep",
            )
        warnings = sum(finding.severity == "warning" for finding in made.checked.findings)
        looked = f"handloom store verify {made.recording} says more" if warnings else "nothing suspicious"
        say(f"  {made.checked.frames} frames; {looked}")


def _locate(made: Made, say: Say) -> None:
    recording = open_recording(made.recording)
    if recording.crops is not None and recording.crops.committed >= recording.n_frames:
        source = recording.crops.read("center_source")
        made.located = f"{int((source > 0).sum())} of {source.size} images, as it was"
        return
    with stage(made.seconds, "locate", "Finding the hand", say) as report:
        found = locate(made.recording, jobs=made.settings.jobs, progress=report)
        made.located = f"{found.located} of {found.images} images"
        say(f"  found in {made.located}; its crops are kept in the recording")


def _fit_noise(made: Made, captured: Recording, say: Say) -> None:
    sensor, page = made.out / "sensor.yaml", made.out / "noise.html"
    with stage(made.seconds, "noise", "Fitting the sensor's noise", say) as report:
        if sensor.exists() and page.exists():
            say("  sensor.yaml is there")
            return
        made.noise = fit_noise(captured, seed=made.settings.seed, progress=report)
        write_noise_report(made.noise, page, name=made.recording.name, seed=made.settings.seed, overwrite=True)
        write_sensor(made.noise.sensor, sensor)
        say(f"  {made.noise.model}: {made.noise.why}")


def _render(made: Made, captured: Recording, say: Say) -> None:
    with stage(made.seconds, "synthesise", "Rendering labelled hands with this rig's cameras", say) as report:
        middle, radius = volume_of(captured)
        write_rig(moved(captured.rig, middle), made.out / "rig.toml")
        config = SynthConfig(
            frames=made.settings.frames,
            seed=made.settings.seed,
            rig=made.out / "rig.toml",
            side=captured.hand,
            sensor=str(made.out / "sensor.yaml"),
            volume_radius_mm=round(radius, 1),
        )
        there = (made.out / "synth.zarr").exists()
        synth = synthesise(config, made.out / "synth.zarr", jobs=made.settings.jobs, resume=there, progress=report)
        say(f"  {synth.n_frames} poses seen by {synth.n_views} cameras, palms within {radius:.0f} mm")


def _train(made: Made, captured: Recording, say: Say) -> tuple[str, str]:
    """The arms that were trained."""
    adapted = "full" if captured.n_views > 1 else "+distribution-matching"
    for arm in ("synthetic-only", adapted):
        with stage(made.seconds, arm, f"Training {arm}", say) as report:
            folder = made.run(arm)
            result = train(
                _config(made, arm),
                synth=[made.out / "synth.zarr"],
                real=made.recording if arm == adapted else None,
                run_dir=folder,
                init=made.run("synthetic-only") if arm == adapted else None,
                resume=(folder / "config.yaml").exists(),
                progress=partial(steps_done, report),
            )
            say(f"  {result.steps} steps")
    return "synthetic-only", adapted


def _config(made: Made, arm: str) -> TrainConfig:
    from .stores.config import with_overrides

    given: dict[str, Any] = {"labels": 0, "seed": made.settings.seed, "centers": "located"}
    # The length of joint training is none of the arm's that has no such stage.
    asked = [o for o in made.settings.overrides if arm != "synthetic-only" or not o.startswith("joint_")]
    return preset("murauer", made.settings.preset, arm, with_overrides(given, asked))


def _choose(made: Made, captured: Recording, arms: tuple[str, str], say: Say) -> None:
    made.chosen = arms[1]
    if captured.n_views < 2:
        say("one camera has nobody to agree with: nothing was compared")
        return
    with stage(made.seconds, "score", "Comparing the models without labels", say):
        models = {arm: open_estimator(made.run(arm)) for arm in arms}
        rows = np.unique(np.linspace(0, captured.n_frames - 1, MOST_SCORED).astype(np.int64))
        made.scores = agreement(models, captured, seed=made.settings.seed, rows=rows)
        for one in made.scores:
            say(f"  {one.name}: the cameras disagree by {one.disagreement_mm:.1f} mm")
        made.chosen = made.scores[0].name
        say(f"  {made.chosen} is taken")
