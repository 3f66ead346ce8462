"""The loop both methods share: steps, log, checkpoints, resume.

A method's module brings a configuration (`preset`, `after_pretraining`), `check_data`, which refuses data before
their images are read, a `Learner`, and for those who load a model `build_nets` and `pose_net`; everything else is
here. Draws and noise are functions of (seed, step):
what a resume needs is weights, optimisers and the number of the next step: on the CPU a run that was killed
and resumed ends with the same bits as one that was not (same machine, versions and thread count). Several
processes share each step's samples (`ranks.py`); a checkpoint does not know how many there were, so a run may
go on with more or fewer.

A run directory holds `config.yaml` (resolved; feeds a new run as it is), `data.json` (recordings used, by
uuid), `labelled_frames.txt` (the only labels that were seen), `metrics.jsonl` (a JSON object a log line) and
`checkpoint.pt`; in `tensorboard/` the log as event files, where these are asked for; where training stopped at a term
that is not finite, `not_finite.json` with the samples of that step; in `samples/` pictures of what a generator makes,
where the method has one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from ..stores.config import checked, read_yaml, with_overrides, write_yaml
from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .config import HOW, TrainConfig
from .data import TrainingData, Validation, load_training_data, load_validation, open_validation
from .event_files import EventFiles, need_tensorboard, remove_event_files
from .model import CHECKPOINT, method_module, read_checkpoint, write_checkpoint
from .pooled import with_memory
from .ranks import Launch, Ranks, joined, launched, stopped_with
from .samples import FILE as SAMPLES
from .samples import Sample, with_samples
from .updates import FiniteGuard, NotFinite

CONFIG: Final = "config.yaml"
DATA: Final = "data.json"
METRICS: Final = "metrics.jsonl"
LABELLED: Final = "labelled_frames.txt"
SHEETS: Final = "samples"

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with steps done, steps in all and the latest metrics, each time these are read from the device."""


class Learner(Protocol):
    """A method in training: its networks, data and optimisers behind one `step`."""

    @property
    def nets(self) -> nn.Module:
        """Every network; its `state_dict` is the checkpoint's `weights`."""

    @property
    def guard(self) -> FiniteGuard:
        """Stands before each update."""

    @property
    def total_steps(self) -> int:
        """Steps of all stages together."""

    def step(self, index: int, *, log: bool) -> dict[str, Tensor | float]:
        """Step number `index` from 0, whichever stage that falls in; the whole training is a fold over it.

        Returns what the log takes, each a number or a tensor () on the device, without waiting for it; what is
        costly (gradient norms) is measured only when `log` is set. `nets` is in training mode.

        Raises:
            NotFinite: a term or gradient is not finite (on the CPU), before the update that it would enter.
        """

    def samples(self, index: int, term: str) -> list[Sample]:
        """This rank's samples of a step, those that a term looks at; drawn again."""

    def sheets(self, done: int) -> Mapping[str, bytes]:
        """Pictures to keep of the run after so many steps, PNG by file name; after most steps none."""

    def pose_net(self) -> nn.Module:
        """The inference path over the same weights: crops (B, 1, P, P) to mm (B, J, 3) about the centre."""

    def describe(self) -> dict[str, Any]:
        """Plain values: all that `build_nets` and `pose_net` of the method's module need, and provenance."""

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the pre-trained networks of another run's checkpoint (`read_checkpoint`).

        Raises:
            HandloomError: it is of another method, architecture or layout.
        """

    def training_state(self) -> dict[str, Any]:
        """What a resume needs besides `nets` and the step: optimisers, averages. Tensors and plain values."""

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Undo `training_state`."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left."""

    run_dir: Path
    steps: int
    """Done in all."""
    of_steps: int
    """How many it is to do; where it did fewer, it was told to stop, and `resume` goes on."""
    seconds: float
    """Of this call; a resumed run spent more before."""
    metrics: Mapping[str, float]
    """The last line of metrics.jsonl."""
    rank: int = 0
    """Of this process; 0 wrote it."""

    @property
    def finished(self) -> bool:
        """Whether it did all its steps."""
        return self.steps == self.of_steps


