"""Every loss against a float64 numpy rewrite, and its gradient against a difference along one direction."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from handloom.learn import crossing_losses as losses

F64 = NDArray[np.float64]


def kl_numpy(mean: F64, log_variance: F64) -> float:
    sigma2 = np.exp(log_variance)
    return float(np.mean([0.5 * np.sum(m**2 + s - 1 - np.log(s)) for m, s in zip(mean, sigma2, strict=True)]))


def sse_numpy(pose: F64, decoded: F64) -> float:
    return float(np.mean([0.5 * np.sum((a - b) ** 2) for a, b in zip(pose, decoded, strict=True)]))


def reconstruction_numpy(x: F64, generated: F64) -> float:
    return float(np.mean(np.minimum((x - generated) ** 2, 1)))


def smoothness_numpy(phi_r: F64, phi_l: F64, phi_self: F64, z_r: F64, z_l: F64) -> float:
    total = 0.0
    for i, j in np.ndindex(*phi_r.shape):
        total += (phi_r[i, j] - phi_l[i, j] - (z_r[i, j] - z_l[i, j])) ** 2 + (phi_self[i, j] - phi_l[i, j]) ** 2
    return total / phi_r.size


def bce_numpy(logits: F64, says: float) -> float:
    p = 1 / (1 + np.exp(-logits))
    return float(-np.mean(says * np.log(p) + (1 - says) * np.log(1 - p)))


def matching_numpy(captured: F64, generated: F64) -> float:
    return float(np.mean(np.abs(captured.mean(axis=0) - generated.mean(axis=0))))


B, Z = (7, 20), (7, 23)
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., float], list[tuple[int, ...]]]] = {
    "divergence": (
        lambda m, s: losses.vae_loss(m.new_zeros(7, 5), m.new_zeros(7, 5), m, s)[0],
        kl_numpy,
        [B, B],
    ),
    "squared error": (
        lambda y, d: losses.vae_loss(y, d, y.new_zeros(B), y.new_zeros(B))[1],
        sse_numpy,
        [(7, 78), (7, 78)],
    ),
    "reconstruction": (losses.reconstruction, reconstruction_numpy, [(7, 1, 8, 8), (7, 1, 8, 8)]),
    "smoothness": (losses.smoothness, smoothness_numpy, [Z] * 5),
    "position": (losses.position, lambda a, b: float(np.mean((a - b) ** 2)), [Z, Z]),
    "says real": (losses.says_real, lambda x: bce_numpy(x, 1), [(9,)]),
    "says generated": (losses.says_generated, lambda x: bce_numpy(x, 0), [(9,)]),
    "feature matching": (losses.feature_matching, matching_numpy, [(7, 32), (11, 32)]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_loss_is_its_numpy_rewrite(name: str) -> None:
    loss, rewrite, shapes = CASES[name]
    rng = np.random.default_rng(0)
    given = [rng.normal(0, 1.2, shape) for shape in shapes]
    found = loss(*[torch.from_numpy(x) for x in given])
    assert found.shape == ()
    assert float(found) == pytest.approx(rewrite(*given), rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_is_the_difference_along_a_direction(name: str) -> None:
    loss, rewrite, shapes = CASES[name]
    rng = np.random.default_rng(1)
    given = [rng.normal(0, 1.2, shape) for shape in shapes]
    tensors = [torch.from_numpy(x).requires_grad_() for x in given]
    gradients = torch.autograd.grad(loss(*tensors), tensors)
    for i, gradient in enumerate(gradients):
        direction = rng.normal(size=shapes[i])
        direction /= np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            moved = list(given)
            moved[i] = given[i] + sign * 1e-6 * direction
            ends.append(rewrite(*moved))
        slope = (ends[0] - ends[1]) / 2e-6
        assert float((gradient * torch.from_numpy(direction)).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_no_pixel_costs_more_than_the_clip_and_clipped_ones_pull_nowhere() -> None:
    x = torch.ones(1, 1, 2, 2)
    generated = torch.tensor([[-1.0, -0.5], [0.5, 1.0]]).reshape(1, 1, 2, 2).requires_grad_()
    loss = losses.reconstruction(x, generated)
    assert float(loss.detach()) == pytest.approx((1 + 1 + 0.25 + 0) / 4)
    loss.backward()
    assert generated.grad is not None
    assert generated.grad.flatten().tolist() == [0, 0, -0.25, 0]


def test_smoothness_is_nought_for_a_head_that_reads_the_latents() -> None:
    z_r, z_l = torch.randn(5, 23), torch.randn(5, 23)
    constant = torch.randn(23)  # only differences count
    assert float(losses.smoothness(z_r + constant, z_l + constant, z_l + constant, z_r, z_l)) < 1e-10


def test_cross_entropy_stays_finite_where_the_sigmoid_saturates() -> None:
    logits = torch.tensor([-200.0, 200.0])
    assert float(losses.says_real(logits)) == pytest.approx(100)
    assert float(losses.says_generated(logits)) == pytest.approx(100)


def test_combinations_lie_between_the_latents_and_repeat() -> None:
    latents = torch.randn(12, 23, generator=torch.Generator().manual_seed(0))
    drawn = losses.convex_combinations(latents, 5, 3, 400)
    assert drawn.shape == (400, 23)
    # A combination with weights that sum to one commutes with a shift, and lies within the range.
    shifted = losses.convex_combinations(latents + 7, 5, 3, 400)
    torch.testing.assert_close(shifted, drawn + 7, atol=1e-4, rtol=0)
    assert (drawn >= latents.amin(0) - 1e-6).all()
    assert (drawn <= latents.amax(0) + 1e-6).all()
    # Weights U(0, 1) normalised over five, rows drawn apart: the variance falls to E sum w^2 = 0.264 (simulated).
    narrower = float(drawn.var(dim=0).mean() / latents.var(dim=0, correction=0).mean())
    assert narrower == pytest.approx(0.25, abs=0.06)
    assert torch.equal(drawn, losses.convex_combinations(latents, 5, 3, 400))
    assert not torch.equal(drawn, losses.convex_combinations(latents, 5, 4, 400))
    assert torch.allclose(losses.convex_combinations(latents[:1], 5, 3, 4), latents[:1].expand(4, -1), atol=1e-6)
