"""What the commands show while they work: a bar on a terminal, one plain line every ten seconds elsewhere.

Both go to standard error, so a command's result on standard output can be piped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PLAIN_INTERVAL_S: Final = 10.0

Report = Callable[..., None]
"""`report(done, total, note="")`: so many of so many are done, and what is worth a word."""


class Rate:
    """Things a second since the first call, as a note to a progress line and, at the end, as a sentence."""

    def __init__(self, things: str) -> None:
        self.things = things
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def __call__(self, done: int) -> str:
        """Note that so many are done; what has not been there at the first call counts."""
        self._last = (time.monotonic(), done)
        if self._first is None:
            self._first = self._last
        return f"{self._per_second:.0f} {self.things}/s" if self._count else ""

    def __str__(self) -> str:
        if not self._count:
            return f"no {self.things} were left to make"
        return f"{self._count} {self.things} in {self._seconds:.1f} s, {self._per_second:.0f} {self.things}/s"

    @property
    def _count(self) -> int:
        return self._last[1] - self._first[1] if self._first else 0

    @property
    def _seconds(self) -> float:
        return self._last[0] - self._first[0] if self._first else 0.0

    @property
    def _per_second(self) -> float:
        return self._count / max(self._seconds, 1e-9)


@contextmanager
def progress(label: str, *, quiet: bool = False) -> Iterator[Report]:
    """Show how far the work inside the block has come."""
    if quiet:
        yield lambda done, total, note="": None
    elif sys.stderr.isatty():
        yield from _bar(label)
    else:
        yield from _lines(label)


def _bar(label: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bars.update(task, completed=done, total=total, note=note)

        yield report


def _lines(label: str) -> Iterator[Report]:
    start = last = time.monotonic()

    def report(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PLAIN_INTERVAL_S:
            last = now
            remaining_s = (now - start) / done * (total - done) if done else 0.0
            left = f", {remaining_s:.0f} s left" if done else ""
            sys.stderr.write(f"{label}: {done} of {total}{left}{'  ' + note if note else ''}\n")
            sys.stderr.flush()

    yield report
