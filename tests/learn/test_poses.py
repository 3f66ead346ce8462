"""poses.csv and the pictures: every image of an input, what was missed, what is in the way."""

import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handloom.learn.export import export
from handloom.learn.inputs import open_input
from handloom.learn.model import PoseModel
from handloom.learn.overlay import draw_overlay
from handloom.learn.poses import predict_to
from handloom.learn.predict import Model, load
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder
from handloom.stores.joints import FINGER_COLORS, layout_named
from handloom.stores.png import write_depth_png
from handloom.stores.reading import Resident
from handloom.stores.recording import open_recording

LAYOUT = layout_named("openxr26")
SIDE = 32


class Centred(nn.Module):
    """Every joint at the mean of the hand's pixels, spread 4 mm apart along x."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("x", ((torch.arange(SIDE) - (SIDE - 1) / 2) * (300.0 / SIDE)).repeat(SIDE, 1))
        self.spread = nn.Parameter(torch.arange(26.0)[:, None] * torch.tensor([4.0, 0.0, 0.0]))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, 26, 3) mm."""
        hand = (crops[:, 0] < 1).float()
        count = hand.sum(dim=(1, 2)).clamp(min=1)
        x, y = (hand * self.x).sum(dim=(1, 2)) / count, (hand * self.x.t()).sum(dim=(1, 2)) / count
        z = (hand * crops[:, 0]).sum(dim=(1, 2)) / count * 150
        return torch.stack([x, y, z], dim=1)[:, None] + self.spread


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    net = Centred()
    export(PoseModel("murauer", "quick", "full", LAYOUT, "right", SIDE, 300.0, net, net, {}), path)
    return load(path)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def arm_image(u: int = 320, top: int = 140) -> np.ndarray:
    """A hand-sized blob with three fingers on an arm that leaves the image, 640 x 480, 500 mm away."""
    v, x = np.mgrid[0:480, 0:640].astype(np.float32)
    depth = np.zeros((480, 640), np.float32)
    for (u0, v0), (u1, v1), radius in [
        ((u, top + 90), (u, top + 130), 38),
        ((u, top + 160), (u - 10, 480), 27),
        ((u - 24, top + 70), (u - 40, top), 8.5),
        ((u, top + 60), (u, top - 12), 8.5),
        ((u + 24, top + 70), (u + 40, top + 4), 8.5),
    ]:
        along = np.clip(((x - u0) * (u1 - u0) + (v - v0) * (v1 - v0)) / ((u1 - u0) ** 2 + (v1 - v0) ** 2), 0, 1)
        away = np.hypot(x - u0 - along * (u1 - u0), v - v0 - along * (v1 - v0))
        bulge = np.sqrt(np.maximum(radius**2 - away**2, 0))
        surface = np.where(away < radius, 510 - bulge, np.inf)
        depth = np.where(np.isfinite(surface) & ((depth == 0) | (surface < depth)), surface, depth)
    return np.rint(depth).astype(np.uint16)


# --- recordings ---


def test_a_recording_with_all_its_views(model: Model, recordings: Any, tmp_path: Path):
    done = predict_to(model, recordings.real, tmp_path / "p.csv", fused=True, overlay=tmp_path / "o", pictures=10)
    assert (done.images, done.poses, done.missed, done.fused) == (96, 96, 0, 32)
    found = rows(tmp_path / "p.csv")
    assert list(found[0]) == ["frame", "camera", "joint", "x_mm", "y_mm", "z_mm", "confidence", "disagreement_mm"]
    assert len(found) == (96 + 32) * 26
    recording = open_recording(recordings.real)
    assert {int(r["frame"]) for r in found} == set(recording.frames.read("frame_id").tolist())  # type: ignore[union-attr]
    assert {r["camera"] for r in found} == {"cam0", "cam1", "cam2", "rig"}
    assert [r["joint"] for r in found[:26]] == list(LAYOUT.points)
    first = np.array([[float(found[0][c]) for c in ("x_mm", "y_mm", "z_mm")]])
    center = recording.crops.read("center")[0, 0]  # type: ignore[union-attr]
    assert np.linalg.norm(first - center) < 60, "the mean of a hand's pixels is near its palm"
    pictures = sorted((tmp_path / "o").iterdir())
    assert 5 <= len(pictures) <= 10
    assert done.pictures == len(pictures)


