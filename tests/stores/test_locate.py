from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.camera import Camera, Rig
from handloom.stores.cloud import Cloud, spread_over, things
from handloom.stores.errors import HandloomError
from handloom.stores.locate import (
    BACKGROUND_FRAMES,
    BEFORE_MM,
    Candidate,
    Found,
    background_of,
    find_hand,
    follow,
    hand_candidates,
    point_cloud,
)
from handloom.stores.palm_fit import LEAST_PATCHES, fit, patches_about
from handloom.stores.palm_net import AGAIN, FIRST, HALF_MM, PATCH_PX, built_in, cut_patches, fuse, look, ray_axes, run
from handloom.synth.props import box, joined
from handloom.synth.raster import rasterise
from handloom.synth.rigs import ring_rig

RIG = ring_rig(3, width=160, height=120, focal_px=120.0)


@dataclass(frozen=True)
class Shot:
    """Images of one instant and where the palm is."""

    depth_mm: list[np.ndarray]
    palm_mm: np.ndarray


def session(config: VirtualConfig) -> Iterator[Shot]:
    with VirtualRig(config, rig=RIG) as source:
        images = {(i.frame_number, i.camera): i.depth for i in source.frames()}
        for k in range(1, config.frames + 1):
            depth = [images[k, view] * np.float32(RIG.cameras[view].depth_unit_mm) for view in range(3)]
            yield Shot(depth, source.moment(0, k).labels["joints"][0].astype(np.float64))


@pytest.fixture(scope="module")
def seated() -> list[Shot]:
    """A person at a desk, twelve short motions."""
    return list(session(VirtualConfig(frames=48, sequence_frames=4, fps=10, transport="direct", subjects=3, seed=21)))


@pytest.fixture(scope="module")
def backgrounds(seated: list[Shot]) -> list[np.ndarray]:
    stacks = [np.array([shot.depth_mm[view] for shot in seated]).astype(np.uint16) for view in range(3)]
    return [background_of(stack).astype(np.float32) for stack in stacks]


@pytest.fixture(scope="module")
def alone() -> list[Shot]:
    """Hand and forearm before nothing."""
    return list(session(VirtualConfig(frames=24, sequence_frames=1, scene=False, transport="direct", seed=5)))


def errors(shots: list[Shot], views: tuple[int, ...], behind: list[np.ndarray] | None = None) -> np.ndarray:
    rig = Rig(tuple(RIG.cameras[v] for v in views))
    out = []
    for shot in shots:
        background = None if behind is None else [behind[v] for v in views]
        found = find_hand([shot.depth_mm[v] for v in views], rig, background_mm=background)
        out.append(np.inf if found is None else np.linalg.norm(found.palm_mm - shot.palm_mm))
    return np.array(out)


def test_three_views_find_the_hand_before_a_person_and_a_desk(
    seated: list[Shot], backgrounds: list[np.ndarray]
) -> None:
    found = errors(seated, (0, 1, 2), backgrounds)
    assert np.median(found) < 22
    assert (found < 30).mean() > 0.7
    assert (found < 60).mean() > 0.9


def test_one_view_finds_it_too(seated: list[Shot], backgrounds: list[np.ndarray]) -> None:
    found = errors(seated, (0,), backgrounds)
    assert np.median(found) < 25
    assert (found < 60).mean() > 0.6


@pytest.mark.parametrize("views", [(0,), (0, 1, 2)])
def test_a_single_frame_without_background_suffices(alone: list[Shot], views: tuple[int, ...]) -> None:
    found = errors(alone, views)
    assert np.median(found) < 22
    assert (found < 45).mean() > 0.8


def test_the_place_is_not_the_surface_but_the_joint_inside(alone: list[Shot]) -> None:
    # The nearest skin along the ray lies before the palm: without its correction the centre would, too.
    deeper = []
    for shot in alone:
        found = find_hand(shot.depth_mm[:1], Rig(RIG.cameras[:1]))
        if found is not None:
            camera = RIG.cameras[0]
            deeper.append(camera.to_camera(found.palm_mm)[2] - camera.to_camera(shot.palm_mm)[2])
    assert abs(np.median(deeper)) < 8


def test_scores_tell_good_places_from_bad(seated: list[Shot], backgrounds: list[np.ndarray]) -> None:
    good, bad = [], []
    for shot in seated:
        for one in hand_candidates(shot.depth_mm, RIG, background_mm=backgrounds):
            (good if np.linalg.norm(one.palm_mm - shot.palm_mm) < 30 else bad).append(one.logit)
    assert np.median(good) > 1
    assert not bad or np.median(bad) < 0


