"""Hands that touch themselves: fingertips brought onto the thumb, the palm or other fingers.

A contact (`gestures.Contact`) says which fingertip meets which surface. The tip is a capsule about the last
bone, as thick as its pad; a surface is the palm's skin, carried by its bones, or the axes of a finger's bones
and their thickness. The gap between the two,

    g = min_w |w − q(w)| − r − r_w,       ∂g/∂θ_d = n · (a_d × (w − c_d) [d moves w] − a_d × (q − c_d) [d moves q]),

with q(w) the nearest point of the capsule's axis and n the unit vector from it to w, is brought to its target
by damped least squares (Nakamura & Hanafusa 1986) on the angles of the finger, and of the thumb where both
come together: the smallest change of the angles that closes the gap. Last joints follow with ⅔ of the middle
one. Pads are first laid on each other, so that a pinch meets with the pads and not with the nails.

Cost: 0.04 ms a contact and pose, compiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..stores import numba_cache as numba_cache  # before numba
from ..stores.joints import FINGERS, OPENXR26
from .chain import Chain, chain_of, forward, scales
from .gestures import Contact
from .hand import BONE_PARENTS, DOFS, PALM, WRIST, RiggedHand, without_helpers

import numba as nb  # isort: skip

F64 = NDArray[np.float64]

ROUNDS: Final = 10
"""Steps of least squares at most."""
CLOSE_MM: Final = 0.2
"""A gap this near to its target is left."""
PADS_MM: Final = 2.5
"""Pads this near to each other lie on each other."""
FOLLOWS: Final = 2 / 3
"""Share of a middle joint's bend that its last joint takes."""
STEP_RAD: Final = 0.3
"""No angle turns farther in one step."""
DAMPING: Final = 30.0
"""mm² per rad²: keeps a step small where the angles hardly move the gap."""
AXIS_POINTS: Final = 9
"""Points of a finger bone's axis."""
HALF_BENT: Final = 0.35
"""Share of their limits by which joints bend where pads meet; flesh thickens as they do."""
CARRIERS: Final = 3
"""Bones that carry a vertex."""
POINTS: Final = 400
"""Points of a surface that are looked at: a palm has as many within 5 mm of each other."""
_DOF: Final[Mapping[str, int]] = {d.name: i for i, d in enumerate(DOFS)}


class Surfaces(NamedTuple):
    """What may be touched, and with what; mm, in the axes in which each bone stretches, from its joint."""

    point: F64
    """(M, 3 bones, 3)."""
    bone: NDArray[np.int64]
    """(M, 3) bones that carry it, the one with most of it first."""
    weight: F64
    """(M, 3) their shares."""
    first: NDArray[np.int64]
    """(S + 1,) rows where each surface begins; see `NAMES`."""
    thick: F64
    """(M,) mm of flesh over a point: fingers are given by points of their bones' axes, the palm by its skin."""
    tip_bone: NDArray[np.int64]
    """(5,) last bone of each finger."""
    tip_ends: F64
    """(5, 2, 3) the capsule's axis."""
    tip_radius: F64
    """(5,)."""
    pad: F64
    """(5, 3) middle of each pad."""
    give: F64
    """(F, P, 3 bones, 3) how the palm's P points move with each of the hand's correctives; F is 0 without."""


NAMES: Final = ("palm", "thumb_tip", *FINGERS[1:])


@lru_cache(maxsize=8)
def _chain(hand: RiggedHand) -> Chain:
    return chain_of(hand)


