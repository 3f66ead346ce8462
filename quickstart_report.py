"""The page at the end of the quickstart: what the networks saw, what they said, how far off they were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .learn.evaluate import Evaluation, crops_of
from .learn.figures import (
    Picture,
    Sample,
    crop_sheet,
    joint_chart,
    mean_chart,
    read_curves,
    skeleton_sheet,
    success_chart,
    training_chart,
    view_sheet,
)
from .learn.metrics import frame_means, joint_errors, worst_joint
from .learn.model import load_model
from .learn.report import Facts, Gallery, Report, Section, Text, metrics_table
from .learn.views import predict_views
from .stores.camera import project
from .stores.crops import crop_k as crop_intrinsics
from .stores.crops import normalise, resample
from .stores.reading import load_resident
from .stores.recording import SPLITS, open_recording

if TYPE_CHECKING:
    from .quickstart import Tour

CROP_PX: Final = 128
CUBE_MM: Final = 300.0
SHOWN: Final = 8
SHARES: Final = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
"""Frames are shown at these ranks of the full model's error: neither its best nor its worst."""


def write_report(tour: Tour, path: Path) -> None:
    """Write the page of a finished tour."""
    first = next(iter(tour.evaluations.values()))
    sections = [
        Section("Result", _result(tour)),
        Section("What the networks saw", [_domains(tour)]),
        Section("Poses on held-out frames", [_skeletons(tour)]),
        Section("Predicted second views", _views(tour)),
        Section("Where the error is", [Gallery(_curves(tour))]),
        Section("Training", [Gallery(_training(tour))]),
        Section("The shared space of Crossing Nets", _latent(tour)),
        Section("How it was made", [Facts(_facts(tour))]),
    ]
    Report(
        "Handloom quickstart",
        sections,
        subtitle=f"{first.metrics.images} held-out captured images, hand centres located without labels",
        made_by=f"handloom {__version__} quickstart --seed {tour.seed}",
    ).write(path, overwrite=True)


def _result(tour: Tour) -> list[Any]:
    results = {name: evaluation.metrics for name, evaluation in tour.evaluations.items()}
    interval = next(iter(results.values())).interval
    return [
        Text(
            "The synthetic hand is labelled by itself. The captured hand is another one, before another sensor, "
            "moving differently, in a room; nobody labelled it but for 50 frames. Both were rendered: this page "
            "shows that the loop runs and what each source of data is worth here, not how well a real camera does."
        ),
        metrics_table(
            results,
            caption=f"Mean joint error in mm with a {100 * interval.level:.0f} % interval "
            f"(bootstrap over {interval.groups} {interval.unit}); center = located; chosen by: the last step.",
        ),
        mean_chart({name: (m.mean_mm, m.interval) for name, m in results.items()}),
    ]


def _domains(tour: Tour) -> Picture:
    rows = {}
    for label, path in (("synthetic", tour.synth), ("captured", tour.capture), ("twins of captured", tour.twins)):
        recording = open_recording(path)
        chosen = np.unique(np.linspace(0, recording.n_frames - 1, SHOWN).astype(np.int64))
        data = load_resident(recording, rows=chosen)
        unit = data.depth_unit_mm
        crops = []
        for row in range(len(data)):
            view = row % len(data.rig)
            if data.present[row, view]:
                center, k = data.center[row, view], data.k[row, view]
                new_k = crop_intrinsics(center, k, crop_px=CROP_PX, window_mm=CUBE_MM)
                crop = resample(data.crop[row, view], k, new_k, width=CROP_PX, height=CROP_PX)
                crops.append(normalise(crop * unit[view], center[2], CUBE_MM))
        rows[label] = np.array(crops)
    return crop_sheet(
        rows, columns=SHOWN, caption="Crops of 300 mm around the hand's centre, from different cameras. Near is light."
    )


