"""Poses of a file on the hand that is drawn: fitted, judged, and given to samples row by row.

Each person of the file is fitted first (`synth/subject.py`: bone lengths and where the layout's points lie beside
the joints), then every frame; what carries over is the pose, the turn, the place and the person's proportions.
Frames with too few points, and those that stay farther off than `max_fit_error_mm`, are left out and counted.
Where a file does not say which hand it shows, both are fitted to some of its frames and the nearer one is taken:
a hand fitted as the other one stays more than 4 mm off. The other side's poses are mirrored.

Every process fits for itself, with the same result: 0.3 ms a frame and 0.7 s a person.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26, layout_named
from .config import SynthConfig
from .fit import fit_pose
from .hand import POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, RiggedHand, mirror
from .points import MIN_POINTS, known, refuse_other_units
from .pose_files import PoseFile, Side, read_poses
from .rotation import rotation_matrix, rotation_vector
from .subject import fit_subject

F64 = NDArray[np.float64]

FLIP: Final = np.array([-1.0, 1.0, 1.0])
# MANO rests with its fingers to −x, the back of the hand to +y and the index finger's side to +z.
_MANO_TO_OURS: Final = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
_MANO_FINGERS: Final = ("index", "middle", "little", "ring", "thumb")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseSet:
    """n usable poses of a file, in its order."""

    pose: F64
    """(n, 25) rad."""
    root: F64
    """(n, 6) in the frame of the rig, or of a camera."""
    shape: F64
    """(n, SHAPE_SIZE) of the person of each."""
    subject: NDArray[np.int32]
    """(n,)."""
    row: NDArray[np.int64]
    """(n,) in the file."""
    fit_error_mm: F64
    """(n,) mean distance of the fitted points from the file's; 0 where nothing was fitted."""
    in_camera: bool
    description: dict[str, Any]
    """What a recording says of where its poses come from."""

    @property
    def fitted(self) -> bool:
        """Whether the poses were fitted to points, rather than given."""
        return bool(self.description["kind"] != "parameters")

    def __len__(self) -> int:
        return len(self.pose)


def pose_set_of(config: SynthConfig, hand: RiggedHand) -> PoseSet:
    """The poses of the file that `config.poses` names, on `hand`.

    Raises:
        HandloomError: see `read_poses`; or no frame of it can be used.
    """
    path = Path(config.poses)
    stamp = _stamp(path)
    return _cached(path, stamp, hand, config.side, config.max_fit_error_mm)


def _stamp(path: Path) -> tuple[int, int]:
    """Changes when the file does."""
    inside = path / "zarr.json" if path.is_dir() else path
    try:
        found = inside.stat()
    except OSError as error:
        raise HandloomError("There is no such file of poses", where=str(path), why=error.strerror or "") from error
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=2)
def _cached(path: Path, stamp: tuple[int, int], hand: RiggedHand, side: Side, max_error_mm: float) -> PoseSet:
    return fit_file(read_poses(path), hand, side=side, max_fit_error_mm=max_error_mm)


def fit_file(file: PoseFile, hand: RiggedHand, *, side: Side, max_fit_error_mm: float) -> PoseSet:
    """The usable poses of a file on a hand of the given side.

    Raises:
        HandloomError: none can be used.
    """
    assert hand.side == side
    if file.pose is not None:
        assert file.root is not None
        assert file.shape is not None
        count = len(file)
        error, bad = np.zeros(count), np.zeros(count, np.bool_)
        seen: Side = file.side or "right"
        pose, shape, few = file.pose, file.shape, bad
        root = file.root if seen == side else _mirrored(file.root)
    else:
        points = mano_points(hand, file) if file.rotations is not None else file.points
        assert points is not None
        layout = file.layout or layout_named("mano21")
        few = known(points).sum(axis=1) < MIN_POINTS
        if few.all():
            raise HandloomError(
                "No frame of the file has enough points", where=str(file.path),
                why=f"a hand needs {MIN_POINTS} known points; the best frame has {int(known(points).sum(1).max())}",
            )  # fmt: skip
        if file.rotations is None:
            refuse_other_units(points, where=str(file.path))
        # MANO's points were made on our own hand, whichever it is.
        seen = side if file.rotations is not None else file.side or _nearer_side(hand, points[~few], file)
        if seen != side:
            points = points * FLIP
        pose, root = np.zeros((len(file), POSE_SIZE)), np.zeros((len(file), ROOT_SIZE))
        shape, error = np.zeros((len(file), SHAPE_SIZE)), np.full(len(file), np.inf)
        for who in np.unique(file.subject[~few]):
            mine = np.flatnonzero((file.subject == who) & ~few)
            given: dict[str, Any] = {}
            body = hand
            if file.rotations is None:
                person = fit_subject(hand, points[mine], layout)
                body = person.hand
                # Rounded, so that the last bits of a sum over all frames cannot differ between processes.
                given = {"shape": np.round(person.shape, 6), "offset_mm": np.round(person.offset_mm, 4)}
                shape[mine] = given["shape"]
            fit = fit_pose(body, points[mine], layout, **given)
            pose[mine], root[mine], error[mine] = fit.pose, fit.root, fit.residual_mm
        low, high = hand.limits_rad.T
        pose = np.clip(pose, low, high)
        bad = ~few & (error > max_fit_error_mm)
    use = np.flatnonzero(~few & ~bad)
    if not len(use):
        raise HandloomError(
            "No pose of the file can be used", where=str(file.path),
            why=f"{int(few.sum())} frames have too few points, {int(bad.sum())} stay farther off than "
            f"{max_fit_error_mm:g} mm; the median is {np.median(error[~few]):.1f} mm",
            fix="check the units and the layout of its points, or raise max_fit_error_mm",
        )  # fmt: skip
    description = {
        "source": str(file.path),
        "sha256": _digest(file),
        "kind": file.kind,
        "side": seen,
        "rows": len(file),
        "used": len(use),
        "left_out": {"too_few_points": int(few.sum()), "badly_fitted": int(bad.sum())},
        "max_fit_error_mm": max_fit_error_mm,
        "median_fit_error_mm": round(float(np.median(error[use])), 3),
    }
    return PoseSet(
        pose=pose[use], root=root[use], shape=shape[use], subject=file.subject[use].astype(np.int32),
        row=file.row[use], fit_error_mm=error[use], in_camera=file.in_camera, description=description,
    )  # fmt: skip


