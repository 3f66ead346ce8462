"""A hand of another program as one of ours: mesh closed, side found, joints completed, bones in our convention.

1. Vertices that a texture's seam splits are welded, triangles turned alike and outward, a wrist that is left
   open is closed by a cap; any other hole is an error.
2. Rest frame and side follow from the joints (`restpose.py`), unless the file says the side.
3. Joints that the file lacks are filled in: metacarpals from the built-in hand's proportions, tips from the
   mesh, the palm half way along the middle metacarpal.
4. A bone's y is the way to the next joint. Its z is the file's own axis if one of its axes points out of the
   back on every finger, else the built-in hand's, turned with the bone.
5. Weights become shares of our bones and helpers (`shares.py`).
6. The fingers are laid along the built-in hand's at rest, so that a pose means the same on every hand.

What was changed or filled in is told in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import FINGERS, OPENXR26
from .hand import FOREARM, POSE_SIZE, WRIST, Kinematics, RiggedHand, without_helpers
from .hand import skin as skinned
from .handfile import MAX_FACES, MAX_VERTICES
from .naming import HandMapping, recognise, side_of
from .restpose import (
    Side,
    Template,
    completed,
    errors_by_side,
    laid_along,
    placed,
    rest_frames,
    template_of,
    tip_of,
    upright,
)
from .shares import bone_of_joints, bone_shares, with_helpers, with_metacarpals
from .surface import (
    Faces,
    crowded_edges,
    is_closed,
    loops,
    open_edges,
    strongest,
    volume,
    weld,
    without_slivers,
    wound_alike,
    wound_outward,
)

F64 = NDArray[np.float64]
UNITS: Final = {"metres": 1000.0, "centimetres": 10.0, "millimetres": 1.0}
MIDDLE_MM: Final = (70.0, 260.0)
"""From the wrist over the middle finger's joints to its last: 85 mm on a small child, 200 on a large man."""
REACH_MM: Final = 900.0
"""Farther from the wrist lies nothing of a hand and its arm."""
MAX_TURN_DEG: Final = 75.0
"""Further than this no joint is turned to lay a finger straight: its skin would tear."""
NEAR_DEG: Final = 0.5
"""A hand this near the kit's rest pose stays as it is."""


@dataclass(frozen=True, slots=True)
class Skin:
    """What a file says of a hand, in its own axes and unit."""

    where: str
    """The file."""
    name: str
    vertices: F64
    """(N, 3) at rest."""
    faces: NDArray[np.int64]
    """(F, 3)."""
    index: NDArray[np.int64]
    """(N, K) joints that move a vertex."""
    weight: F64
    """(N, K) their shares."""
    names: tuple[str, ...]
    """(J,) of the joints."""
    parents: tuple[int, ...]
    """(J,) joints that joints hang on, −1 for none."""
    joints: F64
    """(J, 3) at rest."""
    axes: F64 | None = None
    """(J, 3, 3) columns: the joints' axes at rest."""
    unit: str = "metres"
    """One of `UNITS`: what the format says, or its files are."""
    found: Mapping[str, int] | None = None
    """Joint of the hand → joint of the file, where names are not needed to know."""
    tips: Mapping[str, int] = field(default_factory=dict)
    """Tip → vertex that is known to lie there."""
    side: Side | None = None
    """Which hand it is, where the file says it."""
    hints: tuple[str, ...] = ()
    """Other names that may tell the side."""


