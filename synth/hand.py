r"""A rigged hand and its kinematics: pose, root and shape in; joints and skinned vertices out, in batches.

A *bone* is named by the canonical joint at its proximal end (`stores/joints.py`); bone 26 is the forearm.
Bone b has a rest joint p_b and a rest frame F_b (columns x = y × z, y distal, z dorsal). With R_b the
rotation of bone b away from rest and S_b its stretch (the subject's proportions),

    R_b = R_parent F_b Q_b F_bᵀ,        Q_b = Rx(−flexion) Rz(±abduction) Ry(±axial),
    t_b = t_parent + R_parent S_parent (p_b − p_parent),
    S_b = F diag(thickness, length, thickness) Fᵀ,
    vertex v ↦ Σ_b w_b (R_b S_b (v − p_b) + t_b)                 (linear blend skinning).

Flexion turns y towards the palm (−z), abduction turns it towards the thumb's side, axial turns the bone
about itself; the signs of the last two flip on a left hand, so one pose vector is the same gesture on both.
The root places the *hand*: rotation vector and position of the wrist. The wrist's own two degrees of freedom
therefore move the forearm, which carries no canonical joint.

Where a joint bends, linear blending would pinch it: helpers, bones half way between a bone and its parent,
carry the skin over the knuckle (`HALF_WAY`), and a fist keeps its girth.

Where flesh would vanish in a bend, correctives (`synth/correctives.py`) move the skin at rest before it is
posed, v ↦ v + Σ_f φ_f(pose) d_f(v); a hand from a file has none.

Cost: one matrix product a batch, `vertices = W @ G` with W (N, 4 movers) built once, 0.04 ms a pose in batches
of 32; with correctives two more, 0.11 ms in all.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import FINGERS, OPENXR26, PARENTS, Layout
from .collision import Capsules, capsules_of, overlap
from .rotation import half_way, rotation_matrix

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Axis = Literal["flexion", "abduction", "axial"]

FOREARM: Final = 26
"""Index of the forearm's bone, after the 26 canonical joints."""
N_BONES: Final = 27
HALF_WAY: Final = (
    *(i for i, n in enumerate(OPENXR26) if n.endswith(("proximal", "intermediate", "distal"))),
    FOREARM,
)
"""Joints that have a helper, a bone half way between the joint's bone and its parent: what lies over a bent
knuckle follows it and keeps its girth. Helper i is number 27 + i in `bone_index`."""
N_MOVERS: Final = N_BONES + len(HALF_WAY)
WRIST: Final = OPENXR26.index("wrist")
PALM: Final = OPENXR26.index("palm")
ROOT_SIZE: Final = 6
"""Rotation vector (rad) and position of the wrist (mm), rig frame."""
BONE_PARENTS: Final[tuple[int, ...]] = (*PARENTS, WRIST)
"""Parent of each of the 27 bones; −1 for the wrist, the root."""
CHILDREN: Final[tuple[int, ...]] = tuple(
    -1 if bone in (PALM, WRIST, FOREARM) or name.endswith("tip") else bone + 1
    for bone, name in enumerate((*OPENXR26, "forearm"))
)
"""The joint at the far end of each bone that is a finger's or a metacarpal, else −1."""

SHAPE_NAMES: Final = (
    "size",
    "palm_length",
    "palm_width",
    "palm_thickness",
    *(f"{finger}_length" for finger in FINGERS),
    "finger_thickness",
    "forearm_thickness",
)
"""What varies between subjects: natural logarithms of scale factors, so that zeros are the mean hand."""
SHAPE_SIZE: Final = len(SHAPE_NAMES)


@dataclass(frozen=True, slots=True)
class Dof:
    """One degree of freedom: a rotation of the bone that starts at `joint`, with its limits."""

    name: str
    joint: int
    axis: Axis
    low_rad: float
    high_rad: float


