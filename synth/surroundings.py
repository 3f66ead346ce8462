"""What else a camera sees: a sleeve, a desk, a wall or boxes behind the hand, things before it, a second hand.

Each comes with a probability a sample, none by default. What sample k gets is drawn from (seed, "scene", k, what)
alone, so that an option neither changes the hand nor what another option draws. Everything is one mesh in the
rig's frame that is drawn together with the hand: the sensor sees shadows and edges of all of it, and labels,
masks and centres stay the hand's.

Nothing runs through the hand: surfaces, boxes and second hands lie beyond a plane that leaves the hand on its
other side, things before the hand nearer to the camera than the hand, and what it holds is as thick as the pose
leaves room for.

Cost a view at 320 × 240: see benchmarks/RESULTS.md; drawing what is there takes 0.1 to 1.5 ms a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..stores.camera import Rig
from ..stores.joints import OPENXR26
from .forearm import Arm, arm_of, sleeve
from .hand import FOREARM, PALM, WRIST, RiggedHand, mirror, pose_hand
from .pose import random_rotation, sample_pose
from .props import Mesh, ball, box, cylinder, joined
from .room import axes_of
from .rotation import rotation_matrix, rotation_vector
from .subject_sizes import sample_shape

F64 = NDArray[np.float64]
Preset = Literal["none", "desk", "cluttered"]

PRESETS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    "desk": {"sleeve": 0.5, "background": 1.0, "background_kind": "desk"},
    "cluttered": {"sleeve": 0.5, "background": 0.7, "occluder": 0.35, "second_hand": 0.25},
}
STREAM: Final = 3
"""What a random stream is for, as in `sampling.py`; part of its seed."""
_SLEEVE, _BACKGROUND, _OCCLUDER, _HELD, _SECOND = range(5)
TRIES: Final = 12


class SceneConfig(BaseModel):
    """Probabilities a sample of what stands around the hand; a preset sets those that are not given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Preset = "none"
    wide_wrist: float = Field(default=0.3, ge=0, le=1)
    """Share of samples whose forearm points anywhere the wrist allows, whatever the gesture."""
    sleeve: float = Field(default=0.0, ge=0, le=1)
    background: float = Field(default=0.0, ge=0, le=1)
    background_kind: Literal["any", "desk", "wall", "boxes"] = "any"
    occluder: float = Field(default=0.0, ge=0, le=1)
    """Something before the hand or, half of the time, held in it."""
    second_hand: float = Field(default=0.0, ge=0, le=1)
    """Another subject's other hand, beside, behind or before."""

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, values: Any) -> Any:
        if isinstance(values, str):
            values = {"preset": values}
        if isinstance(values, Mapping):
            return {**PRESETS.get(str(values.get("preset", "none")), {}), **values}
        return values

    @property
    def empty(self) -> bool:
        """Whether nothing is ever there but the hand and its arm."""
        return not (self.sleeve or self.background or self.occluder or self.second_hand)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What stays the same from sample to sample; `around` draws one sample's."""

    config: SceneConfig
    hand: RiggedHand
    """With its arm."""
    rig: Rig
    seed: int
    other: RiggedHand = field(init=False)
    arm: Arm = field(init=False)
    flesh: NDArray[np.intp] = field(init=False)
    """Vertices of the hand without its arm."""
    marks: NDArray[np.intp] = field(init=False)
    """Four vertices of the arm, by which it is followed."""

    def __post_init__(self) -> None:
        weights = self.hand.dense_weights()
        arm = np.flatnonzero(weights[:, FOREARM] > 0.999)
        near = arm[np.argsort(np.linalg.norm(self.hand.vertices[arm] - self.hand.joints[WRIST], axis=1))]
        first, last = near[0], near[-1]
        along = self.hand.vertices[last] - self.hand.vertices[first]
        beside = np.cross(along, self.hand.vertices[arm] - self.hand.vertices[first])
        third = int(np.argmax(np.linalg.norm(beside, axis=1)))
        fourth = int(np.argmax(np.abs(beside[third] @ (self.hand.vertices[arm] - self.hand.vertices[first]).T)))
        object.__setattr__(self, "marks", np.array([first, last, arm[third], arm[fourth]]))
        object.__setattr__(self, "flesh", np.flatnonzero(weights[:, FOREARM] < 0.5))
        object.__setattr__(self, "other", mirror(self.hand))
        object.__setattr__(self, "arm", arm_of(self.hand))


