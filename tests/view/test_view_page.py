"""The page to look at a recording over ssh, driven in a browser; what it holds, leaves out and refuses."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from handloom.stores.camera import project
from handloom.stores.errors import HandloomError
from handloom.view import page as page_module
from handloom.view.page import packed, write_view_page
from handloom.view.shown import showing

from browser import Page, open_page


def data_of(path: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def unpacked(text: str, width: int, height: int) -> Any:
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, height, width)
    differences = planes[0].astype(np.uint16) | planes[1].astype(np.uint16) << 8
    return np.cumsum(differences, axis=1, dtype=np.uint16)


def drawn(page: Page, frame: int) -> None:
    page.wait_for(f"document.body.dataset.drawn === '{frame}'")


def colours(page: Page, canvas: str, x: float, y: float) -> list[int]:
    """Red, green, blue, alpha at a share of a canvas' width and height."""
    return page.evaluate(  # type: ignore[no-any-return]
        f"(() => {{ const c = document.querySelector('{canvas}'); const one = document.createElement('canvas');"
        " one.width = one.height = 1; const to = one.getContext('2d', {willReadFrequently: true});"
        f" to.drawImage(c, -Math.floor({x} * c.width), -Math.floor({y} * c.height));"
        " return [...to.getImageData(0, 0, 1, 1).data]; })()"
    )


def picture(page: Page, canvas: str) -> str:
    return page.evaluate(f"document.querySelector('{canvas}').toDataURL()")  # type: ignore[no-any-return]


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 48)])
def test_depth_survives_the_packing(shape: tuple[int, int]) -> None:
    depth = np.random.default_rng(3).integers(0, 65536, shape).astype(np.uint16)
    assert (unpacked(packed(depth), shape[1], shape[0]) == depth).all()


