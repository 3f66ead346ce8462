from __future__ import annotations

import numpy as np
import pytest

from handloom.stores.camera import project
from handloom.stores.crops import (
    absolute,
    crop_k,
    denormalise,
    native_window,
    normalise,
    relative,
    resample,
    take_crop,
    window_k,
)

K = np.array([588.03, 587.07, 320.0, 240.0])
CENTER = np.array([60.0, -40.0, 700.0])


def spots(points: np.ndarray, k: np.ndarray, width: int, height: int) -> np.ndarray:
    """A depth image in which each point is a 5 × 5 spot of its own depth."""
    depth = np.zeros((height, width), np.uint16)
    for (u, v), z in zip(np.rint(project(points, k)).astype(int), points[:, 2], strict=True):
        depth[v - 2 : v + 3, u - 2 : u + 3] = z
    return depth


def test_the_centre_lies_in_the_middle_and_the_window_is_its_size() -> None:
    k = crop_k(CENTER, K, crop_px=192, window_mm=450.0)
    assert project(CENTER, k) == pytest.approx([95.5, 95.5])
    edge = project(CENTER + np.array([225.0, 0, 0]), k) - project(CENTER, k)
    assert edge[0] == pytest.approx(96)
    assert k[1] / k[0] == pytest.approx(K[1] / K[0])


def test_a_point_shows_its_depth_in_frame_and_crop() -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-3, 4)), -1).reshape(-1, 2) * 25.0
    points = np.column_stack([CENTER[:2] + grid, rng.integers(650, 750, len(grid))]).astype(float)
    depth = spots(points, K, 640, 480)
    crop, k = take_crop(depth, K, CENTER)
    for point, (u, v) in zip(points, np.rint(project(points, k)).astype(int), strict=True):
        assert crop[v, u] == int(point[2])


def test_a_crop_of_a_crop_is_the_crop() -> None:
    yy, xx = np.mgrid[:480, :640]
    depth = (600 + 0.2 * xx + 0.1 * yy).astype(np.uint16)
    stored, stored_k = take_crop(depth, K, CENTER)
    k = crop_k(CENTER + np.array([4.0, -3.0, 6.0]), K, crop_px=128, window_mm=300.0)
    direct = resample(depth, K, k, width=128, height=128).astype(int)
    twice = resample(stored, stored_k, k, width=128, height=128).astype(int)
    # Two nearest samplings are at most one pixel off, here 0.3 mm plus rounding.
    assert np.abs(direct - twice).max() <= 1


def test_half_a_pixel_off_everywhere_moves_nothing() -> None:
    """At 64 px every sample of a stored crop falls between two pixels; rounding all up moved hands by 1.2 mm."""
    stored_k = crop_k(CENTER, K, crop_px=192, window_mm=450.0)
    stored = np.zeros((192, 192), np.uint16)
    stored[76:116, 76:116] = 700  # a square around the middle
    k = crop_k(CENTER, K, crop_px=64, window_mm=300.0)
    v, u = np.nonzero(resample(stored, stored_k, k, width=64, height=64))
    assert (u.mean(), v.mean()) == pytest.approx((31.5, 31.5), abs=0.05)


def test_outside_the_frame_is_no_return() -> None:
    depth = np.full((480, 640), 700, np.uint16)
    crop, _ = take_crop(depth, K, [-380.0, 0.0, 700.0])
    assert not crop[:, :90].any()
    assert (crop[:, 110:] == 700).all()


def test_the_native_window_covers_the_crop() -> None:
    left, top, width, height = native_window(K, CENTER, width=640, height=480, window_mm=450.0)
    depth = np.random.default_rng(2).integers(500, 900, (480, 640)).astype(np.uint16)
    crop, k = take_crop(depth, K, CENTER)
    window = depth[top : top + height, left : left + width]
    again = resample(window, window_k(K, left, top), k, width=192, height=192)
    assert (again == crop).all()
    assert width * height < 640 * 480


def test_a_hand_beside_the_frame_has_an_empty_window() -> None:
    assert native_window(K, [2000.0, 0.0, 700.0], width=640, height=480, window_mm=450.0)[2] == 0


def test_normalising_is_undone_exactly() -> None:
    depth = np.array([[0, 549, 550, 700, 850, 851]], np.uint16)
    image = normalise(depth, 700.0, 300.0)
    assert image[0] == pytest.approx([1, 1, -1, 0, 1, 1])
    inside = np.arange(550, 850, dtype=np.uint16)[None]
    assert (np.rint(denormalise(normalise(inside, 700.0, 300.0), 700.0, 300.0)) == inside).all()


def test_labels_go_and_come_back() -> None:
    joints = np.random.default_rng(3).normal(CENTER, 60, (5, 26, 3)).astype(np.float32)
    centers = np.tile(CENTER.astype(np.float32), (5, 1))
    labels = relative(joints, centers, 300.0)
    assert labels == pytest.approx((joints - CENTER) / 150, abs=1e-5)
    assert absolute(labels, centers, 300.0) == pytest.approx(joints, abs=1e-3)
