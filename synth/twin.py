"""Synthetic twins: the hand of every labelled real frame, fitted and rendered clean by the real cameras.

MURAUER's consistency loss compares the features of a real frame with those of a synthetic one that shows the
same pose. The person's proportions, skeleton and the layout's offsets are fitted over all frames of a
subject (`synth/subject.py`), then each frame's pose; frames that fit badly are left out and counted.

Cost: about 20 ms a frame for the fit, 0.6 ms a view for the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26, Layout
from ..stores.recording import SPLITS, Recording, create_recording, open_recording
from ..stores.table import Appender
from . import sensor as sensors
from .anatomy import builtin_hand
from .fit import fit_pose
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_NAMES, SHAPE_SIZE, RiggedHand, mirror, pose_hand
from .provenance import provenance_of
from .render import RendererName, open_renderer
from .subject import Subject, fit_subject
from .units import frame_rows
from .views import Studio, blank, crop_rows, shoot

F64 = NDArray[np.float64]
Progress = Callable[[int, int], None]

MIN_POINTS: Final = 6
"""A frame with fewer known points does not determine a hand."""
CHUNK_FRAMES: Final = 32


@dataclass(frozen=True, slots=True)
class Fitted:
    """One subject's frames: rows (n,) of the real recording, poses, roots, and errors (n,) mm."""

    person: Subject
    rows: NDArray[np.int64]
    pose: F64
    root: F64
    error_mm: F64


