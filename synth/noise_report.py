"""Real beside synthetic: what `fit_noise` found, as one HTML page that holds its pictures and asks for nothing.

Both sides of every curve went through the same functions (`noise_statistics`), over the same pixels of the same
geometry; the synthetic side is as many frames of it, through the fitted sensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.page import (
    Picture,
    Theme,
    blank_figure,
    both,
    chart,
    legend,
    page_environment,
    refuse_taken,
    write_page,
)
from . import noise_estimates as est
from .noise_fit import TOLERANCES, NoiseFit, shown
from .noise_measure import BASELINES_MM, retake
from .noise_scene import View
from .noise_statistics import (
    ANGLE_BINS,
    DEPTH_BINS,
    FAR_PX,
    GRAZING_BINS,
    NEAR_PX,
    SIDES,
    SIZE_BINS,
    Sums,
)
from .sensor import describe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

F64 = NDArray[np.float64]

ZOOM_PX: Final = (64, 48)
"""Width and height of the windows that are shown enlarged."""
WHOLE_MM: Final = 800.0
ZOOM_MM: Final = 200.0
"""Depth over which colour repeats."""
MIN_SHOWN: Final = 60
"""Pixels or frames that a point of a curve rests on."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, a sentence and pictures."""

    title: str
    text: str
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Curve:
    """Real and synthetic values over something."""

    x: Any
    real: Any
    synthetic: Any
    label: str = ""


def write_report(fit: NoiseFit, out: Path, *, name: str, seed: int, overwrite: bool = False) -> None:
    """Write the page.

    Args:
        fit: what was found.
        out: the file.
        name: of the recording.
        seed: of the simulated examples.
        overwrite: replace a file that is there.

    Raises:
        HandloomError: the file exists or cannot be written.
    """
    refuse_taken(out, overwrite=overwrite)
    write_page(_page(fit, name, seed), out, overwrite=overwrite)


def _page(fit: NoiseFit, name: str, seed: int) -> str:
    import yaml

    environment = page_environment(__package__ or "")
    environment.filters["rough"] = lambda value: "–" if value is None else f"{value:.2g}"
    environment.filters["number"] = lambda value: "–" if value is None else shown(value)
    views = fit.measured.views
    cameras = ", ".join(view.camera.name for view in views)
    return environment.get_template("noise.html.j2").render(
        title=f"Depth noise of {name}",
        lead=f"{fit.model}, from {len(views[0].rows)} frames of {cameras}",
        why=f"The model is {fit.model}: {fit.why}.",
        notes=fit.notes,
        estimates=fit.estimates,
        tolerances=TOLERANCES,
        sections=[_examples(fit, seed), _deviations(fit), _steps(fit), _edges(fit), _holes(fit)],
        file=yaml.safe_dump(describe(fit.sensor), sort_keys=False),
    )


# -- sections -------------------------------------------------------------------------------------------------------


def _examples(fit: NoiseFit, seed: int) -> Section:
    pairs = []
    for view, still in zip(fit.measured.views, fit.measured.stills, strict=True):
        frame = len(view.codes) // 2
        pairs.append((view, frame, retake(view, still, fit.sensor, frame, seed)))
    zooms = []
    for view, frame, synthetic in pairs:
        for left, top in _places(view, frame):
            window = np.s_[top : top + ZOOM_PX[1], left : left + ZOOM_PX[0]]
            zooms.append(
                (f"{view.camera.name}, column {left}, row {top}", view.codes[frame][window], synthetic[window])
            )
    whole = [(view.camera.name, view.codes[frame], synthetic) for view, frame, synthetic in pairs]
    return Section(
        "The same scene, real and synthetic",
        "The synthetic frames show the capture's own geometry, cleaned: what stands still from all frames, what moves "
        "and its surroundings from the one. Holes are empty.",
        [
            _pair_sheet(whole, 3.3, WHOLE_MM, "Whole frames: the capture above, the fitted sensor's below."),
            _pair_sheet(zooms[:4], 2.5, ZOOM_MM, f"Windows of {ZOOM_PX[0]} × {ZOOM_PX[1]} px, enlarged."),
        ],
    )


