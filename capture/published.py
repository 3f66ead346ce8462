"""Data sets of hands in depth, read from the files as their authors published them, a frame at a time.

| set | files |
|---|---|
| nyu | `train/`, `test/`: `depth_C_NNNNNNN.png` (C 1–3, N from 1; mm = green << 8 | blue), `joint_data.mat` |
| icvl | `Training/labels.txt`, `Testing/test_seq_{1,2}.txt`, images below their `Depth/`, 16-bit mm |
| msra | `P0…P8/GESTURE/NNNNNN_depth.bin` and `joint.txt` |
| bighand | HANDS17's training set: `Training_Annotation.txt` and `images/`, 16-bit mm, alone or in `training/` |

**NYU.** Three Kinects at 640 × 480. The poses of the second and third are not among the files; they are found here
by the rigid motion that takes `joint_xyz` of the first camera to theirs (Kabsch 1976), and its residual is kept in
the recording. Cameras 2 and 3 change places in the training set before frame 29116 (Poier et al., MURAUER, 2019);
taken as counted from 0, which leaves one frame in doubt. Files and labels are taken to be swapped alike: were they
not, the residual would show it and the import stops. A set with images of the first camera alone is imported as such.
Labels are `joint_xyz` of the first camera, y turned down: the rig's frame is that camera's.

**ICVL.** Images are looked for at `Depth/PATH` and at `PATH`, beside the label file. Each recording session (first
folder of the path) counts as one subject and each folder as a sequence: who the ten people are, the files do not say.

**MSRA15.** A bin holds six int32, width, height, left, top, right, bottom (right and bottom exclusive), then the
box's float32 mm, row by row; outside it nothing was kept. Stored in steps of 0.1 mm. Its readme says right hands.

**HANDS17.** The test labels were never published. Frames do not come in the order of time for certain: each is its
own sequence. BigHand2.2M's own tree of folders is not read.

All of it verified on files of the published layout only, written by the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig, project, unproject
from ..stores.documents import read_small, said
from ..stores.errors import HandloomError
from ..stores.label_files import (
    BIGHAND_K,
    ICVL_K,
    MSRA_K,
    NYU_K,
    Y_DOWN,
    msra_points,
    named_points,
    nyu_points,
    nyu_subjects,
    text_lines,
)
from ..stores.png import read_depth_png, read_packed_depth_png
from ..stores.recording import SPLITS, Hand

Name = Literal["nyu", "icvl", "msra", "bighand"]
Split = Literal["train", "test"]
F64 = NDArray[np.float64]

NYU_SWAPPED_BEFORE: Final = 29116
"""Training frames, counted from 0, in which cameras 2 and 3 stand at each other's place."""
NYU_RESIDUAL_MM: Final = 15.0
"""The labels of two cameras that one motion does not bring closer than this do not show one rig."""
NYU_PROJECTION_PX: Final = 3.0
POSE_FRAMES: Final = 2000
"""Frames, spread over the set, from which the poses of NYU's cameras are found."""
GESTURES: Final = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "I", "IP", "L", "MP", "RP", "T", "TIP", "Y")
MSRA_STEP_MM: Final = 0.1
TRAIN, TEST = SPLITS.index("train"), SPLITS.index("test")


@dataclass(frozen=True, slots=True)
class Frame:
    """One labelled frame."""

    depth: tuple[NDArray[np.uint16], ...]
    """(H, W) of each camera."""
    points_mm: F64
    """(J, 3) in the rig's frame."""
    number: int
    """Where it stands in the published set."""
    subject: int = 0
    sequence: int = 0
    split: int = TRAIN


@dataclass(frozen=True, slots=True)
class PublishedSet:
    """A data set that was looked through; its images are read as the frames are asked for."""

    rig: Rig
    layout: str
    count: int
    frames: Callable[[], Iterator[Frame]]
    hand: Hand | None = None
    """Which hand it shows, where that is known."""
    said: dict[str, Any] = field(default_factory=dict)
    """For the recording: what was found out."""


def open_set(name: Name, folder: Path, *, split: Split | None, test_subject: int | None) -> PublishedSet:
    """The data set in a folder.

    Args:
        name: which.
        folder: where it was unpacked.
        split: only this part; NYU's must be named, as its parts were shot by differently placed cameras.
        test_subject: of MSRA15, whose frames are kept for testing (its protocol leaves one person out).

    Raises:
        HandloomError: files are missing or hold what they must not, or there is no such part.
    """
    if not folder.is_dir():
        raise HandloomError("There is no such folder", where=str(folder))
    if test_subject is not None and name != "msra":
        raise HandloomError("Only MSRA15 leaves a subject out for testing", why=f"--test-subject was given for {name}")
    match name:
        case "nyu":
            return _nyu(folder, split)
        case "icvl":
            return _icvl(folder, split)
        case "msra":
            return _msra(folder, split, test_subject)
        case "bighand":
            return _bighand(folder, split)


