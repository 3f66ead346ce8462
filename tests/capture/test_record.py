from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from handloom.capture.folder import FolderSource
from handloom.capture.record import record
from handloom.capture.source import DepthSource, Image
from handloom.stores.camera import Camera, Rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder
from handloom.stores.recording import open_recording

PERIOD_NS = 33_333_333
RIG = Rig((Camera("a", 32, 24, (30, 30, 16, 12), t=(0, 0, 500)), Camera("b", 40, 30, (30, 30, 20, 15), t=(0, 0, 500))))


def depth(view: int, number: int) -> np.ndarray:
    camera = RIG.cameras[view]
    return np.full((camera.height, camera.width), 100 * (view + 1) + number, np.uint16)


@dataclass
class Fake:
    """Images of two cameras on one clock; what `stop` is, is raised after `stop_after` images."""

    count: int = 40
    dropped: tuple[tuple[int, int], ...] = ()
    stop: BaseException | None = None
    stop_after: int = 0
    closed: bool = False
    rig: Rig = RIG
    clock: str = "global_time"
    live: bool = False
    provenance: dict[str, Any] = field(default_factory=lambda: {"source": "fake"})

    @property
    def n_images(self) -> int:
        return 2 * self.count - len(self.dropped)

    def frames(self) -> Iterator[Image]:
        given = 0
        for number in range(self.count):
            for view in range(2):
                if (view, number) in self.dropped:
                    continue
                if self.stop is not None and given >= self.stop_after:
                    raise self.stop
                given += 1
                t = number * PERIOD_NS + view * 2_000_000
                yield Image(view, depth(view, number), t, t + 5_000_000, number)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Fake:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_fake_is_a_source() -> None:
    assert isinstance(Fake(), DepthSource)


def test_every_image_lands_in_its_set(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    source = Fake(dropped=((0, 7), (1, 20), (1, 21)))
    made = record(source, tmp_path / "r.zarr", progress=lambda done, total: seen.append((done, total)))
    assert made.n_frames == 40
    assert seen[-1][0] >= 38  # the last sets come with the end of the source
    frames = open_recording(tmp_path / "r.zarr").frames
    assert frames is not None
    number, present = frames.read("frame_number"), frames.read("present")
    assert [tuple(row) for row in np.argwhere(present == 0)] == [(7, 0), (20, 1), (21, 1)]
    for view, name in enumerate(("a", "b")):
        images = frames.read(f"depth/{name}")
        for row in range(40):
            if present[row, view]:
                assert number[row, view] == row
                assert (images[row] == depth(view, row)).all()
            else:
                assert (number[row, view], frames.read("t_host_ns")[row, view]) == (-1, -1)
                assert not images[row].any()
    assert made.attributes["sync"]["cameras"]["b"]["lost"] == 2


def test_ctrl_c_keeps_what_was_recorded(tmp_path: Path) -> None:
    made = record(Fake(stop=KeyboardInterrupt(), stop_after=51), tmp_path / "r.zarr")
    assert made.n_frames in (25, 26)


def test_a_source_that_fails_leaves_a_readable_recording(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="unplugged"):
        record(Fake(stop=HandloomError("unplugged"), stop_after=60), tmp_path / "r.zarr")
    frames = open_recording(tmp_path / "r.zarr").frames
    assert frames is not None
    assert frames.committed >= 16
    assert (frames.read("depth/a")[:, 0, 0] == 100 + np.arange(frames.committed)).all()


def test_images_that_disagree_with_the_rig_are_refused(tmp_path: Path) -> None:
    wider = Rig((Camera("a", 33, 24, (30, 30, 16, 12)), RIG.cameras[1]))
    with pytest.raises(HandloomError, match=r"'a' disagrees with the rig[\s\S]*\(24, 32\)[\s\S]*\(24, 33\)"):
        record(Fake(rig=wider), tmp_path / "r.zarr")


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    record(Fake(count=3), tmp_path / "r.zarr")
    with pytest.raises(HandloomError, match="exists already"):
        record(Fake(count=3), tmp_path / "r.zarr")
    assert record(Fake(count=5), tmp_path / "r.zarr", overwrite=True).n_frames == 5


def test_a_source_without_images_says_so(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="gave no image"):
        record(Fake(count=0), tmp_path / "r.zarr")


def test_a_folder_is_recorded_with_its_gaps(tmp_path: Path) -> None:
    images = [(i.frame_number, i.camera, i.depth, i.t_device_ns, i.t_host_ns) for i in Fake(dropped=((0, 3),)).frames()]
    write_folder(tmp_path / "f", RIG, images)
    with FolderSource(tmp_path / "f") as source:
        assert isinstance(source, DepthSource)
        made = record(source, tmp_path / "r.zarr")
    assert made.rig == RIG
    assert made.n_frames == 40
    assert made.frames is not None
    assert made.frames.read("present")[3].tolist() == [0, 1]
    assert made.labels is None


def test_a_folder_of_cameras_with_clocks_of_their_own_is_grouped_by_them(tmp_path: Path) -> None:
    """Exported captures made a set of each image: their stamps were taken for those of one clock."""
    images = [
        (i.frame_number, i.camera, i.depth, i.t_device_ns + i.camera * 7_200_000_000_000, i.t_host_ns)
        for i in Fake(dropped=((0, 3),)).frames()
    ]
    write_folder(tmp_path / "f", RIG, images)
    with FolderSource(tmp_path / "f") as source:
        assert source.clock == "hardware_clock"
        made = record(source, tmp_path / "r.zarr")
    assert made.frames is not None
    number = made.frames.read("frame_number")
    assert number[:, 1].tolist() == list(range(40))
    assert number[:, 0].tolist() == [-1 if row == 3 else row for row in range(40)]


def test_only_a_source_that_knows_the_truth_can_keep_it(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="knows no truth"):
        record(Fake(), tmp_path / "r.zarr", keep_truth=True)
    assert not (tmp_path / "r.zarr").exists()


def test_a_terminal_that_is_closed_does_not_end_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handloom.capture.meter.READ_EVERY_S", 0.0)
    shown: list[object] = []

    def closed(*what: object) -> None:
        shown.append(what)
        raise OSError(5, "Input/output error")

    made = record(Fake(), tmp_path / "r.zarr", progress=closed, watch=closed)
    assert made.n_frames == 40
    assert len(shown) > 40
    assert made.attributes["ended"] == "source ended"


def test_a_source_that_gives_nothing_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    with pytest.raises(HandloomError, match="asleep"):
        record(Fake(stop=HandloomError("The cameras are asleep")), out)
    assert not out.exists()
    with pytest.raises(HandloomError, match="gave no images"):
        record(Fake(count=0), out)
    assert not out.exists()
