"""`capture record` of live sources, as it is typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.recording import open_recording

pytest.importorskip("pyrealsense2")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["capture", "record", *map(str, words)])


def test_live_and_continued(tmp_path: Path) -> None:
    out = tmp_path / "r.zarr"
    small = ("--live", "--views", 2, "--size", "80x60", "--out", out)
    done = run("virtual", *small, "--seconds", 0.5)
    assert done.exit_code == 0, done.output
    sets = open_recording(out).n_frames
    assert sets > 5
    said = re.sub(r"in \d+ s", "in N s", done.stdout)
    assert said == (
        f"{out}: {sets} sets of 2 cameras\n"
        f"  {sets} sets in N s, as many seconds as asked for\n"
        "  no image was dropped\n"
        f"next: handloom capture locate {out}\n"
    )
    again = run("virtual", *small, "--frames", 7, "--resume")
    assert again.exit_code == 0, again.output
    assert f"{out}: {sets + 7} sets of 2 cameras\n  7 sets in " in again.stdout
    assert open_recording(out).attributes["ended"] == "as many sets as asked for"
    taken = run("virtual", *small, "--frames", 7)
    assert taken.exit_code == 2
    assert "The output exists already" in taken.stderr


def test_what_does_not_go_together(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "r.zarr")
    for words, said in (
        (("virtual", "--live", "--size", "80", *out), "'80' is not of the form 640x480"),
        (("virtual", "--seconds", 3, *out), "--seconds goes with cameras"),
        (("realsense", "--live", *out), "--live goes with 'virtual'"),
        (("virtual", "--resume", "--overwrite", *out), "either --resume"),
        (("virtual", "--live", "--target", "sphere:30mm", *out), "--target goes with 'virtual', without --live"),
        (("virtual", "--target", "charuco:7x5,square=30mm,marker=22mm,dict=4X4_50", *out), "shows a ball only"),
        (("virtual", "--target", "sphere:30cm", *out), "'sphere:30cm' is no target"),
        (("virtual", "--truth", "--resume", *out), "--truth goes with a new recording"),
    ):
        done = run(*words)
        assert done.exit_code == 2
        assert said in done.stderr
    assert not (tmp_path / "r.zarr").exists()


def test_no_camera_is_plugged_in(tmp_path: Path) -> None:
    done = run("realsense", "--out", tmp_path / "r.zarr")
    assert done.exit_code == 3
    assert done.stderr == (
        "error: No RealSense camera is plugged in\n"
        "  why:   the SDK finds none\n"
        "  fix:   check cable and USB port; on Linux also the udev rules; 'handloom doctor' says more\n"
    )


def test_a_ball_and_a_hand_with_its_truth(tmp_path: Path) -> None:
    ball, hand = tmp_path / "ball.zarr", tmp_path / "hand.zarr"
    done = run("virtual", "--views", 2, "--frames", 3, "--target", "sphere:25mm", "--out", ball)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"{ball}: 3 sets of 2 cameras\n"
        f"next: handloom capture calibrate {ball} --target sphere:25mm --out rig.toml --report rig.html\n"
    )
    assert open_recording(ball).labels is None
    assert run("virtual", "--views", 2, "--frames", 3, "--truth", "--out", hand).exit_code == 0
    labels = open_recording(hand).labels
    assert labels is not None
    assert labels.read("joints").shape == (3, 26, 3)
