"""Which images of several cameras belong together: an affine clock per camera, then the nearest time.

Cameras stamp with clocks of their own: other origin, other rate, some jitter. Each camera's stamps are mapped to
the host's time by t_host ≈ origin + (1 + δ)(t_device − origin'), fitted robustly to the least late of the arrivals.
Arrival jitters by milliseconds and real drifts stay below about 100 ppm, so δ carries that as a prior: a short
recording keeps δ ≈ 0 instead of fitting the jitter. Pairing by arrival itself would be wrong by tens of ms.

Sets then follow the reference camera: its k-th image opens a slot, an image it lost leaves a slot at the time at
which it would have come, and every other image belongs to the nearest slot, at most half a period away. So
free-running cameras of any phase give full sets, and an image that has no partner still makes a row of its own.
Grouping is a stream: it holds back `PATIENCE_PERIODS` of images at most.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .source import Image

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

DRIFT_PRIOR: Final = 1e-4
"""Standard deviation of real clocks' relative rates."""
DEFAULT_PERIOD_NS: Final = 1e9 / 30
"""Assumed when no camera gave two images."""
WARM_UP_IMAGES: Final = 15
"""Images a camera should give before the first set is formed."""
PATIENCE_PERIODS: Final = 8.0
"""How far other cameras may run ahead before a late image counts as lost."""
REFIT_EVERY: Final = 32
MAX_PAIRS: Final = 2048
IMAGES_PER_PIECE: Final = 20
MAX_PIECES: Final = 48


@dataclass(frozen=True, slots=True)
class Clock:
    """t_host = host_origin_ns + slope · (t_device − device_origin_ns)."""

    device_origin_ns: int = 0
    host_origin_ns: int = 0
    slope: float = 1.0

    def to_host(self, t_device_ns: ArrayLike) -> F64:
        """Device stamps (...) as float64 ns after `host_origin_ns`, which keeps sub-microsecond precision."""
        since = np.asarray(t_device_ns, np.int64) - self.device_origin_ns
        return self.slope * since.astype(np.float64)

    @property
    def drift_ppm(self) -> float:
        """How much faster the host's clock runs than the camera's."""
        return (self.slope - 1.0) * 1e6


