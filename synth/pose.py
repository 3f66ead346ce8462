"""What hands do: poses, viewpoints and motion to sample from.

A pose is drawn from a mixture of gestures (`synth/gestures.py`), of the ways between them and of a wide
distribution over all limits in which neighbouring fingers move together (correlation 0.6) but nothing else
is restricted: real free motion needs nine principal components for 90 % of its variance. Then the anatomy's
couplings are applied (last joint ⅔ of the middle one, spread fading as the knuckle bends, the palm cupping
with the outer fingers), limits enforced, what touches in a gesture is brought together (`synth/contact.py`:
pinches meet, a fist's tips lie in the palm and its thumb on the fingers), and poses that run through themselves
by more than real flesh yields (5 mm) are drawn again.

Motion runs along straight ways between such poses and viewpoints at a speed whose logarithm wanders: at 30 Hz
a hand turns 0.7° a frame in the median and 4.8° at the 95th percentile, as measured on people. The palm travels
by itself, at speeds of our choice.

Cost: about 1 ms a pose, 0.2 ms a frame of motion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import ndtr

from ..stores.errors import HandloomError
from ..stores.joints import FINGERS
from .contact import touch
from .gestures import GESTURES, MIXTURE, Gesture
from .hand import (
    DOFS,
    PALM,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_SIZE,
    WRIST,
    RiggedHand,
    kinematics,
    self_collision_mm,
)
from .rotation import quaternion, quaternion_matrix, rotation_matrix, rotation_vector

F64 = NDArray[np.float64]

TOLERANCE_MM: Final = 5.0
"""How deep two parts of a hand may press into each other: flesh yields 4 to 6 mm."""
WRIST_DEG: Final = (16.0, 7.0)
"""Standard deviations of the wrist's flexion and abduction, which gestures say little of."""
CANDIDATES: Final = 6
"""Poses drawn at once before the collision test picks one; a batch costs little more than a pose."""
_DOF: Final[Mapping[str, int]] = {d.name: i for i, d in enumerate(DOFS)}
_MCP: Final = np.array([_DOF[f"{f}_mcp_flexion"] for f in FINGERS[1:]])
_SPREAD: Final = _MCP + 1
_PIP: Final = _MCP + 2
_DIP: Final = _MCP + 3
_THUMB: Final = slice(_DOF["thumb_cmc_flexion"], _DOF["thumb_ip_flexion"] + 1)
_CUP: Final = np.array([_DOF["ring_cmc_flexion"], _DOF["little_cmc_flexion"]])
_WRIST: Final = np.array([_DOF["wrist_flexion"], _DOF["wrist_abduction"]])
# Square root of the correlation 0.6^|i − j| between the four fingers.
_TOGETHER: Final = np.linalg.cholesky(0.6 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4))))


def sample_pose(
    hand: RiggedHand,
    rng: np.random.Generator,
    *,
    shape: F64 | None = None,
    mixture: Mapping[str, float] = MIXTURE,
    tolerance_mm: float = TOLERANCE_MM,
) -> F64:
    """(25,) rad: a pose within the limits that does not run through itself.

    Args:
        hand: whose limits and flesh count.
        rng: source of randomness.
        shape: (SHAPE_SIZE,) proportions, the mean hand by default.
        mixture: relative frequency of each family, see `gestures.MIXTURE`.
        tolerance_mm: overlap that flesh yields to.
    """
    proportions = np.zeros(SHAPE_SIZE) if shape is None else shape
    out: F64 = sample_poses(hand, [rng], proportions[None], mixture=mixture, tolerance_mm=tolerance_mm)[0]
    return out


