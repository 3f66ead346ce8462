"""How a step is computed: number format, memory layout, CUDA graph, compilation.

What a step *is* stands in the method's module; here is how it runs, decided once for a run (`execution`) from
four keys of its configuration. On the CPU 'auto' changes nothing: the same operations in float32 as ever.

    precision      bf16: convolutions and linear layers under autocast. Weights, batch normalisation's
                   statistics, losses, the discriminator of MURAUER and Adam stay in float32
    channels_last  images as (B, H, W, C) in memory
    graph          the arithmetic of a step, from the batch to the optimisers, is captured once and replayed as
                   one CUDA graph: a step of MURAUER is thousands of small kernels, and starting them one by one
                   takes longer than they do
    compile        the convolutional networks through torch.compile, which fuses chains of pointwise operations

**A replayed step reads nothing but device memory**: numbers that change from step to step must lie there. The
batch is made outside, as its draws are functions of the step's number (for several steps at once, see
`murauer_batches`), and copied into the tensors that the graph was captured with; learning rate and step number are
tensors of the guard (`updates.FiniteGuard.begin`). Steps that are logged run outside the graph: what they measure
besides is not worth a second one. Nothing waits for the device between two log lines.

Only `CudaCapture` needs CUDA; the rest runs, and is tested, on any device.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .config import TrainConfig
from .ranks import Ranks

B = TypeVar("B")
B_ = TypeVar("B_", contravariant=True)
R = TypeVar("R")
N = TypeVar("N", bound=nn.Module)
Terms = dict[str, Tensor | float]

WARM_UP: Final = 3
"""Steps before the capture: libraries choose their algorithms and optimisers make their state in the first ones."""


class Update(Protocol[B_]):
    """The arithmetic of a step, from its batch to its optimisers: it reads no number that changes from step to step."""

    def __call__(self, batch: B_, /, *, log: bool) -> Terms:
        """Terms for the log, detached."""


class Capture(Protocol):
    """Makes a function of no arguments replayable: what it reads and writes stays where it is."""

    def run(self, work: Callable[[], R]) -> R:
        """Run it once, where and how a capture would."""

    def record(self, work: Callable[[], R]) -> tuple[Callable[[], None], R]:
        """A function that runs it again, and what it returns: tensors that each replay writes anew.

        It need not have run once yet.
        """


@dataclass(frozen=True, slots=True)
class Execution:
    """How the steps of a run are computed."""

    device: torch.device
    bf16: bool = False
    channels_last: bool = False
    graph: bool = False
    compile: bool = False

    def autocast(self) -> AbstractContextManager[Any]:
        """Around forward passes whose convolutions and linear layers may be in bfloat16."""
        if not self.bf16:
            return nullcontext()
        # Without the cache of cast weights: it would outlive the memory of a captured graph.
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def full(self, x: Tensor) -> Tensor:
        """What came out of `autocast`, for losses: in float32 where it was rounded."""
        return x.float() if self.bf16 else x

    def laid_out(self, net: N) -> N:
        """A network with its weights in the order of memory that was asked for."""
        form = torch.channels_last if self.channels_last else torch.contiguous_format
        net.to(memory_format=form)  # type: ignore[call-overload]
        return net

    def compiled(self, net: nn.Module) -> Callable[..., Tensor]:
        """What to call in a step instead of the network; the network itself stays as it is."""
        if not self.compile:
            return net
        import torch._functorch.config

        # Logged steps ask for the gradient of each term on its own: memory may not be given back after the first.
        torch._functorch.config.donated_buffer = False
        return torch.compile(net)

    def replayed(self, update: Update[B]) -> Replayed[B]:
        """A step's arithmetic, through a CUDA graph if that is asked for."""
        return Replayed(update, CudaCapture(self.device) if self.graph else None)

    def describe(self) -> dict[str, Any]:
        """Plain values, kept with the model: which machine's arithmetic made it."""
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device.type,
            "precision": "bf16" if self.bf16 else "fp32",
            "channels_last": self.channels_last,
            "graph": self.graph,
            "compile": self.compile,
        }


def execution(
    config: TrainConfig, device: torch.device, ranks: Ranks, *, channels_last: bool = False, no_graph: str = ""
) -> Execution:
    """What 'auto' means here, and whether what is asked for can be had.

    Args:
        config: the run's.
        device: where it trains.
        ranks: the processes that share it.
        channels_last: what the method takes for 'auto'.
        no_graph: why a step of this configuration cannot be captured, if so.

    Raises:
        HandloomError: a step cannot be captured, there is no CUDA device for that, several processes, or no compiler.
    """
    cuda = device.type == "cuda"
    graph = cuda and ranks.alone and not no_graph if config.graph == "auto" else config.graph
    if graph and no_graph:
        raise HandloomError(
            "A step of this run cannot be captured as a CUDA graph",
            where="key 'graph'",
            why=no_graph,
            fix="-o graph=auto",
        )
    if graph and not cuda:
        raise HandloomError(
            "A CUDA graph needs a CUDA device",
            where="key 'graph'",
            why=f"this run is on the {device.type.upper()}",
            fix="-o graph=auto",
        )
    if graph and not ranks.alone:
        raise HandloomError(
            "A step that several processes share cannot be captured as a CUDA graph",
            where="key 'graph'",
            why="its sums over the processes are no part of one",
            fix="-o graph=auto, or one process",
        )
    if config.compile:
        _check_compiler(device)
    bf16 = config.precision == "bf16"
    if config.precision == "auto":
        bf16 = cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    return Execution(
        device,
        bf16=bf16,
        channels_last=channels_last if config.channels_last == "auto" else config.channels_last,
        graph=graph,
        compile=config.compile,
    )


