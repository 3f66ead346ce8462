"""`capture calibrate`: where the cameras of a rig stand, from a target that was shown to them.

A ball is seen in depth (`sphere_rig.py`), a printed board in infrared or colour (`charuco_rig.py`); `targets.py` says
how they are named. The rig's frame: the origin is the middle of the volume, the mean of the target's places, because
synthesis and locating expect the hand about it; the axes are the first camera's. `first-camera` puts the origin there
as well.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..stores.camera import Rig, write_rig
from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .anipose import read_any_rig, with_intrinsics, write_anipose
from .depth_rows import DepthRows, open_depth_rows
from .record import Progress
from .rig_fit import CameraFit, Origin, RigFit, with_axes, with_origin
from .targets import CharucoTarget, SphereTarget, Target, parse_target

if TYPE_CHECKING:
    from .charuco_rig import Intrinsics
    from .pictures import Kind, PictureRows

__all__ = ["CharucoTarget", "SphereTarget", "Target", "calibrate", "lines", "parse_target", "write_calibration"]

Format = Literal["handloom", "anipose"]
Refine = Literal["none", "icp"]


def calibrate(
    source: Path,
    target: Target,
    *,
    origin: Origin = "volume",
    bias: bool = True,
    initial: Path | None = None,
    intrinsics: Intrinsics = "keep",
    images: Kind | None = None,
    refine: Refine = "none",
    progress: Progress | None = None,
) -> RigFit:
    """The rig of the cameras of a recording or a folder.

    Args:
        source: with full frames of depth, or with pictures (`pictures.py`), as the target asks.
        target: what was shown.
        origin: of the rig's frame.
        bias: of a ball; estimate each camera's depth bias too, so that it does not end in where the camera stands.
        initial: a rig.toml or anipose TOML whose intrinsics are used instead of the source's.
        intrinsics: of a board; keep them, refine K, or refine K and lens distortion.
        images: of a board; which pictures, where the folder holds infrared and colour.
        refine: `icp` aligns what stands still afterwards (`icp.py`).
        progress: told of frames looked at.

    Raises:
        HandloomError: the source cannot be read, or its frames do not place every camera; `icp` without Open3D, or
            without depth.
    """
    if refine == "icp":
        from .icp import load_open3d, refine_by_icp

        load_open3d()  # before the work, not after it
        _refuse_without_depth(source, target)
    match target:
        case SphereTarget():
            fit = _by_ball(source, target, bias=bias, initial=initial, progress=progress)
        case CharucoTarget():
            fit = _by_board(source, target, intrinsics, images, initial=initial, progress=progress)
    if refine == "icp":
        fit = refine_by_icp(open_depth_rows(source), fit, where=str(source))
    return with_origin(fit, origin)


def _refuse_without_depth(source: Path, target: Target) -> None:
    """Stop where ICP would have nothing to align, or what is not the cameras that the target places."""
    if isinstance(target, SphereTarget):
        return
    if not (source / "frames.csv").exists():
        why = "the folder holds pictures alone: no frames.csv that lists depth"
    elif (source / "color").is_dir() and not (source / "ir").is_dir() and not (source / "color/rig.toml").exists():
        why = "nothing says where the colour cameras stand beside the depth cameras (color/rig.toml)"
    else:
        return
    raise HandloomError("ICP needs depth from where the target was seen", where=str(source), why=why)


def _by_ball(
    source: Path, target: SphereTarget, *, bias: bool, initial: Path | None, progress: Progress | None
) -> RigFit:
    from .sphere_rig import calibrate_sphere

    rows = open_depth_rows(source)
    _refuse_one_camera(rows.rig, source)
    if initial is not None:
        rig = with_intrinsics(rows.rig, read_any_rig(initial), where=str(initial))
        rows = DepthRows(rig, rows.present, rows.depth)
    return calibrate_sphere(rows, target.radius_mm, bias=bias, where=str(source), progress=progress)


def _by_board(
    source: Path,
    target: CharucoTarget,
    intrinsics: Intrinsics,
    images: Kind | None,
    *,
    initial: Path | None,
    progress: Progress | None,
) -> RigFit:
    from .charuco_rig import calibrate_charuco
    from .pictures import open_pictures

    rows = open_pictures(source, kind=images)
    _refuse_one_camera(rows.rig, source)
    if initial is not None:
        given = read_any_rig(initial)
        known = rows.known or set(rows.rig.names) <= set(given.names)
        rows = replace(rows, rig=with_intrinsics(rows.rig, given, where=str(initial)), known=known)
    fit = _of_depth(calibrate_charuco(rows, target, intrinsics=intrinsics, where=str(source), progress=progress), rows)
    bent = [camera.name for camera in fit.rig.cameras if any(camera.dist)]
    if not bent:
        return fit
    return _noted(
        fit,
        f"The lenses of {', '.join(bent)} bend lines, and crops and renders are those of pinhole cameras: undistort "
        "the depth, or delete dist from the rig where the camera has done so itself (a RealSense has).",
    )


def _refuse_one_camera(rig: Rig, source: Path) -> None:
    if len(rig) < 2:
        raise HandloomError("A single camera needs no rig calibration", where=str(source))


def _of_depth(fit: RigFit, rows: PictureRows) -> RigFit:
    """The fit of the cameras that measure depth, as far as the pictures' place beside them is known, and in words."""
    between, depth = rows.rig, rows.depth_rig
    moved = any(not np.allclose(c.rotation, np.eye(3)) or np.any(c.translation) for c in between.cameras)
    if depth is not None and moved:
        said = "The rig is that of the depth cameras: R, t of the pictures' rig.toml lead there from the pictures'."
        by_name = {camera.name: camera for camera in depth.cameras}
        return _noted(with_axes(fit, [(by_name[c.name], c.rotation, c.translation) for c in between.cameras]), said)
    if rows.kind == "ir":
        said = "Infrared is taken to be the depth cameras' own imager: where it stands, the depth is measured from."
        if depth is not None:
            by_name = {camera.name: camera for camera in depth.cameras}
            fit = with_axes(fit, [(by_name[c.name], np.eye(3), np.zeros(3)) for c in between.cameras])
        return _noted(fit, said)
    return _noted(
        fit,
        "The rig is that of the COLOUR cameras. Depth cameras stand beside them (15 mm in a D435): use it for depth "
        "only if depth was aligned to colour. Else calibrate from infrared, or give color/rig.toml the R, t of "
        "x_color = R x_depth + t, with the depth cameras in the folder's own rig.toml.",
    )


def _noted(fit: RigFit, text: str) -> RigFit:
    return replace(fit, notes=(text, *fit.notes))


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
    """A line a camera, for people; what follows ± holds in 95 of 100 calibrations."""
    width = max(len(one.name) for one in fit.cameras)
    return [f"  {one.name:<{width}}  {_line(fit, view, one)}" for view, one in enumerate(fit.cameras)]


def _line(fit: RigFit, view: int, one: CameraFit) -> str:
    known = "sets the axes    " if view == 0 else f"±{one.within_deg:.3f}° ±{one.within_mm:5.2f} mm"
    text = f"{known}  {one.seen} of {len(fit.seen)} frames, {one.residual:.2f} {fit.unit} off"
    if one.mistakes:
        text += f", {one.mistakes} left out"
    if one.bias_mm is not None:
        text += f", bias {one.bias_mm:+.1f} ± {one.bias_within_mm:.1f} mm"
    return text
