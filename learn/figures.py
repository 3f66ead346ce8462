"""The charts of reports: shares of frames, errors of joints, curves of training, as PNG bytes.

matplotlib's object interface only: no pyplot, no global state. Charts are drawn twice, for a light and for a
dark page, on a transparent ground.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from ..stores.documents import read_small, said
from ..stores.errors import HandloomError
from ..stores.page import Picture, Theme, both, chart, legend
from .metrics import AUC_LIMIT_MM, THRESHOLDS_MM, Interval, success_curve
from .tables import clipped

NAME: Final = 44
"""Characters of a model's name beside its line: more do not stand in a chart's width."""


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
            axes.plot(t, 100 * success_curve(worst, t), color=_color(theme, i), linewidth=2, label=line_name(name))
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
            axes.scatter(errors, place, s=30, color=_color(theme, i), label=line_name(name), zorder=3)
        axes.set_yticks(place, [n.replace("_", " ") for n in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean error (mm)")
        legend(axes, theme)
        return figure

    return both(draw, alt="Mean error of each joint", caption=caption)


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
            axes.plot(
                steps, values, dashes, color=_color(theme, i), linewidth=1.6, marker=marker, label=line_name(name)
            )
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
        HandloomError: the run has no metrics, or no file of them.
    """
    path = run / "metrics.jsonl"
    try:
        lines = read_small(path).decode("utf-8", "replace").splitlines()
    except (OSError, ValueError) as error:
        raise HandloomError("The run has no metrics", where=str(path), why=said(error)) from error
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in lines:
        try:
            row = json.loads(line, parse_int=float)  # a whole number of any length would be none of float's
        except (ValueError, RecursionError):
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, float):
            continue
        for name, value in row.items():
            if name != "step" and isinstance(value, float):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves


def line_name(name: str) -> str:
    """A name as matplotlib draws it as it is: `$` starts a formula there, and `_` hides a line from the legend."""
    name = clipped(name, NAME).replace("$", r"\$")
    return f"\N{HAIR SPACE}{name}" if name.startswith("_") else name


def _color(theme: Theme, i: int) -> str:
    return theme.series[i % len(theme.series)]
