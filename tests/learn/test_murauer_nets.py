"""Layer by layer: the shapes of MURAUER's networks and of the preview arm's, as the paper's appendix has them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from handloom.learn import murauer_recipe
from handloom.learn.murauer_nets import (
    Architecture,
    GroupedBatchNorm,
    Groups,
    MurauerNets,
    PlainFeatures,
    ResidualBlock,
    ResidualFeatures,
    ViewDecoder,
)
from handloom.learn.preview import PreviewNets

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@pytest.fixture(scope="module")
def nets() -> MurauerNets:
    torch.manual_seed(0)
    return MurauerNets(Architecture(), input_px=128, joints=14, condition=3).eval()


def shapes(net: nn.Module, kinds: tuple[type[nn.Module], ...], *inputs: Tensor) -> list[tuple[int, ...]]:
    """The shapes (c, h, w) that the layers of these kinds give for one image, in the order they are passed."""
    found: list[tuple[int, ...]] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: found.append(tuple(out.shape[1:])))
        for layer in net.modules()
        if isinstance(layer, kinds)
    ]
    with torch.no_grad():
        net(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def form(conv: nn.Module) -> tuple[int, int, int, int, int]:
    """Input and output channels, kernel, stride, padding of a square convolution without bias."""
    assert isinstance(conv, CONVOLUTIONS)
    assert conv.bias is None
    assert conv.kernel_size[0] == conv.kernel_size[1]
    padding = conv.padding[0]
    assert isinstance(padding, int)
    return conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], padding


# --- f ---


def test_f_is_a_stem_and_four_stages_of_five_bottlenecks(nets: MurauerNets) -> None:
    f = nets.features
    assert isinstance(f, ResidualFeatures)
    expected: list[tuple[int, ...]] = [(32, 128, 128)]
    side = 64  # after pooling
    for outputs, mid in ((64, 16), (128, 32), (256, 64), (256, 64)):
        for block in range(5):
            expected.append((mid, side, side))  # 1 x 1
            side //= 1 if block else 2
            expected += [(mid, side, side), (outputs, side, side)]  # 3 x 3, 1 x 1
            expected += [] if block else [(outputs, side, side)]  # the shortcut
    assert shapes(f, (nn.Conv2d,), torch.zeros(1, 1, 128, 128)) == expected
    assert expected[-1] == (256, 4, 4)
    assert form(f.stem) == (1, 32, 5, 1, 2)
    assert (f.linear.in_features, f.linear.out_features) == (4096, 1024)
    assert f.linear.bias is not None


def test_only_the_first_block_of_a_stage_has_a_stride_and_a_shortcut(nets: MurauerNets) -> None:
    f = nets.features
    assert isinstance(f, ResidualFeatures)
    inputs = 32
    for stage, (outputs, mid) in enumerate(((64, 16), (128, 32), (256, 64), (256, 64))):
        for place in range(5):
            block = f.blocks[5 * stage + place]
            stride = 1 if place else 2
            assert [form(conv) for conv in block.convs] == [
                (inputs, mid, 1, 1, 0),
                (mid, mid, 3, stride, 1),
                (mid, outputs, 1, 1, 0),
            ]
            if place:
                assert block.shortcut is None
            else:
                assert form(block.shortcut) == (inputs, outputs, 1, 2, 0)
            assert [norm.weight.numel() for norm in block.norms] == [mid, mid, outputs]
            inputs = outputs
    assert len(f.blocks) == 20


def test_f_is_normalised_after_each_convolution_but_the_first(nets: MurauerNets) -> None:
    # 5 x 5 without norm or ReLU; 3 norms a block and one a shortcut; one before the linear layer.
    norms = [m for m in nets.features.modules() if isinstance(m, GroupedBatchNorm)]
    assert len(norms) == 20 * 3 + 4 + 1
    assert all(norm.eps == 1e-5 for norm in norms)
    image = torch.randn(2, 1, 128, 128)
    f = nets.features
    assert isinstance(f, ResidualFeatures)
    entered: list[Tensor] = []
    hook = f.blocks[0].register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    with torch.no_grad():
        f(image)
        stem = functional.conv2d(image, f.stem.weight, padding=2)
    hook.remove()
    expected = stem.unflatten(2, (64, 2)).unflatten(4, (64, 2)).amax(dim=(3, 5))
    torch.testing.assert_close(entered[0], expected)
    assert entered[0].min() < 0, "no ReLU before the first block"


def test_a_bottleneck_is_its_formula(nets: MurauerNets) -> None:
    """relu(shortcut + norm(1x1 relu(norm(3x3 relu(norm(1x1 x)))))), in eval mode by plain arithmetic."""
    f = nets.features
    assert isinstance(f, ResidualFeatures)

    def norm(x: Tensor, n: GroupedBatchNorm) -> Tensor:
        mean, var = (value[0][:, None, None] for value in (n.running_mean, n.running_var))
        out: Tensor = (x - mean) / (var + 1e-5).sqrt() * n.weight[:, None, None] + n.bias[:, None, None]
        return out

    for place, x in ((0, torch.randn(2, 32, 8, 8)), (1, torch.randn(2, 64, 8, 8).relu())):
        block, stride = f.blocks[place], 1 if place else 2
        with torch.no_grad():
            for n in block.norms:
                n.running_mean.normal_(0, 0.2)
                n.running_var.uniform_(0.5, 2)
                n.weight.uniform_(0.5, 2)
                n.bias.normal_(0, 0.2)
            one = norm(functional.conv2d(x, block.convs[0].weight), block.norms[0]).clamp(min=0)
            two = norm(functional.conv2d(one, block.convs[1].weight, stride=stride, padding=1), block.norms[1])
            three = norm(functional.conv2d(two.clamp(min=0), block.convs[2].weight), block.norms[2])
            short = x
            if not place:
                short = norm(functional.conv2d(x, block.shortcut.weight, stride=2), block.shortcut_norm)
            torch.testing.assert_close(block(x, None, -1), (short + three).clamp(min=0), atol=1e-4, rtol=1e-4)


# --- m, p, h ---


def test_m_p_and_h_are_linear_layers_without_norm(nets: MurauerNets) -> None:
    layers = {
        name: [(m.in_features, m.out_features) for m in getattr(nets, name).modules() if isinstance(m, nn.Linear)]
        for name in ("mapping", "pose", "discriminator")
    }
    assert layers["mapping"] == [(1024, 1024)] * 4
    assert layers["pose"] == [(1024, 1024), (1024, 42)]
    assert layers["discriminator"] == [(1024, 1024)] * 4 + [(1024, 1)]
    for name in layers:
        net = getattr(nets, name)
        assert not any(isinstance(m, GroupedBatchNorm) for m in net.modules())
        assert all(m.bias is not None for m in net.modules() if isinstance(m, nn.Linear))


def test_a_block_of_m_is_its_formula(nets: MurauerNets) -> None:
    block = nets.mapping[0]
    assert isinstance(block, ResidualBlock)
    assert block.inner is not None
    x = torch.randn(3, 1024)
    with torch.no_grad():
        inner = (x @ block.inner.weight.T + block.inner.bias).clamp(min=0)
        expected = x + inner @ block.outer.weight.T + block.outer.bias
        torch.testing.assert_close(block(x), expected)
        z = torch.randn(3, 1024)
        p = nets.pose
        hidden = (z.clamp(min=0) @ p.first.weight.T + p.first.bias).clamp(min=0)
        torch.testing.assert_close(p(z).flatten(1), hidden @ p.second.weight.T + p.second.bias)


def test_the_released_blocks_lose_their_inner_layer() -> None:
    """x + W x in m and h: half the weights of the blocks, and nothing else differs."""
    sizes = Architecture()
    ours = MurauerNets(sizes, input_px=128, joints=14, condition=3)
    theirs = MurauerNets(sizes, input_px=128, joints=14, condition=3, released=True)
    block = 1024 * 1024 + 1024
    assert count(theirs.mapping) == 2 * block
    assert count(ours.mapping) == 4 * block
    assert count(theirs.discriminator) == count(ours.discriminator) - 2 * block
    for name in ("features", "pose", "view"):
        assert {n: p.shape for n, p in getattr(ours, name).named_parameters()} == {
            n: p.shape for n, p in getattr(theirs, name).named_parameters()
        }


def test_inference_is_ten_million_parameters(nets: MurauerNets) -> None:
    assert count(nets.features, nets.mapping, nets.pose) == pytest.approx(10.40e6, abs=5e3)


# --- g ---


def test_g_grows_from_one_pixel(nets: MurauerNets) -> None:
    g = nets.view
    made = shapes(g, (nn.ConvTranspose2d,), torch.zeros(1, 1024), torch.zeros(1, 3))
    assert made == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (1, 64, 64)]
    assert [form(conv) for conv in [*g.convs, g.last]] == [
        (1027, 512, 4, 1, 0),
        (512, 256, 4, 2, 1),
        (256, 128, 4, 2, 1),
        (128, 64, 4, 2, 1),
        (64, 1, 4, 2, 1),
    ]
    assert [norm.weight.numel() for norm in g.norms] == [512, 256, 128, 64]
    assert g(torch.zeros(1, 1024), torch.zeros(1, 3)).shape == (1, 1, 128, 128)


def test_g_doubles_its_image_corner_on_corner(nets: MurauerNets) -> None:
    g, small = nets.view, []
    hook = g.last.register_forward_hook(lambda _, __, out: small.append(out))
    with torch.no_grad():
        image = g(torch.randn(2, 1024), torch.randn(2, 3))
    hook.remove()
    (half,) = small
    # align_corners: the corners keep their values, pixel x of 128 lies at x * 63 / 127 of 64.
    corners = [(0, 0), (0, -1), (-1, 0), (-1, -1)]
    for v, u in corners:
        torch.testing.assert_close(image[:, 0, v, u], half[:, 0, v, u].tanh())
    at = 100 * 63 / 127  # a twelfth of a pixel from where it lies without
    low, share = math.floor(at), at - math.floor(at)
    between = half[:, 0, 0, low] * (1 - share) + half[:, 0, 0, low + 1] * share
    near = 1e-4 * float((half[:, 0, 0, low] - half[:, 0, 0, low + 1]).abs().min())
    assert near > 0
    torch.testing.assert_close(image[:, 0, 0, 100], between.tanh(), atol=near, rtol=1e-6)


def test_g_is_leaky_with_slope_a_fifth() -> None:
    g = ViewDecoder(3, (2,), 8, domains=1).eval()
    with torch.no_grad():
        x = torch.randn(4, 1), torch.randn(4, 2)
        one = g.norms[0](g.convs[0](torch.cat(x, dim=1)[:, :, None, None]), None)
        expected = g.last(torch.where(one > 0, one, 0.2 * one)).tanh()
    assert (one < 0).any()
    torch.testing.assert_close(g(*x), expected)


@pytest.mark.parametrize(("preset", "side"), [("quick", 64), ("fast", 64), ("paper", 128)])
def test_every_preset_predicts_views_of_its_inputs_size(preset: str, side: int) -> None:
    config = murauer_recipe.preset(preset, "full")
    assert isinstance(config, murauer_recipe.MurauerConfig)
    nets = MurauerNets(config.architecture, input_px=side, joints=26, condition=15).eval()
    width = config.architecture.feature_width
    with torch.no_grad():
        assert nets.features(torch.zeros(1, 1, side, side)).shape == (1, width)
        assert nets.view(torch.zeros(1, width), torch.zeros(1, 15)).shape == (1, 1, side, side)
    assert width == {"quick": 256, "fast": 256, "paper": 1024}[preset]
    assert isinstance(nets.features, PlainFeatures if preset == "quick" else ResidualFeatures)


# --- grouped batch normalisation ---


@pytest.mark.parametrize("sizes", [(6, 6, 6), (7, 3, 4), (1, 5, 2)])
@pytest.mark.parametrize("domains", [1, 2])
@pytest.mark.parametrize("features", ["plain", "residual"])
def test_one_grouped_pass_is_a_pass_for_each_group(sizes: tuple[int, ...], domains: int, features: str) -> None:
    """In float64, up to rounding: outputs, gradients and running statistics."""
    plain = features == "plain"
    small = Architecture(
        features="plain" if plain else "residual",
        stem=3,
        channels=(4,) if plain else (4, 5),
        mid=() if plain else (2, 3),
        blocks=2,
        feature_width=8,
        view_channels=(6, 4),
    )
    real = (True, False, True)
    torch.manual_seed(0)
    whole, apart = (
        MurauerNets(small, input_px=32, joints=5, condition=3, domains=domains).double().train() for _ in range(2)
    )
    apart.load_state_dict(whole.state_dict())

    def groups(n: tuple[int, ...], domain: tuple[bool, ...]) -> Groups:
        made = Groups.of(n, domain, domains=domains, device="cpu")
        return replace(made, weight=made.weight.double(), keep=made.keep.double())

    images, told = torch.randn(sum(sizes), 1, 32, 32).double(), torch.randn(sum(sizes), 3).double()
    images[sizes[0] :] *= 3
    pull, back = torch.randn(sum(sizes), 8).double(), torch.randn(sum(sizes), 1, 32, 32).double()
    z = whole.features(images, groups(sizes, real))
    view = whole.view(z, told, groups(sizes, real))
    ((z * pull).sum() + (view * back).sum()).backward()
    outs = []
    for image, condition, is_real in zip(images.split(sizes), told.split(sizes), real, strict=True):
        one = groups((len(image),), (is_real,))
        made = apart.features(image, one)
        outs.append((made, apart.view(made, condition, one)))
    z_apart, view_apart = (torch.cat(part) for part in zip(*outs, strict=True))
    ((z_apart * pull).sum() + (view_apart * back).sum()).backward()
    exact = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(z, z_apart, **exact)
    torch.testing.assert_close(view, view_apart, **exact)
    for (name, mine), theirs in zip(whole.named_parameters(), apart.parameters(), strict=True):
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-8, atol=1e-8, msg=name)
    changed = 0
    for (name, mine), theirs in zip(whole.named_buffers(), apart.buffers(), strict=True):
        # How much of each group enters them is kept in float32.
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7, msg=name)
        changed += not torch.equal(mine, torch.zeros_like(mine)) and not torch.equal(mine, torch.ones_like(mine))
    assert changed > 4


# --- the preview arm ---


def test_the_preview_encoder_and_decoder_are_mirrors() -> None:
    nets = PreviewNets(joints=14, condition=3).eval()
    image = torch.zeros(1, 1, 64, 64)
    encoder: list[tuple[int, ...]] = []
    convs = [*nets.convs, nets.last]
    hooks = [c.register_forward_hook(lambda _, __, out: encoder.append(tuple(out.shape[1:]))) for c in convs]
    with torch.no_grad():
        z = nets.latent(image)
    for hook in hooks:
        hook.remove()
    assert encoder == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (50, 1, 1)]
    decoder = shapes(nets.view, (nn.ConvTranspose2d,), z, torch.zeros(1, 3))
    assert decoder == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (1, 64, 64)]
    assert [form(conv)[2:] for conv in nets.convs] == [(4, 2, 1)] * 4
    assert (nets.last.kernel_size, nets.last.stride, nets.last.padding) == ((4, 4), (1, 1), (0, 0))
    assert [norm.weight.numel() for norm in nets.norms] == [128, 256, 512], "on the last three"
    assert form(nets.view.convs[0])[0] == 50 + 3
    assert nets.pose(z).shape == (1, 42)


def test_the_preview_networks_have_the_size_that_their_layers_make() -> None:
    nets = PreviewNets(joints=14, condition=3)
    convs = 16 * (1 * 64 + 64 * 128 + 128 * 256 + 256 * 512)
    assert count(nets.convs, nets.norms, nets.last) == convs + 2 * (128 + 256 + 512) + 16 * 512 * 50 + 50
    assert count(nets.view) == convs + 16 * 53 * 512 + 2 * (512 + 256 + 128 + 64)
    assert count(nets.pose) == 50 * 42 + 42
