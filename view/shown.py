"""What there is to see of a recording, frame by frame: images with their own K, hand, skeletons, times.

Images are read a few frames at a time, so memory does not grow with the recording; the poses of the frames shown are
held (12 bytes a joint).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera
from ..stores.crops import resample
from ..stores.errors import HandloomError
from ..stores.joints import Layout, converted
from ..stores.pose_csv import FUSED, Poses, read_poses
from ..stores.recording import CENTER_SOURCES, Recording, open_recording
from ..stores.table import Table

READ_BYTES: Final = 32 << 20
"""Depth that is read at a time."""


@dataclass(frozen=True, slots=True)
class View:
    """What one camera saw, and where its hand is."""

    camera: Camera
    depth: NDArray[np.uint16]
    """(H, W) in the camera's unit, 0 = no return."""
    k: NDArray[np.float64]
    """(4,) of `depth`: the camera's, or the crop's."""
    center_mm: NDArray[np.float64] | None
    """(3,) in the camera; None where no hand is known."""
    center_source: str
    """'none', 'truth', 'located' or 'given'."""
    center_score: float

    def reduced(self, most_px: int) -> View:
        """The same image with at most so many pixels a side, the nearest of each; `k` follows."""
        height, width = self.depth.shape
        scale = most_px / max(height, width)
        if scale >= 1:
            return self
        k = self.k * scale
        # Pixel centres are integers, so an image begins half a pixel before its first one.
        k[2:] = (self.k[2:] + 0.5) * scale - 0.5
        depth = resample(self.depth, self.k, k, width=round(width * scale), height=round(height * scale))
        return View(self.camera, depth, k, self.center_mm, self.center_source, self.center_score)


@dataclass(frozen=True, slots=True)
class Moment:
    """One frame: a row of the recording."""

    row: int
    frame_id: int
    time_s: float | None
    """Since the first frame that was asked for, on the host's clock, or the devices' where that is unknown."""
    views: tuple[View | None, ...]
    """By camera; None where the image was dropped or, of crops, no hand is known."""
    dropped: tuple[bool, ...]
    """By camera, whether the camera gave no image."""
    truth_mm: NDArray[np.float32] | None
    """(J, 3) in the rig, NaN where unknown; None in a frame without labels."""
    predicted_mm: Mapping[str, NDArray[np.float32]]
    """By camera, or `rig`: (J', 3) in the rig."""


@dataclass(frozen=True, slots=True)
class Showing:
    """A recording, the rows of it that are to be shown, and how."""

    recording: Recording
    rows: NDArray[np.int64]
    asked: int
    """Rows of which these were chosen."""
    whole: bool
    """Whether whole images are shown; else crops."""
    poses: Poses | None
    clock: str | None
    """The column that says when: `t_host_ns`, or `t_device_ns`; None where no time is known."""
    origin_ns: int
    """The earliest time of the rows on this clock."""

    @property
    def truth_layout(self) -> Layout | None:
        """Of the labels."""
        return self.recording.layout

    @property
    def comparable(self) -> bool:
        """Whether predictions can be measured against the labels: equal layouts, or the canonical joints' blend."""
        truth, poses = self.truth_layout, self.poses
        return truth is not None and poses is not None and poses.layout.name in (truth.name, "openxr26")

    @property
    def window_mm(self) -> float | None:
        """Side of the cube that a crop shows; None without crops."""
        crops = self.recording.crops
        return float(crops.attributes["window_mm"]) if crops else None

    def errors_mm(
        self, truth_mm: NDArray[np.float32] | None, predicted_mm: Mapping[str, NDArray[np.float32]]
    ) -> dict[str, float]:
        """Mean distance of predicted from true joints (J, 3) mm, by camera or `rig`; only where both are known."""
        layout, poses = self.truth_layout, self.poses
        if truth_mm is None or layout is None or poses is None or not self.comparable:
            return {}
        out = {}
        for name, joints in predicted_mm.items():
            away = np.linalg.norm(converted(joints, poses.layout, layout) - truth_mm, axis=-1)
            if np.isfinite(away).any():
                out[name] = float(np.nanmean(away))
        return out


def showing(
    path: Path,
    *,
    poses: Path | None = None,
    frames: str | None = None,
    every: int = 1,
    whole: bool | None = None,
) -> Showing:
    """What to show of a recording.

    Args:
        path: the recording.
        poses: a poses.csv.
        frames: rows `A:B`, B - 1 the last; all where left out.
        every: take each `every`-th of these.
        whole: whole images, or crops; whole where the recording keeps them when left out.

    Raises:
        HandloomError: the recording or the poses cannot be read, there is no such frame, the images asked for were
            not kept, or no pose belongs to a frame of the recording.
    """
    recording = open_recording(path)
    assert recording.frames is not None
    if not recording.n_frames:
        raise HandloomError("The recording has no frames yet", where=str(path))
    rows = _rows(frames, recording.n_frames)
    located = recording.crops.committed if recording.crops else 0
    if whole and not recording.has_depth:
        raise HandloomError("The recording keeps no whole images", where=str(path), fix="leave --full out")
    if whole is False and not located:
        raise HandloomError(
            "The recording has no crops yet",
            where=str(path),
            fix=f"handloom capture locate {path}",
        )
    whole = recording.has_depth if whole is None else whole
    if not whole and rows.start >= located:
        raise HandloomError(
            "No hand has been looked for in these frames", where=str(path), why=f"only the first {located} have crops"
        )
    chosen = np.array(rows[::every], np.int64)
    found = None
    if poses is not None:
        ids = recording.frames.read_rows("frame_id", chosen.tolist())
        found = read_poses(poses, recording.rig, ids.tolist(), like=recording.layout)
        if not found.joints_mm:
            raise HandloomError(
                "None of these poses belongs to a frame that is shown",
                where=str(poses),
                why=f"their frames are others than the {len(chosen)} of {path}",
                fix=f"handloom predict MODEL {path} --out poses.csv",
            )
    return Showing(recording, chosen, len(rows), whole, found, *_clock(recording, chosen))


