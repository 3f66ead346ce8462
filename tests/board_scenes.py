"""A printed ChArUco board moved before cameras with lenses: what calibration from pictures is tested on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from handloom.capture.bundle import turned
from handloom.capture.charuco import board_of
from handloom.capture.targets import CharucoTarget
from handloom.stores.camera import Camera, Rig, write_rig

from ball_scenes import hidden

F64 = NDArray[np.float64]
BOARD = CharucoTarget(6, 4, 40.0, 30.0, "4X4_50")
PX_PER_SQUARE = 40


def printed(target: CharucoTarget) -> NDArray[np.float32]:
    """The board's print, with a white margin of half a square, 0 to 1."""
    size = (target.columns * PX_PER_SQUARE, target.rows * PX_PER_SQUARE)
    margin = PX_PER_SQUARE // 2
    image = cv2.copyMakeBorder(
        board_of(target).generateImage(size), margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=255
    )
    return np.asarray(image, np.float32) / 255


def board_poses(count: int, *, seed: int) -> list[tuple[F64, F64]]:
    """Places (R, t) of the board's middle: through the volume, tilted up to 35°, facing −z (the first camera)."""
    rng = np.random.default_rng(seed)
    out = []
    for index in range(count):
        s = index / count
        shift = np.array([90, 70, 80]) * np.sin(2 * np.pi * (np.array([3.1, 2.3, 1.7]) * s + [0.1, 0.4, 0.7]))
        rotation = turned(rng.uniform(-0.6, 0.6, 3))
        out.append((rotation, shift))
    return out


def undistorted(camera: Camera, px: F64) -> F64:
    """Normalised image points (n, 2) of pixels (n, 2): Brown's model undone by fixed-point iteration."""
    fx, fy, cx, cy = camera.k
    k1, k2, p1, p2 = (*camera.dist[:4], *[0.0] * (4 - len(camera.dist[:4])))
    seen = (px - [cx, cy]) / [fx, fy]
    a, b = seen.T
    for _ in range(12):
        s = a * a + b * b
        rho = 1 + k1 * s + k2 * s * s
        a, b = (
            (seen[:, 0] - 2 * p1 * a * b - p2 * (s + 2 * a * a)) / rho,
            (seen[:, 1] - p1 * (s + 2 * b * b) - 2 * p2 * a * b) / rho,
        )
    return np.stack([a, b], 1)


def rays_of(camera: Camera) -> F64:
    """(H·W, 3) of each pixel, z = 1."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    return np.column_stack([undistorted(camera, np.stack([u.ravel(), v.ravel()], 1)), np.ones(u.size)])


def picture(
    camera: Camera,
    rays: F64,
    texture: NDArray[np.float32],
    pose: tuple[F64, F64],
    *,
    noise: float,
    rng: np.random.Generator,
    target: CharucoTarget = BOARD,
) -> NDArray[np.uint8]:
    """What the camera sees of the board (its print, blurred already) before a grey wall."""
    rotation, shift = camera.rotation @ pose[0], camera.to_camera(pose[1])
    # X = R^T (z ray - t), with z such that X lies in the board's plane.
    ray, origin = rays @ rotation, shift @ rotation
    z = origin[2] / ray[:, 2]
    at = (ray * z[:, None] - origin)[:, :2] / target.square_mm * PX_PER_SQUARE
    at += (np.array(texture.shape[::-1]) - 1) / 2
    across, down = at.T.astype(np.float32).reshape(2, camera.height, camera.width)
    lit = cv2.remap(texture, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0.45)
    lit = np.where(z.reshape(lit.shape) > 0, lit, 0.45)
    return np.clip(np.rint(30 + 180 * lit + rng.normal(0, noise, lit.shape)), 0, 255).astype(np.uint8)


def with_lenses(rig: Rig, *, dist: tuple[float, ...]) -> Rig:
    """The same cameras with a lens, each a little different."""
    return Rig(
        tuple(
            replace(c, dist_model="brown-conrady", dist=tuple(x * (1 + 0.1 * view) for x in dist))
            for view, c in enumerate(rig.cameras)
        )
    )


def write_pictures(
    out: Path,
    rig: Rig,
    poses: list[tuple[F64, F64]],
    *,
    target: CharucoTarget = BOARD,
    blur_px: float = 0.7,
    noise: float = 3.0,
    seed: int,
    described: Rig | None = None,
) -> None:
    """<camera>/NNNNNN.png of every frame, and a rig.toml that knows nothing of where the cameras stand."""
    rng = np.random.default_rng(seed)
    # Blurred in the print, which a pixel samples: a print blurred in the picture would need many rays a pixel.
    at_mm = np.mean([np.linalg.norm(camera.to_camera(np.zeros(3))) for camera in rig.cameras])
    texels = PX_PER_SQUARE / target.square_mm * at_mm / rig.cameras[0].k[0]
    texture = cv2.GaussianBlur(printed(target), (0, 0), blur_px * texels)
    for camera in rig.cameras:
        rays = rays_of(camera)
        (out / camera.name).mkdir(parents=True, exist_ok=True)
        for frame, pose in enumerate(poses):
            image = picture(camera, rays, texture, pose, noise=noise, rng=rng, target=target)
            done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            assert done
            (out / camera.name / f"{frame:06d}.png").write_bytes(data.tobytes())
    write_rig(hidden(described or rig), out / "rig.toml")
