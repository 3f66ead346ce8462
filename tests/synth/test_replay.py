"""Stored frames drawn again: the same to the bit, and every way in which they may not be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.config import load_config
from handloom.stores.durable import sealed
from handloom.stores.errors import HandloomError
from handloom.stores.recording import Recording, open_recording
from handloom.synth import replay as replays
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.replay import replay
from handloom.synth.twin import make_twins
from handloom.synth.twin_units import TwinSettings

CONFIG = SynthConfig(frames=110, unit_frames=64, views=2, crop_px=96, subjects=3, seed=4)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return synthesise(CONFIG, tmp_path_factory.mktemp("replay") / "r.zarr", jobs=1)


@pytest.fixture
def copy(made: Recording, tmp_path: Path) -> Path:
    shutil.copytree(made.path, tmp_path / "r.zarr")
    return tmp_path / "r.zarr"


def test_every_value_of_every_array_is_the_same(made: Recording) -> None:
    found = replay(made.path, range(30, 110))  # from inside a block, over a unit's end, into the short last one
    assert found.identical
    assert found.changed == ()
    tables = (made.frames, made.crops, made.labels)
    a_row = sum(int(np.prod(column.shape)) for table in tables if table for column in table.columns.values())
    assert found.values == 80 * a_row


@pytest.mark.parametrize(
    "options", [["poses=trajectory", "sequence_frames=20", "sensor=tof"], ["scene=cluttered", "sensor=stereo"]]
)
def test_motions_scenes_and_other_sensors_are_drawn_again_too(options: list[str], tmp_path: Path) -> None:
    config = load_config(SynthConfig, None, ["frames=40", "unit_frames=32", "views=2", "crop_px=96", *options])
    made = synthesise(config, tmp_path / "r.zarr", jobs=1)
    assert replay(made.path, range(20, 40)).identical


def test_the_command_says_so_and_draws_it(made: Recording, tmp_path: Path) -> None:
    done = run("synth", "replay", made.path, "--frame", 77, "--out", tmp_path / "f.png")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (
        done.stdout
        == f"{made.path}: frame 77 drawn again, all {replay(made.path, range(1)).values} values are the same\n"
    )
    image = cv2.imread(str(tmp_path / "f.png"))
    height, width = image.shape[:2]
    assert width / 3 == height / 2  # two cameras; stored, drawn, difference
    assert (image[:, : width // 3] == image[:, width // 3 : 2 * width // 3]).all()
    facts = json.loads(run("synth", "replay", made.path, "--frames", "0:3", "--json").stdout)
    assert (facts["identical"], facts["first"], facts["last"], facts["differences"]) == (True, 0, 2, [])


def test_one_changed_pixel_is_found(copy: Path) -> None:
    array = zarr.open_group(copy / "crops", mode="r+")["crop"]
    crops = array[0:64]
    v, u = (int(index[0]) for index in np.nonzero(crops[40, 1]))
    crops[40, 1, v, u] += 3
    array[0:64] = crops
    done = run("synth", "replay", copy, "--frames", "38:42")
    assert done.exit_code == 1
    assert done.stdout == (
        f"{copy}: 1 of 4 frames drawn again differ (frames 38 to 41)\n"
        "  frame 40, cam1: crops/crop, 1 of 9216 values by up to 3\n"
        "  versions and machine are those of the recording: is the data damaged?\n"
    )


def test_a_changed_label_is_told_from_the_seed_as_well(copy: Path) -> None:
    array = zarr.open_group(copy / "labels", mode="r+")["pose"]
    poses = array[0:64]
    poses[5, 3] += 0.1
    array[0:64] = poses
    arrays = {difference.array for difference in replay(copy, range(5, 6)).differences}
    # The picture follows the label, so it differs from what is stored; the seed gives the old label.
    assert {"labels/pose", "labels/joints", "crops/crop"} <= arrays
    assert replay(copy, range(6, 8)).identical


def test_versions_that_changed_since_are_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "machine", lambda: "vax")
    values = json.loads((copy / "zarr.json").read_text())
    values["attributes"]["provenance"]["packages"]["numpy"] = "1.0"
    (copy / "zarr.json").write_text(json.dumps(sealed(values)))
    lines = run("synth", "replay", copy, "--frame", 0).stdout.splitlines()
    assert lines[1] == f"  since then: numpy was 1.0, is {np.__version__}"
    assert lines[2].startswith("  since then: machine was ")


def test_what_cannot_be_drawn_again(made: Recording, tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="There is no frame 110") as caught:
        replay(made.path, range(100, 111))
    assert "frames 0 to 109" in str(caught.value)
    shutil.copytree(made.path, tmp_path / "r.zarr")
    values = json.loads((tmp_path / "r.zarr" / "zarr.json").read_text())
    values["attributes"]["provenance"]["command"] = "store merge"
    (tmp_path / "r.zarr" / "zarr.json").write_text(json.dumps(sealed(values)))
    with pytest.raises(HandloomError, match="Only what 'synth run' and 'synth twin' made"):
        replay(tmp_path / "r.zarr", range(1))
    for arguments in ((), ("--frame", 1, "--frames", "0:2"), ("--frames", "4"), ("--frames", "5:5")):
        assert run("synth", "replay", made.path, *arguments).exit_code == 2


def test_an_unfinished_recording_can_be_checked_as_far_as_it_goes(copy: Path) -> None:
    for table in ("crops", "labels", "frames"):
        (copy / table / "committed.json").write_text('{"rows": 64}')
    assert open_recording(copy).n_frames == 64
    assert replay(copy, range(60, 64)).identical


def test_twins_are_drawn_again_from_the_fitted_people(made: Recording, tmp_path: Path) -> None:
    settings = TwinSettings(seed=3, unit_frames=32, sensor=CONFIG.make_sensor())
    twins = make_twins(made.path, tmp_path / "t.zarr", settings=settings, rows=np.arange(60))
    assert twins.n_frames > 40
    shutil.rmtree(tmp_path / "t.zarr" / "twin-fits", ignore_errors=True)
    found = replay(twins.path, range(twins.n_frames))
    assert found.identical
    assert found.values > twins.n_frames * 2 * 96 * 96
    array = zarr.open_group(twins.path / "crops", mode="r+")["parts"]
    parts = array[0:32]
    parts[7, 0, 50, 50] ^= 1
    array[0:32] = parts
    assert [(d.frame, d.array, d.camera, d.values) for d in replay(twins.path, range(20)).differences] == [
        (7, "crops/parts", "cam0", 1)
    ]


def test_another_hand_is_named(copy: Path) -> None:
    values = json.loads((copy / "zarr.json").read_text())
    values["attributes"]["provenance"]["hand"]["sha256"] = "0"
    (copy / "zarr.json").write_text(json.dumps(sealed(values)))
    assert replay(copy, range(1)).changed == ("the hand builtin is another one",)
