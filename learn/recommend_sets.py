"""What a recommendation is asked about: recordings, opened and counted, and the user's wishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import Layout
from ..stores.recording import Recording, open_recording
from .config import TrainConfig
from .facts import Facts, facts_of
from .given import has_twins
from .recommended import Recommendation
from .timing import StageTime, time_stages
from .train import pick_device, preset


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the user named."""

    synth: tuple[Path, ...] = ()
    real: tuple[Path, ...] = ()
    val: Path | None = None
    labels: int | str | Path | None = None
    method: Literal["murauer", "crossing"] | None = None
    hours: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sets:
    """The recordings, opened and counted."""

    plain: list[Recording]
    twins: list[Recording]
    reals: list[Recording]
    facts: dict[str, Facts]
    """By path."""

    def of(self, recordings: Sequence[Recording]) -> list[Facts]:
        """Their counts."""
        return [self.facts[str(recording.path)] for recording in recordings]

    @property
    def rendered(self) -> list[Facts]:
        """Synthetic recordings but twins."""
        return self.of(self.plain)

    @property
    def captured(self) -> list[Facts]:
        """Captures."""
        return self.of(self.reals)

    @property
    def all_cropped(self) -> bool:
        """Whether the hand was looked for in all of them."""
        return all(one.crop_px for one in [*self.rendered, *self.captured])


def open_sets(given: Given) -> Sets:
    """Open and count.

    Raises:
        HandloomError: one cannot be opened, or has no training frames.
    """
    least = preset("murauer", "quick", "full").min_center_score
    sets = [open_recording(path) for path in given.synth]
    reals = [open_recording(path) for path in given.real]
    facts = {str(one.path): facts_of(one, min_center_score=least) for one in [*sets, *reals]}
    for one in facts.values():
        if not one.train:
            raise HandloomError(
                "The recording has no training frames",
                where=one.path,
                why=f"its {one.frames} frames are for validation and test",
                fix=f"handloom store split {one.path} --by sequence --shares train=0.8,val=0.1,test=0.1 --overwrite",
            )
    return Sets(
        plain=[one for one in sets if not has_twins(one)],
        twins=[one for one in sets if has_twins(one)],
        reals=reals,
        facts=facts,
    )


def timed(
    out: Recommendation, sets: Sets, config: TrainConfig, rows: NDArray[np.int64], layout: Layout
) -> tuple[StageTime, ...] | None:
    """The stages of a configuration, timed here; None where a step does not fit the GPU's memory."""
    real = sets.reals[0] if sets.reals and config.needs.real else None
    out.tell(config.preset if config.precision == "auto" else f"{config.preset} in bfloat16")
    return time_stages(
        config,
        synth=sets.plain[0] if sets.plain and config.needs.synth else None,
        real=real,
        labelled=rows,
        layout=layout,
        device=pick_device("auto"),
    )


def free_path(path: Path) -> Path:
    """The path, or the first with a number behind it where nothing lies."""
    stem, ending = path.name.removesuffix(".zarr"), ".zarr" if path.name.endswith(".zarr") else ""
    names = (path, *(path.with_name(f"{stem}-{i}{ending}") for i in range(2, 10_000)))
    return next(one for one in names if not one.exists())
