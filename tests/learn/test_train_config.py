"""`train --config`: what a file says, what goes over it, what it cannot say."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner, Result

from handloom.cli import main

FILE = """method: murauer
preset: quick
arm: synthetic-only
seed: 3
input_px: 32
batch: 8
pretrain_steps: 1
architecture: {features: plain, stem: 4, channels: [8], mid: [], feature_width: 16, view_channels: [8, 4]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(FILE)
    return tmp_path / "tiny.yaml"


def run(method: str, *words: object) -> Result:
    return CliRunner().invoke(main, ["train", method, *map(str, words)])


def test_a_file_says_what_options_do_not(file: Path, recordings: SimpleNamespace, tmp_path: Path) -> None:
    given = ("--synth", recordings.synth, "--config", file)
    done = run("murauer", *given, "--run", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'run'}: 1 steps in ")
    made = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (made["seed"], made["batch"], made["architecture"]["stem"]) == (3, 8, 4)
    over = run("murauer", *given, "--run", tmp_path / "over", "--seed", 4, "-o", "batch=4", "-o", "architecture.stem=2")
    assert over.exit_code == 0, over.output
    made = yaml.safe_load((tmp_path / "over/config.yaml").read_text())
    assert (made["seed"], made["batch"], made["architecture"]["stem"]) == (4, 4, 2)
    assert made["architecture"]["channels"] == [8]


def test_the_configuration_of_a_run_feeds_another(file: Path, recordings: SimpleNamespace, tmp_path: Path) -> None:
    given = ("--synth", recordings.synth, "--run")
    assert run("murauer", "--config", file, *given, tmp_path / "a").exit_code == 0
    assert run("murauer", "--config", tmp_path / "a/config.yaml", *given, tmp_path / "b").exit_code == 0
    assert (tmp_path / "a/config.yaml").read_text() == (tmp_path / "b/config.yaml").read_text()


@pytest.mark.parametrize(
    ("method", "words", "said"),
    [
        ("crossing", (), "of another method\n  where: {file}\n  why:   it says 'murauer', asked for is 'crossing'\n"
                         "  fix:   handloom train murauer --config {file}, or change the line in the file\n"),
        ("murauer", ("--arm", "full"), "of another arm\n  where: {file}\n"
                    "  why:   it says 'synthetic-only', asked for is 'full'\n"
                    "  fix:   leave --arm out, or change the line in the file\n"),
        ("murauer", ("--preset", "fast"), "of another preset\n  where: {file}\n"
                    "  why:   it says 'quick', asked for is 'fast'\n"
                    "  fix:   leave --preset out, or change the line in the file\n"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused(
    method: str, words: tuple[str, ...], said: str, file: Path, tmp_path: Path
) -> None:
    done = run(method, "--config", file, *words, "--synth", "s.zarr", "--run", tmp_path / "run")
    assert (done.exit_code, done.stderr) == (2, f"error: The configuration is {said.format(file=file)}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("batchh: 3", "Unknown key 'batchh'\n  where: {file}\n  why:   known: method, preset, "),
        ("batch: many", "'batch' is not valid\n  where: {file}\n  why:   Input should be a valid integer"),
        ("arm: [full]", "MURAUER has no arm '['full']'"),
        ("preset: {}", "There is no preset '{}'"),
        ("- 1", "The configuration is not a mapping\n  where: {file}\n"),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_name_it(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    done = run("murauer", "--config", file, "--synth", "s.zarr", "--run", tmp_path / "run")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {said.replace('{file}', str(file))}")


@pytest.mark.parametrize("method", ["murauer", "crossing"])
def test_help_fits_eighty_columns_and_lists_the_arms(method: str) -> None:
    text = CliRunner().invoke(main, ["train", method, "--help"], terminal_width=80).output
    assert max(map(len, text.splitlines())) <= 80
    assert "\n    real+synthetic " in text
