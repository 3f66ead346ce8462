"""Flesh that gives way where a hand bends: offsets of the rest pose that keep the skinned hand's volume.

Skin that follows its bones loses what lies between them: a joint near the back of a finger leaves more flesh
on the palm's side than its fold has room for, and a fist loses a tenth of the hand. Real flesh goes elsewhere:
the pads beside a crease thicken, the ball of the thumb rounds. So each angle θ that costs volume moves the
skin at rest along a field of its own,

    v ↦ v + Σ_f φ_f(θ) a_f m_f(v),      φ = sin θ or 1 − cos θ,

where m_f is a smooth unit bulge beside the joint (towards the palm and the sides, nothing in the crease itself
nor on the back) and the amplitudes a_f, mm, are learnt. Volume is linear in small offsets, dV = Σ_v ∂V/∂v · dv,
so a ridge regression over a few hundred poses finds the amplitudes that give each of them the volume at rest
(Gauss–Newton, two rounds). Pose space deformation (Lewis, Cordner & Fong 2000), fitted to one number a pose.

Two volumes can be meant where a hand presses into itself. The signed volume adds up the pieces of flesh, so
what overlaps counts twice; the occupied volume is the water that the hand displaces. Learning keeps a mean of
the two, so that a fist is within 3 % by either. It takes 2 s, once, when the hand is generated.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from ..stores.joints import FINGERS, OPENXR26
from .flesh import laplacian
from .hand import (
    BONE_PARENTS,
    COSINE,
    FOREARM,
    HALF_WAY,
    N_BONES,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_SIZE,
    SINE,
    WRIST,
    Correctives,
    RiggedHand,
    blended,
    kinematics,
    motion,
    skin,
)
from .surface import occupied_volume, vertex_normals, volume

F64 = NDArray[np.float64]

REACH_MM: Final = {"proximal": 12.0, "intermediate": 7.5, "distal": 5.5, "wrist": 14.0}
"""Where beside a joint, named by the bone beyond it, the flesh bulges most, along the bone."""
SOFT_MM: Final = 5.0
"""Width over which a bulge is smoothed."""
POSES: Final = 220
RIDGE: Final = 0.02
"""Pull of the amplitudes to nothing, ml² per mm² and pose."""
OVERLAP: Final = 0.4
"""How much of what overlaps is made up for: 0 keeps the signed volume, 1 the occupied one."""
MOST_OVERLAP_MM3: Final = 1e4
"""Poses drawn without a thought to collisions overlap by more; no hand does."""
_CLOSING: Final = ("mcp_flexion", "pip_flexion", "dip_flexion", "cmc_flexion")
STEP_MM: Final = 4.0
"""Between the lines that find the occupied volume."""


def learnt(hand: RiggedHand) -> RiggedHand:
    """The hand with correctives that keep its volume."""
    fields, dofs, kinds = _bulges(hand)
    poses = _training_poses(hand)
    amplitude = np.zeros(len(dofs))
    rest = volume(hand.vertices, hand.faces)
    for _ in range(2):
        hand = replace(hand, correctives=_with(fields, dofs, kinds, amplitude))
        volumes, slopes = _responses(hand, fields, poses)
        slopes, missing = slopes / 1e3, (rest - volumes) / 1e3
        ridge = RIDGE * len(poses) / len(dofs)
        lead = slopes.T @ slopes + ridge * np.eye(len(dofs))
        amplitude += np.linalg.solve(lead, slopes.T @ missing - ridge * amplitude)
    return replace(hand, correctives=_with(fields, dofs, kinds, amplitude))


def _with(fields: F64, dofs: list[int], kinds: list[int], amplitude: F64) -> Correctives:
    return Correctives(
        np.array(dofs, np.int32), np.array(kinds, np.int32), (amplitude[:, None, None] * fields).astype(np.float32)
    )


def _responses(hand: RiggedHand, fields: F64, poses: F64) -> tuple[F64, F64]:
    """Volumes (P,) mm³ to be kept of the posed hands, and their slopes (P, F) in the fields' amplitudes."""
    volumes, slopes = np.empty(len(poses)), np.empty((len(poses), len(fields)))
    assert hand.correctives is not None
    for i, pose in enumerate(poses[:, None]):
        state = kinematics(hand, pose, np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE)))
        vertices = skin(hand, state)[0].astype(np.float64)
        volumes[i] = volume(vertices, hand.faces)
        overlap = volumes[i] - occupied_volume(vertices, hand.faces, step_mm=STEP_MM)
        volumes[i] -= OVERLAP * np.clip(overlap, 0, MOST_OVERLAP_MM3)
        linear = blended(hand, motion(hand, state)[:, list(hand.bones)])[0]
        pull = np.einsum("ni,ijn->nj", _volume_gradient(vertices, hand.faces), linear)
        slopes[i] = hand.correctives.features(pose)[0] * np.einsum("fnc,nc->f", fields, pull)
    return volumes, slopes


