from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from handloom.learn import crossing, crossing_health
from handloom.learn import crossing_losses as losses
from handloom.learn.crossing_health import COLLAPSED, SHEETS, Played, diversity, epochs_shown, health
from handloom.learn.crossing_recipe import CrossingConfig
from handloom.learn.model import load_model, read_checkpoint
from handloom.learn.train import train

import tiny_crossing
from tiny_crossing import MakeData, learner

STAGES = {"vae_steps": 1, "gan_steps": 2, "align_steps": 2, "joint_steps": 2}


def tiny(arm: str = "full", **overrides: Any) -> CrossingConfig:
    return tiny_crossing.tiny(arm, **(STAGES | overrides))


# --- what is watched ---


def test_diversity_is_the_mean_distance_of_all_pairs() -> None:
    images = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    pairs = [(images[i] - images[j]).abs().mean() for i in range(7) for j in range(7) if i != j]
    torch.testing.assert_close(diversity(images), torch.stack(pairs).mean())
    assert float(diversity(images[:1])) == 0
    assert float(diversity(images[:1].expand(9, 1, 8, 8))) == 0


def test_a_generator_that_repeats_itself_is_called_collapsed() -> None:
    draw = torch.Generator().manual_seed(1)
    captured = torch.rand(12, 1, 8, 8, generator=draw)
    one = torch.rand(1, 1, 8, 8, generator=draw)
    found = health(Played(captured, one + 0.02 * torch.rand(12, 1, 8, 8, generator=draw)))
    assert float(found["gan/diversity"]) < 0.05 < COLLAPSED
    assert float(found["gan/collapsed"]) == 1
    other = health(Played(captured, torch.rand(12, 1, 8, 8, generator=draw)))
    assert float(other["gan/diversity"]) == pytest.approx(1, abs=0.1)
    assert float(other["gan/collapsed"]) == 0


def test_both_sides_of_the_discriminator_are_counted_apart() -> None:
    images = torch.rand(4, 1, 8, 8)
    features, made = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    found = health(Played(images, images, torch.tensor([1.0, 2, 3, -1]), torch.tensor([1.0, -1, 2, 3]), features, made))
    assert float(found["gan/accuracy_real"]) == 0.75
    assert float(found["gan/accuracy_generated"]) == 0.25
    assert float(found["gan/feature_matching"]) == pytest.approx((2 + 2.5) / 2)


def test_every_log_line_of_a_stage_tells_how_its_game_stands(toy_data: MakeData) -> None:
    run = learner(tiny(), toy_data)
    lines = [run.step(index, log=True) for index in range(run.total_steps)]
    game = {"gan/accuracy_real", "gan/accuracy_generated", "gan/feature_matching", "gan/diversity", "gan/collapsed"}
    assert not game & lines[0].keys()
    for line in (*lines[1:3], *lines[5:]):
        assert game <= line.keys()
    assert {"gan/diversity", "space/reconstruction"} <= lines[3].keys()
    for line in lines[3:]:
        assert 0 < float(line["space/reconstruction"]) < losses.CLIP
    quiet = learner(tiny(), toy_data)
    assert not [name for index in range(7) for name in quiet.step(index, log=False) if name.startswith("gan/")]


@pytest.mark.parametrize("arm", ["full", "synthetic-only"])
def test_the_shared_space_is_judged_on_captured_frames_where_there_are_any(arm: str, toy_data: MakeData) -> None:
    run = learner(tiny(arm, vae_steps=0, gan_steps=0, align_steps=0, joint_steps=1), toy_data)
    synthetic = [part.size for part in run.labelled.parts if part.bank is run.data.synth]
    images = run.labelled.images(0)
    if arm == "full":
        assert synthetic == [4]
        images = torch.cat([images[4:], run.unlabelled.images(0)])
    said = run.step(0, log=True)["space/reconstruction"]
    _, generated = crossing_health.through_the_space(run.nets, images)
    torch.testing.assert_close(said, losses.reconstruction(images, generated))


def test_to_look_changes_nothing(toy_data: MakeData) -> None:
    def trained(log: bool) -> dict[str, Tensor]:
        run = learner(tiny(), toy_data)
        for index in range(run.total_steps):
            run.step(index, log=log)
            if log:
                run.sheets(index + 1)
        return run.nets.state_dict()

    looked, not_looked = trained(True), trained(False)
    assert all(torch.equal(value, not_looked[name]) for name, value in looked.items())


# --- pictures ---


def test_pictures_are_made_every_epoch_and_are_bounded() -> None:
    assert epochs_shown(10, 4) == {4, 8, 10}
    assert epochs_shown(8, 4) == {4, 8}
    assert epochs_shown(3, 100) == {3}
    paper = epochs_shown(728_297, 728)
    assert len(paper) <= SHEETS
    assert 728_297 in paper
    gaps = np.diff(sorted(paper))
    assert gaps[:-1].max() == gaps[:-1].min() == 32 * 728


