"""Training reads of sets that fit in memory: crops and labels, decoded once into arrays that stay there.

A 192² crop takes 74 kB, so 16,000 of them fit 1.2 GB. Decoding costs 0.03 to 0.1 ms a crop, once; a random
crop then costs 0.005 ms (`benchmarks/reads.py`). What is larger is read by `pool.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .camera import Rig
from .errors import HandloomError
from .joints import Layout
from .recording import Recording


@dataclass(frozen=True, slots=True)
class Resident:
    """What training needs of a recording, by row: T frames, V views, S pixels, J joints."""

    uuid: str
    rig: Rig
    rows: NDArray[np.int64]
    """(T,) the recording's row of each frame here."""
    crop: NDArray[np.uint16]
    """(T, V, S, S) depth in the camera's unit; (T, V, 0, 0) where the images were left on the disk."""
    center: NDArray[np.float32]
    """(T, V, 3) mm in the camera."""
    k: NDArray[np.float32]
    """(T, V, 4) of the crop."""
    center_source: NDArray[np.uint8]
    """(T, V) index into `recording.CENTER_SOURCES`."""
    present: NDArray[np.bool_]
    """(T, V) the camera gave an image and the hand was found in it."""
    frame_id: NDArray[np.uint64]
    subject: NDArray[np.int32]
    sequence: NDArray[np.int32]
    split: NDArray[np.uint8]
    """(T,) index into `recording.SPLITS`."""
    joints: NDArray[np.float32] | None
    """(T, J, 3) mm in the rig, NaN unknown."""
    visible: NDArray[np.bool_] | None
    """(T, V, J)."""
    twin: NDArray[np.uint64] | None
    """(T,) `frame_id` of the real frame whose twin each is."""
    parts: NDArray[np.uint8] | None
    layout: Layout | None

    @property
    def depth_unit_mm(self) -> NDArray[np.float32]:
        """(V,) mm of one step of each camera's depth."""
        return np.array([camera.depth_unit_mm for camera in self.rig.cameras], np.float32)

    def __len__(self) -> int:
        return len(self.rows)


def load_resident(
    recording: Recording, *, rows: NDArray[np.int64] | None = None, parts: bool = False, images: bool = True
) -> Resident:
    """Decode a recording, or some `rows` of it in ascending order, into memory; only those are read.

    Args:
        recording: with crops.
        rows: which; all when left out.
        parts: the bones' masks as well.
        images: the crops themselves; what is left without them is small, and `pool.py` reads them.

    Raises:
        HandloomError: it has no crops, or they are damaged.
    """
    crops, frames, labels = recording.crops, recording.frames, recording.labels
    if crops is None or frames is None or crops.committed < recording.n_frames:
        have = crops.committed if crops else 0
        raise HandloomError(
            "The recording has no crops of the hand yet",
            where=str(recording.path),
            why=f"{have} of {recording.n_frames} frames were located",
            fix=f"handloom capture locate {recording.path}",
        )
    chosen = np.arange(recording.n_frames) if rows is None else np.asarray(rows, np.int64)
    assert (np.diff(chosen) > 0).all(), "rows must ascend"

    def optional(name: str) -> NDArray[Any] | None:
        return labels.read_rows(name, chosen) if labels and name in labels.columns else None

    source = crops.read_rows("center_source", chosen)
    visible = optional("visible")
    return Resident(
        uuid=recording.uuid,
        rig=recording.rig,
        rows=chosen,
        crop=crops.read_rows("crop", chosen) if images else np.zeros((*source.shape, 0, 0), np.uint16),
        center=crops.read_rows("center", chosen),
        k=crops.read_rows("k", chosen),
        center_source=source,
        present=(frames.read_rows("present", chosen) > 0) & (source > 0),
        frame_id=frames.read_rows("frame_id", chosen),
        subject=frames.read_rows("subject", chosen),
        sequence=frames.read_rows("sequence", chosen),
        split=frames.read_rows("split", chosen),
        joints=optional("joints"),
        visible=None if visible is None else visible > 0,
        twin=optional("twin"),
        parts=crops.read_rows("parts", chosen) if parts and "parts" in crops.columns else None,
        layout=recording.layout,
    )