# -- NYU -----------------------------------------------------------------------------------------------------


def _nyu(folder: Path, split: Split | None) -> PublishedSet:
    if split is None:
        raise HandloomError(
            "NYU's parts are imported one by one",
            where=str(folder),
            why="its cameras were placed differently in each",
            fix="add --split train or --split test",
        )
    part = folder if (folder / "joint_data.mat").is_file() else folder / split
    labels = _there(part / "joint_data.mat", "NYU's labels")
    xyz = nyu_points(labels, "joint_xyz") * Y_DOWN
    count, kept = xyz.shape[1], _nyu_cameras(part, xyz.shape)
    _agree(labels, xyz[kept], nyu_points(labels, "joint_uvd")[kept])
    source = np.tile(np.array(kept), (count, 1))
    if split == "train" and len(kept) == 3:
        source[:NYU_SWAPPED_BEFORE] = (0, 2, 1)
    cameras, residual = [_camera("kinect1", (640, 480), NYU_K)], []
    chosen = np.unique(np.linspace(0, count - 1, min(count, POSE_FRAMES)).astype(int))
    for view in range(1, len(kept)):
        rotation, translation, off_mm = _motion(xyz[0, chosen], xyz[source[chosen, view], chosen])
        if off_mm > NYU_RESIDUAL_MM:
            raise HandloomError(
                f"The labels of cameras 1 and {view + 1} do not show one hand",
                where=str(labels),
                why=f"the best placing of the cameras leaves {off_mm:.0f} mm between them",
                fix=f"check that this is the {split} set; a folder without depth_2 and depth_3 makes one camera",
            )
        residual.append(round(off_mm, 3))
        camera = _camera(f"kinect{view + 1}", (640, 480), NYU_K, rotation, translation)
        cameras.append(camera)
    subject = nyu_subjects(count)
    # The cameras were moved where the swap ends: no hand is followed across it.
    setup = subject if split == "test" else (np.arange(count) >= NYU_SWAPPED_BEFORE).astype(np.int64)

    def frames() -> Iterator[Frame]:
        for i in range(count):
            names = [part / f"depth_{number + 1}_{i + 1:07d}.png" for number in source[i].tolist()]
            depth = tuple(read_packed_depth_png(_there(name, "An image"), size=(640, 480)) for name in names)
            yield Frame(depth, xyz[0, i], i, int(subject[i]), int(setup[i]), SPLITS.index(split))

    said = {"rig": "poses from joint_xyz", "rig_residual_mm": residual} if residual else {"rig": "first camera alone"}
    return PublishedSet(Rig(tuple(cameras)), "nyu36", count, frames, "right", said)


def _nyu_cameras(part: Path, shape: tuple[int, ...]) -> list[int]:
    """The cameras, from 0, that have images: all three or the first; every camera has as many as it has labels."""
    counts = {c: sum(1 for _ in part.glob(f"depth_{c + 1}_*.png")) for c in range(3)}
    kept = [c for c, count in counts.items() if count]
    if kept not in ([0], [0, 1, 2]):
        raise HandloomError(
            "NYU needs the images of its first camera, or of all three",
            where=str(part),
            why=", ".join(f"depth_{c + 1}: {count}" for c, count in counts.items()),
        )
    if shape[0] < len(kept):
        raise HandloomError("There are images of cameras without labels", where=str(part / "joint_data.mat"),
                            why=f"joint_xyz is {shape}")  # fmt: skip
    for c in kept:
        if counts[c] != shape[1]:
            raise HandloomError(
                f"Camera {c + 1} has {counts[c]} images, joint_data.mat labels {shape[1]} frames",
                where=str(part),
                fix="unpack the whole part again",
            )
    return kept


def _agree(path: Path, xyz: F64, uvd: F64) -> None:
    if uvd.shape != xyz.shape:
        raise HandloomError("joint_uvd and joint_xyz differ in size", where=str(path), why=f"{uvd.shape}, {xyz.shape}")
    if not (np.isfinite(xyz).all() and (xyz[..., 2] > 0).all()):
        raise HandloomError("joint_xyz holds points that no camera can see", where=str(path), why="z must be above 0")
    chosen = np.unique(np.linspace(0, xyz.shape[1] - 1, min(xyz.shape[1], POSE_FRAMES)).astype(int))
    off = float(np.median(np.abs(project(xyz[:, chosen], NYU_K) - uvd[:, chosen, :, :2])))
    if not off < NYU_PROJECTION_PX:
        raise HandloomError(
            "joint_uvd and joint_xyz do not show the same points",
            where=str(path),
            why=f"projected by {NYU_K} they lie {off:.0f} px apart (median); y must point up in xyz",
        )


