"""The numbers beside a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handloom.learn.report_data import data_file, log_lines, refuse_taken_page, write_data
from handloom.stores.errors import HandloomError


@dataclass(frozen=True)
class Thing:
    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.values


def test_a_line_for_each_number_and_null_for_none(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss/pose": 0.5}\n{"step": 2, "loss/pose": NaN}\n{"step": 3, "lo')
    made = write_data(
        tmp_path / "a.html",
        evaluations=[Thing({"name": "m", "metrics": {"mean_mm": float("nan"), "parts": (1.5, float("inf"))}})],
        differences=[Thing({"a": "m", "path": Path("r.zarr")})],
        runs={"mine": run, "gone": tmp_path / "gone"},
    )
    assert made == data_file(tmp_path / "a.html") == tmp_path / "a.metrics.jsonl"
    assert [json.loads(line, parse_constant=pytest.fail) for line in made.read_text().splitlines()] == [
        {"kind": "evaluation", "name": "m", "metrics": {"mean_mm": None, "parts": [1.5, None]}},
        {"kind": "difference", "a": "m", "path": "r.zarr"},
        {"kind": "training", "run": "mine", "step": 1, "loss/pose": 0.5},
        {"kind": "training", "run": "mine", "step": 2, "loss/pose": None},
    ]
    assert list(log_lines(tmp_path)) == []


def test_numbers_that_lie_there_are_not_replaced_unasked(tmp_path: Path) -> None:
    (tmp_path / "a.metrics.jsonl").write_text("mine")
    with pytest.raises(HandloomError, match="file of numbers exists already"):
        refuse_taken_page(tmp_path / "a.html", overwrite=False)
    refuse_taken_page(tmp_path / "a.html", overwrite=True)
    refuse_taken_page(tmp_path / "b.html", overwrite=False)