def test_fused_poses_lie_in_the_rig_amid_those_of_the_cameras(model: Model, recordings: Any, tmp_path: Path):
    predict_to(model, recordings.real, tmp_path / "p.csv", fused=True)
    cameras = {camera.name: camera for camera in open_recording(recordings.real).rig.cameras}
    palms: dict[str, list[np.ndarray]] = {}
    for row in rows(tmp_path / "p.csv"):
        if row["joint"] == "palm":
            point = np.array([float(row[c]) for c in ("x_mm", "y_mm", "z_mm")])
            camera = cameras.get(row["camera"])
            palms.setdefault(row["frame"], []).append(camera.to_rig(point) if camera else point)
    for *views, fused in palms.values():
        assert len(views) == 3
        assert (fused >= np.min(views, axis=0) - 0.01).all()
        assert (fused <= np.max(views, axis=0) + 0.01).all()


def test_a_recording_without_any_hand(model: Model, toy: SimpleNamespace, captured: Resident, tmp_path: Path):
    nothing = replace(captured, center_source=np.zeros_like(captured.center_source))
    path = toy.write(tmp_path / "r.zarr", nothing)
    with pytest.raises(HandloomError, match="No hand was found"):
        predict_to(model, path, tmp_path / "p.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.zarr"], "nothing half-written is left"


