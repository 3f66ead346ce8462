"""Twins show the poses of the labelled frames, whatever layout they are labelled in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.recording import Recording, open_recording
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.hand import FOREARM, landmarks
from handloom.synth.twin import make_twins

CONFIG = SynthConfig(frames=60, unit_frames=32, views=2, crop_px=96, subjects=2, seed=5, sensor="none")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A rendered recording in the part of the real one: its poses are known."""
    return synthesise(CONFIG, tmp_path_factory.mktemp("real") / "r.zarr", jobs=1)


def joints_of(recording: Recording) -> np.ndarray:
    assert recording.labels is not None
    return recording.labels.read("joints")


def test_twins_of_full_labels_are_the_frames_again(real: Recording, tmp_path: Path) -> None:
    twins = make_twins(real.path, tmp_path / "t.zarr", seed=0)
    assert twins.attributes["twins_of"] == real.uuid
    assert twins.attributes["twins"]["left_out"] == 0
    assert twins.labels is not None
    assert twins.crops is not None
    assert real.crops is not None
    twin = twins.labels.read("twin").astype(int)
    assert sorted(twin) == list(range(60))
    assert np.abs(joints_of(twins) - joints_of(real)[twin]).max() < 3
    # The same picture, but for the forearm, which no joint holds.
    one, other = (r.crops.read("parts") for r in (real, twins))
    one, other = one[twin], other
    ours = (one != 255) & (one != FOREARM), (other != 255) & (other != FOREARM)
    assert (ours[0] & ours[1]).sum() / (ours[0] | ours[1]).sum() > 0.85


def test_labels_of_another_layout_with_gaps(real: Recording, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(real.path, tmp_path / "r.zarr")
    copy = open_recording(tmp_path / "r.zarr", writable=True)
    layout = layout_named("nyu14")
    targets = landmarks(layout, joints_of(real)).astype(np.float32)
    targets[10] = np.nan
    targets[20, 3:] = np.nan
    targets[30] = targets[30] * [1, 1, -1]  # a hand that cannot be: its mirror image
    copy.replace_labels(targets, layout="nyu14")
    twins = make_twins(tmp_path / "r.zarr", tmp_path / "t.zarr", seed=0, max_fit_error_mm=4)
    assert twins.labels is not None
    twin = twins.labels.read("twin").astype(int)
    assert not {10, 20, 30} & set(twin)
    assert twins.attributes["twins"]["left_out"] >= 1
    assert len(twin) > 50
    assert len(twins.attributes["fit_error_mm"]) == len(twin)
    error = np.linalg.norm(landmarks(layout, joints_of(twins)) - targets[twin], axis=-1)
    assert np.median(error) < 6


def test_frames_kept_for_testing_and_frames_left_out_by_hand(real: Recording, tmp_path: Path) -> None:
    some = make_twins(real.path, tmp_path / "t.zarr", seed=0, rows=np.array([3, 4, 9]))
    assert some.labels is not None
    assert sorted(some.labels.read("twin")) == [3, 4, 9]
    with pytest.raises(HandloomError, match="exists already"):
        make_twins(real.path, tmp_path / "t.zarr", seed=0, rows=np.array([3]))


def test_a_recording_without_labels_is_refused(real: Recording, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(real.path, tmp_path / "r.zarr")
    shutil.rmtree(tmp_path / "r.zarr" / "labels")
    with pytest.raises(HandloomError, match="no labels"):
        make_twins(tmp_path / "r.zarr", tmp_path / "t.zarr", seed=0)
