"""Which samples a step was made of: what a user looks at when training stops at it.

Draws depend on seed and step alone, so the samples of any step can be had again, after the fact and on any rank.
Those whose image or joints are not finite are what is wrong with the data; where there are none, it is the
networks that diverged on samples like these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ..stores.errors import HandloomError
from .batches import Bank
from .updates import NotFinite

FILE: Final = "not_finite.json"
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a step."""

    sub_batch: str
    frame_id: int
    """In its recording."""
    camera: int
    """Counted from 0."""
    finite: bool
    """Whether its image and its known joints are."""

    def __str__(self) -> str:
        return f"frame {self.frame_id} camera {self.camera} ({self.sub_batch})"


def samples_of(sub_batch: str, bank: Bank, crop: Tensor, values: Iterable[Tensor]) -> list[Sample]:
    """The crops (B,) of a bank as samples; `values` (B, ...) are what the networks got of each."""
    finite = torch.ones(len(crop), dtype=torch.bool, device=crop.device)
    for value in values:
        finite &= torch.isfinite(value.flatten(1)).all(dim=1)
    frames = bank.frame_id[(crop // bank.views).cpu().numpy()].tolist()
    cameras = (crop % bank.views).tolist()
    return [Sample(sub_batch, *one) for one in zip(frames, cameras, finite.tolist(), strict=True)]


def with_samples(error: NotFinite, samples: Sequence[Sample], run_dir: Path) -> HandloomError:
    """The error with the samples of its step; all of them in `not_finite.json` of the run."""
    bad = [sample for sample in samples if not sample.finite]
    named = bad or list(samples)
    if not named:
        return error
    path = run_dir / FILE
    path.write_text(
        json.dumps({"step": error.step, "term": error.term, "samples": [asdict(s) for s in samples]}, indent=1) + "\n"
    )
    more = f", and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
    shown = ", ".join(map(str, named[:_SHOWN])) + more
    if bad:
        of = f"{len(bad)} of its {len(samples)} samples have depths or joints that are not finite"
        fix = "look at these frames: handloom store verify; take the damaged ones out or label them again"
    else:
        of = f"the images and joints of all its {len(samples)} samples are finite: the networks diverged"
        fix = "lower the learning rate, and go on from the last checkpoint as a new run with --init, or begin anew"
    return HandloomError(
        error.what, where=f"step {error.step}: {shown}; all in {path}", why=f"{of}; {error.why}", fix=fix
    )
