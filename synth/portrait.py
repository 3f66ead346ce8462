"""A sheet of pictures of a hand, to judge it by: from six sides at rest, and in the named gestures.

Depth by the z-buffer renderer, lit by the mesh's smooth normals from the upper left; each pixel's normal is
blended from its triangle's corners at the point that was seen. Half a second a sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.config import read_yaml
from ..stores.durable import write_bytes
from ..stores.errors import HandloomError
from .gestures import GESTURES
from .hand import DOFS, PALM, POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, RiggedHand, pose_hand
from .pose import typical_pose
from .raster import rasterise
from .rotation import rotation_matrix
from .surface import vertex_normals

F64 = NDArray[np.float64]
Picture = NDArray[np.uint8]

COLUMNS: Final = 6
CELL_PX: Final = 200
WINDOW_MM: Final = 250.0
"""What a cell shows of the hand's surroundings."""
FINE: Final = 2
"""Each pixel is the mean of this many squared."""
CAMERA_MM: Final = 900.0
PAPER: Final = np.array([250, 249, 246])
SKIN: Final = np.array([214, 176, 152])
LIGHT: Final = np.array([-0.45, -0.65, -0.62])
"""Towards the light, in the camera's axes."""
# How the hand is turned before the camera, whose picture shows its back with the fingers up: degrees about
# the picture's x (right), then y (down).
SIDES: Final = {
    "back": (0, 0), "palm": (0, 180), "thumb side": (0, -90), "little side": (0, 90), "fingertips": (75, 180),
    "wrist": (-80, 180),
}  # fmt: skip
TILTED: Final = (-12, 150)
"""A gesture is seen from the palm, a little from the thumb's side and from above."""


def pose_named(hand: RiggedHand, name: str) -> F64:
    """(25,) rad: a gesture's middle, or the pose of a YAML file of degrees of freedom in degrees.

    Raises:
        HandloomError: neither a gesture nor such a file.
    """
    if not name.lower().endswith((".yaml", ".yml")):
        return typical_pose(hand, name)
    degrees = read_yaml(Path(name))
    names = [dof.name for dof in DOFS]
    out = np.zeros(POSE_SIZE)
    for key, value in degrees.items():
        if key not in names:
            raise HandloomError(f"Unknown degree of freedom '{key}'", where=name, why=f"known: {', '.join(names)}")
        if not isinstance(value, (int, float)) or not np.isfinite(value):
            raise HandloomError(f"'{key}' is no angle", where=name, why=f"it is {value!r}; degrees are needed")
        out[names.index(key)] = np.radians(value)
    return out


def sheet(hand: RiggedHand, pose: F64 | None = None) -> Picture:
    """(H, W, 3) RGB: the hand from six sides and in every gesture; with a `pose`, that pose from six sides."""
    rest = np.zeros(POSE_SIZE) if pose is None else pose
    cells = [(name, rest, turn) for name, turn in SIDES.items()]
    if pose is None:
        cells += [(name.replace("_", " "), typical_pose(hand, name), TILTED) for name in GESTURES]
    poses = np.stack([p for _, p, _ in cells])
    posed = pose_hand(hand, poses, np.zeros((len(cells), ROOT_SIZE)), np.zeros((len(cells), SHAPE_SIZE)))
    size = CELL_PX if pose is None else 2 * CELL_PX
    columns = COLUMNS if pose is None else 3
    pictures = [
        _labelled(_portrait(hand, posed.vertices[i], posed.joints[i], turn, size), name)
        for i, (name, _, turn) in enumerate(cells)
    ]
    return _tiled(pictures, columns)


def write_sheet(hand: RiggedHand, out: Path, pose: F64 | None = None, *, overwrite: bool = False) -> None:
    """Write the sheet as PNG.

    Raises:
        HandloomError: the file exists, or its name does not end in .png.
    """
    import cv2

    if out.suffix.lower() != ".png":
        raise HandloomError("The picture is a PNG", where=str(out), fix="give --out a name that ends in .png")
    if out.exists() and not overwrite:
        raise HandloomError("The output exists already", where=str(out), fix="--overwrite replaces it")
    done, data = cv2.imencode(".png", np.ascontiguousarray(sheet(hand, pose)[..., ::-1]))
    assert done
    write_bytes(out, data.tobytes())