def adopt(skin: Skin, mapping: HandMapping) -> tuple[RiggedHand, tuple[str, ...]]:
    """The hand of a file, and what had to be done to it.

    Raises:
        HandloomError: its joints are not known, its mesh has holes, its weights do not sum to 1, its size is
            no hand's, or its side cannot be told.
    """
    notes: list[str] = []
    _check_numbers(skin)
    found = dict(skin.found) if skin.found is not None else recognise(skin.names, mapping, where=skin.where)
    scale, unit_note = _scale_mm(skin, found, mapping)
    notes += unit_note
    vertices, faces, first = _welded(skin, notes)
    bones = bone_of_joints(found, skin.parents, len(skin.names))
    shares = bone_shares(skin.index[first], skin.weight[first], bones, skin.names, where=skin.where)

    joints = placed({name: scale * skin.joints[number] for name, number in found.items()})
    side = _side(skin, mapping, joints)
    template = template_of(side)
    turn = upright(joints, template)
    origin = joints[WRIST].copy()
    joints = (joints - origin) @ turn.T
    flesh = (scale * vertices - origin) @ turn.T
    vertex_tips = {name: (scale * skin.vertices[number] - origin) @ turn.T for name, number in skin.tips.items()}
    _check_reach(skin, flesh)
    joints = _with_tips(skin, joints, flesh, shares, vertex_tips, notes)
    joints, filled = completed(joints, template)
    if filled:
        notes.append(f"filled in: {', '.join(filled)}")
    _check_bones(skin, joints)
    axes = None if skin.axes is None else _axes(skin.axes, found, turn)
    frames, _ = rest_frames(joints, template, axes)

    flesh, faces, shares = _closed(skin, flesh, faces, shares, joints, notes)
    if not shares[:, FOREARM].any():
        notes.append("it has no forearm: the mesh ends at the wrist")
    weights = with_helpers(with_metacarpals(shares, flesh, joints))
    index, strength = strongest(weights)
    hand = RiggedHand(
        name=skin.name,
        vertices=flesh.astype(np.float32),
        faces=np.ascontiguousarray(faces, np.int32),
        bone_index=index,
        bone_weight=strength,
        parts=without_helpers(weights[faces].sum(1)).argmax(1).astype(np.uint8),
        joints=joints.astype(np.float32),
        frames=frames.astype(np.float32),
        side=side,
    )
    return _laid_open(skin, hand, template, notes), tuple(notes)


def _check_numbers(skin: Skin) -> None:
    for what, values in (("vertices", skin.vertices), ("weights", skin.weight), ("joints", skin.joints)):
        if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 1e6:
            raise HandloomError(
                f"The hand's {what} hold values that are no coordinates (NaN, infinite or huge)",
                where=skin.where,
                fix="export the hand again",
            )
    if not len(skin.faces) or skin.faces.min() < 0 or skin.faces.max() >= len(skin.vertices):
        raise HandloomError(
            "The hand's triangles name vertices that it does not have"
            if len(skin.faces)
            else "The hand has no triangles",
            where=skin.where,
        )
    if len(skin.vertices) > MAX_VERTICES or len(skin.faces) > MAX_FACES:
        raise HandloomError(
            "The mesh is too fine",
            where=skin.where,
            why=f"{len(skin.vertices)} vertices, {len(skin.faces)} triangles; at most {MAX_VERTICES}, {MAX_FACES}",
            fix="reduce it (Blender: the Decimate modifier); 2,000 to 20,000 triangles are plenty",
        )


def _scale_mm(skin: Skin, found: Mapping[str, int], mapping: HandMapping) -> tuple[float, list[str]]:
    """Millimetres in a unit of the file: the mapping's, else the format's, else the one that makes a hand."""
    chain = ("wrist", "middle_proximal", "middle_intermediate", "middle_distal")
    points = skin.joints[[found[name] for name in chain]]
    length = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    low, high = MIDDLE_MM
    if mapping.scale_mm is not None:
        units, said = {"the mapping's": mapping.scale_mm}, "scale_mm in the mapping file"
    else:
        units, said = {skin.unit: UNITS[skin.unit], **UNITS}, f"{skin.unit}, as its format has it"
    fitting = [unit for unit, scale in units.items() if low <= scale * length <= high]
    if not fitting:
        scale = next(iter(units.values()))
        raise HandloomError(
            "The hand's size is no hand's",
            where=skin.where,
            why=f"{scale * length:.3g} mm from the wrist to the middle finger's last joint, read in {said}",
            fix="say how many millimetres one unit of the file is: scale_mm in a mapping file (--hand-mapping)",
        )
    unit = skin.unit if skin.unit in fitting else fitting[0]
    notes = [] if unit in (skin.unit, "the mapping's") else [f"read in {unit}: in {skin.unit} it would be no hand"]
    return units[unit], notes


