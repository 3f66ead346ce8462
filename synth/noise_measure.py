"""One capture measured, and simulated again: its still geometry, its statistics, the shadow beside things.

A light or a second camera stands beside the first by the baseline b; what it does not reach returns nothing. For
each candidate b and side the sensor models' own z-buffer says which pixels of the geometry lie in its shadow; the
candidate whose shadow agrees best with the holes wins (φ coefficient, the correlation of two yes-or-no pictures).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import sensor as sensors
from .noise_levels import Levels, find_levels
from .noise_scene import Still, View, find_still, smoothed, thinned
from .noise_statistics import TILES, Edges, Sums, count_pixels, find_edges, gather, local_frames
from .sensor import ActiveStereo, StructuredLight

F64 = NDArray[np.float64]

BASELINES_MM: Final = np.arange(10.0, 161.0, 5.0)
SHADOW_FRAMES: Final = 6
MIN_SETTLED: Final = 2000
"""Still pixels that deviation over time needs."""
MIN_SHADOW: Final = 0.15
"""Correlation of holes with predicted shadow below which there is none."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """How well holes agree with the shadow of a light or a second camera beside the first."""

    baseline_mm: float
    side: int
    """1: it stands towards +x."""
    agreement: float
    """Correlation of predicted shadow and holes, 0 … 1."""
    curve: F64
    """(2, n) agreement over BASELINES_MM, for side 1 and −1."""

    @property
    def seen(self) -> bool:
        """Whether there is one: it explains holes, and those of the other side do not."""
        other = float(self.curve[1 if self.side > 0 else 0].max())
        return self.agreement >= max(MIN_SHADOW, 2 * other)


@dataclass(frozen=True, slots=True)
class Measured:
    """A capture, its still geometry and its statistics."""

    views: list[View]
    stills: list[Still]
    edges: list[Edges]
    levels: Levels
    sums: Sums
    shadow: Shadow

    @property
    def groups(self) -> int:
        """Parts of images that a bootstrap draws from."""
        return TILES * TILES * len(self.views)

    @property
    def has_still(self) -> bool:
        """Whether enough stands still to measure deviation over time."""
        return float(self.sums.deviation[..., 0].sum()) >= MIN_SETTLED

    @property
    def depth_range_mm(self) -> tuple[float, float]:
        """The nearest and the farthest depth that returns, a thousandth of the pixels left out on either side."""
        low, high = np.inf, 0.0
        for view in self.views:
            values = view.codes[view.codes > 0]
            if len(values):
                near, far = np.percentile(values, [0.1, 99.9]) * view.camera.depth_unit_mm
                low, high = min(low, float(near)), max(high, float(far))
        return low, high


def measure(views: list[View], *, tell: Callable[[str], None] = lambda _: None) -> Measured:
    """All statistics of a capture's frames."""
    levels = find_levels(views)
    tell("finding what stands still")
    stills = [find_still(view, levels.quantum_px * view.camera.k[0]) for view in views]
    tell("measuring")
    return _measured(views, stills, levels, find_shadow(views, stills))


def without_jitter(m: Measured) -> Measured:
    """The same, if the edges of this sensor do not move but pixels beside them fly."""
    stills = [find_still(view, m.levels.quantum_px * view.camera.k[0], jitters=False) for view in m.views]
    return _measured(m.views, stills, m.levels, m.shadow)


def _measured(views: list[View], stills: list[Still], levels: Levels, shadow: Shadow) -> Measured:
    edges = [
        find_edges(view, still, count_pixels(view, still, levels), TILES * TILES * i)
        for i, (view, still) in enumerate(zip(views, stills, strict=True))
    ]
    return Measured(views, stills, edges, levels, gather(views, stills, edges, levels), shadow)


def retake(view: View, still: Still, sensor: sensors.Sensor, frame: int, seed: int) -> NDArray[np.uint16]:
    """(H, W) codes of one frame as the sensor model gives it: what moves before what stands still."""
    return _take(view, _before(view, still, frame), sensor, seed, frame)


