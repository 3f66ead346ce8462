"""A ball-and-stick hand seen by three cameras: enough to train on, without the renderer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from handloom.learn import crossing
from handloom.learn.batches import Bank, bank_of
from handloom.learn.data import TrainingData
from handloom.learn.model import PoseModel, write_checkpoint
from handloom.stores.camera import Camera, Rig, project
from handloom.stores.joints import LAYOUTS, PARENTS
from handloom.stores.reading import Resident
from handloom.stores.recording import Hand, Kind, create_recording, open_recording
from handloom.stores.table import Appender

SIDE, WINDOW_MM = 192, 450.0
LENGTHS = (
    0,
    35,
    30,
    35,
    30,
    25,
    30,
    65,
    40,
    25,
    18,
    30,
    65,
    44,
    27,
    18,
    30,
    58,
    40,
    26,
    18,
    30,
    52,
    32,
    18,
    16,
)


def ring(views: int) -> Rig:
    """Cameras on a ring of 500 mm around the origin, all looking at it."""
    cameras = []
    for i in range(views):
        a = 2 * np.pi * i / max(views, 3)
        r = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
        rows = tuple(tuple(float(x) for x in row) for row in r)
        cameras.append(
            Camera(f"cam{i}", 320, 240, (241.0, 240.0, 160.0, 120.0), rows, (0, 0, 500.0), 0.25)  # type: ignore[arg-type]
        )
    return Rig(tuple(cameras))


def toy_joints(rng: np.random.Generator, scale: float) -> NDArray[np.float64]:
    """(26, 3) mm: five bent chains on a wrist, turned at random about a random palm."""
    points = np.zeros((26, 3))
    curl = rng.uniform(0, 1.2, 5)
    for joint in range(26):
        parent = PARENTS[joint]
        if parent < 0:
            continue
        finger = max(0, (joint - 2 + (joint > 5)) // 5) if joint > 1 else 2
        spread = (finger - 2) * 0.25
        bend = 0.0 if parent == 1 else curl[finger] * (joint - (1, 5, 10, 15, 20)[finger])
        step = np.array([np.sin(spread), -np.cos(spread) * np.cos(bend), -np.sin(bend)])
        points[joint] = points[parent] + step * LENGTHS[joint] * scale
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    turn = q * np.sign(np.diag(r))
    turn[:, 0] *= np.sign(np.linalg.det(turn))
    return (points - points[0]) @ turn.T + rng.uniform(-40, 40, 3)


def spheres(joints: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres (n, 3) and radii (n,) of balls along every bone."""
    centers, radii = [], []
    for joint, parent in enumerate(PARENTS):
        for t in (0.0, 0.5) if parent >= 0 else (0.0,):
            centers.append(joints[joint] * (1 - t) + joints[parent] * t)
            radii.append(16.0 if joint < 2 else 9.0)
    return np.array(centers), np.array(radii)


def render(centers: NDArray[np.float64], radii: NDArray[np.float64], k: NDArray[np.float64]) -> NDArray[np.float64]:
    """(SIDE, SIDE) mm, depth of the balls' fronts in a camera's frame, 0 where there is none."""
    depth = np.full((SIDE, SIDE), np.inf)
    v, u = np.mgrid[0:SIDE, 0:SIDE]
    for (x, y, z), radius in zip(centers, radii, strict=True):
        (cu, cv), r = project([x, y, z], k), radius * k[0] / z
        box = np.s_[max(0, int(cv - r)) : int(cv + r) + 2, max(0, int(cu - r)) : int(cu + r) + 2]
        inside = 1 - ((u[box] - cu) ** 2 + (v[box] - cv) ** 2) / r**2
        front = np.where(inside > 0, z - radius * np.sqrt(np.maximum(inside, 0)), np.inf)
        depth[box] = np.minimum(depth[box], front)
    return np.where(np.isfinite(depth), depth, 0)


