"""How a step is computed: every way must compute the same step.

A CUDA graph repeats the kernels it was captured with, on the same memory, with the same numbers in them. `Tape` does
that on the CPU, operation by operation, so that all but CUDA itself is tried here: what a replayed step would read
that lies not on the device, or would take from a step that is over, makes it another step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from handloom.learn import crossing, murauer, nearest, preview
from handloom.learn.config import TrainConfig
from handloom.learn.crossing_recipe import CrossingConfig
from handloom.learn.data import TrainingData
from handloom.learn.device import WARM_UP, Execution, Replayed, StaticBatch, _tensors, execution
from handloom.learn.murauer_batches import Batches
from handloom.learn.murauer_nets import Architecture, Groups, MurauerNets
from handloom.learn.murauer_recipe import ARMS, MurauerConfig
from handloom.learn.ranks import ALONE, Ranks
from handloom.learn.train import Learner
from handloom.learn.updates import FiniteGuard, NotFinite, adam, adam_state, load_adam_state
from handloom.stores.errors import HandloomError
from handloom.stores.joints import Layout

MakeData = Callable[..., TrainingData]
CPU = torch.device("cpu")
TINY = Architecture(stem=4, channels=(8, 8), mid=(4, 4), blocks=2, feature_width=16, view_channels=(8, 4))


def tiny(arm: str = "full", **overrides: Any) -> MurauerConfig:
    """Residual blocks at 32 px; every layer that the paper's networks have."""
    values: dict[str, Any] = {
        "input_px": 32,
        "architecture": TINY,
        "batch": 16,
        "pretrain_steps": 0 if arm == "real-only" else 6,
        "joint_steps": 0 if arm == "synthetic-only" else 8,
        "joint_epochs": 8,
        "mapping_start": "default",
    }
    config = murauer.preset("quick", arm, **(values | overrides))
    assert isinstance(config, MurauerConfig)
    return config


def learner(make: MakeData, arm: str = "full", n: int = 8, **overrides: Any) -> murauer.Learner:
    config = tiny(arm, **overrides)
    made = murauer.Learner(config, make(n, synth=config.needs.synth, real=config.needs.real))
    made.nets.train()
    return made


def unlooked(learner: murauer.Learner) -> murauer.Learner:
    """As on a GPU: numbers of the step lie in tensors, and the guard looks at nothing before the loop asks."""
    learner.guard.looks = False
    return learner


def state(learner: murauer.Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.nets.state_dict().items()}


def run(learner: murauer.Learner, steps: int | None = None, *, log: Callable[[int], bool] = lambda i: False) -> None:
    for index in range(learner.total_steps if steps is None else steps):
        learner.step(index, log=log(index))
    learner.guard.raise_if_found()


# --- a graph's replay, on the CPU ---


class Recorder(TorchDispatchMode):
    """Keeps each operation with the very tensors it read and wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, [t for t in _flat(out) if isinstance(t, Tensor)]))
        return out


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part)
    else:
        yield value


@dataclass
class Tape:
    """Captures as a CUDA graph does, and like it runs nothing but what it captured: no line of Python."""

    written: Callable[[], list[Tensor]]
    """What the work writes to and leaves: a capture computes nothing, so it is put back here."""
    recorded: int = 0
    replayed: int = 0

    def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        before = [(tensor, tensor.clone()) for tensor in self.written()]
        recorder = Recorder()
        with recorder:
            result = work()
        for tensor, value in before:
            tensor.copy_(value)
        self.recorded += 1

        @torch.no_grad()
        def replay() -> None:
            self.replayed += 1
            for func, args, kwargs, outs in recorder.calls:
                fresh = [t for t in _flat(func(*args, **kwargs)) if isinstance(t, Tensor)]
                for old, new in zip(outs, fresh, strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)

        return replay, result


def taped(learner: murauer.Learner) -> Tape:
    """The tape that the learner's updates go through from now on."""

    def written() -> list[Tensor]:
        states = [t for o in learner.updates.optimizers.values() for s in o.state.values() for t in s.values()]
        guard = learner.guard
        return [*(t.data for t in learner.nets.state_dict().values()), *states, guard._found, *guard._first.values()]

    tape = Tape(written)
    learner.updates.pretrain.capture = learner.updates.joint.capture = tape
    return tape