def as_written(config: TrainConfig, what: str) -> None:
    """For what is computed in one way only.

    Raises:
        HandloomError: the configuration asks for another.
    """
    asked = {
        "precision": config.precision == "bf16",
        "channels_last": config.channels_last is True,
        "graph": config.graph is True,
        "compile": config.compile,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise HandloomError(
                f"{what} is computed in float32, as it is written",
                where=f"key '{name}'",
                why=f"it was asked for {name} = {str(getattr(config, name)).lower()}",
                fix=f"leave -o {name}=... out",
            )


def _check_compiler(device: torch.device) -> None:
    if device.type == "cuda":
        missing = "" if importlib.util.find_spec("triton") else "triton"
        fix = "pip install triton (it comes with torch's CUDA wheels for Linux), or -o compile=false"
    else:
        missing = "" if any(shutil.which(name) for name in ("g++", "clang++", "c++")) else "a C++ compiler"
        fix = "sudo apt install g++, or -o compile=false"
    if missing:
        raise HandloomError(f"torch.compile needs {missing}", where="key 'compile'", fix=fix, exit_code=BAD_ENVIRONMENT)


class Replayed(Generic[B]):
    """A step's arithmetic as a function of its batch alone, run as it is or replayed.

    The batch is any nest of dataclasses, mappings, lists and tuples of tensors that always has the same shapes.
    """

    def __init__(self, update: Update[B], capture: Capture | None) -> None:
        self._update, self.capture = update, capture
        self._ran = 0
        self._static: StaticBatch[B] | None = None
        self._replay: Callable[[], None] | None = None
        self._terms: Terms = {}

    def __call__(self, batch: B, *, log: bool) -> Terms:
        """One step; a logged one is never replayed.

        Of a replayed step the terms lie in the graph's memory: the next step writes over them.
        """
        if self.capture is None:
            return self._update(batch, log=log)
        if log or self._ran < WARM_UP:
            self._ran += not log
            return self.capture.run(lambda: self._update(batch, log=log))
        if self._static is None or self._replay is None:
            static = StaticBatch(batch)
            self._replay, self._terms = self.capture.record(lambda: self._update(static.batch, log=False))
            self._static = static
        self._static.load(batch)
        self._replay()
        return self._terms

    def release(self) -> None:
        """Give graph and memory back; the next call begins anew."""
        self._ran, self._static, self._replay, self._terms = 0, None, None, {}


class StaticBatch(Generic[B]):
    """A batch that stays where it is in memory while its values change."""

    def __init__(self, like: B) -> None:
        copies: dict[int, Tensor] = {}
        self.batch: B = _copied(like, copies)
        """As `like`, of tensors of its own; those that were one stay one."""
        self._tensors = [copies[number] for number in _numbered(like)]

    def load(self, batch: B) -> None:
        """Take the values of another batch of the same form."""
        given = list(_numbered(batch).values())
        assert [t.shape for t in given] == [t.shape for t in self._tensors]
        torch._foreach_copy_(self._tensors, given)


def _numbered(value: Any) -> dict[int, Tensor]:
    """The tensors of a nest, each once, by identity."""
    return {id(tensor): tensor for tensor in _tensors(value)}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))


def _copied(value: Any, copies: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return copies.setdefault(id(value), value.clone())
    if isinstance(value, Mapping):
        return {name: _copied(part, copies) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(part, copies) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{field.name: _copied(getattr(value, field.name), copies) for field in fields(value)})
    return value


class CudaCapture:
    """Captures on a stream of its own, on which every step of the run goes, replayed or not.

    Autograd ties the nodes that gather gradients to the stream they were made on: a capture that meets one of
    another stream fails.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    def run(self, work: Callable[[], R]) -> R:
        """Run it, between what was asked of the current stream before and what will be."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], R]) -> tuple[Callable[[], None], R]:
        """Capture it: nothing runs until the first replay.

        Raises:
            HandloomError: it does what a graph cannot, or there is not enough memory.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                result = work()
        except RuntimeError as error:
            raise HandloomError(
                "A step of this run could not be captured as a CUDA graph",
                where="key 'graph'",
                why=str(error).splitlines()[0],
                fix="-o graph=false computes the same, and --resume goes on from the last checkpoint",
                exit_code=BAD_ENVIRONMENT,
            ) from error
        return lambda: self.run(graph.replay), result
