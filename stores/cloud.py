"""Clouds of surface points: what hangs together, and places spread evenly over it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

APART_MM: Final = 20.0
"""Cells that tell one thing from another."""
LARGEST_GRID: Final = 1 << 26
"""Cells, 64 MB; a room of 5 x 3 x 5 m has 10 million."""
CELL_MM: Final = 25.0
"""Cells whose middles places are chosen from."""
GOOD_VIEW: Final = 0.15
"""A camera counts if it sees this share of the points that the best one sees."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Surface points of something that may end in a hand."""

    points: F64
    """(n, 3) mm, rig frame."""
    area: F64
    """(n,) mm² of surface each point stands for, seen from its camera; of a thing seen by several, their mean."""
    view: NDArray[np.intp]
    """(n,) which camera sees the point."""
    n_views: int = 1
    """Cameras that see a good part of the thing; `area` is divided by it."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: NDArray[np.generic]) -> Cloud:
        return replace(self, points=self.points[rows], area=self.area[rows], view=self.view[rows])


def things(cloud: Cloud) -> list[Cloud]:
    """The parts of a cloud that do not touch each other, each with its area averaged over who sees it."""
    if len(cloud) < 30:
        return []
    of_point = parts(cloud.points)
    order = np.argsort(of_point, kind="stable")
    return [_seen_by(cloud[rows]) for rows in np.split(order, np.cumsum(np.bincount(of_point)[1:])[:-1])]


def _seen_by(cloud: Cloud) -> Cloud:
    counts = np.bincount(cloud.view)
    n_views = int((counts >= GOOD_VIEW * counts.max()).sum())
    return replace(cloud, area=cloud.area / n_views, n_views=n_views)


def parts(points_mm: F64) -> NDArray[np.intp]:
    """(n,) number of the connected part each point (n, 3) belongs to: voxels that touch, 1 upwards."""
    from scipy.ndimage import label

    cell = ((points_mm - points_mm.min(0)) / APART_MM).astype(np.intp)
    if np.prod(cell.max(0) + 1.0) > LARGEST_GRID:
        # Cameras far from each other, or an odd lens: what is empty between their points needs no cells.
        cell = np.stack([_closed_up(column) for column in cell.T], axis=1)
        if np.prod(cell.max(0) + 1.0) > LARGEST_GRID:
            return np.ones(len(points_mm), np.intp)
    grid = np.zeros(cell.max(0) + 1, bool)
    grid[tuple(cell.T)] = True
    numbers, _ = label(grid, np.ones((3, 3, 3)))
    return np.asarray(numbers[tuple(cell.T)], np.intp)


def _closed_up(cell: NDArray[np.intp]) -> NDArray[np.intp]:
    """Cells (n,) of one axis with every gap shortened to one empty cell: just what touched still touches."""
    there, of_point = np.unique(cell, return_inverse=True)
    steps = np.minimum(np.diff(there, prepend=there[0]), 2)
    return np.asarray(np.cumsum(steps)[of_point], np.intp)


def spread_over(points_mm: F64, apart_mm: float, most: int) -> F64:
    """(m, 3) places on points (n, 3) such that none of them is farther than `apart_mm` from one, as far as `most` go.

    Each is the farthest from those before (Gonzalez 1985), among the middles of cells.
    """
    cell = ((points_mm - points_mm.min(0)) / CELL_MM).astype(np.intp)
    key = np.ravel_multi_index(tuple(cell.T), tuple(cell.max(0) + 1))
    _, of_point, count = np.unique(key, return_inverse=True, return_counts=True)
    middles = np.stack([np.bincount(of_point, axis) for axis in points_mm.T], axis=1) / count[:, None]
    away = ((middles - middles.mean(0)) ** 2).sum(1)
    chosen = [int(np.argmax(away))]
    away = ((middles - middles[chosen[0]]) ** 2).sum(1)
    while len(chosen) < most and away.max() > apart_mm**2:
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, ((middles - middles[chosen[-1]]) ** 2).sum(1))
    return np.asarray(middles[chosen], np.float64)
