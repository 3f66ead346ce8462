"""Exported models run without torch: the file's checks, the geometry of crops, the passes, left hands."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from handloom.learn.batches import cut as cut_on_device
from handloom.learn.batches import still
from handloom.learn.export import export
from handloom.learn.inputs import DepthView, cut, open_input, parse_camera, single_image
from handloom.learn.model import PoseModel
from handloom.learn.model_file import CHECKSUM_MARK, checksum, signed
from handloom.learn.predict import Model, estimate, load
from handloom.stores.camera import Camera, project
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.png import write_depth_png
from handloom.stores.reading import Resident

LAYOUT = layout_named("openxr26")
CAMERA = Camera("camera", 320, 240, (241.0, 240.0, 160.0, 120.0), depth_unit_mm=0.25)
SIDE, CUBE = 32, 300.0


class Mass(nn.Module):
    """A network that can be worked out by hand: every joint at the mean of the crop's hand pixels."""

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.joints = joints
        grid = (torch.arange(SIDE) - (SIDE - 1) / 2) * (CUBE / SIDE)
        self.register_buffer("x", grid.repeat(SIDE, 1))
        self.spread = nn.Parameter(torch.linspace(0, 25, joints)[:, None] * torch.tensor([1.0, 0.0, 0.0]))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, J, 3) mm."""
        hand = (crops[:, 0] < 1).float()
        count = hand.sum(dim=(1, 2)).clamp(min=1)
        x, y = (hand * self.x).sum(dim=(1, 2)) / count, (hand * self.x.t()).sum(dim=(1, 2)) / count
        z = (hand * crops[:, 0]).sum(dim=(1, 2)) / count * (CUBE / 2)
        return torch.stack([x, y, z], dim=1)[:, None] + self.spread


def mass_model(layout: str = "openxr26") -> PoseModel:
    net = Mass(len(layout_named(layout)))
    description = {
        "n_labels": 7,
        "config": {"label_seed": 3},
        "sources": {"real": {"path": "/secret/r.zarr"}},
    }
    return PoseModel("murauer", "quick", "full", layout_named(layout), "right", SIDE, CUBE, net, net, description)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "mass.onnx"
    export(mass_model(), path)
    return path


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return load(exported)


def slab(u: int, v: int, size: int = 30, z_mm: float = 500.0) -> np.ndarray:
    depth = np.zeros((240, 320), np.uint16)
    depth[v - size : v + size, u - size : u + size] = round(z_mm / CAMERA.depth_unit_mm)
    return depth


def tampered(path: Path, out: Path, **changes: str) -> Path:
    """The model with other metadata and a checksum that fits."""
    proto = onnx.load(path)
    for prop in proto.metadata_props:
        name = prop.key.removeprefix("handloom.")
        if name in changes:
            prop.value = changes[name]
        if name == "checksum":
            prop.value = CHECKSUM_MARK.decode() + "0" * 64
    out.write_bytes(signed(proto.SerializeToString()))
    return out


# --- the file ---


def test_a_model_says_what_it_is(model: Model):
    assert (model.layout.name, model.hand, model.input_px, model.cube_mm) == ("openxr26", "right", SIDE, CUBE)
    assert json.loads(model.metadata["joints"]) == list(LAYOUT.points)
    assert model.metadata["units"] == "mm"


def test_a_flipped_bit_is_found(exported: Path, tmp_path: Path):
    data = bytearray(exported.read_bytes())
    for place in (200, len(data) // 2, len(data) - 5):
        damaged = bytearray(data)
        damaged[place] ^= 1
        (tmp_path / "m.onnx").write_bytes(damaged)
        with pytest.raises(HandloomError, match="damaged"):
            load(tmp_path / "m.onnx")


def test_a_truncated_file_is_refused(exported: Path, tmp_path: Path):
    data = exported.read_bytes()
    for size in (0, 100, len(data) - 1):
        (tmp_path / "m.onnx").write_bytes(data[:size])
        with pytest.raises(HandloomError, match="damaged"):
            load(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"version": "2"}, "newer handloom"),
        ({"format": "other"}, "not a model exported by handloom"),
        ({"layout": "nobody21"}, "unknown layout"),
        ({"joints": '["palm"]'}, "unknown layout"),
        ({"joints": "["}, "incomplete"),
        ({"units": "m"}, "another input or unit"),
        ({"normalisation": "z-score"}, "another input or unit"),
        ({"input_px": "64"}, "does not fit"),
        ({"input_px": "many"}, "incomplete"),
        ({"cube_mm": "-3"}, "incomplete"),
        ({"batch": "0"}, "incomplete"),
        ({"batch": "1000000"}, "incomplete"),
    ],
)
def test_other_models_are_refused(exported: Path, tmp_path: Path, changes: dict[str, str], what: str):
    with pytest.raises(HandloomError, match=what):
        load(tampered(exported, tmp_path / "m.onnx", **changes))


def test_a_layout_that_was_asked_for(exported: Path):
    assert load(exported, layout="openxr26").layout == LAYOUT
    with pytest.raises(HandloomError, match="predicts openxr26, not nyu14"):
        load(exported, layout="nyu14")


def test_a_missing_file_and_one_that_is_no_network(tmp_path: Path):
    with pytest.raises(HandloomError, match="There is no model"):
        load(tmp_path / "none.onnx")
    text = b"text " + CHECKSUM_MARK + b"0" * 64
    start = text.rfind(CHECKSUM_MARK) + len(CHECKSUM_MARK)
    (tmp_path / "m.onnx").write_bytes(text[:start] + checksum(text, start))
    with pytest.raises(HandloomError, match="no model of handloom holds"):
        load(tmp_path / "m.onnx")


def test_prediction_loads_nothing_heavy(exported: Path):
    code = f"""
