"""Where unlabelled frames enter Crossing Nets, that they change the result, and what is left without them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from handloom.learn import crossing
from handloom.learn.data import TrainingData

from tiny_crossing import MakeData, data_for, learner, tiny, trained, weights


def other_unlabelled(data: TrainingData) -> TrainingData:
    """The same data with the images of unlabelled frames mirrored, and nothing else changed."""
    assert data.real is not None
    crops = data.real.crops.clone().unflatten(0, (-1, data.real.views))
    frames = data.unlabelled[~torch.isin(data.unlabelled, data.labelled)]
    crops[frames] = crops[frames].flip(-1)
    return replace(data, real=replace(data.real, crops=crops.flatten(0, 1)))


@pytest.mark.parametrize(("arm", "enter"), [("full", True), ("paper", True), ("real+synthetic", False)])
def test_unlabelled_images_change_the_result(arm: str, enter: bool, toy_data: MakeData) -> None:
    config = tiny(arm)
    data = data_for(config, toy_data)
    one, two = trained(config, data), trained(config, other_unlabelled(data))
    networks = {name.split(".")[0] for name in one if not torch.equal(one[name], two[name])}
    assert networks == ({"trunk", "gan", "gen", "ali", "pos", "smo"} if enter else set())


@pytest.mark.parametrize("stage", ["gan", "joint"])
@pytest.mark.parametrize("side", ["critic", "generator"])
def test_unlabelled_images_enter_both_sides_of_both_games(stage: str, side: str, toy_data: MakeData) -> None:
    """One step, from equal weights, with other unlabelled images: discriminator and generator both differ.

    The generator's difference is the feature matching's mean: with a discriminator that stays where it is
    (its rate is nought), only that reaches it.
    """
    config = tiny("paper", gan_steps=1, joint_steps=1, align_steps=0, vae_steps=0, cooldown=0.0)
    if stage == "joint":
        config = config.model_copy(update={"gan_steps": 0})
    data = toy_data(2, synth=False)
    made = []
    for given in (data, other_unlabelled(data)):
        run = crossing.Learner(config, given)
        run.nets.train()
        if side == "generator":
            update = run.updates._update

            def only(name: str, *rest: Any, update: Any = update) -> None:
                if name == "generator":
                    update(name, *rest)

            run.updates._update = only  # type: ignore[method-assign]
        run.step(0, log=False)
        made.append(weights(run.nets))
    watched = ("trunk.", "gan.") if side == "critic" else ("gen.",)
    for prefix in watched:
        assert any(not torch.equal(value, made[1][name]) for name, value in made[0].items() if name.startswith(prefix))


def test_a_labelled_frame_is_not_drawn_as_unlabelled(toy_data: MakeData) -> None:
    run = learner(tiny("paper"), toy_data, n=8)
    (part,) = run.unlabelled.parts
    assert set((part.crops // 3).tolist()) == set(range(8, 32))
    (seen,) = run.seen.parts
    assert set((seen.crops // 3).tolist()) == set(range(32)), "the depth GAN sees every frame"
    every = learner(tiny("paper"), toy_data, n=32)
    assert every.unlabelled.batch == 0, "with every frame labelled X is X_l"
    assert every.step(9, log=True)["loss/gan"] > 0


@pytest.mark.parametrize(("arm", "same_as"), [("full", "real+synthetic"), ("paper", "real-only")])
def test_without_unlabelled_frames_it_is_the_labelled_run(arm: str, same_as: str, toy_data: MakeData) -> None:
    """To the last bit, over all stages; with them it is another one."""
    labelled_run, run = tiny(same_as), tiny(arm)
    data = toy_data(6, synth=run.needs.synth)
    expected = trained(labelled_run, data)
    # What `unlabelled_share = 0` leaves: the labelled frames alone.
    found = trained(run, replace(data, unlabelled=data.labelled))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with_them = trained(run, data)
    differ = {name.split(".")[0] for name, value in with_them.items() if not torch.equal(found[name], value)}
    assert differ == {"trunk", "gan", "gen", "ali", "pos", "smo"}
