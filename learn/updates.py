"""The optimiser both methods use, and the guard that stands before each of its steps.

A non-finite loss or gradient must never reach the weights, and looking at one costs a wait for the device. On
the CPU looking is free and the guard raises at once. On a GPU it keeps a sticky flag on the device that
`torch.optim.Adam(fused=True)` takes as `found_inf`: the update and every later one do nothing, and the loop
raises at its next log line, with the weights as they were. Of several ranks all stop, whosever the term was; the
gradients they look at, and step by, are the mean of all.

There the step's number and the learning rate are tensors too, written in place by `begin`, as everything that the
guard keeps: a step that is replayed as a CUDA graph (`device.py`) goes by the numbers of its own.
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
    """Adam in one fused kernel, on a GPU one that can be captured; `FiniteGuard.update` gives its learning rate."""
    trained = list(parameters)
    on_gpu = any(parameter.is_cuda for parameter in trained)
    return torch.optim.Adam(
        trained, lr=0.0, betas=betas, weight_decay=weight_decay, fused=True, foreach=False, capturable=on_gpu
    )


def adam_state(optimizer: torch.optim.Adam) -> dict[str, Any]:
    """Its state for a checkpoint, which any device can go on from; waits for the device."""
    state: dict[str, Any] = optimizer.state_dict()
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])
    return state


def load_adam_state(optimizer: torch.optim.Adam, state: Mapping[str, Any]) -> None:
    """Undo `adam_state`; what hangs on the device stays as it is here."""
    groups = [
        {**theirs, "capturable": ours["capturable"]}
        for theirs, ours in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": state["state"], "param_groups": groups})


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
        self.looks = device.type == "cpu"
        """Whether it looks at every term at once, which waits for the device: nothing else in a step does."""
        self._step, self._rate, self._ranks = 0, 0.0, ranks
        self._number, self._rate_there = torch.zeros((), device=device), torch.zeros((), device=device)
        self._found = torch.zeros((), device=device)
        self._first: dict[tuple[str, ...], Tensor] = {}

    def begin(self, step: int, rate: float) -> None:
        """The number of the step that comes, counted from 0 over all stages, and its learning rate."""
        self._step, self._rate = step, rate
        if not self.looks:
            self._number.fill_(step + 1)
            self._rate_there.fill_(rate)

    def check(self, terms: Mapping[str, Tensor]) -> None:
        """Look at terms (scalars) of this step.

        Raises:
            NotFinite: one is not finite, here or on another rank (on the CPU; on a GPU `raise_if_found` does).
        """
        if not terms:
            return
        values = torch.stack([term.detach().to(torch.float32) for term in terms.values()])
        bad = self._ranks.any((~torch.isfinite(values)).to(torch.float32))
        if self.looks:
            for name, flag in zip(terms, bad.tolist(), strict=True):
                if flag:
                    raise NotFinite(name, self._step)
            return
        names = tuple(terms)
        if names not in self._first:
            self._first[names] = torch.zeros_like(bad)
        first = self._first[names]
        first.copy_(torch.maximum(first, bad * ((1 - self._found) * self._number)))
        self._found.copy_(torch.maximum(self._found, bad.max()))

    def update(self, optimizer: torch.optim.Adam, *, name: str, scale: float = 1.0) -> None:
        """One step of the optimiser by the ranks' mean gradient, unless it is not finite.

        Args:
            optimizer: of weights that have their gradients.
            name: says whose they are.
            scale: of the learning rate that `begin` was told.

        Raises:
            NotFinite: as `check`.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._ranks.average_(gradients)
        norms = torch.stack(torch._foreach_norm(gradients))
        self.check({f"gradient of {name}": norms.sum()})
        for group in optimizer.param_groups:
            group["lr"] = self._rate * scale if self.looks else self._rate_there * scale
        if not self.looks:
            optimizer.found_inf = self._found  # type: ignore[attr-defined]
        optimizer.step()

    def raise_if_found(self) -> None:
        """Raise what `check` found on a GPU; waits for the device.

        Raises:
            NotFinite: a term was not finite at some step since the start.
        """
        for names, first in self._first.items():
            for name, number in zip(names, first.tolist(), strict=True):
                if number > 0:
                    raise NotFinite(name, int(number) - 1)
