"""A ball before two cameras, with a dropped image, an unlabelled frame and frame numbers of their own."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from handloom.stores.camera import Camera, Rig
from handloom.stores.crops import take_crop
from handloom.stores.joints import layout_named
from handloom.stores.recording import CENTER_SOURCES, Hand, Recording, create_recording
from handloom.stores.table import Appender

FRAMES, DROPPED, UNLABELLED = 6, (2, 1), 3
RADIUS_MM = 60.0
COS, SIN = 0.8, 0.6
RIG = Rig(
    (
        Camera("near", 80, 60, (90.0, 91.0, 40.5, 29.0), t=(5.0, -4.0, 500.0)),
        Camera(
            "side",
            96,
            72,
            (110.0, 110.0, 47.0, 36.5),
            ((COS, 0.0, SIN), (0.0, 1.0, 0.0), (-SIN, 0.0, COS)),
            (0.0, 10.0, 620.0),
            depth_unit_mm=0.25,
        ),
    )
)  # fmt: skip


def ball(camera: Camera, center_rig_mm: NDArray[np.float64]) -> NDArray[np.uint16]:
    """(H, W) in the camera's unit: the front of a ball, nothing around it."""
    center = camera.to_camera(center_rig_mm)
    v, u = np.mgrid[0 : camera.height, 0 : camera.width]
    fx, fy, cx, cy = camera.k
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(u.shape)], axis=-1)
    a, b = (ray**2).sum(-1), ray @ center
    inside = b**2 - a * (center @ center - RADIUS_MM**2)
    depth = np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, 0)
    return np.rint(depth / camera.depth_unit_mm).astype(np.uint16)


def palm(row: int) -> NDArray[np.float64]:
    """(3,) mm in the rig."""
    return np.array([4.0 * row, -3.0 * row, 2.0 * row])


def write(
    path: Path,
    *,
    layout: str | None = "openxr26",
    hand: Hand = "right",
    whole: bool = True,
    crops: bool = True,
    times: bool = True,
    frames: int = FRAMES,
) -> Recording:
    """The recording; `frame_id` is 100 + the row, joints lie on a spiral around the palm."""
    recording = create_recording(path, kind="captured", rig=RIG, hand=hand, provenance={"made": "by a test"})
    present = np.ones((frames, 2), np.uint8)
    if frames > DROPPED[0]:
        present[DROPPED] = 0
    clock = np.arange(frames)[:, None] * 40_000_000 + np.array([5_000_000_000, 5_000_300_000])
    clock = np.where(present > 0, clock if times else -1, -1)
    depth = [np.stack([ball(camera, palm(row)) for row in range(frames)]) for camera in RIG.cameras]
    for view in range(2):
        depth[view][present[:, view] == 0] = 0
    rows = {
        "present": present,
        "t_device_ns": clock,
        "t_host_ns": clock,
        "frame_number": np.where(present > 0, np.arange(frames)[:, None], -1),
        "frame_id": np.arange(frames, dtype=np.uint64) + np.uint64(100),
        **{name: np.zeros(frames, np.int32) for name in ("subject", "sequence", "split")},
    }
    if whole:
        rows |= {f"depth/{camera.name}": depth[view] for view, camera in enumerate(RIG.cameras)}
    if layout is not None:
        with Appender(recording.create_labels(layout=layout, unit_frames=4)) as appender:
            points = np.stack([joints(layout, row) for row in range(frames)])
            points[UNLABELLED : UNLABELLED + 1] = np.nan
            seen = np.ones((frames, 2, len(layout_named(layout))), np.uint8)
            appender.append({"joints": points, "visible": seen})
    if crops:
        shape = (frames, 2)
        found = {
            "crop": np.zeros((*shape, 48, 48), np.uint16), "center": np.full((*shape, 3), np.nan, np.float32),
            "k": np.zeros((*shape, 4), np.float32), "center_source": np.zeros(shape, np.uint8),
            "center_score": np.zeros(shape, np.float32),
        }  # fmt: skip
        for row, view in np.argwhere(present):
            camera = RIG.cameras[view]
            center = camera.to_camera(palm(row))
            found["crop"][row, view], found["k"][row, view] = take_crop(
                depth[view][row], camera.k, center, crop_px=48, window_mm=240.0
            )
            found["center"][row, view] = center
            found["center_source"][row, view] = CENTER_SOURCES.index("located")
            found["center_score"][row, view] = 0.75
        with Appender(recording.create_crops(parts=False, crop_px=48, window_mm=240.0, unit_frames=4)) as appender:
            appender.append(found)
    with Appender(recording.create_frames(depth=whole, unit_frames=4)) as appender:
        appender.append(rows)
    return recording


def joints(layout: str, row: int) -> NDArray[np.float64]:
    """(J, 3) mm in the rig; the first point is the palm of the canonical layout."""
    turn = np.arange(len(layout_named(layout)))
    spiral = np.stack([np.cos(turn / 3), np.sin(turn / 3), turn / 40], axis=-1) * (2.0 * turn[:, None])
    return np.asarray(palm(row) + spiral)


def poses(path: Path, *, layout: str = "openxr26", off_mm: float = 5.0, frames: int = FRAMES) -> Path:
    """A poses.csv: `near` off by so much in the rig's x, `side` twice as much, fused ones half."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("frame", "camera", "joint", "x_mm", "y_mm", "z_mm"))
        for row in range(frames):
            for share, camera in ((1, RIG.cameras[0]), (2, RIG.cameras[1]), (0.5, None)):
                if (row, share) == (DROPPED[0], 2):
                    continue
                rig = joints(layout, row) + np.array([share * off_mm, 0, 0])
                points = rig if camera is None else camera.to_camera(rig)
                for name, (x, y, z) in zip(layout_named(layout).points, points, strict=True):
                    place = f"{x:.3f}", f"{y:.3f}", f"{z:.3f}"
                    writer.writerow((100 + row, "rig" if camera is None else camera.name, name, *place))
    return path


@pytest.fixture(scope="session")
def scene() -> SimpleNamespace:
    """`write` a recording, `poses` beside it, and what they show."""
    return SimpleNamespace(
        write=write, poses=poses, joints=joints, palm=palm, rig=RIG, frames=FRAMES, dropped=DROPPED,
        unlabelled=UNLABELLED, radius_mm=RADIUS_MM,
    )  # fmt: skip