def around(scene: Surroundings, k: int, vertices: NDArray[Any], joints: NDArray[Any]) -> Mesh | None:
    """What stands around the hand of sample k, vertices (N, 3) and joints (26, 3), rig frame mm; None: nothing."""
    config, points = scene.config, np.asarray(vertices, np.float64)

    def drawn(what: int, odds: float) -> np.random.Generator | None:
        if odds == 0:
            return None
        rng = np.random.default_rng((scene.seed, STREAM, k, what))
        return rng if rng.random() < odds else None

    meshes: list[Mesh] = []
    if (rng := drawn(_SLEEVE, config.sleeve)) is not None:
        meshes.append(_sleeved(scene, rng, points))
    if (rng := drawn(_BACKGROUND, config.background)) is not None:
        meshes += _background(scene, rng, points, joints[PALM])
    if (rng := drawn(_OCCLUDER, config.occluder)) is not None:
        if rng.random() < 0.5:
            meshes += _held(scene, rng, points[scene.flesh], joints)
        else:
            meshes.append(_before(scene, rng, points[scene.flesh], joints))
    if (rng := drawn(_SECOND, config.second_hand)) is not None:
        meshes.append(_second_hand(scene, rng, points, joints))
    return joined(meshes) if meshes else None


def _sleeved(scene: Surroundings, rng: np.random.Generator, vertices: F64) -> Mesh:
    """A sleeve from somewhere behind the wrist: a shirt's close to the skin, a coat's wide, pushed up or not."""
    start = 8 + rng.exponential(35) if rng.random() < 0.7 else rng.uniform(40, 170)
    folds = rng.normal(size=(14, 2)) * rng.uniform(0.5, 4.0)
    cloth = sleeve(scene.arm, start_mm=min(start, 190.0), loose_mm=rng.uniform(3, 18), folds_mm=folds)
    # The arm is moved by one bone: four of its points tell how.
    rest = scene.hand.vertices[scene.marks].astype(np.float64)
    here = vertices[scene.marks]
    linear = np.linalg.solve(rest[1:] - rest[0], here[1:] - here[0])
    return Mesh((cloth.vertices - rest[0]) @ linear + here[0], cloth.faces)


def _background(scene: Surroundings, rng: np.random.Generator, vertices: F64, palm: F64) -> list[Mesh]:
    kind = scene.config.background_kind
    if kind == "any":
        kind = ("desk", "wall", "boxes")[rng.integers(3)]
    match kind:
        case "boxes":
            return [_beside(scene, rng, vertices, palm) for _ in range(int(rng.integers(1, 4)))]
        case "desk":
            upright, tilt, gap = [axes_of(scene.rig).up], 12.0, 0.0 if rng.random() < 0.3 else rng.uniform(0, 250)
        case _:
            upright, tilt, gap = [-c.rotation[2] for c in scene.rig.cameras], 35.0, rng.exponential(250)
    for _ in range(TRIES):
        normal = _tilted(rng, upright[int(rng.integers(len(upright)))], tilt)
        level = float((vertices @ normal).min()) - gap
        # The surface must not come between a camera and the hand.
        if all(camera.to_rig(np.zeros(3)) @ normal > level + 40 for camera in scene.rig.cameras):
            return [_plate(rng, palm, normal, level)]
    return []


def _plate(rng: np.random.Generator, palm: F64, normal: F64, level: float) -> Mesh:
    """A plate whose upper side is the plane `normal` · x = `level`: wide as a wall, or as small as a tray."""
    first = np.cross(normal, rng.normal(size=3))
    first /= np.linalg.norm(first)
    wide = rng.random(2) < 0.5
    half = np.where(wide, 2000.0, rng.uniform(150, 600, 2))
    aside = np.where(wide, 0.0, rng.uniform(-0.8, 0.8, 2) * half)
    second = np.cross(normal, first)
    middle = palm + normal * (level - palm @ normal - 10) + aside[0] * first + aside[1] * second
    return box(middle, [half[0] * first, half[1] * second, 10 * normal])


