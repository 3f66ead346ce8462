"""Where cameras stand, from a ChArUco board that was shown to them in infrared or colour.

Every picture gives corners of the board (`charuco.py`). Poses of the board before two cameras, in frames that both saw,
give a first guess of how these stand to each other (`view_graph.py`); all cameras and all places of the board are then
refined together (`bundle.py`) so that the corners fall where they were seen:

    x = R (R_b X + t_b) + t,    u = f x'' + c,    x'' = (x, y)/z after Brown's distortion

X a corner on the board, R_b, t_b the board's place in the rig, R, t the camera. The residual is in pixels.
Intrinsics are kept, refined (fx, fy, cx, cy), or refined with the distortion k1, k2, p1, p2 (Zhang 2000; k3 and the
rational terms keep what was given: a board seldom fills the corners that tell them apart). Only a board that was tilted
tells the focal length from the distance. How well the cameras are placed: the normal equations' covariance, and what
all corners of a camera are off together; intrinsics that are kept are taken to be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig
from ..stores.errors import HandloomError
from .bundle import Linear, Problem, Solution, cross, solve, turned
from .charuco import (
    Board,
    camera_matrix,
    corners_mm,
    detector_of,
    dictionary_size,
    find_board,
    markers_needed,
    poses_of,
    seen_markers,
)
from .pictures import PictureRows
from .record import Progress
from .rig_fit import RigFit, placed
from .targets import CharucoTarget
from .view_graph import agreed_motion, chained, check_views, shared_views

F64 = NDArray[np.float64]
Intrinsics = Literal["keep", "refine", "distortion"]

MOST_ROWS: Final = 240
"""More frames make it slower, hardly better: a board gives dozens of points a picture."""
AGREE_MM: Final = 30.0
CORNER_PX: Final = 0.1
"""Standard deviation of a corner to begin with; the fit finds it out."""
SYSTEMATIC_PX: Final = 0.01
"""Standard deviation of what corners are off together in all pictures of a camera (blur, light, tilt); twice that along
the viewing direction, where it acts by the board's size. benchmarks/calibration_coverage.py holds it to simulations."""
LOOSE_FOCAL: Final = 0.02
"""Share of the focal length; a standard deviation beyond it is told."""
PROBES: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class _State:
    rotation: F64
    """(V, 3, 3)"""
    shift: F64
    """(V, 3)"""
    lens: F64
    """(V, 12): fx, fy, cx, cy, then k1, k2, p1, p2, k3, k4, k5, k6."""
    board_rotation: F64
    """(K, 3, 3)"""
    board_shift: F64
    """(K, 3)"""


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """Corners, one a row."""

    camera: NDArray[np.intp]
    structure: NDArray[np.intp]
    point_mm: F64
    px: F64


def calibrate_charuco(
    rows: PictureRows,
    target: CharucoTarget,
    *,
    intrinsics: Intrinsics = "keep",
    where: str,
    progress: Progress | None = None,
) -> RigFit:
    """The rig that explains where each camera saw the board's corners.

    Args:
        rows: the pictures.
        target: the board.
        intrinsics: what to do with those that were given.
        where: the source, for errors.
        progress: told of frames looked at.

    Raises:
        HandloomError: intrinsics are to be kept and are not there, a camera saw the board too seldom, or cameras never
            saw it together.
    """
    _check(rows, target, intrinsics, where)
    points = corners_mm(target)
    total = len(rows.frames)
    chosen = np.unique(np.linspace(0, total - 1, min(total, MOST_ROWS)).astype(int))
    found = _found(rows, chosen, target, progress)
    seen = np.array([[board is not None for board in row] for row in found])
    names = rows.rig.names
    check_views(seen, names, where=where, hint=_hint(rows, chosen, seen, target))
    rig = rows.rig if rows.known else _first_intrinsics(rows.rig, found, points)

    options = [
        [
            [] if board is None else poses_of(board, points, camera)
            for board, camera in zip(row, rig.cameras, strict=True)
        ]
        for row in found
    ]
    edge = points[[0, target.columns - 2, -1, target.corners - target.columns + 1]]
    poses = chained(shared_views(seen), lambda a, b: _link(options, edge, a, b, f"{where}, {names[a]} and {names[b]}"))
    return _refined(rig, chosen, found, options, seen, poses, points, intrinsics)


