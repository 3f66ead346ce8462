"""A triangle mesh as a closed surface: welding, holes, winding, volume. Triangles are (F, 3) vertex numbers.

An *open edge* belongs to one triangle alone. A surface is closed when every directed edge meets its opposite
exactly once; then its volume (the divergence theorem over its triangles) says which side is out.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Faces = NDArray[np.integer[Any]]


def weld(vertices: F64, tolerance: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Vertices (N, 3) at one place are one: the first of each place (M,), and each vertex's place (N,).

    A mesh is split where its texture has a seam; the copies lie at the same coordinates.
    """
    cell = np.rint(np.asarray(vertices, np.float64) / tolerance)
    _, first, place = np.unique(cell, axis=0, return_index=True, return_inverse=True)
    # In the order in which the file has them.
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[place.reshape(-1)]


def without_slivers(faces: Faces) -> Faces:
    """The triangles that have three different corners."""
    a, b, c = faces.T
    out: Faces = faces[(a != b) & (b != c) & (c != a)]
    return out


def directed_edges(faces: Faces) -> NDArray[np.int64]:
    """(3 F, 2) the edges of triangles in their winding: first all a–b, then all b–c, then all c–a."""
    return np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)


def _keys(edges: NDArray[np.int64]) -> NDArray[np.int64]:
    return edges[:, 0] << 32 | edges[:, 1]


def is_closed(faces: Faces) -> bool:
    """Whether every directed edge of the triangles (F, 3) meets its opposite exactly once."""
    edges = directed_edges(faces)
    key, back = _keys(edges), _keys(edges[:, ::-1])
    return len(np.unique(key)) == len(key) and bool(np.isin(key, back).all())


def open_edges(faces: Faces) -> NDArray[np.int64]:
    """(E, 2) the edges that belong to one triangle alone, in its winding."""
    edges = directed_edges(faces)
    _, where, count = np.unique(_keys(np.sort(edges, axis=1)), return_inverse=True, return_counts=True)
    out: NDArray[np.int64] = edges[count[where.reshape(-1)] == 1]
    return out


def crowded_edges(faces: Faces) -> NDArray[np.int64]:
    """(E, 2) the edges on which more than two triangles meet."""
    edges = np.sort(directed_edges(faces), axis=1)
    _, first, count = np.unique(_keys(edges), return_index=True, return_counts=True)
    out: NDArray[np.int64] = edges[first[count > 2]]
    return out


def loops(edges: NDArray[np.int64]) -> list[list[int]]:
    """Open edges (E, 2) joined end to end: the rims of the holes, each a ring of vertex numbers."""
    following: dict[int, list[int]] = defaultdict(list)
    for a, b in edges.tolist():
        following[a].append(b)
    rims = []
    while following:
        start = at = next(iter(following))
        rim = []
        while at in following:
            rim.append(at)
            ways = following[at]
            ahead = ways.pop()
            if not ways:
                del following[at]
            at = ahead
            if at == start:
                break
        rims.append(rim)
    return rims


def wound_alike(faces: Faces) -> tuple[Faces, int]:
    """Triangles turned so that neighbours agree, and how many had to be; at most two meet on an edge."""
    edges = directed_edges(faces)
    if len(np.unique(_keys(edges))) == len(edges):
        return faces, 0
    count = len(faces)
    owners: dict[tuple[int, int], list[tuple[int, bool]]] = defaultdict(list)
    for number, (a, b) in enumerate(edges.tolist()):
        owners[min(a, b), max(a, b)].append((number % count, a < b))
    neighbours: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    for pair in owners.values():
        if len(pair) == 2:
            (one, way), (other, other_way) = pair
            neighbours[one].append((other, way == other_way))
            neighbours[other].append((one, way == other_way))
    turned = np.full(count, -1)
    for seed in range(count):
        if turned[seed] >= 0:
            continue
        turned[seed] = 0
        piece, pending = [seed], [seed]
        while pending:
            face = pending.pop()
            for other, against in neighbours[face]:
                if turned[other] < 0:
                    turned[other] = turned[face] ^ int(against)
                    piece.append(other)
                    pending.append(other)
        if 2 * turned[piece].sum() > len(piece):
            turned[piece] ^= 1
    return np.where(turned[:, None] == 1, faces[:, ::-1], faces), int(turned.sum())


