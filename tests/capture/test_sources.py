"""One suite for every depth source."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rosbag_writer import write_bag

from handloom.capture.folder import FolderSource
from handloom.capture.open import open_source
from handloom.capture.source import DepthSource, Image
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.camera import Rig, write_rig
from handloom.stores.errors import HandloomError
from handloom.stores.folder import write_folder
from handloom.synth.rigs import ring_rig


class SourceConformance:
    """Subclass and give `source`, and `expected` images by (camera, frame number) where they are known."""

    @pytest.fixture
    def source(self) -> Iterator[DepthSource]:
        raise NotImplementedError

    @pytest.fixture
    def expected(self) -> list[Image] | None:
        return None

    def test_it_is_a_source_and_says_what_it_is(self, source: DepthSource) -> None:
        assert isinstance(source, DepthSource)
        assert json.loads(json.dumps(source.provenance)) == source.provenance
        assert isinstance(source.provenance["source"], str)
        assert isinstance(source.provenance["virtual"], bool)
        assert source.clock in ("hardware_clock", "system_time", "global_time", "folder")

    def test_images_fit_the_rig(self, source: DepthSource) -> None:
        images = list(source.frames())
        assert {image.camera for image in images} == set(range(len(source.rig)))
        for image in images:
            camera = source.rig.cameras[image.camera]
            assert image.depth.shape == (camera.height, camera.width)
            assert image.depth.dtype == np.uint16
        assert source.n_images in (None, len(images))

    def test_times_and_numbers_of_a_camera_rise(self, source: DepthSource) -> None:
        images = list(source.frames())
        for view in range(len(source.rig)):
            mine = [image for image in images if image.camera == view]
            assert len(mine) > 1
            assert (np.diff([image.frame_number for image in mine]) > 0).all()
            assert (np.diff([image.t_device_ns for image in mine]) > 0).all()
            assert (np.diff([image.t_host_ns for image in mine]) >= 0).all()
        # Roughly in order of arrival: never more than a few sets ahead of another camera.
        arrivals = np.array([image.t_host_ns for image in images])
        assert (np.maximum.accumulate(arrivals) - arrivals).max() < 0.3e9

    def test_an_image_outlives_the_next(self, source: DepthSource) -> None:
        kept = [(image.depth, image.depth.copy()) for image in source.frames()]
        assert all((depth == copy).all() for depth, copy in kept)
        owners = [depth for depth, _ in kept]
        assert not any(np.shares_memory(a, b) for a, b in pairwise(owners))

    def test_it_gives_what_was_put_in(self, source: DepthSource, expected: list[Image] | None) -> None:
        if expected is None:
            pytest.skip("nothing to compare with")
        found = {(image.camera, image.frame_number): image for image in source.frames()}
        assert set(found) == {(image.camera, image.frame_number) for image in expected}
        for image in expected:
            twin = found[image.camera, image.frame_number]
            assert (twin.depth == image.depth).all()
            assert abs(twin.t_device_ns - image.t_device_ns) <= 1  # the SDK counts in double milliseconds

    def test_leaving_early_leaves_nothing_behind(self, source: DepthSource) -> None:
        frames = source.frames()
        next(frames)
        source.close()
        source.close()
        assert not [t for t in threading.enumerate() if t.name == "virtual-rig"]


class TestFolder(SourceConformance):
    @pytest.fixture
    def source(self, small_rig: Rig, content: list[Image], tmp_path: Path) -> Iterator[DepthSource]:
        rows = [(i.frame_number, i.camera, i.depth, i.t_device_ns, i.t_host_ns) for i in content]
        write_folder(tmp_path / "f", small_rig, rows)
        with FolderSource(tmp_path / "f") as source:
            yield source

    @pytest.fixture
    def expected(self, content: list[Image]) -> list[Image]:
        return content


class TestRealsense(SourceConformance):
    @pytest.fixture
    def source(self, db3: list[Path], small_rig: Rig, tmp_path: Path) -> Iterator[DepthSource]:
        write_rig(small_rig, tmp_path / "rig.toml")
        with open_source([str(path) for path in db3], rig=tmp_path / "rig.toml") as source:
            yield source

    @pytest.fixture
    def expected(self, content: list[Image]) -> list[Image]:
        return content

    def test_the_cameras_are_those_that_were_recorded(self, source: DepthSource, small_rig: Rig) -> None:
        assert source.rig == small_rig


class TestRealsenseBag(TestRealsense):
    """The same images in the older form, which the SDK reads but no longer writes."""

    @pytest.fixture
    def source(self, small_rig: Rig, content: list[Image], tmp_path: Path) -> Iterator[DepthSource]:
        pytest.importorskip("pyrealsense2")
        for view, camera in enumerate(small_rig.cameras):
            write_bag(tmp_path / f"{camera.name}.bag", camera, [i for i in content if i.camera == view])
        write_rig(small_rig, tmp_path / "rig.toml")
        paths = [str(tmp_path / f"{camera.name}.bag") for camera in small_rig.cameras]
        with open_source(paths, rig=tmp_path / "rig.toml") as source:
            assert source.provenance["file_kinds"] == ["bag", "bag"]
            assert source.provenance["virtual"] is False
            yield source


class TestVirtualDirect(SourceConformance):
    @pytest.fixture
    def source(self, virtual: VirtualRig) -> DepthSource:
        return virtual


class TestVirtualThroughTheSdk(SourceConformance):
    @pytest.fixture
    def source(self, virtual: VirtualRig) -> Iterator[DepthSource]:
        pytest.importorskip("pyrealsense2")
        config = virtual.config.model_copy(update={"transport": "software_device"})
        with VirtualRig(config, rig=virtual.rig) as source:
            assert source.provenance["transport"] == "rs.software_device"
            yield source

    @pytest.fixture
    def expected(self, virtual: VirtualRig) -> list[Image]:
        return list(virtual.frames())


def test_sources_are_opened_by_name(tmp_path: Path) -> None:
    with open_source(["virtual"], frames=3, views=2, seed=1) as source:
        assert len(source.rig) == 2
        assert source.provenance["virtual"] is True
    with pytest.raises(HandloomError, match=r"no such source[\s\S]*nowhere"):
        open_source([str(tmp_path / "nowhere")])
    with pytest.raises(HandloomError, match="source of its own"):
        open_source(["virtual", str(tmp_path)])
    with pytest.raises(HandloomError, match="source of its own"):
        open_source([str(tmp_path), str(tmp_path)])
    write_rig(ring_rig(1), tmp_path / "rig.toml")
    with pytest.raises(HandloomError, match=r"its own rig\.toml"):
        open_source([str(tmp_path)], rig=tmp_path / "rig.toml")


def test_the_sdk_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(HandloomError, match=r"pip install 'handloom\[realsense\]'"):
        VirtualRig(VirtualConfig(frames=1, transport="software_device"))
    with VirtualRig(VirtualConfig(frames=1)) as source:
        assert source.provenance["transport"] == "direct"
