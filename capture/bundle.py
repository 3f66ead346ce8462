"""Bundle adjustment: cameras and what they saw, refined together (Triggs et al. 2000).

An observation is of one camera and one structure: a ball's centre, or a board's pose. Its residual depends on no other
unknown, so the normal equations are blocks: H_cc of the cameras, H_ss of the structures, H_cs between the two. The
structures are eliminated (Schur complement), which leaves a system as small as the rig:

    S = H_cc − Σ_s H_cs H_ss⁻¹ H_sc,    S δ_c = −(g_c − Σ_s H_cs H_ss⁻¹ g_s),    δ_s = −H_ss⁻¹ (g_s + H_sc δ_c)

Steps are damped (Levenberg–Marquardt); Cauchy's loss, ρ = κ² log(1 + r²/κ²) of the whitened residual, takes the weight
from mistakes; its scale is estimated from the residuals. All Jacobians are analytic. S⁻¹ times the residuals'
variance is the covariance of the cameras. Cost: 0.1 s for three cameras and 400 places of a ball.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
State = TypeVar("State")

CAUCHY: Final = 2.5
"""κ, in standard deviations."""
ROUNDS: Final = 4
"""Times that the scale is estimated anew."""
STEPS: Final = 30
OUTLIER: Final = 5.0
"""Standard deviations beyond which an observation is called a mistake."""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """Whitened residuals (n, m) of all observations and their derivatives."""

    residual: F64
    by_camera: F64
    """(n, m, C)"""
    by_structure: F64
    """(n, m, S)"""


@dataclass(frozen=True, slots=True, eq=False)
class Problem(Generic[State]):
    """What is solved: which camera saw which structure, and how both explain what was seen."""

    camera: NDArray[np.intp]
    """(n,)"""
    structure: NDArray[np.intp]
    """(n,)"""
    linearise: Callable[[State], Linear]
    move: Callable[[State, F64, F64], State]
    """The state after steps (V, C) of the cameras and (K, S) of the structures."""
    free: NDArray[np.bool_]
    """(V, C): which of the cameras' parameters may move; the others hold the frame, or are known."""
    prior: F64
    """(V, C): precision of a prior about the first guess's value in `prior_value`; 0 = none."""
    prior_value: Callable[[State], F64]
    """(V, C): how far each parameter is from where its prior is centred."""


@dataclass(frozen=True, slots=True, eq=False)
class Solution(Generic[State]):
    """The refined state and how well it is known."""

    state: State
    covariance: F64
    """(V, C, V, C) of the cameras' parameters; 0 where they were not free."""
    scaled: F64
    """(n,) root mean square of each observation's whitened residual, in standard deviations of the fit."""
    scale: float
    """By how much residuals are larger than their whitening said."""

    @property
    def inlier(self) -> NDArray[np.bool_]:
        """(n,) observations that are no mistakes."""
        out: NDArray[np.bool_] = self.scaled < OUTLIER
        return out


def solve(problem: Problem[State], state: State) -> Solution[State]:
    """Refine a first guess."""
    linear = problem.linearise(state)
    scale = 1.0
    for _ in range(ROUNDS):
        scale = _scale(problem, linear)
        damping = 1e-4
        cost = _cost(problem, state, linear, scale)
        for _ in range(STEPS):
            system = _System.of(problem, state, linear, scale)
            before = cost
            while damping < 1e8:
                moved = problem.move(state, *system.step(damping))
                there = problem.linearise(moved)
                if (new := _cost(problem, moved, there, scale)) <= cost:
                    state, linear, cost, damping = moved, there, new, max(damping / 5, 1e-9)
                    break
                damping *= 4
            if before - cost <= 1e-9 * max(before, 1e-12):
                break
    system = _System.of(problem, state, linear, scale)
    return Solution(state, system.covariance(), _lengths(linear.residual) / scale, scale)


def _lengths(residual: F64) -> F64:
    out: F64 = np.sqrt((residual**2).mean(1))
    return out


def _scale(problem: Problem[Any], linear: Linear) -> float:
    """Standard deviation of the whitened residuals, robustly, for as many unknowns as were fitted to them."""
    n, m = linear.residual.shape
    unknowns = int(problem.free.sum()) + linear.by_structure.shape[2] * (int(problem.structure.max()) + 1)
    freedom = max((n * m - unknowns) / (n * m), 0.05)
    middle = float(np.median(np.abs(linear.residual)))
    return float(max(1.4826 * middle / np.sqrt(freedom), 1e-6))


