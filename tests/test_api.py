"""The Python API: ten lines from a file to a pose, typed, documented, and nothing at import."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import handloom
from handloom.learn.export import export
from handloom.learn.model import PoseModel
from handloom.stores.camera import write_rig
from handloom.stores.joints import layout_named
from handloom.stores.recording import create_recording

ROOT = Path(__file__).resolve().parents[1]


class Still(nn.Module):
    """26 joints, 5 mm apart, whatever the crop shows."""

    def __init__(self) -> None:
        super().__init__()
        self.joints = nn.Parameter(torch.arange(26.0)[:, None] * torch.tensor([5.0, 0.0, 0.0]))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, 26, 3)."""
        return crops.mean(dim=(1, 2, 3))[:, None, None] * 0 + self.joints


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("api") / "model.onnx"
    net = Still()
    export(PoseModel("murauer", "quick", "full", layout_named("openxr26"), "right", 32, 300.0, net, net, {}), path)
    return path


@pytest.fixture
def depth() -> np.ndarray:
    image = np.zeros((480, 640), np.uint16)
    image[170:300, 270:370] = 500
    image[300:480, 295:345] = 505
    return image


CAMERA = handloom.Camera("front", width=640, height=480, k=(475.0, 475.0, 320.0, 240.0))


def test_from_a_file_to_a_pose(file: Path, depth: np.ndarray):
    model = handloom.load_model(str(file))
    pose = model.predict(depth, CAMERA)
    assert pose is not None
    assert pose.joints_mm.shape == (26, 3)
    assert pose.joint("index_tip") == pytest.approx(pose.joints_mm[10])
    assert pose.joints_mm[0] == pytest.approx([0, 0, 510], abs=60), "the palm is in the image's middle"
    assert 0 <= pose.confidence <= 1
    assert pose.spread_mm == pytest.approx(0, abs=1e-3), "these joints do not depend on the crop"
    assert pose.joints_as("mediapipe21").shape == (21, 3)
    assert pose.joints_as("mano21")[0] == pytest.approx(pose.joint("wrist"))
    assert isinstance(pose, handloom.Pose)
    assert isinstance(model, handloom.Model)


def test_what_is_wrong_is_said_in_words(file: Path, depth: np.ndarray, tmp_path: Path):
    model = handloom.load_model(file)
    with pytest.raises(handloom.HandloomError, match="There is no model"):
        handloom.load_model(tmp_path / "none.onnx")
    with pytest.raises(handloom.HandloomError, match="no image of this camera") as caught:
        model.predict((depth // 2).astype(np.uint8), CAMERA)
    assert "8 bits" in caught.value.why
    with pytest.raises(handloom.HandloomError, match="no hand"):
        model.predict(depth, CAMERA, hand="both")
    with pytest.raises(handloom.HandloomError, match="three numbers"):
        model.predict(depth, CAMERA, center_mm=(1, 2))
    pose = model.predict(depth, CAMERA)
    assert pose is not None
    with pytest.raises(handloom.HandloomError, match="Unknown joint"):
        pose.joint("elbow")
    with pytest.raises(handloom.HandloomError, match="Unknown joint layout"):
        pose.joints_as("elbows")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((480, 640), np.uint16),
        np.full((480, 640), 65535, np.uint16),
        np.full((480, 640), 1, np.uint16),
        np.full((480, 640), np.nan, np.float32),
        np.full((480, 640), np.inf, np.float64),
        np.full((480, 640), -500.0, np.float32),
        np.full((480, 640), 1e300, np.float64),
    ],
    ids=["zero", "far", "near", "nan", "infinite", "negative", "huge"],
)
def test_images_without_a_hand_have_no_pose(file: Path, image: np.ndarray):
    assert handloom.load_model(file).predict(image, CAMERA) is None


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.float16, np.float32, np.float64])
def test_depth_of_any_kind_that_holds_millimetres(file: Path, depth: np.ndarray, kind: type):
    model = handloom.load_model(file)
    plain, other = model.predict(depth, CAMERA), model.predict(depth.astype(kind), CAMERA)
    assert plain is not None
    assert other is not None
    assert other.joints_mm == pytest.approx(plain.joints_mm, abs=0.01)


def test_images_of_one_pixel_and_of_none(file: Path):
    model = handloom.load_model(file)
    one = handloom.Camera("one", width=1, height=1, k=(1.0, 1.0, 0.0, 0.0))
    assert model.predict(np.full((1, 1), 500, np.uint16), one) is None
    given = model.predict(np.full((1, 1), 500, np.uint16), one, center_mm=(0, 0, 500))
    assert given is not None
    assert np.isfinite(given.joints_mm).all()
    with pytest.raises(handloom.HandloomError, match="no image of this camera"):
        model.predict(np.zeros((0, 0), np.uint16), one)
    with pytest.raises(handloom.HandloomError, match="size is not positive"):
        handloom.Camera("none", width=0, height=0, k=(1.0, 1.0, 0.0, 0.0))


