"""The charts of the papers' analyses: latents in a plane, distances of twins, error on a drawn hand, training.

As `figures.py`: PNG bytes for a light and for a dark page, by matplotlib's objects alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..stores.joints import Layout
from ..stores.page import CHART_IN, Picture, Theme, both, chart, legend

HAND_MM: Final = (
    (0.0, 52.0), (0.0, 0.0),
    (-30.0, 14.0), (-54.0, 44.0), (-71.0, 70.0), (-84.0, 92.0),
    (-15.0, 18.0), (-29.0, 86.0), (-37.0, 126.0), (-42.0, 150.0), (-46.0, 171.0),
    (-4.0, 17.0), (-5.0, 89.0), (-6.0, 134.0), (-6.0, 161.0), (-6.0, 183.0),
    (8.0, 15.0), (17.0, 82.0), (23.0, 124.0), (26.0, 149.0), (29.0, 170.0),
    (20.0, 11.0), (37.0, 72.0), (47.0, 104.0), (53.0, 122.0), (58.0, 141.0),
)  # fmt: skip
"""Where the 26 canonical joints are drawn: an open hand, thumb to the left, mm; other layouts by their blends."""
HEAT: Final = ("#ffe9a8", "#f9b64e", "#e8683f", "#b5253f", "#5d1049")
"""Small to large error: light to dark, told apart by all eyes; each dot has a rim, so it shows on either page."""


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
        axes.set_xlabel(title)
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
            axes.stairs(share, edges, color=color, linewidth=1.8, label=name)
            axes.axvline(float(np.median(values)), color=color, linewidth=1.2, linestyle="--")
        axes.axvline(1.0, color=theme.muted, linewidth=1.0, linestyle=":")
        axes.set_xlim(0, edges[-1])
        axes.set_ylim(bottom=0)
        legend(axes, theme)
        return figure

    return both(draw, alt="Distances of corresponding latents", caption=caption)


def hand_chart(
    name: str, errors_mm: Sequence[float], layout: Layout, *, largest_mm: float, caption: str = ""
) -> Picture:
    """Mean error of each joint as colour and number on an open hand.

    Args:
        name: of the model, above the hand.
        errors_mm: (J,), NaN = unknown.
        layout: of the joints.
        largest_mm: the end of the colours, one for all the hands that stand side by side.
        caption: below.
    """
    places = layout.matrix() @ np.array(HAND_MM)
    heat: Colormap = LinearSegmentedColormap.from_list("error", HEAT)

    def draw(theme: Theme) -> Figure:
        figure = Figure(figsize=(CHART_IN, 5.7))
        axes = figure.add_axes((0.0, 0.0, 1.0, 0.93))
        bones = [places[[a, b]] for a, b in layout.edges]
        axes.add_collection(LineCollection(bones, colors=theme.grid, linewidths=7, capstyle="round"))
        for (x, y), error in zip(places, errors_mm, strict=True):
            known = bool(np.isfinite(error))
            share = error / largest_mm if known and largest_mm else 0.0
            color = heat(share) if known else (0, 0, 0, 0)
            axes.scatter(x, y, s=300, color=[color], edgecolors=theme.muted, linewidths=0.8, zorder=3)
            ink = theme.ink if not known else "#1f2328" if share < 0.55 else "#ffffff"
            said = f"{error:.0f}" if known else "–"
            axes.text(x, y - 0.3, said, ha="center", va="center", fontsize=8.5, color=ink, zorder=4)
        axes.set(xlim=(-104, 78), ylim=(-14, 198))
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_title(name, color=theme.ink, fontsize=11)
        return figure

    return both(draw, alt=f"Mean error of each joint (mm) on a drawn hand: {name}", caption=caption)
