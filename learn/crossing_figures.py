"""The figures of Crossing Nets: walks through the shared space, triplets, the game's health, error over labels.

    walk_picture, walk_animation    figure 1: poses beside the depth generated of the same latents
    triplet_picture                 figure 5: truth, through the shared space, estimate
    health_blocks                   how the depth GAN's game went, for a run's report
    shares_chart, paper_chart       figure 3: error over the share of labelled frames

Pictures of hands are drawn with OpenCV, dark on every page; charts with matplotlib, for a light and a dark one.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..stores.page import Picture, few_colors
from .crossing_check import HAND_BELOW
from .crossing_health import COLLAPSED
from .crossing_space import Walk, latents_of_depth, latents_of_poses, show
from .curves import Point, line_chart
from .figures import read_curves, training_chart
from .model import PoseModel
from .overlay import SIDE_PX, draw_overlay
from .report import Block, Gallery, Text

NYU_ERROR_MM: Final[Mapping[float, float]] = {2: 17.7, 5: 17.4, 10: 16.5, 25: 16.1, 50: 16.0, 75: 15.9, 100: 15.5}
"""Mean joint error of the paper's full method on NYU by the percentage of labelled frames (figure 3)."""
FOCAL: Final = 8.0
"""Focal length of the pictures over the cube's side: nearly parallel rays, as a crop's are."""
ANIMATED_MS: Final = 120
SHEET_PX: Final = 660
"""Width of a run's pictures of generated maps on a page."""
STAGES: Final = ("vae", "gan", "align", "joint")
"""In which order a run goes through them."""
_HEALTH: Final[Sequence[tuple[str, str, Mapping[str, str]]]] = (
    (
        "share of images",
        "The discriminator's game: even near a half; where it is right about everything, it has won and teaches the "
        "generator nothing.",
        {
            "captured images called captured": "gan/accuracy_real",
            "generated ones called generated": "gan/accuracy_generated",
        },
    ),
    (
        "diversity, captured images: 1",
        "Mean distance of two generated maps over that of two captured ones: about 1 is healthy, below "
        f"{COLLAPSED} a generator repeats itself.",
        {"diversity of generated maps": "gan/diversity"},
    ),
    (
        "mean difference",
        "The lower the better: of the discriminator's features, and of captured depth that went through the shared "
        "space and back (eq. 6, clipped at 1; the cube spans 2).",
        {
            "feature matching": "gan/feature_matching",
            "reconstruction through the shared space": "space/reconstruction",
        },
    ),
)
"""Charts of a run's health: label, caption, curves."""
_CELL_PX: Final = 130
"""Of a picture's cells: eight stand side by side on a page."""
_MOVING_PX: Final = 200
_ACROSS: Final = 8
_GAP_PX: Final = 3
_BAR_PX: Final = 4
_BONE_PX: Final = 2.2
"""Width of a bone in a picture."""
_GROUND: Final = 38
"""Grey between the cells."""
_STATION: Final = 200


def walk_picture(walk: Walk, model: PoseModel, *, stations: Sequence[int] = (), what: str = "random walk") -> Picture:
    """Poses of a walk above the depth generated of the same latents, as many bands as it needs.

    Args:
        walk: its points.
        model: it was made with.
        stations: which of them are true poses: they carry a bar.
        what: to call it.
    """
    cells = []
    for number, (pose, depth) in enumerate(_steps(walk)):
        bar = np.full((_BAR_PX, _CELL_PX, 3), _STATION if number in stations else _GROUND, np.uint8)
        cells.append(np.vstack([bar, _pose_cell(pose, model, _CELL_PX), _depth_cell(depth, model, _CELL_PX)]))
    wide = min(_ACROSS, len(cells))
    bands = [
        _side_by_side([*cells[start : start + wide], *[np.full_like(cells[0], _GROUND)] * (wide - len(cells[start:]))])
        for start in range(0, len(cells), wide)
    ]
    image = np.vstack(bands)
    alt = f"A {what} in the shared latent space: hand poses above generated depth maps, {len(cells)} steps"
    return Picture(_png(image), None, alt, image.shape[1])


