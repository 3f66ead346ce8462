from __future__ import annotations

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
