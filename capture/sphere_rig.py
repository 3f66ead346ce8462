"""Where depth cameras stand, from a ball of known radius that was moved through the volume.

Every image gives the ball's centre in its camera's frame (`sphere.py`). Two cameras that saw it in the same frames
are related by the rigid motion between their centres (`view_graph.py`); all cameras and all places of the ball are then
refined together (`bundle.py`):

    c ≈ x + b x / x_z,    x = R X + t

c measured by a camera with rotation R, translation t and depth bias b mm; X the ball in the rig's frame. Without
`bias`, b = 0 and a bias ends in t: the rig agrees with what the cameras measure in the middle of the volume. With it,
b is told from t because it spreads the centres across the image as well; it has a prior of 0 ± 5 mm. A radius that is
1 mm too large reads as about 1 mm more of every camera's b, which moves no camera against another. Standard deviations
are those of the noise: what a fit of the ball does wrong in the same way in every frame is not in them.
Intrinsics are those of the source and are not refined: depth alone hardly tells them from the motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import refuse_distortion
from ..stores.locate import background_of
from .bundle import Linear, Problem, cross, solve, turned
from .depth_rows import DepthRows
from .record import Progress
from .rig_fit import RigFit, placed
from .sphere import Sphere, find_sphere
from .view_graph import agreed_motion, chained, check_views, shared_views

F64 = NDArray[np.float64]

MOST_ROWS: Final = 600
"""More frames make it slower, hardly better."""
BACKGROUND_ROWS: Final = 60
AGREE_MM: Final = 25.0
"""Centres of two cameras that are farther apart are not of the same ball."""
BIAS_PRIOR_MM: Final = 5.0
PROBES: Final = 12


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    rotation: F64
    """(V, 3, 3)"""
    shift: F64
    """(V, 3)"""
    bias: F64
    """(V,)"""
    centers: F64
    """(K, 3)"""


def calibrate_sphere(
    rows: DepthRows, radius_mm: float, *, bias: bool, where: str, progress: Progress | None = None
) -> RigFit:
    """The rig that explains where each camera saw the ball.

    Args:
        rows: the images.
        radius_mm: of the ball.
        bias: estimate each camera's depth bias as well.
        where: the source, for errors.
        progress: told of images looked at.

    Raises:
        HandloomError: a camera saw the ball too seldom, cameras never saw it together, or it moved along a line; a
            camera with lens distortion.
    """
    refuse_distortion(rows.rig, where=where)
    total = len(rows.present)
    chosen = np.unique(np.linspace(0, total - 1, min(total, MOST_ROWS)).astype(int))
    backgrounds = [_background(rows, view) for view in range(len(rows.rig))]
    found = _found(rows, chosen, radius_mm, backgrounds, progress)
    seen = np.array([[one is not None for one in row] for row in found])
    hint = "move the ball through what this camera sees; a ball that keeps still is taken for background"
    names = rows.rig.names
    if (seen.sum(0) < PROBES).any():
        hint = _radius_hint(rows, chosen, radius_mm, backgrounds, int(seen.sum(0).argmin())) or hint
    check_views(seen, names, where=where, hint=hint)

    centers = np.full((*seen.shape, 3), np.nan)
    for row, view in zip(*np.nonzero(seen), strict=True):
        one = found[row][view]
        assert one is not None
        centers[row, view] = one.center_mm
    poses = chained(shared_views(seen), lambda a, b: _link(centers, a, b, f"{where}, {names[a]} and {names[b]}"))
    return _refined(rows, chosen, found, seen, centers, poses, bias=bias)


def _background(rows: DepthRows, view: int) -> NDArray[np.float32]:
    """(H, W) mm of what stands still before a camera, 0 = unknown."""
    there = np.flatnonzero(rows.present[:, view])
    if not len(there):
        camera = rows.rig.cameras[view]
        return np.zeros((camera.height, camera.width), np.float32)
    kept = there[np.unique(np.linspace(0, len(there) - 1, BACKGROUND_ROWS).astype(int))]
    stack = np.stack([rows.depth(int(row), view) for row in kept])
    unit = np.float32(rows.rig.cameras[view].depth_unit_mm)
    return np.asarray(background_of(stack).astype(np.float32) * unit)


def _found(
    rows: DepthRows,
    chosen: NDArray[np.intp],
    radius_mm: float,
    backgrounds: list[NDArray[np.float32]],
    progress: Progress | None,
) -> list[list[Sphere | None]]:
    out: list[list[Sphere | None]] = []
    for done, row in enumerate(chosen):
        out.append([_look(rows, int(row), view, radius_mm, backgrounds[view]) for view in range(len(rows.rig))])
        if progress is not None:
            progress(done + 1, len(chosen))
    return out


def _look(rows: DepthRows, row: int, view: int, radius_mm: float, background: NDArray[np.float32]) -> Sphere | None:
    if not rows.present[row, view]:
        return None
    return find_sphere(rows.depth_mm(row, view), rows.rig.cameras[view].k, radius_mm, background_mm=background)


def _radius_hint(
    rows: DepthRows, chosen: NDArray[np.intp], radius_mm: float, backgrounds: list[NDArray[np.float32]], view: int
) -> str:
    """What to say where a ball of half or twice the radius is there: a diameter was given, or the ball is another."""
    picked = chosen[np.unique(np.linspace(0, len(chosen) - 1, PROBES).astype(int))]
    for other in (radius_mm / 2, radius_mm * 2):
        hits = sum(_look(rows, int(row), view, other, backgrounds[view]) is not None for row in picked)
        if 2 * hits > len(picked):
            return (
                f"a ball of radius {other:g} mm is in {hits} of {len(picked)} images of {rows.rig.names[view]}: "
                f"--target sphere:{other:g}mm (the radius, not the diameter)"
            )
    return ""


def _link(centers: F64, a: int, b: int, where: str) -> tuple[F64, F64]:
    both = np.isfinite(centers[:, [a, b], 0]).all(1)
    return agreed_motion(centers[both, a], centers[both, b], tolerance_mm=AGREE_MM, where=where)


def _refined(
    rows: DepthRows,
    chosen: NDArray[np.intp],
    found: list[list[Sphere | None]],
    seen: NDArray[np.bool_],
    centers: F64,
    poses: list[tuple[F64, F64]],
    *,
    bias: bool,
) -> RigFit:
    """Bundle adjustment of all frames that at least two cameras saw."""
    shared = np.flatnonzero(seen.sum(1) > 1)
    structure, camera = np.nonzero(seen[shared])
    measured = centers[shared][structure, camera]
    spheres = [found[shared[s]][c] for s, c in zip(structure, camera, strict=True)]
    whiten = np.array([np.linalg.cholesky(np.linalg.inv(one.covariance)).T for one in spheres if one is not None])

    rotation, shift = np.array([r for r, _ in poses]), np.array([t for _, t in poses])
    in_rig = np.einsum("nji,nj->ni", rotation[camera], measured - shift[camera])
    first = np.stack([np.median(in_rig[structure == s], axis=0) for s in range(len(shared))])
    # About the middle of the volume, turning and shifting a camera hardly affect each other.
    middle = first.mean(0)
    shift = shift + rotation @ middle
    views = len(poses)

    def linearise(state: _State) -> Linear:
        return _linear(state, camera, structure, measured, whiten)

    free = np.ones((views, 7), bool)
    free[0, :6] = False
    free[:, 6] = bias
    prior = np.zeros((views, 7))
    prior[:, 6] = 1 / BIAS_PRIOR_MM**2 if bias else 0.0

    def from_prior(state: _State) -> F64:
        out = np.zeros((views, 7))
        out[:, 6] = state.bias
        return out

    problem = Problem(camera, structure, linearise, _moved, free, prior, from_prior)
    solution = solve(problem, _State(rotation, shift, np.zeros(views), first - middle))
    state = solution.state
    off = np.linalg.norm(_predicted(state, camera, structure)[0] - measured, axis=1)
    return placed(
        rows.rig,
        rotation=state.rotation,
        shift=state.shift,
        covariance=solution.covariance[:, :6, :, :6],
        bias_mm=state.bias if bias else None,
        bias_sd_mm=np.sqrt([max(solution.covariance[v, 6, v, 6], 0.0) for v in range(views)]) if bias else None,
        seen=seen,
        row=chosen,
        places=state.centers,
        camera=camera,
        place=structure,
        residual=off,
        inlier=solution.inlier,
        unit="mm",
    )


def _predicted(state: _State, camera: NDArray[np.intp], structure: NDArray[np.intp]) -> tuple[F64, F64, F64]:
    """Where each observation should be (n, 3), without bias (n, 3), and R X (n, 3)."""
    turned_x = np.einsum("nij,nj->ni", state.rotation[camera], state.centers[structure])
    x = turned_x + state.shift[camera]
    return x * (1 + state.bias[camera, None] / x[:, 2:]), x, turned_x


def _linear(state: _State, camera: NDArray[np.intp], structure: NDArray[np.intp], measured: F64, whiten: F64) -> Linear:
    there, x, turned_x = _predicted(state, camera, structure)
    bias, z = state.bias[camera], x[:, 2]
    # ∂(x + b x / x_z) / ∂x
    by_x = (1 + bias / z)[:, None, None] * np.eye(3)
    by_x[:, :, 2] -= (bias / z**2)[:, None] * x
    by_camera = np.concatenate([by_x @ -cross(turned_x), by_x, (x / z[:, None])[:, :, None]], axis=2)
    by_structure = by_x @ state.rotation[camera]
    return Linear(
        np.einsum("nij,nj->ni", whiten, there - measured),
        whiten @ by_camera,
        whiten @ by_structure,
    )


def _moved(state: _State, cameras: F64, structures: F64) -> _State:
    return _State(
        turned(cameras[:, :3]) @ state.rotation,
        state.shift + cameras[:, 3:6],
        state.bias + cameras[:, 6],
        state.centers + structures,
    )
