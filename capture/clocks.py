"""The clocks of cameras: an affine map from a camera's stamps to the host's time, followed while it may step.

Cameras stamp with clocks of their own: other origin, other rate, some jitter. A stamp is mapped to the host's time by

    t_host ≈ origin + (1 + δ)(t_device − origin'),

fitted robustly to the least late of the arrivals. Arrival jitters by milliseconds and real drifts stay below a few
hundred ppm, so δ carries a prior of 100 ppm: a short recording keeps δ ≈ 0 instead of fitting the jitter (ridge
regression; Bishop, Pattern Recognition and Machine Learning, 2006, eq. 3.54).

Crystals wander with temperature by a few ppm, which adds up to tens of ms in an hour, so only the last `WINDOW_PIECES`
pieces are fitted. A clock that steps, is reset or falls silent for long begins anew with the rate it had.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F64 = NDArray[np.float64]

DRIFT_PRIOR: Final = 1e-4
"""Standard deviation of real clocks' relative rates."""
KNOWN_DRIFT_PRIOR: Final = 5e-6
"""... and of how far a rate that was measured moves when the clock is set anew."""
IMAGES_PER_PIECE: Final = 20
"""Of so many images the least late one is kept."""
WINDOW_PIECES: Final = 900
"""Ten minutes at 30 fps."""
FLOOR_NS: Final = 1e4
"""No clock is known better than to 10 µs."""
LEAST_WANDER: Final = 1e-6
"""How well a rate is known at best once a camera falls silent."""
STEP_PIECES: Final = 3
"""So many pieces in a row, late or early alike, tell a small step from a host that was busy."""
SMALL_STEP_NS: Final = 4e6
RESET_NS: Final = 1e9
"""A stamp that is late by more, and older than the newest, is of a clock that was set back."""


@dataclass(frozen=True, slots=True)
class Clock:
    """t_host = host_origin_ns + slope · (t_device − device_origin_ns)."""

    device_origin_ns: int = 0
    host_origin_ns: int = 0
    slope: float = 1.0
    slope_sd: float = 0.0
    """Standard deviation of `slope`, as far as the scatter of the arrivals tells."""

    def to_host(self, t_device_ns: ArrayLike) -> F64:
        """Device stamps (n,), or of any shape, as float64 ns after `host_origin_ns`: precise below a microsecond."""
        since = np.asarray(t_device_ns, np.int64) - self.device_origin_ns
        return self.slope * since.astype(np.float64)

    def since(self, t_device_ns: int, origin_ns: int) -> float:
        """One stamp as ns after a host time."""
        return self.host_origin_ns - origin_ns + self.slope * (t_device_ns - self.device_origin_ns)

    @property
    def drift_ppm(self) -> float:
        """How much faster the host's clock runs than the camera's."""
        return (self.slope - 1.0) * 1e6


