"""The arm behind a hand: every rendered hand comes with one, for no real hand is seen without.

The built-in hand ends with a cut 158 mm behind the wrist, hands from files at the wrist or a little behind.
Both would show in a crop of 450 mm, so the arm goes on: to the elbow, 1.47 hand lengths behind the wrist
(radiale-stylion length over hand length of adults, Gordon et al. 1989: 269 / 194 mm men, 243 / 181 women, plus
the carpus), over the forearm's belly, and on into the upper arm. All of it is skinned to the
forearm's bone and moves with the wrist's two degrees of freedom.

Cost: some 400 triangles a hand, skinned with the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import OPENXR26
from .hand import DOFS, FOREARM, HALF_WAY, N_BONES, WRIST, RiggedHand
from .props import Mesh, tube

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

ELBOW: Final = 1.47
"""From wrist to elbow, over the hand's length (wrist to middle finger tip, as the skeleton has it)."""
BEYOND: Final = 0.6
"""Length of upper arm that is drawn, likewise."""
ELBOW_BEND_DEG: Final = 45.0
TOWARDS: Final = np.array([0.7, 0.0, -0.7])
"""Where a bent elbow takes the upper arm, wrist's axes: to the thumb's side (x times its sign) and the palm's."""
HAS_FOREARM: Final = 0.5
"""A hand whose mesh reaches this much of its length behind the wrist has a forearm of its own."""
SIDES: Final = 20
WRIST_DOFS: Final = [i for i, d in enumerate(DOFS) if d.joint == WRIST]
"""Flexion and abduction of the wrist in a pose vector."""
# Girth by place: share of the way from wrist to elbow, and half axes over those of the section at the wrist's
# narrowest. Wrist and forearm circumference 16.3 and 28 cm, elbow 26, upper arm 30 (Gordon et al. 1989).
_AT: Final = (0.0, 0.12, 0.3, 0.5, 0.65, 0.78, 0.9, 1.0)
_WIDTH: Final = (1.0, 0.99, 1.1, 1.28, 1.4, 1.45, 1.42, 1.36)
_THICKNESS: Final = (1.0, 1.03, 1.25, 1.55, 1.75, 1.84, 1.8, 1.7)


def with_forearm(hand: RiggedHand) -> RiggedHand:
    """The hand with an arm to the elbow and beyond; its own forearm, if it has one, is continued.

    What lies behind the wrist of a hand without a forearm turns with the arm from now on, not with the hand.
    Poses that fit the hand fit the result: joints, proportions and self-collision are the hand's.
    """
    frame = hand.frames[WRIST].astype(np.float64)
    local = (hand.vertices - hand.joints[WRIST]) @ frame
    length = _hand_length(hand)
    reach = -float(local[:, 1].min())
    own = reach > HAS_FOREARM * length
    start = reach - 6 if own else _whole(local, hand.faces, min(reach - 4, 0.12 * length))
    middle, half = _section(local, hand.faces, start - 8 if own else start)
    path, radii = _arm(middle, half, start, length, blunt=not own)
    path = _bent(path, ELBOW * length, _elbow_way(hand))
    arm = tube(path, radii, across=np.array([1.0, 0.0, 0.0]), sides=SIDES)
    weights = hand.dense_weights() if own else _behind_the_wrist(hand.dense_weights(), local[:, 1], 0.1 * length)
    index, strength = _strongest(weights)
    count, give = len(arm.vertices), hand.correctives
    out = replace(
        hand,
        correctives=None if give is None else replace(give, offset=np.pad(give.offset, ((0, 0), (0, count), (0, 0)))),
        vertices=np.concatenate([hand.vertices, hand.joints[WRIST] + arm.vertices @ frame.T]).astype(np.float32),
        faces=np.concatenate([hand.faces, arm.faces + len(hand.vertices)]).astype(np.int32),
        bone_index=np.concatenate([index, np.full((count, 4), FOREARM)]).astype(np.int32),
        bone_weight=np.concatenate([strength, np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))]).astype(np.float32),
        parts=np.concatenate([hand.parts, np.full(len(arm.faces), FOREARM)]).astype(np.uint8),
    )
    # Whether a pose runs through itself is the bare hand's matter: the arm must not change what is sampled.
    object.__setattr__(out, "capsules", hand.capsules)
    return out


