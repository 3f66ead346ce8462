"""Train the network of `stores/palm_net.py` on renders and write its weights; then fit the trust in what it says.

Single random frames: hands of all sizes, with arms from any side, before persons, desks, walls, clutter or
nothing, holding things or behind things, seen by arcs and rings of three cameras through three kinds of sensor.
Nothing of it is a session of `locating.py`; seeds differ. Run it again when the hand or the sensors change:

    PYTHONPATH=.dev python benchmarks/palm_training.py [--frames 6000] [--jobs 2]

Places are spread evenly about the palm. Gathered about it, they teach the network that the palm is where it looks,
and where a fist seen as a mitten leaves that open, it stays near where it began, which is on the skin before it.

The weights in the package were made in steps by this script's functions, on a busy machine: 7,300 frames whose
places were gathered about the palm, 12 epochs for the first look on 3,200 of them and 15 for the second; then 2,000
of those and 14,000 more, two in three by stereo, all thinned to an even spread, 4 and 14 epochs more; the trust on
short sessions and 100 other frames. The script as it stands does the same in one go.

Cost: some twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from arm_sessions import LARGE, SMALL, Session, clutter, entry, facing_from, film, sessions
from numpy.typing import NDArray

from handloom.capture.locating import BACKGROUND_SAMPLES
from handloom.capture.virtual import Stump
from handloom.stores.camera import Rig
from handloom.stores.locate import N_FEATURES, background_edge, background_of, edges_of, hand_places, read_places
from handloom.stores.palm_net import (
    AGAIN,
    FIRST,
    HALF_MM,
    LEAST_SEEN,
    OUTPUTS,
    PATCH_PX,
    WEIGHTS,
    Kernel,
    built_in,
    cut_patches,
    ray_axes,
)
from handloom.synth.anatomy import builtin_hand
from handloom.synth.hand import SHAPE_NAMES, WRIST, pose_hand
from handloom.synth.pose import point_in_ball, random_rotation, root_at, sample_pose
from handloom.synth.props import Mesh, ball, box, cylinder, joined
from handloom.synth.render import Renderer, open_renderer
from handloom.synth.rigs import ring_rig
from handloom.synth.room import axes_of, resting_hand, room, shoulder, sleeve
from handloom.synth.rotation import rotation_matrix
from handloom.synth.scene import in_camera
from handloom.synth.sensor import Sensor, StructuredLight, apply
from handloom.synth.stereo import ActiveStereo
from handloom.synth.subject_sizes import sample_shape
from handloom.synth.tof import TimeOfFlight

SEED = 20261125
ROOM_FRAMES = 4
"""Frames before the same room."""
GOOD_MM = 70.0
"""A place this near to the palm shows the hand; what lies up to `UNCLEAR_MM` away is neither."""
UNCLEAR_MM = 95.0
AROUND_MM = 80.0
"""Places about the palm lie within this of it."""
REACH_MM = 130.0
"""Offsets are learned so far from the palm."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One instant."""

    rig: Rig
    depth_mm: list[Any]
    behind_mm: list[Any]
    """None without a background."""
    palm: NDArray[np.float64]


def random_rig(rng: np.random.Generator) -> Rig:
    """An arc or a ring of three cameras, of 640, 320 or 160 columns."""
    scale = float(rng.choice([2.0, 1.0, 0.5], p=[0.15, 0.7, 0.15]))
    return ring_rig(
        3,
        distance_mm=rng.uniform(380, 850),
        spread_deg=360 if rng.random() < 0.15 else rng.uniform(40, 150),
        elevation_deg=rng.uniform(-10, 35),
        width=int(320 * scale),
        height=int(240 * scale),
        focal_px=475.0 if scale > 1 else scale * rng.uniform(180, 300),
        depth_unit_mm=0.5,
    )


def random_sensor(rng: np.random.Generator) -> Sensor:
    """One of the three, better or worse than its model."""
    # Stereo more often than its share: it shows mittens, from which the palm is read with most difficulty.
    match int(rng.choice(3, p=[0.2, 0.65, 0.15])):
        case 0:
            return StructuredLight(
                axial_mm=rng.uniform(0.8, 2.2),
                lateral_px=rng.uniform(0.5, 1.3),
                projector=1 if rng.random() < 0.5 else -1,
                edge_hole=rng.uniform(0.1, 0.4),
                block_px=int(rng.integers(1, 4)),
                min_mm=150.0,
            )
        case 1:
            return ActiveStereo(
                second_imager=1 if rng.random() < 0.5 else -1,
                window_px=5 if rng.random() < 0.25 else 7,
                subpixel_px=rng.uniform(0.05, 0.1),
            )
        case _:
            return TimeOfFlight(edge_hole=rng.uniform(0.1, 0.5), axial_mm=rng.uniform(0.4, 1.5))