import sys
import threading
from pathlib import Path
import numpy as np
from handloom.learn.predict import load
from handloom.stores.camera import Camera
depth = np.zeros((240, 320), np.uint16)
depth[90:150, 130:190] = 500
camera = Camera("c", 320, 240, (241.0, 241.0, 160.0, 120.0))
assert load(Path({str(exported)!r})).predict(depth, camera, center_mm=(0, 0, 500)) is not None
heavy = {{"torch", "numba", "zarr", "pydantic", "rich", "matplotlib", "onnx", "scipy"}}
print(*sorted(heavy & set(sys.modules)))
"""
    package = Path(__file__).parents[2] / ".dev"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(package)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_the_command_that_looks_for_the_hand_loads_nothing_heavy_either(exported: Path, tmp_path: Path):
    """scipy and OpenCV it does need: what hangs together, and the PNG."""
    depth = np.zeros((480, 640), np.uint16)
    depth[170:300, 270:370] = 500
    depth[300:480, 295:345] = 505
    write_depth_png(tmp_path / "a.png", depth)
    code = f"""
import sys
from handloom.cli import main
args = ["predict", {str(exported)!r}, "a.png", "--camera", "475,475,320,240", "--out", "p.csv"]
main(args, standalone_mode=False)
heavy = {{"torch", "numba", "zarr", "pydantic", "rich", "matplotlib", "onnx", "jinja2", "trimesh"}}
print(*sorted(heavy & set(sys.modules)))
"""
    package = Path(__file__).parents[2] / ".dev"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(package)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["p.csv: poses of 1 image", ""]


# --- geometry ---


def test_crops_are_those_that_training_sees(toy: SimpleNamespace, captured: Resident):
    """`cut` here in numpy and `cut` of `batches` on the device show the same pixels."""
    bank = toy.bank(captured)
    crop = torch.arange(12)
    theirs = cut_on_device(bank, crop, still(bank, crop), input_px=128, cube_mm=CUBE).image.numpy()
    wrong = 0
    for i in range(12):
        t, v = divmod(i, 3)
        view = DepthView(t, v, captured.rig.cameras[v], captured.crop[t, v], captured.k[t, v].astype(float))
        ours = cut(view, captured.center[t, v], input_px=128, cube_mm=CUBE)
        wrong += int((np.abs(ours - theirs[i, 0]) > 1e-5).sum())
    assert wrong == 0


def test_a_small_input_shows_the_hand_where_a_large_one_does(captured: Resident):
    """64 px out of a stored crop of 192 are ties of rounding throughout, which must not move the hand."""

    def mean_mm(i: int, side: int) -> np.ndarray:
        t, v = divmod(i, 3)
        view = DepthView(t, v, captured.rig.cameras[v], captured.crop[t, v], captured.k[t, v].astype(float))
        rows, columns = np.nonzero(cut(view, captured.center[t, v], input_px=side, cube_mm=CUBE) < 1)
        return (np.array([columns.mean(), rows.mean()]) - (side - 1) / 2) * (CUBE / side)

    moved = np.array([mean_mm(i, 64) - mean_mm(i, 128) for i in range(24)])
    assert np.abs(moved.mean(axis=0)).max() < 0.3


def test_a_hand_is_where_its_pixels_are(model: Model):
    """The mean of a slab's pixels, unprojected: crop, network and way back together."""
    pose = model.predict(slab(200, 100), CAMERA, center_mm=(80, -40, 505))
    assert pose is not None
    where = np.array([(199.5 - 160) / 241 * 500, (99.5 - 120) / 240 * 500, 500])
    assert pose.joints_mm[0] == pytest.approx(where, abs=CUBE / SIDE / 2)
    assert pose.joints_mm[25] - pose.joints_mm[0] == pytest.approx([25, 0, 0], abs=1e-3)