@lru_cache(maxsize=8)
def surfaces_of(hand: RiggedHand) -> Surfaces:
    """The surfaces of a hand at rest."""
    weights = without_helpers(hand.dense_weights())[:, :26].astype(np.float64)
    owner = weights.argmax(1)
    normal = _vertex_normals(hand)
    chain = chain_of(hand)
    joints = hand.joints.astype(np.float64)
    vertices = _thickened(hand, HALF_BENT)

    def bones(finger: str, *kinds: str) -> list[int]:
        return [OPENXR26.index(f"{finger}_{kind}") for kind in kinds]

    def rows(of: Sequence[int], side: float) -> NDArray[np.intp]:
        """Vertices of some bones that look dorsally (1) or to the palm's side (−1)."""
        dorsal = (normal * hand.frames[np.minimum(owner, 25), :, 2]).sum(1)
        found = np.flatnonzero(np.isin(owner, of) & (side * dorsal > 0.3) & (weights.sum(1) > 0.5))
        thinned: NDArray[np.intp] = found[np.linspace(0, len(found) - 1, min(len(found), POINTS)).astype(int)]
        return thinned

    palm = [PALM, WRIST, *(b for f in FINGERS for b in bones(f, "metacarpal"))]
    # The palm by the middles of its triangles and its vertices: corners alone leave room for half a fingertip.
    corners = rows(palm, -1.0)
    inner = hand.faces[np.isin(hand.faces, corners).all(axis=1)]
    skin = np.concatenate([np.repeat(corners[:, None], 3, axis=1), inner])
    skin = skin[np.linspace(0, len(skin) - 1, min(len(skin), POINTS)).astype(int)]
    among = weights[skin].mean(axis=1)
    carriers = np.argsort(-among, axis=1, kind="stable")[:, :CARRIERS]
    share = np.take_along_axis(among, carriers, axis=1)
    at_rest = hand.vertices.astype(np.float64)[skin].mean(axis=1)
    local = np.stack([_in_block(chain.block, joints, at_rest, carriers[:, k]) for k in range(CARRIERS)], axis=1)
    give = np.zeros((0, len(skin), CARRIERS, 3))
    if hand.correctives is not None:
        offset = hand.correctives.offset.astype(np.float64)[:, skin].mean(axis=2)
        give = (chain.block[carriers].transpose(0, 1, 3, 2) @ offset[:, :, None, :, None])[..., 0]

    tips = np.array([OPENXR26.index(f"{f}_distal") for f in FINGERS], np.int64)
    ends, radii, pads = np.zeros((5, 2, 3)), np.zeros(5), np.zeros((5, 3))
    for i, bone in enumerate(tips):
        mine = vertices[owner == bone]
        start, axis = joints[bone], hand.frames[bone, :, 1].astype(np.float64)
        pad = vertices[rows([int(bone)], -1.0)]
        along = (pad - start) @ axis
        # The axis runs through the flesh of the pad's half: the nail's side is flatter.
        beside = mine - start - np.outer((mine - start) @ axis, axis)
        centre = start + beside.mean(0)
        away = np.linalg.norm(pad - centre - np.outer((pad - centre) @ axis, axis), axis=1)
        radius = float(np.percentile(away[along > 0.4 * along.max()], 75))
        far = float(((mine - start) @ axis).max()) - radius
        ends[i] = _in_block(chain.block, joints, np.stack([centre, centre + far * axis]), np.array([bone, bone]))
        radii[i] = radius
        middle = centre + 0.75 * far * axis - radius * hand.frames[bone, :, 2]
        pads[i] = _in_block(chain.block, joints, middle[None], np.array([bone]))[0]
    # Fingers are capsules, as in the test for collisions, but for the tips, which are as thick as their pads.
    capsules = hand.capsules
    along = np.linspace(0, 1, AXIS_POINTS)[:, None]
    points, owners, thick, first = [local], [carriers], [np.zeros(len(skin))], [0, len(skin)]
    for i, finger in enumerate(FINGERS):
        for bone in (
            bones(finger, "distal") if finger == "thumb" else bones(finger, "proximal", "intermediate", "distal")
        ):
            axis, radius = ends[i], radii[i]
            if bone != tips[i]:
                (row,) = np.flatnonzero(capsules.bone == bone)
                axis = _in_block(chain.block, joints, capsules.ends[:, row], np.array([bone, bone]))
                radius = capsules.radius[row]
            on_axis = axis[0] + along * (axis[1] - axis[0])
            points.append(np.repeat(on_axis[:, None], CARRIERS, axis=1))
            owners.append(np.full((AXIS_POINTS, CARRIERS), bone))
            thick.append(np.full(AXIS_POINTS, radius))
        first.append(first[-1] + AXIS_POINTS * (1 if finger == "thumb" else 3))
    alone = np.tile(np.eye(CARRIERS)[0], (sum(map(len, points[1:])), 1))
    return Surfaces(
        np.concatenate(points), np.concatenate(owners).astype(np.int64),
        np.concatenate([share / share.sum(1, keepdims=True), alone]), np.array(first, np.int64),
        np.concatenate(thick), tips, ends, radii, pads, np.ascontiguousarray(give),
    )  # fmt: skip


def _thickened(hand: RiggedHand, share: float) -> F64:
    """(N, 3) the mesh at rest with its flesh as where each finger is bent by a share of all it can."""
    out = hand.vertices.astype(np.float64)
    if hand.correctives is not None:
        bends = [d.high_rad if d.name.endswith("flexion") and d.joint != WRIST else 0.0 for d in hand.dof]
        moved = hand.correctives.features(share * np.array(bends)[None])[0]
        out += np.einsum("f,fnc->nc", moved, hand.correctives.offset)
    return out


def _in_block(block: F64, joints: F64, points: F64, bone: NDArray[Any]) -> F64:
    """Points (n, 3) of the rest pose, from their bones' joints, in the axes in which those stretch."""
    out: F64 = (block[bone].transpose(0, 2, 1) @ (points - joints[bone])[..., None])[..., 0]
    return np.ascontiguousarray(out)