def _dofs() -> tuple[Dof, ...]:
    def dof(name: str, joint: str, axis: Axis, low_deg: float, high_deg: float) -> Dof:
        return Dof(name, OPENXR26.index(joint), axis, float(np.radians(low_deg)), float(np.radians(high_deg)))

    dofs = [
        dof("wrist_flexion", "wrist", "flexion", -70, 75),
        dof("wrist_abduction", "wrist", "abduction", -30, 20),
        dof("thumb_cmc_flexion", "thumb_metacarpal", "flexion", -25, 35),
        dof("thumb_cmc_abduction", "thumb_metacarpal", "abduction", -30, 30),
        dof("thumb_cmc_axial", "thumb_metacarpal", "axial", -25, 25),
        dof("thumb_mcp_flexion", "thumb_proximal", "flexion", -10, 60),
        dof("thumb_ip_flexion", "thumb_distal", "flexion", -20, 85),
    ]
    # The ring and the little metacarpal fold a little: the palm's arch when it cups.
    cupping = {"ring": 12.0, "little": 22.0}
    spread = {"index": (-15, 20), "middle": (-15, 15), "ring": (-18, 15), "little": (-20, 15)}
    for finger in FINGERS[1:]:
        if finger in cupping:
            dofs.append(dof(f"{finger}_cmc_flexion", f"{finger}_metacarpal", "flexion", -3, cupping[finger]))
        dofs += [
            dof(f"{finger}_mcp_flexion", f"{finger}_proximal", "flexion", -25, 90),
            dof(f"{finger}_mcp_abduction", f"{finger}_proximal", "abduction", *spread[finger]),
            dof(f"{finger}_pip_flexion", f"{finger}_intermediate", "flexion", -5, 108),
            dof(f"{finger}_dip_flexion", f"{finger}_distal", "flexion", -8, 80),
        ]
    return tuple(dofs)


DOFS: Final = _dofs()
"""The degrees of freedom of a pose vector, in order."""
POSE_SIZE: Final = len(DOFS)


SINE: Final = 0
COSINE: Final = 1
"""Functions of an angle θ that drive a corrective: sin θ, and 1 − cos θ."""


@dataclass(frozen=True, slots=True, eq=False)
class Correctives:
    """What the flesh does as joints bend: offsets of the rest pose, each driven by one angle θ."""

    dof: NDArray[np.int32]
    """(F,) the angle that drives each."""
    function: NDArray[np.int32]
    """(F,) how: `SINE` by sin θ, `COSINE` by 1 − cos θ."""
    offset: F32
    """(F, N, 3) mm, rest pose, where the function is 1."""

    flat: F64 = field(init=False, repr=False)
    """(F, 3 N) the offsets, all x before all y and z: the factor of a matrix product."""

    def __post_init__(self) -> None:
        flat = np.ascontiguousarray(self.offset.transpose(0, 2, 1), np.float64)
        object.__setattr__(self, "flat", flat.reshape(len(flat), -1))

    def features(self, pose: F64) -> F64:
        """(B, F) the functions' values at poses (B, 25) rad; nothing at rest."""
        angle = pose[:, self.dof]
        return np.where(self.function == SINE, np.sin(angle), 1 - np.cos(angle))


@dataclass(frozen=True, slots=True, eq=False)
class RiggedHand:
    """A skinned mesh at rest in its own frame (wrist at the origin, y to the fingers, z out of the back)."""

    name: str
    vertices: F32
    """(N, 3) mm."""
    faces: NDArray[np.int32]
    """(F, 3), wound outward."""
    bone_index: NDArray[np.int32]
    """(N, 4) bones that move a vertex, helpers (`HALF_WAY`) after the 27."""
    bone_weight: F32
    """(N, 4) their shares, rows sum to 1."""
    parts: NDArray[np.uint8]
    """(F,) bone of each triangle."""
    joints: F32
    """(26, 3) mm, the canonical joints."""
    frames: F32
    """(26, 3, 3) rotations whose columns are x, y (distal), z (dorsal) of each joint."""
    dof: tuple[Dof, ...] = DOFS
    side: Literal["right", "left"] = "right"
    correctives: Correctives | None = None
    """What keeps the flesh's volume as joints bend; a hand from a file has none."""
    bones: tuple[int, ...] = field(init=False, repr=False)
    """Bones and helpers that move any vertex."""
    blend: F64 = field(init=False, repr=False)
    """(N, 4 movers): weight × (x, y, z, 1), the constant factor of skinning."""
    share: F64 = field(init=False, repr=False)
    """(movers, N): the weights alone."""
    capsules: Capsules = field(init=False, repr=False)
    """One capsule a bone, to find a hand running through itself."""

    def __post_init__(self) -> None:
        dense = self.dense_weights()
        bones = np.flatnonzero(dense.any(axis=0))
        homogeneous = np.concatenate([self.vertices, np.ones((len(dense), 1), np.float32)], axis=1)
        blend = dense[:, bones, None] * homogeneous[:, None, :]
        owner = without_helpers(dense).argmax(1)
        capsules = capsules_of(self.vertices, owner, self.joints, CHILDREN, BONE_PARENTS)
        object.__setattr__(self, "capsules", capsules)
        object.__setattr__(self, "share", np.ascontiguousarray(dense[:, bones].T, np.float64))
        object.__setattr__(self, "bones", tuple(int(b) for b in bones))
        object.__setattr__(self, "blend", np.ascontiguousarray(blend.reshape(len(dense), -1), np.float64))

    def dense_weights(self) -> F32:
        """(N, 42) weight of every bone and helper on every vertex."""
        dense = np.zeros((len(self.vertices), N_MOVERS), np.float32)
        np.add.at(dense, (np.arange(len(dense))[:, None], self.bone_index), self.bone_weight)
        return dense

    @property
    def limits_rad(self) -> F64:
        """(25, 2) float64: lowest and highest angle of each degree of freedom."""
        return np.array([(d.low_rad, d.high_rad) for d in self.dof])


