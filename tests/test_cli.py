"""What the commands print, to the letter, and the codes they end with."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.camera import Camera, Rig
from handloom.stores.folder import write_folder
from handloom.stores.recording import open_recording
from handloom.synth.config import load_settings

RIG = Rig((Camera("a", 32, 24, (30, 30, 16, 12)), Camera("b", 40, 30, (30, 30, 20, 15))))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = [
        (frame, view, np.full((c.height, c.width), 500, np.uint16), frame, frame)
        for frame in range(3)
        for view, c in enumerate(RIG.cameras)
        if (frame, view) != (1, 1)
    ]
    write_folder(tmp_path / "folder", RIG, images, joints={2: np.zeros((26, 3))})
    return tmp_path / "folder"


def test_help_lists_the_stages_and_fits_eighty_columns() -> None:
    text = CliRunner().invoke(main, ["--help"], terminal_width=80).output
    for command in ("quickstart", "synth", "capture", "label", "store", "train", "eval", "export", "predict", "view"):
        assert f"\n  {command} " in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("command", ["run", "plan", "preview", "replay", "twin"])
def test_help_of_the_synthesis_commands_fits_eighty_columns(command: str) -> None:
    text = CliRunner().invoke(main, ["synth", command, "--help"], terminal_width=80).output
    assert max(map(len, text.splitlines())) <= 80


def test_synthesising_says_what_it_made_and_what_comes_next(tmp_path: Path) -> None:
    out = tmp_path / "s.zarr"
    # With an empty cache the kernels take longer to compile than the ten seconds after which progress speaks.
    run("synth", "run", "--out", tmp_path / "warm.zarr", "--frames", 1, "--jobs", 1)
    done = run("synth", "run", "--out", out, "--frames", 3, "--views", 2, "--jobs", 1, "-o", "crop_px=64")
    assert done.exit_code == 0
    first, second, *rest = done.stdout.splitlines()
    assert first.startswith(f"{out}: 3 poses seen by 2 cameras, 0.")
    assert second.startswith("  6 views in ")
    assert rest == [
        f"next: handloom synth preview {out} --out {tmp_path / 's.html'}",
        f"  or: handloom train murauer --arm synthetic-only --preset quick --synth {out} --run runs/synthetic",
    ]
    again = run("synth", "run", "--out", out, "--frames", 3, "--views", 2, "--jobs", 1, "-o", "crop_px=64", "--resume")
    assert again.stdout.splitlines()[1] == "  no views were left to make"


def test_a_recording_s_own_configuration_makes_it_again(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("a.zarr", "b.zarr", "c.zarr"))
    options = ("--jobs", 1, "-o", "crop_px=32", "--views", 2, "--side", "left", "--scene", "desk", "--sensor", "stereo")
    made = run("synth", "run", "--out", first, "--frames", 3, *options)
    assert made.exit_code == 0, made.output
    made = run("synth", "run", "--out", again, "--config", first, "--jobs", 1)
    assert made.exit_code == 0, made.output
    one, two = (open_recording(path) for path in (first, again))
    assert one.provenance["config"] == two.provenance["config"]
    assert one.crops is not None
    assert two.crops is not None
    assert np.array_equal(one.crops.read("crop"), two.crops.read("crop"))
    # Another preset goes over the one that filled in the scene.
    made = run("synth", "run", "--out", other, "--config", first, "--jobs", 1, "--scene", "none")
    assert made.exit_code == 0, made.output
    assert open_recording(other).provenance["config"]["scene"]["background"] == 0
    refused = run("synth", "run", "--out", tmp_path / "d.zarr", "--config", tmp_path)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: ")


def test_a_rig_says_how_many_cameras_there_are(tmp_path: Path) -> None:
    """--views was ignored beside --rig."""
    for option in (("--views", 2), ("--cameras", "dome")):
        done = run("synth", "run", "--out", tmp_path / "s.zarr", "--rig", tmp_path / "rig.toml", *option)
        assert done.exit_code == 2
        assert f"give either --rig or {option[0]}" in done.stderr


def test_settings_of_a_sensor_that_is_not_used_are_refused(tmp_path: Path) -> None:
    """They were accepted, and did nothing."""
    out = tmp_path / "s.zarr"
    done = run("synth", "run", "--out", out, "--sensor", "stereo", "-o", "tof.edge_hole=0.5")
    assert done.exit_code == 2
    assert "tof needs sensor=tof, and sensor is stereo" in done.stderr
    assert not out.exists()
    options = ("--frames", 1, "--jobs", 1, "-o", "crop_px=32", "--views", 1)
    made = run("synth", "run", "--out", out, "--sensor", "tof", "-o", "tof.edge_hole=0.5", *options)
    assert made.exit_code == 0, made.output
    same, other = (load_settings(out, [f"sensor={sensor}"]) for sensor in ("tof", "stereo"))
    assert (same.sensor, same.tof.edge_hole) == ("tof", 0.5)
    assert other.sensor == "stereo"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("synth", "run", "--out", "s.zarr"),
            "Interrupted: what had been saved is kept, and the same command with --resume goes on from there.",
        ),
        (
            ("store", "repack", "r.zarr", "--out", "s.zarr"),
            "Interrupted: nothing was finished; the same command with --overwrite replaces what was begun.",
        ),
        (("--debug", "store", "info", "r.zarr"), "Interrupted."),
    ],
    ids=str,
)
def test_ctrl_c_says_what_is_left(
    command: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said 'Aborted!' and ended with 1, which stands for findings."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    for name in ("synth.generate.synthesise", "stores.edit.repack", "stores.recording.open_recording"):
        monkeypatch.setattr(f"handloom.{name}", interrupted)
    done = run(*command)
    assert (done.exit_code, done.stdout, done.stderr) == (130, "", f"\n{said}\n")


@pytest.mark.parametrize("command", [("run",), ("plan",), ("twin", "--real", "r.zarr")])
def test_resume_and_overwrite_contradict_each_other(command: tuple[str, ...], tmp_path: Path) -> None:
    done = run("synth", *command, "--out", tmp_path / "s.zarr", "--resume", "--overwrite")
    assert done.exit_code == 2
    assert "give either --resume, which keeps what is there, or --overwrite" in done.stderr


def test_a_scheduler_without_dask_is_not_ignored(tmp_path: Path) -> None:
    """It was: the run went on in this machine's own processes."""
    out = tmp_path / "s.zarr"
    done = run("synth", "run", "--out", out, "--frames", 3, "--scheduler", "tcp://127.0.0.1:8786")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: A scheduler is Dask's, and the executor is local\n"
        "  where: --scheduler tcp://127.0.0.1:8786\n"
        "  fix:   add --executor dask, or leave it out\n",
    )
    assert not out.exists()


