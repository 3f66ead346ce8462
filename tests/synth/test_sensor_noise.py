"""The draws of the sensor kernels: normal, uniform, independent, and the same from wherever a row begins."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from handloom.synth.sensor_noise import key_of, normals, pixel_noise, uniform

WIDTH, HEIGHT = 1000, 2000


def drawn(seed: int, left: int = 0, width: int = WIDTH, height: int = HEIGHT) -> tuple[np.ndarray, np.ndarray]:
    normal, luck = np.empty((2, height, width), np.float32)
    for v in range(height):
        pixel_noise(key_of(seed, 0, 0), left, v, width, normal[v], luck[v])
    return normal.astype(float), luck.astype(float)


def test_two_million_normal_deviates_are_normal_to_their_tails() -> None:
    normal = drawn(1)[0].ravel()
    n = normal.size
    assert abs(normal.mean()) < 4 / np.sqrt(n)
    assert normal.var() == pytest.approx(1, abs=4 * np.sqrt(2 / n))
    assert (normal**3).mean() == pytest.approx(0, abs=4 * np.sqrt(15 / n))
    assert (normal**4).mean() == pytest.approx(3, abs=4 * np.sqrt(96 / n))
    for limit in (0.5, 1.0, 2.0, 3.0, 3.5, 4.0):
        expected = 2 * NormalDist().cdf(-limit)
        for side in (1, -1):
            # 1,021 values: at a limit the rate may be off by half of one's share.
            share = (side * normal > limit).mean()
            assert share == pytest.approx(
                expected / 2, abs=4 * np.sqrt(expected / 2 / n), rel=0.1 if limit > 3 else 0.01
            )


def test_luck_is_uniform() -> None:
    luck = drawn(2)[1].ravel()
    assert luck.min() >= 0
    assert luck.max() < 1
    counts = np.bincount((luck * 1000).astype(int), minlength=1000)
    chi2 = ((counts - luck.size / 1000) ** 2 / (luck.size / 1000)).sum()
    assert abs(chi2 - 999) < 4 * np.sqrt(2 * 999)


def test_neither_neighbours_nor_luck_nor_other_keys_tell_a_pixel() -> None:
    normal, luck = drawn(3)
    other, other_luck = drawn(4)
    luck, other_luck = (luck - 0.5) * np.sqrt(12), (other_luck - 0.5) * np.sqrt(12)
    square = (normal**2 - 1) / np.sqrt(2)
    limit = 4.5 / np.sqrt(normal.size)
    pairs = [(normal, luck), (square, luck), (normal, other), (luck, other_luck), (square, (other**2 - 1) / np.sqrt(2))]
    for values in (normal, luck, square):
        pairs += [(values[:, lag:], values[:, :-lag]) for lag in (1, 2, 3, 8, 64)]
        pairs += [(values[lag:], values[:-lag]) for lag in (1, 2, 7)]
    for one, two in pairs:
        assert abs((one * two).mean()) < limit


def test_a_row_has_the_same_bits_from_wherever_it_begins() -> None:
    whole, part = drawn(5, width=200, height=20), drawn(5, left=37, width=90, height=20)
    for one, two in zip(whole, part, strict=True):
        assert np.array_equal(one[:, 37:127], two)
    alone = np.empty(200, np.float32)
    normals(key_of(5, 0, 0), 0, 7, 200, alone)
    assert np.array_equal(alone, whole[0][7])


def test_a_normal_deviate_becomes_the_probability_of_a_lesser_one() -> None:
    values = np.linspace(-5, 5, 1001).astype(np.float32)
    expected = [NormalDist().cdf(x) for x in values.tolist()]
    uniform(values, values.size)
    assert np.abs(values - expected).max() < 1e-6
