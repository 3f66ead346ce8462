"""Peers' result files: one line a frame, 3 J numbers, as pixels and depth (uvd) or millimetres (xyz).

The files carry no header, so what they hold is inferred and checked here: the number of columns against the
data set, the number of lines against the truth, uvd or xyz by the values, and the sign of y by the error.
Everything becomes (T, J, 3) mm with

    x = (u - cx) d / fx,    y = (v - cy) d / fy,    z = d.

NYU's fy is negative: its y points up, in its own xyz files as well. Source: `specs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import NYU14_OF_36, Layout, layout_named
from .metrics import Metrics, measure

Kind = Literal["uvd", "xyz"]

NEGATIVE_SHARE: Final = 0.01
"""Above this share of frames whose hand lies left of or above the origin a file is xyz."""
FLIP_SUSPECT_MM: Final = 100.0
FLIP_MENDS_MM: Final = 20.0


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the lines of a data set's result files hold."""

    name: str
    layout: Layout
    k: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels; a negative fy turns y up."""
    frames: int | None
    """Lines of the published test set, where it is one list."""

    def to_xyz(self, uvd: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 3) pixels, pixels, mm as (..., 3) mm."""
        fx, fy, cx, cy = self.k
        depth = uvd[..., 2]
        return np.stack([(uvd[..., 0] - cx) * depth / fx, (uvd[..., 1] - cy) * depth / fy, depth], axis=-1)


DATASETS: Final[Mapping[str, Dataset]] = {
    d.name: d
    for d in (
        Dataset("nyu", layout_named("nyu14"), (588.03, -587.07, 320.0, 240.0), 8252),
        Dataset("icvl", layout_named("icvl16"), (240.99, 240.96, 160.0, 120.0), 1596),
        Dataset("msra", layout_named("msra21"), (241.42, 241.42, 160.0, 120.0), None),
    )
}


@dataclass(frozen=True, slots=True)
class ResultFile:
    """The contents of one file, in millimetres."""

    path: Path
    kind: Kind
    """How its numbers were read."""
    joints_mm: NDArray[np.float64]
    """(T, J, 3)."""
    notes: tuple[str, ...] = ()


def dataset_named(name: str) -> Dataset:
    """The data set of that name.

    Raises:
        HandloomError: there is none.
    """
    if name not in DATASETS:
        raise HandloomError(f"Unknown data set '{name}'", why=f"known: {', '.join(DATASETS)}")
    return DATASETS[name]


def read_results(path: Path, dataset: Dataset, *, kind: Kind | None = None) -> ResultFile:
    """Read a result or truth file of a data set.

    An image name at the start of a line is skipped (ICVL's label files have one); NYU files with all 36
    points are cut to the 14 that are compared.

    Args:
        path: the file.
        dataset: whose joints and camera.
        kind: how to read the numbers; None infers it from them.

    Raises:
        HandloomError: the file is missing, not numbers, or has another number of columns than the data set.
    """
    rows, notes = _numbers(path, dataset), []
    values = rows.reshape(len(rows), -1, 3)
    if dataset.name == "nyu" and values.shape[1] == 36:
        values = values[:, list(NYU14_OF_36)]
        notes.append(f"{path.name} holds NYU's 36 points: the 14 that are compared were taken")
    if (values[..., 2] < 0).all():
        # MSRA's own joint files look along -z with y up; half a turn about x brings them to ours.
        values = values * (1.0, -1.0, -1.0)
        notes.append(f"{path.name} has negative depths: y and z were turned round")
    read = kind or sniff(values)
    return ResultFile(path, read, values if read == "xyz" else dataset.to_xyz(values), tuple(notes))


def sniff(values: NDArray[np.float64]) -> Kind:
    """Whether (T, J, 3) numbers are pixels and depth or millimetres.

    Pixels are counted from the image's corner, millimetres from its axis: the mean joint of a hand lies at
    negative x or y in most frames of an xyz file and in none of a uvd file, though a finger may leave the
    image there.
    """
    negative = (values[..., :2].mean(axis=1) < 0).any(axis=1)
    return "xyz" if negative.mean() > NEGATIVE_SHARE else "uvd"