def wound_outward(vertices: F64, faces: Faces) -> tuple[Faces, bool]:
    """The pieces of a closed surface, each turned to hold a positive volume, and whether any had to be."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = directed_edges(faces)
    links = coo_matrix((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), (len(vertices),) * 2)
    pieces, label = connected_components(links, directed=False)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    inside = np.bincount(label[faces[:, 0]], np.einsum("ij,ij->i", a, np.cross(b, c)), minlength=pieces)
    inward = (inside < 0)[label[faces[:, 0]]]
    return np.where(inward[:, None], faces[:, ::-1], faces), bool(inward.any())


def volume(vertices: NDArray[np.floating], faces: Faces) -> float:
    """Signed volume mm³ of closed triangles, positive when wound outward."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def vertex_normals(vertices: F64, faces: Faces) -> F64:
    """(N, 3) unit normals, outward, weighted by the triangles' areas."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normal = np.cross(b - a, c - a)
    out = np.zeros_like(vertices)
    for i in range(3):
        np.add.at(out, faces[:, i], normal)
    out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    return out


def occupied_volume(vertices: NDArray[np.floating], faces: Faces, *, step_mm: float) -> float:
    """Volume mm³ of what a closed surface takes up: where it runs through itself it counts once.

    Lines along z, `step_mm` apart, are followed through the surface: inside is where they have gone in more
    often than out. The water that a hand displaces, where `volume` adds up its pieces of flesh.
    """
    # A little off the lattice, so that no line meets an edge.
    corners = np.asarray(vertices, np.float64)[faces] / [step_mm, step_mm, 1] + [0.3137, 0.2711, 0]
    low, high = np.ceil(corners[..., :2].min(1)).astype(int), np.floor(corners[..., :2].max(1)).astype(int)
    crossed = np.flatnonzero((high >= low).all(1))
    counts = (high - low + 1)[crossed]
    each = counts.prod(1)
    triangle = np.repeat(crossed, each)
    number = np.arange(len(triangle)) - np.repeat(np.cumsum(each) - each, each)
    rows = np.repeat(counts[:, 1], each)
    cell = low[triangle] + np.stack([number // rows, number % rows], axis=1)
    a, b, c = (corners[triangle, i] for i in range(3))

    def turn(one: F64, other: F64) -> F64:
        u, v = one[:, :2] - cell, other[:, :2] - cell
        out: F64 = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
        return out

    shares = np.stack([turn(b, c), turn(c, a), turn(a, b)], axis=1)
    double = shares.sum(1)
    hit = np.flatnonzero((shares * np.sign(double)[:, None] > 0).all(1))
    z = (shares[hit] * np.stack([a, b, c], axis=1)[hit, :, 2]).sum(1) / double[hit]
    line, sign = cell[hit, 0] * 100_000 + cell[hit, 1], -np.sign(double[hit])
    order = np.lexsort((z, line))
    depth = np.cumsum(sign[order])[:-1]
    gap = np.diff(z[order])
    inside = (np.diff(line[order]) == 0) & (depth > 0)
    return float(gap[inside].sum() * step_mm**2)


def strongest(weights: NDArray[Any], count: int = 4) -> tuple[NDArray[np.int32], F32]:
    """The `count` largest weights of each row (N, count), scaled to sum 1, and their columns."""
    index = np.argsort(-weights, axis=1, kind="stable")[:, :count]
    share = np.take_along_axis(weights, index, axis=1)
    share = np.where(share < 0.01, 0, share)
    share = (share / share.sum(1, keepdims=True)).astype(np.float32)
    return index.astype(np.int32), share
