"""Poses on their way out: poses.csv, JSON lines, npz; whole images as they come, in whatever order of joints.

CSV     a row a joint: `frame,camera,joint,x_mm,y_mm,z_mm,confidence,disagreement_mm` (`stores/pose_csv.py`)
JSON    a line a pose: `frame`, `camera`, `t_ns`, `confidence`, `disagreement_mm`, `score`, `source`, and `joints_mm`
        by name
npz     arrays of n poses: `frame`, `camera`, `t_ns`, `joints_mm` (n, J, 3), `joints` (their names), `confidence`,
        `disagreement_mm` (n, J), `score`, `source`; kept in memory until the end, 0.4 kB a pose

A camera's pose lies in its own frame and has no disagreement; that of all cameras has `camera = rig`. A pose is
written whole or not at all: what of it a full disk had taken is taken back.
"""

from __future__ import annotations

import csv
import errno
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from ..stores.joints import Layout
from ..stores.pose_csv import CSV_COLUMNS, TRUST_COLUMNS

FORMATS: Final = (".csv", ".jsonl", ".npz")


@dataclass(frozen=True, slots=True)
class PoseRow:
    """One pose as it is written."""

    frame: int
    camera: str
    """Its name, or `rig`."""
    t_ns: int | None
    """When it was taken, where that is known."""
    joints_mm: NDArray[np.float32]
    """(J, 3)."""
    confidence: float
    disagreement_mm: NDArray[np.float64] | None
    """(J,) of a fused pose."""
    score: float
    source: str


class PoseWriter(Protocol):
    """Takes poses one by one."""

    def __call__(self, row: PoseRow) -> None:
        """Write one pose."""


def format_of(out: Path) -> str:
    """Which of `FORMATS` a file's name asks for.

    Raises:
        HandloomError: none.
    """
    if out.suffix.lower() not in FORMATS:
        raise HandloomError(
            f"Poses are not written as '{out.suffix or out.name}'", where=str(out), fix=f"name it {', '.join(FORMATS)}"
        )
    return out.suffix.lower()


class TextSink(Protocol):
    """Where text goes: an open file, the terminal."""

    def write(self, text: str, /) -> object:
        """Write all of it."""

    def flush(self) -> object:
        """Have it arrive."""


@contextmanager
def pose_file(out: Path, layout: Layout, *, keep: bool = False) -> Iterator[PoseWriter]:
    """A writer of the form that the file's name asks for; the file is there once the block has ended well.

    Args:
        out: the file; until then it is called `….writing`.
        layout: of the joints.
        keep: it is there, too, if the block ended with an error after the first pose: cameras cannot be asked again.

    Raises:
        HandloomError: the disk is full, or cannot be written.
    """
    kind = format_of(out)
    writing = out.with_name(out.name + ".writing")
    poses = 0

    def counted(row: PoseRow) -> None:
        nonlocal poses
        write(row)
        poses += 1

    with _Whole(writing, out) as file:
        kept = KeptPoses(layout)
        write: PoseWriter = kept
        if kind != ".npz":
            write = csv_writer(file, layout) if kind == ".csv" else json_lines(file, layout)
        ended_well = False
        try:
            yield counted
            ended_well = True
        finally:
            if ended_well or (keep and poses):
                if kind == ".npz":
                    file.write_bytes(kept.packed())
                file.finish()


