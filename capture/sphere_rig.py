"""Where depth cameras stand, from a ball of known radius that was moved through the volume.

Every image gives the ball's centre in its camera's frame (`sphere.py`). Two cameras that saw it in the same frames
are related by the rigid motion between their centres (`view_graph.py`); all cameras and all places of the ball are then
refined together (`bundle.py`):

    c ≈ x + b x / x_z,    x = R X + t

c measured by a camera with rotation R, translation t and depth bias b mm; X the ball in the rig's frame. Without
`bias`, b = 0 and a bias ends in t: the rig agrees with what the cameras measure in the middle of the volume. With it,
b is told from t because it spreads the centres across the image as well; it has a prior of 0 ± 5 mm. Once it is known,
it is taken off the points of every ball and the balls are fitted again, so in the end x, not c, is what is compared.

A radius that is 1 mm too large reads as about 1 mm more of every camera's b, which moves no camera against another; but
how much the surfaces bend tells the radius, too, and a ball that looks like another is told. Depth scale and focal
lengths are in it: a ball is the only ruler here.

How well all is known: the normal equations' covariance, in which the variance of a camera's balls is that of patches of
their surface (neighbouring pixels err together), plus what every frame does wrong in the same way.
benchmarks/calibration_coverage.py holds the intervals against simulated rigs.
Intrinsics are those of the source and are not refined: depth alone hardly tells them from the motion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import refuse_distortion
from .bundle import Linear, Problem, cross, solve, turned
from .depth_rows import DepthRows, background_mm
from .record import Progress
from .rig_fit import RigFit, placed
from .sphere import FLOOR_MM, PointFit, Sphere, find_sphere, fit_points, radius_of
from .view_graph import agreed_motion, chained, check_views, shared_views

F64 = NDArray[np.float64]

MOST_ROWS: Final = 600
"""More frames make it slower, hardly better."""
AGREE_MM: Final = 25.0
"""Centres of two cameras that are farther apart are not of the same ball."""
BIAS_PRIOR_MM: Final = 5.0
PROBES: Final = 12
RADIUS_IMAGES: Final = 300
RADIUS_DOUBT: Final = 0.01
"""Share of the radius by which sensors that smooth and grow surfaces make a ball look another one."""
SYSTEMATIC_MM: Final = 0.03
"""Standard deviation, each axis, of what the fit of the ball does wrong in the same way in every frame of a camera."""
REFITS: Final = 2
"""Times that balls are fitted to points set right by the bias; the next one moves it by less than 1 µm."""


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
    backgrounds = [background_mm(rows, view) for view in range(len(rows.rig))]
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
    return _refined(rows, chosen, found, seen, poses, radius_mm, bias=bias)


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


@dataclass(frozen=True, slots=True, eq=False)
class _Balls:
    """What the bundle adjustment is given: one row an observation."""

    structure: NDArray[np.intp]
    camera: NDArray[np.intp]
    measured: F64
    """(n, 3) centres"""
    whiten: F64
    """(n, 3, 3)"""
    points: list[F64]
    """(n, 3) mm each, the bias taken off"""


def _refined(
    rows: DepthRows,
    chosen: NDArray[np.intp],
    found: list[list[Sphere | None]],
    seen: NDArray[np.bool_],
    poses: list[tuple[F64, F64]],
    radius_mm: float,
    *,
    bias: bool,
) -> RigFit:
    """Bundle adjustment of all frames that at least two cameras saw; balls are fitted anew to points set right."""
    shared = np.flatnonzero(seen.sum(1) > 1)
    views = len(poses)
    balls = _balls([found[s] for s in shared], np.zeros(views), radius_mm)
    rotation, shift = np.array([r for r, _ in poses]), np.array([t for _, t in poses])
    in_rig = np.einsum("nji,nj->ni", rotation[balls.camera], balls.measured - shift[balls.camera])
    first = np.stack([np.median(in_rig[balls.structure == s], axis=0) for s in range(len(shared))])
    # About the middle of the volume, turning and shifting a camera hardly affect each other.
    middle = first.mean(0)
    state = _State(rotation, shift + rotation @ middle, np.zeros(views), first - middle)

    free = np.ones((views, 7), bool)
    free[0, :6] = False
    free[:, 6] = bias
    prior = np.zeros((views, 7))
    prior[:, 6] = 1 / BIAS_PRIOR_MM**2 if bias else 0.0
    known = np.zeros(views)
    for _ in range(REFITS if bias else 1):
        problem = _problem(balls, free, prior, known)
        solution = solve(problem, state)
        known = known + solution.state.bias
        state = replace(solution.state, bias=np.zeros(views))
        if bias:
            balls = _balls([found[s] for s in shared], known, radius_mm)
    solution = solve(_problem(balls, free, prior, known), state)
    state, known = solution.state, known + solution.state.bias
    covariance = solution.covariance
    index = np.arange(views)
    for axis in (3, 4, 5):
        covariance[index[1:], axis, index[1:], axis] += 2 * SYSTEMATIC_MM**2  # its own, and the first camera's
    covariance[index, 6, index, 6] += SYSTEMATIC_MM**2 if bias else 0.0
    off = np.linalg.norm(_predicted(state, balls.camera, balls.structure)[0] - balls.measured, axis=1)
    fit = placed(
        rows.rig,
        rotation=state.rotation,
        shift=state.shift,
        covariance=covariance[:, :6, :, :6],
        bias_mm=known if bias else None,
        bias_sd_mm=np.sqrt([max(covariance[v, 6, v, 6], 0.0) for v in range(views)]) if bias else None,
        seen=seen,
        row=chosen,
        places=state.centers,
        camera=balls.camera,
        place=balls.structure,
        residual=off,
        inlier=solution.inlier,
        unit="mm",
        measured=balls.measured,
    )
    return replace(fit, notes=_radius_notes(balls, solution.inlier, radius_mm))


def _problem(balls: _Balls, free: NDArray[np.bool_], prior: F64, known: F64) -> Problem[_State]:
    """Biases are steps from those the points were set right by."""

    def from_prior(state: _State) -> F64:
        out = np.zeros(free.shape)
        out[:, 6] = known + state.bias
        return out

    def linearise(state: _State) -> Linear:
        return _linear(state, balls.camera, balls.structure, balls.measured, balls.whiten)

    return Problem(balls.camera, balls.structure, linearise, _moved, free, prior, from_prior)


def _balls(found: list[list[Sphere | None]], bias_mm: F64, radius_mm: float) -> _Balls:
    """Balls fitted to the points of each image, the camera's bias taken off their depth."""
    structure, camera, fits, clouds = [], [], [], []
    for index, row in enumerate(found):
        for view, one in enumerate(row):
            if one is None:
                continue
            points = one.points_mm.astype(np.float64)
            points *= 1 - bias_mm[view] / points[:, 2:]
            start = one.center_mm * (1 - bias_mm[view] / one.center_mm[2])
            fit = fit_points(points, radius_mm, start)
            structure.append(index)
            camera.append(view)
            clouds.append(points)
            fits.append(fit or PointFit(start, one.covariance, 1.0, one.rms_mm, one.pixels))
    cameras = np.array(camera)
    # A single image hardly tells how far its errors reach; all of a camera's do.
    together = np.array([np.median([fit.together for fit, c in zip(fits, camera, strict=True) if c == v] or [1.0])
                         for v in range(len(bias_mm))])  # fmt: skip
    whiten = [
        np.linalg.cholesky(np.linalg.inv(together[c] * fit.covariance + FLOOR_MM**2 * np.eye(3))).T
        for fit, c in zip(fits, camera, strict=True)
    ]
    return _Balls(
        np.array(structure),
        cameras,
        np.array([fit.center_mm for fit in fits]),
        np.array(whiten),
        clouds,
    )