def _cost(problem: Problem[State], state: State, linear: Linear, scale: float) -> float:
    squared = (linear.residual**2).sum(1) / scale**2
    prior = (problem.prior * problem.prior_value(state) ** 2).sum()
    return float(CAUCHY**2 * np.log1p(squared / CAUCHY**2).sum() + prior)


@dataclass(frozen=True, slots=True, eq=False)
class _System:
    """The normal equations at one state, by blocks."""

    cc: F64
    """(V, C, C)"""
    cs: F64
    """(V, K, C, S)"""
    ss: F64
    """(K, S, S)"""
    gc: F64
    gs: F64
    free: NDArray[np.bool_]

    @classmethod
    def of(cls, problem: Problem[State], state: State, linear: Linear, scale: float) -> _System:
        r, jc, js = linear.residual, linear.by_camera, linear.by_structure
        weight = 1 / (1 + (r**2).sum(1) / (CAUCHY * scale) ** 2) / scale**2
        views, size_c = problem.free.shape
        count, size_s = int(problem.structure.max()) + 1, js.shape[2]
        cc, gc = np.zeros((views, size_c, size_c)), np.zeros((views, size_c))
        cs = np.zeros((views, count, size_c, size_s))
        ss, gs = np.zeros((count, size_s, size_s)), np.zeros((count, size_s))
        wc, ws = jc * weight[:, None, None], js * weight[:, None, None]
        np.add.at(cc, problem.camera, np.einsum("nma,nmb->nab", wc, jc))
        np.add.at(gc, problem.camera, np.einsum("nma,nm->na", wc, r))
        np.add.at(cs, (problem.camera, problem.structure), np.einsum("nma,nmb->nab", wc, js))
        np.add.at(ss, problem.structure, np.einsum("nma,nmb->nab", ws, js))
        np.add.at(gs, problem.structure, np.einsum("nma,nm->na", ws, r))
        index = np.arange(size_c)
        cc[:, index, index] += problem.prior
        gc += problem.prior * problem.prior_value(state)
        return cls(cc, cs, ss, gc, gs, problem.free)

    def reduced(self, damping: float) -> tuple[F64, F64, F64, F64]:
        """S over the free parameters, its right side, and (H_ss⁻¹ g_s, H_ss⁻¹ H_sc)."""
        views, size_c = self.free.shape
        size_s = self.ss.shape[1]
        ss, cc = self.ss.copy(), self.cc.copy()
        s, c = np.arange(size_s), np.arange(size_c)
        ss[:, s, s] *= 1 + damping
        ss[:, s, s] += 1e-12
        cc[:, c, c] *= 1 + damping
        inverse = np.linalg.inv(ss)
        to_camera = np.einsum("kpq,vkaq->vkap", inverse, self.cs)
        own = np.einsum("kpq,kq->kp", inverse, self.gs)
        matrix = -np.einsum("vkap,wkbp->vawb", to_camera, self.cs, optimize=True)
        for view in range(views):
            matrix[view, :, view] += cc[view]
        right = self.gc - np.einsum("vkap,kp->va", to_camera, self.gs)
        kept = self.free.reshape(-1)
        return matrix.reshape(views * size_c, -1)[np.ix_(kept, kept)], right.reshape(-1)[kept], own, to_camera

    def step(self, damping: float) -> tuple[F64, F64]:
        """Steps (V, C) and (K, S)."""
        matrix, right, own, to_camera = self.reduced(damping)
        cameras = np.zeros(self.free.shape)
        cameras[self.free] = -np.linalg.lstsq(matrix, right, rcond=1e-14)[0]
        return cameras, -own - np.einsum("vkap,va->kp", to_camera, cameras)

    def covariance(self) -> F64:
        """(V, C, V, C) of the cameras; the scale is in the weights already."""
        views, size_c = self.free.shape
        kept = self.free.reshape(-1)
        out = np.zeros((views * size_c, views * size_c))
        if kept.any():
            out[np.ix_(kept, kept)] = np.linalg.pinv(self.reduced(0.0)[0], hermitian=True)
        return out.reshape(views, size_c, views, size_c)


def turned(vector: F64) -> F64:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3), rad (Rodrigues 1840)."""
    angle = np.linalg.norm(vector, axis=-1)[..., None, None]
    k = cross(vector)
    small = angle < 1e-8
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1.0, np.sin(safe) / safe)
    second = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    out: F64 = np.eye(3) + first * k + second * (k @ k)
    return out


def cross(vector: F64) -> F64:
    """(..., 3, 3) matrices that take the cross product with vectors (..., 3)."""
    x, y, z = np.moveaxis(vector, -1, 0)
    zero = np.zeros_like(x)
    return np.stack([np.stack(row, -1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))], -2)
