"""Several processes that train one model: `torchrun --nproc-per-node N -m handloom train ... --run-dir RUN`.

`batch` is that of all processes together. Draws are functions of the step alone (`sampling.py`), so every rank
knows the whole batch, takes its share of each sub-batch, and the mean of all gradients is that of the batch: the
run is the one that a single process would make, up to rounding, but for batch normalisation, whose statistics
are those of a rank's own share: W ranks have W times the groups of one process.

- A mean over a varying number of joints is divided by what all ranks count together (`counted`), a loss of batch
  means takes those of all ranks (`mean`): both are exact.
- Running statistics are averaged over the ranks before they are used or kept (`average_`).
- Rank 0 writes; what only one rank does, all wait for (`from_first`), and its error ends all.
- A rank that fails says why in the store that they met in, and leaves: those that wait for it hear it at once
  (gloo) or are ended by torchrun (nccl), at the latest after `TIMEOUT_S`.

Gradients go round once an update, in pieces of 32 MB (`average_`), not overlapped with the backward pass: two
networks that train in turns, and constant weights in between, make each update's set of gradients its own.
A process that is alone does exactly what it would without this module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ..stores.errors import BAD_ENVIRONMENT, HandloomError

T = TypeVar("T")

TIMEOUT_S: Final = 900.0
"""How long a rank waits for the others: longer than rank 0 takes to validate and to save."""
PIECE_BYTES: Final = 32 * 2**20
"""Of gradients that go round at once."""
NEEDED: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PARTING_S: Final = 0.2
_STOPPED: Final = "stopped"


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of the processes this is; its methods speak with the others, and do nothing for one that is alone."""

    rank: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is no other."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    # --- the share of a batch ---

    def size(self, n: int, *, what: str) -> int:
        """How many of the n samples of a sub-batch are this rank's.

        Raises:
            HandloomError: they cannot be shared equally.
        """
        if n % self.count:
            raise HandloomError(
                f"{n} samples cannot be shared by {self.count} processes",
                where=f"the sub-batch '{what}'",
                why="'batch' counts those of all processes, and each takes the same part of every sub-batch",
                fix=f"-o batch=..., so that every sub-batch is a multiple of {self.count}; or other --nproc-per-node",
            )
        return n // self.count

    def part(self, n: int) -> slice:
        """The places of this rank among the n samples of a sub-batch."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def rows(self, sizes: Sequence[int], device: torch.device) -> Tensor:
        """The rows of this rank in the whole batch, whose sub-batches have these sizes, one after the other."""
        rows, start = [], 0
        for n in sizes:
            part = self.part(n)
            rows.append(torch.arange(start + part.start, start + part.stop, device=device))
            start += n
        return torch.cat(rows)

    def among(self, sizes: Sequence[int], device: torch.device) -> tuple[int, Tensor] | None:
        """`rows` and how many there are in all; None for a process that is alone."""
        return None if self.alone else (sum(sizes), self.rows(sizes, device))

    # --- sums and means ---

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the ranks, without gradient."""
        value = value.detach().clone()
        if not self.alone:
            dist.all_reduce(value)
        return value

    def any(self, flags: Tensor) -> Tensor:
        """Element by element the largest of the ranks' flags."""
        flags = flags.clone()
        if not self.alone:
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags

    def counted(self, count: Tensor) -> Tensor:
        """What a rank's sum is divided by for the ranks' mean to be the mean over all that is counted (>= 1)."""
        if self.alone:
            return count.clamp(min=1)
        return self.total(count).clamp(min=1) / self.count

    def mean(self, value: Tensor) -> Tensor:
        """The mean over the ranks; the gradient goes to this rank's own part, as if the others' were constant.

        A function of it has, after the average of the gradients over the ranks, its exact gradient.
        """
        if self.alone:
            return value
        return value + (self.total(value) / self.count - value.detach())

    def gathered(self, rows: Tensor, sizes: Sequence[int]) -> Tensor:
        """The whole batch (sum of the sizes, ...) of every rank's rows (b, ...), without gradient."""
        if self.alone:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        dist.all_gather(parts, rows.detach().contiguous())
        whole = rows.new_empty(sum(sizes), *rows.shape[1:])
        for rank, part in enumerate(parts):
            whole[Ranks(rank, self.count).rows(sizes, rows.device)] = part
        return whole

    def average_(self, tensors: Iterable[Tensor]) -> None:
        """Replace float tensors by their means over the ranks."""
        if self.alone:
            return
        piece: list[Tensor] = []
        size = 0
        for tensor in tensors:
            piece.append(tensor)
            size += tensor.nbytes
            if size >= PIECE_BYTES:
                self._average_piece(piece)
                piece, size = [], 0
        if piece:
            self._average_piece(piece)

    def _average_piece(self, tensors: list[Tensor]) -> None:
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat.div_(self.count)
        with torch.no_grad():
            for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    def average_statistics(self, nets: nn.Module) -> None:
        """Running statistics (all float buffers) as the ranks' means."""
        self.average_(buffer for buffer in nets.buffers() if buffer.is_floating_point())

    def start_alike(self, nets: nn.Module) -> None:
        """Every weight and buffer as rank 0 has it."""
        if not self.alone:
            for value in nets.state_dict().values():
                dist.broadcast(value, 0)

    # --- plain values and errors ---

    def gather(self, value: T) -> list[T]:
        """Every rank's value, by rank."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def together(self, work: Callable[[], T]) -> T:
        """What every rank does for itself; one that fails ends all.

        Raises:
            HandloomError: another rank failed.
        """
        if self.alone:
            return work()
        result, error = None, None
        try:
            result = work()
        except Exception as raised:
            error = raised
        said = self.gather("" if error is None else str(error) or repr(error))
        failed = next((rank for rank, text in enumerate(said) if text), None)
        if failed is not None:
            # Said once, by the first whom it befell: often it befalls all.
            if error is not None and failed == self.rank:
                raise error
            raise stopped_with(failed, said[failed]) from error
        return result  # type: ignore[return-value]

    def from_first(self, work: Callable[[], T]) -> T:
        """What rank 0 alone does, and its result on every rank; tensors on the CPU.

        Raises:
            HandloomError: rank 0 failed.
        """
        result = self.together(lambda: work() if self.first else None)
        if self.alone:
            return result  # type: ignore[return-value]
        box: list[Any] = [result]
        dist.broadcast_object_list(box, 0)
        return box[0]  # type: ignore[no-any-return]

    def agree(self, values: Mapping[str, Any]) -> None:
        """Check that every rank has the same plain values.

        Raises:
            HandloomError: one has another.
        """
        for rank, theirs in enumerate(self.gather(dict(values))):
            for name, value in theirs.items():
                if value != values[name]:
                    raise HandloomError(
                        f"The processes do not train the same: rank {rank} has another {name} than rank {self.rank}",
                        why=f"{value} there, {values[name]} here",
                        fix="give every process the same command, files and version of handloom",
                    )


ALONE: Final = Ranks()


@dataclass(frozen=True, slots=True)
class Launch:
    """What the environment says of this process."""

    ranks: Ranks = ALONE
    local_rank: int = 0
    local_count: int = 1
    """How many of the ranks share this machine and its memory."""


class StoppedWithAnother(HandloomError):
    """This rank has nothing to say of its own: another one failed."""


def launched(environ: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started: alone, or as one of those that torchrun (or the like) starts.

    Raises:
        HandloomError: the variables are incomplete or contradict each other.
    """
    if "RANK" not in environ and environ.get("WORLD_SIZE", "1") == "1":
        return Launch()
    missing = [name for name in NEEDED if not environ.get(name)]
    if missing:
        raise _rendezvous(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set",
            why=f"the environment says that this is one of several processes: {_said(environ)}",
        )
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        text = environ.get(name) or environ[name.removeprefix("LOCAL_")]
        if not text.isdigit():
            raise _rendezvous(f"{name} is no whole number", why=f"it is '{text}'")
        numbers[name] = int(text)
    if not environ["MASTER_PORT"].isdigit() or not 0 < int(environ["MASTER_PORT"]) < 65536:
        raise _rendezvous("MASTER_PORT is no port", why=f"it is '{environ['MASTER_PORT']}'")
    for rank, count in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if numbers[rank] >= numbers[count]:
            raise _rendezvous(f"{rank} = {numbers[rank]} and {count} = {numbers[count]}", why="ranks count from 0")
    if numbers["WORLD_SIZE"] == 1:
        return Launch()
    return Launch(Ranks(numbers["RANK"], numbers["WORLD_SIZE"]), numbers["LOCAL_RANK"], numbers["LOCAL_WORLD_SIZE"])


