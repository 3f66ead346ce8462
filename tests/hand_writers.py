"""Hands as other programs write them, made from the built-in hand: glTF in many forms, MANO's files."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from handloom.stores.joints import OPENXR26
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import BONE_PARENTS, FOREARM, WRIST, RiggedHand, without_helpers
from handloom.synth.rotation import rotation_matrix
from handloom.synth.surface import strongest, weld, without_slivers

COMPONENTS = {"|i1": 5120, "|u1": 5121, "<i2": 5122, "<u2": 5123, "<u4": 5125, "<f4": 5126}
# A turn and a place that no convention has.
TURN = rotation_matrix(np.array([0.7, -1.9, 0.4]))
PLACE = np.array([0.31, -0.12, 0.87])


@dataclass(frozen=True)
class Sketch:
    """A skinned hand to write: metres, bind matrices of joints, weights."""

    vertices: np.ndarray
    faces: np.ndarray
    names: list[str]
    parents: list[int]
    rest: np.ndarray
    """(J, 4, 4)."""
    index: np.ndarray
    weight: np.ndarray


def sketch(hand: RiggedHand | None = None, *, forearm: bool = True, oblique: float = 0.0, moved: bool = True) -> Sketch:
    """The hand with all of OpenXR's joints, bones along y; without forearm it is open, obliquely, at the wrist."""
    hand = hand or builtin_hand()
    weights = without_helpers(hand.dense_weights().astype(np.float64))
    faces = hand.faces.astype(np.int64)
    if not forearm:
        faces = faces[(hand.vertices[faces] @ [0, 1, oblique] > -22).all(axis=1)]
        weights[:, WRIST] += weights[:, FOREARM]
        weights[:, FOREARM] = 0
    first, place = weld(hand.vertices.astype(np.float64), 1e-3)
    faces = without_slivers(place[faces])
    used, faces = np.unique(faces, return_inverse=True)
    faces, first = faces.reshape(-1, 3), first[used]
    index, weight = strongest(weights[first])
    rest = np.tile(np.eye(4), (27, 1, 1))
    rest[:, :3, :3] = np.concatenate([hand.frames, hand.frames[WRIST : WRIST + 1]])
    rest[:, :3, 3] = np.concatenate([hand.joints, hand.joints[WRIST : WRIST + 1]]) / 1000
    parents = list(BONE_PARENTS)
    parents[FOREARM], parents[WRIST] = -1, FOREARM
    out = Sketch(
        hand.vertices[first] / 1000, faces, [*OPENXR26, "forearm"], parents, rest, index.astype(np.int64), weight
    )
    return turned(out, TURN, PLACE) if moved else out


def turned(hand: Sketch, rotation: np.ndarray, place: np.ndarray) -> Sketch:
    """The hand somewhere else in the scene."""
    into = np.eye(4)
    into[:3, :3], into[:3, 3] = rotation, place
    return replace(hand, vertices=hand.vertices @ rotation.T + place, rest=into @ hand.rest)


def without(hand: Sketch, *endings: str) -> Sketch:
    """The hand without the joints whose names end so; their weights go to the joints they hang on."""
    gone = [name.endswith(endings) for name in hand.names]
    into = list(range(len(gone)))
    for i in range(len(gone)):
        while into[i] >= 0 and gone[into[i]]:
            into[i] = hand.parents[into[i]]
    kept = [i for i, lost in enumerate(gone) if not lost]
    dense = np.zeros((len(hand.vertices), len(gone)))
    np.add.at(dense, (np.arange(len(dense))[:, None], np.array(into)[hand.index]), hand.weight)
    index, weight = strongest(dense[:, kept])
    parents = [hand.parents[i] for i in kept]
    parents = [kept.index(into[p]) if p >= 0 and into[p] >= 0 else -1 for p in parents]
    return Sketch(
        hand.vertices, hand.faces, [hand.names[i] for i in kept], parents, hand.rest[kept],
        index.astype(np.int64), weight,
    )  # fmt: skip


