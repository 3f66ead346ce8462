"""Which images of several cameras belong together: an affine clock per camera, then the nearest time.

`clocks.CameraClock` maps each camera's stamps to the host's time, also over steps of its clock. Pairing by arrival
itself would be wrong by tens of ms.

Sets follow the reference camera, the fastest that speaks: its k-th image opens a slot, an image it lost leaves a slot
at the time at which it would have come, and every other image belongs to the nearest slot, at most half a period
away. So free-running cameras of any phase give full sets, and an image that has no partner still makes a row of its
own: whatever the cameras do, each image pushed is in exactly one set. Where an image lies at the edge of two slots, it
goes with the one that its predecessor went with, so that jitter does not tear sets apart while phases pass each other.

Grouping is a stream. A set is given out when all cameras are past it, or when it has waited for `PATIENCE_PERIODS`;
no camera has more than `MAX_HELD` images waiting. Counters are not looked at: they wrap and are reset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Final

from .clocks import CameraClock, Clock, Segment, fit_clock
from .source import Image
from .sync_report import sync_report

__all__ = ["Clock", "Grouper", "ImageSet", "fit_clock", "sync_report"]

DEFAULT_PERIOD_NS: Final = 1e9 / 30
"""Assumed until a camera gave two images."""
WARM_UP_IMAGES: Final = 15
"""Images a camera should give before the first set is formed."""
PATIENCE_PERIODS: Final = 8.0
"""How far other cameras may run ahead before a late image counts as lost."""
MAX_HELD: Final = 40
SETTLED_IMAGES: Final = 8
"""Images after a step of a camera's clock before it is known well enough to pair by."""
LEAN: Final = 0.06
"""Of a period: how far an image may lie beyond the edge and still go with the slot its predecessor went with."""
LOST_AT_MOST: Final = 30
"""Steps of more periods than this tell nothing of the period."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images of one instant, by view; None where a camera gave none."""

    images: tuple[Image | None, ...]
    skew_ns: float | None = None
    """Spread of the images' times on the host's clock, as known at grouping; None of a single image."""


@dataclass(slots=True, eq=False)
class _Held:
    """An image that waits for its partners."""

    image: Image
    segment: Segment


@dataclass(slots=True, eq=False)
class _View:
    """One camera of the stream."""

    clock: CameraClock
    held: list[_Held]
    newest: _Held | None = None
    period_ns: float = DEFAULT_PERIOD_NS
    first_steps: list[float] = field(default_factory=list)
    """Between stamps, from which the period is learnt; then it is followed."""
    lean_ns: float = 0.0


