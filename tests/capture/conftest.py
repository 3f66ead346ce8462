from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from handloom.capture.source import Image
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.camera import Camera, Rig
from handloom.stores.libusb import load_libusb
from handloom.synth.rigs import ring_rig

load_libusb()  # the tests look whether the SDK can be imported, and it cannot without

PERIOD_NS = 33_333_333
COUNT = 24
LOST = {(0, 5), (1, 11), (1, 12)}
"""(camera, frame) of images that never come."""


@pytest.fixture(scope="session")
def small_rig() -> Rig:
    """Two cameras of different size, unit and place."""
    side = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    return Rig(
        (
            Camera("front", 64, 48, (48.25, 48.25, 31.5, 23.5), t=(0, 0, 500), depth_unit_mm=0.25, serial="F1"),
            Camera("side", 48, 40, (40.5, 41.5, 24.25, 19.75), r=side, t=(0, 0, 500), depth_unit_mm=1.0, serial="S2"),
        )
    )


@pytest.fixture(scope="session")
def content(small_rig: Rig) -> list[Image]:
    """What every source of the conformance suite must give back, in order of arrival."""
    rng = np.random.default_rng(3)
    images = []
    for number in range(COUNT):
        for view, camera in enumerate(small_rig.cameras):
            depth = rng.integers(0, 60000, (camera.height, camera.width)).astype(np.uint16)
            t = 1_000_000_000 + number * PERIOD_NS + view * 2_000_000
            if (view, number) not in LOST:
                images.append(Image(view, depth, t + view * 5_000_000_000, t + 3_000_000, number))
    return images


@pytest.fixture(scope="session")
def db3(small_rig: Rig, content: list[Image], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The content as RealSense recordings, one a camera."""
    pytest.importorskip("pyrealsense2")
    from handloom.capture.software import write_db3

    folder = tmp_path_factory.mktemp("realsense")
    paths = []
    for view, camera in enumerate(small_rig.cameras):
        paths.append(folder / f"{camera.name}.db3")
        mine = [image for image in content if image.camera == view]
        assert write_db3(paths[-1], camera, mine) == len(mine)
    return paths


@pytest.fixture
def virtual() -> Iterator[VirtualRig]:
    """A little session without the SDK."""
    config = VirtualConfig(frames=12, sequence_frames=6, transport="direct", drop=0.1, jobs=1, seed=4)
    with VirtualRig(config, rig=ring_rig(2, width=80, height=60, focal_px=60.0)) as source:
        yield source