def test_the_page_holds_images_in_millimetres_and_joints(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    shown = showing(tmp_path / "r.zarr", poses=scene.poses(tmp_path / "p.csv"))
    made = write_view_page(shown, tmp_path / "r.html")
    assert (made.frames, made.asked) == (scene.frames, scene.frames)
    data = data_of(tmp_path / "r.html")
    assert [frame["id"] for frame in data["frames"]] == [100 + row for row in range(scene.frames)]
    frame = data["frames"][4]
    view = frame["views"][1]
    depth = unpacked(view["depth"], view["w"], view["h"])
    camera = scene.rig.cameras[1]
    assert shown.recording.frames is not None
    stored = shown.recording.frames.read("depth/side", 4, 5)[0]
    assert np.abs(depth - stored * 0.25).max() <= 0.5
    assert (depth == 0).sum() == (stored == 0).sum()
    assert view["center"] == pytest.approx(camera.to_camera(scene.palm(4)), abs=0.06)
    assert frame["truth"] == [pytest.approx(joint, abs=0.06) for joint in scene.joints("openxr26", 4)]
    assert frame["errors"] == pytest.approx({"near": 5, "side": 10, "rig": 2.5}, abs=0.02)
    assert data["frames"][scene.unlabelled]["truth"] is None
    assert data["frames"][scene.dropped[0]]["views"][1] is None
    assert "All 6 frames of the recording are here." in (tmp_path / "r.html").read_text()


def test_the_page_in_a_browser(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    shown = showing(tmp_path / "r.zarr", poses=scene.poses(tmp_path / "p.csv"))
    write_view_page(shown, tmp_path / "r.html")
    with open_page(tmp_path / "r.html", width=1300, height=1000) as page:
        drawn(page, 0)
        near, space = 'canvas[data-view="0"]', "#space"

        def said(selector: str) -> str:
            return str(page.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

        assert said("#said") == "1 of 6 · row 0 · frame_id 100 · 0.000 s"
        # Without its layers the ball is in its place: coloured at its middle, nothing beside it.
        for letter in "lpc":
            page.key(letter)
        camera = scene.rig.cameras[0]
        u, v = project(camera.to_camera(scene.palm(0)), camera.k)
        x, y = (u + 0.5) / camera.width, (v + 0.5) / camera.height
        assert colours(page, near, x, y)[3] == 255
        assert colours(page, near, 0.03, 0.03)[3] == 0
        bare = picture(page, near)
        # A predicted bone is drawn where it projects to: the tip of the spiral, far from the others.
        page.key("p")
        page.wait_for(f"document.querySelector('{near}').toDataURL() !== {json.dumps(bare)}")
        tip = scene.joints("openxr26", 0)[-1] + np.array([5.0, 0, 0])
        u, v = project(camera.to_camera(tip), camera.k)
        assert colours(page, near, (u + 0.5) / camera.width, (v + 0.5) / camera.height) == [255, 255, 255, 255]
        page.key("p")
        assert picture(page, near) == bare
        page.key("d")
        assert colours(page, near, x, y)[3] == 0
        for letter in "dlp":
            page.key(letter)
        # Time: arrows, the ends, the slider, the curve; what a frame lacks is said.
        page.key("ArrowRight")
        page.key("ArrowRight")
        drawn(page, 2)
        assert said("[data-view='1'] + figcaption .note") == "image dropped"
        page.key("ArrowRight")
        drawn(page, 3)
        assert said("#said").endswith("0.120 s · not labelled")
        page.key("End")
        drawn(page, 5)
        page.key("Home")
        drawn(page, 0)
        left, top, width, height = page.box("#curve")
        page.drag(left + width * 0.81, top + height / 2, left + width * 0.81, top + height / 2)
        drawn(page, 4)
        assert said("#curve-note") == "here: near 5.0, side 10.0, fused 2.5"
        page.click("#play")
        page.wait_for("document.querySelector('#play').textContent === 'Pause'")
        drawn(page, 5)
        drawn(page, 0)
        page.click("#play")
        page.wait_for("document.querySelector('#play').textContent === 'Play'")
        # Space: a drag turns, the wheel zooms, keys do both, 0 brings the first look back.
        first = picture(page, space)
        left, top, width, height = page.box(space)
        page.drag(left + width / 2, top + height / 2, left + width / 2 + 80, top + height / 2 + 30)
        turned = picture(page, space)
        page.wheel(left + width / 2, top + height / 2, -240)
        page.wait_for(f"document.querySelector('{space}').toDataURL() !== {json.dumps(turned)}")
        page.evaluate(f"document.querySelector('{space}').focus()")
        page.key("0")
        at = page.evaluate("document.body.dataset.drawn")
        page.wait_for(f"document.querySelector('{space}').toDataURL() === {json.dumps(first)}")
        page.key("ArrowLeft")
        assert picture(page, space) != first
        assert turned != first
        assert page.evaluate("document.body.dataset.drawn") == at, "arrows turn the space that has the focus"
        assert page.problems == []


def test_a_narrow_window_needs_no_scrolling_sideways(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr", whole=False, layout="nyu36", hand="left", times=False)
    write_view_page(showing(tmp_path / "r.zarr"), tmp_path / "r.html")
    with open_page(tmp_path / "r.html", width=400, height=800, scheme="dark") as page:
        drawn(page, 0)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        assert page.evaluate("document.querySelector('h1').textContent") == "r.zarr"
        assert page.evaluate("document.querySelector('#curve')") is None
        assert page.problems == []


def test_names_cannot_become_markup(scene: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "<b>&r.zarr"
    scene.write(path, layout=None, crops=False)
    write_view_page(showing(path), tmp_path / "r.html")
    assert "<b>&" not in (tmp_path / "r.html").read_text()
    with open_page(tmp_path / "r.html") as page:
        drawn(page, 0)
        assert page.evaluate("document.querySelector('h1').textContent") == "<b>&r.zarr"
        assert page.problems == []


def test_frames_are_taken_evenly_until_the_page_is_full(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(tmp_path / "r.zarr", frames=24)
    shown = showing(tmp_path / "r.zarr", frames="2:22")
    whole = write_view_page(shown, tmp_path / "all.html")
    assert whole.frames == 20
    budget = (
        sum(len(json.dumps(frame, separators=(",", ":"))) for frame in data_of(tmp_path / "all.html")["frames"]) // 4
    )
    monkeypatch.setattr(page_module, "BUDGET_BYTES", budget)
    made = write_view_page(shown, tmp_path / "some.html")
    rows = [frame["row"] for frame in data_of(tmp_path / "some.html")["frames"]]
    assert 4 <= len(rows) == made.frames <= 5
    assert (rows[0], rows[-1]) == (2, 21)
    assert np.ptp(np.diff(rows)) <= 1
    text = (tmp_path / "some.html").read_text()
    assert f"{len(rows)} of the 20 asked for of the recording&#39;s 24 frames are here, from row 2 to 21" in text
    # Who says how many gets them, or hears why not.
    every = showing(tmp_path / "r.zarr", frames="2:22", every=10)
    assert write_view_page(every, tmp_path / "every.html", every=10).frames == 2
    with pytest.raises(HandloomError, match="The page would become too large") as raised:
        write_view_page(showing(tmp_path / "r.zarr", every=2), tmp_path / "large.html", every=2)
    assert raised.value.fix.startswith("--every ")
    assert not (tmp_path / "large.html").exists()


def test_a_page_is_not_overwritten_unasked(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    (tmp_path / "r.html").write_text("mine")
    with pytest.raises(HandloomError, match="The page exists already"):
        write_view_page(showing(tmp_path / "r.zarr"), tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text() == "mine"
