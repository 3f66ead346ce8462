from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from handloom import recording_panel
from handloom.capture.meter import CameraReading, Reading
from handloom.recording_panel import disk_time, line, panel, summary

CAMERAS = (
    CameraReading("cam0", 29.97, 123456, 0, 0, 0.234, False),
    CameraReading("front-left-camera-with-a-long-name", 28.1, 123400, 12, 3, 0.4, False),
    CameraReading("cam2", 0.0, 77, 0, 0, math.nan, True),
)
READING = Reading(3723.4, 111333, CAMERAS, 0.33, 12.7, 0.56, 83.2)


def shown(reading: Reading, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(panel(reading))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_the_panel_at_eighty_columns() -> None:
    assert shown(READING, 80) == [
        "camera                 fps  images  dropped  lost before  no depth",
        "cam0                  30.0  123456        0            0       23%",
        "front-left-camera-w…  28.1  123400       12            3       40%",
        "cam2                  gone      77        0            0",
        "● 62:03  111333 sets   skew p50/p95 0.3 / 12.7 ms   queue 56%   disk 83 min",
        "ctrl-C ends it; all that was recorded is kept",
    ]
    # A day of it still fits.
    day = Reading(86400.0, 2_592_000, CAMERAS, 10.33, 12.7, 1.0, 6000.0)
    assert max(map(len, shown(day, 80))) <= 80
    assert len(shown(day, 80)) == 6


def test_one_camera_has_no_skew() -> None:
    reading = Reading(5.0, 150, CAMERAS[:1], math.nan, math.nan, 0.0, math.inf)
    assert shown(reading, 80)[2] == "● 00:05  150 sets   queue 0%   disk –"
    assert line(reading) == "Recording: 5 s, 150 sets, fps 30.0, dropped 0, queue 0%, disk –"


def test_the_plain_line() -> None:
    assert line(READING) == (
        "Recording: 3723 s, 111333 sets, fps 28.1-30.0, cam2 gone, dropped 12, lost before 3, skew 0.3/12.7 ms,"
        " queue 56%, disk 83 min"
    )
    assert line(Reading(9.0, 10, CAMERAS[2:], 0.0, 0.0, 0.0, 500.0)) == (
        "Recording: 9 s, 10 sets, no camera, cam2 gone, dropped 0, skew 0.0/0.0 ms, queue 0%, disk 8 h"
    )


def test_a_line_every_ten_seconds_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("handloom.recording_panel.time.monotonic", lambda: now[0])
    with recording_panel.recording_panel() as watch:
        for _ in range(50):
            now[0] += 0.5
            watch(READING)
    assert capsys.readouterr().err.splitlines() == [line(READING)] * 2


@pytest.mark.parametrize(("minutes", "words"), [(0.4, "0 min"), (179.4, "179 min"), (180.0, "3 h"), (math.inf, "–")])
def test_how_long_the_disk_lasts(minutes: float, words: str) -> None:
    assert disk_time(minutes) == words


def test_the_summary_names_what_is_missing() -> None:
    segment: dict[str, Any] = {
        "started_unix_s": 100.0, "ended_unix_s": 160.4, "sets": 1800, "ended": "interrupted", "vanished": [],
        "drops": {"a": {"no_room": 0, "before_us": 0}, "b": {"no_room": 0, "before_us": 0}},
    }  # fmt: skip
    assert summary(segment) == ["  1800 sets in 60 s, interrupted", "  no image was dropped"]
    segment |= {"drops": {"a": {"no_room": 4, "before_us": 0}, "b": {"no_room": 1, "before_us": 2}}, "vanished": ["b"]}
    assert summary(segment) == [
        "  1800 sets in 60 s, interrupted",
        "  images dropped for want of room: a 4, b 1",
        "  images lost before they reached us: b 2",
        "  b fell silent and did not come back",
    ]
