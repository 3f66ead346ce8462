from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from handloom.cli import main
from handloom.learn import crossing
from handloom.learn.crossing_check import check_hands, described, distances, reconstruction_distance
from handloom.learn.crossing_nets import CrossingNets
from handloom.learn.model import PoseModel, load_model, read_checkpoint, write_checkpoint
from handloom.learn.train import preset, train
from handloom.stores.errors import HandloomError
from handloom.stores.recording import open_recording

from tiny_crossing import MakeData, tiny

TINY = {
    "input_px": 32, "channels": 4, "batch": 8, "gan_batch": 6, "vae_batch": 16, "labels": 5,
    "vae_steps": 2, "gan_steps": 1, "align_steps": 1, "joint_steps": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recordings: Any) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(preset("crossing", "quick", "full", TINY), synth=[recordings.synth], real=recordings.real, run_dir=folder)
    return folder


@pytest.fixture
def half(run: Path, tmp_path: Path, recordings: Any) -> tuple[Path, float]:
    """The run with a threshold in the middle of the recording's own distances, and that threshold."""
    found = check_hands(load_model(run), open_recording(recordings.real))
    middle = float(np.median(found.distance))
    state = read_checkpoint(run)
    kept = {**state["description"]["hand_check"], "quantiles": {"0.98": middle}}
    (tmp_path / "half").mkdir()
    write_checkpoint(
        tmp_path / "half",
        description=state["description"] | {"hand_check": kept},
        weights=state["weights"],
        training=state["training"],
    )
    return tmp_path / "half", middle


def test_the_distance_is_that_of_silhouettes_and_of_depth() -> None:
    captured, generated = torch.ones(3, 1, 8, 8), torch.ones(3, 1, 8, 8)
    captured[0, 0, 0, :4], generated[0, 0, 0, 2:6] = 0.5, 0.5  # four and four pixels, two in common
    captured[1], generated[1] = -1.0, 0.3  # each pixel off by more than 1: clipped
    expected = [4 / 6 + 4 * 0.25 / 64, 1.0, 0.0]  # the last shows nothing, and nothing comes back
    torch.testing.assert_close(reconstruction_distance(captured, generated), torch.tensor(expected))


def test_a_palm_beside_the_centre_counts_by_its_way(run: Path) -> None:
    nets = load_model(run).nets
    assert isinstance(nets, CrossingNets)
    crops = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        z = nets.pos(nets.trunk(crops))
        terms = reconstruction_distance(crops, nets.depth_of(z))
    torch.testing.assert_close(distances(nets, crops), terms + z[:, 20:].norm(dim=1) * 50 / 100)


def test_quantiles_of_another_distance_are_no_threshold(half: tuple[Path, float], recordings: Any) -> None:
    path, _ = half
    old = read_checkpoint(path)
    del old["description"]["hand_check"]["measure"]
    write_checkpoint(path, description=old["description"], weights=old["weights"], training=old["training"])
    with pytest.raises(HandloomError, match="does not say how its training images come back"):
        check_hands(load_model(path), open_recording(recordings.real))


def test_a_model_keeps_the_quantiles_of_its_training_images() -> None:
    kept = described(torch.linspace(0, 1, 1001), "captured")
    assert kept == {
        "measure": "silhouettes + depth + palm",
        "images": "captured",
        "count": 1001,
        "quantiles": {"0.5": 0.5, "0.9": 0.9, "0.95": 0.95, "0.98": 0.98, "0.99": 0.99},
    }


def test_a_run_measures_them_at_its_end_alone(run: Path, tmp_path: Path, recordings: Any) -> None:
    kept = read_checkpoint(run)["description"]["hand_check"]
    assert kept["images"] == "captured"
    assert kept["count"] == 72  # 24 training frames of three cameras in twelve batches of six
    assert 0 < kept["quantiles"]["0.5"] <= kept["quantiles"]["0.99"]

    class Killed(Exception):
        pass

    def kill(done: int, total: int, metrics: object) -> None:
        if done == 6:
            raise Killed

    config = preset("crossing", "quick", "full", TINY | {"save_every": 1, "log_every": 1})
    given = {"synth": [recordings.synth], "real": recordings.real, "run_dir": tmp_path / "cut"}
    with pytest.raises(Killed):
        train(config, progress=kill, **given)
    assert read_checkpoint(tmp_path / "cut")["description"]["hand_check"] is None
    with pytest.raises(HandloomError, match="does not say how its training images come back"):
        check_hands(load_model(tmp_path / "cut"), open_recording(recordings.real))
    train(config, resume=True, **given)
    assert read_checkpoint(tmp_path / "cut")["description"]["hand_check"] == kept


