"""Two models on the same images: differences planted here are found, and noise is none."""

import numpy as np
import pytest

from handloom.learn.compare import Compared, difference
from handloom.learn.metrics import groups_of, measure
from handloom.learn.tables import breakdown, clipped, columns_of, compared_table

NAMES = ("palm", "tip")


def pair(frames: int, *, better_mm: float, seed: int = 0) -> tuple[Compared, Compared]:
    """Errors that vary by 30 mm from image to image, the same for both, but for a difference."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((frames, 2, 3))
    hard = np.repeat(rng.uniform(5, 35, frames)[:, None], 2, axis=1)
    a, b = truth.copy(), truth.copy()
    a[..., 0] = hard + rng.normal(0, 1, hard.shape)
    b[..., 0] = hard + better_mm + rng.normal(0, 1, hard.shape)
    return Compared("a", a, truth), Compared("b", b, truth)


def compare(a: Compared, b: Compared, seed: int = 1):
    groups = groups_of(np.repeat(np.arange(20), len(a.truth_mm) // 20), np.arange(len(a.truth_mm)))
    return difference(a, b, joint_names=NAMES, groups=groups, seed=seed)


def test_half_a_millimetre_is_found_under_thirty_of_scatter():
    a, b = pair(400, better_mm=0.5)
    found = compare(a, b)
    assert found.difference_mm == pytest.approx(-0.5, abs=0.15)
    assert found.interval.low < found.difference_mm < found.interval.high < 0
    assert found.interval.unit == "sequences"
    assert found.verdict.startswith("a is better than b by 0.")
    assert 0.5 < found.a_better < 0.8
    alone = measure(a.prediction_mm, a.truth_mm, joint_names=NAMES, seed=1).interval
    assert found.interval.half_width < alone.half_width / 5, "the pairing is what finds it"
    assert found.a_mm - found.b_mm == pytest.approx(found.difference_mm)


def test_exchanged_they_say_the_opposite():
    a, b = pair(200, better_mm=2)
    forth, back = compare(a, b), compare(b, a)
    assert back.difference_mm == pytest.approx(-forth.difference_mm)
    assert back.a_better == pytest.approx(1 - forth.a_better)
    assert (back.interval.low, back.interval.high) == pytest.approx((-forth.interval.high, -forth.interval.low))
    assert back.verdict == forth.verdict


def test_noise_is_no_difference():
    verdicts = [compare(*pair(200, better_mm=0, seed=seed)).sure for seed in range(40)]
    assert sum(verdicts) <= 6, "at 95 % two of 40 are expected"
    assert "no difference to rely on: the interval holds zero" in [
        compare(*pair(200, better_mm=0, seed=seed)).verdict for seed in range(3)
    ]


def test_the_same_weights_in_other_arithmetic_are_the_same():
    a, _ = pair(40, better_mm=0)
    moved = Compared("b", a.prediction_mm + np.array([1e-5, 0, 0]), a.truth_mm)
    found = compare(a, moved)
    assert found.interval.high < 0, "every image says so"
    assert found.verdict == "no difference to rely on"
    assert not any(joint.sure for joint in found.joints)


def test_one_joint_that_differs_is_named():
    a, b = pair(200, better_mm=0)
    b.prediction_mm[:, 0, 0] = a.prediction_mm[:, 0, 0] + np.tile([1, -1], 100)
    b.prediction_mm[:, 1, 0] += 3
    found = compare(a, b)
    assert [joint.sure for joint in found.joints] == [False, True]
    assert found.joints[1].difference_mm == pytest.approx(-3, abs=0.3)
    text = "\n".join(found.lines())
    assert "tip                -2." in text or "tip                -3." in text
    assert text.count("*") == 2, "one beside the joint, one in the legend"


def test_images_that_one_of_them_missed_are_left_out_and_counted():
    a, b = pair(40, better_mm=1)
    a.prediction_mm[:3] = np.nan
    b.prediction_mm[2:7] = np.nan
    found = compare(a, b)
    assert (found.images, found.only_a, found.only_b) == (33, 4, 2)
    assert "4 images by the first, 2 by the second" in "\n".join(found.lines())
    a.prediction_mm[:] = np.nan
    nothing = compare(a, b)
    assert nothing.images == 0
    assert nothing.verdict == "there is no image on which both found a hand"


def test_unknown_joints_of_one_do_not_count_for_the_other():
    a, b = pair(40, better_mm=0)
    b = Compared("b", a.prediction_mm.copy(), a.truth_mm.copy())
    a.prediction_mm[:, 1, 0] += 50
    b.prediction_mm[:, 1] = np.nan
    assert compare(a, b).difference_mm == pytest.approx(0, abs=1e-9)


def test_tables_stay_within_eighty_columns_and_name_the_worst():
    rng = np.random.default_rng(0)
    truth = np.zeros((300, 2, 3))
    prediction = rng.normal(0, 1, truth.shape)
    sequence = np.repeat(np.arange(30), 10)
    prediction[sequence == 17] += 100
    m = measure(prediction, truth, joint_names=NAMES, seed=0, by={"sequence": sequence, "view": np.zeros(300)})
    lines = breakdown(m)
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("  17 ") for line in lines) == 1
    assert lines[-1] == "  and 18 more with smaller errors; --json has them all"
    assert not any(line.startswith("by view") for line in lines), "one view needs no table"
    table = compared_table({"runs/" + "x" * 60: m, "b": m}, "title")
    assert max(map(len, table)) <= 80
    assert max(map(len, columns_of({"middle_intermediate": "-100.00*", "ring_intermediate": "+1.00 "}))) <= 80


def test_names_that_are_too_long_keep_their_end():
    assert clipped("runs/one", 8) == "runs/one"
    assert clipped("a/long/path/to/runs/one", 12) == ".../runs/one"
