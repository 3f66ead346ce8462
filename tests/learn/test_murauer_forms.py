"""Options of MURAUER change what they say and nothing else: the released form, domains, cameras, unlabelled shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from handloom.learn import murauer
from handloom.learn.batches import label
from handloom.learn.data import TrainingData, load_training_data
from handloom.learn.murauer_batches import REAL
from handloom.learn.murauer_nets import Architecture

MakeData = Callable[..., TrainingData]
TINY = Architecture(features="plain", stem=4, channels=(8,), mid=(), feature_width=16, view_channels=(8, 4))


def config_of(arm: str = "full", **overrides: Any) -> murauer.MurauerConfig:
    values: dict[str, Any] = {
        "input_px": 32,
        "architecture": TINY,
        "batch": 16,
        "pretrain_steps": 0,
        "joint_steps": 4,
        "mapping_start": "default",
    }
    config = murauer.preset("quick", arm, **(values | overrides))
    assert isinstance(config, murauer.MurauerConfig)
    return config


def trained(config: murauer.MurauerConfig, data: TrainingData, steps: int = 3) -> murauer.Learner:
    learner = murauer.Learner(config, data)
    learner.nets.train()
    for index in range(steps):
        learner.step(index, log=False)
    return learner


# --- the released form; its blocks, losses and sub-batches are tested beside the networks and the steps ---


def test_released_labels_are_turned_as_pixels_and_images_are_the_same(toy_data: MakeData) -> None:
    data = toy_data(0, real=False)
    made = {
        parity: murauer.Learner(
            config_of("synthetic-only", pretrain_steps=4, joint_steps=0, parity=parity), data
        ).batches
        for parity in ("paper", "released")
    }
    paper, released = (made[parity].pretraining(2) for parity in ("paper", "released"))
    assert torch.equal(paper.images.image, released.images.image)
    stream = made["released"]._pretraining
    assert stream is not None
    draw = stream.draw(2)
    expected = label(stream.bank, draw.items[:, 0], draw.geometry, paper.images, cube_mm=300.0, parity=True)
    assert torch.equal(released.joints, expected.joints)
    apart_mm = (released.joints - paper.joints).norm(dim=-1) * 150
    assert float(apart_mm.max()) > 1, "off the optical axis a turn of pixels is not rigid"
    assert float(apart_mm.mean()) < 6


def test_without_a_turn_the_released_labels_are_the_papers(toy_data: MakeData) -> None:
    data = toy_data(0, real=False)
    given = {"pretrain_steps": 4, "joint_steps": 0, "rotation_deg": 0.0}
    paper, released = (
        murauer.Learner(config_of("synthetic-only", parity=parity, **given), data).batches.pretraining(1)
        for parity in ("paper", "released")
    )
    torch.testing.assert_close(paper.joints, released.joints, atol=1e-5, rtol=0)


def test_released_sub_batches_are_21_and_11(toy_data: MakeData) -> None:
    made = murauer.Learner(config_of(batch=64, parity="released"), toy_data(8)).batches.sizes
    assert made == {
        "labelled": 21,
        "twins": 21,
        "synth": 21,
        "view_real": 11,
        "view_synth": 11,
        "match_real": 11,
        "match_synth": 11,
    }


# --- running statistics by domain ---


def statistics(learner: murauer.Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.nets.named_buffers()}


def test_statistics_by_domain_change_inference_and_not_training(toy_data: MakeData) -> None:
    data = toy_data(5)
    shared, domain = (trained(config_of(batch_norm=kind), data) for kind in ("shared", "domain"))
    for (name, one), two in zip(shared.nets.named_parameters(), domain.nets.parameters(), strict=True):
        assert torch.equal(one, two), name
    for name, value in statistics(domain).items():
        assert value.shape[0] == 2
        assert statistics(shared)[name].shape[0] == 1
        if name.startswith("features"):
            assert not torch.allclose(value[0], value[1]), "both domains came by"
    x = data.real.crops.new_ones(2, 1, 32, 32).float()  # type: ignore[union-attr]
    x[:, :, 8:24, 8:24] = 0.2
    with torch.no_grad():
        one, two = (learner.pose_net().eval()(x) for learner in (shared, domain))
        assert not torch.allclose(one, two, atol=1e-2)
        # Inference on real depth goes by the real domain's statistics, the second.
        by_hand = domain.nets.pose(domain.nets.mapping(domain.nets.features(x, None, 1))) * 150
    torch.testing.assert_close(two, by_hand)


@pytest.mark.parametrize("spoiled", ["synth", "real"])
def test_the_statistics_of_a_domain_are_its_own(spoiled: str, toy_data: MakeData) -> None:
    """One step from equal weights, with other images of one domain: the other's statistics are the same bits."""
    data = toy_data(0)
    bank = getattr(data, spoiled)
    other = replace(data, **{spoiled: replace(bank, crops=bank.crops.flip(-1))})
    one, two = (statistics(trained(config_of(batch_norm="domain"), given, steps=1)) for given in (data, other))
    changed, kept = (0, 1) if spoiled == "synth" else (1, 0)
    names = [name for name in one if name.startswith("features")]
    assert names
    assert all(torch.equal(one[name][kept], two[name][kept]) for name in names)
    assert not all(torch.equal(one[name][changed], two[name][changed]) for name in names)
    both = [statistics(trained(config_of(batch_norm="shared"), given, steps=1))[names[0]] for given in (data, other)]
    assert not torch.equal(*both)


