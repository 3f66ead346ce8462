"""The built-in right hand: skeleton from published bone lengths, flesh of round cones, forearm included.

Bone lengths are Buryanov & Kotiuk's (2010) means, scaled to an adult hand length of 174 mm, the mean of both
sexes. The mesh is generated once (3 s, two of them for its correctives) and kept in the user's cache folder
under a name that hashes this code and its parameters, so a changed recipe never meets a stale mesh.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import FINGERS, OPENXR26
from .hand import (
    DOFS,
    FOREARM,
    HALF_WAY,
    N_BONES,
    N_MOVERS,
    ROOT_SIZE,
    SHAPE_SIZE,
    WRIST,
    Correctives,
    RiggedHand,
    kinematics,
    motion,
    without_helpers,
)
from .surface import strongest

if TYPE_CHECKING:
    from .flesh import Cone

F64 = NDArray[np.float64]

SCALE: Final = 0.93
"""From the published bone lengths to the mean adult hand length."""
FOREARM_MM: Final = 170.0
"""Length of forearm behind the wrist."""
TRIANGLES: Final = 2600

# Metacarpal, proximal, (intermediate,) distal; mm, Buryanov & Kotiuk 2010.
BONES_MM: Final = {
    "thumb": (46.2, 31.6, 21.7),
    "index": (68.1, 39.8, 22.4, 15.8),
    "middle": (64.6, 44.6, 26.3, 17.4),
    "ring": (58.0, 41.4, 25.7, 17.3),
    "little": (53.7, 32.7, 18.1, 16.0),
}
# Proximal ends of the metacarpals, mm from the wrist: x to the little finger, y distal, z dorsal.
BASES_MM: Final = {
    "thumb": (-20.0, 20.0, -10.5),
    "index": (-13.0, 24.0, -2.0),
    "middle": (-2.0, 31.0, 0.0),
    "ring": (8.0, 28.5, -1.0),
    "little": (16.5, 25.0, -4.0),
}
# Directions at rest of each bone in turn; a shorter list repeats its last.
DIRECTIONS: Final = {
    "thumb": ((-0.60, 0.68, -0.40), (-0.46, 0.83, -0.33), (-0.40, 0.87, -0.29)),
    "index": ((-12.5, 67.0, -0.5), (-4.5, 67.0, -2.0)),
    "middle": ((0.0, 64.0, 1.0), (0.5, 64.0, -2.0)),
    "ring": ((10.1, 57.0, -1.0), (5.0, 57.0, -2.5)),
    "little": ((19.9, 50.0, -3.0), (9.5, 51.0, -3.0)),
}
# What a finger's back looks at, at rest: the palm's arch turns the outer fingers outward, the thumb wholly.
DORSAL: Final = {
    "thumb": (-0.9, 0.0, 0.12),
    "index": (-0.08, 0.0, 1.0),
    "middle": (0.0, 0.0, 1.0),
    "ring": (0.10, 0.0, 1.0),
    "little": (0.22, 0.0, 1.0),
}


def _unit(v: F64) -> F64:
    return v / np.linalg.norm(v)


def frame(distal: F64, dorsal: F64) -> F64:
    """(3, 3) with columns x = y × z, y along `distal`, z as near to `dorsal` as can be."""
    y = _unit(distal)
    x = _unit(np.cross(y, dorsal))
    return np.stack([x, y, np.cross(x, y)], axis=1)


def skeleton() -> tuple[F64, F64]:
    """Rest joints (26, 3) in published mm (unscaled) and frames (26, 3, 3)."""
    joints, frames = np.zeros((26, 3)), np.tile(np.eye(3), (26, 1, 1))
    for finger in FINGERS:
        row = OPENXR26.index(f"{finger}_metacarpal")
        joints[row] = BASES_MM[finger]
        directions = DIRECTIONS[finger]
        for i, length in enumerate(BONES_MM[finger]):
            axes = frame(np.array(directions[min(i, len(directions) - 1)], float), np.array(DORSAL[finger], float))
            frames[row + i : row + i + 2] = axes
            joints[row + i + 1] = joints[row + i] + length * axes[:, 1]
    middle = OPENXR26.index("middle_metacarpal")
    joints[OPENXR26.index("palm")] = joints[middle : middle + 2].mean(0)
    return joints, frames


def generate(*, resolution_mm: float) -> RiggedHand:
    """Build the mesh, weights and parts from nothing; seconds on one core."""
    # scikit-image, scipy.sparse and the decimator cost half a second to import: only when there is no cache.
    from . import body, correctives, flesh

    joints, frames = skeleton()
    # The cut lies between two layers of the grid: on one it would leave a triangle of no size at every point.
    low = np.array([-80.0, -FOREARM_MM - 6.7, -62.0])
    high = np.array([62.0, 205.0, 36.0])
    shape = np.ceil((high - low) / resolution_mm).astype(int) + 1
    grid = flesh.Grid(low, resolution_mm, (int(shape[0]), int(shape[1]), int(shape[2])))
    values, cones = body.flesh(joints, frames, grid, FOREARM_MM)
    y = low[1] + resolution_mm * np.arange(shape[1])
    cut = (-FOREARM_MM - y)[None, :, None].astype(np.float32)
    values = flesh.smooth_max(values, np.broadcast_to(cut, values.shape), 8)
    fine, fine_faces = flesh.surface(values, grid)

    owner, width = _owners(fine, cones, joints, frames)
    weights = flesh.diffuse(fine, fine_faces, owner, width, N_MOVERS)

    # A straight finger is a cylinder to the decimator, which would leave no vertices where it bends. So the
    # mesh is thinned half closed, and each vertex taken back by the motion of the fine ones nearest to it.
    for bend in (0.45, 0.4, 0.5, 0.35):
        blended = np.einsum("nb,bij->nij", weights, _half_closed(joints, frames, bend))
        bent = (blended[:, :, :3] @ fine[:, :, None])[..., 0] + blended[:, :, 3]
        found = flesh.thinned(bent, fine_faces, triangles=TRIANGLES)
        if found is not None:
            break
    else:
        raise AssertionError("no decimation of the built-in hand is closed")
    thin, faces = found
    near, share = flesh.neighbours(bent, fine_faces, thin, faces)
    weights = (share[:, :, None] * weights[near]).sum(1)
    back = (share[:, :, None, None] * blended[near]).sum(1)
    vertices = np.linalg.solve(back[:, :, :3], (thin - back[:, :, 3])[..., None])[..., 0]
    vertices = flesh.settled(vertices, values, grid)

    index, strength = strongest(weights)
    hand = RiggedHand(
        name="builtin",
        vertices=(vertices * SCALE).astype(np.float32),
        faces=faces,
        bone_index=index,
        bone_weight=strength,
        parts=without_helpers(weights[faces].sum(1)).argmax(1).astype(np.uint8),
        joints=(joints * SCALE).astype(np.float32),
        frames=frames.astype(np.float32),
    )
    return correctives.learnt(hand)


def _owners(points: F64, cones: list[Cone], joints: F64, frames: F64) -> tuple[NDArray[np.intp], F64]:
    """The bone or helper whose flesh each point (N, 3) of the skin is, and the width it blends over, mm."""
    distance = np.full((len(points), N_MOVERS), np.inf)
    for cone in cones:
        distance[:, cone.bone] = np.minimum(distance[:, cone.bone], cone.distance(points))
    owner = distance.argmin(1)
    width = np.full(N_MOVERS, 3.0)
    width[[FOREARM, WRIST, N_BONES + HALF_WAY.index(FOREARM)]] = 12.0
    width[[i for i, name in enumerate(OPENXR26) if name.endswith("metacarpal")]] = 8.0
    spread = width[owner]
    # At a knuckle the palm's flesh folds as sharply as the finger's back, or a fist would lose its heel.
    for finger in FINGERS[1:]:
        knuckle = OPENXR26.index(f"{finger}_proximal")
        along = (points - joints[knuckle]) @ frames[knuckle, :, 1]
        mine = (owner == knuckle) | (owner == knuckle - 1)
        owner[mine] = np.where(along[mine] < 0, knuckle - 1, knuckle)
        owner[mine & (np.abs(along) < 3.5)] = N_BONES + HALF_WAY.index(knuckle)
        spread[mine & (np.abs(along) < 15)] = 3.0
    return owner, spread


def _half_closed(joints: F64, frames: F64, share: float) -> F64:
    """(42, 3, 4) how each bone and helper moves from rest to a hand whose fingers are bent by a share of all."""
    bend = ("mcp_flexion", "pip_flexion", "dip_flexion", "thumb_ip_flexion")
    # Spread, so that no finger comes near another and lends it its motion.
    spread = {"index_mcp_abduction": 0.15, "ring_mcp_abduction": -0.15, "little_mcp_abduction": -0.3}
    pose = np.array([share * d.high_rad if d.name.endswith(bend) else spread.get(d.name, 0.0) for d in DOFS])
    stub = RiggedHand(
        name="stub",
        vertices=np.zeros((1, 3), np.float32),
        faces=np.zeros((0, 3), np.int32),
        bone_index=np.full((1, 4), WRIST, np.int32),
        bone_weight=np.full((1, 4), 0.25, np.float32),
        parts=np.zeros(0, np.uint8),
        joints=joints.astype(np.float32),
        frames=frames.astype(np.float32),
    )
    state = kinematics(stub, pose[None], np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE)))
    out: F64 = motion(stub, state)[0]
    return out


def cache_folder() -> Path:
    """Where generated hands are kept: $XDG_CACHE_HOME/handloom, else ~/.cache/handloom."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "handloom"
    except RuntimeError:  # a user without a home
        return Path(tempfile.gettempdir()) / f"handloom-{os.getuid()}"


