"""`capture sync`: the cameras' clocks of a recording judged from its stamps, in words and as plain values.

Each segment of a recording that was made in several goes is looked at by itself: cameras may have been plugged in
anew between them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..stores.errors import HandloomError
from ..stores.findings import WIDTH, Finding, counted, said_once
from ..stores.recording import Recording, open_recording
from .source import HOST_CLOCKS
from .sync_report import sync_report

LARGE_SKEW_PERIODS: Final = 0.25
LARGE_DRIFT_PPM: Final = 200.0
"""Crystals keep within 100 ppm over temperature and age."""
LARGE_LOSS: Final = 0.01
LARGE_JITTER_PERIODS: Final = 0.125
RATES_APART: Final = 0.01


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What the stamps of a recording say, and what is wrong with it."""

    path: str
    clock: str
    """Domain of the stamps."""
    segments: tuple[tuple[int, Mapping[str, Any]], ...]
    """First row and `sync_report` of each go."""
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        """Whether there is nothing but notes."""
        return all(finding.severity == "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": self.path,
            "clock": self.clock,
            "segments": [{"first_row": first, **values} for first, values in self.segments],
            "findings": [
                {"severity": f.severity, "code": f.code, "where": f.where, "what": f.what, "rows": list(f.rows)}
                for f in self.findings
            ],
            "clean": self.clean,
        }

    def lines(self) -> list[str]:
        """For people, within 80 columns."""
        out: list[str] = []
        for first, values in self.segments:
            if len(self.segments) > 1:
                out.append(f"from row {first}:")
            out += _table(values)
        said = said_once(self.findings)
        out += [line for finding in said for line in finding.lines()]
        sets = sum(values["sets"] for _, values in self.segments)
        return [*out, f"{sets} sets, stamps of the {self.clock} domain: {counted(said)}"]


def sync_of(path: Path) -> SyncReport:
    """Judge the clocks of the recording at `path`.

    Raises:
        HandloomError: it is no recording, is damaged, or holds no times.
    """
    recording = open_recording(path)
    frames = recording.frames
    assert frames is not None
    names = ("t_device_ns", "t_host_ns", "frame_number")
    device, host, number = (frames.read(name) for name in names)
    if not (number >= 0).any() or not (device[number >= 0] > 0).any():
        raise HandloomError(
            "The recording holds no times", where=str(path), why="a rendered one has none; captures and imports do"
        )
    clock = str(recording.provenance.get("clock", "unknown"))
    shared = clock in (*HOST_CLOCKS, "folder")
    segments, findings = [], []
    for first, last in _segments(recording):
        rows = slice(first, last)
        values = sync_report(
            recording.rig.names, device[rows], host[rows], number[rows], shared_clock=shared, first_row=first
        )
        segments.append((first, values))
        findings += list(judge(values))
    return SyncReport(str(path), clock, tuple(segments), tuple(findings))


def _segments(recording: Recording) -> list[tuple[int, int]]:
    said = recording.attributes.get("segments", [])
    rows = {0} | {int(one.get("first_row", 0)) for one in said if isinstance(one, dict)}
    starts = sorted(row for row in rows if 0 <= row < recording.n_frames)
    return list(zip(starts, [*starts[1:], recording.n_frames], strict=True))