def train(
    config: TrainConfig,
    *,
    synth: Sequence[Path],
    real: Path | None,
    run_dir: Path,
    val: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    minutes: float | None = None,
    progress: Progress | None = None,
) -> RunResult:
    """Train one model, from recordings to a run directory; as one of several processes where torchrun says so.

        config = preset("murauer", "quick", "full", {"labels": 20})
        train(config, synth=[Path("S.zarr"), Path("twins.zarr")], real=Path("R.zarr"), run_dir=Path("runs/full"))

    The run then holds config.yaml, metrics.jsonl, checkpoints and the final networks; `handloom eval`, `export` and
    `report` take it.

    Args:
        config: a method's whole configuration (`murauer.preset(...)`, `crossing.preset(...)`).
        synth: synthetic recordings; those with twins of `real` are recognised by themselves.
        real: the captured recording, labelled or not.
        run_dir: where the run is written.
        val: labelled recording for the log's `val/mean_mm`; chooses nothing.
        init: a run whose pre-trained networks this one starts from.
        resume: continue the run in `run_dir` from its last checkpoint.
        overwrite: replace the run in `run_dir`.
        minutes: stop at a checkpoint when this call has taken so long, after one step at the least.
        progress: called at each log line, on rank 0.

    Raises:
        HandloomError: the data, the run directory or the device do not allow it; a non-finite step; or another
            process failed.
    """
    started = time.perf_counter()
    if config.tensorboard:
        need_tensorboard()
    launch = launched()
    device = rank_device(config.device, launch)
    with joined(launch, device) as ranks:
        continued = ranks.from_first(lambda: _check_run_dir(run_dir, resume=resume, overwrite=overwrite))
        start = ranks.together(lambda: read_checkpoint(init)) if init is not None and not continued else None
        ranks.agree({f"value of '{name}'": str(value) for name, value in config.model_dump().items()})
        given, first_run = config, run_dir if continued else None
        config = ranks.from_first(lambda: _settled(given, synth, init, device, first_run, processes=launch.local_count))
        method = method_module(config.method, config.arm)

        def check(data: TrainingData) -> None:
            method.check_data(config, data, ranks)
            if val is not None and ranks.first:
                open_validation(val, data.layout)

        data = ranks.together(lambda: load_training_data(config, synth=synth, real=real, device=device, check=check))
        ranks.agree({"data": str({name: _identity(entry) for name, entry in data.sources.items()})})
        # Rank 0 measures for all.
        validation = ranks.together(
            lambda: load_validation(val, config, data) if val is not None and ranks.first else None
        )
        learner: Learner = ranks.together(lambda: method.Learner(config, data, ranks))
        sources = data.sources | {"val": str(val) if val else None, "init": str(init) if init else None}
        first = 0
        if continued:
            state = ranks.from_first(lambda: _last_state(run_dir, sources))
            learner.nets.load_state_dict(state["weights"])
            learner.load_training_state(state["training"])
            first = int(state["description"]["step"])
        else:
            if start is not None:
                learner.start_from(start)
            ranks.from_first(lambda: _open_run(run_dir, config, sources))
        ranks.start_alike(learner.nets)
        until = None if minutes is None else started + 60 * minutes
        with _event_files(config, run_dir, ranks) as events:
            done, metrics = _loop(
                learner, config, run_dir, first, val is not None, validation, until, progress, ranks, events
            )
    seconds = time.perf_counter() - started
    return RunResult(run_dir, done, learner.total_steps, seconds, metrics, ranks.rank)


def _settled(
    config: TrainConfig,
    synth: Sequence[Path],
    init: Path | None,
    device: torch.device,
    continued: Path | None,
    *,
    processes: int,
) -> TrainConfig:
    """The configuration as the run records it: without pre-training where that is taken over, `memory_mb` decided.

    The latter once for a run: the order of its samples hangs on it.
    """
    if init is not None or (continued is not None and _recorded(continued)["init"] is not None):
        config = method_module(config.method, config.arm).after_pretraining(config)
    if config.memory_mb == "auto" and continued is not None:
        config = config.model_copy(update={"memory_mb": read_yaml(continued / CONFIG).get("memory_mb")})
    config = with_memory(config, synth, device, processes=processes)
    if continued is not None:
        _check_same_config(continued, config)
    return config


