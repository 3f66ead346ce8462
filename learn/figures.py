"""The pictures of reports: crops, skeletons over depth, predicted views, curves and bars, as PNG bytes.

matplotlib's object interface only: no pyplot, no global state. Charts are drawn twice, for a light and for a
dark page, on a transparent ground; in crops what is not hand is transparent, so they sit on either page.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import FINGER_COLORS, Layout, finger_of
from ..stores.page import Picture, Theme, both, chart, legend
from .metrics import AUC_LIMIT_MM, THRESHOLDS_MM, Interval, success_curve

DRAWN_PX: Final = 128
DRAWN_MM: Final = 300.0
"""Side of the crops that skeletons are drawn on, whatever a network sees."""
SHEET_DPI: Final = 96
"""Of sheets of many images, whose crops are coarser still: a page of six sheets stays at 4 MB."""
BACKGROUND: Final = 0.95
"""From here on a crop's value is no hand: +1 in crops, a little less where a network's tanh says so."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A crop and skeletons on it."""

    crop: NDArray[np.float32]
    """(P, P) in [-1, 1], +1 where there is no hand."""
    joints_px: Mapping[str, NDArray[np.float64]]
    """For each name (truth, a model) (J, 2) pixels of the crop, NaN = unknown."""
    error_mm: Mapping[str, float]
    """For each of these names its mean error, where it has one."""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a sheet."""

    crop: NDArray[np.float32]
    """(P, P) in [-1, 1], +1 where there is no hand."""
    joints_px: NDArray[np.float64] | None = None
    """(J, 2) pixels of the crop, NaN = unknown."""
    note: str = ""
    """Below it."""


def crop_sheet(rows: Mapping[str, NDArray[np.float32]], *, columns: int = 8, caption: str = "") -> Picture:
    """Sample crops, one labelled row a domain.

    Args:
        rows: for each label crops (n, P, P) in [-1, 1]; the first `columns` are shown.
        columns: crops in a row.
        caption: below the picture.
    """

    def draw(theme: Theme) -> Figure:
        figure, cells = _grid(len(rows), columns, cell=1.25, left=1.5)
        for row, (label, crops) in enumerate(rows.items()):
            for column in range(columns):
                axes = cells[row][column]
                if column < len(crops):
                    _show(axes, crops[column])
                else:
                    axes.set_visible(False)
            _row_label(cells[row][0], label, theme)
        return figure

    return both(draw, alt="Sample crops: " + ", ".join(rows), caption=caption)


def skeleton_sheet(samples: Sequence[Sample], names: Sequence[str], layout: Layout, *, caption: str = "") -> Picture:
    """Skeletons over depth: a row for each name (truth, baseline, ours), a column for each frame.

    Args:
        samples: the frames.
        names: keys of the samples' `joints_px`, top to bottom.
        layout: says which joints are joined.
        caption: below the picture.
    """
    rows = {
        name: [
            Cell(s.crop, s.joints_px.get(name), f"{s.error_mm[name]:.1f} mm" if name in s.error_mm else "")
            for s in samples
        ]
        for name in names
    }
    titles = [sample.title for sample in samples]
    return cell_sheet(rows, layout, titles=titles, alt="Predicted hand skeletons over depth", caption=caption)


def cell_sheet(
    rows: Mapping[str, Sequence[Cell | None]], layout: Layout, *, titles: Sequence[str], alt: str, caption: str = ""
) -> Picture:
    """Labelled rows of cells, each an image of its own with a skeleton on it.

    Args:
        rows: for each label its cells, one a column; None leaves its place empty.
        layout: says which joints are joined.
        titles: above the columns.
        alt: what the picture shows; the rows' labels are added.
        caption: below the picture.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = _grid(len(rows), len(titles), cell=1.7, left=1.6, row_gap=0.24, top=0.2)
        for place, (label, cells) in zip(axes, rows.items(), strict=False):
            _row_label(place[0], label, theme)
            for one, cell in zip(place, cells, strict=True):
                if cell is None:
                    _nothing(one)
                    continue
                _show(one, cell.crop, faint=True)
                if cell.joints_px is not None:
                    _skeleton(one, cell.joints_px, layout)
                one.set_xlabel(cell.note, color=theme.muted, fontsize=9, labelpad=2)
        for one, title in zip(axes[0], titles, strict=False):
            one.set_title(title, color=theme.muted, fontsize=9, pad=3)
        return figure

    return both(draw, alt=f"{alt}: " + ", ".join(rows).replace("\n", " "), caption=caption, dpi=SHEET_DPI)


