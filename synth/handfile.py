"""The arrays a hand is made of, as files keep them: names, checks, a checksum, and our own `.npz`.

| array | shape, type | |
|---|---|---|
| `vertices` | (N, 3) f4 | mm at rest: wrist at the origin, y to the fingers, z out of the back |
| `faces` | (F, 3) i4 | wound outward, closed |
| `bone_index`, `bone_weight` | (N, 4) i4, f4 | rows of `movers`, shares that sum to 1 |
| `parts` | (F,) u1 | bone of each triangle, the first 27 of `movers` |
| `joints`, `frames` | (26, 3), (26, 3, 3) f4 | OpenXR's joints mm; columns x = y × z, y distal, z dorsal |
| `limits_rad` | (25, 2) f8 | lowest and highest angle of each degree of freedom |
| `give_dof`, `give_function`, `give_offset` | (F,), (F,) i4, (F, N, 3) f4 | `Correctives`; may be missing |
| `format`, `version`, `name`, `side`, `movers`, `sha256` | text, a number | what the file is; the bones' names |

The checksum is over all of the arrays. An archive is read without unpickling, and no array is made larger
than the bytes that are there for it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.durable import write_bytes
from ..stores.errors import HandloomError
from ..stores.joints import OPENXR26
from .hand import COSINE, DOFS, HALF_WAY, N_BONES, N_MOVERS, POSE_SIZE, SINE, Correctives, RiggedHand
from .surface import crowded_edges, is_closed, open_edges, volume

Arrays = dict[str, NDArray[Any]]
FORMAT: Final = "handloom-hand"
VERSION: Final = 1
MOVERS: Final = (*OPENXR26, "forearm", *(f"{(*OPENXR26, 'forearm')[j]}_half" for j in HALF_WAY))
"""Names of the bones and helpers in the order of `RiggedHand.bone_index`."""
MAX_VERTICES: Final = 200_000
MAX_FACES: Final = 400_000
MAX_BYTES: Final = 1 << 29
"""Of all arrays of an archive together, unpacked."""
# Array: number of axes, kinds of type that are read, type that it becomes.
ARRAYS: Final[Mapping[str, tuple[int, str, Any]]] = {
    "vertices": (2, "f", np.float32),
    "faces": (2, "iu", np.int32),
    "bone_index": (2, "iu", np.int32),
    "bone_weight": (2, "f", np.float32),
    "parts": (1, "iu", np.uint8),
    "joints": (2, "f", np.float32),
    "frames": (3, "f", np.float32),
    "limits_rad": (2, "f", np.float64),
}
GIVE: Final[Mapping[str, tuple[int, str, Any]]] = {
    "give_dof": (1, "iu", np.int32),
    "give_function": (1, "iu", np.int32),
    "give_offset": (3, "f", np.float32),
}
"""The arrays of a hand's correctives; a file has all of them or none."""
MAX_CORRECTIVES: Final = 200


