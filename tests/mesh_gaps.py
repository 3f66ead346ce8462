"""How far parts of a skinned hand stay from each other, or how deep they lie in each other, on its mesh."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from handloom.stores.joints import FINGERS, OPENXR26
from handloom.synth.contact import touch
from handloom.synth.gestures import GESTURES
from handloom.synth.hand import PALM, ROOT_SIZE, WRIST, RiggedHand, pose_hand, without_helpers
from handloom.synth.pose import draw
from handloom.synth.subject_sizes import sample_shape

PALM_BONES = [PALM, WRIST, *(OPENXR26.index(f"{f}_metacarpal") for f in FINGERS)]


def normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = vertices[faces]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(out, faces[:, k], face)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def gap_mm(vertices: np.ndarray, normal: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """Between two parts (masks) of a mesh: along the nearest vertex's normal, negative inside it."""
    gaps = []
    for a, b in ((one, other), (other, one)):
        distance, nearest = cKDTree(vertices[b]).query(vertices[a])
        along = ((vertices[a] - vertices[b][nearest]) * normal[b][nearest]).sum(1)
        beside = np.sqrt(np.maximum(distance**2 - along**2, 0))
        facing = (beside < 2.5) & (np.abs(along) < 12)
        gaps.append(along[facing].min() if facing.any() else distance.min())
    return float(min(gaps))


def gaps_of(hand: RiggedHand, poses: np.ndarray, shapes: np.ndarray, tip: str, bones: list[int]) -> np.ndarray:
    owner = without_helpers(hand.dense_weights()).argmax(1)
    mine, others = owner == OPENXR26.index(f"{tip}_distal"), np.isin(owner, bones)
    posed = pose_hand(hand, poses, np.zeros((len(poses), ROOT_SIZE)), shapes).vertices.astype(np.float64)
    return np.array([gap_mm(v, normals(v, hand.faces), mine, others) for v in posed])


def people(count: int) -> np.ndarray:
    return np.stack([sample_shape(np.random.default_rng((1, i))) for i in range(count)])


def drawn(hand: RiggedHand, family: str, shapes: np.ndarray, *, touching: bool) -> np.ndarray:
    """One pose a subject; all of them with their contacts closed, or none."""
    contacts = GESTURES[family].contacts
    poses = [draw(hand, family, np.random.default_rng((2, i)), 1) for i in range(len(shapes))]
    if touching:
        goal = np.full((1, len(contacts)), -0.4)
        poses = [touch(hand, contacts, p, shape, goal)[0] for p, shape in zip(poses, shapes, strict=True)]
    return np.concatenate(poses)


def deepest(hand: RiggedHand, poses: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """(n,) smallest gap between any two of the fingers' ends, the thumb's end and the palm."""
    owner = without_helpers(hand.dense_weights()).argmax(1)
    posed = pose_hand(hand, poses, np.zeros((len(poses), ROOT_SIZE)), shapes).vertices.astype(np.float64)
    ends = [[OPENXR26.index(f"{f}_{b}") for b in ("intermediate", "distal")[f == "thumb" :]] for f in FINGERS]
    parts = [np.isin(owner, bones) for bones in (*ends, PALM_BONES)]
    pairs = [(a, b) for i, a in enumerate(parts) for b in parts[i + 1 :]]
    out = []
    for vertices in posed:
        normal = normals(vertices, hand.faces)
        out.append(min(gap_mm(vertices, normal, a, b) for a, b in pairs))
    return np.array(out)
