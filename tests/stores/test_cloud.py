"""What hangs together in a cloud of points, however far the cameras that saw it are from each other."""

import numpy as np
import pytest

from handloom.stores import cloud
from handloom.stores.cloud import parts


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two numberings split points alike."""
    pairs = set(zip(a.tolist(), b.tolist(), strict=True))
    return len(pairs) == len(set(a.tolist())) == len(set(b.tolist()))


def test_things_a_kilometre_apart_need_no_memory_in_between():
    rng = np.random.default_rng(0)
    near = rng.uniform(0, 200, (500, 3))
    far = near + np.array([9e5, -9e5, 9e5])
    found = parts(np.concatenate([near, far]))
    assert set(found[:500]) & set(found[500:]) == set()


def test_closing_gaps_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 3000, (12, 1, 3)) + rng.normal(0, 25, (12, 100, 3))
    points = points.reshape(-1, 3)
    whole = parts(points)
    assert 12 <= len(set(whole.tolist())) < 300
    monkeypatch.setattr(cloud, "LARGEST_GRID", np.prod((np.ptp(points, axis=0) // 20) + 1) - 1)
    assert same_parts(parts(points), whole)


def test_points_all_over_a_sky_are_one_thing():
    points = np.random.default_rng(2).uniform(0, 1e9, (2000, 3))
    assert set(parts(points).tolist()) == {1}
