"""`capture calibrate --refine icp`: cameras turned and shifted until what stands still looks the same to all of them.

What does not move (a desk, walls, a chair; the mean of all frames) is a cloud of points a camera, its depth bias
taken off. Every camera but the first is aligned in turn with the clouds of all others (point-to-plane ICP, Chen &
Medioni 1992, Tukey's loss; Open3D's, from the extra of that name), a few rounds with a shrinking reach.

Aligned surfaces are no proof of a better rig: they slide along a wall. So the result is judged by points that took no
part in the alignment and by the target itself, and what was there before stays if either is worse. Cost: a few seconds.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig, depth_to_points
from ..stores.errors import BAD_ENVIRONMENT, HandloomError, missing_extra
from ..stores.libusb import load_libusb
from .depth_rows import DepthRows, still_mm
from .rig_fit import RigFit, with_poses

F64 = NDArray[np.float64]

REACHES_MM: Final = (40.0, 25.0, 15.0, 10.0)
"""How far apart points of one surface may be, round by round."""
VOXEL_MM: Final = 8.0
FARTHEST: Final = 4.0
"""In distances between the camera and the volume: depth beyond is too noisy."""
LEAST_POINTS: Final = 400
FLAT: Final = 0.01
"""Least share of the surface that must resist a motion in every direction; a lone wall resists three of six."""
TRUNCATED_MM: Final = 20.0
WORSE: Final = 1.02
"""By how much the target may be off more than before: that is noise."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """What ICP made of a rig."""

    rig: Rig
    """The better one of before and after."""
    kept: bool
    """Whether that is the one after."""
    before_mm: float
    """Mean distance of points from the other cameras' surfaces, points that took no part."""
    after_mm: float
    why: str = ""
    """Why what was there before stays."""


def refine_by_icp(rows: DepthRows, fit: RigFit, *, where: str) -> RigFit:
    """The fit with its cameras aligned, or as it was, and a note that says so.

    Args:
        rows: depth of the same cameras.
        fit: a calibration.
        where: the source, for errors.

    Raises:
        HandloomError: Open3D is not installed, or the cameras of `rows` are others.
    """
    open3d = load_open3d()
    if rows.rig.names != fit.rig.names:
        raise HandloomError(
            "The depth is of other cameras",
            where=where,
            why=f"{', '.join(rows.rig.names)} instead of {', '.join(fit.rig.names)}",
        )
    clouds = []
    for view in range(len(rows.rig)):
        still = still_mm(rows, view)
        bias = fit.cameras[view].bias_mm or 0.0
        clouds.append(cloud_of(np.where(still > 0, still - bias, 0), fit.rig, view))
    found = aligned(clouds, fit.rig, open3d=open3d)
    target = [fit.disagreement_mm(rig) for rig in (fit.rig, found.rig)]
    if found.kept and target[0] is not None and target[1] is not None and target[1] > WORSE * target[0]:
        found = replace(
            found, rig=fit.rig, kept=False, why=f"the target would be off by {target[1]:.2f} mm, not {target[0]:.2f}"
        )
    scene = f"what stands still is off by {found.before_mm:.2f} mm before, {found.after_mm:.2f} mm after"
    if found.kept:
        told = f"ICP: {scene}; the aligned rig was taken (± are those of the target alone)."
        return replace(with_poses(fit, found.rig), notes=(*fit.notes, told))
    reasons = [reason for reason in (found.why, scene if np.isfinite(found.before_mm) else "") if reason]
    return replace(fit, notes=(*fit.notes, f"ICP: the rig stays as the target says: {'; '.join(reasons)}."))


def cloud_of(depth_mm: NDArray[Any], rig: Rig, view: int) -> F64:
    """(n, 3) mm in the camera's frame of what a camera sees no farther than makes sense."""
    camera = rig.cameras[view]
    reach = FARTHEST * max(float(np.linalg.norm(camera.translation)), 250.0)
    return depth_to_points(np.where(depth_mm < reach, depth_mm, 0), camera.k)


def aligned(clouds: Sequence[F64], rig: Rig, *, open3d: Any) -> Alignment:
    """A rig whose cameras' clouds (n, 3), each in its camera's frame, lie on each other.

    Every second point is aligned, the others judge.
    """
    halves = [(_surface(open3d, cloud[::2]), cloud[1::2]) for cloud in clouds]
    poses = [_matrix(camera.rotation, camera.translation) for camera in rig.cameras]
    if min(len(surface.points) for surface, _ in halves) < LEAST_POINTS:
        return Alignment(rig, False, np.nan, np.nan, "too little stands still before some camera")
    start = [pose.copy() for pose in poses]
    for reach in REACHES_MM:
        for view in range(1, len(poses)):
            others = open3d.geometry.PointCloud()
            for other, (surface, _) in enumerate(halves):
                if other != view:
                    others += _moved(surface, _inverse(poses[other]))
            step = _align(open3d, halves[view][0], others, _inverse(poses[view]), reach)
            if isinstance(step, str):
                return Alignment(rig, False, np.nan, np.nan, f"{rig.names[view]}: {step}")
            poses[view] = _inverse(step)
    before, after = _judged(halves, start, poses)
    refined = Rig(tuple(_posed(camera, pose) for camera, pose in zip(rig.cameras, poses, strict=True)))
    if after < before:
        return Alignment(refined, True, before, after)
    return Alignment(rig, False, before, after)


