"""The pages in docs/ and the README: their commands run, what they name is there."""

from __future__ import annotations

import io
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from handloom.cli import main

from doc_pages import DOCS, PAGES, ROOT, anchors, commands, links, missing_line, steps

PAGES_WITHOUT_COMMANDS = {"README", "datasets", "gpu", "limits", "losses", "several-processes"}
"""What they show needs data that cannot be shipped, a GPU or a launcher of processes; or they show nothing to run."""

TUTORIALS = ["tutorial-synthetic", "tutorial-rig", "tutorial-bootstrap"]
READ = [*PAGES, ROOT / "README.md"]


def test_pages_without_commands_have_none() -> None:
    assert not any(steps(DOCS / f"{name}.md") for name in sorted(PAGES_WITHOUT_COMMANDS))


def test_the_tutorials_are_there_and_the_index_names_every_page_once() -> None:
    index = (DOCS / "README.md").read_text(encoding="utf-8")
    named = [link for link in links(index) if link.endswith(".md") and "/" not in link]
    assert named[:3] == [f"{name}.md" for name in TUTORIALS]
    assert sorted(named) == sorted(page.name for page in PAGES if page.name != "README.md")


@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in links(text):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), f"{page.name}: {link}"


@pytest.mark.parametrize("page", READ, ids=lambda page: page.stem)
def test_commands_that_are_named_exist_with_their_options(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        assert unknown_part(line) is None, f"{page.name}: handloom {line}: {unknown_part(line)}"


def unknown_part(line: str) -> str | None:
    """The first word of a command that is no command, or an option that it does not have."""
    command: click.Command = main
    words = shlex.split(line.split(" #")[0].split(" | ")[0], posix=True)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        word = words.pop(0)
        if "|" in word:  # one of several
            return next((each for each in word.split("|") if each not in command.commands), None)
        if word.isupper() or word == "…":  # stands for any
            return None
        if word not in command.commands:
            return word
        command = command.commands[word]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = [word.split("=")[0] for word in words if word.startswith("-") and not word[1:2].isdigit()]
    return next((word for word in given if word not in known | {"--help", "-h"}), None)


def test_what_is_unknown_is_found() -> None:
    assert unknown_part("synth run --out S.zarr --frames 10 -o a=b") is None
    assert unknown_part("synth walk --out S.zarr") == "walk"
    assert unknown_part("synth run --no-such 3") == "--no-such"
    assert unknown_part("latent pictures|depth|hands RUN") is None
    assert unknown_part("latent pictures|dept RUN") == "dept"


def test_shown_output_is_compared_line_by_line_without_its_numbers() -> None:
    printed = "R.zarr: 12 sets\n\n  skew  0.30 ms\nnext: go on\n"
    assert missing_line(("R.zarr: 300 sets", "skew 1 ms", "next: go on"), printed) is None
    assert missing_line(("...", "next: go on"), printed) is None
    assert missing_line(("R.zarr: 300 sets", "..."), printed) is None
    assert missing_line((), printed) is None
    assert missing_line(("R.zarr: 300 sets", "next: go on"), printed) == "next: go on"
    assert missing_line(("...", "next: go home"), printed) == "next: go home"
    assert missing_line(("R.zarr: 1 sets",), printed) == "(also printed: skew # ms)"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in PAGES_WITHOUT_COMMANDS], ids=lambda page: page.stem
)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = steps(page, python=page.stem in TUTORIALS)
    assert len(todo) > 3
    monkeypatch.chdir(tmp_path)
    for step in todo:
        if step.command:
            done = CliRunner().invoke(main, shlex.split(step.command))
            assert done.exit_code == 0, f"{step}\n{done.output}"
            printed = done.stdout
        else:
            with redirect_stdout(io.StringIO()) as out:
                exec(compile(step.python, str(page), "exec"), {"__name__": "page"})
            printed = out.getvalue()
        lost = missing_line(step.shown, printed)
        assert lost is None, f"{step}\nshown, not printed there: {lost}\nprinted:\n{printed}"
