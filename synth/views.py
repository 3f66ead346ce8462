"""A posed hand as the cameras of a rig see it: crops, bone masks, centres and which joints are visible.

The hand's window is drawn at the camera's own pitch, sensed there and only then resampled to the crop, so
that steps of disparity, shadows and lost pixels have their true size.

Cost: see benchmarks/synthesis.py; about 0.4 ms a view at 320 × 240, half of it the sensor's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig, project
from ..stores.crops import crop_k, native_window, nearest_pixels, window_k
from ..stores.joints import OPENXR26
from ..stores.recording import CENTER_SOURCES
from . import sensor as sensors
from .hand import BONE_PARENTS, FOREARM, N_BONES, PALM, WRIST, RiggedHand
from .props import Mesh
from .render import Renderer
from .scene import NEAR_MM, in_camera, pixel_box
from .surroundings import Surroundings
from .windows import bounds, cut, owned, parts_of

F32 = NDArray[np.float32]
TRUTH: Final = CENTER_SOURCES.index("truth")
_METACARPALS: Final = tuple(i for i, n in enumerate(OPENXR26) if n.endswith("metacarpal") and not n.startswith("thumb"))


def _flesh_of() -> NDArray[np.bool_]:
    """(26, 256) whether a joint counts as seen where the front surface belongs to a part (255 to none)."""
    out = np.zeros((len(OPENXR26), 256), np.bool_)
    for joint in range(len(OPENXR26)):
        out[joint, joint] = True
        if BONE_PARENTS[joint] >= 0:
            out[joint, BONE_PARENTS[joint]] = True
    palm = (PALM, WRIST, *_METACARPALS)
    out[np.ix_((PALM, *_METACARPALS), palm)] = True
    out[WRIST, [*palm, FOREARM, OPENXR26.index("thumb_metacarpal")]] = True
    assert not out[:, N_BONES:].any()
    return out


_FLESH_OF: Final = _flesh_of()


@dataclass(frozen=True, slots=True)
class Studio:
    """What stays the same from frame to frame."""

    hand: RiggedHand
    rig: Rig
    renderer: Renderer
    sensor: sensors.Sensor | None
    seed: int
    """Of the sensor's noise."""
    crop_px: int = 192
    window_mm: float = 450.0
    scene: Surroundings | None = None
    """What stands around the hand; None: nothing ever."""
    bare: Triangles = field(init=False)
    """The hand's own triangles."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bare", Triangles(self.hand.faces, _with_nothing(self.hand.parts + 1)))


@dataclass(frozen=True, slots=True)
class Triangles:
    """The triangles of everything that is drawn in a frame, the hand's first."""

    faces: NDArray[np.int32]
    """(F, 3)."""
    parts: NDArray[np.uint8]
    """(F + 1,) bone of each triangle + 1, 0 for what is not the hand; the last entry, which triangle −1 finds, too."""


def _with_nothing(parts: NDArray[Any], extra: int = 0) -> NDArray[np.uint8]:
    return np.concatenate([parts, np.zeros(extra + 1)]).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Shots:
    """n frames by V cameras; the columns of `crops/` and of `labels/visible`."""

    crop: NDArray[np.uint16]
    """(n, V, S, S) in each camera's depth unit."""
    parts: NDArray[np.uint8]
    """(n, V, S, S), 255 where there is no hand."""
    k: F32
    """(n, V, 4) of the crops."""
    center: F32
    """(n, V, 3) mm in the cameras."""
    center_source: NDArray[np.uint8]
    """(n, V) truth, or none where the camera cannot see the palm's place."""
    visible: NDArray[np.uint8]
    """(n, V, 26)."""


def blank(studio: Studio, count: int) -> Shots:
    """Room for `count` frames, nothing seen yet; filled row by row, so that no picture is copied about."""
    views, side = len(studio.rig), studio.crop_px
    return Shots(
        crop=np.zeros((count, views, side, side), np.uint16),
        parts=np.full((count, views, side, side), 255, np.uint8),
        k=np.zeros((count, views, 4), np.float32),
        center=np.zeros((count, views, 3), np.float32),
        center_source=np.zeros((count, views), np.uint8),
        visible=np.zeros((count, views, len(OPENXR26)), np.uint8),
    )


