"""Synthetic crops that do not fit in memory: the small arrays stay, the images come from the shard pool.

What a set weighs is its images, 74 kB a crop; centres, intrinsics and joints are a hundredth of that. A `Bank`
without images keeps those, and a stream of crops draws its order and its images here, as a function of the step
alone, like `sampling.Shuffle`: a resume needs no more than the step. The order is that of `stores/order.py`, so
it hangs on the size of the pool: `memory_mb` belongs to the configuration and must be the same on a resume.

Cost: 0.03 to 0.04 ms of CPU a crop beside the cut; a crop of a pair costs no decoding of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..stores.errors import HandloomError
from ..stores.machine import UNKNOWN_MEMORY, memory
from ..stores.order import Order, group_rows
from ..stores.pool import ShardPool, Source, row_bytes, shared_columns, units_of
from ..stores.recording import open_recording
from .config import TrainConfig

RESIDENT_SHARE: Final = 0.4
"""A set may take this much of the free memory before it is read through a pool: joining several copies them."""
POOL_SHARE: Final = 0.3
"""Of the free memory, for the pool of a set that is too large."""


@dataclass(frozen=True, slots=True)
class Pooling:
    """Where the images of a bank without images come from."""

    sources: tuple[Source, ...]
    """In the order of the bank's frames."""
    memory_mb: float
    """For all streams that are drawn from at the same time."""
    seed: int


class PooledCrops:
    """An endless, shuffled sequence of crops, or of pairs of crops of one frame, with their images."""

    def __init__(self, pooling: Pooling, items: Tensor, views: int, name: str, *, streams: int) -> None:
        """Describe the sequence; memory is taken at the first draw.

        Args:
            pooling: where the images are.
            items: (M, k) int64 crop numbers, k of the same frame, frames ascending.
            views: cameras of the rig.
            name: tells the order from that of other sequences of the run.
            streams: how many sequences share the memory.

        Raises:
            HandloomError: the memory holds less than two frames twice.
        """
        self._items, self._views, self._device = items.cpu().numpy(), views, items.device
        columns = shared_columns(pooling.sources, ("crop",))
        memory_mb = pooling.memory_mb / streams
        where = [str(source.recording.path) for source in pooling.sources]
        at_once = group_rows(row_bytes(columns), memory_mb, where=[*where, f"the sub-batch '{name}'"])
        rows = self._items[:, 0] // views
        assert (rows[:, None] == self._items // views).all()
        units = units_of(pooling.sources)
        order = Order(rows, units, rows_at_once=min(at_once, max(2, len(units))), seed=pooling.seed, name=name)
        self._pool = ShardPool(pooling.sources, order)

    def draw(self, step: int, n: int) -> tuple[Tensor, Tensor]:
        """Places (n,) in `items` of a step and their images (n, k, S, S) int16, on the device.

        Raises:
            HandloomError: a frame is damaged or lost.
        """
        (column,) = self._pool.columns
        images = np.empty((n, self._items.shape[1], *column.shape[1:]), column.dtype)
        place, done = np.empty(n, np.int64), 0
        for items, slots in self._pool.draw(step * n, n):
            part = slice(done, done + len(items))
            flat = self._pool.buffers[column.name].reshape(-1, *column.shape[1:])
            where = slots[:, None] * self._views + self._items[items] % self._views
            np.take(flat, where, axis=0, out=images[part], mode="clip")
            place[part] = items
            done += len(items)
        whole = torch.from_numpy(images.view(np.int16)).to(self._device)
        return torch.from_numpy(place).to(self._device), whole

    def close(self) -> None:
        """Give the memory back; a later draw begins anew."""
        self._pool.close()


def with_memory(config: TrainConfig, synth: Sequence[Path], device: torch.device, *, processes: int = 1) -> TrainConfig:
    """The configuration with `memory_mb` 'auto' decided on by the size of the sets and what is free here.

    Args:
        config: of the run.
        synth: synthetic recordings.
        device: where resident images would lie.
        processes: how many share this machine's memory, each with data of its own.

    Raises:
        HandloomError: a recording cannot be opened.
    """
    if config.memory_mb != "auto":
        return config
    size = 0
    for path in synth if config.needs.synth else ():
        crops = open_recording(path).crops
        size += crops.committed * row_bytes([crops.columns["crop"]]) if crops is not None else 0
    there = free_bytes() / processes
    room = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else there
    return config.model_copy(update={"memory_mb": memory_mb_for(size, free=there, room=room)})


def memory_mb_for(size_bytes: int, *, free: float, room: float) -> int | None:
    """What 'auto' comes to: None where images of this size stay in memory, else MB for a pool.

    Args:
        size_bytes: of the decoded images.
        free: bytes of memory that one process may take.
        room: bytes free where resident images would lie, on a GPU maybe.
    """
    return None if size_bytes <= RESIDENT_SHARE * min(room, free) else int(POOL_SHARE * free / 1e6)


def free_bytes() -> int:
    """Memory that can be had without swapping; where the system does not say, 4 GB are taken for it."""
    return memory()[1] or UNKNOWN_MEMORY


def refuse_pool(pooling: Pooling | None, *, what: str) -> None:
    """Say that something needs all images in memory.

    Raises:
        HandloomError: they come from a pool.
    """
    if pooling is not None:
        raise HandloomError(
            f"{what} looks at all synthetic images at once",
            where="key 'memory_mb'",
            why=f"they are to be read through a pool of {pooling.memory_mb:g} MB",
            fix="-o memory_mb=null keeps them in memory",
        )
