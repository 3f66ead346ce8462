"""One unit of synthetic twins: the fitted poses of its frames drawn by the real cameras, written with markers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.joints import OPENXR26
from ..stores.recording import open_recording
from ..stores.table import Table
from . import sensor as sensors
from .config import BLOCK_FRAMES, BUILTIN
from .forearm import with_forearm
from .formats import hand_named
from .hand import SHAPE_SIZE, pose_hand
from .people import Person
from .render import RendererName, open_renderer
from .units import TABLES, Rows, frame_rows
from .views import Shots, Studio, blank, crop_rows, shoot

FITS: Final = "twin-fits"
"""Folder inside the recording that holds the fits while it is being made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinSettings:
    """What decides which twins there are and what they look like."""

    seed: int
    """Of the sensor's noise."""
    sensor: sensors.Sensor | None = None
    """To imitate, best that of the synthetic set they are trained with; None renders clean depth."""
    hand: str = BUILTIN
    """`builtin`, or a file that holds one; its proportions are fitted to each person."""
    hand_mapping: Path | None = None
    max_fit_error_mm: float = 6.0
    """A frame whose known points stay farther off than this in the mean is left out ..."""
    max_point_error_mm: float = 15.0
    """... and one of which any point stays farther off than this.

    On NYU's test labels (14 or 36 points) no frame exceeds 5 mm in the mean, and 0.1 % have a point 15 mm off.
    """
    renderer: RendererName = "raster"
    unit_frames: int = 256

    def describe(self) -> dict[str, Any]:
        """Plain values, for a recording's provenance and to compare with when resuming."""
        return {
            "seed": self.seed,
            "sensor": None if self.sensor is None else sensors.describe(self.sensor),
            "hand": self.hand,
            "hand_mapping": None if self.hand_mapping is None else str(self.hand_mapping),
            "max_fit_error_mm": self.max_fit_error_mm,
            "max_point_error_mm": self.max_point_error_mm,
            "renderer": self.renderer,
            "unit_frames": self.unit_frames,
        }

    @classmethod
    def of_description(cls, values: Mapping[str, Any]) -> Self:
        """The settings of `describe`."""
        sensor, mapping = values["sensor"], values["hand_mapping"]
        known = {name: values[name] for name in values if name not in ("sensor", "hand_mapping")}
        return cls(
            **known,
            sensor=None if sensor is None else sensors.parse_sensor(sensor),
            hand_mapping=None if mapping is None else Path(mapping),
        )


@dataclass(frozen=True, slots=True)
class TwinWork:
    """Draws and writes any unit of twins; goes to worker processes as it is."""

    real: Path
    out: Path
    rig: Rig
    side: Literal["right", "left"]
    settings: TwinSettings
    people: dict[int, Person]
    crop_px: int
    window_mm: float

    def __call__(self, unit: int) -> int:
        """Write what the unit still lacks; gives its number."""
        tables = {name: Table.open(self.out / name, writable=True, check=False) for name in TABLES}
        missing = [name for name in TABLES if not tables[name].marked(unit)]
        if missing:
            rows = self._rows(unit)
            for name in missing:
                tables[name].write_unit(unit, rows[name], marker=True)
        return unit

    def _rows(self, unit: int) -> dict[str, Rows]:
        first = unit * self.settings.unit_frames
        fits = np.array(np.load(self.out / FITS / "fits.npy", mmap_mode="r")[first : first + self.settings.unit_frames])
        rows = self.draw(fits, first)
        frames = open_recording(self.real).frames
        assert frames is not None
        frame_id, split = (frames.read_rows(name, fits["row"].tolist()) for name in ("frame_id", "split"))
        rows["labels"] |= {"twin": frame_id, "fit_error_mm": fits["error_mm"]}
        rows["frames"]["split"] = split
        return rows

    def draw(self, fits: NDArray[np.void], first: int) -> dict[str, Rows]:
        """Rows of the three tables for the fits of a whole unit that begins at row `first`.

        But for what only the real recording and the fit know: `twin`, `fit_error_mm` and `split`.
        """
        shots = blank(self._studio(int(fits["subject"][0])), len(fits))
        joints = np.empty((len(fits), len(OPENXR26), 3), np.float32)
        shapes = np.empty((len(fits), SHAPE_SIZE), np.float32)
        for who in np.unique(fits["subject"]).tolist():
            mine = np.flatnonzero(fits["subject"] == who)
            shapes[mine] = self.people[who].shape
            self._shoot(fits, mine, shapes[mine], first, self._studio(who), joints, into=shots)
        labels: Rows = {"joints": joints, "visible": shots.visible, "shape": shapes}
        labels |= {"pose": fits["pose"], "root": fits["root"]}
        here = frame_rows(np.arange(first, first + len(fits)), fits["subject"], len(self.rig))
        return {"crops": crop_rows(shots, parts=True), "labels": labels, "frames": here}

    def _shoot(
        self,
        fits: NDArray[np.void],
        mine: NDArray[np.intp],
        shapes: NDArray[np.float32],
        first: int,
        studio: Studio,
        joints: NDArray[np.float32],
        *,
        into: Shots,
    ) -> None:
        """One person's frames of a unit, in blocks of one size as `units.shoot_samples` has them."""
        for low in range(0, len(mine), BLOCK_FRAMES):
            pick = np.minimum(np.arange(low, low + BLOCK_FRAMES), len(mine) - 1)
            pose, root = (fits[name][mine[pick]].astype(np.float64) for name in ("pose", "root"))
            posed = pose_hand(studio.hand, pose, root, shapes[pick].astype(np.float64))
            for i, row in enumerate(mine[low : low + BLOCK_FRAMES].tolist()):
                joints[row] = posed.joints[i]
                shoot(studio, posed.vertices[i], posed.joints[i], frame=first + row, into=into, row=row)

    def _studio(self, who: int) -> Studio:
        return _studio(self.settings, self.rig, self.side, self.people[who], self.crop_px, self.window_mm)


@lru_cache(maxsize=16)
def _studio(settings: TwinSettings, rig: Rig, side: str, person: Person, crop_px: int, window_mm: float) -> Studio:
    base = hand_named(settings.hand, side=side, mapping=settings.hand_mapping).hand
    return Studio(
        hand=with_forearm(person.hand(base)),
        rig=rig,
        renderer=open_renderer(settings.renderer),
        sensor=settings.sensor,
        seed=settings.seed,
        crop_px=crop_px,
        window_mm=window_mm,
    )
