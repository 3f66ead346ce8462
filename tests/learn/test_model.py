from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handloom.learn import murauer
from handloom.learn.model import CHECKPOINT, load_model, read_checkpoint, write_checkpoint
from handloom.learn.murauer_nets import Architecture
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recordings: SimpleNamespace) -> Path:
    """A run of the full arm, a few steps long."""
    folder = tmp_path_factory.mktemp("runs") / "full"
    sizes = Architecture(features="plain", stem=4, channels=(8,), mid=(), feature_width=16, view_channels=(8, 4))
    values = {
        "input_px": 32,
        "architecture": sizes,
        "batch": 16,
        "pretrain_steps": 2,
        "joint_steps": 3,
        "labels": 5,
    }
    config = preset("murauer", "quick", "full", values)
    train(config, synth=[recordings.synth, recordings.twins], real=recordings.real, run_dir=folder)
    return folder


def test_a_loaded_model_predicts_what_training_left(run: Path) -> None:
    model = load_model(run)
    assert (model.method, model.preset, model.arm) == ("murauer", "quick", "full")
    assert (model.layout.name, model.hand, model.input_px, model.cube_mm) == ("openxr26", "right", 32, 300.0)
    crops = torch.rand(5, 1, 32, 32)
    joints = model.predict_mm(crops, batch=2)
    assert joints.shape == (5, 26, 3)
    nets = model.nets
    assert isinstance(nets, murauer.MurauerNets)
    with torch.no_grad():
        expected = nets.pose(nets.latent(nets.features(crops), real=True)) * 150
    assert torch.allclose(joints, expected, atol=1e-3)
    assert not model.net.training
    assert model.predict_mm(crops[:0]).shape == (0, 26, 3)
    assert model.description["step"] == 5
    assert model.description["sources"]["real"]["frames"] == 32


def test_a_checkpoint_file_is_as_good_as_its_run(run: Path) -> None:
    crops = torch.rand(2, 1, 32, 32)
    assert torch.equal(load_model(run / CHECKPOINT).predict_mm(crops), load_model(run).predict_mm(crops))


def test_only_models_are_loaded(tmp_path: Path, run: Path) -> None:
    with pytest.raises(HandloomError, match="no trained model"):
        load_model(tmp_path / "nothing")
    cut = tmp_path / "cut.pt"
    cut.write_bytes((run / CHECKPOINT).read_bytes()[:-2000])
    with pytest.raises(HandloomError, match="cannot be read"):
        load_model(cut)
    other = tmp_path / "other.pt"
    torch.save({"weights": {}}, other)
    with pytest.raises(HandloomError, match="not a checkpoint"):
        load_model(other)


class Evil:
    """Runs code when unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/handloom-was-here"),))


def test_loading_a_model_never_runs_code(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": "handloom-checkpoint/1", "description": Evil()}, path)
    with pytest.raises(HandloomError, match="cannot be read"):
        read_checkpoint(path)
    assert not Path("/tmp/handloom-was-here").exists()


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path, run: Path) -> None:
    old = read_checkpoint(run)
    parts = {name: old[name] for name in ("description", "weights", "training")}
    write_checkpoint(tmp_path, **parts)
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(tmp_path, **(parts | {"training": {"bad": lambda: None}}))
    assert read_checkpoint(tmp_path)["description"] == old["description"]


def test_a_description_that_does_not_fit_the_weights_is_refused_in_words(tmp_path: Path, run: Path) -> None:
    good = read_checkpoint(run)
    described, weights = good["description"], good["weights"]
    name = next(iter(weights))
    for description, kept in (
        ({}, weights),
        ({"method": "murauer", "arm": "full"}, weights),
        ({**described, "method": 7}, weights),
        ({**described, "layout": "octopus8"}, weights),
        ({**described, "architecture": None}, weights),
        ({**described, "architecture": {**described["architecture"], "stem": -4}}, weights),
        (described, {}),
        (described, {**weights, name: weights[name][..., :1]}),
        (described, {**weights, name: torch.zeros(())}),
    ):
        write_checkpoint(tmp_path, description=description, weights=kept, training={})
        with pytest.raises(HandloomError) as caught:
            load_model(tmp_path)
        assert len(str(caught.value)) < 1000
    huge = {
        **described,
        "architecture": {**described["architecture"], "feature_width": 60_000, "view_channels": [9000]},
    }
    write_checkpoint(tmp_path, description=huge, weights=weights, training={})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HandloomError, match="do not fit together"):
        load_model(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kB for networks that are not there"
    state = torch.load(run / CHECKPOINT, weights_only=True)
    torch.save({"format": state["format"]}, tmp_path / CHECKPOINT)
    with pytest.raises(HandloomError, match="do not fit together"):
        load_model(tmp_path)
