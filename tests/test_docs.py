"""The commands of the tutorials run as they stand there, in order, in an empty folder."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from handloom.cli import main

DOCS = Path(__file__).resolve().parents[1] / "docs"


PAGES_WITHOUT_COMMANDS = {"calibration", "datasets", "evaluation", "gpu", "several-processes"}
"""What they show needs data that cannot be shipped, cameras, a GPU, or a launcher of processes."""


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [line.removeprefix("$ handloom ") for block in blocks for line in block.splitlines() if line[:2] == "$ "]


TUTORIALS = [page for page in sorted(DOCS.glob("*.md")) if page.stem not in PAGES_WITHOUT_COMMANDS]


def test_pages_without_commands_have_none() -> None:
    assert not any(commands(DOCS / f"{name}.md") for name in sorted(PAGES_WITHOUT_COMMANDS))


@pytest.mark.slow
@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_the_commands_of_a_tutorial_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(page)
    assert len(lines) > 3
    monkeypatch.chdir(tmp_path)
    for line in lines:
        done = CliRunner().invoke(main, shlex.split(line))
        assert done.exit_code == 0, f"handloom {line}\n{done.output}"
