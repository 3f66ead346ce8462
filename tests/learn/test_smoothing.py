"""The One-Euro filter: noise of a still hand falls, the lag of a moving one is bounded, odd times do no harm."""

import numpy as np
import pytest

from handloom.learn.smoothing import BETA_PER_MM, LONGEST_GAP_S, MIN_CUTOFF_HZ, OneEuro

PERIOD_NS = 33_333_333
REST = np.random.default_rng(5).normal(0, 60, (26, 3))


def test_a_still_hand_trembles_less():
    """3 mm of noise: a first-order low-pass of 1.5 Hz at 30 Hz leaves sqrt(a / (2 - a)), a = 0.24, 0.37 of it, and the
    noise's own speed opens the filter a little."""
    rng = np.random.default_rng(0)
    smooth = OneEuro()
    noisy = REST + rng.normal(0, 3, (300, 26, 3))
    out = np.array([smooth(joints, i * PERIOD_NS) for i, joints in enumerate(noisy)])[60:]
    assert out.std(axis=0).mean() < 0.6 * 3
    assert out.mean(axis=(0)) == pytest.approx(REST, abs=1.0), "and it stays where it is"


@pytest.mark.parametrize("step_mm", [30.0, 200.0])
def test_a_step_is_followed_in_time(step_mm: float):
    smooth = OneEuro()
    for i in range(30):
        smooth(REST, i * PERIOD_NS)
    target = REST + np.array([step_mm, 0, 0])
    left = [np.abs(smooth(target, (30 + i) * PERIOD_NS) - target).max() / step_mm for i in range(15)]
    assert left[14] < 0.05, "95 % within half a second"
    assert (np.diff(left) < 0).all(), "without overshoot"


@pytest.mark.parametrize("speed_mm_s", [60.0, 300.0, 1000.0])
def test_the_lag_of_a_steady_motion_is_what_the_paper_says(speed_mm_s: float):
    """Of a first-order low-pass at speed v: v / (2 pi f), f = f_min + beta v; never more than 1 / (2 pi beta)."""
    smooth = OneEuro()
    for i in range(200):
        t = i * PERIOD_NS
        there = REST + np.array([speed_mm_s * t / 1e9, 0, 0])
        out = smooth(there, t)
    lag = there[0, 0] - out[0, 0]
    expected = speed_mm_s / (2 * np.pi * (MIN_CUTOFF_HZ + BETA_PER_MM * speed_mm_s))
    assert lag == pytest.approx(expected, rel=0.02)
    assert lag < 1 / (2 * np.pi * BETA_PER_MM)


def test_the_rig_may_be_turned():
    rng = np.random.default_rng(1)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    a, b = OneEuro(), OneEuro()
    for i in range(20):
        joints = REST + rng.normal(0, 20, REST.shape)
        out, turned = a(joints, i * PERIOD_NS), b(joints @ turn, i * PERIOD_NS)
        assert turned == pytest.approx(out @ turn, abs=1e-9)


def test_gaps_and_time_that_stands_still_or_runs_back_begin_anew():
    for t_ns in (PERIOD_NS, 0, -5, PERIOD_NS + round((LONGEST_GAP_S + 0.1) * 1e9)):
        smooth = OneEuro()
        smooth(REST, 0)
        smooth(REST, PERIOD_NS)
        assert smooth(REST + 50, t_ns) == pytest.approx(REST + 50), t_ns
    smooth.reset()
    assert smooth(REST, PERIOD_NS) == pytest.approx(REST)


def test_dropped_images_do_no_harm():
    """The same motion seen at every third time ends where the whole one does, to a few millimetres."""
    whole, third = OneEuro(), OneEuro()
    for i in range(91):
        joints = REST + np.array([100 * np.sin(i / 30), 0, 0])
        a = whole(joints, i * PERIOD_NS)
        if i % 3 == 0:
            b = third(joints, i * PERIOD_NS)
    assert np.abs(a - b).max() < 6
