"""From a depth source to a recording: images grouped into sets, full frames written unit by unit.

The reader (this thread) never waits for the disk as long as the bounded queue has room; a writer thread packs and
commits. Cameras are read in a process of their own (`apart.py`) whose images wait in shared memory meanwhile, so
that a disk that stands still for a second or a busy interpreter costs none.

Ctrl-C, an error of the source, a camera that is unplugged, a capture process that dies: every set that was formed is
in the recording, which says how it ended. Only a full disk or a kill of this process loses the open unit. Images
that found no room are counted by camera, apart from those that a camera's own counter says it has lost.
"""

from __future__ import annotations

import errno
import platform
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, cast
from uuid import uuid4

from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from ..stores.recording import OPEN_UNIT_FRAMES, Recording, create_recording, open_recording, prepare_output
from ..stores.table import Appender, Table
from .apart import SourceApart, Traffic
from .meter import Meter, Watch
from .rows import Keeper
from .segments import begin_segment, continued, end_segment, note_drops
from .source import HOST_CLOCKS, Annotated, DepthSource, Lossy, Stoppable, check_image
from .stopping import Told, until_told
from .sync import Grouper, ImageSet, sync_report

QUEUE_SETS: Final = 32
"""Two units: one is written while the next one fills."""

NOTE_DROPS_EVERY_S: Final = 10.0
TIME_IS_UP: Final = "as many seconds as asked for"

Progress = Callable[..., None]
"""`progress(done, total, note="")`; total is 0 where it is unknown."""


