"""Skinned hands from glTF 2.0 (`.glb`, and `.gltf` with its data inside): nodes, meshes and the skin on them.

Read as the specification has it (Khronos, glTF 2.0, §3.7.3; numbers in `gltf_data.py`): 8- and 16-bit and
normalised numbers, strides, sparse accessors, matrices or translation-rotation-scale, joints nested or flat,
several primitives and meshes on one skin. The hand is taken in its bind pose: a joint lies where its inverse
bind matrix says, brought into the scene by the transform that the wrist's node adds to it. Without inverse
bind matrices the nodes' own pose is taken. glTF is in metres.

Every number is checked against the bytes that are there before anything of its size is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from .foreign import Skin
from .gltf_data import Gltf, accessor
from .handfile import MAX_FACES, MAX_VERTICES
from .naming import HandMapping, joint_of, side_of
from .rotation import quaternion_matrix

F64 = NDArray[np.float64]
MAX_NODES: Final = 10_000


def _doubles(values: NDArray[Any]) -> F64:
    """As float64; numbers that are none (NaN) stay so without a warning."""
    with np.errstate(invalid="ignore"):
        return values.astype(np.float64)


def skin_of_gltf(gltf: Gltf, mapping: HandMapping, *, name: str) -> Skin:
    """The skinned hand of a file, of several the one whose joints have a hand's names.

    Raises:
        HandloomError: there is no skin, no mesh on it, or the file does not keep to the format.
    """
    if not gltf.items("skins"):
        raise HandloomError(
            "The file has no skin",
            where=gltf.where,
            why="its meshes are not bound to joints (JOINTS_0, WEIGHTS_0)",
            fix="export the hand with its armature and skinning",
        )
    nodes = [gltf.item("nodes", i) for i in range(min(len(gltf.items("nodes")), MAX_NODES))]
    parents = _parents(gltf, nodes)
    world = _world(gltf, nodes, parents)
    number = _chosen(gltf, nodes, mapping)
    skin = gltf.item("skins", number)
    joints = _joint_nodes(gltf, skin, len(nodes))
    names = tuple(_name(nodes[j], j) for j in joints)
    row = {node: i for i, node in enumerate(joints)}
    meshes = [node for node in nodes if node.get("skin") == number and "mesh" in node]
    points, faces, index, weight = _mesh(gltf, meshes)
    if len(index) and index.max() >= len(joints):
        raise gltf.refuse(f"a vertex is moved by joint {index.max()} of {len(joints)}")
    vertices, places, axes = _bind_pose(gltf, skin, names, mapping, world[joints], points, index, weight)
    return Skin(
        where=gltf.where,
        name=name,
        vertices=vertices,
        faces=faces,
        index=index,
        weight=weight,
        names=names,
        parents=tuple(_parent_row(parents, row, j) for j in joints),
        joints=places,
        axes=axes,
        hints=(*(_name(node, 0) for node in meshes), str(skin.get("name", ""))[:200], name),
    )


def _name(node: dict[str, Any], number: int) -> str:
    return str(node.get("name", f"node {number}"))[:200]


def _joint_nodes(gltf: Gltf, skin: dict[str, Any], count: int) -> list[int]:
    joints = skin.get("joints")
    if not isinstance(joints, list) or not 0 < len(joints) <= MAX_NODES:
        raise gltf.refuse("a skin has no joints")
    if not all(isinstance(j, int) and not isinstance(j, bool) and 0 <= j < count for j in joints):
        raise gltf.refuse("a skin's joints are no nodes")
    return joints


def _chosen(gltf: Gltf, nodes: list[dict[str, Any]], mapping: HandMapping) -> int:
    """The skin to read: the one with most of a hand's joints."""
    known = set(mapping.joints.values())
    scores = []
    for number in range(min(len(gltf.items("skins")), 100)):
        names = [_name(nodes[j], j) for j in _joint_nodes(gltf, gltf.item("skins", number), len(nodes))]
        hands = {name if name in known else joint_of(name) for name in names} - {None}
        right_side = mapping.side is None or side_of(names) in (None, mapping.side)
        scores.append((right_side, len(hands), -number))
    return -max(scores)[2]


