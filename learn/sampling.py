"""Draws that depend on nothing but their own number: the training stream is the same after a resume.

Every random number of sampling and augmentation geometry is a hash of (seed, stream, index, column), with
`index` the running number of the sample over the whole training (step x batch + place in the batch). No
generator has to be saved, a batch split over several processes draws the same samples, and CPU and GPU agree
to the bit on which frames are drawn. The hash is splitmix64's finaliser (Steele et al. 2014) in wrapping
int64 arithmetic; 0.12 ms for the geometry of a batch of 64 on one core.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_BLOCK: Final = 4096
"""Small sets are shuffled several epochs at a time, so that a batch never spans more than two tables."""


def _signed(x: int) -> int:
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


def _mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix_tensor(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def key_of(*parts: int | str) -> int:
    """A 64-bit key of numbers and names: seeds of streams that have nothing in common."""
    key = 0
    for part in parts:
        for word in part.encode() if isinstance(part, str) else (part,):
            key = _mix((key + _GOLDEN + int(word)) & _MASK)
        key = _mix((key + len(str(part))) & _MASK)
    return key


def hashed(key: int, index: Tensor, columns: int) -> Tensor:
    """(n, columns) int64 hashes of the indices (n,) int64."""
    row = _mix_tensor(index * _signed(_GOLDEN) + _signed(key))
    column = torch.arange(1, columns + 1, device=index.device)
    return _mix_tensor(row[:, None] + column * _signed(_mix(_GOLDEN)))


def uniform(key: int, index: Tensor, columns: int) -> Tensor:
    """(n, columns) float32 strictly inside (0, 1)."""
    return (_shift(hashed(key, index, columns), 41).to(torch.float32) + 0.5) * 2.0**-23


def normal(key: int, index: Tensor, columns: int) -> Tensor:
    """(n, columns) float32, standard normal (Box and Muller)."""
    u = uniform(key, index, 2 * columns)
    return (-2 * u[:, :columns].log()).sqrt() * (2 * torch.pi * u[:, columns:]).cos()


def noise_generator(key: int, step: int, device: torch.device) -> torch.Generator:
    """The generator of one step's pixel noise: hashes would cost as much as the whole augmentation."""
    return torch.Generator(device).manual_seed(_mix((key + step * _GOLDEN) & _MASK) >> 1)


class Shuffle:
    """An endless sequence over 0 ... count - 1 that gives each number exactly once an epoch.

    The permutation of an epoch is a function of the key and the epoch; what is kept between calls only saves
    sorting again.
    """

    def __init__(self, count: int, key: int, device: torch.device) -> None:
        assert count > 0
        self.count, self._key, self._device = count, key, device
        self._epochs = max(1, _BLOCK // count)
        self._tables: dict[int, Tensor] = {}

    def draw(self, step: int, n: int) -> Tensor:
        """(n,) int64 on the device: the numbers at places step * n ... step * n + n - 1 of the sequence."""
        length = self._epochs * self.count
        parts, place, stop = [], step * n, (step + 1) * n
        while place < stop:
            block, offset = divmod(place, length)
            part = self._table(block)[offset : offset + stop - place]
            parts.append(part)
            place += len(part)
        return torch.cat(parts)

    def _table(self, block: int) -> Tensor:
        if block not in self._tables:
            for old in [b for b in self._tables if b < block - 1]:
                del self._tables[old]
            places = torch.arange(self._epochs * self.count, device=self._device)
            hashes = hashed(key_of(self._key, block), places, 1).reshape(self._epochs, self.count)
            self._tables[block] = torch.argsort(hashes, dim=1, stable=True).reshape(-1)
        return self._tables[block]


def subset(rows: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """(n,) of the rows, sorted; a smaller n with the same key lies inside a larger one."""
    order = np.random.Generator(np.random.Philox(key=key)).permutation(len(rows))
    return np.sort(rows[order[:n]])
