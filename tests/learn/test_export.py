"""One file from a trained network: the same joints as torch, for every method and preset size, and no secrets."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from handloom.learn import crossing_recipe, murauer_recipe, train
from handloom.learn.crossing_graph import pose_graph
from handloom.learn.crossing_nets import PoseNet
from handloom.learn.export import export
from handloom.learn.model import PoseModel, load_model, method_module
from handloom.learn.predict import load
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named


def described(method: str, preset: str) -> dict[str, Any]:
    config: Any
    if method == "murauer":
        config = murauer_recipe.preset(preset, "full")
        own: dict[str, Any] = {
            "architecture": config.architecture.model_dump(mode="json"),
            "condition": 3,
            "domains": 2,
            "released": False,
            "identity_mapping": False,
            "mapped": True,
        }
    else:
        config = crossing_recipe.preset(preset, "full")
        sizes = {"channels": config.channels, "latent": config.latent, "hidden": config.hidden}
        own = {"architecture": sizes, "normalisation": config.normalisation}
    return own | {"layout": "openxr26", "input_px": config.input_px, "cube_mm": config.cube_mm}


def fresh(method: str, preset: str, change: Callable[[dict[str, Any]], None] | None = None) -> PoseModel:
    """A model with random weights and random running statistics."""
    description = described(method, preset)
    if change is not None:
        change(description)
    module = method_module(method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        nets = module.build_nets(description).eval()
        for name, buffer in nets.named_buffers():
            if "mean" in name:
                buffer.normal_(0, 0.2)
            elif "var" in name:
                buffer.uniform_(0.5, 1.5)
    return PoseModel(
        method=method,
        preset=preset,
        arm="full",
        layout=layout_named("openxr26"),
        hand="right",
        input_px=description["input_px"],
        cube_mm=description["cube_mm"],
        net=module.pose_net(nets, description).eval(),
        nets=nets,
        description=description,
    )


@pytest.mark.parametrize(
    ("method", "preset"),
    [("murauer", "quick"), ("murauer", "fast"), ("crossing", "quick"), ("crossing", "paper")],
)
def test_onnxruntime_agrees_with_torch(tmp_path: Path, method: str, preset: str):
    model = fresh(method, preset)
    done = export(model, tmp_path / "m.onnx")
    assert done.parity_mm < 0.01
    crops = np.random.default_rng(1).uniform(-1, 1, (5, 1, model.input_px, model.input_px)).astype(np.float32)
    crops[crops > 0.3] = 1
    theirs = model.predict_mm(torch.from_numpy(crops)).numpy()
    assert np.abs(theirs).max() > 0.1, "a network that says nothing proves nothing"
    assert load(tmp_path / "m.onnx").predict_crops(crops) == pytest.approx(theirs, abs=0.02)


def test_crossing_nets_with_the_authors_normalisation(tmp_path: Path):
    model = fresh("crossing", "quick", lambda d: d.update(normalisation="min-max"))
    assert export(model, tmp_path / "m.onnx").parity_mm < 0.01


FOLDED = {"Conv", "MaxPool", "Relu", "LeakyRelu", "Add", "Flatten", "Gemm", "Reshape", "Mul"}


@pytest.mark.parametrize(("method", "preset"), [("murauer", "fast"), ("crossing", "quick"), ("crossing", "paper")])
def test_nothing_is_left_to_fold(tmp_path: Path, method: str, preset: str):
    """No constants to compute, no shapes to find out; the one normalisation is behind a sum, which takes none in."""
    export(fresh(method, preset), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("BatchNormalization") == (method == "murauer")
    assert set(kinds) - {"BatchNormalization"} <= FOLDED
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 17)]


@pytest.mark.parametrize("input_px", [128, 256])
def test_minimal_filtering_is_the_convolution_it_stands_for(input_px: int):
    """Hands, noise and single pixels at the edges and the seams of the tiles: the joints of torch within 0.001 mm."""
    model = fresh("crossing", "paper", lambda d: d.update(input_px=input_px))
    assert isinstance(model.net, PoseNet)
    rng = np.random.default_rng(2)
    crops = np.ones((40, 1, input_px, input_px), np.float32)
    crops[:8] = rng.uniform(-1, 1, (8, 1, input_px, input_px))
    for crop, row in zip(
        crops[8:], [0, 1, 2, 14, 15, 16, 17, 31, 32, 33, 34, 47, *rng.integers(0, 128, 20)], strict=True
    ):
        crop[0, row - input_px, rng.integers(0, input_px)] = -1
        crop[0, -1 - row, [0, -1]] = 0
    sessions = {}
    for filtered in (True, False):
        data = pose_graph(model.net, input_px=input_px, joints=26, filtered=filtered)
        assert data is not None
        sessions[filtered] = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    ours, plain = (sessions[filtered].run(None, {"crop": crops})[0] for filtered in (True, False))
    theirs = model.predict_mm(torch.from_numpy(crops)).numpy()
    assert np.ptp(theirs, axis=0).max() > 1
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert plain == pytest.approx(theirs, abs=1e-3)


def test_the_file_says_how_many_images_go_at_a_time(tmp_path: Path):
    for method, preset, batch in (("murauer", "quick", 32), ("crossing", "quick", 8)):
        export(fresh(method, preset), tmp_path / f"{method}.onnx")
        model = load(tmp_path / f"{method}.onnx")
        assert model.batch == batch
        crops = np.random.default_rng(0).uniform(-1, 1, (35, 1, 64, 64)).astype(np.float32)
        alone = [model.predict_crops(crop[None])[0] for crop in crops]
        assert model.predict_crops(crops) == pytest.approx(np.array(alone), abs=1e-3)


def test_the_file_is_one_file_and_small_batches_and_large_ones_run(tmp_path: Path):
    export(fresh("murauer", "quick"), tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert not any(t.external_data for t in proto.graph.initializer)
    onnx.checker.check_model(proto)
    model = load(tmp_path / "m.onnx")
    assert model.predict_crops(np.zeros((0, 1, 64, 64), np.float32)).shape == (0, 26, 3)
    assert model.predict_crops(np.zeros((70, 1, 64, 64), np.float32)).shape == (70, 26, 3)


class Discontinuous(nn.Module):
    """A network whose export differs: tracing keeps the branch that the example took."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, P, P) -> (B, 26, 3)."""
        joints = x.mean(dim=(1, 2, 3))[:, None, None].expand(-1, 26, 3)
        return joints * 100 if bool(x.abs().sum() > 0) else joints


