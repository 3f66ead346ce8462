from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from handloom.learn import crossing
from handloom.learn import crossing_losses as losses
from handloom.learn.crossing_batches import Pool, Source, whole
from handloom.learn.crossing_nets import POSE_UNIT_MM, CrossingNets, Layer
from handloom.learn.crossing_recipe import ARMS, CrossingConfig
from handloom.learn.train import Learner
from handloom.stores.errors import HandloomError

from tiny_crossing import MakeData, learner, tiny, trained, weights


def changed(before: Mapping[str, Tensor], nets: CrossingNets) -> set[str]:
    """The networks of which a weight differs."""
    return {name.split(".")[0] for name, p in nets.named_parameters() if not torch.equal(p, before[name])}


# --- recipes ---


def test_the_papers_lengths_are_its_epochs() -> None:
    config = crossing.preset("paper", "paper")
    assert isinstance(config, CrossingConfig)
    # 200 epochs in batches of 200, 1001 in batches of 100, 20 + 80 in batches of 200, of 72,757 frames.
    assert config.stages == (("vae", 72_757), ("gan", 728_297), ("align", 7_275), ("joint", 29_102))
    assert (config.vae_rate, config.gan_rate, config.align_rate, config.joint_rate) == (3e-4, 3e-4, 0.01, 1e-3)
    assert (config.beta1, config.latent_noise, config.cube_mm, config.input_px) == (0.5, 0.05, 250, 128)
    assert (config.batch, config.gan_batch, config.vae_batch, config.latent, config.hidden) == (
        200,
        100,
        200,
        20,
        40,
    )
    assert (config.generator_loss, config.noise, config.normalisation) == ("feature-matching", "convex", "cube")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_says_what_it_needs(arm: str) -> None:
    needs = tiny(arm).needs
    assert needs.synth == (arm != "real-only" and not arm.startswith("paper"))
    assert needs.real == (arm != "synthetic-only")
    assert needs.labels == (not needs.synth)
    assert not needs.twins
    assert not needs.pairs


def test_baselines_train_pos_as_long_as_the_method_does() -> None:
    assert tiny("scratch").stages == (("vae", 3), ("pose", 5))
    assert tiny("gan-pretrained").stages == (("vae", 3), ("gan", 2), ("pose", 5))


@pytest.mark.parametrize(
    ("arm", "overrides", "what"),
    [
        ("fulll", {}, "Crossing Nets have no arm"),
        ("full", {"input_px": 48}, "is not valid"),
        ("full", {"joint_step": 3}, "Unknown key"),
        ("full", {"noise": "white"}, "is not valid"),
    ],
)
def test_a_wrong_recipe_is_named(arm: str, overrides: dict[str, Any], what: str) -> None:
    with pytest.raises(HandloomError, match=what):
        crossing.preset("quick", arm, **overrides)


# --- what each stage and arm trains ---


TRAINED = {
    "vae": {"vae"},
    "gan": {"trunk", "gan", "gen"},
    "align": {"ali", "pos", "smo"},
    "joint": {"trunk", "gan", "pos", "smo", "ali", "gen"},
    "pose": {"trunk", "pos"},
}


@pytest.mark.parametrize("arm", ARMS)
def test_each_stage_trains_its_networks_and_no_other(arm: str, toy_data: MakeData) -> None:
    run = learner(tiny(arm), toy_data)
    index, left_out = 0, set() if ARMS[arm].smo else {"smo"}
    for stage, steps in run.config.stages:
        before = weights(run.nets)
        for _ in range(steps):
            terms = run.step(index, log=True)
            index += 1
            assert all(np.isfinite(float(value)) for value in terms.values())
        no_gan = {"gan"} if stage == "joint" and not ARMS[arm].gan else set()
        assert changed(before, run.nets) == TRAINED[stage] - left_out - no_gan
    assert index == run.total_steps


