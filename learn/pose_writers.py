"""Poses on their way out: poses.csv, JSON lines, npz; whole images as they come, in whatever order of joints.

CSV     a row a joint: `frame,camera,joint,x_mm,y_mm,z_mm,confidence,disagreement_mm` (`stores/pose_csv.py`)
JSON    a line a pose: `frame`, `camera`, `t_ns`, `confidence`, `disagreement_mm`, `score`, `source`, and `joints_mm`
        by name
npz     arrays of n poses: `frame`, `camera`, `t_ns`, `joints_mm` (n, J, 3), `joints` (their names), `confidence`,
        `disagreement_mm` (n, J), `score`, `source`; kept in memory until the end, 0.4 kB a pose

A camera's pose lies in its own frame and has no disagreement; that of all cameras has `camera = rig`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
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


@contextmanager
def pose_file(out: Path, layout: Layout) -> Iterator[PoseWriter]:
    """A writer of the form that the file's name asks for; the file is there once the block has ended well."""
    kind = format_of(out)
    writing = out.with_name(out.name + ".writing")
    try:
        if kind == ".npz":
            kept = KeptPoses(layout)
            yield kept
            with writing.open("wb") as packed:
                kept.save(packed)
        else:
            with writing.open("w", newline="", encoding="utf-8") as file:
                yield csv_writer(file, layout) if kind == ".csv" else json_lines(file, layout)
        writing.replace(out)
    finally:
        writing.unlink(missing_ok=True)


def csv_writer(file: IO[str], layout: Layout) -> PoseWriter:
    """Rows of poses.csv."""
    writer = csv.writer(file)
    writer.writerow((*CSV_COLUMNS, *TRUST_COLUMNS))

    def write(row: PoseRow) -> None:
        apart = [""] * len(layout)
        if row.disagreement_mm is not None:
            apart = [f"{d:.3f}" for d in row.disagreement_mm.tolist()]
        sure = f"{row.confidence:.4f}"
        for name, (x, y, z), d in zip(layout.points, row.joints_mm.tolist(), apart, strict=True):
            writer.writerow((row.frame, row.camera, name, f"{x:.3f}", f"{y:.3f}", f"{z:.3f}", sure, d))

    return write


def json_lines(file: IO[str], layout: Layout, *, flush: bool = False) -> PoseWriter:
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
            "joints_mm": {
                name: [round(x, 3) for x in point]
                for name, point in zip(layout.points, row.joints_mm.tolist(), strict=True)
            },
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

    def save(self, file: IO[bytes]) -> None:
        """Write the npz."""
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
        file.write(buffer.getvalue())
