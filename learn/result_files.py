"""Peers' result files: one line a frame, 3 J numbers, as pixels and depth (uvd) or millimetres (xyz).

The files carry no header, so what they hold is inferred and checked here: the number of columns against the data set,
uvd or xyz by the values. Everything becomes (T, J, 3) mm with

    x = (u - cx) d / fx,    y = (v - cy) d / fy,    z = d.

| data set | joints of a line | camera fx, fy, cx, cy |
|---|---|---|
| nyu | 14 of its 36, ascending, or all 36 | 588.03, **-587.07**, 320, 240: y points up, in its xyz files as well |
| icvl | 16: palm, then root, mid, tip of thumb, index, middle, ring, little | 240.99, 240.96, 160, 120 |
| msra | 21: wrist, then index, middle, ring, little, thumb, four each | 241.42, 241.42, 160, 120 |

MSRA's own joint files look along -z with y up and begin with the count of their lines. Source: `specs/evaluation.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import NYU14_OF_36, Layout, layout_named
from ..stores.label_files import ICVL_K, MSRA_K, NYU_K, NYU_TEST, is_number, text_lines
from ..stores.npz import read_arrays

Kind = Literal["uvd", "xyz"]

NEGATIVE_SHARE: Final = 0.01
"""Above this share of frames whose hand lies left of or above the origin a file is xyz."""
LARGEST_FRAMES: Final = 1 << 21
"""Of a file: more than all data sets together."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the lines of a data set's result files hold."""

    name: str
    layout: Layout
    k: tuple[float, float, float, float]
    """fx, fy, cx, cy in pixels; a negative fy turns y up."""
    frames: int | None
    """Lines of the published test set, where it is one list."""
    part: str = "sequence"
    """What the parts of the test set are: subjects or sequences."""
    parts: tuple[int, ...] = ()
    """How many lines each has, in their order."""

    def to_xyz(self, uvd: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 3) pixels, pixels, mm as (..., 3) mm."""
        fx, fy, cx, cy = self.k
        depth = uvd[..., 2]
        return np.stack([(uvd[..., 0] - cx) * depth / fx, (uvd[..., 1] - cy) * depth / fy, depth], axis=-1)

    def part_of(self, count: int) -> NDArray[np.int64] | None:
        """(count,) the part of each line from 1, where so many lines are the whole test set."""
        if count != self.frames or not self.parts:
            return None
        return np.asarray(1 + np.searchsorted(list(accumulate(self.parts)), np.arange(count), side="right"))


DATASETS: Final[Mapping[str, Dataset]] = {
    d.name: d
    for d in (
        Dataset(
            "nyu", layout_named("nyu14"), (NYU_K[0], -NYU_K[1], *NYU_K[2:]), NYU_TEST[0],
            "subject", (NYU_TEST[1], NYU_TEST[0] - NYU_TEST[1]),
        ),
        # Its two test sequences (Tang et al. 2014) lie one after the other.
        Dataset("icvl", layout_named("icvl16"), ICVL_K, 1596, "sequence", (702, 894)),
        Dataset("msra", layout_named("msra21"), MSRA_K, None),
    )
}  # fmt: skip


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

    An image name at the start of a line is skipped (ICVL's label files have one), a line that holds nothing but a
    count is checked (MSRA's joint files begin so, and may follow each other in one file); NYU files with all 36
    points are cut to the 14 that are compared. A `.npz` holds arrays `u`, `v`, `d` (T, J), or `xyz` (T, J, 3).

    Args:
        path: the file.
        dataset: whose joints and camera.
        kind: how to read the numbers; None infers it from them.

    Raises:
        HandloomError: the file is missing, not numbers, or has another number of columns than the data set.
    """
    if path.suffix == ".npz":
        values, kind = _arrays(path, dataset, kind)
    else:
        values = _numbers(path, dataset)
    notes = []
    if dataset.name == "nyu" and values.shape[1] == 36:
        values = values[:, list(NYU14_OF_36)]
        notes.append(f"{path.name} holds NYU's 36 points: the 14 that are compared were taken")
    if (values[..., 2] < 0).all():
        # MSRA's own joint files look along -z with y up; half a turn about x brings them to ours.
        values = values * (1.0, -1.0, -1.0)
        notes.append(f"{path.name} has negative depths: y and z were turned round")
        kind = kind or "xyz"
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


