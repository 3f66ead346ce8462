"""The optimiser both methods use, and the guard that stands before each of its steps.

A non-finite loss or gradient must never reach the weights, and looking at one costs a wait for the device. On
the CPU looking is free and the guard raises at once. On a GPU it keeps a sticky flag on the device that
`torch.optim.Adam(fused=True)` takes as `found_inf`: the update and every later one do nothing, and the loop
raises at its next log line, with the weights as they were. Of several ranks all stop, whosever the term was; the
gradients they look at, and step by, are the mean of all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..stores.errors import HandloomError
from .ranks import ALONE, Ranks


def adam(
    parameters: Iterable[nn.Parameter],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> torch.optim.Adam:
    """Adam in one fused kernel; its learning rate is given at each `FiniteGuard.update`."""
    return torch.optim.Adam(list(parameters), lr=0.0, betas=betas, weight_decay=weight_decay, fused=True, foreach=False)


class NotFinite(HandloomError):
    """A term or a gradient is not finite; nothing was updated since."""

    def __init__(self, term: str, step: int) -> None:
        super().__init__(
            f"Training stopped: the {term} is not finite",
            where=f"step {step}",
            why="the weights were left as they were before this step; the last checkpoint is untouched",
            fix="lower the learning rate, or look at the data of that step (draws depend only on seed and step)",
        )
        self.term, self.step = term, step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.term, self.step)


class FiniteGuard:
    """Stops training before the first non-finite update and says which term it was."""

    def __init__(self, device: torch.device, ranks: Ranks = ALONE) -> None:
        self._device, self._ranks = device, ranks
        self._found = torch.zeros((), device=device)
        self._by_term: dict[str, Tensor] = {}

    def check(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Look at the terms (scalars) of this step, counted from 0 over all stages.

        Raises:
            NotFinite: one is not finite, here or on another rank (on the CPU; on a GPU `raise_if_found` does).
        """
        if not terms:
            return
        values = torch.stack([term.detach().to(torch.float32) for term in terms.values()])
        bad = self._ranks.any((~torch.isfinite(values)).to(torch.float32))
        if self._device.type == "cpu":
            for name, flag in zip(terms, bad.tolist(), strict=True):
                if flag:
                    raise NotFinite(name, step)
            return
        fresh = 1 - self._found
        for name, flag in zip(terms, bad, strict=True):
            first = fresh * flag * (step + 1)
            self._by_term[name] = torch.maximum(self._by_term.get(name, torch.zeros_like(first)), first)
        self._found = torch.maximum(self._found, bad.max())

    def update(self, optimizer: torch.optim.Adam, lr: float, step: int, *, name: str) -> None:
        """One step of the optimiser by the ranks' mean gradient, unless it is not finite; `name` says whose it is."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._ranks.average_(gradients)
        norms = torch.stack(torch._foreach_norm(gradients))
        self.check(step, {f"gradient of {name}": norms.sum()})
        for group in optimizer.param_groups:
            group["lr"] = lr
        if self._device.type != "cpu":
            optimizer.found_inf = self._found  # type: ignore[attr-defined]
        optimizer.step()

    def raise_if_found(self) -> None:
        """Raise what `check` found on a GPU; waits for the device.

        Raises:
            NotFinite: a term was not finite at some step since the start.
        """
        for name, first in self._by_term.items():
            if first > 0:
                raise NotFinite(name, int(first) - 1)
