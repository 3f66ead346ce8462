"""Metrics against figures worked out by hand."""

import numpy as np
import pytest

from handloom.learn.metrics import (
    Groups,
    frame_means,
    groups_of,
    interval_of_mean,
    joint_errors,
    measure,
    success_curve,
)

NAMES = ("a", "b")


def shifted(*offsets_mm: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction of two joints, the prediction off by so much along x."""
    truth = np.arange(len(offsets_mm) * 6, dtype=float).reshape(-1, 2, 3)
    prediction = truth.copy()
    prediction[..., 0] += np.array(offsets_mm)
    return prediction, truth


def test_means_median_curve_and_area():
    prediction, truth = shifted((0, 10), (20, 40), (3, 90))
    m = measure(prediction, truth, joint_names=NAMES, seed=0)
    assert m.mean_mm == pytest.approx((5 + 30 + 46.5) / 3)
    assert m.median_mm == pytest.approx(30)
    assert m.per_joint_mm == pytest.approx((23 / 3, 140 / 3))
    assert m.success == pytest.approx((1 / 3, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3, 2 / 3))
    assert m.auc == pytest.approx((70 / 80 + 40 / 80 + 0) / 3)


def test_the_area_is_that_of_the_drawn_curve():
    worst = np.random.default_rng(0).gamma(3, 12, 500)
    t = np.linspace(0, 80, 8001)
    drawn = np.trapezoid(success_curve(worst, t), t) / 80
    truth = np.zeros((500, 1, 3))
    prediction = truth.copy()
    prediction[:, 0, 1] = worst
    assert measure(prediction, truth, joint_names=("a",), seed=0).auc == pytest.approx(drawn, abs=1e-4)


def test_unknown_joints_do_not_count_and_empty_frames_are_left_out():
    prediction, truth = shifted((4, 8), (100, 6), (50, 50))
    truth[1, 0] = np.nan
    truth[2] = np.nan
    m = measure(prediction, truth, joint_names=NAMES, seed=0)
    assert m.images == 2
    assert m.mean_mm == pytest.approx(6)
    assert m.per_joint_mm == pytest.approx((4, 7))


def test_a_missed_hand_fails_the_curve_but_not_the_mean():
    prediction, truth = shifted((4, 4), (8, 8))
    prediction[1] = np.nan
    m = measure(prediction, truth, joint_names=NAMES, seed=0)
    assert (m.images, m.missed) == (2, 1)
    assert m.mean_mm == pytest.approx(4)
    assert m.success[-1] == pytest.approx(0.5)
    assert m.auc == pytest.approx((1 - 4 / 80) / 2)


def test_nothing_to_measure_is_no_number():
    m = measure(np.zeros((0, 2, 3)), np.zeros((0, 2, 3)), joint_names=NAMES, seed=0)
    assert m.images == 0
    assert np.isnan(m.mean_mm)
    assert np.isnan(m.interval.low)


def test_means_by_sequence_and_by_view():
    prediction, truth = shifted((2, 2), (4, 4), (9, 9), (50, 50))
    prediction[3] = np.nan
    truth = np.concatenate([truth, np.full((1, 2, 3), np.nan)])
    prediction = np.concatenate([prediction, prediction[:1]])
    by = {"sequence": np.array([4, 4, 17, 17, 20]), "view": np.array(["b", "a", "a", "a", "b"])}
    m = measure(prediction, truth, joint_names=NAMES, seed=0, sequence=by["sequence"], by=by)
    assert [(p.name, p.images, p.missed) for p in m.parts["sequence"]] == [("4", 2, 0), ("17", 2, 1)]
    assert [p.mean_mm for p in m.parts["sequence"]] == pytest.approx([3, 9])
    a, b = m.parts["view"]
    assert (a.name, a.images, a.missed, b.images) == ("a", 3, 1, 1), "an image without labels is in no part"
    assert (a.mean_mm, a.within_40mm) == pytest.approx((6.5, 2 / 3))
    assert a.interval.low <= 6.5 <= a.interval.high


def test_sequences_are_resampled_when_there_are_enough():
    sequence = np.repeat(np.arange(10), 30)
    groups = groups_of(sequence, np.arange(300))
    assert (groups.unit, groups.count) == ("sequences", 10)
    groups = groups_of(np.repeat([0, 1], [250, 150]), np.arange(400))
    assert groups.unit == "blocks of 20 frames"
    assert groups.count == 13 + 8
    assert not set(groups.ids[:250]) & set(groups.ids[250:])


def test_views_of_a_frame_stay_in_one_block():
    frame = np.repeat(np.arange(100), 3)
    ids = groups_of(np.zeros(300), frame).ids.reshape(100, 3)
    assert (ids == ids[:, :1]).all()


def test_an_interval_over_correlated_frames_is_wider_than_over_frames():
    # 20 sequences with their own mean: the frames inside one say the same thing thirty times.
    rng = np.random.default_rng(1)
    values = 10 + np.repeat(rng.normal(0, 3, 20), 30) + rng.normal(0, 1, 600)
    whole = interval_of_mean(values, Groups(np.repeat(np.arange(20), 30), "sequences"), seed=2)
    naive = interval_of_mean(values, Groups(np.arange(600), "frames"), seed=2)
    assert whole.half_width > 3 * naive.half_width
    assert whole.low < values.mean() < whole.high
    # the textbook value: 1.96 times the standard error of 20 sequence means
    expected = 1.96 * values.reshape(20, 30).mean(1).std(ddof=1) / np.sqrt(20)
    assert whole.half_width == pytest.approx(expected, rel=0.2)


def test_the_interval_depends_on_its_seed_alone():
    values = np.random.default_rng(0).normal(size=50)
    groups = Groups(np.arange(50), "frames")
    assert interval_of_mean(values, groups, seed=1) == interval_of_mean(values, groups, seed=1)
    assert interval_of_mean(values, groups, seed=1) != interval_of_mean(values, groups, seed=2)


def test_errors_and_frame_means_shapes():
    errors = joint_errors(np.zeros((2, 3, 3)), np.full((2, 3, 3), 2.0))
    assert errors == pytest.approx(np.full((2, 3), np.sqrt(12)))
    assert np.isnan(frame_means(np.full((1, 2), np.nan))).all()


def test_the_summary_names_what_was_resampled():
    prediction, truth = shifted(*[(3.0, 5.0)] * 40)
    text = "\n".join(measure(prediction, truth, joint_names=NAMES, seed=7).lines())
    assert "mean joint error   4.000 mm" in text
    assert "bootstrap over 20 blocks of 2 frames, seed 7" in text