def with_seams(hand: Sketch) -> Sketch:
    """Every triangle of the upper half gets vertices of its own, as at the seams of a texture."""
    upper = hand.vertices[hand.faces][:, :, 1].mean(1) > np.median(hand.vertices[:, 1])
    own = hand.faces[upper].reshape(-1)
    faces = hand.faces.copy()
    faces[upper] = len(hand.vertices) + np.arange(len(own)).reshape(-1, 3)
    pick = np.concatenate([np.arange(len(hand.vertices)), own])
    return replace(hand, vertices=hand.vertices[pick], faces=faces, index=hand.index[pick], weight=hand.weight[pick])


def webxr(name: str) -> str:
    """A canonical name as WebXR has it."""
    finger, _, bone = name.partition("_")
    if finger in ("wrist", "palm", "forearm"):
        return name
    place = bone if bone in ("metacarpal", "tip") else f"phalanx-{bone}"
    return f"thumb-{place}" if finger == "thumb" else f"{finger.replace('little', 'pinky')}-finger-{place}"


class Glb:
    """A `.glb` in the making: arrays into the buffer, JSON beside it."""

    def __init__(self) -> None:
        self.data = b""
        self.json: dict[str, Any] = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": []}

    def view(self, data: bytes, **more: Any) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        self.json["bufferViews"].append({"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data), **more})
        self.data += data
        return len(self.json["bufferViews"]) - 1

    def accessor(self, values: np.ndarray, kind: str, **more: Any) -> int:
        what = {"componentType": COMPONENTS[values.dtype.str], "count": len(values), "type": kind, **more}
        if "bufferView" not in more and "sparse" not in more:
            what["bufferView"] = self.view(np.ascontiguousarray(values).tobytes())
        self.json["accessors"].append(what)
        return len(self.json["accessors"]) - 1

    def bytes(self) -> bytes:
        self.json["buffers"] = [{"byteLength": len(self.data)}]
        return container(json.dumps(self.json).encode(), self.data)


def container(text: bytes, data: bytes) -> bytes:
    """JSON and buffer as GLB."""
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(data))
    return head + struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data


def parts_of(data: bytes) -> tuple[dict[str, Any], bytes]:
    """JSON and buffer of a GLB."""
    size = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def simple_glb(hand: Sketch, *, flat: bool = False, in_cm: bool = False) -> Glb:
    """Float weights, 8-bit joints, one primitive; `in_cm`: the mesh in centimetres under a node scaled by 0.01."""
    glb = Glb()
    size = 100.0 if in_cm else 1.0
    attributes = {
        "POSITION": glb.accessor((hand.vertices * size).astype("<f4"), "VEC3"),
        "JOINTS_0": glb.accessor(hand.index.astype("u1"), "VEC4"),
        "WEIGHTS_0": glb.accessor(hand.weight.astype("<f4"), "VEC4"),
    }
    indices = glb.accessor(hand.faces.reshape(-1).astype("<u2"), "SCALAR")
    _skeleton(glb, hand, flat, size)
    glb.json["meshes"] = [{"primitives": [{"attributes": attributes, "indices": indices}]}]
    return glb


def intricate_glb(hand: Sketch) -> Glb:
    """16-bit joints, 8-bit normalised weights, two interleaved primitives, one of them with sparse positions."""
    glb = Glb()
    primitives = []
    weights = np.rint(hand.weight * 255).astype(np.int64)
    weights[:, 0] += 255 - weights.sum(1)
    for faces in np.array_split(hand.faces, 2):
        used, corners = np.unique(faces, return_inverse=True)
        count = len(used)
        xyz = hand.vertices[used].astype("<f4")
        record = np.zeros(count, [("p", "<f4", 3), ("j", "<u2", 4), ("w", "u1", 4)])
        record["p"], record["j"], record["w"] = xyz, hand.index[used], weights[used]
        few = np.array([1, 5, 6])
        if not primitives:
            # Sparse: the buffer holds three wrong positions and what they should be.
            record["p"][few] += 1
        view = glb.view(record.tobytes(), byteStride=record.dtype.itemsize)
        sparse = {}
        if not primitives:
            sparse["sparse"] = {
                "count": 3,
                "indices": {"bufferView": glb.view(few.astype("<u2").tobytes()), "componentType": 5123},
                "values": {"bufferView": glb.view(xyz[few].tobytes())},
            }
        attributes = {
            "POSITION": glb.accessor(xyz, "VEC3", bufferView=view, byteOffset=0, **sparse),
            "JOINTS_0": glb.accessor(np.zeros((count, 4), "<u2"), "VEC4", bufferView=view, byteOffset=12),
            "WEIGHTS_0": glb.accessor(
                np.zeros((count, 4), "u1"), "VEC4", bufferView=view, byteOffset=20, normalized=True
            ),
        }
        primitives.append(
            {"attributes": attributes, "indices": glb.accessor(corners.reshape(-1).astype("<u4"), "SCALAR")}
        )
    _skeleton(glb, hand, False, 1.0)
    glb.json["meshes"] = [{"primitives": primitives}]
    return glb


def _skeleton(glb: Glb, hand: Sketch, flat: bool, size: float) -> None:
    """Joints, skin, and a node that shrinks what was made `size` times too large."""
    bind = hand.rest.copy()
    bind[:, :3, 3] *= size
    inverse = np.linalg.inv(bind)
    nodes: list[dict[str, Any]] = []
    for i, name in enumerate(hand.names):
        up = -1 if flat else hand.parents[i]
        local = bind[i] if up < 0 else np.linalg.inv(bind[up]) @ bind[i]
        node: dict[str, Any] = {"name": name, "matrix": local.T.reshape(-1).tolist()}
        children = [] if flat else [j for j, p in enumerate(hand.parents) if p == i]
        nodes.append({**node, "children": children} if children else node)
    roots = [i for i in range(len(nodes)) if flat or hand.parents[i] < 0]
    nodes.append({"name": "mesh", "mesh": 0, "skin": 0})
    nodes.append({"name": "armature", "children": roots, "scale": [1 / size] * 3})
    glb.json["nodes"] = nodes
    glb.json["scenes"] = [{"nodes": [len(nodes) - 2, len(nodes) - 1]}]
    matrices = inverse.transpose(0, 2, 1).reshape(-1, 16).astype("<f4")
    glb.json["skins"] = [
        {"joints": list(range(len(hand.names))), "inverseBindMatrices": glb.accessor(matrices, "MAT4")}
    ]


def write(path: Path, glb: Glb) -> Path:
    """The file, written."""
    path.write_bytes(glb.bytes())
    return path


MANO_ORDER = ("index", "middle", "little", "ring", "thumb")
MANO_TIPS = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "little": 671}


