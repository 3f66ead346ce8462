"""Virtual sessions to look for a hand in: torso, wall and desk, the forearm from any side, clutter, all sizes.

What `capture.virtual` records is one person who sits before the cameras. Here the arm may come in from anywhere
(a helper's, one from below, one along the wall), the person may sway, things may stand on the desk and a
second hand may rest there, hands are as small and as large as people's, the palm travels slowly or fast, and
three kinds of sensor look. The truth is known to the millimetre.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from handloom.capture.virtual import Stump
from handloom.stores.camera import Rig
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import POSE_SIZE, SHAPE_NAMES, WRIST, RiggedHand, mirror, pose_hand
from handloom.synth.pose import MotionStyle, random_rotation, root_at, sample_pose, sample_trajectory
from handloom.synth.props import Mesh, ball, box, cylinder, joined
from handloom.synth.render import Renderer, open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.room import DESK_BELOW_MM, Axes, axes_of, person, resting_hand, room, shoulder, sleeve
from handloom.synth.rotation import rotation_vector
from handloom.synth.scene import in_camera, render_frame
from handloom.synth.sensor import Sensor, StructuredLight
from handloom.synth.stereo import ActiveStereo
from handloom.synth.subject_sizes import sample_shape
from handloom.synth.tof import TimeOfFlight

F64 = NDArray[np.float64]
Scene = Literal["seated", "any side", "swaying", "cluttered"]
Size = Literal["small", "typical", "large"]

FPS: Final = 15.0
SENSORS: Final[tuple[Sensor, ...]] = (StructuredLight(min_mm=150.0), ActiveStereo(), TimeOfFlight())
SPEEDS: Final = {"slow": (15.0, 90.0), "fast": (60.0, 300.0)}
"""Of the palm, mm/s: median and 95th percentile."""
LARGE: Final = np.log(198 / 183)
"""British men's hands (Pheasant 1996) one standard deviation above their mean, against ours of men."""
SMALL: Final = np.log(158 / 166)
"""Women's hands one standard deviation below theirs."""


@dataclass(frozen=True, slots=True)
class Session:
    """What one person did before the cameras one day."""

    seed: int
    scene: Scene
    speed: Literal["slow", "fast"]
    size: Size
    sensor: Sensor
    sequences: int = 6
    sequence_frames: int = 40

    @property
    def name(self) -> str:
        """In a few words."""
        return f"{self.scene}, {self.speed}, {self.size} hands, {type(self.sensor).__name__}"


@dataclass(frozen=True, slots=True)
class Film:
    """What the cameras saw, and the truth."""

    session: Session
    rig: Rig
    depth: list[NDArray[np.uint16]]
    """(T, H, W) by camera, in its unit."""
    palm_mm: F64
    """(T, 3) rig frame."""
    sequence: NDArray[np.int64]
    """(T,)."""


