"""The page of `capture calibrate`: how well each camera is placed, which of them share views, where the target was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..stores.page import Picture, Theme, blank_figure, both, chart, legend, page_environment, write_page
from .rig_fit import RigFit
from .view_graph import LEAST_FRAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONVENTION = {
    "volume": "The origin is the mean of the target's places, the axes are the first camera's.",
    "first-camera": "The rig's frame is the first camera's.",
}


def write_report(fit: RigFit, out: Path, *, name: str, target: str) -> None:
    """Write the page.

    Args:
        fit: what was found.
        out: the file; replaced where it is there.
        name: of the source.
        target: what was shown, in words.

    Raises:
        HandloomError: the file cannot be written.
    """
    write_page(page_of(fit, name=name, target=target), out, overwrite=True)


def page_of(fit: RigFit, *, name: str, target: str) -> str:
    """The page's HTML."""
    environment = page_environment(__package__ or "")
    shared = int((fit.seen.sum(1) > 1).sum())
    return environment.get_template("calibrate.html.j2").render(
        title=f"Calibration of {name}",
        lead=f"{len(fit.rig)} cameras placed by {target}, seen by two or more of them in {shared} of "
        f"{len(fit.seen)} frames",
        convention=CONVENTION[fit.origin] + " x right, y down, z forward; x_cam = R x_rig + t, mm.",
        with_bias=fit.cameras[0].bias_mm is not None,
        fit=fit,
        graph=_graph(fit),
        plan=_plan(fit),
        residuals=_residuals(fit),
        names=fit.rig.names,
        shared=fit.shared.tolist(),
    )


def _graph(fit: RigFit) -> Picture:
    """The cameras on a circle, joined where they saw the target together."""
    names, shared = fit.rig.names, fit.shared
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    at = np.stack([np.cos(angle), np.sin(angle)], 1)
    most = max(int((shared - np.diag(np.diag(shared))).max()), 1)

    def draw(theme: Theme) -> Figure:
        figure = blank_figure(4.2, 3.8)
        axes: Any = figure.add_subplot()
        axes.axis("off")
        box = {"boxstyle": "round,pad=0.25", "fc": theme.grid, "ec": "none"}
        for a, b in np.argwhere(np.tril(shared, -1) > 0):
            count, weak = int(shared[a, b]), bool(shared[a, b] < LEAST_FRAMES)
            color, width = theme.series[1 if weak else 0], 1 + 5 * count / most
            axes.plot(*at[[a, b]].T, "--" if weak else "-", color=color, linewidth=width, zorder=1)
            # Off the middle: the diagonals of four cameras cross there.
            u, v = 0.58 * at[a] + 0.42 * at[b]
            axes.text(u, v, str(count), color=theme.ink, fontsize=9, ha="center", va="center", zorder=4, bbox=box)
        axes.scatter(at[:, 0], at[:, 1], s=90, color=theme.ink, zorder=3)
        for (u, v), name in zip(1.2 * at, names, strict=True):
            axes.text(u, v, name, color=theme.ink, fontsize=10, ha="center", va="center")
        axes.set_xlim(-1.5, 1.5)
        axes.set_ylim(-1.35, 1.35)
        axes.set_aspect("equal")
        return figure

    caption = f"Frames in which two cameras saw the target together; dashed: fewer than {LEAST_FRAMES}, not used alone."
    return both(draw, alt="The graph of shared views", caption=caption)


def _plan(fit: RigFit) -> Picture:
    """The rig from above and from the side."""
    positions = np.array([-camera.rotation.T @ camera.translation for camera in fit.rig.cameras])
    ahead = np.array([camera.rotation[2] for camera in fit.rig.cameras])
    length = 0.25 * float(np.linalg.norm(positions - fit.places.mean(0), axis=1).mean())

    def draw(theme: Theme) -> Figure:
        figure = blank_figure(7.6, 3.8)
        for axes, across, down, labels in zip(
            figure.subplots(1, 2), (0, 2), (2, 1), (("x", "z"), ("z", "y")), strict=True
        ):
            _style(axes, theme)
            axes.scatter(fit.places[:, across], fit.places[:, down], s=4, color=theme.series[0], alpha=0.5)
            for name, place, axis in zip(fit.rig.names, positions, ahead, strict=True):
                end = place + length * axis
                axes.plot([place[across], end[across]], [place[down], end[down]], color=theme.series[1], linewidth=1.6)
                axes.plot(place[across], place[down], "s", color=theme.series[1], markersize=6)
                axes.annotate(
                    name, (place[across], place[down]), (0, 7), textcoords="offset points", color=theme.ink, fontsize=9
                )
            axes.set_aspect("equal", adjustable="datalim")
            axes.set_xlabel(f"{labels[0]} (mm)", color=theme.muted)
            axes.set_ylabel(f"{labels[1]} (mm)", color=theme.muted)
            if labels[1] == "y":
                axes.invert_yaxis()
        return figure

    return both(
        draw,
        alt="Cameras and places of the target from above and from the side",
        caption="From above (left) and from the side: cameras with their viewing directions, and the target's places.",
    )


def _style(axes: Any, theme: Theme) -> None:
    axes.set_facecolor("none")
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(colors=theme.muted, labelsize=9, length=0)


def _residuals(fit: RigFit) -> Picture:
    """How far observations are from what the rig says, by camera."""
    top = float(np.percentile(fit.residual[fit.inlier], 99)) if fit.inlier.any() else 1.0
    edges = np.linspace(0, max(top, 1e-3), 31)

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 2.9, x=f"distance from the rig's prediction ({fit.unit})", y="observations")
        for view, name in enumerate(fit.rig.names):
            counts = np.histogram(fit.residual[(fit.camera == view) & fit.inlier], edges)[0]
            color = theme.series[view % len(theme.series)]
            style = ("-", "--", ":")[view // len(theme.series) % 3]
            axes.stairs(counts, edges, color=color, linewidth=1.6, linestyle=style, label=name)
        legend(axes, theme)
        return figure

    return both(
        draw, alt="Histogram of the residuals of each camera", caption="Up to the 99th percentile, mistakes left out."
    )