def _check(rows: PictureRows, target: CharucoTarget, intrinsics: Intrinsics, where: str) -> None:
    if (needed := markers_needed(target)) > (there := dictionary_size(target)):
        raise HandloomError(
            "The board needs more markers than its dictionary has",
            where="--target",
            why=f"{target.columns} x {target.rows} squares carry {needed}, {target.dictionary} has {there}",
        )
    if not rows.known and intrinsics == "keep":
        raise HandloomError(
            "The cameras' intrinsics are not known",
            where=where,
            why="there is no rig.toml with the pictures",
            fix="give one (or --initial FILE), or let the board tell them: --intrinsics refine, "
            "or --intrinsics distortion for a lens that bends lines",
        )


def _found(
    rows: PictureRows, chosen: NDArray[np.intp], target: CharucoTarget, progress: Progress | None
) -> list[list[Board | None]]:
    detector = detector_of(target)
    out: list[list[Board | None]] = []
    for done, row in enumerate(chosen):
        out.append(
            [
                find_board(rows.grey(int(row), view), detector, target) if (int(row), view) in rows.files else None
                for view in range(len(rows.rig))
            ]
        )
        if progress is not None:
            progress(done + 1, len(chosen))
    return out


def _hint(rows: PictureRows, chosen: NDArray[np.intp], seen: NDArray[np.bool_], target: CharucoTarget) -> str:
    """What a user may do about the camera that saw least."""
    usual = "show the whole board to this camera, well lit, not mirrored; switch a depth camera's dot projector off"
    view = int(seen.sum(0).argmin())
    blind = [int(row) for index, row in enumerate(chosen) if not seen[index, view] and (int(row), view) in rows.files]
    if len(blind) < PROBES:
        return usual
    picked = [blind[i] for i in np.linspace(0, len(blind) - 1, PROBES).astype(int)]
    counts = [seen_markers(rows.grey(row, view), target) for row in picked]
    if np.median(counts) >= 4:
        other = replace(target, legacy=not target.legacy)
        detector = detector_of(other)
        if sum(find_board(rows.grey(row, view), detector, other) is not None for row in picked) > PROBES // 2:
            word = "without" if target.legacy else "with"
            return f"the board's first square is of the other colour: give the target {word} ',legacy'"
        return (
            f"markers of {target.dictionary} are there (about {int(np.median(counts))} a picture), but no corners of a "
            f"board of {target.columns} x {target.rows} squares: check columns, rows, square and marker"
        )
    return f"{usual}; check dict={target.dictionary}"


def _first_intrinsics(rig: Rig, found: list[list[Board | None]], points: F64) -> Rig:
    """K from the boards of each camera alone, without distortion (Zhang 2000)."""
    cameras = []
    for view, camera in enumerate(rig.cameras):
        boards = [board for row in found if (board := row[view]) is not None]
        picked = [boards[i] for i in np.unique(np.linspace(0, len(boards) - 1, min(len(boards), 40)).astype(int))]
        flags = cv2.CALIB_FIX_ASPECT_RATIO | cv2.CALIB_ZERO_TANGENT_DIST | cv2.CALIB_FIX_K1 | cv2.CALIB_FIX_K2
        flags |= cv2.CALIB_FIX_K3 | cv2.CALIB_USE_INTRINSIC_GUESS | cv2.CALIB_FIX_PRINCIPAL_POINT
        matrix = cv2.calibrateCamera(
            [points[board.ids].astype(np.float32) for board in picked],
            [board.px.astype(np.float32) for board in picked],
            (camera.width, camera.height),
            camera_matrix(camera.k),
            np.zeros(5),
            flags=flags,
        )[1]
        k = (float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]))
        cameras.append(replace(camera, k=k))
    return Rig(tuple(cameras))


