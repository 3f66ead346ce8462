"""What every hand must be, wherever it comes from: one suite for the built-in hand and for every kind of file."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.joints import FINGERS, LAYOUTS, OPENXR26
from handloom.stores.recording import open_recording
from handloom.synth.config import SynthConfig
from handloom.synth.forearm import with_forearm
from handloom.synth.formats import open_hand
from handloom.synth.generate import synthesise
from handloom.synth.hand import (
    DOFS,
    FOREARM,
    N_BONES,
    N_MOVERS,
    PALM,
    POSE_SIZE,
    ROOT_SIZE,
    SHAPE_SIZE,
    WRIST,
    RiggedHand,
    landmarks,
    mirror,
    pose_hand,
)
from handloom.synth.surface import is_closed, volume, weld, without_slivers

ROOT, MEAN = np.zeros((1, ROOT_SIZE)), np.zeros((1, SHAPE_SIZE))
ARRAYS = ("vertices", "faces", "bone_index", "bone_weight", "parts", "joints", "frames")
NAMES = [dof.name for dof in DOFS]


@cache
def opened(source: str, mapping: Path | None) -> RiggedHand:
    """The hand of a file, read once for the whole suite."""
    return open_hand(source, mapping=mapping).hand


def half_closed(share: float = 0.45) -> np.ndarray:
    """(1, 25) rad: fingers and thumb bent by a share of what they can."""
    bends = ("mcp_flexion", "pip_flexion", "dip_flexion", "thumb_ip_flexion")
    return np.array([[share * dof.high_rad if dof.name.endswith(bends) else 0.0 for dof in DOFS]])


def tips_in_the_palm(hand: RiggedHand, finger: str) -> tuple[np.ndarray, np.ndarray]:
    """Where a finger's tip is at rest and bent, seen from the palm: x, y distal, z dorsal, mm."""
    pose = np.zeros((1, POSE_SIZE))
    for name in ("mcp", "pip", "dip"):
        pose[0, NAMES.index(f"{finger}_{name}_flexion")] = np.radians(50)
    tip = OPENXR26.index(f"{finger}_tip")
    bent = pose_hand(hand, pose, ROOT, MEAN).joints[0]
    return hand.joints[tip] - hand.joints[PALM], bent[tip] - bent[PALM]