def test_found_places_turn_with_the_world(alone: list[Shot]) -> None:
    # The same images by a rig that stands elsewhere and is turned: the same place in each camera.
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    moved = []
    for camera in RIG.cameras:
        rotation = camera.rotation @ turn.T
        translation = camera.translation - rotation @ np.array([100.0, -50.0, 30.0])
        rows = tuple(tuple(float(x) for x in row) for row in rotation)
        moved.append(replace(camera, r=rows, t=tuple(float(x) for x in translation)))
    away = []
    for shot in alone[:12]:
        one, other = find_hand(shot.depth_mm, RIG), find_hand(shot.depth_mm, Rig(tuple(moved)))
        assert one is not None
        assert other is not None
        away.append(np.linalg.norm(one.centers_mm(RIG)[0] - other.centers_mm(Rig(tuple(moved)))[0]))
    # Looks start elsewhere in it, nothing else changes; where one starts, it still leans to by a few millimetres.
    assert np.median(away) < 8


def test_views_without_an_image_are_left_out(alone: list[Shot]) -> None:
    shot = alone[0]
    found = find_hand([shot.depth_mm[0], None, shot.depth_mm[2]], RIG)
    only = find_hand([shot.depth_mm[0], shot.depth_mm[2]], Rig((RIG.cameras[0], RIG.cameras[2])))
    assert found is not None
    assert only is not None
    assert np.allclose(found.palm_mm, only.palm_mm)
    assert find_hand([None, None, None], RIG) is None


def test_nothing_is_found_where_nothing_is() -> None:
    nothing = [np.zeros((c.height, c.width), np.float32) for c in RIG.cameras]
    assert find_hand(nothing, RIG) is None
    wall = [np.full((c.height, c.width), 900.0, np.float32) for c in RIG.cameras]
    assert find_hand(wall[:1], Rig(RIG.cameras[:1])) is None
    speckle = [np.where(np.random.default_rng(1).random(w.shape) < 0.05, w, 0) for w in wall]
    assert find_hand(speckle, RIG) is None


# -- background ----------------------------------------------------------------------------------------------


def test_a_background_is_what_is_seen_behind_what_moves() -> None:
    rng = np.random.default_rng(0)
    wall = np.full((20, 30), 1200, np.uint16)
    wall[:, :5] = 0  # out of range there
    frames = np.repeat(wall[None], 48, axis=0) + rng.integers(-4, 5, (48, 20, 30)).astype(np.int16) * (wall > 0)
    frames = frames.astype(np.uint16)
    for k in range(48):
        left = int(rng.integers(0, 24))
        frames[k, 5:15, left : left + 6] = 500 + int(rng.integers(0, 150))
    frames[:40, 16:19, 10:20] = 600  # something stands there most of the time
    found = background_of(frames)
    assert (np.abs(found[:, 5:].astype(int) - 1200) < 25).all()
    assert (found[:4, :5] == 0).all()


def test_a_few_frames_have_no_background() -> None:
    frames = np.full((BACKGROUND_FRAMES - 1, 4, 4), 900, np.uint16)
    assert not background_of(frames).any()
    assert not background_of(frames[:0]).any()


# -- clouds --------------------------------------------------------------------------------------------------


def test_areas_are_those_of_the_surface() -> None:
    camera = Camera("a", 160, 120, (120.0, 120.0, 79.5, 59.5))
    depth = np.zeros((120, 160), np.float32)
    depth[40:80, 60:110] = 480.0
    cloud = point_cloud([depth], Rig((camera,)), [None])
    assert cloud.area.sum() == pytest.approx(40 * 50 * (480 / 120) ** 2, rel=0.05)


def bent_arm() -> Cloud:
    """An elbow between two limbs whose ends are near each other through the air."""
    s = np.linspace(0, 300, 120)
    limbs = [np.stack([s, 40 + 0.15 * s, 0 * s], 1), np.stack([s, -40 - 0.15 * s, 0 * s], 1)]
    y = np.linspace(-85, 85, 60)
    elbow = np.stack([np.full(60, 300.0), y, 0 * y], 1)
    spine = np.concatenate([*limbs, elbow])
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([0 * angle, 15 * np.cos(angle), 15 * np.sin(angle)], 1)
    points = (spine[:, None] + ring).reshape(-1, 3)
    count = len(points)
    return Cloud(points, np.full(count, 20.0), np.zeros(count, int))


