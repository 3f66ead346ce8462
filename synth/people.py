"""Poses for every labelled frame of a recording: each person fitted once, then all frames, in chunks.

The labels are read unit by unit and the fits of a chunk written to a file of their own, so that memory does not
grow with the recording, chunks can be made by any process, and an interrupted fit goes on where it was. The
forearm, of which labels say nothing, is turned to where the real crops show it, if the recording has any.

Cost: the person about 1 ms a frame of at most 400, then 0.2 to 0.5 ms a frame.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import HandloomError
from ..stores.joints import Layout
from ..stores.recording import SPLITS, Recording, open_recording
from ..stores.table import Table
from .arm_direction import wrist_from_depth
from .fit import fit_pose
from .forearm import WRIST_DOFS
from .formats import hand_named
from .hand import POSE_SIZE, ROOT_SIZE, RiggedHand
from .points import MIN_POINTS, refuse_other_units
from .subject import Subject, fit_subject, with_joints_moved

PERSON_FRAMES: Final = 400
"""Frames of one person that tell what the person looks like."""
CHUNK_FRAMES: Final = 512
IMAGES_AT_ONCE: Final = 64
CANDIDATE: Final = np.dtype([("row", "<i8"), ("subject", "<i4")])
FITTED: Final = np.dtype(
    [
        ("row", "<i8"),
        ("subject", "<i4"),
        ("error_mm", "<f4"),
        ("worst_mm", "<f4"),
        ("pose", "<f4", (POSE_SIZE,)),
        ("root", "<f4", (ROOT_SIZE,)),
    ]
)
"""A frame's row in the real recording, whose hand it is, and the fit: as labels keep it."""


@dataclass(frozen=True, slots=True)
class Person:
    """What the frames of one subject have in common, as a recording keeps it."""

    shape: tuple[float, ...]
    shift_mm: tuple[tuple[float, ...], ...]
    """(26, 3) of each joint from its parent, at rest."""
    offset_mm: tuple[tuple[float, ...], ...]
    """(J, 3) of the layout's points, in their bones' frames."""

    @classmethod
    def of(cls, subject: Subject) -> Self:
        """What is to be kept of a fitted subject."""
        rows = (subject.shift_mm.tolist(), subject.offset_mm.tolist())
        shift, offset = (tuple(tuple(row) for row in values) for values in rows)
        return cls(tuple(subject.shape.tolist()), shift, offset)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The person of `to_dict`."""
        shift, offset = (tuple(tuple(row) for row in values[name]) for name in ("joint_shift_mm", "offset_mm"))
        return cls(tuple(values["shape"]), shift, offset)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a recording's attributes."""
        return {"shape": self.shape, "joint_shift_mm": self.shift_mm, "offset_mm": self.offset_mm}

    def hand(self, base: RiggedHand) -> RiggedHand:
        """The person's own hand, made from the one that was fitted."""
        return with_joints_moved(base, np.array(self.shift_mm))


@dataclass(frozen=True, slots=True)
class Labelled:
    """The frames of a recording that can be fitted, and how many of each subject cannot."""

    frames: NDArray[np.void]
    """(n,) of `CANDIDATE`, in the order of their rows."""
    too_few_points: dict[int, int]
    """By subject: frames with some known points, but fewer than `MIN_POINTS`."""


def labelled_frames(real: Recording, rows: NDArray[np.int64] | None) -> Labelled:
    """The frames with enough known points; without `rows` all but those that are kept for testing.

    Raises:
        HandloomError: there is none, or their points are no hand's in millimetres.
    """
    assert real.frames is not None
    assert real.labels is not None
    found: list[NDArray[np.void]] = []
    few: dict[int, int] = {}
    wanted = None if rows is None else np.unique(np.asarray(rows, np.int64))
    for first, unit in real.labels.iter_units(["joints"]):
        count = np.isfinite(unit["joints"]).all(-1).sum(1)
        here = np.arange(first, first + len(count))
        subject, split = (real.frames.read(name, first, first + len(count)) for name in ("subject", "split"))
        asked = (split != SPLITS.index("test")) if wanted is None else np.isin(here, wanted)
        good = asked & (count >= MIN_POINTS)
        part = np.empty(int(good.sum()), CANDIDATE)
        part["row"], part["subject"] = here[good], subject[good]
        found.append(part)
        for who in subject[asked & (count > 0) & (count < MIN_POINTS)].tolist():
            few[who] = few.get(who, 0) + 1
    frames = np.concatenate(found) if found else np.empty(0, CANDIDATE)
    if not len(frames):
        raise HandloomError(
            "No frame of the recording is labelled",
            where=str(real.path),
            why=f"a frame needs {MIN_POINTS} known points and must not be of the test split",
            fix="bring labels: joints.csv in the plain folder before 'handloom capture import'",
        )
    some = frames["row"][np.linspace(0, len(frames) - 1, min(len(frames), PERSON_FRAMES)).astype(int)]
    refuse_other_units(real.labels.read_rows("joints", some.tolist()).astype(np.float64), where=str(real.path))
    return Labelled(frames, few)