def sample_poses(
    hand: RiggedHand,
    rngs: Sequence[np.random.Generator],
    shapes: F64,
    *,
    mixture: Mapping[str, float] = MIXTURE,
    tolerance_mm: float = TOLERANCE_MM,
) -> F64:
    """(n, 25) rad: what `sample_pose` draws from each of n sources for each of n shapes, at a third of its cost."""
    names, odds = list(mixture), np.array(list(mixture.values()), float)
    out = np.zeros((len(rngs), POSE_SIZE))
    pending = np.arange(len(rngs))
    for _ in range(6):
        # The family is drawn anew each time, so that one that often collides does not use up the rounds.
        families = [names[rngs[i].choice(len(names), p=odds / odds.sum())] for i in pending.tolist()]
        drawn = [
            in_contact(hand, family, rngs[i], draw(hand, family, rngs[i], CANDIDATES), shapes[i])
            for i, family in zip(pending.tolist(), families, strict=True)
        ]
        poses = np.concatenate(drawn)
        depth = self_collision_mm(hand, poses, np.repeat(shapes[pending], CANDIDATES, axis=0))
        depth, poses = depth.reshape(-1, CANDIDATES), poses.reshape(-1, CANDIDATES, POSE_SIZE)
        free = depth <= tolerance_mm
        found = free.any(axis=1)
        row = np.arange(len(pending))
        out[pending] = poses[row, free.argmax(axis=1)]
        # Six families in vain: half way back to rest hardly anything collides.
        out[pending[~found]] = 0.5 * poses[row, depth.argmin(axis=1)][~found]
        pending = pending[~found]
        if not len(pending):
            break
    return out


def draw(hand: RiggedHand, family: str, rng: np.random.Generator, count: int) -> F64:
    """(count, 25) rad: poses of one family, coupled and within limits, collisions not looked at.

    Raises:
        HandloomError: there is no such family.
    """
    match family:
        case "wide":
            poses = _wide(hand, rng, count)
        case "between":
            names = list(GESTURES)
            one, other = (_gesture(GESTURES[names[rng.integers(len(names))]], rng, count) for _ in range(2))
            share = rng.random((count, 1))
            poses = one * share + other * (1 - share)
        case _ if family in GESTURES:
            poses = _gesture(GESTURES[family], rng, count)
        case _:
            raise HandloomError(
                f"Unknown family of poses '{family}'", why=f"known: wide, between, {', '.join(GESTURES)}"
            )
    low, high = hand.limits_rad.T
    return np.clip(_coupled(poses, rng.normal(size=(len(poses), 6))), low, high)


def typical_pose(hand: RiggedHand, family: str) -> F64:
    """(25,) rad: the middle of a gesture, coupled, within limits and touching what it touches; nothing random.

    Raises:
        HandloomError: there is no such gesture.
    """
    if family not in GESTURES:
        raise HandloomError(f"Unknown gesture '{family}'", why=f"known: {', '.join(GESTURES)}")
    low, high = hand.limits_rad.T
    pose = np.clip(_coupled(np.radians(_middle(GESTURES[family]))[None], np.zeros((1, 6))), low, high)
    contacts = GESTURES[family].contacts
    out: F64 = touch(hand, contacts, pose, np.zeros(SHAPE_SIZE), -np.array([[c.press_mm for c in contacts]]))[0][0]
    return out


def in_contact(hand: RiggedHand, family: str, rng: np.random.Generator, poses: F64, shape: F64) -> F64:
    """Poses (count, 25) of a family in most of which what touches in it does, see `Gesture.touching`.

    Fingers press each other a little: gaps are those of `Contact.press_mm` ± 0.5 mm.
    """
    gesture = GESTURES.get(family)
    if gesture is None or not gesture.contacts:
        return poses
    press = np.array([contact.press_mm for contact in gesture.contacts])
    target = rng.normal(-press, 0.5, (len(poses), len(press)))
    target[rng.random(len(poses)) >= gesture.touching] = np.nan
    return touch(hand, gesture.contacts, poses, shape, target)[0]


def _middle(gesture: Gesture) -> F64:
    """(25,) degrees; last joints and cupping still to come."""
    middle = np.zeros(POSE_SIZE)
    bends = np.array([gesture.index, gesture.middle, gesture.ring, gesture.little])
    middle[_MCP], middle[_PIP] = bends[:, 0], bends[:, 1]
    middle[_SPREAD], middle[_THUMB] = gesture.spread, gesture.thumb
    return middle