def _radius_notes(balls: _Balls, inlier: NDArray[np.bool_], radius_mm: float) -> tuple[str, ...]:
    """What to say of a ball that looks larger or smaller than it was said to be."""
    good = np.flatnonzero(inlier)
    if len(good) < PROBES:
        return ()
    picked = good[np.unique(np.linspace(0, len(good) - 1, RADIUS_IMAGES).astype(int))]
    said = [told for i in picked if (told := radius_of(balls.points[i], radius_mm, balls.measured[i])) is not None]
    if len(said) < PROBES:
        return ()
    # The middle of all, as heavy as they are certain: a few balls behind fingers say anything.
    radius, sd = np.array(sorted(said)).T
    weight = np.cumsum(1 / np.maximum(sd, 1e-3) ** 2)
    seen = float(radius[np.searchsorted(weight, weight[-1] / 2)])
    error = float(1.2533 * np.median(np.abs(radius - seen)) * 1.4826 / np.sqrt(len(radius)))
    if abs(seen - radius_mm) < 3 * np.hypot(error, RADIUS_DOUBT * radius_mm):
        return ()
    return (
        f"The ball looks like {seen:.1f} ± {2 * error:.1f} mm, not {radius_mm:g}: measure it (half its width). With a "
        f"wrong radius every camera's depth bias is {'larger' if seen < radius_mm else 'smaller'} by about the "
        "difference; where one camera stands to another hardly changes. If the ball is right, K is not: check the "
        "focal lengths.",
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
