from __future__ import annotations

from pathlib import Path

import pytest

from handloom.stores.camera import Camera, Rig


@pytest.fixture
def rig() -> Rig:
    turned = ((0.0, 0.0, -1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    return Rig(
        (
            Camera("left", 64, 48, (60.0, 61.0, 31.5, 23.5), t=(0.0, 0.0, 500.0), serial="A1"),
            Camera("right", 80, 60, (70.0, 70.0, 40.0, 30.0), r=turned, t=(1.5, -2.0, 480.0), depth_unit_mm=0.5),
        )
    )


@pytest.fixture(scope="session")
def hand_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 frames of three cameras, two people, four sequences, with the true joints; its centres are found."""
    from handloom.capture.locating import locate
    from handloom.capture.record import record
    from handloom.capture.virtual import VirtualConfig, VirtualRig

    out = tmp_path_factory.mktemp("hand") / "r.zarr"
    config = VirtualConfig(frames=16, sequence_frames=4, subjects=2, scene=False, transport="direct", jobs=1, seed=7)
    with VirtualRig(config) as source:
        record(source, out, keep_truth=True)
    locate(out)
    return out