def arrays_of(hand: RiggedHand) -> Arrays:
    """What a file keeps of a hand, by name."""
    kinds = dict(ARRAYS)
    arrays = {name: getattr(hand, name) for name in ARRAYS}
    if hand.correctives is not None:
        kinds |= GIVE
        arrays |= {name: getattr(hand.correctives, name.removeprefix("give_")) for name in GIVE}
    return {name: np.ascontiguousarray(array, kinds[name][2]) for name, array in arrays.items()}


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over names, shapes and values."""
    out = hashlib.sha256()
    for name in sorted(arrays):
        little = arrays[name].astype(arrays[name].dtype.newbyteorder("<"))
        out.update(f"{name} {little.dtype.str} {little.shape} ".encode())
        out.update(np.ascontiguousarray(little).tobytes())
    return out.hexdigest()


def hand_of_arrays(arrays: Arrays, *, name: str, side: str, where: str) -> RiggedHand:
    """The hand of arrays that a file brought, every one of them checked.

    Raises:
        HandloomError: one is missing, has another shape, or holds what no hand can.
    """

    def refuse(why: str, fix: str = "make the file again with 'handloom hand export'") -> HandloomError:
        return HandloomError("The file does not hold a hand", where=where, why=why, fix=fix)

    if side not in ("right", "left"):
        raise refuse(f"its side is '{side}', which is neither right nor left")
    given: Arrays = {}
    gives = any(key in arrays for key in GIVE)
    for key, (axes, kinds, dtype) in ({**ARRAYS, **GIVE} if gives else ARRAYS).items():
        if key not in arrays:
            raise refuse(f"the array '{key}' is missing")
        if arrays[key].ndim != axes or arrays[key].dtype.kind not in kinds:
            raise refuse(f"the array '{key}' is {arrays[key].dtype} with {arrays[key].ndim} axes")
        with np.errstate(over="ignore", invalid="ignore"):
            given[key] = np.ascontiguousarray(arrays[key], dtype)
        if not np.isfinite(given[key]).all():
            raise refuse(f"the array '{key}' has values that are not finite (NaN)")
        if arrays[key].dtype.kind in "iu" and not np.array_equal(given[key], arrays[key]):
            raise refuse(f"the array '{key}' has numbers beyond its range")
    count, triangles = len(given["vertices"]), len(given["faces"])
    shapes = {
        "vertices": (count, 3), "faces": (triangles, 3), "bone_index": (count, 4), "bone_weight": (count, 4),
        "parts": (triangles,), "joints": (26, 3), "frames": (26, 3, 3), "limits_rad": (POSE_SIZE, 2),
    }  # fmt: skip
    if gives:
        features = len(given["give_dof"])
        shapes |= {"give_function": (features,), "give_offset": (features, count, 3)}
        if features > MAX_CORRECTIVES:
            raise refuse(f"it has {features} correctives")
        if not np.isin(given["give_function"], (SINE, COSINE)).all():
            raise refuse("the array 'give_function' has numbers beyond 1")
    for key, shape in shapes.items():
        if given[key].shape != shape:
            raise refuse(f"the array '{key}' has shape {given[key].shape} and not {shape}")
    if not 4 <= count <= MAX_VERTICES or not 4 <= triangles <= MAX_FACES:
        raise refuse(f"a mesh of {count} vertices and {triangles} triangles is none that can be used")
    numbers = {"faces": count, "bone_index": N_MOVERS, "parts": N_BONES} | ({"give_dof": POSE_SIZE} if gives else {})
    for key, limit in numbers.items():
        if given[key].size and (given[key].min() < 0 or given[key].max() >= limit):
            raise refuse(f"the array '{key}' has numbers beyond {limit - 1}")
    total = given["bone_weight"].sum(axis=1)
    if given["bone_weight"].min() < 0 or np.abs(total - 1).max() > 1e-3:
        raise refuse(f"the weights of vertex {np.abs(total - 1).argmax()} do not sum to 1")
    for what in ("vertices", "joints"):
        size = np.abs(given[what]).max()
        if not 10 < size < 2000:
            raise refuse(f"its {what} reach {size:.3g} mm from the wrist")
    if (
        np.abs(given["frames"] @ given["frames"].transpose(0, 2, 1) - np.eye(3)).max() > 1e-3
        or (np.linalg.det(given["frames"]) < 0).any()
    ):
        raise refuse("its frames are not rotations")
    if (given["limits_rad"][:, 0] > given["limits_rad"][:, 1]).any() or np.abs(given["limits_rad"]).max() > np.pi:
        raise refuse("its limits_rad are not pairs of angles, the lower first")
    if not is_closed(given["faces"]):
        raise refuse(
            f"the mesh is not closed: {len(open_edges(given['faces']))} open edges, "
            f"{len(crowded_edges(given['faces']))} edges of more than two triangles"
        )
    if volume(given["vertices"], given["faces"]) <= 0:
        raise refuse("the mesh is wound inward: its volume is negative")
    limits = given.pop("limits_rad")
    dof = tuple(
        dof if (dof.low_rad, dof.high_rad) == (low, high) else replace(dof, low_rad=float(low), high_rad=float(high))
        for dof, (low, high) in zip(DOFS, limits.tolist(), strict=True)
    )
    give = Correctives(**{key.removeprefix("give_"): given.pop(key) for key in GIVE}) if gives else None
    return RiggedHand(name=name, dof=dof, side="right" if side == "right" else "left", correctives=give, **given)


def write_npz(hand: RiggedHand, out: Path) -> None:
    """Write a hand as our own archive."""
    arrays = arrays_of(hand)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        format=np.array(FORMAT), version=np.array(VERSION), name=np.array(hand.name), side=np.array(hand.side),
        movers=np.array(MOVERS), sha256=np.array(digest(arrays)), **arrays,  # type: ignore[arg-type]
    )  # fmt: skip
    write_bytes(out, buffer.getvalue())


def hand_of_npz(entries: Arrays, *, where: str) -> RiggedHand:
    """The hand of our own archive's entries.

    Raises:
        HandloomError: it is of another version, damaged, or no hand.
    """
    again = "make the file again with 'handloom hand export'"
    if entries["format"].tolist() != FORMAT:
        raise HandloomError("The archive holds something else than a hand", where=where, fix=again)
    version = entries["version"].tolist() if "version" in entries else None
    movers = entries["movers"].tolist() if "movers" in entries else None
    if version != VERSION or movers != list(MOVERS):
        why = f"its version is {version}, this handloom reads {VERSION}" if version != VERSION else "other bones"
        raise HandloomError("The hand was written by another version", where=where, why=why, fix=again)
    arrays = {name: entries[name] for name in (*ARRAYS, *GIVE) if name in entries}
    kept = entries["sha256"].tolist() if "sha256" in entries else None
    if kept != digest(arrays):
        raise HandloomError("The hand's checksum does not fit its arrays", where=where, why="damaged", fix=again)
    name, side = (str(entries[key].tolist()) if key in entries else "" for key in ("name", "side"))
    return hand_of_arrays(arrays, name=name[:200], side=side, where=where)