@dataclass(frozen=True, slots=True)
class Posed:
    """Vertices (B, N, 3) and canonical joints (B, 26, 3), float32 mm in the rig's frame."""

    vertices: F32
    joints: F32


@dataclass(frozen=True, slots=True)
class Kinematics:
    """Where the bones are, float64; what skinning and the fitter's Jacobian are made from."""

    rotation: F64
    """(B, 27, 3, 3) of each bone away from rest."""
    stretch: F64
    """(B, 27, 3, 3) S_b, in rest axes."""
    position: F64
    """(B, 27, 3) mm of each bone's proximal joint; row 26, the forearm's, is the wrist again."""
    axes: F64
    """(B, 25, 3) unit axes of the degrees of freedom in the rig's frame."""
    pose: F64
    """(B, 25) rad, the angles that all this comes from."""


# Scales of a bone's own x, y, z as sums of log shape parameters; see `_shape_map`.
_PALM_BONES: Final = (
    *(i for i, n in enumerate(OPENXR26) if n.endswith("metacarpal") and not n.startswith("thumb")),
    PALM,
    WRIST,
)


def _shape_map() -> F64:
    """(27, 3, SHAPE_SIZE): log of the stretch along a bone's x, y, z is `map @ shape`."""
    out = np.zeros((N_BONES, 3, SHAPE_SIZE))
    out[:, :, SHAPE_NAMES.index("size")] = 1.0
    across = np.array([1.0, 0.0, 1.0])
    for bone in range(N_BONES):
        if bone == FOREARM:
            out[bone, :, SHAPE_NAMES.index("forearm_thickness")] = across
        elif bone in _PALM_BONES:
            for axis, name in enumerate(("palm_width", "palm_length", "palm_thickness")):
                out[bone, axis, SHAPE_NAMES.index(name)] = 1.0
        else:
            finger = OPENXR26[bone].split("_")[0]
            out[bone, 1, SHAPE_NAMES.index(f"{finger}_length")] = 1.0
            out[bone, :, SHAPE_NAMES.index("finger_thickness")] = across
    return out


SHAPE_MAP: Final = _shape_map()


def stretch_frames(hand: RiggedHand) -> F64:
    """(27, 3, 3) axes along which each bone is stretched: the palm as one block, every other bone its own."""
    frames = np.concatenate([hand.frames, hand.frames[WRIST : WRIST + 1]]).astype(np.float64)
    frames[list(_PALM_BONES)] = frames[WRIST]
    return frames


def _levels() -> tuple[NDArray[np.intp], ...]:
    """The bones below the wrist by distance from it: each level needs only the one before."""
    depth = [0] * N_BONES
    for bone in (*range(WRIST + 1, 26), PALM, FOREARM):
        depth[bone] = depth[BONE_PARENTS[bone]] + 1
    return tuple(np.flatnonzero(np.array(depth) == level) for level in range(1, max(depth) + 1))


_LEVELS: Final = _levels()
_PARENT_OF: Final = np.array(BONE_PARENTS)


