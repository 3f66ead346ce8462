"""One hand at one instant: what each camera sees of it, and all of them together in the rig's frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .confidence import fused_doubt
from .fusion import fuse
from .inputs import DepthView
from .predict import Estimates, Model, Pose

Source = Literal["truth", "located", "given", "tracked"]
"""Where the first crops were: a stored or a given centre, one found in the whole images, the last pose."""


@dataclass(frozen=True, slots=True)
class RigPose:
    """One hand at one instant, by all cameras together."""

    joints_mm: NDArray[np.float32]
    """(J, 3) in the rig's frame."""
    joint_disagreement_mm: NDArray[np.float64]
    """(J,) mean distance of the cameras' joints to the fused one; 0 of a single camera."""
    confidence: float
    """From 0 to 1: see `confidence.py`."""
    score: float
    """Probability that the palm is one (the mean of the cameras' where they were located one by one)."""
    source: str
    """'tracked', 'located', 'given' or 'truth': what led to it."""
    views: Mapping[int, Pose]
    """By camera number, in the camera's frame, as each sees it."""

    @property
    def disagreement_mm(self) -> float:
        """Mean over the joints."""
        return float(self.joint_disagreement_mm.mean())


def rig_pose(
    model: Model, views: Sequence[DepthView], read: Estimates, *, source: str | None = None, score: float | None = None
) -> RigPose:
    """The pose of an instant from what was read in its images.

    Args:
        model: the model; says how disagreement becomes confidence.
        views: V images.
        read: their poses.
        source: what led to them; what the images say if left out.
        score: likewise.
    """
    return rig_poses(model, [views], read, source=source, score=score)[0]


def rig_poses(
    model: Model,
    instants: Sequence[Sequence[DepthView]],
    read: Estimates,
    *,
    source: str | None = None,
    score: float | None = None,
) -> list[RigPose]:
    """As `rig_pose`, of several instants, each of one image at least; `read` has one image after the other."""
    sure = model.confidence.view(read.spread_mm)
    first = np.cumsum([0, *map(len, instants)]).tolist()
    made: dict[int, RigPose] = {}
    for count in set(map(len, instants)):
        # Those of as many images are fused together: the arithmetic is little, the calls are what costs.
        some = [n for n, views in enumerate(instants) if len(views) == count]
        rows = np.array([first[n] for n in some])[:, None] + np.arange(count)
        cameras = [[view.camera for view in instants[n]] for n in some]
        in_rig = np.array(
            [
                [camera.to_rig(joints) for camera, joints in zip(*pair, strict=True)]
                for pair in zip(cameras, read.joints_mm[rows], strict=True)
            ]
        )
        fused = fuse(in_rig, sure[rows])
        curve = model.confidence.view if count == 1 else model.confidence.fused
        together = curve(fused_doubt(read.spread_mm[rows], fused)).tolist()
        joints = fused.joints_mm.astype(np.float32)
        for i, n in enumerate(some):
            views = instants[n]
            poses = {
                view.view: Pose(
                    joints_mm=read.joints_mm[row],
                    center_mm=read.center_mm[row],
                    center_source=source or view.center_source,
                    center_score=view.center_score if score is None else score,
                    spread_mm=float(read.spread_mm[row]),
                    confidence=float(sure[row]),
                    layout=model.layout,
                )
                for row, view in enumerate(views, start=first[n])
            }
            made[n] = RigPose(
                joints_mm=joints[i],
                joint_disagreement_mm=fused.joint_disagreement_mm[i],
                confidence=together[i],
                score=sum(view.center_score for view in views) / count if score is None else score,
                source=source or views[0].center_source,
                views=poses,
            )
    return [made[n] for n in range(len(instants))]