def _digest(file: PoseFile) -> str:
    """Of the poses as they were read, whatever they lay in."""
    out = hashlib.sha256()
    for values in (file.points, file.rotations, file.place, file.pose, file.root, file.shape, file.subject):
        if values is not None:
            out.update(np.ascontiguousarray(values).tobytes())
    return out.hexdigest()


def _mirrored(root: F64) -> F64:
    """The roots (n, 6) of the mirrored hand: x negated."""
    rotation = rotation_matrix(root[:, :3]) * FLIP[:, None] * FLIP
    return np.concatenate([rotation_vector(rotation), root[:, 3:] * FLIP], axis=1)


def _nearer_side(hand: RiggedHand, points: F64, file: PoseFile) -> Side:
    """Which hand the points show: the one that comes nearer to some of the frames."""
    assert file.layout is not None
    some = points[np.linspace(0, len(points) - 1, min(len(points), 40)).astype(int)]
    off = {
        one.side: float(np.median(fit_pose(one, some, file.layout, fit_shape=True).residual_mm))
        for one in (hand, mirror(hand))
    }
    return min(off, key=lambda side: off[side])


def mano_points(hand: RiggedHand, file: PoseFile) -> F64:
    """(n, 21, 3) mm: the points of layout mano21 when MANO's rotations turn the hand's own bones.

    MANO's tree: the wrist, then three joints a finger, index, middle, little, ring and thumb; each rotation is
    about the axes of the rest pose (Romero et al. 2017, eq. 2). A left hand is turned as its mirror image.
    """
    assert file.rotations is not None
    assert file.place is not None
    flip = np.ones(3) if hand.side == "right" else FLIP
    rest = hand.joints.astype(np.float64) * flip
    turns = rotation_matrix(file.rotations @ _MANO_TO_OURS.T)
    wrist = rest[OPENXR26.index("wrist")]
    place = {"wrist": np.zeros((len(file), 3))}
    for i, finger in enumerate(_MANO_FINGERS):
        names = [f"{finger}_{bone}" for bone in _bones(finger)]
        at, before = np.zeros((len(file), 3)), wrist
        turned = np.tile(np.eye(3), (len(file), 1, 1))
        for k, name in enumerate(names):
            joint = rest[OPENXR26.index(name)]
            at = at + turned @ (joint - before)
            place[name], before = at, joint
            if k < 3:
                turned = turned @ turns[:, 1 + 3 * i + k]
    layout = layout_named("mano21")
    local = np.stack([place[terms[0][0]] for terms in layout.blend], axis=1)
    # The hand's own turn, from MANO's axes; a left hand is the mirror image of what the rotations say.
    root = rotation_matrix(file.rotations[:, 0]) @ _MANO_TO_OURS.T
    points = local @ root.transpose(0, 2, 1) + file.place[:, None]
    out: F64 = points * flip
    return out


def _bones(finger: str) -> tuple[str, ...]:
    thumb = ("metacarpal", "proximal", "distal", "tip")
    return thumb if finger == "thumb" else ("proximal", "intermediate", "distal", "tip")