def _skeletons(tour: Tour) -> Picture:
    full = tour.evaluations["full"]
    names = {"truth": None, **{n: e for n, e in tour.evaluations.items() if n != "mean pose"}}
    error = frame_means(joint_errors(full.prediction_mm, full.truth_mm))
    known = np.flatnonzero(np.isfinite(error))
    ranked = known[np.argsort(error[known])]
    images = [int(ranked[int(share * (len(ranked) - 1))]) for share in SHARES]
    crops, ks = crops_of(full, open_recording(tour.capture), images, input_px=CROP_PX, cube_mm=CUBE_MM)
    samples = []
    for place, (crop, k, share) in enumerate(zip(crops, ks, SHARES, strict=True)):
        i = images[place]
        joints = {name: project((full.truth_mm if e is None else e.prediction_mm)[i], k) for name, e in names.items()}
        errors = {name: _error(e, i) for name, e in names.items() if e is not None}
        samples.append(Sample(crop, joints, errors, f"rank {100 * share:.0f} %"))
    return skeleton_sheet(
        samples,
        list(names),
        full.layout,
        caption="Frames at fixed ranks of the full model's error, from its better to its worse ones; "
        "below each the mean joint error.",
    )


def _error(evaluation: Evaluation, image: int) -> float:
    one = slice(image, image + 1)
    return float(frame_means(joint_errors(evaluation.prediction_mm[one], evaluation.truth_mm[one]))[0])


def _views(tour: Tour) -> list[Any]:
    model, blocks = load_model(tour.run("full")), []
    for label, path in (("captured", tour.capture), ("synthetic", tour.synth)):
        recording = open_recording(path)
        frames = recording.frames
        assert frames is not None
        split = frames.read("split")
        held_out = np.flatnonzero(split == SPLITS.index("test")) if label == "captured" else np.arange(len(split))
        rows = held_out[np.linspace(0, len(held_out) - 1, SHOWN).astype(np.int64)]
        seen = predict_views(model, recording, rows, pair=(0, 1))
        blocks.append(
            view_sheet(
                {"input": seen.source, "other camera": seen.target, "predicted": seen.predicted},
                caption=f"{label}: mean absolute error {seen.mae:.3f} on these {len(seen.row)} pairs, "
                "in units where the cube spans 2.",
            )
        )
    return [Text("What the second camera should see, decoded from the features of the first."), Gallery(blocks)]


def _curves(tour: Tour) -> list[Picture]:
    compared = tour.evaluations
    worst = {n: worst_joint(joint_errors(e.prediction_mm, e.truth_mm)) for n, e in compared.items()}
    joints = {n: e.metrics.per_joint_mm for n, e in compared.items() if n != "mean pose"}
    return [success_chart(worst), joint_chart(joints, next(iter(compared.values())).layout.points)]


def _training(tour: Tour) -> list[Picture]:
    curves: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
    for name in ("synthetic-only", "real-only", "full", "crossing"):
        recorded = read_curves(tour.run(name))
        for key, curve in recorded.items():
            if key.split("/")[-1] == "pose" or key == "joint/pos":
                curves[f"{name} {key}"] = curve
    return [training_chart(curves, ylabel="pose loss", log=True)]


def _latent(tour: Tour) -> list[Any]:
    import torch

    from .learn.crossing_space import random_walk, reconstruct

    model = load_model(tour.run("crossing"))
    synth = load_resident(open_recording(tour.synth), rows=np.arange(0, 3, dtype=np.int64))
    assert synth.joints is not None
    camera = synth.rig.cameras[0]
    anchors = camera.to_camera(synth.joints) - synth.center[:, 0][:, None]
    walked = random_walk(model, torch.from_numpy(anchors.astype(np.float32)), steps=4)
    full = tour.evaluations["full"]
    images = np.linspace(0, len(full.row) - 1, SHOWN).astype(int).tolist()
    crops, _ = crops_of(full, open_recording(tour.capture), images, input_px=model.input_px, cube_mm=model.cube_mm)
    shown = reconstruct(model, torch.from_numpy(crops[:, None]))
    return [
        Text("One latent space holds pose and depth: a walk through it, and captured frames sent through it and back."),
        Gallery(
            [
                crop_sheet({"walk": _images(walked.depth)}, columns=len(walked.z), caption="Depth on the way."),
                view_sheet({"captured": crops, "and back": _images(shown.depth)}),
            ]
        ),
    ]


def _images(depth: Any) -> NDArray[np.float32]:
    return np.asarray(depth[:, 0].numpy(), np.float32)


def _facts(tour: Tour) -> dict[str, str]:
    from .stores.recording import describe

    facts = {"seed": str(tour.seed)}
    for path in (tour.synth, tour.capture, tour.twins):
        said = describe(open_recording(path))
        facts[path.name] = f"{said['frames']} frames, {said['labelled']} labelled, {said['bytes'] / 1e6:.0f} MB"
    return facts | {f"{name} (s)": f"{seconds:.0f}" for name, seconds in tour.seconds.items()}