def _deviations(fit: NoiseFit) -> Section:
    real, synthetic = fit.measured.sums, fit.synthetic
    pictures = []
    if fit.measured.has_still:
        pictures.append(
            _chart(
                [_by_depth(real.deviation, synthetic.deviation)], "depth (mm)", "deviation over time (mm)",
                "How much a still pixel varies from frame to frame, surfaces seen at less than 35°, steps included.",
            )
        )  # fmt: skip
        pictures.append(
            _chart(
                [_by_angle(real.deviation, synthetic.deviation)], "angle of incidence (°)", "deviation over time (mm)",
                "The same by angle, mean over the depths at which that angle is seen.",
            )
        )  # fmt: skip
    pictures.append(
        _chart(
            [_by_depth(real.local, synthetic.local)], "depth (mm)", "deviation from planes (mm)",
            "Deviation from planes of 5 × 5 pixels within one frame, less than 35°: what neighbours share is less in "
            "it, what stands still in the noise is in it.",
        )
    )  # fmt: skip
    lag = np.arange(1, len(real.correlation))
    alike = Curve(lag, est.neighbours(real)[1:], est.neighbours(synthetic)[1:])
    if fit.measured.has_still:
        pictures.append(
            _chart(
                [alike], "distance (px)", "correlation of the noise",
                "Do neighbours err together? A matching window makes them, dots and single pixels do not.",
                span=(-0.1, 1.0),
            )
        )  # fmt: skip
    return Section("Noise", "", pictures)


def _steps(fit: NoiseFit) -> Section:
    m = fit.measured
    view = m.views[0]
    depths = np.concatenate([still.depth_mm[still.depth_mm > 0] for still in m.stills])
    middle = float(np.median(depths)) if len(depths) else float(np.mean(m.depth_range_mm))
    unit = view.camera.depth_unit_mm
    step = middle**2 / (m.levels.quantum_px * view.camera.k[0]) if m.levels.quantum_px else 4 * unit
    low, high = int((middle - 6 * step) / unit), int((middle + 6 * step) / unit) + 1
    codes = np.arange(max(low, 1), min(high, 65535))

    def share(sums: Sums) -> F64:
        counts = sums.histogram[codes].astype(np.float64)
        return np.asarray(100 * counts / max(counts.sum(), 1))

    text = (
        f"Depth comes in steps: baseline / step = {m.levels.quantum_px:.1f} mm/px, {step:.2f} mm at {middle:.0f} mm."
        if m.levels.quantum_px
        else f"No steps were seen beyond the unit, {unit:g} mm."
    )
    pictures = [
        _chart(
            [Curve(codes * unit, share(m.sums), share(fit.synthetic))], "depth (mm)", "share of returns (%)",
            f"Which depths occur around {middle:.0f} mm. Rounding to the unit of {unit:g} mm is in it.", bars=True,
        ),
        _shadow_chart(fit),
    ]  # fmt: skip
    return Section("Steps of depth, and the shadow beside things", text, pictures)


def _edges(fit: NoiseFit) -> Section:
    ones = np.ones(fit.measured.groups)
    real, synthetic = est.total(fit.measured.sums.edges, ones), est.total(fit.synthetic.edges, ones)
    place = np.arange(-NEAR_PX, FAR_PX) + 0.5
    holes, fore, flying = [], [], []
    for i, side in enumerate(SIDES):
        r, s = real[i].sum(0), synthetic[i].sum(0)
        if r[0, 0] >= 10 * MIN_SHOWN:
            holes.append(Curve(place, _rate(r[:, 1], r[:, 0]), _rate(s[:, 1], s[:, 0]), side))
        r, s = real[i, 1], synthetic[i, 1]
        if r[0, 0] >= 10 * MIN_SHOWN:
            near = slice(0, NEAR_PX + 4)  # farther off both surfaces are not known
            returns = [np.maximum(t[near, 0] - t[near, 1], 1) for t in (r, s)]
            x = place[near]
            fore.append(Curve(x, 100 * r[near, 2] / returns[0], 100 * s[near, 2] / returns[1], side))
            flying.append(Curve(x, 100 * r[near, 4] / returns[0], 100 * s[near, 4] / returns[1], side))
    if not holes:
        return Section("Edges", "No still, straight piece of an edge was seen.", [])
    across = "distance from the edge (px), foreground below 0"
    pictures = [
        _chart(
            holes,
            across,
            "holes (%)",
            "Holes by the side on which the background lies: shadows are on one. What lies in them is guessed.",
        )
    ]
    if fore:
        text = "Share of the returns that show the foreground: the slope says how far edges move from frame to frame."
        pictures.append(_chart(fore, across, "foreground (%)", text))
        pictures.append(
            _chart(
                flying,
                across,
                "between both (%)",
                "Share of the returns that lie between both surfaces: they fly.",
                span=(0.0, max(10.0, *(float(np.max(c.real)) for c in flying))),
            )
        )
    return Section("Edges", "Still, straight pieces of edges only; one colour a side, the fit dashed.", pictures)


