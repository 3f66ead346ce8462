"""One unit of a synthetic recording: its samples drawn, posed, shot by every camera, written with markers.

What is drawn is what is stored: poses, shapes and roots are rounded to the float32 of the labels first, so
that the labels alone draw the frame again, bit for bit (`replay.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26
from ..stores.table import Table
from .config import BLOCK_FRAMES, SynthConfig
from .forearm import with_forearm
from .formats import hand_of
from .hand import pose_hand
from .render import open_renderer
from .sampling import Sample, draw_samples
from .surroundings import Surroundings, around
from .views import Studio, blank, crop_rows, shoot

Rows = dict[str, NDArray[Any]]
TABLES: Final = ("crops", "labels", "frames")
"""Committed in this order: no reader sees a frame without its crop and label."""


@dataclass(frozen=True, slots=True)
class UnitWork:
    """Makes and writes any unit of one recording; goes to worker processes as it is."""

    config: SynthConfig
    rig: Rig
    out: Path
    uuid: str
    """Of the recording: a worker that outlived its run must not write into one made in its place."""

    def __call__(self, unit: int) -> int:
        """Write what the unit still lacks, its tables one after the other; gives its number."""
        tables = self.tables()
        missing = [name for name in TABLES if not tables[name].marked(unit)]
        if missing:
            rows = make_unit(self.config, studio_of(self.config, self.rig), unit)
            if _uuid(self.out) != self.uuid:
                raise HandloomError("The recording was replaced while its frames were made", where=str(self.out))
            for name in missing:
                tables[name].write_unit(unit, rows[name], marker=True)
        return unit

    def tables(self) -> dict[str, Table]:
        """The recording's tables, to write units of."""
        return {name: Table.open(self.out / name, writable=True, check=False) for name in TABLES}


def make_unit(config: SynthConfig, studio: Studio, unit: int) -> dict[str, Rows]:
    """The rows of one unit of the three tables."""
    start = unit * config.unit_frames
    stop = min(start + config.unit_frames, config.frames)
    return shoot_samples(config, studio, as_stored(draw_samples(config, studio.hand, start, stop)), start)


def as_stored(samples: Sample) -> Sample:
    """The samples as float32 labels give them back."""
    pose, root, shape = (
        np.asarray(values, np.float32).astype(np.float64) for values in (samples.pose, samples.root, samples.shape)
    )
    return replace(samples, pose=pose, root=root, shape=shape)


def shoot_samples(
    config: SynthConfig, studio: Studio, samples: Sample, start: int, wanted: Sequence[int] | None = None
) -> dict[str, Rows]:
    """Rows of the three tables for the samples of one unit.

    Args:
        config: of the recording.
        studio: of the recording.
        samples: all of the unit's; blocks of them are posed together.
        start: number of the first.
        wanted: which of them to draw, counted from `start`; default all.
    """
    count = len(samples.pose)
    rows = np.arange(count) if wanted is None else np.asarray(wanted, np.int64)
    shots = blank(studio, len(rows))
    joints = np.empty((len(rows), len(OPENXR26), 3))
    for first in range(0, count, BLOCK_FRAMES):
        inside = np.flatnonzero((rows >= first) & (rows < first + BLOCK_FRAMES))
        if not len(inside):
            continue
        # Blocks of one size: a matrix product's last bit may depend on how many rows it has.
        pick = np.minimum(np.arange(first, first + BLOCK_FRAMES), count - 1)
        posed = pose_hand(studio.hand, samples.pose[pick], samples.root[pick], samples.shape[pick])
        for into in inside:
            row = int(rows[into])
            joints[into] = posed.joints[row - first]
            vertices, here = posed.vertices[row - first], posed.joints[row - first]
            scene = None if studio.scene is None else around(studio.scene, start + row, vertices, here)
            shoot(studio, vertices, here, frame=start + row, into=shots, row=int(into), around=scene)
    labels: Rows = {"joints": joints, "visible": shots.visible}
    labels |= {"pose": samples.pose[rows], "shape": samples.shape[rows], "root": samples.root[rows]}
    if samples.fit_error_mm is not None:
        labels["fit_error_mm"] = samples.fit_error_mm[rows]
    frames = frame_rows(start + rows, samples.subject[rows], len(studio.rig))
    if config.poses == "trajectory":
        frames |= motion_rows(config, start + rows, len(studio.rig))
    return {
        "frames": frames,
        "crops": crop_rows(shots, parts=config.parts),
        "labels": labels,
    }


def frame_rows(frame_id: NDArray[Any], subject: NDArray[Any], views: int) -> Rows:
    """Rows of `frames/` for rendered frames, each a sequence of its own: nothing links one to the next."""
    count = len(frame_id)
    nothing = np.full((count, views), -1, np.int64)
    return {
        "present": np.ones((count, views), np.uint8),
        "t_device_ns": nothing,
        "t_host_ns": nothing,
        "frame_number": nothing,
        "frame_id": frame_id.astype(np.uint64),
        "subject": subject.astype(np.int32),
        "sequence": frame_id.astype(np.int32),
        "split": np.zeros(count, np.uint8),
    }


def motion_rows(config: SynthConfig, frame_id: NDArray[np.int64], views: int) -> Rows:
    """What `frames/` says of samples that follow each other: the cameras fire together, `fps` times a second."""
    time_ns = np.rint(frame_id * (1e9 / config.fps)).astype(np.int64)[:, None].repeat(views, axis=1)
    return {
        "t_device_ns": time_ns,
        "t_host_ns": time_ns,
        "frame_number": frame_id.astype(np.int64)[:, None].repeat(views, axis=1),
        "sequence": (frame_id // config.sequence_frames).astype(np.int32),
    }


@lru_cache(maxsize=1)
def studio_of(config: SynthConfig, rig: Rig) -> Studio:
    """Hand, cameras and renderer; a worker makes them once."""
    hand = with_forearm(hand_of(config).hand)
    return Studio(
        hand=hand,
        rig=rig,
        renderer=open_renderer(config.renderer),
        sensor=config.make_sensor(),
        seed=config.seed,
        crop_px=config.crop_px,
        window_mm=config.window_mm,
        scene=None if config.scene.empty else Surroundings(config.scene, hand, rig, config.seed),
    )


def _uuid(out: Path) -> str | None:
    """Of the recording that lies there now."""
    try:
        return str(json.loads((out / "zarr.json").read_text())["attributes"]["uuid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