def _motion(a: F64, b: F64) -> tuple[F64, F64, float]:
    """Rotation, translation and residual (RMS, mm) that take points a (n, J, 3) to b; Kabsch 1976."""
    a, b = a.reshape(-1, 3), b.reshape(-1, 3)
    u, _, vt = np.linalg.svd((a - a.mean(0)).T @ (b - b.mean(0)))
    upright = np.diag([1.0, 1.0, float(np.sign(np.linalg.det(vt.T @ u.T)))])
    rotation = vt.T @ upright @ u.T
    translation = b.mean(0) - a.mean(0) @ rotation.T
    off = np.linalg.norm(a @ rotation.T + translation - b, axis=-1)
    return rotation, translation, float(np.sqrt((off**2).mean()))


# -- ICVL ----------------------------------------------------------------------------------------------------


def _icvl(folder: Path, split: Split | None) -> PublishedSet:
    files = {
        "train": [folder / "Training/labels.txt"],
        "test": [folder / "Testing/test_seq_1.txt", folder / "Testing/test_seq_2.txt"],
    }
    wanted = [(_there(path, "ICVL's labels"), SPLITS.index(name)) for name in (split and [split]) or files
              for path in files[name]]  # fmt: skip

    def frames() -> Iterator[Frame]:
        number, people, folders = 0, dict[str, int](), dict[str, int]()
        for path, part in wanted:
            for line, name, uvd in named_points(path, joints=16):
                image = _image(path.parent, name, ("Depth", "."), f"{path}, line {line}")
                points = unproject(uvd[:, :2], uvd[:, 2], ICVL_K)
                who = people.setdefault(Path(name).parts[0], len(people))
                where = folders.setdefault(Path(name).parent.as_posix(), len(folders))
                yield Frame((read_depth_png(image, size=(320, 240)),), points, number, who, where, part)
                number += 1

    count = sum(1 for path, _ in wanted for _ in text_lines(path))
    said = {"subjects": "one a session: the first folder of an image's path"}
    return PublishedSet(Rig((_camera("creative", (320, 240), ICVL_K),)), "icvl16", count, frames, None, said)


# -- MSRA15 --------------------------------------------------------------------------------------------------


def _msra(folder: Path, split: Split | None, test_subject: int | None) -> PublishedSet:
    if split is not None and test_subject is None:
        raise HandloomError(
            "MSRA15 is not split into training and test",
            fix="say whom to keep for testing: --test-subject 0 (to 8); or leave out --split",
        )
    people = [i for i in range(9) if (folder / f"P{i}").is_dir()]
    if not people:
        raise HandloomError("There is no folder P0 to P8", where=str(folder), fix="give the folder that holds them")
    if test_subject is not None and test_subject not in people:
        raise HandloomError(f"There is no subject {test_subject}", where=str(folder), why=f"found: {people}")
    parts = [
        (who, gesture, TEST if who == test_subject else TRAIN) for who in people for gesture in _gestures(folder, who)
    ]
    parts = [part for part in parts if split is None or part[2] == SPLITS.index(split)]
    counts = [_msra_count(folder / f"P{who}" / gesture) for who, gesture, _ in parts]

    def frames() -> Iterator[Frame]:
        number = 0
        for (who, gesture, part), count in zip(parts, counts, strict=True):
            here = folder / f"P{who}" / gesture
            points = msra_points(here / "joint.txt")
            sequence = len(GESTURES) * who + GESTURES.index(gesture)
            for i in range(count):
                depth = read_msra_bin(_there(here / f"{i:06d}_depth.bin", "An image"))
                yield Frame((depth,), points[i], number, who, sequence, part)
                number += 1

    rig = Rig((_camera("creative", (320, 240), MSRA_K, depth_unit_mm=MSRA_STEP_MM),))
    return PublishedSet(rig, "msra21", sum(counts), frames, "right", {"subjects": [f"P{i}" for i in people]})


def _gestures(folder: Path, who: int) -> list[str]:
    here = folder / f"P{who}"
    found = [entry.name for entry in sorted(here.iterdir()) if entry.is_dir()]
    strange = [name for name in found if name not in GESTURES]
    if strange or not found:
        why = f"'{strange[0]}' is none of {', '.join(GESTURES)}" if strange else "it holds no folder of a gesture"
        raise HandloomError("This is not a subject of MSRA15", where=str(here), why=why)
    return [name for name in GESTURES if name in found]


