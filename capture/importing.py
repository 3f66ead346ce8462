"""From a plain folder to a recording: the frames as the folder numbers them, labels where it has any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..stores.folder import FolderImage, PlainFolder, read_folder
from ..stores.joints import OPENXR26
from ..stores.recording import UNIT_FRAMES, Recording, create_recording, open_recording
from ..stores.table import Appender
from .record import record_row
from .source import Image, Moment
from .sync import ImageSet


def import_folder(
    path: Path,
    out: Path,
    *,
    hand: str = "right",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Recording:
    """Make a recording of a plain folder; an image that is missing in it is a dropped image.

    Args:
        path: the folder.
        out: the recording to make; row k holds the k-th frame number, which becomes its `frame_id`.
        hand: which hand is seen, 'right' or 'left'.
        overwrite: replace the recording at `out`.
        progress: called with frames done and frames in all.

    Raises:
        HandloomError: the folder is not of that form, an image is no depth image, or `out` is taken.
    """
    folder = read_folder(path)
    frames = folder.frames
    first = folder.images[0]
    folder.depth(first)  # refuse a wrong kind of image before anything is written
    recording = create_recording(
        out,
        kind="captured",
        rig=folder.rig,
        hand="left" if hand == "left" else "right",
        provenance={"source": "folder", "virtual": False, "folder": path.name, "meta": dict(folder.meta)},
        overwrite=overwrite,
    )
    by_frame: dict[int, list[FolderImage]] = {frame: [] for frame in frames}
    for image in folder.images:
        by_frame[image.frame].append(image)
    with Appender(recording.create_frames(depth=True, unit_frames=min(UNIT_FRAMES, 32))) as appender:
        for count, frame in enumerate(frames, start=1):
            appender.append(record_row(folder.rig, _set(folder, by_frame[frame]), frame, Moment()))
            if progress is not None:
                progress(count, len(frames))
    recording = open_recording(out, writable=True)
    if folder.joints:
        joints = np.full((len(frames), len(OPENXR26), 3), np.nan, np.float32)
        for row, frame in enumerate(frames):
            if frame in folder.joints:
                joints[row] = folder.joints[frame]
        recording.replace_labels(joints, layout="openxr26", attributes={"source": "joints.csv"})
    return recording


def _set(folder: PlainFolder, images: list[FolderImage]) -> ImageSet:
    views: list[Image | None] = [None] * len(folder.rig)
    for image in images:
        views[image.camera] = Image(image.camera, folder.depth(image), image.t_device_ns, image.t_host_ns, image.frame)
    return ImageSet(tuple(views))