def fit_clock(t_device_ns: ArrayLike, t_host_ns: ArrayLike) -> Clock:
    """The affine clock of one camera from pairs of stamp and arrival (n,), int64 ns, n ≥ 1.

    Arrivals are late, never early: only the least late one of every few images is used (a mean of delays that
    scatter by 6 ms would need fifty times as many images for the same precision).
    """
    device, host = np.asarray(t_device_ns, np.int64), np.asarray(t_host_ns, np.int64)
    device_origin, host_origin = int(np.median(device)), int(np.median(host))
    order = np.argsort(device, kind="stable")
    x = (device - device_origin).astype(np.float64)[order]
    delay = (host - host_origin).astype(np.float64)[order] - x
    edges = np.linspace(0, len(x), int(np.clip(len(x) // IMAGES_PER_PIECE, 1, MAX_PIECES)) + 1).astype(int)
    least = np.array([a + int(np.argmin(delay[a:b])) for a, b in itertools.pairwise(edges)])
    x, y = x[least], delay[least]
    slope, offset = 0.0, float(np.median(y))
    for _ in range(4):
        residual = y - offset - slope * x
        spread = 1.4826 * float(np.median(np.abs(residual))) + 1e4
        kept = np.abs(residual) <= 3 * spread
        mean_x, mean_y = x[kept].mean(), y[kept].mean()
        sxx = float(((x[kept] - mean_x) ** 2).sum())
        sxy = float(((x[kept] - mean_x) * (y[kept] - mean_y)).sum())
        slope = sxy / (sxx + (spread / DRIFT_PRIOR) ** 2)
        offset = float(mean_y - slope * mean_x)
    return Clock(device_origin, host_origin + round(offset), 1.0 + slope)


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one instant, by view; None where a camera gave none."""

    images: tuple[Image | None, ...]


class _Pairs:
    """Stamps and arrivals of one camera, thinned so that they span the recording in bounded memory."""

    def __init__(self) -> None:
        self.device: list[int] = []
        self.host: list[int] = []
        self._every, self._count = 1, 0

    def add(self, image: Image) -> None:
        if self._count % self._every == 0:
            self.device.append(image.t_device_ns)
            self.host.append(image.t_host_ns)
            if len(self.device) >= MAX_PAIRS:
                self.device, self.host = self.device[::2], self.host[::2]
                self._every *= 2
        self._count += 1


class Grouper:
    """Turns a stream of images into a stream of sets.

    Args:
        n_views: cameras of the rig.
        shared_clock: the stamps of all cameras are of one clock and need no fit.
    """

    def __init__(self, n_views: int, *, shared_clock: bool) -> None:
        self._shared = shared_clock
        self._pending: list[list[Image]] = [[] for _ in range(n_views)]
        self._pairs = [_Pairs() for _ in range(n_views)]
        self._clocks = [Clock() for _ in range(n_views)]
        self._newest = np.full(n_views, -np.inf)
        self._warm = False
        self._since_fit = 0
        self._origin_ns: int | None = None
        self._period_ns = DEFAULT_PERIOD_NS
        self._reference = 0
        self._slot_ns: float | None = None

    @property
    def clocks(self) -> tuple[Clock, ...]:
        """The clocks as fitted so far."""
        return tuple(self._clocks)

    def push(self, image: Image) -> list[ImageSet]:
        """Take one image; the sets that are complete or given up by it, in time order."""
        self._pending[image.camera].append(image)
        self._pairs[image.camera].add(image)
        self._since_fit += 1
        if not self._warm:
            counts = [len(pending) for pending in self._pending]
            # A camera that stays silent must not hold the others back for ever.
            self._warm = min(counts) >= WARM_UP_IMAGES or max(counts) >= 4 * WARM_UP_IMAGES
            if not self._warm:
                return []
            self._fit(first=True)
        elif self._since_fit >= REFIT_EVERY * len(self._pending):
            self._fit(first=False)
        self._newest[image.camera] = max(self._newest[image.camera], self._time(image))
        return self._complete(at_end=False)

    def flush(self) -> list[ImageSet]:
        """The sets still held back: no image will follow."""
        if not self._warm and any(self._pending):
            self._warm = True
            self._fit(first=True)
        return self._complete(at_end=True)

    def _fit(self, *, first: bool) -> None:
        self._since_fit = 0
        for view, pairs in enumerate(self._pairs):
            if pairs.device:
                self._clocks[view] = Clock() if self._shared else fit_clock(pairs.device, pairs.host)
        if first:
            self._reference = int(np.argmax([len(pending) for pending in self._pending]))
            clock, head = self._clocks[self._reference], self._pending[self._reference][0]
            self._origin_ns = clock.host_origin_ns + round(float(clock.to_host(head.t_device_ns)))
            steps = [np.diff([self._time(image) for image in pending]) for pending in self._pending]
            steps = [step[step > 0] for step in steps if (step > 0).any()]
            if steps:
                self._period_ns = float(np.median([np.median(step) for step in steps]))
            for view, pending in enumerate(self._pending):
                self._newest[view] = max((self._time(image) for image in pending), default=-np.inf)

    def _time(self, image: Image) -> float:
        """When the image was taken, ns after the first reference image."""
        assert self._origin_ns is not None
        clock = self._clocks[image.camera]
        return float(clock.host_origin_ns - self._origin_ns + clock.to_host(image.t_device_ns))

    def _complete(self, *, at_end: bool) -> list[ImageSet]:
        out: list[ImageSet] = []
        while any(self._pending):
            slot = self._slot_ns if self._slot_ns is not None else self._first_slot()
            late = at_end or self._newest.max() > slot + PATIENCE_PERIODS * self._period_ns
            following = self._following(slot, late=late)
            if following is None:
                break
            edge = 0.5 * (slot + following)
            if not late and (self._newest <= edge).any():
                break
            out += self._take(slot, edge)
            self._slot_ns = following
        return out

    def _first_slot(self) -> float:
        heads = [self._time(pending[0]) for pending in self._pending if pending]
        reference = self._pending[self._reference]
        opening = self._time(reference[0]) if reference else min(heads)
        return opening - round((opening - min(heads)) / self._period_ns) * self._period_ns

    def _following(self, slot: float, *, late: bool) -> float | None:
        """Time of the slot after `slot`, or None while that is unknown."""
        for image in self._pending[self._reference]:
            ahead = (self._time(image) - slot) / self._period_ns
            if ahead > 0.5:
                # Images the reference lost leave evenly spaced slots.
                return slot + (self._time(image) - slot) / max(1, round(ahead))
        return slot + self._period_ns if late else None

    def _take(self, slot: float, edge: float) -> list[ImageSet]:
        """Remove what lies before `edge`; the nearest of each camera is the set, any other a row alone."""
        views = range(len(self._pending))
        chosen: list[Image | None] = [None for _ in views]
        alone: list[ImageSet] = []
        for view in views:
            mine = []
            while self._pending[view] and self._time(self._pending[view][0]) < edge:
                mine.append(self._pending[view].pop(0))
            if not mine:
                continue
            best = min(mine, key=lambda image: abs(self._time(image) - slot))
            chosen[view] = best
            extra = (image for image in mine if image is not best)
            alone += [ImageSet(tuple(image if v == view else None for v in views)) for image in extra]
        return alone if chosen == [None] * len(chosen) else [*alone, ImageSet(tuple(chosen))]


def sync_report(
    names: Sequence[str], t_device_ns: I64, t_host_ns: I64, frame_number: I64, *, shared_clock: bool
) -> dict[str, Any]:
    """What the stamps of a recording say of its cameras, as plain values.

    Args:
        names: the cameras.
        t_device_ns: (T, V) stamps; −1 where there is no image. Likewise the next two.
        t_host_ns: (T, V) arrivals.
        frame_number: (T, V) the cameras' counters.
        shared_clock: all stamps are of one clock.

    Returns:
        `sets`, `complete`, `unmatched` (rows of a single image of a rig of several), `skew_ms` (median, p99,
        max of the spread of times in a set), and per camera `images`, `fps`, `jitter_ms` (standard deviation
        of one stamp about its counter's line), `lost` (counter gaps), `backward` stamps and `drift_ppm`.
    """
    present = frame_number >= 0
    times = np.full(present.shape, np.nan)
    cameras: dict[str, Any] = {}
    origin: int | None = None
    for view, name in enumerate(names):
        rows = present[:, view]
        if not rows.any():
            cameras[name] = {"images": 0}
            continue
        device, host = t_device_ns[rows, view], t_host_ns[rows, view]
        clock = Clock() if shared_clock else fit_clock(device, host)
        origin = clock.host_origin_ns if origin is None else origin
        times[rows, view] = clock.host_origin_ns - origin + clock.to_host(device)
        cameras[name] = _camera_report(device, host, frame_number[rows, view], clock, shared=shared_clock)
    skew_ms = _skew(times)
    return {
        "sets": len(present),
        "complete": int(present.all(axis=1).sum()),
        "unmatched": int((present.sum(axis=1) == 1).sum()) if len(names) > 1 else 0,
        "skew_ms": None
        if skew_ms.size == 0
        else {
            "median": round(float(np.median(skew_ms)), 4),
            "p99": round(float(np.percentile(skew_ms, 99)), 4),
            "max": round(float(skew_ms.max()), 4),
        },
        "cameras": cameras,
    }


def _skew(times: F64) -> F64:
    """Spread of the times within each set of two or more images, ms."""
    several = times[np.isfinite(times).sum(axis=1) > 1]
    out: F64 = (np.nanmax(several, axis=1) - np.nanmin(several, axis=1)) / 1e6 if len(several) else np.empty(0)
    return out


def _camera_report(device: I64, host: I64, number: I64, clock: Clock, *, shared: bool) -> dict[str, Any]:
    out: dict[str, Any] = {"images": len(device)}
    steps = np.diff(number)
    out["lost"] = int((steps[steps > 1] - 1).sum())
    out["backward"] = int((np.diff(device) <= 0).sum())
    if len(device) < 3 or out["backward"] or number[-1] == number[0]:
        return out
    count = (number - number[0]).astype(np.float64)
    since = clock.to_host(device)
    period, start = np.polyfit(count, since - since[0], 1)
    out["fps"] = round(float(1e9 / period), 3)
    out["jitter_ms"] = round(float(np.std(since - since[0] - start - period * count)) / 1e6, 4)
    if not shared:
        out["drift_ppm"] = round(clock.drift_ppm, 2)
        arrival = (host - clock.host_origin_ns).astype(np.float64) - since
        out["arrival_jitter_ms"] = round(float(np.std(arrival)) / 1e6, 4)
    return out
