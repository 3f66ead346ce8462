"""Draw stored frames again and compare them with what is stored, bit for bit.

A frame of `synth run` follows from the recording's configuration and seed, its rig and its labels: pose, shape
and root are stored as they were drawn, and the sensor's noise is a function of (seed, frame, camera, pixel).
A twin follows from its pose and root and the fitted person's hand, which the recording keeps. On the same kind
of processor and with the same versions every array must come out the same; where one does not, either the
stored data or what draws it has changed.

Of `synth run`, pose, root and shape are drawn from the seed again as well, which finds a sampler that has
changed. Of twins they are taken as they are: only 'synth twin' with the real recording fits them again, and
`twin`, `fit_error_mm` and `split` come from there as well and are not compared.

Cost: drawing the frames, and the labels of their blocks of 32; of twins, whole units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.config import checked
from ..stores.errors import HandloomError
from ..stores.recording import Recording, open_recording
from .config import BLOCK_FRAMES, BUILTIN, SynthConfig
from .formats import hand_named
from .people import FITTED, Person
from .provenance import changed_versions, machine
from .sampling import Sample, draw_samples
from .twin_units import TwinSettings, TwinWork
from .units import TABLES, Rows, shoot_samples, studio_of

DRAWN: Final = ("pose", "root", "shape")
"""Labels that a sample is drawn from."""
Draw = Callable[[list[int]], Mapping[str, Rows]]
"""Makes rows of one unit again."""
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
        HandloomError: the recording was not made by `synth run` or `synth twin`, or has no such frames.
    """
    recording = open_recording(path)
    unit_frames, draw = _artist(recording)
    inside = range(max(frames.start, 0), min(frames.stop, recording.n_frames))
    if not len(frames) or inside != frames:
        raise HandloomError(
            f"There is no frame {frames.start if frames.start not in inside else frames.stop - 1}",
            where=str(path),
            why=f"the recording has frames 0 to {recording.n_frames - 1}",
        )
    values, found = 0, list[Difference]()
    for _, group in groupby(frames, lambda frame: frame // unit_frames):
        rows = list(group)
        for name, stored, again in _pairs(recording, draw(rows), rows):
            values += stored.size
            found += _compare(recording, rows, name, stored, again)
    changed = tuple(_changed(recording))
    return Replay(str(path), frames.start, frames.stop - 1, values, tuple(found), changed)


def write_picture(path: Path, frame: int, out: Path) -> None:
    """PNG of one frame: for each camera what is stored, what was drawn again, and in red where they differ.

    Raises:
        HandloomError: the file cannot be written.
    """
    import cv2

    recording = open_recording(path)
    _, draw = _artist(recording)
    pairs = {name: (stored[0], again[0]) for name, stored, again in _pairs(recording, draw([frame]), [frame])}
    assert recording.crops is not None
    crop_px, window_mm = (recording.crops.attributes[name] for name in ("crop_px", "window_mm"))
    lines = []
    for view, camera in enumerate(recording.rig.cameras):
        stored, again = (crop[view] for crop in pairs["crops/crop"])
        center = float(pairs["crops/center"][0][view, 2]) / camera.depth_unit_mm
        half = window_mm / 3 / camera.depth_unit_mm
        differs = np.full((*stored.shape, 3), 255, np.uint8)
        differs[stored > 0] = 225
        differs[stored != again] = (60, 60, 220)
        lines.append(np.hstack([_shade(stored, center, half), _shade(again, center, half), differs]))
    scale = max(1, round(240 / crop_px))
    image = cv2.resize(np.vstack(lines), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    except OSError as error:
        raise HandloomError("The picture cannot be written", where=str(out), why=str(error)) from error


def _artist(recording: Recording) -> tuple[int, Draw]:
    """Frames of a unit, and what draws rows of one unit again."""
    where, said = str(recording.path), recording.provenance
    match said.get("command"), said.get("config"), said.get("twin_config"):
        case "synth run", dict(values), _:
            config = checked(SynthConfig, values, where=where)
            return config.unit_frames, lambda rows: _run_again(recording, config, rows)
        case "synth twin", _, dict(values):
            settings = TwinSettings.of_description(values)
            return settings.unit_frames, lambda rows: _twins_again(recording, settings, rows)
    raise HandloomError("Only what 'synth run' and 'synth twin' made can be drawn again", where=where)


def _pairs(
    recording: Recording, made: Mapping[str, Rows], rows: list[int]
) -> Iterable[tuple[str, NDArray[Any], NDArray[Any]]]:
    """For each array that was drawn its name and the values of `rows`: stored, drawn."""
    for name in TABLES:
        table = getattr(recording, name)
        for key, column in table.columns.items():
            if key in made[name]:
                yield f"{name}/{key}", table.read_rows(key, rows), made[name][key].astype(column.dtype)


def _twins_again(recording: Recording, settings: TwinSettings, rows: list[int]) -> dict[str, Rows]:
    """The unit is drawn whole: one person's frames in it are posed together."""
    assert recording.labels is not None
    assert recording.crops is not None
    assert recording.frames is not None
    start = rows[0] - rows[0] % settings.unit_frames
    stop = min(start + settings.unit_frames, recording.n_frames)
    people = {int(who): Person.from_dict(values) for who, values in recording.attributes["people"].items()}
    geometry = recording.crops.attributes
    work = TwinWork(
        Path(), recording.path, recording.rig, recording.hand, settings, people,
        int(geometry["crop_px"]), float(geometry["window_mm"]),
    )  # fmt: skip
    fits = np.zeros(stop - start, FITTED)
    fits["subject"] = recording.frames.read("subject", start, stop)
    for name in ("pose", "root"):
        fits[name] = recording.labels.read(name, start, stop)
    made = work.draw(fits, start)
    del made["frames"]["split"]
    return {name: {key: values[np.array(rows) - start] for key, values in part.items()} for name, part in made.items()}


def _run_again(recording: Recording, config: SynthConfig, rows: list[int]) -> dict[str, Rows]:
    labels, frames = recording.labels, recording.frames
    assert labels is not None
    assert frames is not None
    studio = studio_of(config, recording.rig)
    start = rows[0] - rows[0] % config.unit_frames
    stop = min(start + config.unit_frames, recording.n_frames)
    stored = {name: labels.read(name, start, stop).astype(np.float64) for name in DRAWN}
    error = labels.read("fit_error_mm", start, stop) if "fit_error_mm" in labels.columns else None
    samples = Sample(**stored, subject=frames.read("subject", start, stop), fit_error_mm=error)
    made = shoot_samples(config, studio, samples, start, [row - start for row in rows])
    made["labels"] |= _labels_again(config, start, stop, rows, recording)
    return made


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


def _changed(recording: Recording) -> Iterable[str]:
    provenance = recording.provenance
    hand = provenance.get("hand")
    if isinstance(hand, Mapping) and hand.get("sha256") != _hand_now(recording):
        yield f"the hand {hand.get('source')} is another one"
    versions = changed_versions(provenance)
    if versions:
        yield from versions.split("; ")
    before = provenance.get("machine")
    if before is not None and before != machine():
        yield f"machine was {before}, is {machine()}"


def _hand_now(recording: Recording) -> str | None:
    """The checksum of the hand that the recording names, as it is now."""
    said = recording.provenance.get("config") or recording.provenance.get("twin_config") or {}
    mapping = said.get("hand_mapping")
    hand = said.get("hand", BUILTIN)
    return hand_named(hand, side=recording.hand, mapping=None if mapping is None else Path(mapping)).sha256


def _shade(crop: NDArray[np.uint16], center: float, half: float) -> NDArray[np.uint8]:
    """Near is bright, nothing is dark blue."""
    grey = np.clip(0.6 - 0.4 * (crop - center) / half, 0.05, 1) * 255
    image = np.repeat(grey[..., None], 3, axis=2)
    image[crop == 0] = (60, 40, 30)
    return image.astype(np.uint8)
