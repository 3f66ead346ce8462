"""`handloom predict` as a user calls it: patterns of PNGs, RealSense files, cameras, formats, what goes with what."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.cli import main
from handloom.stores.camera import Rig, write_rig
from handloom.stores.folder import write_folder
from handloom.stores.png import write_depth_png
from handloom.stores.pose_csv import read_poses

from centred_net import centred_model

FRAMES = 6


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    centred_model(path)
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain folder of three cameras, and the first one's images as `pngs/*.png`."""
    path = tmp_path_factory.mktemp("session")
    with VirtualRig(VirtualConfig(frames=FRAMES, seed=3, transport="direct", scene=False)) as source:
        images = [(i.frame_number - 1, i.camera, i.depth, i.t_device_ns, i.t_host_ns) for i in source.frames()]
        rig: Rig = source.rig
    write_folder(path / "folder", rig, sorted(images, key=lambda one: one[:2]))
    (path / "pngs").mkdir()
    for frame, camera, depth, _, _ in images:
        if camera == 0:
            write_depth_png(path / "pngs" / f"{frame + 10:06d}.png", depth)
    write_rig(Rig(rig.cameras[:1]), path / "rig.toml")
    k = rig.cameras[0].k
    (path / "k.txt").write_text(",".join(map(str, k)) + f" {rig.cameras[0].depth_unit_mm}")
    return path


def test_a_pattern_of_pngs(model: Path, session: Path, tmp_path: Path):
    k, unit = (session / "k.txt").read_text().split()
    out = tmp_path / "p.csv"
    done = run("predict", model, session / "pngs" / "*.png", "--camera", k, "--depth-unit-mm", unit, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"{out}: poses of {FRAMES} images" in done.stdout
    lines = out.read_text().splitlines()
    assert len(lines) == 1 + 26 * FRAMES
    assert [int(line.split(",")[0]) for line in lines[1::26]] == list(range(10, 10 + FRAMES))
    none = run("predict", model, session / "pngs" / "*.tif", "--camera", k, "--out", tmp_path / "q.csv")
    assert none.exit_code == 2
    assert "nothing matches" in none.stderr


def test_a_folder_tracked_in_the_order_of_mano(model: Path, session: Path, tmp_path: Path):
    out = tmp_path / "p.npz"
    arguments = ("--track", "--smooth", "--fused", "--joints", "mano", "--out", out)
    done = run("predict", model, session / "folder", *arguments)
    assert done.exit_code == 0, done.output
    assert f"  {FRAMES - 1} of {FRAMES} frames tracked, found anew in 1, lost 0 times" in done.stdout
    with np.load(out) as found:
        assert found["joints_mm"].shape == (4 * FRAMES, 21, 3)
        assert set(found["source"].tolist()) == {"located", "tracked"}
        assert (np.diff(found["t_ns"][::4]) > 0).all()


def test_realsense_files_told_by_their_content(model: Path, session: Path, tmp_path: Path):
    pytest.importorskip("pyrealsense2")
    from handloom.capture.folder import FolderSource
    from handloom.capture.software import write_db3
    from handloom.stores.camera import read_rig

    rig = read_rig(session / "folder" / "rig.toml")
    with FolderSource(session / "folder") as source:
        images = list(source.frames())
    files = [tmp_path / f"camera{view}.{'bag' if view else 'db3'}" for view in range(len(rig))]
    for view, (file, camera) in enumerate(zip(files, rig.cameras, strict=True)):
        write_db3(file.with_suffix(".db3"), camera, [image for image in images if image.camera == view])
        file.with_suffix(".db3").rename(file)
    out = tmp_path / "p.csv"
    done = run("predict", model, *files, "--rig", session / "folder" / "rig.toml", "--fused", "--out", out)
    assert done.exit_code == 0, done.output
    poses = read_poses(out, rig)
    assert poses.cameras == (*rig.names, "rig")
    assert sum(len(one) - 1 for one in poses.joints_mm.values()) == 3 * FRAMES


def test_cameras_in_software_until_told_to_stop(model: Path, tmp_path: Path):
    pytest.importorskip("pyrealsense2")
    done = run("predict", model, "--live", "virtual", "--views", 3, "--frames", 20, "--fps", 10)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert 1 <= len({row["frame"] for row in rows}) <= 20
    assert set(rows[0]) == {
        "frame", "camera", "t_ns", "confidence", "disagreement_mm", "score", "source", "joints_mm"
    }  # fmt: skip
    assert len(rows[0]["joints_mm"]) == 26
    assert "of 20 frames tracked" in done.stderr
    times = [row["t_ns"] for row in rows]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either INPUT or --live"),
        (("FOLDER", "--live", "virtual"), "give either INPUT or --live"),
        (("FOLDER",), "--out says where"),
        (("FOLDER", "--out", "OUT", "--rig", "RIG"), "--rig goes with RealSense files"),
        (("--live", "virtual", "--overlay", "OUT"), "go with INPUT, not with --live"),
        (("FOLDER", "--out", "OUT", "--camera", "1,1,1,1"), "for images of one camera"),
        (("PNG", "FOLDER", "--out", "OUT", "--camera", "1,1,1,1"), "several inputs are all PNGs of one camera"),
        (("FOLDER", "--out", "OUT.txt"), "not written as '.txt'"),
        (("FOLDER", "--out", "OUT.csv", "--joints", "feet"), "Unknown joint layout 'feet'"),
    ],
)
def test_what_does_not_go_together(model: Path, session: Path, tmp_path: Path, arguments: tuple[str, ...], said: str):
    places = {
        "FOLDER": session / "folder", "OUT": tmp_path / "out.csv", "RIG": session / "rig.toml",
        "PNG": session / "pngs" / "000010.png", "OUT.txt": tmp_path / "out.txt", "OUT.csv": tmp_path / "out.csv",
    }  # fmt: skip
    done = run("predict", model, *(places.get(word, word) for word in arguments))
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_csv_of_a_folder_is_read_by_the_viewer(model: Path, session: Path, tmp_path: Path):
    assert run("predict", model, session / "folder", "--fused", "--out", tmp_path / "p.csv").exit_code == 0
    from handloom.stores.folder import read_folder

    poses = read_poses(tmp_path / "p.csv", read_folder(session / "folder").rig)
    assert poses.cameras[-1] == "rig"
    assert set(poses.joints_mm) == set(range(FRAMES))
