"""Sheets and drawn hands: that they show what they are given, and that a browser draws them."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from handloom.learn.compare import JointDifference
from handloom.learn.hand_map import HAND_MM, HEAT, difference_map, hand_map
from handloom.learn.metrics import Interval
from handloom.learn.report import Report, Section
from handloom.learn.sheets import Cell, Sample, cell_sheet, crop_png, crop_sheet, skeleton_sheet, view_sheet
from handloom.stores.joints import FINGER_COLORS, LAYOUTS, OPENXR26, layout_named

from browser import open_page

LAYOUT = layout_named("openxr26")


def crops(n: int = 3) -> np.ndarray:
    """A square hand, nearer on the left, of 16 x 16 pixels in the middle of each."""
    found = np.ones((n, 32, 32), np.float32)
    found[:, 8:24, 8:24] = np.linspace(-0.5, 0.5, 16, dtype=np.float32)
    return found + np.arange(n, dtype=np.float32)[:, None, None] / 500 * (found < 1)


def joints() -> np.ndarray:
    return np.stack(np.meshgrid(np.linspace(4, 28, 13), [10.0, 22.0]), -1).reshape(26, 2)


@pytest.mark.parametrize("grey", [True, False])
def test_a_crop_is_transparent_where_there_is_no_hand_and_bright_where_it_is_near(grey: bool):
    image = np.asarray(Image.open(io.BytesIO(crop_png(crops(1)[0], grey=grey))).convert("RGBA")).astype(int)
    hand = image[..., 3] == 255
    assert hand.sum() == 16 * 16
    assert ((image[..., 3] == 0) == ~hand).all()
    light = image[10, 8:24, :3] @ (0.299, 0.587, 0.114)
    assert (np.diff(light) <= 1).all()
    assert light[0] - light[-1] > 40


def test_a_networks_background_and_unknown_depth_are_no_hand():
    for nothing in (np.full((16, 16), 0.98, np.float32), np.full((16, 16), np.nan, np.float32)):
        assert np.asarray(Image.open(io.BytesIO(crop_png(nothing, grey=False))).convert("RGBA"))[..., 3].max() == 0


def test_a_crop_shown_in_every_row_is_held_once():
    only = Sample(crops(1)[0], {"truth": joints(), "ours": joints() + 1}, {"ours": 3.25}, "frame <7>")
    drawn = skeleton_sheet([only, only], ["truth", "ours"], LAYOUT)
    assert len(drawn.images) == 1
    assert drawn.shapes.count("<use ") == 4
    assert "frame &lt;7&gt;" in drawn.shapes
    assert drawn.shapes.count("3.2 mm") == 2
    for finger in ("thumb", "little"):
        assert drawn.shapes.count(f'stroke="{FINGER_COLORS[finger]}"') == 8, "bones and joints, in every cell"


def test_unknown_joints_and_bones_to_them_are_left_out():
    some = joints()
    some[3:] = np.nan
    shapes = cell_sheet({"truth": [Cell(crops(1)[0], some), None]}, LAYOUT, titles=["", ""], alt="a").shapes
    assert "nan" not in shapes
    assert len(re.findall(r"M[\d. ]+h0", shapes)) == 6, "three joints, and white below them"
    nothing = cell_sheet({"truth": [Cell(crops(1)[0], np.full((26, 2), np.nan))]}, LAYOUT, titles=[""], alt="a").shapes
    assert "<path" not in nothing


def test_sheets_without_images_stand(tmp_path: Path):
    empty = [crop_sheet({"none": crops(0)}), view_sheet({}), cell_sheet({}, LAYOUT, titles=[], alt="nothing")]
    path = tmp_path / "page.html"
    Report("t", [Section("s", empty)]).write(path)
    with open_page(path) as page:
        assert page.problems == []


def test_the_browser_draws_crops_and_skeletons_where_they_belong(tmp_path: Path):
    """Pixels of the page: the hand's grey inside its square, the thumb's colour on its joints, no hand outside."""
    thumb = np.full((26, 2), np.nan)
    thumb[2:6] = joints()[2:6]
    one = Sample(crops(1)[0], {"truth": thumb}, {"truth": 1.0})
    path = tmp_path / "page.html"
    Report("t", [Section("s", [skeleton_sheet([one], ["truth"], LAYOUT)])]).write(path)
    for scheme, ground in (("light", (239, 241, 243)), ("dark", (29, 34, 41))):
        with open_page(path, scheme=scheme) as page:
            x, y, width, _ = page.box(".drawn .cell")
            page.screenshot(tmp_path / "shot.png")
            shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB")).astype(int)

            def at(u: float, v: float, x: float = x, y: float = y, width: float = width, shot: np.ndarray = shot):
                """The colour at the middle of a pixel of the crop."""
                return shot[round(y + (v + 0.5) * width / 32), round(x + (u + 0.5) * width / 32)]

            assert np.abs(at(2, 2) - ground).max() < 4
            assert np.ptp(at(16, 18)) < 8, "grey"
            rgb = [int(FINGER_COLORS["thumb"][i : i + 2], 16) for i in (1, 3, 5)]
            assert np.abs(at(*thumb[5]) - rgb).max() < 12
            assert page.problems == []


def test_the_drawn_hand_has_every_joint_of_every_layout():
    """Fingers do not cross, tips are outermost, whatever the layout."""
    places = np.array(HAND_MM)
    assert places.shape == (len(OPENXR26), 2)
    tips = places[[5, 10, 15, 20, 25]]
    assert (np.diff(tips[:, 0]) > 0).all()
    apart = np.linalg.norm(places[:, None] - places, axis=-1)[~np.eye(26, dtype=bool)]
    assert apart.min() > 11, "rings of 10.5 pixels at 1.85 pixels a millimetre do not lie over each other's numbers"
    for layout in LAYOUTS.values():
        drawn = hand_map("m", [1.0] * len(layout), layout, largest_mm=2.0)
        assert drawn.shapes.count("<circle") == len(layout)


def test_errors_are_heat_and_what_is_unknown_a_ring():
    errors = [0.0, *(float(i) for i in range(1, 13)), float("nan")]
    drawn = hand_map("<ours>", errors, LAYOUTS["nyu14"], largest_mm=12.0)
    assert "&lt;ours&gt;" in drawn.shapes
    assert "<ours>" not in drawn.shapes
    assert drawn.shapes.count('class="ring"') == 1
    assert "nan" not in drawn.shapes.lower()
    for color in (HEAT[0], HEAT[-1]):
        assert f'fill="{color}" stroke' in drawn.shapes
    assert re.search(r"<title>little_0: 0.00 mm</title>", drawn.shapes)
    nothing = hand_map("none", [float("nan")] * 14, LAYOUTS["nyu14"], largest_mm=0.0)
    assert nothing.shapes.count('class="ring"') == 14


def test_differences_are_coloured_where_they_are_sure():
    def one(name: str, mm: float, low: float, high: float) -> JointDifference:
        return JointDifference(name, mm, Interval(low, high, 9, "sequences"))

    layout = LAYOUTS["nyu14"]
    same = [one(point, 0.02, -1, 1) for point in layout.points]
    given = [
        one("a", -3.0, -4, -2),
        one("b", 3.0, 2, 4),
        one("c", 1.0, -1, 3),
        one("d", float("nan"), 0, 0),
        *same[4:],
    ]
    shapes = difference_map("ours", "theirs", given, layout, largest_mm=3.0).shapes
    assert shapes.count('class="ring"') == 12
    assert shapes.count('fill="#2166ac" stroke') == 1, "the first is better: blue"
    assert shapes.count('fill="#b2182b" stroke') == 1
    texts = re.findall(r'class="mark"[^>]*>([^<]*)<', shapes)
    assert texts == ["−3.0", "+3.0", "+1.0", "–", *["0"] * 10]
    assert "c: +1.00 mm (-1.00 to +3.00)" in shapes