def least_late(t_device_ns: NDArray[np.int64], t_host_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of the least late image of every piece of `IMAGES_PER_PIECE`, (m,), ascending; a short end counts."""
    late = t_host_ns - t_device_ns
    late = late - late.min(initial=0)
    whole = len(late) // IMAGES_PER_PIECE * IMAGES_PER_PIECE
    found = late[:whole].reshape(-1, IMAGES_PER_PIECE).argmin(axis=1) + np.arange(0, whole, IMAGES_PER_PIECE)
    if whole == len(late):
        return np.asarray(found, np.int64)
    return np.append(found, whole + int(late[whole:].argmin())).astype(np.int64)


def fit_clock(t_device_ns: ArrayLike, t_host_ns: ArrayLike) -> Clock:
    """The affine clock of one camera from pairs of stamp and arrival (n,), int64 ns, n ≥ 1, in the order of arrival.

    Arrivals are late, never early: only the least late one of every few images is used (a mean of delays that
    scatter by 6 ms would need fifty times as many images for the same precision).
    """
    device, host = np.asarray(t_device_ns, np.int64), np.asarray(t_host_ns, np.int64)
    order = np.argsort(device, kind="stable")
    device, host = device[order], host[order]
    kept = least_late(device, host)
    return fit_pairs(device[kept], host[kept])


def fit_pairs(
    device: NDArray[np.int64], host: NDArray[np.int64], *, slope: float = 1.0, prior: float = DRIFT_PRIOR
) -> Clock:
    """The clock through pairs (n,) that are trusted, n ≥ 1; `prior` is the standard deviation of `slope`."""
    device_origin, host_origin = int(np.median(device)), int(np.median(host))
    x = (device - device_origin).astype(np.float64)
    y = (host - host_origin).astype(np.float64) - slope * x
    delta, offset = 0.0, float(np.median(y))
    scatter, weight = FLOOR_NS, 0.0
    for _ in range(4):
        residual = y - offset - delta * x
        spread = 1.4826 * float(np.median(np.abs(residual))) + FLOOR_NS
        kept = np.abs(residual) <= 3 * spread
        mean_x, mean_y = x[kept].mean(), y[kept].mean()
        sxx = float(((x[kept] - mean_x) ** 2).sum())
        sxy = float(((x[kept] - mean_x) * (y[kept] - mean_y)).sum())
        # Of a single pair the scatter is unknown: a millisecond, as of arrivals on a calm machine.
        scatter = spread if len(x) > 2 else max(spread, 1e6)
        weight = sxx + (scatter / prior) ** 2
        delta = sxy / weight
        offset = float(mean_y - delta * mean_x)
    return Clock(device_origin, host_origin + round(offset), slope + delta, scatter / weight**0.5)


class Segment:
    """A stretch of one camera's stamps between two steps of its clock; its `clock` is fitted again as it grows."""

    def __init__(self, device_ns: int, host_ns: int, *, before: Segment | None = None) -> None:
        # A rate that rests on the prior alone is no knowledge to hand on.
        known = before is not None and before.clock.slope_sd < 2 * KNOWN_DRIFT_PRIOR
        self.slope = before.clock.slope if before is not None and known else 1.0
        self.prior = KNOWN_DRIFT_PRIOR if known else DRIFT_PRIOR
        self.clock: Clock = Clock(device_ns, host_ns, self.slope, self.prior)
        self.count = 0


class CameraClock:
    """One camera's clock while its images come, in bounded memory.

    Args:
        shared: the stamps are the host's own and need no fit.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._pieces: deque[tuple[int, int]] = deque(maxlen=WINDOW_PIECES)
        self._late: deque[float] = deque(maxlen=STEP_PIECES)
        """How late the least late image of each of the last pieces was by the clock of its time."""
        self._since_fit = 0
        self._open: tuple[int, int] | None = None
        self._open_count = 0
        self._newest: tuple[int, int] | None = None
        """Stamp and counter."""
        self._heard_ns: int | None = None
        """When the last image came."""
        self._segment: Segment | None = None
        self.steps = 0

    @property
    def clock(self) -> Clock:
        """As fitted so far."""
        return self._segment.clock if self._segment is not None else Clock()

    def add(self, device_ns: int, host_ns: int, number: int, period_ns: float) -> tuple[Segment, bool]:
        """Take one image's stamp, arrival and counter.

        Returns:
            the segment it belongs to, and whether images that wait belong to it as well: a small step is only
            known some images after it.
        """
        if self._segment is None or (not self._shared and self._stepped(device_ns, host_ns, number, period_ns)):
            self._begin(device_ns, host_ns)
        segment = self._segment
        assert segment is not None
        if self._newest is None or device_ns >= self._newest[0]:
            self._newest = (device_ns, number)
        segment.count += 1
        self._heard_ns = host_ns
        if self._shared:
            segment.clock = Clock()
            return segment, False
        if self._open is None or host_ns - device_ns < self._open[1] - self._open[0]:
            self._open = (device_ns, host_ns)
            # A clock that is young is as good as its least late arrival.
            if segment.count <= 2 * IMAGES_PER_PIECE and not self._late:
                origin = segment.clock.host_origin_ns
                if host_ns - origin < segment.clock.since(device_ns, origin):
                    segment.clock = Clock(device_ns, host_ns, segment.slope, segment.prior)
        self._open_count += 1
        if self._open_count < IMAGES_PER_PIECE:
            return segment, False
        return self._close_piece(segment, period_ns)

    def _close_piece(self, segment: Segment, period_ns: float) -> tuple[Segment, bool]:
        assert self._open is not None
        self._late.append(self._late_by(*self._open))
        self._pieces.append(self._open)
        self._open, self._open_count = None, 0
        self._since_fit += 1
        stepped = False
        if len(self._pieces) >= 2 * STEP_PIECES and len(self._late) == STEP_PIECES:
            # A busy host makes images late for a while, nothing makes them early.
            usual = SMALL_STEP_NS + 3 * self._scatter()
            stepped = min(self._late) > max(usual, 0.5 * period_ns) or max(self._late) < -usual
        if stepped:
            recent = list(self._pieces)[-STEP_PIECES:]
            self._begin(*recent[0])
            self._pieces.extend(recent)
            assert self._segment is not None
            segment = self._segment
            segment.count = STEP_PIECES * IMAGES_PER_PIECE
        # A fit costs a third of a millisecond when the window is full.
        if stepped or len(self._pieces) < 60 or self._since_fit >= 4:
            self._fit(segment)
        return segment, stepped

    def _scatter(self) -> float:
        """How much the least late arrivals of pieces differ, ns."""
        pieces = np.array(list(self._pieces)[-64:], np.int64)
        late = (pieces[:, 1] - pieces[:, 0]).astype(np.float64)
        return 1.4826 * float(np.median(np.abs(np.diff(late)))) / 2**0.5 if len(late) > 2 else 0.0

    def _fit(self, segment: Segment) -> None:
        self._since_fit = 0
        pairs = np.array(self._pieces, np.int64)
        segment.clock = fit_pairs(pairs[:, 0], pairs[:, 1], slope=segment.slope, prior=segment.prior)

    def _begin(self, device_ns: int, host_ns: int) -> None:
        self.steps += self._segment is not None
        self._segment = Segment(device_ns, host_ns, before=self._segment)
        self._pieces.clear()
        self._late.clear()
        self._open, self._open_count = None, 0
        self._newest = None

    def _stepped(self, device_ns: int, host_ns: int, number: int, period_ns: float) -> bool:
        """Whether this stamp cannot be of the clock that was followed so far."""
        assert self._segment is not None
        silent_ns = 0 if self._heard_ns is None else host_ns - self._heard_ns
        if max(self.clock.slope_sd, LEAST_WANDER) * silent_ns > 0.25 * period_ns:
            return True  # nobody knows where it is by now
        if self._newest is not None and device_ns < self._newest[0]:
            late = self._late_by(device_ns, host_ns)
            # A stamp goes back, the counter does not; or all went back so far that no image waits so long.
            return number > self._newest[1] or late > max(RESET_NS, 30 * period_ns)
        # An image cannot arrive before it is taken.
        early = max(0.5 * period_ns, 15e6) if self._segment.count >= IMAGES_PER_PIECE else RESET_NS
        return self._late_by(device_ns, host_ns) < -early

    def _late_by(self, device_ns: int, host_ns: int) -> float:
        clock = self.clock
        return host_ns - clock.host_origin_ns - clock.since(device_ns, clock.host_origin_ns)
