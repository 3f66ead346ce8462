"""Hand poses that lie in files: points of any layout, MANO's rotations, or our own parameters.

| file | holds | frame |
|---|---|---|
| a recording (`.zarr`) | labels of any layout, or pose, root and shape where our own synthesis made them | its rig's |
| `.csv` | the plain folder's joints.csv: frame, joint, x_mm, y_mm, z_mm | the rig's |
| `.mat` | NYU's joint_data.mat: `joint_xyz` (camera, frame, 36, 3), the first camera's | camera, y up |
| `.npz` with `u`, `v`, `d` | NYU's 36 points, pixels and mm | camera |
| `.npz` with `pose`, `.npy` | MANO: (n, 48) axis–angle, the hand's turn first; `trans` (n, 3) m | camera |
| `.txt`, 42 numbers a line | NYU's 14 points, uvd or xyz as result files have them | camera |
| `.txt`, 48 numbers a line, a path before them or not | ICVL's labels, 16 points, uvd | camera |
| `.txt`, a count, then 63 numbers a line | MSRA's joint.txt, 21 points, xyz with y up and z towards the eye | camera |

What could be checked against the real sets is NYU; ICVL, MSRA and MANO are verified on files of the published
layout only. MANO's rotations turn the bones of the hand that is drawn, about that hand's own joints: exact for
the fingers of a hand at rest as MANO's is, flat and straight (`flat_hand_mean=True`); a thumb that rests otherwise
is off by the difference. Its `betas` are not used: they describe MANO's own flesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import unproject
from ..stores.errors import HandloomError
from ..stores.folder import read_joints
from ..stores.joints import OPENXR26, Layout, layout_named
from ..stores.label_files import (
    ICVL_K,
    NYU_K,
    Y_DOWN,
    Y_DOWN_Z_FORWARD,
    is_number,
    numbers,
    nyu_points,
    nyu_subjects,
    text_lines,
)
from ..stores.npz import read_arrays
from ..stores.recording import SPLITS, Recording, open_recording
from .hand import DOFS, POSE_SIZE, SHAPE_NAMES

F64 = NDArray[np.float64]
Side = Literal["right", "left"]

KINDS: Final = (
    "a recording, joints.csv, NYU's .mat or .npz, MANO's .npz or .npy, label files of NYU, ICVL or MSRA (.txt)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseFile:
    """Poses of n frames; exactly one of points, rotations and parameters is there."""

    path: Path
    kind: str
    in_camera: bool
    """Whether places are in a camera's frame rather than a rig's."""
    side: Side | None
    """Which hand it is, where the file says so."""
    subject: NDArray[np.int64]
    """(n,)."""
    row: NDArray[np.int64]
    """(n,) where in the file each frame stands."""
    points: F64 | None = None
    """(n, J, 3) mm, NaN where unknown."""
    layout: Layout | None = None
    rotations: F64 | None = None
    """(n, 16, 3) MANO's rotation vectors, rad."""
    place: F64 | None = None
    """(n, 3) mm of the wrist, with rotations."""
    pose: F64 | None = None
    root: F64 | None = None
    shape: F64 | None = None
    """(n, 25), (n, 6), (n, SHAPE_SIZE): our own parameters."""

    def __len__(self) -> int:
        return len(self.row)


def read_poses(path: Path) -> PoseFile:
    """The poses in a file.

    Raises:
        HandloomError: there is no such file, nobody knows its kind, or it holds what it must not.
    """
    if not path.exists():
        raise HandloomError("There is no such file of poses", where=str(path), fix=f"give {KINDS}")
    match path.suffix.lower():
        case _ if path.is_dir():
            found = _recording(path)
        case ".csv":
            found = _csv(path)
        case ".mat":
            found = _nyu_mat(path)
        case ".npz":
            found = _npz(path)
        case ".npy":
            found = _mano(path, {"pose": read_arrays(path)[""]})
        case ".txt":
            found = _text(path)
        case ".pkl" | ".pickle":
            raise HandloomError(
                "A pickle can run any code, so it is not read", where=str(path),
                fix='save it once more: np.savez("poses.npz", pose=pose) with pose (n, 48)',
            )  # fmt: skip
        case _:
            raise HandloomError("Nobody knows this kind of file of poses", where=str(path), why=f"known: {KINDS}")
    if not len(found):
        raise HandloomError("The file holds no pose", where=str(path))
    return found


