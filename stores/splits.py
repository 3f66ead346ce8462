"""Training, validation and test frames by shares, without tearing a sequence or a person apart.

Neighbouring frames of a video show nearly the same: a split frame by frame tests what was learnt by heart. So whole
sequences, or all that one subject did, go to one side. They come in an order that the seed draws; each goes where
most frames are still missing, after every share has got one, so shares are met as closely as the pieces allow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import HandloomError
from .recording import SPLITS, open_recording

By = Literal["sequence", "subject"]
EXAMPLE: Final = "train=0.8,val=0.1,test=0.1"


@dataclass(frozen=True, slots=True)
class Share:
    """What one of the splits got."""

    name: str
    asked: float
    frames: int
    groups: int
    """Sequences or subjects."""


def read_shares(text: str) -> dict[str, float]:
    """`train=0.8,val=0.1,test=0.1`; what is not named gets nothing.

    Raises:
        HandloomError: another name, no number, or they do not add up to 1.
    """
    shares: dict[str, float] = {}
    try:
        for part in text.split(","):
            name, _, value = part.partition("=")
            name = name.strip()
            if name not in SPLITS or name in shares:
                raise ValueError(f"'{name}': the splits are {', '.join(SPLITS)}, each named once")
            shares[name] = float(value)
        if not all(0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(f"they add up to {sum(shares.values()):g}, not to 1")
    except ValueError as error:
        raise HandloomError("These are no shares", where=f"--shares {text}", why=str(error), fix=EXAMPLE) from error
    return shares


def draw(groups: NDArray[np.int32], shares: Mapping[str, float], *, by: By, seed: int, where: str) -> NDArray[np.uint8]:
    """The split of each frame.

    Args:
        groups: (T,) sequence or subject of each frame.
        shares: of the frames, by name of the split; they add up to 1.
        by: what `groups` are, for errors.
        seed: draws the order of the groups.
        where: the recording, for errors.

    Returns:
        (T,) index into `SPLITS`.

    Raises:
        HandloomError: there are fewer groups than shares.
    """
    names, counts = np.unique(groups, return_counts=True)
    asked = np.array([shares.get(name, 0.0) for name in SPLITS])
    wanted = np.flatnonzero(asked > 0)
    if len(names) < len(wanted):
        raise HandloomError(
            f"There are fewer {by}s than parts to make",
            where=where,
            why=f"{len(names)} {by}{'s' * (len(names) != 1)} for {len(wanted)} parts, and none is torn apart",
            fix="merge more recordings with --renumber, name fewer parts"
            + (", or split --by sequence" if by == "subject" else ""),
        )
    order = np.random.default_rng(seed).permutation(len(names))
    missing = asked * len(groups)
    chosen = np.zeros(len(names), np.uint8)
    for place, group in enumerate(order):
        # Shares of which nothing was given yet come first, the largest before.
        side = wanted[np.argsort(-asked[wanted], kind="stable")][place] if place < len(wanted) else np.argmax(missing)
        chosen[group] = side
        missing[side] -= counts[group]
    return np.asarray(chosen[np.searchsorted(names, groups)], np.uint8)


def shares_of(split: NDArray[np.uint8], groups: NDArray[np.int32], shares: Mapping[str, float]) -> list[Share]:
    """What came of it: by split, the frames (T,) that it got and how many groups (T,) they are of."""
    return [
        Share(name, shares.get(name, 0.0), int((split == i).sum()), len(np.unique(groups[split == i])))
        for i, name in enumerate(SPLITS)
        if shares.get(name, 0.0) > 0
    ]


def assign(path: Path, shares: Mapping[str, float], *, by: By, seed: int, overwrite: bool = False) -> list[Share]:
    """Set the recording's split by shares, in place: only this one small array is written anew.

    Each unit of it is replaced as a whole. A kill leaves some units with the old split; the recording says so
    (`attributes["split"]["done"]`, which `verify` looks at) until the same is done again.

    Args:
        path: of the recording.
        shares: of the frames, by 'train', 'val', 'test'; 1 together.
        by: whole sequences, or whole subjects.
        seed: of the draw.
        overwrite: draw anew where frames were split already.

    Raises:
        HandloomError: frames were split already and not to `overwrite`, another process writes; see `draw`.
    """
    recording = open_recording(path, writable=True)
    frames = recording.frames
    assert frames is not None
    plan = {"by": by, "seed": seed, "shares": dict(shares)}
    before = recording.attributes.get("split", {})
    begun = before == {**plan, "done": False}
    if not overwrite and not begun and frames.read("split").any():
        raise HandloomError(
            "The recording's frames are split already",
            where=str(path),
            why=f"by {before['by']}, seed {before['seed']}" if before else "not all of them are for training",
            fix="add --overwrite, or give --out-dir to write parts and leave this one as it is",
        )
    groups = frames.read(by)
    split = draw(groups, shares, by=by, seed=seed, where=str(path))
    frames.lock()
    try:
        recording.annotate(split={**plan, "done": False})
        frames.rewrite("split", split)
        recording.annotate(split={**plan, "done": True})
    finally:
        frames.unlock()
    return shares_of(split, groups, shares)
