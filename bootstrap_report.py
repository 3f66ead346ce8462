"""The page at the end of a bootstrap: what was captured and rendered, what was trained, how well the cameras agree."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from . import __version__
from .bootstrap import Made
from .learn.estimators import open_estimator
from .learn.figures import read_curves, training_chart
from .learn.inputs import cut, recording_views
from .learn.pages import domain_sheet
from .learn.predictions import predict_all
from .learn.report import Block, Code, Facts, Report, Section, Text
from .learn.report_data import write_data
from .learn.report_tables import agreement_table
from .learn.sheets import DRAWN_MM, DRAWN_PX, Sample, skeleton_sheet
from .stores.camera import project
from .stores.crops import crop_k
from .stores.page import Drawing, Picture
from .stores.recording import Recording, describe, open_recording

SHOWN: Final = 8
INTRODUCTION: Final = (
    "Nothing here was labelled by anyone. The hands that the tracker learned from were rendered with this rig's "
    "cameras and with noise fitted to this capture; the capture itself took part without labels. So there is no error "
    "to state: the score says how far apart the poses are that the cameras give of one moment. What all cameras get "
    "wrong in the same way is not in it."
)


def write_report(made: Made, captured: Recording, path: Path) -> None:
    """Write the page of a finished bootstrap."""
    sections = [
        Section("Poses", [_poses(made, captured)]),
        Section(
            "What was captured, and what was rendered like it",
            [domain_sheet({"captured": captured, "rendered": open_recording(made.out / "synth.zarr")}, count=SHOWN)],
        ),
        Section("The tracker", _score(made)),
        Section("Training", [_training(made)]),
        Section("What next", _next(made, captured)),
        Section("How it was made", [Facts(_facts(made, captured))]),
    ]
    Report(
        f"A tracker from {made.recording.name}",
        sections,
        introduction=INTRODUCTION,
        subtitle=f"{captured.n_frames} frames of {captured.n_views} cameras, no labels",
        made_by=f"handloom {__version__} bootstrap {made.recording} --seed {made.settings.seed}",
    ).write(path, overwrite=True)
    runs = {folder.name: folder for folder in sorted((made.out / "runs").iterdir())}
    write_data(path, agreements=made.scores, runs=runs)


def _score(made: Made) -> list[Block]:
    if not made.scores:
        return [Text(f"'{made.chosen}' was trained and exported. One camera has nobody to agree with: no score.")]
    first, second = made.scores[0], made.scores[1]
    return [
        Text(
            f"'{first.name}' is in model.onnx: its poses differ by {first.disagreement_mm:.1f} mm between the cameras, "
            f"those of '{second.name}' by {second.disagreement_mm:.1f} mm."
        ),
        agreement_table(made.scores),
    ]


def _poses(made: Made, captured: Recording) -> Drawing:
    """The tracker's poses on frames spread over the capture, camera after camera."""
    estimator = open_estimator(made.out / "model.onnx")
    rows = np.unique(np.linspace(0, captured.n_frames - 1, SHOWN).astype(int))
    predicted = predict_all({"tracker": estimator}, captured, rows)
    samples = []
    for column, row in enumerate(rows.tolist()):
        images = [
            i for i in np.flatnonzero(predicted.row == row) if np.isfinite(predicted.center_mm["tracker"][i]).all()
        ]
        if not images:
            continue  # no hand was found in that frame
        image = images[column % len(images)]
        number = int(predicted.view[image])
        view = next(v for _, v in recording_views(captured, row, row + 1) if v.view == number)
        center = predicted.center_mm["tracker"][image].astype(np.float64)
        crop = cut(view, center, input_px=DRAWN_PX, cube_mm=DRAWN_MM)
        k = crop_k(center, view.k, crop_px=DRAWN_PX, window_mm=DRAWN_MM)
        joints = {"tracker": project(predicted.joints_mm["tracker"][image], k)}
        samples.append(Sample(crop, joints, {}, f"row {row}, {captured.rig.names[number]}"))
    return skeleton_sheet(
        samples,
        ["tracker"],
        estimator.layout,
        caption=f"Frames spread evenly over the capture; {DRAWN_MM:.0f} mm crops.",
    )


def _training(made: Made) -> Picture:
    names = sorted(path.name for path in (made.out / "runs").iterdir())
    curves = {name: read_curves(made.run(name)).get("train/mean_mm", ([], [])) for name in names}
    caption = "On augmented rendered images: it says that the network learned, not how good the tracker is."
    return training_chart(curves, ylabel="error on training batches (mm)", log=True, caption=caption)


def _next(made: Made, captured: Recording) -> list[Block]:
    return [
        Text("A few labels help most, and say how large the error is. Choose diverse frames and label them:"),
        Code("\n".join(next_commands(made, captured))),
    ]


def next_commands(made: Made, captured: Recording) -> list[str]:
    """What a user does after this, the likeliest first."""
    adapted = "full" if captured.n_views > 1 else "+distribution-matching"
    preset = "" if made.settings.preset == "quick" else f"--preset {made.settings.preset} "
    return [
        f"handloom predict {made.out / 'model.onnx'} {made.recording} --out poses.csv --overlay pictures",
        f"handloom label {made.recording} --select 100 --model {made.out / 'model.onnx'} --out labelling",
        f"handloom store label {made.recording} --joints joints.csv",
        f"handloom synth twin --real {made.recording} --sensor {made.out / 'sensor.yaml'} --out twins.zarr",
        f"handloom train murauer --arm {adapted} {preset}--synth {made.out / 'synth.zarr'} --synth twins.zarr "
        f"--real {made.recording} --labels labelling/frames.txt --init {made.run('synthetic-only')} "
        "--run runs/labelled",
    ]


def _facts(made: Made, captured: Recording) -> dict[str, str]:
    facts = {"seed": str(made.settings.seed), "preset": made.settings.preset, "hand found in": made.located}
    if made.noise is not None:
        facts["sensor"] = f"{made.noise.model}: {made.noise.why}"
    for recording in (captured, open_recording(made.out / "synth.zarr")):
        said = describe(recording)
        facts[recording.path.name] = f"{said['frames']} frames, {said['bytes'] / 1e6:.0f} MB"
    return facts | {f"{name} (s)": f"{seconds:.0f}" for name, seconds in made.seconds.items()}