def test_outputs_that_exist(model: Model, recordings: Any, tmp_path: Path):
    (tmp_path / "p.csv").write_text("mine")
    with pytest.raises(HandloomError, match="exists already"):
        predict_to(model, recordings.unlabelled, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "mine"
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "a.png").write_text("mine")
    with pytest.raises(HandloomError, match="has pictures already"):
        predict_to(model, recordings.unlabelled, tmp_path / "q.csv", overlay=tmp_path / "o")
    done = predict_to(model, recordings.unlabelled, tmp_path / "p.csv", overlay=tmp_path / "o", overwrite=True)
    assert done.poses == 18
    assert (tmp_path / "o" / "a.png").read_text() == "mine"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_long_input_takes_no_more_memory_than_a_short_one(model: Model, recordings: Any, tmp_path: Path, suffix: str):
    """432 more images, 74 kB each as they are read: had 40 of them been kept, it would show."""

    def peak(times: int) -> int:
        given = open_input(recordings.unlabelled)
        views = (v for n in range(times) for v in open_input(recordings.unlabelled).views)
        views = (replace(v, frame=i // 3, depth=v.depth.copy()) for i, v in enumerate(views))
        tracemalloc.start()
        done = predict_to(model, replace(given, images=18 * times, views=views), tmp_path / f"{times}{suffix}")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert done.poses == 18 * times
        return found

    peak(2)
    assert peak(30) - peak(6) < 40 * 192 * 192 * 2


# --- images in which the hand has to be found ---


def test_one_png(model: Model, tmp_path: Path):
    write_depth_png(tmp_path / "000007.png", arm_image())
    done = predict_to(
        model, tmp_path / "000007.png", tmp_path / "p.csv", camera="475,475,320,240", overlay=tmp_path / "o"
    )
    assert (done.images, done.poses, done.pictures) == (1, 1, 1)
    found = rows(tmp_path / "p.csv")
    assert len(found) == 26
    assert {r["frame"] for r in found} == {"7"}
    palm = np.array([float(found[0][c]) for c in ("x_mm", "y_mm", "z_mm")])
    assert np.linalg.norm(palm - [0, 0, 500]) < 60
    picture = cv2.imread(str(tmp_path / "o" / "camera_000007.png"))
    assert picture is not None
    assert picture.shape[0] == 480
    assert picture.shape[1] > 640 + 400


@pytest.mark.parametrize("depth", [np.zeros((480, 640), np.uint16), np.full((480, 640), 9000, np.uint16)])
def test_a_png_without_a_hand(model: Model, tmp_path: Path, depth: np.ndarray):
    write_depth_png(tmp_path / "a.png", depth)
    with pytest.raises(HandloomError, match="No hand was found") as caught:
        predict_to(model, tmp_path / "a.png", tmp_path / "p.csv", camera="475,475,320,240")
    assert "--center" in caught.value.fix
    assert not (tmp_path / "p.csv").exists()


def test_a_png_of_one_pixel(model: Model, tmp_path: Path):
    write_depth_png(tmp_path / "a.png", np.full((1, 1), 500, np.uint16))
    with pytest.raises(HandloomError, match="No hand was found"):
        predict_to(model, tmp_path / "a.png", tmp_path / "p.csv", camera="475,475,0,0")


def test_pngs_that_are_no_depth(model: Model, tmp_path: Path):
    for name, image in (("8bit", np.zeros((9, 9), np.uint8)), ("colour", np.zeros((9, 9, 3), np.uint16))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), image)
        with pytest.raises(HandloomError, match="16-bit PNG with one channel"):
            predict_to(model, tmp_path / f"{name}.png", tmp_path / "p.csv", camera="475,475,320,240")
    write_depth_png(tmp_path / "a.png", arm_image())
    with pytest.raises(HandloomError, match="needs its camera"):
        predict_to(model, tmp_path / "a.png", tmp_path / "p.csv")


def test_a_given_centre_and_another_unit(model: Model, tmp_path: Path):
    write_depth_png(tmp_path / "a.png", arm_image() * 4)
    done = predict_to(
        model,
        tmp_path / "a.png",
        tmp_path / "p.csv",
        camera="475,475,320,240",
        depth_unit_mm=0.25,
        center_mm=(0.0, 0.0, 500.0),
    )
    assert done.poses == 1
    assert 450 < float(rows(tmp_path / "p.csv")[0]["z_mm"]) < 530


def test_a_plain_folder_with_a_dropped_image(model: Model, tmp_path: Path):
    rig = Rig((Camera("left", 640, 480, (475.0, 475.0, 320.0, 240.0)),))
    images = [(t, 0, arm_image(u=300 + 4 * t), 0, 0) for t in (0, 1, 3)]
    write_folder(tmp_path / "f", rig, images)
    (tmp_path / "f" / "meta.toml").write_text('hand = "left"\n')
    done = predict_to(model, tmp_path / "f", tmp_path / "p.csv")
    assert (done.images, done.poses) == (3, 3)
    found = rows(tmp_path / "p.csv")
    assert [r["frame"] for r in found[::26]] == ["0", "1", "3"]
    # a left hand: the joints are spread to the other side
    assert float(found[25]["x_mm"]) - float(found[0]["x_mm"]) == pytest.approx(-100, abs=0.1)


# --- pictures ---


def test_the_skeleton_is_drawn_where_it_is():
    joints = np.full((26, 3), np.nan, np.float32)
    for point, where in (("index_proximal", (-50, 0, 500)), ("index_intermediate", (50, 0, 500))):
        joints[LAYOUT.index(point)] = where
    picture = draw_overlay(
        np.full((240, 320), 510, np.float32), (241, 241, 160, 120), joints, (0, 0, 500), LAYOUT, window_mm=300
    )
    color = [int(FINGER_COLORS["index"][i : i + 2], 16) for i in (5, 3, 1)]
    v, u = np.nonzero(np.abs(picture.astype(int) - color).max(axis=2) < 6)
    assert set(np.unique(v)) <= set(range(230, 251)), "a horizontal line through the middle"
    assert picture.shape == (480, 640 + 4 + 480, 3)
    left, right = u[u < 640], u[u >= 644] - 644
    assert (left.min(), left.max()) == (pytest.approx(320 - 48, abs=4), pytest.approx(320 + 48, abs=4))
    assert (right.min(), right.max()) == (pytest.approx(240 - 80, abs=8), pytest.approx(240 + 80, abs=8))


def test_joints_out_of_every_picture_do_no_harm():
    joints = np.array([[1e6, 0, 1], [0, 0, -5], [np.nan, 0, 1], *[[0, 0, 500]] * 23], np.float32)
    depth = np.zeros((1, 1), np.float32)
    picture = draw_overlay(depth, (475, 475, 0, 0), joints, (0, 0, 500), LAYOUT, window_mm=300, note="x")
    assert picture.shape[0] == 480
