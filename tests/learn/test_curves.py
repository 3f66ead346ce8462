"""Curves over labels and unlabelled data: what is averaged, what is left out, what the paper said."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handloom.learn.curves import (
    PAPER_MM,
    Result,
    curve_sections,
    difference_table,
    labels_table,
    paper_table,
    point_of,
    points_of,
    read_results,
    share_table,
    varied,
    whole,
)
from handloom.learn.report import Gallery, Report, Table
from handloom.stores.errors import HandloomError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gap_figure.py"


def written(folder: Path, seed: int, arm: str, labels: str, mean_mm: float, **more: object) -> None:
    variant = str(more.get("variant", ""))
    share = f"-u{more['unlabelled_share']:g}" if "unlabelled_share" in more else ""
    name = f"{arm}-{labels}{share}" + (f"-{variant}" if variant else "")
    row = {"seed": seed, "arm": arm, "labels": labels, "variant": variant, "split": "test", "mean_mm": mean_mm} | more
    path = folder / f"seed-{seed}" / "results" / f"{name}-{row['split']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(row) + "\n")


@pytest.fixture
def gap(tmp_path: Path) -> Path:
    """Three seeds of very different difficulty in which 'full' is always 2 mm better, give or take 0.1."""
    for seed, hard in enumerate((20.0, 26.0, 35.0)):
        written(tmp_path, seed, "synthetic-only", "0", hard)
        written(tmp_path, seed, "full", "100", hard - 2 + 0.1 * (seed - 1))
        written(tmp_path, seed, "full", "all", hard - 5)
        written(tmp_path, seed, "full", "all", 1.0, split="val")
        listed = tmp_path / f"seed-{seed}" / "runs" / "full-all" / "labelled_frames.txt"
        listed.parent.mkdir(parents=True)
        listed.write_text("".join(f"{i}\n" for i in range(900)))
    return tmp_path


def test_the_interval_is_student_s() -> None:
    point = point_of([10.0, 12.0, 14.0])
    assert (point.mean_mm, point.seeds) == (12.0, 3)
    assert point.half_width_mm == pytest.approx(4.3027 * 2 / math.sqrt(3), rel=1e-4)
    assert point.text() == "12.00 ± 4.97 (3)"
    assert point_of([12.0]).text() == "12.00 (1)"


def test_a_seed_counts_once() -> None:
    twice = [Result("full", "10", 0, 20.0), Result("full", "10", 0, 20.0), Result("full", "10", 1, 22.0)]
    assert points_of(twice)["full", "10", 1.0].seeds == 2


def test_results_are_read_and_counted(gap: Path) -> None:
    results, left_out = read_results(gap, split="test")
    assert (len(results), left_out) == (9, [])
    assert {r.count for r in results if r.labels == "all"} == {900.0}
    table = labels_table(results)
    assert list(table.columns) == ["mean error (mm)", "n = 0", "n = 100", "n = all (900)"]
    assert [row[0] for row in table.rows] == ["full", "synthetic-only"]
    assert table.rows[0][1] is None


def test_differences_within_seeds_are_known_better_than_means(gap: Path) -> None:
    results, _ = read_results(gap, split="test")
    (row,) = difference_table(results).rows
    assert row[1] == "-2.00 ± 0.25 (3)"
    assert points_of(results)["full", "100", 1.0].half_width_mm > 15


def test_variants_are_no_part_of_the_curves(gap: Path) -> None:
    written(gap, 0, "full", "100", 9.0, variant="fast", overrides=["learning_rate=1e-2"])
    written(gap, 0, "full", "100", 30.0, variant="u25", overrides=["unlabelled_share=0.25"])
    written(gap, 1, "full", "100", 31.0, unlabelled_share=0.25)  # as --unlabelled 0.25 leaves it
    results, left_out = read_results(gap, split="test")
    assert left_out == ["full-100-fast-test"]
    assert [r.mean_mm for r in results if r.unlabelled_share == 0.25] == [30.0, 31.0]
    assert labels_table([r for r in results if r.unlabelled_share == 1]).rows[0][2] == point_of([17.9, 24, 33.1]).text()
    shares = share_table([r for r in results if (r.arm, r.labels) == ("full", "100")])
    assert list(shares.columns) == ["mean error (mm)", "25 % unlabelled", "100 % unlabelled"]
    assert shares.rows[0][:2] == ["full, n = 100", point_of([30.0, 31.0]).text()]


def test_each_curve_has_its_own_results(gap: Path) -> None:
    # Once a share of the frames was drawn among the labels, and seeds that lack it were averaged with the others.
    for seed in (0, 1):
        written(gap, seed, "full", "100", 30.0 + seed, unlabelled_share=0.25)
    results, _ = read_results(gap, split="test")
    assert {r.unlabelled_share for r in whole(results)} == {1.0}
    assert len(whole(results)) == 9
    assert sorted((r.labels, r.seed, r.unlabelled_share) for r in varied(results)) == [
        ("100", seed, share) for seed in (0, 1) for share in (0.25, 1.0)
    ]
    assert not varied(whole(results))


@pytest.mark.parametrize("text", ["{", "[]", '{"split": "test"}', '{"split": "test", "mean_mm": NaN, "arm": "full", '
                                  '"labels": "1", "seed": 0}'])  # fmt: skip
def test_a_damaged_result_is_named(gap: Path, text: str) -> None:
    (gap / "seed-0" / "results" / "full-10-test.json").write_text(text)
    with pytest.raises(HandloomError, match=r"full-10-test\.json"):
        read_results(gap, split="test")


def test_no_results_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match=r"gap\.py --out"):
        read_results(tmp_path, split="test")


def test_the_paper_s_numbers_are_marked_as_another_data_set(gap: Path) -> None:
    """Poier et al., Fig. 4: with more labels no arm is worse, and full is the best everywhere."""
    for arm, by_count in PAPER_MM.items():
        values = [by_count[n] for n in sorted(by_count)]
        assert (np.diff(values) < 0).all(), arm
    assert all(PAPER_MM["full"][n] < mm for by in list(PAPER_MM.values())[1:] for n, mm in by.items())
    assert "NYU, another data set" in paper_table().caption
    results, _ = read_results(gap, split="test")
    over_labels, over_share = curve_sections(results)
    (gallery,) = [b for b in over_labels.blocks if isinstance(b, Gallery)]
    assert ["NYU, another data set" in p.caption for p in gallery.pictures] == [False, True]
    assert len([b for b in over_labels.blocks if isinstance(b, Table)]) == 3
    html = Report("Curves", [over_labels, over_share]).html()
    assert "-o unlabelled_share=0.25" in html


def test_the_script_writes_a_page_and_refuses_to_write_it_twice(gap: Path) -> None:
    written(gap, 0, "full", "100", 30.0, variant="u25", overrides=["unlabelled_share=0.25"])
    command = [sys.executable, SCRIPT, "--out", gap]
    env = {"PYTHONPATH": str(SCRIPT.parents[1] / ".dev"), "PATH": "/usr/bin:/bin", "HOME": str(gap)}
    done = subprocess.run(command, check=True, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[0].split("  ")[0] == "mean error (mm)"
    assert {"curves-test.html", "labels-test.png", "unlabelled-test.png"} <= {path.name for path in gap.iterdir()}
    again = subprocess.run(command, check=False, env=env, capture_output=True, text=True)
    assert again.returncode == 1
    assert "--overwrite replaces it" in again.stderr