@pytest.mark.parametrize(
    ("stage", "arm", "followed"),
    [
        ("gan", "full", {"trunk", "gan", "gen"}),
        ("align", "full", {"trunk", "pos", "smo", "ali", "gen"}),
        ("joint", "full", {"trunk", "gan", "pos", "smo", "ali", "gen"}),
        ("joint", "paper", {"trunk", "gan", "pos", "smo", "ali", "gen"}),
        ("joint", "scratch", {"trunk", "pos"}),
    ],
)
def test_running_statistics_follow_each_stage_s_captured_images_and_no_generated_one(
    stage: str, arm: str, followed: set[str], toy_data: MakeData
) -> None:
    lengths = dict.fromkeys(("vae_steps", "gan_steps", "align_steps", "joint_steps"), 0) | {f"{stage}_steps": 1}
    run = learner(tiny(arm, **lengths), toy_data)
    images = {"gan": [run.seen], "align": [run.labelled], "joint": [run.labelled, run.unlabelled]}[stage]
    captured = torch.cat([pool.images(0) for pool in images if pool.batch])
    before = {name: buffer.clone() for name, buffer in run.nets.named_buffers()}
    layer = run.nets.trunk.layers[0]
    assert isinstance(layer, Layer)
    mean = 0.9 * layer.norm.mean + 0.1 * layer.inner(captured).detach().mean(dim=(0, 2, 3))
    run.step(0, log=False)
    moved = {name.split(".")[0] for name, now in run.nets.named_buffers() if not torch.equal(now, before[name])}
    assert moved == followed
    torch.testing.assert_close(layer.norm.mean, mean)


def test_rates_fall_at_the_end_of_the_vae_and_of_the_run_alone(toy_data: MakeData) -> None:
    lengths = dict.fromkeys(("vae_steps", "gan_steps", "align_steps", "joint_steps"), 4)
    rates = {"vae_rate": 1e-3, "gan_rate": 2e-3, "align_rate": 3e-3, "joint_rate": 4e-3}
    run = learner(tiny(cooldown=0.5, **lengths, **rates), toy_data)
    told = [float(run.step(index, log=False)["lr"]) * 1e3 for index in range(run.total_steps)]
    assert told == pytest.approx([1, 1, 1, 0.5] + [2] * 4 + [3] * 4 + [4, 4, 4, 2])


def test_every_stage_has_the_betas_of_the_paper(toy_data: MakeData) -> None:
    run = learner(tiny(), toy_data)
    for stage in ("vae", "gan", "align", "joint", "pose"):
        run.updates.enter(stage)  # type: ignore[arg-type]
        for optimizer in run.updates.optimizers.values():
            assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.999)]


def test_the_vae_starts_from_the_components_of_the_poses_it_will_see(toy_data: MakeData) -> None:
    vae = learner(tiny(), toy_data).nets.vae
    rows = vae.enter.weight.detach()
    assert torch.allclose(rows.norm(dim=1), torch.ones(40), atol=1e-4), "as many poses as there are hidden units"
    torch.testing.assert_close(rows @ rows.T, torch.eye(40), atol=1e-4, rtol=0)


def test_the_learner_is_what_the_loop_takes(toy_data: MakeData) -> None:
    run: Learner = learner(tiny(), toy_data)
    assert run.total_steps == 10


def by_hand(run: crossing.Learner, step: int, rate: float) -> CrossingNets:
    """Algorithm 1 for one step from the same weights, in the order of the spec and without any shortcut."""
    nets, config = copy.deepcopy(run.nets), run.config
    x_l, pose = run.labelled.labelled(step)
    x_u = run.unlabelled.images(step)
    with torch.no_grad():
        z_l = nets.shared(pose, run._latent_noise("labelled", step, run.labelled))
    z_r = losses.convex_combinations(z_l, run._key ^ 2, step, len(z_l))

    def critic_of(images: Tensor, heads: tuple[nn.Module, ...], track: bool) -> list[Any]:
        trunk = nets.trunk(images, track)
        return [head(trunk, track) for head in heads]

    def steps(modules: tuple[nn.Module, ...], loss: Tensor) -> None:
        parameters = [p for module in modules for p in module.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=rate, betas=(config.beta1, 0.999))
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.grad = gradient
        optimizer.step()

    n = len(x_l)
    x = torch.cat([x_l, x_u])
    fakes = nets.gen(nets.ali(torch.cat([z_l, z_r]), True), True)
    fixed = fakes.detach()
    trunk = nets.trunk(x, True)
    logits, _ = nets.gan(trunk, True)
    (fake_logits, _), phi_fake = critic_of(fixed, (nets.gan, nets.smo), False)
    phi_l = nets.smo(trunk[:n], True)
    bce = nn.functional.binary_cross_entropy_with_logits
    l_pos = ((nets.pos(trunk[:n], True) - z_l) ** 2).mean()
    l_smo = ((phi_fake[n:] - phi_l - (z_r - z_l)) ** 2 + (phi_fake[:n] - phi_l) ** 2).mean()
    l_gan = bce(logits, torch.ones_like(logits)) + bce(fake_logits, torch.zeros_like(fake_logits))
    steps((nets.trunk, nets.pos, nets.smo, nets.gan), l_pos + l_smo + l_gan)

    phi_l = nets.smo(nets.trunk(x)[:n]).detach()
    (_, features), phi_fake = critic_of(fakes, (nets.gan, nets.smo), False)
    target = nets.gan(nets.trunk(x))[1].detach()
    l_recons = torch.minimum((x_l - fakes[:n]) ** 2, torch.ones(())).mean()
    l_smo = ((phi_fake[n:] - phi_l - (z_r - z_l)) ** 2 + (phi_fake[:n] - phi_l) ** 2).mean()
    l_match = (target.mean(0) - features.mean(0)).abs().mean()
    steps((nets.ali, nets.gen), l_recons + l_smo + l_match)
    return nets


