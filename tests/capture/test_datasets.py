"""Importers of published data sets, on tiny files of exactly the published layouts: the sets cannot be shipped."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.io import savemat

from handloom.capture import published
from handloom.capture.datasets import import_dataset
from handloom.capture.locating import locate
from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.cli import main
from handloom.stores.camera import Rig, project
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS
from handloom.stores.label_files import BIGHAND_K, ICVL_K, MSRA_K, NYU_K
from handloom.stores.recording import CENTER_SOURCES, Recording, describe, open_recording
from handloom.stores.verify import verify
from handloom.synth.hand import landmarks
from handloom.synth.rigs import ring_rig
from handloom.synth.twin import make_twins
from handloom.synth.twin_units import TwinSettings

FRAMES = 10
SWAP = 4
"""NYU's cameras change places before this frame in these tests."""


def shot(folder: Path, views: int, size: tuple[int, int], k: tuple[float, float, float, float]) -> Recording:
    """A person before cameras like the data set's, the built-in hand in front."""
    rig = ring_rig(views, width=size[0], height=size[1], focal_px=k[0])
    rig = Rig(tuple(replace(camera, k=k, depth_unit_mm=1.0) for camera in rig.cameras))
    config = VirtualConfig(frames=FRAMES, transport="direct", seed=3, jobs=1)
    with VirtualRig(config, rig=rig) as source:
        return record(source, folder / "shot.zarr", keep_truth=True)


def depth_of(recording: Recording) -> list[np.ndarray]:
    assert recording.frames is not None
    return [recording.frames.read(f"depth/{name}") for name in recording.rig.names]


def joints_of(recording: Recording) -> np.ndarray:
    assert recording.labels is not None
    return recording.labels.read("joints").astype(np.float64)


def points_of(made: Recording, layout: str, view: int = 0) -> np.ndarray:
    return made.rig.cameras[view].to_camera(landmarks(LAYOUTS[layout], joints_of(made)))


def uvd_of(points: np.ndarray, k: tuple[float, ...]) -> np.ndarray:
    return np.concatenate([project(points, k), points[..., 2:]], axis=-1)


def row(points: np.ndarray) -> str:
    return " ".join(f"{x:.4f}" for x in points.ravel())


def png(path: Path, depth: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), depth)


def packed(path: Path, depth: np.ndarray) -> None:
    blue, green = (depth & 255).astype(np.uint8), (depth >> 8).astype(np.uint8)
    png(path, np.stack([blue, green, np.zeros_like(blue)], axis=-1))


def write_nyu(part: Path, made: Recording) -> None:
    filed = [[0, 2, 1] if frame < SWAP else [0, 1, 2] for frame in range(FRAMES)]
    depth = depth_of(made)
    xyz = np.stack([points_of(made, "nyu36", view) for view in range(3)])
    xyz = np.stack([[xyz[filed[i][c], i] for i in range(FRAMES)] for c in range(3)])
    for i in range(FRAMES):
        for c in range(3):
            packed(part / f"depth_{c + 1}_{i + 1:07d}.png", depth[filed[i][c]][i])
    savemat(part / "joint_data.mat", {"joint_xyz": xyz * [1, -1, 1], "joint_uvd": uvd_of(xyz, NYU_K)})


def write_icvl(folder: Path, made: Recording) -> None:
    uvd, depth = uvd_of(points_of(made, "icvl16"), ICVL_K), depth_of(made)[0]
    places = [f"2014031211{i // 3}/{'22-5/' * (i % 2)}image_{i:04d}.png" for i in range(6)]
    parts = {"Training/labels.txt": places, "Testing/test_seq_1.txt": ["test_seq_1/image_0000.png"] * 2,
             "Testing/test_seq_2.txt": ["test_seq_2/image_0000.png"] * 2}  # fmt: skip
    i = 0
    for file, names in parts.items():
        lines = []
        for name in names:
            png((folder / file).parent / "Depth" / name, depth[i])
            lines.append(f"{name} {row(uvd[i])} \n")
            i += file.startswith("Training")
        (folder / file).write_text("".join(lines) + "\n")


