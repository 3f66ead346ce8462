"""t-SNE: neighbourhoods of the size asked for, a divergence that falls, clusters that stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from handloom.learn.tsne import embed, neighbour_probabilities


def clusters(rng: np.random.Generator, count: int, size: int, dims: int = 20) -> np.ndarray:
    """(count * size, dims), one cluster after the other."""
    centers = 4 * rng.normal(size=(count, 1, dims))
    return np.asarray((centers + rng.normal(size=(count, size, dims))).reshape(-1, dims))


@pytest.mark.parametrize("perplexity", [5.0, 20.0])
def test_every_point_has_as_many_neighbours_as_asked_for(perplexity: float) -> None:
    """On a ring all points are alike: symmetrising changes nothing, so each row's entropy can be read off P."""
    turn = 2 * np.pi * np.arange(120) / 120
    p = neighbour_probabilities(np.stack([np.cos(turn), np.sin(turn)], axis=1), perplexity)
    assert p.sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(p, p.T)
    row = p / p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(-(row * np.log(row)).sum(axis=1)), perplexity, rtol=1e-3)


def test_the_divergence_falls_and_clusters_stay_apart() -> None:
    x = clusters(np.random.default_rng(0), 4, 40)
    short, whole = embed(x, seed=0, steps=30), embed(x, seed=0)
    assert 0 < whole.divergence < 0.5 * short.divergence
    groups = whole.points.reshape(4, 40, 2)
    middle = groups.mean(axis=1)
    spread = np.linalg.norm(groups - middle[:, None], axis=-1).max()
    gaps = np.linalg.norm(middle[:, None] - middle, axis=-1)[~np.eye(4, dtype=bool)]
    assert gaps.min() > 1.5 * spread


def test_it_finds_what_principal_components_hide() -> None:
    """Small clusters in the narrow dimensions of a wide cloud: the first two components show none of them."""
    rng = np.random.default_rng(1)
    which = np.repeat(np.arange(3), 50)
    x = np.concatenate([rng.normal(size=(150, 2)) * 6, 10 * np.eye(3)[which] + 0.1 * rng.normal(size=(150, 3))], axis=1)
    y = embed(x, seed=0).points
    distance = np.linalg.norm(y[:, None] - y, axis=-1) + 1e9 * np.eye(150)
    nearest = which[np.argsort(distance, axis=1)[:, :5]]
    assert (nearest == which[:, None]).mean() > 0.95


def test_equal_points_and_few_points_are_no_trouble() -> None:
    with np.errstate(all="raise", under="ignore"):
        same = embed(np.ones((6, 3)), seed=0, steps=50)
        few = embed(np.eye(4), seed=0, steps=50)
    assert np.isfinite(same.points).all()
    assert np.isfinite(few.points).all()


def test_the_seed_decides() -> None:
    x = clusters(np.random.default_rng(2), 3, 10)
    assert np.array_equal(embed(x, seed=3, steps=40).points, embed(x, seed=3, steps=40).points)
    assert not np.array_equal(embed(x, seed=3, steps=40).points, embed(x, seed=4, steps=40).points)