def _welded(skin: Skin, notes: list[str]) -> tuple[F64, Faces, NDArray[np.intp]]:
    """Vertices (M, 3) that triangles use, triangles wound alike, and the file's number of each vertex."""
    extent = float(np.ptp(skin.vertices, axis=0).max())
    first, place = weld(skin.vertices, max(1e-5 * extent, 1e-12))
    faces = without_slivers(place[skin.faces])
    # The same triangle twice closes nothing.
    _, once = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    faces = faces[np.sort(once)]
    if not len(faces):
        raise HandloomError("The mesh holds no volume", where=skin.where, why="all corners of its triangles coincide")
    used, renumbered = np.unique(faces, return_inverse=True)
    faces = renumbered.reshape(-1, 3).astype(np.int64)
    first = first[used]
    if len(first) < len(skin.vertices):
        notes.append(f"{len(skin.vertices)} vertices became {len(first)}: those at one place are one")
    crowded = crowded_edges(faces)
    if len(crowded):
        point = skin.vertices[first[crowded[0, 0]]]
        raise HandloomError(
            f"On {len(crowded)} edges of the mesh more than two triangles meet",
            where=skin.where,
            why=f"the first at {_at(point)}",
            fix="remove the inner faces (Blender: Select > Non Manifold) and export again",
        )
    faces, turned = wound_alike(faces)
    if turned:
        notes.append(f"{turned} triangles were wound against their neighbours and were turned")
    return skin.vertices[first], faces, first


def _at(point: F64) -> str:
    return f"({', '.join(f'{x:.4g}' for x in point)})"


def _side(skin: Skin, mapping: HandMapping, joints: F64) -> Side:
    error = errors_by_side(joints)
    near: Side = "right" if error["right"] <= error["left"] else "left"
    far: Side = "left" if near == "right" else "right"
    if mapping.side is not None:
        return mapping.side
    said = skin.side or side_of(skin.names) or side_of(skin.hints)
    if said == far and error[far] > 1.5 * error[near]:
        raise HandloomError(
            f"The file calls its hand a {said} one, but its joints lie like a {near} hand's",
            where=skin.where,
            why=f"they are {error[far] / error[near]:.1f} times as far from a {said} hand",
            fix="say which it is: 'side: right' or 'side: left' in a mapping file (--hand-mapping)",
        )
    if said is None and error[far] < 1.1 * error[near]:
        raise HandloomError(
            "It cannot be told whether this is a right or a left hand",
            where=skin.where,
            why="its joints lie in one plane",
            fix="say it: 'side: right' or 'side: left' in a mapping file (--hand-mapping)",
        )
    return said or near


def _with_tips(skin: Skin, joints: F64, flesh: F64, shares: F64, known: Mapping[str, F64], notes: list[str]) -> F64:
    """Joints (26, 3) with the tips that the file lacks."""
    out = joints.copy()
    added = []
    for finger in FINGERS:
        tip = OPENXR26.index(f"{finger}_tip")
        if not np.isnan(out[tip]).any():
            continue
        if f"{finger}_tip" in known:
            out[tip] = known[f"{finger}_tip"]
            continue
        end = tip_of(flesh, shares[:, tip - 1], joints[tip - 1], joints[tip - 2])
        if end is None:
            raise HandloomError(
                f"The {finger}'s last bone moves no flesh beyond its joint, so that its tip cannot be found",
                where=skin.where,
                fix="check the weights, or add a joint at the tip",
            )
        out[tip] = end
        added.append(finger)
    if added:
        notes.append(f"tips found on the mesh: {', '.join(added)}")
    return out


def _check_reach(skin: Skin, flesh: F64) -> None:
    far = np.abs(flesh).max(axis=1)
    if far.max() > REACH_MM:
        raise HandloomError(
            f"{int((far > REACH_MM).sum())} vertices lie too far from the wrist",
            where=skin.where,
            why=f"{far.max():.0f} mm; a hand and its arm reach {REACH_MM:.0f}",
            fix="leave everything but the hand out of the export",
        )


