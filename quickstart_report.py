"""The page at the end of the quickstart: what the networks saw, what they said, how far off they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .learn.evaluate import crops_of
from .learn.figures import read_curves, training_chart
from .learn.model import load_model
from .learn.pages import domain_sheet, evaluation_sections, headline
from .learn.report import Facts, Gallery, Report, Section, Text
from .learn.report_data import write_data
from .learn.sheets import view_sheet
from .learn.views import predict_views
from .quickstart import RUNS, Tour
from .stores.page import Picture
from .stores.recording import SPLITS, Recording, open_recording

SHOWN: Final = 8
INTRODUCTION: Final = (
    "The synthetic hand is labelled by itself. The captured hand is another one, before another sensor, moving "
    "differently, in a room; nobody labelled it but for 50 frames. Both were rendered: this page shows that the loop "
    "runs and what each source of data is worth here, not how well it does before a real camera."
)


def write_report(tour: Tour, path: Path) -> None:
    """Write the page of a finished tour."""
    first = next(iter(tour.evaluations.values()))
    poses, result, compared = evaluation_sections(tour.evaluations, open_recording(tour.capture), focus="full")
    sections = [
        Section("What the networks saw", [domain_sheet(_recordings(tour), count=SHOWN)]),
        poses,
        result,
        Section("Predicted second views", _views(tour)),
        Section("Training", [_training(tour)]),
        Section("The shared space of Crossing Nets", _latent(tour)),
        compared,
        Section("How it was made", [Facts(_facts(tour))]),
    ]
    Report(
        "Handloom quickstart",
        sections,
        introduction=f"{INTRODUCTION}\n\n{headline({n: e.metrics for n, e in tour.evaluations.items()})}",
        subtitle=f"{first.metrics.images} held-out captured images, hand centres located without labels",
        made_by=f"handloom {__version__} quickstart --seed {tour.seed}",
    ).write(path, overwrite=True)
    runs = {plan.name: tour.run(plan.name) for plan in RUNS}
    write_data(path, evaluations=tour.evaluations.values(), runs=runs)


def _recordings(tour: Tour) -> dict[str, Recording]:
    paths = {"synthetic": tour.synth, "captured": tour.capture, "twins of captured": tour.twins}
    return {label: open_recording(path) for label, path in paths.items()}


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
                caption=f"{label}: mean absolute error {seen.mae:.3f} on these {len(seen.row)} pairs, that of an empty "
                f"image {np.abs(1 - seen.target).mean():.3f}, in units in which the cube spans 2.",
            )
        )
    good = (
        "What the second camera should see, decoded from the features of the first. What good looks like: the hand's "
        "outline and its nearer side at the right place, well below the error of an empty image; fingers come last."
    )
    return [Gallery(blocks), Text(good)]


def _training(tour: Tour) -> Picture:
    curves = {run.name: read_curves(tour.run(run.name)).get("train/mean_mm", ([], [])) for run in RUNS}
    return training_chart(
        curves,
        ylabel="error on training batches (mm)",
        log=True,
        caption="Augmented batches, so above the final error.",
    )


def _latent(tour: Tour) -> list[Any]:
    import torch

    from .learn.crossing_pictures import READING, pictures_of
    from .learn.crossing_space import reconstruct

    model, capture = load_model(tour.run("crossing")), open_recording(tour.capture)
    pictures = pictures_of(model, capture, ends=None, split="test", seed=tour.seed)
    full = tour.evaluations["full"]
    images = np.linspace(0, len(full.row) - 1, SHOWN).astype(int).tolist()
    crops, _ = crops_of(full, capture, images, input_px=model.input_px, cube_mm=model.cube_mm)
    shown = reconstruct(model, torch.from_numpy(crops[:, None]))
    back = view_sheet({"captured": crops, "through the shared space and back": _images(shown.depth)})
    return [
        Gallery([pictures["walk-moving"], pictures["triplets"], back]),
        Text("One latent space holds pose and depth: a walk through it, truth beside estimate, depth and back."),
        Text(READING),
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
