"""Whole steps of Crossing Nets in float64, stage by stage, against the losses of the spec in numpy.

What a step lowers is taken from its guard and its optimisers, nothing is updated. The sums L_D and L_G are made a
second time here from the networks' outputs, in numpy; their slopes along random directions of the weights, with
everything held fixed that the stage does not train, are the gradients that the optimisers get.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handloom.learn import crossing
from handloom.learn.crossing_batches import Pool
from handloom.learn.crossing_nets import POSE_UNIT_MM, CrossingNets
from handloom.learn.crossing_recipe import CrossingConfig
from handloom.learn.data import TrainingData

MakeData = Callable[..., TrainingData]
F64 = NDArray[np.float64]
NO_STEPS = {"vae_steps": 0, "gan_steps": 0, "align_steps": 0, "joint_steps": 0}


def config_of(arm: str, stage: str, **overrides: Any) -> CrossingConfig:
    """A configuration that begins with one stage."""
    values: dict[str, Any] = {"input_px": 32, "channels": 3, "batch": 6, "gan_batch": 5, "vae_batch": 7}
    steps = NO_STEPS | {f"{'joint' if stage == 'pose' else stage}_steps": 3}
    config = crossing.preset("quick", arm, **(values | steps | overrides))
    assert isinstance(config, CrossingConfig)
    return config


# --- the losses of the spec, in numpy ---


def bce(logits: Tensor, says: float) -> float:
    p = 1 / (1 + np.exp(-logits.numpy()))
    return float(-np.mean(says * np.log(p) + (1 - says) * np.log(1 - p)))


def recons(x: Tensor, made: Tensor) -> float:
    return float(np.minimum((x.numpy() - made.numpy()) ** 2, 1).mean())


def smo(phi_r: Tensor, phi_l: Tensor, phi_self: Tensor, z_r: Tensor, z_l: Tensor) -> float:
    r, left, own, noise, labelled = (part.numpy() for part in (phi_r, phi_l, phi_self, z_r, z_l))
    return float(np.mean((r - left - (noise - labelled)) ** 2 + (own - left) ** 2))


def matching(captured: Tensor, made: Tensor) -> float:
    return float(np.abs(captured.numpy().mean(axis=0) - made.numpy().mean(axis=0)).mean())


# --- what a step did ---


@dataclass
class Update:
    """One step of an optimiser that was not taken."""

    terms: dict[str, float]
    given: dict[str, Tensor] = field(default_factory=dict)
    """The gradient that it got, by weight."""

    @property
    def networks(self) -> set[str]:
        return {name.split(".")[0] for name, slope in self.given.items() if bool(slope.any())}


@pytest.fixture
def first_step(toy_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, list[Update]]]:
    """A learner in float64 and what its first step would have done."""

    def doubled(made: Any) -> Any:
        return tuple(part.double() for part in made) if isinstance(made, tuple) else made.double()

    for name in ("images", "labelled", "poses"):
        original = getattr(Pool, name)
        monkeypatch.setattr(Pool, name, lambda self, step, original=original: doubled(original(self, step)))
    uniform = crossing.uniform
    monkeypatch.setattr(crossing, "uniform", lambda *given: uniform(*given).double())

    def run(config: CrossingConfig, n: int = 8) -> tuple[Any, list[Update]]:
        learner: Any = crossing.Learner(config, toy_data(n, synth=config.needs.synth, real=config.needs.real))
        learner.nets.double().train()
        # A fresh generator's bias is nought: where all its ReLUs are, the error against background is 1, on the clip.
        rng = np.random.default_rng(0)
        with torch.no_grad():
            for p in learner.nets.parameters():
                p += 0.02 * torch.from_numpy(rng.normal(size=p.shape))
        names = {id(p): name for name, p in learner.nets.named_parameters()}
        updates: list[Update] = []

        def check(*given: Any) -> None:
            updates.append(
                Update({name.removesuffix(" loss"): float(term.detach()) for name, term in given[-1].items()})
            )

        def keep(optimizer: torch.optim.Adam, *given: Any, **options: Any) -> None:
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            updates[-1].given = {names[id(p)]: p.grad.clone() for p in trained if p.grad is not None}

        monkeypatch.setattr(learner.guard, "check", check)
        monkeypatch.setattr(learner.guard, "update", keep)
        learner.step(0, log=True)
        return learner, updates

    return run


def along(
    nets: CrossingNets, update: Update, network: str, loss: Callable[[], float], seed: int
) -> tuple[float, float]:
    """Along one random direction of a network's weights: what the gradient says and what the loss does."""
    rng = np.random.default_rng(seed)
    parameters = {n: p for n, p in nets.named_parameters() if n.split(".")[0] == network}
    direction = {n: torch.from_numpy(rng.normal(size=p.shape)) for n, p in parameters.items()}
    length = float(torch.stack([d.square().sum() for d in direction.values()]).sum().sqrt())
    said = sum(float((update.given[n] * d).sum()) for n, d in direction.items() if n in update.given) / length
    ends, h = [], 1e-6
    with torch.no_grad():
        for move in (h, -2 * h, h):
            for n, p in parameters.items():
                p += move * direction[n] / length
            ends.append(loss())
    return said, (ends[0] - ends[1]) / (2 * h)


