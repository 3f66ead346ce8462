"""Clouds of surface points: what hangs together, where its far ends are, how far it is to walk along it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

VOXEL_MM: Final = 14.0
"""Cells along which one walks ..."""
APART_MM: Final = 20.0
"""... and those that tell one thing from another."""
ENTRY_MM2: Final = 15.0
"""Surface of a cell that must go on unseen for the cloud to have an entry there."""
GOOD_VIEW: Final = 0.15
"""A camera counts if it sees this share of the points that the best one sees."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """Surface points of something that may end in a hand."""

    points: F64
    """(n, 3) mm, rig frame."""
    area: F64
    """(n,) mm² of surface each point stands for, seen from its camera; of a thing seen by several, their mean."""
    ray: F64
    """(n, 3) unit direction from its camera."""
    border: F64
    """(n,) 1 where the surface goes on unseen: the image ends, or it touches what counts as background."""

    view: NDArray[np.intp]
    """(n,) which camera sees the point."""
    n_views: int = 1
    """Cameras that see a good part of the thing; `area` is divided by it."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, rows: NDArray[np.generic]) -> Cloud:
        return replace(
            self,
            points=self.points[rows],
            area=self.area[rows],
            ray=self.ray[rows],
            border=self.border[rows],
            view=self.view[rows],
        )


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
    grid = np.zeros(cell.max(0) + 1, bool)
    grid[tuple(cell.T)] = True
    numbers, _ = label(grid, np.ones((3, 3, 3)))
    return np.asarray(numbers[tuple(cell.T)], np.intp)


@dataclass(frozen=True, slots=True)
class Tip:
    """A far end of a cloud."""

    point_mm: F64
    """(3,)."""
    entry: float
    """Way along the surface to where the cloud goes on unseen, in half metres, at most 1; 1 where it does not."""
    walk_mm: F64
    """(n,) way along the surface to each point."""


def tips(cloud: Cloud, count: int) -> list[Tip]:
    """The cloud's extremities: each the farthest from those before, as one would walk along the limb.

    Along the limb, not through the air: a hand raised to its own shoulder is still a far end.
    """
    from scipy.sparse.csgraph import connected_components

    of_point, graph = _cells(cloud.points)
    entry = _entry_cells(cloud, of_point, graph.shape[0])
    from_entry = _walk(graph, entry) if len(entry) else np.full(graph.shape[0], np.inf)
    _, component = connected_components(graph, directed=False)
    start = int(np.argmax(component == np.bincount(component[of_point]).argmax()))
    reach = _walk(graph, np.array([start]))
    found: list[Tip] = []
    for number in range(count):
        cell = int(np.argmax(np.where(np.isfinite(reach), reach, -1)))
        members = np.flatnonzero(of_point == cell)
        # Of the cell's points the one farthest from the rest of the cloud.
        away = ((cloud.points[members] - cloud.points.mean(0)) ** 2).sum(1)
        point = cloud.points[members[int(np.argmax(away))]]
        walked = _walk(graph, np.array([cell]))
        found.append(Tip(point, min(float(from_entry[cell]) / 500, 1.0), walked[of_point]))
        reach = walked if number == 0 else np.minimum(reach, walked)
    return found


def _cells(points_mm: F64) -> tuple[NDArray[np.intp], Any]:
    """Cell of each point (n,) and the sparse graph of cells that touch, weighted by their distance."""
    from scipy.sparse import csr_array

    cell = ((points_mm - points_mm.min(0)) / VOXEL_MM).astype(np.intp) + 1
    size = cell.max(0) + 2
    key = np.ravel_multi_index(tuple(cell.T), tuple(size))
    keys, of_point = np.unique(key, return_inverse=True)
    number = np.full(int(np.prod(size)), -1)
    number[keys] = np.arange(len(keys))
    strides = (size[1] * size[2], size[2], 1)
    first, second, weight = [], [], []
    for step in itertools.product((-1, 0, 1), repeat=3):
        if step <= (0, 0, 0):
            continue
        other = number[keys + sum(s * stride for s, stride in zip(step, strides, strict=True))]
        (mine,) = np.nonzero(other >= 0)
        first.append(mine)
        second.append(other[mine])
        weight.append(np.full(len(mine), VOXEL_MM * np.sqrt(np.abs(step).sum())))
    i, j, w = (np.concatenate(column) for column in (first, second, weight))
    count = len(keys)
    return of_point, csr_array((np.tile(w, 2), (np.concatenate([i, j]), np.concatenate([j, i]))), (count, count))


def _walk(graph: Any, sources: NDArray[np.intp]) -> F64:
    """Shortest way from any of the cells `sources` to every cell, mm; infinite where there is none."""
    from scipy.sparse.csgraph import dijkstra

    return np.asarray(dijkstra(graph, indices=sources, min_only=True), np.float64)


def _entry_cells(cloud: Cloud, of_point: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Cells in which enough of the surface goes on unseen; a finger before a wall touches it in few pixels."""
    area = np.bincount(of_point, cloud.area * cloud.border, count)
    return np.flatnonzero(area > ENTRY_MM2)