@pytest.mark.parametrize("k", [(np.nan, 475.0, 320.0, 240.0), (0.0, 475.0, 320.0, 240.0), (475.0, np.inf, 320, 240)])
def test_a_camera_that_is_none(k: tuple[float, float, float, float]):
    with pytest.raises(handloom.HandloomError, match="intrinsics are not usable"):
        handloom.Camera("bad", width=640, height=480, k=k)


@pytest.mark.parametrize("k", [(1e-9, 1e-9, 320.0, 240.0), (1e12, 1e12, 320.0, 240.0), (475.0, 475.0, 1e9, -1e9)])
@pytest.mark.parametrize("center", [None, (0.0, 0.0, 500.0), (1e30, 0.0, 500.0), (np.nan, 0.0, 500.0)])
def test_odd_cameras_give_a_pose_or_none(
    file: Path, depth: np.ndarray, k: tuple[float, float, float, float], center: tuple[float, float, float] | None
):
    pose = handloom.load_model(file).predict(depth, handloom.Camera("odd", 640, 480, k), center_mm=center)
    assert pose is None or np.isfinite(pose.joints_mm).all()


def test_depth_in_metres_is_no_image_without_a_hand(file: Path, depth: np.ndarray):
    """It used to have no pose, image after image."""
    with pytest.raises(handloom.HandloomError, match="seems to be in metres") as caught:
        handloom.load_model(file).predict(depth / 1000.0, CAMERA)
    assert caught.value.why == "nothing in the image is farther than 0.505 mm"
    assert "depth * 1000" in caught.value.fix


@pytest.mark.parametrize("image", [np.zeros((480, 640), np.uint16), np.full((480, 640), np.nan)], ids=["zero", "nan"])
def test_nothing_around_a_centre_that_is_given_is_no_hand(file: Path, depth: np.ndarray, image: np.ndarray):
    """It used to be a pose, and a sure one."""
    model = handloom.load_model(file)
    assert model.predict(image, CAMERA, center_mm=(0, 0, 500)) is None
    assert model.predict(depth, CAMERA, center_mm=(0, 0, 500)) is not None
    assert model.predict(depth, CAMERA, center_mm=(0, 0, 2000)) is None
    assert model.predict(depth, CAMERA, center_mm=(5000, 0, 500)) is None


def test_the_memory_of_an_image_may_lie_as_it_likes(file: Path, depth: np.ndarray):
    model = handloom.load_model(file)
    plain = model.predict(depth, CAMERA)
    fixed = depth.copy()
    fixed.flags.writeable = False
    wide = np.repeat(np.repeat(depth, 2, axis=0), 2, axis=1)[::2, ::2]
    turned = np.ascontiguousarray(depth[::-1, ::-1])[::-1, ::-1]
    for image in (fixed, np.asfortranarray(depth), wide, turned, depth.astype(">u2"), depth.astype(">f4")):
        before = image.copy()
        found = model.predict(image, CAMERA)
        assert plain is not None
        assert found is not None
        assert found.joints_mm == pytest.approx(plain.joints_mm, abs=1e-3)
        assert (image == before).all(), "an image is not written to"


@pytest.mark.parametrize("kind", [bool, np.int8, np.int16, np.int32, np.int64, complex, object, "U5", "M8[s]"])
def test_depth_of_a_kind_that_holds_none(file: Path, depth: np.ndarray, kind: object):
    with pytest.raises(handloom.HandloomError, match="no image of this camera") as caught:
        handloom.load_model(file).predict(depth.astype(kind), CAMERA)  # type: ignore[arg-type]
    assert str(np.dtype(kind)) in caught.value.why  # type: ignore[arg-type]


@pytest.mark.parametrize("image", [None, "depth.png", [[1, 2], [3]], np.zeros((480, 640, 1), np.uint16)], ids=type)
def test_what_is_no_image(file: Path, image: object):
    with pytest.raises(handloom.HandloomError, match="no image of this camera"):
        handloom.load_model(file).predict(image, CAMERA)  # type: ignore[arg-type]


