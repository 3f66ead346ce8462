"""Measure the factors of `stores/palm.py` on rendered arms and write them to `stores/palm_values.py`.

Hands of many proportions, of a person at a desk or alone with an arm of any direction, seen by arcs and rings of
one to three cameras at 0.4 to 0.8 m through the structured-light sensor; and things that are no hands. Run it
again when the hand, the sensor or `palm.py` changes:

    python -m handloom.benchmarks.palm_calibration    (from a checkout: PYTHONPATH=.dev python benchmarks/…)
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from handloom.capture.virtual import Stump
from handloom.stores.camera import Camera, Rig
from handloom.stores.cloud import Cloud, tips
from handloom.stores.locate import N_TIPS, agreed, clusters, point_cloud
from handloom.stores.palm import Calibrations, candidate
from handloom.stores.palm_calibration import Example, calibrate
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import WRIST, pose_hand
from handloom.synth.pose import root_at, sample_pose, sample_view
from handloom.synth.props import Mesh, joined, tube
from handloom.synth.raster import rasterise
from handloom.synth.rigs import ring_rig
from handloom.synth.room import axes_of, resting_hand, room, shoulder, sleeve
from handloom.synth.rotation import rotation_matrix
from handloom.synth.scene import in_camera
from handloom.synth.sensor import StructuredLight, apply
from handloom.synth.subject_sizes import sample_shape

SEED = 20261121
TRAIN, TEST = 2000, 300
OUT = Path(__file__).parents[1] / "stores" / "palm_values.py"


def random_rig(rng: np.random.Generator, far_mm: float = 800.0) -> Rig:
    """An arc or a ring of three cameras."""
    fine = rng.random() < 0.3
    return ring_rig(
        3,
        distance_mm=rng.uniform(400, far_mm),
        spread_deg=360 if rng.random() < 0.2 else rng.uniform(50, 150),
        elevation_deg=rng.uniform(0, 30),
        width=640 if fine else 320,
        height=480 if fine else 240,
        focal_px=475.0 if fine else 241.0,
        depth_unit_mm=0.5,
    )


@dataclass(frozen=True)
class Scene:
    """A hand with its arm, as cameras see it."""

    rig: Rig
    depth_mm: list[Any]
    background_mm: list[Any]
    palm: np.ndarray
    wrist: np.ndarray


def scenes(count: int, seed: int) -> Iterator[Scene]:
    """Random hands: of a person at a desk whose room is known, or in the air with an arm of any direction."""
    hand = builtin_hand()
    stump = Stump(hand)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        rig = random_rig(rng)
        axes = axes_of(rig)
        seated = bool(axes.has_front and rng.random() < 0.65)
        shape = sample_shape(rng)
        pose, root = sample_pose(hand, rng, shape=shape), sample_view(hand, rng, shape=shape)
        if seated and rng.random() < 0.7:
            away = rotation_matrix(rng.normal(size=3) * np.radians(60) / np.sqrt(3))
            root = root_at(hand, shape, away @ resting_hand(axes, "right"), rng.normal(size=3) * 40)
        posed = pose_hand(hand, pose[None], root[None], shape[None])
        mesh, joints = Mesh(posed.vertices[0].astype(float), hand.faces), posed.joints[0].astype(float)
        end, direction, radius = stump.of(posed.vertices[0], posed.joints[0, WRIST])
        bend = direction * 0.6 + rng.normal(size=3) * 0.5
        goal = end + 95 * direction + rng.uniform(150, 400) * bend / np.linalg.norm(bend)
        if seated:
            goal = shoulder(axes, "right") + rng.normal(size=3) * 50
        if seated or rng.random() < 0.7:
            mesh = joined([mesh, sleeve(end, direction, radius, goal)])
        behind = [_depth_of(room(rig), c) for c in rig.cameras] if seated else [None] * len(rig)
        yield Scene(rig, _images(rig, mesh, behind, seed, i), behind, joints[0], joints[WRIST])


def _depth_of(mesh: Mesh, camera: Camera) -> np.ndarray:
    k = np.array(camera.k)
    return rasterise(in_camera(camera, mesh.vertices), mesh.faces, k, camera.width, camera.height)[0]


def _images(rig: Rig, mesh: Mesh, behind: list[Any], seed: int, frame: int) -> list[Any]:
    sensor = StructuredLight(min_mm=150.0)
    out = []
    for view, camera in enumerate(rig.cameras):
        clean, still = _depth_of(mesh, camera), behind[view]
        if still is not None:
            clean = np.where((clean > 0) & ((still == 0) | (clean < still)), clean, still)
        steps = apply(sensor, clean, camera.k, depth_unit_mm=0.5, seed=seed, frame=frame, view=view)
        out.append(steps * np.float32(0.5))
    return out


def things(count: int, seed: int) -> Iterator[tuple[Rig, list[Any]]]:
    """No hands: bottles, balls, bars, boards, every second time in shreds as clutter beyond good range is."""
    for i in range(count):
        rng = np.random.default_rng([seed, i, 1])
        rig = random_rig(rng, 1400.0)
        middle, along = rng.uniform(-100, 100, 3), rng.normal(size=3)
        along *= rng.uniform(30, 250) / np.linalg.norm(along)
        bend = rng.normal(size=3) * rng.uniform(0, 40)
        path = [middle + along * s + bend * (1 - s * s) for s in np.linspace(-1, 1, 7)]
        widths = rng.uniform(12, 110, 2) * rng.uniform(0.6, 1.4, (7, 1))
        images = _images(rig, tube(np.array(path), widths), [None] * 3, seed, i)
        if i % 2:
            scale = rng.uniform(4, 20)
            noise = [gaussian_filter(rng.normal(size=z.shape), scale) for z in images]
            images = [np.where(n > rng.normal() * 0.4 * n.std(), z, 0) for n, z in zip(noise, images, strict=True)]
        yield rig, images


def subsets(rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All three views, two of them, and two of them alone."""
    order = [int(v) for v in rng.permutation(3)]
    return [(0, 1, 2), (order[0], order[1]), (order[0],), (order[2],)]


