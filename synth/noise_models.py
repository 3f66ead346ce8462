"""What a capture's statistics say of the parameters of each sensor model: first estimates, before any simulation.

Structured light   σ = axial + growth (z − 0.4)² + grazing z^−½ θ² / (π/2 − θ)², by least squares over cells
Stereo             σ f b / z² = subpixel (1 + slant (1/cos θ − 1)), likewise; shared noise and its window from the
                   correlation of neighbours
Time of flight     σ = axial + growth z² / cos θ; the footprint from the share of flying pixels at edges

Baselines follow from shadows, steps of disparity from the comb of levels, which knows baseline / step to a
thousandth; where the step is then within 10 % of a binary fraction of a pixel, which is how devices count, it is
taken to be that. Not seen in any capture: bias (there is no truth to compare), `edge_mm` (the edges of a scene are
far larger), light by way of other walls, and the limits of range unless something lies beyond them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from . import noise_estimates as est
from .noise_measure import MIN_SETTLED, Measured
from .noise_statistics import GRAZING_BINS, Sums
from .sensor import ActiveStereo, Sensor, SensorName, TimeOfFlight, sensor_name, sensor_type

F64 = NDArray[np.float64]

MIN_EDGES: Final = 40
MIN_FLYING: Final = 0.06
"""Share of returns at edges between both surfaces that says pixels fly; jitter and noise leave 0.01 to 0.03."""
MIN_SHARED: Final = 0.2
"""Correlation of neighbours that says a matching window made them."""
STEREO_ANGLES: Final = 4
"""Index of the last of ANGLE_BINS, 52° to 58°, whose noise says something of stereo's."""
FLYING_PER_PX: Final = 0.03
"""Share of flying pixels at edges that a pixel of footprint adds, about: only the rate of the refinement."""
MAX_ANGLE_SD: Final = 3.0
MIN_STEPS: Final = 0.15
"""Noise, in steps of depth, below which its size is not to be had."""
SHADOW_ERROR: Final = 0.04
"""Relative error of a baseline from shadows; of known ones the estimates were 0 to 6 % low."""
LIMITS: Final[dict[str, tuple[float, float]]] = {
    "axial_mm": (0.0, 50.0),
    "axial_growth_mm": (0.0, 50.0),
    "axial_grazing_mm": (0.0, 5.0),
    "subpixel_px": (0.0, 2.0),
    "slant": (0.0, 5.0),
    "lateral_px": (0.0, 3.0),
    "wobble_px": (0.0, 2.0),
    "footprint_px": (0.1, 4.0),
    "edge_hole": (0.0, 1.0),
    "hole": (0.0, 0.5),
    "grazing_from_deg": (0.0, 88.0),
    "grazing_to_deg": (1.0, 89.9),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """One parameter."""

    name: str
    value: float | int | bool
    default: float | int | bool
    """The published one."""
    sd: float | None = None
    """Standard deviation, where there is one."""
    identified: bool = False
    note: str = ""


@dataclass(slots=True)
class Findings:
    """Estimates on their way."""

    measured: Measured
    default: dict[str, Any]
    direct: dict[str, float]
    spread: dict[str, float]
    found: dict[str, Estimate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, name: str, value: float, note: str = "", sd: float | None = None) -> None:
        """A parameter that the capture shows."""
        self.found[name] = Estimate(name, type(self.default[name])(value), self.default[name], sd, True, note)

    def keep(self, name: str, note: str, value: float | None = None) -> None:
        """One that it does not show."""
        kept = self.default[name] if value is None else value
        self.found[name] = Estimate(name, kept, self.default[name], note=note)


def choose_model(m: Measured) -> tuple[SensorName, str]:
    """The model that the statistics look like, and why."""
    ones = np.ones(m.groups)
    flying, lit = est.flying_share(m.sums, ones), float(m.sums.flips[:, 0].sum())
    alike = float(est.neighbours(m.sums)[2])
    stepped, shadows = m.levels.quantum_px > 0, m.shadow.seen
    levels = "depth comes in levels evenly spaced in 1/z" if stepped else "depth has no levels in 1/z"
    if not m.has_still:
        return "structured-light", f"{levels}; nothing stands still, so that neighbours and edges say nothing"
    if lit >= MIN_EDGES and flying >= MIN_FLYING and not stepped:
        return "tof", f"{levels}, and {100 * flying:.0f} % of the returns at edges lie between both surfaces"
    if alike >= MIN_SHARED:
        return "stereo", f"{levels}; pixels two apart share noise (correlation {alike:.2f}), as a matching window makes"
    if stepped:
        return "structured-light", f"{levels}; neighbours' noise is independent (correlation {alike:.2f})"
    if shadows:
        return (
            "structured-light",
            f"{levels}, but holes lie in shadows of one side (agreement {m.shadow.agreement:.2f})",
        )
    return "tof", f"{levels}, no shadow lies beside things"


def direct(sums: Sums, weights: F64, sensor: Sensor) -> dict[str, float]:
    """First estimates of what simulation refines, of the model and with the baseline of `sensor`."""
    local = float(est.total(sums.deviation[..., 0], weights).sum()) < MIN_SETTLED
    c = est.cells(sums, weights, local=local)
    out: dict[str, float] = {}
    z = c.z_mm / 1000
    error = est.cell_error(c, 15) if len(z) else c.z_mm
    match sensor:
        case ActiveStereo():
            per_px = c.z2_per_fx / sensor.baseline_mm
            columns, names = [per_px, per_px * (c.secant - 1)], ["subpixel_px", "slant"]
        case TimeOfFlight():
            columns, names = [np.ones_like(z), z**2 * c.secant], ["axial_mm", "axial_growth_mm"]
        case _:
            columns = [np.ones_like(z), (z - 0.4) ** 2, c.grazing]
            names = ["axial_mm", "axial_growth_mm", "axial_grazing_mm"]
    # Across a window steep surfaces look like edges to a stereo matcher: their noise does not grow any more.
    use = c.angle <= STEREO_ANGLES if isinstance(sensor, ActiveStereo) else c.angle >= 0
    if use.sum() >= 2 * len(names):
        found = est.least_squares([column[use] for column in columns], c.sigma_mm[use], error[use])
        out |= dict(zip(names, found.tolist(), strict=True))
    if "slant" in out:
        out["slant"] /= max(out["subpixel_px"], 1e-6)
    if float(est.total(sums.flips, weights)[0]) > 0:
        jitter = est.edge_jitter(sums, weights)
        match sensor:
            case ActiveStereo():
                out["wobble_px"] = jitter
            case TimeOfFlight():
                out["footprint_px"] = est.flying_share(sums, weights) / FLYING_PER_PX
            case _:
                out["lateral_px"] = jitter
        # A window's worth of pixels fails with an edge, or one on either side of it.
        width = sensor.window_px if isinstance(sensor, ActiveStereo) else 2
        out["edge_hole"] = est.edge_holes(sums, weights) * 2 / width
    if isinstance(sensor, ActiveStereo):
        out["hole"] = est.plain_holes(sums, weights)
    angles = est.grazing_range(sums, weights)
    if angles is not None:
        out |= {"grazing_from_deg": angles[0], "grazing_to_deg": angles[1]}
    return out


def first_estimates(
    m: Measured, model: SensorName, spread_of: Callable[[Sensor], dict[str, float]]
) -> tuple[Sensor, Findings]:
    """A first sensor of a model, and what is known of each of its parameters.

    Args:
        m: the capture.
        model: the model's name.
        spread_of: gives the standard deviations of `direct` with a sensor's baseline.
    """
    ones = np.ones(m.groups)
    published: Sensor = sensor_type(model)()
    f = Findings(m, asdict(published), {}, {})
    if not m.has_still:
        f.notes.append(
            "Nothing stands still before these cameras: noise is measured on little planes in single frames, edges "
            "and holes cannot be told from shape, and their parameters stay at the published defaults."
        )
    if model != "tof":
        _disparity(f, "projector" if model == "structured-light" else "second_imager")
    start = _sensor(published, f)
    f.direct, f.spread = direct(m.sums, ones, start), spread_of(start)
    match model:
        case "structured-light":
            _deviation(f, {"axial_mm": 0.5, "axial_growth_mm": 0.5, "axial_grazing_mm": 0.5})
            _at_edges(f, "lateral_px")
            _blocks(f)
        case "stereo":
            _deviation(f, {"subpixel_px": 0.5, "slant": 1.0})
            _at_edges(f, "wobble_px")
            _window(f)
            if m.has_still:
                f.take("hole", f.direct["hole"])
            else:
                f.keep("hole", "nothing stands still")
            f.keep("search_px", "nothing is seen nearer")
        case "tof":
            _deviation(f, {"axial_mm": 0.5, "axial_growth_mm": 0.5})
            _at_edges(f, "footprint_px")
            for name in ("modulation_mhz", "wraps"):
                f.keep(name, "not seen in depth")
            f.keep("cover_min", "nothing lies before nothing")
            for name in ("multipath", "multipath_deg"):
                f.keep(name, "needs the true shape of a corner")
    _grazing(f)
    f.keep("edge_mm", "edges of the scene are far larger")
    for name in ("bias_mm", "bias_per_m_mm"):
        f.keep(name, "needs true distances")
    low, high = m.depth_range_mm
    f.keep("min_mm", f"returns begin at {low:.0f} mm", min(low, f.default["min_mm"]))
    f.keep("max_mm", f"returns end at {high:.0f} mm", max(high, f.default["max_mm"]))
    return _sensor(published, f), f


def moved(sensor: Sensor, values: dict[str, Any]) -> Sensor:
    """The same model with other values of some parameters."""
    return sensor_type(sensor_name(sensor))(**{**asdict(sensor), **values})


def _sensor(published: Sensor, f: Findings) -> Sensor:
    return moved(published, {name: estimate.value for name, estimate in f.found.items()})


def _deviation(f: Findings, least: dict[str, float]) -> None:
    """Take noise parameters whose spread is small beside them, or beside so much of the published ones."""
    c = est.cells(f.measured.sums, np.ones(f.measured.groups), local=not f.measured.has_still)
    face_on = c.angle <= 2
    steps = float(np.median(c.sigma_mm[face_on] / c.step_mm[face_on])) if face_on.any() else 1.0
    for name, share in least.items():
        if name not in f.direct:
            f.keep(name, "no smooth surface is large enough")
        elif steps < MIN_STEPS:
            f.keep(name, f"noise is {steps:.2f} of a step of depth: rounding hides it")
        elif f.spread[name] <= 0.25 * max(f.direct[name], share * float(f.default[name])):
            f.take(name, f.direct[name])
        else:
            f.keep(name, f"uncertain: {f.direct[name]:.2g} ± {f.spread[name]:.2g}")


def _disparity(f: Findings, side: str) -> None:
    """Baseline, its side, and the step of disparity."""
    m, default = f.measured, f.default
    seen = m.shadow.seen
    baseline = m.shadow.baseline_mm if seen else float(default["baseline_mm"])
    sd = SHADOW_ERROR * baseline
    step = baseline / m.levels.quantum_px if m.levels.quantum_px else 0.0
    whole = 2.0 ** round(np.log2(step)) if step else 0.0
    if seen and step and abs(step / whole - 1) < 2.5 * SHADOW_ERROR:
        # Devices count disparity in binary fractions of a pixel, and the comb is far better known than the shadow.
        rough, baseline, step, sd = baseline, whole * m.levels.quantum_px, whole, whole * m.levels.quantum_sd
        f.take("baseline_mm", baseline, f"step taken as {_fraction(whole)} px; shadows say {rough:.0f} mm", sd)
    elif seen:
        f.take("baseline_mm", baseline, f"shadows agree with holes by {m.shadow.agreement:.2f}", sd)
    if seen:
        f.take(side, m.shadow.side, "shadows fall to the " + ("left" if m.shadow.side > 0 else "right"))
    else:
        f.keep("baseline_mm", "no shadow is seen")
        f.keep(side, "no shadow is seen")
    if m.levels.quantum_px:
        note = f"baseline / step = {m.levels.quantum_px:.1f} mm/px" + ("" if seen else ", baseline assumed")
        f.take("disparity_step_px", step, note, sd / m.levels.quantum_px if seen else None)
        if abs(m.levels.offset) > 0.1:
            shift = f"{m.levels.offset:+.2f} steps"
            f.notes.append(f"The disparity levels lie {shift} beside whole steps, where the model has them.")
        return
    finest = min(
        1.5 * v.camera.depth_unit_mm * m.levels.unit_codes * v.camera.k[0] * baseline / m.depth_range_mm[1] ** 2
        for v in m.views
    )
    if finest < float(default["disparity_step_px"]):
        f.take("disparity_step_px", 0.0, f"no steps; any are below {finest:.3f} px")
    else:
        f.keep("disparity_step_px", f"the depth unit hides steps below {finest:.3f} px")


def _at_edges(f: Findings, name: str) -> None:
    count = float(f.measured.sums.flips[:, 0].sum())
    for each in (name, "edge_hole"):
        # The direct estimate of holes counts rims that fail by their angle: refined from the published value.
        if count >= MIN_EDGES:
            f.take(each, f.default[each] if each in ("edge_hole", "footprint_px") else f.direct[each])
        else:
            f.keep(each, f"needs {MIN_EDGES} still pieces of edges, found {count:.0f}")


def _blocks(f: Findings) -> None:
    block, contrast = est.block_size(f.measured.sums)
    pairs = float(f.measured.sums.columns[:, 1].sum())
    if f.measured.has_still and contrast > 0.15:
        f.take("block_px", block, f"pixels fail together {contrast:.2f} more inside than across")
    elif f.measured.has_still and pairs > 20:
        f.take("block_px", 1, "neighbours fail on their own")
    else:
        f.keep("block_px", "too few holes to tell")


def _window(f: Findings) -> None:
    if not f.measured.has_still:
        f.keep("shared", "nothing stands still")
        f.keep("window_px", "nothing stands still")
        return
    share, window = est.shared_noise(f.measured.sums)
    f.take("shared", share)
    if share > 0.1:
        f.take("window_px", window, "noise is shared so far; growth of edges is not seen, taken as the model has it")
    else:
        f.keep("window_px", "neighbours share no noise")


def _grazing(f: Findings) -> None:
    known = "grazing_from_deg" in f.direct and f.measured.has_still
    # A rise that ends beyond 90° was not followed far enough to say where.
    if known and f.spread["grazing_from_deg"] <= MAX_ANGLE_SD and f.direct["grazing_to_deg"] < 90:
        f.take("grazing_from_deg", f.direct["grazing_from_deg"])
        f.take("grazing_to_deg", f.direct["grazing_to_deg"])
        return
    rate, _ = est.hole_rates(f.measured.sums, np.ones(f.measured.groups))
    seen = np.flatnonzero(np.isfinite(rate))
    steepest = float(GRAZING_BINS[seen[-1] + 1]) if len(seen) else 0.0
    why = (
        "holes do not follow angle, or not far enough"
        if steepest > f.default["grazing_from_deg"] + 6
        else f"seen up to {steepest:.0f}°"
    )
    for name in ("grazing_from_deg", "grazing_to_deg"):
        f.keep(name, why)


def _fraction(value: float) -> str:
    return f"1/{round(1 / value)}" if value < 1 else f"{value:g}"