@pytest.mark.parametrize("camera", [None, "front", handloom.Rig((CAMERA,)), (475, 475, 320, 240)], ids=type)
def test_what_is_no_camera(file: Path, depth: np.ndarray, camera: object):
    with pytest.raises(handloom.HandloomError, match="needs its camera"):
        handloom.load_model(file).predict(depth, camera)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "k", [(475.0, 475.0), None, 475.0, np.eye(3), ("475", "475", "320", "240"), (1j, 1, 1, 1)], ids=repr
)
def test_intrinsics_that_are_not_four_numbers(k: object):
    with pytest.raises(handloom.HandloomError, match="four numbers"):
        handloom.Camera("bad", width=640, height=480, k=k)  # type: ignore[arg-type]


@pytest.mark.parametrize("center", ["abc", ("a", "b", "c"), [[0, 0, 500]], 5, (1j, 0, 500)], ids=repr)
def test_what_is_no_centre(file: Path, depth: np.ndarray, center: object):
    with pytest.raises(handloom.HandloomError, match="three numbers"):
        handloom.load_model(file).predict(depth, CAMERA, center_mm=center)  # type: ignore[arg-type]


def test_a_line_of_pixels_and_the_largest_image(file: Path):
    model = handloom.load_model(file)
    for width, height in ((640, 1), (1, 480), (2, 2), (8192, 8192)):
        camera = handloom.Camera("odd", width, height, (475.0, 475.0, width / 2, height / 2))
        pose = model.predict(np.full((height, width), 600, np.uint16), camera)
        assert pose is None or np.isfinite(pose.joints_mm).all()
    with pytest.raises(handloom.HandloomError, match="size is not plausible"):
        handloom.Camera("huge", 9000, 9000, (475.0, 475.0, 4500.0, 4500.0))


def test_a_tracker_wants_an_image_a_camera(file: Path, depth: np.ndarray):
    from handloom.learn.tracking import Tracker

    tracker = Tracker(handloom.load_model(file), handloom.Rig((CAMERA,)))
    for images in ([], [depth, depth]):
        with pytest.raises(handloom.HandloomError, match="an image for each camera"):
            tracker.update(images)
    assert tracker.update([None]) is None


def test_a_rig_is_read_by_its_name(tmp_path: Path):
    write_rig(handloom.Rig((CAMERA,)), tmp_path / "rig.toml")
    assert handloom.read_rig(tmp_path / "rig.toml").cameras == (CAMERA,)


def test_a_model_that_runs_leaves_nothing_in_the_home(file: Path, tmp_path: Path):
    """onnxruntime 1.31 gives the machine an id there, and reports to its maker, unless it is told not to."""
    code = "import sys, handloom; from handloom.learn import predict; print(handloom.load_model(sys.argv[1]).hand)"
    environment = {"PYTHONPATH": str(ROOT / ".dev"), "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for modules in ("", "import handloom.learn.export, handloom.doctor_probes as d; d.onnxruntime();"):
        done = subprocess.run(
            [sys.executable, "-c", modules + code, str(file)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        assert (done.stdout, done.stderr) == ("right\n", "")
        assert not [path for path in tmp_path.rglob("*") if "onnx" in path.name.lower() or "Microsoft" in path.parts]


def test_importing_it_costs_nothing_and_what_it_offers_is_there():
    code = "import sys, handloom; print(*sorted(m for m in sys.modules if 'numpy' in m or m.startswith('handloom')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / ".dev")}
    )
    assert done.stdout.split() == ["handloom"]
    assert set(handloom.__all__) <= set(dir(handloom))
    assert all(hasattr(handloom, name) for name in handloom.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = handloom.nonsense


def test_the_ten_lines_of_the_page_run(file: Path, depth: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every Python block of docs/predict.md, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(file.read_bytes())
    text = (ROOT / "docs/predict.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert blocks
    assert len(blocks[0].strip().splitlines()) <= 10
    names: dict[str, object] = {"depth": depth}
    for block in blocks:
        exec(compile(block, "docs/predict.md", "exec"), names)
    assert isinstance(names["pose"], handloom.Pose)


def test_paths_may_be_strings(tmp_path: Path) -> None:
    """docs/predict.md wrote `read_rig("rig.toml")`, which ended in an AttributeError."""
    rig = handloom.Rig((handloom.Camera("front", width=8, height=6, k=(8.0, 8.0, 4.0, 3.0)),))
    write_rig(rig, tmp_path / "rig.toml")
    assert handloom.read_rig(str(tmp_path / "rig.toml")) == rig
    create_recording(tmp_path / "R.zarr", kind="captured", rig=rig, hand="right", provenance={}).create_frames(
        depth=True
    )
    assert handloom.open_recording(str(tmp_path / "R.zarr")).rig == rig
    with pytest.raises(handloom.HandloomError, match="recording"):
        handloom.open_recording(str(tmp_path / "none.zarr"))
