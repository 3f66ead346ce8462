"""What recordings hold for a training run: counts read from their small arrays, not one image among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.lineage import usable_twins
from ..stores.pool import row_bytes
from ..stores.recording import SPLITS, Recording, open_recording
from .batches import LOCATED
from .given import has_twins


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One recording, as far as training cares."""

    path: str
    kind: str
    hand: str
    cameras: int
    frames: int
    train: int
    """Frames of the training split; `val` and `test` of the others."""
    val: int
    test: int
    layout: str
    """Of its labels; nothing without any."""
    labelled: int
    """Training frames with a known point that show a hand to some camera."""
    labelled_val: int
    subjects: int
    """People in the training frames."""
    sequences: int
    twins_of: str
    """uuid of the recording whose frames these are the twins of, or nothing."""
    crop_px: int
    """0 where there are no crops yet, or not of all frames."""
    window_mm: float
    images: int
    """Of training frames, all cameras together, without those that were dropped."""
    found: int
    """Of these, in how many a hand is."""
    located: int
    """Of these, how many centres a hand finder gave; others are true or given."""
    unsure: int
    """Of these, how many score less than `min_center_score`."""
    decoded_bytes: int
    """Memory that the training frames' crops take."""

    @property
    def px_of_cube(self) -> float:
        """Pixels of a crop across 300 mm."""
        return self.crop_px * 300 / self.window_mm if self.window_mm else 0.0

    def line(self) -> str:
        """For people."""
        cameras = f"{self.cameras} camera{'s' * (self.cameras != 1)}"
        others = [f"{count:,} {name}" for name, count in (("val", self.val), ("test", self.test)) if count]
        parts = [f"{self.kind}, {self.train:,} training frames of {cameras}"]
        parts += [f"{' and '.join(others)} ones"] if others else []
        parts += [f"{self.labelled:,} labelled ({self.layout})" if self.labelled else "no labels in training"]
        parts += [f"crops of {self.crop_px} px"] if self.crop_px else ["no crops yet"]
        if self.kind == "captured" and self.crop_px and self.images:
            parts.append(f"a hand in {self.found / self.images:.1%} of the images")
        if self.twins_of:
            parts.append("twins")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def facts_of(recording: Recording, *, min_center_score: float) -> Facts:
    """Look at one recording.

    Args:
        recording: with or without crops and labels.
        min_center_score: below it a located centre counts as unsure.

    Raises:
        HandloomError: one of its small arrays is damaged.
    """
    frames, crops, labels = recording.frames, recording.crops, recording.labels
    assert frames is not None
    split, present = frames.read("split"), frames.read("present") > 0
    trains = split == SPLITS.index("train")
    whole = crops is not None and crops.committed >= recording.n_frames
    found, located, unsure, crop_px, window, size = present, np.zeros_like(present), 0, 0, 0.0, 0
    if crops is not None and whole:
        source = crops.read("center_source")
        found, located = present & (source > 0), present & (source == LOCATED)
        unsure = int((located & (crops.read("center_score") < min_center_score))[trains].sum())
        crop_px = crops.columns["crop"].shape[-1]
        window = float(crops.attributes.get("window_mm", 450.0))
        size = int(trains.sum()) * row_bytes([crops.columns["crop"]])
    known = np.zeros(len(split), bool)
    if labels is not None:
        known = np.isfinite(labels.read("joints")).all(axis=-1).any(axis=-1) & found.any(axis=-1)
    return Facts(
        path=str(recording.path),
        kind=recording.kind,
        hand=recording.hand,
        cameras=recording.n_views,
        frames=recording.n_frames,
        train=int(trains.sum()),
        val=int((split == SPLITS.index("val")).sum()),
        test=int((split == SPLITS.index("test")).sum()),
        layout=recording.layout.name if recording.layout else "",
        labelled=int((known & trains).sum()),
        labelled_val=int((known & (split == SPLITS.index("val"))).sum()),
        subjects=len(np.unique(frames.read("subject")[trains])),
        sequences=len(np.unique(frames.read("sequence"))),
        twins_of=str(recording.attributes.get("twins_of") or "") if has_twins(recording) else "",
        crop_px=crop_px,
        window_mm=window,
        images=int(present[trains].sum()),
        found=int(found[trains].sum()),
        located=int(located[trains].sum()),
        unsure=unsure,
        decoded_bytes=size,
    )


def twinned(twins: Sequence[Recording], real: Recording, frame_id: NDArray[np.uint64]) -> int:
    """How many of these frames of a capture have a twin in the recordings given.

    Raises:
        HandloomError: the twins are another recording's.
    """
    covered = np.zeros(len(frame_id), bool)
    for recording in twins:
        assert recording.labels is not None
        ids, here = usable_twins(recording, real).translated(recording.labels.read("twin"))
        covered |= np.isin(frame_id, ids[here])
    return int(covered.sum())


def twins_beside(real: Recording, path: Path) -> bool:
    """Whether twins of this capture lie at a path."""
    try:
        found = open_recording(path)
        return has_twins(found) and usable_twins(found, real) is not None
    except HandloomError:
        return False
