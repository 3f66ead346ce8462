"""The contact sheet shows what is stored, and the page holds everything itself."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.errors import HandloomError
from handloom.stores.joints import FINGERS, OPENXR26
from handloom.stores.recording import NO_PART, Recording, open_recording
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.hand import FOREARM
from handloom.synth.preview import distributions, facts_of, spread, write_preview
from handloom.synth.sheet import CELL, FINGER_RGB, TILE_PX, draw_sheet, read_shown

CONFIG = SynthConfig(frames=40, unit_frames=32, views=2, crop_px=96, subjects=5, seed=4, sensor="none")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return synthesise(CONFIG, tmp_path_factory.mktemp("preview") / "r.zarr", jobs=1)


def test_samples_are_spread_over_all_and_follow_the_seed() -> None:
    rows = spread(1000, 50, 3)
    assert ((rows >= np.arange(0, 1000, 20)) & (rows < np.arange(20, 1001, 20))).all()
    assert (spread(1000, 50, 3) == rows).all()
    assert (spread(1000, 50, 4) != rows).any()
    assert spread(7, 50, 0).tolist() == list(range(7))


def test_tiles_show_the_hand_and_its_joints(made: Recording) -> None:
    shown = read_shown(made, np.arange(8))
    assert shown.parts is not None
    assert shown.depth.shape == shown.parts.shape == (8, 2, TILE_PX, TILE_PX)
    assert ((shown.depth > 0) == (shown.parts != NO_PART)).mean() > 0.999
    palm = shown.joints_px[:, :, OPENXR26.index("palm")]
    assert np.abs(palm - (TILE_PX - 1) / 2).max() < 0.1
    # Where a joint's own bone is seen at its pixel, the mask there is its finger's.
    hits = []
    for finger in FINGERS:
        joint = OPENXR26.index(f"{finger}_distal")
        u, v = np.rint(shown.joints_px[:, :, joint]).astype(int).reshape(-1, 2).T
        inside = (u >= 0) & (u < TILE_PX) & (v >= 0) & (v < TILE_PX)
        part = shown.parts.reshape(-1, TILE_PX, TILE_PX)[np.flatnonzero(inside), v[inside], u[inside]]
        hits += [OPENXR26[bone].startswith(finger) for bone in part if bone < FOREARM]
    assert len(hits) > 50
    assert np.mean(hits) > 0.6


def test_the_sheet_has_a_block_for_every_sample(made: Recording) -> None:
    sheet = draw_sheet(read_shown(made, np.arange(7)))
    assert sheet.shape[2] == 4
    top = sheet[: TILE_PX - 1, : TILE_PX - 1]
    assert (top == CELL).all(-1).mean() > 0.3
    assert (top[..., 3] == 255).mean() > 0.02
    bones = sheet[TILE_PX : 2 * TILE_PX - 1, : TILE_PX - 1].reshape(-1, 4)
    assert {tuple(colour) for colour in bones[:, :3].tolist()} & set(FINGER_RGB.values())


def test_a_page_asks_nothing_of_the_network(made: Recording, tmp_path: Path) -> None:
    out = tmp_path / "s.html"
    done = run("synth", "preview", made.path, "--out", out, "--count", 9)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{out}: 9 samples\n", "")
    text = out.read_text()
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert set(re.findall(r'(?:src|srcset|href)="([a-z]+:)', text)) == {"data:"}
    assert not re.search(r'(?:src|srcset|href)="(?!data:)', text)
    assert text.count("<img") == 1 + 4 + 1
    assert made.uuid in text
    assert "The hand is seen" in text
    again = run("synth", "preview", made.path, "--out", out)
    assert again.exit_code == 2
    assert again.stderr == f"error: The preview exists already\n  where: {out}\n  fix:   --overwrite replaces it\n"


def test_distributions_are_those_of_the_recording(made: Recording) -> None:
    found = {distribution.title.split(",")[0]: distribution for distribution in distributions(made)}
    assert list(found) == ["Palm's distance", "Length of the hand", "Bending of a finger", "Joints that a camera sees"]
    assert found["Palm's distance"].values["cam0"] == pytest.approx(500, abs=101)
    length = found["Length of the hand"].values[""]
    assert ((length > 130) & (length < 230)).all()
    assert len(np.unique(length.round(1))) <= 5  # subjects, whatever they do with their hands
    bend = found["Bending of a finger"].values
    assert set(bend) == set(FINGERS)
    assert all(((values >= 0) & (values < 330)).all() for values in bend.values())


def test_provenance_is_told_whole(made: Recording) -> None:
    facts = facts_of(made)
    assert facts["cameras"] == "cam0 320 x 240, f 241 px; cam1 320 x 240, f 241 px"
    assert facts["command"] == "synth run"
    assert f"numpy {np.__version__}" in facts["packages"]


def test_a_configuration_is_shown_without_being_run(tmp_path: Path) -> None:
    out = tmp_path / "s.png"
    done = run("synth", "preview", "--out", out, "--count", 4, "--views", 2, "--frames", 5000, "-o", "crop_px=96")
    assert (done.exit_code, done.stdout) == (0, f"{out}: 4 samples\n")
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]
    image = cv2.imread(str(out))
    assert image.shape[0] < 400
    assert image.shape[1] > 4 * 2 * TILE_PX


def test_what_cannot_be_shown(made: Recording, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match=r"a \.html page or a \.png picture"):
        write_preview(made, tmp_path / "s.pdf", count=4, seed=0)
    assert run("synth", "preview", made.path, "--out", tmp_path / "a.png", "--views", 2).exit_code == 2
    shutil.copytree(made.path, tmp_path / "r.zarr")
    for table in ("crops", "labels", "frames"):
        (tmp_path / "r.zarr" / table / "committed.json").write_text('{"rows": 0}')
    with pytest.raises(HandloomError, match="no frames yet"):
        write_preview(open_recording(tmp_path / "r.zarr"), tmp_path / "s.png", count=4, seed=0)
    with pytest.raises(HandloomError, match="cannot be written"):
        write_preview(made, made.path / "zarr.json" / "s.png", count=4, seed=0)