def _volume_gradient(vertices: F64, faces: NDArray[np.int32]) -> F64:
    """(N, 3) mm²: how the volume grows as each vertex moves."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    out = np.zeros_like(vertices)
    for i, opposite in enumerate((np.cross(b, c), np.cross(c, a), np.cross(a, b))):
        np.add.at(out, faces[:, i], opposite / 6)
    return out


def _training_poses(hand: RiggedHand) -> F64:
    """(P, 25) rad: each angle alone, everything at random, and every second time the fingers closing together."""
    rng = np.random.default_rng(0)
    low, high = hand.limits_rad.T
    alone = np.concatenate([np.diag(low), np.diag(0.5 * high), np.diag(high)])
    random = rng.uniform(low, high, (POSES - len(alone), POSE_SIZE))
    names = [d.name for d in hand.dof]
    bends = [i for i, name in enumerate(names) if name.endswith(_CLOSING) and not name.startswith("thumb")]
    share = np.clip(rng.random((len(random), 1)) + 0.25 * rng.random((len(random), len(bends))), 0, 1)
    random[::2, bends] = (share * high[bends])[::2]
    # The forearm turns a great deal of flesh: all of its range, but seldom, or the fingers would not count.
    wrist = [i for i, name in enumerate(names) if name.startswith("wrist")]
    random[np.arange(len(random)) % 3 > 0, wrist[0] : wrist[-1] + 1] = 0
    return np.concatenate([alone, random])


def _smooth(x: F64, low: float, high: float) -> F64:
    """0 below `low`, 1 above `high`, a smooth step between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    out: F64 = t * t * (3 - 2 * t)
    return out


def _bulges(hand: RiggedHand) -> tuple[F64, list[int], list[int]]:
    """Unit fields (F, N, 3), and the angle and function that drive each."""
    names = [d.name for d in hand.dof]
    fields: list[F64] = []
    dofs: list[int] = []
    kinds: list[int] = []

    def add(field: F64, dof: str, *functions: int) -> None:
        for function in functions:
            fields.append(field)
            dofs.append(names.index(dof))
            kinds.append(function)

    for finger in FINGERS[1:]:
        mcp = _beside(hand, f"{finger}_proximal", REACH_MM["proximal"])
        add(mcp, f"{finger}_mcp_flexion", SINE, COSINE)
        add(mcp, f"{finger}_mcp_abduction", SINE)
        add(_beside(hand, f"{finger}_intermediate", REACH_MM["intermediate"]), f"{finger}_pip_flexion", COSINE)
        add(_beside(hand, f"{finger}_distal", REACH_MM["distal"]), f"{finger}_dip_flexion", COSINE)
        if f"{finger}_cmc_flexion" in names:
            add(_seam(hand, OPENXR26.index(f"{finger}_metacarpal")), f"{finger}_cmc_flexion", SINE)
    ball = _seam(hand, OPENXR26.index("thumb_metacarpal"))
    add(ball, "thumb_cmc_flexion", SINE, COSINE)
    add(ball, "thumb_cmc_abduction", SINE, COSINE)
    add(ball, "thumb_cmc_axial", SINE, COSINE)
    add(_beside(hand, "thumb_proximal", REACH_MM["intermediate"]), "thumb_mcp_flexion", COSINE)
    add(_beside(hand, "thumb_distal", REACH_MM["intermediate"]), "thumb_ip_flexion", COSINE)
    wrist = _beside(hand, "wrist", REACH_MM["wrist"])
    add(wrist, "wrist_flexion", SINE, COSINE)
    # On a coarse mesh a bulge is ragged: let it spread over a few millimetres.
    matrix, area = laplacian(hand.vertices.astype(np.float64), hand.faces)
    system = splu((sparse.diags(area) + 0.5 * SOFT_MM**2 * matrix).tocsc())
    flat = np.array(fields).transpose(1, 0, 2).reshape(len(area), -1)
    soft = system.solve(area[:, None] * flat).reshape(len(area), -1, 3).transpose(1, 0, 2)
    size = np.linalg.norm(soft, axis=2, keepdims=True)
    size /= size.max(axis=1, keepdims=True)
    # Heat reaches everywhere; a bulge ends where it is a thirtieth of itself, the wrist's before the palm.
    soft *= _smooth(size, 0.03, 0.1)
    behind = _smooth(-hand.vertices[:, 1].astype(np.float64), -48, -36)
    soft[[names[dof].startswith("wrist") for dof in dofs]] *= behind[:, None]
    return soft / np.abs(soft).max(axis=(1, 2), keepdims=True), dofs, kinds


def _beside(hand: RiggedHand, joint: str, reach_mm: float) -> F64:
    """(N, 3) the bulge of a joint that bends: on its palm's side and its sides, nothing in the crease."""
    row = OPENXR26.index(joint)
    bone = FOREARM if row == WRIST else row
    normals = vertex_normals(hand.vertices.astype(np.float64), hand.faces)
    dense = hand.dense_weights().astype(np.float64)
    bones = [bone, BONE_PARENTS[bone], N_BONES + HALF_WAY.index(bone)]
    if bone == FOREARM:
        bones += [i for i, n in enumerate(OPENXR26) if n.endswith("metacarpal")]
    mine = _smooth(dense[:, bones].sum(1), 0.1, 0.7)
    local = (hand.vertices - hand.joints[row]) @ hand.frames[row].astype(np.float64)
    along = np.abs(local[:, 1]) / reach_mm
    palmar = _smooth(-(normals @ hand.frames[row][:, 2]), -0.5, 0.2)
    out: F64 = (mine * palmar * along**2 * np.exp(1 - along**2))[:, None] * normals
    return out


def _seam(hand: RiggedHand, bone: int) -> F64:
    """(N, 3) the bulge where a metacarpal's flesh meets the rest of the palm: both carry the skin there."""
    normals = vertex_normals(hand.vertices.astype(np.float64), hand.faces)
    share = hand.dense_weights().astype(np.float64)[:, bone]
    both = 4 * share * (1 - share)
    out: F64 = _smooth(both, 0.0, 1.0)[:, None] * normals
    return out
