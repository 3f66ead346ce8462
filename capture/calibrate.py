"""`capture calibrate`: where the cameras of a rig stand, from a target that was shown to them.

`sphere:30mm` is a ball of that radius, seen in depth (`sphere_rig.py`). The rig's frame: the origin is the middle of
the volume, the mean of the target's places, because synthesis and locating expect the hand about it; the axes are the
first camera's. `first-camera` puts the origin there as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ..stores.camera import write_rig
from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .anipose import read_any_rig, with_intrinsics, write_anipose
from .depth_rows import DepthRows, open_depth_rows
from .record import Progress
from .rig_fit import CameraFit, Origin, RigFit, with_origin

Format = Literal["handloom", "anipose"]
TARGETS: Final = "sphere:RADIUSmm (sphere:30mm)"


@dataclass(frozen=True, slots=True)
class SphereTarget:
    """A ball."""

    radius_mm: float

    def __str__(self) -> str:
        return f"a ball of radius {self.radius_mm:g} mm"


def parse_target(text: str) -> SphereTarget:
    """The target that `--target` names.

    Raises:
        HandloomError: of another form, or not of a size that a depth camera sees.
    """
    match = re.fullmatch(r"sphere:([0-9]*\.?[0-9]+)mm", text.strip())
    if match is None:
        raise HandloomError(f"'{text}' is no target", where="--target", why=f"known: {TARGETS}; lengths in mm")
    radius_mm = float(match[1])
    if not 5 <= radius_mm <= 300:
        raise HandloomError("The ball's radius is not plausible", where="--target", why=f"{radius_mm:g} mm; 5 to 300")
    return SphereTarget(radius_mm)


def calibrate(
    source: Path,
    target: SphereTarget,
    *,
    origin: Origin = "volume",
    bias: bool = True,
    initial: Path | None = None,
    progress: Progress | None = None,
) -> RigFit:
    """The rig of the cameras of a recording or a plain folder.

    Args:
        source: with full frames.
        target: what was shown.
        origin: of the rig's frame.
        bias: estimate each camera's depth bias too, so that it does not end in where the camera stands.
        initial: a rig.toml or anipose TOML whose intrinsics are used instead of the source's.
        progress: told of frames looked at.

    Raises:
        HandloomError: the source cannot be read, or its frames do not place every camera.
    """
    rows = open_depth_rows(source)
    if len(rows.rig) < 2:
        raise HandloomError("A single camera needs no rig calibration", where=str(source))
    if initial is not None:
        rig = with_intrinsics(rows.rig, read_any_rig(initial), where=str(initial))
        rows = DepthRows(rig, rows.present, rows.depth)
    from .sphere_rig import calibrate_sphere

    fit = calibrate_sphere(rows, target.radius_mm, bias=bias, where=str(source), progress=progress)
    return with_origin(fit, origin)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Stop before an hour's work where the output is there already.

    Raises:
        HandloomError: it is.
    """
    if path.is_dir() or (path.exists() and not overwrite):
        raise HandloomError("The output exists already", where=str(path), fix="add --overwrite, or choose another name")


def write_calibration(fit: RigFit, path: Path, form: Format) -> None:
    """Write the rig.

    Raises:
        HandloomError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (write_anipose if form == "anipose" else write_rig)(fit.rig, path)
    except OSError as error:
        raise HandloomError(
            "The rig cannot be written", where=str(path), why=error.strerror or str(error), exit_code=BAD_ENVIRONMENT
        ) from error


def lines(fit: RigFit) -> list[str]:
    """A line a camera, for people."""
    width = max(len(one.name) for one in fit.cameras)
    return [f"  {one.name:<{width}}  {_line(fit, view, one)}" for view, one in enumerate(fit.cameras)]


def _line(fit: RigFit, view: int, one: CameraFit) -> str:
    known = "sets the axes   " if view == 0 else f"±{one.sd_deg:.3f}° ±{one.sd_mm:.2f} mm"
    text = f"{known}  {one.seen} of {len(fit.seen)} frames, {one.residual:.2f} {fit.unit} off"
    if one.mistakes:
        text += f", {one.mistakes} left out"
    if one.bias_mm is not None:
        text += f", bias {one.bias_mm:+.1f} ± {one.bias_sd_mm:.1f} mm"
    return text