def _whole(local: F64, faces: NDArray[np.int32], behind_mm: float) -> float:
    """The farthest place behind the wrist, up to one, where the mesh is not yet cut off.

    Hands from files may end obliquely: beyond the first corner of the cut a section is only part of the wrist's.
    """
    places = np.arange(behind_mm, min(behind_mm, 0.0) - 1, -2.0)
    areas = np.array([_section(local, faces, float(y))[1].prod() for y in places])
    return float(places[int((areas > 0.85 * areas.max()).argmax())])


def _section(local: F64, faces: NDArray[np.int32], behind_mm: float) -> tuple[F64, F64]:
    """Middle (2,) and half axes (2,) in x and z of the mesh's section at a distance behind the wrist, mm."""
    one, other = (local[faces[:, i]].reshape(-1, 3) for i in ((0, 1, 2), (1, 2, 0)))
    crossing = (one[:, 1] > -behind_mm) != (other[:, 1] > -behind_mm)
    one, other = one[crossing], other[crossing]
    share = (-behind_mm - one[:, 1]) / (other[:, 1] - one[:, 1])
    ring = (one + share[:, None] * (other - one))[:, [0, 2]]
    low, high = ring.min(0), ring.max(0)
    return 0.5 * (low + high), 0.5 * (high - low)


def _arm(middle: F64, half: F64, start: float, length: float, *, blunt: bool) -> tuple[F64, F64]:
    """Points (n, 3) and half axes (n, 2) from inside the hand, or its forearm, to the elbow and beyond, straight."""
    elbow = ELBOW * length
    at = np.array(_AT)
    growth = np.stack([np.array(_WIDTH), np.array(_THICKNESS)], axis=1)

    def girth(y: F64) -> F64:
        """(n, 2) over the section at `start`."""
        here = np.stack([np.interp(y / elbow, at, growth[:, i]) for i in range(2)], axis=1)
        out: F64 = here / [np.interp(start / elbow, at, growth[:, i]) for i in range(2)]
        return out

    # Inside the hand a blunt nose: bent by any angle, it stays in the flesh.
    nose = start - np.array([22.0, 14.0, 4.0]) if blunt else start - np.array([20.0, 6.0])
    rest = np.concatenate([np.linspace(start + 4, elbow - 30, 6), [elbow - 8]])
    beyond = elbow + np.array([18.0, 45.0, 0.55 * BEYOND * length, BEYOND * length])
    y = np.concatenate([nose, rest, beyond])
    scale = girth(np.minimum(y, elbow))
    scale[: len(nose)] *= np.array([0.45, 0.8, 0.97] if blunt else [0.9, 0.985])[:, None]
    # The upper arm is rounder and thicker than the elbow.
    round_half = 1.1 * float(np.sqrt(np.prod(half * girth(np.array([elbow]))[0])))
    radii = half * scale
    radii[-2:] = round_half
    radii[-3] = 0.5 * (radii[-3] + round_half)
    path = np.stack([np.full(len(y), middle[0]), -y, np.full(len(y), middle[1])], axis=1)
    return path, radii


def _bent(path: F64, elbow: float, towards: F64, *, over_mm: float = 70.0) -> F64:
    """The straight path (n, 3) with the elbow bent towards a direction, over a stretch of the arm."""
    s = np.linspace(0, -float(path[:, 1].min()), 400)
    angle = np.radians(ELBOW_BEND_DEG) * np.clip((s - elbow) / over_mm + 0.5, 0, 1)
    step = s[1] - s[0]
    along = np.concatenate([[0.0], np.cumsum(0.5 * step * (np.cos(angle[1:]) + np.cos(angle[:-1])))])
    aside = np.concatenate([[0.0], np.cumsum(0.5 * step * (np.sin(angle[1:]) + np.sin(angle[:-1])))])
    here = -path[:, 1]
    out: F64 = path + np.interp(here, s, aside)[:, None] * towards
    out[:, 1] = -np.where(here > 0, np.interp(here, s, along), here)
    return out


