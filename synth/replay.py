"""Draw stored frames again and compare them with what is stored, bit for bit.

A frame of `synth run` follows from the recording's configuration and seed, its rig and its labels: pose, shape
and root are stored as they were drawn, and the sensor's noise is a function of (seed, frame, camera, pixel).
On the same kind of processor and with the same versions every array must come out the same; where one does
not, either the stored data or what draws it has changed. The labels are drawn from the seed again as well,
which finds a sampler that has changed.

Cost: drawing the frames, and the labels of their blocks of 32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.config import checked
from ..stores.errors import HandloomError
from ..stores.recording import Recording, open_recording
from .config import BLOCK_FRAMES, SynthConfig
from .provenance import changed_versions, machine
from .sampling import Sample, draw_samples
from .units import TABLES, Rows, shoot_samples, studio_of

DRAWN: Final = ("pose", "root", "shape")
"""Labels that a sample is drawn from."""
SHOWN: Final = 12
"""Differences printed."""


@dataclass(frozen=True, slots=True)
class Difference:
    """An array of a frame that came out otherwise."""

    frame: int
    array: str
    camera: str | None
    """None for what belongs to no camera."""
    values: int
    """How many differ, pixels of a picture say."""
    of: int
    largest: float
    """Largest difference, in the array's unit."""

    def __str__(self) -> str:
        camera = f", {self.camera}" if self.camera else ""
        return f"frame {self.frame}{camera}: {self.array}, {self.values} of {self.of} values by up to {self.largest:g}"


@dataclass(frozen=True, slots=True)
class Replay:
    """How frames compare with what is stored of them."""

    path: str
    first: int
    last: int
    values: int
    """Compared."""
    differences: tuple[Difference, ...]
    changed: tuple[str, ...]
    """Versions and machine that are no longer those of the recording."""

    @property
    def identical(self) -> bool:
        """Whether everything is the same to the bit."""
        return not self.differences

    def lines(self) -> list[str]:
        """For people."""
        frames = f"frame {self.first}" if self.first == self.last else f"frames {self.first} to {self.last}"
        if self.identical:
            return [f"{self.path}: {frames} drawn again, all {self.values} values are the same", *self._changed()]
        bad = len({difference.frame for difference in self.differences})
        out = [f"{self.path}: {bad} of {self.last - self.first + 1} frames drawn again differ ({frames})"]
        out += [f"  {difference}" for difference in self.differences[:SHOWN]]
        more = len(self.differences) - SHOWN
        return [*out, *([f"  and {more} more"] if more > 0 else []), *self._changed()]

    def _changed(self) -> list[str]:
        if self.changed:
            return [f"  since then: {what}" for what in self.changed]
        return [] if self.identical else ["  versions and machine are those of the recording: is the data damaged?"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"identical": self.identical}