def test_the_second_crop_is_around_the_predicted_palm(model: Model):
    """A centre 60 mm off cuts part of the slab away; the second pass sees all of it."""
    view = single_image(slab(160, 120, size=40), CAMERA, center_mm=(95, 0, 500))
    start = np.array([[95.0, 0.0, 500.0]])
    once, centers = estimate(model, [view], start, mirrored=False, passes=1)
    assert centers[0] == pytest.approx(start[0])
    twice, centers = estimate(model, [view], start, mirrored=False)
    assert centers[0] == pytest.approx(once[0, 0], abs=1e-3)
    assert abs(twice[0, 0, 0] + 1) < CUBE / SIDE / 2 < 10 < abs(once[0, 0, 0] + 1)


def test_a_palm_out_of_the_crop_moves_nothing(exported: Path, tmp_path: Path):
    far = mass_model()
    with torch.no_grad():
        far.net.spread += torch.tensor([500.0, 0, 0])  # type: ignore[operator]
    export(far, tmp_path / "far.onnx")
    view = single_image(slab(160, 120), CAMERA, center_mm=(0, 0, 500))
    _, centers = estimate(load(tmp_path / "far.onnx"), [view], np.array([[0.0, 0.0, 500.0]]), mirrored=False)
    assert centers[0] == pytest.approx([0, 0, 500])


def test_a_left_hand_is_a_mirrored_right_one(model: Model):
    """Mirroring the whole image about its axis mirrors the pose, exactly."""
    depth = slab(200, 100)
    depth[60:100, 170:190] = 1960
    middle = Camera("camera", 320, 240, (241.0, 240.0, 159.5, 120.0), depth_unit_mm=0.25)
    right = model.predict(depth, middle, center_mm=(60, -30, 500))
    left = model.predict(depth[:, ::-1], middle, center_mm=(-60, -30, 500), hand="left")
    assert right is not None
    assert left is not None
    assert left.joints_mm == pytest.approx(right.joints_mm * [-1, 1, 1], abs=0.01)


def test_floating_millimetres_do_as_well(model: Model):
    counts = slab(200, 100)
    mm = counts * np.float32(CAMERA.depth_unit_mm)
    mm[0, 0] = np.nan
    a, b = (model.predict(d, CAMERA, center_mm=(80, -40, 505)) for d in (counts, mm))
    assert a is not None
    assert b is not None
    assert b.joints_mm == pytest.approx(a.joints_mm, abs=1e-3)


