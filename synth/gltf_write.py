"""A hand as binary glTF 2.0 that other programs open and that reads back to the bit.

For others: the mesh in metres with normals, a node for each of OpenXR's joints and the forearm, hung on each
other, in OpenXR's axes (−z along the bone, y out of the back), a skin with inverse bind matrices and four
influences a vertex; what helpers carry is given to their two bones, half each.

For us: `extras.handloom` names accessors that hold the very arrays of `handfile.py`, with their checksum. They
are taken when the file is read, as long as the mesh is still the one that was written.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.durable import write_bytes
from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26
from .gltf_data import BIN_CHUNK, JSON_CHUNK, Gltf, accessor
from .hand import BONE_PARENTS, FOREARM, N_BONES, WRIST, RiggedHand, without_helpers
from .handfile import FORMAT, MAX_VERTICES, MOVERS, VERSION, Arrays, arrays_of, digest, hand_of_arrays
from .rotation import quaternion
from .surface import strongest, vertex_normals

F64 = NDArray[np.float64]
_COMPONENTS: Final = {"f4": 5126, "u1": 5121, "u2": 5123, "u4": 5125}
_KEPT_AS: Final = {"f4": "f4", "u1": "u1", "i4": "u4"}
"""How an array of each type is kept; limits are float64, which glTF has not, and go into the JSON."""
ARRAY_BUFFER: Final = 34962
ELEMENT_BUFFER: Final = 34963


class _Buffer:
    """The binary chunk as it grows, with its views and accessors."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add(self, values: NDArray[Any], kind: str, *, target: int | None = None, bounds: bool = False) -> int:
        """Append an array (count, …) of elements of `kind`; gives its accessor's number."""
        self.data += b"\0" * (-len(self.data) % 4)
        code = values.dtype.str[1:]
        little = np.ascontiguousarray(values, np.dtype("<" + code))
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": little.nbytes}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += little.tobytes()
        what: dict[str, Any] = {"bufferView": len(self.views) - 1, "componentType": _COMPONENTS[code]}
        what |= {"count": len(values), "type": kind}
        if bounds:
            what |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        self.accessors.append(what)
        return len(self.accessors) - 1


def write_glb(hand: RiggedHand, out: Path) -> None:
    """Write a hand as `.glb`."""
    buffer = _Buffer()
    metres = _metres(hand.vertices)
    index, weight = strongest(without_helpers(hand.dense_weights().astype(np.float64)))
    # A joint without weight is 0, as the specification asks.
    index = np.where(weight > 0, index, 0)
    normals = vertex_normals(hand.vertices.astype(np.float64), hand.faces).astype(np.float32)
    attributes = {
        "POSITION": buffer.add(metres, "VEC3", target=ARRAY_BUFFER, bounds=True),
        "NORMAL": buffer.add(normals, "VEC3", target=ARRAY_BUFFER),
        "JOINTS_0": buffer.add(index.astype(np.uint8), "VEC4", target=ARRAY_BUFFER),
        "WEIGHTS_0": buffer.add(weight, "VEC4", target=ARRAY_BUFFER),
    }
    corners = buffer.add(hand.faces.reshape(-1).astype(np.uint32), "SCALAR", target=ELEMENT_BUFFER)
    rest = _rest_matrices(hand)
    inverse = np.linalg.inv(rest).astype(np.float32)
    inverse[:, 3] = (0, 0, 0, 1)
    bind = buffer.add(inverse.transpose(0, 2, 1).reshape(-1, 16), "MAT4")
    ours = _ours(hand, buffer)
    values = {
        "asset": {"version": "2.0", "generator": "handloom"},
        "scene": 0,
        "scenes": [{"nodes": [N_BONES, FOREARM]}],
        "nodes": [*_joint_nodes(rest), {"name": f"{hand.name} {hand.side}", "mesh": 0, "skin": 0}],
        "meshes": [{"name": hand.name, "primitives": [{"attributes": attributes, "indices": corners, "material": 0}]}],
        "materials": [{"name": "skin", "pbrMetallicRoughness": {
            "baseColorFactor": [0.84, 0.66, 0.56, 1], "metallicFactor": 0, "roughnessFactor": 0.8,
        }}],
        "skins": [{
            "name": f"{hand.side} hand", "joints": list(range(N_BONES)), "skeleton": FOREARM,
            "inverseBindMatrices": bind,
        }],
        "extras": {"handloom": ours},
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }  # fmt: skip
    write_bytes(out, _glb(values, bytes(buffer.data)))


def _glb(values: dict[str, Any], binary: bytes) -> bytes:
    text = json.dumps(values, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    header = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary))
    chunks = struct.pack("<II", len(text), JSON_CHUNK), text, struct.pack("<II", len(binary), BIN_CHUNK), binary
    return header + b"".join(chunks)


def _metres(vertices_mm: NDArray[Any]) -> NDArray[np.float32]:
    return (vertices_mm.astype(np.float64) / 1000).astype(np.float32)


