"""`capture probe`: open a source, look at it for a short while, say what it gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import HandloomError
from .source import HOST_CLOCKS, DepthSource, Image
from .sync import Grouper, ImageSet
from .sync_report import sync_report

NEAR_FAR: Final = (0.01, 0.99)
"""Shares of the returns below the near and below the far end that is told."""


@dataclass(frozen=True, slots=True)
class ProbedCamera:
    """What one camera gave."""

    name: str
    serial: str
    width: int
    height: int
    k: tuple[float, float, float, float]
    dist_model: str
    dist: tuple[float, ...]
    depth_unit_mm: float
    images: int
    fps: float | None
    jitter_ms: float | None
    lost: int
    invalid_share: float | None
    """Pixels without return, of all images."""
    near_mm: float | None
    far_mm: float | None

    def lines(self) -> list[str]:
        """For people, within 80 columns."""
        fx, fy, cx, cy = (f"{value:.2f}" for value in self.k)
        lens = f"{self.dist_model} {list(self.dist)}" if any(self.dist) else "no distortion"
        who = f"{self.name[:24]} (serial {self.serial[:20]})" if self.serial else self.name[:48]
        out = [f"{who}: {self.width} x {self.height}", f"  fx {fx}, fy {fy}, cx {cx}, cy {cy} px; {lens[:32]}"]
        if not self.images:
            return [*out, f"  {self.depth_unit_mm:g} mm a step; no image came"]
        far = f"depth {self.near_mm:.0f} to {self.far_mm:.0f} mm" if self.near_mm is not None else "no return at all"
        out.append(f"  {self.depth_unit_mm:g} mm a step; {far}, {self.invalid_share:.1%} of pixels without return")
        rate = f", {self.fps:.2f} fps" if self.fps is not None else ""
        jitter = f", stamps scatter by {self.jitter_ms:.3f} ms" if self.jitter_ms is not None else ""
        return [*out, f"  {self.images} images{rate}{jitter}, {self.lost} lost"]


@dataclass(frozen=True, slots=True)
class Probe:
    """What a source gave."""

    source: Mapping[str, Any]
    """Its provenance."""
    clock: str
    shared_clock: bool
    poses: str
    """`given`, `unknown` or `single camera`."""
    cameras: tuple[ProbedCamera, ...]
    skew_ms: Mapping[str, float] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, within 80 columns."""
        out = [line for camera in self.cameras for line in camera.lines()]
        whose = "one for all cameras" if self.shared_clock else "each camera its own"
        out.append(f"clock: {self.clock}, {whose}")
        if self.skew_ms is not None:
            out.append(f"skew: {self.skew_ms['median']:.2f} ms (median), {self.skew_ms['p95']:.2f} (p95)")
        if self.poses == "unknown":
            out.append("rig: where the cameras stand is unknown; handloom capture calibrate finds it")
        else:
            out.append(f"rig: {'poses given' if self.poses == 'given' else self.poses}")
        return out


def probe(source: DepthSource, *, seconds: float, images: int = 300) -> Probe:
    """Read a source for `seconds` of its own time, or so many `images` a camera; it is not closed.

    Raises:
        HandloomError: what the source raises, or it gives no image.
    """
    rig, shared = source.rig, source.clock in (*HOST_CLOCKS, "folder")
    grouper = Grouper(len(rig), shared_clock=shared)
    looks = [_Look(camera.depth_unit_mm) for camera in rig.cameras]
    sets: list[ImageSet] = []
    begun: dict[int, int] = {}
    for image in source.frames():
        begun.setdefault(image.camera, image.t_host_ns)
        looks[image.camera].add(image)
        # The pixels were looked at: what is kept of an image here are its times.
        stamps = Image(image.camera, _NOTHING, image.t_device_ns, image.t_host_ns, image.frame_number)
        sets += grouper.push(stamps)
        if image.t_host_ns - begun[image.camera] >= seconds * 1e9 or looks[image.camera].images >= images:
            break
    sets += grouper.flush()
    if not sets:
        raise HandloomError("The source gives no image", where=str(source.provenance.get("source", "")))
    device, host, number = (
        np.array([[-1 if i is None else getattr(i, name) for i in one.images] for one in sets], np.int64)
        for name in ("t_device_ns", "t_host_ns", "frame_number")
    )
    report = sync_report(rig.names, device, host, number, shared_clock=shared)
    cameras = []
    for camera, look in zip(rig.cameras, looks, strict=True):
        said, (near, far) = report["cameras"][camera.name], look.range_mm()
        cameras.append(
            ProbedCamera(
                camera.name, camera.serial, camera.width, camera.height, camera.k, camera.dist_model, camera.dist,
                camera.depth_unit_mm, look.images, said.get("fps"), said.get("jitter_ms"), said.get("lost", 0),
                look.invalid_share, near, far,
            )
        )  # fmt: skip
    return Probe(source.provenance, source.clock, shared, _poses(source, rig), tuple(cameras), report["skew_ms"])


_NOTHING: Final = np.zeros((0, 0), np.uint16)


class _Look:
    """What the pixels of one camera say, in bounded memory: how often each step of depth came."""

    def __init__(self, unit_mm: float) -> None:
        self._unit_mm = unit_mm
        self._counts: NDArray[np.int64] = np.zeros(1 << 16, np.int64)
        self.images = 0

    def add(self, image: Image) -> None:
        self._counts += np.bincount(image.depth.reshape(-1), minlength=1 << 16)
        self.images += 1

    @property
    def invalid_share(self) -> float | None:
        """Of all pixels, those without return."""
        total = int(self._counts.sum())
        return round(int(self._counts[0]) / total, 5) if total else None

    def range_mm(self) -> tuple[float | None, float | None]:
        """Between which depths nearly all returns lie."""
        upto = self._counts[1:].cumsum()
        if not upto[-1]:
            return None, None
        near, far = (1 + int(np.searchsorted(upto, share * upto[-1])) for share in NEAR_FAR)
        return round(near * self._unit_mm, 3), round(far * self._unit_mm, 3)


def refuse_recording(names: Sequence[str]) -> None:
    """Stop where a recording of ours is named: it is looked at by other commands.

    Raises:
        HandloomError: it is one.
    """
    for name in names:
        if (Path(name) / "zarr.json").is_file():
            raise HandloomError(
                "A recording is no source",
                where=name,
                fix=f"handloom store info {name}, or handloom capture sync {name}",
            )


def _poses(source: DepthSource, rig: Rig) -> str:
    said = source.provenance.get("poses")
    if isinstance(said, str):
        return said
    if len(rig) == 1:
        return "single camera"
    # Cameras that all stand at the origin were never placed.
    return "given" if len({(camera.r, camera.t) for camera in rig.cameras}) > 1 else "unknown"
