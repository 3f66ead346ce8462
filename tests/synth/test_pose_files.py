"""Poses from files: every kind read, fitted to what it shows, placed as asked; what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import project
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_joints
from handloom.stores.joints import LAYOUTS, OPENXR26
from handloom.stores.recording import Recording
from handloom.synth.anatomy import builtin_hand
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.hand import POSE_SIZE, ROOT_SIZE, SHAPE_SIZE, RiggedHand, kinematics, landmarks, mirror
from handloom.synth.pose import sample_poses, sample_view
from handloom.synth.pose_files import ICVL_K, NYU_K, read_poses
from handloom.synth.pose_set import fit_file, mano_points
from handloom.synth.replay import replay
from handloom.synth.rotation import rotation_matrix, rotation_vector
from handloom.synth.subject_sizes import sample_shape

COUNT = 40


@pytest.fixture(scope="module")
def hand() -> RiggedHand:
    return builtin_hand()


@pytest.fixture(scope="module")
def joints(hand: RiggedHand) -> np.ndarray:
    """(40, 26, 3) mm of one person 600 mm before a camera."""
    rng = np.random.default_rng(0)
    shape = np.tile(sample_shape(rng), (COUNT, 1))
    pose = sample_poses(hand, [np.random.default_rng((0, i)) for i in range(COUNT)], shape)
    root = np.stack([sample_view(hand, rng, shape=shape[0], radius_mm=50) for _ in range(COUNT)])
    root[:, 5] += 600
    return kinematics(hand, pose, root, shape).position[:, :26]


def lines(rows: np.ndarray) -> str:
    return "".join(" ".join(f"{x:.4f}" for x in row) + "\n" for row in rows.reshape(len(rows), -1))


def uvd(points: np.ndarray, k: tuple[float, ...]) -> np.ndarray:
    return np.concatenate([project(points, k), points[..., 2:]], axis=-1)


def written(kind: str, joints: np.ndarray, folder: Path) -> tuple[Path, str]:
    """The joints as a file of that kind, and the layout it keeps."""
    path = folder / kind
    match kind:
        case "joints.csv":
            write_joints(path, {3 * i: frame for i, frame in enumerate(joints)})
            return path, "openxr26"
        case "nyu.npz":
            u, v, d = np.moveaxis(uvd(landmarks(LAYOUTS["nyu36"], joints), NYU_K), -1, 0)
            np.savez(path, u=u, v=v, d=d)
            return path, "nyu36"
        case "joint_data.mat":
            from scipy.io import savemat

            xyz = landmarks(LAYOUTS["nyu36"], joints) * [1, -1, 1]
            savemat(path, {"joint_xyz": np.stack([xyz, xyz + 100, xyz - 100]), "joint_uvd": np.zeros((3, 1, 36, 3))})
            return path, "nyu36"
        case "nyu_uvd.txt":
            path.write_text(lines(uvd(landmarks(LAYOUTS["nyu14"], joints), NYU_K)))
            return path, "nyu14"
        case "nyu_xyz.txt":
            path.write_text(lines(landmarks(LAYOUTS["nyu14"], joints) * [1, -1, 1]))
            return path, "nyu14"
        case "labels.txt":
            rows = lines(uvd(landmarks(LAYOUTS["icvl16"], joints), ICVL_K)).splitlines()
            path.write_text("".join(f"2014/image_{i:04d}.png {row} \n" for i, row in enumerate(rows)))
            return path, "icvl16"
        case "joint.txt":
            path.write_text(f"{len(joints)}\n" + lines(landmarks(LAYOUTS["msra21"], joints) * [1, -1, -1]))
            return path, "msra21"
    raise AssertionError(kind)


KINDS = ("joints.csv", "nyu.npz", "joint_data.mat", "nyu_uvd.txt", "nyu_xyz.txt", "labels.txt", "joint.txt")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_is_read_and_fitted(hand: RiggedHand, joints: np.ndarray, kind: str, tmp_path: Path) -> None:
    path, layout = written(kind, joints, tmp_path)
    file = read_poses(path)
    assert file.layout is not None
    assert file.layout.name == layout
    assert file.points is not None
    assert np.abs(file.points - landmarks(LAYOUTS[layout], joints)).max() < 0.01
    assert file.in_camera == (kind != "joints.csv")
    assert file.row.tolist() == ([3 * i for i in range(COUNT)] if kind == "joints.csv" else list(range(COUNT)))
    found = fit_file(file, hand, side="right", max_fit_error_mm=5)
    assert len(found) == COUNT
    assert found.description["side"] == "right"
    assert np.median(found.fit_error_mm) < 1.0
    again = kinematics(hand, found.pose, found.root, found.shape).position[:, :26]
    assert np.median(np.linalg.norm(again - joints, axis=-1)) < 4


def test_another_side_is_recognised_and_mirrored(hand: RiggedHand, joints: np.ndarray, tmp_path: Path) -> None:
    path, _ = written("joint.txt", joints * [-1, 1, 1], tmp_path)
    found = fit_file(read_poses(path), hand, side="right", max_fit_error_mm=5)
    assert found.description["side"] == "left"
    again = kinematics(hand, found.pose, found.root, found.shape).position[:, :26]
    assert np.median(np.linalg.norm(again - joints, axis=-1)) < 4


def test_bad_fits_and_frames_with_few_points_are_left_out_and_counted(
    hand: RiggedHand, joints: np.ndarray, tmp_path: Path
) -> None:
    known = joints.copy()
    known[3] += np.random.default_rng(1).normal(size=(26, 3)) * 40
    few = np.full((26, 3), np.nan)
    few[:4] = known[5, :4]
    known[5] = few
    write_joints(tmp_path / "joints.csv", dict(enumerate(known)))
    found = fit_file(read_poses(tmp_path / "joints.csv"), hand, side="right", max_fit_error_mm=6)
    assert found.description["left_out"] == {"too_few_points": 1, "badly_fitted": 1}
    assert found.row.tolist() == [i for i in range(COUNT) if i not in (3, 5)]
    noise = np.random.default_rng(2).normal(size=(4, 26, 3)) * 60
    write_joints(tmp_path / "noise.csv", dict(enumerate(noise)))
    with pytest.raises(HandloomError, match="No pose of the file can be used") as caught:
        fit_file(read_poses(tmp_path / "noise.csv"), hand, side="right", max_fit_error_mm=6)
    assert "raise max_fit_error_mm" in str(caught.value)


def test_mano_s_rotations_bend_the_same_fingers(hand: RiggedHand, tmp_path: Path) -> None:
    """In MANO's axes a finger along −x bends to the palm (−y) by a turn about +z; the hand's turn comes before."""
    pose = np.zeros((3, 16, 3))
    pose[1, 1:4, 2] = np.radians([60, 50, 30])
    pose[2, 0] = [0.3, -0.8, 0.4]
    np.savez(tmp_path / "mano.npz", pose=pose.reshape(3, 48), trans=np.array([[0, 0, 0.5]] * 3), betas=np.zeros(10))
    for side in (hand, mirror(hand)):
        file = read_poses(tmp_path / "mano.npz")
        points = mano_points(side, file)
        found = fit_file(file, side, side=side.side, max_fit_error_mm=3)
        assert found.fit_error_mm.max() < 1.0
        names = [d.name for d in side.dof]
        bent = np.degrees(found.pose[1])
        assert bent[names.index("index_mcp_flexion")] == pytest.approx(60, abs=6)
        assert bent[names.index("index_pip_flexion")] == pytest.approx(50, abs=6)
        others = [i for i, n in enumerate(names) if n.endswith("flexion") and not n.startswith(("index", "wrist"))]
        assert np.abs(bent[others]).max() < 8
        wrist = kinematics(side, found.pose, found.root, found.shape).position[:, OPENXR26.index("wrist")]
        assert np.abs(wrist - [0, 0, 500]).max() < 2
        palm = points[0, LAYOUTS["mano21"].points.index("middle1")] - [0, 0, 500]
        turned = points[2, LAYOUTS["mano21"].points.index("middle1")] - [0, 0, 500]
        flip = np.array([1.0 if side.side == "right" else -1.0, 1, 1])
        assert np.allclose(turned * flip, rotation_matrix(pose[2, 0]) @ (palm * flip), atol=1e-6)
        assert palm[0] * flip[0] < -50


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return synthesise(SMALL, tmp_path_factory.mktemp("made") / "a.zarr", jobs=1)


SMALL = SynthConfig(frames=12, unit_frames=32, views=1, crop_px=32, sensor="none", seed=3)


def test_a_recording_s_own_parameters_come_back(made: Recording, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"poses": str(made.path), "placement": "file", "shapes": "fitted"})
    again = synthesise(config, tmp_path / "b.zarr", jobs=1)
    assert made.labels is not None
    assert again.labels is not None
    for name in ("pose", "root", "shape", "joints"):
        assert np.array_equal(again.labels.read(name), made.labels.read(name)), name
    assert again.labels.read("fit_error_mm").tolist() == [0] * 12
    assert again.provenance["poses"]["kind"] == "parameters"
    assert replay(again.path, range(12)).identical
    left = synthesise(config.model_copy(update={"side": "left"}), tmp_path / "left.zarr", jobs=1)
    assert left.labels is not None
    assert np.abs(left.labels.read("joints") * [-1, 1, 1] - made.labels.read("joints")).max() < 1e-2


def test_rows_come_round_with_other_views_and_people(joints: np.ndarray, tmp_path: Path) -> None:
    path, _ = written("nyu.npz", joints[:5], tmp_path)
    config = SynthConfig.model_validate({**SMALL.model_dump(), "poses": path})
    one = synthesise(config, tmp_path / "a.zarr", jobs=1)
    assert one.labels is not None
    pose, root, shape = (one.labels.read(name) for name in ("pose", "root", "shape"))
    assert np.allclose(pose[:5, 2:], pose[5:10, 2:], atol=1e-6)
    assert (np.linalg.norm(root[:5] - root[5:10], axis=1) > 0.1).all()
    assert np.abs(shape[:5] - shape[5:10]).max() > 0.01
    error = one.labels.read("fit_error_mm")
    assert (error > 0).all()
    assert error.max() < 2
    assert one.provenance["poses"]["used"] == 5
    # As the file has it: before the first camera, by the person of the file.
    there = SynthConfig.model_validate({**SMALL.model_dump(), "poses": path, "placement": "file", "shapes": "fitted"})
    other = synthesise(there, tmp_path / "b.zarr", jobs=1)
    assert other.labels is not None
    seen = other.rig.cameras[0].to_camera(other.labels.read("joints"))
    assert np.median(np.linalg.norm(seen[:5] - joints[:5], axis=-1)) < 5
    assert replay(other.path, range(12)).identical


def test_the_command_says_what_it_used(joints: np.ndarray, tmp_path: Path) -> None:
    known = joints[:8].copy()
    known[2, 3:] = np.nan
    write_joints(tmp_path / "joints.csv", dict(enumerate(known)))
    options = ["--frames", "4", "--views", "1", "--jobs", "1", "--sensor", "none", "-o", "crop_px=32"]
    command = ["synth", "run", "--out", str(tmp_path / "a.zarr"), "--poses", str(tmp_path / "joints.csv"), *options]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0
    line = done.stdout.splitlines()[2]
    assert line.startswith("  poses: 7 of 8 frames of joints.csv (joints.csv), fitted at 0.")
    assert line.endswith(" mm; left out: 1 too few points")


def test_another_file_of_the_same_name_is_not_resumed_with(joints: np.ndarray, tmp_path: Path) -> None:
    path, _ = written("nyu.npz", joints[:5], tmp_path)
    config = SynthConfig.model_validate({**SMALL.model_dump(), "poses": path})
    synthesise(config, tmp_path / "a.zarr", jobs=1)
    assert synthesise(config, tmp_path / "a.zarr", jobs=1, resume=True).n_frames == 12
    path.unlink()
    written("nyu.npz", joints[5:10], tmp_path)
    with pytest.raises(HandloomError, match="begun with other poses"):
        synthesise(config, tmp_path / "a.zarr", jobs=1, resume=True)


def test_a_motion_is_a_sequence_with_times(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"frames": 40, "poses": "trajectory", "sequence_frames": 15, "fps": 60.0})
    one = synthesise(config, tmp_path / "a.zarr", jobs=1)
    assert one.frames is not None
    assert one.labels is not None
    assert one.frames.read("sequence").tolist() == [0] * 15 + [1] * 15 + [2] * 10
    assert np.diff(one.frames.read("t_device_ns")[:, 0]).tolist() == pytest.approx([1e9 / 60] * 39, abs=1)
    assert one.frames.read("frame_number")[:, 0].tolist() == list(range(40))
    subject, joints = one.frames.read("subject"), one.labels.read("joints")
    assert len({*subject[:15]}) == 1
    steps = np.linalg.norm(np.diff(joints, axis=0), axis=-1).max(axis=1)
    assert np.delete(steps, [14, 29]).max() < 40
    assert steps[[14, 29]].min() > 20
    assert replay(one.path, range(10, 20)).identical
    # The same whoever makes it: units end inside a motion.
    longer = synthesise(config.model_copy(update={"frames": 50}), tmp_path / "b.zarr", jobs=1)
    assert longer.labels is not None
    assert np.array_equal(longer.labels.read("pose", 0, 40), one.labels.read("pose"))


BAD = {
    "nobody.txt": ("1 2 3\n", "No known file of labels has such lines", "line 1"),
    "short.txt": (" ".join(["1"] * 42) + "\n1 2\n", "A line has another number of values", "line 2"),
    "nan.txt": (" ".join(["1"] * 42) + "\n" + " ".join(["nan"] * 42) + "\n", "not finite", "line 2"),
    "word.txt": (" ".join(["1"] * 42) + "\n" + " ".join(["1"] * 41) + " x\n", "'x' is not a number", "line 2"),
    "empty.txt": ("", "holds no pose", "empty.txt"),
    "other.csv": ("a,b\n1,2\n", "A table has other columns", "other.csv"),
    "name.csv": ("frame,joint,x_mm,y_mm,z_mm\n0,elbow,1,2,3\n", "Unknown joint 'elbow'", "line 2"),
    "nan.csv": ("frame,joint,x_mm,y_mm,z_mm\n0,palm,nan,2,3\n", "A joint is not finite", "line 2"),
    "few.csv": ("frame,joint,x_mm,y_mm,z_mm\n0,palm,1,2,3\n", "No frame of the file has enough points", "few.csv"),
    "code.pkl": ("", "A pickle can run any code", "code.pkl"),
    "what.xyz": ("", "Nobody knows this kind of file", "what.xyz"),
    "no.mat": ("no matlab", "no MATLAB file", "no.mat"),
    "no.npz": ("no archive", "archive cannot be read", "no.npz"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_is_wrong_with_a_file_is_named_before_anything_is_written(name: str, tmp_path: Path) -> None:
    text, message, where = BAD[name]
    (tmp_path / name).write_text(text)
    config = SynthConfig.model_validate({**SMALL.model_dump(), "poses": tmp_path / name})
    with pytest.raises(HandloomError, match=message) as caught:
        synthesise(config, tmp_path / "out.zarr", jobs=1)
    assert where in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize(("scale", "reach"), [(0.001, "0.0"), (0.1, "")])
def test_points_in_other_units_are_refused(joints: np.ndarray, scale: float, reach: str, tmp_path: Path) -> None:
    """In metres all points were followed within 0.1 mm, by a hand of no size in no pose of theirs."""
    path = tmp_path / "joints.csv"
    write_joints(path, dict(enumerate(scale * joints)))
    config = SynthConfig.model_validate({**SMALL.model_dump(), "poses": path})
    with pytest.raises(HandloomError, match="not those of a hand in millimetres") as caught:
        synthesise(config, tmp_path / "out.zarr", jobs=1)
    assert str(path) in str(caught.value)
    assert f"they reach {reach}" in str(caught.value)
    assert not (tmp_path / "out.zarr").exists()


def test_nan_in_an_archive_is_named_by_its_row(joints: np.ndarray, tmp_path: Path) -> None:
    path, _ = written("nyu.npz", joints, tmp_path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays["d"][7, 3] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(HandloomError, match="not finite") as caught:
        read_poses(path)
    assert "row 7" in str(caught.value)
    np.savez(tmp_path / "mano.npz", pose=np.full((3, 48), np.inf))
    with pytest.raises(HandloomError, match="not finite"):
        read_poses(tmp_path / "mano.npz")
    np.savez(tmp_path / "mano.npz", pose=np.zeros((3, 51)))
    with pytest.raises(HandloomError, match=r"must be \(n, 48\)"):
        read_poses(tmp_path / "mano.npz")
    with pytest.raises(HandloomError, match="no such file"):
        read_poses(tmp_path / "nowhere.npz")


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="placement needs poses=a file"):
        SynthConfig(placement="file")
    with pytest.raises(ValueError, match="fps needs poses=trajectory"):
        SynthConfig(fps=60)
    done = CliRunner().invoke(main, ["synth", "run", "--out", "s.zarr", "-o", "placement=file"])
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: The configuration contradicts itself",
        "  why:   placement needs poses=a file, and poses is prior",
    ]


def test_mano_points_of_rest_are_the_hand_s_own(hand: RiggedHand, tmp_path: Path) -> None:
    np.save(tmp_path / "mano.npy", np.zeros((1, 48)))
    local = mano_points(hand, read_poses(tmp_path / "mano.npy"))[0]
    still = kinematics(hand, np.zeros((1, POSE_SIZE)), np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE)))
    rest = landmarks(LAYOUTS["mano21"], still.position[0, :26])
    rest -= rest[0]
    turn = rotation_vector(np.array([[0.0, -1, 0], [0, 0, 1], [-1, 0, 0]]))
    assert np.allclose(local, rest @ rotation_matrix(turn).T, atol=1e-3)
