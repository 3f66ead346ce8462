"""What the recordings of a training lack, and the commands that make it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .config import TrainConfig
from .facts import twinned, twins_beside
from .recommend_sets import Given, Sets, free_path
from .recommended import Recommendation, said

FEW_LABELS: Final = 50
FEW_FOUND: Final = 0.9


def twins_first(out: Recommendation, sets: Sets, config: TrainConfig, n: int, rows: NDArray[np.int64]) -> None:
    """Twins of the labelled frames, where the arm compares with them."""
    if not config.needs.twins or not n or out.real is None:
        return
    if len(sets.reals) == 1 and sets.twins:
        frames = sets.reals[0].frames
        assert frames is not None
        ids = frames.read("frame_id")[rows]
        have = twinned(sets.twins, sets.reals[0], ids) if len(rows) else n
        if have:
            if have < n:
                out.warn(f"{n - have:,} of the {n:,} labelled frames in use have no twin; they go without that loss")
            return
    path = out.real.with_name(f"{out.real.name.removesuffix('.zarr')}-twins.zarr")
    if len(sets.reals) == 1 and path.exists() and twins_beside(sets.reals[0], path):
        out.warn(f"{path} holds twins of {out.real} and was not given: it is taken")
    else:
        path = free_path(path)
        sensor = (sets.plain[0].provenance.get("config") or {}).get("sensor")
        seen = ["--sensor", str(sensor)] if sensor not in (None, "none") else []
        out.first.append(said("handloom", "synth", "twin", "--real", out.real, "--out", path, *seen))
        out.warn(f"the {n:,} labelled frames have no synthetic twins, which the arm '{config.arm}' compares them with: "
                 "a command below makes them")  # fmt: skip
    out.synth.append(path)


def what_is_missing(out: Recommendation, given: Given, sets: Sets, n: int) -> None:
    """What could be better, with the command that makes it so."""
    for one in sets.captured:
        if not one.crop_px:
            out.warn(
                f"the hand of {one.path} was not looked for in all frames yet; after that, steps can be timed here"
            )
        elif one.images and one.found < FEW_FOUND * one.images:
            out.warn(
                f"a hand was found in {one.found / one.images:.0%} of the images of {one.path}; this shows where not",
                "handloom", "capture", "locate", one.path, "--overwrite", "--report", "located.html",
            )  # fmt: skip
    if sets.reals and given.labels is None and n < FEW_LABELS:
        path = sets.reals[0].path
        out.warn(
            f"{f'only {n}' if n else 'no'} training frame{'s' * (n != 1)} of {path} {'are' if n != 1 else 'is'} "
            "labelled: a hundred labels were worth more than any other loss (docs/losses.md)",
            "handloom", "label", path, "--select", "100", "--out", "labelling",
        )  # fmt: skip
    if sets.reals and not sets.plain:
        out.warn("nothing rendered is given; it costs minutes, and needs no label", "handloom", "synth", "run", "--out",
                 free_path(Path("S.zarr")), "--frames", "10000")  # fmt: skip
    if given.val is None:
        _validation(out, sets)
    people = max((one.subjects for one in sets.captured), default=0)
    if people > 1:
        out.warn(
            f"{people} people are in the training frames: --hold-out N leaves one out, to see how a stranger fares"
        )


def _validation(out: Recommendation, sets: Sets) -> None:
    """A labelled recording to watch."""
    watched = next((one for one in [*sets.captured, *sets.rendered] if one.labelled_val), None)
    if watched is not None:
        path = free_path(Path(watched.path).with_name(f"{Path(watched.path).name.removesuffix('.zarr')}-val.zarr"))
        out.warn(
            f"{watched.path} has {watched.labelled_val:,} labelled validation frames: a copy of them may be watched "
            f"with --val {path}",
            "handloom", "store", "subset", watched.path, "--split", "val", "--out", path,
        )  # fmt: skip
        return
    for one in sets.captured:
        if not one.val and one.labelled and one.sequences > 2:
            out.warn(
                f"no frame of {one.path} is kept for validation; this keeps whole sequences, before training",
                "handloom", "store", "split", one.path, "--by", "sequence", "--shares",
                "train=0.8,val=0.1,test=0.1", *(["--overwrite"] if one.test else []),
            )  # fmt: skip
            return
    out.warn("there are no labelled validation frames to watch the error on; --val takes a recording that has some")
