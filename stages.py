"""What the commands of many stages share (`quickstart`, `bootstrap`): a folder of their own, and a title a stage."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from .console import Report, progress
from .stores.errors import HandloomError

Say = Callable[[str], None]


def open_folder(out: Path, *, command: str, overwrite: bool, resume: bool = False) -> None:
    """Make the folder of a command, or take up one that the same command made: a marker in it says so.

    Raises:
        HandloomError: it holds something else, or is there and neither `overwrite` nor `resume` is set.
    """
    marker = out / f"{command}.txt"
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (resume or overwrite):
            fix = "--overwrite replaces it" if command == "quickstart" else "--resume goes on, --overwrite replaces it"
            raise HandloomError("The output exists already", where=str(out), fix=f"{fix}; or another --out")
        if not marker.is_file():
            raise HandloomError(f"Refusing to touch what no {command} made", where=str(out), fix="another --out")
        if overwrite:
            shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"Made by handloom {command}, which may replace this folder.\n", encoding="utf-8")


@contextmanager
def stage(seconds: dict[str, float], name: str, title: str, say: Say) -> Iterator[Report]:
    """Say what begins, show its progress, and say and note how long it took."""
    say(title)
    started = time.monotonic()
    with progress(title) as report:
        yield report
    seconds[name] = time.monotonic() - started
    say(f"  {seconds[name]:.0f} s")


def steps_done(report: Report, done: int, total: int, _values: Mapping[str, float]) -> None:
    """A training's progress without its figures."""
    report(done, total)