def check_slopes(
    nets: CrossingNets, update: Update, networks: set[str], terms: Callable[[], Mapping[str, float]]
) -> None:
    """The terms are those of the update, and their sum has its gradient in every network that it moves."""
    found = terms()
    assert set(update.terms) == set(found)
    for name, value in found.items():
        assert update.terms[name] == pytest.approx(value, rel=1e-9), name
    assert update.networks == networks
    for place, network in enumerate(sorted(networks)):
        said, is_so = along(nets, update, network, lambda: sum(terms().values()), place)
        assert said == pytest.approx(is_so, rel=1e-4, abs=1e-8), network
        assert abs(is_so) > 1e-7, f"{network}: a slope of nothing would prove nothing"


# --- stage by stage ---


def test_the_vae_lowers_divergence_and_half_the_squared_error(first_step: Any) -> None:
    run, (update,) = first_step(config_of("full", "vae"))
    nets = run.nets
    pose, _ = nets.about_palm(run.posed.poses(0))
    assert float(pose.unflatten(1, (-1, 3))[:, nets.palm].abs().max()) == 0
    noise = run._latent_noise("vae", 0, run.posed)
    assert float(noise.std()) == pytest.approx(0.05, rel=0.25)

    @torch.no_grad()
    def terms() -> dict[str, float]:
        mean, log_variance = nets.vae.encode(pose)
        decoded = nets.vae.decode(mean + (log_variance / 2).exp() * noise).numpy()
        m, s2 = mean.numpy(), np.exp(log_variance.numpy())
        kl = 0.5 * (m**2 + s2 - 1 - np.log(s2)).sum(axis=1)
        sse = 0.5 * ((decoded - pose.numpy()) ** 2).sum(axis=1)
        return {"VAE divergence": float(kl.mean()), "VAE squared error": float(sse.mean())}

    check_slopes(nets, update, {"vae"}, terms)


@pytest.mark.parametrize("generator_loss", ["feature-matching", "non-saturating"])
def test_the_depth_gan_plays_cross_entropy_against_feature_matching(first_step: Any, generator_loss: str) -> None:
    run, (critic, generator) = first_step(config_of("full", "gan", generator_loss=generator_loss))
    nets, captured = run.nets, run.seen.images(0)
    rows = run._numbers(0, run.seen)
    z = 2 * crossing.uniform(run._key ^ 1, rows, nets.dims) - 1
    assert z.shape == (5, 23)
    assert z.abs().max() < 1
    with torch.no_grad():
        fixed_fakes = nets.gen(z)
        fixed_features = nets.gan(nets.trunk(captured))[1]

    @torch.no_grad()
    def of_critic() -> dict[str, float]:
        real, made = (nets.gan(nets.trunk(images))[0] for images in (captured, fixed_fakes))
        return {"gan": bce(real, 1) + bce(made, 0)}

    @torch.no_grad()
    def of_generator() -> dict[str, float]:
        logits, features = nets.gan(nets.trunk(nets.gen(z)))
        lowered = matching(fixed_features, features) if generator_loss == "feature-matching" else bce(logits, 1)
        return {"generator": lowered}

    check_slopes(nets, critic, {"trunk", "gan"}, of_critic)
    check_slopes(nets, generator, {"gen"}, of_generator)