@pytest.mark.parametrize(
    ("arm", "n", "ahead"), [("full", 8, 4), ("full", 0, 1), ("+distribution-matching", 3, 1), ("real-only", 8, 1)]
)
def test_a_replayed_step_is_the_step(arm: str, n: int, ahead: int, toy_data: MakeData) -> None:
    plain, replayed = (unlooked(learner(toy_data, arm, n)) for _ in range(2))
    for made in (plain, replayed):
        made.batches = Batches(made.config, made.data, made.volume, ahead=ahead)
    run(plain, log=lambda i: i == 12)
    tape = taped(replayed)
    run(replayed, log=lambda i: i == 12)
    stages = 1 + (arm != "real-only")
    assert tape.recorded == stages
    assert tape.replayed == replayed.total_steps - stages * WARM_UP - (replayed.total_steps > 12)
    for name, value in state(plain).items():
        assert torch.equal(value, state(replayed)[name]), name
    assert plain.training_state().keys() == replayed.training_state().keys()


def test_a_replay_that_keeps_a_number_is_another_training(toy_data: MakeData) -> None:
    """The test above can fail: with the learning rate as a plain number the graph keeps that of its capture."""
    plain = unlooked(learner(toy_data, joint_epochs=8))
    run(plain)
    replayed = unlooked(learner(toy_data, joint_epochs=8))
    original = FiniteGuard.update

    def kept(self: FiniteGuard, optimizer: torch.optim.Adam, *, name: str) -> None:
        self.looks = True
        self.check = lambda terms: None  # type: ignore[method-assign]
        original(self, optimizer, name=name)
        self.looks = False

    taped(replayed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FiniteGuard, "update", kept)
        run(replayed)
    assert not torch.equal(plain.nets.pose.second.weight, replayed.nets.pose.second.weight)


def test_a_replayed_step_that_is_not_finite_is_found_and_named(toy_data: MakeData) -> None:
    made = unlooked(learner(toy_data))
    tape = taped(made)
    for index in range(11):
        made.step(index, log=False)
    assert tape.recorded == 2
    before = state(made)
    made.nets.view.last.weight.data[0] = torch.nan
    for index in range(11, 14):
        made.step(index, log=False)
    for name, value in state(made).items():
        if "running" not in name and name != "view.last.weight":
            assert torch.equal(value, before[name]), name
    with pytest.raises(NotFinite, match="the view loss is not finite") as caught:
        made.guard.raise_if_found()
    assert caught.value.step == 11


def test_a_batch_in_static_memory_makes_the_same_steps(toy_data: MakeData) -> None:
    plain, static = learner(toy_data), learner(toy_data)
    run(plain)
    buffers: dict[bool, StaticBatch[Any]] = {}
    for index in range(static.total_steps):
        joint = index >= static.config.pretrain_steps
        step = index - joint * static.config.pretrain_steps
        batch: Any = static.batches.joint(step) if joint else static.batches.pretraining(step)
        buffers.setdefault(joint, StaticBatch(batch)).load(batch)
        stage = (static.config.joint_steps, 8) if joint else (static.config.pretrain_steps, 120)
        static.guard.begin(index, static._schedule(step, *stage)[1])
        update = static.updates.joint if joint else static.updates.pretrain
        update(buffers[joint].batch, log=False)
    for name, value in state(plain).items():
        assert torch.equal(value, state(static)[name]), name


@pytest.mark.parametrize(("arm", "n"), [("full", 8), ("full", 0), ("control", 3), ("real-only", 8)])
def test_batches_made_ahead_are_those_made_one_by_one(arm: str, n: int, toy_data: MakeData) -> None:
    """Two epochs of the labelled images, from a step in the middle of a block on; noise included."""
    one = learner(toy_data, arm, n)
    many = Batches(one.config, one.data, one.volume, ahead=4)
    for step in (6, 7, 8, 3, 30):
        plain, ahead = list(_tensors(one.batches.joint(step))), list(_tensors(many.joint(step)))
        assert len(plain) == len(ahead) > 2
        for a, b in zip(plain, ahead, strict=True):
            assert a.shape == b.shape
            # Coordinates are rounded otherwise in a longer batch: a pixel in a thousand may be its neighbour's.
            assert (torch.isclose(a.double(), b.double(), atol=1e-4)).double().mean() > 0.999
    if arm != "real-only":
        for step in (5, 6):
            plain, ahead = list(_tensors(one.batches.pretraining(step))), list(_tensors(many.pretraining(step)))
            for a, b in zip(plain, ahead, strict=True):
                assert (torch.isclose(a.double(), b.double(), atol=1e-4)).double().mean() > 0.999


