"""MANO's model files (Romero, Tzionas & Black, SIGGRAPH Asia 2017) as hands; `.pkl` as published, or `.npz`.

The files themselves may not be passed on: get them from mano.is.tue.mpg.de. What is read:

| entry | shape | |
|---|---|---|
| `v_template` | (N, 3) | the mean hand, metres; N is 778 |
| `f` | (F, 3) | triangles; the wrist is open |
| `weights` | (N, 16) | skin weights |
| `J_regressor` | (16, N) | joints from vertices; sparse in a `.pkl` |
| `kintree_table` | (2, 16) | row 0: the joint that each one hangs on |
| `shapedirs` | (N, 3, 10) | how the shape parameters move vertices (eq. 3); optional |

Joints J(β) = J_regressor (v_template + shapedirs β), with β from the mapping file or 0. The published tips
are vertices of the 778; in a mesh of another number they are found on the mesh. Pose correctives
(`posedirs`) and the pose space (`hands_components`) are not used: poses are ours, and so is the girth of a
bent finger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from .foreign import Skin
from .handfile import MAX_VERTICES
from .naming import HandMapping
from .plain_pickle import plain, read_pickle

F64 = NDArray[np.float64]
JOINTS: Final = (
    "wrist",
    *(f"{finger}_{bone}" for finger in ("index", "middle", "little", "ring")
      for bone in ("proximal", "intermediate", "distal")),
    "thumb_metacarpal", "thumb_proximal", "thumb_distal",
)  # fmt: skip
"""The sixteen in the files' order."""
TIPS: Final = {"thumb_tip": 744, "index_tip": 320, "middle_tip": 443, "ring_tip": 554, "little_tip": 671}
"""Vertices of the 778 that lie at the tips."""
VERTICES: Final = 778
ENTRIES: Final = ("v_template", "f", "weights", "J_regressor", "kintree_table")
FIX: Final = "take the model file as it is published (MANO_RIGHT.pkl, MANO_LEFT.pkl)"


def mano_entries(data: bytes, *, where: str) -> dict[str, NDArray[Any]]:
    """The arrays of a `.pkl`.

    Raises:
        HandloomError: it is no pickle of MANO's, or asks for more than arrays.
    """
    found = read_pickle(data, where=where)
    if not isinstance(found, dict):
        raise HandloomError("The pickle holds no hand", where=where, why=f"it is a {type(found).__name__}", fix=FIX)
    out: dict[str, NDArray[Any]] = {}
    for name in (*ENTRIES, "shapedirs"):
        if name in found:
            try:
                value = plain(found[name])
            except Exception as error:  # what a stranger's objects hold may be anything
                raise HandloomError(
                    f"'{name}' cannot be read as an array", where=where, why=str(error)[:200], fix=FIX
                ) from error
            if isinstance(value, np.ndarray):
                out[name] = value
    return out


def is_mano(entries: Mapping[str, NDArray[Any]]) -> bool:
    """Whether these are the entries of a MANO file, or of something that is called like one."""
    return "v_template" in entries


def skin_of_mano(entries: Mapping[str, NDArray[Any]], mapping: HandMapping, *, name: str, where: str) -> Skin:
    """The hand of a MANO file's entries.

    Raises:
        HandloomError: an entry is missing or of another shape.
    """
    arrays = {key: _numbers(entries, key, where) for key in ENTRIES}
    template, weights = arrays["v_template"], arrays["weights"]
    count = len(template)
    shapes = {
        "v_template": (count, 3), "f": (len(arrays["f"]), 3), "weights": (count, len(JOINTS)),
        "J_regressor": (len(JOINTS), count), "kintree_table": (2, len(JOINTS)),
    }  # fmt: skip
    for key, shape in shapes.items():
        if arrays[key].shape != shape or not 3 < count <= MAX_VERTICES:
            raise HandloomError(
                "This is no MANO hand", where=where, why=f"'{key}' has shape {arrays[key].shape} and not {shape}",
                fix=FIX,
            )  # fmt: skip
    vertices = template.copy()
    if mapping.betas:
        directions = _numbers(entries, "shapedirs", where)
        betas = np.array(mapping.betas)
        if directions.ndim != 3 or directions.shape[:2] != (count, 3) or directions.shape[2] < len(betas):
            raise HandloomError(
                f"The file has no {len(betas)} shape parameters", where=where,
                why=f"'shapedirs' has shape {directions.shape}", fix="give fewer betas in the mapping file",
            )  # fmt: skip
        vertices += directions[:, :, : len(betas)] @ betas
    up = arrays["kintree_table"][0]
    parents = np.where((up >= 0) & (up < len(JOINTS)) & (up != np.arange(len(JOINTS))), up, -1).astype(int)
    return Skin(
        where=where,
        name=name,
        vertices=vertices,
        faces=arrays["f"].astype(np.int64),
        index=np.tile(np.arange(len(JOINTS)), (count, 1)),
        weight=weights,
        names=JOINTS,
        parents=tuple(parents.tolist()),
        joints=arrays["J_regressor"] @ vertices,
        found={joint: i for i, joint in enumerate(JOINTS)},
        tips=TIPS if count == VERTICES else {},
        hints=(name,),
    )


def _numbers(entries: Mapping[str, NDArray[Any]], key: str, where: str) -> F64:
    if key not in entries:
        raise HandloomError(
            "This is no MANO hand", where=where, why=f"'{key}' is missing; it has {', '.join(entries)}"[:300], fix=FIX
        )
    if entries[key].dtype.kind not in "iuf":
        raise HandloomError("This is no MANO hand", where=where, why=f"'{key}' is {entries[key].dtype}", fix=FIX)
    with np.errstate(invalid="ignore"):
        values = entries[key].astype(np.float64)
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 1 << 40:
        raise HandloomError(
            "This is no MANO hand", where=where, why=f"'{key}' has values that are no coordinates (NaN)", fix=FIX
        )
    return values
