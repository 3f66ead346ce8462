from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from handloom.cli import main
from handloom.learn.crossing_figures import (
    NYU_ERROR_MM,
    Share,
    health_blocks,
    paper_chart,
    shares_chart,
    triplet_picture,
    verdict,
    walk_animation,
    walk_picture,
)
from handloom.learn.crossing_pictures import known_crops, space_sections, walk_stations
from handloom.learn.crossing_space import walk_past
from handloom.learn.model import PoseModel
from handloom.learn.report import Gallery, Report, Text
from handloom.stores.errors import HandloomError
from handloom.stores.page import Picture
from handloom.stores.recording import open_recording


def decoded(picture: Picture) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(picture.light, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def test_a_walk_shows_poses_above_depth(drawing_model: PoseModel) -> None:
    anchors = torch.randn(2, 26, 3, generator=torch.Generator().manual_seed(2)) * 40
    walked, at = walk_past(drawing_model, anchors, points=10)
    picture = walk_picture(walked, drawing_model, stations=at)
    image = decoded(picture)
    # Ten points: a band of eight and one of two, each of a bar and two cells, gaps between; the rest stays empty.
    band = 4 + 2 * 130 + 3
    assert image.shape == (2 * band, 8 * 133 - 3, 3)
    assert picture.width_px == image.shape[1]
    assert image[4:134, :130].std() > 5
    assert image[band:, 2 * 133 :].std() == 0
    bright = [int(image[band * (i // 8) + 1, 133 * (i % 8) + 60].mean()) > 120 for i in range(10)]
    assert bright == [True, *[False] * 8, True], "the true poses carry a bar"
    poses, depth = image[4:134].astype(int), image[134:264].astype(int)
    colour = np.ptp(poses, axis=2).max(), np.ptp(depth, axis=2).max()
    assert colour[0] > 100 > colour[1], "fingers have colours of their own, depth has not"


def test_the_moving_picture_has_a_frame_a_step(drawing_model: PoseModel) -> None:
    anchors = torch.randn(2, 26, 3, generator=torch.Generator().manual_seed(2)) * 40
    moving = walk_animation(walk_past(drawing_model, anchors, points=5)[0], drawing_model)
    image = Image.open(io.BytesIO(moving.light))
    assert image.format == "PNG"
    assert (image.n_frames, image.size) == (5, (403, 203))
    image.seek(4)
    assert image.info["duration"] == 120


def test_triplets_are_truth_space_and_estimate(drawing_model: PoseModel) -> None:
    crops = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.8
    truth = torch.randn(3, 26, 3, generator=torch.Generator().manual_seed(4)) * 40
    image = decoded(triplet_picture(drawing_model, crops, truth))
    assert image.shape == (3 * (18 + 133), 3 * 133 - 3, 3)
    assert not np.array_equal(image[18:148, :130], image[320:450, :130])


def test_a_collapse_is_named_with_its_step() -> None:
    curves = {
        "stage": ([10.0, 20.0, 30.0], [1.0, 1.0, 3.0]),
        "gan/diversity": ([10.0, 20.0, 30.0], [0.9, 0.04, 0.95]),
    }
    assert verdict(curves) == [
        "The generator had collapsed at step 20: its maps differ from each other by 4 % of what captured ones do "
        "(about 100 % is healthy, below 30 % is a collapse)."
    ]
    assert verdict({}) == []


def test_a_run_s_health_is_shown(tmp_path: Path) -> None:
    lines = [
        {"step": 50 * i, "stage": 1.0, "gan/diversity": 0.01, "gan/accuracy_real": 0.9, "gan/accuracy_generated": 1.0}
        for i in (1, 2)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "samples").mkdir()
    for name in ("gan-0001", "gan-0002", "joint-0001"):
        Image.new("RGB", (len(name), 4), "white").save(tmp_path / "samples" / f"{name}.png")
    blocks = health_blocks(tmp_path)
    assert isinstance(blocks[0], Text)
    assert "collapsed at step 100" in blocks[0].text
    sheets, charts = (block.pictures for block in blocks if isinstance(block, Gallery))
    assert [decoded(sheet).shape[1] for sheet in sheets] == [8, 10]  # type: ignore[arg-type]
    assert [sheet.caption.split("'")[1] for sheet in sheets] == ["gan", "joint"], "the last of each stage"
    assert len(charts) == 2, "the game and the diversity"


def test_stations_of_a_walk_are_near_each_other_and_of_one_camera(drawing_model: PoseModel, recordings: Any) -> None:
    known = known_crops(drawing_model, open_recording(recordings.real), split="all")
    for seed in range(3):
        stations, view = walk_stations(known, seed=seed)
        assert len(set(stations)) == len(stations) == 6
        assert (known.view[stations] == view).all()
    stations, _ = walk_stations(replace(known, view=np.arange(len(known.view))), seed=0)
    assert len(stations) == 1


def test_error_over_the_share_of_labels_is_drawn(tmp_path: Path) -> None:
    arms = {"crossing paper": [Share(2, 30.0, 2.0), Share(100, 20.0, float("inf"))], "other": [Share(2, 40.0, 1.0)]}
    for picture in (shares_chart(arms), paper_chart()):
        assert decoded(picture).shape[2] == 3
        assert picture.dark is not None
    assert NYU_ERROR_MM == {2: 17.7, 5: 17.4, 10: 16.5, 25: 16.1, 50: 16.0, 75: 15.9, 100: 15.5}


def test_known_crops_are_those_of_whole_labels(drawing_model: PoseModel, recordings: Any) -> None:
    real = open_recording(recordings.real)
    known = known_crops(drawing_model, real, split="test")
    assert len(known.crops) == 8
    assert known.crops.shape[1:] == (1, 32, 32)
    assert float(known.joints_mm[:, 0].norm(dim=-1).max()) < 60, "about the centre that was found"
    with pytest.raises(HandloomError, match="no labels to start from"):
        known_crops(drawing_model, open_recording(recordings.unlabelled), split="all")


def test_a_report_shows_the_space_and_the_game(drawing_model: PoseModel, tmp_path: Path, recordings: Any) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "stage": 3.0, "gan/diversity": 0.1}) + "\n")
    real = open_recording(recordings.real)
    space, game = space_sections(drawing_model, tmp_path, real, split="test", seed=0)
    assert (space.title, game.title) == ("The shared latent space", "The depth GAN")
    html = Report("x", [space, game]).html()
    assert html.count("data:image/png;base64,") == 4 + 2, "four pictures, the diversity for either ground"
    assert "The generator had collapsed at step 1" in html
    assert "A walk past 3 true poses" in html


def test_the_command_draws_all_pictures_once(run: Path, tmp_path: Path, recordings: Any) -> None:
    out = tmp_path / "pictures"
    command = ["latent", "pictures", str(run), "--on", str(recordings.real), "--out", str(out)]
    done = CliRunner().invoke(main, [*command, "--frames", "2001,2030"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        f"{out}/walk.png: A walk past 3 true poses as cam0 sees them (they carry a bar): poses above the depth "
        "generated of them.",
        f"{out}/walk-moving.png: A walk as a moving picture, and back to its start: poses beside the depth "
        "generated of them.",
        f"{out}/between.png: From frame 2001 to 2030, by the latents found in their depth.",
        f"{out}/triplets.png: True pose, both through the shared space, estimated pose, from top to bottom.",
        f"next: handloom latent hands {run} --on {recordings.real}",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["between.png", "triplets.png", "walk-moving.png", "walk.png"]
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 2
    assert "The picture exists already" in again.output
    wrong = CliRunner().invoke(main, [*command, "--overwrite", "--frames", "5,2001"])
    assert wrong.exit_code == 2
    assert "Frame 5 cannot be drawn" in wrong.output
    assert CliRunner().invoke(main, [*command, "--overwrite", "--frames", "5"]).exit_code == 2
