"""What a calibration found: the cameras, how well they are known, and what each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig
from .view_graph import shared_views

F64 = NDArray[np.float64]
Origin = Literal["volume", "first-camera"]


@dataclass(frozen=True, slots=True)
class CameraFit:
    """One camera of the rig."""

    name: str
    seen: int
    """Frames in which it saw the target."""
    used: int
    """Observations that agree with the rig."""
    mistakes: int
    """Observations that do not."""
    residual: float
    """Median of those that do, in the fit's unit."""
    sd_deg: float
    """Standard deviation of its rotation against the first camera's, all axes together."""
    sd_mm: float
    """Likewise of where it sees the middle of the volume."""
    within_deg: float
    """The angle that its rotation is off by at most, in 95 of 100 such calibrations."""
    within_mm: float
    """Likewise where it sees the middle of the volume."""
    bias_mm: float | None
    """How much too far it measures, where that was estimated."""
    bias_sd_mm: float | None

    @property
    def bias_within_mm(self) -> float | None:
        """What the bias is off by at most, in 95 of 100."""
        return None if self.bias_sd_mm is None else 1.96 * self.bias_sd_mm


@dataclass(frozen=True, slots=True, eq=False)
class RigFit:
    """The refined rig, in whichever frame `origin` says, and the evidence."""

    rig: Rig
    cameras: tuple[CameraFit, ...]
    origin: Origin
    seen: NDArray[np.bool_]
    """(T, V) of the frames that were looked at."""
    row: NDArray[np.intp]
    """(T,) which rows of the source these are."""
    places: F64
    """(K, 3) mm of the target in the rig's frame, frames that two or more cameras saw."""
    camera: NDArray[np.intp]
    """(n,) of each observation."""
    place: NDArray[np.intp]
    """(n,) of each observation."""
    residual: F64
    """(n,) distance of each observation from what the rig says."""
    inlier: NDArray[np.bool_]
    """(n,)"""
    unit: Literal["mm", "px"]
    measured: F64 | None = None
    """(n, 3) mm of each observation in its camera's frame, biases taken off, where the target has a place there."""
    notes: tuple[str, ...] = ()

    @property
    def shared(self) -> NDArray[np.int64]:
        """(V, V) frames in which two cameras saw the target together."""
        return shared_views(self.seen)

    def disagreement_mm(self, rig: Rig) -> float | None:
        """How far, in the median, cameras standing as in `rig` put the target from the middle of what all say."""
        if self.measured is None:
            return None
        fine = self.inlier
        in_rig = np.zeros_like(self.measured)
        for view, camera in enumerate(rig.cameras):
            in_rig[self.camera == view] = camera.to_rig(self.measured[self.camera == view])
        count = np.bincount(self.place[fine], minlength=len(self.places))
        sums = np.stack([np.bincount(self.place[fine], in_rig[fine, axis], len(self.places)) for axis in range(3)], 1)
        middle = sums / np.maximum(count, 1)[:, None]
        judged = fine & (count[self.place] > 1)
        return float(np.median(np.linalg.norm(in_rig[judged] - middle[self.place[judged]], axis=1)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {
            "frames": len(self.seen),
            "frames_shared": int((self.seen.sum(1) > 1).sum()),
            "origin": self.origin,
            "residual_unit": self.unit,
            "cameras": [
                {
                    "name": one.name,
                    "frames": one.seen,
                    "used": one.used,
                    "mistakes": one.mistakes,
                    "residual": round(one.residual, 4),
                    "sd_deg": round(one.sd_deg, 5),
                    "sd_mm": round(one.sd_mm, 4),
                    "within_deg_95": round(one.within_deg, 5),
                    "within_mm_95": round(one.within_mm, 4),
                    "bias_mm": None if one.bias_mm is None else round(one.bias_mm, 3),
                    "bias_sd_mm": None if one.bias_sd_mm is None else round(one.bias_sd_mm, 3),
                }
                for one in self.cameras
            ],
            "shared_frames": self.shared.tolist(),
            "notes": list(self.notes),
            "rig": self.rig.to_dict(),
        }


def placed(
    rig: Rig,
    *,
    rotation: F64,
    shift: F64,
    covariance: F64,
    bias_mm: F64 | None,
    bias_sd_mm: NDArray[Any] | None,
    seen: NDArray[np.bool_],
    row: NDArray[np.intp],
    places: F64,
    camera: NDArray[np.intp],
    place: NDArray[np.intp],
    residual: F64,
    inlier: NDArray[np.bool_],
    unit: Literal["mm", "px"],
    measured: F64 | None = None,
) -> RigFit:
    """The fit about the middle of the volume: the mean of the target's places, axes as the first camera's.

    Args:
        rig: names, sizes and intrinsics; its poses are replaced.
        rotation: (V, 3, 3); the first is the identity.
        shift: (V, 3) mm.
        covariance: (V, 6, V, 6) of rotation vectors (rad, in the camera's frame) and shifts (mm).
        bias_mm: (V,) or None.
        bias_sd_mm: (V,) or None.
        seen: see `RigFit`, and so for the others.
        row: …
        places: …
        camera: …
        place: …
        residual: …
        inlier: …
        unit: of the residual.
        measured: …
    """
    good = np.zeros(len(places), bool)
    good[place[inlier]] = True
    middle = places[good].mean(0) if good.any() else places.mean(0)
    found = []
    for view, name in enumerate(rig.names):
        mine = camera == view
        fine = mine & inlier
        own = [covariance[view, s, view, s] for s in (slice(0, 3), slice(3, 6))]
        spread = [np.sqrt(max(np.trace(part), 0.0)) for part in own]
        found.append(
            CameraFit(
                name,
                int(seen[:, view].sum()),
                int(fine.sum()),
                int((mine & ~inlier).sum()),
                float(np.median(residual[fine])) if fine.any() else float("nan"),
                float(np.degrees(spread[0])),
                float(spread[1]),
                float(np.degrees(length_within(own[0]))),
                length_within(own[1]),
                None if bias_mm is None else float(bias_mm[view]),
                None if bias_sd_mm is None else float(bias_sd_mm[view]),
            )
        )
    cameras = [
        _posed(one, rotation[view], shift[view] + rotation[view] @ middle) for view, one in enumerate(rig.cameras)
    ]
    return RigFit(
        Rig(tuple(cameras)),
        tuple(found),
        "volume",
        seen,
        row,
        places - middle,
        camera,
        place,
        residual,
        inlier,
        unit,
        measured,
    )


def length_within(covariance: F64, share: float = 0.95) -> float:
    """The length that a normal vector of that covariance (3, 3) does not exceed in `share` of all cases.

    The sum of three squares of different variance is close to a gamma variable of the same mean and variance
    (Satterthwaite 1946); with equal variances, and with a single one, it is exact.
    """
    mean, squares = float(np.trace(covariance)), float((covariance**2).sum())
    if squares <= 0:
        return 0.0
    from scipy.special import gammaincinv

    shape = mean**2 / (2 * squares)
    return float(np.sqrt(gammaincinv(shape, share) * mean / shape))


def with_origin(fit: RigFit, origin: Origin) -> RigFit:
    """A rig about the middle of the volume, as `placed` makes it, in the frame that is asked for."""
    if origin == "volume":
        return fit
    # Axes are the first camera's either way, so only the origin moves.
    middle = fit.rig.cameras[0].translation
    cameras = [_posed(c, c.rotation, c.translation - c.rotation @ middle) for c in fit.rig.cameras]
    return replace(fit, rig=Rig(tuple(cameras)), origin=origin, places=fit.places + middle)


def with_axes(fit: RigFit, beside: Sequence[tuple[Camera, F64, F64]]) -> RigFit:
    """A rig of the cameras that stand beside the fit's own, about the same middle; the first one sets the axes.

    Args:
        fit: as `placed` makes it.
        beside: of each camera, the other one, and R, t from that one's frame into the fit's own camera's.
    """
    posed = [
        (other, rotation.T @ own.rotation, rotation.T @ (own.translation - shift))
        for own, (other, rotation, shift) in zip(fit.rig.cameras, beside, strict=True)
    ]
    turn = posed[0][1]
    rig = Rig(tuple(_posed(other, rotation @ turn.T, shift) for other, rotation, shift in posed))
    return replace(fit, rig=rig, places=fit.places @ turn.T)


def with_poses(fit: RigFit, rig: Rig) -> RigFit:
    """The fit with cameras that stand a little otherwise, about the same middle; the first one sets the axes."""
    turn = rig.cameras[0].rotation
    cameras = tuple(_posed(camera, camera.rotation @ turn.T, camera.translation) for camera in rig.cameras)
    return replace(fit, rig=Rig(cameras), places=fit.places @ turn.T)


def _posed(camera: Camera, rotation: F64, shift: F64) -> Camera:
    left, _, right = np.linalg.svd(rotation)  # rounding adds up over the steps
    (a, b, c), (d, e, f), (g, h, i) = (left @ right).tolist()
    x, y, z = (float(value) for value in shift)
    return replace(camera, r=((a, b, c), (d, e, f), (g, h, i)), t=(x, y, z))