def write_msra(folder: Path, made: Recording) -> None:
    points, depth = points_of(made, "msra21"), depth_of(made)[0]
    for who, gesture, rows in ((0, "1", range(4)), (0, "TIP", range(4, 7)), (3, "Y", range(7, FRAMES))):
        here = folder / f"P{who}" / gesture
        here.mkdir(parents=True)
        (here / "joint.txt").write_text(f"{len(rows)}\n" + "".join(row(points[i] * [1, -1, -1]) + "\n" for i in rows))
        for number, i in enumerate(rows):
            left, top = np.clip(np.floor(project(points[i], MSRA_K).min(0) - 8).astype(int), 0, 200).tolist()
            right, bottom = min(left + 130, 320), min(top + 130, 240)
            box = depth[i, top:bottom, left:right].astype("<f4")
            box[box > 900] = 0
            data = (
                struct.pack("<6i", 320, 240, left, top, right, bottom) + (box + np.float32(0.3) * (box > 0)).tobytes()
            )
            (here / f"{number:06d}_depth.bin").write_bytes(data)


def write_bighand(folder: Path, made: Recording) -> None:
    points, depth = points_of(made, "bighand21"), depth_of(made)[0]
    for i in range(FRAMES):
        png(folder / f"training/images/image_D{i + 1:08d}.png", depth[i])
    lines = [f"image_D{i + 1:08d}.png\t" + row(points[i]).replace(" ", "\t") + "\n" for i in range(FRAMES)]
    (folder / "training/Training_Annotation.txt").write_text("".join(lines))


@pytest.fixture(scope="module")
def kinects(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return shot(tmp_path_factory.mktemp("kinects"), 3, (640, 480), NYU_K)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return shot(tmp_path_factory.mktemp("small"), 1, (320, 240), MSRA_K)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, kinects: Recording, small: Recording) -> Path:
    """One folder of each set."""
    top = tmp_path_factory.mktemp("sets")
    write_nyu(top / "nyu/train", kinects)
    write_msra(top / "msra", small)
    write_icvl(top / "icvl", shot(top, 1, (320, 240), ICVL_K))
    shutil.rmtree(top / "shot.zarr")
    write_bighand(top / "bighand", shot(top, 1, (640, 480), BIGHAND_K))
    return top


@pytest.fixture(autouse=True)
def early_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "NYU_SWAPPED_BEFORE", SWAP)


SAID: dict[str, dict[str, Any]] = {
    "nyu": {"split": "train"}, "icvl": {}, "msra": {"test_subject": 3}, "bighand": {}
}  # fmt: skip


def imported(name: Any, folder: Path, out: Path, **more: Any) -> Recording:
    return import_dataset(folder, out, dataset=name, **{**SAID[name], **more})


def share_on_the_hand(recording: Recording) -> list[float]:
    """For each camera the share of labels that lie just behind a surface seen there."""
    out, joints = [], joints_of(recording)
    for camera, depth in zip(recording.rig.cameras, depth_of(recording), strict=True):
        seen = camera.to_camera(joints)
        u, v = np.moveaxis(np.rint(project(seen, camera.k)).astype(int), -1, 0)
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        frame = np.arange(len(joints))[:, None]
        surface = depth[frame, v.clip(0, camera.height - 1), u.clip(0, camera.width - 1)] * camera.depth_unit_mm
        behind = seen[..., 2] - surface
        out.append(float((inside & (surface > 0) & (behind > -10) & (behind < 100)).mean()))
    return out


@pytest.mark.parametrize("name", SAID)
def test_labels_lie_on_the_hand_in_every_camera(name: str, sets: Path, tmp_path: Path) -> None:
    made = imported(name, sets / name, tmp_path / "r.zarr")
    assert min(share_on_the_hand(made)) > 0.8
    assert made.layout is not None
    assert made.layout.name == {"nyu": "nyu36", "icvl": "icvl16", "msra": "msra21", "bighand": "bighand21"}[name]
    assert describe(made)["labelled"] == made.n_frames == FRAMES
    # No false alarm: these ICVL sequences do show one image twice.
    found = [(finding.code, finding.rows) for finding in verify(made.path, deep=True).findings]
    assert found == ([("duplicate", (7, 9))] if name == "icvl" else [])