def make_twins(
    real: Path,
    out: Path,
    *,
    seed: int,
    sensor: sensors.Sensor | None = None,
    max_fit_error_mm: float = 8.0,
    rows: NDArray[np.int64] | None = None,
    renderer: RendererName = "raster",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Make the recording of twins; its labels' `twin` is the `frame_id` in the real one.

    Args:
        real: a recording with labels, in whatever layout.
        out: where.
        seed: of the sensor's noise.
        sensor: to imitate; None renders clean depth, which is what the loss wants.
        max_fit_error_mm: a frame whose known points stay farther off than this in the mean is left out.
        rows: of the real recording; default all labelled ones that are not kept for testing.
        renderer: what draws.
        overwrite: replace a recording that is there.
        progress: is told frames done and in all.

    Returns:
        the recording; `attributes["twins"]` counts what was made and what was left out, and
        `attributes["fit_error_mm"]` lists the errors by row.

    Raises:
        HandloomError: nothing is labelled, or no frame fits.
    """
    source = open_recording(real)
    layout = source.layout
    if source.labels is None or source.frames is None or layout is None:
        raise HandloomError(
            "The recording has no labels", where=str(real), why="a twin shows the pose of a labelled frame"
        )
    joints = source.labels.read("joints")
    frame_id, subject, split = (source.frames.read(name) for name in ("frame_id", "subject", "split"))
    chosen = _labelled(joints, split, rows, where=real)
    hand = builtin_hand() if source.hand == "right" else mirror(builtin_hand())
    # Fitting comes first and takes longest: it counts as half of the work.
    total = 2 * len(chosen)
    fits, bad, done = [], 0, 0
    for who in np.unique(subject[chosen]):
        mine = chosen[subject[chosen] == who]
        fit = _fit(hand, joints, mine, layout)
        good = fit.error_mm <= max_fit_error_mm
        bad += int((~good).sum())
        fits.append(Fitted(fit.person, fit.rows[good], fit.pose[good], fit.root[good], fit.error_mm[good]))
        done += len(mine)
        if progress is not None:
            progress(done, total)
    errors = np.concatenate([fit.error_mm for fit in fits])
    if not len(errors):
        raise HandloomError(
            "No labelled frame could be fitted",
            where=str(real),
            why=f"all {bad} stay farther off than {max_fit_error_mm} mm",
            fix="check the labels' layout and the recording's hand, or raise --max-fit-error-mm",
        )
    counts = {"made": len(errors), "left_out": bad, "max_fit_error_mm": max_fit_error_mm}
    recording = create_recording(
        out,
        kind="synthetic",
        rig=source.rig,
        hand=source.hand,
        provenance={
            **provenance_of(renderer),
            "command": "synth twin",
            "real": str(real),
            "seed": seed,
            "sensor": None if sensor is None else sensors.describe(sensor),
            "hand": hand.name,
            "fit": {**counts, "median_error_mm": round(float(np.median(errors)), 3)},
        },
        attributes={
            "twins_of": source.uuid,
            "twins": counts,
            "fit_error_mm": [round(float(error), 2) for error in errors],
        },
        overwrite=overwrite,
    )
    geometry = source.crops.attributes if source.crops else {}
    crops = recording.create_crops(
        parts=True,
        crop_px=int(geometry.get("crop_px", 192)),
        window_mm=float(geometry.get("window_mm", 450.0)),
    )
    labels = recording.create_labels(
        layout="openxr26", pose_size=POSE_SIZE, shape_size=SHAPE_SIZE, root_size=ROOT_SIZE, twin=True,
        attributes={"joint_names": list(OPENXR26), "shape_names": list(SHAPE_NAMES)},
    )  # fmt: skip
    frames = recording.create_frames(depth=False)
    made = 0
    with Appender(crops) as to_crops, Appender(labels) as to_labels, Appender(frames) as to_frames:
        for fit in fits:
            studio = Studio(
                fit.person.hand, source.rig, open_renderer(renderer), sensor, seed,
                int(crops.attributes["crop_px"]), float(crops.attributes["window_mm"]),
            )  # fmt: skip
            for low in range(0, len(fit.rows), CHUNK_FRAMES):
                part = slice(low, low + CHUNK_FRAMES)
                crop_rows, label_rows = _pictures(studio, fit, part, made)
                mine = fit.rows[part]
                label_rows["twin"] = frame_id[mine]
                here = frame_rows(np.arange(made, made + len(mine)), subject[mine], len(source.rig))
                here["split"] = split[mine]
                to_crops.append(crop_rows)
                to_labels.append(label_rows)
                to_frames.append(here)
                made += len(mine)
                if progress is not None:
                    progress(len(chosen) + made + (bad if made == len(errors) else 0), total)
    return open_recording(out)


def _labelled(
    joints: NDArray[np.float32], split: NDArray[np.uint8], rows: NDArray[np.int64] | None, *, where: Path
) -> NDArray[np.int64]:
    """Rows that have enough points; without `rows`, none of the test split."""
    enough = np.isfinite(joints).all(-1).sum(1) >= MIN_POINTS
    if rows is None:
        chosen = np.flatnonzero(enough & (split != SPLITS.index("test")))
    else:
        chosen = np.asarray(rows, np.int64)[enough[np.asarray(rows, np.int64)]]
    if not len(chosen):
        raise HandloomError(
            "No frame of the recording is labelled",
            where=str(where),
            why=f"a frame needs {MIN_POINTS} known points and must not be of the test split",
            fix="bring labels: joints.csv in the plain folder before 'handloom capture import'",
        )
    return chosen


def _fit(hand: RiggedHand, joints: NDArray[np.float32], rows: NDArray[np.int64], layout: Layout) -> Fitted:
    """Person and poses of one subject's frames."""
    targets = joints[rows].astype(np.float64)
    person = fit_subject(hand, targets, layout)
    fit = fit_pose(person.hand, targets, layout, shape=person.shape, offset_mm=person.offset_mm)
    return Fitted(person, rows, fit.pose, fit.root, fit.residual_mm)


def _pictures(
    studio: Studio, fit: Fitted, part: slice, first: int
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Rows of `crops/` and `labels/` of some frames, but for `twin`."""
    pose, root = fit.pose[part], fit.root[part]
    shape = np.tile(fit.person.shape, (len(pose), 1))
    posed = pose_hand(studio.hand, pose, root, shape)
    shots = blank(studio, len(pose))
    for i, (vertices, joints) in enumerate(zip(posed.vertices, posed.joints, strict=True)):
        shoot(studio, vertices, joints, frame=first + i, into=shots, row=i)
    labels: dict[str, NDArray[Any]] = {"joints": posed.joints, "visible": shots.visible}
    labels |= {"pose": pose, "root": root, "shape": shape}
    return crop_rows(shots, parts=True), labels