def _take(
    view: View, depth_mm: NDArray[np.float32], sensor: sensors.Sensor, seed: int, frame: int
) -> NDArray[np.uint16]:
    if isinstance(sensor, ActiveStereo):  # the geometry shows the foreground as it had grown already
        depth_mm = thinned(depth_mm, sensor.window_px // 2)
    return sensors.apply(
        sensor, depth_mm, view.camera.k, depth_unit_mm=view.camera.depth_unit_mm, seed=seed, frame=frame,
        view=view.number,
    )  # fmt: skip


def find_shadow(views: Sequence[View], stills: Sequence[Still]) -> Shadow:
    """Which shadow explains the holes beside and behind things: its side and baseline.

    What moves is put before the still geometry; the sensor's own z-buffer of the light then says for each
    baseline which pixels lie in the dark, and they are compared with the holes.
    """
    scenes = []
    for view, still in zip(views, stills, strict=True):
        for i in np.unique(np.linspace(0, len(view.codes) - 1, SHADOW_FRAMES).round().astype(int)).tolist():
            depth = _before(view, still, i)
            scenes.append((view, depth, view.codes[i] == 0))
    coarse = np.array([[_agreement(scenes, b, side) for b in BASELINES_MM] for side in (1, -1)])
    side = 1 if coarse[0].max() >= coarse[1].max() else -1
    at = int(coarse[0 if side > 0 else 1].argmax())
    fine = BASELINES_MM[at] + np.arange(-4.0, 5.0)
    fine = fine[fine > 0]
    values = np.array([_agreement(scenes, b, side) for b in fine])
    top = int(values.argmax())
    baseline = float(fine[top])
    if 0 < top < len(fine) - 1:
        left, middle, right = values[top - 1 : top + 2]
        curvature = left - 2 * middle + right
        if curvature < 0:
            baseline += 0.5 * (left - right) / curvature
    return Shadow(baseline, side, float(max(values.max(), 0)), coarse)


def _before(view: View, still: Still, frame: int) -> NDArray[np.float32]:
    """Depth of one frame: as it is, smoothed, around what moves; elsewhere what stands still."""
    calm = smoothed(view, frame)
    seen = ~still.steady[frame] & (calm > 0)
    return np.where(seen, calm, still.filled_mm).astype(np.float32)


def _agreement(scenes: Sequence[tuple[View, NDArray[np.float32], Any]], baseline_mm: float, side: int) -> float:
    """Correlation (φ coefficient) of predicted shadow and holes over some frames."""
    light = StructuredLight(
        axial_mm=0, axial_growth_mm=0, axial_grazing_mm=0, lateral_px=0, baseline_mm=baseline_mm,
        projector=1 if side > 0 else -1,
        disparity_step_px=0, edge_hole=0, grazing_from_deg=89.9, grazing_to_deg=90, block_px=1, min_mm=1, max_mm=60000,
    )  # fmt: skip
    table = np.zeros((2, 2))
    for view, depth, hole in scenes:
        seen = sensors.apply(
            light, depth, view.camera.k, depth_unit_mm=1.0, seed=0, frame=0, view=0,
        )  # fmt: skip
        here = depth > 0
        dark = (seen == 0)[here]
        table += np.histogram2d(dark, hole[here], bins=2, range=((0, 1), (0, 1)))[0]
    rows, columns = table.sum(1), table.sum(0)
    product = float(rows.prod() * columns.prod())
    return float((table[0, 0] * table[1, 1] - table[0, 1] * table[1, 0]) / np.sqrt(product)) if product else 0.0


def simulate(
    views: Sequence[View],
    stills: Sequence[Still],
    sensor: sensors.Sensor,
    seed: int,
    *,
    frames: bool = False,
) -> list[View]:
    """As many frames of the still geometry as the sensor model gives them.

    Args:
        views: of the capture.
        stills: their geometry.
        sensor: the model.
        seed: of its noise.
        frames: simulate the capture's own frames, smoothed, instead: for captures in which nothing stands still.
            Only those that local deviation looks at are made, the others are empty.
    """
    out = []
    for view, still in zip(views, stills, strict=True):
        codes = np.zeros_like(view.codes)
        for i in local_frames(view) if frames else range(len(codes)):
            depth = smoothed(view, i) if frames else still.filled_mm
            codes[i] = _take(view, depth, sensor, seed, i)
        out.append(replace(view, codes=codes))
    return out
