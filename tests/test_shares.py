"""The benchmark over shares of labels: what its table says, and that it goes on in a folder of gap.py."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from benchmark_scripts import FOLDER, script

SCRIPT = FOLDER / "shares.py"


@pytest.fixture(scope="module")
def shares() -> ModuleType:
    return script("shares")


def results() -> list[dict[str, object]]:
    rng, out = np.random.default_rng(1), []
    for seed in range(4):
        hard = rng.normal(0, 5)  # a seed that is harder for all: pairing takes it out
        for arm, mean in (("crossing paper", 30.0), ("crossing paper-scratch", 33.0)):
            for percent in (2.0, 100.0):
                found = mean + hard + rng.normal(0, 0.3) - percent / 20
                row = {"seed": seed, "arm": arm, "percent": percent, "labels": int(9 * percent), "mean_mm": found}
                out.append(row | {"worst_mm": [found, 2 * found]})
    return out


def test_differences_are_paired_and_tell_what_is_decided(shares: ModuleType) -> None:
    mean, width, seeds = shares.paired(results(), "crossing paper", "crossing paper-scratch", 2.0)
    assert seeds == 4
    assert mean == pytest.approx(-3, abs=0.8)
    assert width < 1.5
    lines = shares.table(results())
    assert lines[0].split() == ["mean", "joint", "error,", "mm", "2", "%", "100", "%"]
    assert lines[1].split() == ["labelled", "frames", "18", "900"]
    (line,) = [line for line in lines if line.startswith("crossing paper - crossing paper-scratch, 2 %")]
    assert line.endswith("(4) better")
    assert max(map(len, lines)) <= 80


def test_the_page_shows_the_papers_curve_as_another_data_set(shares: ModuleType, tmp_path: Path) -> None:
    page = shares.write_page(tmp_path, results(), "test").read_text()
    assert "As published for NYU" in page
    assert "crossing paper-scratch" in page
    one = [row for row in results() if row["seed"] == 0]
    assert "1 seeds" in shares.write_page(tmp_path, one, "val").read_text(), "one seed has no interval, and a page"


def test_an_unknown_arm_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--out", "x", "--arms", "crossing ful"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "known: murauer full, crossing full" in done.stderr


@pytest.mark.slow
def test_it_goes_on_in_a_folder_of_the_gap_benchmark(tmp_path: Path) -> None:
    root = {"PYTHONPATH": str(FOLDER.parent / ".dev"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    gap = [sys.executable, FOLDER / "gap.py", "--out", tmp_path, "--tiny", "--seeds", "2", "--jobs", "1"]
    subprocess.run([*gap, "--arms", "synthetic-only", "--labels", "0"], check=True, env=root, capture_output=True)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-*/*.zarr/zarr.json")}
    command = [sys.executable, SCRIPT, "--out", tmp_path, "--tiny", "--seeds", "2", "--jobs", "1"]
    subprocess.run(command, check=True, env=root, capture_output=True)
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-*/*.zarr/zarr.json")}
    table = (tmp_path / "shares-test.txt").read_text()
    for arm in ("murauer full", "crossing full", "crossing paper-nearest"):
        assert f"{arm:<26}" in table
    stamp = {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-*/shares/*.json")}
    assert len(stamp) == 2 * 2 * 5
    subprocess.run(command, check=True, env=root, capture_output=True)
    assert stamp == {path: path.stat().st_mtime_ns for path in tmp_path.glob("seed-*/shares/*.json")}
    assert (tmp_path / "shares-test.txt").read_text() == table
