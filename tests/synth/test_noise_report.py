"""The page that shows real beside synthetic: whole in itself, with every parameter and both sides of every curve."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from handloom.capture.record import record
from handloom.capture.virtual import VirtualConfig, VirtualRig
from handloom.stores.errors import HandloomError
from handloom.synth.noise_fit import NoiseFit, fit_noise
from handloom.synth.noise_measure import retake
from handloom.synth.noise_report import write_report
from handloom.synth.rigs import ring_rig


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> NoiseFit:
    config = VirtualConfig(frames=20, sequence_frames=10, transport="direct", jobs=1)
    with VirtualRig(config, rig=ring_rig(1)) as source:
        recording = record(source, tmp_path_factory.mktemp("noise") / "r.zarr")
    return fit_noise(recording, seed=0)


def test_the_page_holds_all_it_shows(fit: NoiseFit, tmp_path: Path) -> None:
    out = tmp_path / "noise.html"
    write_report(fit, out, name="r.zarr", seed=0)
    page = out.read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    links = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    assert len(links) >= 20
    assert all(link.startswith("data:") for link in links)
    for e in fit.estimates:
        assert f"<td>{e.name}</td>" in page
    shown = re.findall(r"<figcaption[^>]*>(.*?)</figcaption>", page)
    assert len(shown) == len(set(shown)) >= 9
    assert "model: structured-light" in page


def test_a_page_is_not_overwritten_unasked(fit: NoiseFit, tmp_path: Path) -> None:
    out = tmp_path / "noise.html"
    out.write_text("mine")
    with pytest.raises(HandloomError, match="exists already"):
        write_report(fit, out, name="r.zarr", seed=0)
    assert out.read_text() == "mine"


def test_a_frame_taken_again_shows_the_same_scene(fit: NoiseFit) -> None:
    """Depths agree within a few steps where both return, and holes are as many within a quarter."""
    view, still = fit.measured.views[0], fit.measured.stills[0]
    real, again = view.codes[10], retake(view, still, fit.sensor, 10, 3)
    both = (real > 0) & (again > 0)
    z = real[both].astype(np.float64)
    step = np.maximum(z**2 / (fit.measured.levels.quantum_px * view.camera.k[0]), 1)
    assert np.median(np.abs(again[both] - z) / step) <= 1
    assert np.mean(np.abs(again[both] - z) > 4 * step) < 0.05
    assert (again == 0).mean() == pytest.approx((real == 0).mean(), rel=0.25)