def _check_bones(skin: Skin, joints: F64) -> None:
    for finger in FINGERS:
        rows = [i for i, name in enumerate(OPENXR26) if name.startswith(finger)]
        lengths = np.linalg.norm(np.diff(joints[rows], axis=0), axis=1)
        if lengths.min() < 2:
            raise HandloomError(
                f"Two joints of the {finger} lie at one place",
                where=skin.where,
                why=f"{OPENXR26[rows[int(lengths.argmin())]]} and the next one are {lengths.min():.2g} mm apart",
                fix="export the hand in its bind pose with its bones; check the mapping",
            )


def _axes(axes: F64, found: Mapping[str, int], turn: F64) -> F64:
    out = np.full((26, 3, 3), np.nan)
    for name, number in found.items():
        if name in OPENXR26:
            out[OPENXR26.index(name)] = turn @ axes[number]
    return out


def _closed(
    skin: Skin, flesh: F64, faces: NDArray[Any], shares: F64, joints: F64, notes: list[str]
) -> tuple[F64, NDArray[Any], F64]:
    """Mesh and shares with the wrist's open end closed, wound outward.

    Raises:
        HandloomError: there is a hole elsewhere.
    """
    behind = 0.35 * joints[OPENXR26.index("middle_proximal"), 1]
    edges = open_edges(faces)
    rims = loops(edges) if len(edges) else []
    for rim in rims:
        middle = flesh[rim].mean(0)
        if middle[1] > behind:
            nearest = OPENXR26[int(np.linalg.norm(joints - middle, axis=1).argmin())]
            raise HandloomError(
                f"The mesh is not closed: {len(edges)} open edges",
                where=skin.where,
                why=f"{len(rims)} holes, one of {len(rim)} edges near the {nearest}",
                fix="close it (Blender: Mesh > Clean Up > Fill Holes) and export again; only the wrist may be open",
            )
        flesh = np.concatenate([flesh, middle[None]])
        shares = np.concatenate([shares, shares[rim].mean(0, keepdims=True)])
        following = np.roll(rim, -1)
        fan = np.stack([following, np.asarray(rim), np.full(len(rim), len(flesh) - 1)], axis=1)
        faces = np.concatenate([faces, fan])
    if rims:
        notes.append(f"the open end at the wrist was closed ({len(edges)} edges)")
    if not is_closed(faces):
        raise HandloomError(
            "The mesh is not closed",
            where=skin.where,
            why="its holes touch each other",
            fix="close it (Blender: Mesh > Clean Up > Fill Holes) and export again",
        )
    faces, inverted = wound_outward(flesh, faces)
    if inverted:
        notes.append("triangles were wound inward and were turned")
    if volume(flesh, faces) < 1e3:
        raise HandloomError("The mesh holds no volume", where=skin.where, why="it is flat")
    return flesh, faces, shares


def _laid_open(file: Skin, hand: RiggedHand, template: Template, notes: list[str]) -> RiggedHand:
    """The hand with its fingers along the built-in hand's, so that the zero pose is the same gesture."""
    joints, frames = hand.joints.astype(np.float64), hand.frames.astype(np.float64)
    turn, place, most = laid_along(joints, frames, template)
    if most > MAX_TURN_DEG:
        raise HandloomError(
            "The hand is too bent in its rest pose",
            where=file.where,
            why=f"a joint would have to be turned by {most:.0f} degrees to lie straight",
            fix="export it with its fingers straight",
        )
    if most < NEAR_DEG:
        return hand
    state = Kinematics(
        np.concatenate([turn, np.eye(3)[None]])[None],
        np.tile(np.eye(3), (1, 27, 1, 1)),
        np.concatenate([place, place[WRIST : WRIST + 1]])[None],
        np.zeros((1, POSE_SIZE, 3)),
        np.zeros((1, POSE_SIZE)),
    )
    moved = skinned(hand, state)[0]
    notes.append(f"its joints were turned by up to {most:.0f} degrees, into the kit's rest pose")
    return replace(hand, vertices=moved, joints=place.astype(np.float32), frames=(turn @ frames).astype(np.float32))
