from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn.crossing_check import HAND_BELOW
from handloom.learn.crossing_render import depth_images, poses_of, render, some_of
from handloom.learn.crossing_space import generate_depth
from handloom.learn.inputs import DepthView, cut
from handloom.learn.model import PoseModel
from handloom.stores.camera import Camera
from handloom.stores.errors import HandloomError
from handloom.stores.folder import read_folder
from handloom.stores.joints import LAYOUTS
from handloom.stores.recording import open_recording


def hand(rng: np.random.Generator, at: tuple[float, float, float]) -> np.ndarray[Any, Any]:
    return (rng.normal(0, 30, (26, 3)) + at).astype(np.float32)


CAMERA = Camera("cam0", 320, 240, (400.0, 405.0, 150.0, 118.0), depth_unit_mm=0.25)


def test_a_crop_of_the_image_is_the_map_that_was_generated(drawing_model: PoseModel) -> None:
    rng = np.random.default_rng(3)
    poses = np.stack([hand(rng, (-60.0, 20.0, 640.0)), hand(rng, (70.0, -10.0, 700.0))])
    poses[:, 0] = (-60.0, 20.0, 640.0), (70.0, -10.0, 700.0)
    images, possible = depth_images(drawing_model, poses, CAMERA)
    assert possible.all()
    assert (images.shape, images.dtype) == ((2, 240, 320), np.uint16)
    center = poses[:, 0].astype(np.float64)
    made = generate_depth(drawing_model, torch.from_numpy((poses - poses[:, :1]).astype(np.float32))).numpy()[:, 0]
    for image, middle, expected in zip(images, center, made, strict=True):
        # The map's pixels are wider than the camera's (7.8 mm to 1.7): each is met again.
        again = cut(DepthView(0, 0, CAMERA, image, np.array(CAMERA.k)), middle, input_px=32, cube_mm=250.0)
        shown = np.where(expected < HAND_BELOW, expected, 1.0)
        np.testing.assert_allclose(again, shown, atol=0.25 / 125)


def test_nothing_lies_outside_the_crop(drawing_model: PoseModel) -> None:
    pose = hand(np.random.default_rng(4), (0.0, 0.0, 500.0))[None]
    pose[0, 0] = (0.0, 0.0, 500.0)
    (image,), _ = depth_images(drawing_model, pose, CAMERA)
    rows, columns = np.nonzero(image)
    half = 125 / 500 * 400
    assert abs(columns - 150).max() <= half + 1
    assert abs(rows - 118).max() <= half * 405 / 400 + 1
    depth_mm = image[image > 0] * 0.25
    assert (abs(depth_mm - 500) <= 125.2).all()


def test_the_other_hand_is_the_mirror_image(drawing_model: PoseModel) -> None:
    camera = Camera("cam0", 321, 240, (400.0, 400.0, 160.0, 118.0), depth_unit_mm=0.25)
    pose = hand(np.random.default_rng(5), (0.0, 10.0, 500.0))
    pose[0] = (0.0, 10.0, 500.0)
    right, _ = depth_images(drawing_model, pose[None], camera)
    left, _ = depth_images(drawing_model, pose[None] * np.array([-1, 1, 1], np.float32), camera, mirrored=True)
    # Ties between two pixels fall to other sides.
    assert (left[0][:, ::-1] != right[0]).mean() < 0.05


def test_poses_that_cannot_be_drawn_are_left_out(drawing_model: PoseModel) -> None:
    rng = np.random.default_rng(6)
    poses = np.stack([hand(rng, (0.0, 0.0, 500.0)), hand(rng, (0.0, 0.0, -500.0)), hand(rng, (0.0, 0.0, 500.0))])
    poses[2, 7] = np.nan
    images, possible = depth_images(drawing_model, poses, CAMERA)
    assert possible.tolist() == [True, False, False]
    assert not images[1:].any()


def test_a_plain_folder_is_written_that_reads_back(drawing_model: PoseModel, tmp_path: Path, recordings: Any) -> None:
    real = open_recording(recordings.real)
    poses = some_of(poses_of(real, drawing_model.layout, None), 4)
    assert len(poses) == 4
    poses[next(iter(poses))][3] = np.nan
    done = render(drawing_model, real.rig, poses, tmp_path / "out", hand="right")
    assert (done.frames, done.images, done.left_out) == (3, 9, 3)
    folder = read_folder(tmp_path / "out")
    assert folder.frames == tuple(sorted(poses))[1:]
    assert folder.meta["hand"] == "right"
    assert folder.meta["virtual"] is True
    for frame, joints in folder.joints.items():
        np.testing.assert_array_equal(joints, poses[frame])
    assert any(folder.depth(image).any() for image in folder.images)


def test_what_cannot_be_drawn_is_said(drawing_model: PoseModel, tmp_path: Path, recordings: Any) -> None:
    with pytest.raises(HandloomError, match="no labels to draw"):
        poses_of(open_recording(recordings.unlabelled), drawing_model.layout, None)
    unknown = {3: np.full((26, 3), np.nan, np.float32)}
    with pytest.raises(HandloomError, match="no pose to draw"):
        render(drawing_model, open_recording(recordings.real).rig, unknown, tmp_path / "out", hand="right")
    assert not (tmp_path / "out").exists()


def test_the_command_draws_labels_and_predictions(run: Path, tmp_path: Path, recordings: Any) -> None:
    command = ["latent", "depth", str(run), "--on", str(recordings.real), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, [*command, "--frames", "2"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'out'}: 6 depth images of 2 frames",
        f"next: handloom capture import {tmp_path / 'out'} --out GENERATED.zarr",
    ]
    again = CliRunner().invoke(main, [*command, "--frames", "2"])
    assert again.exit_code == 2
    assert "The output exists already" in again.output
    poses = tmp_path / "poses.csv"
    rows = [f"2000,cam0,{joint},{i},{2 * i},{500 + i}" for i, joint in enumerate(LAYOUTS["openxr26"].points)]
    poses.write_text("frame,camera,joint,x_mm,y_mm,z_mm\n" + "\n".join(rows) + "\n")
    done = CliRunner().invoke(main, [*command[:-1], str(tmp_path / "two"), "--poses", str(poses)])
    assert done.exit_code == 0, done.output
    assert "of 1 frames" in done.stdout


def test_fused_poses_come_before_those_of_one_camera(tmp_path: Path, recordings: Any) -> None:
    real = open_recording(recordings.real)
    names = LAYOUTS["openxr26"].points
    lines = [f"7,{who},{joint},{x},0,500" for who, x in (("cam0", 1), ("rig", 2)) for joint in names]
    (tmp_path / "poses.csv").write_text("frame,camera,joint,x_mm,y_mm,z_mm\n" + "\n".join(lines) + "\n")
    found = poses_of(real, LAYOUTS["openxr26"], tmp_path / "poses.csv")
    assert list(found) == [7]
    np.testing.assert_array_equal(found[7], np.tile(np.array([2, 0, 500], np.float32), (26, 1)))
