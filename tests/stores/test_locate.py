from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.camera import Camera, Rig
from handloom.stores.cloud import Cloud, things, tips
from handloom.stores.errors import HandloomError
from handloom.stores.locate import (
    BACKGROUND_FRAMES,
    Found,
    background_of,
    clusters,
    find_hand,
    follow,
    hand_candidates,
    point_cloud,
)
from handloom.stores.palm import Candidate
from handloom.stores.palm_calibration import Example, calibrate
from handloom.stores.palm_values import BUILT_IN
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
    # Cells of the walk fall elsewhere, nothing else changes.
    assert np.median(away) < 5


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
    assert not cloud.border.any()


def test_a_surface_goes_on_at_the_image_and_at_the_background_it_touches() -> None:
    camera = Camera("a", 160, 120, (120.0, 120.0, 79.5, 59.5))
    depth = np.full((120, 160), 900.0, np.float32)
    background = depth.copy()
    background[:, :40] = 500.0  # a chest
    depth[:, :40] = 500.0
    depth[50:70, 36:100] = 460.0  # an arm that leaves it ...
    depth[90:120, 100:140] = 460.0  # ... and one that leaves the image
    cloud = point_cloud([depth], Rig((camera,)), [background])
    u, v = (cloud.points[:, i] / cloud.points[:, 2] * 120 + (79.5, 59.5)[i] for i in range(2))
    arm = v < 80
    assert cloud.border[arm & (u < 39.5)].mean() > 0.75  # what lies on the chest, but for the arm's own rim
    assert not cloud.border[arm & (u > 50)].any()
    assert cloud.border[~arm & (v > 118.5)].all()
    assert not cloud.border[~arm & (v < 110)].any()


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
    return Cloud(points, np.full(count, 20.0), np.tile([0.0, 0, 1], (count, 1)), np.zeros(count), np.zeros(count, int))


def test_far_ends_are_far_along_the_limb_not_through_the_air() -> None:
    first, second = (tip.point_mm for tip in tips(bent_arm(), 2))
    assert abs(first[0]) < 20
    assert abs(second[0]) < 20
    assert first[1] * second[1] < 0


def test_things_that_do_not_touch_are_told_apart() -> None:
    arm = bent_arm()
    other = replace(arm, points=arm.points + np.array([0.0, 0.0, 80.0]), view=np.ones(len(arm), int))
    both = Cloud(
        *(np.concatenate([getattr(arm, n), getattr(other, n)]) for n in ("points", "area", "ray", "border", "view"))
    )
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


# -- calibration ---------------------------------------------------------------------------------------------


def stick(rng: np.random.Generator) -> tuple[Rig, list[np.ndarray], np.ndarray, np.ndarray]:
    """A paddle on a stick, its 'palm' 60 mm from its end: a hand of another anatomy."""
    direction = rng.normal(size=3) * [1, 1, 0.4]
    direction /= np.linalg.norm(direction)
    side = np.cross(direction, [0.0, 0.0, 1.0])
    side /= np.linalg.norm(side)
    normal = np.cross(direction, side)
    end = rng.uniform(-40, 40, 3) + 90 * direction

    def box(low: float, high: float, wide: float, thick: float) -> tuple[np.ndarray, np.ndarray]:
        corners = [
            end - direction * (low if a else high) + side * wide * (2 * b - 1) + normal * thick * (2 * c - 1)
            for a in (0, 1)
            for b in (0, 1)
            for c in (0, 1)
        ]
        quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
        return np.array(corners), np.array([(q[0], q[i], q[i + 1]) for q in quads for i in (1, 2)])

    (v1, f1), (v2, f2) = box(0, 120, 45, 12), box(120, 320, 14, 14)
    vertices, faces = np.concatenate([v1, v2]), np.concatenate([f1, f2 + 8])
    images = []
    for camera in RIG.cameras:
        depth, _ = rasterise(camera.to_camera(vertices), faces, np.array(camera.k), camera.width, camera.height)
        images.append(depth)
    return RIG, images, end - 60 * direction, end - 120 * direction


def test_calibration_learns_another_anatomy() -> None:
    rng = np.random.default_rng(2)
    examples = []
    for _ in range(110):
        rig, images, palm, wrist = stick(rng)
        examples += [Example(cloud, palm, wrist) for cloud in clusters(point_cloud(images, rig, [None] * 3))]
    fitted = calibrate(examples, base=BUILT_IN)
    assert fitted.one is BUILT_IN.one  # nothing was shown of single views
    before, after = [], []
    for _ in range(25):
        rig, images, palm, _ = stick(rng)
        for calibration, kept in ((BUILT_IN, before), (fitted, after)):
            found = find_hand(images, rig, calibration=calibration)
            kept.append(np.inf if found is None else np.linalg.norm(found.palm_mm - palm))
    assert np.median(after) < 8
    assert np.median(after) < 0.6 * np.median(before)
    assert (np.array(after) < 20).mean() > 0.85


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(HandloomError, match="Too few hands"):
        calibrate([])
    assert calibrate([], base=BUILT_IN).several is BUILT_IN.several
