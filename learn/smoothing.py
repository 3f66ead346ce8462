"""The One-Euro filter on joints: still hands do not tremble, moving ones do not lag.

Casiez, Roussel and Vogel, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive Systems"
(CHI 2012), equations 1 to 5, per joint: a first-order low-pass whose cut-off frequency grows with the joint's speed,

    alpha = 1 / (1 + tau / dt),  tau = 1 / (2 pi f),  f = f_min + beta |v|,
    x' = alpha x + (1 - alpha) x'_before,

v the speed from one measured x to the next (as in the authors' program; the paper's listing takes it from the last
smoothed x, which counts the lag as speed), itself smoothed with a cut-off of 1 Hz. It is the speed of the point, not of
a coordinate, so that the result does not depend on how the rig's axes lie. dt comes from the images' times: dropped
images do no harm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MIN_CUTOFF_HZ: Final = 1.5
"""f_min: a joint at rest is averaged over about a tenth of a second."""
BETA_PER_MM: Final = 0.03
"""beta: at 300 mm/s, a hand's fast motion, the lag is 15 ms, 4.5 mm; at 60 mm/s 48 ms, 2.9 mm."""
SPEED_CUTOFF_HZ: Final = 1.0
LONGEST_GAP_S: Final = 0.5
"""After a longer gap, or when time runs backwards, it begins anew."""


@dataclass(slots=True)
class OneEuro:
    """One hand's filter; it remembers the last joints and their velocities."""

    min_cutoff_hz: float = MIN_CUTOFF_HZ
    beta_per_mm: float = BETA_PER_MM
    _t_ns: int | None = None
    _raw: NDArray[np.float64] | None = None
    _joints: NDArray[np.float64] | None = None
    _velocity: NDArray[np.float64] | None = None

    def __call__(self, joints_mm: NDArray[Any], t_ns: int) -> NDArray[np.float64]:
        """Joints (J, 3) mm of time `t_ns`, smoothed."""
        joints = np.asarray(joints_mm, np.float64)
        dt = 0.0 if self._t_ns is None else (t_ns - self._t_ns) / 1e9
        self._t_ns = t_ns
        before, self._raw = self._raw, joints
        if before is None or self._joints is None or self._velocity is None or not 0 < dt <= LONGEST_GAP_S:
            self._joints, self._velocity = joints, np.zeros_like(joints)
            return joints
        change = (joints - before) / dt
        speed_alpha = _alpha(np.array(SPEED_CUTOFF_HZ), dt)
        self._velocity = speed_alpha * change + (1 - speed_alpha) * self._velocity
        speed = np.linalg.norm(self._velocity, axis=-1, keepdims=True)
        alpha = _alpha(self.min_cutoff_hz + self.beta_per_mm * speed, dt)
        self._joints = alpha * joints + (1 - alpha) * self._joints
        return self._joints

    def reset(self) -> None:
        """Forget the hand: the next joints are taken as they are."""
        self._t_ns = self._raw = self._joints = self._velocity = None


def _alpha(cutoff_hz: NDArray[np.float64], dt_s: float) -> NDArray[np.float64]:
    return 1 / (1 + 1 / (2 * np.pi * cutoff_hz * dt_s))
