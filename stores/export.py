"""A recording as a plain folder (see `folder.py`), which everyone can read and `capture import` takes back.

Kept: the rig, the full frames of images that are there, their times, frame_ids as frame numbers, joints in their
layout to the last bit, the hand, subject, sequence and split (meta.toml), and whose twins go with it. Not kept, for
the form has no room for it: frames without any image, visibility, crops and centres (`capture locate` finds them
again), synthesis parameters.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import read_rig
from .durable import disk_error
from .errors import HandloomError
from .folder import write_folder, write_joints
from .folder_meta import FrameFacts, write_meta
from .recording import Recording, open_recording

FILES: Final = ("rig.toml", "frames.csv", "joints.csv", "meta.toml")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    images: int
    frames: int
    labelled: int
    left_out: tuple[str, ...]
    """What the folder has no room for, in words."""


def export(path: Path, out: Path, *, overwrite: bool = False, progress: Callable[..., None] | None = None) -> Exported:
    """Write the recording at `path` as the plain folder `out`; it appears there when it is whole.

    Args:
        path: a recording with full frames.
        out: folder for rig.toml, frames.csv, joints.csv, meta.toml and a folder of PNGs a camera.
        overwrite: replace a plain folder that is there.
        progress: told of images written, and of how many.

    Raises:
        HandloomError: it keeps no full frames, is damaged, or `out` is taken (by no plain folder, with `overwrite`).
    """
    recording = open_recording(path)
    frames = recording.frames
    assert frames is not None
    if not recording.has_depth:
        raise HandloomError(
            "The recording keeps no full frames to export", where=str(path), why="it was rendered as crops of the hand"
        )
    ours = (out / "rig.toml").is_file() and (out / "frames.csv").is_file()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not overwrite:
            raise HandloomError("The output exists already", where=str(out), fix="add --overwrite")
        if not ours or path.resolve().is_relative_to(out.resolve()):
            raise HandloomError("Refusing to overwrite what is not a plain folder", where=str(out))
        strange = sorted({entry.name for entry in out.iterdir()} - {*FILES, *read_rig(out / "rig.toml").names})
        if strange:
            raise HandloomError(
                f"Refusing to remove what is not the folder's: '{strange[0]}'",
                where=str(out),
                fix="move it elsewhere, or choose another --out",
            )
    present, ids = frames.read("present"), frames.read("frame_id")
    kept: NDArray[np.bool_] = np.asarray((present > 0).any(axis=1))
    joints: dict[int, NDArray[Any]] | None = None
    left_out = [f"{(~kept).sum()} frames without any image"] if not kept.all() else []
    layout = recording.layout
    if recording.labels is not None:
        points = recording.labels.read("joints")
        known: NDArray[np.bool_] = np.asarray(np.isfinite(points).all(axis=2).any(axis=1))
        joints = {int(ids[row]): points[row] for row in np.flatnonzero(known & kept[: len(points)])}
    partial = out.with_name(f".{out.name}.exporting")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write_folder(partial, recording.rig, _images(recording, present, ids, progress))
        if joints is not None and layout is not None:
            write_joints(partial / "joints.csv", joints, points=layout.points)
        rows = np.flatnonzero(kept)
        facts = FrameFacts(*(frames.read(name)[rows] for name in ("subject", "sequence", "split")))
        # A rendered recording stays known as virtual when it comes back as a capture.
        virtual = recording.kind == "synthetic" or bool(recording.provenance.get("virtual"))
        said: dict[str, str | bool] = {"hand": recording.hand, **({"virtual": True} if virtual else {})}
        if layout is not None and layout.name != "openxr26":
            said["layout"] = layout.name
        write_meta(partial / "meta.toml", said, ids[rows].tolist(), facts, origin=recording.uuid)
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise disk_error(error, out, fix="make room, then export again") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Exported(int(present.sum()), int(kept.sum()), len(joints or {}), tuple(left_out))


def _images(
    recording: Recording, present: NDArray[Any], ids: NDArray[Any], progress: Callable[..., None] | None
) -> Iterator[tuple[int, int, NDArray[np.uint16], int, int]]:
    """One image after the other, with its times."""
    frames = recording.frames
    assert frames is not None
    device, host = frames.read("t_device_ns"), frames.read("t_host_ns")
    for row in range(len(ids)):
        for view, name in enumerate(recording.rig.names):
            if present[row, view]:
                depth = frames.read_rows(f"depth/{name}", [row])[0]
                yield int(ids[row]), view, depth, int(device[row, view]), int(host[row, view])
        if progress is not None:
            progress(row + 1, len(ids))