def _numbers(path: Path, dataset: Dataset) -> NDArray[np.float64]:
    """(T, J, 3) of a text file."""
    allowed = {3 * len(dataset.layout), *((108,) if dataset.name == "nyu" else ())}
    rows: list[NDArray[np.float64]] = []
    counted: int | None = None
    """Lines that a count promised and that have not come yet."""
    for number, words in text_lines(path):
        here = f"{path}, line {number}"
        if len(words) == 1 and words[0].isdecimal() and counted in (None, 0) and (counted is not None or not rows):
            counted = int(words[0][:18])
            continue
        fields = words if is_number(words[0]) else words[1:]
        if len(fields) not in allowed or (rows and len(fields) != len(rows[0])):
            raise _wrong_columns(here, words, len(fields), dataset)
        if counted is not None:
            counted -= 1
        rows.append(_row(fields, here))
        if len(rows) > LARGEST_FRAMES:
            raise HandloomError("The result file has too many lines", where=here)
    if counted:
        raise HandloomError(
            "The result file has another number of lines than it says",
            where=str(path),
            why=f"{len(rows)} lines; a count promises {len(rows) + counted}",
            fix="copy the file again",
        )
    if not rows:
        raise HandloomError("The result file has no lines", where=str(path))
    return np.stack(rows).reshape(len(rows), -1, 3)


def _row(fields: list[str], here: str) -> NDArray[np.float64]:
    for text in fields:
        if not is_number(text):
            raise HandloomError("Not everything in the result file is a number", where=here, why=f"'{text[:40]}'")
    values = np.array([float(text) for text in fields])
    if not np.isfinite(values).all():
        raise HandloomError("The result file holds numbers that are not finite", where=here)
    return values


def _arrays(path: Path, dataset: Dataset, kind: Kind | None) -> tuple[NDArray[np.float64], Kind]:
    """(T, J, 3) of arrays, and what they are."""
    arrays = read_arrays(path, ("u", "v", "d", "xyz"))
    joints = {len(dataset.layout), *((36,) if dataset.name == "nyu" else ())}
    found: Kind = "xyz" if "xyz" in arrays else "uvd"
    parts = [arrays["xyz"]] if found == "xyz" else [arrays[name][..., None] for name in "uvd" if name in arrays]
    shapes = {part.shape[:-1] for part in parts}
    fits = len(shapes) == 1 and sum(part.shape[-1] for part in parts) == 3
    if not fits or len(shape := next(iter(shapes))) != 2 or shape[1] not in joints or not shape[0]:
        held = ", ".join(f"{name} {array.shape}" for name, array in list(arrays.items())[:6]) or "nothing"
        raise HandloomError(
            f"These are no arrays of {dataset.name}'s joints",
            where=str(path),
            why=f"it holds {held}",
            fix=f"u, v, d (frames, {len(dataset.layout)}), or xyz (frames, {len(dataset.layout)}, 3)",
        )
    if any(part.dtype.kind not in "fiu" for part in parts):
        raise HandloomError("Not everything in the arrays is a number", where=str(path))
    with np.errstate(
        invalid="ignore", over="ignore"
    ):  # a signalling NaN, a long double: what is no number is said below
        values = np.concatenate(parts, axis=-1).astype(np.float64)
    if not np.isfinite(values).all():
        raise HandloomError("The arrays hold numbers that are not finite", where=str(path))
    return values, kind or found


def _wrong_columns(here: str, words: list[str], found: int, dataset: Dataset) -> HandloomError:
    expected = 3 * len(dataset.layout)
    fits = next((d.name for d in DATASETS.values() if 3 * len(d.layout) == found), "")
    why = f"{dataset.name} compares {len(dataset.layout)} joints, 3 numbers each"
    fix = f"--dataset {fits}" if fits and fits != dataset.name else ""
    if any("," in word for word in words[:3]):
        why, fix = "its numbers are parted by commas", "part them by spaces: tr , ' ' < FILE"
    elif found == expected + 1:
        fix = "take away the frame's number at the beginning of each line, if that is what it is"
    return HandloomError(f"A line has {found} numbers, {dataset.name} needs {expected}", where=here, why=why, fix=fix)