def fit_people(hand: RiggedHand, real: Recording, layout: Layout, frames: NDArray[np.void]) -> dict[int, Person]:
    """Everyone's hand, by the subject's number, each from at most `PERSON_FRAMES` frames spread evenly."""
    assert real.labels is not None
    people = {}
    for who in np.unique(frames["subject"]).tolist():
        rows = frames["row"][frames["subject"] == who]
        if len(rows) > PERSON_FRAMES:
            rows = rows[np.linspace(0, len(rows) - 1, PERSON_FRAMES).astype(int)]
        targets = real.labels.read_rows("joints", rows.tolist()).astype(np.float64)
        people[int(who)] = Person.of(fit_subject(hand, targets, layout))
    return people


@dataclass(frozen=True, slots=True)
class FitWork:
    """Fits the frames of any chunk; goes to worker processes as it is."""

    real: Path
    folder: Path
    """Of `frames.npy` and of the chunks."""
    hand: str
    hand_mapping: Path | None
    people: dict[int, Person]

    def path(self, chunk: int) -> Path:
        """Where the fits of a chunk lie."""
        return self.folder / f"chunk-{chunk}.npy"

    def __call__(self, chunk: int) -> int:
        """Fit what is not there yet; gives the chunk's number."""
        if not self.path(chunk).exists():
            frames = np.load(self.folder / "frames.npy", mmap_mode="r")
            part = np.array(frames[chunk * CHUNK_FRAMES : (chunk + 1) * CHUNK_FRAMES])
            write_array(self.path(chunk), self._fitted(part))
        return chunk

    def _fitted(self, frames: NDArray[np.void]) -> NDArray[np.void]:
        real = open_recording(self.real)
        layout = real.layout
        assert real.labels is not None
        assert layout is not None
        base = hand_named(self.hand, side=real.hand, mapping=self.hand_mapping).hand
        out = np.zeros(len(frames), FITTED)
        out["row"], out["subject"] = frames["row"], frames["subject"]
        joints = real.labels.read_rows("joints", frames["row"].tolist()).astype(np.float64)
        for who in np.unique(frames["subject"]).tolist():
            person, mine = self.people[who], np.flatnonzero(frames["subject"] == who)
            fit = fit_pose(
                person.hand(base), joints[mine], layout, shape=np.array(person.shape),
                offset_mm=np.array(person.offset_mm),
            )  # fmt: skip
            out["pose"][mine], out["root"][mine] = fit.pose, fit.root
            out["error_mm"][mine], out["worst_mm"][mine] = fit.residual_mm, np.nanmax(fit.point_mm, axis=1)
        if real.crops is not None:
            for low in range(0, len(out), IMAGES_AT_ONCE):
                _turn_arms(base, real.crops, real.rig, out[low : low + IMAGES_AT_ONCE])
        return out


def _turn_arms(base: RiggedHand, crops: Table, rig: Rig, fits: NDArray[np.void]) -> None:
    """Let the forearms go where the real images show them, in place."""
    rows = fits["row"].tolist()
    wrist = wrist_from_depth(base, fits["root"], crops.read_rows("crop", rows), crops.read_rows("k", rows), rig)
    found = np.isfinite(wrist).all(1)
    fits["pose"][np.flatnonzero(found)[:, None], WRIST_DOFS] = wrist[found]


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write a .npy file that is there whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