def test_what_is_one_tensor_in_a_batch_stays_one() -> None:
    shared = torch.arange(3.0)
    batch = {"a": [shared, (torch.zeros(2), None)], "b": shared, "n": 3}
    static = StaticBatch(batch)
    assert static.batch["a"][0] is static.batch["b"]
    assert static.batch["b"] is not shared
    assert static.batch["a"][1][1] is None
    other = torch.arange(3.0) + 5
    static.load({"a": [other, (torch.ones(2), None)], "b": other, "n": 3})
    assert static.batch["b"].tolist() == [5, 6, 7]
    assert static.batch["a"][1][0].tolist() == [1, 1]
    with pytest.raises(AssertionError):
        static.load({"a": [torch.zeros(4), (torch.ones(2), None)], "b": other, "n": 3})


def test_replayed_needs_no_graph_without_a_capture() -> None:
    calls: list[bool] = []

    def update(batch: Tensor, *, log: bool) -> dict[str, Any]:
        calls.append(log)
        return {}

    replayed: Replayed[Tensor] = Replayed(update, None)
    for log in (False, True):
        replayed(torch.zeros(1), log=log)
    assert calls == [False, True]


# --- no wait for the device ---

WAITS = ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "nonzero", "unique")


class NoWait(TorchFunctionMode):
    """Refuses what a GPU would have to be waited for, as it is asked for in Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in WAITS or (func is torch.tensor or func is torch.from_numpy):
            raise AssertionError(f"{name} waits for the device")
        if name == "__getitem__" and any(isinstance(t, Tensor) and t.dtype == torch.bool for t in _flat(args[1:])):
            raise AssertionError("a mask waits for the device")
        return func(*args, **(kwargs or {}))


class NoWaitBelow(TorchDispatchMode):
    """The same for what operations are made of, the backward pass among them."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "lift_fresh", "is_nonzero", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in self.FORBIDDEN), func
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting() -> Iterator[None]:
    with NoWait(), NoWaitBelow():
        yield


@pytest.mark.parametrize(("arm", "ahead"), [("full", 4), ("full", 1), ("control", 1), ("synthetic-only", 4)])
def test_a_step_does_not_wait_for_the_device(arm: str, ahead: int, toy_data: MakeData) -> None:
    made = unlooked(learner(toy_data, arm))
    made.batches = Batches(made.config, made.data, made.volume, ahead=ahead)
    last = made.total_steps - 1
    # The first steps make what is kept: optimisers' state, tables of the shuffles, the box of the centres.
    for index in (0, made.config.pretrain_steps % (last + 1)):
        made.step(index, log=False)
    with no_waiting():
        for index in (1, last - 1):
            made.step(index, log=False)
        made.step(last, log=True)  # reading what it returns is the loop's
    with pytest.raises(AssertionError, match="waits for the device"), no_waiting():
        made.guard.raise_if_found()


@pytest.mark.parametrize("what", ["item", "tolist", "mask", "tensor", "if"])
def test_the_watch_for_waits_sees_them(what: str) -> None:
    x = torch.arange(3.0)
    ways: dict[str, Callable[[], Any]] = {
        "item": lambda: x[0].item(),
        "tolist": lambda: x.tolist(),
        "mask": lambda: x[x > 1],
        "tensor": lambda: torch.tensor([1.0, 2.0]),
        "if": lambda: 1 if x[0] > 0 else 0,
    }
    with pytest.raises(AssertionError), no_waiting():
        ways[what]()


def test_on_the_cpu_the_guard_looks_at_once(toy_data: MakeData) -> None:
    made = learner(toy_data)
    with pytest.raises(AssertionError, match="tolist"), no_waiting():
        made.step(0, log=False)


# --- learning rate and optimiser ---


def test_a_learning_rate_in_a_tensor_makes_the_same_update() -> None:
    start = torch.randn(50, generator=torch.Generator().manual_seed(1))
    found = []
    for looks in (True, False):
        guard, weight = FiniteGuard(CPU), torch.nn.Parameter(start.clone())
        guard.looks = looks
        optimizer = adam([weight], weight_decay=1e-3)
        for step in range(20):
            guard.begin(step, 0.0625 / (1 + step % 4))  # some are powers of two: the same number in float32
            optimizer.zero_grad()
            (weight - 1).square().sum().backward()
            guard.update(optimizer, name="f")
        found.append(weight.detach())
    # The rate in float32 is another number, by a relative 2^-25 at the most, or 20 steps of 0.06 that much.
    assert torch.allclose(*found, rtol=0, atol=1e-6)