def test_nyus_cameras_are_placed_and_the_swap_is_undone(kinects: Recording, sets: Path, tmp_path: Path) -> None:
    made = imported("nyu", sets / "nyu", tmp_path / "r.zarr")
    for ours, theirs in zip(depth_of(made), depth_of(kinects), strict=True):
        assert (ours == theirs).all()
    first = kinects.rig.cameras[0]
    for ours_, theirs_ in zip(made.rig.cameras, kinects.rig.cameras, strict=True):
        # As the first camera sees the others: its frame is the rig's.
        assert np.abs(ours_.rotation - theirs_.rotation @ first.rotation.T).max() < 1e-4
        assert np.abs(ours_.to_camera(first.to_camera([0, 0, 0])) - theirs_.translation).max() < 0.05
    assert np.abs(joints_of(made) - points_of(kinects, "nyu36")).max() < 0.01
    assert made.frames is not None
    assert made.frames.read("sequence").tolist() == [0] * SWAP + [1] * (FRAMES - SWAP)
    assert max(made.provenance["rig_residual_mm"]) < 0.01


def test_a_swap_that_is_not_there_is_noticed(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "NYU_SWAPPED_BEFORE", 0)
    with pytest.raises(HandloomError, match="cameras 1 and 2 do not show one hand"):
        imported("nyu", sets / "nyu", tmp_path / "r.zarr")
    assert not list(tmp_path.iterdir())


def test_the_first_kinect_alone(sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "nyu", tmp_path / "nyu", ignore=shutil.ignore_patterns("depth_2*", "depth_3*"))
    made = imported("nyu", tmp_path / "nyu", tmp_path / "r.zarr", frames=3)
    assert (made.n_views, made.n_frames) == (1, 3)


def test_parts_people_and_sequences(sets: Path, tmp_path: Path) -> None:
    def columns(name: str, **more: Any) -> dict[str, list[int]]:
        made = imported(name, sets / name, tmp_path / "r.zarr", overwrite=True, **more)
        assert made.frames is not None
        return {c: made.frames.read(c).tolist() for c in ("subject", "sequence", "split", "frame_id")}

    msra = columns("msra")
    assert msra["subject"] == [0] * 7 + [3] * 3
    assert msra["sequence"] == [0] * 4 + [15] * 3 + [3 * 17 + 16] * 3
    assert msra["split"] == [0] * 7 + [2] * 3
    assert columns("msra", split="test")["subject"] == [3] * 3
    icvl = columns("icvl")
    assert icvl["subject"] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert icvl["sequence"] == [0, 1, 0, 2, 3, 2, 4, 4, 5, 5]
    assert icvl["split"] == [0] * 6 + [2] * 4
    assert columns("icvl", split="test")["split"] == [2] * 4
    assert columns("bighand", frames=4) == {
        "subject": [0] * 4, "sequence": [0, 1, 2, 3], "split": [0] * 4, "frame_id": [0, 1, 2, 3]
    }  # fmt: skip


def test_msras_tenths_of_millimetres_are_kept(small: Recording, sets: Path, tmp_path: Path) -> None:
    made = imported("msra", sets / "msra", tmp_path / "r.zarr")
    ours, theirs = depth_of(made)[0], depth_of(small)[0]
    kept = ours > 0
    assert kept.any(axis=(1, 2)).all()
    assert (ours[kept] == 10 * theirs[kept] + 3).all()


def test_crops_around_the_labels_palm(sets: Path, tmp_path: Path) -> None:
    made = imported("nyu", sets / "nyu", tmp_path / "r.zarr", center="labels")
    assert made.crops is not None
    assert made.layout is not None
    assert set(made.crops.read("center_source").ravel().tolist()) == {CENTER_SOURCES.index("truth")}
    palm = joints_of(made)[:, made.layout.palm]
    for view, camera in enumerate(made.rig.cameras):
        assert np.abs(made.crops.read("center")[:, view] - camera.to_camera(palm)).max() < 0.01


