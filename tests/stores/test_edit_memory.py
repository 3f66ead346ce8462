"""Edits stream: a recording larger than what they may hold goes through them unchanged."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from handloom.stores.camera import Camera, Rig
from handloom.stores.edit import merge, repack, split, subset
from handloom.stores.export import export
from handloom.stores.recording import Recording, create_recording, open_recording
from handloom.stores.table import Appender
from handloom.stores.verify import verify

from recording_hash import array_hash

SIZE = (160, 120)
ROWS = 384
UNIT = 64
ROW_BYTES = 2 * 2 * SIZE[0] * SIZE[1]
BOUND = 3 * UNIT * ROW_BYTES
"""A unit of images as they are read, one as they are to be written, and what they are packed into; it was 4.5."""


def make(path: Path, first: int) -> Path:
    rig = Rig(tuple(Camera(name, *SIZE, (90.0, 90.0, 80.0, 60.0)) for name in ("a", "b")))
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "test"})
    slope = np.add.outer(np.arange(SIZE[1]), np.arange(SIZE[0])) + 500
    with Appender(recording.create_frames(depth=True, unit_frames=UNIT)) as appender:
        for start in range(first, first + ROWS, UNIT):
            number = np.arange(start, start + UNIT)
            both = number[:, None].repeat(2, 1)
            images = {f"depth/{name}": slope + number[:, None, None] % 97 + i for i, name in enumerate("ab")}
            times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), both)
            ids = {"frame_id": number, "subject": number * 0, "sequence": number // 192, "split": number * 0}
            appender.append({**images, **times, **ids, "present": np.ones((UNIT, 2))})
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [make(folder / f"{first}.zarr", first) for first in (0, ROWS)]


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_no_edit_holds_a_recording_in_memory(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handloom.stores.edit.UNIT_FRAMES", UNIT)
    whole, again, some = (tmp_path / f"{name}.zarr" for name in ("whole", "again", "some"))
    assert ROWS * ROW_BYTES * len(parts) > 2 * BOUND, "else the test shows nothing"
    assert peak_of(lambda: merge(parts, whole)) < BOUND
    assert peak_of(lambda: repack(whole, again, unit_frames=UNIT // 2)) < BOUND
    assert array_hash(open_recording(whole)) == array_hash(open_recording(again))
    assert peak_of(lambda: subset(whole, some, rows=np.arange(1, 2 * ROWS, 2))) < BOUND
    made: list[Recording] = []
    assert peak_of(lambda: made.extend(split(whole, tmp_path / "split", by="sequence"))) < BOUND
    assert [part.n_frames for part in made] == [192] * 4
    joined = merge([part.path for part in made], tmp_path / "joined.zarr")
    assert array_hash(joined) == array_hash(open_recording(whole))
    assert peak_of(lambda: verify(whole, deep=True)) < BOUND
    assert peak_of(lambda: export(parts[0], tmp_path / "plain")) < BOUND