def kinematics(hand: RiggedHand, pose: NDArray[Any], root: NDArray[Any], shape: NDArray[Any]) -> Kinematics:
    """The bones' transforms for poses (B, 25) rad, roots (B, 6) and shapes (B, SHAPE_SIZE)."""
    batch = len(pose)
    assert pose.shape == (batch, POSE_SIZE), pose.shape
    assert root.shape == (batch, ROOT_SIZE), root.shape
    assert shape.shape == (batch, SHAPE_SIZE), shape.shape
    own = np.concatenate([hand.frames, hand.frames[WRIST : WRIST + 1]]).astype(np.float64)
    local, axes = _joint_rotations(hand, np.asarray(pose, np.float64))
    turned = own @ local @ own.transpose(0, 2, 1)
    blocks = stretch_frames(hand)
    scale = np.exp(np.einsum("bs,jks->bjk", np.asarray(shape, np.float64), SHAPE_MAP))
    stretch = (blocks * scale[:, :, None, :]) @ blocks.transpose(0, 2, 1)

    rotation = np.empty((batch, N_BONES, 3, 3))
    position = np.empty((batch, N_BONES, 3))
    rest = np.concatenate([hand.joints, hand.joints[WRIST : WRIST + 1]]).astype(np.float64)
    rotation[:, WRIST] = rotation_matrix(root[:, :3])
    position[:, WRIST] = root[:, 3:]
    for bones in _LEVELS:
        parents = _PARENT_OF[bones]
        above = rotation[:, parents]
        rotation[:, bones] = above @ turned[:, bones]
        arm = stretch[:, parents] @ (rest[bones] - rest[parents])[:, :, None]
        position[:, bones] = position[:, parents] + (above @ arm)[..., 0]
    # A joint's axes are carried by its parent, the wrist's by the hand itself.
    carrier = np.array([WRIST if d.joint == WRIST else _PARENT_OF[d.joint] for d in hand.dof])
    joints = np.array([d.joint for d in hand.dof])
    world = (rotation[:, carrier] @ (own[joints] @ axes[..., None]))[..., 0]
    return Kinematics(rotation, stretch, position, world, np.asarray(pose, np.float64))


def _joint_rotations(hand: RiggedHand, pose: F64) -> tuple[F64, F64]:
    """Q_b (B, 27, 3, 3) in the bones' own frames, and the axis (B, 25, 3) of each angle there."""
    batch = len(pose)
    sign = 1.0 if hand.side == "right" else -1.0
    angle = np.zeros((3, batch, N_BONES))
    row = {"flexion": 0, "abduction": 1, "axial": 2}
    kind = np.array([row[d.axis] for d in hand.dof])
    joint = np.array([d.joint for d in hand.dof])
    angle[kind, :, joint] = pose.T
    angle[1:] *= sign
    (cf, ca, cr), (sf, sa, sr) = np.cos(angle), np.sin(angle)
    # Rx(−f) Rz(a) Ry(r), written out.
    q = np.empty((batch, N_BONES, 3, 3))
    q[..., 0, 0], q[..., 0, 1], q[..., 0, 2] = ca * cr, -sa, ca * sr
    q[..., 1, 0], q[..., 1, 1], q[..., 1, 2] = cf * sa * cr - sf * sr, cf * ca, cf * sa * sr + sf * cr
    q[..., 2, 0], q[..., 2, 1], q[..., 2, 2] = -sf * sa * cr - cf * sr, -sf * ca, -sf * sa * sr + cf * cr
    # The wrist bends, but the hand is the root: the forearm turns the other way.
    q[:, FOREARM] = q[:, WRIST].transpose(0, 2, 1)
    q[:, WRIST] = np.eye(3)
    axes = np.zeros((batch, POSE_SIZE, 3))
    c, s = cf[:, joint], sf[:, joint]
    axes[..., 0] = np.where(kind == 0, -1.0, np.where(kind == 2, -sign * sa[:, joint], 0.0))
    axes[..., 1] = np.where(kind == 1, sign * s, np.where(kind == 2, sign * c * ca[:, joint], 0.0))
    axes[..., 2] = np.where(kind == 1, sign * c, np.where(kind == 2, -sign * s * ca[:, joint], 0.0))
    return q, axes


def pose_hand(hand: RiggedHand, pose: NDArray[Any], root: NDArray[Any], shape: NDArray[Any]) -> Posed:
    """Joints (B, 26, 3) and skinned mesh (B, N, 3), mm in the rig's frame.

    Args:
        hand: the rigged mesh.
        pose: (B, 25) angles of the joints' degrees of freedom, rad.
        root: (B, 6) rotation vector (rad) of the hand and place (mm) of its wrist.
        shape: (B, SHAPE_SIZE) proportions, as `subject_sizes.sample_shape` draws them.
    """
    state = kinematics(hand, pose, root, shape)
    return Posed(skin(hand, state), state.position[:, :26].astype(np.float32))