def toy_resident(
    seed: int,
    frames: int,
    *,
    views: int = 3,
    scale: float = 1.0,
    located_mm: float = 0.0,
    holes: float = 0.0,
    joints: NDArray[np.float64] | None = None,
    twin: NDArray[np.uint64] | None = None,
    labelled: bool = True,
) -> Resident:
    """A decoded recording of the toy hand; `located_mm` moves the centres as a hand finder would."""
    rng = np.random.default_rng(seed)
    rig = ring(views)
    poses = np.stack([toy_joints(rng, scale) for _ in range(frames)]) if joints is None else joints
    crop = np.zeros((frames, views, SIDE, SIDE), np.uint16)
    center = np.zeros((frames, views, 3), np.float32)
    k = np.zeros((frames, views, 4), np.float32)
    for t in range(frames):
        balls, radii = spheres(poses[t])
        for v, camera in enumerate(rig.cameras):
            c = camera.to_camera(poses[t, 0]) + rng.normal(0, located_mm, 3) * (located_mm > 0)
            f = SIDE * c[2] / WINDOW_MM
            fx, fy = f, f * camera.k[1] / camera.k[0]
            middle = (SIDE - 1) / 2
            center[t, v] = c
            k[t, v] = fx, fy, middle - fx * c[0] / c[2], middle - fy * c[1] / c[2]
            depth = render(camera.to_camera(balls), radii, k[t, v].astype(np.float64))
            depth[rng.random(depth.shape) < holes] = 0
            crop[t, v] = np.round(depth / camera.depth_unit_mm)
    return Resident(
        uuid=f"toy-{seed}",
        rows=np.arange(frames),
        crop=crop,
        center=center,
        k=k,
        center_source=np.full((frames, views), 2 if located_mm else 1, np.uint8),
        joints=poses.astype(np.float32) if labelled else None,
        visible=None,
        present=np.ones((frames, views), bool),
        frame_id=np.arange(frames, dtype=np.uint64) + np.uint64(1000 * (seed + 1)),
        subject=np.zeros(frames, np.int32),
        sequence=np.zeros(frames, np.int32),
        split=np.zeros(frames, np.uint8),
        twin=twin,
        parts=None,
        rig=rig,
        layout=LAYOUTS["openxr26"] if labelled else None,
    )


@pytest.fixture(scope="session")
def synthetic() -> Resident:
    """48 labelled frames of three views."""
    return toy_resident(0, 48)


@pytest.fixture(scope="session")
def captured() -> Resident:
    """32 frames of a larger hand with holes in its depth and located centres; all labelled, as for a test."""
    return toy_resident(1, 32, scale=1.15, located_mm=8.0, holes=0.1)


def toy_bank(resident: Resident, *, labelled: NDArray[np.bool_] | None = None, offset_mm: float = 5.0) -> Bank:
    """All its rows in a bank on the CPU; labels of the rows chosen."""
    return bank_of(
        [resident],
        layout=LAYOUTS["openxr26"],
        labelled=None if labelled is None else [labelled],
        offset_true_mm=offset_mm,
        offset_located_mm=3 * offset_mm,
        located=False,
        device=torch.device("cpu"),
    )


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """`resident` and `bank`: makers of toy data and their banks; `write` puts one on disk."""
    return SimpleNamespace(resident=toy_resident, bank=toy_bank, write=write_recording)


@pytest.fixture(scope="session")
def toy_data(synthetic: Resident, captured: Resident) -> Callable[..., TrainingData]:
    """Training data with the first n captured frames labelled and twinned, or seen by one camera only."""
    twins = toy_resident(
        2,
        8,
        scale=1.15,
        joints=captured.joints[:8].astype(np.float64),
        twin=captured.frame_id[:8],
    )

    def make(n: int, *, synth: bool = True, real: bool = True, twinned: int | None = None) -> TrainingData:
        n = n if real else 0
        visible = np.arange(len(captured.crop)) < n
        of = torch.arange(n)
        if twinned is not None:
            of[twinned:] = -1
        return TrainingData(
            layout=LAYOUTS["openxr26"],
            hand="right",
            synth=toy_bank(synthetic) if synth else None,
            twins=toy_bank(twins) if n and synth and real else None,
            real=toy_bank(captured, labelled=visible) if real else None,
            labelled=torch.arange(n),
            twin_of=of,
            unlabelled=torch.arange(len(captured.crop)),
            sources={},
        )

    return make


def write_recording(
    path: Path,
    data: Resident,
    *,
    hand: Hand = "right",
    twins_of: str = "",
    center_score: NDArray[np.float32] | None = None,
) -> Path:
    """A recording on disk that reads back as `data`; all columns that training does not use are zero."""
    kind: Kind = "captured" if data.center_source.max() == 2 else "synthetic"
    attributes = {"twins_of": twins_of} if twins_of else {}
    recording = create_recording(
        path, kind=kind, rig=data.rig, hand=hand, provenance={"source": "toy"}, attributes=attributes
    )
    side = data.crop.shape[-1]
    tables = [recording.create_frames(depth=False), recording.create_crops(parts=False, crop_px=side)]
    if data.joints is not None and data.layout is not None:
        tables.append(recording.create_labels(layout=data.layout.name, twin=data.twin is not None))
    for table in tables:
        with Appender(table) as appender:
            given = {name: getattr(data, name, None) for name in table.columns}
            if "center_score" in table.columns:
                found = (data.center_source > 0).astype(np.float32)
                given["center_score"] = found if center_score is None else center_score
            count = len(data.crop)
            appender.append(
                {
                    name: np.zeros((count, *table.columns[name].shape)) if rows is None else rows
                    for name, rows in given.items()
                }
            )
    return path


