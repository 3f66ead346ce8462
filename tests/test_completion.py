"""What Tab offers: asked as a shell asks, in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from handloom import cli_learn
from handloom.cli import main
from handloom.learn.crossing_recipe import ARMS as CROSSING_ARMS
from handloom.learn.crossing_recipe import CrossingConfig
from handloom.learn.murauer_recipe import ARMS as MURAUER_ARMS
from handloom.learn.murauer_recipe import MurauerConfig
from handloom.options import LAYOUT_NAMES
from handloom.stores.joints import LAYOUTS
from handloom.synth.config import SynthConfig

ROOT = Path(__file__).resolve().parents[1]
HANDLOOM = "import sys; sys.argv[0] = 'handloom'; from handloom.cli import main; main(prog_name='handloom')"


def asking(line: str, shell: str) -> dict[str, str]:
    """What a shell puts into the environment."""
    words = line.split(" ")
    cword = words[-1] if shell == "fish" else str(len(words) - 1)
    return {"_HANDLOOM_COMPLETE": f"{shell}_complete", "COMP_WORDS": line, "COMP_CWORD": cword}


def asked(line: str, shell: str = "bash") -> list[str]:
    done = CliRunner(env=asking(line, shell)).invoke(main, prog_name="handloom", catch_exceptions=False)
    assert done.exit_code == 0
    return [said for said in done.stdout.splitlines() if said]


def offered(line: str) -> list[str]:
    return [part.removeprefix("plain,") for part in asked(line)]


def in_a_process(line: str, code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **asking(line, "bash"), "PYTHONPATH": str(ROOT / ".dev")}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("S.zarr/zarr.json", "sets/R 1.zarr/zarr.json", "runs/a/checkpoint.pt", ".hidden/x", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_recordings_and_runs_are_told_from_other_folders() -> None:
    assert offered("handloom train murauer --synth ") == ["S.zarr", "runs/", "sets/"]
    assert offered("handloom train murauer --real s") == ["sets/"]
    assert offered("handloom store verify sets/") == ["sets/R 1.zarr"]
    assert offered("handloom eval model runs/") == ["runs/a"]
    assert offered("handloom train murauer --synth nowhere/x") == []
    assert offered("handloom synth run --out S") == ["dir,S"]
    assert offered("handloom export r --out m") == ["file,m"]


def test_commands_arms_presets_and_layouts() -> None:
    assert {"murauer", "crossing"} <= set(offered("handloom train "))
    assert offered("handloom train murauer --arm +") == ["+view-prediction", "+distribution-matching"]
    assert offered("handloom train crossing --arm paper-n") == ["paper-no-smo", "paper-no-gan", "paper-nearest"]
    assert offered("handloom train murauer --preset ") == ["quick", "fast", "paper"]
    assert offered("handloom train murauer --layout nyu") == ["nyu36", "nyu14"]


def test_keys_of_configurations_and_their_values() -> None:
    assert offered("handloom train murauer -o pretrain") == ["pretrain_steps=", "pretrain_epochs="]
    assert offered("handloom train crossing -o pretrain") == []
    assert offered("handloom train murauer -o weights.") == [
        "weights.correspondence=", "weights.view=", "weights.matching="
    ]  # fmt: skip
    assert offered("handloom train murauer --arm preview -o pose") == ["pose_weight="]
    assert offered("handloom train murauer -o precision=") == ["precision=auto", "precision=fp32", "precision=bf16"]
    assert offered("handloom synth run -o scene.pr") == ["scene.preset="]
    assert offered("handloom store info -o x") == []
    told = asked("handloom train crossing -o gan_ra", "zsh")
    assert told[:2] == ["plain", "gan_rate="]
    (told_fish,) = asked("handloom train murauer -o memory", "fish")
    assert told_fish.startswith(
        "plain,memory_mb=\tMemory for the synthetic images: a larger set is read through a pool"
    )


def test_every_key_is_offered() -> None:
    """They are read from the source; what pydantic makes of it is the truth."""
    for command, config in (
        ("train murauer", MurauerConfig),
        ("train crossing", CrossingConfig),
        ("synth run", SynthConfig),
    ):
        keys = {key.rstrip("=.") for key in offered(f"handloom {command} -o ")}
        assert keys == set(config.model_fields), command


def test_what_is_listed_for_speed_is_what_there_is() -> None:
    assert set(cli_learn.MURAUER_ARMS) == {*MURAUER_ARMS, "preview"}
    assert set(cli_learn.CROSSING_ARMS) == {*CROSSING_ARMS, "nearest", "paper-nearest"}
    assert tuple(LAYOUTS) == LAYOUT_NAMES


@pytest.mark.parametrize("line", ["train murauer -o ", "train crossing --synth ", "synth run -o scene."])
def test_a_key_press_imports_nothing_heavy(line: str) -> None:
    loaded = "print(*sys.modules, file=sys.stderr)"
    done = in_a_process(f"handloom {line}", f"import sys\ntry:\n    {HANDLOOM}\nfinally:\n    {loaded}")
    assert done.stdout.startswith("plain,")
    modules = set(done.stderr.split())
    assert not modules & {"torch", "numpy", "pydantic", "yaml", "zarr", "rich"}
    rooms = {name for name in modules if name.startswith("handloom.") and not name.startswith("handloom.cli_")}
    assert rooms <= {f"handloom.{name}" for name in (
        "cli", "completion", "console", "options", "predict_sources", "stages", "stores", "stores.errors"
    )}  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_where_it_goes_and_parses(shell: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].startswith(f"# To install: handloom completion {shell} > ~/")
    if shutil.which(shell):
        (tmp_path / "script").write_text(done.stdout)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes_words_that_it_breaks_at_an_equals_sign(folder: Path) -> None:
    (folder / "script").write_text(CliRunner().invoke(main, ["completion", "bash"]).stdout)
    (folder / "bin").mkdir()
    (folder / "bin/handloom").write_text(f'#!/bin/sh\nexec {sys.executable} -c "{HANDLOOM}" "$@"\n')
    (folder / "bin/handloom").chmod(0o755)
    ask = """source ./script
    ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _handloom_completion handloom; echo "${COMPREPLY[@]}"; }
    compopt() { echo "compopt $2" >&2; }
    ask handloom train murauer -o precision = b
    ask handloom train murauer -o joint_s
    ask handloom train murauer --real sets/
    ask handloom train murauer --overwrite --ar"""
    env = {**os.environ, "PATH": f"{folder}/bin:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / ".dev")}
    done = subprocess.run(["bash", "-c", ask], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["bf16", "joint_steps=", "sets/R\\ 1.zarr", "--arm"]
    assert done.stderr.splitlines() == ["compopt nospace"], "after the key alone"
