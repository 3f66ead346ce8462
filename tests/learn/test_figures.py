"""Pictures: that they show what they are given, on either page."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from handloom.learn import figures
from handloom.learn.figures import Sample
from handloom.learn.metrics import Interval
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.page import DPI, LIGHT

LAYOUT = layout_named("openxr26")


def pixels(png: bytes) -> np.ndarray:
    """(H, W, 4) BGRA."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape[2] == 4
    return image


def crops(n: int = 3) -> np.ndarray:
    found = np.ones((n, 32, 32), np.float32)
    found[:, 8:24, 8:24] = np.linspace(-0.5, 0.5, 16, dtype=np.float32)
    return found


def contrast(image: np.ndarray, page: tuple[int, int, int]) -> float:
    """WCAG contrast of the picture's most different opaque pixel against a page colour (RGB)."""

    def luminance(rgb: np.ndarray) -> np.ndarray:
        c = rgb / 255.0
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return linear @ np.array([0.2126, 0.7152, 0.0722])

    opaque = image[image[..., 3] > 250][:, 2::-1]
    a, b = luminance(opaque.astype(float)), luminance(np.array(page, float))
    return float(((np.maximum(a, b) + 0.05) / (np.minimum(a, b) + 0.05)).max())


def test_charts_are_readable_on_both_pages():
    picture = figures.mean_chart({"ours": (12.0, Interval(11, 13, 9, "sequences"))})
    assert picture.dark is not None
    for png, page in ((picture.light, (255, 255, 255)), (picture.dark, (15, 19, 24))):
        image = pixels(png)
        assert image[0, 0, 3] == 0, "the ground is transparent"
        assert contrast(image, page) > 7


def test_crops_show_the_hand_and_leave_the_rest_to_the_page():
    picture = figures.crop_sheet({"captured": crops(2)}, columns=2)
    image = pixels(picture.light)
    opaque = image[..., 3] == 255
    # two hands of 16/32 of a 1.25 inch cell, one beside the other; the label is text, so less than these
    cell = (1.25 * DPI / 2) ** 2
    assert opaque.sum() == pytest.approx(2 * cell, rel=0.1)


def test_a_networks_background_is_no_hand():
    nearly = np.full((1, 16, 16), 0.98, np.float32)
    image = pixels(figures.view_sheet({"": nearly}).light)
    assert (image[..., 3] == 255).sum() == 0


def test_skeletons_are_drawn_in_the_fingers_colours():
    joints = np.stack(np.meshgrid(np.linspace(4, 28, 13), [10.0, 22.0]), -1).reshape(26, 2)
    only = Sample(crops(1)[0], {"truth": joints, "ours": joints + 1}, {"ours": 3.25}, "frame 7")
    image = pixels(figures.skeleton_sheet([only], ["truth", "ours"], LAYOUT).light)
    for finger in ("thumb", "little"):
        rgb = [int(figures.FINGER_COLORS[finger][i : i + 2], 16) for i in (1, 3, 5)]
        drawn = (np.abs(image[..., 2::-1].astype(int) - rgb).max(axis=-1) < 8).sum()
        assert drawn / figures.SHEET_DPI**2 > 50 / DPI**2, "square inches, whatever the pixels"


def test_unknown_joints_are_left_out():
    joints = np.full((26, 2), np.nan)
    only = Sample(crops(1)[0], {"truth": joints}, {})
    image = pixels(figures.skeleton_sheet([only], ["truth"], LAYOUT).light)
    rgb = [int(figures.FINGER_COLORS["thumb"][i : i + 2], 16) for i in (1, 3, 5)]
    assert (np.abs(image[..., 2::-1].astype(int) - rgb).max(axis=-1) < 8).sum() == 0


def test_every_model_gets_its_own_colour():
    worst = {f"model {i}": np.linspace(5 * i, 60, 50) for i in range(4)}
    image = pixels(figures.success_chart(worst).light)
    for color in LIGHT.series[:4]:
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(image[..., 2::-1].astype(int) - rgb).max(axis=-1) < 6).sum() > 30
    assert len(figures.joint_chart({"a": [1.0] * 26, "b": [2.0] * 26}, LAYOUT.points).light) > 5000


def test_curves_of_a_run_are_read_past_an_unfinished_line(tmp_path: Path):
    rows = [{"step": 0, "loss": 2.0, "stage": "pretrain"}, {"step": 50, "loss": 1.0, "val/mean_mm": 20.0}]
    text = "\n".join(json.dumps(row) for row in rows) + '\n{"step": 100, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    curves = figures.read_curves(tmp_path)
    assert curves == {"loss": ([0.0, 50.0], [2.0, 1.0]), "val/mean_mm": ([50.0], [20.0])}
    assert figures.training_chart({"loss": curves["loss"]}, ylabel="loss", log=True).dark is not None
    with pytest.raises(HandloomError, match="no metrics"):
        figures.read_curves(tmp_path / "none")


def test_fingers_of_points():
    assert figures.finger_of("thumb_tip") == "thumb"
    assert figures.finger_of("palm_inner") == ""