class _Whole:
    """A file that ends with the last piece that it took as a whole, and has its name once it is finished."""

    def __init__(self, writing: Path, out: Path) -> None:
        self._writing, self._out, self._bytes = writing, out, 0
        self._file = writing.open("wb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._writing.unlink(missing_ok=True)

    def write(self, text: str, /) -> None:
        """All of a text, or nothing."""
        self.write_bytes(text.encode())

    def write_bytes(self, data: bytes) -> None:
        """All of it, or nothing."""
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _not_written(error, self._out) from error
        self._bytes += len(data)

    def flush(self) -> None:
        """Nothing waits here."""

    def finish(self) -> None:
        """Take back what was not taken whole, and give the file its name."""
        self._file.truncate(self._bytes)
        self._writing.replace(self._out)


def _not_written(error: OSError, out: Path) -> HandloomError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return HandloomError(
        "The disk is full" if full else "The poses cannot be written",
        where=str(out),
        why=error.strerror or str(error),
        fix="make room, or write elsewhere: --out" if full else "",
        exit_code=BAD_ENVIRONMENT,
    )


def csv_writer(file: TextSink, layout: Layout) -> PoseWriter:
    """Writes poses as lines of poses.csv, a joint a line, as they come; in the order of `layout`."""
    file.write(_csv_rows([(*CSV_COLUMNS, *TRUST_COLUMNS)]))
    numbers = np.empty((len(layout), 4))
    frame, sure = "\x01", "\x02"  # stand in for these; no name holds them

    @lru_cache(maxsize=64)
    def form(camera: str, *, fused: bool) -> str:
        """All rows of a pose: with their numbers put in at once they take a third of the time."""
        names = [tuple(text.replace("%", "%%") for text in (camera, name)) for name in layout.points]
        return _csv_rows([(frame, *two, "%.3f", "%.3f", "%.3f", sure, "%.3f" if fused else "") for two in names])

    def write(row: PoseRow) -> None:
        fused = row.disagreement_mm is not None
        numbers[:, :3] = row.joints_mm
        if row.disagreement_mm is not None:
            numbers[:, 3] = row.disagreement_mm
        lines = form(row.camera, fused=fused) % tuple(numbers[:, : 4 if fused else 3].ravel().tolist())
        file.write(lines.replace(frame, str(row.frame)).replace(sure, f"{row.confidence:.4f}"))

    return write


def _csv_rows(rows: list[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


def json_lines(file: TextSink, layout: Layout, *, flush: bool = False) -> PoseWriter:
    """A JSON object a line; `flush` after each, for whoever reads along."""

    def write(row: PoseRow) -> None:
        apart = row.disagreement_mm
        value: dict[str, Any] = {
            "frame": row.frame,
            "camera": row.camera,
            "t_ns": row.t_ns,
            "confidence": round(row.confidence, 4),
            "disagreement_mm": None if apart is None else round(float(apart.mean()), 3),
            "score": round(row.score, 4),
            "source": row.source,
            # Of float32 numbers, numpy's rounding gives what Python's does, and all at once.
            "joints_mm": dict(zip(layout.points, np.round(row.joints_mm.astype(np.float64), 3).tolist(), strict=True)),
        }
        file.write(json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n")
        if flush:
            file.flush()

    return write


class KeptPoses:
    """Poses held until `save`."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rows: list[PoseRow] = []

    def __call__(self, row: PoseRow) -> None:
        """Keep one pose."""
        self._rows.append(row)

    def packed(self) -> bytes:
        """The npz."""
        rows, joints = self._rows, len(self._layout)
        nothing = np.full(joints, np.nan)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            frame=np.array([row.frame for row in rows], np.int64),
            camera=np.array([row.camera for row in rows], np.str_),
            t_ns=np.array([-1 if row.t_ns is None else row.t_ns for row in rows], np.int64),
            joints_mm=np.array([row.joints_mm for row in rows], np.float32).reshape(-1, joints, 3),
            joints=np.array(self._layout.points),
            layout=np.array(self._layout.name),
            confidence=np.array([row.confidence for row in rows], np.float32),
            disagreement_mm=np.array(
                [nothing if row.disagreement_mm is None else row.disagreement_mm for row in rows], np.float32
            ).reshape(-1, joints),
            score=np.array([row.score for row in rows], np.float32),
            source=np.array([row.source for row in rows], np.str_),
        )
        return buffer.getvalue()