def test_an_optimiser_goes_on_from_another_device_s_state() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = adam([weight])
    guard = FiniteGuard(CPU)
    guard.looks = False
    guard.begin(0, 0.5)
    weight.sum().backward()
    guard.update(optimizer, name="f")
    state = adam_state(optimizer)
    assert state["param_groups"][0]["lr"] == 0.5
    assert isinstance(state["param_groups"][0]["lr"], float)
    state["param_groups"][0]["capturable"] = True  # as a GPU's
    again = adam([weight])
    load_adam_state(again, state)
    assert again.param_groups[0]["capturable"] is False
    assert float(again.state[weight]["step"]) == 1


# --- number formats and layouts ---


def losses(learner: murauer.Learner, steps: int) -> list[float]:
    found = []
    for index in range(steps):
        terms = learner.step(index, log=False)
        found.append(float(terms["loss/pose"]))
    return found


def test_bfloat16_is_float32_within_its_rounding(toy_data: MakeData) -> None:
    """One step from the same weights: 8 bits of mantissa, so 0.4 % a rounding, of some dozens in a row."""
    plain, rounded = (learner(toy_data, pretrain_steps=0, precision=p) for p in ("fp32", "bf16"))
    one, two = (made.step(0, log=True) for made in (plain, rounded))
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith("loss/"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=0.03), name
            assert torch.as_tensor(two[name]).dtype == torch.float32
    assert float(two["train/mean_mm"]) == pytest.approx(float(one["train/mean_mm"]), abs=1.0)
    for name, value in rounded.nets.state_dict().items():
        assert value.dtype == torch.float32, name
    for name, value in plain.nets.state_dict().items():
        if "running" in name:
            assert torch.allclose(rounded.nets.state_dict()[name], value, rtol=0.05, atol=0.01), name


def test_bfloat16_learns(toy_data: MakeData) -> None:
    for precision in ("fp32", "bf16"):
        made = learner(
            toy_data, "synthetic-only", pretrain_steps=40, pretrain_epochs=40, learning_rate=1e-2, precision=precision
        )
        found = losses(made, 40)
        assert sum(found[-5:]) < 0.8 * sum(found[:5]), precision


@pytest.mark.parametrize("sizes", [(4, 4, 4), (5, 3, 4)])
def test_channels_last_is_the_same_network(sizes: tuple[int, ...]) -> None:
    images, condition = torch.randn(sum(sizes), 1, 32, 32), torch.randn(sum(sizes), 3)
    found = []
    for last in (False, True):
        torch.manual_seed(1)
        nets = MurauerNets(TINY, input_px=32, joints=14, condition=3, domains=2)
        nets = Execution(CPU, channels_last=last).laid_out(nets)
        assert nets.features.blocks[0].convs[1].weight.is_contiguous(memory_format=torch.channels_last) == last
        groups = Groups.of(sizes, [True, False, True], domains=2, device=CPU, apart=last)
        features = nets.features(images, groups)
        shown = nets.view(features, condition, groups)
        (features.square().mean() + shown.square().mean()).backward()
        gradients = [p.grad for p in nets.parameters() if p.grad is not None]
        buffers = [b for name, b in nets.named_buffers() if "running" in name]
        found.append([features, shown, *gradients, *buffers])
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_channels_last_trains_the_same(toy_data: MakeData) -> None:
    plain, last = (learner(toy_data, pretrain_steps=0, channels_last=flag) for flag in (False, True))
    for index in range(2):
        one, two = (made.step(index, log=True) for made in (plain, last))
        for name, value in one.items():
            assert float(two[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-7), name


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_compiled_step_is_the_step(toy_data: MakeData, channels_last: bool) -> None:
    plain = learner(toy_data, pretrain_steps=2, channels_last=channels_last)
    compiled = learner(toy_data, pretrain_steps=2, channels_last=channels_last, compile=True)
    for index in range(4):
        one, two = (made.step(index, log=index == 3) for made in (plain, compiled))
        for name, value in one.items():
            assert float(two[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-6), name
    assert list(plain.nets.state_dict()) == list(compiled.nets.state_dict())
    with torch.no_grad():
        crops = torch.rand(3, 1, 32, 32)
        poses = [made.pose_net().eval()(crops) for made in (plain, compiled)]
    assert torch.allclose(*poses, atol=0.05)  # mm


# --- what 'auto' means, and what is refused ---


def test_on_the_cpu_auto_is_what_it_always_was() -> None:
    assert execution(tiny(), CPU, ALONE) == Execution(CPU)
    assert execution(tiny(channels_last=True, precision="bf16"), CPU, ALONE) == Execution(
        CPU, bf16=True, channels_last=True
    )


def test_on_a_gpu_auto_is_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert execution(tiny(), cuda, ALONE) == Execution(cuda, bf16=True, graph=True)
    assert execution(tiny(), cuda, Ranks(0, 2)) == Execution(cuda, bf16=True)
    assert execution(tiny(precision="fp32", graph=False), cuda, ALONE) == Execution(cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    assert execution(tiny(), cuda, ALONE) == Execution(cuda, graph=True)


def test_what_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HandloomError, match="needs a CUDA device") as caught:
        execution(tiny(graph=True), CPU, ALONE)
    assert "-o graph=auto" in str(caught.value)
    with pytest.raises(HandloomError, match="several processes share"):
        execution(tiny(graph=True), torch.device("cuda"), Ranks(0, 2))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(HandloomError, match=r"torch\.compile needs a C\+\+ compiler") as caught:
        execution(tiny(compile=True), CPU, ALONE)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "value"), [("precision", "bf16"), ("channels_last", True), ("graph", True), ("compile", True)]
)
def test_what_is_computed_in_one_way_only_says_so(name: str, value: Any, toy_data: MakeData) -> None:
    configs: list[TrainConfig] = [
        preview.preset("quick", **{name: value}),
        nearest.preset("quick", "nearest", **{name: value}),
    ]
    for config, module in zip(configs, (preview, nearest), strict=True):
        with pytest.raises(HandloomError, match="as it is written") as caught:
            module.Learner(config, toy_data(3))  # type: ignore[attr-defined]
        assert name in str(caught.value)


