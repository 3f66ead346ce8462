"""One suite for a synthetic, a captured, an imported recording and one of twins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.capture.importing import import_folder
from handloom.capture.locating import locate
from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.folder import write_folder
from handloom.stores.recording import Recording, open_recording
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise
from handloom.synth.twin import make_twins
from handloom.synth.twin_units import TwinSettings

from recording_conformance import RecordingConformance


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("captured") / "r.zarr"
    config = VirtualConfig(frames=24, sequence_frames=12, scene=False, drop=0.05, transport="direct", jobs=1, seed=5)
    with VirtualRig(config) as source:
        record(source, out, keep_truth=True)
    locate(out)
    return out


@pytest.fixture(scope="module")
def imported(captured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, out = tmp_path_factory.mktemp("plain") / "f", tmp_path_factory.mktemp("imported") / "r.zarr"
    write_folder(folder, open_recording(captured).rig, _images(open_recording(captured)), joints=_joints(captured))
    import_folder(folder, out)
    locate(out)
    return out


def _images(recording: Recording) -> list[tuple[int, int, np.ndarray, int, int]]:
    frames = recording.frames
    assert frames is not None
    present, device, host = (frames.read(name) for name in ("present", "t_device_ns", "t_host_ns"))
    depth = [frames.read(f"depth/{name}") for name in recording.rig.names]
    return [
        (int(row), int(view), depth[view][row], int(device[row, view]), int(host[row, view]))
        for row, view in np.argwhere(present)
    ]


def _joints(path: Path) -> dict[int, np.ndarray]:
    labels = open_recording(path).labels
    assert labels is not None
    return dict(enumerate(labels.read("joints")))


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "r.zarr"
    synthesise(SynthConfig(frames=20, seed=2), out, jobs=1)
    return out


@pytest.fixture(scope="module")
def twins(captured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("twins") / "r.zarr"
    make_twins(captured, out, settings=TwinSettings(seed=0))
    return out


class TestSynthetic(RecordingConformance):
    @pytest.fixture
    def path(self, synthetic: Path) -> Path:
        return synthetic


class TestCaptured(RecordingConformance):
    @pytest.fixture
    def path(self, captured: Path) -> Path:
        return captured

    def test_it_says_that_it_is_virtual(self, recording: Recording) -> None:
        assert recording.provenance["virtual"] is True
        assert recording.provenance["transport"] == "direct"

    def test_the_hand_was_found_without_labels(self, recording: Recording) -> None:
        assert recording.labels is not None
        assert recording.crops is not None
        palm, center = recording.labels.read("joints")[:, 0], recording.crops.read("center")
        found = recording.crops.read("center_source") > 0
        away = [
            np.linalg.norm(camera.to_camera(palm) - center[:, view], axis=1)[found[:, view]]
            for view, camera in enumerate(recording.rig.cameras)
        ]
        assert np.median(np.concatenate(away)) < 30
        assert found.mean() > 0.85


class TestImported(RecordingConformance):
    @pytest.fixture
    def path(self, imported: Path) -> Path:
        return imported

    def test_nothing_was_lost_on_the_way(self, captured: Path, imported: Path) -> None:
        before, after = open_recording(captured), open_recording(imported)
        assert before.rig == after.rig
        assert before.frames is not None
        assert after.frames is not None
        for name in ("present", "t_device_ns", "t_host_ns", *(f"depth/{n}" for n in before.rig.names)):
            assert (before.frames.read(name) == after.frames.read(name)).all()


class TestTwins(RecordingConformance):
    @pytest.fixture
    def path(self, twins: Path) -> Path:
        return twins

    def test_a_twin_shows_the_same_pose(self, captured: Path, path: Path) -> None:
        real, twins = open_recording(captured), open_recording(path)
        assert twins.attributes["twins_of"] == real.uuid
        assert real.frames is not None
        assert real.labels is not None
        assert twins.labels is not None
        truth = dict(zip(real.frames.read("frame_id").tolist(), real.labels.read("joints"), strict=True))
        for twin, joints in zip(twins.labels.read("twin").tolist(), twins.labels.read("joints"), strict=True):
            assert np.linalg.norm(joints - truth[twin], axis=1).mean() < 1.0