def examples(seed: int) -> Iterator[Example]:
    """Clouds with and without a hand."""
    for i, scene in enumerate(scenes(TRAIN, seed)):
        for views in subsets(np.random.default_rng([seed, i, 2])):
            for cloud in seen(scene.rig, scene.depth_mm, scene.background_mm, views):
                near = np.linalg.norm(cloud.points - scene.palm, axis=1).min() < 40
                yield Example(cloud, scene.palm if near else None, scene.wrist if near else None)
    for i, (rig, depth) in enumerate(things(TRAIN, seed)):
        for views in subsets(np.random.default_rng([seed, i, 2])):
            yield from (Example(cloud, None, None) for cloud in seen(rig, depth, [None] * 3, views))


def seen(rig: Rig, depth: list[Any], behind: list[Any], views: tuple[int, ...]) -> list[Cloud]:
    """Clusters in some of the views."""
    part = Rig(tuple(rig.cameras[v] for v in views))
    return clusters(point_cloud([depth[v] for v in views], part, [behind[v] for v in views]))


def report(calibration: Calibrations) -> None:
    """Errors on poses and rigs that were not fitted to."""
    results: dict[int, list[tuple[float, float]]] = {1: [], 2: [], 3: []}
    for i, scene in enumerate(scenes(TEST, SEED + 1)):
        palm = scene.palm
        for views in subsets(np.random.default_rng([SEED + 1, i, 2]))[:3]:
            ends = [
                candidate(c, tip, calibration)
                for c in seen(scene.rig, scene.depth_mm, scene.background_mm, views)
                for tip in tips(c, N_TIPS)
            ]
            found = agreed([end for end in ends if end is not None])
            best = max(found, key=lambda one: one.logit, default=None)
            error = np.inf if best is None else float(np.linalg.norm(best.palm_mm - palm))
            results[len(views)].append((error, 0.0 if best is None else 1 / (1 + np.exp(-best.logit))))
    for views, pairs in results.items():
        error, score = np.array(pairs).T
        sure = score > 0.5
        sys.stdout.write(
            f"{views} views: median {np.median(error):.1f} mm, {np.mean(error < 30):.1%} within 30 mm; "
            f"score above 0.5: {sure.mean():.1%}, of those {np.mean(error[sure] < 30):.1%}; "
            f"mean score {score.mean():.2f}\n"
        )


def main() -> None:
    """Calibrate, write, report."""
    calibration = calibrate(examples(SEED))
    lines = [
        '"""Factors of `palm.py` for the built-in hand; written by benchmarks/palm_calibration.py, not by hand."""',
        "",
        "import numpy as np",
        "",
        "from .palm import Calibration, Calibrations",
        "",
        "# fmt: off",
    ]
    for kind in ("one", "several"):
        lines.append(f"_{kind.upper()} = Calibration(")
        for name in ("axial", "lateral", "refine", "trust", "seen"):
            array = getattr(getattr(calibration, kind), name)
            values = textwrap.wrap(", ".join(f"{x:.4g}" for x in array.ravel()), 110)
            lines += [
                f"    {name}=np.array([",
                *(f"        {line}" for line in values),
                f"    ]).reshape({array.shape}),",
            ]
        lines += [")", ""]
    lines += ["BUILT_IN = Calibrations(_ONE, _SEVERAL)", ""]
    OUT.write_text("\n".join(lines))
    report(calibration)


if __name__ == "__main__":
    main()
