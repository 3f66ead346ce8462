"""From a depth source to a recording: group the images into sets, write whole units behind a queue.

The source is read in the caller's thread; one writer thread compresses and flushes, so a slow disk is felt
only when the queue is full. A source that can wait (files, folders, the virtual rig) then waits. Whatever
ends the recording early, ctrl-C or a source that fails, leaves a recording of all complete sets.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import HandloomError
from ..stores.recording import OPEN_UNIT_FRAMES, Recording, create_recording, open_recording
from ..stores.table import Appender
from .source import HOST_CLOCKS, Annotated, DepthSource, Moment
from .sync import Grouper, ImageSet, sync_report

QUEUE_SETS: Final = 60
"""Sets that may wait for the disk: two seconds at 30 Hz."""

Progress = Callable[[int, int], None]
Row = dict[str, NDArray[Any]]


def record(
    source: DepthSource,
    out: Path,
    *,
    hand: str = "right",
    keep_truth: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Recording:
    """Record everything a source gives.

    Args:
        source: an open depth source.
        out: the recording to make.
        hand: which hand is seen, 'right' or 'left'.
        keep_truth: also keep the joints that a virtual or labelled source knows, as labels.
        overwrite: replace the recording at `out`.
        progress: called with images read and images in all (0 if unknown).

    Raises:
        HandloomError: `out` is taken, or the source gave no image.
    """
    assert hand in ("right", "left")
    recording = create_recording(
        out,
        kind="captured",
        rig=source.rig,
        hand="left" if hand == "left" else "right",
        provenance=source.provenance | {"clock": source.clock},
        overwrite=overwrite,
    )
    table = recording.create_frames(depth=True, unit_frames=OPEN_UNIT_FRAMES)
    moments: list[Moment] = []
    with Appender(table) as appender, _Writer(appender) as writer:
        for frame_id, images in enumerate(_sets(source, progress)):
            moments.append(_moment(source, images))
            writer.put(record_row(source.rig, images, frame_id, moments[-1]))
    if not moments:
        raise HandloomError("The source gave no image", where=str(out), why=str(source.provenance))
    recording = open_recording(out, writable=True)
    _note_sync(recording, shared_clock=source.clock in HOST_CLOCKS)
    if keep_truth:
        _keep_truth(recording, moments)
    return recording


def _sets(source: DepthSource, progress: Progress | None) -> Iterator[ImageSet]:
    grouper = Grouper(len(source.rig), shared_clock=source.clock in HOST_CLOCKS)
    try:
        for count, image in enumerate(source.frames(), start=1):
            yield from grouper.push(image)
            if progress is not None:
                progress(count, source.n_images or 0)
    except KeyboardInterrupt:  # ctrl-C ends a recording, it does not spoil it
        pass
    yield from grouper.flush()


def _moment(source: DepthSource, images: ImageSet) -> Moment:
    if not isinstance(source, Annotated):
        return Moment()
    image = next(image for image in images.images if image is not None)
    return source.moment(image.camera, image.frame_number)


def record_row(rig: Rig, images: ImageSet, frame_id: int, moment: Moment) -> Row:
    """One row of `frames/`, with a leading axis of 1."""
    stamps = np.full((3, 1, len(rig)), -1, np.int64)
    present = np.zeros((1, len(rig)), np.uint8)
    row: Row = {}
    for view, (camera, image) in enumerate(zip(rig.cameras, images.images, strict=True)):
        if image is None:
            row[f"depth/{camera.name}"] = np.zeros((1, camera.height, camera.width), np.uint16)
            continue
        if image.depth.shape != (camera.height, camera.width):
            raise HandloomError(
                "A camera's images disagree with the rig",
                where=f"camera '{camera.name}', image {image.frame_number}",
                why=f"{image.depth.shape[1]} x {image.depth.shape[0]}, not {camera.width} x {camera.height}",
                fix="give the camera its true width, height and K in rig.toml",
            )
        row[f"depth/{camera.name}"] = image.depth[None]
        present[0, view] = 1
        stamps[:, 0, view] = image.t_device_ns, image.t_host_ns, image.frame_number
    return row | {
        "present": present,
        "t_device_ns": stamps[0],
        "t_host_ns": stamps[1],
        "frame_number": stamps[2],
        "frame_id": np.array([frame_id]),
        "subject": np.array([moment.subject]),
        "sequence": np.array([moment.sequence]),
        "split": np.array([moment.split]),
    }


def _note_sync(recording: Recording, *, shared_clock: bool) -> None:
    frames = recording.frames
    assert frames is not None
    stamps = [frames.read(name) for name in ("t_device_ns", "t_host_ns", "frame_number")]
    recording.annotate(sync=sync_report(recording.rig.names, *stamps, shared_clock=shared_clock))


def _keep_truth(recording: Recording, moments: list[Moment]) -> None:
    from ..stores.joints import OPENXR26

    joints = np.full((len(moments), len(OPENXR26), 3), np.nan, np.float32)
    for row, moment in enumerate(moments):
        if "joints" in moment.labels:
            joints[row] = moment.labels["joints"]
    if np.isfinite(joints).any():
        recording.replace_labels(joints, layout="openxr26", attributes={"source": "the depth source's truth"})


class _Writer:
    """The thread between the queue and the disk; its error is raised where the rows come from."""

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self._rows: queue.Queue[Row | None] = queue.Queue(QUEUE_SETS)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="handloom-writer", daemon=True)

    def put(self, row: Row) -> None:
        """Hand over one row; waits while the queue is full."""
        self._raise()
        self._rows.put(row)

    def _run(self) -> None:
        while (row := self._rows.get()) is not None:
            if self._error is None:
                try:
                    self._appender.append(row)
                except BaseException as error:  # told to the caller by `put` or at the end
                    self._error = error

    def _raise(self) -> None:
        if isinstance(self._error, OSError):
            raise HandloomError(
                "The recording cannot be written on",
                where=str(self._appender.table.path),
                why=self._error.strerror or str(self._error),
                fix=f"free space on the disk; {self._appender.table.committed} sets are safe",
                exit_code=3,
            ) from self._error
        if self._error is not None:
            raise self._error

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._rows.put(None)
        self._thread.join()
        if kind is None:
            self._raise()
