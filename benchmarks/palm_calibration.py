"""Measure the factors of `stores/palm.py` on rendered arms and write them to `stores/palm_values.py`.

Hands of many proportions, in any rotation, with an arm of random direction behind them, seen by arcs and rings
of one to three cameras at 0.4 to 0.8 m through the structured-light sensor; and things that are no hands. Run it again
when the hand, the sensor or `palm.py` changes:

    python -m handloom.benchmarks.palm_calibration    (from a checkout: PYTHONPATH=.dev python benchmarks/…)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from handloom.capture.stage import Mesh, joined, sleeve, tube
from handloom.capture.virtual import _depth_of, _Stump
from handloom.stores.camera import Rig
from handloom.stores.locate import clusters, hand_candidates, point_cloud
from handloom.stores.palm import Calibration, Cloud, Example, calibrate
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import WRIST, pose_hand
from handloom.synth.pose import sample_pose, sample_shape, sample_view
from handloom.synth.rigs import ring_rig
from handloom.synth.sensor import StructuredLight, apply
from scipy.ndimage import gaussian_filter

SEED = 20261121
TRAIN, TEST = 1000, 250
OUT = Path(__file__).parents[1] / "stores" / "palm_values.py"


def random_rig(rng: np.random.Generator) -> Rig:
    """An arc or a ring of three cameras."""
    fine = rng.random() < 0.3
    return ring_rig(
        3,
        distance_mm=rng.uniform(400, 800),
        spread_deg=360 if rng.random() < 0.2 else rng.uniform(50, 150),
        elevation_deg=rng.uniform(0, 30),
        width=640 if fine else 320,
        height=480 if fine else 240,
        focal_px=475.0 if fine else 241.0,
        depth_unit_mm=0.5,
    )


def scenes(count: int, seed: int) -> Iterator[tuple[Rig, list[Any], np.ndarray, np.ndarray]]:
    """Rig, depth images (mm), palm and wrist of random hands with arms."""
    hand = builtin_hand()
    stump = _Stump(hand)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        rig = random_rig(rng)
        shape = sample_shape(rng)
        pose, root = sample_pose(hand, rng, shape=shape), sample_view(hand, rng, shape=shape)
        posed = pose_hand(hand, pose[None], root[None], shape[None])
        mesh, joints = Mesh(posed.vertices[0].astype(float), hand.faces), posed.joints[0].astype(float)
        if rng.random() < 0.75:
            end, direction, radius = stump.of(posed.vertices[0], posed.joints[0, WRIST])
            bend = direction * 0.6 + rng.normal(size=3) * 0.5
            goal = end + 95 * direction + rng.uniform(150, 400) * bend / np.linalg.norm(bend)
            mesh = joined([mesh, sleeve(end, direction, radius, goal)])
        yield rig, _images(rig, mesh, seed, i), joints[0], joints[WRIST]


def _images(rig: Rig, mesh: Mesh, seed: int, frame: int) -> list[Any]:
    sensor = StructuredLight(min_mm=150.0)
    return [
        apply(sensor, _depth_of(mesh, c), c.k, depth_unit_mm=0.5, seed=seed, frame=frame, view=v) * 0.5
        for v, c in enumerate(rig.cameras)
    ]


def things(count: int, seed: int) -> Iterator[tuple[Rig, list[Any]]]:
    """No hands: bottles, balls, bars, boards, every second time in shreds as clutter beyond good range is."""
    for i in range(count):
        rng = np.random.default_rng([seed, i, 1])
        rig = random_rig(rng)
        middle, along = rng.uniform(-100, 100, 3), rng.normal(size=3)
        along *= rng.uniform(30, 250) / np.linalg.norm(along)
        bend = rng.normal(size=3) * rng.uniform(0, 40)
        path = [middle + along * s + bend * (1 - s * s) for s in np.linspace(-1, 1, 7)]
        widths = rng.uniform(12, 110, 2) * rng.uniform(0.6, 1.4, (7, 1))
        images = _images(rig, tube(np.array(path), widths), seed, i)
        if i % 2:
            scale = rng.uniform(4, 20)
            noise = [gaussian_filter(rng.normal(size=z.shape), scale) for z in images]
            images = [np.where(n > rng.normal() * 0.4 * n.std(), z, 0) for n, z in zip(noise, images, strict=True)]
        yield rig, images


def subsets(rng: np.random.Generator) -> list[tuple[int, ...]]:
    """All three views, two of them, and two of them alone."""
    order = [int(v) for v in rng.permutation(3)]
    return [(0, 1, 2), (order[0], order[1]), (order[0],), (order[2],)]


def _cut(rig: Rig, depth: list[Any], views: tuple[int, ...]) -> tuple[Rig, list[Any]]:
    return Rig(tuple(rig.cameras[v] for v in views)), [depth[v] for v in views]


def examples(seed: int) -> Iterator[Example]:
    """Clouds with and without a hand."""
    for i, (rig, depth, palm, wrist) in enumerate(scenes(TRAIN, seed)):
        for views in subsets(np.random.default_rng([seed, i, 2])):
            for cloud in _clouds(*_cut(rig, depth, views)):
                near = np.linalg.norm(cloud.points - palm, axis=1).min() < 40
                yield Example(cloud, palm if near else None, wrist if near else None)
    for i, (rig, depth) in enumerate(things(TRAIN // 2, seed)):
        for views in subsets(np.random.default_rng([seed, i, 2])):
            yield from (Example(cloud, None, None) for cloud in _clouds(*_cut(rig, depth, views)))


def _clouds(rig: Rig, depth: list[Any]) -> list[Cloud]:
    return clusters(point_cloud(depth, rig, [None] * len(rig)))


def report(calibration: Calibration) -> None:
    """Errors on poses and rigs that were not fitted to."""
    results: dict[int, list[tuple[float, float]]] = {1: [], 2: [], 3: []}
    for i, (rig, depth, palm, _) in enumerate(scenes(TEST, SEED + 1)):
        for views in subsets(np.random.default_rng([SEED + 1, i, 2]))[:3]:
            part, images = _cut(rig, depth, views)
            found = hand_candidates(images, part, calibration=calibration)
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
    calibration = calibrate(list(examples(SEED)))
    lines = [
        '"""Factors of `palm.py` for the built-in hand; written by benchmarks/palm_calibration.py, not by hand."""',
        "",
        "import numpy as np",
        "",
        "from .palm import Calibration",
        "",
        "BUILT_IN = Calibration(",
    ]
    for name in ("axial", "lateral", "refine", "trust"):
        values = ", ".join(f"{x:.5g}" for x in getattr(calibration, name))
        lines.append(f"    {name}=np.array([{values}]),")
    OUT.write_text("\n".join([*lines, ")", ""]))
    report(calibration)


if __name__ == "__main__":
    main()