def _parents(gltf: Gltf, nodes: list[dict[str, Any]]) -> list[int]:
    parents = [-1] * len(nodes)
    for number, node in enumerate(nodes):
        children = node.get("children", [])
        if not isinstance(children, list):
            raise gltf.refuse("a node's children are no list")
        for child in children:
            if not isinstance(child, int) or isinstance(child, bool) or not 0 <= child < len(nodes):
                raise gltf.refuse(f"node {number} has a child that is not there")
            if parents[child] >= 0:
                raise gltf.refuse(f"node {child} has two parents")
            parents[child] = number
    return parents


def _upwards(parents: list[int], node: int) -> Iterator[int]:
    """A node and all above it; a ring of nodes ends when it has been gone round."""
    for _ in range(len(parents) + 1):
        if node < 0:
            return
        yield node
        node = parents[node]


def _parent_row(parents: list[int], row: dict[int, int], node: int) -> int:
    return next((row[up] for up in _upwards(parents, parents[node]) if up in row and up != node), -1)


def _world(gltf: Gltf, nodes: list[dict[str, Any]], parents: list[int]) -> F64:
    """(n, 4, 4) of every node into the scene."""
    local = np.stack([_local(gltf, node) for node in nodes]) if nodes else np.zeros((0, 4, 4))
    world = np.full_like(local, np.nan)
    for start in range(len(nodes)):
        way = []
        for node in _upwards(parents, start):
            if np.isfinite(world[node, 0, 0]):
                break
            way.append(node)
        if len(way) > len(nodes):
            raise gltf.refuse("its nodes hang on each other in a ring")
        for node in reversed(way):
            world[node] = local[node] if parents[node] < 0 else world[parents[node]] @ local[node]
    return world


def _local(gltf: Gltf, node: dict[str, Any]) -> F64:
    matrix = gltf.numbers(node, "matrix", 16)
    if matrix is not None:
        out = matrix.reshape(4, 4).T
        scale = np.linalg.norm(out[:3, :3], axis=0)
    else:
        move, turn = gltf.numbers(node, "translation", 3), gltf.numbers(node, "rotation", 4)
        scale = gltf.numbers(node, "scale", 3)
        scale = np.ones(3) if scale is None else scale
        out = np.eye(4)
        if turn is not None:
            if np.linalg.norm(turn) < 1e-3:
                raise gltf.refuse("a node's rotation is zero")
            out[:3, :3] = quaternion_matrix(turn[[3, 0, 1, 2]])
        out[:3, :3] *= scale
        if move is not None:
            out[:3, 3] = move
    determinant = float(np.linalg.det(out[:3, :3]))
    if np.abs(scale).min() < 1e-9 or determinant <= 0:
        raise HandloomError(
            f"The node '{_name(node, 0)}' is scaled by zero or mirrored",
            where=gltf.where,
            why=f"its scale is {', '.join(f'{s:.3g}' for s in scale)}, its determinant {determinant:.3g}",
            fix="apply the scale (Blender: Object > Apply > Scale) and export again",
        )
    return out


