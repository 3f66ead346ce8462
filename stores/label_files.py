"""Label files of published data sets of hands in depth: their lines, cameras and numbers, each read in one place.

| file | a line or entry | frame |
|---|---|---|
| NYU joint_data.mat | `joint_xyz`, `joint_uvd` (camera, frame, 36, 3), mm and pixels | camera, y up in xyz |
| ICVL labels.txt, test_seq_N.txt | image path, 16 × (u, v, depth mm) | image |
| MSRA15 joint.txt | a count; then 21 × (x, y, z) mm a line | camera, y up, z towards the eye |
| HANDS17, BigHand2.2M Training_Annotation.txt | image name, 21 × (x, y, z) mm | camera |

Sources: NYU, Tompson et al., Real-Time Continuous Pose Recovery of Human Hands Using Convolutional Networks, 2014;
ICVL, Tang et al., Latent Regression Forest, 2014; MSRA15, Sun et al., Cascaded Hand Pose Regression, 2015, and its
readme; HANDS17, Yuan et al., The 2017 Hands in the Million Challenge on 3D Hand Pose Estimation, and BigHand2.2M,
Yuan et al. 2017. Text files are read a line at a time; a MATLAB file is read a variable at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from .documents import said
from .errors import HandloomError
from .matlab import read_matlab

F64 = NDArray[np.float64]
Words = tuple[int, list[str]]
"""A line's number, from 1, and its words."""

NYU_K: Final = (588.03, 587.07, 320.0, 240.0)
"""With the sign that lets y point down (the files' −587.07 lets it point up)."""
ICVL_K: Final = (240.99, 240.96, 160.0, 120.0)
MSRA_K: Final = (241.42, 241.42, 160.0, 120.0)
BIGHAND_K: Final = (475.07, 475.07, 315.94, 245.29)
LARGEST_BYTES: Final = 1 << 30
NYU_TEST: Final = (8252, 2440)
"""Frames of NYU's test set, and the one from which on it shows its second person."""
MOST_NYU_ROWS: Final = 1_000_000
"""Cameras times frames; the training set has 218,271."""
Y_DOWN: Final = (1.0, -1.0, 1.0)
Y_DOWN_Z_FORWARD: Final = (1.0, -1.0, -1.0)


def text_lines(path: Path) -> Iterator[Words]:
    """The words of the lines that have any, one line after the other.

    Raises:
        HandloomError: the file cannot be read, or is no text.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder" if path.is_dir() else "it is no file")
        if path.is_file() and path.stat().st_size > LARGEST_BYTES:
            raise OSError("it is larger than all data sets' labels together")
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                words = line.split()
                if words:
                    yield number, words
    except (OSError, UnicodeDecodeError) as error:
        raise HandloomError("The label file cannot be read", where=str(path), why=said(error)) from error


def is_number(word: str) -> bool:
    """Whether a word is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def numbers(path: Path, line: int, words: list[str], width: int) -> list[float]:
    """The `width` finite numbers of a line.

    Raises:
        HandloomError: there are more or fewer, a word is no number, or one is not finite.
    """
    if len(words) != width:
        raise HandloomError(
            "A line has another number of values", where=f"{path}, line {line}", why=f"{len(words)} instead of {width}"
        )
    for word in words:
        if not is_number(word):
            raise HandloomError(f"'{word[:40]}' is not a number", where=f"{path}, line {line}")
    values = [float(word) for word in words]
    if not all(map(math.isfinite, values)):
        raise HandloomError(
            "The file holds numbers that are not finite", where=f"{path}, line {line}", fix="delete that line"
        )
    return values


def named_points(path: Path, *, joints: int) -> Iterator[tuple[int, str, F64]]:
    """Line number, image name and (joints, 3) numbers of each line of ICVL's or HANDS17's label files.

    Raises:
        HandloomError: a line is not an image name and 3 numbers a joint.
    """
    for line, words in text_lines(path):
        if is_number(words[0]):
            raise HandloomError(
                "A line does not begin with the name of its image", where=f"{path}, line {line}", why=words[0][:40]
            )
        yield line, words[0], np.array(numbers(path, line, words[1:], 3 * joints)).reshape(joints, 3)


def msra_points(path: Path) -> F64:
    """(n, 21, 3) mm of an MSRA15 joint.txt, turned to our camera frame (y down, z forward).

    Raises:
        HandloomError: not a count and so many lines of 63 numbers.
    """
    lines = text_lines(path)
    first = next(lines, None)
    if first is None or len(first[1]) != 1 or not first[1][0].isdigit():
        raise HandloomError("joint.txt must begin with the count of its lines", where=str(path))
    count = int(first[1][0])
    rows = [numbers(path, line, words, 63) for line, words in lines]
    if len(rows) != count:
        raise HandloomError(
            "joint.txt has another number of lines than it says",
            where=str(path),
            why=f"{len(rows)} lines, its first line says {count}",
            fix="copy the file again",
        )
    return np.array(rows, np.float64).reshape(count, 21, 3) * Y_DOWN_Z_FORWARD


def nyu_points(path: Path, variable: Literal["joint_xyz", "joint_uvd"]) -> F64:
    """(camera, frame, 36, 3) of NYU's joint_data.mat, as the file has them: xyz in mm with y up, or uvd.

    The whole variable is held: 190 MB for the training set's 72,757 frames.

    Raises:
        HandloomError: no MATLAB file, or none with such a variable.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no file" if path.exists() else "no such file")
        if path.stat().st_size > LARGEST_BYTES:
            raise ValueError("it is too large")
        values = read_matlab(path.read_bytes(), variable, most_bytes=MOST_NYU_ROWS * 36 * 3 * 8 + 4096)
    except (OSError, ValueError, MemoryError) as error:
        raise HandloomError("The file is no MATLAB file that can be read", where=str(path), why=said(error)) from error
    if values is None or values.ndim != 4 or values.shape[2:] != (36, 3):
        raise HandloomError(
            "The file is not NYU's joint_data.mat", where=str(path),
            why=f"it needs {variable} (camera, frame, 36, 3)" + ("" if values is None else f"; found {values.shape}"),
        )  # fmt: skip
    return values.astype(np.float64)


def nyu_subjects(count: int) -> NDArray[np.int64]:
    """(count,) who is seen: two people in the test set, which is known by its length, else one."""
    whole, second = NYU_TEST
    return (np.arange(count) >= second).astype(np.int64) if count == whole else np.zeros(count, np.int64)
