"""Writers of tables for the tests that need other processes: spawn imports this module by name."""

from __future__ import annotations

from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np

from handloom.stores.columns import Column
from handloom.stores.table import Appender, Table

COLUMNS = (
    Column("crop", (2, 32, 32), "u2"),
    Column("depth/cam0", (24, 32), "u2", codec="capture"),
    Column("time", (2,), "i8", -1),
    Column("id", (), "u8"),
)


def make(path: Path) -> Table:
    return Table.create(path, COLUMNS, unit_frames=8, attributes={"note": "x"})


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    """Rows that tell their number, so that a wrong one is seen."""
    number = np.arange(first, first + count)
    noise = np.random.default_rng(first).integers(0, 50, (count, 2, 32, 32))
    return {
        "crop": (number[:, None, None, None] * 10 + noise).astype(np.uint16),
        "depth/cam0": np.broadcast_to(number[:, None, None], (count, 24, 32)).astype(np.uint16),
        "time": np.stack([number, number], 1).astype(np.int64),
        "id": number.astype(np.uint64),
    }


def append_for_ever(path: Path, ready: Event) -> None:
    with Appender(Table.open(path, writable=True)) as appender:
        for first in range(0, 10_000, 3):
            appender.append(rows(first, 3))
            if first > 30:
                ready.set()


def write_marked_unit(path: Path, unit: int, count: int) -> None:
    Table.open(path, writable=True).write_unit(unit, rows(unit * 8, count), marker=True)
