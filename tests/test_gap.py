"""The domain-gap benchmark: what its table says, and that it runs, goes on and forbids choosing on test frames."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import FOLDER, script

SCRIPT = FOLDER / "gap.py"


@pytest.fixture(scope="module")
def gap() -> ModuleType:
    return script("gap")


def results(gap: ModuleType, sd: float) -> list[dict[str, object]]:
    rng, out = np.random.default_rng(1), []
    for seed in range(6):
        hard = rng.normal(0, 5)  # a seed that is harder for all: pairing takes it out
        for arm, mean in (("full", 20.0), ("control", 22.0)):
            out.append({"seed": seed, "arm": arm, "labels": "100"} | measured(mean + hard + rng.normal(0, sd)))
    return out


def measured(mean_mm: float) -> dict[str, object]:
    return {"mean_mm": mean_mm, "true_center_mean_mm": mean_mm - 2, "unlabelled": 1.0}


def test_differences_are_paired(gap: ModuleType) -> None:
    mean, width, seeds = gap.difference(results(gap, 0.5), ("full", "100", 1.0), ("control", "100", 1.0))
    assert seeds == 6
    assert mean == pytest.approx(-2.0, abs=1.0)
    assert width < 1.5  # the seeds' own spread of 5 mm is not in it


def test_the_expected_half_width_is_student_s(gap: ModuleType) -> None:
    assert gap.half_width(1.0, 5) == pytest.approx(1.2417, abs=1e-3)
    assert gap.half_width(1.0, 1) == np.inf


def test_no_training_is_run_twice_or_without_labels_it_needs(gap: ModuleType) -> None:
    cells = [(cell.arm, cell.labels) for cell in gap.cells_of(gap.ARMS, gap.LABELS)]
    assert len(cells) == len(set(cells)) == 1 + 4 + 3 * 7
    assert not {("real-only", "0"), ("preview", "0"), ("real+synthetic", "0")} & set(cells)
    assert [n for arm, n in cells if arm == "synthetic-only"] == ["0"]


def test_a_share_of_the_unlabelled_frames_is_another_cell(gap: ModuleType) -> None:
    cells = gap.cells_of(["full"], ["0", "10", "100"], [0.1, 0.3])
    shares = [(cell.labels, cell.unlabelled) for cell in cells if cell.unlabelled < 1]
    assert shares == [("0", 0.1), ("0", 0.3), ("100", 0.1), ("100", 0.3)]
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_table_says_what_is_decided(gap: ModuleType) -> None:
    lines = gap.table(results(gap, 0.2))
    assert lines[0].split() == ["mean", "joint", "error,", "located", "centres,", "mm", "n", "=", "100"]
    assert float(lines[1].split()[-1]) == pytest.approx(float(lines[5].split()[-1]) + 2, abs=0.02)
    (line,) = [line for line in lines if line.startswith("full n=100 - control n=100")]
    assert line.endswith("(6) better")
    assert max(map(len, lines)) <= 80


def test_choosing_on_test_frames_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", "x", "-o", "learning_rate=1e-3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "add --split val" in done.stderr


@pytest.mark.slow
def test_it_runs_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [
        sys.executable,
        SCRIPT,
        "--out",
        tmp_path,
        "--tiny",
        "--seeds",
        "2",
        "--jobs",
        "1",
        "--unlabelled",
        "0.5",
    ]
    root = {"PYTHONPATH": str(SCRIPT.parents[1] / ".dev"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run(command, check=True, env=root, capture_output=True)
    first = (tmp_path / "table-test.txt").read_text()
    assert "full n=all - real+synthetic n=all" in first
    assert "full, 50 % of the unlabelled frames" in first
    stamp = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-*/results/*.json")}
    assert len(stamp) == 2 * len({path.name for path in stamp})
    subprocess.run(command, check=True, env=root, capture_output=True)
    assert (tmp_path / "table-test.txt").read_text() == first
    assert stamp == {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-*/results/*.json")}
