"""bfloat16 only where it was measured: the gate, what the file says, machines without the units."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from handloom.cli import main
from handloom.learn import openvino_runtime
from handloom.learn.export import export
from handloom.learn.model import PoseModel
from handloom.learn.openvino_runtime import Drift, refuse_drift, refuse_unmeasured
from handloom.learn.predict import load
from handloom.stores.errors import BAD_ENVIRONMENT, HandloomError
from handloom.stores.joints import layout_named


@pytest.fixture
def units() -> None:
    """Skips where there is no OpenVINO, or nothing for it to be faster on."""
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    if "BF16" not in openvino_runtime.capabilities(openvino.Core()):
        pytest.skip("this CPU has no bfloat16 units")


class Still(nn.Module):
    """Joints that bfloat16 holds exactly, whatever the crop shows."""

    def __init__(self) -> None:
        super().__init__()
        self.joints = nn.Parameter(torch.arange(26.0)[:, None] * torch.tensor([2.0, 0.0, 0.0]))

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, 26, 3)."""
        return crops.mean(dim=(1, 2, 3))[:, None, None] * 0 + self.joints


class Wild(nn.Module):
    """A matrix of large random weights from pixels to joints."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Linear(32 * 32, 78)
        nn.init.normal_(self.matrix.weight, std=20.0)

    def forward(self, crops: Tensor) -> Tensor:
        """(B, 1, P, P) -> (B, 26, 3)."""
        return self.matrix(crops.flatten(1)).reshape(-1, 26, 3)


def described(net: nn.Module) -> PoseModel:
    return PoseModel("murauer", "quick", "full", layout_named("openxr26"), "right", 32, 300.0, net, net, {})


@pytest.mark.usefixtures("units")
def test_a_model_that_passes_the_gate_runs_and_says_so(recordings: Any, tmp_path: Path):
    made = export(described(Still()), tmp_path / "m.onnx", on=recordings.real, openvino=True)
    assert made.moved is not None
    assert made.moved.largest_mm < 0.1
    assert made.moved.images == 96
    assert made.confidence is not None
    assert made.confidence.calibrated
    fast, exact = load(tmp_path / "m.onnx", runtime="openvino"), load(tmp_path / "m.onnx")
    crops = np.random.default_rng(0).uniform(-1, 1, (40, 1, 32, 32)).astype(np.float32)
    assert fast.predict_crops(crops) == pytest.approx(exact.predict_crops(crops), abs=0.3)
    assert exact.confidence == made.confidence


@pytest.mark.usefixtures("units")
def test_a_model_that_moves_is_not_exported(recordings: Any, tmp_path: Path):
    """Sums of large weights whose parts cancel: rounded to eight bits they are millimetres off."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Wild()
    with pytest.raises(HandloomError, match="poses move too far"):
        export(described(net), tmp_path / "m.onnx", on=recordings.unlabelled, openvino=True)
    assert not list(tmp_path.iterdir())


def test_a_machine_without_the_units_says_so(recordings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    monkeypatch.setattr(openvino_runtime, "capabilities", lambda core: ["FP32", "INT8"])
    with pytest.raises(HandloomError, match="no bfloat16 units") as caught:
        export(described(Still()), tmp_path / "m.onnx", on=recordings.real, openvino=True)
    assert caught.value.exit_code == BAD_ENVIRONMENT
    assert "FP32, INT8" in caught.value.why


def test_a_model_that_was_not_measured_is_not_run_so(tmp_path: Path):
    export(described(Still()), tmp_path / "m.onnx")
    with pytest.raises(HandloomError, match="not known what bfloat16 does"):
        load(tmp_path / "m.onnx", runtime="openvino")
    with pytest.raises(HandloomError, match="no runtime 'tvm'"):
        load(tmp_path / "m.onnx", runtime="tvm")


@pytest.mark.parametrize("text", [None, "", "{}", "[", "[" * 9999, '{"moved_mm": 0.6}', '{"moved_mm": NaN}', "3"])
def test_what_a_file_says_of_it_is_checked(text: str | None):
    with pytest.raises(HandloomError, match="not known"):
        refuse_unmeasured(text, where="m.onnx")


def test_the_gate_is_at_half_a_millimetre():
    refuse_drift(Drift(0.5, 0.2, 10), where="m.onnx")
    refuse_unmeasured(Drift(0.5, 0.2, 10).to_text("uuid"), where="m.onnx")
    for moved in (0.5001, float("nan"), float("inf")):
        with pytest.raises(HandloomError, match="move too far"):
            refuse_drift(Drift(moved, 0.2, 10), where="m.onnx")


def test_the_command_needs_a_recording_to_measure_on(tmp_path: Path):
    done = CliRunner().invoke(main, ["export", "run", "--out", str(tmp_path / "m.onnx"), "--openvino"])
    assert done.exit_code == 2
    assert "--openvino needs --on" in done.stderr