def _vertex_normals(hand: RiggedHand) -> F64:
    corners = hand.vertices.astype(np.float64)[hand.faces]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros((len(hand.vertices), 3))
    for k in range(3):
        np.add.at(out, hand.faces[:, k], face)
    unit: F64 = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    return unit


def touch(hand: RiggedHand, contacts: Sequence[Contact], poses: F64, shape: F64, target_mm: F64) -> tuple[F64, F64]:
    """Poses (n, 25) rad in which the contacts are closed one after the other, and the gaps left (n, C) mm.

    Args:
        hand: whose flesh touches.
        contacts: C of them, those of fingers before the thumb's that lies on them.
        poses: (n, 25) rad to begin from.
        shape: (SHAPE_SIZE,) the subject's.
        target_mm: (n, C) gaps to reach, negative to press in; NaN leaves a contact alone.
    """
    surfaces = surfaces_of(hand)
    out = np.array(poses, np.float64, order="C")
    gaps = np.full(target_mm.shape, np.nan)
    low, high = (np.ascontiguousarray(limit) for limit in hand.limits_rad.T)
    for c, contact in enumerate(contacts):
        onto = np.array([NAMES.index(name) for name in contact.onto], np.int64)
        moving, follows = _moving(contact)
        features = np.zeros((len(out), 0)) if hand.correctives is None else hand.correctives.features(out)
        moved = np.tensordot(features, surfaces.give, 1)
        _close(
            _chain(hand), surfaces, _ABOVE, _PIVOT, FINGERS.index(contact.tip), onto, contact.both, contact.pads,
            moving, follows, np.asarray(shape, np.float64), low, high,
            np.ascontiguousarray(target_mm[:, c]), moved, out, gaps[:, c],
        )  # fmt: skip
    return out, gaps


