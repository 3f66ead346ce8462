"""Every image of an input through a model: poses in files (`pose_writers.py`), fused poses, pictures.

Each frame is read by itself, or the hand is tracked from frame to frame (`tracking.py`); joints may be smoothed over
time (`smoothing.py`) and written in the order of others. Memory does not grow with the input, but for the summary's 16
bytes a frame and the poses that an npz keeps.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import LAYOUTS, Layout, layout_named
from ..stores.pose_csv import FUSED
from .cuts import compile_for
from .inputs import DepthInput, DepthView, open_input, usable
from .pose_writers import PoseRow, PoseWriter, format_of, pose_file
from .predict import BATCH, PASSES, Model, Pose, converted_joints, estimates, shows_nothing
from .rig_pose import RigPose, rig_poses
from .smoothing import OneEuro
from .tracking import PERIOD_NS, Counts, Tracker

NOWHERE: Final = (0.0, 0.0, 0.0)
"""Stands in where no hand is known; no centre is usable there."""


@dataclass(frozen=True, slots=True)
class FramePose:
    """One instant of an input."""

    frame: int
    t_ns: int | None
    shown: Sequence[DepthView]
    """Its images."""
    pose: RigPose | None
    """None where no hand was found."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What `predict_to` wrote."""

    out: Path
    images: int
    poses: int
    missed: int
    """Images in which no hand was found: they have no rows."""
    fused: int
    """Frames with a fused pose."""
    disagreement_mm: float
    """Median over frames of the views' disagreement; NaN without fused poses."""
    confidence: float
    """Median over frames."""
    tracking: Counts | None
    pictures: int
    seconds: float