def test_training_images_are_looked_at_around_their_centres_however_training_moves_them(toy_data: MakeData) -> None:
    data = toy_data(8)
    assert data.real is not None
    far = replace(data, real=replace(data.real, offset_mm=torch.full_like(data.real.offset_mm, 200.0)))
    kept, moved = (crossing.Learner(tiny(), given)._known_hands() for given in (data, far))
    assert kept == moved


def test_what_lies_above_the_threshold_is_flagged(half: tuple[Path, float], recordings: Any) -> None:
    path, middle = half
    found = check_hands(load_model(path), open_recording(recordings.real))
    assert len(found.distance) == 96
    assert found.threshold == pytest.approx(middle)
    assert found.flagged.sum() == 48
    said = found.to_dict()
    assert [one["distance"] for one in said["flagged"]] == sorted(
        (d["distance"] for d in said["flagged"]), reverse=True
    )
    worst = int(found.distance.argmax())
    assert said["flagged"][0]["frame"] == int(found.frame_id[worst])
    assert said["flagged"][0]["camera"] == f"cam{found.view[worst]}"


def test_the_other_hand_is_mirrored(run: Path, tmp_path: Path, recordings: Any, toy: SimpleNamespace) -> None:
    # The mirrored crops of a mirrored recording are those of the recording itself.
    from handloom.stores.reading import load_resident

    real = open_recording(recordings.real)
    data = load_resident(real)
    rig = replace(
        data.rig, cameras=tuple(replace(c, k=(c.k[0], c.k[1], c.width - 1 - c.k[2], c.k[3])) for c in data.rig.cameras)
    )
    k = data.k.copy()
    k[..., 2] = 191 - k[..., 2]
    other = replace(
        data, crop=data.crop[..., ::-1].copy(), center=data.center * np.array([-1, 1, 1], np.float32), k=k, rig=rig
    )
    left = toy.write(tmp_path / "left.zarr", other, hand="left")
    model = load_model(run)
    ours, theirs = (check_hands(model, open_recording(path)).distance for path in (recordings.real, left))
    # Half-way pixels round to the other side of a mirrored image: a few pixels differ.
    assert np.corrcoef(ours, theirs)[0, 1] > 0.98


def test_the_command_lists_them_and_ends_with_findings(half: tuple[Path, float], run: Path, recordings: Any) -> None:
    path, middle = half
    done = CliRunner().invoke(main, ["latent", "hands", str(path), "--on", str(recordings.real)])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    first = f"48 of 96 images come back unlike any hand of the training (distance above {middle:.3f})"
    assert lines[0] == first
    assert len(lines) == 1 + 20 + 2
    assert lines[-2] == "  ... and 28 more; --json lists them all"
    assert lines[-1] == f"next: handloom view {recordings.real}"
    done = CliRunner().invoke(main, ["latent", "hands", str(path), "--on", str(recordings.real), "--json"])
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert (said["images"], len(said["flagged"]), said["without_a_centre"]) == (96, 48, 0)
    high = read_checkpoint(path)
    high["description"]["hand_check"]["quantiles"]["0.98"] = 10.0
    write_checkpoint(path, description=high["description"], weights=high["weights"], training=high["training"])
    done = CliRunner().invoke(main, ["latent", "hands", str(path), "--on", str(recordings.real)])
    assert done.exit_code == 0
    assert done.stdout.startswith("0 of 96 images")


def test_a_model_without_a_generator_checks_nothing(run: Path, recordings: Any) -> None:
    model: PoseModel = replace(load_model(run), arm="scratch")
    with pytest.raises(HandloomError, match="no generator"):
        check_hands(model, open_recording(recordings.real))