def evaluate_results(
    prediction: Path,
    truth: Path,
    dataset: Dataset,
    *,
    seed: int,
    kind: Kind | None = None,
    truth_kind: Kind | None = None,
) -> tuple[Metrics, tuple[str, ...]]:
    """Measure a result file against the truth: the metrics, and what the reader should be told.

    Args:
        prediction: the peer's file.
        truth: the labels, in the same form (uvd and xyz may be mixed).
        dataset: whose joints and camera.
        seed: of the bootstrap.
        kind: how to read the prediction; None infers it.
        truth_kind: how to read the truth; None infers it.

    Raises:
        HandloomError: a file cannot be read, or the two have different numbers of lines.
    """
    found = read_results(prediction, dataset, kind=kind)
    known = read_results(truth, dataset, kind=truth_kind)
    rows, expected = len(found.joints_mm), len(known.joints_mm)
    if rows != expected:
        raise HandloomError(
            f"The prediction has {rows} lines, the truth {expected}",
            where=str(prediction),
            why=f"they must list the same frames as {truth}",
            fix=f"{dataset.name}'s test set has {dataset.frames} frames" if dataset.frames else "",
        )
    notes = [*found.notes, *known.notes]
    if dataset.frames not in (None, expected):
        notes.append(f"{dataset.name}'s test set has {dataset.frames} frames, these files {expected}")
    found, advice = _reconcile(found, known, dataset, fixed=kind is not None)
    metrics = measure(
        found.joints_mm,
        known.joints_mm,
        joint_names=dataset.layout.points,
        seed=seed,
    )
    return metrics, (*notes, *advice, f"read as: prediction {found.kind}, truth {known.kind}")


def _reconcile(found: ResultFile, known: ResultFile, dataset: Dataset, *, fixed: bool) -> tuple[ResultFile, list[str]]:
    """Look at the size of the error for a file that was read the wrong way."""
    error = _mean_mm(found.joints_mm, known.joints_mm)
    if error <= FLIP_SUSPECT_MM:
        return found, []
    if not fixed:
        # All of a short file may lie in the positive quadrant: let the error tell pixels from millimetres.
        other: Kind = "xyz" if found.kind == "uvd" else "uvd"
        again = read_results(found.path, dataset, kind=other)
        if _mean_mm(again.joints_mm, known.joints_mm) < FLIP_MENDS_MM:
            return again, [f"{found.path.name} looked like {found.kind} but agrees with the truth as {other}"]
    flipped = _mean_mm(found.joints_mm * (1.0, -1.0, 1.0), known.joints_mm)
    if flipped < FLIP_MENDS_MM:
        return found, [
            f"warning: y is flipped: the mean error is {error:.1f} mm as the files stand, {flipped:.1f} mm "
            "with the prediction's y negated (NYU's y points up: fy = -587.07)"
        ]
    return found, []


def _mean_mm(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(a - b, axis=-1).mean())


def _numbers(path: Path, dataset: Dataset) -> NDArray[np.float64]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not text"
        raise HandloomError("The result file cannot be read", where=str(path), why=reason) from error
    allowed = {3 * len(dataset.layout), *((108,) if dataset.name == "nyu" else ())}
    rows: list[list[str]] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if not _is_number(fields[0]):
            fields = fields[1:]
        if len(fields) not in allowed or (rows and len(fields) != len(rows[0])):
            raise _wrong_columns(path, number, len(fields), dataset)
        rows.append(fields)
    if not rows:
        raise HandloomError("The result file has no lines", where=str(path))
    try:
        values = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise HandloomError("Not everything in the result file is a number", where=str(path), why=str(error)) from error
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values).all(axis=1)))
        raise HandloomError("The result file holds numbers that are not finite", where=f"{path}, frame {bad}")
    return values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wrong_columns(path: Path, line: int, found: int, dataset: Dataset) -> HandloomError:
    expected = 3 * len(dataset.layout)
    fits = next((d.name for d in DATASETS.values() if 3 * len(d.layout) == found), "")
    return HandloomError(
        f"A line has {found} numbers, {dataset.name} needs {expected}",
        where=f"{path}, line {line}",
        why=f"{dataset.name} compares {len(dataset.layout)} joints, 3 numbers each",
        fix=f"--dataset {fits}" if fits and fits != dataset.name else "",
    )