def test_a_batch_is_as_good_as_one_by_one(model: Model):
    views = [single_image(slab(80 + 4 * i, 120), CAMERA, center_mm=(0, 0, 500)) for i in range(40)]
    start = np.tile([[0.0, 0.0, 500.0]], (40, 1))
    together, _ = estimate(model, views, start, mirrored=False)
    alone = [estimate(model, [v], s[None], mirrored=False)[0][0] for v, s in zip(views, start, strict=True)]
    assert together == pytest.approx(np.array(alone), abs=1e-3)


def test_a_crop_half_out_of_the_image_and_one_behind_the_camera(model: Model):
    pose = model.predict(slab(30, 120), CAMERA, center_mm=(-300, 0, 500))
    assert pose is not None
    assert np.isfinite(pose.joints_mm).all()
    assert model.predict(slab(30, 120), CAMERA, center_mm=(0, 0, -500)) is None
    assert model.predict(slab(30, 120), CAMERA, center_mm=(0, 0, float("nan"))) is None


# --- what goes in ---


def test_depth_of_another_camera_is_refused(model: Model):
    for depth in (
        np.zeros((240, 321), np.uint16),
        np.zeros((240, 320, 3), np.uint16),
        np.zeros((240, 320), int),
    ):
        with pytest.raises(HandloomError, match="no image of this camera"):
            model.predict(depth, CAMERA)


def test_the_camera_option():
    camera = parse_camera("475.07,475.07,315.94,245.29", width=640, height=480, depth_unit_mm=1.0)
    assert camera.k == (475.07, 475.07, 315.94, 245.29)
    assert project([0, 0, 500], camera.k) == pytest.approx([315.94, 245.29])
    for text in ("475,475,315", "a,b,c,d", "", "0,475,1,1", "nan,1,1,1"):
        with pytest.raises(HandloomError):
            parse_camera(text, width=640, height=480, depth_unit_mm=1.0)


def test_inputs_that_are_none(tmp_path: Path):
    with pytest.raises(HandloomError, match="does not exist"):
        open_input(tmp_path / "none")
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(HandloomError, match="no recording, plain folder or PNG"):
        open_input(tmp_path / "x.txt", camera="1,1,1,1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(HandloomError, match="not a recording"):
        open_input(tmp_path / "folder")
    with pytest.raises(HandloomError, match="for images of one camera"):
        open_input(tmp_path / "folder", camera="1,1,1,1")


# --- reading ahead ---


def test_a_damaged_frame_ends_the_reading_where_it_lies(recordings: Any, tmp_path: Path):
    """The block after the one that is looked at is read by a thread: what it meets is said here, and in order."""
    copy = tmp_path / "r.zarr"
    shutil.copytree(recordings.real, copy)
    whole = [(view.frame, view.view, view.depth) for view in open_input(copy).views]
    shard = next(path for path in (copy / "crops" / "crop").rglob("*") if path.is_file() and path.stat().st_size > 5000)
    data = bytearray(shard.read_bytes())
    index = np.frombuffer(data[:-4][-16 * 256 :], "<u8").reshape(256, 2)
    data[int(index[20, 0]) + 100] ^= 1
    shard.write_bytes(data)
    seen: list[tuple[int, int, np.ndarray]] = []
    with pytest.raises(HandloomError, match="damaged"):
        seen.extend((view.frame, view.view, view.depth) for view in open_input(copy).views)
    assert len(seen) == 3 * 16, "the first block is whole"
    for (frame, number, depth), (was_frame, was_number, was_depth) in zip(seen, whole, strict=False):
        assert (frame, number) == (was_frame, was_number)
        np.testing.assert_array_equal(depth, was_depth)


def test_whoever_stops_early_leaves_no_thread_behind(recordings: Any):
    before = threading.active_count()
    views = open_input(recordings.real).views
    next(views)
    views.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