def _gesture(gesture: Gesture, rng: np.random.Generator, count: int) -> F64:
    """(count, 25) rad about the middle of a gesture; last joints and cupping still to come."""
    middle = _middle(gesture)
    loose = np.full(POSE_SIZE, float(gesture.loose_deg))
    loose[_SPREAD] *= 0.5
    loose[_THUMB] *= 0.7
    loose[_WRIST] = WRIST_DEG
    noise = rng.normal(size=(count, POSE_SIZE))
    noise[:, _MCP] = noise[:, _MCP] @ _TOGETHER.T
    noise[:, _PIP] = noise[:, _PIP] @ _TOGETHER.T
    return np.radians(middle + loose * noise)


def _wide(hand: RiggedHand, rng: np.random.Generator, count: int) -> F64:
    """(count, 25) rad over all of the limits, neighbouring fingers together."""
    noise = rng.normal(size=(count, POSE_SIZE))
    noise[:, _MCP] = noise[:, _MCP] @ _TOGETHER.T
    noise[:, _PIP] = 0.3 * noise[:, _MCP] + np.sqrt(1 - 0.09) * noise[:, _PIP] @ _TOGETHER.T
    low, high = hand.limits_rad.T
    out: F64 = low + (high - low) * ndtr(noise)
    return out


def _coupled(poses: F64, noise: F64) -> F64:
    """The anatomy's couplings on poses (count, 25) rad, with standard normal noise (count, 6) on them."""
    out = poses.copy()
    out[:, _DIP] = out[:, _PIP] * 2 / 3 + np.radians(6) * noise[:, :4]
    bent = np.clip(out[:, _MCP] / np.radians(80), 0, 1)
    out[:, _SPREAD] *= 1 - 0.8 * bent
    out[:, _CUP] = np.radians([7, 14]) * bent[:, 2:] + np.radians([2, 3]) * noise[:, 4:]
    return out


def random_rotation(rng: np.random.Generator) -> F64:
    """(3, 3): uniform over all rotations (a uniform quaternion)."""
    return quaternion_matrix(rng.normal(size=4))


def point_in_ball(rng: np.random.Generator, radius_mm: float) -> F64:
    """(3,) mm: uniform in a ball about the origin."""
    direction = rng.normal(size=3)
    out: F64 = direction / np.linalg.norm(direction) * radius_mm * rng.random() ** (1 / 3)
    return out


def root_at(hand: RiggedHand, shape: F64, rotation: F64, palm_mm: F64) -> F64:
    """(..., 6) roots that turn the hand by (..., 3, 3) and put its palm at (..., 3) mm."""
    shapes = np.atleast_2d(shape)
    still = np.zeros((len(shapes), POSE_SIZE)), np.zeros((len(shapes), ROOT_SIZE))
    rest = kinematics(hand, *still, shapes)
    arm = rest.position[:, PALM] - rest.position[:, WRIST]
    arm = arm if np.ndim(shape) > 1 else arm[0]
    return np.concatenate([rotation_vector(rotation), palm_mm - (rotation @ arm[..., None])[..., 0]], axis=-1)