def config_of(method: str, file: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> TrainConfig:
    """A method's configuration of a YAML file, or a preset's, with `given` values and `a.b=c` overrides put over it.

    Args:
        method: 'murauer' or 'crossing'.
        file: a run's config.yaml, or a few of its keys; None: the preset as it is.
        given: values by key, 'preset' and 'arm' among them, which must be the file's where that says them.
        overrides: as `stores.config.with_overrides` takes them.

    Raises:
        HandloomError: as `preset`; or the file cannot be read, or is of another method, preset or arm.
    """
    values = {} if file is None else read_yaml(file)
    named = {key: str(given.get(key, values.get(key, default))) for key, default in _NAMED.items()}
    for key, asked in {"method": method, **named}.items():
        if file is not None and str(values.get(key, asked)) != asked:
            mend = f"handloom train {values[key]} --config {file}" if key == "method" else f"leave --{key} out"
            raise HandloomError(
                f"The configuration is of another {key}",
                where=str(file),
                why=f"it says '{values[key]}', asked for is '{asked}'",
                fix=f"{mend}, or change the line in the file",
            )
    rest = {key: value for key, value in given.items() if key not in named}
    return preset(method, named["preset"], named["arm"], with_overrides({**values, **rest}, overrides), file=file)


_NAMED: Final[Mapping[str, str]] = {"preset": "quick", "arm": "full"}
"""What chooses the values that nobody names."""


def preset(
    method: str, name: str, arm: str, overrides: Mapping[str, Any] | None = None, *, file: Path | None = None
) -> TrainConfig:
    """A method's whole configuration by names, with some of its values replaced; `train` takes it.

    Args:
        method: 'murauer' or 'crossing'.
        name: 'quick', 'fast' or 'paper'.
        arm: one of the method's experiments.
        overrides: values by key; a mapping replaces only the keys it has. May be a run's whole `config.yaml`.
        file: where they come from, for messages.

    Raises:
        HandloomError: no such method, preset, arm or key, or a value of the wrong kind.
    """
    config: TrainConfig = method_module(method).preset(name, arm)
    for key, asked in (("method", method), ("preset", name), ("arm", arm)):
        said = (overrides or {}).get(key, asked)
        if said != asked:
            raise HandloomError(
                f"The configuration is of another {key}", why=f"it says '{said}', asked for is '{asked}'"
            )
    return checked(type(config), _over(config.model_dump(), overrides or {}), where=str(file) if file else "")


def _over(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with `overrides` put over them, mapping by mapping."""
    out = dict(values)
    for key, value in overrides.items():
        old = out.get(key)
        out[key] = _over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


def pick_device(name: str) -> torch.device:
    """The device of that name; 'auto' takes a CUDA device when there is one.

    Raises:
        HandloomError: the name is no device, or the machine lacks it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise HandloomError(f"'{name}' is no device", fix="--device auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise HandloomError(
            "There is no CUDA device", where=f"--device {name}", fix="--device cpu", exit_code=BAD_ENVIRONMENT
        )
    return device


def rank_device(name: str, launch: Launch) -> torch.device:
    """The device of one of several processes: each takes a GPU of its own.

    Raises:
        HandloomError: as `pick_device`; or there are more processes here than GPUs.
    """
    device = pick_device(name)
    if launch.ranks.alone or device.type != "cuda":
        return device
    if ":" in name:
        raise HandloomError(
            "Several processes cannot share one GPU", where=f"--device {name}", fix="--device cuda: each takes its own"
        )
    if launch.local_count > torch.cuda.device_count():
        raise HandloomError(
            f"There are {launch.local_count} processes here and {torch.cuda.device_count()} GPUs",
            fix=f"torchrun --nproc-per-node {torch.cuda.device_count()}, or --device cpu",
            exit_code=BAD_ENVIRONMENT,
        )
    device = torch.device("cuda", launch.local_rank)
    torch.cuda.set_device(device)
    return device


def _loop(
    learner: Learner,
    config: TrainConfig,
    run_dir: Path,
    first: int,
    validates: bool,
    validation: Validation | None,
    until: float | None,
    progress: Progress | None,
    ranks: Ranks,
    events: EventFiles | None,
) -> tuple[int, dict[str, float]]:
    """Steps done in all and the last line of the log; `until` is a time of `perf_counter` to stop at."""
    total = learner.total_steps
    started, metrics = time.perf_counter(), _last_metrics(run_dir) if ranks.first else {}
    learner.nets.train()
    for index in range(first, total):
        done = index + 1
        last = done == total
        log = last or done % config.log_every == 0
        stops = until is not None and not last and _is_over(until, log=log, ranks=ranks)
        saves = last or stops or done % config.save_every == 0
        try:
            terms = learner.step(index, log=log)
            if log or saves:
                learner.guard.raise_if_found()
        except NotFinite as error:
            raise _stopped_by(error, learner, run_dir, ranks) from error
        if log:
            metrics = {"step": done, **_mean_terms(terms, ranks)}
            metrics["steps_per_s"] = (done - first) / (time.perf_counter() - started)
            if validates and (last or (config.val_every and done % config.val_every == 0)):
                ranks.average_statistics(learner.nets)
                metrics["val/mean_mm"] = ranks.from_first(partial(_measured, learner, validation))
            if ranks.first:
                with (run_dir / METRICS).open("a") as file:
                    file.write(json.dumps(metrics) + "\n")
                if events is not None:
                    events.write(metrics)
                if progress is not None:
                    progress(done, total, metrics)
        if ranks.first:
            _keep_sheets(run_dir, learner.sheets(done))
        if saves:
            ranks.average_statistics(learner.nets)
            ranks.from_first(partial(_save, run_dir, learner, done))
        if stops:
            return done, metrics
    if not total:
        ranks.from_first(lambda: _save(run_dir, learner, 0))
    return total, metrics


@contextmanager
def _event_files(config: TrainConfig, run_dir: Path, ranks: Ranks) -> Iterator[EventFiles | None]:
    """Event files where they are asked for, on rank 0."""
    if not (config.tensorboard and ranks.first):
        yield None
        return
    with closing(EventFiles(run_dir, _metric_lines(run_dir))) as events:
        yield events


def _is_over(until: float, *, log: bool, ranks: Ranks) -> bool:
    """Whether the time has come; several processes ask rank 0, when they talk to each other anyway."""
    if ranks.alone:
        return time.perf_counter() >= until
    return log and ranks.from_first(lambda: time.perf_counter() >= until)


def _keep_sheets(run_dir: Path, sheets: Mapping[str, bytes]) -> None:
    for name, data in sheets.items():
        (run_dir / SHEETS).mkdir(exist_ok=True)
        (run_dir / SHEETS / name).write_bytes(data)


def _measured(learner: Learner, validation: Validation | None) -> float:
    assert validation is not None
    learner.nets.eval()
    error_mm = validation.mean_error_mm(learner.pose_net())
    learner.nets.train()
    return error_mm


def _mean_terms(terms: Mapping[str, Tensor | float], ranks: Ranks) -> dict[str, float]:
    """A step's terms as numbers, means over the ranks; waits for the device."""
    numbers = {name: float(value) for name, value in terms.items()}
    if ranks.alone:
        return numbers
    parts = ranks.gather(list(numbers.values()))
    return dict(zip(numbers, (sum(column) / ranks.count for column in zip(*parts, strict=True)), strict=True))


def _stopped_by(error: NotFinite, learner: Learner, run_dir: Path, ranks: Ranks) -> HandloomError:
    """The guard's error with the samples that every rank had in that step; said by rank 0."""
    samples = [sample for part in ranks.gather(learner.samples(error.step, error.term)) for sample in part]
    return with_samples(error, samples, run_dir) if ranks.first else stopped_with(0, str(error))


def _save(run_dir: Path, learner: Learner, done: int) -> None:
    recorded = _recorded(run_dir)
    write_checkpoint(
        run_dir,
        description=learner.describe() | {"step": done, "sources": recorded, "torch": str(torch.__version__)},
        weights=learner.nets.state_dict(),
        training=learner.training_state(),
    )


def _last_state(run_dir: Path, sources: Mapping[str, Any]) -> dict[str, Any]:
    """The last checkpoint; lines of the log that are newer are taken away.

    Raises:
        HandloomError: the run was started with other data.
    """
    recorded = _recorded(run_dir)
    for name in ("synth", "twins", "real", "labelled_frames"):
        if _identity(recorded[name]) != _identity(sources[name]):
            raise HandloomError(
                f"The run was started with other data: '{name}' differs",
                where=str(run_dir / DATA),
                fix="give the recordings it was started with, or take a new run directory",
            )
    state = read_checkpoint(run_dir)
    step = int(state["description"]["step"])
    kept = [line for line in _metric_lines(run_dir) if json.loads(line)["step"] <= step]
    (run_dir / METRICS).write_text("".join(line + "\n" for line in kept))
    return state


def _identity(entry: Any) -> Any:
    """What must be the same on a resume: a recording may have moved, not changed."""
    match entry:
        case {"uuid": uuid, "frames": frames}:
            return (uuid, frames)
        case list():
            return [_identity(item) for item in entry]
        case _:
            return entry


def _check_run_dir(run_dir: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether there is a checkpoint to go on from, and that is wanted."""
    if not run_dir.exists() or (run_dir.is_dir() and not any(run_dir.iterdir())):
        return False
    if not (run_dir / CONFIG).exists():
        raise HandloomError(
            "The run directory exists and is not a run", where=str(run_dir), fix="give --run another path"
        )
    if not (resume or overwrite):
        raise HandloomError("The run exists", where=str(run_dir), fix="--resume continues it, --overwrite replaces it")
    return resume and (run_dir / CHECKPOINT).exists()


def _check_same_config(run_dir: Path, config: TrainConfig) -> None:
    """A resume with another configuration would be neither the old run nor a new one."""
    recorded = read_yaml(run_dir / CONFIG)
    free = {"device", "log_every", "tensorboard", "save_every", "val_every", *HOW}
    given = config.model_dump(mode="json")
    for name in sorted((recorded.keys() | given.keys()) - free):
        if recorded.get(name) != given.get(name):
            raise HandloomError(
                f"The run was started with {name} = {recorded.get(name)}, now it is {given.get(name)}",
                where=str(run_dir / CONFIG),
                fix=f"resume with the values of {run_dir / CONFIG}, or take a new run directory",
            )


def _open_run(run_dir: Path, config: TrainConfig, sources: Mapping[str, Any]) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in (CHECKPOINT, METRICS, SAMPLES):
        (run_dir / name).unlink(missing_ok=True)
    for picture in (run_dir / SHEETS).glob("*.png"):
        picture.unlink()
    if not config.tensorboard:
        remove_event_files(run_dir)
    write_yaml(config.model_dump(mode="json"), run_dir / CONFIG)
    (run_dir / DATA).write_text(json.dumps(sources, indent=1) + "\n")
    (run_dir / LABELLED).write_text("".join(f"{frame}\n" for frame in sources["labelled_frames"]))
    (run_dir / METRICS).touch()


def _recorded(run_dir: Path) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((run_dir / DATA).read_text())
    return recorded


def _metric_lines(run_dir: Path) -> list[str]:
    """Whole lines of metrics.jsonl; a kill may have cut the last one."""
    text = (run_dir / METRICS).read_text() if (run_dir / METRICS).exists() else ""
    return text.split("\n")[:-1]


def _last_metrics(run_dir: Path) -> dict[str, float]:
    lines = _metric_lines(run_dir)
    return dict(json.loads(lines[-1])) if lines else {}
