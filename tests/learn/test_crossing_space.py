from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from handloom.learn import crossing, crossing_space
from handloom.learn.crossing_nets import CrossingNets, stretched
from handloom.learn.model import PoseModel
from handloom.stores.errors import HandloomError
from handloom.stores.joints import LAYOUTS


@pytest.fixture(scope="module")
def model() -> PoseModel:
    """Untrained networks: what is checked here is how they are put together."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        description = {
            "layout": "icvl16",
            "input_px": 32,
            "architecture": {"channels": 4, "latent": 20, "hidden": 40},
            "normalisation": "cube",
        }
        nets = crossing.build_nets(description).eval()
    return PoseModel(
        method="crossing",
        preset="quick",
        arm="full",
        layout=LAYOUTS["icvl16"],
        hand="right",
        input_px=32,
        cube_mm=250.0,
        net=crossing.pose_net(nets, description).eval(),
        nets=nets,
        description=description,
    )


def test_depth_of_a_pose_is_the_render_route(model: PoseModel) -> None:
    assert isinstance(model.nets, CrossingNets)
    joints = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(0)) * 40
    depth = crossing_space.generate_depth(model, joints)
    assert depth.shape == (3, 1, 32, 32)
    with torch.no_grad():
        mean, _ = model.nets.vae.encode(((joints - joints[:, :1]) / 50).flatten(1))
        z = torch.cat([mean, joints[:, 0] / 50], dim=1)
        expected = model.nets.gen(model.nets.ali(z))
    torch.testing.assert_close(depth, expected)
    assert not depth.requires_grad


def test_a_walk_goes_from_end_to_end_in_equal_steps(model: PoseModel) -> None:
    anchors = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(2)) * 40
    z = crossing_space.latents_of_poses(model, anchors)
    path = crossing_space.walk(model, z[0], z[1], 5)
    assert (path.z.shape, path.joints_mm.shape, path.depth.shape) == ((5, 23), (5, 16, 3), (5, 1, 32, 32))
    torch.testing.assert_close(path.z[[0, -1]], z[:2])
    steps = path.z.diff(dim=0)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), atol=1e-5, rtol=0)


def test_a_walk_past_several_poses_keeps_its_step(model: PoseModel) -> None:
    """Legs of other lengths get other numbers of points; the poses themselves are among them."""
    anchors = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(2)) * 40
    anchors[2] = anchors[1] + 0.1 * (anchors[2] - anchors[1])
    z = crossing_space.latents_of_poses(model, anchors)
    lengths = z.diff(dim=0).norm(dim=1)
    assert lengths[0] > 1.2 * lengths[1]
    long, at = crossing_space.walk_past(model, anchors, points=41)
    assert (at[0], at[-1], len(long.z)) == (0, 40, 41)
    torch.testing.assert_close(long.z[list(at)], z)
    steps = long.z.diff(dim=0).norm(dim=1)
    torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=0.2, atol=0)
    alone, at = crossing_space.walk_past(model, anchors[:1], points=9)
    assert (len(alone.z), at) == (1, (0,))
    still, at = crossing_space.walk_past(model, anchors[[0, 0]], points=9)
    assert (len(still.z), at) == (2, (0, 1))


def test_a_reconstruction_is_depth_to_pose_to_depth(model: PoseModel) -> None:
    crops = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    through = crossing_space.reconstruct(model, crops)
    torch.testing.assert_close(through.joints_mm, model.predict_mm(crops), atol=1e-3, rtol=0)
    torch.testing.assert_close(through.depth, crossing_space.show(model, through.z).depth)
    stretching = replace(model, description={**model.description, "normalisation": "min-max"})
    torch.testing.assert_close(
        crossing_space.latents_of_depth(stretching, crops),
        crossing_space.latents_of_depth(model, stretched(crops)),
    )


@pytest.mark.parametrize("arm", ["scratch", "gan-pretrained"])
def test_a_model_that_trained_no_generator_shows_nothing(model: PoseModel, arm: str) -> None:
    with pytest.raises(HandloomError, match="no generator"):
        crossing_space.generate_depth(replace(model, arm=arm), torch.zeros(1, 16, 3))