def test_alignment_trains_ali_by_reconstruction_and_the_heads_on_a_frozen_trunk(first_step: Any) -> None:
    run, (update,) = first_step(config_of("full", "align"))
    nets = run.nets
    x, _, z, z_r = run._labelled_batch(0)
    with torch.no_grad():
        fixed = nets.trunk(nets.depth_of(torch.cat([z, z_r])))

    @torch.no_grad()
    def terms() -> dict[str, float]:
        made = nets.depth_of(torch.cat([z, z_r]))[: len(x)]
        trunk = nets.trunk(x)
        phi_self, phi_r = nets.smo(fixed).split(len(x))
        return {
            "reconstruction": recons(x, made),
            "position": float(np.mean((nets.pos(trunk).numpy() - z.numpy()) ** 2)),
            "smoothness": smo(phi_r, nets.smo(trunk), phi_self, z_r, z),
        }

    check_slopes(nets, update, {"ali", "pos", "smo"}, terms)


@pytest.mark.parametrize(
    ("arm", "overrides"),
    [
        ("full", {}),
        ("paper", {}),
        ("no-smo", {}),
        ("no-gan", {}),
        ("real+synthetic", {}),
        ("full", {"noise": "prior"}),
        ("full", {"generator_loss": "non-saturating"}),
    ],
)
def test_a_joint_step_lowers_l_d_then_l_g(first_step: Any, arm: str, overrides: dict[str, Any]) -> None:
    run, (critic, generator) = first_step(config_of(arm, "joint", **overrides))
    nets, with_smo, with_gan = run.nets, run.arm.smo, run.arm.gan
    x, _, z, z_r = run._labelled_batch(0)
    n, captured = len(x), x
    if run.unlabelled.batch:
        captured = torch.cat([x, run.unlabelled.images(0)])
    assert (len(captured) == 2 * n) == (with_gan and arm != "real+synthetic")
    with torch.no_grad():
        fixed_fakes = nets.depth_of(torch.cat([z, z_r]))
        fixed_phi = nets.smo(nets.trunk(captured)[:n])
        fixed_features = nets.gan(nets.trunk(captured))[1]

    @torch.no_grad()
    def l_d() -> dict[str, float]:
        trunk, made = nets.trunk(captured), nets.trunk(fixed_fakes)
        terms = {"position": float(np.mean((nets.pos(trunk[:n]).numpy() - z.numpy()) ** 2))}
        if with_smo:
            phi_self, phi_r = nets.smo(made).split(n)
            terms["smoothness"] = smo(phi_r, nets.smo(trunk[:n]), phi_self, z_r, z)
        if with_gan:
            terms["gan"] = bce(nets.gan(trunk)[0], 1) + bce(nets.gan(made)[0], 0)
        return terms

    @torch.no_grad()
    def l_g() -> dict[str, float]:
        fakes = nets.depth_of(torch.cat([z, z_r]))
        made = nets.trunk(fakes)
        terms = {"reconstruction": recons(x, fakes[:n])}
        if with_smo:
            phi_self, phi_r = nets.smo(made).split(n)
            terms["smoothness"] = smo(phi_r, fixed_phi, phi_self, z_r, z)
        if with_gan:
            logits, features = nets.gan(made)
            matched = run.config.generator_loss == "feature-matching"
            terms["gan"] = matching(fixed_features, features) if matched else bce(logits, 1)
        return terms

    heads = {"trunk", "pos", *(["smo"] if with_smo else []), *(["gan"] if with_gan else [])}
    check_slopes(nets, critic, heads, l_d)
    check_slopes(nets, generator, {"ali", "gen"}, l_g)


