"""Charts: that they show what they are given, on either page."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from handloom.learn import figures
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.page import LIGHT

LAYOUT = layout_named("openxr26")


def pixels(png: bytes) -> np.ndarray:
    """(H, W, 4) BGRA."""
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape[2] == 4
    return image


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
    picture = figures.success_chart({"ours": np.linspace(10, 60, 50)})
    assert picture.dark is not None
    for png, page in ((picture.light, (255, 255, 255)), (picture.dark, (15, 19, 24))):
        image = pixels(png)
        assert image[0, 0, 3] == 0, "the ground is transparent"
        assert contrast(image, page) > 7


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
