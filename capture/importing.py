"""`capture import`: a plain folder becomes a recording, its joints.csv the labels.

The folder says which images belong together (its frames), so nothing is grouped by time. A frame that lacks a
camera's image keeps its row; that image is marked as dropped.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.folder import PlainFolder, read_folder
from ..stores.folder_meta import origin_of, read_facts
from ..stores.recording import Recording, create_recording, open_recording, prepare_output
from ..stores.table import Appender
from .folder import FolderSource
from .record import Progress, software

BATCH_FRAMES: Final = 32


def import_folder(folder: Path, out: Path, *, overwrite: bool = False, progress: Progress | None = None) -> Recording:
    """Read a plain folder into a recording of kind `captured`, with labels where it has any.

    Its meta.toml may say which hand, the labels' layout, subjects, sequences and splits (`stores/folder_meta.py`).
    Frames without labels have NaN joints.

    Raises:
        HandloomError: `out` exists; something of the folder is not as `stores.folder` describes it. Nothing is left
            at `out` then.
    """
    plain = read_folder(folder)
    if not overwrite:
        prepare_output(out, overwrite=False)
    # Made beside and put in place when whole: a bad image costs neither a half recording nor the old one.
    partial = out.with_name(f".{out.name}.importing")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _import(plain, folder, partial, progress)
        prepare_output(out, overwrite=overwrite)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_recording(out)


def _import(plain: PlainFolder, folder: Path, out: Path, progress: Progress | None) -> None:
    frames = list(plain.frames)
    recording = create_recording(
        out,
        kind="captured",
        rig=plain.rig,
        hand="left" if str(plain.meta.get("hand", "right")) == "left" else "right",
        provenance={
            **FolderSource(folder).provenance,
            "written_by": software(),
            **({"parents": parents} if (parents := origin_of(plain.meta, folder, frames)) else {}),
        },
    )
    facts = read_facts(plain.meta, frames, where=str(folder / "meta.toml"))
    table = recording.create_frames(depth=True)
    by_frame: dict[int, list[Any]] = {}
    for image in plain.images:
        by_frame.setdefault(image.frame, []).append(image)
    with Appender(table) as appender:
        for start in range(0, len(frames), BATCH_FRAMES):
            batch = frames[start : start + BATCH_FRAMES]
            of = slice(start, start + len(batch))
            said: dict[str, NDArray[Any]] = {
                "subject": facts.subject[of],
                "sequence": facts.sequence[of],
                "split": facts.split[of],
            }
            appender.append({**_rows(plain, batch, by_frame), **said})
            if progress is not None:
                progress(min(start + BATCH_FRAMES, len(frames)), len(frames))
    if plain.joints:
        _write_labels(recording, plain, frames)


def _rows(plain: PlainFolder, frames: list[int], by_frame: dict[int, list[Any]]) -> dict[str, NDArray[Any]]:
    count, views = len(frames), len(plain.rig)
    out: dict[str, NDArray[Any]] = {
        f"depth/{camera.name}": np.zeros((count, camera.height, camera.width), np.uint16)
        for camera in plain.rig.cameras
    }
    out["present"] = np.zeros((count, views), np.uint8)
    for name in ("t_device_ns", "t_host_ns", "frame_number"):
        out[name] = np.full((count, views), -1, np.int64)
    for row, frame in enumerate(frames):
        for image in by_frame[frame]:
            view = image.camera
            out[f"depth/{plain.rig.names[view]}"][row] = plain.depth(image)
            out["present"][row, view] = 1
            out["t_device_ns"][row, view] = image.t_device_ns
            out["t_host_ns"][row, view] = image.t_host_ns
            out["frame_number"][row, view] = frame
    out["frame_id"] = np.array(frames, np.uint64)
    return out


def _write_labels(recording: Recording, plain: PlainFolder, frames: list[int]) -> None:
    unknown = np.full((len(plain.layout), 3), np.nan, np.float32)
    joints = np.stack([plain.joints.get(frame, unknown) for frame in frames])
    known = np.asarray(np.isfinite(joints).all(axis=2))
    visible = np.repeat(known[:, None], len(plain.rig), axis=1).astype(np.uint8)
    table = recording.create_labels(layout=plain.layout.name, attributes={"source": "joints.csv"})
    with Appender(table) as appender:
        appender.append({"joints": joints, "visible": visible.astype(np.uint8)})