def _rendezvous(what: str, *, why: str = "") -> HandloomError:
    return HandloomError(
        f"The processes cannot meet: {what}",
        where="the environment",
        why=why,
        fix="torchrun --nproc-per-node N -m handloom train ... sets it; to train in one process, unset RANK",
        exit_code=BAD_ENVIRONMENT,
    )


def _said(environ: Mapping[str, str]) -> str:
    return ", ".join(f"{name} = {environ[name]}" for name in NEEDED if environ.get(name))


def stopped_with(rank: int, text: str) -> StoppedWithAnother:
    """What a rank says when another one failed with this text."""
    first, *rest = text.splitlines()
    why = [line.strip().removeprefix("why:").strip() for line in rest if line.strip().startswith("why:")]
    return StoppedWithAnother(f"Stopped, because rank {rank} did: {first}", why="; ".join(why))


@contextmanager
def joined(launch: Launch, device: torch.device, *, timeout_s: float = TIMEOUT_S) -> Iterator[Ranks]:
    """Meet the other processes, and part from them at the end.

    Args:
        launch: of `launched`.
        device: of this rank; decides between nccl and gloo.
        timeout_s: how long to wait for a rank, now and in each exchange.

    Raises:
        HandloomError: they do not meet, or one of them failed or is gone.
    """
    if launch.ranks.alone:
        yield launch.ranks
        return
    ranks, limit = launch.ranks, timedelta(seconds=timeout_s)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        met, _, _ = next(rendezvous("env://", timeout=limit))
        store = PrefixStore("handloom", met)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.count, timeout=limit)
    except (RuntimeError, ValueError, OSError) as error:
        raise _rendezvous(
            f"not all {ranks.count} came within {timeout_s:g} s",
            why=f"{_said(os.environ)}; {str(error).splitlines()[0]}",
        ) from error
    try:
        yield ranks
        dist.barrier()
    except StoppedWithAnother:
        raise
    except BaseException as error:
        told = _told(store)
        if isinstance(error, RuntimeError) and told is not None:
            raise stopped_with(*told) from error
        if _is_of_exchange(error):
            raise _lost(error) from error
        _tell(store, ranks.rank, str(error) or repr(error))
        raise
    finally:
        dist.destroy_process_group()
        # A thread of gloo may still hold tensors of the last exchange. To let go of them it needs the interpreter,
        # and aborts the process where that has ended before: one run in four, without this.
        time.sleep(PARTING_S)


def _tell(store: PrefixStore, rank: int, text: str) -> None:
    with suppress(RuntimeError):  # the process that kept the store is gone; the others notice that
        store.set(_STOPPED, f"{rank}\n{text}")


def _told(store: PrefixStore) -> tuple[int, str] | None:
    """Which rank said that it stops, and why; None where none did, or nobody can be asked."""
    try:
        if not store.check([_STOPPED]):
            return None
        rank, text = store.get(_STOPPED).decode().split("\n", 1)
    except RuntimeError:
        return None
    return int(rank), text


def _is_of_exchange(error: BaseException) -> bool:
    """Gloo raises plain `RuntimeError`s that name its source file, or the connection."""
    said = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in said for word in ("gloo", "connection", "timed out", "nccl"))
    )


def _lost(error: BaseException) -> HandloomError:
    # Gloo's text: its source file in brackets, what happened, advice on searching for bugs.
    said = str(error).splitlines()[0].split("] ", 1)[-1].split(". ", 1)[0]
    return HandloomError(
        "Another process is gone or does not answer",
        why=said,
        fix="look at what it said last; the same command with --resume goes on from the last checkpoint",
        exit_code=BAD_ENVIRONMENT,
    )
