"""A hidden rig is found again from a printed board: lenses, blur, noise, boards partly out of view."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from board_scenes import BOARD, board_poses, with_lenses, write_pictures
from click.testing import CliRunner, Result

from handloom.capture.anipose import read_anipose
from handloom.capture.bundle import turned
from handloom.capture.calibrate import CharucoTarget, calibrate, parse_target
from handloom.capture.charuco_rig import _linear, _moved, _projected, _Seen, _State
from handloom.capture.pictures import open_pictures
from handloom.cli import main
from handloom.stores.camera import Rig, read_rig, write_rig
from handloom.stores.errors import HandloomError
from handloom.synth.rigs import ring_rig

from ball_scenes import errors, hidden

COUNT = 20
DIST = (-0.12, 0.03, 0.001, -0.0005)
TARGET = "charuco:6x4,square=40mm,marker=30mm,dict=4X4_50"


@pytest.fixture(scope="module")
def truth() -> Rig:
    return with_lenses(ring_rig(3, width=400, height=300, focal_px=330.0, spread_deg=60.0), dist=DIST)


@pytest.fixture(scope="module")
def folder(truth: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("board") / "board"
    write_pictures(out, truth, board_poses(COUNT, seed=3), seed=1)
    return out


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def copied(folder: Path, out: Path) -> Path:
    """The same pictures, to be changed."""
    shutil.copytree(folder, out)
    return out


def blank(folder: Path, camera: str, frames: range) -> None:
    """Pictures without a board instead of some."""
    for frame in frames:
        cv2.imwrite(str(folder / camera / f"{frame:06d}.png"), np.full((300, 400), 120, np.uint8))


def test_a_hidden_rig_is_recovered(folder: Path, truth: Rig) -> None:
    fit = calibrate(folder, BOARD)
    for degrees, mm in errors(fit.rig, truth):
        assert degrees < 0.1
        assert mm < 1.0
    assert fit.unit == "px"
    assert all(one.residual < 0.2 for one in fit.cameras)
    assert fit.shared[0, 1] >= 14
    # Of some pictures only a part of the board was seen.
    assert sum(one.seen < COUNT for one in fit.cameras) > 0
    np.testing.assert_allclose(fit.rig.cameras[0].rotation, np.eye(3), atol=1e-12)
    middle = np.mean([shift for _, shift in board_poses(COUNT, seed=3)], axis=0)
    assert np.linalg.norm(fit.rig.cameras[0].translation - truth.cameras[0].to_camera(middle)) < 25


def test_wrong_intrinsics_are_refined(folder: Path, truth: Rig, tmp_path: Path) -> None:
    off = Rig(tuple(replace(c, k=(310.0, 312.0, 205.0, 146.0)) for c in hidden(truth).cameras))
    write_rig(off, tmp_path / "off.toml")
    assert (
        max(degrees for degrees, _ in errors(calibrate(folder, BOARD, initial=tmp_path / "off.toml").rig, truth)) > 0.3
    )
    fit = calibrate(folder, BOARD, initial=tmp_path / "off.toml", intrinsics="refine")
    for found, true in zip(fit.rig.cameras, truth.cameras, strict=True):
        np.testing.assert_allclose(found.k, true.k, atol=1.5)
        assert found.dist == true.dist
    assert max(degrees for degrees, _ in errors(fit.rig, truth)) < 0.2
    assert max(mm for _, mm in errors(fit.rig, truth)) < 3.0
    assert any(note.startswith("cam1: fx 310.0 → 3") for note in fit.notes)


def test_without_any_intrinsics_the_lens_is_found_when_asked(folder: Path, truth: Rig, tmp_path: Path) -> None:
    bare = copied(folder, tmp_path / "bare")
    (bare / "rig.toml").unlink()
    with pytest.raises(HandloomError, match="intrinsics are not known") as raised:
        calibrate(bare, BOARD)
    assert "--intrinsics refine" in raised.value.fix
    fit = calibrate(bare, BOARD, intrinsics="distortion")
    for found, true in zip(fit.rig.cameras, truth.cameras, strict=True):
        np.testing.assert_allclose(found.k[:2], true.k[:2], rtol=0.005)
        assert found.dist_model == "brown-conrady"
        # Where the lens bends: half the image's height from its middle.
        s = (150 / true.k[0]) ** 2
        bend = [(c.dist[0] * s + c.dist[1] * s * s) * 150 for c in (found, true)]
        assert bend[0] == pytest.approx(bend[1], abs=0.3)
    assert max(degrees for degrees, _ in errors(fit.rig, truth)) < 0.25


def test_sixteen_bits_colour_and_jpeg_are_read(folder: Path, truth: Rig, tmp_path: Path) -> None:
    out = copied(folder, tmp_path / "kinds")
    (out / "ir").mkdir()
    for camera in truth.names:
        (out / camera).rename(out / "ir" / camera)
    for file in (out / "ir/cam1").iterdir():
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), image.astype(np.uint16) * 9 + 70)
    for file in (out / "ir/cam2").iterdir():
        cv2.imwrite(str(file.with_suffix(".jpg")), cv2.imread(str(file)), [cv2.IMWRITE_JPEG_QUALITY, 95])
        file.unlink()
    fit = calibrate(out, BOARD)
    assert max(degrees for degrees, _ in errors(fit.rig, truth)) < 0.15
    assert any("Infrared is taken to be the depth cameras' own imager" in note for note in fit.notes)


def test_colour_cameras_lead_to_the_depth_cameras_beside_them(folder: Path, truth: Rig, tmp_path: Path) -> None:
    out = tmp_path / "colour"
    shutil.copytree(folder, out / "color")
    turn, step = turned(np.array([0.01, -0.02, 0.005])), np.array([15.0, 0.5, -1.0])
    depth = Rig(
        tuple(
            replace(c, width=320, height=240, k=(241.0, 241.0, 160.0, 120.0), dist_model="none", dist=())
            for c in hidden(truth).cameras
        )
    )
    write_rig(depth, out / "rig.toml")
    assert any("The rig is that of the COLOUR cameras" in note for note in calibrate(out, BOARD).notes)

    rows = tuple(tuple(row) for row in turn.tolist())
    between = Rig(tuple(replace(c, r=rows, t=tuple(step.tolist())) for c in hidden(truth).cameras))
    write_rig(between, out / "color/rig.toml")
    fit = calibrate(out, BOARD)
    true_depth = Rig(
        tuple(
            replace(
                d,
                r=tuple(map(tuple, (turn.T @ c.rotation).tolist())),
                t=tuple((turn.T @ (c.translation - step)).tolist()),
            )
            for c, d in zip(truth.cameras, depth.cameras, strict=True)
        )
    )
    assert [c.k for c in fit.rig.cameras] == [c.k for c in depth.cameras]
    for degrees, mm in errors(fit.rig, true_depth):
        assert degrees < 0.1
        assert mm < 1.0
    assert max(mm for _, mm in errors(fit.rig, truth)) > 2.0  # they are others


def test_a_camera_that_never_saw_the_board_is_named(folder: Path, tmp_path: Path) -> None:
    out = copied(folder, tmp_path / "f")
    blank(out, "cam2", range(COUNT))
    with pytest.raises(HandloomError) as raised:
        calibrate(out, BOARD)
    assert raised.value.what == "cam2 never saw the target"
    assert raised.value.why.startswith(f"cam2: 0 of {COUNT} frames")


def test_groups_of_cameras_are_named(folder: Path, tmp_path: Path) -> None:
    out = copied(folder, tmp_path / "f")
    for frame in range(COUNT):
        for camera in ("cam2",) if frame % 2 else ("cam0", "cam1"):
            (out / camera / f"{frame:06d}.png").unlink()
    with pytest.raises(HandloomError) as raised:
        calibrate(out, BOARD)
    assert "groups: cam0, cam1 | cam2" in raised.value.why


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (replace(BOARD, dictionary="5X5_50"), "check dict=5X5_50"),
        (replace(BOARD, columns=4, rows=6), "markers of 4X4_50 are there"),
        (replace(BOARD, columns=20, rows=20), "carry 200, 4X4_50 has 50"),
    ],
)
def test_another_board_is_recognised(folder: Path, target: CharucoTarget, says: str) -> None:
    with pytest.raises(HandloomError) as raised:
        calibrate(folder, target)
    assert says in f"{raised.value.why} {raised.value.fix}"


def test_a_board_with_the_other_first_square_is_recognised(truth: Rig, tmp_path: Path) -> None:
    write_pictures(tmp_path / "old", truth, board_poses(12, seed=3), target=replace(BOARD, legacy=True), seed=1)
    with pytest.raises(HandloomError) as raised:
        calibrate(tmp_path / "old", BOARD)
    assert "with ',legacy'" in raised.value.fix


def test_pictures_of_another_moment_are_left_out(folder: Path, truth: Rig, tmp_path: Path) -> None:
    out = copied(folder, tmp_path / "swapped")
    a, b = out / "cam1/000003.png", out / "cam1/000012.png"
    a.rename(out / "x.png")
    b.rename(a)
    (out / "x.png").rename(b)
    fit = calibrate(out, BOARD)
    assert max(degrees for degrees, _ in errors(fit.rig, truth)) < 0.1
    assert max(mm for _, mm in errors(fit.rig, truth)) < 1.0
    assert sum(one.mistakes for one in fit.cameras) >= 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("charuco", "a board is charuco:COLSxROWS,square=30mm,marker=22mm,dict=4X4_50"),
        ("charuco:6x4", "a board is charuco:COLSxROWS"),
        ("charuco:6x4,square=40,marker=30mm,dict=4X4_50", "lengths in mm"),
        ("charuco:6x4,square=40mm,marker=40mm,dict=4X4_50", "a marker lies inside its square"),
        ("charuco:6x4,square=40mm,marker=30mm,dict=4X5_50", "known: 4X4_50, 4X4_100"),
        ("charuco:2x4,square=40mm,marker=30mm,dict=4X4_50", "at least 3 x 3"),
        ("chessboard:6x4", "known: sphere:RADIUSmm"),
    ],
)
def test_other_spellings_are_refused(text: str, says: str) -> None:
    with pytest.raises(HandloomError) as raised:
        parse_target(text)
    assert says in raised.value.why
    assert parse_target(TARGET) == BOARD
    assert parse_target(f"{TARGET.replace('4X4_50', 'dict_4x4_50')},legacy") == replace(BOARD, legacy=True)


def test_the_command_writes_a_rig_that_anipose_reads_with_its_lenses(folder: Path, truth: Rig, tmp_path: Path) -> None:
    out, page = tmp_path / "rig.toml", tmp_path / "rig.html"
    done = run("capture", "calibrate", folder, "--target", TARGET, "--out", out, "--report", page)
    assert done.exit_code == 0, done.output
    first, *cameras, lenses, note, wrote, following = done.stdout.splitlines()
    assert first.startswith(f"{out}: 3 cameras from ")
    assert [line.split()[0] for line in cameras] == ["cam0", "cam1", "cam2"]
    assert all("px off" in line for line in cameras)
    assert lenses.startswith("The lenses of cam0, cam1, cam2 bend lines")
    assert note.startswith("Infrared is taken to be")
    assert wrote == f"{page}: cameras, shared views, residuals"
    assert following == f"next: handloom capture record SOURCE --rig {out} --out R.zarr"
    assert read_rig(out).cameras[1].dist == truth.cameras[1].dist
    assert "a ChArUco board of 6 x 4 squares of 40 mm" in page.read_text()

    anipose = tmp_path / "calibration.toml"
    done = run("capture", "calibrate", folder, "--target", TARGET, "--out", anipose, "--format", "anipose", "--json")
    assert json.loads(done.stdout)["residual_unit"] == "px"
    back = read_anipose(anipose)
    assert max(degrees for degrees, _ in errors(back, truth)) < 0.1
    assert [c.dist for c in back.cameras] == [c.dist for c in truth.cameras]
    # … and its intrinsics, distortion included, are a start for the next time.
    bare = copied(folder, tmp_path / "bare")
    (bare / "rig.toml").unlink()
    assert calibrate(bare, BOARD, initial=anipose).rig == calibrate(folder, BOARD).rig


def test_a_depth_recording_or_an_empty_folder_is_no_source_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="There are no pictures"):
        open_pictures(tmp_path)
    (tmp_path / "zarr.json").touch()
    with pytest.raises(HandloomError, match="A recording holds depth alone"):
        open_pictures(tmp_path)


def test_icp_without_depth_is_refused_before_the_work(folder: Path) -> None:
    pytest.importorskip("open3d")
    with pytest.raises(HandloomError, match="ICP needs depth") as raised:
        calibrate(folder, BOARD, refine="icp")
    assert "pictures alone" in raised.value.why


def test_the_projection_is_opencvs() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 100, (20, 3)) + np.array([0.0, 0.0, 500.0])
    lens = np.array([310.0, 320.0, 150.0, 120.0, -0.2, 0.05, 0.002, -0.001, 0.01, 0.02, -0.03, 0.004])
    matrix = np.array([[310.0, 0, 150.0], [0, 320.0, 120.0], [0, 0, 1]])
    expected = cv2.projectPoints(x, np.zeros(3), np.zeros(3), matrix, lens[4:])[0].reshape(-1, 2)
    np.testing.assert_allclose(_projected(x, np.repeat(lens[None], 20, 0))[0], expected, atol=1e-9)


def test_the_jacobian_of_the_board_is_its_derivative_along_a_random_direction() -> None:
    rng = np.random.default_rng(5)
    lens = np.array([310.0, 320.0, 150.0, 120.0, -0.2, 0.05, 0.002, -0.001, 0.01, 0.02, -0.03, 0.004])
    state = _State(
        turned(rng.normal(0, 0.3, (2, 3))),
        rng.normal(0, 50, (2, 3)) + np.array([0.0, 0.0, 500.0]),
        np.stack([lens, lens * 1.1]),
        turned(rng.normal(0, 0.3, (4, 3))),
        rng.normal(0, 60, (4, 3)),
    )
    camera, structure = np.repeat(np.arange(2), 8), np.tile(np.arange(4), 4)
    corners = _Seen(
        camera, structure, np.column_stack([rng.normal(0, 80, (16, 2)), np.zeros(16)]), rng.normal(0, 1, (16, 2))
    )
    scale = np.array([1e-5] * 3 + [1e-3] * 3 + [1e-2] * 4 + [1e-5] * 4)
    step_c, step_s = rng.normal(0, 1, (2, 14)) * scale, rng.normal(0, 1, (4, 6)) * scale[:6]
    ahead = _linear(_moved(state, step_c, step_s), corners).residual
    behind = _linear(_moved(state, -step_c, -step_s), corners).residual
    here = _linear(state, corners)
    predicted = np.einsum("nma,na->nm", here.by_camera, step_c[camera])
    predicted += np.einsum("nma,na->nm", here.by_structure, step_s[structure])
    np.testing.assert_allclose((ahead - behind) / 2, predicted, rtol=1e-4, atol=1e-6)
