"""joints.csv into a recording: what is refused, what is said, what stays."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.folder import JOINT_COLUMNS, write_joints
from handloom.stores.joints import OPENXR26, layout_named
from handloom.stores.labels import take_labels
from handloom.stores.recording import open_recording
from handloom.stores.verify import verify


@pytest.fixture
def path(hand_capture: Path, tmp_path: Path) -> Path:
    """The capture without labels."""
    out = tmp_path / "r.zarr"
    shutil.copytree(hand_capture, out)
    shutil.rmtree(out / "labels")
    return out


@pytest.fixture(scope="session")
def truth(hand_capture: Path) -> np.ndarray:
    labels = open_recording(hand_capture).labels
    assert labels is not None
    return labels.read("joints")


def csv(folder: Path, joints: dict[int, np.ndarray], name: str = "joints.csv") -> Path:
    write_joints(folder / name, joints)
    return folder / name


def joints_of(path: Path) -> np.ndarray:
    labels = open_recording(path).labels
    assert labels is not None
    return labels.read("joints")


def test_the_truth_comes_in_to_the_last_bit_and_nothing_is_found(path: Path, truth: np.ndarray) -> None:
    some = {frame: truth[frame].copy() for frame in (12, 3, 7)}
    some[7][5] = np.nan  # a joint that is unknown
    done = take_labels(path, csv(path.parent, some))
    assert (done.frames, done.joints, done.unknown, done.kept, done.training) == (3, 77, 1, 0, 3)
    assert done.findings == ()
    now = joints_of(path)
    for frame, joints in some.items():
        assert np.array_equal(now[frame], joints, equal_nan=True)
    assert np.isnan(np.delete(now, list(some), axis=0)).all()
    labels = open_recording(path).labels
    assert labels is not None
    visible = labels.read("visible")
    assert visible[3].all()
    assert not visible[7, :, 5].any()
    assert not visible[0].any()
    assert labels.attributes["files"][0]["name"] == "joints.csv"
    assert verify(path, deep=True).clean


def test_merging_keeps_the_other_frames_and_replaces_those_named(path: Path, truth: np.ndarray) -> None:
    take_labels(path, csv(path.parent, {0: truth[0], 1: truth[1]}))
    with pytest.raises(HandloomError, match="2 frames of the recording are labelled already"):
        take_labels(path, csv(path.parent, {2: truth[2]}))
    again = np.full_like(truth[1], np.nan)
    again[:4] = truth[1][:4] + 1
    done = take_labels(path, csv(path.parent, {1: again, 2: truth[2]}, "more.csv"), merge=True)
    assert (done.frames, done.kept, done.training) == (2, 1, 3)
    now = joints_of(path)
    assert np.array_equal(now[0], truth[0])
    assert np.array_equal(now[1], again, equal_nan=True)  # a frame is replaced whole
    labels = open_recording(path).labels
    assert labels is not None
    assert [file["name"] for file in labels.attributes["files"]] == ["joints.csv", "more.csv"]
    done = take_labels(path, csv(path.parent, {5: truth[5]}), overwrite=True)
    assert (done.frames, done.kept, done.training) == (1, 0, 1)


def test_metres_are_refused_and_nothing_is_written(path: Path, truth: np.ndarray) -> None:
    with pytest.raises(HandloomError, match="The joints are in metres") as caught:
        take_labels(path, csv(path.parent, {0: truth[0] / 1000, 1: truth[1] / 1000}))
    assert "multiply x, y and z by 1000" in str(caught.value)
    assert open_recording(path).labels is None
    with pytest.raises(HandloomError, match="not in millimetres"):
        take_labels(path, csv(path.parent, {0: truth[0] * 100}))


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("99,palm,1,2,3", "frame_id 99"),
        ("0,elbow,1,2,3", "Unknown joint 'elbow'"),
        ("0,palm,1,2,x", "'x' is not a number"),
        ("0,palm,1,2,nan", "not finite"),
        ("0,palm,1,2,3\n0,palm,1,2,4", "given twice"),
        ("", "labels no frame"),
    ],
)
def test_what_cannot_be_of_this_recording_is_refused(path: Path, line: str, match: str) -> None:
    file = path.parent / "j.csv"
    file.write_text(",".join(JOINT_COLUMNS) + "\n" + line + "\n")
    with pytest.raises(HandloomError, match=match):
        take_labels(path, file)
    assert open_recording(path).labels is None


def test_another_layout_keeps_its_own_points(path: Path, truth: np.ndarray) -> None:
    layout = layout_named("mediapipe21")
    points = layout.matrix() @ truth[4].astype(np.float64)
    file = path.parent / "j.csv"
    rows = [f"4,{name},{x},{y},{z}" for name, (x, y, z) in zip(layout.points, points.tolist(), strict=True)]
    file.write_text("\n".join([",".join(JOINT_COLUMNS), *rows]) + "\n")
    with pytest.raises(HandloomError, match="Unknown joint"):
        take_labels(path, file)
    assert take_labels(path, file, layout="mediapipe21").findings == ()
    assert open_recording(path).layout == layout
    assert np.allclose(joints_of(path)[4], points, atol=1e-3)
    with pytest.raises(HandloomError, match="openxr26 do not go beside those of mediapipe21"):
        take_labels(path, csv(path.parent, {0: truth[0]}), layout="openxr26", merge=True)


def test_what_looks_wrong_is_taken_in_and_said(path: Path, truth: np.ndarray) -> None:
    """A fingertip moved towards the camera, a hand elsewhere, two joints mixed up: each in its own frame."""
    rig = open_recording(path).rig
    some = {frame: truth[frame].copy() for frame in range(16)}
    tip, wrist = OPENXR26.index("middle_tip"), OPENXR26.index("wrist")
    toward = rig.cameras[0].to_rig(np.zeros(3)) - some[1][tip]
    some[1][tip] += 60 * toward / np.linalg.norm(toward)
    some[2] += np.array([0, 3000, 0], np.float32)
    some[3][[tip, wrist]] = some[3][[wrist, tip]]
    done = take_labels(path, csv(path.parent, some))
    assert done.frames == 16
    found = {finding.code: finding for finding in done.findings}
    assert found["floating"].rows == (1,)
    assert "the farthest is middle_tip" in found["floating"].what
    assert found["outside"].rows == (2,)
    assert found["outside"].what == "26 joints lie where no image shows anything"
    assert 3 in found["bone"].rows
    assert 0 not in {row for finding in done.findings for row in finding.rows}


def test_the_command_says_what_it_took_and_what_comes_next(path: Path, truth: np.ndarray) -> None:
    file = csv(path.parent, {frame: truth[frame] for frame in range(6)})
    done = CliRunner().invoke(main, ["store", "label", str(path), "--joints", str(file)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (
        f"{path}: 6 frames labelled, 156 joints of openxr26\n"
        f"next: handloom synth twin --real {path} --out twins.zarr\n"
        f"  or: handloom train murauer --preset quick --synth S.zarr --synth twins.zarr --real {path} "
        "--labels 6 --run runs/full\n"
    )
    again = CliRunner().invoke(main, ["store", "label", str(path), "--joints", str(file)])
    assert (again.exit_code, again.stderr) == (
        2,
        "error: 6 frames of the recording are labelled already\n"
        f"  where: {path}\n"
        "  fix:   --merge keeps the labels of other frames, --overwrite drops all that are there\n",
    )
    wrong = csv(path.parent, {8: truth[8] + np.array([0, 3000, 0], np.float32)}, "wrong.csv")
    said = CliRunner().invoke(main, ["store", "label", str(path), "--joints", str(wrong), "--merge", "--json"])
    assert said.exit_code == 1
    value = json.loads(said.stdout)
    assert (value["frames"], value["kept"], value["findings"][0]["code"]) == (1, 6, "outside")
    both = CliRunner().invoke(main, ["store", "label", str(path), "--joints", str(file), "--merge", "--overwrite"])
    assert both.exit_code == 2