def _link(options: list[list[list[tuple[F64, F64]]]], edge: F64, a: int, b: int, where: str) -> tuple[F64, F64]:
    """The motion from camera a into camera b that most boards agree on, by their outermost corners."""
    source, target = [], []
    for row in options:
        if row[a] and row[b]:
            (ra, ta), (rb, tb) = row[a][0], row[b][0]
            source.append(edge @ ra.T + ta)
            target.append(edge @ rb.T + tb)
    return agreed_motion(np.concatenate(source), np.concatenate(target), tolerance_mm=AGREE_MM, where=where)


def _board_places(
    options: list[list[list[tuple[F64, F64]]]],
    found: list[list[Board | None]],
    poses: Sequence[tuple[F64, F64]],
    points: F64,
    rig: Rig,
) -> list[tuple[F64, F64]]:
    """Of each frame, the place of the board in the rig that explains the pictures of all its cameras best."""
    out = []
    for row, boards in zip(options, found, strict=True):
        best: tuple[float, tuple[F64, F64]] = (np.inf, (np.eye(3), np.zeros(3)))
        for view, candidates in enumerate(row):
            r, t = poses[view]
            for rotation, shift in candidates:
                place = r.T @ rotation, r.T @ (shift - t)
                off = [
                    min(float(np.median(_off(board, points, place, poses[other], rig.cameras[other]))), 50.0)
                    for other, board in enumerate(boards)
                    if board is not None
                ]
                if sum(off) < best[0]:
                    best = sum(off), place
        out.append(best[1])
    return out


def _off(board: Board, points: F64, place: tuple[F64, F64], pose: tuple[F64, F64], camera: Camera) -> F64:
    """Pixels between corners and where the board's place says they are."""
    x = (points[board.ids] @ place[0].T + place[1]) @ pose[0].T + pose[1]
    lens = np.repeat(_lens(camera)[None], len(x), 0)
    with np.errstate(all="ignore"):
        px = _projected(x, lens)[0]
    out: F64 = np.where(x[:, 2] > 0, np.nan_to_num(np.linalg.norm(px - board.px, axis=1), nan=1e6), 1e6)
    return out


def _lens(camera: Camera) -> F64:
    return np.array([*camera.k, *camera.dist, *[0.0] * (8 - len(camera.dist))])


def _refined(
    rig: Rig,
    chosen: NDArray[np.intp],
    found: list[list[Board | None]],
    options: list[list[list[tuple[F64, F64]]]],
    seen: NDArray[np.bool_],
    poses: list[tuple[F64, F64]],
    points: F64,
    intrinsics: Intrinsics,
) -> RigFit:
    """Bundle adjustment of all frames that say something."""
    # A board before one camera alone places nothing, but it does tell of the lens.
    has_pose = np.array([any(row) for row in options])
    kept = np.flatnonzero(has_pose & (seen.sum(1) > (1 if intrinsics == "keep" else 0)))
    places = _board_places([options[i] for i in kept], [found[i] for i in kept], poses, points, rig)
    corners = _corners([found[i] for i in kept], points)
    rotation, shift = np.array([r for r, _ in poses]), np.array([t for _, t in poses])
    board_rotation, board_shift = np.array([r for r, _ in places]), np.array([t for _, t in places])
    middle = np.median(board_shift, axis=0)
    first = _State(
        rotation,
        shift + rotation @ middle,
        np.array([_lens(camera) for camera in rig.cameras]),
        board_rotation,
        board_shift - middle,
    )

    views = len(rig)
    free = np.zeros((views, 14), bool)
    free[1:, :6] = True
    free[:, 6:10] = intrinsics != "keep"
    free[:, 10:14] = intrinsics == "distortion"
    problem = Problem(
        corners.camera,
        corners.structure,
        lambda state: _linear(state, corners),
        _moved,
        free,
        np.zeros((views, 14)),
        lambda state: np.zeros((views, 14)),
    )
    solution = solve(problem, first)
    state = solution.state
    refined = Rig(tuple(_with_lens(camera, state.lens[view]) for view, camera in enumerate(rig.cameras)))
    camera, place, off, scaled = _by_picture(solution, corners)
    covariance = solution.covariance[:, :6, :, :6].copy()
    for view, one in enumerate(refined.cameras[1:], start=1):
        for axis, times in enumerate((1, 1, 2)):
            both = [
                times * SYSTEMATIC_PX * state.shift[v, 2] / c.k[0] for v, c in ((0, refined.cameras[0]), (view, one))
            ]
            covariance[view, 3 + axis, view, 3 + axis] += both[0] ** 2 + both[1] ** 2
    fit = placed(
        refined,
        rotation=state.rotation,
        shift=state.shift,
        covariance=covariance,
        bias_mm=None,
        bias_sd_mm=None,
        seen=seen,
        row=chosen,
        places=state.board_shift,
        camera=camera,
        place=place,
        residual=off,
        inlier=scaled,
        unit="px",
    )
    return replace(fit, notes=() if intrinsics == "keep" else _lens_notes(rig, refined, solution))