def shoot(
    studio: Studio,
    vertices_rig: NDArray[Any],
    joints_rig: NDArray[Any],
    *,
    frame: int,
    into: Shots,
    row: int,
    around: Mesh | None = None,
) -> None:
    """Fill a row with the hand of vertices (N, 3) and joints (26, 3), rig frame mm, by every camera.

    Args:
        studio: what stays the same.
        vertices_rig: of the hand.
        joints_rig: of the hand.
        frame: number of the sample, for the sensor's noise.
        into: the columns.
        row: of them.
        around: what else is there, in the rig's frame; it hides, shades and is sensed, but is no part of the hand.
    """
    side, drawn = studio.crop_px, studio.bare
    if around is not None:
        first = len(vertices_rig)
        vertices_rig = np.concatenate([vertices_rig, around.vertices.astype(np.float32)])
        faces = np.concatenate([studio.hand.faces, around.faces + np.int32(first)])
        drawn = Triangles(faces, _with_nothing(studio.hand.parts + 1, len(around.faces)))
    cameras = studio.rig.cameras
    joints_cam = np.stack([camera.to_camera(joints_rig) for camera in cameras])
    centers = into.center[row] = joints_cam[:, PALM].astype(np.float32)
    before = np.flatnonzero(centers[:, 2] >= NEAR_MM)
    ks = np.array([camera.k for camera in cameras])[before]
    into.k[row, before] = crop_k(centers[before], ks, crop_px=side, window_mm=studio.window_mm)
    for view, (u, v) in zip(before.tolist(), project(centers[before], ks).tolist(), strict=True):
        camera, joints, center, k = cameras[view], joints_cam[view], centers[view], into.k[row, view]
        if not (-0.5 <= u < camera.width - 0.5 and -0.5 <= v < camera.height - 0.5):
            continue
        into.center_source[row, view] = TRUTH
        vertices = in_camera(camera, vertices_rig)
        box = _window(studio, camera, vertices, center)
        if not (box[2] and box[3]):
            continue
        depth, parts = _sense(studio, drawn, camera, vertices, box, frame, view)
        inside = window_k(camera.k, box[0], box[1])
        columns, rows = nearest_pixels(inside, k, width=side, height=side)
        cut(depth, parts, columns, rows, into.crop[row, view], into.parts[row, view])
        into.visible[row, view] = visible_joints(joints, inside, parts)


def crop_rows(shots: Shots, *, parts: bool) -> dict[str, NDArray[Any]]:
    """The columns of `crops/`."""
    rows: dict[str, NDArray[Any]] = {
        "crop": shots.crop,
        "center": shots.center,
        "k": shots.k,
        "center_source": shots.center_source,
        "center_score": (shots.center_source > 0).astype(np.float32),
    }
    return {**rows, "parts": shots.parts} if parts else rows


def _window(studio: Studio, camera: Camera, vertices: F32, center: F32) -> tuple[int, int, int, int]:
    """Left, top, width, height of the camera's pixels to draw: the hand's, as far as the crop needs them."""
    near, far, *_ = bounds(vertices)
    near = max(near, NEAR_MM)
    far = max(far, near)
    margin = sensors.margin_px(studio.sensor, camera.k[0], near_mm=near, far_mm=far)
    left, top, width, height = native_window(
        camera.k, center, width=camera.width, height=camera.height,
        window_mm=studio.window_mm, margin_px=margin,
    )  # fmt: skip
    u0, v0, u_size, v_size = pixel_box(camera, vertices, sensors.reach_px(studio.sensor) + 1)
    right, bottom = min(left + width, u0 + u_size), min(top + height, v0 + v_size)
    left, top = max(left, u0), max(top, v0)
    return left, top, max(right - left, 0), max(bottom - top, 0)


def _sense(
    studio: Studio,
    drawn: Triangles,
    camera: Camera,
    vertices: F32,
    box: tuple[int, int, int, int],
    frame: int,
    view: int,
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Depth (h, w) as the camera gives it and the bone of each pixel + 1, in a window of native pixels."""
    left, top, width, height = box
    k = window_k(camera.k, left, top)
    seen = studio.renderer.render(vertices, drawn.faces, k, width, height)
    depth = sensors.apply(
        studio.sensor, seen.depth_mm, camera.k, window=(left, top), depth_unit_mm=camera.depth_unit_mm,
        seed=studio.seed, frame=frame, view=view,
    )  # fmt: skip
    return depth, parts_of(seen.triangle, drawn.parts)


def visible_joints(joints_cam: NDArray[Any], k: NDArray[Any], parts: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(26,) 1 where the front surface around a joint's pixel is the joint's own flesh.

    Joints lie inside the flesh, 15 mm deep in the median and 75 at most, so depth cannot decide.

    Args:
        joints_cam: (26, 3) mm in the camera.
        k: (4,) of the image of parts.
        parts: (H, W) bone + 1 of the front surface, 0 = nothing.
    """
    behind = joints_cam[:, 2] <= 0
    # A joint behind the camera is nowhere near a pixel; nor is one that is far beside the image.
    uv = project(np.where(behind[:, None], [-np.inf, 0, 1], joints_cam), k)
    pixels = np.floor(np.clip(uv, -1e6, 1e6) + 0.5).astype(np.int64)
    out = np.zeros(len(joints_cam), np.uint8)
    owned(pixels, parts, _FLESH_OF, out)
    return out
