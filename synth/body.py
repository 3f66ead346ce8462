"""The built-in hand's flesh: what lies around which bone, in published mm before scaling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from ..stores.joints import FINGERS, OPENXR26
from .flesh import Blob, Cone, Grid, chain, smooth_max, smooth_min
from .hand import FOREARM, HALF_WAY, N_BONES, WRIST

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]

# A finger from the knuckle (0) over its joints (1, 2) to the end of the bone (3): half width, height of the
# section over its width, and how far the flesh's middle lies below the bone; mm for an index finger.
FINGER_AT: Final[tuple[float, ...]] = (-0.25, 0.0, 0.25, 0.6, 1.0, 1.5, 2.0, 2.5, 2.85)
FINGER_WIDTH: Final[tuple[float, ...]] = (10.9, 11.1, 10.9, 10.4, 10.2, 9.6, 9.1, 9.0, 8.0)
FINGER_FLAT: Final[tuple[float, ...]] = (1.0, 0.98, 0.97, 0.96, 0.92, 0.94, 0.88, 0.87, 0.84)
FINGER_BELOW: Final[tuple[float, ...]] = (2.5, 2.4, 2.8, 2.6, 0.8, 2.1, 0.6, 1.8, 1.2)
GIRTH: Final = {"index": 1.0, "middle": 1.02, "ring": 0.96, "little": 0.86}
# The thumb likewise: metacarpal base 0, knuckle 1, joint 2, end of bone 3.
THUMB_AT: Final[tuple[float, ...]] = (0.0, 0.5, 1.0, 1.5, 2.0, 2.45, 2.85)
THUMB_WIDTH: Final[tuple[float, ...]] = (12.0, 12.2, 12.0, 10.7, 11.0, 11.2, 9.8)
THUMB_FLAT: Final[tuple[float, ...]] = (1.0, 1.0, 1.0, 0.98, 0.94, 0.87, 0.84)
THUMB_BELOW: Final[tuple[float, ...]] = (0.0, 0.5, 0.8, 1.0, 0.2, 1.6, 0.9)
# Where along the last bone the nail begins, how high above the bone it lies there, and its fall to the tip; mm.
NAIL: Final = {"thumb": (0.45, 6.7, 0.10), "finger": (0.40, 5.0, 0.06)}


KNUCKLE: Final = 0.35
"""Half length of the band around a finger's joint that turns half way, over the finger's half width."""


def helper(joint: int) -> int:
    """The number of the helper at a joint."""
    return N_BONES + HALF_WAY.index(joint)


def _row(name: str) -> int:
    return OPENXR26.index(name)


def finger_cones(joints: F64, frames: F64, finger: str) -> list[Cone]:
    """The flesh of one finger from its knuckle to the tip (of the thumb from its root)."""
    if finger == "thumb":
        names = ("metacarpal", "proximal", "distal", "tip")
        at, widths, flats, belows, girth = THUMB_AT, THUMB_WIDTH, THUMB_FLAT, THUMB_BELOW, 1.0
    else:
        names = ("proximal", "intermediate", "distal", "tip")
        at, widths, flats, belows = FINGER_AT, FINGER_WIDTH, FINGER_FLAT, FINGER_BELOW
        girth = GIRTH[finger]
    rows = [_row(f"{finger}_{n}") for n in names]
    along = np.linspace(at[0], at[-1], 60)
    knots = np.arange(4)
    centre = np.stack([np.interp(along, knots, joints[rows, i]) for i in range(3)], axis=1)
    first = joints[rows[1]] - joints[rows[0]]
    centre += np.minimum(along, 0)[:, None] * first
    dorsal = frames[rows[1], :, 2]
    centre -= girth * PchipInterpolator(at, belows)(along)[:, None] * dorsal
    radii = girth * PchipInterpolator(at, widths)(along)
    flat = PchipInterpolator(at, flats)(along)
    middle = 0.5 * (along[1:] + along[:-1])
    lengths = np.linalg.norm(np.diff(joints[rows], axis=0), axis=1)
    bones = []
    for t, radius in zip(middle, 0.5 * (radii[1:] + radii[:-1]), strict=True):
        segment = int(np.clip(np.floor(t), 0, 2))
        nearest = int(np.clip(np.round(t), 0, 2))
        close = abs(t - nearest) * lengths[segment] < KNUCKLE * radius and rows[nearest] in HALF_WAY
        bones.append(helper(rows[nearest]) if close else rows[segment])
    return chain(bones, centre, radii, dorsal, flat)


def nailed(grid: Grid, values: F32, joints: F64, frames: F64, finger: str) -> F32:
    """A finger's distances with the flat of its nail cut from the back of its last bone."""
    start, height, fall = NAIL["thumb" if finger == "thumb" else "finger"]
    end, tip = joints[_row(f"{finger}_distal")], joints[_row(f"{finger}_tip")]
    size = GIRTH.get(finger, 1.0)
    length = float(np.linalg.norm(tip - end))
    box = grid.box(np.minimum(end, tip) - 16, np.maximum(end, tip) + 16)
    local = (grid.points(box) - end) @ frames[_row(f"{finger}_distal")]
    beyond = local[..., 1] - start * length
    # Level over the nail; behind its root the cut rises out of the flesh.
    cut = local[..., 2] - size * height + fall * np.maximum(beyond, 0) - 0.6 * np.maximum(-beyond, 0)
    out = values.copy()
    out[box] = smooth_max(values[box], cut.astype(np.float32), 1.5)
    return out