def test_the_model_says_how_it_was_computed(toy_data: MakeData) -> None:
    made: Learner = learner(toy_data, precision="bf16")
    assert made.describe()["execution"] == {
        "device": "cpu",
        "precision": "bf16",
        "channels_last": False,
        "graph": False,
        "compile": False,
    }


def test_every_arm_is_one_function_of_its_batch(toy_data: MakeData) -> None:
    """No arm reads anything of a step but its batch: the same batch twice gives the same terms."""
    for arm in ARMS:
        one, two = learner(toy_data, arm), learner(toy_data, arm)
        joint = arm != "synthetic-only"
        batch: Any = one.batches.joint(1) if joint else one.batches.pretraining(1)
        terms = []
        for made in (one, two):
            made.guard.begin(1, 1e-3)
            update = made.updates.joint if joint else made.updates.pretrain
            terms.append({name: float(value) for name, value in update(batch, log=False).items()})
        assert terms[0] == terms[1]


# --- on a GPU ---

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
EXACT = {"noise_mm": 0.0, "pretrain_steps": 2}
"""Pixel noise comes from the device's own generator."""


def moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if is_dataclass(value) and not isinstance(value, type | Layout):
        return replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    return value


def on_gpu(make: MakeData, **overrides: Any) -> murauer.Learner:
    made = murauer.Learner(tiny(**(EXACT | overrides)), moved(make(8), torch.device("cuda")))
    made.nets.train()
    return made


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize(("overrides", "tolerance"), [({"precision": "fp32", "graph": False}, 5e-3), ({}, 0.05)])
def test_a_step_on_a_gpu_is_the_step_on_the_cpu(overrides: Any, tolerance: float, toy_data: MakeData) -> None:
    """Float32 there has convolutions of 10 bits of mantissa (TF32), unless told otherwise; bfloat16 has 8."""
    here, there = learner(toy_data, **EXACT), on_gpu(toy_data, **overrides)
    for index in range(3):
        one, two = (made.step(index, log=True) for made in (here, there))
        for name, value in one.items():
            if name.startswith("loss/"):
                assert float(two[name]) == pytest.approx(float(value), rel=tolerance), (index, name)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cuda_graph_makes_the_same_training(precision: str, toy_data: MakeData) -> None:
    eager, graph = (on_gpu(toy_data, precision=precision, graph=flag, joint_steps=20) for flag in (False, True))
    for made in (eager, graph):
        run(made, log=lambda i: i == 15)
    for name, value in state(eager).items():
        assert torch.allclose(state(graph)[name], value, rtol=1e-2, atol=1e-3), name