def view_sheet(rows: Mapping[str, NDArray[np.float32]], *, caption: str = "") -> Picture:
    """View prediction: a row each for the input, the true and the predicted second view (n, P, P)."""
    count = max((len(images) for images in rows.values()), default=1)
    return crop_sheet(rows, columns=max(1, count), caption=caption)


def success_chart(
    worst_mm: Mapping[str, NDArray[np.float64]],
    *,
    intervals: Mapping[str, Sequence[Interval]] | None = None,
    caption: str = "",
) -> Picture:
    """Share of frames whose worst joint is within t, for each model's worst errors (N,) mm.

    Args:
        worst_mm: by model.
        intervals: of the shares at `metrics.THRESHOLDS_MM`, by model.
        caption: below the chart.
    """

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 3.9)
        t = np.linspace(0, AUC_LIMIT_MM, 321)
        for i, (name, worst) in enumerate(worst_mm.items()):
            axes.plot(t, 100 * success_curve(worst, t), color=_color(theme, i), linewidth=2, label=name)
            for at, interval in zip(THRESHOLDS_MM, (intervals or {}).get(name, ()), strict=False):
                axes.plot((at + 0.5 * i,) * 2, (100 * interval.low, 100 * interval.high), color=_color(theme, i))
        axes.set(xlim=(0, AUC_LIMIT_MM + 1), ylim=(0, 100))
        axes.set_xlabel("worst joint within … mm")
        axes.set_ylabel("frames (%)")
        legend(axes, theme)
        return figure

    return both(draw, alt="Share of frames whose worst joint is within a threshold", caption=caption)


def joint_chart(per_joint_mm: Mapping[str, Sequence[float]], names: Sequence[str], *, caption: str = "") -> Picture:
    """Mean error of each joint: a bar a joint, from top to bottom, a dot on it a model."""

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 0.9 + 0.19 * len(names))
        place = np.arange(len(names))
        if per_joint_mm:
            ends = np.array(list(per_joint_mm.values()), np.float64)
            axes.hlines(place, 0, ends.max(axis=0), color=theme.grid, linewidth=5)
        for i, (name, errors) in enumerate(per_joint_mm.items()):
            axes.scatter(errors, place, s=30, color=_color(theme, i), label=name, zorder=3)
        axes.set_yticks(place, [n.replace("_", " ") for n in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean error (mm)")
        legend(axes, theme)
        return figure

    return both(draw, alt="Mean error of each joint", caption=caption)


def mean_chart(rows: Mapping[str, tuple[float, Interval]], *, caption: str = "") -> Picture:
    """Mean error of each model with its interval, as labelled bars."""

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 0.9 + 0.42 * len(rows))
        top = max((max(mean, i.high) for mean, i in rows.values() if np.isfinite(i.high)), default=1.0)
        for place, (mean, interval) in enumerate(rows.values()):
            axes.barh(place, mean, 0.62, color=_color(theme, 0), alpha=0.85)
            axes.plot((interval.low, interval.high), (place, place), color=theme.ink, linewidth=2)
            end = interval.high if np.isfinite(interval.high) else mean
            axes.text(end + 0.015 * top, place, f"{mean:.1f}", va="center", color=theme.ink, fontsize=9)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, top * 1.12)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean joint error (mm)")
        return figure

    return both(draw, alt="Mean joint error of each model with its interval", caption=caption)