def test_a_run_leaves_pictures_of_each_stage_that_has_a_generator(tmp_path: Path, recordings: Any) -> None:
    run = tmp_path / "run"
    given = {"synth": [recordings.synth], "real": recordings.real, "run_dir": run}
    train(tiny(labels=5), **given)
    made = sorted((run / "samples").iterdir())
    assert [path.name for path in made] == ["align-0001.png", "gan-0001.png", "joint-0001.png"]
    pictures = [cv2.imread(str(path)) for path in made]
    row, wide = crossing_health._CELL_PX + 18, crossing_health.SHOWN * 66 + 2
    assert [picture.shape for picture in pictures] == [(5 * row, wide, 3), (4 * row, wide, 3), (5 * row, wide, 3)]
    # The captured frames are the same in each, and show a hand: bright on dark.
    first, second = pictures[0][2 * row + 16 : 3 * row], pictures[2][2 * row + 16 : 3 * row]
    assert np.array_equal(first, second)
    assert first.max() > 150
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["gan/collapsed"] in (0.0, 1.0)
    train(tiny("paper-scratch", labels=5), overwrite=True, **(given | {"synth": []}))
    assert not list((run / "samples").iterdir()), "those of the run that was replaced are gone"


# --- options that are off in the paper ---


def test_the_slope_penalty_is_half_the_squared_slope_of_the_discriminator(toy_data: MakeData) -> None:
    run = learner(tiny(), toy_data)
    nets = run.nets.double().eval()
    images = (torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1).double().requires_grad_()
    penalty = losses.slope_penalty(nets.gan(nets.trunk(images))[0], images)
    step = 1e-5 * torch.eye(1024).double().reshape(1024, 1, 32, 32)
    squared = 0.0
    with torch.no_grad():
        for image in images.split(1):
            up, down = (nets.gan(nets.trunk(image + sign * step))[0] for sign in (1, -1))
            squared += float((((up - down) / 2e-5) ** 2).sum()) / 3
    assert float(penalty.detach()) == pytest.approx(squared / 2, rel=1e-4)


def test_the_penalty_flattens_the_discriminator(toy_data: MakeData) -> None:
    def slope(r1: float) -> float:
        config = tiny(r1=r1, vae_steps=0, gan_steps=25, gan_rate=3e-3)
        run = learner(config, toy_data)
        for index in range(25):
            terms = run.step(index, log=False)
            assert ("loss/r1" in terms) == bool(r1)
        images = run.seen.images(0).requires_grad_()
        return float(losses.slope_penalty(run.nets.gan(run.nets.trunk(images))[0], images).detach())

    assert slope(10.0) < 0.5 * slope(0.0)


@pytest.mark.parametrize("first", [0, 2])
def test_the_generator_has_a_rate_of_its_own(first: int, toy_data: MakeData) -> None:
    """Adam's first step is as long as its rate: a tenth of the rate is a tenth of the way, and no other weight's."""
    moved = {}
    for rate in (1.0, 0.1):
        lengths = {"vae_steps": 0, "gan_steps": 1 if not first else 0, "align_steps": 0, "joint_steps": 1}
        run = learner(tiny(generator_rate=rate, cooldown=0.0, **lengths), toy_data)
        before = {name: value.detach().clone() for name, value in run.nets.named_parameters()}
        run.step(0, log=False)
        moved[rate] = {name: value.detach() - before[name] for name, value in run.nets.named_parameters()}
    for name, way in moved[1.0].items():
        part = 0.1 if name.split(".")[0] in ("ali", "gen") else 1.0
        torch.testing.assert_close(moved[0.1][name], way * part, atol=2e-7, rtol=0.02, msg=name)


def test_the_average_generator_follows_and_stands_in_outside_training(toy_data: MakeData) -> None:
    run = learner(tiny(generator_average=0.5, gan_rate=1e-2), toy_data)
    assert run.nets.average is not None
    expected = run.nets.gen.leave.weight.detach().clone()
    plain = learner(tiny(gan_rate=1e-2), toy_data)
    for index in range(run.total_steps):
        run.step(index, log=False)
        plain.step(index, log=False)
        if index in (1, 2, 3, 4, 5, 6):
            age = index - 1
            decay = min(0.5, (1 + age) / (10 + age))
            expected = decay * expected + (1 - decay) * run.nets.gen.leave.weight.detach()
    torch.testing.assert_close(run.nets.average[1].leave.weight, expected)
    torch.testing.assert_close(run.nets.gen.leave.weight, plain.nets.gen.leave.weight)
    z = torch.randn(3, 23, generator=torch.Generator().manual_seed(4))
    run.nets.eval()
    ali, gen = run.nets.average
    torch.testing.assert_close(run.nets.depth_of(z), gen(ali(z)))
    assert not torch.allclose(run.nets.depth_of(z), run.nets.gen(run.nets.ali(z)))


def test_all_three_together_go_through_a_run_and_back(tmp_path: Path, recordings: Any) -> None:
    options = {"r1": 1.0, "generator_rate": 0.5, "generator_average": 0.9, "labels": 5, "save_every": 1}
    given = {"synth": [recordings.synth], "real": recordings.real}
    train(tiny(**options), run_dir=tmp_path / "straight", **given)

    class Killed(Exception):
        pass

    def kill(done: int, total: int, metrics: object) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        train(tiny(**options), run_dir=tmp_path / "cut", progress=kill, **given)
    train(tiny(**options), run_dir=tmp_path / "cut", resume=True, **given)
    one, two = (read_checkpoint(tmp_path / name)["weights"] for name in ("straight", "cut"))
    assert any(name.startswith("average.1.") for name in one)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert load_model(tmp_path / "cut").description["architecture"]["averaged"] is True


def test_the_paper_has_none_of_them() -> None:
    config = crossing.preset("paper", "paper")
    assert isinstance(config, CrossingConfig)
    assert (config.r1, config.generator_rate, config.generator_average) == (0, 1, 0)