class HandConformance:
    """Subclass it and give the `source`, what `--hand` takes; or, for a hand of no file, the `hand` itself."""

    @pytest.fixture
    def source(self) -> str | None:
        return None

    @pytest.fixture
    def mapping(self) -> Path | None:
        return None

    @pytest.fixture
    def hand(self, source: str, mapping: Path | None) -> RiggedHand:
        return opened(source, mapping)

    def test_the_mesh_is_closed_and_holds_a_volume(self, hand: RiggedHand) -> None:
        assert is_closed(hand.faces)
        _, place = weld(hand.vertices.astype(np.float64), 1e-3)
        assert is_closed(without_slivers(place[hand.faces]))
        assert 1e5 < volume(hand.vertices, hand.faces) < 2e6

    def test_weights_are_shares_of_bones(self, hand: RiggedHand) -> None:
        assert np.abs(hand.bone_weight.sum(1) - 1).max() < 1e-5
        assert hand.bone_weight.min() >= 0
        assert 0 <= hand.bone_index.min() <= hand.bone_index.max() < N_MOVERS
        fleshy = {i for i, n in enumerate(OPENXR26) if n.endswith(("proximal", "intermediate", "distal"))}
        assert fleshy <= set(hand.bones)
        assert hand.parts.max() < N_BONES
        assert hand.parts.shape == (len(hand.faces),)

    def test_the_zero_pose_is_the_rest_pose(self, hand: RiggedHand) -> None:
        posed = pose_hand(hand, np.zeros((1, POSE_SIZE)), ROOT, MEAN)
        assert np.abs(posed.vertices[0] - hand.vertices).max() < 1e-3
        assert np.abs(posed.joints[0] - hand.joints).max() < 1e-3

    def test_mirroring_twice_is_nothing(self, hand: RiggedHand) -> None:
        other = mirror(hand)
        assert other.side != hand.side
        assert volume(other.vertices, other.faces) == pytest.approx(volume(hand.vertices, hand.faces), rel=1e-5)
        again = mirror(other)
        assert (again.name, again.side) == (hand.name, hand.side)
        for name in ARRAYS:
            assert np.array_equal(getattr(again, name), getattr(hand, name)), name

    def test_it_lies_as_the_conventions_say(self, hand: RiggedHand) -> None:
        assert np.abs(hand.joints[WRIST]).max() < 1e-3
        middle = hand.joints[OPENXR26.index("middle_proximal")]
        assert middle[1] > 0.95 * np.linalg.norm(middle)
        thumb = hand.joints[OPENXR26.index("thumb_tip"), 0] - hand.joints[OPENXR26.index("little_tip"), 0]
        assert thumb * (-1 if hand.side == "right" else 1) > 30

    def test_frames_are_rotations_along_their_bones(self, hand: RiggedHand) -> None:
        assert np.abs(hand.frames @ hand.frames.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5
        assert np.allclose(np.linalg.det(hand.frames), 1, atol=1e-5)
        for finger in FINGERS:
            rows = [i for i, name in enumerate(OPENXR26) if name.startswith(finger)]
            for a, b in itertools.pairwise(rows):
                along = hand.joints[b] - hand.joints[a]
                assert along @ hand.frames[a, :, 1] > 0.99 * np.linalg.norm(along), OPENXR26[a]

    def test_landmarks_of_every_layout_lie_on_the_hand(self, hand: RiggedHand) -> None:
        for layout in LAYOUTS.values():
            points = landmarks(layout, hand.joints[None])[0]
            assert np.isfinite(points).all()
            nearest = np.linalg.norm(points[:, None] - hand.vertices[None], axis=-1).min(axis=1)
            assert nearest.max() < 25, layout.name

    @pytest.mark.parametrize("finger", FINGERS[1:])
    def test_a_flexed_finger_comes_to_the_palm(self, hand: RiggedHand, finger: str) -> None:
        rest, bent = tips_in_the_palm(hand, finger)
        assert bent[2] < rest[2] - 15
        assert np.linalg.norm(bent) < np.linalg.norm(rest) - 10

    def test_flesh_goes_where_its_bones_go(self, hand: RiggedHand) -> None:
        posed = pose_hand(hand, half_closed(), ROOT, MEAN)
        for finger in FINGERS:
            tip = OPENXR26.index(f"{finger}_tip")
            before = np.linalg.norm(hand.vertices - hand.joints[tip], axis=1)
            near = before < 12
            assert near.any(), finger
            after = np.linalg.norm(posed.vertices[0] - posed.joints[0, tip], axis=1)
            assert np.abs(after - before)[near].max() < 5, finger

    def test_a_half_closed_hand_keeps_its_volume(self, hand: RiggedHand) -> None:
        posed = pose_hand(hand, half_closed(), ROOT, MEAN)
        kept = volume(posed.vertices[0], hand.faces) / volume(hand.vertices, hand.faces)
        assert kept == pytest.approx(1, abs=0.15)

    def test_the_wrist_moves_a_forearm_and_nothing_else(self, hand: RiggedHand) -> None:
        pose = np.zeros((1, POSE_SIZE))
        pose[0, NAMES.index("wrist_flexion")] = 0.8
        posed = pose_hand(hand, pose, ROOT, MEAN)
        moved = np.linalg.norm(posed.vertices[0] - hand.vertices, axis=1)
        assert (moved.max() > 20) == (FOREARM in hand.bones)
        assert moved[hand.vertices[:, 1] > 60].max() < 0.01

    def test_an_arm_as_thick_as_its_wrist_goes_on_behind_it(self, hand: RiggedHand) -> None:
        armed = with_forearm(hand)
        assert is_closed(armed.faces)
        arm = armed.vertices[len(hand.vertices) :]
        lower = arm[arm[:, 1] > arm[:, 1].max() - 90]
        assert (np.ptp(lower[:, [0, 2]], axis=0) > (40, 28)).all()

    def test_a_run_with_it_works(
        self, hand: RiggedHand, source: str | None, mapping: Path | None, tmp_path: Path
    ) -> None:
        if source is None:
            pytest.skip("a hand of no file")
        config = SynthConfig(
            frames=32, unit_frames=32, views=1, crop_px=64, sensor="none",
            hand=source, side=hand.side, hand_mapping=mapping,
        )  # fmt: skip
        made = synthesise(config, tmp_path / "s.zarr", jobs=1)
        assert (made.n_frames, made.hand) == (32, hand.side)
        assert made.crops is not None
        seen = open_recording(made.path).provenance["hand"]
        assert seen["source"] == config.hand
        lit = (made.crops.read("crop") > 0).mean(axis=(1, 2, 3))
        # A bare hand fills a thirtieth of its window, more with its arm.
        assert np.median(lit) > 0.02
        assert set(np.unique(made.crops.read("parts"))) - {255} <= set(range(N_BONES))
