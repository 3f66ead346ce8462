from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from handloom.learn.crossing_nets import (
    POSE_UNIT_MM,
    CrossingNets,
    PoseNet,
    head_convs,
    stretched,
)


@pytest.fixture(scope="module")
def paper_nets() -> CrossingNets:
    torch.manual_seed(0)
    return CrossingNets(input_px=128, joints=36, palm=32)


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def test_the_papers_networks_have_their_published_size(paper_nets: CrossingNets) -> None:
    vae = paper_nets.vae
    assert count(vae.enter, vae.mean, vae.log_variance) == 6_000
    assert count(vae.open, vae.leave) == 5_268
    assert count(paper_nets.ali) == 575
    assert count(paper_nets.gen) == 161_665
    assert count(paper_nets.trunk) == 38_144
    assert count(paper_nets.gan) == 111_297
    assert count(paper_nets.pos) == 123_158
    assert count(paper_nets.smo) == 385_751
    # Every weight lies in one of these; inference is trunk + pos + decoder, 0.17 M.
    assert count(paper_nets) == 6_000 + 5_268 + 575 + 161_665 + 38_144 + 111_297 + 123_158 + 385_751
    assert count(paper_nets.trunk, paper_nets.pos, vae.open, vae.leave) == pytest.approx(0.17e6, abs=5e3)


