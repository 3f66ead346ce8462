"""Numbers of joints on a drawn hand: the error of each as heat, the difference of two models in two colours.

The hand is an open right one, thumb to the left, whichever hand was measured; each number stands at its joint, in mm,
so the colours are read without a key and the numbers without colours. Drawn as SVG in the page's own inks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import FINGERS, OPENXR26, Layout
from ..stores.page import Drawing
from .compare import JointDifference

HAND_MM: Final = (
    (0.0, 52.0), (0.0, 0.0),
    (-30.0, 14.0), (-54.0, 44.0), (-71.0, 70.0), (-84.0, 92.0),
    (-16.5, 18.0), (-29.0, 86.0), (-37.0, 126.0), (-42.0, 150.0), (-46.0, 171.0),
    (-4.5, 17.0), (-5.0, 89.0), (-6.0, 134.0), (-6.0, 161.0), (-6.0, 183.0),
    (8.0, 15.0), (17.0, 82.0), (23.0, 124.0), (26.0, 149.0), (29.0, 170.0),
    (20.5, 11.0), (37.0, 72.0), (47.0, 104.0), (53.0, 122.0), (58.0, 141.0),
)  # fmt: skip
"""Where the 26 canonical joints are drawn: an open hand, thumb to the left, mm; other layouts by their blends."""
HEAT: Final = ("#ffe9a8", "#f9b64e", "#e8683f", "#b5253f", "#5d1049")
"""Small to large error: light to dark, told apart by all eyes; each dot has a rim, so it shows on either page."""
BETTER_WORSE: Final = ("#2166ac", "#67a9cf", "#f2f2f2", "#ef8a62", "#b2182b")
"""Below zero, zero, above it (ColorBrewer's RdBu, told apart by all eyes)."""
SCALE: Final = 1.85
"""Pixels of the page a millimetre of the drawn hand: metacarpals, 11 mm apart, keep their dots apart."""
_LEFT_MM, _RIGHT_MM, _TOP_MM, _BOTTOM_MM = -101.0, 76.0, 198.0, -16.0
_TITLE_PX: Final = 22
_RADIUS_PX: Final = 10.5
_DARK, _LIGHT = "#1f2328", "#ffffff"


@dataclass(frozen=True, slots=True)
class _Mark:
    """What stands at a joint."""

    text: str
    color: str | None
    """None: a ring without colour."""
    ink: str = "var(--muted)"
    hint: str = ""


def hand_map(name: str, errors_mm: Sequence[float], layout: Layout, *, largest_mm: float, caption: str = "") -> Drawing:
    """Mean error of each joint as colour and number.

    Args:
        name: of the model, above the hand.
        errors_mm: (J,), NaN = unknown: an empty ring.
        layout: of the joints.
        largest_mm: the end of the colours, one for all the hands that stand side by side.
        caption: below.
    """
    marks = []
    for point, error in zip(layout.points, errors_mm, strict=True):
        if not math.isfinite(error):
            marks.append(_Mark("–", None, hint=f"{point}: unknown"))
            continue
        share = min(1.0, error / largest_mm) if largest_mm > 0 else 0.0
        ink = _DARK if share < 0.55 else _LIGHT
        marks.append(_Mark(f"{error:.0f}", _mixed(HEAT, share), ink, f"{point}: {error:.2f} mm"))
    alt = f"Mean error of each joint (mm) on a drawn hand: {name}"
    return _drawn(name, marks, layout, HEAT, ("0", f"{largest_mm:.0f} mm"), alt, caption)


def difference_map(
    a: str, b: str, joints: Sequence[JointDifference], layout: Layout, *, largest_mm: float, caption: str = ""
) -> Drawing:
    """Error of A minus that of B at each joint; coloured only where the joint's own interval leaves out zero.

    Args:
        a: the first model's name.
        b: the second's.
        joints: (J,) in the layout's order, NaN = unknown.
        layout: of the joints.
        largest_mm: the end of the colours on both sides.
        caption: below.
    """
    marks = []
    for one in joints:
        mm, interval = one.difference_mm, one.interval
        if not math.isfinite(mm):
            marks.append(_Mark("–", None, hint=f"{one.name}: unknown"))
            continue
        share = max(-1.0, min(1.0, mm / largest_mm)) if largest_mm > 0 else 0.0
        ink = _DARK if abs(share) < 0.55 else _LIGHT
        color = _mixed(BETTER_WORSE, (share + 1) / 2) if one.sure else None
        hint = f"{one.name}: {mm:+.2f} mm ({interval.low:+.2f} to {interval.high:+.2f})"
        marks.append(_Mark(_signed(mm), color, ink if one.sure else "var(--muted)", hint))
    alt = f"Error of {a} minus that of {b} at each joint (mm) on a drawn hand"
    ends = (f"−{largest_mm:.1f}", f"+{largest_mm:.1f} mm")
    return _drawn(f"{a} minus {b}", marks, layout, BETTER_WORSE, ends, alt, caption)


def _drawn(
    name: str,
    marks: Sequence[_Mark],
    layout: Layout,
    colors: Sequence[str],
    ends: tuple[str, str],
    alt: str,
    caption: str,
) -> Drawing:
    places = _place(layout.matrix() @ np.array(HAND_MM))
    width = round((_RIGHT_MM - _LEFT_MM) * SCALE)
    height = round((_TOP_MM - _BOTTOM_MM) * SCALE) + _TITLE_PX
    shapes = [f'<text class="row" x="{width / 2:g}" y="15" text-anchor="middle">{escape(name)}</text>', _flesh()]
    for (x, y), mark in zip(places.tolist(), marks, strict=True):
        rim = f'fill="{mark.color}" stroke="var(--muted)"' if mark.color else 'class="ring"'
        small = "; font-size: 8.5px" if len(mark.text) > 3 else ""
        shapes.append(
            f'<g><title>{escape(mark.hint)}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS_PX}" {rim}/>'
            f'<text class="mark" x="{x:.1f}" y="{y + 3.5:.1f}" style="fill: {mark.ink}{small}">'
            f"{escape(mark.text)}</text></g>"
        )
    shapes.append(_key(colors, ends, height))
    return Drawing("".join(shapes), width, height, alt, caption, min_width=300)


def _flesh() -> str:
    """The hand itself: round-ended bones as wide as fingers, and the palm between them."""
    at = dict(zip(OPENXR26, _place(np.array(HAND_MM)).tolist(), strict=True))

    def line(points: Sequence[str]) -> str:
        return "M" + "L".join(f"{at[p][0]:.0f} {at[p][1]:.0f}" for p in points)

    palm = ["wrist", "thumb_metacarpal", *(f"{f}_proximal" for f in FINGERS[1:]), "little_metacarpal"]
    fingers = [
        line([p for p in OPENXR26 if p.startswith(f) and (f == "thumb" or not p.endswith("_metacarpal"))])
        for f in FINGERS
    ]
    wide = 18 * SCALE
    return (
        '<g class="flesh" stroke-linecap="round" stroke-linejoin="round">'
        f'<path d="{line(palm)}Z" stroke-width="{wide:.0f}"/>'
        f'<path d="{"".join(fingers)}" fill="none" stroke-width="{wide:.0f}"/></g>'
    )


def _key(colors: Sequence[str], ends: tuple[str, str], height: int) -> str:
    """The colours from end to end, below the thumb."""
    step, y = 18, height - 30
    boxes = [
        f'<rect x="{2 + i * step}" y="{y}" width="{step + 0.5}" height="8" fill="{color}"/>'
        for i, color in enumerate(_mixed(colors, share) for share in (0, 0.2, 0.4, 0.6, 0.8, 1))
    ]
    low, high = (
        f'<text class="note" x="{x}" y="{y + 22}" style="text-anchor: {anchor}">{escape(end)}</text>'
        for x, anchor, end in ((2, "start", ends[0]), (2 + 6 * step, "end", ends[1]))
    )
    return "".join([*boxes, low, high])


def _place(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) mm of the drawn hand as pixels of the drawing."""
    x, y = points_mm.T
    return np.stack([(x - _LEFT_MM) * SCALE, (_TOP_MM - y) * SCALE + _TITLE_PX], axis=1)


def _mixed(colors: Sequence[str], share: float) -> str:
    """The colour at a share, 0 to 1, of the way through them."""
    place = share * (len(colors) - 1)
    first = min(int(place), len(colors) - 2)
    ends = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in colors[first : first + 2]]
    rest = place - first
    return "#" + "".join(f"{round(a + (b - a) * rest):02x}" for a, b in zip(*ends, strict=True))


def _signed(mm: float) -> str:
    """Short enough for its ring: `+0.4`, `−12`, `0` for what rounds to it."""
    if abs(mm) < 0.05:
        return "0"
    text = f"{abs(mm):.1f}" if abs(mm) < 4.95 else f"{abs(mm):.0f}"
    return ("−" if mm < 0 else "+") + text
