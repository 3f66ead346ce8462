"""Which pose, view and subject every sample shows: sample k follows from (seed, k) alone, in whatever order.

Its pose and view are drawn from (seed, k), its subject's proportions from (seed, subject). Poses come from the
prior, from trajectories of people moving, cut into samples, or from a file (`config.poses`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .config import BLOCK_FRAMES, SynthConfig
from .forearm import WRIST_DOFS, sample_wrist
from .hand import RiggedHand, self_collision_mm
from .pose import (
    TOLERANCE_MM,
    WRIST_DEG,
    MotionStyle,
    point_in_ball,
    random_rotation,
    root_at,
    sample_poses,
    sample_trajectory,
)
from .pose_set import pose_set_of
from .rotation import rotation_matrix, rotation_vector
from .subject_sizes import sample_shape

F64 = NDArray[np.float64]
# What a random stream is for; part of its seed.
_SUBJECT: Final = 1
_FRAME: Final = 2
_WRIST: Final = 4
_MOTION: Final = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """Poses (n, 25), roots (n, 6), shapes (n, SHAPE_SIZE) and subjects (n,) of consecutive samples."""

    pose: F64
    root: F64
    shape: F64
    subject: NDArray[np.int32]
    fit_error_mm: NDArray[np.float32] | None = None
    """(n,) of poses from a file, how far the fit stays from its points."""


def draw_samples(config: SynthConfig, hand: RiggedHand, start: int, stop: int) -> Sample:
    """Samples `start` to `stop`; sample k depends on the configuration and k alone.

    Raises:
        HandloomError: the file of poses cannot be used.
    """
    match config.poses:
        case "prior":
            return _of_prior(config, hand, start, stop)
        case "trajectory":
            return _of_trajectories(config, hand, start, stop)
        case _:
            return _of_file(config, hand, start, stop)


def _rngs(config: SynthConfig, start: int, stop: int) -> list[np.random.Generator]:
    return [np.random.default_rng((config.seed, _FRAME, k)) for k in range(start, stop)]


def _people(config: SynthConfig, rngs: list[np.random.Generator]) -> tuple[NDArray[np.int32], F64]:
    """Subjects (n,) and their shapes (n, SHAPE_SIZE)."""
    subject = np.array([config.first_subject + int(rng.integers(config.subjects)) for rng in rngs], np.int32)
    return subject, np.stack([proportions(config.seed, int(who)) for who in subject])


def _anywhere(config: SynthConfig, hand: RiggedHand, rngs: list[np.random.Generator], shape: F64) -> F64:
    """Roots (n, 6): turned alike often in all ways, palms in the volume."""
    rotation = np.stack([random_rotation(rng) for rng in rngs])
    palm = np.stack([point_in_ball(rng, config.volume_radius_mm) for rng in rngs])
    return root_at(hand, shape, rotation, palm)


def _of_prior(config: SynthConfig, hand: RiggedHand, start: int, stop: int) -> Sample:
    rngs = _rngs(config, start, stop)
    subject, shape = _people(config, rngs)
    blocks = [slice(low, low + BLOCK_FRAMES) for low in range(0, stop - start, BLOCK_FRAMES)]
    pose = np.concatenate([sample_poses(hand, rngs[block], shape[block]) for block in blocks])
    _turn_wrists(config, hand, pose, shape, start)
    return Sample(pose, _anywhere(config, hand, rngs, shape), shape, subject)


def _of_trajectories(config: SynthConfig, hand: RiggedHand, start: int, stop: int) -> Sample:
    """Motions of `sequence_frames` each, one person's; cut where the unit is."""
    length, parts = config.sequence_frames, list[Sample]()
    for sequence in range(start // length, (stop - 1) // length + 1):
        motion = _motion(config, hand, sequence)
        low, high = max(start - sequence * length, 0), min(stop - sequence * length, length)
        cut = slice(low, high)
        parts.append(Sample(motion.pose[cut], motion.root[cut], motion.shape[cut], motion.subject[cut]))
    return Sample(
        np.concatenate([part.pose for part in parts]),
        np.concatenate([part.root for part in parts]),
        np.concatenate([part.shape for part in parts]),
        np.concatenate([part.subject for part in parts]),
    )


@lru_cache(maxsize=4)
def _motion(config: SynthConfig, hand: RiggedHand, sequence: int) -> Sample:
    rng = np.random.default_rng((config.seed, _MOTION, sequence))
    subject, shape = _people(config, [rng])
    style = MotionStyle(radius_mm=config.volume_radius_mm)
    count = config.sequence_frames
    pose, root = sample_trajectory(hand, rng, n_frames=count, fps=config.fps, style=style, shape=shape[0])
    return Sample(pose, root, np.repeat(shape, count, axis=0), np.repeat(subject, count))


def _of_file(config: SynthConfig, hand: RiggedHand, start: int, stop: int) -> Sample:
    """Row k mod n of the file as sample k; another time round, another view and another person."""
    given = pose_set_of(config, hand)
    rngs = _rngs(config, start, stop)
    row = np.arange(start, stop) % len(given)
    subject, shape = _people(config, rngs)
    if config.shapes == "fitted":
        subject, shape = given.subject[row], given.shape[row]
    pose = given.pose[row].copy()
    if given.fitted:
        # Points say nothing of the forearm.
        low, high = hand.limits_rad[list(WRIST_DOFS)].T
        pose[:, WRIST_DOFS] = np.clip([rng.normal(0, np.radians(WRIST_DEG)) for rng in rngs], low, high)
        _turn_wrists(config, hand, pose, shape, start)
    if config.placement == "random":
        root = _anywhere(config, hand, rngs, shape)
    else:
        root = given.root[row]
        if given.in_camera:
            root = _before_first_camera(config, root)
    return Sample(pose, root, shape, subject, given.fit_error_mm[row].astype(np.float32))


def _before_first_camera(config: SynthConfig, root: F64) -> F64:
    """Roots (n, 6) of a camera's frame, as the rig's first camera sees them."""
    camera = config.make_rig().cameras[0]
    turned = rotation_vector(camera.rotation.T @ rotation_matrix(root[:, :3]))
    return np.concatenate([turned, camera.to_rig(root[:, 3:])], axis=1)


def _turn_wrists(config: SynthConfig, hand: RiggedHand, pose: F64, shape: F64, start: int) -> None:
    """Let some forearms point anywhere the wrist allows; gestures say little of them. In place."""
    turned = pose.copy()
    for row in range(len(pose)):
        rng = np.random.default_rng((config.seed, _WRIST, start + row))
        if rng.random() < config.scene.wide_wrist:
            turned[row, WRIST_DOFS] = sample_wrist(rng)
    changed = np.flatnonzero((turned != pose).any(1))
    if len(changed):
        free = self_collision_mm(hand, turned[changed], shape[changed]) <= TOLERANCE_MM
        pose[changed[free]] = turned[changed[free]]


@lru_cache(maxsize=4096)
def proportions(seed: int, subject: int) -> F64:
    """(SHAPE_SIZE,) of a subject; they follow from the seed and its number."""
    return sample_shape(np.random.default_rng((seed, _SUBJECT, subject)))