def test_places_lie_evenly_over_a_limb() -> None:
    points = bent_arm().points
    places = spread_over(points, 55.0, 48)
    away = np.linalg.norm(points[:, None] - places, axis=2)
    assert away.min(1).max() < 55 + 25
    between = np.linalg.norm(places[:, None] - places, axis=2)[~np.eye(len(places), dtype=bool)]
    assert between.min() > 55
    assert len(spread_over(points, 55.0, 3)) == 3


def test_things_that_do_not_touch_are_told_apart() -> None:
    arm = bent_arm()
    other = replace(arm, points=arm.points + np.array([0.0, 0.0, 80.0]), view=np.ones(len(arm), int))
    both = Cloud(*(np.concatenate([getattr(arm, n), getattr(other, n)]) for n in ("points", "area", "view")))
    found = things(both)
    assert [len(thing) for thing in found] == [len(arm), len(arm)]
    assert [thing.n_views for thing in found] == [1, 1]
    together = things(replace(both, points=np.tile(arm.points, (2, 1))))
    assert len(together) == 1
    assert together[0].n_views == 2
    assert together[0].area.sum() == pytest.approx(arm.area.sum())


# -- over time -----------------------------------------------------------------------------------------------


def place(x: float, logit: float) -> Candidate:
    return Candidate(np.array([x, 0.0, 500.0]), logit)


def test_a_path_ignores_a_moment_of_doubt() -> None:
    # The hand glides; in three frames the elbow looks more like a hand.
    frames = [[place(5.0 * k, 2.0), place(400.0, 1.0)] for k in range(20)]
    for k in (8, 9, 15):
        frames[k] = [place(5.0 * k, -0.5), place(400.0, 2.5)]
    found = follow(frames)
    # Averaging over neighbours shortens the path at its ends.
    assert [f.palm_mm[0] for f in found if f is not None] == pytest.approx(5.0 * np.arange(20), abs=4.0)
    assert found[8] is not None
    assert found[2] is not None
    assert found[8].score < found[2].score


def test_frames_without_a_hand_stay_without() -> None:
    found = follow([[place(0, 1)], [], [place(10, 1)], []])
    assert [f is None for f in found] == [False, True, False, True]
    assert follow([[], []]) == [None, None]
    assert follow([]) == []


def test_a_hand_that_jumps_is_followed() -> None:
    frames = [[place(0, 2)]] * 10 + [[place(500, 2)]] * 10
    found = follow(frames)
    assert found[5] == Found(pytest.approx(np.array([0.0, 0, 500])), pytest.approx(1 / (1 + np.exp(-2))))
    assert found[15] is not None
    assert found[15].palm_mm[0] == pytest.approx(500)


def test_smoothing_follows_even_motion_without_lag() -> None:
    found = follow([[place(12.0 * k, 2.0)] for k in range(9)])
    assert found[4] is not None
    assert found[4].palm_mm[0] == pytest.approx(48.0, abs=0.1)


# -- the network ---------------------------------------------------------------------------------------------


