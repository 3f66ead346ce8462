"""Whole steps of MURAUER and of the preview arm in float64, against the paper's equations in numpy.

What a step lowers is taken from its guard and its optimisers, nothing is updated. The same numbers are made a second
time here: a forward pass of its own for each sub-batch, as the authors' program does it, then the equations in numpy.
Slopes along random directions of the weights, with everything held fixed that a gradient must stop at, are the
gradients that the optimisers get.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from handloom.learn import batches, murauer, preview
from handloom.learn.batches import Images, Labelled
from handloom.learn.data import TrainingData
from handloom.learn.murauer_batches import REAL, JointBatch
from handloom.learn.murauer_losses import Weights
from handloom.learn.murauer_nets import Architecture, Groups, MurauerNets

MakeData = Callable[..., TrainingData]
F64 = NDArray[np.float64]
RESIDUAL = Architecture(stem=3, channels=(4, 5), mid=(2, 3), blocks=2, feature_width=12, view_channels=(6, 4))
NETWORKS = ("features", "mapping", "pose", "view", "discriminator")
BALANCED = Weights(correspondence=3.0, view=0.05, matching=50.0)
"""With these every term pulls at m about as hard: with the paper's, l_m is a ten-thousandth and would prove nothing."""


def config_of(arm: str, **overrides: Any) -> murauer.MurauerConfig:
    values: dict[str, Any] = {
        "input_px": 32,
        "architecture": RESIDUAL,
        "batch": 16,
        "pretrain_steps": 0,
        "joint_steps": 4,
        "mapping_start": "default",
        "weights": BALANCED,
    }
    config = murauer.preset("quick", arm, **(values | overrides))
    assert isinstance(config, murauer.MurauerConfig)
    return config


def in_double(groups: Groups) -> Groups:
    return replace(groups, weight=groups.weight.double(), keep=groups.keep.double())


def double_labelled(part: Labelled) -> Labelled:
    images = Images(part.images.image.double(), part.images.center_mm.double())
    return Labelled(images, part.joints.double(), part.known)


def double_batch(batch: JointBatch) -> JointBatch:
    return JointBatch(
        images={name: images.double() for name, images in batch.images.items()},
        labelled={name: double_labelled(part) for name, part in batch.labelled.items()},
        paired=batch.paired,
        views=None if batch.views is None else tuple(part.double() for part in batch.views),  # type: ignore[arg-type]
    )


@dataclass
class Watched:
    """What a step computed and would have done with it."""

    learner: Any
    logged: dict[str, float] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    """Each unweighted term."""
    of_term: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """Its gradient by weight; those that it does not reach are missing."""
    given: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """The gradients that each optimiser got, by its name and by weight."""

    def networks(self, term: str) -> set[str]:
        """The networks that a term pulls at."""
        return {name.split(".")[0] for name, slope in self.of_term[term].items() if bool(slope.any())}


def watch(learner: Any, *, updating: Iterable[str] = ()) -> Watched:
    """Keep what a learner's steps compute, and every weight as it is but those of the optimisers named."""
    seen = Watched(learner)
    names = {id(p): name for name, p in learner.nets.named_parameters()}
    parameters = dict(learner.nets.named_parameters())
    update = learner.guard.update

    def check(*given: Any) -> None:
        for said, term in given[-1].items():
            name = said.removesuffix(" loss")
            if not said.endswith(" loss") or name in seen.terms:
                continue
            slopes = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
            seen.terms[name] = float(term.detach())
            seen.of_term[name] = {n: s for n, s in zip(parameters, slopes, strict=True) if s is not None}

    def keep(optimizer: torch.optim.Adam, *given: Any, name: str, **options: Any) -> None:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        seen.given[name] = {names[id(p)]: p.grad.clone() for p in trained if p.grad is not None}
        if name in updating:
            update(optimizer, *given, name=name, **options)

    learner.guard.check, learner.guard.update = check, keep
    return seen


def joint_step(config: murauer.MurauerConfig, data: TrainingData, *, updating: Iterable[str] = ()) -> Watched:
    """The first joint step of a learner in float64."""
    learner = murauer.Learner(config, data)
    learner.nets.double().train()
    updates = learner.updates
    updates.groups, updates.view_groups = in_double(updates.groups), in_double(updates.view_groups)
    single = learner.batches.joint
    learner.batches.joint = lambda step: double_batch(single(step))  # type: ignore[method-assign]
    seen = watch(learner, updating=updating)
    seen.logged = {name: float(value) for name, value in learner.step(0, log=True).items()}
    return seen


# --- the paper's equations, in numpy ---


