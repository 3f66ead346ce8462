"""Every image of an input through a model: poses.csv, fused poses, pictures.

poses.csv has a row a joint, `frame,camera,joint,x_mm,y_mm,z_mm`, in the camera's frame; the pose of all
cameras together has `camera = rig` and lies in the rig's frame. Memory does not grow with the input.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import Layout
from ..stores.pose_csv import CSV_COLUMNS, FUSED
from .fusion import Fused, fuse
from .inputs import DepthInput, DepthView, open_input, usable
from .predict import BATCH, Estimates, Model, estimates


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
    overlay: Path | None = None,
    pictures: int = 100,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict every image of an input and write poses.csv: `frame,camera,joint,x_mm,y_mm,z_mm`.

    Args:
        model: from `load`.
        source: a recording, plain folder or PNG, or an open input (a live one, say).
        out: the CSV to write.
        camera: `fx,fy,cx,cy` of a PNG.
        depth_unit_mm: of a PNG.
        center_mm: where the hand is in a PNG, instead of looking for it.
        hand: 'right' or 'left'; what the input says if left out, else the model's.
        fused: add a pose in the rig's frame (camera `rig`) for each frame seen by a camera.
        overlay: folder for pictures of the poses over the depth.
        pictures: at most so many, evenly spread.
        overwrite: replace `out` and pictures.
        progress: called with images done and in all.

    Raises:
        HandloomError: the input cannot be read, the output exists, or no image of it shows a hand.
    """
    start = time.monotonic()
    given = source if isinstance(source, DepthInput) else open_input(
        source, camera=camera, depth_unit_mm=depth_unit_mm, center_mm=center_mm
    )  # fmt: skip
    _prepare(out, overlay, overwrite=overwrite)
    mirrored = (hand or given.hand or model.hand) != model.hand
    every = max(1, -(-given.images // max(1, pictures)))
    writing = out.with_name(out.name + ".writing")
    done = poses = drawn = 0
    disagreements: list[float] = []
    try:
        with writing.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(CSV_COLUMNS)
            for views in _batches(given.views):
                found = [v for v in views if v.center_mm is not None and usable(v.center_mm)]
                centers = np.array([v.center_mm for v in found], np.float64).reshape(-1, 3)
                read = estimates(model, found, centers, mirrored=mirrored)
                for view, pose in zip(found, read.joints_mm, strict=True):
                    writer.writerows(_rows(view.frame, view.camera.name, model.layout, pose))
                if fused:
                    for frame, one in _fused(model, found, read):
                        writer.writerows(_rows(frame, FUSED, model.layout, one.joints_mm))
                        disagreements.append(one.disagreement_mm)
                if overlay is not None:
                    for view, pose, center in zip(found, read.joints_mm, read.center_mm, strict=True):
                        if (poses := poses + 1) % every == 1 % every:
                            _draw(overlay, model, view, pose, center)
                            drawn += 1
                else:
                    poses += len(found)
                done += len(views)
                if progress:
                    progress(done, given.images)
        if not poses:
            raise HandloomError(
                "No hand was found",
                where=str(source) if isinstance(source, Path) else "",
                why=f"in none of {done} images",
                fix="check --depth-unit-mm and --camera; --center x,y,z says where the hand is",
            )
        writing.replace(out)
    finally:
        writing.unlink(missing_ok=True)
    spread = float(np.median(disagreements)) if disagreements else float("nan")
    return Predicted(out, done, poses, done - poses, len(disagreements), spread, drawn, time.monotonic() - start)


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


def _batches(views: Iterator[DepthView]) -> Iterator[list[DepthView]]:
    """Whole frames, together at least a network's batch."""
    batch: list[DepthView] = []
    for view in views:
        if len(batch) >= BATCH and view.frame != batch[-1].frame:
            yield batch
            batch = []
        batch.append(view)
    if batch:
        yield batch


def _fused(model: Model, views: Sequence[DepthView], read: Estimates) -> Iterator[tuple[int, Fused]]:
    frames = np.array([view.frame for view in views])
    confidence = model.confidence.view(read.spread_mm)
    for frame in dict.fromkeys(frames.tolist()):
        shown = np.flatnonzero(frames == frame).tolist()
        rig = np.stack([views[i].camera.to_rig(read.joints_mm[i]) for i in shown])
        yield frame, fuse(rig, confidence[shown])


def _rows(frame: int, camera: str, layout: Layout, joints_mm: NDArray[Any]) -> Iterator[tuple[object, ...]]:
    for name, (x, y, z) in zip(layout.points, joints_mm.tolist(), strict=True):
        yield frame, camera, name, f"{x:.3f}", f"{y:.3f}", f"{z:.3f}"


def _draw(
    folder: Path,
    model: Model,
    view: DepthView,
    joints_mm: NDArray[np.float32],
    center_mm: NDArray[np.float32],
) -> None:
    import cv2

    from .overlay import draw_overlay

    picture = draw_overlay(
        view.depth * np.float32(view.unit_mm),
        view.k,
        joints_mm,
        center_mm,
        model.layout,
        window_mm=model.cube_mm,
        note=f"{view.camera.name}  frame {view.frame}  hand {view.center_source} ({view.center_score:.2f})",
        whole=view.whole,
    )
    path = folder / f"{view.camera.name}_{view.frame:06d}.png"
    if not cv2.imwrite(str(path), picture):
        raise HandloomError("A picture could not be written", where=str(path))
