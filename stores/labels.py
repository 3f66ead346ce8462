"""Labels that arrive later: joints.csv, made by hand on the page of `handloom label` or by anything else.

What can only be a mistake is refused: joints or frames that are not there, metres, another layout. What looks wrong
in a frame is taken in and said, because people decide: joints before the surface or far behind it, or where no image
shows anything, bones of another length than the person's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import project
from .diverse import labelled_rows
from .errors import HandloomError
from .findings import Finding
from .folder import read_joints
from .joints import Layout, layout_named
from .recording import SPLITS, Recording, open_recording
from .verify_content import SPREAD_MM

BEFORE_MM: Final = 10.0
"""A joint lies in the flesh: this far before the nearest surface around its pixel it floats in the air."""
BEHIND_MM: Final = 80.0
"""This far behind the surface in every image that shows it, it is not the hand that it lies in."""
AROUND_MM: Final = 6.0
"""Half a finger: the surface is looked for within this of the joint's pixel."""
BONE_SHARE: Final = 0.3
BONE_MM: Final = 8.0
"""A bone is of another length when it is off the person's median by this share and this much."""
FEW_FRAMES: Final = 5
"""With fewer labelled frames of a person the median says nothing."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What `take_labels` did."""

    frames: int
    """Frames that the file labels."""
    joints: int
    unknown: int
    """Joints of these frames that the file leaves out."""
    kept: int
    """Frames that were labelled before and still are as they were."""
    training: int
    """Labelled frames of the split 'train' with an image, old and new."""
    layout: str
    findings: tuple[Finding, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        said = [
            {"severity": f.severity, "code": f.code, "where": f.where, "what": f.what, "rows": list(f.rows)}
            for f in self.findings
        ]
        names = ("frames", "joints", "unknown", "kept", "training", "layout")
        return {name: getattr(self, name) for name in names} | {"findings": said}


def take_labels(
    path: Path, joints_csv: Path, *, layout: str | None = None, overwrite: bool = False, merge: bool = False
) -> Taken:
    """Give a recording the labels of a joints.csv (`frame,joint,x_mm,y_mm,z_mm`; `frame` is the frame_id).

    Args:
        path: the recording.
        joints_csv: joints in the rig's frame; joints left out are unknown.
        layout: of the joints' names; None: that of the labels that are there, else openxr26.
        overwrite: replace labels that are there; frames that the file does not name lose theirs.
        merge: keep the labels of frames that the file does not name.

    Raises:
        HandloomError: the file is not for this recording, is not in millimetres, or labels are there already.
    """
    recording = open_recording(path)
    before = recording.labels
    had = labelled_rows(recording)
    known = layout_named(layout or (recording.layout.name if recording.layout and len(had) else "openxr26"))
    _check_replaceable(recording, known, had, overwrite=overwrite, merge=merge)
    given = read_joints(joints_csv, points=known.points)
    rows = _rows_of(recording, given, joints_csv)
    new = np.stack([given[frame] for frame in given]) if given else np.zeros((0, len(known), 3), np.float32)
    _check_unit(new, joints_csv)

    joints = np.full((recording.n_frames, len(known), 3), np.nan, np.float32)
    visible = np.zeros((recording.n_frames, recording.n_views, len(known)), np.uint8)
    attributes: dict[str, Any] = {}
    if merge and before is not None and len(had):
        joints[: before.committed], visible[: before.committed] = before.read("joints"), before.read("visible")
        attributes = dict(before.attributes)
    joints[rows] = new
    whole: NDArray[np.bool_] = np.asarray(np.isfinite(new).all(2))
    visible[rows] = whole[:, None]
    file = {
        "name": joints_csv.name,
        "sha256": hashlib.sha256(joints_csv.read_bytes()).hexdigest(),
        "frames": len(rows),
    }
    attributes["files"] = [*attributes.get("files", []), file]
    findings = (*_places(recording, known, joints, rows), *_bones(recording, known, joints, rows))
    recording.replace_labels(joints, layout=known.name, visible=visible, attributes=attributes)
    frames = recording.frames
    assert frames is not None
    now = labelled_rows(recording)
    present: NDArray[np.bool_] = np.asarray((frames.read("present") > 0).any(1))
    usable = present & np.asarray(frames.read("split") == SPLITS.index("train"))
    count = int(whole.sum())
    return Taken(
        frames=len(rows),
        joints=count,
        unknown=len(rows) * len(known) - count,
        kept=len(np.setdiff1d(now, rows)),
        training=int(usable[now].sum()),
        layout=known.name,
        findings=findings,
    )


def _check_replaceable(
    recording: Recording, layout: Layout, had: NDArray[np.int64], *, overwrite: bool, merge: bool
) -> None:
    labels, where = recording.labels, str(recording.path)
    if labels is None:
        return
    if "twin" in labels.columns:
        raise HandloomError(
            "The labels of synthetic twins say whose twins they are, and cannot be replaced", where=where
        )
    if not len(had):
        return
    if not (overwrite or merge):
        raise HandloomError(
            f"{len(had)} frames of the recording are labelled already",
            where=where,
            fix="--merge keeps the labels of other frames, --overwrite drops all that are there",
        )
    if merge and recording.layout is not None and recording.layout != layout:
        raise HandloomError(
            f"Labels of {layout.name} do not go beside those of {recording.layout.name}",
            where=where,
            fix=f"--layout {recording.layout.name} if the file is of that layout, or --overwrite",
        )
    if merge and set(labels.columns) != {"joints", "visible"}:
        raise HandloomError(
            "The labels that are there carry the pose they were rendered from",
            where=where,
            why="labels made by hand have none",
            fix="--overwrite drops them",
        )


def _rows_of(recording: Recording, given: dict[int, NDArray[np.float32]], file: Path) -> NDArray[np.int64]:
    """Rows of the file's frames, in its order."""
    if not given:
        raise HandloomError("The file labels no frame", where=str(file), fix="mark frames as done before saving")
    assert recording.frames is not None
    place = {frame: row for row, frame in enumerate(recording.frames.read("frame_id").tolist())}
    lost = sorted(set(given) - set(place))
    if lost:
        raise HandloomError(
            f"No frame of the recording has the frame_id {lost[0]}",
            where=f"{file}, {recording.path}",
            why=f"{len(lost)} of the {len(given)} frames in the file are not there; is it of another recording?",
        )
    return np.array([place[frame] for frame in given], np.int64)


def _check_unit(joints_mm: NDArray[np.float32], file: Path) -> None:
    many = joints_mm[np.isfinite(joints_mm).all(2).sum(1) >= 5]
    if not len(many):
        return
    spread = float(np.median(np.linalg.norm(np.nanmax(many, 1) - np.nanmin(many, 1), axis=-1)))
    if not SPREAD_MM[0] <= spread <= SPREAD_MM[1]:
        metres = SPREAD_MM[0] <= 1000 * spread <= SPREAD_MM[1]
        raise HandloomError(
            "The joints are in metres" if metres else "The joints are not in millimetres",
            where=str(file),
            why=f"half of the hands are less than {spread:.3g} mm across",
            fix="multiply x, y and z by 1000" if metres else "give x_mm, y_mm, z_mm in the rig's frame",
        )


def _places(
    recording: Recording, layout: Layout, joints: NDArray[np.float32], rows: NDArray[np.int64]
) -> list[Finding]:
    """Joints before the surface, far behind it in all images, or where none shows anything."""
    floating: dict[int, tuple[float, str]] = {}
    sunk: dict[int, tuple[float, str]] = {}
    outside: dict[int, int] = {}
    for row in np.sort(rows).tolist():
        before, behind, inside = _gaps(recording, joints[row], row)
        known = np.isfinite(joints[row]).all(1)
        if (known & ~inside).any():
            outside[row] = int((known & ~inside).sum())
        for found, gap, limit in ((floating, before, BEFORE_MM), (sunk, behind, BEHIND_MM)):
            worst = int(np.argmax(np.where(inside & known, gap, -np.inf)))
            if known[worst] and inside[worst] and gap[worst] > limit:
                found[row] = (float(gap[worst]), layout.points[worst])
    out = []
    for found, code, said in ((floating, "floating", "before"), (sunk, "far", "behind")):
        if found:
            away, name = max(found.values())
            what = f"joints lie {said} the surface; the farthest is {name}, by {away:.0f} mm"
            out.append(Finding("warning", code, "labels/joints", what, tuple(found), "look at these frames again"))
    if outside:
        what = f"{sum(outside.values())} joints lie where no image shows anything"
        fix = "check that the labels are of this recording and in its rig's frame"
        out.append(Finding("warning", "outside", "labels/joints", what, tuple(outside), fix))
    return out


def _gaps(
    recording: Recording, joints: NDArray[np.float32], row: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """How far each joint (J, 3) lies before and behind the surface (mm), and whether any image shows one there.

    Before the nearest surface around its pixel in the worst of the images, behind it in the best of them.
    """
    count = len(joints)
    before, behind = np.full(count, -np.inf), np.full(count, np.inf)
    inside = np.zeros(count, bool)
    for view, depth, k in _images(recording, row):
        camera = recording.rig.cameras[view]
        height, width = depth.shape
        cam = camera.to_camera(joints)
        for j in np.flatnonzero(np.isfinite(cam).all(1) & (cam[:, 2] > 1)):
            u, v = np.rint(project(cam[j], k)).astype(int)
            if not (0 <= u < width and 0 <= v < height):
                continue
            reach = max(1, round(float(AROUND_MM * k[0] / cam[j, 2])))
            patch = depth[max(0, v - reach) : v + reach + 1, max(0, u - reach) : u + reach + 1]
            if (patch > 0).any():
                inside[j] = True
                surface = float(patch[patch > 0].min()) * float(camera.depth_unit_mm)
                before[j] = max(before[j], surface - cam[j, 2])
                behind[j] = min(behind[j], cam[j, 2] - surface)
    return before, np.where(np.isfinite(behind), behind, -np.inf), inside


def _images(recording: Recording, row: int) -> list[tuple[int, NDArray[Any], NDArray[np.float64]]]:
    """(view, depth in the camera's unit, its k) of what the cameras gave of a row: full frames, else crops."""
    frames, crops = recording.frames, recording.crops
    assert frames is not None
    seen = np.flatnonzero(frames.read_rows("present", [row])[0]).tolist()
    if recording.has_depth:
        cameras = recording.rig.cameras
        return [(v, frames.read_rows(f"depth/{cameras[v].name}", [row])[0], np.array(cameras[v].k)) for v in seen]
    if crops is None or row >= crops.committed:
        return []
    crop, k, source = (crops.read_rows(name, [row])[0] for name in ("crop", "k", "center_source"))
    return [(v, crop[v], k[v].astype(np.float64)) for v in seen if source[v]]


def _bones(recording: Recording, layout: Layout, joints: NDArray[np.float32], rows: NDArray[np.int64]) -> list[Finding]:
    """Bones whose length is not the person's: joints that were mixed up, say."""
    frames = recording.frames
    assert frames is not None
    subject = frames.read("subject")
    edges = np.array(layout.edges)
    length = np.linalg.norm(joints[:, edges[:, 0]] - joints[:, edges[:, 1]], axis=-1)
    off: dict[int, tuple[float, str]] = {}
    for who in np.unique(subject[rows]):
        mine = (subject == who) & np.isfinite(length).any(1)
        if mine.sum() < FEW_FRAMES:
            continue
        median = np.array([np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in length[mine].T])
        for row in rows[subject[rows] == who].tolist():
            away = np.nan_to_num(np.abs(length[row] - median))
            worst = int(np.argmax(away))
            if away[worst] > max(BONE_MM, BONE_SHARE * float(median[worst])):
                a, b = (layout.points[i] for i in layout.edges[worst])
                said = f"{a} to {b} is {length[row, worst]:.0f} mm, half of this person's {median[worst]:.0f} or less"
                off[row] = (float(away[worst]), said)
    if not off:
        return []
    what = f"bones are of another length than the person's: {max(off.values())[1]}"
    return [Finding("warning", "bone", "labels/joints", what, tuple(sorted(off)), "look for joints that were mixed up")]