def moments(shown: Showing, rows: Sequence[int] | None = None) -> Iterator[Moment]:
    """The frames to show, in their order, read a few at a time.

    Args:
        shown: from `showing`.
        rows: these rows instead of all chosen ones.

    Raises:
        HandloomError: a row is damaged.
    """
    wanted = shown.rows.tolist() if rows is None else list(rows)
    recording = shown.recording
    if shown.whole:
        size = sum(camera.width * camera.height for camera in recording.rig.cameras) * 2
    else:
        assert recording.crops is not None
        size = int(np.prod(recording.crops.columns["crop"].shape)) * 2
    step = max(1, READ_BYTES // size)
    for start in range(0, len(wanted), step):
        yield from _read(shown, wanted[start : start + step])


def _read(shown: Showing, rows: list[int]) -> Iterator[Moment]:
    recording, frames, crops, labels = (
        shown.recording, shown.recording.frames, shown.recording.crops, shown.recording.labels,
    )  # fmt: skip
    assert frames is not None
    cameras = recording.rig.cameras
    located = [row for row in rows if crops and row < crops.committed]
    place = {row: i for i, row in enumerate(located)}
    present, frame_id = frames.read_rows("present", rows), frames.read_rows("frame_id", rows)
    times = _times_ns(frames, shown.clock, rows) if shown.clock else np.full(len(rows), -1)
    images = [frames.read_rows(f"depth/{camera.name}", rows) for camera in cameras] if shown.whole else []
    names = ("center", "center_source", "center_score", *(() if shown.whole else ("crop", "k")))
    hand = {name: crops.read_rows(name, located) for name in names} if crops and located else {}
    labelled = [row for row in rows if labels and row < labels.committed]
    joints = dict(zip(labelled, labels.read_rows("joints", labelled), strict=True)) if labels else {}
    for i, row in enumerate(rows):
        at = place.get(row)
        views: list[View | None] = []
        for v, camera in enumerate(cameras):
            source = CENTER_SOURCES[int(hand["center_source"][at, v])] if at is not None else "none"
            known = source != "none" and at is not None
            center = hand["center"][at, v].astype(np.float64) if known else None
            score = float(hand["center_score"][at, v]) if known else 0.0
            if not present[i, v] or not (shown.whole or known):
                views.append(None)
                continue
            depth = images[v][i] if shown.whole else hand["crop"][at, v]
            k = np.asarray(camera.k if shown.whole else hand["k"][at, v], np.float64)
            views.append(View(camera, depth, k, center, source, score))
        truth = joints.get(row)
        truth = truth if truth is not None and np.isfinite(truth).any() else None
        number = int(frame_id[i])
        time_s = None if times[i] < 0 else (int(times[i]) - shown.origin_ns) / 1e9
        predicted = shown.poses.joints_mm.get(number, {}) if shown.poses else {}
        dropped = tuple(not seen for seen in present[i])
        yield Moment(row, number, time_s, tuple(views), dropped, truth, predicted)


def all_errors_mm(shown: Showing, rows: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """(n,) by camera or `rig`: `errors_mm` of these rows without reading an image; NaN where something is unknown."""
    recording, poses, labels = shown.recording, shown.poses, shown.recording.labels
    if poses is None or labels is None or not shown.comparable:
        return {}
    assert recording.frames is not None
    out = {name: np.full(len(rows), np.nan) for name in poses.cameras}
    known = [(i, row) for i, row in enumerate(rows) if row < labels.committed]
    joints = labels.read_rows("joints", [row for _, row in known])
    ids = recording.frames.read_rows("frame_id", [row for _, row in known]).tolist()
    for (i, _), frame, truth in zip(known, ids, joints, strict=True):
        for name, error in shown.errors_mm(truth, poses.joints_mm.get(frame, {})).items():
            out[name][i] = error
    return {name: errors for name, errors in out.items() if np.isfinite(errors).any()}


def _times_ns(frames: Table, clock: str, rows: Sequence[int]) -> NDArray[np.int64]:
    """(n,) the earliest image of each frame; -1 where no image has a time."""
    never = np.iinfo(np.int64).max
    times = frames.read_rows(clock, rows)
    earliest = np.where(times < 0, never, times).min(axis=1)
    return np.where(earliest < never, earliest, -1)


def _clock(recording: Recording, rows: NDArray[np.int64]) -> tuple[str | None, int]:
    """The clock to show and its earliest time: the host's where it is known, none where all times are the same."""
    assert recording.frames is not None
    for name in ("t_host_ns", "t_device_ns"):
        times = _times_ns(recording.frames, name, rows.tolist())
        known = times[times >= 0]
        if len(known) and (len(rows) == 1 or np.ptp(known)):
            return name, int(known.min())
    return None, 0


def _rows(frames: str | None, count: int) -> range:
    if frames is None:
        return range(count)
    first, colon, last = frames.partition(":")
    if not colon or not (first + last).isdecimal():
        raise HandloomError("--frames takes rows A:B", where=frames, fix="--frames 0:100 shows the first hundred")
    rows = range(min(int(first or 0), count), min(int(last or count), count))
    if not rows:
        raise HandloomError("There is no such frame", where=f"--frames {frames}", why=f"the recording has {count}")
    return rows


def who(name: str) -> str:
    """How a pose's origin is called on the screen."""
    return "fused" if name == FUSED else name
