"""What `capture record` shows of a live source: a panel on a terminal, one plain line every ten seconds elsewhere.

Both go to standard error. Numbers are those of `capture.meter`; nothing here counts.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .console import PLAIN_INTERVAL_S

if TYPE_CHECKING:
    from .capture.meter import Reading, Watch


@contextmanager
def recording_panel() -> Iterator[Watch]:
    """Show how a recording goes while the block runs."""
    if sys.stderr.isatty():
        yield from _panel()
    else:
        yield from _plain()


def _panel() -> Iterator[Watch]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda reading: live.update(panel(reading), refresh=True)


def _plain() -> Iterator[Watch]:
    last = time.monotonic()

    def watch(reading: Reading) -> None:
        nonlocal last
        if time.monotonic() - last >= PLAIN_INTERVAL_S:
            last = time.monotonic()
            sys.stderr.write(line(reading) + "\n")
            sys.stderr.flush()

    yield watch


def line(reading: Reading) -> str:
    """The reading in one line."""
    fps = [f"{camera.fps:.1f}" for camera in sorted(reading.cameras, key=lambda c: c.fps) if not camera.gone]
    parts = [
        f"{reading.seconds:.0f} s",
        f"{reading.sets} sets",
        f"fps {fps[0] if fps[0] == fps[-1] else f'{fps[0]}-{fps[-1]}'}" if fps else "no camera",
        *(f"{camera.name} gone" for camera in reading.cameras if camera.gone),
        f"dropped {sum(camera.dropped for camera in reading.cameras)}",
    ]
    missed = sum(camera.missed for camera in reading.cameras)
    if missed:
        parts.append(f"lost before {missed}")
    if not math.isnan(reading.skew_p50_ms):
        parts.append(f"skew {reading.skew_p50_ms:.1f}/{reading.skew_p95_ms:.1f} ms")
    return "Recording: " + ", ".join(
        [*parts, f"queue {reading.queue_share:.0%}", f"disk {disk_time(reading.disk_minutes)}"]
    )


def panel(reading: Reading) -> Any:
    """The reading as a table for `rich`: a row a camera, the whole below."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("camera", no_wrap=True, overflow="ellipsis", max_width=20)
    for name in ("fps", "images", "dropped", "lost before", "no depth"):
        table.add_column(name, justify="right", no_wrap=True)
    for camera in reading.cameras:
        fps = Text("gone", "bold red") if camera.gone else Text(f"{camera.fps:.1f}")
        share = "" if math.isnan(camera.invalid_share) else f"{camera.invalid_share:.0%}"
        table.add_row(
            camera.name, fps, str(camera.images), Text(str(camera.dropped), "bold red" if camera.dropped else ""),
            Text(str(camera.missed), "yellow" if camera.missed else ""), share,
        )  # fmt: skip
    minutes, seconds = divmod(int(reading.seconds), 60)
    skew = "" if math.isnan(reading.skew_p50_ms) else f"{reading.skew_p50_ms:.1f} / {reading.skew_p95_ms:.1f} ms"
    full = reading.queue_share > 0.5
    facts = Text.assemble(
        ("● ", "red"), f"{minutes:02d}:{seconds:02d}  {reading.sets} sets",
        *([f"   skew p50/p95 {skew}"] if skew else []),
        "   queue ", (f"{reading.queue_share:.0%}", "bold red" if full else ""),
        "   disk ", (disk_time(reading.disk_minutes), "bold red" if reading.disk_minutes < 10 else ""),
    )  # fmt: skip
    return Group(table, facts, Text("ctrl-C ends it; all that was recorded is kept", "dim"))


def disk_time(minutes: float) -> str:
    """How long the disk lasts, in the unit that fits."""
    if math.isinf(minutes):
        return "–"
    return f"{minutes:.0f} min" if minutes < 180 else f"{minutes / 60:.0f} h"


def summary(segment: Mapping[str, Any]) -> list[str]:
    """How a segment went, in lines: its length, what is missing and why."""
    seconds = segment["ended_unix_s"] - segment["started_unix_s"]
    drops = segment["drops"]
    out = [f"  {segment['sets']} sets in {seconds:.0f} s, {segment['ended']}"]
    for kind, words in (("no_room", "dropped for want of room"), ("before_us", "lost before they reached us")):
        counts = {name: count[kind] for name, count in drops.items() if count[kind]}
        if counts:
            per_camera = ", ".join(f"{name} {count}" for name, count in counts.items())
            out.append(f"  images {words}: {per_camera}")
    if len(out) == 1:
        out.append("  no image was dropped")
    out += [f"  {name} fell silent and did not come back" for name in segment["vanished"]]
    return out
