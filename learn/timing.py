"""How long a step takes here: a few real steps of each stage, on a few real frames.

The networks, batches and updates are the run's own; only the recordings are cut to some frames, so that nothing large
is read. What a step costs does not hang on how many frames it could have drawn from. Costs seconds, and tells wall
time on the machine as busy as it is.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from ..stores.joints import Layout
from ..stores.reading import Resident, load_resident
from ..stores.recording import Recording
from .batches import Bank, bank_of
from .config import TrainConfig
from .crossing_recipe import CrossingConfig
from .data import TrainingData, training_rows
from .device import WARM_UP
from .model import method_module
from .murauer_recipe import MurauerConfig

FRAMES: Final = 48
"""Of each recording."""
SECONDS: Final = 2.0
"""For the steps of a stage that are timed; one is made however long it takes."""
MOST_STEPS: Final = 40


@dataclass(frozen=True, slots=True)
class StageTime:
    """A stage of a training and what a step of it takes."""

    stage: str
    steps: int
    """That the configuration asks for."""
    step_s: float
    """Seconds a step, median of the timed ones."""
    cpu_s: float
    """Seconds of all cores together that a step takes: what else runs here does not count."""
    timed: int

    @property
    def seconds(self) -> float:
        """The whole stage."""
        return self.steps * self.step_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def stages_of(config: TrainConfig) -> tuple[tuple[str, int], ...]:
    """The stages of a configuration and their steps, in order; those without steps are left out."""
    if isinstance(config, CrossingConfig):
        return config.stages
    assert isinstance(config, MurauerConfig)
    plan = (("pretraining", config.pretrain_steps), ("joint", config.joint_steps))
    return tuple((stage, steps) for stage, steps in plan if steps)


def time_stages(
    config: TrainConfig,
    *,
    synth: Recording | None,
    real: Recording | None,
    labelled: NDArray[np.int64],
    layout: Layout,
    device: torch.device,
    seconds: float = SECONDS,
) -> tuple[StageTime, ...] | None:
    """Make some steps of each stage and take the time; None where a GPU's memory does not hold a step.

    Args:
        config: the run's.
        synth: a synthetic recording with crops, where the arm learns from one.
        real: the captured one.
        labelled: (n,) rows of `real` whose labels are in use.
        layout: of the points predicted.
        device: where it would train.
        seconds: for each stage.
    """
    learner = method_module(config.method, config.arm).Learner(
        config, _some(config, synth, real, labelled, layout, device)
    )
    learner.nets.train()
    found, first = [], 0
    try:
        for stage, steps in stages_of(config):
            found.append(_timed(learner, stage, first, steps, device, seconds))
            first += steps
    except torch.OutOfMemoryError:
        return None
    return tuple(found)


def _timed(learner: Any, stage: str, first: int, steps: int, device: torch.device, seconds: float) -> StageTime:
    """Steps of one stage, the first of them untimed: memory is taken and kernels are chosen there."""
    warm = min(WARM_UP + 2 if device.type == "cuda" else 1, steps - 1)
    took: list[float] = []
    cpu: list[float] = []
    started = time.perf_counter()
    for step in range(min(steps, warm + MOST_STEPS)):
        before, worked = time.perf_counter(), time.process_time()
        learner.step(first + step, log=False)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        if step < warm:
            started = now
            continue
        took.append(now - before)
        cpu.append(time.process_time() - worked)
        if now - started >= seconds:
            break
    return StageTime(stage, steps, statistics.median(took), statistics.median(cpu), len(took))


def _some(
    config: TrainConfig,
    synth: Recording | None,
    real: Recording | None,
    labelled: NDArray[np.int64],
    layout: Layout,
    device: torch.device,
) -> TrainingData:
    """Some frames of each recording; captured frames stand for their own twins, which cost the same."""

    def bank(data: Resident, known: NDArray[np.bool_] | None) -> Bank:
        return bank_of(
            [data],
            layout=layout,
            labelled=None if known is None else [known],
            offset_true_mm=config.offset_true_mm,
            offset_located_mm=config.offset_located_mm,
            located=False,
            device=device,
        )

    rendered = bank(load_resident(synth, rows=_spread(training_rows(synth))), None) if synth is not None else None
    captured, n, frames = None, 0, 0
    if real is not None:
        rows = np.union1d(_spread(labelled, FRAMES // 2), _spread(training_rows(real)))
        known = np.isin(rows, labelled)
        # Labelled frames first: `labelled` below counts on it. `load_resident` takes ascending rows.
        data = load_resident(real, rows=rows)
        captured, n, frames = bank(data, known), int(known.sum()), len(rows)
        chosen = torch.from_numpy(np.flatnonzero(known))
    else:
        chosen = torch.zeros(0, dtype=torch.int64)
    return TrainingData(
        layout=layout,
        hand=(real or synth).hand,  # type: ignore[union-attr]  # there is one of them
        synth=rendered,
        twins=captured if n else None,
        real=captured,
        labelled=chosen.to(device),
        twin_of=chosen.to(device),
        unlabelled=torch.arange(frames, device=device),
        sources={},
    )


def _spread(rows: NDArray[np.int64], count: int = FRAMES) -> NDArray[np.int64]:
    """Some of them, evenly spread."""
    if not len(rows):
        return rows
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64))
    return rows[places]


def total_s(times: Sequence[StageTime]) -> float:
    """Seconds of all stages together."""
    return sum(stage.seconds for stage in times)