def judge(values: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong by a `sync_report`."""
    cameras: Mapping[str, Mapping[str, Any]] = values["cameras"]
    sets, period_ms, skew = values["sets"], values["period_ms"], values["skew_ms"]
    for name, camera in cameras.items():
        yield from _of_camera(name, camera, period_ms)
    rates = {name: camera["fps"] for name, camera in cameras.items() if "fps" in camera}
    slow = {name: fps for name, fps in rates.items() if fps < (1 - RATES_APART) * max(rates.values())}
    if slow:
        said = ", ".join(f"{name} {fps:.2f}" for name, fps in rates.items())
        fix = "give all cameras the same rate"
        yield Finding("warning", "rates", "cameras", f"images a second differ: {said}", fix=fix)
    if skew and period_ms and skew["p95"] > LARGE_SKEW_PERIODS * period_ms:
        what = f"images of a set are up to {skew['p95']:.1f} ms apart (p95); a quarter of a period is "
        what += f"{LARGE_SKEW_PERIODS * period_ms:.1f} ms"
        fix = "connect the cameras' sync cable and set one as master, or move slowly"
        yield Finding("warning", "skew", "sets", what, fix=fix)
    if values["unmatched"] > LARGE_LOSS * sets and not slow:
        what = f"{values['unmatched']} of {sets} sets hold the image of one camera only"
        yield Finding("warning", "unmatched", "sets", what)
    lost = sum(camera.get("lost", 0) for camera in cameras.values())
    missing = sum(sets - camera["images"] for camera in cameras.values()) - lost
    if not slow and missing > max(2 * len(cameras), LARGE_LOSS * sets * len(cameras)):
        what = f"{missing} images are missing that no counter speaks of: a camera began late or ended early"
        yield Finding("warning", "missing", "sets", what)


def _of_camera(name: str, camera: Mapping[str, Any], period_ms: float | None) -> Iterator[Finding]:
    if not camera["images"]:
        yield Finding("error", "silent", name, "gave no image", fix="check its cable and its stream")
        return
    lost = camera.get("lost", 0)
    if lost:
        share = lost / (lost + camera["images"])
        what = f"{lost} images were lost ({share:.2%})"
        fix = "give it a USB controller of its own, or lower its rate" if share > LARGE_LOSS else ""
        yield Finding("warning" if share > LARGE_LOSS else "note", "lost", name, what, fix=fix)
    drift, unsure = abs(camera.get("drift_ppm", 0.0)), camera.get("drift_sd_ppm", 0.0)
    if drift - 2 * unsure > LARGE_DRIFT_PPM:
        what = f"its clock runs {drift:.0f} ± {unsure:.0f} ppm off the host's: {drift * 3.6e-3:.2f} s an hour"
        yield Finding("warning", "drift", name, what, fix="check the host's clock first (chronyc tracking)")
    steps = camera.get("steps", [])
    if steps:
        said = ", ".join(f"{step['ms'] / 1e3:+.3f} s" for step in steps[:3]) + (", ..." if len(steps) > 3 else "")
        rows = tuple(step["row"] for step in steps)
        yield Finding("warning", "step", name, f"its clock stepped by {said}", rows)
    elif camera.get("backward"):
        yield Finding("warning", "backward", name, f"{camera['backward']} stamps go back")
    if camera.get("duplicates"):
        yield Finding("warning", "duplicates", name, f"{camera['duplicates']} images came twice")
    if camera.get("resets"):
        yield Finding("note", "reset", name, f"its counter began again {camera['resets']} times")
    if period_ms and camera.get("jitter_ms", 0.0) > LARGE_JITTER_PERIODS * period_ms:
        what = f"its stamps scatter by {camera['jitter_ms']:.1f} ms about an even rate"
        yield Finding("warning", "jitter", name, what, fix="fix its exposure; a rate that follows the light does so")


def _table(values: Mapping[str, Any]) -> list[str]:
    """Cameras and skew, a line each."""
    columns = (("images", "", 8), ("rate", "1/s", 8), ("jitter", "ms", 8), ("lost", "", 6), ("back", "", 6),
               ("drift", "ppm", 16), ("late", "ms", 8), ("phase", "ms", 8))  # fmt: skip
    out = [f"{'camera':<12}" + "".join(f"{name:>{width}}" for name, _, width in columns)]
    out.append(" " * 12 + "".join(f"{unit:>{width}}" for _, unit, width in columns))
    for name, camera in values["cameras"].items():
        drift = f"{camera['drift_ppm']:+.1f} ± {camera['drift_sd_ppm']:.1f}" if "drift_ppm" in camera else "-"
        cells = (
            f"{name[:11]:<12}",
            f"{camera['images']:>8}",
            _cell(camera, "fps", 8, 2),
            _cell(camera, "jitter_ms", 8, 3),
            _cell(camera, "lost", 6, 0),
            _cell(camera, "backward", 6, 0),
            f"{drift:>16}",
            _cell(camera, "arrival_jitter_ms", 8, 2),
            _cell(camera, "phase_ms", 8, 2),
        )
        out.append("".join(cells))
    skew = values["skew_ms"]
    if skew:
        said = f"skew {skew['median']:.2f} ms (median), {skew['p95']:.2f} (p95), {skew['p99']:.2f} (p99), "
        said += f"{skew['max']:.2f} (max); {values['complete']} of {values['sets']} sets complete, "
        out += textwrap.wrap(said + f"{values['unmatched']} of one image", WIDTH)
    return out


def _cell(camera: Mapping[str, Any], key: str, width: int, digits: int) -> str:
    value = camera.get(key)
    return f"{'-' if value is None else f'{value:.{digits}f}':>{width}}"
