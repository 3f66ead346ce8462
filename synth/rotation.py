"""Rotations in batches: vectors (axis × angle, rad), matrices and quaternions (w first) into each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def rotation_matrix(vector: NDArray[Any]) -> F64:
    """Rotation vectors (..., 3) rad to matrices (..., 3, 3), Rodrigues' formula."""
    v = np.asarray(vector, np.float64)
    angle = np.linalg.norm(v, axis=-1)[..., None, None]
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    zero = np.zeros_like(x)
    k = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*v.shape[:-1], 3, 3)
    # np.sinc(t) = sin(πt)/(πt) is smooth through zero, so no branch is needed there.
    a = np.sinc(angle / np.pi)
    b = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    out: F64 = np.eye(3) + a * k + b * (k @ k)
    return out


def quaternion(matrix: NDArray[Any]) -> F64:
    """Matrices (..., 3, 3) to unit quaternions (..., 4) with w ≥ 0."""
    m = np.asarray(matrix, np.float64)
    # The 4 × 4 matrix whose rows are the quaternion times each of its parts in turn: the longest row is safe.
    q = np.empty((*m.shape[:-2], 4, 4))
    diagonal = m[..., (0, 1, 2), (0, 1, 2)]
    trace = diagonal.sum(-1)
    q[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        q[..., i + 1, i + 1] = 1 - trace + 2 * diagonal[..., i]
        q[..., i + 1, j + 1] = q[..., j + 1, i + 1] = m[..., i, j] + m[..., j, i]
        q[..., 0, i + 1] = q[..., i + 1, 0] = m[..., k, j] - m[..., j, k]
    best = np.argmax(q[..., range(4), range(4)], axis=-1)
    row = np.take_along_axis(q, best[..., None, None], axis=-2)[..., 0, :]
    row /= np.linalg.norm(row, axis=-1, keepdims=True)
    out: F64 = np.where(row[..., :1] < 0, -row, row)
    return out


def rotation_vector(matrix: NDArray[Any]) -> F64:
    """Matrices (..., 3, 3) to rotation vectors (..., 3) of at most π rad."""
    q = quaternion(matrix)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    out: F64 = q[..., 1:] * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)
    return out


def quaternion_matrix(quaternions: NDArray[Any]) -> F64:
    """Quaternions (..., 4) of any length but 0 to matrices (..., 3, 3)."""
    q = np.asarray(quaternions, np.float64)
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def half_way(one: F64, other: F64) -> F64:
    """The rotation (..., 3, 3) half way from one to the other, which must be less than π apart."""
    turn = one.swapaxes(-1, -2) @ other
    # Half of a turn (w, v) by less than π is (1 + w, v), scaled: no search for the safe part is needed.
    w = np.sqrt(np.maximum(1 + turn[..., 0, 0] + turn[..., 1, 1] + turn[..., 2, 2], 1e-12)) / 2
    v = np.stack([turn[..., k, j] - turn[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1))], axis=-1)
    return one @ quaternion_matrix(np.concatenate([(1 + w)[..., None], v / (4 * w[..., None])], axis=-1))