def _corners(found: list[list[Board | None]], points: F64) -> _Seen:
    camera, structure, point, px = [], [], [], []
    for index, row in enumerate(found):
        for view, board in enumerate(row):
            if board is not None:
                camera.append(np.full(len(board.ids), view))
                structure.append(np.full(len(board.ids), index))
                point.append(points[board.ids])
                px.append(board.px)
    return _Seen(np.concatenate(camera), np.concatenate(structure), np.concatenate(point), np.concatenate(px))


def _by_picture(
    solution: Solution[_State], corners: _Seen
) -> tuple[NDArray[np.intp], NDArray[np.intp], F64, NDArray[np.bool_]]:
    """Camera, place, median distance (px) and whether it agrees, of every picture with a board."""
    px, _, _ = _predicted(solution.state, corners)
    off = np.linalg.norm(px - corners.px, axis=1)
    keys = np.stack([corners.structure, corners.camera], 1)
    pictures, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    median = np.array([np.median(off[inverse == index]) for index in range(len(pictures))])
    agrees = np.array([solution.inlier[inverse == index].mean() > 0.5 for index in range(len(pictures))])
    return pictures[:, 1], pictures[:, 0], median, agrees


def _with_lens(camera: Camera, lens: F64) -> Camera:
    fx, fy, cx, cy = (float(value) for value in lens[:4])
    dist = lens[4:]
    if not dist.any():
        return replace(camera, k=(fx, fy, cx, cy))
    count = next(n for n in (4, 5, 8) if n >= len(camera.dist) and not dist[n:].any())
    return replace(camera, k=(fx, fy, cx, cy), dist_model="brown-conrady", dist=tuple(float(x) for x in dist[:count]))


def _lens_notes(before: Rig, after: Rig, solution: Solution[_State]) -> tuple[str, ...]:
    """What became of each camera's lens, in words."""
    out = []
    for view, (old, new) in enumerate(zip(before.cameras, after.cameras, strict=True)):
        sd = np.sqrt(np.maximum(np.diag(solution.covariance[view, :, view]), 0.0))
        text = (
            f"{new.name}: fx {old.k[0]:.1f} → {new.k[0]:.1f} ± {sd[6]:.1f} px, fy {new.k[1]:.1f} ± {sd[7]:.1f}, "
            f"cx {new.k[2]:.1f} ± {sd[8]:.1f}, cy {new.k[3]:.1f} ± {sd[9]:.1f}"
        )
        if new.dist:
            text += f", k1 {new.dist[0]:+.3f}, k2 {new.dist[1]:+.3f}"
        if sd[6] > LOOSE_FOCAL * new.k[0]:
            text += "; the focal length is hardly known: tilt the board by 30° and more, or keep the given intrinsics"
        out.append(text)
    return tuple(out)


