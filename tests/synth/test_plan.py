"""What a plan says is what a run then does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.stores.camera import Camera, Rig, write_rig
from handloom.stores.errors import HandloomError
from handloom.synth import plan as plans
from handloom.synth.generate import SynthConfig, synthesise
from handloom.synth.plan import amount, duration, make_plan

SMALL = SynthConfig(frames=200, unit_frames=64, views=2, crop_px=96, subjects=3, seed=11)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_the_bytes_are_those_of_the_run(tmp_path: Path) -> None:
    out = tmp_path / "a.zarr"
    plan = make_plan(SMALL, out, jobs=1)
    assert list(tmp_path.iterdir()) == []
    assert (plan.frames, plan.views, plan.units, plan.units_left, plan.workers) == (200, 400, 4, 4, 1)
    assert plan.seconds == pytest.approx(400 * plan.seconds_per_view)
    synthesise(SMALL, out, jobs=1)
    files = [file for file in out.rglob("*") if file.is_file()]
    assert plan.bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.12)
    resumed = make_plan(SMALL, out, jobs=1, resume=True)
    assert (resumed.units_left, resumed.bytes_left, resumed.taken) == (0, 0, False)
    for table in ("crops", "labels", "frames"):
        (out / table / "committed.json").write_text('{"rows": 64}')
    (out / "labels" / "units" / "2.json").unlink()
    assert make_plan(SMALL, out, jobs=1, resume=True).units_left == 1
    assert make_plan(SMALL, out, jobs=1).taken


def test_the_command_prints_it_and_ends_with_findings_on_a_small_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--out", tmp_path / "a.zarr", "--frames", 70, "--views", 2, "-o", "unit_frames=32", "-o", "crop_px=96")
    done = run("synth", "plan", *options)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "samples        70 seen by 2 cameras: 140 views"
    assert lines[1] == "units          3 of 32 samples"
    assert [line.split()[0] for line in lines[2:]] == ["size", "time", "cam0", "cam1", "next:"]
    assert lines[4] == "cam0           sees the palm at 100% of its places, 100% of a hand"
    assert max(map(len, lines[:-1])) <= 80
    monkeypatch.setattr(plans.shutil, "disk_usage", lambda path: plans.shutil._ntuple_diskusage(1, 1, 1000))
    full = run("synth", "plan", *options, "--json")
    assert full.exit_code == 1
    facts = json.loads(full.stdout)
    assert (facts["free_bytes"], facts["fits"]) == (1000, False)
    assert list(tmp_path.iterdir()) == []


def test_a_camera_off_to_the_side_holds_half_of_a_hand(tmp_path: Path) -> None:
    near = Camera("near", 320, 240, (241.0, 241.0, 159.5, 119.5), t=(0.0, 0.0, 500.0))
    half = Camera("half", 320, 240, (241.0, 241.0, -0.5, 119.5), t=(0.0, 0.0, 500.0))
    write_rig(Rig((near, half)), tmp_path / "rig.toml")
    plan = make_plan(SMALL.model_copy(update={"rig": tmp_path / "rig.toml"}), tmp_path / "a.zarr", jobs=1)
    assert [seen.camera for seen in plan.cameras] == ["near", "half"]
    assert plan.cameras[0].palms == 1
    assert plan.cameras[1].palms == pytest.approx(0.5, abs=0.06)
    assert plan.cameras[1].hands == pytest.approx(0.5, abs=0.06)


def test_what_cannot_be_run_cannot_be_planned(tmp_path: Path) -> None:
    away = Camera("away", 320, 240, (241.0, 241.0, 159.5, 119.5), t=(0.0, 0.0, -500.0))
    write_rig(Rig((away,)), tmp_path / "rig.toml")
    with pytest.raises(HandloomError, match="No camera sees the volume"):
        make_plan(SMALL.model_copy(update={"rig": tmp_path / "rig.toml"}), tmp_path / "a.zarr", jobs=1)


def test_amounts_in_words() -> None:
    assert [amount(n) for n in (3, 3700, 41_200_000, 412e9, 3e12)] == [
        "3 bytes",
        "3.7 kB",
        "41.2 MB",
        "412 GB",
        "3.0 TB",
    ]
    assert [duration(s) for s in (0.2, 65, 600, 7200, 3e5)] == [
        "less than a second", "about 65 s", "about 10 min", "about 2.0 h", "about 3.5 days"
    ]  # fmt: skip
