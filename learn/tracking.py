"""Following one hand from image to image: the last pose says where to look, a lost hand is looked for again.

For each instant:

1. The palm of the last fused pose, moved on by its velocity, is the centre of the first crops; the second crops are
   around the palms these show, as in `predict`. So the search of the whole images, most of the time that a prediction
   takes, is left out.
2. The poses of all cameras are fused in the rig's frame (`fusion.py`).
3. A second opinion: the network that finds hands (`stores/palm_net.py`) looks at the fused palm, and at nothing else,
   and says how probable it is that a palm is within 30 mm. It has never seen the pose network's mistakes, so a crop
   that slid onto the arm or a table is mostly noticed, however steady the pose in it is. It is the network that finds
   hands, so what it takes for a hand passes: one that several cameras find anew must score more (`found_score`).
4. The hand is lost where that probability is below `least_score`, or the palm went farther than a hand can
   (`most_mm_s`, plus 60 mm for the noise of two poses). Then it is looked for in the whole images, at once; nothing
   that fails the test is given out.

Without times, images are taken for 30 a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, Rig
from ..stores.errors import HandloomError
from .inputs import DepthView, single_image, usable
from .predict import Model, estimates
from .rig_pose import RigPose, rig_pose
from .smoothing import OneEuro

LEAST_SCORE: Final = 0.35
"""Of the second opinion, below which the hand is lost. On validation frames of two rendered captures 99 % of tracked
hands score above 0.78, 95 % of the places 12 to 35 cm beside them below 0.02; about one in thirty of these is taken for
a hand."""
FOUND_SCORE: Final = 0.75
"""The same of a hand that two cameras or more find in the whole images: most followed hands score more. With one camera
even right places score less; there `LEAST_SCORE` has to do."""
MOST_MM_S: Final = 4000.0
"""No hand before a depth camera is faster."""
NOISE_MM: Final = 60.0
"""How far two poses of a hand at rest may differ."""
PERIOD_NS: Final = 33_333_333
FORGET_NS: Final = 500_000_000
"""A hand not seen for so long is looked for in the whole image."""
STEADY: Final = 0.5
"""Share of the velocity that is believed: hands turn back often."""


@dataclass(slots=True)
class Counts:
    """What a tracker has been through."""

    instants: int = 0
    tracked: int = 0
    found: int = 0
    """Instants at which the hand was found in the whole images."""
    missed: int = 0
    lost: int = 0
    """Instants at which a hand that was followed failed the test."""


@dataclass(slots=True)
class Tracker:
    """Follows one hand through the images of a rig; holds the last pose, nothing that grows.

    Args:
        model: from `load`.
        rig: the cameras.
        hand: 'right' or 'left'; the one the model was trained on if left out.
        smooth: a filter over the fused joints, None for none.
        least_score: probability of a palm below which the hand is lost.
        found_score: the same, for a hand that was lost or never seen and is found by two cameras or more.
    """

    model: Model
    rig: Rig
    hand: str | None = None
    smooth: OneEuro | None = None
    least_score: float = LEAST_SCORE
    found_score: float = FOUND_SCORE
    counts: Counts = field(default_factory=Counts)
    _palm_mm: NDArray[np.float64] | None = None
    _velocity: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    _t_ns: int | None = None

    def update(self, depth: Sequence[NDArray[Any] | None], t_ns: int | None = None) -> RigPose | None:
        """The hand in the images of one instant, None where there is none.

        Args:
            depth: an image (H, W) a camera, in the rig's order; None where a camera gave none.
            t_ns: when they were taken; a thirtieth of a second after the last ones if left out.

        Raises:
            HandloomError: an image is none of its camera, or there are more or fewer than cameras.
        """
        if len(depth) != len(self.rig):
            raise HandloomError(
                "There is an image for each camera of the rig, or None", why=f"{len(depth)} for {len(self.rig)} cameras"
            )
        shown = [
            replace(single_image(image, camera, center_mm=NOWHERE), view=number, center_mm=None)
            for number, (image, camera) in enumerate(zip(depth, self.rig.cameras, strict=True))
            if image is not None
        ]
        return self.follow(shown, t_ns)

    def follow(self, views: Sequence[DepthView], t_ns: int | None = None) -> RigPose | None:
        """As `update`, of images that carry their camera; where they say the hand is, is not looked at."""
        if t_ns is None:
            t_ns = 0 if self._t_ns is None else self._t_ns + PERIOD_NS
        self.counts.instants += 1
        pose = self._tracked(views, t_ns) if views else None
        if pose is None and views:
            pose = self._found(views)
        if pose is None:
            self.counts.missed += 1
            if self._t_ns is None or t_ns - self._t_ns > FORGET_NS:
                self.forget()
            return None
        return self._remember(pose, t_ns)

    def forget(self) -> None:
        """Look for the hand in the whole images next time."""
        self._palm_mm, self._velocity, self._t_ns = None, np.zeros(3), None
        if self.smooth is not None:
            self.smooth.reset()

    def _tracked(self, views: Sequence[DepthView], t_ns: int) -> RigPose | None:
        if self._palm_mm is None or self._t_ns is None or not 0 <= t_ns - self._t_ns <= FORGET_NS:
            return None
        dt = (t_ns - self._t_ns) / 1e9
        pose = self._read(views, self._palm_mm + STEADY * dt * self._velocity, tracked=True)
        if pose is not None and pose.score >= self.least_score:
            away = np.linalg.norm(self._palm_of(pose) - self._palm_mm)
            if away <= NOISE_MM + MOST_MM_S * dt:
                self.counts.tracked += 1
                return pose
        self.counts.lost += 1
        return None

    def _found(self, views: Sequence[DepthView]) -> RigPose | None:
        from ..stores.locate import find_hand

        hand = find_hand([_millimetres(view) for view in views], Rig(tuple(_camera(view) for view in views)))
        if hand is None or hand.score < self.least_score:
            return None
        pose = self._read(views, hand.palm_mm, tracked=False)
        needed = self.found_score if len(views) > 1 else self.least_score
        if pose is None or pose.score < needed:
            return None
        self.counts.found += 1
        if self.smooth is not None:
            self.smooth.reset()
        self._velocity = np.zeros(3)
        self._palm_mm = None
        return pose

    def _read(self, views: Sequence[DepthView], palm_mm: NDArray[np.float64], *, tracked: bool) -> RigPose | None:
        """The pose about a place in the rig, with the second opinion on it."""
        centers = np.array([view.camera.to_camera(palm_mm) for view in views])
        shown = [view for view, ok in zip(views, usable(centers), strict=True) if ok]
        if not shown:
            return None
        centers, model = centers[usable(centers)], self.model
        read = estimates(model, shown, centers, mirrored=(self.hand or model.hand) != model.hand)
        pose = rig_pose(model, shown, read, source="tracked" if tracked else "located", score=0.0)
        score = _second_opinion(self._palm_of(pose), shown)
        views_of = {number: replace(one, center_score=score) for number, one in pose.views.items()}
        return replace(pose, score=score, views=views_of)

    def _remember(self, pose: RigPose, t_ns: int) -> RigPose:
        palm = self._palm_of(pose)
        if self._palm_mm is not None and self._t_ns is not None and t_ns > self._t_ns:
            self._velocity = (palm - self._palm_mm) / ((t_ns - self._t_ns) / 1e9)
        self._palm_mm, self._t_ns = palm, t_ns
        if self.smooth is None:
            return pose
        return replace(pose, joints_mm=self.smooth(pose.joints_mm, t_ns).astype(np.float32))

    def _palm_of(self, pose: RigPose) -> NDArray[np.float64]:
        return np.asarray(pose.joints_mm[self.model.layout.palm], np.float64)


NOWHERE: Final = (0.0, 0.0, 500.0)
"""Stands in where no centre is looked for."""


def _second_opinion(palm_mm: NDArray[np.float64], views: Sequence[DepthView]) -> float:
    """Probability that a palm's joint is within 30 mm of a place in the rig, from that place's surroundings."""
    from ..stores.locate import Candidate, probability, read_places
    from ..stores.palm_net import built_in

    if not np.isfinite(palm_mm).all():
        return 0.0
    net = built_in()
    images, nothing = [_millimetres(view) for view in views], [None] * len(views)
    palms, features = read_places(palm_mm[None], images, Rig(tuple(map(_camera, views))), nothing, net)
    led = float(np.linalg.norm(palms[0] - palm_mm))
    if led > SAME_PALM_MM:
        return 0.0
    return probability(Candidate(palms[0], float(net.trust(features)[0])))


SAME_PALM_MM: Final = 80.0
"""A place that leads farther away than this is no palm itself, only near one."""


def _millimetres(view: DepthView) -> NDArray[Any]:
    return view.depth if view.unit_mm == 1.0 else view.depth * np.float32(view.unit_mm)


def _camera(view: DepthView) -> Camera:
    """The camera of the image as it is: a crop has its own size and K."""
    if view.whole:
        return view.camera
    fx, fy, cx, cy = (float(value) for value in view.k)
    height, width = view.depth.shape
    return replace(view.camera, width=width, height=height, k=(fx, fy, cx, cy))