def test_patches_show_ranges_along_their_own_ray() -> None:
    # A ball is the same ball wherever in the image it is.
    camera = Camera("a", 320, 240, (241.0, 241.0, 159.5, 119.5))
    v, u = np.mgrid[:240, :320].astype(float)
    rays = np.stack([(u - 159.5) / 241, (v - 119.5) / 241, np.ones_like(u)], axis=2)
    patches = []
    for center in (np.array([0.0, 0, 500]), np.array([220.0, -120, 480])):
        # |t ray - center| = 50: the nearer crossing.
        a, b, c = (rays**2).sum(2), rays @ center, center @ center - 50.0**2
        root = b**2 - a * c
        depth = np.where(root > 0, (b - np.sqrt(np.maximum(root, 0))) / a, 0).astype(np.float32)
        axes = ray_axes(center[None])
        assert np.allclose(axes[0] @ axes[0].T, np.eye(3))
        patches.append(cut_patches(depth, camera, center[None], axes, None)[0])
    middle = slice(PATCH_PX // 2 - 1, PATCH_PX // 2 + 1)
    for patch in patches:
        assert patch[middle, middle] * HALF_MM == pytest.approx(-50, abs=1.5)
        assert (patch < 1).sum() * (2 * HALF_MM / PATCH_PX) ** 2 == pytest.approx(np.pi * 50**2, rel=0.1)
    both = (patches[0] < 1) & (patches[1] < 1)
    assert np.abs(patches[0] - patches[1])[both].mean() * HALF_MM < 2.5


def test_background_and_what_lies_outside_are_nothing() -> None:
    camera = Camera("a", 160, 120, (120.0, 120.0, 79.5, 59.5))
    depth = np.full((120, 160), 500.0, np.float32)
    corner = np.array([[-330.0, -240, 500]])
    patch = cut_patches(depth, camera, corner, ray_axes(corner), None)[0]
    assert 0.15 < (patch < 1).mean() < 0.4  # a good quarter of it is inside the image
    edge = np.full((120, 160), 500.0 - BEFORE_MM, np.float32)
    middle = np.array([[0.0, 0, 480]])
    assert (cut_patches(depth, camera, middle, ray_axes(middle), edge) == 1).all()


def test_the_network_is_the_one_that_was_trained() -> None:
    """Numpy's convolutions against torch's."""
    torch = pytest.importorskip("torch")
    w = {name: torch.from_numpy(value) for name, value in built_in().weights.items()}
    patches = np.random.default_rng(0).uniform(-1, 1, (5, PATCH_PX, PATCH_PX)).astype(np.float32)
    for name, kernels in (("first", FIRST), ("again", AGAIN)):
        x = 1 - torch.from_numpy(patches)[:, None]
        for i, (channels_in, channels, side, stride) in enumerate(kernels):
            kernel = w[f"{name}.conv{i}"].reshape(side, side, channels_in, channels).permute(3, 2, 0, 1)
            bias = w[f"{name}.conv{i}_bias"]
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride=stride, padding=side // 2))
        x = torch.relu(x.permute(0, 2, 3, 1).flatten(1) @ w[f"{name}.hidden"] + w[f"{name}.hidden_bias"])
        expected = x @ w[f"{name}.out"] + w[f"{name}.out_bias"]
        assert np.allclose(run(built_in(), patches, again=name == "again"), expected.numpy(), atol=1e-3)


def test_a_look_leads_from_beside_the_palm_to_it(alone: list[Shot]) -> None:
    rng = np.random.default_rng(0)
    before, after = [], []
    for shot in alone:
        place = shot.palm_mm + rng.normal(size=(1, 3)) * 30
        palm, covariance = fuse(look(place, shot.depth_mm, RIG.cameras, [None] * 3, built_in()))
        before.append(np.linalg.norm(place - shot.palm_mm))
        after.append(np.linalg.norm(palm[0] - shot.palm_mm))
        assert (np.linalg.eigvalsh(covariance[0]) > 0).all()
    assert np.median(after) < 20
    assert np.median(after) < 0.5 * np.median(before)


def test_a_place_that_no_camera_sees_stays_where_it_is() -> None:
    nothing = [np.zeros((c.height, c.width), np.float32) for c in RIG.cameras]
    place = np.array([[10.0, 20, 30]])
    looks = look(place, nothing, RIG.cameras, [None] * 3, built_in())
    assert not looks.seen.any()
    assert np.allclose(fuse(looks)[0], place)


def stick(rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """A paddle on a stick, its 'palm' 60 mm from its end: a hand of another anatomy."""
    direction = rng.normal(size=3) * [1, 1, 0.4]
    direction /= np.linalg.norm(direction)
    side = np.cross(direction, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    normal = np.cross(direction, side)
    end = rng.uniform(-40, 40, 3) + 90 * direction
    palm = end - 60 * direction
    blade = box(palm, [60 * direction, 45 * side, 12 * normal])
    shaft = box(end - 220 * direction, [100 * direction, 14 * side, 14 * normal])
    mesh = joined([blade, shaft])
    images = []
    for camera in RIG.cameras:
        k = np.array(camera.k)
        images.append(rasterise(camera.to_camera(mesh.vertices), mesh.faces, k, camera.width, camera.height)[0])
    return images, palm


def test_a_fit_learns_another_anatomy() -> None:
    rng = np.random.default_rng(2)
    parts = []
    for _ in range(110):
        images, palm = stick(rng)
        parts += [patches_about(palm, image, c, rng) for image, c in zip(images, RIG.cameras, strict=True)]
    fitted = fit(built_in(), np.concatenate([p for p, _ in parts]), np.concatenate([o for _, o in parts]))
    before, after = [], []
    for _ in range(25):
        images, palm = stick(rng)
        for net, kept in ((built_in(), before), (fitted, after)):
            found = look(palm[None] + 10, images, RIG.cameras, [None] * 3, net, again=True)
            kept.append(np.linalg.norm(fuse(found)[0][0] - palm))
    assert np.median(after) < 12
    assert np.median(after) < 0.75 * np.median(before)


def test_too_few_patches_are_refused() -> None:
    few = np.zeros((LEAST_PATCHES - 1, PATCH_PX, PATCH_PX), np.float32)
    with pytest.raises(HandloomError, match="Too few hands"):
        fit(built_in(), few, np.zeros((len(few), 3)), where="S.zarr")