def _rest_matrices(hand: RiggedHand) -> F64:
    """(27, 4, 4) of each bone into the scene, metres, in OpenXR's axes."""
    frames = np.concatenate([hand.frames, hand.frames[WRIST : WRIST + 1]]).astype(np.float64)
    places = np.concatenate([hand.joints, hand.joints[WRIST : WRIST + 1]]).astype(np.float64) / 1000
    out = np.tile(np.eye(4), (N_BONES, 1, 1))
    x, y, z = frames[:, :, 0], frames[:, :, 1], frames[:, :, 2]
    out[:, :3, :3] = np.stack([x, z, -y], axis=2)
    out[:, :3, 3] = places
    return out


def _joint_nodes(rest: F64) -> list[dict[str, Any]]:
    """A node a bone: the forearm carries the wrist, the wrist the rest."""
    parents = list(BONE_PARENTS)
    parents[FOREARM], parents[WRIST] = -1, FOREARM
    nodes: list[dict[str, Any]] = []
    for bone, name in enumerate((*OPENXR26, "forearm")):
        up = parents[bone]
        local = rest[bone] if up < 0 else np.linalg.inv(rest[up]) @ rest[bone]
        w, x, y, z = quaternion(local[:3, :3]).tolist()
        node = {"name": name, "translation": local[:3, 3].tolist(), "rotation": [x, y, z, w]}
        children = [child for child, parent in enumerate(parents) if parent == bone]
        nodes.append({**node, "children": children} if children else node)
    return nodes


def _ours(hand: RiggedHand, buffer: _Buffer) -> dict[str, Any]:
    """What only we read: where the arrays lie, and what glTF has no place for."""
    arrays = arrays_of(hand)
    places: dict[str, Any] = {}
    for name, array in arrays.items():
        code = array.dtype.str[1:]
        if code in _KEPT_AS:
            flat = array.reshape(-1).astype(_KEPT_AS[code])
            places[name] = {"accessor": buffer.add(flat, "SCALAR"), "shape": list(array.shape)}
        else:
            places[name] = {"values": array.reshape(-1).tolist(), "shape": list(array.shape)}
    return {
        "format": FORMAT, "version": VERSION, "name": hand.name, "side": hand.side, "movers": list(MOVERS),
        "sha256": digest(arrays), "arrays": places,
    }  # fmt: skip


def own_hand(gltf: Gltf) -> RiggedHand | str | None:
    """The hand that we wrote into a file; why it cannot be taken; None in a file that is not ours.

    Another program may have changed the mesh and kept what it did not know.
    """
    extras = gltf.json.get("extras")
    ours = extras.get("handloom") if isinstance(extras, dict) else None
    if not isinstance(ours, dict) or ours.get("format") != FORMAT:
        return None
    if ours.get("version") != VERSION or ours.get("movers") != list(MOVERS):
        return "another version of handloom wrote it"
    try:
        arrays = _arrays(gltf, ours.get("arrays"))
        if ours.get("sha256") != digest(arrays):
            return "the checksum does not fit"
        hand = hand_of_arrays(arrays, name=str(ours.get("name"))[:200], side=str(ours.get("side")), where=gltf.where)
        primitive = gltf.item("meshes", 0)["primitives"][0]["attributes"]["POSITION"]
        shown = accessor(gltf, primitive, most=MAX_VERTICES, types=("VEC3",))
    except HandloomError as error:
        return error.why or error.what
    except (KeyError, IndexError, TypeError):
        return "its mesh is not where it was"
    return hand if np.array_equal(shown, _metres(hand.vertices)) else "its mesh was changed since"


def _arrays(gltf: Gltf, places: Any) -> Arrays:
    if not isinstance(places, dict):
        raise gltf.refuse("its arrays are not listed")
    out: Arrays = {}
    for name, place in places.items():
        shape = place.get("shape") if isinstance(place, dict) else None
        if not isinstance(shape, list) or not all(isinstance(n, int) and 0 <= n < 1 << 30 for n in shape):
            raise gltf.refuse(f"the array '{name[:40]}' has no shape")
        if "values" in place:
            values = place["values"]
            count = len(values) if isinstance(values, list) else -1
            flat: NDArray[Any] = gltf.numbers(place, "values", count)  # type: ignore[assignment]
        else:
            number = place.get("accessor")
            if gltf.item("accessors", number).get("bufferView") is None:
                raise gltf.refuse(f"the array '{name[:40]}' has no data")
            flat = accessor(gltf, number, most=1 << 28, types=("SCALAR",))[:, 0]
        if np.prod(shape, dtype=object) != len(flat):
            raise gltf.refuse(f"the array '{name[:40]}' has {len(flat)} values for a shape of {shape}"[:200])
        kept = flat.astype(np.int32) if flat.dtype == np.uint32 else flat
        out[name] = kept.reshape(shape)
    return out
