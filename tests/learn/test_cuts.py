"""The network's inputs against the formula written out, by numpy and compiled: odd crops, odd arrays."""

import importlib
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest

from handloom.learn import cuts
from handloom.stores.crops import crop_k, normalise

CENTERS = {
    "middle": (0.0, 0.0, 500.0),
    "over the left and upper edge": (-290.0, -230.0, 480.0),
    "over the right and lower edge": (310.0, 240.0, 470.0),
    "out of the image": (2000.0, 0.0, 500.0),
    "nearer than half the cube": (10.0, 5.0, 120.0),
    "as near as any": (0.0, 0.0, 50.1),
    "far": (300.0, -200.0, 3000.0),
    "farther than a count reaches": (0.0, 0.0, 99_000.0),
    "off the grid": (12.3456789, -7.654321, 523.4567),
}
K = (475.07, 471.3, 315.94, 245.29)


@dataclass(frozen=True)
class Image:
    depth: np.ndarray
    unit_mm: float = 1.0
    k: np.ndarray = field(default_factory=lambda: np.array(K))


def plain(image: Image, center: np.ndarray, side: int, cube_mm: float) -> np.ndarray:
    """Pixel by pixel what a crop shows, from the definitions in stores/crops.py."""
    fx, fy, cx, cy = crop_k(center, image.k, crop_px=side, window_mm=cube_mm)
    grid = np.arange(side)
    half = 0.5 + 1e-3 * (-1.0) ** grid
    columns = np.floor((grid - cx) / fx * image.k[0] + image.k[2] + half).astype(np.int64)
    rows = np.floor((grid - cy) / fy * image.k[1] + image.k[3] + half).astype(np.int64)
    height, width = image.depth.shape
    found = np.zeros((side, side), image.depth.dtype)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if 0 <= row < height and 0 <= column < width:
                found[i, j] = image.depth[row, column]
    return normalise(found * np.float32(image.unit_mm), center[2], cube_mm)


@pytest.fixture(params=["numpy", "compiled"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "compiled":
        importlib.import_module(cuts.KERNEL)
    else:
        monkeypatch.delitem(sys.modules, cuts.KERNEL, raising=False)
    return str(request.param)


def scene(rng: np.random.Generator, height: int = 480, width: int = 640) -> np.ndarray:
    """Depth 0 to 1000 mm all mixed, a third of it without a return."""
    depth = rng.integers(0, 1000, (height, width)).astype(np.uint16)
    depth[rng.random((height, width)) < 1 / 3] = 0
    return depth


@pytest.mark.parametrize("center", CENTERS.values(), ids=CENTERS)
@pytest.mark.parametrize("side", [32, 64, 128])
def test_a_crop_is_what_the_formula_says_to_the_bit(how: str, center: tuple[float, float, float], side: int):
    rng = np.random.default_rng(0)
    counts = scene(rng)
    images = [
        Image(counts),
        Image(counts, unit_mm=0.25),
        Image(counts.astype(np.float32) * np.float32(1.1)),
        Image(counts.astype(np.float64)),
        Image(scene(rng, 200, 300)),
        Image(scene(rng, 1, 1), k=np.array([475.0, 475.0, 0.0, 0.0])),
    ]
    where = np.array(center)
    ours = cuts.cut_all(images, np.tile(where, (len(images), 1)), input_px=side, cube_mm=300.0)
    for crop, image in zip(ours[:, 0], images, strict=True):
        np.testing.assert_array_equal(crop, plain(image, where, side, 300.0))


def test_depth_without_a_value(how: str):
    depth = np.full((48, 64), np.nan, np.float32)
    depth[::2] = np.inf
    depth[::3] = -500
    depth[20:24, 30:34] = 480
    image = Image(depth, k=np.array([40.0, 40.0, 31.5, 23.5]))
    crop = cuts.cut_all([image], np.array([[0.0, 0.0, 500.0]]), input_px=32, cube_mm=300.0)[0, 0]
    assert set(np.unique(crop).tolist()) == {np.float32(-20 / 150), 1.0}
    np.testing.assert_array_equal(crop, plain(image, np.array([0.0, 0.0, 500.0]), 32, 300.0))


def test_the_cube_has_its_faces(how: str):
    """150 mm before and behind the centre belong to it, a step more does not, 0 never does."""
    depth = np.array([[0, 349, 350, 351, 499, 500, 649, 650, 651, 65535]], np.uint16).repeat(3, axis=0)
    image = Image(depth, k=np.array([100.0, 100.0, 4.5, 1.0]))
    crop = cuts.cut_all([image], np.array([[0.0, 0.0, 500.0]]), input_px=60, cube_mm=300.0)[0, 0]
    np.testing.assert_array_equal(crop, plain(image, np.array([0.0, 0.0, 500.0]), 60, 300.0))
    row = crop[30]
    assert {-1.0, 1.0, 0.0} <= set(row.tolist())
    assert row.min() == -1
    near = Image(np.zeros((3, 10), np.uint16), k=image.k)
    assert (cuts.cut_all([near], np.array([[0.0, 0.0, 100.0]]), input_px=60, cube_mm=300.0) == 1).all()


def test_any_array_will_do(how: str):
    """Turned, strided and read-only images, as a memory map or a video gives them, are cut like copies of them."""
    depth = scene(np.random.default_rng(1))
    frozen = depth.copy()
    frozen.flags.writeable = False
    wide = np.zeros((480, 1280), np.uint16)
    wide[:, ::2] = depth
    big_endian = depth.astype(">u2")
    for odd in (np.asfortranarray(depth), depth[::-1], frozen, wide[:, ::2], big_endian):
        image = Image(odd)
        crop = cuts.cut_all([image], np.array([[0.0, 0.0, 500.0]]), input_px=64, cube_mm=300.0)[0, 0]
        np.testing.assert_array_equal(crop, plain(image, np.array([0.0, 0.0, 500.0]), 64, 300.0))


def test_no_image_at_all(how: str):
    assert cuts.cut_all([], np.zeros((0, 3)), input_px=64, cube_mm=300.0).shape == (0, 1, 64, 64)


def test_the_kernel_is_loaded_for_many_crops_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, cuts.KERNEL, raising=False)
    for crops in (None, 0, cuts.COMPILED_FROM - 1):
        cuts.compile_for(crops)
        assert cuts.KERNEL not in sys.modules
    cuts.compile_for(cuts.COMPILED_FROM)
    assert cuts.KERNEL in sys.modules