def recipe_hash(resolution_mm: float) -> str:
    """Changes with the code that makes the hand and with its parameters."""
    tools = [f"{name} {version(name)}" for name in ("scikit-image", "fast-simplification", "scipy")]
    digest = hashlib.sha256(f"resolution {resolution_mm!r}, {', '.join(tools)}".encode())
    for name in ("anatomy.py", "body.py", "correctives.py", "flesh.py", "hand.py", "surface.py"):
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()[:16]


_ARRAYS: Final = ("vertices", "faces", "bone_index", "bone_weight", "parts", "joints", "frames")
_GIVEN: Final = ("dof", "function", "offset")
"""The arrays of the hand, and of its correctives."""


def builtin_hand(*, resolution_mm: float = 2.0) -> RiggedHand:
    """The kit's own right hand, from the user's cache or generated into it."""
    path = cache_folder() / f"hand-{recipe_hash(resolution_mm)}.npz"
    cached = _read_cache(path)
    if cached is not None:
        return cached
    hand = generate(resolution_mm=resolution_mm)
    _write_cache(hand, path)
    return hand


def _read_cache(path: Path) -> RiggedHand | None:
    """The hand kept at `path`, or None when there is none or the file is damaged."""
    try:
        # From memory: numpy leaves a file that is no archive open.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ARRAYS, *_GIVEN)}
            digest = str(file["digest"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    if digest != _digest(arrays):
        return None
    given = Correctives(**{name: arrays.pop(name) for name in _GIVEN})
    return RiggedHand(name="builtin", correctives=given, **arrays)


def _write_cache(hand: RiggedHand, path: Path) -> None:
    """Keep the hand if the folder can be written; two processes may do so at once."""
    assert hand.correctives is not None
    arrays = {name: getattr(hand, name) for name in _ARRAYS}
    arrays |= {name: getattr(hand.correctives, name) for name in _GIVEN}
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            part = Path(file.name)
            np.savez(file, digest=np.array(_digest(arrays)), **arrays)
        part.replace(path)
    except OSError:
        if part is not None:
            part.unlink(missing_ok=True)


def _digest(arrays: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256()
    for name in (*_ARRAYS, *_GIVEN):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()
