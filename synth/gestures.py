"""Families of hand poses: what people do with their hands, as a mixture to sample from.

Angles in degrees. A gesture names how far each finger bends at its knuckle and at its middle joint, how the
fingers spread, what the thumb does, and how much all of it varies. Last joints, the palm's cupping and the
fading of spread with bending follow from the coupling in `synth/pose.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

Bend = tuple[float, float]
"""Flexion at the knuckle and at the middle joint, degrees."""


@dataclass(frozen=True, slots=True)
class Contact:
    """A fingertip and what it touches; `synth/contact.py` brings them together."""

    tip: str
    """The finger whose tip it is."""
    onto: tuple[str, ...]
    """Surfaces: `palm`, `thumb_tip` (its last bone), or a finger from its knuckle on, by name."""
    both: bool = False
    """The thumb moves as well."""
    pads: bool = False
    """Pads are laid on each other first."""
    press_mm: float = 0.4
    """How far the two yield, in the mean; capsules are thicker than a bent finger's back."""


@dataclass(frozen=True, slots=True)
class Gesture:
    """The middle of a family of poses."""

    index: Bend
    middle: Bend
    ring: Bend
    little: Bend
    thumb: tuple[float, float, float, float, float]
    """Root flexion, abduction, axial; knuckle; last joint."""
    spread: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """Abduction of the four fingers, positive towards the thumb."""
    loose_deg: float = 7.0
    """Standard deviation of each angle about this."""
    contacts: tuple[Contact, ...] = ()
    """What touches, fingers before the thumb that lies on them."""
    touching: float = 0.85
    """Share of the poses in which it does; the others are on their way there."""


def _pinch(finger: str, *, pads: bool = True) -> tuple[Contact, ...]:
    return (Contact(finger, ("thumb_tip",), both=True, pads=pads),)


def _closed(*fingers: str, under_thumb: tuple[str, ...] = ()) -> tuple[Contact, ...]:
    """Fingertips in the palm, and the thumb over some of those fingers."""
    thumb = (Contact("thumb", under_thumb, press_mm=2.0),) if under_thumb else ()
    return (*(Contact(finger, ("palm",)) for finger in fingers), *thumb)


OPEN: Final[Bend] = (2, 4)
BENT: Final[Bend] = (83, 100)
BENT_LITTLE: Final[Bend] = (76, 90)
AT_REST: Final = (2.0, 0.0, 4.0, 8.0, 8.0)
ACROSS: Final = (24.0, 14.0, -12.0, 20.0, 56.0)
"""The thumb over the bent fingers."""

