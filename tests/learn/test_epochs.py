"""Every stream of both methods gives each of its crops exactly once an epoch, however it is read and by how many."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from handloom.learn.config import TrainConfig
from handloom.learn.crossing_batches import Part, Pool, image_pool, labelled_pool, unlabelled_pool
from handloom.learn.crossing_recipe import CrossingConfig
from handloom.learn.data import TrainingData, load_training_data
from handloom.learn.murauer_batches import Batches
from handloom.learn.murauer_nets import Volume
from handloom.learn.murauer_recipe import MurauerConfig
from handloom.learn.pooled import PooledCrops
from handloom.learn.preview import PreviewConfig, streams_of
from handloom.learn.ranks import ALONE, Ranks
from handloom.learn.train import preset

EPOCHS = 2
SIZES: dict[str, dict[str, Any]] = {
    # Sub-batches of 10 and 6, of which none divides what there is to draw from.
    "murauer": {"batch": 40, "labels": 7},
    "murauer, preview": {"batch": 20, "labels": 7},
    "crossing": {"batch": 20, "gan_batch": 20, "vae_batch": 28, "labels": 7},
}


def config_of(method: str, memory_mb: int | None) -> TrainConfig:
    name, _, arm = method.partition(", ")
    values = SIZES[method] | ({} if arm else {"memory_mb": memory_mb})
    return preset(name, "quick", arm or "full", values)


def streams(config: TrainConfig, data: TrainingData, ranks: Ranks) -> Iterator[tuple[str, int, Any]]:
    """Name, number of crops and draws by step of every stream: places (n,), rolls (n,) and centres (n, 3)."""
    if isinstance(config, CrossingConfig):
        pools = {
            "poses": labelled_pool(config, data, "poses", config.vae_batch, images=False, ranks=ranks),
            "labelled": labelled_pool(config, data, "labelled", config.batch, ranks=ranks),
            "unlabelled": unlabelled_pool(config, data, "unlabelled", ranks),
            "images": image_pool(config, data, "images", ranks),
        }
        for name, pool in pools.items():
            for i, part in enumerate(pool.parts):
                yield f"{name} {i}", len(part.crops), lambda step, pool=pool, part=part: drawn(pool, part, step)
        return
    if isinstance(config, PreviewConfig):
        named = {stream.name: stream for stream in streams_of(config, data, ranks)}
    else:
        assert isinstance(config, MurauerConfig)
        made = Batches(config, data, Volume.of(data.synth, data.real), ranks)
        assert made._pretraining is not None
        named = {**made.streams, "pretraining": made._pretraining}
    for name, stream in named.items():

        def draw(step: int, stream: Any = stream) -> tuple[Tensor, Tensor, Tensor]:
            made = stream.draw(step)
            assert torch.equal(stream.items[made.place], made.items)
            return made.place, made.geometry.roll_rad, made.geometry.center_mm

        yield name, len(stream.items), draw


def drawn(pool: Pool, part: Part, step: int) -> tuple[Tensor, Tensor, Tensor]:
    crop, geometry, _ = pool._draw(part, step)
    # Crops ascend and are there once: their place tells them.
    return torch.searchsorted(part.crops, crop), geometry.roll_rad, geometry.center_mm


@pytest.mark.parametrize("memory_mb", [None, 5], ids=["resident", "pooled"])
@pytest.mark.parametrize("method", SIZES)
def test_each_crop_comes_once_an_epoch_whatever_the_batch_and_the_ranks(
    method: str, memory_mb: int | None, recordings: SimpleNamespace
) -> None:
    config = config_of(method, memory_mb)
    if memory_mb is not None and isinstance(config, PreviewConfig):
        return  # it has no synthetic set, which alone is pooled
    given = {"synth": [recordings.synth, recordings.twins], "real": recordings.real}
    data = load_training_data(config, device=torch.device("cpu"), **given)
    assert (data.pooling is not None) == (memory_mb is not None)
    alone = list(streams(config, data, ALONE))
    pair = [list(streams(config, data, Ranks(rank, 2))) for rank in range(2)]
    assert len(alone) >= 2
    divided = 0
    for (name, count, draw), *parts in zip(alone, *pair, strict=True):
        size = len(draw(0)[0])
        seen: list[Tensor] = []
        for step in range(-(-EPOCHS * count // size)):
            whole = draw(step)
            shares = [part[2](step) for part in parts]
            for column, value in enumerate(whole):
                together = torch.cat([share[column] for share in shares])
                assert torch.equal(together, value), f"{name}: two ranks draw something else in step {step}"
            seen.append(whole[0])
        divided += count % size == 0
        for epoch in torch.cat(seen)[: EPOCHS * count].split(count):
            assert sorted(epoch.tolist()) == list(range(count)), name
        close(draw)
    assert divided < len(alone), "batches that reach over the end of an epoch are among them"


def close(draw: Any) -> None:
    """Give back what a pool of the stream keeps."""
    for held in draw.__defaults__ or ():
        shuffle = getattr(held, "shuffle", None)
        if isinstance(shuffle, PooledCrops):
            shuffle.close()
