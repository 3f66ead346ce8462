"""Finding a ChArUco board in a picture: which of its corners are where, and how the board lies before the camera.

OpenCV finds the markers, which name the corners between them, and refines the corners to a fraction of a pixel
(Garrido-Jurado et al. 2014). A board that is partly out of view or behind a hand gives the corners that are seen.
Its pose follows from the corners of one picture (IPPE, Collins & Bartoli 2014); a plane seen nearly face on has two
poses that explain it almost equally well, so both are kept until several cameras have been asked.

Cost: 5 to 15 ms for a picture of 640 × 480.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera
from .targets import DICTIONARIES, CharucoTarget

F64 = NDArray[np.float64]

LEAST_CORNERS: Final = 6
LEAST_SPREAD: Final = 0.45
"""How far the corners must leave a line, standard deviation in squares: two rows of corners have 0.5."""


@dataclass(frozen=True, slots=True, eq=False)
class Board:
    """The corners of a board that one picture shows."""

    ids: NDArray[np.intp]
    """(n,) which corners."""
    px: F64
    """(n, 2) where, in the picture as it is (with lens distortion)."""


def board_of(target: CharucoTarget) -> Any:
    """OpenCV's description of the board."""
    family = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, DICTIONARIES[target.dictionary]))
    board = cv2.aruco.CharucoBoard((target.columns, target.rows), target.square_mm, target.marker_mm, family)
    if target.legacy:
        board.setLegacyPattern(True)
    return board


def corners_mm(target: CharucoTarget) -> F64:
    """(n, 3) mm of all corners about their middle: x along the columns, y along the rows, in the plane z = 0."""
    rows, columns = np.mgrid[: target.rows - 1, : target.columns - 1]
    flat = np.stack([columns.ravel(), rows.ravel(), np.zeros(target.corners)], 1) * target.square_mm
    out: F64 = flat - flat.mean(0)
    return out


def markers_needed(target: CharucoTarget) -> int:
    """How many markers the board carries."""
    return target.columns * target.rows // 2


def dictionary_size(target: CharucoTarget) -> int:
    """How many markers the dictionary has."""
    return len(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, DICTIONARIES[target.dictionary])).bytesList)


def detector_of(target: CharucoTarget) -> Any:
    """OpenCV's detector for the board."""
    markers = cv2.aruco.DetectorParameters()
    # Corners between markers are refined by themselves; refined markers place them better to begin with.
    markers.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    return cv2.aruco.CharucoDetector(board_of(target), cv2.aruco.CharucoParameters(), markers)


def find_board(grey: NDArray[np.uint8], detector: Any, target: CharucoTarget) -> Board | None:
    """The board in a picture (H, W), or None where too little of it shows to say how it lies."""
    px, ids, *_ = detector.detectBoard(grey)
    if ids is None or len(ids) < LEAST_CORNERS:
        return None
    ids, px = np.asarray(ids).reshape(-1).astype(np.intp), np.asarray(px, np.float64).reshape(-1, 2)
    at = corners_mm(target)[ids, :2] / target.square_mm
    if np.linalg.svd(at - at.mean(0), compute_uv=False)[1] / np.sqrt(len(at)) < LEAST_SPREAD:
        return None
    return Board(ids, px)


def seen_markers(grey: NDArray[np.uint8], target: CharucoTarget) -> int:
    """How many markers of the dictionary, though perhaps not of this board, a picture shows."""
    family = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, DICTIONARIES[target.dictionary]))
    ids = cv2.aruco.ArucoDetector(family).detectMarkers(grey)[1]
    return 0 if ids is None else len(ids)


def poses_of(board: Board, points_mm: F64, camera: Camera) -> list[tuple[F64, F64]]:
    """Up to two poses R, t (board's frame into the camera's, mm) of a board, the better one first.

    Args:
        board: what was seen.
        points_mm: (n, 3) of all corners of the target.
        camera: with its intrinsics and distortion.
    """
    matrix = camera_matrix(camera.k)
    dist = np.array(camera.dist) if camera.dist else None
    try:
        _, turns, shifts, _ = cv2.solvePnPGeneric(points_mm[board.ids], board.px, matrix, dist, flags=cv2.SOLVEPNP_IPPE)
    except cv2.error:
        return []
    found = []
    for turn, shift in zip(turns, shifts, strict=True):
        turn, shift = cv2.solvePnPRefineLM(points_mm[board.ids], board.px, matrix, dist, turn, shift)
        rotation, t = np.asarray(cv2.Rodrigues(turn)[0], np.float64), np.asarray(shift, np.float64).reshape(3)
        # Corners behind the camera explain the picture just as well, and are not there.
        if np.isfinite(t).all() and ((points_mm[board.ids] @ rotation.T + t)[:, 2] > 0).all():
            found.append((rotation, t))
    return found


def camera_matrix(k: tuple[float, ...]) -> F64:
    """(3, 3) of fx, fy, cx, cy."""
    return np.array([[k[0], 0, k[2]], [0, k[1], k[3]], [0, 0, 1]])
