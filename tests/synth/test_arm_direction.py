"""The forearm's direction is read from depth images, through noise, desks and other hands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from handloom.synth.anatomy import builtin_hand
from handloom.synth.arm_direction import wrist_candidates, wrist_from_depth
from handloom.synth.forearm import WRIST_DOFS
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.hand import mirror

CONFIG = SynthConfig(frames=64, unit_frames=64, views=3, crop_px=128, seed=5, sensor="none")


@pytest.mark.parametrize(
    ("values", "median_deg"),
    [({}, 10), ({"views": 1}, 10), ({"sensor": "structured-light", "scene": {"preset": "cluttered"}}, 12),
     ({"side": "left", "sensor": "structured-light", "scene": {"preset": "desk"}}, 12)],
    ids=["clean", "one view", "cluttered", "left on a desk"],
)  # fmt: skip
def test_wrists_are_found_in_rendered_images(values: dict[str, object], median_deg: float, tmp_path: Path) -> None:
    config = SynthConfig.model_validate(CONFIG.model_dump() | values)
    made = synthesise(config, tmp_path / "r.zarr", jobs=1)
    assert made.labels is not None
    assert made.crops is not None
    hand = builtin_hand() if config.side == "right" else mirror(builtin_hand())
    found = wrist_from_depth(hand, made.labels.read("root"), made.crops.read("crop"), made.crops.read("k"), made.rig)
    truth = made.labels.read("pose")[:, WRIST_DOFS]
    some = np.isfinite(found).all(1)
    assert some.mean() > 0.8
    error = np.degrees(np.linalg.norm(found - truth, axis=1))[some]
    assert np.median(error) < median_deg
    assert np.median(error) < 0.6 * np.median(np.degrees(np.linalg.norm(truth, axis=1)))


def test_empty_images_show_no_arm() -> None:
    rig = CONFIG.make_rig()
    root = np.zeros((2, 6))
    nothing = np.zeros((2, 3, 64, 64), np.uint16)
    assert np.isnan(wrist_from_depth(builtin_hand(), root, nothing, np.zeros((2, 3, 4)), rig)).all()
    # A wall far behind speaks against every direction, not for one.
    wall = np.full((2, 3, 64, 64), 1500, np.uint16)
    k = np.tile([64.0, 64.0, 31.5, 31.5], (2, 3, 1))
    assert np.isnan(wrist_from_depth(builtin_hand(), root, wall, k, rig)).all()


def test_candidates_stay_within_the_wrist_s_limits() -> None:
    low, high = np.array([[builtin_hand().dof[i].low_rad, builtin_hand().dof[i].high_rad] for i in WRIST_DOFS]).T
    angles = wrist_candidates()
    assert (angles >= low - 1e-9).all()
    assert (angles <= high + 1e-9).all()
    assert np.allclose([angles.min(0), angles.max(0)], [low, high])
