from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from handloom.learn import nearest
from handloom.learn.batches import cut, label, still
from handloom.learn.data import TrainingData
from handloom.learn.model import load_model
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError

MakeData = Callable[..., TrainingData]


def fitted(config: nearest.NearestConfig, data: TrainingData) -> tuple[nearest.Learner, dict[str, Any]]:
    run = nearest.Learner(config, data)
    assert run.total_steps == 1
    return run, run.step(0, log=True)


def test_a_known_image_finds_its_own_joints(toy_data: MakeData) -> None:
    config = nearest.preset("quick", "nearest", input_px=32)
    data = toy_data(8)
    run, terms = fitted(config, data)
    assert terms["known"] == 48 * 3 + 8 * 3
    assert data.real is not None
    crop = data.real.singles(data.labelled)
    geometry = still(data.real, crop)
    images = cut(data.real, crop, geometry, input_px=32, cube_mm=250.0)
    truth = label(data.real, crop, geometry, images, cube_mm=250.0).joints * 125
    with torch.no_grad():
        found = run.pose_net()(images.image)
    torch.testing.assert_close(found, truth, atol=1e-3, rtol=0)
    # Captured frames without a label are not among the known ones.
    assert len(run.nets.joints_mm) == 48 * 3 + 8 * 3


def test_components_are_the_leading_ones(toy_data: MakeData) -> None:
    run, terms = fitted(nearest.preset("quick", "nearest", input_px=32, components=12), toy_data(8))
    basis = run.nets.components.double()
    torch.testing.assert_close(basis.T @ basis, torch.eye(12).double(), atol=1e-5, rtol=0)
    images = torch.cat([image for image, _ in run._crops()]).flatten(1).double()
    centred = images - images.mean(dim=0)
    values = torch.linalg.svdvals(centred) ** 2
    best = float(values[:12].sum() / values.sum())
    # The best twelve components of all are not beaten, and not missed by more than the range finder's error.
    assert best - 0.01 < float(terms["variance_kept"]) <= best + 1e-6


def test_the_search_is_the_nearest_in_the_components(toy_data: MakeData) -> None:
    run, _ = fitted(nearest.preset("quick", "nearest", input_px=32, components=12), toy_data(8))
    net = run.pose_net()
    x = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        places = torch.cdist(net.project(x).double(), net.coordinates.double()).argmin(dim=1)
        assert torch.equal(net(x), net.joints_mm[places])


def test_a_search_is_a_model_like_any_other(tmp_path: Path, recordings: Any) -> None:
    config = preset("crossing", "quick", "paper-nearest", {"input_px": 32, "labels": 5})
    result = train(config, synth=[], real=recordings.real, run_dir=tmp_path / "run", val=recordings.real)
    assert result.steps == 1
    model = load_model(tmp_path / "run")
    # 15 images carry 14 components at most, although 512 are asked for.
    assert model.description["architecture"] == {"components": 14, "known": 15}
    assert model.predict_mm(torch.zeros(2, 1, 32, 32)).shape == (2, 26, 3)
    assert 20 < result.metrics["val/mean_mm"] < 150


def test_what_cannot_be_searched_is_refused(tmp_path: Path, recordings: Any, toy_data: MakeData) -> None:
    config = preset("crossing", "quick", "paper-nearest", {"labels": 0})
    with pytest.raises(HandloomError, match="learns from labelled real frames"):
        train(config, synth=[], real=recordings.real, run_dir=tmp_path / "run")
    with pytest.raises(HandloomError, match="There is no preset"):
        preset("crossing", "swift", "nearest")
    with pytest.raises(HandloomError, match="starts from nothing"):
        nearest.after_pretraining(nearest.preset("quick", "nearest"))