def _portrait(
    hand: RiggedHand, vertices: NDArray[Any], joints: NDArray[Any], turn_deg: Sequence[float], size: int
) -> Picture:
    """(size, size, 3) one picture of a posed mesh (N, 3)."""
    # The camera looks at the back: its x is the hand's, its y and z are opposite. A left hand is turned the
    # other way, so that both show the same side of themselves.
    upright = np.diag([1.0, -1.0, -1.0])
    about_x, about_y = np.radians(turn_deg)
    about_y *= 1 if hand.side == "right" else -1
    rotation = rotation_matrix(np.array([about_x, 0, 0])) @ rotation_matrix(np.array([0, about_y, 0])) @ upright
    middle = joints[PALM] + 0.45 * (joints[PALM] - joints[1])
    points = (vertices - middle) @ rotation.T + [0, 0, CAMERA_MM]
    side = size * FINE
    focal = side * CAMERA_MM / WINDOW_MM
    k = np.array([focal, focal, (side - 1) / 2, (side - 1) / 2])
    depth, triangle = rasterise(points, hand.faces, k, side, side)
    light = _light(points, hand.faces, depth, triangle, k)
    nearness = 1 - 0.22 * np.clip((depth - CAMERA_MM) / 110 + 0.35, 0, 1)
    colour = np.where((triangle >= 0)[..., None], SKIN * (light * nearness)[..., None], PAPER)
    means = colour.reshape(size, FINE, size, FINE, 3).mean(axis=(1, 3))
    out: Picture = np.clip(means + 0.5, 0, 255).astype(np.uint8)
    return out


def _light(points: F64, faces: NDArray[Any], depth: NDArray[Any], triangle: NDArray[Any], k: F64) -> F64:
    """(H, W) how bright each pixel is: half Lambert, so that what turns away is darker but not black."""
    seen = triangle >= 0
    v, u = np.nonzero(seen)
    z = depth[seen].astype(np.float64)
    at = np.stack([(u - k[2]) * z / k[0], (v - k[3]) * z / k[1], z], axis=1)
    corners = points[faces[triangle[seen]]]
    a, b, c = (corners[:, i] for i in range(3))
    whole = np.cross(b - a, c - a)
    area = np.maximum((whole * whole).sum(1), 1e-12)
    share_b = np.clip((np.cross(at - a, c - a) * whole).sum(1) / area, 0, 1)
    share_c = np.clip((np.cross(b - a, at - a) * whole).sum(1) / area, 0, 1)
    shares = np.stack([1 - share_b - share_c, share_b, share_c], axis=1)
    normal = (vertex_normals(points, faces)[faces[triangle[seen]]] * shares[..., None]).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    toward = LIGHT / np.linalg.norm(LIGHT)
    lambert = 0.5 + 0.5 * normal @ toward
    rim = np.clip(-normal[:, 2], 0, 1)
    out = np.zeros(depth.shape)
    out[seen] = (0.16 + 1.0 * lambert**1.5) * (0.72 + 0.28 * rim)
    return out


def _labelled(picture: Picture, text: str) -> Picture:
    import cv2

    out = picture.copy()
    size = len(picture)
    cv2.putText(out, text, (8, size - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (96, 92, 88), 1, cv2.LINE_AA)
    return out


def _tiled(pictures: Sequence[Picture], columns: int) -> Picture:
    blank = np.broadcast_to(PAPER.astype(np.uint8), pictures[0].shape)
    rows = -(-len(pictures) // columns)
    filled = [*pictures, *[blank] * (rows * columns - len(pictures))]
    return np.concatenate(
        [np.concatenate(filled[columns * row : columns * (row + 1)], axis=1) for row in range(rows)], axis=0
    )
