from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counting_source import Counting, check, rig

from handloom.capture.record import record
from handloom.capture.segments import differences
from handloom.stores.camera import Rig
from handloom.stores.errors import HandloomError
from handloom.stores.recording import open_recording


class Other(Counting):
    """Counting cameras of another rig."""

    def __init__(self, cameras: Rig, **given: Any) -> None:
        super().__init__(**given)
        self._rig = cameras

    @property
    def rig(self) -> Rig:
        return self._rig


def test_a_second_go_is_a_segment_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    before = record(Counting(count=20), out)
    made = record(Counting(first=100, count=30, lost=(105,)), out, resume=True)
    assert made.uuid == before.uuid
    assert check(made) == [*range(20), *range(100, 130)]
    assert made.frames is not None
    assert made.frames.read("frame_id").tolist() == list(range(50))
    assert made.frames.read("sequence").tolist() == [0] * 20 + [1] * 30
    first, second = made.attributes["segments"]
    assert (first["first_row"], first["sets"], first["sequence"]) == (0, 20, 0)
    assert (second["first_row"], second["sets"], second["sequence"]) == (20, 30, 1)
    assert first["started_unix_s"] <= first["ended_unix_s"] <= second["started_unix_s"] <= second["ended_unix_s"]
    assert second["sync"]["sets"] == 30
    assert first["drops"]["cam1"]["before_us"] == 0
    assert made.attributes["drops"]["cam1"] == {"no_room": 0, "before_us": 1}
    assert made.attributes["sequences"] == 2


def test_resuming_nothing_begins(tmp_path: Path) -> None:
    assert record(Counting(count=5), tmp_path / "r.zarr", resume=True).n_frames == 5


def test_what_is_cut_off_before_its_first_set_is_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    record(Counting(count=5), out)
    (out / "frames" / "committed.json").unlink()
    assert check(record(Counting(first=7, count=5), out, resume=True)) == [7, 8, 9, 10, 11]


CHANGES: dict[str, dict[str, Any]] = {
    "K was": {"k": (77.0, 76.8, 48.0, 36.0)},
    "distortion model was none, is brown-conrady": {"dist_model": "brown-conrady", "dist": (0.1, 0.0, 0.0, 0.0, 0.0)},
    "R was": {"r": ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))},
    "t was (60.0, 0.0, 500.0), is (61.0, 0.0, 500.0)": {"t": (61.0, 0.0, 500.0)},
    "depth_unit_mm was 1.0, is 0.25": {"depth_unit_mm": 0.25},
    "width was 96, is 97": {"width": 97},
    "serial was S1, is S7": {"serial": "S7"},
}


@pytest.mark.parametrize("words", CHANGES)
def test_another_rig_is_refused_by_what_differs(words: str, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    record(Counting(count=5), out)
    cam0, cam1 = rig().cameras
    with pytest.raises(HandloomError, match="begun with another rig") as caught:
        record(Other(Rig((cam0, replace(cam1, **CHANGES[words]))), first=50, count=5), out, resume=True)
    assert caught.value.why.startswith("cam1: ")
    assert words in caught.value.why
    assert "cam0" not in caught.value.why
    assert check(open_recording(out)) == [0, 1, 2, 3, 4]
    assert len(open_recording(out).attributes["segments"]) == 1


def test_other_cameras_another_hand_and_another_world_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    record(Counting(count=5), out)
    cam0, cam1 = rig().cameras
    assert differences(rig(), Rig((cam1, cam0))) == ["cameras were cam0, cam1, are cam1, cam0"]
    assert differences(rig(), rig()) == []
    with pytest.raises(HandloomError, match="virtual was True, is False"):
        record(Counting(count=5, provenance={"source": "cameras", "virtual": False}), out, resume=True)
    left = Counting(count=5)
    left.hand = "left"  # type: ignore[attr-defined]
    with pytest.raises(HandloomError, match="hand was right, is left"):
        record(left, out, resume=True)


def test_a_labelled_recording_is_not_continued(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    made = record(Counting(count=5), out)
    made.replace_labels(np.full((5, 26, 3), np.nan, np.float32), layout="openxr26")
    with pytest.raises(HandloomError, match=r"has labels[\s\S]*store merge"):
        record(Counting(first=9, count=5), out, resume=True)


def test_rows_are_committed_after_their_bytes_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[tuple[str, str, str]] = []
    fsync, replace_file = os.fsync, Path.replace

    def watched_fsync(handle: int) -> None:
        fsync(handle)
        events.append(("fsync", str(Path(f"/proc/self/fd/{handle}").readlink()), ""))

    def watched_replace(path: Path, target: Path) -> Path:
        rows = json.loads(path.read_text())["rows"] if Path(target).name == "committed.json" else ""
        events.append(("replace", str(path), f"{target}"))
        if rows:
            events.append(("commit", str(rows), ""))
        return replace_file(path, target)

    monkeypatch.setattr("os.fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    made = record(Counting(count=40), tmp_path / "r.zarr")
    table = made.frames
    assert table is not None
    commits = [(i, int(event[1])) for i, event in enumerate(events) if event[0] == "commit"]
    assert [rows for _, rows in commits] == [16, 32, 40]
    for unit, (end, _) in enumerate(commits):
        for column in table.columns.values():
            file = str(table.path / column.unit_key(unit))
            place, beside = next((i, e[1]) for i, e in enumerate(events) if e[0] == "replace" and e[2] == file)
            assert ("fsync", beside, "") in events[:place], file
            assert ("fsync", str(Path(file).parent), "") in events[place:end], file


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, 6 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_stops_it_and_a_larger_one_lets_it_go_on(small_disk: Path) -> None:
    out = small_disk / "r.zarr"
    with pytest.raises(HandloomError) as caught:
        record(Counting(count=5000), out)
    made = open_recording(out)
    numbers = check(made)
    assert len(numbers) > 16
    assert numbers == list(range(len(numbers)))
    assert str(caught.value) == (
        "The disk is full\n"
        f"  where: {out}\n"
        "  why:   No space left on device\n"
        f"  fix:   the first {len(numbers)} sets are safe; make room and record again with --resume"
    )
    assert caught.value.exit_code == 3
    with pytest.raises(HandloomError, match="The disk is full"):
        record(Counting(first=6000, count=5000), out, resume=True)
    assert check(open_recording(out))[: len(numbers)] == numbers
    subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
    made = record(Counting(first=20000, count=40), out, resume=True)
    assert check(made)[-40:] == list(range(20000, 20040))
    assert made.attributes["ended"] == "source ended"


def test_nothing_is_left_of_a_recording_that_did_not_fit_at_all(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes((6 << 20) - 20000))
    with pytest.raises(HandloomError, match="The disk is full"):
        record(Counting(count=5), small_disk / "r.zarr")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
