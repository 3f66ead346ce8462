"""A recommendation: what was chosen and why, what is missing, and which commands come next."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from .. import __version__
from ..stores.machine import Machine
from .facts import Facts
from .timing import StageTime, total_s

WIDTH: Final = 100
"""Of the comments in the file."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device for training."""

    name: str
    memory_bytes: int
    bfloat16: bool


@dataclass(frozen=True, slots=True)
class Where:
    """The computer that the training is for."""

    machine: Machine
    gpu: Gpu | None
    untimed: str = ""
    """Why no step is timed there, if so."""

    def line(self) -> str:
        """For people."""
        cores = f"{self.machine.cores:g} core{'s' * (self.machine.cores != 1)}"
        gpu = f"{self.gpu.name}, {gib(self.gpu.memory_bytes)}" if self.gpu else "no GPU"
        name = f"{self.machine.processor}, " if self.machine.processor else ""
        return f"{name}{cores}, {gib(self.machine.free_bytes)} of memory free, {gpu}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A key of the configuration, its value and the reason."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True)
class Advice:
    """Something that is missing or could be better, and the command that mends it, where there is one."""

    what: str
    command: str = ""


Tell = Callable[[str], None]


@dataclass(slots=True)
class Recommendation:
    """What to train, how, on what; see `recommend.recommend`."""

    where: Where
    facts: list[Facts]
    choices: list[Choice] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)
    first: list[str] = field(default_factory=list)
    """Commands that have to run before training can, in order."""
    synth: list[Path] = field(default_factory=list)
    """As `train` will be given them, those that `first` makes among them."""
    real: Path | None = None
    val: Path | None = None
    run_dir: Path = Path("runs/run")
    times: dict[str, tuple[StageTime, ...]] = field(default_factory=dict)
    """By preset, what was timed."""
    tell: Tell = lambda note: None
    """Called before each timing, with what is timed."""

    def say(self, key: str, value: Any, why: str) -> None:
        """Choose a value."""
        self.choices.append(Choice(key, value, why))

    def warn(self, what: str, *command: str | Path) -> None:
        """Something is missing; the words of the command that mends it."""
        self.advice.append(Advice(what, said(*command) if command else ""))

    @property
    def config(self) -> dict[str, Any]:
        """The values alone, plain."""
        return {choice.key: choice.value for choice in self.choices}

    @property
    def seconds(self) -> float | None:
        """The whole training on this machine, where it was timed."""
        times = self.times.get(str(self.config["preset"]))
        return None if times is None else total_s(times)

    def command(self, file: str | Path) -> str:
        """The training, with the configuration in that file."""
        words: list[str | Path] = ["handloom", "train", self.config["method"], "--config", file]
        for synth in self.synth:
            words += ["--synth", synth]
        for option, path in (("--real", self.real), ("--val", self.val)):
            words += [option, path] if path is not None else []
        return said(*words, "--run", self.run_dir)

    def yaml(self, file: str | Path) -> str:
        """The configuration with the reason for each value above it."""
        lines = [*_comment(f"Written by handloom {__version__} train recommend, for: {self.where.line()}")]
        for one in self.facts:
            lines += _comment(f"{one.path}: {one.line()}")
        for note in self.advice:
            lines += ["#", *_comment(f"Note: {note.what}")]
            lines += [f"#   {note.command}"] if note.command else []
        steps = [*self.first, self.command(file)]
        lines += ["#", *_comment("Next, in this order:" if len(steps) > 1 else "Next:"), *(f"#   {c}" for c in steps)]
        for choice in self.choices:
            lines += ["", *_comment(f"{_plain(choice.value)}: {choice.why}")]
            lines.append(yaml.safe_dump({choice.key: choice.value}, allow_unicode=True, width=WIDTH).strip())
        return "\n".join(lines) + "\n"

    def to_dict(self, file: str | Path) -> dict[str, Any]:
        """Plain values."""
        return {
            "config": self.config,
            "reasons": {choice.key: choice.why for choice in self.choices},
            "notes": [asdict(one) for one in self.advice],
            "commands": [*self.first, self.command(file)],
            "seconds": self.seconds,
            "timed": {name: [stage.to_dict() for stage in times] for name, times in self.times.items()},
            "recordings": [one.to_dict() for one in self.facts],
            "machine": {
                "processor": self.where.machine.processor,
                "cores": self.where.machine.cores,
                "free_bytes": self.where.machine.free_bytes,
                "load": self.where.machine.load,
                "gpu": asdict(self.where.gpu) if self.where.gpu else None,
                "untimed": self.where.untimed or None,
            },
        }

    def lines(self, file: Path) -> list[str]:
        """What a terminal is told: what was chosen, and what is missing."""
        config = self.config
        method = {"murauer": "MURAUER", "crossing": "Crossing Nets"}[config["method"]]
        takes = f", about {took(self.seconds)} here" if self.seconds is not None else ", not timed"
        out = [f"{file}: {method}, arm {config['arm']}, preset {config['preset']}{takes}"]
        for one in self.facts:
            out += textwrap.wrap(f"{one.path}: {one.line()}", 80, initial_indent="  ", subsequent_indent="    ")
        for note in self.advice:
            out += textwrap.wrap(f"note: {note.what}", 80, subsequent_indent="      ")
            out += [f"      {note.command}"] if note.command else []
        return out


def said(*words: str | Path) -> str:
    """A command as it is typed."""
    return shlex.join(map(str, words))


def took(seconds: float) -> str:
    """A length of time in a unit that fits it."""
    for most, unit, length in ((180, "s", 1), (180 * 60, "minutes", 60), (72 * 3600, "hours", 3600)):
        if seconds < most:
            return f"{seconds / length:.{0 if unit != 'hours' else 1}f} {unit}"
    return f"{seconds / 86400:.0f} days"


def step_took(seconds: float) -> str:
    """A step's time."""
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def gib(count: float) -> str:
    """Bytes in GiB, small ones in MiB."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False,
                         break_on_hyphens=False)  # fmt: skip


def _plain(value: Any) -> str:
    """A value as YAML writes it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case Mapping():
            return ", ".join(f"{key} {part}" for key, part in value.items())
        case _:
            return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
