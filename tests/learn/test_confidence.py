"""Confidence from disagreement: what the curve promises, that fitting finds it, and what a file says of it."""

from typing import Any

import numpy as np
import pytest

from handloom.learn import confidence as c
from handloom.learn.confidence import UNCALIBRATED, Confidence, Curve, from_text, fused_doubt, rank_correlation
from handloom.learn.estimators import MeanPose
from handloom.learn.fusion import fuse
from handloom.stores.errors import HandloomError
from handloom.stores.joints import layout_named
from handloom.stores.recording import open_recording


def test_larger_doubt_is_less_confidence_and_twenty_millimetres_are_even_odds():
    p = UNCALIBRATED.view(np.array([0, 1, 5, 20, 100, 1e6]))
    assert (np.diff(p) < 0).all()
    assert p[3] == pytest.approx(0.5)
    assert p[0] > 0.95
    assert 0 <= p[-1] < 1e-6
    assert UNCALIBRATED.view(np.nan) == pytest.approx(p[0])


def test_fitting_finds_the_curve_that_made_the_frames():
    rng = np.random.default_rng(0)
    truth = Curve(7.0, 2.5)
    doubt = rng.gamma(2, 6, 4000)
    good = rng.random(4000) < truth(doubt)
    found = c._fit(np.stack([doubt, np.where(good, 10.0, 30.0)], axis=1))
    at = np.array([2.0, 8, 15, 30])
    assert found(at) == pytest.approx(truth(at), abs=0.03)


@pytest.mark.parametrize("error", [3.0, 300.0])
def test_frames_that_are_all_good_or_all_bad_fit_a_finite_curve(error: float):
    doubt = np.random.default_rng(0).gamma(2, 6, 200)
    found = c._fit(np.stack([doubt, np.full(200, error)], axis=1))
    p = found(doubt)
    assert np.isfinite(p).all()
    assert ((p > 0.9) if error < 20 else (p < 0.1)).all()


def test_doubt_that_says_nothing_becomes_a_constant():
    rng = np.random.default_rng(3)
    doubt, good = rng.gamma(2, 6, 3000), rng.random(3000) < 0.3
    p = c._fit(np.stack([doubt, np.where(good, 10.0, 30.0)], axis=1))(doubt)
    assert p.mean() == pytest.approx(0.3, abs=0.02)
    assert np.ptp(p) < 0.12


def test_a_fused_pose_is_doubted_for_both_reasons():
    pose = np.zeros((26, 3))
    same, apart = (
        fuse(np.stack([pose, pose]), np.ones(2)),
        fuse(np.stack([pose, pose + np.array([40, 0, 0])]), np.ones(2)),
    )
    assert fused_doubt([0, 0], same) == pytest.approx(0)
    assert fused_doubt([0, 0], apart) == pytest.approx(np.sqrt(5 * 25) - 5)
    assert fused_doubt([30, 30], same) > 5
    assert fused_doubt([12.0], fuse(pose[None], np.ones(1))) == pytest.approx(12)


def test_rank_correlation():
    x = np.arange(20.0)
    assert rank_correlation(x, np.exp(x)) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert rank_correlation(x, np.ones(20)) == 0


def test_a_file_gives_back_what_was_written_and_refuses_the_rest():
    made = Confidence(Curve(3, 1), Curve(5, 2), True, 240, (0.4, 0.5))
    assert from_text(made.to_text()) == made
    assert from_text(None) is UNCALIBRATED
    text = made.to_text()
    for other in ("[]", "{}", "1", text.replace("20.0", "30.0"), text.replace('"b": 1', '"b": -1'), text[:-1]):
        with pytest.raises(ValueError, match=r"confidence|delimiter"):
            from_text(other)
    with pytest.raises(ValueError, match="confidence"):
        from_text(text.replace('"a": 3', '"a": NaN'))


def test_calibrating_on_a_recording(recordings: Any):
    recording = open_recording(recordings.real)
    layout = layout_named("openxr26")
    still = MeanPose(layout, "right", np.zeros((26, 3), np.float32))
    found = c.calibrate(still, recording, range(32))
    assert found.calibrated
    assert found.frames == 32
    assert found.view(np.array([0.0, 5.0])).max() < 0.1, "a hand that is a point is never within 20 mm"
    with pytest.raises(HandloomError, match="Too few labelled frames"):
        c.calibrate(still, recording, range(10))
    with pytest.raises(HandloomError, match="labels do not fit"):
        c.calibrate(still, open_recording(recordings.unlabelled), range(6))
