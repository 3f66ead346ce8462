from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from handloom.cli import main
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.recording import SPLITS, Recording, create_recording, open_recording
from handloom.stores.splits import assign, draw, read_shares, shares_of
from handloom.stores.table import Appender, Table
from handloom.stores.verify import verify

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def make(path: Path, sequence: np.ndarray, subject: np.ndarray) -> Recording:
    rig = Rig((Camera("a", 8, 6, (9.0, 9.0, 4.0, 3.0)),))
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "test"})
    count = len(sequence)
    number = np.arange(count)
    times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), number[:, None])
    images = np.random.default_rng(0).integers(400, 600, (count, 6, 8))
    ids = {"frame_id": number, "subject": subject, "sequence": sequence, "split": number * 0}
    with Appender(recording.create_frames(depth=True, unit_frames=8)) as appender:
        appender.append({**times, **ids, "present": np.ones((count, 1)), "depth/a": images})
    return open_recording(path)


@pytest.fixture
def made(tmp_path: Path) -> Recording:
    return make(tmp_path / "r.zarr", np.repeat(np.arange(10), 5), np.repeat(np.arange(5), 10))


def splits(recording: Recording | Path) -> np.ndarray:
    frames = open_recording(recording if isinstance(recording, Path) else recording.path).frames
    assert frames is not None
    return frames.read("split")


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=3, max_size=12),
    weights=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
    seed=st.integers(0, 99),
)
def test_no_group_is_torn_and_every_share_gets_one(sizes: list[int], weights: list[int], seed: int) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes)).astype(np.int32)
    shares = {name: weight / sum(weights) for name, weight in zip(SPLITS, weights, strict=True)}
    split = draw(groups, shares, by="sequence", seed=seed, where="")
    assert all(len(np.unique(split[groups == one])) == 1 for one in np.unique(groups))
    for share in shares_of(split, groups, shares):
        assert share.groups >= 1
        # After each has one, none goes more than a group over what was asked.
        assert share.groups == 1 or share.frames <= share.asked * len(groups) + max(sizes)
    assert {SPLITS[i] for i in np.unique(split)} == {name for name, share in shares.items() if share > 0}
    np.testing.assert_array_equal(split, draw(groups, shares, by="sequence", seed=seed, where=""))


def test_the_recording_s_own_split_is_set_and_nothing_else(made: Recording) -> None:
    assert made.frames is not None
    before = {name: made.frames.read(name) for name in made.frames.columns}
    shares = assign(made.path, SHARES, by="subject", seed=3)
    assert [(share.name, share.frames, share.groups) for share in shares] == [
        ("train", 30, 3), ("val", 10, 1), ("test", 10, 1),
    ]  # fmt: skip
    after = open_recording(made.path)
    assert after.frames is not None
    assert (after.uuid, after.n_frames) == (made.uuid, 50)
    for name, values in before.items():
        assert np.array_equal(after.frames.read(name), values) == (name != "split")
    assert np.bincount(splits(made)).tolist() == [30, 10, 10]
    assert verify(made.path, deep=True).findings == ()
    with pytest.raises(HandloomError, match="split already") as caught:
        assign(made.path, SHARES, by="subject", seed=4)
    assert caught.value.why == "by subject, seed 3"
    drawn = {tuple(splits(made)) for seed in range(8) if assign(made.path, SHARES, by="subject", seed=seed,
                                                                overwrite=True)}  # fmt: skip
    assert len(drawn) > 4


def test_a_kill_on_the_way_is_said_and_mended(made: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Table.rewrite

    def killed(table: Table, name: str, values: np.ndarray) -> None:
        table._committed = 16
        whole(table, name, values[:16])
        raise KeyboardInterrupt

    monkeypatch.setattr(Table, "rewrite", killed)
    with pytest.raises(KeyboardInterrupt):
        assign(made.path, SHARES, by="sequence", seed=1)
    monkeypatch.undo()
    (found,) = verify(made.path, deep=True).findings
    assert found.code == "split"
    again = CliRunner().invoke(main, [*found.fix.replace("handloom ", "").split()])
    assert again.exit_code == 0, again.output
    groups = np.repeat(np.arange(10), 5).astype(np.int32)
    np.testing.assert_array_equal(splits(made), draw(groups, SHARES, by="sequence", seed=1, where=""))
    assert verify(made.path, deep=True).findings == ()


def test_too_few_groups_and_shares_that_are_none(made: Recording, tmp_path: Path) -> None:
    few = make(tmp_path / "f.zarr", np.repeat([0, 1], 5), np.zeros(10, int))
    with pytest.raises(HandloomError, match="fewer subjects than parts") as caught:
        assign(few.path, SHARES, by="subject", seed=0)
    assert "1 subject for 3 parts" in caught.value.why
    assert not splits(few).any()
    for wrong in ("train=0.8", "train=0.5,train=0.5", "practice=1", "train=x", "train=1.5,test=-0.5", ""):
        with pytest.raises(HandloomError, match="no shares"):
            read_shares(wrong)
    assert read_shares("train=0.9, test=0.1") == {"train": 0.9, "test": 0.1}


def test_the_commands(made: Recording, tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str, str]:
        done = CliRunner().invoke(main, ["store", "split", str(made.path), *map(str, arguments)])
        return done.exit_code, done.stdout, done.stderr

    asked = ("--shares", "train=0.6,val=0.2,test=0.2", "--by", "sequence", "--seed", 7)
    said = (
        "train  30 frames of 6 sequences, 60.0% (60.0%)\n"
        "val    10 frames of 2 sequences, 20.0% (20.0%)\n"
        "test   10 frames of 2 sequences, 20.0% (20.0%)\n"
    )
    parts = tmp_path / "parts"
    names = ("train", "val", "test")
    files = "".join(f"{parts}/{name}.zarr: {n} frames\n" for name, n in zip(names, (30, 10, 10), strict=True))
    assert run(*asked, "--out-dir", parts) == (
        0, f"{files}{said}next: handloom store verify {parts}/train.zarr --deep\n", "",
    )  # fmt: skip
    assert not splits(made).any(), "the source is left as it was"
    assert [np.unique(splits(parts / f"{name}.zarr")).tolist() for name in names] == [[0], [1], [2]]
    assert run(*asked) == (0, f"{said}next: handloom store info {made.path}\n", "")
    sequence = np.repeat(np.arange(10), 5)
    for i, name in enumerate(names):
        frames = open_recording(parts / f"{name}.zarr").frames
        assert frames is not None
        assert set(frames.read("sequence")) == set(sequence[splits(made) == i])
    code, _, error = run(*asked)
    assert code == 2
    assert "split already" in error
    assert run("--by", "sequence")[0] == 2
    assert run("--by", "split", "--shares", "train=1")[0] == 2