def sample_view(
    hand: RiggedHand,
    rng: np.random.Generator,
    *,
    shape: F64 | None = None,
    radius_mm: float = 100.0,
) -> F64:
    """(6,) root: any rotation alike often, the palm uniform in a ball about the rig's origin."""
    rotation = random_rotation(rng)
    return root_at(hand, np.zeros(SHAPE_SIZE) if shape is None else shape, rotation, point_in_ball(rng, radius_mm))


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionStyle:
    """How somebody moves. The defaults are people moving freely before the cameras."""

    mixture: Mapping[str, float] = field(default_factory=lambda: MIXTURE)
    """Which poses are passed through."""
    median_deg_s: float = 21.0
    """Median speed at which the hand turns, and its fingers bend."""
    p95_deg_s: float = 144.0
    """The 95th percentile of that speed."""
    median_mm_s: float = 60.0
    """Median speed at which the palm travels; ours, as is its spread: a hand that talks or plays, not one that
    reaches."""
    p95_mm_s: float = 300.0
    """The 95th percentile of that speed."""
    facing: tuple[float, float, float] | None = None
    """Rotation vector (rad) around which the hand stays; None: any rotation."""
    facing_spread_deg: float = 40.0
    """How far it turns away from `facing`."""
    radius_mm: float = 100.0
    """The palm stays in a ball of this radius about the rig's origin."""
    held_deg: float = 8.0
    """Mean of how far the fingers would have bent while a pose is held; 0.4 s at the median speed."""
    smoothing_s: float = 0.07
    """Corners of the way are rounded over this time (standard deviation)."""


FREE: Final = MotionStyle()


def sample_trajectory(
    hand: RiggedHand,
    rng: np.random.Generator,
    *,
    n_frames: int,
    fps: float,
    style: MotionStyle = FREE,
    shape: F64 | None = None,
) -> tuple[F64, F64]:
    """Poses (n_frames, 25) and roots (n_frames, 6) of a hand in motion.

    Straight ways between sampled poses and views, passed at a speed whose logarithm is a smooth random walk
    about the style's median, then rounded in time; speeds are therefore log-normal as people's are.

    Args:
        hand: whose limits hold.
        rng: what is drawn from.
        n_frames: how many.
        fps: frames a second.
        style: speeds, and where the palm may be and face.
        shape: (SHAPE_SIZE,) proportions; the hand's own by default.
    """
    proportions = np.zeros(SHAPE_SIZE) if shape is None else np.asarray(shape, np.float64)
    pad = int(np.ceil(4 * style.smoothing_s * fps))
    total = n_frames + 2 * pad
    bend, turn = (_progress(rng, total, fps, style.median_deg_s, style.p95_deg_s) for _ in range(2))
    poses = _along(bend, *_pose_stops(hand, rng, float(bend[-1]), style, proportions))
    rotations, angles = _view_stops(rng, float(turn[-1]), style)
    # The palm goes its own way: a hand may turn where it is, and travel without turning.
    travel = _progress(rng, total, fps, style.median_mm_s, style.p95_mm_s)
    quaternions = _quaternions(_turning(turn, rotations, angles))
    keep = slice(pad, pad + n_frames)
    poses, quaternions, places = (
        gaussian_filter1d(track, style.smoothing_s * fps, axis=0, mode="nearest")[keep]
        for track in (poses, quaternions, _along(travel, *_place_stops(rng, float(travel[-1]), style)))
    )
    return poses, root_at(hand, proportions, quaternion_matrix(quaternions), places)


def _progress(rng: np.random.Generator, count: int, fps: float, median: float, p95: float) -> F64:
    """(count,) degrees or mm gone by each frame, from 0, at speeds of that median and 95th percentile a second.

    The speed's logarithm varies over a third of a second.
    """
    sigma = 0.35 * fps
    margin = int(np.ceil(4 * sigma))
    noise = gaussian_filter1d(rng.normal(size=count + 2 * margin), sigma)[margin : margin + count]
    # White noise through a Gaussian of width σ has variance 1 / (2 σ √π).
    noise *= np.sqrt(2 * sigma * np.sqrt(np.pi))
    spread = np.log(p95 / median) / 1.645
    steps = median * np.exp(spread * noise) / fps
    gone: F64 = np.cumsum(steps) - steps[0]
    return gone


def _along(progress: F64, stops: F64, lengths: F64) -> F64:
    """(T, D) where the way through stops (n, D) with legs of `lengths` (n − 1,) is after `progress` (T,)."""
    at = np.concatenate([[0], np.cumsum(lengths)])
    return np.stack([np.interp(progress, at, column) for column in stops.T], axis=1)