class Grouper:
    """Turns a stream of images into a stream of sets.

    Args:
        n_views: cameras of the rig.
        shared_clock: the stamps of all cameras are of one clock and need no fit.
    """

    def __init__(self, n_views: int, *, shared_clock: bool) -> None:
        self._views = [_View(CameraClock(shared=shared_clock), []) for _ in range(n_views)]
        self._warm = False
        self._origin_ns: int | None = None
        self._now_ns: int | None = None
        """The newest arrival."""
        self._reference = 0
        self._slot_ns: float | None = None

    @property
    def clocks(self) -> tuple[Clock, ...]:
        """The clocks as fitted so far."""
        return tuple(view.clock.clock for view in self._views)

    @property
    def held(self) -> int:
        """Images that wait for their partners."""
        return sum(len(view.held) for view in self._views)

    def push(self, image: Image) -> list[ImageSet]:
        """Take one image; the sets that are complete or given up by it, in time order."""
        view = self._views[image.camera]
        segment, all_new = view.clock.add(image.t_device_ns, image.t_host_ns, image.frame_number, view.period_ns)
        held = _Held(image, segment)
        if all_new:
            for waiting in view.held:
                waiting.segment = segment
        self._learn_period(view, held)
        view.newest = held
        view.held.append(held)
        self._now_ns = image.t_host_ns if self._now_ns is None else max(self._now_ns, image.t_host_ns)
        if not self._warm:
            counts = [len(one.held) for one in self._views]
            # A camera that stays silent must not hold the others back for ever.
            if min(counts) < WARM_UP_IMAGES and max(counts) < 2 * WARM_UP_IMAGES:
                return []
            self._begin()
        return [*self._overflow(view), *self._complete(at_end=False)]

    def flush(self) -> list[ImageSet]:
        """The sets still held back: no image will follow."""
        if not self._warm and self.held:
            self._begin()
        return self._complete(at_end=True)

    def _begin(self) -> None:
        self._warm = True
        first = next(view.held[0] for view in self._views if view.held)
        self._origin_ns = first.segment.clock.host_origin_ns
        self._reference = max(range(len(self._views)), key=lambda v: (len(self._views[v].held), -v))

    @staticmethod
    def _learn_period(view: _View, held: _Held) -> None:
        if view.newest is None or view.newest.segment is not held.segment:
            return
        step = float(held.image.t_device_ns - view.newest.image.t_device_ns)
        if step <= 0:
            return
        if len(view.first_steps) < WARM_UP_IMAGES:
            view.first_steps.append(step)
            view.period_ns = median(view.first_steps)
            return
        count = max(1, round(step / view.period_ns))
        if count <= LOST_AT_MOST:
            view.period_ns += (step / count - view.period_ns) / 64

    def _time(self, held: _Held) -> float:
        """When the image was taken, ns after the first image."""
        assert self._origin_ns is not None
        return held.segment.clock.since(held.image.t_device_ns, self._origin_ns)

    def _period_ns(self) -> float:
        return self._views[self._reference].period_ns

    def _overflow(self, view: _View) -> list[ImageSet]:
        """The oldest image of a camera of which too many wait: its stamps lead nowhere."""
        if len(view.held) <= MAX_HELD:
            return []
        return [self._alone(view.held.pop(0))]

    def _alone(self, held: _Held) -> ImageSet:
        return ImageSet(tuple(held.image if v == held.image.camera else None for v in range(len(self._views))))

    def _complete(self, *, at_end: bool) -> list[ImageSet]:
        out: list[ImageSet] = []
        while any(view.held for view in self._views):
            newest = [self._time(view.newest) if view.newest else -inf for view in self._views]
            period = self._period_ns()
            if self._slot_ns is None:
                self._slot_ns = self._first_slot()
            elif self._elsewhere(self._slot_ns, max(newest)):
                if not at_end and not self._all_elsewhere(self._slot_ns):
                    break
                self._slot_ns = self._first_slot()
            slot = self._slot_ns
            late = at_end or self._late(slot, newest)
            following = self._following(slot, late=late)
            if following is None:
                break
            edge = 0.5 * (slot + following) + LEAN * period
            if not late and any(time <= edge for time in newest):
                break
            if not late and any(map(self._unsettled, self._views)):
                break
            out += self._take(slot, following)
            self._slot_ns = following
        return out

    def _elsewhere(self, slot: float, newest: float) -> bool:
        """Whether no image that waits is near the slot."""
        period = self._period_ns()
        earliest = min(self._time(held) for view in self._views for held in view.held)
        return earliest > slot + 1.5 * period or newest < slot - PATIENCE_PERIODS * period

    def _all_elsewhere(self, slot: float) -> bool:
        """Whether that is so of every camera that speaks: all were silent for long, or all clocks were set back."""
        period = self._period_ns()
        assert self._now_ns is not None
        for view in self._views:
            if view.newest is None or self._now_ns - view.newest.image.t_host_ns > PATIENCE_PERIODS * period:
                continue
            if abs(self._time(view.newest) - slot) <= 1.5 * period:
                return False
        return True

    @staticmethod
    def _unsettled(view: _View) -> bool:
        return view.newest is not None and view.newest.segment.count < SETTLED_IMAGES

    def _late(self, slot: float, newest: list[float]) -> bool:
        """Whether a slot has waited long enough for its images."""
        period = self._period_ns()
        patience = PATIENCE_PERIODS * (2 if any(map(self._unsettled, self._views)) else 1)
        # Stamps that are further ahead than images can wait lead nowhere.
        near = [v for v, time in enumerate(newest) if time <= slot + MAX_HELD * period]
        if not any(newest[v] > slot + patience * period for v in near):
            return False
        # In a burst, images that are far ahead came at the same moment: their partners are on their way.
        edge = slot + 0.5 * period
        arrived = [held.image.t_host_ns for view in self._views for held in view.held if self._time(held) < edge]
        assert self._now_ns is not None
        waited = not arrived or self._now_ns - min(arrived) > 0.5 * patience * period
        return waited or max(len(self._views[v].held) for v in near) > 0.8 * MAX_HELD

    def _first_slot(self) -> float:
        heads = [min(map(self._time, view.held)) for view in self._views if view.held]
        reference = self._views[self._reference].held
        opening = min(map(self._time, reference)) if reference else min(heads)
        period = self._period_ns()
        behind = round((opening - min(heads)) / period)
        # Far from the reference's images its grid is not known.
        return opening - behind * period if behind <= LOST_AT_MOST else min(heads)

    def _following(self, slot: float, *, late: bool) -> float | None:
        """Time of the slot after `slot`, or None while that is unknown."""
        period = self._period_ns()
        found = self._after(self._views[self._reference], slot, period)
        if found is not None:
            faster = self._faster()
            if faster is None:
                return found
            self._reference = faster
            period = self._period_ns()
            found = self._after(self._views[faster], slot, period)
        if found is not None:
            return found
        far = any(self._time(held) > slot + period for held in self._views[self._reference].held)
        if not late and not far:
            return None
        # The reference fell silent or jumped: the fastest of those that speak here takes its place.
        for v in sorted(range(len(self._views)), key=lambda v: self._views[v].period_ns):
            times = [time for time in map(self._time, self._views[v].held) if time > slot + 0.5 * period]
            if times and min(times) < slot + 1.5 * period:
                self._reference = v
                return min(times)
        return slot + period

    def _faster(self) -> int | None:
        """A camera that gives many more images than the reference."""
        period = self._period_ns()
        for v, view in enumerate(self._views):
            if len(view.first_steps) == WARM_UP_IMAGES and view.held and view.period_ns < 0.75 * period:
                return v
        return None

    def _after(self, view: _View, slot: float, period: float) -> float | None:
        """Where the view's first image after the slot puts the next one."""
        ahead = [time - slot for time in map(self._time, view.held) if time - slot > 0.5 * period]
        if not ahead or min(ahead) > LOST_AT_MOST * period:
            return None
        # Images the reference lost leave evenly spaced slots.
        return slot + min(ahead) / max(1, round(min(ahead) / period))

    def _take(self, slot: float, following: float) -> list[ImageSet]:
        """Remove what lies before the next slot; the nearest of each camera is the set, any other a row alone."""
        edge, period = 0.5 * (slot + following), self._period_ns()
        chosen: list[_Held | None] = []
        before: list[ImageSet] = []
        after: list[ImageSet] = []
        times: list[float] = []
        for view in self._views:
            upto = edge + view.lean_ns
            mine = sorted(((self._time(h), i) for i, h in enumerate(view.held) if self._time(h) < upto))
            near = [(abs(time - slot), time, i) for time, i in mine if abs(time - slot) <= (0.5 + 2 * LEAN) * period]
            best = min(near)[2] if near else None
            chosen.append(None if best is None else view.held[best])
            if near:
                times.append(min(near)[1])
                away = min(near)[1] - slot
                view.lean_ns = LEAN * period * (1 if away > 0 else -1) if abs(away) > 0.25 * period else 0.0
            where = before
            for _, i in mine:  # a camera's images keep their order
                if i == best:
                    where = after
                else:
                    where.append(self._alone(view.held[i]))
            taken = {i for _, i in mine}
            if taken:
                view.held = [held for i, held in enumerate(view.held) if i not in taken]
        if not times:
            return before
        skew = max(times) - min(times) if len(times) > 1 else None
        return [*before, ImageSet(tuple(None if held is None else held.image for held in chosen), skew), *after]