def shots(first: int, count: int, seed: int) -> Iterator[Shot]:
    """Random instants."""
    hand, renderer = builtin_hand(), open_renderer("raster")
    stump = Stump(hand)
    for i in range(first, first + count):
        fixed = np.random.default_rng([seed, i // ROOM_FRAMES, 1])
        rig, sensor = random_rig(fixed), random_sensor(fixed)
        axes = axes_of(rig)
        has_room = bool(fixed.random() < 0.8)
        if i % ROOM_FRAMES == 0 or i == first:
            still: list[Any] = [None] * len(rig)
            behind: list[Any] = [None] * len(rig)
            if has_room:
                mesh = joined([room(rig), *(clutter(fixed, axes) if fixed.random() < 0.5 else [])])
                still = _clean(renderer, rig, mesh)
                behind = _background(rig, still, sensor, seed, i // ROOM_FRAMES)
        rng = np.random.default_rng([seed, i])
        shape = sample_shape(rng)
        if rng.random() < 0.6:
            shape[SHAPE_NAMES.index("size")] += rng.uniform(1.5 * SMALL, 1.8 * LARGE)
        own = has_room and rng.random() < 0.5
        way = entry(rng, axes)
        facing = resting_hand(axes, "right") if own else facing_from(rng, way)
        turn = rng.normal(size=3) * np.radians(65) / np.sqrt(3)
        rotation = random_rotation(rng) if rng.random() < 0.1 else rotation_matrix(turn) @ facing
        root = root_at(hand, shape, rotation, point_in_ball(rng, 120.0))
        posed = pose_hand(hand, sample_pose(hand, rng, shape=shape)[None], root[None], shape[None])
        vertices, joints = posed.vertices[0], posed.joints[0].astype(np.float64)
        goal = shoulder(axes, "right") if own else rng.uniform(300, 600) * way
        parts = [Mesh(vertices.astype(np.float64), hand.faces)]
        if rng.random() < 0.93:
            parts.append(sleeve(*stump.of(vertices, posed.joints[0, WRIST]), goal + rng.normal(size=3) * 50))
        if rng.random() < 0.2:
            parts.append(_thing(rng, joints[0]))
        depth = _images(renderer, rig, joined(parts), still, sensor, seed, i)
        known = has_room and rng.random() < 0.9
        yield Shot(rig, depth, behind if known else [None] * len(rig), joints[0])


def _thing(rng: np.random.Generator, palm: NDArray[np.float64]) -> Mesh:
    """Something held, or between hand and camera."""
    at = palm + rng.normal(size=3) * 70
    match int(rng.integers(3)):
        case 0:
            return ball(at, rng.uniform(12, 40))
        case 1:
            return cylinder(at, random_rotation(rng)[0] * rng.uniform(40, 120), rng.uniform(5, 30))
        case _:
            return box(at, list(random_rotation(rng).T * rng.uniform(8, 50, 3)[:, None]))


def _clean(renderer: Renderer, rig: Rig, mesh: Mesh) -> list[Any]:
    return [
        renderer.render(in_camera(c, mesh.vertices), mesh.faces, np.array(c.k), c.width, c.height).depth_mm
        for c in rig.cameras
    ]


def _sensed(rig: Rig, clean: list[Any], sensor: Sensor, seed: int, frame: int) -> list[Any]:
    return [
        apply(sensor, z, c.k, depth_unit_mm=c.depth_unit_mm, seed=seed, frame=frame, view=view)
        * np.float32(c.depth_unit_mm)
        for view, (z, c) in enumerate(zip(clean, rig.cameras, strict=True))
    ]


def _background(rig: Rig, still: list[Any], sensor: Sensor, seed: int, number: int) -> list[Any]:
    """About what `background_of` would give: the near edge of the noise."""
    first, second = (_sensed(rig, still, sensor, seed, 10_000_000 + 2 * number + i) for i in range(2))
    out = []
    for a, b in zip(first, second, strict=True):
        both = (a > 0) & (b > 0) & (np.abs(a - b) < 0.1 * a)
        sigma = float(np.median(np.abs(a - b)[both] / a[both] ** 2)) / 0.954 * a**2 if both.any() else 0 * a
        out.append(np.where(both, np.maximum(np.maximum(a, b) - 3.5 * sigma, 0.8 * a), 0).astype(np.float32))
    return out


def _images(
    renderer: Renderer, rig: Rig, mesh: Mesh, still: list[Any], sensor: Sensor, seed: int, frame: int
) -> list[Any]:
    clean = _clean(renderer, rig, mesh)
    for view, behind in enumerate(still):
        if behind is not None:
            z = clean[view]
            clean[view] = np.where((z > 0) & ((behind == 0) | (z < behind)), z, behind)
    return _sensed(rig, clean, sensor, seed, frame)


# -- examples ------------------------------------------------------------------------------------------------


def examples(task: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Patches (n, PATCH_PX, PATCH_PX), 255 nothing, and targets (n, 3) offsets in half patches."""
    first, count, seed = task
    patches, targets = [], []
    for i, shot in enumerate(shots(first, count, seed)):
        rng = np.random.default_rng([seed, first + i, 2])
        masked = rng.random() < 0.85
        views = [0, 1, 2] if rng.random() < 0.6 else [int(rng.integers(3))]
        part = Rig(tuple(shot.rig.cameras[v] for v in views))
        edges = [None if behind is None else background_edge(behind) for behind in shot.behind_mm]
        all_places = hand_places([shot.depth_mm[v] for v in views], part, [edges[v] for v in views])
        ends = all_places[np.argsort(rng.random(len(all_places)))][:7]
        for view, camera in enumerate(shot.rig.cameras):
            image, edge = shot.depth_mm[view], edges[view] if masked else None
            # Evenly about the palm, nowhere more often than elsewhere, or where it cannot be told exactly the network
            # learns that it is where it looks; and along the arm.
            places = [shot.palm + point_in_ball(rng, AROUND_MM) for _ in range(5)]
            places += [place + rng.normal(size=3) * 8 for place in ends]
            here = camera.to_camera(np.array(places))
            here = here[here[:, 2] > 120]
            axes = turned(ray_axes(here), rng)
            cut = cut_patches(image, camera, here, axes, edge)
            away = np.einsum("nij,nj->ni", axes, camera.to_camera(shot.palm) - here) / HALF_MM
            good = (cut < 1).sum((1, 2)) >= LEAST_SEEN
            patches.append(np.rint((cut[good] + 1) * 127.5).astype(np.uint8))
            targets.append(away[good].astype(np.float32))
    return np.concatenate(patches), np.concatenate(targets)


def turned(axes: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Axes (n, 3, 3) turned about the ray by any angle, every second one mirrored: left hands are hands, too."""
    angle = rng.uniform(0, 2 * np.pi, len(axes))
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    flip = np.where(rng.random(len(axes)) < 0.5, -1.0, 1.0)[:, None]
    x, y = axes[:, 0], axes[:, 1]
    return np.stack([flip * (c * x + s * y), c * y - s * x, axes[:, 2]], axis=1)


# -- training ------------------------------------------------------------------------------------------------


def train(
    patches: NDArray[np.uint8], targets: NDArray[np.float32], *, name: str, epochs: int, threads: int
) -> dict[str, Any]:
    """Weights of one of the two networks by name, as `palm_net` reads them."""
    import torch
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    kernels, features = (FIRST, 64) if name == "first" else (AGAIN, 128)
    layers: list[nn.Module] = []
    for channels_in, channels, side, stride in kernels:
        layers += [nn.Conv2d(channels_in, channels, side, stride=stride, padding=side // 2), nn.ReLU()]
    flat = kernels[-1][1] * _side(kernels) ** 2
    trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features), nn.ReLU())
    trunk = trunk.to(memory_format=torch.channels_last)
    last = nn.Linear(features, OUTPUTS)
    weights = [*trunk.parameters(), *last.parameters()]
    batch, count = 192, len(patches)
    rng = np.random.default_rng(SEED)
    held = np.arange(count) % 20 == 0
    rows = np.flatnonzero(~held)
    steps = epochs * (len(rows) // batch)
    optimiser = torch.optim.AdamW(weights, 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.15)
    x_all, y_all = torch.from_numpy(patches), torch.from_numpy(targets)

    def run(x: Any) -> Any:
        image = x[:, None].contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = trunk(image)
        return last(out.float())

    start, total = time.monotonic(), 0.0
    for epoch in range(epochs):
        rng.shuffle(rows)
        for low in range(0, len(rows) - batch + 1, batch):
            part = torch.from_numpy(rows[low : low + batch])
            x = 1 - (x_all[part].float() / 127.5 - 1)
            x = torch.where(x > 0.004, x + 0.006 * torch.randn_like(x), 0)
            loss = _loss(run(x), y_all[part])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 5.0)
            optimiser.step()
            schedule.step()
            total += 0.01 * (float(loss.detach()) - total)
        with torch.no_grad():
            y = y_all[held]
            out = run(1 - (x_all[held].float() / 127.5 - 1))
            near = y.norm(dim=1) * HALF_MM < GOOD_MM
            error = (out[:, :3] - y)[near].norm(dim=1) * HALF_MM
            right = ((out[:, 5] > 0) == near)[near | (y.norm(dim=1) * HALF_MM > UNCLEAR_MM)].float().mean()
        print(
            f"{name}, epoch {epoch + 1}: loss {total:.3f}, held out {float(_loss(out, y)):.3f}, one view's error "
            f"{float(error.median()):.1f} mm median, {float((error < 30).float().mean()):.1%} within 30 mm, "
            f"hands told {float(right):.1%}, {time.monotonic() - start:.0f} s",
            flush=True,
        )
    return {f"{name}.{key}": value for key, value in _as_matrices([*trunk, last], kernels).items()}


def _side(kernels: Sequence[Kernel]) -> int:
    """Of the image that is left after all strides."""
    return PATCH_PX // int(np.prod([stride for *_, stride in kernels]))


def _loss(out: Any, offset: Any) -> Any:
    """Negative log likelihood of where the palm is, and cross entropy of whether it is there."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, smooth_l1_loss

    distance = offset.norm(dim=1) * HALF_MM
    learned = (distance < REACH_MM).float()
    spread = out[:, 3:5].clamp(-5, 3)[:, [0, 0, 1]]
    scaled = (out[:, :3] - offset) * torch.exp(-spread)
    # Student's t with three degrees of freedom: a patch that shows no hand must not rule.
    placed = (2.0 * torch.log1p(scaled.square() / 3) + spread).sum(1)
    direct = smooth_l1_loss(out[:, :3], offset, beta=0.1, reduction="none").sum(1)
    is_hand, clear = (distance < GOOD_MM).float(), ((distance < GOOD_MM) | (distance > UNCLEAR_MM)).float()
    told = binary_cross_entropy_with_logits(out[:, 5], is_hand, reduction="none")
    return ((placed + direct) * learned).sum() / learned.sum() + (told * clear).sum() / clear.sum()


def _as_matrices(layers: Sequence[Any], kernels: Sequence[Kernel]) -> dict[str, Any]:
    """As `palm_net.run` multiplies: rows are side, side, channels."""
    out: dict[str, Any] = {}
    for i, layer in enumerate(layer for layer in layers if hasattr(layer, "kernel_size")):
        weight = layer.weight.detach().numpy()
        out[f"conv{i}"] = weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])
        out[f"conv{i}_bias"] = layer.bias.detach().numpy()
    hidden, last = [layer for layer in layers if hasattr(layer, "in_features")]
    side, features = _side(kernels), hidden.out_features
    weight = hidden.weight.detach().numpy().reshape(features, kernels[-1][1], side, side)
    out["hidden"], out["hidden_bias"] = weight.transpose(2, 3, 1, 0).reshape(-1, features), hidden.bias.detach().numpy()
    out["out"], out["out_bias"] = last.weight.detach().numpy().T, last.bias.detach().numpy()
    return {name: np.ascontiguousarray(value, np.float16) for name, value in out.items()}


# -- trust ---------------------------------------------------------------------------------------------------


def judged(task: tuple[int, int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features (n, N_FEATURES) of candidates in frames that the network never saw, and their errors (n,) mm."""
    first, count, seed = task
    features, errors = [], []
    for i, shot in enumerate(shots(first, count, seed)):
        order = np.random.default_rng([seed, first + i, 3]).permutation(3)
        edges = edges_of(shot.behind_mm, shot.rig)
        for views in ([0, 1, 2], [int(order[0]), int(order[1])], [int(order[2])], [int(order[0])]):
            part = Rig(tuple(shot.rig.cameras[v] for v in views))
            depth, known = [shot.depth_mm[v] for v in views], [edges[v] for v in views]
            places = hand_places(depth, part, known)
            if len(places):
                palms, told = read_places(places, depth, part, known, built_in())
                features.append(told)
                errors.append(np.linalg.norm(palms - shot.palm, axis=1))
    return np.concatenate(features), np.concatenate(errors)


def judged_session(session: Session) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As `judged`, of a session's sets: with its own background, and as `capture locate` meets them."""
    shown = film(session)
    units = [np.float32(camera.depth_unit_mm) for camera in shown.rig.cameras]
    rows = np.unique(np.linspace(0, len(shown.palm_mm) - 1, BACKGROUND_SAMPLES).astype(int))
    edges = edges_of([background_of(d[rows]) * unit for d, unit in zip(shown.depth, units, strict=True)], shown.rig)
    features, errors = [], []
    for k, palm in enumerate(shown.palm_mm):
        for views in ([0, 1, 2], [k % 3, (k + 1) % 3], [0], [1 + k % 2]):
            part = Rig(tuple(shown.rig.cameras[v] for v in views))
            depth, known = [shown.depth[v][k] * units[v] for v in views], [edges[v] for v in views]
            places = hand_places(depth, part, known)
            if len(places):
                palms, told = read_places(places, depth, part, known, built_in())
                features.append(told)
                errors.append(np.linalg.norm(palms - palm, axis=1))
    return np.concatenate(features), np.concatenate(errors)


def trust(features: NDArray[np.float64], errors: NDArray[np.float64]) -> dict[str, Any]:
    """Factors of the log odds that a candidate is within 30 mm, for what one camera sees and for several."""
    factors, ranges = [], []
    for several in (False, True):
        rows = (features[:, -1] > 1) == several
        x = features[rows]
        seen = np.percentile(x, [0.5, 99.5], axis=0)
        factors.append(logistic(np.clip(x, *seen), errors[rows] < 30, 3.0))
        ranges.append(seen)
    return {"trust": np.array(factors, np.float32), "trust_range": np.array(ranges, np.float32)}


def logistic(features: NDArray[np.float64], good: NDArray[np.bool_], weight: float) -> NDArray[np.float64]:
    """(2 n + 1,) factors of features, their squares and 1: regularised logistic regression, Newton's method.

    Fitted on standardised features, so that the penalty treats them alike, and written for raw ones.
    """
    mean, spread = features.mean(0), features.std(0)
    # What never changes (two cameras' agreement where there is one camera) must not be scaled up.
    spread = np.where(spread > 1e-3, spread, np.inf)
    z = (features - mean) / spread
    a = np.column_stack([z, z**2, np.ones(len(z))])
    penalty = np.full(a.shape[1], weight)
    penalty[-1] = 1e-6
    factors = np.zeros(a.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(a @ factors, -30, 30)))
        step = np.linalg.solve(
            (a * (p * (1 - p))[:, None]).T @ a + np.diag(penalty), a.T @ (p - good) + penalty * factors
        )
        factors -= step
        if np.abs(step).max() < 1e-6:
            break
    count = features.shape[1]
    one, two = factors[:count] / spread, factors[count:-1] / spread**2
    constant = factors[-1] - one @ mean + two @ mean**2
    return np.concatenate([one - 2 * two * mean, two, [constant]])


def development() -> list[Session]:
    """Sessions that trust is fitted on, short and many: none of those of `locating.py`."""
    return [replace(session, sequences=12, sequence_frames=5) for session in sessions(100, 24)]


def near_ones(targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Patches that the second look may meet: about the palm, and some of all the others."""
    distance = np.linalg.norm(targets, axis=1) * HALF_MM
    some = np.random.default_rng(SEED).random(len(targets)) < 0.2
    return (distance < 85) | some


def main() -> None:
    """Render, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    from safetensors.numpy import save_file

    tasks = [(low, 200, SEED) for low in range(0, arguments.frames, 200)]
    start = time.monotonic()
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(examples, tasks))
    patches, targets = np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])
    sys.stdout.write(f"{len(patches)} patches of {arguments.frames} frames, {time.monotonic() - start:.0f} s\n")
    weights = train(patches, targets, name="first", epochs=arguments.epochs, threads=arguments.jobs)
    near = near_ones(targets)
    weights |= train(patches[near], targets[near], name="again", epochs=arguments.epochs, threads=arguments.jobs)
    weights |= {"trust": np.zeros((2, 2 * N_FEATURES + 1), np.float32), "trust_range": np.zeros((2, 2, N_FEATURES))}
    save_file(weights, WEIGHTS)
    built_in.cache_clear()
    tasks = [(low, 50, SEED + 1) for low in range(0, arguments.frames // 10, 50)]
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        parts = list(pool.map(judged, tasks)) + list(pool.map(judged_session, development()))
    weights |= trust(np.concatenate([f for f, _ in parts]), np.concatenate([e for _, e in parts]))
    save_file(weights, WEIGHTS)


if __name__ == "__main__":
    main()