def test_from_the_files_to_located_crops_and_twins(kinects: Recording, sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    done = CliRunner().invoke(
        main, ["capture", "import", str(sets / "nyu"), "--dataset", "nyu", "--split", "train", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}: {FRAMES} frames of 3 cameras\nnext: handloom capture locate {out}\n"
    # The same images by the same cameras: the hand is found where it is found in the recording they come from.
    shutil.copytree(kinects.path, tmp_path / "k.zarr")
    for path in (out, tmp_path / "k.zarr"):
        assert locate(path, smooth=False).located > 0.8 * 3 * FRAMES
    ours, theirs = (open_recording(path).crops for path in (out, tmp_path / "k.zarr"))
    assert ours is not None
    assert theirs is not None
    assert np.abs(ours.read("center") - theirs.read("center")).max() < 1
    twins = make_twins(out, tmp_path / "t.zarr", settings=TwinSettings(seed=0))
    assert twins.labels is not None
    assert twins.labels.read("twin").tolist() == list(range(FRAMES))
    assert twins.labels.read("fit_error_mm").mean() < 3


def cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


def lines(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))


FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "no labels": ("nyu", lambda f: (f / "train/joint_data.mat").unlink(), "NYU's labels are missing"),
    "an image short": ("nyu", lambda f: (f / "train/depth_2_0000003.png").unlink(), "Camera 2 has 9 images"),
    "misnumbered": ("nyu", lambda f: (f / "train/depth_1_0000003.png").rename(f / "train/depth_1_0000099.png"),
                    "An image is missing"),
    "torn": ("nyu", lambda f: cut(f / "train/depth_3_0000002.png", 900), "truncated or damaged"),
    "grey": ("nyu", lambda f: png(f / "train/depth_1_0000001.png", np.ones((480, 640), np.uint16)), "8-bit RGB"),
    "no image": ("icvl", lambda f: shutil.rmtree(f / "Training/Depth/20140312111"), "labelled but not there"),
    "short line": ("icvl", lambda f: lines(f / "Training/labels.txt", lambda x: [*x[:2], "a.png 1 2\n"]),
                   "2 instead of 48"),
    "elsewhere": ("icvl", lambda f: lines(f / "Training/labels.txt", lambda x: ["../" + x[0]]), "outside the folder"),
    "one test file": ("icvl", lambda f: (f / "Testing/test_seq_2.txt").unlink(), "ICVL's labels are missing"),
    "torn bin": ("msra", lambda f: cut(f / "P0/1/000002_depth.bin", 5000), "5000 bytes; its box"),
    "no header": ("msra", lambda f: cut(f / "P0/1/000002_depth.bin", 11), "no depth image of MSRA15"),
    "a bin short": ("msra", lambda f: (f / "P3/Y/000002_depth.bin").unlink(), "2 images, joint.txt labels 3"),
    "a wrong count": ("msra", lambda f: lines(f / "P0/1/joint.txt", lambda x: ["500\n", *x[1:]]),
                      "4 lines, its first line says 500"),
    "strange gesture": ("msra", lambda f: (f / "P0/1").rename(f / "P0/wave"), "'wave' is none of"),
    "no annotation": ("bighand", lambda f: (f / "training/Training_Annotation.txt").unlink(), "labels are missing"),
    "20 joints": ("bighand", lambda f: lines(f / "training/Training_Annotation.txt", lambda x: [x[0][: -12] + "\n"]),
                  "instead of 63"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_set_that_is_not_as_published_is_refused_and_leaves_nothing(fault: str, sets: Path, tmp_path: Path) -> None:
    name, spoil, message = FAULTS[fault]
    shutil.copytree(sets / name, tmp_path / name)
    spoil(tmp_path / name)
    with pytest.raises(HandloomError, match=message) as caught:
        imported(name, tmp_path / name, tmp_path / "r.zarr")
    assert str(tmp_path / name) in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_what_the_command_refuses(sets: Path, tmp_path: Path) -> None:
    def said(*words: str) -> str:
        return CliRunner().invoke(main, ["capture", "import", *words, "--out", str(tmp_path / "r.zarr")]).output

    assert "add --split train or --split test" in said(str(sets / "nyu"), "--dataset", "nyu")
    assert "--test-subject 0 (to 8)" in said(str(sets / "msra"), "--dataset", "msra", "--split", "test")
    assert "not published" in said(str(sets / "bighand"), "--dataset", "bighand", "--split", "test")
    assert "msra shows right hands" in said(str(sets / "msra"), "--dataset", "msra", "--hand", "left")
    assert "--frames goes with --dataset" in said(str(sets), "--frames", "3")
    imported("icvl", sets / "icvl", tmp_path / "r.zarr", hand="left")
    assert open_recording(tmp_path / "r.zarr").hand == "left"
    assert "The output exists already" in said(str(sets / "icvl"), "--dataset", "icvl")