def _projected(x: F64, lens: F64) -> tuple[F64, F64, F64]:
    """Pixels (n, 2) of points (n, 3) in the camera's frame, ∂px/∂x (n, 2, 3) and ∂px/∂(fx, fy, cx, cy, k1, k2, p1, p2).

    Brown's model as OpenCV has it: with s = x² + y² of the normalised point, x'' = x ρ + 2 p1 x y + p2 (s + 2 x²),
    y'' = y ρ + p1 (s + 2 y²) + 2 p2 x y, ρ = (1 + k1 s + k2 s² + k3 s³) / (1 + k4 s + k5 s² + k6 s³).
    """
    z = x[:, 2]
    a, b = x[:, 0] / z, x[:, 1] / z
    fx, fy, cx, cy, k1, k2, p1, p2, k3, k4, k5, k6 = lens.T
    s = a * a + b * b
    above, below = 1 + s * (k1 + s * (k2 + s * k3)), 1 + s * (k4 + s * (k5 + s * k6))
    rho = above / below
    slope = (k1 + s * (2 * k2 + 3 * s * k3)) / below - rho * (k4 + s * (2 * k5 + 3 * s * k6)) / below
    u = a * rho + 2 * p1 * a * b + p2 * (s + 2 * a * a)
    v = b * rho + p1 * (s + 2 * b * b) + 2 * p2 * a * b
    px = np.stack([fx * u + cx, fy * v + cy], 1)

    ua = rho + 2 * a * a * slope + 2 * p1 * b + 6 * p2 * a
    ub = 2 * a * b * slope + 2 * p1 * a + 2 * p2 * b
    va = 2 * a * b * slope + 2 * p1 * a + 2 * p2 * b
    vb = rho + 2 * b * b * slope + 6 * p1 * b + 2 * p2 * a
    by_x = np.empty((len(x), 2, 3))
    by_x[:, 0] = (fx / z)[:, None] * np.stack([ua, ub, -(ua * a + ub * b)], 1)
    by_x[:, 1] = (fy / z)[:, None] * np.stack([va, vb, -(va * a + vb * b)], 1)

    zero, one = np.zeros_like(a), np.ones_like(a)
    by_lens = np.stack(
        [
            np.stack([u, zero, one, zero, fx * a * s / below, fx * a * s * s / below], 1),
            np.stack([zero, v, zero, one, fy * b * s / below, fy * b * s * s / below], 1),
        ],
        1,
    )
    tangential = np.stack(
        [
            np.stack([2 * fx * a * b, fx * (s + 2 * a * a)], 1),
            np.stack([fy * (s + 2 * b * b), 2 * fy * a * b], 1),
        ],
        1,
    )
    return px, by_x, np.concatenate([by_lens, tangential], 2)


def _predicted(state: _State, corners: _Seen) -> tuple[F64, F64, F64]:
    """Where each corner should be (n, 2) px, R (R_b X + t_b) and R_b X (n, 3)."""
    on_board = np.einsum("nij,nj->ni", state.board_rotation[corners.structure], corners.point_mm)
    turned_x = np.einsum("nij,nj->ni", state.rotation[corners.camera], on_board + state.board_shift[corners.structure])
    px = _projected(turned_x + state.shift[corners.camera], state.lens[corners.camera])[0]
    return px, turned_x, on_board


def _linear(state: _State, corners: _Seen) -> Linear:
    on_board = np.einsum("nij,nj->ni", state.board_rotation[corners.structure], corners.point_mm)
    rotation = state.rotation[corners.camera]
    turned_x = np.einsum("nij,nj->ni", rotation, on_board + state.board_shift[corners.structure])
    x = turned_x + state.shift[corners.camera]
    # A step that takes a board behind a camera is no step: its cost must be large, not undefined.
    x[:, 2] = np.where(np.abs(x[:, 2]) < 1.0, 1.0, x[:, 2])
    px, by_x, by_lens = _projected(x, state.lens[corners.camera])
    by_camera = np.concatenate([by_x @ -cross(turned_x), by_x, by_lens], axis=2)
    to_rig = by_x @ rotation
    by_structure = np.concatenate([to_rig @ -cross(on_board), to_rig], axis=2)
    return Linear((px - corners.px) / CORNER_PX, by_camera / CORNER_PX, by_structure / CORNER_PX)


def _moved(state: _State, cameras: F64, structures: F64) -> _State:
    lens = state.lens.copy()
    lens[:, :8] += cameras[:, 6:]
    return _State(
        turned(cameras[:, :3]) @ state.rotation,
        state.shift + cameras[:, 3:6],
        lens,
        turned(structures[:, :3]) @ state.board_rotation,
        state.board_shift + structures[:, 3:],
    )
