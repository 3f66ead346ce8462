"""Pose -> depth, the render route of Crossing Nets: poses become the depth images that a rig's cameras would give.

For each camera the joints go through the shared space (Gen(Ali(Enc(y)))), and the map that comes back is laid into
the camera's image where its crop lies: the window of `cube_mm` around the palm, nearest pixel, 0 = no return. What is
written is a plain folder with the recording's rig, which `capture import` reads like any other.

The network drew what it has learned from: the hand (and as much of the arm as its crops showed), nothing behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig
from ..stores.crops import crop_k, resample
from ..stores.errors import HandloomError
from ..stores.folder import write_folder, write_joints
from ..stores.joints import Layout, converted
from ..stores.pose_csv import FUSED, read_poses
from ..stores.recording import Recording
from .crossing_check import HAND_BELOW, generating
from .crossing_space import generate_depth
from .inputs import usable
from .model import PoseModel


@dataclass(frozen=True, slots=True)
class Rendered:
    """What was written."""

    frames: int
    images: int
    left_out: int
    """Poses with an unknown joint, or behind a camera."""


def depth_images(
    model: PoseModel, joints_mm: NDArray[np.float32], camera: Camera, *, mirrored: bool = False
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Depth images (B, H, W) uint16 of poses (B, J, 3) mm in a camera's frame, and which (B,) could be made.

    Args:
        model: says the layout of the joints.
        joints_mm: all joints of a pose are needed.
        camera: its K, size and unit.
        mirrored: the poses are of the other hand than the model's.

    Raises:
        HandloomError: the model has no generator.
    """
    generating(model)
    side, cube = model.input_px, model.cube_mm
    center = joints_mm[:, model.layout.palm].astype(np.float64)
    possible = np.isfinite(joints_mm).all(axis=(1, 2)) & usable(center)
    images = np.zeros((len(joints_mm), camera.height, camera.width), np.uint16)
    if not possible.any():
        return images, possible
    relative = (joints_mm[possible] - center[possible][:, None]).astype(np.float32)
    if mirrored:
        relative = relative * np.array([-1, 1, 1], np.float32)
    made = generate_depth(model, torch.from_numpy(relative)).cpu().numpy()[:, 0]
    made = made[..., ::-1] if mirrored else made
    for place, value in zip(np.flatnonzero(possible), made, strict=True):
        depth_mm = center[place, 2] + value * (cube / 2)
        steps = np.where((value < HAND_BELOW) & (depth_mm > 0), np.rint(depth_mm / camera.depth_unit_mm), 0)
        window = crop_k(center[place], camera.k, crop_px=side, window_mm=cube)
        crop = steps.clip(0, np.iinfo(np.uint16).max).astype(np.uint16)
        images[place] = resample(crop, window, camera.k, width=camera.width, height=camera.height)
    return images, np.asarray(possible)


def poses_of(recording: Recording, layout: Layout, poses: Path | None) -> dict[int, NDArray[np.float32]]:
    """The poses (J, 3) mm in the rig by frame_id: a recording's labels, or those of a poses.csv over its rig.

    Raises:
        HandloomError: there are none, or they are of another layout than the model's.
    """
    if poses is None:
        if recording.labels is None or recording.layout is None:
            raise HandloomError(
                "The recording has no labels to draw",
                where=str(recording.path),
                fix=f"handloom predict MODEL {recording.path} --out poses.csv, then --poses poses.csv",
            )
        assert recording.frames is not None
        source = recording.layout
        joints = recording.labels.read("joints")
        found = dict(zip(recording.frames.read("frame_id").tolist(), joints, strict=False))
    else:
        read = read_poses(poses, recording.rig, like=layout)
        source = read.layout
        found = {frame: by.get(FUSED, next(iter(by.values()))) for frame, by in read.joints_mm.items() if by}
    if source.name not in (layout.name, "openxr26"):
        raise HandloomError(
            f"The poses are '{source.name}', the model draws '{layout.name}'",
            where=str(poses or recording.path),
            why="only the 26 canonical joints (openxr26) convert to other layouts",
        )
    return {int(frame): converted(joints, source, layout) for frame, joints in found.items()}


def render(
    model: PoseModel,
    rig: Rig,
    poses: Mapping[int, NDArray[np.float32]],
    out: Path,
    *,
    hand: str,
    progress: Callable[[int, int], None] | None = None,
) -> Rendered:
    """Write the depth images of poses (J, 3) mm in the rig, by frame, as the plain folder `out`.

    Raises:
        HandloomError: the model has no generator, no pose can be drawn, or `out` holds something.
    """
    generating(model)
    layout, mirrored = model.layout, hand != model.hand
    whole = {frame: pose for frame, pose in sorted(poses.items()) if np.isfinite(pose).all()}
    if not whole:
        raise HandloomError(
            "There is no pose to draw", why=f"the model needs all {len(layout)} joints of '{layout.name}'"
        )
    drawn: dict[int, int] = {}

    def images() -> Iterator[tuple[int, int, NDArray[np.uint16], int, int]]:
        for done, (frame, pose) in enumerate(whole.items(), start=1):
            for view, camera in enumerate(rig.cameras):
                seen = camera.to_camera(pose)[None].astype(np.float32)
                depth, possible = depth_images(model, seen, camera, mirrored=mirrored)
                if possible[0]:
                    drawn[frame] = drawn.get(frame, 0) + 1
                    yield frame, view, depth[0], -1, -1
            if progress is not None:
                progress(done, len(whole))

    write_folder(out, rig, images())
    write_joints(out / "joints.csv", {frame: whole[frame] for frame in drawn}, points=layout.points)
    (out / "meta.toml").write_text(
        f'hand = "{hand}"\n'
        + (f'layout = "{layout.name}"\n' if layout.name != "openxr26" else "")
        + f'virtual = true\ngenerated_by = "Crossing Nets, {model.preset} {model.arm}"\n'
    )
    count = sum(drawn.values())
    return Rendered(len(drawn), count, len(poses) * len(rig) - count)


def some_of(poses: Mapping[int, Any], count: int | None) -> dict[int, Any]:
    """So many of the poses, evenly spread over the frames; all where `count` is None."""
    frames = sorted(poses)
    if count is not None and count < len(frames):
        frames = [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return {frame: poses[frame] for frame in frames}