def _holes(fit: NoiseFit) -> Section:
    ones = np.ones(fit.measured.groups)
    angle = (GRAZING_BINS[1:] + GRAZING_BINS[:-1]) / 2
    rates = Curve(angle, 100 * est.hole_rates(fit.measured.sums, ones)[0], 100 * est.hole_rates(fit.synthetic, ones)[0])
    sizes = [100 * s.sizes / max(float(s.sizes.sum()), 1) for s in (fit.measured.sums, fit.synthetic)]
    names = [f"{a}" if b == a + 1 else (f"{a}–{b - 1}" if b < 1 << 20 else f"{a}+") for a, b in _pairs(SIZE_BINS)]
    caption = "Sizes of holes in surfaces that return in other frames, away from what moves."
    pictures = [
        _chart([rates], "angle of incidence (°)", "holes (%)", "Holes in smooth surfaces by angle, away from edges."),
        _chart(
            [Curve(np.arange(len(names)), sizes[0], sizes[1])], "pixels of a hole", "share of holes (%)", caption,
            bars=True, names=names,
        ),
    ]  # fmt: skip
    return Section("Holes", "", pictures)


# -- curves and pictures ----------------------------------------------------------------------------------------------


def _by_depth(real: F64, synthetic: F64) -> Curve:
    middles = np.sqrt(DEPTH_BINS[1:] * DEPTH_BINS[:-1])
    steep = int(np.searchsorted(ANGLE_BINS, 35.0))
    r, s = real.sum(0)[:, :steep].sum(1), synthetic.sum(0)[:, :steep].sum(1)
    return Curve(middles, _deviation(r), _deviation(s))


def _by_angle(real: F64, synthetic: F64) -> Curve:
    middles = (ANGLE_BINS[1:] + ANGLE_BINS[:-1]) / 2
    r, s = real.sum(0), synthetic.sum(0)
    # The same depths on both sides: cells that one of them lacks would shift the mean.
    both = (r[..., 0] >= MIN_SHOWN) & (s[..., 0] >= MIN_SHOWN)
    weight = np.where(both, r[..., 0], 0)
    mean = [
        np.sum(weight * np.sqrt(t[..., 1] / np.maximum(t[..., 0], 1)), 0) / np.maximum(weight.sum(0), 1) for t in (r, s)
    ]
    seen = weight.sum(0) > 0
    return Curve(middles, np.where(seen, mean[0], np.nan), np.where(seen, mean[1], np.nan))


def _deviation(table: F64) -> F64:
    return np.where(table[:, 0] >= MIN_SHOWN, np.sqrt(table[:, 1] / np.maximum(table[:, 0], 1)), np.nan)


def _rate(part: F64, whole: F64) -> F64:
    return np.asarray(100 * part / np.maximum(whole, 1))


def _pairs(values: Any) -> list[tuple[int, int]]:
    return [(int(a), int(b)) for a, b in pairwise(values)]


def _places(view: View, frame: int) -> list[tuple[int, int]]:
    """Left and top of two windows with many holes that still show something, apart from each other."""
    import cv2

    hole = (view.codes[frame] == 0).astype(np.float32)
    window = (ZOOM_PX[0], ZOOM_PX[1])
    share = cv2.boxFilter(hole, -1, window)
    # A quarter of holes is the most telling: shadows, rims and what lies between.
    score = -np.abs(share - 0.25)
    height, width = hole.shape
    half_u, half_v = window[0] // 2, window[1] // 2
    inside = np.full_like(score, -2.0)
    inside[half_v : height - half_v, half_u : width - half_u] = score[half_v : height - half_v, half_u : width - half_u]
    out: list[tuple[int, int]] = []
    for _ in range(2):
        v, u = np.unravel_index(int(inside.argmax()), inside.shape)
        out.append((int(u) - half_u, int(v) - half_v))
        inside[max(int(v) - window[1], 0) : int(v) + window[1], max(int(u) - window[0], 0) : int(u) + window[0]] = -2
    return out