def _points(*rows: Sequence[float]) -> F64:
    return np.array(rows, float)


def forearm_cones(length_mm: float, side: float) -> list[Cone]:
    """The radius side (−1) or the ulna side (1) of the forearm, from the wrist to the cut."""
    up = np.array([0.0, 0.0, 1.0])
    at = np.array([6.0, -8.0, -35.0, -80.0, -130.0, -length_mm])
    half = np.array([14.5, 14.5, 13.0, 12.5, 13.0, 12.5])
    thick = np.array([15.0, 15.3, 16.8, 21.5, 26.5, 29.0])
    centres = np.stack([side * half, at, np.array([-7.5, -7.5, -7.0, -6.0, -5.0, -5.0])], axis=1)
    bones = [helper(FOREARM), *[FOREARM] * (len(at) - 2)]
    return chain(bones, centres, thick, up, np.ones(len(at)))


def metacarpal_cones(joints: F64, frames: F64, finger: str) -> list[Cone]:
    """The slab of the palm that goes with one metacarpal, and its share of the carpus."""
    base, head = joints[_row(f"{finger}_metacarpal")], joints[_row(f"{finger}_proximal")]
    dorsal = frames[_row(f"{finger}_metacarpal"), :, 2]
    girth = {"index": 1.04, "middle": 1.0, "ring": 0.96, "little": 0.94}[finger]
    t = np.array([-0.05, 0.3, 0.7, 0.97])
    centres = base + t[:, None] * (head - base) - np.array([6.0, 5.0, 4.0, 3.2])[:, None] * dorsal
    radii = girth * np.array([14.0, 13.3, 12.7, 12.2])
    cones = chain([_row(f"{finger}_metacarpal")] * 3, centres, radii, dorsal, np.ones(4))
    start = np.array([0.55 * base[0], 2.0, -8.5])
    return [*cones, Cone(WRIST, start, centres[0], 13.5, 14.0)]


def web_cones(joints: F64) -> list[Cone]:
    """The sheet of skin and muscle between thumb and index finger, as a fan of cones."""
    a0, a1 = joints[_row("thumb_metacarpal")], joints[_row("thumb_proximal")]
    b0, b1 = joints[_row("index_metacarpal")], joints[_row("index_proximal")]
    below = np.array([0.0, 0.0, -5.0])
    cones = []
    for s in np.linspace(0, 1, 6):
        a = a0 + (0.25 + 0.65 * s) * (a1 - a0)
        b = b0 + (0.15 + 0.62 * s) * (b1 - b0) + below
        middle, r = 0.5 * (a + b), 9.0 - 3.5 * s
        cones += [
            Cone(_row("thumb_metacarpal"), a, middle, r + 1, r),
            Cone(_row("index_metacarpal"), middle, b, r, r + 1),
        ]
    return cones