def test_the_hand_of_a_left_hand_s_file_is_drawn_left(tmp_path: Path) -> None:
    """What comes next after showing a file's left hand drew right ones."""
    out = tmp_path / "left.npz"
    written = run("hand", "export", "--side", "left", "--out", out)
    assert f"  or: handloom synth run --out S.zarr --hand {out} --side left" in written.stdout.splitlines()
    shown = run("hand", "show", "--hand", out).stdout.splitlines()
    assert shown[-1] == f"next: handloom synth run --out S.zarr --hand {out} --side left"


def test_importing_says_what_it_made_and_what_comes_next(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    done = run("capture", "import", folder, "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{out}: 3 frames of 2 cameras\nnext: handloom capture locate {out}\n"


def test_info_of_a_recording(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    run("capture", "import", folder, "--out", out)
    lines = run("store", "info", out).stdout.splitlines()
    assert lines[:-1] == [
        f"recording      {out}",
        "kind           captured, right hand",
        "frames         3 (train 3, val 0, test 0) in 1 sequences",
        "cameras        a 32x24, b 40x30",
        "images         5, 1 dropped",
        "hand found in  0 frames",
        "labelled       1 frames (openxr26)",
    ]
    facts = json.loads(run("store", "info", out, "--json").stdout)
    assert (facts["frames"], facts["dropped_images"], facts["labelled"]) == (3, 1, 1)


def test_info_of_a_broken_recording_says_what_is_wrong_and_how_to_see_all(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    run("capture", "import", folder, "--out", out)
    (out / "frames/split/c.0").unlink()
    done = run("store", "info", out)
    assert done.exit_code == 2
    assert done.stderr == (
        "error: The recording is truncated: 'split' has lost rows 0 to 2\n"
        f"  where: {out}/frames/split/c.0\n"
        "  why:   the file of these rows is gone though they were committed\n"
        "  fix:   copy the recording again, whole, or record or synthesise it again\n"
        f"         handloom store verify {out} --deep   lists all that is wrong\n"
    )


def test_an_output_that_exists_is_not_touched(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    run("capture", "import", folder, "--out", out)
    again = run("capture", "import", folder, "--out", out)
    assert again.exit_code == 2
    assert again.stderr == (
        f"error: The output exists already\n  where: {out}\n  fix:   add --overwrite, or choose another --out\n"
    )
    assert run("capture", "import", folder, "--out", out, "--overwrite").exit_code == 0


def test_debug_shows_where_an_error_was_raised(tmp_path: Path) -> None:
    short = run("store", "info", tmp_path / "none.zarr")
    assert short.stderr == f"error: There is no recording\n  where: {tmp_path / 'none.zarr'}\n"
    assert short.exit_code == 2
    assert run("--debug", "store", "info", tmp_path / "none.zarr").exception is not None


def test_a_key_the_configuration_does_not_know(tmp_path: Path) -> None:
    wrong = run("synth", "run", "--out", tmp_path / "s.zarr", "-o", "frame=3")
    assert wrong.exit_code == 2
    assert wrong.stderr.startswith("error: Unknown key 'frame'\n  why:   known: frames, seed, views, ")
    assert not (tmp_path / "s.zarr").exists()


def test_results_of_another_length(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "p.txt", np.full((3, 42), 300.0))
    np.savetxt(tmp_path / "t.txt", np.full((4, 42), 300.0))
    done = run("eval", "results", tmp_path / "p.txt", "--truth", tmp_path / "t.txt", "--dataset", "nyu")
    assert done.exit_code == 2
    assert "The prediction has 3 lines, the truth 4" in done.stderr


def test_predicting_with_what_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    cv2.imwrite(str(tmp_path / "d.png"), np.full((48, 64), 500, np.uint16))
    done = run(
        "predict", tmp_path / "m.onnx", tmp_path / "d.png", "--camera", "60,60,32,24", "--out", tmp_path / "p.csv"
    )
    assert done.exit_code == 2
    assert str(tmp_path / "m.onnx") in done.stderr
    assert not (tmp_path / "p.csv").exists()


NYU = Path(__file__).resolve().parents[2] / "shared/data/nyu"


@pytest.mark.skipif(not NYU.is_dir(), reason="the NYU test labels are not beside this checkout")
@pytest.mark.parametrize(("file", "mean"), [("ren_9x6x6_uvd.txt", "12.694"), ("murauer_n100_xyz.txt", "12.172")])
def test_peers_results_on_nyu(file: str, mean: str) -> None:
    done = run("eval", "results", NYU / "results" / file, "--truth", NYU / "test_14_joints_uvd.txt", "--dataset", "nyu")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"mean joint error   {mean} mm ")
