"""What training holds, and for how long."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handloom.learn import train as training
from handloom.learn.data import TrainingData
from handloom.learn.updates import adam


@pytest.mark.parametrize("arm", ["full", "synthetic-only", "preview", "scratch", "nearest"])
def test_a_run_that_is_done_gives_its_images_back_at_once(
    arm: str, trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several trainings in one process held the images of each until the garbage collector came by: 8 GB after 14."""
    held: list[weakref.ref[Any]] = []
    load = training.load_training_data

    def watched(*args: Any, **given: Any) -> TrainingData:
        data = load(*args, **given)
        held.append(weakref.ref((data.real or data.synth).crops))
        return data

    monkeypatch.setattr(training, "load_training_data", watched)
    adam([torch.zeros(1, requires_grad=True)])  # the first brings imports that keep their callers
    gc.collect()
    gc.disable()
    try:
        trained(tmp_path / "run", arm)
        assert [images() for images in held] == [None]
    finally:
        gc.enable()