def _beside(scene: Surroundings, rng: np.random.Generator, vertices: F64, palm: F64) -> Mesh:
    """A box behind or beside the hand."""
    near = vertices[np.linalg.norm(vertices - palm, axis=1) < 260]
    eyes = np.array([camera.to_rig(np.zeros(3)) - palm for camera in scene.rig.cameras])
    eyes /= np.linalg.norm(eyes, axis=1, keepdims=True)
    ways = rng.normal(size=(TRIES, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    open_ = (ways @ eyes.T).max(1)
    free = np.flatnonzero(open_ < 0.3)
    way = ways[free[0] if len(free) else int(open_.argmin())]
    half = random_rotation(rng).T * np.exp(rng.uniform(np.log(20), np.log(160), 3))[:, None]
    reach = float(np.abs(half @ way).sum())
    aside = rng.normal(size=3) * 40
    at = palm + aside - way * (aside @ way)
    return box(at + way * (float((near @ way).max()) - palm @ way + rng.exponential(80) + reach), list(half))


def _before(scene: Surroundings, rng: np.random.Generator, flesh: F64, joints: NDArray[Any]) -> Mesh:
    """A thing between a camera and the hand."""
    camera = scene.rig.cameras[int(rng.integers(len(scene.rig)))]
    target = np.asarray(joints[int(rng.integers(len(joints)))], np.float64)
    sight = camera.to_rig(np.zeros(3)) - target
    distance = float(np.linalg.norm(sight))
    sight /= distance
    shift = rng.normal(size=3) * 30
    body, reach = _body(rng, sight)
    room = distance - float(((flesh - target) @ sight).max()) - 2 * reach
    # Half way to the camera at most: nearer, it would hide everything.
    gap = rng.uniform(0.05, 0.5) * max(room, 0.0)
    middle = target + sight * (float(((flesh - target) @ sight).max()) + reach + gap)
    return Mesh(body.vertices + middle + shift - sight * (shift @ sight), body.faces)


def _body(rng: np.random.Generator, along: F64) -> tuple[Mesh, float]:
    """A thing about the origin, and how far it reaches along a direction."""
    origin = np.zeros(3)
    match int(rng.integers(4)):
        case 0:
            body = ball(origin, rng.uniform(10, 40))
        case 1:
            body = box(origin, list(random_rotation(rng).T * rng.uniform(6, 45, 3)[:, None]))
        case 2:  # a pen
            body = cylinder(origin, random_rotation(rng)[0] * rng.uniform(55, 90), rng.uniform(3.5, 7))
        case _:  # a can or a bottle
            body = cylinder(origin, random_rotation(rng)[0] * rng.uniform(40, 100), rng.uniform(12, 34))
    return body, float((body.vertices @ along).max())


def _held(scene: Surroundings, rng: np.random.Generator, flesh: F64, joints: NDArray[Any]) -> list[Mesh]:
    """A stick, a bottle or a ball in the hollow of the hand, as thick as there is room; maybe none."""
    knuckles = [joints[OPENXR26.index(f"{f}_proximal")].astype(np.float64) for f in ("index", "middle", "little")]
    distal = knuckles[1] - joints[WRIST]
    distal /= np.linalg.norm(distal)
    across = knuckles[2] - knuckles[0]
    across -= distal * (across @ distal)
    across /= np.linalg.norm(across)
    palmar = np.cross(distal, across) * (1.0 if scene.hand.side == "right" else -1.0)
    round_ = rng.random() < 0.3
    best, most = Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int32)), 0.0
    for _ in range(TRIES):
        middle = knuckles[1] - distal * rng.uniform(-25, 30) + palmar * rng.uniform(14, 60)
        axis = across + distal * rng.normal() * 0.25 + palmar * rng.normal() * 0.15
        axis /= np.linalg.norm(axis)
        half = 0.0 if round_ else rng.uniform(50, 110)
        away = flesh - middle
        aside = away - np.clip(away @ axis, -half, half)[:, None] * axis
        # Skin yields a little where it grips.
        radius = min(float(np.sqrt((aside**2).sum(1).min())) + 2.0, rng.uniform(15, 38))
        if radius > max(most, 4.0):
            most = radius
            best = ball(middle, radius) if round_ else cylinder(middle, half * axis, radius)
    return [best] if most else []


def _second_hand(scene: Surroundings, rng: np.random.Generator, vertices: F64, joints: NDArray[Any]) -> Mesh:
    """Another subject's hand of the other side, next to the first without running into it."""
    shape = sample_shape(rng)
    pose = sample_pose(scene.other, rng, shape=shape)
    root = np.concatenate([rotation_vector(random_rotation(rng)), np.zeros(3)])
    posed = pose_hand(scene.other, pose[None], root[None], shape[None])
    palm = np.asarray(joints[PALM], np.float64)
    other = posed.vertices[0] - posed.joints[0, PALM] + palm
    ways = rng.normal(size=(TRIES, 3))
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    shift = rng.normal(size=(TRIES, 3)) * 30
    shift -= ways * np.einsum("ti,ti->t", shift, ways)[:, None]
    # Along each way as far as it takes to get past the first hand and its arm; the shortest is taken.
    apart = (vertices @ ways.T).max(0) - (other @ ways.T).min(0)
    best = int(apart.argmin())
    return Mesh(
        other + shift[best] + ways[best] * (apart[best] + rng.exponential(30)), np.asarray(scene.other.faces, np.int32)
    )


def _tilted(rng: np.random.Generator, direction: F64, most_deg: float) -> F64:
    """A unit vector up to some degrees from a direction."""
    axis = np.cross(direction, rng.normal(size=3))
    axis /= np.linalg.norm(axis)
    out: F64 = rotation_matrix(axis * np.radians(rng.uniform(0, most_deg))) @ direction
    return out
