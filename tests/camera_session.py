"""Simulated cameras for the tests of clocks: what each of them stamps, when it arrives, and the truth behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from handloom.capture.source import Image
from handloom.capture.sync import Grouper, ImageSet

PERIOD_NS = 1e9 / 30
EMPTY = np.zeros((1, 1), np.uint16)
NOON_NS = 1_800_000_000_000_000_000


@dataclass(frozen=True)
class Cam:
    """One camera: every `every`-th instant of the rig, on a clock of its own."""

    offset_s: float = 0.0
    drift_ppm: float = 0.0
    phase_ns: float = 0.0
    jitter_ns: float = 0.2e6
    latency_ns: float = 5e6
    lost: float = 0.0
    every: int = 1
    start: int = 0
    stop: int | None = None
    steps: tuple[tuple[int, float], ...] = ()
    """(instant, seconds) by which its stamps jump there."""
    resets: tuple[int, ...] = ()
    """Instants at which its stamps and its counter begin at zero again."""
    wrap: int = 0
    bursts: tuple[tuple[int, int], ...] = ()
    """(instant, images): so many images arrive together with the last of them."""
    twice: tuple[int, ...] = ()
    """Instants whose image is handed over twice."""
    wander_ppm: float = 0.0
    """Amplitude of a rate that goes up and down once an hour."""


@dataclass
class Shot:
    """One image and the truth about it."""

    image: Image
    instant: int
    true_ns: float


@dataclass
class Simulated:
    """The images of several cameras in the order of arrival."""

    cams: Sequence[Cam]
    count: int
    seed: int = 0
    shots: list[Shot] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        for view, cam in enumerate(self.cams):
            self.shots += self._of(view, cam, rng)
        self.shots.sort(key=lambda shot: shot.image.t_host_ns)

    def _of(self, view: int, cam: Cam, rng: np.random.Generator) -> list[Shot]:
        instants = np.arange(cam.start, self.count if cam.stop is None else cam.stop, cam.every)
        true = instants * PERIOD_NS + cam.phase_ns
        hour = 2 * np.pi / 3600e9
        rate = 1 + cam.drift_ppm * 1e-6
        stamp = cam.offset_s * 1e9 + true * rate + cam.wander_ppm * 1e-6 / hour * (1 - np.cos(hour * true))
        stamp += rng.normal(0, cam.jitter_ns, len(true))
        number = np.arange(len(instants))
        for instant, seconds in cam.steps:
            stamp[instants >= instant] += seconds * 1e9
        for instant in cam.resets:
            later = instants >= instant
            stamp[later] -= stamp[later][0] - 1e6
            number[later] -= number[later][0]
        if cam.wrap:
            number %= cam.wrap
        host = NOON_NS + true + 2e6 + rng.exponential(cam.latency_ns, len(true))
        for instant, images in cam.bursts:
            inside = (instants > instant - images) & (instants <= instant)
            host[inside] = host[inside].max()
        host = np.maximum.accumulate(host + np.arange(len(host)))
        gone = rng.random(len(true)) < cam.lost
        out = []
        for i in np.flatnonzero(~gone):
            image = Image(view, EMPTY, round(stamp[i]), int(host[i]), int(number[i]))
            out.append(Shot(image, int(instants[i]), float(true[i])))
            if instants[i] in cam.twice:
                again = Image(view, EMPTY, image.t_device_ns, image.t_host_ns + 50_000, image.frame_number)
                out.append(Shot(again, int(instants[i]), float(true[i])))
        return out

    @property
    def images(self) -> list[Image]:
        return [shot.image for shot in self.shots]

    def truth(self, sets: Sequence[ImageSet]) -> np.ndarray:
        """(sets, views) the instants of the images, −1 where there is none."""
        instant = {id(shot.image): shot.instant for shot in self.shots}
        return np.array([[-1 if i is None else instant[id(i)] for i in one.images] for one in sets])


def grouped(images: Sequence[Image], views: int, *, shared_clock: bool = False) -> list[ImageSet]:
    grouper = Grouper(views, shared_clock=shared_clock)
    sets = [one for image in images for one in grouper.push(image)]
    return sets + grouper.flush()


def columns(sets: Sequence[ImageSet]) -> dict[str, np.ndarray]:
    """What a recording keeps of the sets: stamps, arrivals and counters, −1 where there is no image."""
    return {
        name: np.array([[-1 if i is None else getattr(i, name) for i in one.images] for one in sets], np.int64)
        for name in ("t_device_ns", "t_host_ns", "frame_number")
    }
