"""An end in order: what goes on until ctrl-C finishes what it has begun when it is told to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a polite kill, a terminal that was closed."""


@dataclass(slots=True)
class Told:
    """True once it was told to stop."""

    signal: int | None = None
    """By which signal."""

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def until_told(stop: Callable[[], None] | None = None) -> Iterator[Told]:
    """The first of `SIGNALS` calls `stop` and is noted; the second one ends the process as ever.

    Args:
        stop: must return soon, and may be called at any moment of this thread.
    """
    told = Told()
    kept: dict[int, Any] = {}

    def restore() -> None:
        while kept:
            signal.signal(*kept.popitem())

    def on_signal(number: int, _: object) -> None:
        told.signal = number
        restore()
        if stop is not None:
            stop()

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            kept[number] = signal.signal(number, on_signal)
    try:
        yield told
    finally:
        restore()