def test_every_convolution_is_six_by_six_with_stride_two(paper_nets: CrossingNets) -> None:
    convs = [m for m in paper_nets.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(convs) == 5 + 2 + 3 * 3
    for conv in convs:
        assert (conv.kernel_size, conv.stride) == ((6, 6), (2, 2))
        assert {conv.in_channels, conv.out_channels} <= {1, 32}


def test_inference_costs_its_published_multiply_adds(paper_nets: CrossingNets) -> None:
    total = 0.0

    def add(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        total += layer.weight.numel() * (out.shape[2] * out.shape[3] if out.ndim == 4 else 1)

    net = PoseNet(paper_nets, min_max=False).eval()
    watched = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(add) for m in watched]
    with torch.no_grad():
        assert net(torch.zeros(1, 1, 128, 128)).shape == (1, 36, 3)
    for hook in hooks:
        hook.remove()
    assert total / 1e6 == pytest.approx(55, abs=1)


@pytest.mark.parametrize(("input_px", "stages"), [(128, 3), (64, 2), (32, 1)])
@pytest.mark.parametrize("joints", [36, 26, 14])
def test_shapes_and_ranges(input_px: int, stages: int, joints: int) -> None:
    nets = CrossingNets(input_px=input_px, joints=joints, palm=1, channels=8).train()
    assert len(nets.pos.layers) == len(nets.gan.layers) == len(nets.smo.layers) == stages
    z = nets.shared(torch.randn(4, joints, 3))
    assert z.shape == (4, 23)
    assert nets.vae.enter.in_features == 3 * joints
    assert nets.ali(10 * z).abs().max() <= 1
    depth = nets.depth_of(z)
    assert depth.shape == (4, 1, input_px, input_px)
    assert depth.abs().max() < 1
    trunk = nets.trunk(depth)
    assert trunk.shape == (4, 8, input_px // 4, input_px // 4)
    logits, features = nets.gan(trunk)
    assert logits.shape == (4,)
    assert features.shape == (4, 8 * 16)
    assert nets.pos(trunk).shape == nets.smo(trunk).shape == (4, 23)
    assert nets.pose_of(z).shape == (4, joints, 3)


@pytest.mark.parametrize("input_px", [0, 16, 48, 100, 127])
def test_other_inputs_do_not_come_down_to_four_pixels(input_px: int) -> None:
    with pytest.raises(ValueError, match="does not come down to 4 px"):
        head_convs(input_px)


def test_initial_weights_are_those_of_the_spec(paper_nets: CrossingNets) -> None:
    fresh = CrossingNets(input_px=128, joints=36, palm=32)
    inner = [m.weight for m in fresh.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    inner += [fresh.pos.hidden.inner.weight, fresh.smo.leave.weight, fresh.gen.enter.inner.weight]
    for weight in inner:
        assert isinstance(weight, Tensor)
        assert float(weight.detach().std()) == pytest.approx(0.05, rel=0.1)
    assert float(fresh.vae.enter.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    gamma = torch.cat([p.detach() for n, p in fresh.named_parameters() if n.endswith("norm.weight")])
    assert float(gamma.mean()) == pytest.approx(1, abs=0.005)
    assert float(gamma.std()) == pytest.approx(0.02, rel=0.1)


def test_the_offset_of_the_palm_is_the_end_of_the_latent(paper_nets: CrossingNets) -> None:
    pose = torch.randn(3, 36, 3)
    moved = pose + torch.tensor([0.1, -0.2, 0.3])
    z, z_moved = paper_nets.shared(pose), paper_nets.shared(moved)
    # The VAE sees the pose about the palm: moving the whole hand moves the last three numbers only.
    torch.testing.assert_close(z_moved[:, :20], z[:, :20], atol=1e-5, rtol=0)
    torch.testing.assert_close(z_moved[:, 20:], pose[:, 32] + torch.tensor([0.1, -0.2, 0.3]))
    shift = paper_nets.pose_of(z_moved) - paper_nets.pose_of(z)
    torch.testing.assert_close(shift, torch.tensor([0.1, -0.2, 0.3]).expand(3, 36, 3), atol=1e-5, rtol=0)


def test_principal_components_span_what_poses_span() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(12, 78, generator=generator)
    poses = torch.randn(300, 12, generator=generator) @ spread + 3
    nets = CrossingNets(input_px=32, joints=26, palm=0, channels=2)
    nets.vae.start_from_principal_components(poses)
    basis = nets.vae.enter.weight[:12].detach()
    torch.testing.assert_close(basis @ basis.T, torch.eye(12), atol=1e-4, rtol=0)
    about = poses - poses.mean(dim=0)
    torch.testing.assert_close(about @ basis.T @ basis, about, atol=1e-3, rtol=0)
    # Rank 12: the other 28 units keep their small random weights, as with fewer labels than components.
    assert float(nets.vae.enter.weight[12:].detach().abs().max()) < 0.1
    torch.testing.assert_close(nets.vae.leave.weight[:, :12].detach(), basis.T)
    torch.testing.assert_close(nets.vae.leave.bias.detach(), poses.mean(dim=0))
    hidden = nets.vae.enter(poses)[:, :12].detach()
    torch.testing.assert_close(hidden, about @ basis.T, atol=1e-3, rtol=0)


def test_generated_images_leave_no_trace_in_the_running_statistics() -> None:
    nets = CrossingNets(input_px=32, joints=14, palm=1, channels=4).train()
    before = {n: b.clone() for n, b in nets.named_buffers()}
    fakes = torch.rand(6, 1, 32, 32)
    nets.gan(nets.trunk(fakes))
    assert all(torch.equal(b, before[n]) for n, b in nets.named_buffers())
    nets.gan(nets.trunk(fakes, track=True), track=True)
    changed = {n.split(".")[0] for n, b in nets.named_buffers() if not torch.equal(b, before[n])}
    assert changed == {"trunk", "gan"}


def test_a_batch_is_normalised_by_its_own_statistics_in_training() -> None:
    nets = CrossingNets(input_px=32, joints=14, palm=1, channels=4).train()
    captured, fakes = torch.rand(6, 1, 32, 32), 3 * torch.rand(6, 1, 32, 32) - 1
    alone = nets.trunk(captured)
    nets.trunk(fakes)
    torch.testing.assert_close(nets.trunk(captured), alone)
    assert not torch.allclose(nets.trunk(torch.cat([captured, fakes]))[:6], alone, atol=1e-2)


def test_inference_is_trunk_pos_and_decoder_in_mm(paper_nets: CrossingNets) -> None:
    paper_nets.eval()
    x = torch.rand(2, 1, 128, 128) * 2 - 1
    with torch.no_grad():
        z = paper_nets.pos(paper_nets.trunk(x))
        expected = paper_nets.pose_of(z) * POSE_UNIT_MM
        assert torch.equal(PoseNet(paper_nets, min_max=False)(x), expected)
        stretch = paper_nets.pose_of(paper_nets.pos(paper_nets.trunk(stretched(x)))) * POSE_UNIT_MM
        assert torch.equal(PoseNet(paper_nets, min_max=True)(x), stretch)


def test_min_max_spreads_the_hand_and_forgets_where_it_was() -> None:
    hand = torch.linspace(-0.3, 0.2, 12).reshape(1, 1, 3, 4)
    image = torch.ones(1, 1, 4, 4)
    image[..., :3, :] = hand
    found = stretched(image)
    assert float(found[..., :3, :].min()) == -1
    assert float(found[..., :3, :].max()) == pytest.approx(1)
    assert torch.equal(found[..., 3, :], torch.ones(1, 1, 4))
    nearer = image.clone()
    nearer[..., :3, :] = hand * 0.5 - 0.4
    torch.testing.assert_close(stretched(nearer), found, atol=1e-5, rtol=0)
    assert torch.equal(stretched(torch.ones(2, 1, 4, 4)), torch.ones(2, 1, 4, 4)), "no hand, no NaN"
