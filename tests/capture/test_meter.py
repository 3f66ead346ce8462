from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from counting_source import Counting, rig

from handloom.capture.meter import GONE_S, Meter
from handloom.capture.record import record
from handloom.capture.source import Image


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    clock = [1000.0]
    monkeypatch.setattr("handloom.capture.meter.time.monotonic", lambda: clock[0])
    return clock


def image(view: int, number: int, empty_share: float = 0.0) -> Image:
    depth = np.full((72, 96), 500, np.uint16)
    depth[:, : round(96 * empty_share)] = 0
    return Image(view, depth, number, number, number)


def test_pace_gaps_and_holes(now: list[float], tmp_path: Path) -> None:
    table = record(Counting(count=40), tmp_path / "r.zarr").frames
    assert table is not None
    meter = Meter(rig().names, table, live=True)
    for number in range(100):
        now[0] += 1 / 25
        meter.image(image(0, number, 0.25))
        if number % 2 and number < 40:
            meter.image(image(1, number))
        meter.skew(1e6 * (number % 20))
    reading = meter.reading(90, None, 0.3)
    first, second = reading.cameras
    assert first.fps == pytest.approx(25.0, rel=1e-6)
    assert (first.images, first.missed, first.dropped) == (100, 0, 0)
    assert first.invalid_share == pytest.approx(0.25, abs=0.05)
    assert (second.images, second.missed) == (20, 19)
    assert second.gone  # for 2.4 s
    assert not first.gone
    assert (reading.skew_p50_ms, reading.skew_p95_ms) == pytest.approx((9.5, 18.05), abs=0.6)
    assert reading.queue_share == 0.3
    # 25 sets a second of the size that the newest unit has on the disk.
    unit_bytes = sum((table.path / column.unit_key(1)).stat().st_size for column in table.columns.values())
    seconds = shutil.disk_usage(tmp_path).free / (unit_bytes / 16 * 25)
    assert reading.disk_minutes == pytest.approx(seconds / 60, rel=0.05)


def test_files_are_never_gone(now: list[float], tmp_path: Path) -> None:
    table = record(Counting(count=3), tmp_path / "r.zarr").frames
    assert table is not None
    meter = Meter(rig().names, table, live=False)
    meter.image(image(1, 0))
    now[0] += GONE_S + 1
    meter.image(image(0, 0))
    assert meter.gone() == [False, False]
    assert math.isinf(meter.reading(1, None, 0.0).disk_minutes)  # no whole unit yet