def replay(path: Path, frames: range) -> Replay:
    """Draw frames of the recording at `path` again.

    Raises:
        HandloomError: the recording was not made by `synth run` or has no such frames.
    """
    recording = open_recording(path)
    config = _config(recording)
    inside = range(max(frames.start, 0), min(frames.stop, recording.n_frames))
    if not len(frames) or inside != frames:
        raise HandloomError(
            f"There is no frame {frames.start if frames.start not in inside else frames.stop - 1}",
            where=str(path),
            why=f"the recording has frames 0 to {recording.n_frames - 1}",
        )
    values, found = 0, list[Difference]()
    for unit, group in groupby(frames, lambda frame: frame // config.unit_frames):
        rows = list(group)
        start = unit * config.unit_frames
        for name, stored, again in _pairs(recording, config, start, rows):
            values += stored.size
            found += _compare(recording, rows, name, stored, again)
    return Replay(str(path), frames.start, frames.stop - 1, values, tuple(found), tuple(_changed(recording.provenance)))


def write_picture(path: Path, frame: int, out: Path) -> None:
    """PNG of one frame: for each camera what is stored, what was drawn again, and in red where they differ.

    Raises:
        HandloomError: the file cannot be written.
    """
    import cv2

    recording = open_recording(path)
    config = _config(recording)
    start = frame // config.unit_frames * config.unit_frames
    pairs = {name: (stored[0], again[0]) for name, stored, again in _pairs(recording, config, start, [frame])}
    lines = []
    for view, camera in enumerate(recording.rig.cameras):
        stored, again = (crop[view] for crop in pairs["crops/crop"])
        center = float(pairs["crops/center"][0][view, 2]) / camera.depth_unit_mm
        half = config.window_mm / 3 / camera.depth_unit_mm
        differs = np.full((*stored.shape, 3), 255, np.uint8)
        differs[stored > 0] = 225
        differs[stored != again] = (60, 60, 220)
        lines.append(np.hstack([_shade(stored, center, half), _shade(again, center, half), differs]))
    scale = max(1, round(240 / config.crop_px))
    image = cv2.resize(np.vstack(lines), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    except OSError as error:
        raise HandloomError("The picture cannot be written", where=str(out), why=str(error)) from error


def _config(recording: Recording) -> SynthConfig:
    where = str(recording.path)
    command = recording.provenance.get("command")
    if command == "synth twin":
        raise HandloomError(
            "A twin cannot be drawn again from its recording alone",
            where=where,
            why="its hand has the skeleton that was fitted to the person, which is not kept",
            fix="make the twins again from the same real recording with 'handloom synth twin' and compare",
        )
    stored = recording.provenance.get("config")
    if command != "synth run" or not isinstance(stored, Mapping):
        raise HandloomError("Only what 'handloom synth run' made can be drawn again", where=where)
    return checked(SynthConfig, stored, where=where)


def _pairs(
    recording: Recording, config: SynthConfig, start: int, rows: list[int]
) -> Iterable[tuple[str, NDArray[Any], NDArray[Any]]]:
    """For each array its name and the values of `rows`, all of one unit that begins at `start`: stored, drawn."""
    labels, frames = recording.labels, recording.frames
    assert labels is not None
    assert frames is not None
    studio = studio_of(config, recording.rig)
    stop = min(start + config.unit_frames, recording.n_frames)
    stored = {name: labels.read(name, start, stop).astype(np.float64) for name in DRAWN}
    samples = Sample(**stored, subject=frames.read("subject", start, stop))
    made = shoot_samples(config, studio, samples, start, [row - start for row in rows])
    made["labels"] |= _labels_again(config, start, stop, rows, recording)
    for name in TABLES:
        table = getattr(recording, name)
        for key, column in table.columns.items():
            yield f"{name}/{key}", table.read_rows(key, rows), made[name][key].astype(column.dtype)


def _labels_again(config: SynthConfig, start: int, stop: int, rows: list[int], recording: Recording) -> Rows:
    """Pose, root and shape of the rows as the seed gives them."""
    low = rows[0] - (rows[0] - start) % BLOCK_FRAMES
    high = min(rows[-1] + BLOCK_FRAMES - (rows[-1] - start) % BLOCK_FRAMES, stop)
    samples = draw_samples(config, studio_of(config, recording.rig).hand, low, high)
    return {name: getattr(samples, name)[[row - low for row in rows]] for name in DRAWN}


def _compare(
    recording: Recording, rows: list[int], name: str, stored: NDArray[Any], again: NDArray[Any]
) -> Iterable[Difference]:
    views = recording.n_views
    by_view = (
        stored.ndim > 1 and stored.shape[1] == views and name not in {f"labels/{key}" for key in (*DRAWN, "joints")}
    )
    for i, row in enumerate(rows):
        for view in range(views) if by_view else (None,):
            one, other = (values[i] if view is None else values[i, view] for values in (stored, again))
            differs = (one != other) & ~((one != one) & (other != other))
            if differs.any():
                largest = np.abs(one.astype(np.float64) - other.astype(np.float64)).max()
                camera = None if view is None else recording.rig.names[view]
                yield Difference(row, name, camera, int(differs.sum()), int(np.size(differs)), float(largest))


def _changed(provenance: Mapping[str, Any]) -> Iterable[str]:
    versions = changed_versions(provenance)
    if versions:
        yield from versions.split("; ")
    before = provenance.get("machine")
    if before is not None and before != machine():
        yield f"machine was {before}, is {machine()}"


def _shade(crop: NDArray[np.uint16], center: float, half: float) -> NDArray[np.uint8]:
    """Near is bright, nothing is dark blue."""
    grey = np.clip(0.6 - 0.4 * (crop - center) / half, 0.05, 1) * 255
    image = np.repeat(grey[..., None], 3, axis=2)
    image[crop == 0] = (60, 40, 30)
    return image.astype(np.uint8)