# --- the target camera ---


def test_the_decoder_is_told_the_target_camera_relative_to_the_input_camera(toy_data: MakeData) -> None:
    learner = murauer.Learner(config_of("+view-prediction", batch=64), toy_data(0))
    batch = learner.batches.joint(0)
    assert batch.views is not None
    _, condition = batch.views
    items = torch.cat([learner.batches.streams[name].draw(0).items for name in ("view_real", "view_synth")])
    cameras = [tuple(pair) for pair in (items % 3).tolist()]
    told = {pair: condition[i, 3:] for i, pair in enumerate(cameras)}
    assert len(told) == 6, "every ordered pair of three cameras"
    for i, pair in enumerate(cameras):
        assert torch.equal(condition[i, 3:], told[pair])
    # On a ring each camera's neighbour is 120 degrees on: what is told is the step, not the place.
    steps = {pair: (pair[1] - pair[0]) % 3 for pair in told}
    for one in told:
        for other in told:
            same = torch.allclose(told[one], told[other], atol=1e-4)
            assert same == (steps[one] == steps[other])


def test_of_one_pair_of_cameras_only_the_place_is_told(toy_data: MakeData) -> None:
    learner = murauer.Learner(config_of("+view-prediction", view_pair=(0, 2)), toy_data(0))
    batch = learner.batches.joint(0)
    assert batch.views is not None
    assert batch.views[1].shape == (8, 3)
    assert learner.nets.view.convs[0].in_channels == 16 + 3


# --- how much of the unlabelled frames ---


def test_a_share_of_the_unlabelled_frames_is_a_part_of_a_larger_one(recordings: SimpleNamespace) -> None:
    shares, chosen = (0.0, 0.2, 0.5, 1.0), []
    for share in shares:
        data = load_training_data(
            config_of(labels=4, unlabelled_share=share),
            synth=[recordings.synth, recordings.twins],
            real=recordings.real,
            device=torch.device("cpu"),
        )
        labelled = set(data.labelled.tolist())
        assert labelled <= set(data.unlabelled.tolist())
        chosen.append(set(data.unlabelled.tolist()))
        streams = murauer.Learner(config_of(labels=4, unlabelled_share=share), data).batches.streams
        for name, stream in streams.items():
            frames = set((stream.items // 3).flatten().tolist())
            if name in REAL:
                assert frames == (labelled if name == "labelled" else chosen[-1])
            else:
                assert frames == set(range(48)), "synthetic frames are all used"
    assert chosen[0] == labelled
    assert chosen[0] <= chosen[1] < chosen[2] < chosen[3] == set(range(24))


def test_the_share_changes_unlabelled_draws_alone(toy_data: MakeData) -> None:
    data = toy_data(5)
    fewer = replace(data, unlabelled=torch.from_numpy(np.union1d(np.arange(0, 32, 3), np.arange(5))))
    one, two = (murauer.Learner(config_of(noise_mm=0.0), given).batches.joint(1) for given in (data, fewer))
    for name, images in one.images.items():
        assert torch.equal(images, two.images[name]) == (name not in ("view_real", "match_real")), name