def _bend_deg(one: F64, other: F64) -> float:
    """Distance between two poses as the mean change of the fingers' flexions, degrees; never quite 0."""
    flexions = np.concatenate([_MCP, _PIP])
    return float(np.degrees(np.abs(one - other)[flexions].mean())) + 1.0


def _pose_stops(
    hand: RiggedHand, rng: np.random.Generator, reach_deg: float, style: MotionStyle, shape: F64
) -> tuple[F64, F64]:
    """Poses (n, 25) to pass through, and the legs between them, until the way is `reach_deg` long."""
    stops = [sample_pose(hand, rng, shape=shape, mixture=style.mixture)]
    lengths: list[float] = []
    between = np.linspace(0, 1, 8)[1:-1, None]
    while sum(lengths) <= reach_deg:
        for _ in range(5):
            goal = sample_pose(hand, rng, shape=shape, mixture=style.mixture)
            way = stops[-1] * (1 - between) + goal * between
            depth = self_collision_mm(hand, way, np.tile(shape, (len(way), 1)))
            if depth.max() <= TOLERANCE_MM + 2:
                break
        else:
            # Nothing can be reached straight from here: open the hand first.
            goal = 0.3 * stops[-1]
        lengths.append(_bend_deg(stops[-1], goal))
        # A pose is held for a moment, or what touches in it would be passed by with its corner rounded off.
        lengths.append(rng.exponential(style.held_deg) + 0.1)
        stops += [goal, goal]
    return np.array(stops), np.array(lengths)


def _view_stops(rng: np.random.Generator, reach_deg: float, style: MotionStyle) -> tuple[F64, F64]:
    """Rotations (n, 3, 3) to pass through and the angles between them, until the way is long enough."""

    def rotation() -> F64:
        if style.facing is None:
            return random_rotation(rng)
        away = rng.normal(size=3) * np.radians(style.facing_spread_deg) / np.sqrt(3)
        return rotation_matrix(away) @ rotation_matrix(np.array(style.facing))

    stops = [rotation()]
    lengths: list[float] = []
    while sum(lengths) <= reach_deg:
        goal = rotation()
        lengths.append(float(np.degrees(np.linalg.norm(rotation_vector(goal @ stops[-1].T)))) + 0.1)
        stops.append(goal)
    return np.array(stops), np.array(lengths)


def _place_stops(rng: np.random.Generator, reach_mm: float, style: MotionStyle) -> tuple[F64, F64]:
    """Places (n, 3) of the palm to pass through and the ways between them, until the way is long enough."""
    stops, lengths, gone = [point_in_ball(rng, style.radius_mm)], [0.0], 0.0
    while gone <= reach_mm:
        stops.append(point_in_ball(rng, style.radius_mm))
        # Never quite 0: a ball without a radius has one place.
        lengths.append(float(np.linalg.norm(stops[-1] - stops[-2])) + 0.1)
        gone += lengths[-1]
    return np.array(stops), np.array(lengths[1:])


def _turning(progress: F64, stops: F64, lengths: F64) -> F64:
    """(T, 3, 3): like `_along`, on the shortest turns from rotation to rotation."""
    at = np.concatenate([[0], np.cumsum(lengths)])
    leg = np.clip(np.searchsorted(at, progress, side="right") - 1, 0, len(lengths) - 1)
    share = (progress - at[leg]) / lengths[leg]
    turn = rotation_vector(stops[1:] @ stops[:-1].transpose(0, 2, 1))
    return rotation_matrix(share[:, None] * turn[leg]) @ stops[leg]


def _quaternions(rotations: F64) -> F64:
    """(T, 4), each on the same side as the one before, so that they can be averaged."""
    q = quaternion(rotations)
    side = np.where((q[1:] * q[:-1]).sum(1, keepdims=True) < 0, -1.0, 1.0)
    q[1:] *= np.cumprod(side, axis=0)
    return q
