"""The sections on how good models are, from real evaluations of the toy recording."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from handloom.learn.estimators import MeanPose
from handloom.learn.evaluate import Evaluation, evaluate_models, mean_pose
from handloom.learn.metrics import frame_means, joint_errors
from handloom.learn.pages import evaluation_sections, spread_examples
from handloom.learn.report import Facts, Gallery, Report, Table
from handloom.stores.recording import Recording, open_recording


@pytest.fixture(scope="module")
def real(recordings: Any) -> Recording:
    return open_recording(recordings.real)


@pytest.fixture(scope="module")
def evaluations(real: Recording) -> dict[str, Evaluation]:
    mean = mean_pose(real)
    worse = MeanPose(mean.layout, mean.hand, mean.relative_mm + np.float32(20))
    return evaluate_models({"mean pose": mean, "moved": worse}, real, seed=0, split="all")


def test_a_whole_page(evaluations: dict[str, Evaluation], real: Recording):
    sections = evaluation_sections(evaluations, real, examples=4)
    assert [s.title for s in sections] == ["Poses", "Result", "What was compared"]
    table, shares = [b for b in sections[1].blocks if isinstance(b, Table)]
    assert table.best == 0
    assert len(shares.columns) == 3
    gallery = sections[1].blocks[0]
    assert isinstance(gallery, Gallery)
    assert len(gallery.pictures) == 4, "two hands, the curves, the joints"
    (facts,) = sections[2].blocks
    assert isinstance(facts, Facts)
    assert real.uuid in facts.values["recording"]
    assert facts.values["centre"] == "center = predicted (located), 2 crops an image"
    html = Report("Evaluation", sections).html()
    assert html.count("<img") == 2
    assert html.count('<svg class="drawn"') == 3
    assert re.findall(r">([^<]*): row \d+, cam\d<", html) == ["best", "33 %", "67 %", "worst"]
    assert re.search(r"96 images; ± is half the 95 % bootstrap interval", html)


def test_examples_go_from_easy_to_hard(evaluations: dict[str, Evaluation]):
    one = evaluations["mean pose"]
    chosen = spread_examples(one, 5)
    errors = frame_means(joint_errors(one.prediction_mm, one.truth_mm))
    assert len(chosen) == 5
    assert errors[chosen].tolist() == sorted(errors[chosen])
    assert errors[chosen[0]] == errors.min()
    assert errors[chosen[-1]] == errors.max()


def test_missed_images_are_no_examples(evaluations: dict[str, Evaluation]):
    one = evaluations["mean pose"]
    missed = one.prediction_mm.copy()
    missed[3:] = np.nan
    few = replace(one, prediction_mm=missed)
    assert sorted(spread_examples(few, 5)) == [0, 1, 2]
    assert spread_examples(replace(one, prediction_mm=np.full_like(missed, np.nan)), 5) == []


def test_nothing_to_show(real: Recording):
    assert evaluation_sections({}, real) == []
