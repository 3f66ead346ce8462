"""Crossing Nets of a few thousand weights, for tests: 32 px, a step or three a stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from handloom.learn import crossing
from handloom.learn.crossing_nets import CrossingNets
from handloom.learn.crossing_recipe import CrossingConfig
from handloom.learn.data import TrainingData

MakeData = Callable[..., TrainingData]
STAGES = {"vae_steps": 3, "gan_steps": 2, "align_steps": 2, "joint_steps": 3}


def tiny(arm: str = "full", **overrides: Any) -> CrossingConfig:
    """A configuration for a 32 px network of a few thousand weights."""
    values: dict[str, Any] = {
        "input_px": 32,
        "channels": 4,
        "batch": 8,
        "gan_batch": 6,
        "vae_batch": 16,
        "log_every": 1,
    }
    config = crossing.preset("quick", arm, **(values | STAGES | overrides))
    assert isinstance(config, CrossingConfig)
    return config


def data_for(config: CrossingConfig, make: MakeData, n: int = 8) -> TrainingData:
    return make(n, synth=config.needs.synth, real=config.needs.real)


def learner(config: CrossingConfig, make: MakeData, n: int = 8) -> crossing.Learner:
    made = crossing.Learner(config, data_for(config, make, n))
    made.nets.train()
    return made


def weights(nets: CrossingNets) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in nets.named_parameters()}


def trained(config: CrossingConfig, data: TrainingData) -> dict[str, Tensor]:
    run = crossing.Learner(config, data)
    run.nets.train()
    for index in range(run.total_steps):
        run.step(index, log=False)
    return weights(run.nets)
