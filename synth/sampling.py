"""Which pose, view and subject every sample shows: sample k follows from (seed, k) alone, in whatever order.

Its pose and view are drawn from (seed, k), its subject's proportions from (seed, subject).
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
from .pose import TOLERANCE_MM, point_in_ball, random_rotation, root_at, sample_poses, sample_shape

F64 = NDArray[np.float64]
# What a random stream is for; part of its seed.
_SUBJECT: Final = 1
_FRAME: Final = 2
_WRIST: Final = 4


@dataclass(frozen=True, slots=True)
class Sample:
    """Poses (n, 25), roots (n, 6), shapes (n, SHAPE_SIZE) and subjects (n,) of consecutive samples."""

    pose: F64
    root: F64
    shape: F64
    subject: NDArray[np.int32]


def draw_samples(config: SynthConfig, hand: RiggedHand, start: int, stop: int) -> Sample:
    """Samples `start` to `stop`; sample k depends on the seed and k alone."""
    rngs = [np.random.default_rng((config.seed, _FRAME, k)) for k in range(start, stop)]
    subject = np.array([config.first_subject + int(rng.integers(config.subjects)) for rng in rngs], np.int32)
    shape = np.stack([proportions(config.seed, int(who)) for who in subject])
    blocks = [slice(low, low + BLOCK_FRAMES) for low in range(0, stop - start, BLOCK_FRAMES)]
    pose = np.concatenate([sample_poses(hand, rngs[block], shape[block]) for block in blocks])
    _turn_wrists(config, hand, pose, shape, start)
    rotation = np.stack([random_rotation(rng) for rng in rngs])
    palm = np.stack([point_in_ball(rng, config.volume_radius_mm) for rng in rngs])
    return Sample(pose, root_at(hand, shape, rotation, palm), shape, subject)


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
