"""Choosing frames to label: farthest first, in turns, deterministic, never what cannot be labelled."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.diverse import (
    Candidates,
    Selection,
    choose,
    crop_descriptors,
    find_candidates,
    pose_descriptors,
)
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording


def candidates(count: int, *, sequences: int = 1, labelled: tuple[int, ...] = ()) -> Candidates:
    given = np.isin(np.arange(count), labelled)
    sequence = np.arange(count, dtype=np.int32) * sequences // count
    return Candidates(np.arange(count) * 10, given, np.zeros(count, np.int32), sequence, count)


def pick(points: np.ndarray, n: int, who: Candidates | None = None, seed: int = 0) -> Selection:
    return choose(points, who or candidates(len(points)), n, rng=np.random.default_rng(seed))


def radius(points: np.ndarray, rows: np.ndarray) -> float:
    return float(np.linalg.norm(points[:, None] - points[rows // 10], axis=-1).min(1).max())


def test_it_is_within_twice_the_best_radius() -> None:
    """Gonzalez' bound, on clusters whose best centres are known."""
    rng = np.random.default_rng(1)
    middles = rng.uniform(-500, 500, (8, 3))
    points = (middles[:, None] + rng.uniform(-10, 10, (8, 30, 3))).reshape(-1, 3).astype(np.float32)
    best = float(np.linalg.norm(points.reshape(8, 30, 3) - middles[:, None], axis=-1).max())
    chosen = pick(points, 8)
    assert sorted(chosen.rows // 300) == list(range(8))  # one of each cluster
    assert radius(points, chosen.rows) <= 2 * best
    assert chosen.coverage[-1][3] == pytest.approx(radius(points, chosen.rows), abs=1e-3)


def test_a_shorter_selection_is_a_prefix_and_the_seed_draws_only_the_first() -> None:
    points = np.random.default_rng(2).normal(size=(200, 5)).astype(np.float32)
    assert pick(points, 5).rows.tolist() == pick(points, 20).rows[:5].tolist()
    assert pick(points, 20).rows.tolist() == pick(points, 20).rows.tolist()
    assert pick(points, 20).rows[0] != pick(points, 20, seed=1).rows[0]


def test_labelled_frames_are_centres_and_are_not_chosen_again() -> None:
    points = np.linspace(0, 100, 101, dtype=np.float32)[:, None]
    chosen = pick(points, 1, candidates(101, labelled=(100,)))
    assert chosen.rows.tolist() == [0]  # the farthest from what is labelled
    assert chosen.labelled_before == 1
    assert [k for k, *_ in chosen.coverage] == [1, 2]
    assert chosen.coverage[0][3] == 100
    assert chosen.coverage[1][3] == 50


def test_sequences_take_turns_though_one_looks_more_diverse() -> None:
    points = np.concatenate([np.random.default_rng(3).normal(0, 100, (50, 4)), np.zeros((150, 4))]).astype(np.float32)
    chosen = pick(points, 20, candidates(200, sequences=4))
    assert np.bincount(chosen.rows // 10 // 50).tolist() == [5, 5, 5, 5]
    # And a sequence that is exhausted leaves its turns to the others.
    short = candidates(200, sequences=4)
    short.labelled[:48] = True
    assert len(pick(points, 100, short).rows) == 100


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(HandloomError, match="--select 10 asks for more frames than can be chosen"):
        pick(np.zeros((10, 2), np.float32), 10, candidates(10, labelled=(3,)))


@pytest.fixture
def recording(hand_capture: Path, tmp_path: Path) -> Recording:
    """Without the labels, which the tests put back where they want them."""
    shutil.copytree(hand_capture, tmp_path / "r.zarr")
    recording = open_recording(tmp_path / "r.zarr")
    assert recording.labels is not None
    recording.replace_labels(np.full_like(recording.labels.read("joints"), np.nan), layout="openxr26")
    return recording


def test_crop_distances_are_depth_in_mm(recording: Recording) -> None:
    """The same hand 10 mm farther from every camera, its centre with it, is the same to it; 10 mm by itself is 10."""
    found = find_candidates(recording, split="train", min_score=0)
    before = crop_descriptors(recording, found.rows).astype(np.float32)
    crops = recording.crops
    assert crops is not None
    seen = crops.read("crop") > 0
    moved = Path(str(recording.path) + ".moved")
    shutil.copytree(recording.path, moved)
    shutil.rmtree(moved / "crops")
    other = open_recording(moved)
    table = other.create_crops(parts=False)
    from handloom.stores.table import Appender

    with Appender(table) as appender:
        rows = {name: crops.read(name) for name in crops.columns}
        step = (10 / recording.depth_unit_mm).astype(np.uint16)[:, None, None]
        appender.append(rows | {"crop": rows["crop"] + step * seen})
    after = crop_descriptors(open_recording(moved), found.rows).astype(np.float32)
    share = np.mean(seen & (np.abs(rows["crop"] * recording.depth_unit_mm[:, None, None] - 500) < 250))
    away = np.linalg.norm(after - before, axis=1)
    assert (away < 10).all()  # pixels without the hand do not move
    assert (away > 10 * np.sqrt(share) * 0.5).all()


def test_pose_distances_are_joints_in_mm_about_the_palm() -> None:
    joints = np.random.default_rng(0).normal(0, 50, (1, 26, 3))
    moved = joints + np.array([100, 0, 0])
    bent = joints.copy()
    bent[0, 10] += [0, 26**0.5 * 7, 0]
    points = pose_descriptors(np.concatenate([joints, moved, bent]), palm=0).astype(np.float64)
    assert np.linalg.norm(points[0] - points[1]) < 0.1
    assert np.linalg.norm(points[0] - points[2]) == pytest.approx(7, abs=0.05)


def test_frames_that_cannot_be_labelled_are_no_candidates(recording: Recording) -> None:
    assert len(find_candidates(recording, split="all", min_score=0).rows) == 16
    with pytest.raises(HandloomError, match="No frame is left to choose from") as caught:
        find_candidates(recording, split="test")
    assert "of 0 frames (test)" in str(caught.value)
    writing = open_recording(recording.path, writable=True)
    frames, crops = writing.frames, writing.crops
    assert frames is not None
    assert crops is not None
    present, source = frames.read("present"), crops.read("center_source")
    present[3, 1] = 0  # a dropped image
    source[5, 1:] = 0  # seen by one camera alone
    source[6, 2] = 0  # by two
    for table, name, values in ((frames, "present", present), (crops, "center_source", source)):
        rows = {column: table.read(column) for column in table.columns} | {name: values}
        for unit in range(-(-16 // table.unit_frames)):
            part = slice(unit * table.unit_frames, (unit + 1) * table.unit_frames)
            table.write_unit(unit, {column: value[part] for column, value in rows.items()})
    joints = np.full((16, 26, 3), np.nan, np.float32)
    joints[9, 4] = 0
    recording.replace_labels(joints, layout="openxr26")
    found = find_candidates(open_recording(recording.path), split="train", min_score=0)
    assert set(range(16)) - set(found.rows.tolist()) == {3, 5}
    assert found.rows[found.labelled].tolist() == [9]
    points = crop_descriptors(open_recording(recording.path), found.rows)
    assert np.isfinite(points).all()
    chosen = choose(points, found, 13, rng=np.random.default_rng(0))
    assert set(chosen.rows) == set(range(16)) - {3, 5, 9}


def test_an_unlocated_recording_is_refused(recording: Recording) -> None:
    shutil.rmtree(recording.path / "crops")
    with pytest.raises(HandloomError, match="no crops of the hand yet"):
        find_candidates(open_recording(recording.path), split="train")