def walk_animation(walk: Walk, model: PoseModel, *, what: str = "random walk") -> Picture:
    """The same as an animated PNG: the pose on the left, the depth on the right; browsers show it as it is."""
    from PIL import Image

    frames = [
        _side_by_side([_pose_cell(pose, model, _MOVING_PX), _depth_cell(depth, model, _MOVING_PX)])
        for pose, depth in _steps(walk)
    ]
    palette = _few_colors(np.vstack(frames[:: max(1, len(frames) // 8)]))
    drawn = [
        Image.fromarray(frame[..., ::-1].copy()).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames
    ]
    target = io.BytesIO()
    drawn[0].save(target, format="PNG", save_all=True, append_images=drawn[1:], duration=ANIMATED_MS, loop=0)
    return Picture(target.getvalue(), None, f"A moving {what} in the shared latent space", drawn[0].width)


def triplet_picture(model: PoseModel, crops: Tensor, truth_mm: Tensor) -> Picture:
    """Figure 5, a column a frame: truth, through the shared space, estimate.

    Above the true pose over the captured depth; below it depth and pose of the true pose's own latent; last the pose
    estimated, over the captured depth again.

    Args:
        model: with a generator.
        crops: (n, 1, P, P), as `inputs.cut` makes them.
        truth_mm: (n, J, 3) about the crops' centres.
    """
    through = show(model, latents_of_poses(model, truth_mm))
    estimate = show(model, latents_of_depth(model, crops))
    rows: dict[str, tuple[Tensor, Tensor]] = {
        "true pose on captured depth": (crops, truth_mm),
        "both of the true pose's latent: through the shared space": (through.depth, through.joints_mm),
        "pose estimated from the captured depth": (crops, estimate.joints_mm),
    }
    bands = []
    for title, (depth, joints) in rows.items():
        cells = zip(depth[:, 0].cpu().numpy(), joints.cpu().numpy(), strict=True)
        band = _side_by_side([_cell(image, pose, model, _CELL_PX) for image, pose in cells])
        bands += [_title(title, band.shape[1]), band]
    image = np.vstack(bands)
    alt = "Triplets: true pose over captured depth; both through the shared space; estimated pose over captured depth"
    return Picture(_png(image), None, alt, image.shape[1])


def health_blocks(run: Path) -> list[Block]:
    """How the depth GAN of a run fared: its maps at the end of each stage, curves, and a collapse by its name."""
    curves = read_curves(run)
    blocks: list[Block] = [Text(said) for said in verdict(curves)]
    sheets = sorted((run / "samples").glob("*.png"))
    last = {path.name.split("-")[0]: path for path in sheets}
    pictures = []
    for stage, path in sorted(last.items(), key=lambda item: STAGES.index(item[0]) if item[0] in STAGES else 0):
        caption = f"Captured and generated depth at the end of stage '{stage}'."
        pictures.append(Picture(few_colors(path.read_bytes()), None, caption, SHEET_PX, caption))
    blocks += [Gallery(pictures)] if pictures else []
    charts = []
    for label, caption, names in _HEALTH:
        found = {title: curves[name] for title, name in names.items() if name in curves}
        if found:
            charts.append(training_chart(found, ylabel=label, caption=caption))
    return [*blocks, Gallery(charts)] if charts else blocks


def verdict(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[str]:
    """A sentence for each stage in which the generator had collapsed at its last measurement.

    Args:
        curves: of `read_curves`.
    """
    stages = dict(zip(*curves.get("stage", ((), ())), strict=True))
    last = {
        stages.get(step, 0.0): (step, value) for step, value in zip(*curves.get("gan/diversity", ((), ())), strict=True)
    }
    return [
        f"The generator had collapsed at step {step:.0f}: its maps differ from each other by {100 * value:.0f} % of "
        f"what captured ones do (about 100 % is healthy, below {100 * COLLAPSED:.0f} % is a collapse)."
        for step, value in last.values()
        if value < COLLAPSED
    ]


@dataclass(frozen=True, slots=True)
class Share:
    """One arm's error at one share of labels."""

    percent: float
    mean_mm: float
    half_width_mm: float
    """Of the 95 % interval over seeds; infinite for one seed."""


def shares_chart(arms: Mapping[str, Sequence[Share]], *, caption: str = "") -> Picture:
    """Figure 3: error over the percentage of labelled frames, a line an arm, bars its intervals."""
    return _over_percent(
        {
            name: [(s.percent, s.mean_mm, s.half_width_mm if np.isfinite(s.half_width_mm) else np.nan) for s in shares]
            for name, shares in arms.items()
        },
        x="labelled share of the real training frames (%)",
        alt="Mean joint error over the share of labelled frames",
        caption=caption,
    )


def paper_chart() -> Picture:
    """The paper's own curve on NYU, another data set: beside ours, not among them."""
    return _over_percent(
        {"paper, full method, NYU": [(percent, mm, np.nan) for percent, mm in NYU_ERROR_MM.items()]},
        x="labelled share of NYU's training frames (%)",
        alt="Mean joint error over the share of labelled frames as Wan et al. published it for NYU",
        caption="As published for NYU (Wan et al. 2017, figure 3): other data, another camera, networks of 128 px. "
        "Only the shape compares.",
    )


def _over_percent(
    lines: Mapping[str, Sequence[tuple[float, float, float]]], *, x: str, alt: str, caption: str
) -> Picture:
    """Lines of (percent, mean error, half of its interval or NaN) on a logarithmic axis."""
    places = {
        name: [(float(np.log10(percent)), Point(mm, width, 1)) for percent, mm, width in points]
        for name, points in lines.items()
    }
    ticks = {float(np.log10(p)): f"{p:g}" for p in sorted({p for points in lines.values() for p, _, _ in points})}
    return line_chart(places, ticks, x=x, alt=alt, caption=caption)


def _steps(walk: Walk) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    return list(zip(walk.joints_mm.cpu().numpy(), walk.depth[:, 0].cpu().numpy(), strict=True))


def _pose_cell(joints_mm: NDArray[np.float32], model: PoseModel, side: int) -> NDArray[np.uint8]:
    return _cell(np.ones((model.input_px, model.input_px), np.float32), joints_mm, model, side)


def _depth_cell(depth: NDArray[np.float32], model: PoseModel, side: int) -> NDArray[np.uint8]:
    return _cell(depth, np.full((len(model.layout), 3), np.nan, np.float32), model, side)


def _cell(
    image: NDArray[np.float32], joints_mm: NDArray[np.float32], model: PoseModel, side_px: int
) -> NDArray[np.uint8]:
    """A map (P, P) and a pose (J, 3) about its centre, in pictures of one size."""
    cube, side = model.cube_mm, model.input_px
    distance = FOCAL * cube
    center = np.array([0.0, 0.0, distance])
    k = np.array([FOCAL * side, FOCAL * side, (side - 1) / 2, (side - 1) / 2])
    depth = np.where(image < HAND_BELOW, distance + image * (cube / 2), 0)
    line_px = round(_BONE_PX * SIDE_PX / side_px)
    drawn = draw_overlay(
        depth, k, joints_mm + center, center, model.layout, window_mm=cube, whole=False, line_px=line_px
    )
    return np.asarray(cv2.resize(drawn, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def _side_by_side(cells: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Cells of one height with gaps between and below them."""
    gap = np.full((cells[0].shape[0], _GAP_PX, 3), _GROUND, np.uint8)
    row = np.hstack([part for cell in cells for part in (cell, gap)][:-1])
    return np.vstack([row, np.full((_GAP_PX, row.shape[1], 3), _GROUND, np.uint8)])


def _title(text: str, width: int) -> NDArray[np.uint8]:
    line = np.full((18, width, 3), _GROUND, np.uint8)
    cv2.putText(line, text, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (215, 215, 215), 1, cv2.LINE_AA)
    return line


def _few_colors(image: NDArray[np.uint8]) -> Any:
    """A BGR picture as one of Pillow's of 128 colours: a quarter of the bytes, and nothing of it is to be seen."""
    from PIL import Image

    return Image.fromarray(image[..., ::-1].copy()).quantize(128, dither=Image.Dither.NONE)


def _png(image: NDArray[np.uint8]) -> bytes:
    target = io.BytesIO()
    _few_colors(image).save(target, format="PNG", optimize=True)
    return target.getvalue()
