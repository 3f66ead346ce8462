"""From a depth source to a recording: images grouped into sets, full frames written unit by unit.

The reader (this thread) never waits for the disk as long as the bounded queue has room; a writer thread packs
and commits. Stopping by ctrl-C, an error of the source or an unplugged camera closes the recording: every set
that was formed is in it, and its report says how it ended. Only a full disk or a kill loses the open unit.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.recording import OPEN_UNIT_FRAMES, Recording, create_recording, open_recording
from ..stores.table import Appender, Table
from .source import HOST_CLOCKS, Annotated, DepthSource, Moment
from .sync import Grouper, ImageSet, sync_report

QUEUE_SETS: Final = 64

Progress = Callable[..., None]
"""`progress(done, total, note="")`; total is 0 where it is unknown."""


def record(
    source: DepthSource,
    out: Path,
    *,
    overwrite: bool = False,
    keep_truth: bool = False,
    max_sets: int | None = None,
    progress: Progress | None = None,
) -> Recording:
    """Record a source until it ends.

    Args:
        source: what gives the images; it is not closed.
        out: the recording to make.
        overwrite: remove a recording that is there.
        keep_truth: where the source knows the joints (the virtual rig), write them as labels: for evaluation,
            and for as many labelled frames as training is told to use.
        max_sets: stop after so many sets.
        progress: told of sets written.

    Raises:
        HandloomError: `out` exists, images disagree with the rig, the source fails (what came before is kept).
    """
    annotated = source if isinstance(source, Annotated) else None
    if keep_truth and annotated is None:
        raise HandloomError("This source knows no truth to keep", why=f"it is '{source.provenance['source']}'")
    recording = create_recording(
        out,
        kind="captured",
        rig=source.rig,
        hand=_hand_of(source),
        provenance={**source.provenance, "written_by": software(), "started_unix_s": round(time.time(), 3)},
        overwrite=overwrite,
    )
    table = recording.create_frames(depth=True, unit_frames=OPEN_UNIT_FRAMES)
    keeper = _Keeper(recording, annotated)
    ended = "source ended"
    failure: BaseException | None = None
    with Appender(table) as appender:
        writer = _Writer(appender)
        try:
            _pump(source, keeper, writer, max_sets, progress)
        except KeyboardInterrupt:
            ended = "interrupted"
        except Exception as error:
            ended, failure = f"source failed: {error}".splitlines()[0], error
        finally:
            writer.close()
        if writer.failure is not None:
            raise _writing_failed(writer.failure, table) from writer.failure
    if keep_truth:
        keeper.write_labels()
    recording.annotate(ended=ended, sync=keeper.report(source.clock), **keeper.people())
    if failure is not None:
        raise failure
    if keeper.count == 0:
        raise HandloomError("The source gave no images", where=str(out))
    return open_recording(out)


def _pump(
    source: DepthSource, keeper: _Keeper, writer: _Writer, max_sets: int | None, progress: Progress | None
) -> None:
    """Move images from the source into sets and on to the writer."""
    views = len(source.rig)
    total = 0 if source.n_images is None else -(-source.n_images // views)
    total = total if max_sets is None else min(total or max_sets, max_sets)
    grouper = Grouper(views, shared_clock=source.clock in (*HOST_CLOCKS, "folder"))

    def hand_on(sets: list[ImageSet]) -> bool:
        for one in sets:
            if max_sets is not None and keeper.count >= max_sets:
                return False
            writer.put(keeper.rows(one))
        if sets and progress is not None:
            progress(keeper.count, max(total, keeper.count))
        return max_sets is None or keeper.count < max_sets

    try:
        for image in source.frames():
            if not hand_on(grouper.push(image)):
                return
    finally:
        # Also after ctrl-C or a source that failed: what was grouped or waits for partners is kept.
        hand_on(grouper.flush())


class _Keeper:
    """Turns sets into rows and remembers what is said of them at the end."""

    def __init__(self, recording: Recording, annotated: Annotated | None) -> None:
        self._recording, self._annotated = recording, annotated
        self._stamps: list[tuple[list[int], list[int], list[int]]] = []
        self._moments: list[Moment] = []

    @property
    def count(self) -> int:
        """Sets so far."""
        return len(self._stamps)

    def rows(self, one: ImageSet) -> dict[str, NDArray[Any]]:
        """A set as one row of every column of `frames/`."""
        images = one.images
        out: dict[str, NDArray[Any]] = {}
        for view, camera in enumerate(self._recording.rig.cameras):
            image, size = images[view], (camera.height, camera.width)
            if image is not None and (image.depth.shape != size or image.depth.dtype != np.uint16):
                raise HandloomError(
                    f"An image of '{camera.name}' disagrees with the rig",
                    where=f"frame {image.frame_number}",
                    why=f"{image.depth.shape} {image.depth.dtype}, expected {size} uint16",
                )
            depth = np.zeros(size, np.uint16) if image is None else image.depth
            out[f"depth/{camera.name}"] = depth[None]
        first = next(image for image in images if image is not None)
        moment = self._annotated.moment(first.camera, first.frame_number) if self._annotated is not None else Moment()
        stamps = (
            [-1 if image is None else image.t_device_ns for image in images],
            [-1 if image is None else image.t_host_ns for image in images],
            [-1 if image is None else image.frame_number for image in images],
        )
        row = self.count
        self._stamps.append(stamps)
        self._moments.append(moment)
        out["present"] = np.array([[image is not None for image in images]], np.uint8)
        for name, values in zip(("t_device_ns", "t_host_ns", "frame_number"), stamps, strict=True):
            out[name] = np.array([values], np.int64)
        out["frame_id"] = np.array([row], np.uint64)
        out["subject"] = np.array([moment.subject], np.int32)
        out["sequence"] = np.array([moment.sequence], np.int32)
        out["split"] = np.array([moment.split], np.uint8)
        return out

    def write_labels(self) -> None:
        """The truth of every set as `labels/`."""
        if not self._moments or not self._moments[0].labels:
            return
        known = self._moments[0].labels
        pose, shape, root = (len(known[name]) if name in known else 0 for name in ("pose", "shape", "root"))
        table = self._recording.create_labels(
            layout="openxr26",
            pose_size=pose,
            shape_size=shape,
            root_size=root,
            attributes={"source": "virtual truth"},
        )
        rows = {name: np.stack([moment.labels[name] for moment in self._moments]) for name in known}
        views = len(self._recording.rig)
        rows["visible"] = np.array([_in_image(self._recording, joints) for joints in rows["joints"]])
        assert rows["visible"].shape[1] == views
        with Appender(table) as appender:
            appender.append(rows)

    def report(self, clock: str) -> dict[str, Any]:
        """The cameras' times, see `sync_report`."""
        views = len(self._recording.rig)
        device, host, number = (
            np.array([stamps[i] for stamps in self._stamps], np.int64).reshape(-1, views) for i in range(3)
        )
        shared = clock in (*HOST_CLOCKS, "folder")
        return sync_report(self._recording.rig.names, device, host, number, shared_clock=shared)

    def people(self) -> dict[str, Any]:
        """How many subjects and sequences there are."""
        return {
            "subjects": len({moment.subject for moment in self._moments}),
            "sequences": len({moment.sequence for moment in self._moments}),
        }