def _recording(path: Path) -> PoseFile:
    recording = open_recording(path)
    labels, layout = recording.labels, recording.layout
    if labels is None or layout is None or not labels.committed:
        raise HandloomError(
            "The recording has no labels", where=str(path), fix="label it, or give another source of poses"
        )
    count = labels.committed
    keep = np.ones(count, np.bool_)
    subject = np.zeros(count, np.int64)
    if recording.frames is not None:
        subject = recording.frames.read("subject", 0, count).astype(np.int64)
        # What is kept for testing must not come back as training data.
        keep = recording.frames.read("split", 0, count) != SPLITS.index("test")
    said: dict[str, Any] = {"path": path, "in_camera": False, "side": recording.hand}
    if _is_ours(recording):
        pose, root, shape = (labels.read(name, 0, count).astype(np.float64) for name in ("pose", "root", "shape"))
        rows = np.flatnonzero(keep & np.isfinite(np.concatenate([pose, root, shape], axis=1)).all(axis=1))
        return PoseFile(
            **said,
            kind="parameters",
            subject=subject[rows],
            row=rows,
            pose=pose[rows],
            root=root[rows],
            shape=shape[rows],
        )
    points = labels.read("joints", 0, count).astype(np.float64)
    rows = np.flatnonzero(keep & np.isfinite(points).any(axis=(1, 2)))
    return PoseFile(
        **said, kind=f"labels, {layout.name}", subject=subject[rows], row=rows, points=points[rows], layout=layout
    )


def _is_ours(recording: Recording) -> bool:
    """Whether its labels hold parameters that mean the same as ours."""
    labels = recording.labels
    assert labels is not None
    names = labels.attributes.get("pose_names"), labels.attributes.get("shape_names")
    ours = [d.name for d in DOFS], list(SHAPE_NAMES)
    stored = {"pose", "root", "shape"} <= set(labels.columns)
    return stored and recording.kind == "synthetic" and names == ours


def _csv(path: Path) -> PoseFile:
    joints = read_joints(path)
    frames = np.array(sorted(joints), np.int64)
    points = np.array([joints[int(frame)] for frame in frames], np.float64).reshape(-1, len(OPENXR26), 3)
    return PoseFile(
        path=path, kind="joints.csv", in_camera=False, side=None, subject=np.zeros(len(frames), np.int64),
        row=frames, points=points, layout=layout_named("openxr26"),
    )  # fmt: skip


def _of_camera(
    path: Path, kind: str, points: F64, layout: str, *, side: Side | None, subject: NDArray[np.int64] | None = None
) -> PoseFile:
    _refuse_nan(path, points)
    return PoseFile(
        path=path, kind=kind, in_camera=True, side=side, row=np.arange(len(points)), points=points,
        subject=np.zeros(len(points), np.int64) if subject is None else subject, layout=layout_named(layout),
    )  # fmt: skip