def _mesh(gltf: Gltf, meshes: list[dict[str, Any]]) -> tuple[F64, NDArray[np.int64], NDArray[np.int64], F64]:
    """Points (N, 3), triangles (F, 3), joints and weights (N, K) of all primitives of some nodes' meshes."""
    primitives = []
    for node in meshes:
        found = gltf.item("meshes", node["mesh"]).get("primitives", [])
        if not isinstance(found, list):
            raise gltf.refuse("a mesh's primitives are no list")
        primitives += [p for p in found if isinstance(p, dict)]
    if not primitives or len(primitives) > 1000:
        raise gltf.refuse("no mesh is bound to the skin" if not primitives else "the mesh has too many pieces")
    points, faces, indices, weights, total, corners = [], [], [], [], 0, 0
    for primitive in primitives:
        if gltf.integer(primitive, "mode", 4) != 4:
            raise gltf.refuse("the mesh is not of plain triangles (mode 4)")
        attributes = primitive.get("attributes")
        if not isinstance(attributes, dict) or not {"POSITION", "JOINTS_0", "WEIGHTS_0"} <= set(attributes):
            raise gltf.refuse("a piece of the mesh lacks POSITION, JOINTS_0 or WEIGHTS_0")
        xyz = accessor(gltf, attributes["POSITION"], most=MAX_VERTICES - total, types=("VEC3",))
        count = len(xyz)
        if primitive.get("indices") is None:
            order = np.arange(count)
        else:
            order = accessor(gltf, primitive["indices"], most=3 * MAX_FACES - corners, types=("SCALAR",))[:, 0]
        if order.dtype.kind not in "iu" or len(order) % 3 or (len(order) and int(order.max()) >= count):
            raise gltf.refuse("the triangles name vertices that are not there")
        joints, shares = [], []
        sets = [i for i in range(4) if f"JOINTS_{i}" in attributes and f"WEIGHTS_{i}" in attributes]
        for i in sets:
            joints.append(accessor(gltf, attributes[f"JOINTS_{i}"], most=count, types=("VEC4",)))
            shares.append(accessor(gltf, attributes[f"WEIGHTS_{i}"], most=count, types=("VEC4",)))
            if len(joints[-1]) != count or len(shares[-1]) != count or joints[-1].dtype.kind not in "iu":
                raise gltf.refuse("joints and weights are not one for each vertex")
        pad = ((0, 0), (0, 16 - 4 * len(sets)))
        points.append(_doubles(xyz))
        faces.append(order.astype(np.int64).reshape(-1, 3) + total)
        indices.append(np.pad(np.concatenate(joints, axis=1).astype(np.int64), pad))
        weights.append(np.pad(_doubles(np.concatenate(shares, axis=1)), pad))
        total += count
        corners += len(order)
    index, weight = np.concatenate(indices), np.concatenate(weights)
    # Joints that have no weight may be any number; 0 is always there.
    return np.concatenate(points), np.concatenate(faces), np.where(weight == 0, 0, index), weight


def _bind_pose(
    gltf: Gltf,
    skin: dict[str, Any],
    names: tuple[str, ...],
    mapping: HandMapping,
    world: F64,
    points: F64,
    index: NDArray[np.int64],
    weight: F64,
) -> tuple[F64, F64, F64]:
    """Vertices (N, 3), joints (J, 3) and their axes (J, 3, 3) in the scene."""
    if skin.get("inverseBindMatrices") is None:
        # Each joint's part of the mesh is given in the joint's own axes.
        moved = np.einsum("nkij,nj->nki", world[index][..., :3, :3], points) + world[index][..., :3, 3]
        return (weight[..., None] * moved).sum(axis=1), world[:, :3, 3], _directions(world)
    inverse = _doubles(accessor(gltf, skin["inverseBindMatrices"], most=MAX_NODES, types=("MAT4",)))
    inverse = inverse.reshape(-1, 4, 4).transpose(0, 2, 1)[: len(names)]
    if len(inverse) < len(names):
        raise gltf.refuse(f"it has {len(inverse)} inverse bind matrices for {len(names)} joints")
    sound = np.abs(inverse).max() < 1e9 and np.allclose(inverse[:, 3], (0, 0, 0, 1), atol=1e-4)
    if not sound or np.abs(np.linalg.det(inverse[:, :3, :3])).min() < 1e-18:
        raise gltf.refuse("an inverse bind matrix is none that can be inverted")
    bind = np.linalg.inv(inverse)
    wanted = mapping.joints.get("wrist")
    wrist = next((i for i, n in enumerate(names) if n == wanted or (wanted is None and joint_of(n) == "wrist")), 0)
    into = world[wrist] @ inverse[wrist]
    if np.linalg.det(into[:3, :3]) <= 0:
        raise HandloomError(
            "The hand is scaled by zero or mirrored by its nodes",
            where=gltf.where,
            why=f"the determinant of the mesh's way into the scene is {np.linalg.det(into[:3, :3]):.3g}",
            fix="apply the scale (Blender: Object > Apply > Scale) and export again",
        )
    bind = into @ bind
    return points @ into[:3, :3].T + into[:3, 3], bind[:, :3, 3], _directions(bind)


def _directions(matrices: F64) -> F64:
    """The columns of (J, 4, 4) as unit axes (J, 3, 3)."""
    columns = matrices[:, :3, :3]
    out: F64 = columns / np.maximum(np.linalg.norm(columns, axis=1, keepdims=True), 1e-12)
    return out