def forward_passes(nets: MurauerNets, batch: JointBatch) -> dict[str, Tensor]:
    """Features of each sub-batch, from a forward pass of its own."""
    made = {}
    for name, images in batch.images.items():
        alone = in_double(Groups.of((len(images),), (name in REAL,), domains=1, device="cpu"))
        made[name] = nets.features(images, alone)
    return made


def squared_poses(nets: MurauerNets, z: Mapping[str, Tensor], batch: JointBatch) -> float:
    """(5), of all sub-batches with labels, over the number of known coordinates."""
    total, count = 0.0, 0
    for name, part in batch.labelled.items():
        y, estimate = part.joints.numpy(), nets.pose(z[name]).numpy()
        for k, j in np.argwhere(part.known.numpy()):
            total += float(((y[k, j] - estimate[k, j]) ** 2).sum())
            count += 3
    return total / count


def equations(
    config: murauer.MurauerConfig, nets: MurauerNets, batch: JointBatch, fixed: Mapping[str, Tensor]
) -> dict[str, float]:
    """The terms by the weights as they are; `fixed` are features that gradients stop at.

    `twins` is that of l_c alone: in l_p a twin trains f like any synthetic image.
    """
    half = 0.5 if config.parity == "paper" else 1.0
    with torch.no_grad():
        features = forward_passes(nets, batch)
        z = {n: torch.relu(nets.mapping(f) if n in REAL else f) for n, f in features.items()}
        terms = {"pose": squared_poses(nets, z, batch)} if batch.labelled else {}
        if batch.paired is not None:
            pairs = np.flatnonzero(batch.paired.numpy())
            real, twin = z["labelled"].numpy(), torch.relu(fixed["twins"]).numpy()
            terms["correspondence"] = float(np.mean([(twin[k] - real[k]) ** 2 for k in pairs]))
        if batch.views is not None:
            target, condition = batch.views
            parts = []
            for name, told in zip(("view_real", "view_synth"), condition.chunk(2), strict=True):
                alone = in_double(Groups.of((len(told),), (name in REAL,), domains=1, device="cpu"))
                shown = z[name]
                if config.parity == "released":
                    shown = torch.relu(torch.relu(shown) @ nets.pose.first.weight.T + nets.pose.first.bias)
                parts.append(nets.view(shown, told, alone))
            terms["view"] = float(np.abs(torch.cat(parts).numpy() - target.numpy()).mean())
        if "match_real" in z:
            mapped = torch.relu(nets.mapping(fixed["match_real"]))
            score = nets.discriminator(mapped).numpy()
            terms["matching"] = half * float(np.mean(score**2))
            real = nets.discriminator(torch.relu(nets.mapping(fixed["match_real"]))).numpy()
            synth = nets.discriminator(torch.relu(fixed["match_synth"])).numpy()
            terms["discriminator"] = half * float(np.mean((real - 1) ** 2)) + half * float(np.mean(synth**2))
    return terms


def weighted_sum(config: murauer.MurauerConfig, joints: int, terms: Mapping[str, float]) -> float:
    """(1), the paper's weights of sums over the elements of a sample, divided by the elements of a pose."""
    w, width, pixels = config.weights, config.architecture.feature_width, config.input_px**2
    elements = {"pose": 3 * joints, "correspondence": width, "view": pixels, "matching": 1}
    paper = {"pose": 1.0, "correspondence": w.correspondence, "view": w.view, "matching": w.matching}
    return sum(paper[n] * elements[n] * terms[n] for n in elements if n in terms) / (3 * joints)


def slope(nets: nn.Module, network: str, loss: Callable[[], float], rng: np.random.Generator) -> tuple[Any, float]:
    """A direction of unit length over the weights of a network, and the loss' slope along it."""
    parameters = {n: p for n, p in nets.named_parameters() if n.split(".")[0] == network}
    direction = {n: torch.from_numpy(rng.normal(size=p.shape)) for n, p in parameters.items()}
    length = float(torch.stack([d.square().sum() for d in direction.values()]).sum().sqrt())
    direction = {n: d / length for n, d in direction.items()}
    ends, h = [], 1e-6
    with torch.no_grad():
        for move in (h, -2 * h, h):
            for n, p in parameters.items():
                p += move * direction[n]
            ends.append(loss())
    return direction, (ends[0] - ends[1]) / (2 * h)


def along(gradient: Mapping[str, Tensor], direction: Mapping[str, Tensor]) -> float:
    return sum(float((gradient[n] * d).sum()) for n, d in direction.items() if n in gradient)


FORMS = [("paper", "full", 3), ("released", "full", 3), ("paper", "full", 0), ("paper", "+view-prediction", 3)]