def test_a_joint_step_is_algorithm_one(toy_data: MakeData) -> None:
    run = learner(tiny(cooldown=0.0), toy_data)
    for index in range(7):
        run.step(index, log=False)
    assert run.unlabelled.batch == 8
    expected = by_hand(run, 0, run.config.joint_rate)
    run.step(7, log=False)
    ours, theirs = run.nets.state_dict(), expected.state_dict()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=2e-6, rtol=1e-4, msg=name)


def test_the_whole_loss_of_the_generator_has_the_slope_it_says(toy_data: MakeData) -> None:
    # L_G = recons + smo + matching through Gen and Ali, in float64, along one random direction.
    torch.manual_seed(3)
    nets = CrossingNets(input_px=32, joints=26, palm=0, channels=3).double().train()
    x_l, x = torch.rand(6, 1, 32, 32).double() * 2 - 1, torch.rand(9, 1, 32, 32).double()
    z_l, z_r = torch.randn(6, 23).double(), torch.randn(6, 23).double()
    captured = nets.gan(nets.trunk(x))[1].detach()
    phi_l = nets.smo(nets.trunk(x_l)).detach()

    def loss() -> Tensor:
        fakes = nets.depth_of(torch.cat([z_l, z_r]))
        trunk = nets.trunk(fakes)
        phi_self, phi_r = nets.smo(trunk).split(6)
        recons = losses.reconstruction(x_l, fakes[:6])
        smooth = losses.smoothness(phi_r, phi_l, phi_self, z_r, z_l)
        return recons + smooth + losses.feature_matching(captured, nets.gan(trunk)[1])

    parameters = [*nets.ali.parameters(), *nets.gen.parameters()]
    gradients = torch.autograd.grad(loss(), parameters)
    directions = [torch.randn_like(p) / 50 for p in parameters]
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))
    ends = []
    with torch.no_grad():
        for move in (1e-6, -2e-6):
            for p, d in zip(parameters, directions, strict=True):
                p += move * d
            ends.append(float(loss()))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3)


# --- data ---


def test_a_mixed_batch_keeps_its_shares(toy_data: MakeData) -> None:
    data = toy_data(8)
    assert data.synth is not None
    assert data.real is not None
    config = tiny()
    synth, real = data.synth.singles(), data.real.singles(data.labelled)

    def sizes(*sources: Source, batch: int = 10) -> list[int]:
        return [part.size for part in Pool.of(config, "x", sources, batch).parts]

    assert sizes(Source(data.synth, synth, 0.7), Source(data.real, real, 0.3)) == [7, 3]
    assert sizes(Source(data.synth, synth, 0.7), Source(data.real, real[:0], 0.3)) == [10]
    assert sizes(Source(data.synth, synth, 0.999), Source(data.real, real, 0.001)) == [9, 1]
    assert sizes(Source(data.synth, synth, 0.001), Source(data.real, real, 0.999)) == [1, 9]
    assert sizes() == []


