"""What the stamps of a recording say of its cameras: rates, jitter, losses, drift, steps, and how well sets coincide.

Everything is computed from stamps, arrivals and counters alone, so a recording can be judged years later. A camera's
stamps are cut where its clock steps (the least late arrivals of the second before and after differ by more than a
quarter of a period); each stretch gets an affine clock, whose rate is the drift, and what the clock wanders about it
(temperature: a few ppm, tens of ms in a day) is followed by running medians. Costs about a second for a million rows
of a camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .clocks import DRIFT_PRIOR, KNOWN_DRIFT_PRIOR, Clock, fit_pairs, least_late

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

AROUND_IMAGES: Final = 60
"""Images before and after a step that must agree on it."""
LEAST_STEP_NS: Final = 4e6
REAL_DRIFT: Final = 5e-4
"""A change of lateness that a drift this large explains is no step: after a long pause, say."""
WANDER_PIECES: Final = 180
"""Two minutes at 30 fps: how finely a wandering clock is followed."""
JITTER_IMAGES: Final = 256
WRAPS: Final = (2**16, 2**32)


@dataclass(frozen=True, slots=True, eq=False)
class CameraTimes:
    """One camera's images on the host's clock."""

    clock: Clock
    """Of the longest stretch without a step."""
    since: F64
    """(n,) ns after the host time that the report begins at."""
    starts: tuple[int, ...]
    """Where stretches begin; the first is 0."""
    step_ms: tuple[float, ...]
    """How far the stamps jumped at each start but the first."""
    wander_ms: float
    """Span of what the clock wandered about its line."""


def sync_report(
    names: Sequence[str],
    t_device_ns: I64,
    t_host_ns: I64,
    frame_number: I64,
    *,
    shared_clock: bool,
    first_row: int = 0,
) -> dict[str, Any]:
    """What the stamps of a recording say of its cameras, as plain values.

    Args:
        names: the cameras.
        t_device_ns: (T, V) stamps; −1 where there is no image. Likewise the next two.
        t_host_ns: (T, V) arrivals.
        frame_number: (T, V) the cameras' counters.
        shared_clock: all stamps are of one clock.
        first_row: of the recording, where these rows begin later.

    Returns:
        `sets`, `complete`, `unmatched` (rows of a single image of a rig of several), `period_ms`, `skew_ms` (median,
        p95, p99, max of the spread of times in a set), and per camera:

        - `images`, `fps`, `jitter_ms` (standard deviation of one stamp about its counter's line);
        - `lost` (gaps of the counter, which may wrap), `duplicates` (same counter and stamp as the image before),
          `resets` of the counter, `backward` (stamps that go back);
        - `steps`: rows at which the clock jumped, and by how many ms;
        - `phase_ms`: median of its time less the mean of its set;
        - where the clock is its own: `drift_ppm` (how much faster the host's clock runs), `drift_sd_ppm`,
          `wander_ms` and `arrival_jitter_ms` (standard deviation of how late images arrive).
    """
    present = frame_number >= 0
    times = np.full(present.shape, np.nan)
    cameras: dict[str, Any] = {}
    begin = int(t_host_ns[present].min()) if present.any() else 0
    for view, name in enumerate(names):
        rows = np.flatnonzero(present[:, view])
        if not len(rows):
            cameras[name] = {"images": 0}
            continue
        # A late image may stand in a later row than those that followed it.
        rows = rows[np.argsort(t_host_ns[rows, view], kind="stable")]
        device, host = t_device_ns[rows, view], t_host_ns[rows, view]
        found = camera_times(device, host, begin_ns=begin, shared=shared_clock)
        times[rows, view] = found.since
        cameras[name] = _camera_report(
            device, host, frame_number[rows, view], found, rows + first_row, begin, shared=shared_clock
        )
    skew_ms, phase_ms = _skew(times)
    for view, name in enumerate(names):
        if np.isfinite(phase_ms[view]):
            cameras[name]["phase_ms"] = round(float(phase_ms[view]), 4)
    rates = [camera["fps"] for camera in cameras.values() if "fps" in camera]
    several = len(names) > 1
    return {
        "sets": len(present),
        "complete": int(present.all(axis=1).sum()),
        "unmatched": int((present.sum(axis=1) == 1).sum()) if several else 0,
        "period_ms": round(1e3 / max(rates), 4) if rates else None,
        "skew_ms": None
        if skew_ms.size == 0
        else {
            "median": round(float(np.median(skew_ms)), 4),
            "p95": round(float(np.percentile(skew_ms, 95)), 4),
            "p99": round(float(np.percentile(skew_ms, 99)), 4),
            "max": round(float(skew_ms.max()), 4),
        },
        "cameras": cameras,
    }


def camera_times(device: I64, host: I64, *, begin_ns: int, shared: bool) -> CameraTimes:
    """Stamps (n,) and arrivals (n,) of one camera, in the order of its images, on the host's clock; n ≥ 1."""
    if shared:
        return CameraTimes(Clock(), (device - begin_ns).astype(np.float64), (0,), (), 0.0)
    starts = step_starts(device, host)
    ends = [*starts[1:], len(device)]
    since = np.empty(len(device))
    longest = max(range(len(starts)), key=lambda i: ends[i] - starts[i])
    main, wander_ms = _stretch(device, host, starts[longest], ends[longest], since, begin_ns, None)
    clocks = {longest: main}
    for i, (a, b) in enumerate(zip(starts, ends, strict=True)):
        if i != longest:
            clocks[i], _ = _stretch(device, host, a, b, since, begin_ns, main)
    jumps = []
    for i in range(1, len(starts)):
        # What the stamp would have been by the clock before.
        at, before = starts[i], clocks[i - 1]
        expected = (since[at] + begin_ns - before.host_origin_ns) / before.slope + before.device_origin_ns
        jumps.append(round(float((device[at] - expected) / 1e6), 3))
    return CameraTimes(main, since, tuple(starts), tuple(jumps), wander_ms)


def _stretch(
    device: I64, host: I64, a: int, b: int, since: F64, begin_ns: int, like: Clock | None
) -> tuple[Clock, float]:
    """The clock of rows a to b − 1, whose times go into `since`, and the span of its wandering, ms."""
    kept = a + least_late(device[a:b], host[a:b])
    clock = fit_pairs(
        device[kept],
        host[kept],
        slope=1.0 if like is None else like.slope,
        prior=DRIFT_PRIOR if like is None else max(KNOWN_DRIFT_PRIOR, like.slope_sd),
    )
    line = clock.to_host(device[a:b])
    since[a:b] = clock.host_origin_ns - begin_ns + line
    windows = len(kept) // WANDER_PIECES
    if windows < 2:
        return clock, 0.0
    late = (host[kept] - clock.host_origin_ns).astype(np.float64) - line[kept - a]
    parts = np.array_split(np.arange(len(kept)), windows)
    knots = np.array([np.median(late[part]) for part in parts])
    at = np.array([np.mean(line[kept[part] - a]) for part in parts])
    since[a:b] += np.interp(line, at, knots)
    return clock, float(np.ptp(knots)) / 1e6


def step_starts(device: I64, host: I64) -> list[int]:
    """Where the stretches of a clock that does not step begin; the first is 0."""
    n, w = len(device), AROUND_IMAGES
    if n < 4:
        return [0]
    # Relative to the first image, as differences of int64: stamps may be of hours and of decades.
    late = (host - host[0]) - (device - device[0])
    before, after = np.empty(n, np.int64), np.empty(n, np.int64)
    padded = np.concatenate([np.full(w, np.iinfo(np.int64).max), late, np.full(w, np.iinfo(np.int64).max)])
    least = np.lib.stride_tricks.sliding_window_view(padded, w).min(axis=1)
    before, after = least[:n], least[w : w + n]  # of [k − w, k) and of [k, k + w)
    change = np.zeros(n)
    change[1:] = (after[1:] - before[1:]).astype(np.float64)
    wait = np.abs((host - np.concatenate([host[:1], host[:-1]])).astype(np.float64))
    steps = np.diff(device)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    slack = np.maximum(LEAST_STEP_NS, 0.25 * usual) + 4 * _piece_scatter(device, host) + REAL_DRIFT * wait
    # Near either end few images are on one side: that they are late is no step.
    few = np.minimum(np.arange(n), n - np.arange(n)) < w // 2
    suspect = np.abs(change) > np.where(few, np.maximum(slack, 0.3e9), slack)
    jump = np.zeros(n)
    jump[1:] = np.diff(late)
    starts = [0]
    for a, b in _stretches_of(suspect):
        sign = np.sign(change[a + int(np.abs(change[a:b]).argmax())])
        lo, hi = max(1, a), min(n, b + 1)
        starts.append(lo + int((sign * jump[lo:hi]).argmax()))
    return sorted(set(starts))


def _piece_scatter(device: I64, host: I64) -> float:
    """How much the least late arrivals of neighbouring pieces differ, ns."""
    kept = least_late(device, host)
    late = np.diff(((host[kept] - host[0]) - (device[kept] - device[0])).astype(np.float64))
    return 1.4826 * float(np.median(np.abs(late))) / 2**0.5 if len(late) > 2 else 0.0


def _stretches_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _skew(times: F64) -> tuple[F64, F64]:
    """Spread of the times within each set of two or more images, and each camera's median place in it, ms."""
    several = times[np.isfinite(times).sum(axis=1) > 1]
    phase = np.full(times.shape[1], np.nan)
    if not len(several):
        return np.empty(0), phase
    skew: F64 = (np.nanmax(several, axis=1) - np.nanmin(several, axis=1)) / 1e6
    away = several - np.nanmean(several, axis=1, keepdims=True)
    for view in range(times.shape[1]):
        known = away[np.isfinite(away[:, view]), view]
        if len(known):
            phase[view] = np.median(known) / 1e6
    return skew, phase


def counter_steps(number: I64, device: I64) -> tuple[I64, int, int]:
    """How far the counter went from each image to the next, (n − 1,), and how often it was reset and stood still.

    A counter that wraps at 16 or 32 bits goes on; over a reset, and where it stands still, the stamps tell the step.
    """
    steps = np.diff(number)
    for wrap in WRAPS:
        wrapped = (steps < 0) & (number[:-1] < wrap) & (number[:-1] > 0.9 * wrap) & (number[1:] < 0.1 * wrap)
        steps = np.where(wrapped, steps + wrap, steps)
    stamps = np.diff(device).astype(np.float64)
    usual = float(np.median(stamps[stamps > 0])) if (stamps > 0).any() else 1.0
    reset, still = steps < 0, (steps == 0) & (stamps > 0)
    guess = np.clip(np.round(stamps / usual), 1, 2**31).astype(np.int64)
    return np.where(reset | still, guess, steps), int(reset.sum()), int(still.sum())


def _camera_report(
    device: I64, host: I64, number: I64, found: CameraTimes, rows: I64, begin: int, *, shared: bool
) -> dict[str, Any]:
    out: dict[str, Any] = {"images": len(device)}
    steps, resets, _ = counter_steps(number, device)
    counted = np.diff(number) != 0
    whole = np.ones(len(steps), bool)
    whole[[start - 1 for start in found.starts[1:]]] = False
    out["lost"] = int((steps[(steps > 1) & whole & counted] - 1).sum())
    out["duplicates"] = int(((np.diff(number) == 0) & (np.diff(device) == 0)).sum())
    out["resets"] = resets
    out["backward"] = int((np.diff(device) < 0).sum())
    if not shared:
        out["steps"] = [
            {"row": int(rows[start]), "ms": ms} for start, ms in zip(found.starts[1:], found.step_ms, strict=True)
        ]
    spans = np.diff(found.since)
    used = whole & (steps > 0) & (spans > 0)
    if used.sum() < 2:
        return out
    period = float(spans[used].sum() / steps[used].sum())
    out["fps"] = round(1e9 / period, 3)
    out["jitter_ms"] = round(_jitter(found.since, np.concatenate([[0], steps.cumsum()]), found.starts) / 1e6, 4)
    if not shared:
        out["drift_ppm"] = round(found.clock.drift_ppm, 2)
        out["drift_sd_ppm"] = round(found.clock.slope_sd * 1e6, 2)
        out["wander_ms"] = round(found.wander_ms, 3)
        arrival = (host - begin).astype(np.float64) - found.since
        out["arrival_jitter_ms"] = round(float(np.std(arrival)) / 1e6, 4)
    return out


def _jitter(since: F64, count: I64, starts: Sequence[int]) -> float:
    """Standard deviation of one stamp about its counter's line, which is drawn anew every `JITTER_IMAGES`, ns."""
    total, free = 0.0, 0
    for a, b in zip(starts, [*starts[1:], len(since)], strict=True):
        for first in range(a, b, JITTER_IMAGES):
            last = min(first + JITTER_IMAGES, b)
            if last - first < 8 and (free or last - first < 3):
                continue
            x = (count[first:last] - count[first]).astype(np.float64)
            y = since[first:last] - since[first]
            x -= x.mean()
            y = y - y.mean()
            if not x.any():
                continue
            y -= x * (x @ y) / (x @ x)
            total += float(y @ y)
            free += last - first - 2
    return float((total / free) ** 0.5) if free else 0.0