GESTURES: Final[Mapping[str, Gesture]] = {
    "relaxed": Gesture((18, 22), (24, 28), (28, 30), (30, 28), AT_REST, loose_deg=9),
    "flat": Gesture(OPEN, OPEN, OPEN, OPEN, (-4, -14, 0, 0, 0), (-3, 0, 2, 4), 5),
    "spread": Gesture(OPEN, OPEN, OPEN, OPEN, (-16, 12, -4, -2, -4), (12, 2, -8, -14), 5),
    "fist": Gesture(
        BENT,
        BENT,
        BENT,
        BENT_LITTLE,
        ACROSS,
        (0, 6, 4, -12),
        contacts=_closed("index", "middle", "ring", "little", under_thumb=("index", "middle", "ring")),
    ),
    "thumb_up": Gesture(
        BENT,
        BENT,
        BENT,
        BENT_LITTLE,
        (-22, -6, -6, -6, -14),
        (0, 6, 4, -12),
        contacts=_closed("index", "middle", "ring", "little"),
    ),
    "point": Gesture(
        OPEN,
        BENT,
        BENT,
        BENT_LITTLE,
        ACROSS,
        (0, 6, 4, -12),
        contacts=_closed("middle", "ring", "little", under_thumb=("middle", "ring")),
    ),
    "two": Gesture(
        OPEN,
        OPEN,
        BENT,
        BENT_LITTLE,
        ACROSS,
        (8, -6, 4, -12),
        contacts=_closed("ring", "little", under_thumb=("ring", "little")),
    ),
    "three": Gesture(
        OPEN, OPEN, OPEN, BENT_LITTLE, ACROSS, (8, 1, -7, -12), contacts=_closed("little", under_thumb=("little",))
    ),
    "four": Gesture(OPEN, OPEN, OPEN, OPEN, (30, 4, 18, 30, 30), (9, 2, -6, -10)),
    "gun": Gesture(
        OPEN,
        BENT,
        BENT,
        BENT_LITTLE,
        (-18, -2, -4, -4, -6),
        (0, 6, 4, -12),
        contacts=_closed("middle", "ring", "little"),
    ),
    "horns": Gesture(
        OPEN,
        BENT,
        BENT,
        OPEN,
        ACROSS,
        (4, 0, 0, -8),
        contacts=_closed("middle", "ring", under_thumb=("middle", "ring")),
    ),
    "hang": Gesture(
        BENT, BENT, BENT, OPEN, (-18, 6, -4, -4, -8), (0, 0, 0, -10), contacts=_closed("index", "middle", "ring")
    ),
    "pinch_index": Gesture(
        (49, 50), (32, 38), (28, 34), (24, 28), (19, 5, -8, 6, 8), (-2, 0, 0, -4), 4, contacts=_pinch("index")
    ),
    "pinch_middle": Gesture(
        (28, 30), (57, 55), (36, 38), (30, 32), (26, 5, -6, 15, 16), (2, -1, 0, -4), 4, contacts=_pinch("middle")
    ),
    "pinch_ring": Gesture(
        (16, 22),
        (30, 32),
        (53, 67),
        (42, 48),
        (26, 4, -3, 36, 32),
        (4, 0, -2, -2),
        4,
        contacts=_pinch("ring", pads=False),
    ),
    "pinch_little": Gesture(
        (12, 18),
        (20, 24),
        (42, 40),
        (63, 71),
        (32, 4, -7, 53, 39),
        (4, 0, 0, 0),
        4,
        contacts=_pinch("little", pads=False),
    ),
    "ok": Gesture(
        (49, 56), (10, 14), (8, 10), (6, 8), (15, 4, -6, 9, 18), (-2, 0, -4, -10), 4, contacts=_pinch("index")
    ),
    "tripod": Gesture(
        (57, 42),
        (56, 50),
        (50, 62),
        (46, 60),
        (17, 5, 8, 10, 10),
        (0, 0, 0, 0),
        5,
        contacts=_pinch("index"),
    ),
    "hook": Gesture((6, 84), (6, 88), (6, 86), (6, 80), (0, -8, 0, 8, 8)),
    "table_top": Gesture((72, 6), (76, 6), (76, 6), (72, 6), (4, -4, 6, 6, 6), loose_deg=8),
    "grip": Gesture((46, 50), (50, 54), (52, 54), (54, 50), (10, 22, 12, 10, 20), (4, 1, -1, -4), 9),
    "ball": Gesture((26, 38), (26, 40), (26, 38), (26, 36), (4, 24, 8, 8, 20), (10, 2, -6, -12), 8),
}

MIXTURE: Final[Mapping[str, float]] = {
    "wide": 8.0,
    "between": 4.0,
    "relaxed": 2.0,
    "flat": 1.0,
    "spread": 1.0,
    "fist": 1.2,
    "thumb_up": 0.6,
    "point": 1.0,
    "two": 0.8,
    "three": 0.6,
    "four": 0.6,
    "gun": 0.5,
    "horns": 0.4,
    "hang": 0.4,
    "pinch_index": 1.0,
    "pinch_middle": 0.6,
    "pinch_ring": 0.4,
    "pinch_little": 0.4,
    "ok": 0.5,
    "tripod": 0.5,
    "hook": 0.5,
    "table_top": 0.4,
    "grip": 0.8,
    "ball": 0.6,
}
"""How often each family is drawn, relative. `wide` covers all of the limits, `between` lies on the way from
one family to another."""