@pytest.fixture(scope="session")
def drawing_model() -> PoseModel:
    """Crossing Nets that never trained but draw something for every pose, and a pose for every image."""
    description = {
        "method": "crossing", "preset": "quick", "arm": "full", "layout": "openxr26", "hand": "right",
        "input_px": 32, "cube_mm": 250.0, "normalisation": "cube",
        "architecture": {"channels": 4, "latent": 20, "hidden": 40},
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        nets = crossing.build_nets(description).train()
        for _ in range(60):  # running statistics of their own: else every layer fades out
            nets.pos(nets.trunk(nets.depth_of(torch.randn(32, 23), track=True), track=True), track=True)
        nets.vae.start_from_principal_components(torch.randn(500, 78))
        nets.vae.mean.weight.mul_(30)
        nets.vae.open.weight.mul_(30)
        nets.eval()
    net = crossing.pose_net(nets, description).eval()
    return PoseModel("crossing", "quick", "full", LAYOUTS["openxr26"], "right", 32, 250.0, net, nets, description)


@dataclass(frozen=True)
class Recordings:
    """Paths of toy recordings that belong together."""

    synth: Path
    real: Path
    twins: Path
    unlabelled: Path


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory, synthetic: Resident, captured: Resident) -> Recordings:
    """A synthetic set; a capture with 24 training frames, twins of 12 of them; a capture without labels."""
    folder = tmp_path_factory.mktemp("recordings")
    captured = replace(captured, split=(np.arange(len(captured)) >= 24).astype(np.uint8) * 2)
    real = write_recording(folder / "real.zarr", captured)
    assert captured.joints is not None
    twins = toy_resident(2, 12, scale=1.15, joints=captured.joints[:12].astype(np.float64), twin=captured.frame_id[:12])
    return Recordings(
        synth=write_recording(folder / "synth.zarr", synthetic),
        real=real,
        twins=write_recording(folder / "twins.zarr", twins, twins_of=open_recording(real).uuid),
        unlabelled=write_recording(folder / "unlabelled.zarr", toy_resident(5, 6, located_mm=8.0, labelled=False)),
    )


@pytest.fixture(scope="session")
def trained(recordings: Recordings) -> Callable[..., Path]:
    """Train a run of a few steps on the toy recordings: `trained(path, arm, **overrides)`."""
    plain = {"features": "plain", "stem": 4, "channels": (8,), "mid": (), "feature_width": 16, "view_channels": (8, 4)}
    short: dict[str, dict[str, Any]] = {
        "preview": {"batch": 8, "steps": 1},
        "scratch": {"input_px": 32, "batch": 8, "vae_batch": 8, "vae_steps": 1, "align_steps": 0, "joint_steps": 1},
        "nearest": {"input_px": 32, "components": 8},
    }
    few = {"input_px": 32, "batch": 8, "architecture": plain, "pretrain_steps": 1, "joint_steps": 2, "log_every": 1}

    def run(
        path: Path, arm: str, *, real: Path | None = recordings.real, init: Path | None = None, **more: Any
    ) -> Path:
        from handloom.learn.train import preset, train

        method = "crossing" if arm in ("scratch", "nearest") else "murauer"
        if arm == "synthetic-only":
            more = {"joint_steps": 0} | more
        config = preset(method, "quick", arm, {"labels": 5} | short.get(arm, few) | more)
        train(config, synth=[recordings.synth, recordings.twins], real=real, run_dir=path, init=init)
        return path

    return run


@pytest.fixture
def run(drawing_model: PoseModel, tmp_path: Path) -> Path:
    """The drawing model as a run on disk."""
    (tmp_path / "run").mkdir()
    write_checkpoint(
        tmp_path / "run",
        description=drawing_model.description,
        weights=drawing_model.nets.state_dict(),
        training={"step": 1},
    )
    return tmp_path / "run"
