"""`train --tensorboard`: event files that say what metrics.jsonl says, read with TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn import event_files
from handloom.learn.train import preset, train

HAS_READER = importlib.util.find_spec("tensorboard") is not None
needs_reader = pytest.mark.skipif(not HAS_READER, reason="the extra 'tensorboard' is not installed")
PLAIN = {"features": "plain", "stem": 4, "channels": (8,), "mid": (), "feature_width": 16, "view_channels": (8, 4)}
SHORT = {"input_px": 32, "batch": 8, "architecture": PLAIN, "pretrain_steps": 10, "log_every": 2, "save_every": 3}


class Killed(Exception):
    pass


@pytest.fixture
def trained(recordings: SimpleNamespace, tmp_path: Path) -> Callable[..., Path]:
    """Train to the end, or until so many steps are done."""

    def run(*, until: int | None = None, tensorboard: bool = True, **options: Any) -> Path:
        def progress(done: int, total: int, metrics: Mapping[str, float]) -> None:
            if until is not None and done >= until:
                raise Killed

        config = preset("murauer", "quick", "synthetic-only", {**SHORT, "tensorboard": tensorboard})
        given: dict[str, Any] = {"synth": [recordings.synth], "real": None, "run_dir": tmp_path / "run"}
        if until is None:
            train(config, progress=progress, **given, **options)
        else:
            with pytest.raises(Killed):
                train(config, progress=progress, **given, **options)
        return tmp_path / "run"

    return run


def reader(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})


def points(found: Any) -> dict[str, list[tuple[int, float]]]:
    found.Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def assert_says_the_log(run: Path, found: Any) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    said: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name in line.keys() - {"step"}:
            said.setdefault(name, []).append((line["step"], pytest.approx(line[name], rel=1e-6)))
    assert points(found) == said


@needs_reader
def test_the_points_are_those_of_the_log(trained: Callable[..., Path]) -> None:
    run = trained()
    assert_says_the_log(run, reader(run))
    assert [step for step, _ in points(reader(run))["loss/pose"]] == [2, 4, 6, 8, 10]


@needs_reader
@pytest.mark.parametrize("until", [2, 4, 8])
def test_a_resume_neither_doubles_nor_loses_points(trained: Callable[..., Path], until: int) -> None:
    """Killed before the first checkpoint, after one, and two lines after one that is made again."""
    run = trained(until=until)
    watching = reader(run)
    assert max(step for step, _ in points(watching)["loss/pose"]) == until
    trained(resume=True)
    assert_says_the_log(run, reader(run))
    assert_says_the_log(run, watching)  # a TensorBoard that was open all the time


@needs_reader
def test_event_files_that_are_asked_for_later_begin_at_the_beginning(trained: Callable[..., Path]) -> None:
    run = trained(until=6, tensorboard=False)
    assert not (run / "tensorboard").exists()
    trained(resume=True)
    assert_says_the_log(run, reader(run))
    trained(overwrite=True, tensorboard=False)
    assert not list((run / "tensorboard").glob("*")), "of a run that is no more"


@needs_reader
def test_the_option_of_the_command(recordings: SimpleNamespace, tmp_path: Path) -> None:
    changes = [part for key, value in SHORT.items() for part in ("-o", f"{key}={json.dumps(value)}")]
    command = ["train", "murauer", "--arm", "synthetic-only", "--synth", str(recordings.synth), *changes]
    done = CliRunner().invoke(main, [*command, "--run", str(tmp_path / "run"), "--tensorboard"])
    assert done.exit_code == 0, done.output
    assert_says_the_log(tmp_path / "run", reader(tmp_path / "run"))
    done = CliRunner().invoke(main, [*command, "--run", str(tmp_path / "other"), "-o", "tensorboard=true"])
    assert done.exit_code == 0, done.output
    assert list((tmp_path / "other/tensorboard").glob("events.out.tfevents.*"))


def test_without_the_extra_nothing_is_read_and_the_command_is_said(
    trained: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files.importlib.util, "find_spec", lambda name: None)
    words = ["train", "murauer", "--arm", "synthetic-only", "--synth", str(tmp_path / "none.zarr"), "--tensorboard"]
    done = CliRunner().invoke(main, [*words, "--run", str(tmp_path / "run")])
    assert done.exit_code == 3
    assert done.stderr == (
        "error: tensorboard is not installed\n"
        "  why:   it comes with the optional extra 'tensorboard'\n"
        "  fix:   pip install 'handloom[tensorboard]'\n"
    )
    assert not (tmp_path / "run").exists()
    trained(tensorboard=False)  # who does not ask for it needs it not
