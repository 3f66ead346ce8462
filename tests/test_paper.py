"""The script for a machine with a GPU: its pieces, and that it runs, stops and goes on, at tiny size on a CPU."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from benchmark_scripts import FOLDER, script

from handloom.learn.murauer_recipe import MurauerConfig

SCRIPT = FOLDER / "paper.py"


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    return script("paper")


def session(paper: ModuleType, out: Path, *, minutes: float = 60.0, **sizes: Any) -> Any:
    return paper.Session(out, paper.Sizes(**sizes), time.monotonic() + 60 * minutes, 1, "cpu")


def test_it_trains_as_much_as_was_asked_for(paper: ModuleType) -> None:
    sizes = paper.Sizes()
    assert 3 * sizes.synth_frames >= 100_000
    assert 3 * sizes.capture_frames >= 20_000
    assert sizes.pretrain_steps + sizes.joint_steps >= 30_000
    assert sizes.batches == (64, 1024)


def test_the_paper_preset_is_what_it_trains(paper: ModuleType, tmp_path: Path) -> None:
    config = paper.configuration(session(paper, tmp_path), "full")
    assert isinstance(config, MurauerConfig)
    assert (config.preset, config.batch, config.input_px, config.architecture.feature_width) == ("paper", 64, 128, 1024)
    assert (config.pretrain_steps, config.joint_steps, config.labels) == (0, 20_000, 100)


def test_a_part_is_done_once_and_begun_only_with_time_left(paper: ModuleType, tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, int]:
        calls.append(1)
        return {"crops": 3}

    late = session(paper, tmp_path, minutes=1.0, part_minutes=3.0)
    with pytest.raises(paper.OutOfTime):
        late.once("synth", work)
    early = session(paper, tmp_path)
    assert early.once("synth", work) == early.once("synth", work) == late.once("synth", work) == {"crops": 3}
    assert len(calls) == 1


def test_a_rate_is_steps_over_time(paper: ModuleType) -> None:
    seen: list[int] = []

    def step(index: int) -> None:
        seen.append(index)
        time.sleep(0.002)

    rate = paper.per_second(step, torch.device("cpu"), 0.1, 7)
    assert seen == list(range(7, 7 + len(seen)))
    assert 10 < rate < 500


def test_the_lines_are_rows_of_the_results(paper: ModuleType, tmp_path: Path) -> None:
    speed = [
        {"way": "bf16 + graph", "batch": 64, "machine": "a GPU", "steps_per_s": 123.44, "images_per_s": 13825.0,
         "images": 112, "data_wait": 0.0123, "peak_gb": 9.87},
        {"way": "fp32", "batch": 1024, "machine": "a GPU", "failed": "CUDA out of memory."},
    ]  # fmt: skip
    made = {
        "synth": {"crops": 100_800}, "capture": {"crops": 20_160}, "crops": {"located": 99, "images": 100},
        "train-synthetic-only": {"steps": 12_000, "machine": "a GPU"},
        "train-full": {"steps": 20_000, "machine": "a GPU"},
    }  # fmt: skip
    test = {"mean_mm": 15.123, "median_mm": 12.5, "images": 4032}
    found = list(paper.lines(session(paper, tmp_path), made, speed, {"synthetic-only": test, "full": test}))
    assert found[0].startswith(
        "| MURAUER joint step, batch 64, bf16 + graph (a GPU) | 123.4 steps/s, 13,825 images/s through f, "
        "data wait 1.2%, peak 9.9 GB | 350 steps/s, 2 % | `python benchmarks/paper.py --out paper` | 20"
    )
    assert "| not measured: CUDA out of memory. |" in found[1]
    assert "15.12 / 12.50 mm after 20,000 steps" in found[3]
    assert all(line.count("|") == 6 for line in found)


def test_the_curve_joins_both_trainings(paper: ModuleType, tmp_path: Path) -> None:
    logs = {"synthetic-only": [(50, None), (100, 30.0)], "full": [(50, 25.0), (80, 20.5)]}
    for arm, points in logs.items():
        (tmp_path / arm).mkdir()
        entries = [{"step": step} | ({} if error is None else {"val/mean_mm": error}) for step, error in points]
        (tmp_path / arm / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    paper.draw(tmp_path)
    rows = list(csv.reader((tmp_path / "curve.csv").read_text().splitlines()))
    assert rows == [
        ["step", "val_mean_mm", "arm"],
        ["100", "30.000", "synthetic-only"],
        ["150", "25.000", "full"],
        ["180", "20.500", "full"],
    ]
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_missing_is_named_with_the_way_to_bring_it(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(paper, "NEEDED", {"torch": "torch", "zarr_that_is_not_here": "zarr"})
    monkeypatch.setattr(sys, "argv", ["paper.py", "--out", str(tmp_path / "paper")])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as caught:
        paper.main()
    assert caught.value.code == 3
    said = capsys.readouterr().err
    assert said.startswith("missing here: zarr\n")
    assert "pip download -d wheels" in said
    assert not (tmp_path / "paper").exists()


@pytest.mark.slow
def test_all_of_it_runs_in_pieces(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--out", tmp_path / "paper", "--tiny", "--device", "cpu", "--jobs", "1"]
    root = os.environ | {"PYTHONPATH": str(SCRIPT.parents[1] / ".dev")}
    stopped = 0
    for _ in range(60):
        done = subprocess.run([*command, "--minutes", "0.1"], check=True, env=root, capture_output=True, text=True)
        if done.stderr.rstrip().splitlines()[-1].startswith("done:"):
            break
        assert "the same command goes on" in done.stderr
        stopped += 1
    assert stopped > 0
    lines = (tmp_path / "paper" / "lines.md").read_text().splitlines()
    assert done.stdout.splitlines() == lines
    assert sum("MURAUER joint step" in line for line in lines) == 8
    assert not any("not measured" in line for line in lines)
    rows = csv.DictReader((tmp_path / "paper" / "curve.csv").read_text().splitlines())
    assert [int(row["step"]) for row in rows] == [4, 6, 10, 14]