def skin(hand: RiggedHand, state: Kinematics) -> F32:
    """(B, N, 3) float32 mm: the mesh under the bones of `state`, linear blend skinning of the corrected rest."""
    matrices = motion(hand, state)[:, list(hand.bones)]
    # In float64, rounded at the end: BLAS adds up in another order on another number of threads, and in
    # float32 that moved one coordinate in 40 by a last bit, and so one pixel in 30 million.
    g = np.ascontiguousarray(matrices.transpose(0, 2, 1, 3), np.float64)
    flat = (g.reshape(len(g) * 3, -1) @ hand.blend.T).reshape(len(g), 3, -1)
    if hand.correctives is not None:
        given = hand.correctives
        moved = (given.features(state.pose) @ given.flat).reshape(len(g), 3, -1)
        flat += np.einsum("bijn,bjn->bin", blended(hand, matrices), moved)
    return np.ascontiguousarray(flat.astype(np.float32).transpose(0, 2, 1))


def blended(hand: RiggedHand, matrices: F64) -> F64:
    """(B, 3, 3, N) how each vertex's own mixture of `hand.bones`, moved by (B, M, 3, 4), turns and stretches it."""
    linear = np.ascontiguousarray(matrices[..., :3].transpose(0, 2, 3, 1))
    out: F64 = linear @ hand.share
    return out


def motion(hand: RiggedHand, state: Kinematics) -> F64:
    """(B, 42, 3, 4) how each bone and each helper moves points of the rest pose."""
    joint, up = list(HALF_WAY), [BONE_PARENTS[j] for j in HALF_WAY]
    between = half_way(state.rotation[:, up], state.rotation[:, joint])
    stretch = 0.5 * (state.stretch[:, up] + state.stretch[:, joint])
    linear = np.concatenate([state.rotation @ state.stretch, between @ stretch], axis=1)
    pivot = np.concatenate([state.position, state.position[:, joint]], axis=1)
    rest = np.concatenate([hand.joints, hand.joints[WRIST : WRIST + 1]]).astype(np.float64)
    rest = np.concatenate([rest, rest[joint]])
    shift = pivot[..., None] - linear @ rest[:, :, None]
    return np.concatenate([linear, shift], axis=-1)


def without_helpers(weights: NDArray[Any]) -> NDArray[Any]:
    """Weights (N, 42) as (N, 27): what a helper carries goes to its two bones, half each."""
    out = weights[:, :N_BONES].copy()
    for helper, joint in enumerate(HALF_WAY, start=N_BONES):
        out[:, joint] += 0.5 * weights[:, helper]
        out[:, BONE_PARENTS[joint]] += 0.5 * weights[:, helper]
    return out


def self_collision_mm(hand: RiggedHand, pose: NDArray[Any], shape: NDArray[Any]) -> F64:
    """(B,) how deep the hand runs through itself, mm; negative when no two bones of it touch."""
    state = kinematics(hand, pose, np.zeros((len(pose), ROOT_SIZE)), shape)
    capsules = hand.capsules
    bones = capsules.bone
    linear = state.rotation[:, bones] @ state.stretch[:, bones]
    arm = capsules.ends - hand.joints[bones]
    ends = state.position[:, bones] + (linear @ arm[:, None, :, :, None])[..., 0]
    girth = np.exp(0.5 * (SHAPE_MAP[bones, 0] + SHAPE_MAP[bones, 2]) @ np.asarray(shape, np.float64).T).T
    deepest: F64 = overlap(capsules, ends, girth).max(axis=1, initial=-np.inf)
    return deepest


def mirror(hand: RiggedHand) -> RiggedHand:
    """The same hand of the other side: x of the rest frame negated, winding kept outward."""
    flip = np.array([-1, 1, 1], np.float32)
    name, side, given = hand.name, hand.side, hand.correctives
    return replace(
        hand,
        name=name.removesuffix("-mirrored") if name.endswith("-mirrored") else f"{name}-mirrored",
        vertices=hand.vertices * flip,
        faces=np.ascontiguousarray(hand.faces[:, ::-1]),
        joints=hand.joints * flip,
        # Both sides of the frame flip, so that it stays a rotation with y distal and z dorsal.
        frames=hand.frames * flip[:, None] * flip,
        correctives=None if given is None else replace(given, offset=given.offset * flip),
        side="left" if side == "right" else "right",
    )


def landmarks(layout: Layout, joints26: NDArray[Any]) -> F64:
    """The points (..., J, 3) of a layout nearest to canonical joints (..., 26, 3), mm."""
    out: F64 = layout.matrix() @ np.asarray(joints26, np.float64)
    return out