@pytest.mark.parametrize(("parity", "arm", "n"), FORMS)
def test_a_joint_step_computes_the_papers_equations(toy_data: MakeData, parity: str, arm: str, n: int) -> None:
    config = config_of(arm, parity=parity)
    seen = joint_step(config, toy_data(n))
    learner = seen.learner
    batch, nets = learner.batches.joint(0), learner.nets
    with torch.no_grad():
        fixed = forward_passes(nets, batch)
    expected = equations(config, nets, batch, fixed)
    assert set(seen.terms) == set(expected)
    for name, value in expected.items():
        assert seen.terms[name] == pytest.approx(value, rel=1e-10), name
        assert seen.logged[f"loss/{name}"] == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize(("parity", "arm", "n"), FORMS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_joint_steps_gradient_is_the_slope_of_its_loss(
    toy_data: MakeData, network: str, parity: str, arm: str, n: int
) -> None:
    config = config_of(arm, parity=parity)
    data = toy_data(n)
    seen = joint_step(config, data)
    learner = seen.learner
    batch, nets = learner.batches.joint(0), learner.nets
    with torch.no_grad():
        fixed = {name: f.clone() for name, f in forward_passes(nets, batch).items()}
    judge = network == "discriminator"
    if judge and arm != "full":
        assert "h" not in seen.given
        return

    def loss() -> float:
        terms = equations(config, nets, batch, fixed)
        return terms["discriminator"] if judge else weighted_sum(config, len(data.layout), terms)

    given = seen.given["h" if judge else "f, m, p and g"]
    rng = np.random.default_rng(NETWORKS.index(network))
    for _ in range(3):
        direction, expected = slope(nets, network, loss, rng)
        assert along(given, direction) == pytest.approx(expected, rel=2e-5, abs=1e-9)
        assert abs(expected) > 1e-6, "a slope of nothing would prove nothing"


REACHED = {
    "pose": {"features", "mapping", "pose"},
    "correspondence": {"features", "mapping"},
    "view": {"features", "mapping", "view"},
    "matching": {"mapping"},
    "discriminator": {"discriminator"},
}


@pytest.mark.parametrize("parity", ["paper", "released"])
def test_each_term_reaches_its_networks_and_no_other(toy_data: MakeData, parity: str) -> None:
    seen = joint_step(config_of("full", parity=parity), toy_data(3))
    expected = dict(REACHED)
    if parity == "released":
        expected["view"] = expected["view"] | {"pose"}  # g is fed from p's hidden layer
    assert {term: seen.networks(term) for term in seen.terms} == expected
    assert {name.split(".")[0] for name in seen.given["h"]} == {"discriminator"}
    assert {name.split(".")[0] for name in seen.given["f, m, p and g"]} == set(NETWORKS) - {"discriminator"}
    # The second layer of p has nothing to do with views even there.
    assert not any(name.startswith("pose.second") for name in seen.of_term["view"])


def test_l_c_does_not_move_the_twins(toy_data: MakeData) -> None:
    """Its gradient on f is that with z of the twins held fixed; were they to move, it would be another one."""
    config = config_of("full")
    seen = joint_step(config, toy_data(3))
    learner = seen.learner
    batch, nets = learner.batches.joint(0), learner.nets
    with torch.no_grad():
        fixed = {name: f.clone() for name, f in forward_passes(nets, batch).items()}
    rng = np.random.default_rng(0)
    held = lambda: equations(config, nets, batch, fixed)["correspondence"]  # noqa: E731
    direction, expected = slope(nets, "features", held, rng)
    assert along(seen.of_term["correspondence"], direction) == pytest.approx(expected, rel=1e-5)

    def moving() -> float:
        with torch.no_grad():
            twins = forward_passes(nets, batch)["twins"]
        return equations(config, nets, batch, {**fixed, "twins": twins})["correspondence"]

    _, other = slope(nets, "features", moving, np.random.default_rng(0))
    assert abs(other - expected) > 0.05 * abs(expected)


def test_l_m_is_judged_by_the_discriminator_after_its_step(toy_data: MakeData) -> None:
    config = config_of("full", learning_rate=0.5)
    before = joint_step(config, toy_data(3))
    after = joint_step(config, toy_data(3), updating=["h"])
    learner = after.learner
    batch = learner.batches.joint(0)
    with torch.no_grad():
        fixed = forward_passes(learner.nets, batch)
    # The weights of h are those after its step now; the others did not move.
    assert after.terms["matching"] == pytest.approx(
        equations(config, learner.nets, batch, fixed)["matching"], rel=1e-10
    )
    assert after.terms["discriminator"] == before.terms["discriminator"]
    assert abs(after.terms["matching"] - before.terms["matching"]) > 1e-3 * before.terms["matching"]


def test_the_log_has_the_norm_of_each_weighted_terms_gradient_on_m(toy_data: MakeData) -> None:
    config = config_of("full")
    seen = joint_step(config, toy_data(3))
    norms = {name.removeprefix("grad_m/"): value for name, value in seen.logged.items() if name.startswith("grad_m/")}
    assert set(norms) == {"pose", "correspondence", "view", "matching"}
    for name, value in norms.items():
        on_m = [s for weight, s in seen.of_term[name].items() if weight.startswith("mapping.")]
        expected = torch.stack([s.square().sum() for s in on_m]).sum().sqrt() * seen.learner.updates.weights[name]
        assert value == pytest.approx(float(expected), rel=1e-10)
        assert value > 0


def test_a_pretraining_step_lowers_the_squared_error_of_synthetic_poses(toy_data: MakeData) -> None:
    config = config_of("synthetic-only", pretrain_steps=4, joint_steps=0)
    learner = murauer.Learner(config, toy_data(0, real=False))
    learner.nets.double().train()
    learner.updates.pretraining_groups = in_double(learner.updates.pretraining_groups)
    single = learner.batches.pretraining
    learner.batches.pretraining = lambda step: double_labelled(single(step))  # type: ignore[method-assign]
    seen = watch(learner)
    learner.step(0, log=True)
    drawn, nets = learner.batches.pretraining(0), learner.nets

    def loss() -> float:
        with torch.no_grad():
            estimate = nets.pose(nets.features(drawn.images.image, learner.updates.pretraining_groups)).numpy()
        assert drawn.known.all()
        return float(np.mean((estimate - drawn.joints.numpy()) ** 2))

    assert seen.terms["pose"] == pytest.approx(loss(), rel=1e-10)
    given = seen.given["f and p"]
    assert {name.split(".")[0] for name in given} == {"features", "pose"}
    for network in ("features", "pose"):
        direction, expected = slope(nets, network, loss, np.random.default_rng(1))
        assert along(given, direction) == pytest.approx(expected, rel=2e-5)


# --- the preview arm ---


def huber(error: F64) -> F64:
    """1/2 e^2 up to 1, then |e| - 1/2."""
    size = np.abs(error)
    return np.where(size < 1, 0.5 * size**2, size - 0.5)


@pytest.mark.parametrize("n", [0, 3])
def test_a_preview_step_lowers_the_views_l1_and_ten_times_the_poses_huber(
    toy_data: MakeData, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    config = preview.preset("quick", batch=6, steps=2, cube_mm=60.0)  # a small cube: joints beyond 1 in its unit
    data = toy_data(n, synth=False)
    learner = preview.Learner(config, data)
    learner.nets.double().train()
    learner.groups = in_double(learner.groups)
    cuts: list[Images] = []
    told: list[Tensor] = []
    labels: list[Labelled] = []

    def cut(*args: Any, **options: Any) -> Images:
        made = batches.cut(*args, **options)
        cuts.append(Images(made.image.double(), made.center_mm))
        return cuts[-1]

    def condition(*args: Any) -> Tensor:
        told.append(view_condition(*args).double())
        return told[-1]

    def label(*args: Any, **options: Any) -> Labelled:
        made = batches.label(*args, **options)
        labels.append(Labelled(made.images, made.joints.double(), made.known))
        return labels[-1]

    view_condition = preview.view_condition
    for name, made in (("cut", cut), ("view_condition", condition), ("label", label)):
        monkeypatch.setattr(preview, name, made)
    seen = watch(learner)
    learner.step(0, log=True)
    inputs, targets = torch.cat([c.image for c in cuts[::2]]), torch.cat([c.image for c in cuts[1::2]])
    assert len(inputs) == 6
    assert len(labels) == (n > 0)
    nets = learner.nets

    def terms() -> dict[str, float]:
        with torch.no_grad():
            z = nets.latent(inputs, learner.groups)
            made = {
                "view": float(np.abs(nets.view(z, torch.cat(told), learner.groups).numpy() - targets.numpy()).mean())
            }
            if n:
                estimate = (z[3:] @ nets.pose.weight.T + nets.pose.bias).reshape(3, 26, 3).numpy()
                assert labels[0].known.all()
                error = estimate - labels[0].joints.numpy()
                assert (np.abs(error) > 1).any()
                assert (np.abs(error) < 1).any()
                made["pose"] = float(huber(error).mean())
        return made

    expected = terms()
    assert set(seen.terms) == set(expected)
    for name, value in expected.items():
        assert seen.terms[name] == pytest.approx(value, rel=1e-10), name
    given = seen.given["the networks"]
    for network in ("norms", "last", "view", "pose") if n else ("convs",):
        total = lambda: terms()["view"] + 10 * terms().get("pose", 0.0)  # noqa: E731
        direction, wanted = slope(nets, network, total, np.random.default_rng(2))
        assert along(given, direction) == pytest.approx(wanted, rel=5e-5, abs=1e-9)
    assert any(name.startswith("pose.") for name in given) == (n > 0)
