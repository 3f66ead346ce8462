"""The charts of the papers' analyses: latents in a plane, distances of twins.

As `figures.py`: PNG bytes for a light and for a dark page, by matplotlib's objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..stores.page import CHART_IN, Picture, Theme, both, chart, legend
from .figures import line_name


def embedding_chart(
    points: NDArray[np.float64], split: NDArray[np.bool_], *, title: str = "", caption: str = ""
) -> Picture:
    """Latents of n real images and of their twins in a plane, lines join each pair.

    Args:
        points: (2n, 2), the real ones first, pair i at i and n + i.
        split: (n,) pairs that training had; their lines are drawn stronger.
        title: above.
        caption: below.
    """
    n = len(points) // 2

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, CHART_IN - 0.2)
        axes.grid(visible=False)
        lines = np.stack([points[:n], points[n:]], axis=1)
        axes.add_collection(LineCollection(list(lines[~split]), colors=theme.muted, linewidths=0.6, alpha=0.55))
        axes.add_collection(LineCollection(list(lines[split]), colors=theme.ink, linewidths=1.2))
        axes.scatter(*points[:n].T, s=16, color=theme.series[2], marker="o", label="captured", linewidths=0, zorder=3)
        axes.scatter(*points[n:].T, s=22, color=theme.series[1], marker="+", label="rendered twin", zorder=3)
        half = 1.05 * max(float(np.abs(points).max()), 1e-9)
        axes.set(xlim=(-half, half), ylim=(-half, half), xticks=(), yticks=())
        axes.set_aspect("equal")
        axes.spines["bottom"].set_visible(False)
        axes.set_xlabel(line_name(title))
        legend(axes, theme)
        return figure

    return both(draw, alt=f"t-SNE of captured images and their rendered twins: {title}", caption=caption)


def distance_chart(distances: Mapping[str, NDArray[np.float64]], *, caption: str = "") -> Picture:
    """How far apart twins are in z: for each model (n,) distances, 1 = as far as pairs that are none."""
    top = max((float(np.quantile(d, 0.995)) for d in distances.values() if len(d)), default=1.0)
    edges = np.linspace(0, max(1.1, 1.05 * top), 41)

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 3.9, x="distance of a captured image and its twin (1: of any two)", y="pairs (%)")
        for i, (name, values) in enumerate(distances.items()):
            share = 100 * np.histogram(values.clip(max=edges[-1]), edges)[0] / max(1, len(values))
            color = theme.series[i % len(theme.series)]
            axes.stairs(share, edges, fill=True, color=color, alpha=0.22)
            axes.stairs(share, edges, color=color, linewidth=1.8, label=line_name(name))
            axes.axvline(float(np.median(values)), color=color, linewidth=1.2, linestyle="--")
        axes.axvline(1.0, color=theme.muted, linewidth=1.0, linestyle=":")
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)
        legend(axes, theme)
        return figure

    return both(draw, alt="Distances of corresponding latents", caption=caption)