def _behind_the_wrist(weights: F32, y: F64, blend_mm: float) -> F32:
    """Weights (N, movers) with what the wrist's bone carries behind the joint handed on to the forearm."""
    share = np.clip(0.5 - y / blend_mm, 0, 1).astype(np.float32)
    half_way = N_BONES + HALF_WAY.index(FOREARM)
    out = weights.copy()
    moved = out[:, WRIST] * share
    out[:, WRIST] -= moved
    # Around the joint by the helper between both bones, or the skin would fold.
    helped = moved * (4 * share * (1 - share))
    out[:, half_way] += helped
    out[:, FOREARM] += moved - helped
    return out


def _strongest(weights: F32) -> tuple[NDArray[np.int32], F32]:
    """Indices (N, 4) and shares (N, 4), rows summing to 1, of the four movers that carry each vertex most."""
    index = np.argsort(-weights, axis=1, kind="stable")[:, :4]
    strength = np.take_along_axis(weights, index, axis=1)
    return index.astype(np.int32), (strength / strength.sum(1, keepdims=True)).astype(np.float32)


def sample_wrist(rng: np.random.Generator) -> F64:
    """(2,) rad flexion and abduction of a wrist, even over all that wrists do.

    The two are limited together: their range is an ellipse, not a rectangle (Crisco et al. 2011).
    """
    low, high = np.array([[DOFS[i].low_rad, DOFS[i].high_rad] for i in WRIST_DOFS]).T
    angle, radius = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
    out: F64 = 0.5 * (low + high) + 0.5 * (high - low) * radius * np.array([np.cos(angle), np.sin(angle)])
    return out


@dataclass(frozen=True, slots=True)
class Arm:
    """The sections of a hand's arm at rest, measured once, to dress it by."""

    hand: RiggedHand
    """`with_forearm`."""
    length_mm: float
    """Of the hand."""
    behind_mm: F64
    """(n,) distances behind the wrist."""
    middle_mm: F64
    """(n, 2) in the wrist's x and z."""
    half_mm: F64
    """(n, 2) half axes, likewise."""


def arm_of(hand: RiggedHand) -> Arm:
    """The arm of a hand `with_forearm`."""
    local = (hand.vertices - hand.joints[WRIST]) @ hand.frames[WRIST].astype(np.float64)
    length = _hand_length(hand)
    # Beyond, the elbow bends and a section would be aslant.
    behind = np.linspace(0, ELBOW * length - 40, 24)
    sections = [_section(local, hand.faces, float(y)) for y in behind]
    return Arm(hand, length, behind, np.array([m for m, _ in sections]), np.array([h for _, h in sections]))


def sleeve(arm: Arm, *, start_mm: float, loose_mm: float, folds_mm: F64) -> Mesh:
    """A sleeve over an arm at rest; it moves with the forearm's bone.

    Args:
        arm: what it covers.
        start_mm: from the wrist to the cuff.
        loose_mm: how far the cloth stands off the skin.
        folds_mm: (n, 2) what the n rings of cloth differ by, across and in depth.
    """
    hand, elbow = arm.hand, ELBOW * arm.length_mm
    behind = np.linspace(start_mm, elbow + 1.04 * BEYOND * arm.length_mm, len(folds_mm))
    # The cuff is turned in, so that the gap between cloth and skin is closed some way up.
    behind = np.concatenate([[start_mm + 4.0], behind])
    middle, half = (
        np.stack([np.interp(behind, arm.behind_mm, column) for column in values.T], axis=1)
        for values in (arm.middle_mm, arm.half_mm)
    )
    half[0] -= 2.0
    half[1:] += loose_mm + np.maximum(folds_mm, 2 - loose_mm)
    path = np.stack([middle[:, 0], -behind, middle[:, 1]], axis=1)
    cloth = tube(_bent(path, elbow, _elbow_way(hand)), half, across=np.array([1.0, 0.0, 0.0]), sides=SIDES)
    return Mesh(hand.joints[WRIST] + cloth.vertices @ hand.frames[WRIST].T.astype(np.float64), cloth.faces)


def _hand_length(hand: RiggedHand) -> float:
    """From wrist to middle finger tip, mm."""
    return float(np.linalg.norm(hand.joints[OPENXR26.index("middle_tip")] - hand.joints[WRIST]))


def _elbow_way(hand: RiggedHand) -> F64:
    """(3,) where the elbow takes the upper arm, wrist's axes."""
    return np.asarray(TOWARDS * [1.0 if hand.side == "left" else -1.0, 1.0, 1.0])