def _moving(contact: Contact) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Degrees of freedom that may move, and for each the one that follows with ⅔ of it, or −1."""
    names: list[str] = []
    for finger in {contact.tip: None, **({"thumb": None} if contact.both else {})}:
        if finger == "thumb":
            names += [name for name in _DOF if name.startswith("thumb")]
        else:
            # Beside bent fingers there is no room: only a finger that meets the thumb moves sideways.
            between = "mcp_abduction" if contact.both else "dip_flexion"
            names += [f"{finger}_{kind}" for kind in ("mcp_flexion", between, "pip_flexion")]
    follows = [_DOF[name.replace("pip", "dip")] if "pip" in name else -1 for name in names]
    return np.array([_DOF[name] for name in names], np.int64), np.array(follows, np.int64)


def _ancestors() -> NDArray[np.bool_]:
    out = np.eye(26, dtype=np.bool_)
    for joint in range(26):
        up = joint
        while BONE_PARENTS[up] >= 0:
            up = BONE_PARENTS[up]
            out[joint, up] = True
    return out


_ABOVE: Final = _ancestors()
_PIVOT: Final = np.array([d.joint for d in DOFS], np.int64)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _rides(chain: Any, scale: Any, rotation: Any, out: Any) -> None:
    """Into `out` (26, 3, 3): how each bone takes along what is given in its axes of stretch."""
    for bone in range(26):
        for i in range(3):
            for k in range(3):
                along = 0.0
                for j in range(3):
                    along += rotation[bone, i, j] * chain.block[bone, j, k]
                out[bone, i, k] = along * scale[bone, k]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _carried(ride: Any, position: Any, bone: int, local: Any, out: Any) -> None:
    """Where a point that rides on a bone lies: into `out` (3,) mm."""
    for i in range(3):
        out[i] = (
            position[bone, i] + ride[bone, i, 0] * local[0] + ride[bone, i, 1] * local[1] + ride[bone, i, 2] * local[2]
        )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _laid_out(surfaces: Any, local: Any, onto: Any, ride: Any, position: Any, out: Any) -> None:
    """Into `out` (M, 3): where the vertices of some surfaces lie."""
    one = np.zeros(3)
    for name in onto:
        for row in range(surfaces.first[name], surfaces.first[name + 1]):
            out[row] = 0.0
            for k in range(surfaces.bone.shape[1]):
                if surfaces.weight[row, k] > 0.0:
                    _carried(ride, position, surfaces.bone[row, k], local[row, k], one)
                    for i in range(3):
                        out[row, i] += surfaces.weight[row, k] * one[i]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _nearest(
    surfaces: Any, onto: Any, points: Any, scale: Any, ride: Any, position: Any, tip: int, near: Any, other: Any
) -> Any:
    """Gap (mm) between a fingertip and some surfaces, and the bone on their side.

    The tip's and the surface's points that are nearest go into `near` and `other` (3,).
    """
    mine = surfaces.tip_bone[tip]
    radius = surfaces.tip_radius[tip] * math.sqrt(scale[mine, 0] * scale[mine, 2])
    a, b = np.zeros(3), np.zeros(3)
    _carried(ride, position, mine, surfaces.tip_ends[tip, 0], a)
    _carried(ride, position, mine, surfaces.tip_ends[tip, 1], b)
    uu = (b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2 + (b[2] - a[2]) ** 2
    gap, bone = 1e30, mine
    for name in onto:
        for row in range(surfaces.first[name], surfaces.first[name + 1]):
            s = 0.0
            for i in range(3):
                s += (points[row, i] - a[i]) * (b[i] - a[i])
            s = min(max(s / uu, 0.0), 1.0)
            square = 0.0
            for i in range(3):
                square += (points[row, i] - a[i] - s * (b[i] - a[i])) ** 2
            under = surfaces.bone[row, 0]
            flesh = radius + surfaces.thick[row] * math.sqrt(scale[under, 0] * scale[under, 2])
            if math.sqrt(square) - flesh < gap:
                gap, bone = math.sqrt(square) - flesh, under
                for i in range(3):
                    other[i], near[i] = points[row, i], a[i] + s * (b[i] - a[i])
    return gap, bone


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _along(axes: Any, position: Any, pivot: Any, d: int, point: Any, direction: Any) -> Any:
    """How fast a degree of freedom moves a point along a direction, mm per rad."""
    x, y, z = (
        point[0] - position[pivot[d], 0],
        point[1] - position[pivot[d], 1],
        point[2] - position[pivot[d], 2],
    )
    return (
        direction[0] * (axes[d, 1] * z - axes[d, 2] * y)
        + direction[1] * (axes[d, 2] * x - axes[d, 0] * z)
        + direction[2] * (axes[d, 0] * y - axes[d, 1] * x)
    )


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _close(
    chain: Any, surfaces: Any, above: Any, pivot: Any, tip: int, onto: Any, both: bool, pads: bool,
    moving: Any, follows: Any, shape: Any, low: Any, high: Any, target: Any, moved: Any, poses: Any, gaps: Any,
) -> None:  # fmt: skip
    """Close one contact in every pose, in place; a NaN target is left alone, `moved` is the palm's give."""
    scale, rotation, position, axes = np.zeros((26, 3)), np.zeros((26, 3, 3)), np.zeros((26, 3)), np.zeros((25, 3))
    still, here = np.eye(3), np.zeros(3)
    near, other, direction = np.zeros(3), np.zeros(3), np.zeros(3)
    ride, points, local = np.zeros((26, 3, 3)), np.zeros_like(surfaces.point[:, 0]), surfaces.point.copy()
    slope = np.zeros(len(moving))
    scales(chain, shape, scale)
    mine, thumb = surfaces.tip_bone[tip], surfaces.tip_bone[0]
    for n in range(len(poses)):
        if math.isnan(target[n]):
            continue
        pads_first = pads
        local[: moved.shape[1]] = surfaces.point[: moved.shape[1]] + moved[n]
        for count in range(ROUNDS):
            forward(chain, poses[n], still, here, scale, rotation, position, axes)
            _rides(chain, scale, rotation, ride)
            # A palm hardly moves as a finger bends: now and then is enough.
            if both or count % 4 == 0:
                _laid_out(surfaces, local, onto, ride, position, points)
            bone, error = thumb, 0.0
            if pads_first:
                _carried(ride, position, mine, surfaces.pad[tip], near)
                _carried(ride, position, thumb, surfaces.pad[0], other)
            else:
                gaps[n], bone = _nearest(surfaces, onto, points, scale, ride, position, tip, near, other)
                error = gaps[n] - target[n]
                if abs(error) < CLOSE_MM:
                    break
            length = math.sqrt((other[0] - near[0]) ** 2 + (other[1] - near[1]) ** 2 + (other[2] - near[2]) ** 2)
            if pads_first:
                error = length
                pads_first = length > PADS_MM
            if length < 1e-3:
                break
            total = 0.0
            for i in range(3):
                direction[i] = (other[i] - near[i]) / length
            for m in range(len(moving)):
                slope[m] = 0.0
                for part in range(2):
                    d, share = (moving[m], 1.0) if part == 0 else (follows[m], FOLLOWS)
                    if d < 0:
                        continue
                    if above[bone, pivot[d]]:
                        slope[m] += share * _along(axes, position, pivot, d, other, direction)
                    if above[mine, pivot[d]]:
                        slope[m] -= share * _along(axes, position, pivot, d, near, direction)
                total += slope[m] ** 2
            for m in range(len(moving)):
                turn = min(max(-error * slope[m] / (total + DAMPING), -STEP_RAD), STEP_RAD)
                d = moving[m]
                poses[n, d] = min(max(poses[n, d] + turn, low[d]), high[d])
                d = follows[m]
                if d >= 0:
                    poses[n, d] = min(max(poses[n, d] + FOLLOWS * turn, low[d]), high[d])
