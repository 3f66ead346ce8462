"""The losses of tiny seeded runs, term by term and step by step, as they were when they were last looked at.

A difference means that training computes something else than it did: other draws, another augmentation, other
networks, losses or updates. That is legitimate where it was meant, and then `golden_losses.json` is written again in
the same commit, whose message says why:

    HANDLOOM_GOLDEN=write python -m pytest tests/learn/test_golden.py

It is not legitimate where nothing of that was meant to change, such as faster code for the same arithmetic.

Sums of floats differ with the number of threads, the kernels and the CPU, and Adam divides by the size of gradients
that may be next to nothing. `TOLERANCE` was chosen from a run on one machine with its vector units held back
(ATEN_CPU_CAPABILITY=default, MKL_ENABLE_INSTRUCTIONS=SSE4_2, ONEDNN_MAX_CPU_ISA=SSE41), which sums in another order
as another CPU would: the largest differences are noted beside it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from handloom.learn import crossing, murauer, preview
from handloom.learn.data import TrainingData
from handloom.learn.murauer_nets import Architecture

MakeData = Callable[..., TrainingData]
GOLDEN = Path(__file__).with_name("golden_losses.json")
TOLERANCE = {"preview": 2e-3, "murauer": 1e-4, "crossing": 2e-2}
"""Relative, by the first word that a run's name has. Measured: 9e-5, 7e-6, and 7e-3 at ten times the rates that are
used here for Crossing Nets, whose games amplify what is not equal."""
TINY = Architecture(stem=4, channels=(6, 8), mid=(3, 4), blocks=2, feature_width=24, view_channels=(12, 8))
CROSSING = {
    "vae_steps": 3,
    "gan_steps": 3,
    "align_steps": 3,
    "joint_steps": 4,
    # A tenth of the preset's: Adam's first steps are as long as the rate, whatever the gradient, also where its sign
    # is a matter of rounding.
    "vae_rate": 3e-4,
    "gan_rate": 1e-4,
    "align_rate": 3e-4,
    "joint_rate": 2e-4,
}


def murauer_run(arm: str, toy_data: MakeData, *, n: int) -> murauer.Learner:
    synthetic = arm == "synthetic-only"
    values: dict[str, Any] = {"input_px": 32, "architecture": TINY, "batch": 32, "mapping_start": "default"}
    steps = {"pretrain_steps": 6 if synthetic else 3, "joint_steps": 0 if synthetic else 6, "learning_rate": 1e-3}
    config = murauer.preset("quick", arm, **(values | steps))
    assert isinstance(config, murauer.MurauerConfig)
    return murauer.Learner(config, toy_data(n, real=not synthetic))


def preview_run(toy_data: MakeData) -> preview.Learner:
    return preview.Learner(preview.preset("quick", batch=12, steps=4), toy_data(8, synth=False))


def crossing_run(toy_data: MakeData) -> crossing.Learner:
    sizes = {"input_px": 32, "channels": 6, "batch": 12, "gan_batch": 12, "vae_batch": 24, "cooldown": 0.0}
    config = crossing.preset("quick", "full", **(sizes | CROSSING))
    assert isinstance(config, crossing.CrossingConfig)
    return crossing.Learner(config, toy_data(8))


RUNS: dict[str, Callable[[MakeData], Any]] = {
    "murauer full": lambda make: murauer_run("full", make, n=8),
    "murauer full, no label": lambda make: murauer_run("full", make, n=0),
    "murauer control": lambda make: murauer_run("control", make, n=8),
    "murauer synthetic-only": lambda make: murauer_run("synthetic-only", make, n=0),
    "murauer preview": preview_run,
    "crossing full": crossing_run,
}


def losses(learner: Any) -> dict[str, list[float | None]]:
    """Each term at each step; None where the step's stage has none such."""
    learner.nets.train()
    steps = [learner.step(index, log=True) for index in range(learner.total_steps)]
    kept = ("loss/", "grad_m/", "train/", "lr")
    names = sorted({name for step in steps for name in step if name.startswith(kept)})
    return {name: [float(f"{float(step[name]):.7g}") if name in step else None for step in steps] for name in names}


def differences(found: dict[str, list[float | None]], golden: dict[str, list[float | None]]) -> dict[str, float]:
    """The largest relative difference of each term; infinite where one is missing."""
    worst: dict[str, float] = {}
    for name in sorted(found.keys() | golden.keys()):
        ours, theirs = found.get(name, []), golden.get(name, [])
        if [value is None for value in ours] != [value is None for value in theirs]:
            worst[name] = math.inf
            continue
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
        worst[name] = max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
    return worst


@pytest.mark.parametrize("run", RUNS)
def test_the_losses_are_those_of_last_time(run: str, toy_data: MakeData) -> None:
    found = losses(RUNS[run](toy_data))
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    if os.environ.get("HANDLOOM_GOLDEN") == "write":
        golden |= {run: found}
        terms = [
            f"{json.dumps(name)}: {{\n"
            + ",\n".join(f"  {json.dumps(term)}: {json.dumps(values)}" for term, values in golden[name].items())
            + "\n}"
            for name in RUNS
            if name in golden
        ]
        GOLDEN.write_text("{\n" + ",\n".join(terms) + "\n}\n")
        return
    allowed = next(value for name, value in TOLERANCE.items() if name in run)
    far = {name: worst for name, worst in differences(found, golden[run]).items() if not worst <= allowed}
    assert not far, f"{run}: {far}; see this file's first lines"


def test_a_changed_weight_of_a_loss_is_seen(toy_data: MakeData) -> None:
    """The tolerance is no blindfold: a term that weighs a tenth more is far outside it."""
    learner = murauer_run("full", toy_data, n=8)
    learner.updates.weights["correspondence"] *= 1.1
    worst = differences(losses(learner), json.loads(GOLDEN.read_text())["murauer full"])
    assert worst["grad_m/correspondence"] > 500 * TOLERANCE["murauer"]
    assert worst["loss/correspondence"] > 10 * TOLERANCE["murauer"]
