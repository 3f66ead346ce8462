from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.capture.importing import import_folder
from handloom.capture.locating import locate, net_from
from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.crops import take_crop
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder
from handloom.stores.palm_net import built_in
from handloom.stores.recording import open_recording
from handloom.synth.config import SynthConfig
from handloom.synth.generate import synthesise
from handloom.synth.rigs import ring_rig

COUNT = 72


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small cameras before a person; twelve sequences, some images lost, truth kept for the test."""
    out = tmp_path_factory.mktemp("recorded") / "r.zarr"
    config = VirtualConfig(frames=COUNT, sequence_frames=6, fps=15, drop=0.05, transport="direct", jobs=1, seed=3)
    with VirtualRig(config, rig=ring_rig(3, width=160, height=120, focal_px=120.0)) as source:
        record(source, out, keep_truth=True)
    return out


@pytest.fixture(scope="module")
def located(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("located") / "r.zarr"
    shutil.copytree(recorded, out)
    seen: list[tuple[int, int]] = []
    found = locate(out, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 * found.frames, 2 * found.frames)
    assert found.images == int(open_recording(out).frames.read("present").sum())  # type: ignore[union-attr]
    return out


def test_centres_lie_in_the_palm(located: Path) -> None:
    recording = open_recording(located)
    assert recording.crops is not None
    assert recording.labels is not None
    center, source = recording.crops.read("center"), recording.crops.read("center_source")
    palm = recording.labels.read("joints")[:, 0]
    truth = np.stack([camera.to_camera(palm) for camera in recording.rig.cameras], axis=1)
    error = np.linalg.norm(center - truth, axis=2)[source > 0]
    assert np.median(error) < 22
    assert (error < 30).mean() > 0.85


def test_crops_are_cut_around_them(located: Path) -> None:
    recording = open_recording(located)
    assert recording.crops is not None
    assert recording.frames is not None
    for row, view in ((0, 0), (COUNT // 2, 1), (recording.n_frames - 1, 2)):
        camera = recording.rig.cameras[view]
        depth = recording.frames.read(f"depth/{camera.name}", row, row + 1)[0]
        crop, k = take_crop(depth, camera.k, recording.crops.read("center", row, row + 1)[0, view])
        if recording.crops.read("center_source")[row, view]:
            stored = recording.crops.read("crop", row, row + 1)[0, view]
            assert (stored != crop).mean() < 0.001  # the centre was rounded to float32
            assert np.allclose(recording.crops.read("k", row, row + 1)[0, view], k, rtol=1e-5)


def test_lost_images_have_no_source_but_a_usable_geometry(located: Path) -> None:
    recording = open_recording(located)
    assert recording.crops is not None
    assert recording.frames is not None
    lost = recording.frames.read("present") == 0
    assert lost.any()
    assert not recording.crops.read("center_source")[lost].any()
    assert not recording.crops.read("center_score")[lost].any()
    assert not recording.crops.read("crop")[lost].any()
    assert (recording.crops.read("k")[..., 0] > 0).all()
    assert (recording.crops.read("center")[..., 2] > 0).all()


def test_scores_are_probabilities(located: Path) -> None:
    recording = open_recording(located)
    assert recording.crops is not None
    score, source = recording.crops.read("center_score"), recording.crops.read("center_source")
    assert ((score >= 0) & (score <= 1)).all()
    assert (score[source > 0] > 0).all()
    assert np.median(score[source > 0]) > 0.6


@pytest.mark.slow
def test_two_processes_find_the_same(located: Path, recorded: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("handloom.capture.locating.BATCH", 8)
    shutil.copytree(recorded, tmp_path / "r.zarr")
    locate(tmp_path / "r.zarr", jobs=2)
    one, other = open_recording(located).crops, open_recording(tmp_path / "r.zarr").crops
    assert one is not None
    assert other is not None
    assert np.array_equal(one.read("center"), other.read("center"))


def test_located_crops_are_kept_unless_told_otherwise(located: Path) -> None:
    with pytest.raises(HandloomError, match=r"located already[\s\S]*--overwrite"):
        locate(located)


def test_a_pass_that_was_cut_off_is_done_again(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "r.zarr")
    recording = open_recording(tmp_path / "r.zarr", writable=True)
    recording.create_crops(parts=False)
    assert locate(tmp_path / "r.zarr").frames == recording.n_frames
    read = open_recording(tmp_path / "r.zarr")
    assert read.crops is not None
    assert read.crops.committed == read.n_frames


def test_every_set_by_itself_is_worse_than_following(located: Path, recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "r.zarr")
    locate(tmp_path / "r.zarr", smooth=False)
    shares = []
    for path in (located, tmp_path / "r.zarr"):
        recording = open_recording(path)
        assert recording.crops is not None
        assert recording.labels is not None
        camera = recording.rig.cameras[0]
        palm = camera.to_camera(recording.labels.read("joints")[:, 0])
        away = np.linalg.norm(recording.crops.read("center")[:, 0] - palm, axis=1)
        shares.append((away < 45).mean())
    assert shares[0] >= shares[1]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "s.zarr"
    synthesise(SynthConfig(frames=150, seed=2), out, jobs=1)
    return out


def test_a_synthetic_recording_calibrates_for_its_rig(synthetic: Path, recorded: Path, tmp_path: Path) -> None:
    fitted = net_from(synthetic, rows=150)
    assert not np.array_equal(fitted.weights["again.out"], built_in().weights["again.out"])
    shutil.copytree(recorded, tmp_path / "r.zarr")
    assert locate(tmp_path / "r.zarr", calibrate_on=synthetic).located > COUNT


def test_only_captures_with_full_frames_are_searched(synthetic: Path, recorded: Path) -> None:
    with pytest.raises(HandloomError, match="no full frames"):
        locate(synthetic)
    with pytest.raises(HandloomError, match="can calibrate"):
        net_from(recorded)


def test_a_camera_with_lens_distortion_is_refused_by_name(tmp_path: Path) -> None:
    """Its crops would be of another geometry than their K says; this went unnoticed once."""
    camera = replace(ring_rig(1).cameras[0], dist_model="brown-conrady", dist=(0.1, 0.0, 0.0, 0.0, 0.0))
    images = [(0, 0, np.full((camera.height, camera.width), 500, np.uint16), 0, 0)]
    write_folder(tmp_path / "folder", Rig((camera,)), images, joints={})
    import_folder(tmp_path / "folder", tmp_path / "r.zarr")
    with pytest.raises(HandloomError, match="Camera 'cam0' has lens distortion"):
        locate(tmp_path / "r.zarr")
    assert open_recording(tmp_path / "r.zarr").crops is None


def test_the_command_marks_what_scores_low_and_shows_it(located: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "r.zarr", tmp_path / "page.html"
    shutil.copytree(located, out)
    before = open_recording(out).crops
    assert before is not None
    source, score = before.read("center_source"), before.read("center_score")
    least = float(np.median(score[source > 0]))
    kept, low = int((score[source > 0] >= least).sum()), int((score[source > 0] < least).sum())
    assert low > 10
    images = int(open_recording(out).frames.read("present").sum())  # type: ignore[union-attr]
    command = ["capture", "locate", str(out), "--overwrite", "--jobs", "1", "--min-score", repr(least)]
    done = CliRunner().invoke(main, [*command, "--report", str(page)])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"{out}: the hand was found in {kept} of {images} images"
    assert lines[1] == f"{low} more score below {least:g} and are marked as not found"
    assert lines[-2] == f"{page}: score over time, and sets with what was found"
    assert lines[-1].startswith("next: handloom train murauer")
    after = open_recording(out).crops
    assert after is not None
    # Marked ones keep where and how sure: nothing is lost but their source.
    marked = (source > 0) & (score < least)
    assert not after.read("center_source")[marked].any()
    assert np.array_equal(after.read("center_score"), score)
    assert np.array_equal(after.read("center"), before.read("center"))
    text = page.read_text()
    assert f"Found in {kept} of {images} images" in text
    assert text.count("data:image/png") >= 10
    assert CliRunner().invoke(main, [*command, "--report", str(page)]).exit_code == 0  # --overwrite holds for both
    refused = CliRunner().invoke(main, ["capture", "locate", str(out), "--report", str(page)])
    assert refused.exit_code == 2
    assert "The report exists already" in refused.output


def test_the_command_speaks_json(recorded: Path, tmp_path: Path) -> None:
    shutil.copytree(recorded, tmp_path / "r.zarr")
    done = CliRunner().invoke(
        main, ["capture", "locate", str(tmp_path / "r.zarr"), "--no-smooth", "--jobs", "1", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found) == {"images", "located", "frames", "mean_score", "unsure", "marked"}
    assert found["frames"] == COUNT
    assert found["marked"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("views", "share", "sure_share"), [(3, 0.95, 0.98), (1, 0.75, 0.85)])
def test_a_person_s_hand_is_found_within_30_mm(views: int, share: float, sure_share: float, tmp_path: Path) -> None:
    """Four subjects before torso, desk and wall, palms as fast as people's, cameras as they are."""
    config = VirtualConfig(frames=240, sequence_frames=24, fps=15, subjects=4, transport="direct", jobs=1, seed=11)
    with VirtualRig(config, rig=ring_rig(views)) as source:
        record(source, tmp_path / "r.zarr", keep_truth=True)
    locate(tmp_path / "r.zarr")
    recording = open_recording(tmp_path / "r.zarr")
    assert recording.crops is not None
    assert recording.labels is not None
    palm = recording.rig.cameras[0].to_camera(recording.labels.read("joints")[:, 0])
    error = np.linalg.norm(recording.crops.read("center")[:, 0] - palm, axis=1)
    sure = recording.crops.read("center_score")[:, 0] > 0.5
    assert (error < 30).mean() >= share
    assert (error[sure] < 30).mean() >= sure_share
    assert sure.mean() > 0.7