def thenar_cones(joints: F64) -> list[Cone]:
    """The ball of the thumb: abductor, flexor, opponens."""
    a0, a1 = joints[_row("thumb_metacarpal")], joints[_row("thumb_proximal")]
    low = np.array([-11.0, 14.0, -17.0])
    mid = a0 + 0.42 * (a1 - a0) + np.array([6.5, -1.0, -8.5])
    high = a0 + 0.86 * (a1 - a0) + np.array([2.5, -1.0, -2.0])
    bone = _row("thumb_metacarpal")
    return [Cone(bone, low, mid, 11.5, 15.0), Cone(bone, mid, high, 15.0, 10.8)]


def hypothenar_cones(joints: F64) -> list[Cone]:
    """The ball of the little finger, along the outer edge of the palm."""
    bone = _row("little_metacarpal")
    points = _points((17.0, 12.0, -15.0), (26.5, 32.0, -17.5), (33.5, 58.0, -14.5), (36.5, 72.0, -11.0))
    return chain([bone] * 3, points, np.array([11.5, 13.5, 11.3, 9.0]), np.array([0.0, 0.0, 1.0]), np.ones(4))


def finger_webs(joints: F64, frames: F64) -> list[Cone]:
    """The pads at the fingers' roots: the palm's skin reaches a third along the first phalanges."""
    cones = []
    for one, other in (("index", "middle"), ("middle", "ring"), ("ring", "little")):
        ends = []
        for finger in (one, other):
            knuckle, pip = joints[_row(f"{finger}_proximal")], joints[_row(f"{finger}_intermediate")]
            ends.append(knuckle + 0.22 * (pip - knuckle) - 5.5 * frames[_row(f"{finger}_proximal"), :, 2])
        middle = 0.5 * (ends[0] + ends[1])
        cones += [
            Cone(_row(f"{one}_proximal"), ends[0], middle, 7.0, 6.5),
            Cone(_row(f"{other}_proximal"), middle, ends[1], 6.5, 7.0),
        ]
    return cones


def flesh(joints: F64, frames: F64, grid: Grid, forearm_mm: float) -> tuple[F32, list[Cone]]:
    """The signed distance of the whole hand on the grid, and every cone (to tell whose flesh is where)."""
    up = [metacarpal_cones(joints, frames, f) for f in FINGERS[1:]]
    fingers = [finger_cones(joints, frames, f) for f in FINGERS]
    shafts = [nailed(grid, grid.field(cones), joints, frames, f) for f, cones in zip(FINGERS, fingers, strict=True)]
    radius, ulna = (forearm_cones(forearm_mm, side) for side in (-1.0, 1.0))
    thenar = thenar_cones(joints)
    hypothenar, web, roots = hypothenar_cones(joints), web_cones(joints), finger_webs(joints, frames)

    palm = grid.field(up[0])
    for cones in up[1:]:
        palm = smooth_min(palm, grid.field(cones), 9)
    palm = smooth_min(palm, grid.field(roots), 7)
    hollow = Blob(np.array([3.0, 60.0, -35.0]), np.array([17.0, 30.0, 17.0]), np.eye(3))
    palm = smooth_min(palm, grid.field(hypothenar), 10)
    palm = smooth_max(palm, -hollow.field(grid), 12)
    thumb = smooth_min(shafts[0], grid.field(thenar), 9)
    body = smooth_min(palm, grid.field(web), 9)
    body = smooth_min(body, thumb, 8)
    arm = smooth_min(grid.field(radius, reach_mm=30), grid.field(ulna, reach_mm=30), 30)
    body = smooth_min(body, arm, 12)
    digits = shafts[1]
    for shaft in shafts[2:]:
        digits = smooth_min(digits, shaft, 1.5)
    body = smooth_min(body, digits, 5)
    parts = [*up, *fingers, radius, ulna, thenar, hypothenar, web, roots]
    return body, [cone for cones in parts for cone in cones]
