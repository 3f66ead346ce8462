"""The latent z: that it is each method's own, and that pairs of images and twins are what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from handloom.learn.latent import latent_of, latents, pair_distances, twin_pairs, twinned_rows
from handloom.learn.model import PoseModel, load_model
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording

Trained = Callable[..., Path]


@pytest.fixture(scope="module")
def full(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> PoseModel:
    return load_model(trained(tmp_path_factory.mktemp("full") / "run", "full", batch_norm="domain"))


@pytest.fixture(scope="module")
def real(recordings: Any) -> Recording:
    return open_recording(recordings.real)


@pytest.fixture(scope="module")
def twins(recordings: Any) -> Recording:
    return open_recording(recordings.twins)


def test_the_pose_is_read_from_z(full: PoseModel) -> None:
    """p(z) is what inference says of real images: z passed m, and the statistics of the real domain."""
    x = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    nets: Any = full.nets
    with torch.no_grad():
        z = latent_of(full, x, real=True)
        torch.testing.assert_close(nets.pose(z) * (full.cube_mm / 2), full.net(x))
        torch.testing.assert_close(
            latent_of(full, x, real=False), torch.relu(nets.features(x, None, 0)), rtol=0, atol=0
        )
    assert (z >= 0).all()
    assert not torch.allclose(z, latent_of(full, x, real=False))


def test_images_that_nothing_mapped_go_past_m(trained: Trained, tmp_path: Path) -> None:
    model = load_model(trained(tmp_path / "run", "synthetic-only", mapping_start="default"))
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    assert torch.equal(latent_of(model, x, real=True), latent_of(model, x, real=False))


@pytest.mark.parametrize(("arm", "width"), [("preview", 50), ("scratch", 23), ("nearest", 8)])
def test_every_method_has_one(trained: Trained, tmp_path: Path, arm: str, width: int) -> None:
    model = load_model(trained(tmp_path / "run", arm))
    crops = np.ones((3, model.input_px, model.input_px), np.float32)
    crops[1:, 8:20, 8:20] = 0.1
    z = latents(model, crops, real=True, batch=2)
    assert z.shape == (3, width)
    np.testing.assert_allclose(z, latents(model, crops, real=False), atol=1e-5)
    np.testing.assert_allclose(z[1], z[2], atol=1e-5)
    assert not np.allclose(z[0], z[1])


def test_rows_know_their_twins(real: Recording, twins: Recording) -> None:
    rows = twinned_rows(real, twins)
    assert rows.tolist() == [*range(12), *[-1] * 20]


def test_pairs_show_the_same_hand(full: PoseModel, real: Recording, twins: Recording) -> None:
    pairs = twin_pairs(full, real, twins, np.arange(32), count=50, seed=0)
    assert sorted(pairs.row.tolist()) == list(range(12)), "one camera of each twinned frame"
    assert len(set(pairs.view.tolist())) > 1
    hand, made = ((crops < 1).reshape(12, -1).astype(float) for crops in (pairs.real, pairs.twin))
    shared = hand @ made.T
    over_union = shared / (hand.sum(axis=1)[:, None] + made.sum(axis=1) - shared)
    # A tenth of the captured hand's pixels are holes, and 32 px have coarse edges; no other twin fits as well.
    assert np.diagonal(over_union).min() > 0.7
    assert (over_union.argmax(axis=1) == np.arange(12)).all()
    few = twin_pairs(full, real, twins, np.arange(32), count=5, seed=1)
    assert (few.real.shape, len(few.row)) == ((5, 32, 32), 5)
    assert len(twin_pairs(full, real, twins, np.arange(12, 32), count=5, seed=1).row) == 0


def test_a_hand_that_was_missed_is_no_pair(
    full: PoseModel, toy: SimpleNamespace, real: Recording, twins: Recording, tmp_path: Path
) -> None:
    """Such crops are not compared in training either."""
    one = toy.resident(1, 4, scale=1.15, located_mm=8.0)
    one.center[:3] += 200.0
    captured = open_recording(toy.write(tmp_path / "real.zarr", one))
    made = toy.resident(2, 4, scale=1.15, joints=one.joints.astype(np.float64), twin=one.frame_id)
    theirs = open_recording(toy.write(tmp_path / "twins.zarr", made, twins_of=captured.uuid))
    assert twin_pairs(full, captured, theirs, np.arange(4), count=9, seed=0).row.tolist() == [3]
    with pytest.raises(HandloomError, match="belong to another recording"):
        twinned_rows(captured, twins)


def test_distances_compare_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 16)).astype(np.float32)
    near = z + 0.1 * rng.normal(size=z.shape).astype(np.float32)
    found, larger = pair_distances(z, near), pair_distances(50 * z, 50 * near)
    np.testing.assert_allclose(found.corresponding, larger.corresponding, rtol=1e-4)
    assert larger.scale == pytest.approx(50 * found.scale, rel=1e-4)
    # |n(0, 0.1)| over |n(0, 1) - n(0, 1)|
    assert found.corresponding.mean() == pytest.approx(0.1 / np.sqrt(2), rel=0.05)
    assert found.nearest == 1
    apart = pair_distances(z, rng.normal(size=z.shape).astype(np.float32))
    assert apart.corresponding.mean() == pytest.approx(1, abs=0.03)
    assert apart.nearest < 0.05
    assert (pair_distances(z * 0, z * 0).corresponding == 0).all()