def test_the_baselines_train_trunk_and_pos_by_the_latents(first_step: Any) -> None:
    run, (update,) = first_step(config_of("scratch", "pose"))
    nets = run.nets
    images, pose = run.labelled.labelled(0)
    with torch.no_grad():
        z = nets.shared(pose, run._latent_noise("labelled", 0, run.labelled))

    @torch.no_grad()
    def terms() -> dict[str, float]:
        return {"position": float(np.mean((nets.pos(nets.trunk(images)).numpy() - z.numpy()) ** 2))}

    check_slopes(nets, update, {"trunk", "pos"}, terms)


def test_the_latents_are_twenty_numbers_about_the_palm_and_the_palm_in_fifty_millimetres(first_step: Any) -> None:
    run, _ = first_step(config_of("full", "align"))
    nets = run.nets
    _, pose, z, _ = run._labelled_batch(0)
    about = (pose - pose[:, nets.palm][:, None]).flatten(1)
    w = {name: value.detach().numpy() for name, value in nets.vae.named_parameters()}
    hidden = np.maximum(about.numpy() @ w["enter.weight"].T + w["enter.bias"], 0)
    mean = hidden @ w["mean.weight"].T + w["mean.bias"]
    sigma = np.exp((hidden @ w["log_variance.weight"].T + w["log_variance.bias"]) / 2)
    noise = run._latent_noise("labelled", 0, run.labelled).numpy()
    np.testing.assert_allclose(z[:, :20].numpy(), mean + sigma * noise, rtol=1e-9, atol=1e-9)
    assert torch.equal(z[:, 20:], pose[:, nets.palm])
    assert float((pose[:, nets.palm] * POSE_UNIT_MM).norm(dim=1).max()) < 60, "the palm is near the crop's centre"
    decoded = np.where((o := z[:, :20].numpy() @ w["open.weight"].T + w["open.bias"]) > 0, o, 0.01 * o)
    relative = decoded @ w["leave.weight"].T + w["leave.bias"]
    expected = relative.reshape(len(pose), -1, 3) + z[:, None, 20:].numpy()
    np.testing.assert_allclose(nets.pose_of(z).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


# --- layer by layer ---


def test_the_papers_networks_layer_by_layer() -> None:
    nets = CrossingNets(input_px=128, joints=36, palm=32).eval()
    made: dict[str, list[tuple[int, ...]]] = {}
    hooks = []
    for name, layer in nets.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            place = made.setdefault(name.split(".")[0], [])
            hooks.append(
                layer.register_forward_hook(lambda _, __, out, place=place: place.append(tuple(out.shape[1:])))
            )
    with torch.no_grad():
        z = nets.shared(torch.zeros(2, 36, 3))
        trunk = nets.trunk(nets.depth_of(z))
        nets.gan(trunk)
        nets.pos(trunk)
        nets.smo(trunk)
        nets.pose_of(z)
    for hook in hooks:
        hook.remove()
    halves = [(32, 16, 16), (32, 8, 8), (32, 4, 4)]
    assert made == {
        "vae": [(40,), (20,), (20,), (40,), (108,)],
        "ali": [(23,)],
        "gen": [(512,), (32, 8, 8), (32, 16, 16), (32, 32, 32), (32, 64, 64), (1, 128, 128)],
        "trunk": [(32, 64, 64), (32, 32, 32)],
        "gan": [*halves, (1,)],
        "pos": [*halves, (23,), (23,)],
        "smo": [*halves, (512,), (23,)],
    }
    slopes = [nets.trunk.layers[0].slope, nets.gan.layers[0].slope, nets.pos.hidden.slope, nets.smo.hidden.slope]
    assert slopes == [0.2] * 4
    assert [layer.slope for layer in [nets.gen.enter, *nets.gen.layers]] == [0.0] * 5, "ReLU"