def test_poses_are_those_of_the_images(toy_data: MakeData) -> None:
    run = learner(tiny(rotation_deg=60.0), toy_data)
    _, pose = run.labelled.labelled(5)
    alone = run.labelled.poses(5)
    # `poses` skips the image, and with it the crop's centre: about the palm both are the same.
    torch.testing.assert_close(run.nets.about_palm(pose)[0], run.nets.about_palm(alone)[0], atol=1e-4, rtol=0)
    # The toy hand is 190 mm long; its palm lies within the offsets of the crop's centre.
    assert float((pose * POSE_UNIT_MM).norm(dim=-1).max()) < 300
    assert float((pose[:, 0] * POSE_UNIT_MM).norm(dim=-1).mean()) < 60


def test_the_noise_of_training_is_that_of_the_spec(toy_data: MakeData) -> None:
    run = learner(tiny(), toy_data)
    noise = torch.cat([run._latent_noise("labelled", step, run.labelled) for step in range(160)])
    assert noise.shape == (1280, 20)
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    _, pose, z, z_r = run._labelled_batch(3)
    mean = run.nets.shared(pose)
    _, log_variance = run.nets.vae.encode(run.nets.about_palm(pose)[0])
    sampled = mean[:, :20] + (log_variance / 2).exp() * run._latent_noise("labelled", 3, run.labelled)
    torch.testing.assert_close(z[:, :20], sampled)
    torch.testing.assert_close(z[:, 20:], mean[:, 20:])
    prior = learner(tiny(noise="prior"), toy_data)
    drawn = torch.cat([prior._labelled_batch(step)[3] for step in range(40)])
    assert float(drawn[:, :20].std()) == pytest.approx(1, abs=0.05)
    _, _, z, z_r = prior._labelled_batch(3)
    assert torch.equal(z_r[:, 20:], z[:, 20:]), "the prior says nothing about the palm"
    assert z_r.shape == drawn[:8].shape


def test_frames_with_unknown_joints_are_left_out(toy_data: MakeData) -> None:
    data = toy_data(8, synth=False)
    assert data.real is not None
    joints = data.real.joints_mm.clone()
    joints[2, 7] = np.nan
    some = replace(data, real=replace(data.real, joints_mm=joints))
    assert some.real is not None
    assert set((whole(some.real, some.real.singles(some.labelled)) // 3).tolist()) == {0, 1, 3, 4, 5, 6, 7}
    joints[:, 7] = np.nan
    with pytest.raises(HandloomError, match="No labelled frame in use shows a whole pose"):
        crossing.Learner(tiny("paper"), some)


def test_a_latent_larger_than_the_pose_is_refused(toy_data: MakeData) -> None:
    with pytest.raises(HandloomError, match="larger than the pose itself"):
        learner(tiny(latent=79), toy_data)


@pytest.mark.parametrize(
    "overrides",
    [{"generator_loss": "non-saturating"}, {"noise": "prior"}, {"normalisation": "min-max"}],
)
def test_options_change_the_run(overrides: dict[str, Any], toy_data: MakeData) -> None:
    data = toy_data(8)
    usual, other = trained(tiny(), data), trained(tiny(**overrides), data)
    assert not torch.equal(usual["gen.leave.weight"], other["gen.leave.weight"])


def test_a_run_without_labels_learns_from_synthetic_poses(toy_data: MakeData) -> None:
    run = learner(tiny("full"), toy_data, n=0)
    assert [part.size for part in run.labelled.parts] == [8]
    assert run.unlabelled.batch == 8
    for index in range(run.total_steps):
        terms = run.step(index, log=True)
    assert terms["gan/diversity"] > 0
    assert 0 <= terms["gan/accuracy_real"] <= 1


def test_pos_learns_the_poses_it_is_shown(toy_data: MakeData) -> None:
    config = tiny(
        "paper-scratch",
        vae_steps=400,
        joint_steps=250,
        joint_rate=3e-3,
        channels=8,
        batch=24,
        vae_batch=96,
        offset_located_mm=0.0,
        cooldown=0.5,
    )
    run = learner(config, toy_data, n=8)
    errors = [float(run.step(index, log=True).get("train/mean_mm", 0)) for index in range(run.total_steps)]
    assert errors[-1] < 0.3 * errors[400]
