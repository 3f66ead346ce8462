"""Subjects: hands as long, as broad and as thick as published hand sizes say, of either sex.

For men and women, mm, mean ± standard deviation:

    hand length (wrist crease to middle finger tip)   183 ± 10    166 ± 8
    hand breadth (over the knuckles, no thumb)         84 ± 4      75 ± 4
    index finger breadth (at its middle joint)       20.3 ± 1    17.7 ± 1

Length and breadth are typical of adults over populations; British adults' are larger, 189 ± 10 and 174 ± 9,
87 ± 5 and 76 ± 4 mm (Pheasant, Bodyspace, 2nd ed. 1996, hand anthropometry). The finger's breadth is that table's,
21 ± 1 and 18 ± 1, at the same share of the hand's breadth.

A subject's three sizes are drawn together, normal and correlated (`CORRELATION`, our choice: the tables give
none), and the proportions of the hand are solved from them: with s the size, p and w the palm's length and
width, m the middle finger's length and f the fingers' thickness, all logarithms of scale factors,

    length = L e^s (a e^p + (1 − a) e^m),   breadth = B e^s (b e^w + (1 − b) e^f),   finger = F e^(s + f),

where L, B, F, a and b are the built-in hand's. Everything else varies a little about that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import FINGERS
from .hand import SHAPE_NAMES, SHAPE_SIZE

F64 = NDArray[np.float64]
Sex = Literal["male", "female"]

SIZES_MM: Final[Mapping[Sex, tuple[tuple[float, float], ...]]] = {
    "male": ((183.0, 10.0), (84.0, 4.0), (20.3, 1.0)),
    "female": ((166.0, 8.0), (75.0, 4.0), (17.7, 1.0)),
}
"""Mean and standard deviation of hand length, hand breadth and index finger breadth, see above."""
CORRELATION: Final = 0.6
"""Between each two of the three sizes, within a sex."""
MOST_SIGMA: Final = 3.0
"""No size lies further from its mean."""
BUILTIN_MM: Final = (175.8, 80.7, 18.8)
"""The three sizes of the built-in hand."""
PALM_OF_LENGTH: Final = 0.505
PALM_OF_BREADTH: Final = 0.87
"""Shares of length and breadth that grow with the palm; the rest grows with the fingers."""
_MIXED: Final = np.linalg.cholesky(np.full((3, 3), CORRELATION) + (1 - CORRELATION) * np.eye(3))
_ROW: Final = {name: i for i, name in enumerate(SHAPE_NAMES)}


def sample_shape(rng: np.random.Generator, *, sex: Sex | None = None) -> F64:
    """(SHAPE_SIZE,) proportions of a subject: log scale factors about the built-in hand.

    Args:
        rng: source of randomness.
        sex: whose sizes; either alike often by default.
    """
    male = rng.random() < 0.5
    of = sex or ("male" if male else "female")
    away = np.clip(_MIXED @ rng.normal(size=3), -MOST_SIGMA, MOST_SIGMA)
    length, breadth, finger = (
        np.log((mean + sigma * z) / own) for (mean, sigma), z, own in zip(SIZES_MM[of], away, BUILTIN_MM, strict=True)
    )
    noise = rng.normal(size=SHAPE_SIZE)
    shape = np.zeros(SHAPE_SIZE)
    # All fingers of a hand are long or short together, more than each alone.
    together = 0.025 * rng.normal()
    for name in FINGERS:
        shape[_ROW[f"{name}_length"]] = together + 0.02 * noise[_ROW[f"{name}_length"]]
    palm, middle = 0.02 * noise[_ROW["palm_length"]], shape[_ROW["middle_length"]]
    size = length - np.log(PALM_OF_LENGTH * np.exp(palm) + (1 - PALM_OF_LENGTH) * np.exp(middle))
    thick = finger - size
    wide = (np.exp(breadth - size) - (1 - PALM_OF_BREADTH) * np.exp(thick)) / PALM_OF_BREADTH
    shape[_ROW["size"]], shape[_ROW["palm_length"]] = size, palm
    shape[_ROW["palm_width"]], shape[_ROW["finger_thickness"]] = np.log(wide), thick
    # A broad palm and a broad wrist are thick ones too.
    shape[_ROW["palm_thickness"]] = 0.5 * np.log(wide) + 0.04 * noise[_ROW["palm_thickness"]]
    shape[_ROW["forearm_thickness"]] = 0.7 * np.log(wide) + 0.05 * noise[_ROW["forearm_thickness"]]
    return shape