def _msra_count(here: Path) -> int:
    labelled = len(msra_points(_there(here / "joint.txt", "MSRA15's labels")))
    bins = sum(1 for _ in here.glob("*_depth.bin"))
    if bins != labelled:
        raise HandloomError(
            f"There are {bins} images, joint.txt labels {labelled}", where=str(here), fix="unpack the folder again"
        )
    return labelled


def read_msra_bin(path: Path) -> NDArray[np.uint16]:
    """(240, 320) uint16 in steps of 0.1 mm of one NNNNNN_depth.bin; 0 outside its box.

    Raises:
        HandloomError: truncated, or not such a file.
    """
    try:
        data = read_small(path)
    except (OSError, ValueError) as error:
        raise HandloomError("An image of MSRA15 cannot be read", where=str(path), why=said(error)) from error
    header = np.frombuffer(data[:24], "<i4").tolist() if len(data) >= 24 else []
    if header[:2] != [320, 240]:
        why = f"width and height read {header[:2]}, not [320, 240]" if header else f"{len(data)} bytes"
        raise HandloomError("This is no depth image of MSRA15", where=str(path), why=why)
    left, top, right, bottom = header[2:]
    if not (0 <= left < right <= 320 and 0 <= top < bottom <= 240):
        raise HandloomError(
            "The box lies outside the image", where=str(path), why=f"left top right bottom {header[2:]}"
        )
    expected = 24 + 4 * (right - left) * (bottom - top)
    if len(data) != expected:
        raise HandloomError(
            "The file is truncated or damaged", where=str(path),
            why=f"{len(data)} bytes; its box of {right - left} x {bottom - top} needs {expected}", fix="copy it again",
        )  # fmt: skip
    box = np.frombuffer(data[24:], "<f4").reshape(bottom - top, right - left)
    if not (np.isfinite(box).all() and box.min() >= 0 and box.max() < MSRA_STEP_MM * 65535):
        raise HandloomError("The depth is not in millimetres", where=str(path), why="values outside 0 to 6553 mm")
    depth = np.zeros((240, 320), np.uint16)
    depth[top:bottom, left:right] = np.rint(box / MSRA_STEP_MM)
    return depth


# -- HANDS17 -------------------------------------------------------------------------------------------------


def _bighand(folder: Path, split: Split | None) -> PublishedSet:
    if split == "test":
        raise HandloomError("The labels of HANDS17's test set are not published", fix="leave out --split")
    name = "Training_Annotation.txt"
    here = folder if (folder / name).is_file() else folder / "training"
    path = _there(here / name, "HANDS17's labels")

    def frames() -> Iterator[Frame]:
        for i, (line, image, points) in enumerate(named_points(path, joints=21)):
            file = _image(here, image, ("images", "."), f"{path}, line {line}")
            yield Frame((read_depth_png(file, size=(640, 480)),), points, i, 0, i)

    rig = Rig((_camera("sr300", (640, 480), BIGHAND_K),))
    said = {"sequences": "one a frame: their order in time is not known"}
    return PublishedSet(rig, "bighand21", sum(1 for _ in text_lines(path)), frames, None, said)


# -- files ---------------------------------------------------------------------------------------------------


def _there(path: Path, what: str) -> Path:
    if not path.is_file():
        raise HandloomError(
            f"{what} {'is' if what == 'An image' else 'are'} missing",
            where=str(path),
            fix="give the folder as it was unpacked, or unpack the set again",
        )
    return path


def _image(folder: Path, name: str, below: tuple[str, ...], where: str) -> Path:
    """The image that a label file names, in one of the folders where it may be."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise HandloomError("An image lies outside the folder", where=where, why=name[:80])
    for place in below:
        if (folder / place / name).is_file():
            return folder / place / name
    raise HandloomError("An image is labelled but not there", where=where, why=str(folder / below[0] / name),
                        fix="unpack the set again, or delete that line")  # fmt: skip


def _camera(
    name: str, size: tuple[int, int], k: tuple[float, float, float, float],
    rotation: F64 | None = None, translation: F64 | None = None, *, depth_unit_mm: float = 1.0,
) -> Camera:  # fmt: skip
    r = np.eye(3) if rotation is None else rotation
    t = np.zeros(3) if translation is None else translation
    rows = tuple((float(a), float(b), float(c)) for a, b, c in r)
    x, y, z = (float(value) for value in t)
    return Camera(name, *size, k, rows, (x, y, z), depth_unit_mm)
