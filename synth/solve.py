"""Levenberg–Marquardt for one hand after another, compiled; the problem is stated in `synth/fit.py`.

A point answers to the root's six numbers and to the few angles between it and the wrist, so that JᵀJ is added
up from blocks of eleven columns instead of 31; the system is then solved by Cholesky's decomposition.

Cost: 20 µs an iteration with 14 points, twice that with a free shape.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from .chain import forward, scales

import numba as nb  # isort: skip

F64 = NDArray[np.float64]


class Terms(NamedTuple):
    """A layout's points as a kernel needs them."""

    joint: NDArray[np.int64]
    """(J, K) joints of each point's blend."""
    weight: F64
    """(J, K), 0 where there are fewer than K."""
    bone: NDArray[np.int64]
    """(J,) that carries the offset."""
    offset: F64
    """(J, 3) mm in rest axes."""
    column: NDArray[np.int64]
    """(J, C) degrees of freedom that move each point, −1 where there are fewer than C."""
    pivot: NDArray[np.int64]
    """(25,) joint of each degree of freedom."""
    moves: NDArray[np.bool_]
    """(25, 26) whether it moves a joint."""
    turns: NDArray[np.bool_]
    """(25, J) whether it turns the bone that carries a point's offset."""


class Pull(NamedTuple):
    """What holds a pose ordinary; see the constants of `synth/fit.py`."""

    square: F64
    """(25, 25) PᵀP of the rows that pull at the angles, mm² per rad²."""
    low: F64
    high: F64
    """(25,) rad."""
    limit: float
    """mm per rad beyond."""
    shape: float
    """mm per unit."""


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _points(terms: Any, rotation: Any, position: Any, points: Any, offset: Any) -> None:
    """Points and their offsets (J, 3) on a posed hand, rig frame."""
    for p in range(len(terms.bone)):
        bone = terms.bone[p]
        for i in range(3):
            arm = 0.0
            for j in range(3):
                arm += rotation[bone, i, j] * terms.offset[p, j]
            offset[p, i] = arm
            for k in range(terms.joint.shape[1]):
                arm += terms.weight[p, k] * position[terms.joint[p, k], i]
            points[p, i] = arm


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _columns(
    chain: Any, terms: Any, p: int, shapes: int, scale: Any,
    rotation: Any, position: Any, axes: Any, point: Any, offset: Any, index: Any, out: Any,
) -> int:  # fmt: skip
    """Derivatives of point p: their numbers into `index` (n,), the vectors into `out` (n, 3); returns n."""
    # The root turns everything about the wrist and shifts everything.
    x, y, z = point[0] - position[1, 0], point[1] - position[1, 1], point[2] - position[1, 2]
    for i in range(6):
        index[i] = i
        for j in range(3):
            out[i, j] = 0.0
    out[0, 1], out[0, 2] = -z, y
    out[1, 0], out[1, 2] = z, -x
    out[2, 0], out[2, 1] = -y, x
    for i in range(3):
        out[3 + i, i] = 1.0
    n = 6
    for c in range(terms.column.shape[1]):
        d = terms.column[p, c]
        if d < 0:
            break
        pivot = terms.pivot[d]
        x, y, z = 0.0, 0.0, 0.0
        if terms.turns[d, p]:
            x, y, z = offset[0], offset[1], offset[2]
        for k in range(terms.joint.shape[1]):
            joint = terms.joint[p, k]
            w = terms.weight[p, k]
            if w != 0.0 and terms.moves[d, joint]:
                x += w * (position[joint, 0] - position[pivot, 0])
                y += w * (position[joint, 1] - position[pivot, 1])
                z += w * (position[joint, 2] - position[pivot, 2])
        ax, ay, az = axes[d, 0], axes[d, 1], axes[d, 2]
        index[n] = 6 + d
        out[n, 0], out[n, 1], out[n, 2] = ay * z - az * y, az * x - ax * z, ax * y - ay * x
        n += 1
    if shapes == 0:
        return n
    for s in range(shapes):
        index[n + s] = 31 + s
        out[n + s, 0], out[n + s, 1], out[n + s, 2] = 0.0, 0.0, 0.0
    for k in range(terms.joint.shape[1]):
        w = terms.weight[p, k]
        bone = terms.joint[p, k]
        if w == 0.0:
            continue
        while chain.parent[bone] >= 0:
            up = chain.parent[bone]
            for axis in range(3):
                long = w * scale[up, axis] * chain.arm[bone, axis]
                for i in range(3):
                    along = 0.0
                    for j in range(3):
                        along += rotation[up, i, j] * chain.block[up, j, axis]
                    for s in range(shapes):
                        out[n + s, i] += chain.grow[up, axis, s] * along * long
            bone = up
    return n + shapes


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _pulled(pull: Any, pose: Any, shape: Any, centre: Any, shapes: int) -> float:
    """Cost of an unusual pose or shape, mm²."""
    total = 0.0
    for i in range(25):
        for j in range(25):
            total += pose[i] * pull.square[i, j] * pose[j]
        beyond = pull.limit * (pose[i] - min(max(pose[i], pull.low[i]), pull.high[i]))
        total += beyond * beyond
    for s in range(shapes):
        total += (pull.shape * (shape[s] - centre[s])) ** 2
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _missed(points: Any, target: Any, given: Any) -> float:
    """Sum of squared distances, mm²."""
    total = 0.0
    for p in range(len(points)):
        if given[p]:
            for i in range(3):
                total += (points[p, i] - target[p, i]) ** 2
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _cholesky(a: Any, b: Any) -> bool:
    """Solve a x = b in place (lower triangle of a, x in b); False where a is not positive definite."""
    n = len(b)
    for j in range(n):
        for k in range(j):
            if a[j, k] != 0.0:
                for i in range(j, n):
                    a[i, j] -= a[i, k] * a[j, k]
        if not a[j, j] > 0.0:
            return False
        root = math.sqrt(a[j, j])
        for i in range(j, n):
            a[i, j] /= root
    for i in range(n):
        for k in range(i):
            b[i] -= a[i, k] * b[k]
        b[i] /= a[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            b[i] -= a[k, i] * b[k]
        b[i] /= a[i, i]
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _turned(step: Any, turn: Any, out: Any) -> None:
    """Set out = exp(step) turn, Rodrigues' formula on each column."""
    x, y, z = step[0], step[1], step[2]
    angle = math.sqrt(x * x + y * y + z * z)
    a, b = 1.0, 0.5
    if angle > 1e-6:
        a, b = math.sin(angle) / angle, (1.0 - math.cos(angle)) / (angle * angle)
    for c in range(3):
        u, v, w = turn[0, c], turn[1, c], turn[2, c]
        p, q, r = y * w - z * v, z * u - x * w, x * v - y * u
        out[0, c] = u + a * p + b * (y * r - z * q)
        out[1, c] = v + a * q + b * (z * p - x * r)
        out[2, c] = w + a * r + b * (x * q - y * p)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def solve(
    chain: Any, terms: Any, pull: Any, targets: Any, given: Any, pose: Any, turn: Any, place: Any, shape: Any,
    centre: Any, shapes: int, iterations: int,
) -> None:  # fmt: skip
    """Improve poses (B, 25), rotations (B, 3, 3), places (B, 3) and, with `shapes` > 0, shapes (B, S) in place.

    Args:
        chain: the hand's.
        terms: the layout's.
        pull: what holds a pose ordinary.
        targets: (B, J, 3) mm, finite.
        given: (B, J) which of them count.
        pose: rad.
        turn: the roots' rotations.
        place: the wrists, mm.
        shape: log scales.
        centre: (B, S) the shape that costs nothing.
        shapes: 0 to hold the shape, else S.
        iterations: at most.
    """
    points_n = targets.shape[1]
    size = 31 + shapes
    widest = 6 + terms.column.shape[1] + shapes
    hessian, work = np.zeros((size, size)), np.zeros((size, size))
    gradient, step = np.zeros(size), np.zeros(size)
    index, columns = np.zeros(widest, np.int64), np.zeros((widest, 3))
    rotation, position, axes = np.zeros((26, 3, 3)), np.zeros((26, 3)), np.zeros((25, 3))
    points, offset, scale = np.zeros((points_n, 3)), np.zeros((points_n, 3)), np.zeros((26, 3))
    new_pose, new_turn, new_place, new_shape = np.zeros(25), np.zeros((3, 3)), np.zeros(3), shape[0].copy()
    for b in range(len(targets)):
        damping = 1e-3
        scales(chain, shape[b], scale)
        forward(chain, pose[b], turn[b], place[b], scale, rotation, position, axes)
        _points(terms, rotation, position, points, offset)
        now = _missed(points, targets[b], given[b]) + _pulled(pull, pose[b], shape[b], centre[b], shapes)
        stale = True
        for _ in range(iterations):
            if stale:
                hessian[:] = 0.0
                gradient[:] = 0.0
                for p in range(points_n):
                    if not given[b, p]:
                        continue
                    n = _columns(
                        chain, terms, p, shapes, scale, rotation, position, axes, points[p], offset[p], index, columns
                    )
                    for i in range(n):
                        u, v, w = columns[i, 0], columns[i, 1], columns[i, 2]
                        row = index[i]
                        gradient[row] += (
                            u * (points[p, 0] - targets[b, p, 0])
                            + v * (points[p, 1] - targets[b, p, 1])
                            + w * (points[p, 2] - targets[b, p, 2])
                        )
                        for j in range(n):
                            if index[j] <= row:
                                hessian[row, index[j]] += u * columns[j, 0] + v * columns[j, 1] + w * columns[j, 2]
                for i in range(25):
                    total = 0.0
                    for j in range(25):
                        total += pull.square[i, j] * pose[b, j]
                        if j <= i:
                            hessian[6 + i, 6 + j] += pull.square[i, j]
                    beyond = pose[b, i] - min(max(pose[b, i], pull.low[i]), pull.high[i])
                    if beyond != 0.0:
                        hessian[6 + i, 6 + i] += pull.limit**2
                        total += pull.limit**2 * beyond
                    gradient[6 + i] += total
                for s in range(shapes):
                    hessian[31 + s, 31 + s] += pull.shape**2
                    gradient[31 + s] += pull.shape**2 * (shape[b, s] - centre[b, s])
            for i in range(size):
                step[i] = -gradient[i]
                for j in range(i + 1):
                    work[i, j] = hessian[i, j]
                work[i, i] += damping * (hessian[i, i] + 1.0)
            if not _cholesky(work, step):
                damping = min(damping * 8.0, 1e6)
                stale = False
                continue
            _turned(step, turn[b], new_turn)
            for i in range(3):
                new_place[i] = place[b, i] + step[3 + i]
            for i in range(25):
                new_pose[i] = pose[b, i] + step[6 + i]
            if shapes > 0:
                for s in range(shapes):
                    new_shape[s] = shape[b, s] + step[31 + s]
                scales(chain, new_shape, scale)
            else:
                new_shape[:] = shape[b]
            forward(chain, new_pose, new_turn, new_place, scale, rotation, position, axes)
            _points(terms, rotation, position, points, offset)
            after = _missed(points, targets[b], given[b]) + _pulled(pull, new_pose, new_shape, centre[b], shapes)
            if after < now:
                pose[b, :], turn[b, :, :], place[b, :], shape[b, :] = new_pose, new_turn, new_place, new_shape
                settled = now - after < 1e-4 * now + 1e-4
                now, damping, stale = after, max(damping / 8.0, 1e-8), True
                if settled:
                    break
            else:
                damping *= 8.0
                stale = False
                if damping > 1e5:
                    break


@nb.njit(cache=True, nogil=True, error_model="numpy")
def jacobians(chain: Any, terms: Any, pose: Any, turn: Any, place: Any, shape: Any, out: Any) -> None:
    """Into `out` (B, 31 + S, J, 3): the derivatives that `solve` uses, laid out in full."""
    shapes, count = shape.shape[1], len(terms.bone)
    widest = 6 + terms.column.shape[1] + shapes
    index, columns = np.zeros(widest, np.int64), np.zeros((widest, 3))
    rotation, position, axes = np.zeros((26, 3, 3)), np.zeros((26, 3)), np.zeros((25, 3))
    points, offset, scale = np.zeros((count, 3)), np.zeros((count, 3)), np.zeros((26, 3))
    out[:] = 0.0
    for b in range(len(pose)):
        scales(chain, shape[b], scale)
        forward(chain, pose[b], turn[b], place[b], scale, rotation, position, axes)
        _points(terms, rotation, position, points, offset)
        for p in range(count):
            n = _columns(chain, terms, p, shapes, scale, rotation, position, axes, points[p], offset[p], index, columns)
            for i in range(n):
                out[b, index[i], p] = columns[i]
