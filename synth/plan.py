"""What a synthesis will cost before it is begun: samples, bytes, time, and what the cameras will see.

Size and time come from a probe: one block of 32 samples of the very configuration is drawn, encoded and written
into a temporary folder, and a whole unit of copies of it is written for the time that the disk takes. Rows of
crops and masks are compressed one by one, so what a block takes is what any block takes, but for its poses:
within a few percent of the bytes. Cost: that of the block and, in a fresh process, seconds for the imports.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from .config import BLOCK_FRAMES, SynthConfig
from .executor import ExecutorName, open_executor
from .generate import create, warm
from .provenance import packages_of, versions
from .rigs import hand_share, volume_share
from .units import TABLES, UnitWork, make_unit, studio_of


@dataclass(frozen=True, slots=True)
class Seen:
    """What one camera sees of the volume, shares in [0, 1]."""

    camera: str
    palms: float
    """Of the palm's places, those inside the image; at the others the crop is empty."""
    hands: float
    """Mean share of a hand that lies inside the image."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What `synth run` would do."""

    frames: int
    cameras: tuple[Seen, ...]
    unit_frames: int
    units: int
    units_left: int
    """To make; fewer than `units` where an interrupted run is resumed."""
    bytes: int
    """Of the whole recording on the disk, estimated."""
    bytes_left: int
    """Of the units left."""
    free_bytes: int
    """On the disk where it goes."""
    seconds_per_view: float
    """Of one process, from the pose to the disk."""
    workers: int
    """Processes that can work at a time: no more than units, nor than cores where they run here."""
    seconds: float
    """Of the units left, if the workers do not slow each other down."""
    taken: bool
    """Whether a recording lies at the output that `synth run` would refuse to touch."""

    @property
    def views(self) -> int:
        """Pictures in all."""
        return self.frames * len(self.cameras)

    @property
    def fits(self) -> bool:
        """Whether the disk has room for what is left."""
        return self.bytes_left <= self.free_bytes

    def facts(self) -> dict[str, str]:
        """For people: names and what they are."""
        left = f", {self.units_left} left" if self.units_left < self.units else ""
        room = "free there" if self.fits else "free there: too little"
        out = {
            "samples": f"{self.frames} seen by {len(self.cameras)} cameras: {self.views} views",
            "units": f"{self.units} of {self.unit_frames} samples{left}",
            "size": f"about {amount(self.bytes)}, {amount(self.bytes / self.views)} a view; "
            f"{amount(self.free_bytes)} {room}",
            "time": f"{1e3 * self.seconds_per_view:.2f} ms a view; {duration(self.seconds)} for {self.workers} "
            f"process{'es' * (self.workers != 1)}, once started",
        }
        for seen in self.cameras:
            out[seen.camera] = f"sees the palm at {seen.palms:.0%} of its places, {seen.hands:.0%} of a hand"
        return out | ({"output": "is there already: --resume or --overwrite"} if self.taken else {})

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"views": self.views, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a block of samples took."""

    draw_s_per_frame: float
    write_s_per_frame: float
    bytes_per_frame: float
    bytes_fixed: int
    """Descriptions of tables and arrays."""


def make_plan(
    config: SynthConfig,
    out: Path,
    *,
    jobs: int,
    executor: ExecutorName = "local",
    scheduler: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> Plan:
    """The plan of `synthesise` with the same arguments; writes nothing at `out`.

    Raises:
        HandloomError: a camera does not see the hands, the rig cannot be read, or the cluster not be reached.
    """
    rig, volume = config.make_rig(), config.volume_radius_mm
    decisive = versions(("handloom", *packages_of(config.renderer)))
    with open_executor(executor, jobs=jobs, scheduler=scheduler, versions=decisive) as made_by:
        workers = made_by.workers
    found = probe(config, rig)
    left = config.units - (_units_marked(config, out) if resume else 0)
    workers = max(1, min(workers, left, len(os.sched_getaffinity(0)) if executor == "local" else workers))
    frames_left = min(left * config.unit_frames, config.frames)
    seconds_per_frame = found.draw_s_per_frame + found.write_s_per_frame
    return Plan(
        frames=config.frames,
        cameras=tuple(map(Seen, rig.names, volume_share(rig, volume), hand_share(rig, volume))),
        unit_frames=config.unit_frames,
        units=config.units,
        units_left=left,
        bytes=round(found.bytes_fixed + config.frames * found.bytes_per_frame),
        bytes_left=round(frames_left * found.bytes_per_frame),
        free_bytes=shutil.disk_usage(_existing(out)).free,
        seconds_per_view=seconds_per_frame / len(rig),
        workers=workers,
        seconds=frames_left * seconds_per_frame / workers,
        taken=out.exists() and not (resume or overwrite),
    )


def probe(config: SynthConfig, rig: Rig) -> Probe:
    """Draw, encode and write one block of the configuration's samples in a temporary folder."""
    block = config.model_copy(update={"frames": BLOCK_FRAMES, "unit_frames": BLOCK_FRAMES})
    unit = config.model_copy(update={"frames": min(config.frames, config.unit_frames)})
    studio = studio_of(config, rig)
    with tempfile.TemporaryDirectory(prefix="handloom-plan-") as folder:
        work = _emptied(block, rig, Path(folder) / "block")
        warm(work)
        start = time.perf_counter()
        rows = make_unit(block, studio, 0)
        drawn = time.perf_counter() - start
        fixed = _bytes_under(work.out)
        _write(work, rows)
        grown = _bytes_under(work.out) - fixed

        whole = _emptied(unit, rig, Path(folder) / "unit")
        copies = {name: {key: _repeated(v, unit.frames) for key, v in part.items()} for name, part in rows.items()}
        start = time.perf_counter()
        _write(whole, copies)
        written = time.perf_counter() - start
    return Probe(drawn / BLOCK_FRAMES, written / unit.frames, grown / BLOCK_FRAMES, fixed)


def amount(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """A time in words, to two digits or so."""
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min"
    return f"about {seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"about {seconds / 86400:.1f} days"


def _emptied(config: SynthConfig, rig: Rig, out: Path) -> UnitWork:
    recording = create(config, rig, out, overwrite=False)
    for name in TABLES:
        getattr(recording, name).resize(config.frames)
    return UnitWork(config, rig, out, recording.uuid)


def _write(work: UnitWork, rows: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    for name, table in work.tables().items():
        table.write_unit(0, rows[name], marker=True)


def _repeated(values: NDArray[Any], count: int) -> NDArray[Any]:
    return np.ascontiguousarray(values[np.arange(count) % len(values)])


def _bytes_under(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _units_marked(config: SynthConfig, out: Path) -> int:
    """Units that an interrupted run has left whole, by their markers alone."""
    folders = [out / name / "units" for name in TABLES]
    return sum(all((folder / f"{unit}.json").exists() for folder in folders) for unit in range(config.units))


def _existing(path: Path) -> Path:
    """The nearest folder that is there."""
    return next(folder for folder in (path.resolve(), *path.resolve().parents) if folder.exists())