def mano(hand: RiggedHand) -> dict[str, np.ndarray]:
    """Entries of a file of exactly MANO's layout: 778 vertices, 16 joints, tips at their numbers, wrist open."""
    import fast_simplification

    bare = sketch(hand, forearm=False, moved=False)
    for target in range(1450, 1560, 2):
        points, faces = fast_simplification.simplify(
            bare.vertices.astype(np.float32) * 1000, bare.faces.astype(np.int32), target_count=target
        )
        used, faces = np.unique(faces, return_inverse=True)
        points, faces = points[used].astype(np.float64) / 1000, faces.reshape(-1, 3)
        if 700 < len(points) <= 778:
            break
    assert len(points) <= 778
    while len(points) < 778:
        # A triangle becomes three, the largest first.
        a, b, c = (points[faces[:, i]] for i in range(3))
        big = np.linalg.norm(np.cross(b - a, c - a), axis=1).argmax()
        i, j, k = faces[big]
        points = np.concatenate([points, points[[i, j, k]].mean(0)[None]])
        new = len(points) - 1
        faces = np.concatenate([np.delete(faces, big, axis=0), [[i, j, new], [j, k, new], [k, i, new]]])
    order = np.arange(778)
    for finger, number in MANO_TIPS.items():
        joint = OPENXR26.index(f"{finger}_tip")
        beyond = hand.joints[joint] / 1000 + 0.006 * hand.frames[joint, :, 1]
        at = int(np.linalg.norm(points[order] - beyond, axis=1).argmin())
        order[[number, at]] = order[[at, number]]
    rank = np.empty_like(order)
    rank[order] = np.arange(778)
    points, faces = points[order], rank[faces]

    near = np.linalg.norm(points[:, None] - bare.vertices[None], axis=-1).argsort(axis=1)[:, :3]
    dense = np.zeros((len(bare.vertices), 27))
    np.add.at(dense, (np.arange(len(dense))[:, None], bare.index), bare.weight)
    names = ["wrist"] + [
        f"{f}_{b}" for f in MANO_ORDER
        for b in (("metacarpal", "proximal", "distal") if f == "thumb" else ("proximal", "intermediate", "distal"))
    ]  # fmt: skip
    rows = [OPENXR26.index(n) for n in names]
    weights = dense[near].mean(axis=1)
    weights[:, WRIST] += weights[:, [i for i in range(27) if i not in rows]].sum(axis=1)
    weights = weights[:, rows] / weights[:, rows].sum(axis=1, keepdims=True)
    # Each joint as the blend of its nearest vertices that comes out at it.
    regressor = np.zeros((16, 778))
    for i, row in enumerate(rows):
        goal = hand.joints[row] / 1000
        close = np.linalg.norm(points - goal, axis=1).argsort()[:40]
        system = np.concatenate([points[close].T, np.full((1, 40), 1.0)])
        regressor[i, close] = np.linalg.pinv(system) @ [*goal, 1.0]
    parents = np.array([4294967295, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14], np.uint32)
    shapes = np.zeros((778, 3, 10))
    shapes[:, :, 0] = 0.05 * points  # the first parameter is the hand's size
    # Somewhere else, as the published hands are: the wrist is not at the origin.
    turn = rotation_matrix(np.array([0.0, 0.0, -np.pi / 2])) @ rotation_matrix(np.array([np.pi / 2, 0.0, 0.0]))
    shapes = np.einsum("ij,njs->nis", turn, shapes)
    return {
        "v_template": points @ turn.T + np.array([0.095, 0.006, 0.006]),
        "f": faces.astype(np.uint32),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.stack([parents, np.arange(16, dtype=np.uint32)]),
        "posedirs": np.zeros((778, 3, 135)),
        "shapedirs": shapes,
        "hands_mean": np.zeros(45),
        "hands_components": np.eye(45),
        "hands_coeffs": np.zeros((10, 45)),
    }