@pytest.mark.gpu
@needs_cuda
def test_nothing_on_a_gpu_is_waited_for(toy_data: MakeData) -> None:
    made = on_gpu(toy_data, joint_steps=20)
    run(made, 8)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index in range(8, made.total_steps):
            made.step(index, log=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_cuda
def test_a_cuda_graph_stops_at_what_is_not_finite(toy_data: MakeData) -> None:
    made = on_gpu(toy_data, joint_steps=20)
    run(made, 10)
    made.nets.view.last.weight.data[0] = torch.nan
    kept = made.nets.pose.second.weight.detach().clone()
    for index in range(10, 14):
        made.step(index, log=False)
    assert torch.equal(made.nets.pose.second.weight, kept)
    with pytest.raises(NotFinite, match="the view loss is not finite") as caught:
        made.guard.raise_if_found()
    assert caught.value.step == 10


# --- Crossing Nets, the same way ---

STAGES = {"vae_steps": 5, "gan_steps": 5, "align_steps": 5, "joint_steps": 5}


def crossed(make: MakeData, **overrides: Any) -> crossing.Learner:
    values: dict[str, Any] = {"input_px": 32, "channels": 4, "batch": 6, "gan_batch": 6, "vae_batch": 16} | STAGES
    config = crossing.preset("quick", "full", **(values | overrides))
    assert isinstance(config, CrossingConfig)
    made = crossing.Learner(config, make(8))
    made.nets.train()
    return made


def test_a_replayed_step_of_crossing_nets_is_the_step(toy_data: MakeData) -> None:
    plain, replayed = (crossed(toy_data, cooldown=0.5, r1=0.1) for _ in range(2))

    def written() -> list[Tensor]:
        states = [t for o in replayed.updates.optimizers.values() for s in o.state.values() for t in s.values()]
        guard = replayed.guard
        return [*(t.data for t in replayed.nets.state_dict().values()), *states, guard._found, *guard._first.values()]

    tape = Tape(written)
    enter = replayed.updates.enter

    def entered(stage: Any) -> None:
        enter(stage)
        assert replayed.updates.replayed is not None
        replayed.updates.replayed.capture = tape

    replayed.updates.enter = entered  # type: ignore[method-assign]
    for made in (plain, replayed):
        made.guard.looks = False
        for index in range(made.total_steps - 1):  # what the last one does besides is not a step's
            made.step(index, log=False)
        made.guard.raise_if_found()
    assert (tape.recorded, tape.replayed) == (4, 2 + 2 + 2 + 1)
    for name, value in plain.nets.state_dict().items():
        assert torch.equal(value, replayed.nets.state_dict()[name]), name


def test_a_step_of_crossing_nets_does_not_wait_for_the_device(toy_data: MakeData) -> None:
    made = crossed(toy_data)
    made.guard.looks = False
    for index in range(made.total_steps - 1):
        if index % 5 in (0, 1):
            made.step(index, log=False)
        elif index % 5 == 2:
            with no_waiting():
                made.step(index, log=False)


def test_crossing_nets_in_bfloat16_are_those_in_float32_within_its_rounding(toy_data: MakeData) -> None:
    """The generator's terms are judged after Adam's first step of the critic, a full one whatever the gradient:
    where that is near nought its sign is rounding's, so they may differ more.
    """
    plain, rounded = (crossed(toy_data, vae_steps=0, precision=p) for p in ("fp32", "bf16"))
    for index in (0, 5, 10):  # the first step of each stage
        rounded.nets.load_state_dict(plain.nets.state_dict())
        one, two = (made.step(index, log=False) for made in (plain, rounded))
        assert one.keys() == two.keys()
        for name in one:
            judged = name == "loss/generator" or name.startswith("loss/g_")
            tolerance = 0.2 if judged else 0.05
            assert float(two[name]) == pytest.approx(float(one[name]), rel=tolerance, abs=0.005), (index, name)
    assert all(value.dtype == torch.float32 for value in rounded.nets.parameters())


def test_a_graph_is_refused_where_the_generator_is_averaged(
    toy_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = crossing.preset("quick", "full", generator_average=0.99, graph=True)
    with pytest.raises(HandloomError, match="averaged generator"):
        crossing.Learner(config, toy_data(3))  # type: ignore[arg-type]
    assert crossed(toy_data).execution == Execution(CPU, channels_last=True)
    contiguous = crossed(toy_data, channels_last=False)
    assert contiguous.nets.trunk.layers[1].inner.weight.is_contiguous()