def _pair_sheet(pairs: Sequence[tuple[str, Any, Any]], cell_in: float, turn_mm: float, caption: str) -> Picture:
    """A column a pair: real above, synthetic below, both coloured alike."""
    caption += f" Colour repeats every {turn_mm:.0f} mm."

    def draw(theme: Theme) -> Figure:
        count = len(pairs)
        ratio = pairs[0][1].shape[0] / pairs[0][1].shape[1]
        figure = blank_figure(cell_in * count + 0.9, 2 * cell_in * ratio + 0.4)
        cells = figure.subplots(2, count, squeeze=False)
        for column, (name, *images) in enumerate(pairs):
            for row, depth_mm in enumerate(images):
                axes = cells[row][column]
                axes.imshow(_coloured(depth_mm, turn_mm), interpolation="nearest")
                axes.set_facecolor("none")
                axes.set_xticks([])
                axes.set_yticks([])
                for spine in axes.spines.values():
                    spine.set_color(theme.grid)
                if column == 0:
                    axes.set_ylabel("real" if row == 0 else "synthetic", color=theme.ink)
            cells[0][column].set_title(name, color=theme.muted, fontsize=9)
        return figure

    return both(draw, alt="Real frames above synthetic ones", caption=caption)


def _coloured(depth_mm: Any, turn_mm: float) -> NDArray[np.uint8]:
    """(H, W, 4): hue turns with depth; holes are transparent."""
    from matplotlib import colormaps

    rgba = colormaps["twilight_shifted"]((depth_mm / turn_mm) % 1.0, bytes=True)
    rgba[depth_mm == 0, 3] = 0
    return np.asarray(rgba, np.uint8)


def _shadow_chart(fit: NoiseFit) -> Picture:
    shadow = fit.measured.shadow
    found = (
        f"The best is {shadow.baseline_mm:.0f} mm to the {'right' if shadow.side > 0 else 'left'}."
        if shadow.seen
        else "None explains them."
    )

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 2.9, x="baseline (mm)", y="agreement with holes")
        axes.grid(visible=False, axis="x")
        for i, label in enumerate(("light or second camera to the right", "to the left")):
            axes.plot(BASELINES_MM, shadow.curve[i], color=theme.series[i], linewidth=1.8, label=label)
        axes.set_ylim(bottom=min(0.0, float(shadow.curve.min())))
        legend(axes, theme)
        return figure

    text = f"Shadows of a light beside the camera, tried at every baseline, against the holes that are there. {found}"
    return both(draw, alt="Agreement of shadows with holes", caption=text)


def _chart(
    curves: Sequence[Curve],
    x: str,
    y: str,
    caption: str,
    *,
    bars: bool = False,
    names: Sequence[str] | None = None,
    span: tuple[float, float] | None = None,
) -> Picture:
    """Real values as points or bars, synthetic ones as a line; a colour a curve where there are several."""

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 2.9, x=x, y=y)
        axes.grid(visible=False, axis="x")
        for i, curve in enumerate(curves):
            own = theme.series[i if len(curves) > 1 else 0]
            other = own if len(curves) > 1 else theme.series[1]
            label = curve.label or "real"
            known = np.isfinite(np.asarray(curve.real, np.float64))
            place, real = np.asarray(curve.x)[known], np.asarray(curve.real)[known]
            synthetic = np.asarray(curve.synthetic)[known]
            if bars:
                wide = 0.9 * float(np.diff(np.asarray(curve.x)).min()) if len(curve.x) > 1 else 1.0
                axes.bar(place, real, width=wide, color=own, alpha=0.45, label=label)
                axes.step(place, synthetic, where="mid", color=other, linewidth=1.4, label="synthetic")
            else:
                axes.plot(place, real, "o-", color=own, markersize=3.5, linewidth=1.2, label=label)
                fit_label = "synthetic" if len(curves) == 1 else ("synthetic: dashed" if i == 0 else None)
                axes.plot(place, synthetic, "--", color=other, linewidth=1.6, label=fit_label)
        if names is not None:
            axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_ylim(*(span or (0.0, None)))
        legend(axes, theme)
        return figure

    return both(draw, alt=f"{y} over {x}, real and synthetic", caption=caption)