def training_chart(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    ylabel: str,
    log: bool = False,
    caption: str = "",
) -> Picture:
    """Values over training steps: for each label (steps, values)."""

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 3.4)
        for i, (name, (steps, values)) in enumerate(curves.items()):
            marker = "o" if len(steps) == 1 else ""
            dashes = "-" if i < len(theme.series) else "--"
            axes.plot(steps, values, dashes, color=_color(theme, i), linewidth=1.6, marker=marker, label=name)
        if log and any(v > 0 for _, values in curves.values() for v in values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(LogFormatter())
            axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))  # where there is no decade
            axes.tick_params(which="both", colors=theme.muted, labelsize=9, length=0)
        axes.set_xlabel("step")
        axes.set_ylabel(ylabel)
        legend(axes, theme)
        return figure

    return both(draw, alt=f"{ylabel} over training steps", caption=caption)


def read_curves(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Every number of a run's metrics.jsonl as (steps, values); an unfinished last line is ignored.

    Raises:
        HandloomError: the run has no metrics.
    """
    path = run / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise HandloomError("The run has no metrics", where=str(path), why=str(error)) from error
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        try:
            row: dict[str, Any] = json.loads(line)
        except json.JSONDecodeError:
            continue
        step = float(row.get("step", len(curves)))
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(float(value))
    return curves


def _color(theme: Theme, i: int) -> str:
    return theme.series[i % len(theme.series)]


def _grid(
    rows: int, columns: int, *, cell: float, left: float, row_gap: float = 0.06, top: float = 0.0
) -> tuple[Figure, list[list[Any]]]:
    """Square cells of `cell` inches with row labels on the left, room for text below each and above all."""
    rows, columns = max(1, rows), max(1, columns)
    gap = 0.06
    width = left + columns * (cell + gap)
    height = rows * (cell + row_gap) + top
    figure = Figure(figsize=(width, height))
    cells = []
    for row in range(rows):
        bottom = height - top - (row + 1) * (cell + row_gap) + row_gap
        cells.append(
            [
                figure.add_axes(((left + c * (cell + gap)) / width, bottom / height, cell / width, cell / height))
                for c in range(columns)
            ]
        )
    return figure, cells


def _row_label(axes: Any, label: str, theme: Theme) -> None:
    label = "\n".join(textwrap.fill(line, 20, break_on_hyphens=True) for line in label.splitlines())
    axes.text(-0.1, 0.5, label, transform=axes.transAxes, ha="right", va="center", color=theme.ink, fontsize=10)


def _show(axes: Any, crop: NDArray[np.float32], *, faint: bool = False) -> None:
    """Depth of a crop, near bright; what is not hand stays transparent on a tinted cell."""
    side = crop.shape[-1]
    hand = np.ma.masked_greater_equal(crop.astype(np.float64), BACKGROUND)
    name, ends = ("Greys", (-2.2, 1.2)) if faint else ("viridis_r", (-0.6, 0.6))
    axes.set_facecolor((0.5, 0.55, 0.6, 0.12))
    axes.imshow(hand, cmap=matplotlib.colormaps[name], vmin=ends[0], vmax=ends[1], interpolation="nearest")
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5), xticks=(), yticks=())
    for spine in axes.spines.values():
        spine.set_visible(False)


def _nothing(axes: Any) -> None:
    """An empty place of a sheet."""
    axes.set(facecolor="none", xticks=(), yticks=())
    for spine in axes.spines.values():
        spine.set_visible(False)


def _skeleton(axes: Any, joints_px: NDArray[np.float64], layout: Layout) -> None:
    lines, colors = [], []
    for a, b in layout.edges:
        if np.isfinite(joints_px[[a, b]]).all():
            lines.append(joints_px[[a, b]])
            colors.append(FINGER_COLORS[finger_of(layout.points[b])])
    axes.add_collection(LineCollection(lines, colors="white", linewidths=3.4, capstyle="round"))
    axes.add_collection(LineCollection(lines, colors=colors, linewidths=2.0, capstyle="round"))
    tints = [FINGER_COLORS[finger_of(point)] for point in layout.points]
    axes.scatter(*joints_px.T, s=9, c=tints, edgecolors="white", linewidths=0.5, zorder=3)