def sessions(seed: int, count: int) -> list[Session]:
    """All scenes, speeds, sizes and sensors in turn."""
    scenes: tuple[Scene, ...] = ("any side", "seated", "cluttered", "swaying")
    sizes: tuple[Size, ...] = ("typical", "large", "small")
    out = []
    for i in range(count):
        speed: Literal["slow", "fast"] = "slow" if (i // 4 + i) % 2 else "fast"
        out.append(Session(seed + i, scenes[i % 4], speed, sizes[(i + i // 4) % 3], SENSORS[(i + i // 3) % 3]))
    return out


def film(session: Session) -> Film:
    """Render a session: about 15 ms a set of three views."""
    rng = np.random.default_rng([session.seed, 77])
    rig = ring_rig(
        3,
        distance_mm=rng.uniform(420, 700),
        spread_deg=rng.uniform(50, 110),
        elevation_deg=rng.uniform(0, 25),
        depth_unit_mm=0.5,
    )
    renderer, axes, sways = open_renderer("raster"), axes_of(rig), session.scene == "swaying"
    still = [room(rig, with_person=not sways)]
    if session.scene == "cluttered":
        still += clutter(rng, axes)
    behind = [_clean(renderer, rig, view, joined(still)) for view in range(len(rig))]
    depth: list[list[NDArray[np.uint16]]] = [[] for _ in rig.cameras]
    palms, numbers = [], []
    for frame, (sequence, arm, palm) in enumerate(_arms(session, rng, axes)):
        moving = arm
        if sways:
            # The chest comes and goes with the breath and a little more than that.
            t = frame / FPS
            shift = 14 * np.sin(1.7 * t) * axes.back + 10 * np.sin(0.9 * t + 1) * axes.right
            body = person(axes)
            moving = joined([arm, Mesh(body.vertices + shift, body.faces)])
        for view, camera in enumerate(rig.cameras):
            seen = render_frame(
                renderer, camera, moving.vertices, moving.faces,
                background=behind[view], sensor=session.sensor, seed=session.seed, frame=frame, view=view,
            )  # fmt: skip
            depth[view].append(seen)
        palms.append(palm)
        numbers.append(sequence)
    return Film(session, rig, [np.array(images) for images in depth], np.array(palms), np.array(numbers))


def _clean(renderer: Renderer, rig: Rig, view: int, mesh: Mesh) -> NDArray[np.float32]:
    c = rig.cameras[view]
    return renderer.render(in_camera(c, mesh.vertices), mesh.faces, np.array(c.k), c.width, c.height).depth_mm


def shape_of(rng: np.random.Generator, size: Size) -> F64:
    """Proportions of a subject."""
    if size == "typical":
        return sample_shape(rng)
    shape = sample_shape(rng, sex="male" if size == "large" else "female")
    shape[SHAPE_NAMES.index("size")] += LARGE if size == "large" else SMALL
    return shape


def entry(rng: np.random.Generator, axes: Axes) -> F64:
    """A unit vector from the volume to where an arm comes from: anywhere but right before the cameras."""
    while True:
        way = rng.normal(size=3)
        way /= np.linalg.norm(way)
        if way @ axes.back > -np.cos(np.radians(50)):
            return np.asarray(way, np.float64)


def facing_from(rng: np.random.Generator, way: F64) -> F64:
    """(3, 3) of a hand whose arm comes from there, its palm turned anywhere."""
    dorsal = np.cross(-way, rng.normal(size=3))
    dorsal /= np.linalg.norm(dorsal)
    return np.stack([np.cross(-way, dorsal), -way, dorsal], axis=1)


def _arms(session: Session, rng: np.random.Generator, axes: Axes) -> Iterator[tuple[int, Mesh, F64]]:
    """Sequence, mesh of hand and arm, and palm of each set."""
    hand = builtin_hand()
    stump = Stump(hand)
    shapes = [shape_of(rng, session.size) for _ in range(2)]
    median, p95 = SPEEDS[session.speed]
    for sequence in range(session.sequences):
        goal, facing = shoulder(axes, "right"), resting_hand(axes, "right")
        if session.scene in ("any side", "cluttered"):
            way = entry(rng, axes)
            goal, facing = 500 * way + rng.normal(size=3) * 40, facing_from(rng, way)
        x, y, z = rotation_vector(facing).tolist()
        style = MotionStyle(facing=(x, y, z), facing_spread_deg=60.0, radius_mm=80.0, median_mm_s=median, p95_mm_s=p95)
        shape = shapes[sequence % 2]
        count = session.sequence_frames
        pose, root = sample_trajectory(hand, rng, n_frames=count, fps=FPS, style=style, shape=shape)
        posed = pose_hand(hand, pose, root, np.broadcast_to(shape, (count, len(shape))))
        for vertices, joints in zip(posed.vertices, posed.joints, strict=True):
            arm = sleeve(*stump.of(vertices, joints[WRIST]), goal)
            yield sequence, joined([Mesh(vertices.astype(np.float64), hand.faces), arm]), joints[0].astype(np.float64)


def clutter(rng: np.random.Generator, axes: Axes) -> list[Mesh]:
    """Things on the desk and behind it, and somebody's other hand that rests there."""
    floor = -DESK_BELOW_MM * axes.up
    out = []
    for _ in range(7):
        aside = rng.uniform(-350, 350) * axes.right + rng.uniform(-100, 500) * axes.back
        match int(rng.integers(3)):
            case 0:
                radius = rng.uniform(20, 60)
                out.append(ball(floor + aside + radius * axes.up, radius))
            case 1:
                tall = rng.uniform(60, 140)
                out.append(cylinder(floor + aside + tall * axes.up, tall * axes.up, rng.uniform(20, 45)))
            case _:
                half = np.exp(rng.uniform(np.log(20), np.log(120), 3))
                sides = [half[0] * axes.right, half[1] * axes.up, half[2] * axes.back]
                out.append(box(floor + aside + half[1] * axes.up, sides))
    out.append(resting(mirror(builtin_hand()), rng, floor + 230 * axes.right + 60 * axes.up + 120 * axes.back))
    return out


def resting(hand: RiggedHand, rng: np.random.Generator, palm_mm: F64) -> Mesh:
    """A hand that does not move, with its arm."""
    shape = sample_shape(rng)
    pose = sample_pose(hand, rng, shape=shape)
    assert pose.shape == (POSE_SIZE,)
    root = root_at(hand, shape, random_rotation(rng), palm_mm)
    posed = pose_hand(hand, pose[None], root[None], shape[None])
    return Mesh(posed.vertices[0].astype(np.float64), hand.faces)