def _in_image(recording: Recording, joints_mm: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(V, 26) 1 where a joint projects into the view's image; what hides it is not looked at."""
    from ..stores.camera import project

    out = []
    for camera in recording.rig.cameras:
        points = camera.to_camera(joints_mm)
        u, v = project(points, camera.k).T
        inside = (u >= -0.5) & (v >= -0.5) & (u < camera.width - 0.5) & (v < camera.height - 0.5)
        out.append(inside & (points[:, 2] > 0))
    return np.array(out, np.uint8)


class _Writer:
    """A thread that appends rows; a failure of it stops the reader at its next `put`."""

    def __init__(self, appender: Appender) -> None:
        self.failure: BaseException | None = None
        self._appender = appender
        self._queue: queue.Queue[dict[str, NDArray[Any]] | None] = queue.Queue(QUEUE_SETS)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def put(self, rows: dict[str, NDArray[Any]]) -> None:
        """Hand over one row, waiting for room."""
        while self.failure is None:
            try:
                self._queue.put(rows, timeout=0.2)
            except queue.Full:
                continue
            return
        raise self.failure

    def close(self) -> None:
        """Wait until all that was handed over is written."""
        while self._thread.is_alive():
            try:
                self._queue.put(None, timeout=0.2)
            except queue.Full:
                continue
            break
        self._thread.join()

    def _run(self) -> None:
        while (rows := self._queue.get()) is not None:
            try:
                self._appender.append(rows)
            except BaseException as error:  # it must surface on the recording's thread
                self.failure = error
                return


def _writing_failed(error: BaseException, table: Table) -> HandloomError:
    """What the disk said, in the user's words."""
    return HandloomError(
        "The recording could not be written on",
        where=str(table.path),
        why=str(error) or repr(error),
        fix=f"the first {table.committed} sets are safe; make room and record again",
    )


def _hand_of(source: DepthSource) -> Literal["right", "left"]:
    return cast('Literal["right", "left"]', getattr(source, "hand", "right"))


def software() -> dict[str, str]:
    """Versions of what writes a recording."""
    out = {"python": platform.python_version()}
    for name in ("handloom", "numpy", "zarr"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            continue
    return out
