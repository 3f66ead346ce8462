"""Nearest training images: by pose found where they are, by z as the network sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from handloom.learn.batches import cut, still
from handloom.learn.latent import latents
from handloom.learn.model import PoseModel, load_model
from handloom.learn.neighbours import _bank, nearest_in_latent, nearest_in_pose, pose_distance
from handloom.stores.camera import project
from handloom.stores.recording import Recording, open_recording

ROWS = np.arange(48)


@pytest.fixture(scope="module")
def model(trained: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> PoseModel:
    return load_model(trained(tmp_path_factory.mktemp("model") / "run", "synthetic-only"))


@pytest.fixture(scope="module")
def synth(recordings: Any) -> Recording:
    return open_recording(recordings.synth)


def poses(recording: Recording, places: list[tuple[int, int]]) -> np.ndarray:
    """(n, J, 3) in the camera of each (row, camera)."""
    assert recording.labels is not None
    joints = recording.labels.read("joints")
    return np.stack([recording.rig.cameras[v].to_camera(joints[row]) for row, v in places])


def test_the_distance_of_poses_forgets_where_the_palm_is() -> None:
    rng = np.random.default_rng(0)
    pose = rng.normal(size=(5, 3)) * 40
    others = np.stack([pose + 100, pose, pose])
    others[1, 3] += (0, 3, 4)
    others[2, 0] = np.nan
    np.testing.assert_allclose(pose_distance(pose, others, 0), [0, 1, np.nan], atol=1e-9)
    others[1, 4] = np.nan
    assert pose_distance(pose, others, 0)[1] == pytest.approx(5 / 4)


def test_a_pose_finds_itself_wherever_it_was_moved(model: PoseModel, synth: Recording) -> None:
    places = [(3, 0), (40, 2), (17, 1)]
    found = nearest_in_pose(poses(synth, places) + 250.0, synth, ROWS, model)
    assert [(one.row, one.view) for one in found if one] == places
    for one in found:
        assert one is not None
        assert one.pose_mm == pytest.approx(0, abs=1e-3)
        # The skeleton lies on the hand that is drawn.
        pixels = project(one.joints_mm, one.k).round().astype(int)
        assert (one.crop[pixels[:, 1].clip(0, 127), pixels[:, 0].clip(0, 127)] < 1).mean() > 0.9
    (other,) = nearest_in_pose(poses(synth, places[:1]), synth, ROWS[ROWS != 3], model)
    assert other is not None
    assert other.row != 3
    assert other.pose_mm > 5


def test_an_image_finds_itself_in_z(model: PoseModel, synth: Recording) -> None:
    places = [(5, 1), (30, 0)]
    bank, crop = _bank(synth, ROWS, model), torch.tensor([3 * row + view for row, view in places])
    images = cut(bank, crop, still(bank, crop), input_px=model.input_px, cube_mm=model.cube_mm).image
    z = latents(model, images[:, 0].numpy(), real=False)
    found = nearest_in_latent(z, poses(synth, places), synth, ROWS, model)
    assert [(one.row, one.view) for one in found if one] == places
    assert all(one.pose_mm < 1e-3 for one in found if one)
    some = nearest_in_latent(z, poses(synth, places), synth, ROWS, model, searched=36)
    assert {one.row % 4 for one in some if one} == {0}, "every fourth frame was looked at"


def test_training_images_of_missed_hands_are_not_found(model: PoseModel, toy: SimpleNamespace, tmp_path: Path) -> None:
    data = toy.resident(7, 6, located_mm=8.0)
    data.center[2] += 250.0
    recording = open_recording(toy.write(tmp_path / "r.zarr", data))
    (found,) = nearest_in_pose(poses(recording, [(2, 0)]), recording, np.arange(6), model)
    assert found is not None
    assert found.row != 2
    z = np.zeros((1, 16), np.float32)
    (near,) = nearest_in_latent(z, poses(recording, [(2, 0)]), recording, np.array([2]), model)
    assert near is None


def test_without_labels_there_is_no_pose_to_be_near(model: PoseModel, recordings: Any) -> None:
    unlabelled = open_recording(recordings.unlabelled)
    pose = np.zeros((1, 26, 3))
    assert nearest_in_pose(pose, unlabelled, np.arange(6), model) == [None]
    (found,) = nearest_in_latent(np.zeros((1, 16), np.float32), pose, unlabelled, np.arange(6), model)
    assert found is not None
    assert np.isnan(found.pose_mm)