def test_a_network_that_does_not_agree_is_refused(tmp_path: Path):
    net = Discontinuous()
    net.register_buffer("unused", torch.zeros(1))
    net.register_parameter("one", nn.Parameter(torch.zeros(1)))
    model = PoseModel("murauer", "quick", "full", layout_named("openxr26"), "right", 32, 300.0, net, net, {})
    with pytest.raises(HandloomError, match="does not agree"):
        export(model, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(tmp_path: Path):
    (tmp_path / "m.onnx").write_text("mine")
    with pytest.raises(HandloomError, match="exists already"):
        export(fresh("crossing", "quick"), tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_text() == "mine"
    export(fresh("crossing", "quick"), tmp_path / "m.onnx", overwrite=True)
    load(tmp_path / "m.onnx")


def test_a_run_becomes_a_file_with_its_provenance(tmp_path: Path, recordings: Any):
    config = train.preset(
        "murauer",
        "quick",
        "full",
        {"labels": 5, "pretrain_steps": 2, "joint_steps": 2, "batch": 16, "label_seed": 4},
    )
    train.train(config, synth=[recordings.synth, recordings.twins], real=recordings.real, run_dir=tmp_path / "run")
    done = export(tmp_path / "run", tmp_path / "m.onnx", provenance={"note": "a test"})
    model = load(done.path)
    made = model.provenance
    assert made["config"]["label_seed"] == 4
    assert made["sources"]["synth"][0]["uuid"]
    assert made["sources"]["synth"][0]["path"] == "synth.zarr"
    assert made["note"] == "a test"
    assert {"handloom", "torch", "onnx", "python"} <= set(made["versions"])
    assert json.loads(model.metadata["description"])["n_labels"] == 5
    assert str(tmp_path.parent) not in "".join(model.metadata.values()), "no path of the maker's disk"
    with pytest.raises(HandloomError, match="no trained model"):
        export(tmp_path / "none", tmp_path / "n.onnx")
    assert load_model(tmp_path / "run").layout == model.layout
