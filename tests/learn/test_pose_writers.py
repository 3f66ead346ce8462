"""Poses as CSV, JSON lines and npz: the same numbers in each, in the order of whoever reads them."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.learn.pose_writers import PoseRow, csv_writer, json_lines, pose_file
from handloom.learn.poses import predict_to
from handloom.learn.predict import Model
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS, converted, layout_named
from handloom.stores.pose_csv import read_poses
from handloom.stores.recording import open_recording

from centred_net import centred_model

LAYOUT = layout_named("openxr26")
RIG = Rig((Camera("a", 8, 8, (8.0, 8.0, 4.0, 4.0)),))
JOINTS = np.random.default_rng(0).normal(0, 100, (26, 3)).astype(np.float32)
VIEW = PoseRow(7, "a", 123, JOINTS, 0.5, None, 0.9, "located")
FUSED = PoseRow(7, "rig", None, JOINTS, 0.25, np.linspace(0, 25, 26), 0.9, "tracked")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return centred_model(tmp_path_factory.mktemp("model") / "m.onnx")


def test_csv_lines():
    file = io.StringIO()
    write = csv_writer(file, LAYOUT)
    write(VIEW)
    write(FUSED)
    lines = file.getvalue().splitlines()
    assert lines[0] == "frame,camera,joint,x_mm,y_mm,z_mm,confidence,disagreement_mm"
    x, y, z = JOINTS[0]
    assert lines[1] == f"7,a,palm,{x:.3f},{y:.3f},{z:.3f},0.5000,"
    assert lines[-1].startswith("7,rig,little_tip,")
    assert lines[-1].endswith(",0.2500,25.000")


def test_what_the_csv_says_is_read_back(tmp_path: Path):
    with pose_file(tmp_path / "p.csv", LAYOUT) as write:
        write(VIEW)
        write(FUSED)
    poses = read_poses(tmp_path / "p.csv", RIG)
    assert poses.cameras == ("a", "rig")
    assert poses.joints_mm[7]["rig"] == pytest.approx(JOINTS, abs=1e-3)
    old = "\n".join(",".join(line.split(",")[:6]) for line in (tmp_path / "p.csv").read_text().splitlines())
    (tmp_path / "old.csv").write_text(old + "\n")
    assert read_poses(tmp_path / "old.csv", RIG).joints_mm[7]["a"] == pytest.approx(JOINTS, abs=1e-3)


def test_json_lines_are_complete_by_themselves():
    file = io.StringIO()
    write = json_lines(file, LAYOUT)
    write(VIEW)
    write(FUSED)
    first, second = map(json.loads, file.getvalue().splitlines())
    assert (first["frame"], first["camera"], first["t_ns"], first["disagreement_mm"]) == (7, "a", 123, None)
    assert second == {
        "frame": 7, "camera": "rig", "t_ns": None, "confidence": 0.25, "disagreement_mm": 12.5, "score": 0.9,
        "source": "tracked",
        "joints_mm": {n: pytest.approx(p, abs=1e-3) for n, p in zip(LAYOUT.points, JOINTS.tolist(), strict=True)},
    }  # fmt: skip
    assert list(second["joints_mm"]) == list(LAYOUT.points)


def test_npz_arrays(tmp_path: Path):
    with pose_file(tmp_path / "p.npz", LAYOUT) as write:
        write(VIEW)
        write(FUSED)
    with np.load(tmp_path / "p.npz", allow_pickle=False) as found:
        assert found["joints_mm"] == pytest.approx(np.stack([JOINTS, JOINTS]))
        assert found["joints"].tolist() == list(LAYOUT.points)
        assert found["camera"].tolist() == ["a", "rig"]
        assert found["t_ns"].tolist() == [123, -1]
        assert np.isnan(found["disagreement_mm"][0]).all()
        assert found["disagreement_mm"][1] == pytest.approx(np.linspace(0, 25, 26))
    with pose_file(tmp_path / "none.npz", LAYOUT):
        pass
    with np.load(tmp_path / "none.npz") as found:
        assert found["joints_mm"].shape == (0, 26, 3)


def half_written(path: Path) -> None:
    with pose_file(path, LAYOUT) as write:
        write(VIEW)
        raise ZeroDivisionError


def test_a_file_that_could_not_be_finished_is_not_there(tmp_path: Path):
    for name in ("p.csv", "p.jsonl", "p.npz"):
        with pytest.raises(ZeroDivisionError):
            half_written(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_other_names_are_refused(model: Model, recordings: Any, tmp_path: Path):
    with pytest.raises(HandloomError, match=r"not written as '.txt'"):
        predict_to(model, recordings.unlabelled, tmp_path / "p.txt")


@pytest.mark.parametrize("joints", ["mediapipe21", "mano21", "msra21", "nyu14"])
def test_joints_in_the_order_of_others(model: Model, recordings: Any, tmp_path: Path, joints: str):
    predict_to(model, recordings.unlabelled, tmp_path / "ours.npz", fused=True)
    done = predict_to(model, recordings.unlabelled, tmp_path / "theirs.npz", fused=True, joints=joints)
    assert (done.poses, done.fused) == (18, 6)
    ours, theirs = np.load(tmp_path / "ours.npz"), np.load(tmp_path / "theirs.npz")
    assert theirs["joints"].tolist() == list(LAYOUTS[joints].points)
    expected = converted(ours["joints_mm"], LAYOUT, LAYOUTS[joints])
    assert theirs["joints_mm"] == pytest.approx(expected, abs=1e-3)
    assert theirs["disagreement_mm"].shape == (24, len(LAYOUTS[joints]))


def test_short_names_of_layouts(model: Model, recordings: Any, tmp_path: Path):
    predict_to(model, recordings.unlabelled, tmp_path / "p.npz", joints="mano")
    assert np.load(tmp_path / "p.npz")["layout"] == "mano21"
    for name in ("nyu", "nobody"):
        with pytest.raises(HandloomError, match="Unknown joint layout"):
            predict_to(model, recordings.unlabelled, tmp_path / "q.npz", joints=name)


def test_a_recording_tracked_and_smoothed(model: Model, recordings: Any, tmp_path: Path):
    """Random poses are no motion: the test is that each frame is dealt with, and that the flags do what they say."""
    done = predict_to(model, recordings.unlabelled, tmp_path / "t.jsonl", track=True, smooth=True, fused=True)
    assert done.tracking is not None
    assert done.tracking.instants == open_recording(recordings.unlabelled).n_frames == 6
    counts = done.tracking
    assert counts.tracked + counts.found + counts.missed == 6
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert len(rows) == done.poses + done.fused
    assert {row["source"] for row in rows} <= {"tracked", "located"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".npz"])
@pytest.mark.parametrize("keep", [True, False])
def test_a_block_that_fails_leaves_whole_poses_or_nothing(tmp_path: Path, suffix: str, keep: bool):
    out, well = tmp_path / f"p{suffix}", tmp_path / f"well{suffix}"

    def fail(poses: int) -> None:
        with pose_file(out, LAYOUT, keep=keep) as write:
            for _ in range(poses):
                write(VIEW)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail(0)
    assert not list(tmp_path.iterdir()), "a file without a pose is not worth keeping"
    with pytest.raises(KeyboardInterrupt):
        fail(2)
    with pose_file(well, LAYOUT) as write:
        write(VIEW)
        write(VIEW)
    assert {path.name for path in tmp_path.iterdir()} == {well.name, *([out.name] if keep else [])}
    if keep and suffix != ".npz":
        assert out.read_bytes() == well.read_bytes()
    elif keep:
        assert load_npz(out) == load_npz(well)


def load_npz(path: Path) -> dict[str, list[object]]:
    with np.load(path) as found:
        return {name: found[name].tolist() for name in found if name != "disagreement_mm"}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_full_disk_takes_no_half_pose(tmp_path: Path, suffix: str):
    resource = pytest.importorskip("resource")
    out = tmp_path / f"p{suffix}"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_up() -> None:
        with pose_file(out, LAYOUT, keep=True) as write:
            write(VIEW)
            size = out.with_name(out.name + ".writing").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (2 * size + 100, limits[1]))
            for _ in range(5):
                write(VIEW)

    try:
        with pytest.raises(HandloomError, match="The poses cannot be written") as caught:
            fill_up()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.exit_code, caught.value.why) == (3, "File too large")
    text = out.read_text()
    if suffix == ".csv":
        lines = text.splitlines()
        assert len(lines) == 1 + 26 * 2
        assert all(line.count(",") == 7 for line in lines)
    else:
        assert [json.loads(line)["frame"] for line in text.splitlines()] == [7, 7]


@pytest.mark.parametrize("camera", ["a", "100%s", "front, left", 'the "good" one', "{frame}{sure}"])
def test_csv_rows_are_those_of_the_csv_module(camera: str):
    """Whole poses are formatted at once; names that need quotes, or look like a format, do no harm."""
    file, plain = io.StringIO(), io.StringIO()
    write, rows = csv_writer(file, LAYOUT), csv.writer(plain)
    odd = JOINTS.copy()
    odd[0] = [0.0, -0.0, -0.0004]
    odd[1] = [0.0625, 1e9, np.nan]
    for row in (replace(VIEW, camera=camera, joints_mm=odd), replace(FUSED, camera=camera)):
        write(row)
        for i, (name, point) in enumerate(zip(LAYOUT.points, row.joints_mm.tolist(), strict=True)):
            apart = "" if row.disagreement_mm is None else f"{row.disagreement_mm[i]:.3f}"
            rows.writerow((7, camera, name, *(f"{x:.3f}" for x in point), f"{row.confidence:.4f}", apart))
    assert file.getvalue().split("\r\n", 1)[1] == plain.getvalue()


def test_json_numbers_are_rounded_as_python_rounds():
    file = io.StringIO()
    write = json_lines(file, LAYOUT)
    rng = np.random.default_rng(0)
    ties = (rng.integers(-(2**17), 2**17, (26, 3)) / 16).astype(np.float32)
    for joints in (ties, rng.normal(0, 300, (26, 3)).astype(np.float32)):
        write(replace(VIEW, joints_mm=joints))
        said = list(json.loads(file.getvalue().splitlines()[-1])["joints_mm"].values())
        assert said == [[round(x, 3) for x in point] for point in joints.tolist()]