def record(
    source: DepthSource,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    keep_truth: bool = False,
    max_sets: int | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Recording:
    """Record a source until it ends, a limit is reached, or ctrl-C.

        with open_source(["virtual"], frames=300) as cameras:
            recording = record(cameras, Path("R.zarr"))

    The images of all cameras are put together into sets of one instant (`sync.py`); a missing one is a hole of its set.

    Args:
        source: what gives the images; it is not closed.
        out: the recording to make.
        overwrite: remove a recording that is there.
        resume: append a segment to a recording that is there, of the same rig.
        keep_truth: where the source knows the joints (the virtual rig), write them as labels: for evaluation,
            and for as many labelled frames as training is told to use.
        max_sets: stop after so many sets.
        seconds: stop so long after the first image.
        progress: told of sets written.
        watch: told twice a second how it goes.

    Raises:
        HandloomError: `out` exists or is of another rig, images disagree with the rig, the source fails or the disk
            is full (what came before is kept).
    """
    annotated = source if isinstance(source, Annotated) else None
    if keep_truth and (annotated is None or resume):
        why = "labels are written once" if resume else f"it is '{source.provenance['source']}'"
        raise HandloomError("This source knows no truth to keep", why=why)
    try:
        recording = continued(source, out) if resume else None
        fresh = recording is None
        if recording is None:
            # What `continued` does not take up was cut off before its first set.
            recording = _begun(source, out, overwrite=overwrite or (resume and out.exists()))
        assert recording.frames is not None
        with Appender(recording.frames) as appender:
            session = _Session(source, recording, appender, annotated)
            session.run(max_sets, seconds, progress, watch)
        session.finish(keep_truth=keep_truth)
    except OSError as error:
        raise _writing_failed(error, out, None) from error
    if fresh and session.keeper.count == 0:
        shutil.rmtree(out)  # nothing was recorded: nothing stays
    if session.failure is not None:
        if isinstance(session.failure, HandloomError) and not session.failure.where:
            sets = session.keeper.count
            session.failure.where = f"{out}, after {sets} sets, which are kept" if sets else str(out)
        raise session.failure
    if session.keeper.count == 0:
        raise HandloomError("The source gave no images", where=str(out))
    return open_recording(out)


def _begun(source: DepthSource, out: Path, *, overwrite: bool) -> Recording:
    if not overwrite:
        prepare_output(out, overwrite=False)
    # Made beside and renamed: a kill leaves no recording that lacks a part.
    beside = out.with_name(f".{out.name}.{uuid4().hex}")
    try:
        made = create_recording(
            beside,
            kind="captured",
            rig=source.rig,
            hand=_hand_of(source),
            provenance={**source.provenance, "written_by": software(), "started_unix_s": round(time.time(), 3)},
        )
        made.create_frames(depth=True, unit_frames=OPEN_UNIT_FRAMES)
        prepare_output(out, overwrite=overwrite)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return open_recording(out, writable=True)


class _Session:
    """One go of recording: a segment, from its first image to its report."""

    def __init__(
        self, source: DepthSource, recording: Recording, appender: Appender, annotated: Annotated | None
    ) -> None:
        # Read again behind the lock: another writer may have ended in between.
        recording.attributes = open_recording(recording.path).attributes
        frames = appender.table
        first = frames.committed
        sequence = int(frames.read("sequence").max()) + 1 if first else 0
        begin_segment(recording, source, first, sequence)
        self.source, self.recording, self.table = source, recording, frames
        next_id = int(frames.read("frame_id").max()) + 1 if first else 0
        self._first = first
        self.keeper = Keeper(recording, annotated, next_id, sequence)
        self.meter = Meter(recording.rig.names, frames, live=source.live)
        self.writer = _Writer(appender)
        self.ended = "source ended"
        self.failure: Exception | None = None
        self._cpu_s = time.process_time()
        self._noted_at = time.monotonic()
        self._noted = self._drops()

    def run(self, max_sets: int | None, seconds: float | None, progress: Progress | None, watch: Watch | None) -> None:
        """Move images from the source into sets and on to the writer, until something ends it."""
        try:
            source = self.source
            with until_told(source.stop if isinstance(source, Stoppable) else None) as told:
                self.ended = self._pump(max_sets, seconds, told, progress, watch)
        except KeyboardInterrupt:
            self.ended = "interrupted"
        except Exception as error:
            self.ended, self.failure = f"source failed: {error}".splitlines()[0], error
        finally:
            self.writer.close()
        if self.writer.failure is not None:
            failure = _writing_failed(self.writer.failure, self.recording.path, self.table)
            with suppress(OSError):
                end_segment(self.recording, self._said(f"{failure.what}: {failure.why}"))
            raise failure from self.writer.failure

    def _pump(
        self,
        max_sets: int | None,
        seconds: float | None,
        told: Told,
        progress: Progress | None,
        watch: Watch | None,
    ) -> str:
        source, keeper, meter = self.source, self.keeper, self.meter
        total = 0 if source.n_images is None else -(-source.n_images // len(source.rig))
        total = total if max_sets is None else min(total or max_sets, max_sets)
        grouper = Grouper(len(source.rig), shared_clock=source.clock in (*HOST_CLOCKS, "folder"))

        def tell() -> None:
            if watch is not None and meter.due:
                with suppress(OSError):  # a terminal that was closed must not end the recording
                    watch(meter.reading(keeper.count, self._traffic(), self.writer.share))

        def hand_on(sets: list[ImageSet]) -> bool:
            for one in sets:
                if max_sets is not None and keeper.count >= max_sets:
                    return False
                self.writer.put(keeper.rows(one), tell)
                if one.skew_ns is not None:
                    meter.skew(one.skew_ns)
            if sets and progress is not None:
                with suppress(OSError):
                    progress(keeper.count, max(total, keeper.count))
            return max_sets is None or keeper.count < max_sets

        end: float | None = None
        ended = "source ended"
        try:
            for image in source.frames():
                check_image(self.recording.rig, image)
                meter.image(image)
                if not hand_on(grouper.push(image)):
                    return "as many sets as asked for"
                tell()
                self._note_drops()
                if seconds is not None:
                    end = time.monotonic() + seconds if end is None else end
                    if time.monotonic() >= end and not told:
                        if not isinstance(source, Stoppable):
                            return TIME_IS_UP
                        source.stop()  # what has come until now is still to be given
                        ended = TIME_IS_UP
                if told and not isinstance(source, Stoppable):
                    break
        finally:
            # Also after ctrl-C or a source that failed: what was grouped or waits for partners is kept.
            hand_on(grouper.flush())
        return "interrupted" if told else ended

    def finish(self, *, keep_truth: bool) -> None:
        """Write what is said of the whole."""
        if keep_truth:
            self.keeper.write_labels()
        end_segment(self.recording, self._said(self.ended))
        self.recording.annotate(**self.keeper.people())

    def _traffic(self) -> Traffic | None:
        return self.source.traffic if isinstance(self.source, SourceApart) else None

    def _drops(self) -> dict[str, dict[str, int]]:
        """By camera: images that found no room here, and those its counter says were lost before."""
        traffic, names = self._traffic(), self.recording.rig.names
        if traffic is not None:
            dropped, missed = traffic.dropped.tolist(), traffic.missed.tolist()
        else:
            # What the source's own queue lets go looks like a gap of the counter from here.
            dropped = list(self.source.let_go) if isinstance(self.source, Lossy) else [0 for _ in names]
            missed = [max(gaps - own, 0) for gaps, own in zip(self.meter.missed, dropped, strict=True)]
        return {name: {"no_room": dropped[view], "before_us": missed[view]} for view, name in enumerate(names)}

    def _note_drops(self) -> None:
        """Once in a while, where there are new ones."""
        if time.monotonic() - self._noted_at < NOTE_DROPS_EVERY_S:
            return
        self._noted_at, drops = time.monotonic(), self._drops()
        if drops != self._noted:
            self._noted = drops
            with suppress(OSError):  # of a full disk the writer tells
                note_drops(self.recording, drops)

    def _sync(self) -> dict[str, Any]:
        """The cameras' times of this segment, read back: kept in memory, a day of eight cameras takes half a GB."""
        frames = open_recording(self.recording.path).frames
        assert frames is not None
        device, host, number = (frames.read(name, self._first) for name in ("t_device_ns", "t_host_ns", "frame_number"))
        shared = self.source.clock in (*HOST_CLOCKS, "folder")
        return sync_report(self.recording.rig.names, device, host, number, shared_clock=shared)

    def _said(self, ended: str) -> dict[str, Any]:
        """The segment's report as plain values."""
        traffic, names = self._traffic(), self.recording.rig.names
        out: dict[str, Any] = {
            "ended": ended,
            "sets": self.keeper.count,
            "drops": self._drops(),
            "vanished": [name for name, gone in zip(names, self.meter.gone(), strict=True) if gone],
            "sync": self._sync(),
            "recorder": {
                "queue_sets": QUEUE_SETS,
                "queue_high_water": self.writer.high_water,
                "cpu_s": round(time.process_time() - self._cpu_s, 3),
            },
        }
        if traffic is not None:
            out["recorder"] |= {
                "ring_images": traffic.slots,
                "ring_high_water": traffic.high_water,
                "capture_cpu_s": round(traffic.capture_cpu_s - traffic.source_cpu_s, 3),
                "source_cpu_s": round(traffic.source_cpu_s, 3),
                "source_late_ms": round(traffic.source_late_ms, 1),
            }
        return out


class _Writer:
    """A thread that appends rows; a failure of it stops the reader at its next `put`."""

    def __init__(self, appender: Appender) -> None:
        self.failure: BaseException | None = None
        self.high_water = 0
        """Most sets that ever waited."""
        self._appender = appender
        self._queue: queue.Queue[dict[str, NDArray[Any]] | None] = queue.Queue(QUEUE_SETS)
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def share(self) -> float:
        """How full the queue is, 0 to 1."""
        return self._queue.qsize() / QUEUE_SETS

    def put(self, rows: dict[str, NDArray[Any]], waiting: Callable[[], None]) -> None:
        """Hand over one row; `waiting` is called while there is no room."""
        while self.failure is None:
            try:
                self._queue.put(rows, timeout=0.2)
            except queue.Full:
                waiting()
                continue
            self.high_water = max(self.high_water, self._queue.qsize())
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


def _writing_failed(error: BaseException, out: Path, table: Table | None) -> HandloomError:
    """What the disk said, in the user's words."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    safe = f"the first {table.committed} sets are safe; " if table is not None and table.committed else ""
    return HandloomError(
        "The disk is full" if full else "The recording cannot be written",
        where=str(out),
        why=(error.strerror if isinstance(error, OSError) else "") or str(error) or repr(error),
        fix=f"{safe}make room and record again with --resume" if full else "",
        exit_code=BAD_ENVIRONMENT,
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
