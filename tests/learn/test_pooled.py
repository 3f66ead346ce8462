"""Training on synthetic images that are read through a pool: the same promises as with all of them in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray

from handloom.learn import pooled
from handloom.learn.batches import cut, still
from handloom.learn.config import TrainConfig
from handloom.learn.data import load_training_data
from handloom.learn.model import read_checkpoint
from handloom.learn.murauer_nets import Architecture
from handloom.learn.pooled import PooledCrops, with_memory
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError

CPU = torch.device("cpu")
SET_MB = 48 * 3 * 192 * 192 * 2 / 1e6
"""The synthetic set of `recordings`."""


def murauer(arm: str = "full", **values: Any) -> TrainConfig:
    small = Architecture(features="plain", stem=4, channels=(8,), mid=(), feature_width=16, view_channels=(8, 4))
    given = {"architecture": small, "batch": 12, "input_px": 16, "labels": 5, "memory_mb": 5}
    steps = {"pretrain_steps": 3, "joint_steps": 0 if arm == "synthetic-only" else 4, "log_every": 1, "save_every": 2}
    return preset("murauer", "quick", arm, given | steps | values)


def crossing(**values: Any) -> TrainConfig:
    steps = {"vae_steps": 2, "gan_steps": 2, "align_steps": 2, "joint_steps": 2, "log_every": 1, "save_every": 3}
    given = {"batch": 4, "vae_batch": 8, "gan_batch": 4, "labels": 5, "memory_mb": 5}
    return preset("crossing", "quick", "full", steps | given | values)


class Killed(Exception):
    pass


def kill_at(step: int) -> Any:
    def progress(done: int, total: int, metrics: Any) -> None:
        if done >= step:
            raise Killed

    return progress


def weights(run: Path) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in read_checkpoint(run)["weights"].items()}


def same(one: Path, two: Path) -> bool:
    a, b = weights(one), weights(two)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("config", [murauer(), crossing()], ids=["murauer", "crossing"])
def test_a_pooled_run_is_deterministic_and_resumes_to_the_same_bits(
    tmp_path: Path, recordings: SimpleNamespace, config: TrainConfig
) -> None:
    given: dict[str, Any] = {"synth": [recordings.synth, recordings.twins], "real": recordings.real}
    train(config, run_dir=tmp_path / "a", **given)
    with pytest.raises(Killed):
        train(config, run_dir=tmp_path / "cut", progress=kill_at(5), **given)
    train(config, run_dir=tmp_path / "cut", resume=True, **given)
    assert same(tmp_path / "a", tmp_path / "cut")


def test_a_pooled_stream_gives_each_crop_once_an_epoch_with_its_own_image(recordings: SimpleNamespace) -> None:
    data = load_training_data(murauer("synthetic-only"), synth=[recordings.synth], real=None, device=CPU)
    whole = load_training_data(
        murauer("synthetic-only", memory_mb=None), synth=[recordings.synth], real=None, device=CPU
    )
    assert data.synth is not None
    assert whole.synth is not None
    assert data.pooling is not None
    assert whole.pooling is None
    assert data.synth.crops.numel() == 0
    for items in (data.synth.singles()[:, None], data.synth.pairs()):
        stream = PooledCrops(data.pooling, items, data.synth.views, "s", streams=1)
        seen = []
        for step in range(len(items) // 16):
            place, stored = stream.draw(step, 16)
            seen += place.tolist()
            assert torch.equal(stored, whole.synth.crops[items[place]])
        stream.close()
        assert len(set(seen)) == len(seen) == len(items) // 16 * 16
    crop = torch.tensor([7, 100, 30])
    geometry = still(whole.synth, crop)
    asked: dict[str, Any] = {"input_px": 32, "cube_mm": 300.0}
    one = cut(whole.synth, crop, geometry, **asked)
    two = cut(data.synth, crop, geometry, stored=whole.synth.crops[crop], **asked)
    assert torch.equal(one.image, two.image)


def test_memory_is_decided_once_and_written_down(
    tmp_path: Path, recordings: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = murauer("synthetic-only", memory_mb="auto")
    given: dict[str, Any] = {"synth": [recordings.synth], "real": None, "run_dir": tmp_path / "run"}
    assert with_memory(config, [recordings.synth], CPU).memory_mb is None
    monkeypatch.setattr(pooled, "free_bytes", lambda: int(SET_MB * 2e6))
    assert with_memory(config, [recordings.synth], CPU).memory_mb == int(0.6 * SET_MB)
    with pytest.raises(Killed):
        train(config, progress=kill_at(2), **given)
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["memory_mb"] == int(0.6 * SET_MB)
    monkeypatch.setattr(pooled, "free_bytes", lambda: int(SET_MB * 1e8))
    train(config, resume=True, **given)  # on a larger machine: still the pool it was started with
    with pytest.raises(HandloomError, match="memory_mb"):
        train(murauer("synthetic-only", memory_mb=4), resume=True, **given)


def test_too_small_a_pool_and_a_method_without_steps_are_refused(tmp_path: Path, recordings: SimpleNamespace) -> None:
    given: dict[str, Any] = {"synth": [recordings.synth, recordings.twins], "real": recordings.real}
    with pytest.raises(HandloomError, match=r"A pool of 0\.333333 MB is too small") as caught:
        train(murauer(memory_mb=1), run_dir=tmp_path / "small", **given)
    assert "sub-batch 'synth'" in caught.value.where
    with pytest.raises(HandloomError, match="looks at all synthetic images at once"):
        train(preset("crossing", "quick", "nearest", {"memory_mb": 5}), run_dir=tmp_path / "nearest", **given)