def _surface(open3d: Any, points: F64) -> Any:
    """Thinned points with normals."""
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points)).voxel_down_sample(VOXEL_MM)
    cloud.estimate_normals(open3d.geometry.KDTreeSearchParamHybrid(radius=4 * VOXEL_MM, max_nn=30))
    return cloud


def _moved(cloud: Any, pose: F64) -> Any:
    # Open3D's transform changes the cloud itself.
    return type(cloud)(cloud).transform(pose)


def _align(open3d: Any, source: Any, target: Any, start: F64, reach_mm: float) -> F64 | str:
    """The pose (4, 4) that takes the source onto the target, or why there is none."""
    registration = open3d.pipelines.registration
    result = registration.registration_icp(
        source,
        target,
        reach_mm,
        start,
        registration.TransformationEstimationPointToPlane(registration.TukeyLoss(reach_mm / 2)),
        registration.ICPConvergenceCriteria(max_iteration=40),
    )
    pairs = np.asarray(result.correspondence_set)
    if len(pairs) < LEAST_POINTS / 2:
        return "too little of what stands still is seen by others, too"
    normals = np.asarray(target.normals)[pairs[:, 1]]
    points = np.asarray(target.points)[pairs[:, 1]]
    points = points - points.mean(0)
    spread = np.sqrt((points**2).sum(1).mean())
    motions = np.concatenate([np.cross(points, normals) / spread, normals], axis=1)
    if np.linalg.eigvalsh(motions.T @ motions / len(motions))[0] < FLAT:
        return "what it shares with others is flat, or round: it may still slide"
    return np.asarray(result.transformation, np.float64)


def _judged(halves: Sequence[tuple[Any, F64]], before: list[F64], after: list[F64]) -> tuple[float, float]:
    """Mean distances (mm) of points from the surfaces of other cameras, of points that had one near before or after."""
    near, off = [], []
    for poses in (before, after):
        near_points, off_points = [], []
        for view, (_, rest) in enumerate(halves):
            rest = rest[:: max(1, len(rest) // 4000)]
            distance, plane = _to_others(halves, poses, view, rest)
            near_points.append(distance < 2 * TRUNCATED_MM)
            off_points.append(np.minimum(plane, TRUNCATED_MM))
        near.append(np.concatenate(near_points))
        off.append(np.concatenate(off_points))
    shared = near[0] | near[1]
    if not shared.any():
        return np.nan, np.nan
    return float(off[0][shared].mean()), float(off[1][shared].mean())


def _to_others(halves: Sequence[tuple[Any, F64]], poses: list[F64], view: int, points: F64) -> tuple[F64, F64]:
    """Distance (n,) to the nearest point of another camera, and to the plane there."""
    from scipy.spatial import cKDTree

    surfaces = [_moved(surface, _inverse(poses[v])) for v, (surface, _) in enumerate(halves) if v != view]
    others = np.concatenate([np.asarray(surface.points) for surface in surfaces])
    normals = np.concatenate([np.asarray(surface.normals) for surface in surfaces])
    there = (points - poses[view][:3, 3]) @ poses[view][:3, :3]
    distance, index = cKDTree(others).query(there)
    plane = np.abs(((there - others[index]) * normals[index]).sum(1))
    return np.asarray(distance), np.where(distance < 2 * TRUNCATED_MM, plane, TRUNCATED_MM)


def _inverse(pose: F64) -> F64:
    return np.asarray(np.linalg.inv(pose), np.float64)


def _matrix(rotation: F64, shift: F64) -> F64:
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, shift
    return out


def _posed(camera: Any, pose: F64) -> Any:
    return replace(camera, r=tuple(map(tuple, pose[:3, :3].tolist())), t=tuple(pose[:3, 3].tolist()))


def load_open3d() -> Any:
    """The package, where it is installed.

    Raises:
        HandloomError: it is not, or a library of the system that it needs is missing.
    """
    load_libusb()
    try:
        return importlib.import_module("open3d")
    except ModuleNotFoundError as error:
        raise missing_extra("open3d", "open3d") from error
    except (ImportError, OSError) as error:
        raise HandloomError(
            "Open3D cannot be loaded",
            why=f"{type(error).__name__}: {error}",
            fix="apt install libegl1 libgl1 libx11-6 libusb-1.0-0, or calibrate without --refine icp",
            exit_code=BAD_ENVIRONMENT,
        ) from error