class _Named:
    """An object that a pickle knows by the name of a class that is not here."""

    def __init__(self, module: str, name: str, state: Any) -> None:
        self.module, self.name, self.state = module, name, state


class _Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes `_Named` as Python 2 wrote chumpy's and scipy's objects."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, _Named):
            super().save(obj, save_persistent_id)
            return
        self.write(f"ccopy_reg\n_reconstructor\n(c{obj.module}\n{obj.name}\nc__builtin__\nobject\nNtR".encode())
        super().save(obj.state)
        self.write(pickle.BUILD)


def mano_pickle(entries: dict[str, np.ndarray], *, protocol: int = 2) -> bytes:
    """The `.pkl`: a sparse regressor, chumpy's arrays about the shapes and poses, `bs_type` and `bs_style`."""
    import io

    from scipy import sparse

    regressor = sparse.csc_matrix(entries["J_regressor"])
    kept = {name: getattr(regressor, name) for name in ("data", "indices", "indptr")}
    state = {"_shape": (16, 778), "maxprint": 50, **kept}
    shapes = entries["shapedirs"]
    selected = {
        "a": _Named("chumpy.ch", "Ch", {"x": shapes.reshape(-1), "_dirty_vars": {"x"}, "_itr": None}),
        "idxs": np.arange(shapes.size), "preferred_shape": shapes.shape,
    }  # fmt: skip
    values: dict[str, Any] = {
        **entries,
        "J_regressor": _Named("scipy.sparse.csc", "csc_matrix", state),
        "shapedirs": _Named("chumpy.reordering", "Select", selected),
        "posedirs": _Named("chumpy.ch", "Ch", {"x": entries["posedirs"]}),
        "bs_type": "lrotmin",
        "bs_style": "lbs",
    }
    out = io.BytesIO()
    _Pickler(out, protocol).dump(values)
    return out.getvalue()