def _refuse_nan(path: Path, values: F64) -> None:
    bad = np.asarray(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if bad.any():
        raise HandloomError(
            "The file of poses holds numbers that are not finite",
            where=f"{path}, row {int(bad.argmax())} (counted from 0)",
            why=f"{int(bad.sum())} of {len(bad)} rows have NaN or infinity",
            fix="delete those rows; in joints.csv leave out joints that are unknown",
        )


def _nyu_mat(path: Path) -> PoseFile:
    points = nyu_points(path, "joint_xyz")[0] * Y_DOWN
    return _of_camera(path, "NYU, 36 points", points, "nyu36", side="right", subject=nyu_subjects(len(points)))


def _npz(path: Path) -> PoseFile:
    arrays = read_arrays(path, _WANTED)
    if "pose" in arrays:
        return _mano(path, arrays)
    if not {"u", "v", "d"} <= set(arrays):
        raise HandloomError(
            "The archive holds no poses", where=str(path), why="it needs u, v and d (NYU), or pose (MANO, (n, 48))"
        )
    u, v, d = (np.asarray(arrays[name], np.float64) for name in "uvd")
    if u.ndim != 2 or not u.shape == v.shape == d.shape or u.shape[1] != 36:
        raise HandloomError("u, v and d must be (n, 36)", where=str(path), why=f"{u.shape}, {v.shape}, {d.shape}")
    points = unproject(np.stack([u, v], axis=-1), d, NYU_K)
    return _of_camera(path, "NYU, 36 points", points, "nyu36", side="right", subject=nyu_subjects(len(points)))


_WANTED: Final = ("u", "v", "d", "pose", "trans")


def _mano(path: Path, arrays: dict[str, NDArray[Any]]) -> PoseFile:
    pose = arrays["pose"]
    if pose.ndim != 2 or pose.shape[1] != 48 or not np.issubdtype(pose.dtype, np.number):
        raise HandloomError(
            "MANO's pose must be (n, 48)", where=str(path), why=f"found {pose.shape}, {pose.dtype}",
            fix="store axis-angle vectors, the hand's own turn first; principal components must be expanded",
        )  # fmt: skip
    count = len(pose)
    trans = np.asarray(arrays.get("trans", np.zeros((count, 3))), np.float64)
    if trans.shape != (count, 3):
        raise HandloomError("trans must be (n, 3)", where=str(path), why=f"found {trans.shape} for {count} poses")
    _refuse_nan(path, np.concatenate([pose, trans], axis=1).astype(np.float64))
    return PoseFile(
        path=path, kind="MANO rotations", in_camera=True, side="right", subject=np.zeros(count, np.int64),
        row=np.arange(count), rotations=pose.astype(np.float64).reshape(count, 16, 3), place=1000.0 * trans,
    )  # fmt: skip


def _text(path: Path) -> PoseFile:
    numbered = list(text_lines(path))
    counted = bool(numbered) and len(numbered[0][1]) == 1
    if counted:
        numbered = numbered[1:]
    if not numbered:
        raise HandloomError("The file holds no pose", where=str(path))
    named = not is_number(numbered[0][1][0])
    width = len(numbered[0][1]) - named
    if width not in (42, 48, 63) or (counted != (width == 63)):
        raise HandloomError(
            "No known file of labels has such lines", where=f"{path}, line {numbered[0][0]}",
            why=f"{width} numbers; NYU's 14 points have 42, ICVL's 16 have 48, "
            "MSRA's 21 have 63 below a line with their count",
        )  # fmt: skip
    values = np.array([numbers(path, line, words[int(named) :], width) for line, words in numbered])
    points = values.reshape(len(values), -1, 3)
    _refuse_nan(path, points)
    if width == 63:
        return _of_camera(path, "MSRA, 21 points", points * Y_DOWN_Z_FORWARD, "msra21", side=None)
    k = NYU_K if width == 42 else ICVL_K
    # Pixels are positive; millimetres lie on both sides of the axis.
    pixels = bool((points[..., :2] >= 0).mean() > 0.98)
    if pixels:
        points = unproject(points[..., :2], points[..., 2], k)
    elif width == 42:
        points = points * Y_DOWN
    if width == 42:
        subject = nyu_subjects(len(points))
        return _of_camera(path, "NYU, 14 points", points, "nyu14", side="right", subject=subject)
    return _of_camera(path, "ICVL, 16 points", points, "icvl16", side=None)


assert len(DOFS) == POSE_SIZE
