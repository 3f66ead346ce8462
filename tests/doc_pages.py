"""What the pages of the documentation hold: steps to run with what they print, links, anchors, commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))

PROMPT = "$ handloom "
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
SKIPPED = "..."
"""A line of it in a shown output: here some are left out."""


@dataclass(frozen=True)
class Step:
    """One command, or a block of Python, and the lines that the page says it prints."""

    command: str
    python: str
    shown: tuple[str, ...]

    def __str__(self) -> str:
        return f"handloom {self.command}" if self.command else self.python


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def steps(page: Path, *, python: bool = False) -> list[Step]:
    """What a page's console blocks run, in order; blocks of Python too, with the `text` block right after each."""
    found: list[Step] = []
    for language, content in blocks(page.read_text(encoding="utf-8")):
        if language == "console":
            for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                # A command goes on behind a backslash at the end of a line.
                lines = part.replace("\\\n", " ").splitlines()
                assert f"$ {lines[0]}".startswith(PROMPT), lines[0]
                shown = tuple(line for line in lines[1:] if line.strip())
                found.append(Step(" ".join(lines[0].split()).removeprefix("handloom "), "", shown))
        elif python and language == "python":
            found.append(Step("", content, ()))
        elif python and language == "text" and found and found[-1].python and not found[-1].shown:
            found[-1] = Step("", found[-1].python, tuple(line for line in content.splitlines() if line.strip()))
    return found


def masked(line: str) -> str:
    """A line without its numbers and with single spaces: neither is the same on every machine."""
    return " ".join(NUMBER.sub("#", line).split())


def missing_line(shown: tuple[str, ...], printed: str) -> str | None:
    """The first shown line that was not printed where it should have been; `...` stands for any lines."""
    real = [masked(line) for line in printed.splitlines() if line.strip()]
    at, free = 0, False
    for line in shown:
        if line.strip() == SKIPPED:
            free = True
            continue
        wanted = masked(line)
        while free and at < len(real) and real[at] != wanted:
            at += 1
        if at >= len(real) or real[at] != wanted:
            return line
        at, free = at + 1, False
    return None if free or at == len(real) or not shown else f"(also printed: {real[at]})"


def without_code(text: str) -> str:
    """Prose alone: what stands in code is no link and no heading."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


def links(text: str) -> list[str]:
    """Targets of a page's links and pictures."""
    prose = without_code(text)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"^\[[^\]]+\]:\s+(\S+)", prose, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """What GitHub calls a page's headings: small letters, hyphens for spaces, no other signs."""
    fenced = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", fenced, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text: str) -> list[str]:
    """Every `handloom …` that a page shows in code, of any kind of block or in a line."""
    code = "\n".join(content for _, content in blocks(text)) + "\n"
    code += "\n".join(
        re.findall(r"^ {4}(.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE), re.M)
    )
    code = code.replace("\\\n", " ")
    found = re.findall(r"^\s*(?:\$ )?handloom (.+?)(?:\s{3,}.*)?$", code, re.MULTILINE)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return found + [" ".join(words.split()) for words in re.findall(r"`handloom ([^`]+)`", prose)]
