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

from ..stores.page import Picture, Theme, both, chart, legend
from .crossing_check import HAND_BELOW
from .crossing_health import COLLAPSED
from .crossing_space import Walk, latents_of_depth, latents_of_poses, show
from .figures import read_curves, training_chart
from .model import PoseModel
from .overlay import draw_overlay
from .report import Block, Text

NYU_ERROR_MM: Final[Mapping[float, float]] = {2: 17.7, 5: 17.4, 10: 16.5, 25: 16.1, 50: 16.0, 75: 15.9, 100: 15.5}
"""Mean joint error of the paper's full method on NYU by the percentage of labelled frames (figure 3)."""
FOCAL: Final = 8.0
"""Focal length of the pictures over the cube's side: nearly parallel rays, as a crop's are."""
ANIMATED_MS: Final = 120
SHEET_PX: Final = 660
"""Width of a run's pictures of generated maps on a page."""
_CELL_PX: Final = 150
_ACROSS: Final = 8


def walk_picture(walk: Walk, model: PoseModel, *, what: str = "random walk") -> Picture:
    """Poses of a walk above the depth generated of the same latents, as many bands as it needs."""
    cells = [np.vstack([_pose_cell(pose, model), _depth_cell(depth, model)]) for pose, depth in _steps(walk)]
    bands = [cells[start : start + _ACROSS] for start in range(0, len(cells), _ACROSS)]
    wide = min(_ACROSS, len(cells))
    image = np.vstack([np.hstack([*band, *[np.full_like(cells[0], 14)] * (wide - len(band))]) for band in bands])
    alt = f"A {what} in the shared latent space: hand poses above generated depth maps, {len(cells)} steps"
    return Picture(_png(image), None, alt, image.shape[1] // 2)


def walk_animation(walk: Walk, model: PoseModel, *, what: str = "random walk") -> Picture:
    """The same as an animated PNG: the pose on the left, the depth on the right; browsers show it as it is."""
    from PIL import Image

    frames = [
        Image.fromarray(np.hstack([_pose_cell(pose, model, 2), _depth_cell(depth, model, 2)])[..., ::-1].copy())
        for pose, depth in _steps(walk)
    ]
    target = io.BytesIO()
    frames[0].save(target, format="PNG", save_all=True, append_images=frames[1:], duration=ANIMATED_MS, loop=0)
    return Picture(target.getvalue(), None, f"A moving {what} in the shared latent space", frames[0].width)


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
    columns = []
    for place in range(len(crops)):
        captured = crops[place, 0].numpy()
        columns.append(
            np.vstack(
                [
                    _cell(captured, truth_mm[place].numpy(), model),
                    _cell(through.depth[place, 0].numpy(), through.joints_mm[place].numpy(), model),
                    _cell(captured, estimate.joints_mm[place].numpy(), model),
                ]
            )
        )
    image = np.hstack(columns)
    alt = "Triplets: true pose over captured depth; both through the shared space; estimated pose over captured depth"
    return Picture(_png(image), None, alt, image.shape[1] // 2)


def health_blocks(run: Path) -> list[Block]:
    """How the depth GAN of a run fared: what was measured as curves, and a collapse by its name."""
    curves = read_curves(run)
    game = {
        "captured images called captured": "gan/accuracy_real",
        "generated ones called generated": "gan/accuracy_generated",
    }
    size = {
        "diversity of generated maps": "gan/diversity",
        "feature matching": "gan/feature_matching",
        "reconstruction through the shared space": "space/reconstruction",
    }
    blocks: list[Block] = [Text(said) for said in verdict(curves)]
    for names, label in ((game, "share of images"), (size, "value")):
        found = {title: curves[name] for title, name in names.items() if name in curves}
        if found:
            blocks.append(training_chart(found, ylabel=label))
    if "gan/diversity" in curves:
        blocks.append(
            Text(
                "Diversity is the mean distance of two generated maps over that of two captured ones; below "
                f"{COLLAPSED} a generator repeats itself. A discriminator that is right about everything has won."
            )
        )
    pictures = sorted((run / "samples").glob("*.png"))
    last = {path.name.split("-")[0]: path for path in pictures}
    for stage, path in last.items():
        alt = f"Captured and generated depth at the end of stage {stage}"
        blocks.append(Picture(path.read_bytes(), None, alt, SHEET_PX))
    return blocks


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

    def draw(theme: Theme) -> Any:
        figure, axes = chart(theme, 3.9, x="labelled share of the real training frames (%)", y="mean joint error (mm)")
        for i, (name, shares) in enumerate(arms.items()):
            color = theme.series[i % len(theme.series)]
            x, y = [s.percent for s in shares], [s.mean_mm for s in shares]
            axes.plot(x, y, color=color, linewidth=1.8, marker="o", markersize=4, label=name)
            for share in shares:
                if np.isfinite(share.half_width_mm):
                    low, high = share.mean_mm - share.half_width_mm, share.mean_mm + share.half_width_mm
                    axes.plot((share.percent, share.percent), (low, high), color=color, linewidth=1, alpha=0.6)
        _percent_axis(axes, sorted({s.percent for shares in arms.values() for s in shares}))
        legend(axes, theme)
        return figure

    return both(draw, alt="Mean joint error over the share of labelled frames", caption=caption)


def paper_chart() -> Picture:
    """The paper's own curve on NYU, another data set: beside ours, not among them."""

    def draw(theme: Theme) -> Any:
        figure, axes = chart(theme, 3.9, x="labelled share of NYU's training frames (%)", y="mean joint error (mm)")
        x, y = list(NYU_ERROR_MM), list(NYU_ERROR_MM.values())
        axes.plot(x, y, color=theme.muted, linewidth=1.8, marker="o", markersize=4, label="paper, full method, NYU")
        _percent_axis(axes, x)
        legend(axes, theme)
        return figure

    return both(
        draw,
        alt="Mean joint error over the share of labelled frames as Wan et al. published it for NYU",
        caption="As published for NYU (Wan et al. 2017, figure 3): other data, another camera, networks of 128 px.",
    )


def _percent_axis(axes: Any, places: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)


def _steps(walk: Walk) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    return list(zip(walk.joints_mm.cpu().numpy(), walk.depth[:, 0].cpu().numpy(), strict=True))


def _pose_cell(joints_mm: NDArray[np.float32], model: PoseModel, scale: int = 1) -> NDArray[np.uint8]:
    return _cell(np.ones((model.input_px, model.input_px), np.float32), joints_mm, model, scale)


def _depth_cell(depth: NDArray[np.float32], model: PoseModel, scale: int = 1) -> NDArray[np.uint8]:
    return _cell(depth, np.full((len(model.layout), 3), np.nan, np.float32), model, scale)


def _cell(
    image: NDArray[np.float32], joints_mm: NDArray[np.float32], model: PoseModel, scale: int = 1
) -> NDArray[np.uint8]:
    """A map (P, P) and a pose (J, 3) about its centre, in pictures of one size."""
    cube, side = model.cube_mm, model.input_px
    distance = FOCAL * cube
    center = np.array([0.0, 0.0, distance])
    k = np.array([FOCAL * side, FOCAL * side, (side - 1) / 2, (side - 1) / 2])
    depth = np.where(image < HAND_BELOW, distance + image * (cube / 2), 0)
    drawn = draw_overlay(depth, k, joints_mm + center, center, model.layout, window_mm=cube, whole=False)
    size = (scale * _CELL_PX, scale * _CELL_PX)
    return np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    done, data = cv2.imencode(".png", image)
    assert done
    return data.tobytes()
