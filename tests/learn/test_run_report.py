"""`handloom report`: one page of one run and of several, in a browser, and what a run cannot show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom.cli import main
from handloom.learn.analyses import pair_rows
from handloom.learn.curves import Result as OneSeed
from handloom.learn.evaluate import Evaluation, evaluate_models, mean_pose
from handloom.learn.pages import hardest_examples
from handloom.learn.report import Signed
from handloom.learn.report_tables import difference_table, share_table
from handloom.learn.run_report import _curves
from handloom.stores.recording import open_recording

from browser import open_page

Trained = Callable[..., Path]


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def titles(page: Path) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runs(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    first = trained(folder / "synthetic-only-0", "synthetic-only")
    return {"base": first, "full": trained(folder / "full-5", "full", init=first)}


@pytest.fixture(scope="module")
def close(runs: dict[str, Path], recordings: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    page = tmp_path_factory.mktemp("page") / "report.html"
    return page, report(runs["full"], "--on", recordings.real, "--out", page)


def test_everything_the_paper_shows_of_one_run(close: tuple[Path, Result], runs: dict[str, Path]) -> None:
    page, done = close
    assert done.exit_code == 0, done.output
    assert titles(page) == [
        "Poses",
        "Result",
        "Hard frames",
        "Worst frames by mean error",
        "Worst frames by largest error",
        "Captured and rendered images in the latent space",
        "Predicted second views",
        "Training",
        "What was compared",
    ]
    html = page.read_text(encoding="utf-8")
    assert "Left out" not in html
    for said in (
        "nearest in pose, captured",
        "nearest in z, rendered",
        "captured images (training frames whose labels were not used)",
        "Images drawn at random (seed 0)",
        "gradient norm on m",
        "rendered twin",
    ):
        assert said in html, said
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["synthetic-only-0", "full-5"]
    assert lines[2] == f"{page}: {page.stat().st_size / 1e6:.1f} MB, open it in any browser"
    data = page.with_name("report.metrics.jsonl")
    assert lines[3] == f"{data}: its numbers and the training log, a JSON object a line"
    assert lines[4] == f"next: handloom export {runs['full']} --out model.onnx"
    numbers = [json.loads(line) for line in data.read_text().splitlines()]
    assert [line["kind"] for line in numbers[:3]] == ["evaluation", "evaluation", "difference"]
    log = [line for line in numbers if line["kind"] == "training" and line["run"] == "full-5"]
    assert [line["step"] for line in log] == [
        json.loads(line)["step"] for line in (runs["full"] / "metrics.jsonl").read_text().splitlines()
    ]
    assert page.stat().st_size < 1e6


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_keeps_to_itself(close: tuple[Path, Result], scheme: str) -> None:
    with open_page(close[0], scheme=scheme) as page:
        broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth)).length"
        assert page.evaluate("document.images.length") > 5
        assert page.evaluate(broken) == 0
        assert page.evaluate("document.querySelectorAll('svg.drawn').length") > 5
        unknown = "[...document.querySelectorAll('use')].filter(u => !document.querySelector(u.getAttribute('href')))"
        assert page.evaluate(f"{unknown}.length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        assert page.problems == []


def test_a_page_is_not_replaced_unasked(close: tuple[Path, Result], runs: dict[str, Path], recordings: Any) -> None:
    again = report(runs["full"], "--on", recordings.real, "--out", close[0])
    assert again.exit_code == 2
    assert "--overwrite replaces it" in again.output


def test_several_runs_are_compared(runs: dict[str, Path], recordings: Any, tmp_path: Path) -> None:
    page = tmp_path / "compared.html"
    done = report(*runs.values(), "--on", recordings.real, "--split", "all", "--out", page)
    assert done.exit_code == 0, done.output
    found = titles(page)
    assert {"Error over the number of labels", "Error over the amount of unlabelled data"} <= set(found)
    assert "Worst frames by mean error" not in found
    html = page.read_text(encoding="utf-8")
    assert "a curve would hide" not in html
    assert "error minus that of synthetic-only-0" in html
    assert "NYU, another data set" in html
    assert "warning: the model was trained on frames of this recording" in html


def test_runs_that_no_curve_tells_apart_are_in_none() -> None:
    """Of two lengths of one training, say, the second stood for both."""
    same = [OneSeed("full", "10", 0, 20.0), OneSeed("full", "10", 0, 30.0)]
    (section,) = _curves(same)
    assert "a curve would hide" in section.blocks[0].text  # type: ignore[union-attr]
    (section,) = _curves([same[0], replace(same[1], seed=1)])
    assert "takes runs of several arms" in section.blocks[0].text  # type: ignore[union-attr]
    assert len(_curves([same[0], replace(same[1], labels="100")])) == 2


def test_what_a_run_cannot_show_is_said_with_its_command(
    trained: Trained, recordings: Any, toy: SimpleNamespace, tmp_path: Path
) -> None:
    """One camera, no labels to measure by, no twins, no views, no baseline."""
    run = trained(tmp_path / "run", "scratch")
    described = run / "data.json"
    one = toy.write(tmp_path / "one.zarr", toy.resident(9, 6, views=1, located_mm=8.0, labelled=False))
    page = tmp_path / "page.html"
    done = report(run, "--on", one, "--split", "all", "--out", page)
    assert done.exit_code == 0, done.output
    html = page.read_text(encoding="utf-8")
    assert f"handloom label {one} --select 100" in html
    assert "a single camera has nobody to agree with" in html
    assert "of crossing predicts no views" in html
    assert "left out: Result (the page says why)" in done.output
    # Its own training data still give the twins.
    assert json.loads(described.read_text())["twins"] or "Left out: the runs name no synthetic twins" in html


def test_without_a_baseline_and_twins(trained: Trained, recordings: Any, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "real-only", pretrain_steps=0)
    page = tmp_path / "page.html"
    assert report(run, "--on", recordings.real, "--out", page).exit_code == 0
    html = page.read_text(encoding="utf-8")
    assert "there is no baseline" in html
    assert f"handloom synth twin --real {recordings.real} --out TWINS.zarr" in html
    given = report(run, "--on", recordings.real, "--twins", recordings.twins, "--out", page, "--overwrite")
    assert given.exit_code == 0, given.output
    assert "own twin is the nearest" in page.read_text(encoding="utf-8")
    wrong = report(run, "--on", recordings.real, "--twins", recordings.synth, "--out", page, "--overwrite")
    assert wrong.exit_code == 2
    assert "holds no twins" in wrong.output


# -- parts ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluations(recordings: Any) -> dict[str, Evaluation]:
    real = open_recording(recordings.real)
    mean = mean_pose(real)
    moved = replace(mean, relative_mm=mean.relative_mm + np.float32(6))
    return evaluate_models({"mean": mean, "moved": moved}, real, seed=0, split="all")


def test_hard_examples_are_the_worst_and_apart(evaluations: dict[str, Evaluation]) -> None:
    one = evaluations["mean"]
    errors = np.where(one.row < 4, 100.0 + one.row, one.row.astype(float))
    found = hardest_examples(errors, one, 3, apart=5)
    assert one.row[found].tolist() == [3, 31, 26]
    # Rows of other sequences are other moments, however near: rendered sets have a sequence a row.
    apart = hardest_examples(errors, replace(one, sequence=one.row.astype(np.int32)), 3, apart=5)
    assert one.row[apart].tolist() == [3, 2, 1]
    assert hardest_examples(np.full(len(errors), np.nan), one, 3) == []


def test_differences_are_of_the_same_images(evaluations: dict[str, Evaluation]) -> None:
    one = evaluations["mean"]
    both = {"a": one, "b": replace(one, name="b", prediction_mm=one.truth_mm)}
    ((name, mean, interval, share, says),) = difference_table(both, "a").rows
    assert (name, share, says) == ("b", "100 % of images", "better")
    assert isinstance(mean, Signed)
    assert mean.value == pytest.approx(-one.metrics.mean_mm, abs=0.01)
    low, high = map(float, str(interval).split(" to "))
    assert low < -one.metrics.mean_mm < high < 0
    ((*_, undecided),) = difference_table({"a": one, "c": replace(one, name="c")}, "a").rows
    assert undecided == "undecided"


def test_shares_under_a_threshold_have_intervals(evaluations: dict[str, Evaluation]) -> None:
    table = share_table(evaluations)
    assert [row[0] for row in table.rows] == [f"{t} mm" for t in range(10, 81, 10)]
    for row in table.rows:
        share, low, high = (float(x) for x in re.findall(r"[\d.]+", str(row[1])))
        assert low <= share <= high


def test_the_pairs_that_training_saw_least_of_are_taken(recordings: Any) -> None:
    real, twins = open_recording(recordings.real), open_recording(recordings.twins)
    assert real.frames is not None
    ids = [int(frame) for frame in real.frames.read("frame_id")]
    rows, said = pair_rows(real, twins, np.arange(24, 32), ids[:5])
    assert (rows.tolist(), said) == (list(range(5, 12)), "training frames whose labels were not used")
    rows, said = pair_rows(real, twins, np.arange(4, 32), ids[:5])
    assert (rows.tolist(), said) == (list(range(4, 12)), "the frames measured on")
    assert pair_rows(real, twins, None, ids)[1] == "training frames"