def predict_to(
    model: Model,
    source: DepthInput | Path,
    out: Path,
    *,
    camera: str | None = None,
    depth_unit_mm: float = 1.0,
    center_mm: tuple[float, float, float] | None = None,
    hand: str | None = None,
    fused: bool = False,
    track: bool = False,
    smooth: bool = False,
    joints: str | None = None,
    overlay: Path | None = None,
    pictures: int = 100,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict every image of an input and write its poses.

    Args:
        model: from `load`.
        source: a recording, plain folder or PNG, or an open input.
        out: .csv, .jsonl or .npz.
        camera: `fx,fy,cx,cy` of a PNG.
        depth_unit_mm: of a PNG.
        center_mm: where the hand is in a PNG, instead of looking for it.
        hand: 'right' or 'left'; what the input says if left out, else the model's.
        fused: add a pose in the rig's frame (camera `rig`) for each frame seen by a camera.
        track: follow the hand from frame to frame instead of looking for it in each.
        smooth: smooth each camera's joints and the fused ones over time.
        joints: layout to write; the model's if left out.
        overlay: folder for pictures of the poses over the depth.
        pictures: at most so many, evenly spread.
        overwrite: replace `out` and pictures.
        progress: called with images done and in all.

    Raises:
        HandloomError: the input cannot be read, the output exists, or no image of it shows a hand.
    """
    start = time.monotonic()
    format_of(out)
    written = _Written(model, joints, smooth=smooth, fused=fused)
    given = source if isinstance(source, DepthInput) else open_input(
        source, camera=camera, depth_unit_mm=depth_unit_mm, center_mm=center_mm, locate=not track
    )  # fmt: skip
    _prepare(out, overlay, overwrite=overwrite)
    every = max(1, -(-(given.images or 0) // max(1, pictures)))
    tracker = Tracker(model, given.rig, hand=hand or given.hand) if track else None
    frames = tracked(tracker, given) if tracker else located(model, given, hand=hand)
    images = poses = drawn = 0
    # 8 bytes a frame is all that grows: 7 MB in a day at 10 frames a second.
    apart, sure = array("d"), array("d")
    with pose_file(out, written.layout) as writer:
        for one in frames:
            images += len(one.shown)
            if one.pose is not None:
                written(writer, one)
                sure.append(one.pose.confidence)
                apart.extend([one.pose.disagreement_mm] * fused)
                for view in one.shown:
                    pose = one.pose.views.get(view.view)
                    if pose is None:
                        continue
                    poses += 1
                    if overlay is not None and poses % every == 1 % every:
                        _draw(overlay, model, view, pose)
                        drawn += 1
            if progress:
                progress(images, given.images or 0)
        if not poses:
            raise HandloomError(
                "No hand was found",
                where=str(source) if isinstance(source, Path) else "",
                why=f"in none of {images} images",
                fix="check --depth-unit-mm and --camera; --center x,y,z says where the hand is",
            )
    return Predicted(
        out=out,
        images=images,
        poses=poses,
        missed=images - poses,
        fused=len(apart),
        disagreement_mm=median(apart) if apart else float("nan"),
        confidence=median(sure),
        tracking=tracker.counts if tracker else None,
        pictures=drawn,
        seconds=time.monotonic() - start,
    )


def stream(
    tracker: Tracker,
    source: DepthInput,
    write: PoseWriter,
    *,
    smooth: bool = False,
    joints: str | None = None,
    fused: bool = False,
    frames: int | None = None,
) -> None:
    """Track the hand in an input that goes on, and write its poses as they come.

    Args:
        tracker: follows the hand; counts what it went through.
        source: the images.
        write: takes poses of `layout_written(model, joints)`.
        smooth: smooth the joints over time.
        joints: layout to write; the model's if left out.
        fused: write the poses of all cameras together, too; a rig of several has them anyhow.
        frames: stop after so many.
    """
    together = fused or len(source.rig) > 1
    written = _Written(tracker.model, joints, smooth=smooth, fused=together, views=not together or fused)
    for count, one in enumerate(tracked(tracker, source), start=1):
        if one.pose is not None:
            written(write, one)
        if count == frames:
            break


def layout_written(model: Model, joints: str | None) -> Layout:
    """The layout of the joints that are written: one by name, else the model's.

    Raises:
        HandloomError: there is none of that name, or the model's joints do not convert to it.
    """
    whole = {name.rstrip("0123456789"): name for name in LAYOUTS if not name.startswith("nyu")}
    layout = layout_named(whole.get(joints, joints)) if joints else model.layout
    converted_joints(np.zeros((len(model.layout), 3)), model.layout, layout)
    return layout


def located(model: Model, source: DepthInput, *, hand: str | None = None) -> Iterator[FramePose]:
    """Each frame by itself, around the centres that its images say."""
    mirrored = (hand or source.hand or model.hand) != model.hand
    compile_for(source.images and source.images * PASSES)
    for views in _batches(source.views):
        centers = np.array([NOWHERE if v.center_mm is None else v.center_mm for v in views], np.float64)
        there = usable(centers)
        there &= [not (ok and shows_nothing(model, view)) for ok, view in zip(there, views, strict=True)]
        frames = list(_frames(iter(views)))
        seen = iter(there.tolist())
        mine = [[view for view in shown if next(seen)] for shown in frames]
        found = [views[i] for i in np.flatnonzero(there)]
        read = estimates(model, found, centers[there], mirrored=mirrored)
        poses = iter(rig_poses(model, [some for some in mine if some], read))
        for shown, some in zip(frames, mine, strict=True):
            yield FramePose(shown[0].frame, _when(shown), shown, next(poses) if some else None)


def tracked(tracker: Tracker, source: DepthInput) -> Iterator[FramePose]:
    """Frame after frame, the last pose giving the next crop."""
    for shown in _frames(source.views):
        t_ns = _when(shown)
        yield FramePose(shown[0].frame, t_ns, shown, tracker.follow(shown, t_ns))


class _Written:
    """From an instant's pose to rows: smoothed, converted, by camera and together."""

    def __init__(self, model: Model, joints: str | None, *, smooth: bool, fused: bool, views: bool = True) -> None:
        self._source = model.layout
        self.layout = layout_written(model, joints)
        self._blend = self.layout.matrix() if self.layout != model.layout else np.eye(len(model.layout))
        self._filters: dict[str, OneEuro] | None = {} if smooth else None
        self._fused, self._views = fused, views
        self._t_ns = 0

    def __call__(self, write: PoseWriter, one: FramePose) -> None:
        """Write the rows of a frame."""
        pose = one.pose
        assert pose is not None
        self._t_ns = one.t_ns if one.t_ns is not None else self._t_ns + PERIOD_NS
        for view in one.shown if self._views else ():
            mine = pose.views.get(view.view)
            if mine is not None:
                joints = self._joints(view.camera.name, mine.joints_mm)
                write(
                    PoseRow(
                        one.frame, view.camera.name, one.t_ns, joints, mine.confidence, None,
                        mine.center_score, mine.center_source,
                    )
                )  # fmt: skip
        if self._fused:
            joints = self._joints(FUSED, pose.joints_mm)
            apart = self._blend @ pose.joint_disagreement_mm
            write(PoseRow(one.frame, FUSED, one.t_ns, joints, pose.confidence, apart, pose.score, pose.source))

    def _joints(self, camera: str, joints_mm: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._filters is not None:
            joints_mm = self._filters.setdefault(camera, OneEuro())(joints_mm, self._t_ns).astype(np.float32)
        return converted_joints(joints_mm, self._source, self.layout)


def _prepare(out: Path, overlay: Path | None, *, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise HandloomError("The output exists already", where=str(out), fix="--overwrite replaces it")
    if overlay is not None:
        if overlay.exists() and not overlay.is_dir():
            raise HandloomError("--overlay takes a folder", where=str(overlay))
        if overlay.is_dir() and any(overlay.glob("*.png")) and not overwrite:
            raise HandloomError("The folder has pictures already", where=str(overlay), fix="--overwrite adds to it")
        overlay.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)


def _frames(views: Iterator[DepthView]) -> Iterator[list[DepthView]]:
    """The images of one frame after the other."""
    frame: list[DepthView] = []
    for view in views:
        if frame and view.frame != frame[-1].frame:
            yield frame
            frame = []
        frame.append(view)
    if frame:
        yield frame


def _batches(views: Iterator[DepthView]) -> Iterator[list[DepthView]]:
    """Whole frames, together at least a network's batch."""
    batch: list[DepthView] = []
    for frame in _frames(views):
        batch += frame
        if len(batch) >= BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _when(shown: Sequence[DepthView]) -> int | None:
    """One time for the images of an instant: the earliest arrival."""
    return min((view.t_ns for view in shown if view.t_ns is not None), default=None)


def _draw(folder: Path, model: Model, view: DepthView, pose: Pose) -> None:
    import cv2

    from .overlay import draw_overlay

    picture = draw_overlay(
        view.depth * np.float32(view.unit_mm),
        view.k,
        pose.joints_mm,
        pose.center_mm,
        model.layout,
        window_mm=model.cube_mm,
        note=f"{view.camera.name}  frame {view.frame}  hand {pose.center_source} ({pose.center_score:.2f})",
        whole=view.whole,
    )
    path = folder / f"{view.camera.name}_{view.frame:06d}.png"
    if not cv2.imwrite(str(path), picture):
        raise HandloomError("A picture could not be written", where=str(path))
