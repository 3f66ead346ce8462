"""Recordings of different origin are joined, and their twins follow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from handloom.cli import main
from handloom.stores.camera import Rig
from handloom.stores.edit import merge, repack, split, subset
from handloom.stores.errors import HandloomError
from handloom.stores.lineage import descent, twin_descent, usable_twins
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender
from handloom.stores.verify import verify

COUNT = 6


def capture(path: Path, rig: Rig, seed: int, *, first: int = 0) -> Recording:
    """Two sequences of three frames, of two people."""
    rng = np.random.default_rng(seed)
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "test"})
    number = np.arange(COUNT)
    both = np.repeat(number[:, None], 2, 1)
    images = {f"depth/{c.name}": rng.integers(400, 600, (COUNT, c.height, c.width)) for c in rig.cameras}
    times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), both)
    ids = {
        "frame_id": number.astype(np.uint64) + np.uint64(first),
        "subject": number // 3,
        "sequence": number // 3,
        "split": number % 3,
    }
    with Appender(recording.create_frames(depth=True, unit_frames=4)) as appender:
        appender.append({**images, **times, **ids, "present": np.ones((COUNT, 2), np.uint8)})
    recording.replace_labels(rng.uniform(-40, 40, (COUNT, 26, 3)).astype(np.float32), layout="openxr26")
    return open_recording(path)


def twins_of(real: Recording, path: Path, rows: list[int]) -> Recording:
    """Rows of twins whose joints are those of their frames."""
    assert real.frames is not None
    assert real.labels is not None
    count = len(rows)
    made = create_recording(
        path, kind="synthetic", rig=real.rig, hand="right", provenance={"source": "test"},
        attributes={"twins_of": real.uuid, "people": {"0": [real.uuid], "1": [1.0]}},
    )  # fmt: skip
    number = np.arange(count)
    times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), np.zeros((count, 2)))
    ids = {
        "frame_id": number, "sequence": number, "split": number * 0, "subject": real.frames.read_rows("subject", rows)
    }  # fmt: skip
    with Appender(made.create_frames(depth=False)) as appender:
        appender.append({**times, **ids, "present": np.ones((count, 2))})
    labels = {name: real.labels.read_rows(name, rows) for name in ("joints", "visible")}
    with Appender(made.create_labels(layout="openxr26", twin=True)) as appender:
        appender.append({**labels, "twin": real.frames.read_rows("frame_id", rows)})
    return open_recording(path)


def column(recording: Recording, name: str) -> list[Any]:
    table, name = (recording.labels, "twin") if name == "twin" else (recording.frames, name)
    assert table is not None
    return table.read(name).tolist()


def assert_true_twins(twins: Recording, real: Recording) -> None:
    """Each twin shows the joints of the frame that it names, and of the same person."""
    assert real.labels is not None
    assert twins.labels is not None
    found = usable_twins(twins, real)
    ids, here = found.translated(twins.labels.read("twin"))
    place = {frame: row for row, frame in enumerate(column(real, "frame_id"))}
    rows = [place[frame] for frame in ids[here].tolist() if frame in place]
    mine = [row for row, (frame, there) in enumerate(zip(ids.tolist(), here, strict=True)) if there and frame in place]
    np.testing.assert_array_equal(real.labels.read("joints")[rows], twins.labels.read("joints")[mine])
    subjects = column(twins, "subject")
    assert [column(real, "subject")[row] for row in rows] == [subjects[row] for row in mine]


@pytest.fixture
def a(rig: Rig, tmp_path: Path) -> Recording:
    return capture(tmp_path / "a.zarr", rig, 1)


@pytest.fixture
def b(rig: Rig, tmp_path: Path) -> Recording:
    return capture(tmp_path / "b.zarr", rig, 2)


def test_numbers_of_two_recordings_stay_apart(a: Recording, b: Recording, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="frame_id 0 is in two") as caught:
        merge([a.path, b.path], tmp_path / "ab.zarr")
    assert "--renumber" in caught.value.fix
    ab = merge([a.path, b.path], tmp_path / "ab.zarr", renumber=True)
    assert column(ab, "frame_id") == list(range(12))
    assert column(ab, "subject") == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert column(ab, "sequence") == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert ab.provenance["parents"][1]["renumbered"] == {"frame_id": 6, "subject": 2, "sequence": 2}
    assert "renumbered" not in ab.provenance["parents"][0]
    # Times that begin anew would not ascend if the sequences were taken for one.
    assert verify(ab.path, deep=True).findings == ()
    same = merge([a.path, b.path], tmp_path / "same.zarr", renumber=True, same_subjects=True)
    assert column(same, "subject") == [0, 0, 0, 1, 1, 1] * 2
    assert column(same, "sequence") == column(ab, "sequence")


def test_parts_of_one_recording_share_its_numbers_among_others(a: Recording, b: Recording, tmp_path: Path) -> None:
    one, two = split(a.path, tmp_path / "parts", by="sequence")
    out = merge([one.path, b.path, two.path], tmp_path / "o.zarr", renumber=True)
    assert column(out, "frame_id") == [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 4, 5]
    assert column(out, "subject") == [0, 0, 0, 2, 2, 2, 3, 3, 3, 1, 1, 1]
    again = repack(a.path, tmp_path / "again.zarr")
    with pytest.raises(HandloomError, match="in two") as caught:
        merge([a.path, again.path], tmp_path / "n.zarr", renumber=True)
    assert caught.value.fix == "leave one of these out"


def test_ids_that_interleave_are_moved_apart(rig: Rig, a: Recording, tmp_path: Path) -> None:
    far = subset(capture(tmp_path / "c.zarr", rig, 3, first=4).path, tmp_path / "f.zarr", rows=np.array([4, 5]))
    out = merge([far.path, a.path], tmp_path / "o.zarr", renumber=True)
    assert column(out, "frame_id") == [8, 9, 0, 1, 2, 3, 4, 5]
    large = capture(tmp_path / "l.zarr", rig, 4, first=2**64 - COUNT)
    more = capture(tmp_path / "m.zarr", rig, 5, first=2**64 - COUNT)
    with pytest.raises(HandloomError, match="not enough numbers"):
        merge([large.path, more.path], tmp_path / "n.zarr", renumber=True)


def test_twins_go_with_what_their_recording_became(a: Recording, tmp_path: Path) -> None:
    twins = twins_of(a, tmp_path / "t.zarr", [1, 2, 4])
    for real in (
        repack(a.path, tmp_path / "1.zarr", unit_frames=2),
        subset(a.path, tmp_path / "2.zarr", rows=np.array([1, 3, 4])),
        merge([part.path for part in split(a.path, tmp_path / "p", by="subject")], tmp_path / "3.zarr"),
        repack(repack(a.path, tmp_path / "4.zarr").path, tmp_path / "5.zarr"),
    ):
        assert_true_twins(twins, real)
        found = verify(twins.path, real=real.path)
        assert found.clean
        assert [f.rows for f in found.findings] == ([(1,)] if real.n_frames == 3 else [])
    again = merge([twins.path], tmp_path / "t2.zarr", real=tmp_path / "2.zarr")
    assert column(again, "twin") == [1, 4]
    assert verify(again.path, real=tmp_path / "2.zarr").findings == ()


def test_twins_of_a_renumbered_recording_are_refused_until_they_follow(
    a: Recording, b: Recording, tmp_path: Path
) -> None:
    ta, tb = twins_of(a, tmp_path / "ta.zarr", [1, 2, 4]), twins_of(b, tmp_path / "tb.zarr", [0, 5])
    ab = merge([a.path, b.path], tmp_path / "ab.zarr", renumber=True)
    assert_true_twins(ta, ab)
    with pytest.raises(HandloomError, match="were renumbered after") as caught:
        usable_twins(tb, ab)
    assert caught.value.fix == f"handloom store merge {tb.path} --real {ab.path} --renumber --out TWINS.zarr"
    assert [f.code for f in verify(tb.path, real=ab.path).findings] == ["twin"]
    with pytest.raises(HandloomError, match="differ: twins_of"):
        merge([ta.path, tb.path], tmp_path / "tab.zarr", renumber=True)
    done = CliRunner().invoke(
        main,
        ["store", "merge", *map(str, (ta.path, tb.path)), "--real", str(ab.path), "--renumber", "--out",
         str(tmp_path / "tab.zarr")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    tab = open_recording(tmp_path / "tab.zarr")
    assert column(tab, "twin") == [1, 2, 4, 6, 11]
    assert column(tab, "subject") == [0, 0, 1, 2, 3]
    assert column(tab, "frame_id") == [0, 1, 2, 3, 4]
    assert tab.attributes["twins_of"] == ab.uuid
    assert tab.attributes["people"] == {"0": [a.uuid], "1": [1.0], "2": [b.uuid], "3": [1.0]}
    assert_true_twins(tab, ab)
    assert verify(tab.path, real=ab.path).findings == ()
    # Once more: what was renumbered twice is found through both.
    c = capture(tmp_path / "c.zarr", a.rig, 9)
    cab = merge([c.path, ab.path], tmp_path / "cab.zarr", renumber=True)
    found = descent(cab, b.uuid)
    assert found is not None
    assert (found.frame_id, found.subject, found.spans) == (12, 4, ((12, 17),))
    assert_true_twins(merge([tb.path], tmp_path / "tc.zarr", real=cab.path), cab)


def test_another_s_frame_is_never_taken_for_a_twin_s(rig: Rig, a: Recording, tmp_path: Path) -> None:
    """Frames 3 to 5 of the outcome are not those of `a` that the twins show."""
    other = capture(tmp_path / "c.zarr", rig, 3, first=3)
    front = subset(a.path, tmp_path / "front.zarr", rows=np.array([0, 1, 2]))
    twins = twins_of(a, tmp_path / "t.zarr", [1, 4])
    mixed = merge([front.path, other.path], tmp_path / "m.zarr")
    found = twin_descent(twins, mixed)
    assert found.spans == ((0, 2),)
    assert verify(twins.path, real=mixed.path).clean
    assert [f.rows for f in verify(twins.path, real=mixed.path).findings] == [(1,)]
    # Where they lie among each other nobody can tell.
    odd = subset(a.path, tmp_path / "odd.zarr", rows=np.array([0, 5]))
    middle = subset(other.path, tmp_path / "middle.zarr", rows=np.array([0]))
    tangled = merge([odd.path, middle.path], tmp_path / "x.zarr")
    with pytest.raises(HandloomError, match="cannot be told"):
        twin_descent(twins, tangled)
    strangers = subset(other.path, tmp_path / "s.zarr", rows=np.array([0]))
    with pytest.raises(HandloomError, match="belong to another recording"):
        twin_descent(twins, strangers)
    with pytest.raises(HandloomError, match="belong to another recording"):
        merge([twins.path], tmp_path / "y.zarr", real=strangers.path)


def test_a_recording_of_no_frames_changes_nothing(rig: Rig, a: Recording, tmp_path: Path) -> None:
    """A recorder that was stopped before its first set: checking it ended in a traceback."""
    none = create_recording(
        tmp_path / "none.zarr", kind="captured", rig=rig, hand="right", provenance={"source": "test"}
    )
    none.create_frames(depth=True, unit_frames=4)
    none.create_labels(layout="openxr26")
    assert [finding.code for finding in verify(none.path, deep=True).findings] == ["empty"]
    both = merge([none.path, a.path], tmp_path / "o.zarr", renumber=True)
    assert column(both, "frame_id") == column(a, "frame_id")
    found = descent(both, a.uuid)
    assert found is not None
    assert (found.frame_id, found.spans) == (0, ((0, COUNT - 1),))
