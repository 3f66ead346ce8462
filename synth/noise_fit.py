"""From an unlabelled capture to the parameters of a depth sensor model, each with its spread and how far to trust it.

Direct estimators (`noise_models`) of the capture's statistics give a first set. Then the capture's own still
geometry is sent through the sensor model with that set, the same estimators are applied, and the parameters are
moved by the difference until both agree (indirect inference, Gourieroux, Monfort & Renault 1993):

    p ← p + 0.7 (T(real) − T(simulated with p))

which takes out what the estimators themselves distort: averaging, rounding, angles fitted to noisy depth. Spreads
are those of T(real) − T(simulated) over a bootstrap of image parts. What the capture does not show stays at the
published default and is said to.

Tolerances on captures of the virtual rig with known parameters (tests/synth/test_noise_fit.py: 40 frames of two
cameras, a person before a wall): σ within 10 %, its growth 20 %, stereo's `slant` 0.2 and `shared` 0.1; baseline
15 %, baseline / step 2 %, edge jitter 0.15 px, a time-of-flight pixel's footprint 0.6 px; holes at edges 0.08 (time
of flight 0.1), `hole` 0.01, grazing angles 5°; sides, block and window exactly. Noise below 0.15 of a step of depth,
and whatever else is not seen, is said not to be identified.

Cost: 4 s for two cameras of 320 × 240, 40 frames, the kernels compiled; of longer captures 48 frames a camera are read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.recording import Recording
from . import noise_estimates as est
from .noise_measure import Measured, measure, simulate, without_jitter
from .noise_models import LIMITS, Estimate, choose_model, direct, first_estimates, moved
from .noise_scene import View, sample_views
from .noise_statistics import Sums, gather
from .sensor import Sensor, SensorName

F64 = NDArray[np.float64]

ModelName = Literal["auto", "structured-light", "stereo", "tof"]
Progress = Callable[..., None]

TOLERANCES: Final = (
    "On captures of a virtual rig with known sensors the estimates were within: σ 10 %, its growth 20 %, baseline "
    "15 %, baseline / step 2 %, edge jitter 0.15 px, footprint 0.6 px, holes at edges 0.08 (time of flight 0.1), "
    "grazing angles 5°. The spread is that of a bootstrap over parts of the images; it knows nothing of what the "
    "model lacks. Without truth neither bias nor the growth of edges can be seen."
)
ROUNDS: Final = 5
"""Of simulating and moving the parameters ..."""
RATE: Final = 0.7
"""... by so much of the difference: estimates of holes at edges move up to 1.8 times as fast as the parameter."""
RESAMPLES: Final = 40


@dataclass(frozen=True, slots=True)
class NoiseFit:
    """What was found."""

    model: SensorName
    why: str
    """Why this model."""
    sensor: Sensor
    estimates: list[Estimate]
    notes: list[str]
    measured: Measured
    synthetic: Sums
    """Statistics of the same geometry as the fitted sensor sees it."""
    simulated: list[View]


def fit_noise(
    recording: Recording, *, model: ModelName = "auto", seed: int, progress: Progress | None = None
) -> NoiseFit:
    """Estimate the parameters of a sensor model from a capture.

    Args:
        recording: with full frames.
        model: the sensor model, or `auto` to choose.
        seed: of the simulated noise and of the bootstrap.
        progress: told of the steps done.

    Raises:
        HandloomError: no full frames, too few of them, all empty.
    """
    steps = 4 + ROUNDS

    def tell(done: int, note: str = "") -> None:
        if progress is not None:
            progress(done, steps, note=note)

    tell(0, "reading frames")
    measured = measure(sample_views(recording), tell=lambda note: tell(1, note))
    chosen, why = choose_model(measured) if model == "auto" else (model, "asked for")
    if chosen == "tof":
        measured = without_jitter(measured)
    tell(2, "first estimates")

    def spread_of(sensor: Sensor) -> dict[str, float]:
        return _spread(measured.groups, lambda w: direct(measured.sums, w, sensor), lambda _: {}, seed)

    start, findings = first_estimates(measured, chosen, spread_of)
    estimates = [findings.found[name] for name in asdict(start)]
    free = [e.name for e in estimates if e.identified and e.name in findings.direct]
    tell(3, "comparing with simulated frames")
    sensor, simulated, synthetic = _refine(measured, start, free, seed, lambda i: tell(3 + i, "simulating"))
    spread = _spread(
        measured.groups,
        lambda w: direct(measured.sums, w, sensor),
        lambda w: direct(synthetic, w, sensor),
        seed,
    )
    final = asdict(sensor)
    estimates = [replace(e, value=final[e.name], sd=spread.get(e.name) if e.name in free else e.sd) for e in estimates]
    tell(steps)
    return NoiseFit(chosen, why, sensor, estimates, findings.notes, measured, synthetic, simulated)


def summary(fit: NoiseFit) -> dict[str, Any]:
    """Plain values, for `--json` and the report."""
    m = fit.measured
    return {
        "model": fit.model,
        "why": fit.why,
        "parameters": {e.name: {k: v for k, v in asdict(e).items() if k != "name"} for e in fit.estimates},
        "not_identified": [e.name for e in fit.estimates if not e.identified],
        "notes": fit.notes,
        "cameras": [view.camera.name for view in m.views],
        "frames": [len(view.rows) for view in m.views],
        "baseline_per_step_mm_px": m.levels.quantum_px or None,
        "depth_range_mm": list(m.depth_range_mm),
        "flying_share": est.flying_share(m.sums, np.ones(m.groups)),
        "neighbour_correlation": est.neighbours(m.sums)[1:5].tolist(),
        "shadow_agreement": m.shadow.agreement,
    }


def check_outputs(out: Path, *others: Path | None, overwrite: bool) -> None:
    """Refuse what cannot be written before the work is done.

    Raises:
        HandloomError: the sensor's file would not be read as one, or a file is there already.
    """
    if out.suffix not in (".yaml", ".yml"):
        raise HandloomError("A sensor's file ends in .yaml", where=str(out), fix=f"--out {out.with_suffix('.yaml')}")
    for path in (out, *others):
        if path is not None and path.exists() and not overwrite:
            raise HandloomError("The output exists already", where=str(path), fix="add --overwrite, or choose another")


def table(fit: NoiseFit) -> list[str]:
    """What was found, as lines of 80 columns."""
    from textwrap import wrap

    lines = [*wrap(fit.why, 80), "", f"{'parameter':<19}{'estimated':>10}{'±':>9}{'published':>11}"]
    for e in fit.estimates:
        if e.identified:
            sd = "" if e.sd is None else f"{e.sd:.2g}"
            lines.append(f"{e.name:<19}{shown(e.value):>10}{sd:>9}{shown(e.default):>11}")
    lines.append("")
    kept = [e for e in fit.estimates if not e.identified]
    if kept:
        lines.append("not identified, kept at the published default:")
        lines += [
            line
            for e in kept
            for line in wrap(f"{e.name}: {e.note}", 80, initial_indent="  ", subsequent_indent="    ")
        ]
    for note in fit.notes:
        lines += wrap(f"note: {note}", 80, subsequent_indent="  ")
    return lines


def shown(value: float | int | bool) -> str:
    """A parameter's value in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _refine(
    m: Measured, start: Sensor, free: list[str], seed: int, tell: Callable[[int], None]
) -> tuple[Sensor, list[View], Sums]:
    """Move the free parameters until the simulated statistics agree with the real ones."""
    ones = np.ones(m.groups)
    sensor = start
    target = direct(m.sums, ones, sensor)
    frames = not m.has_still
    for i in range(ROUNDS):
        simulated = simulate(m.views, m.stills, sensor, seed + i, frames=frames)
        now = direct(gather(simulated, m.stills, m.edges, m.levels), ones, sensor)
        values = {}
        for name in free:
            if name in now:
                low, high = LIMITS[name]
                values[name] = float(np.clip(getattr(sensor, name) + RATE * (target[name] - now[name]), low, high))
        if "grazing_to_deg" in values:
            values["grazing_to_deg"] = max(values["grazing_to_deg"], values["grazing_from_deg"] + 1)
        sensor = moved(sensor, values)
        tell(i + 1)
    simulated = simulate(m.views, m.stills, sensor, seed + ROUNDS, frames=frames)
    return sensor, simulated, gather(simulated, m.stills, m.edges, m.levels)


def _spread(
    groups: int, real: Callable[[F64], dict[str, float]], synthetic: Callable[[F64], dict[str, float]], seed: int
) -> dict[str, float]:
    """Standard deviation of the estimates (less the simulated ones) when image parts are drawn anew."""
    rng = np.random.default_rng([seed, 7])
    drawn: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, groups, groups), minlength=groups).astype(np.float64)
        other = synthetic(weights)
        for name, value in real(weights).items():
            if not other or name in other:
                drawn.setdefault(name, []).append(value - other.get(name, 0.0))
    return {name: float(np.std(values)) for name, values in drawn.items()}
