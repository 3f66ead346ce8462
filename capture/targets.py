"""What may be shown to the cameras of a rig, and how the command line spells it.

sphere:30mm                                             a ball of that radius, seen in depth
charuco:7x5,square=30mm,marker=22mm,dict=4X4_50         a ChArUco board of 7 × 5 squares (columns × rows), seen in
                                                        infrared or colour; `legacy` after it for boards whose
                                                        first square is white although their rows are even
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..stores.errors import HandloomError

SPHERE_FORM: Final = "sphere:RADIUSmm"
CHARUCO_FORM: Final = "charuco:COLSxROWS,square=30mm,marker=22mm,dict=4X4_50"
TARGETS: Final = f"{SPHERE_FORM} (sphere:30mm), {CHARUCO_FORM} (charuco:7x5,…)"

DICTIONARIES: Final = {
    **{f"{bits}X{bits}_{size}": f"DICT_{bits}X{bits}_{size}" for bits in (4, 5, 6, 7) for size in (50, 100, 250, 1000)},
    "ARUCO_ORIGINAL": "DICT_ARUCO_ORIGINAL",
    "APRILTAG_16H5": "DICT_APRILTAG_16h5",
    "APRILTAG_25H9": "DICT_APRILTAG_25h9",
    "APRILTAG_36H10": "DICT_APRILTAG_36h10",
    "APRILTAG_36H11": "DICT_APRILTAG_36h11",
}
"""Families of markers, by OpenCV's names for them without DICT_."""


@dataclass(frozen=True, slots=True)
class SphereTarget:
    """A ball."""

    radius_mm: float

    def __str__(self) -> str:
        return f"a ball of radius {self.radius_mm:g} mm"


@dataclass(frozen=True, slots=True)
class CharucoTarget:
    """A board of squares with a marker in every white one (Garrido-Jurado et al. 2014; OpenCV's ChArUco)."""

    columns: int
    """Squares across; there are columns − 1 by rows − 1 corners between them."""
    rows: int
    square_mm: float
    marker_mm: float
    dictionary: str
    """A key of `DICTIONARIES`."""
    legacy: bool = False
    """Drawn by OpenCV before 4.6, where an even number of rows began with a white square."""

    def __str__(self) -> str:
        return f"a ChArUco board of {self.columns} x {self.rows} squares of {self.square_mm:g} mm"

    @property
    def corners(self) -> int:
        """How many corners the board has."""
        return (self.columns - 1) * (self.rows - 1)


Target = SphereTarget | CharucoTarget


def parse_target(text: str) -> Target:
    """The target that `--target` names.

    Raises:
        HandloomError: of another form, or not of a size that a camera sees.
    """
    kind, _, rest = text.strip().partition(":")
    match kind:
        case "sphere":
            return _sphere(rest, text)
        case "charuco":
            return _charuco(rest, text)
        case _:
            raise _no_target(text, f"known: {TARGETS}; lengths in mm")


def _no_target(text: str, why: str) -> HandloomError:
    return HandloomError(f"'{text}' is no target", where="--target", why=why)


def _sphere(rest: str, text: str) -> SphereTarget:
    radius_mm = _length(rest)
    if radius_mm is None:
        raise _no_target(text, f"a ball is {SPHERE_FORM}: sphere:30mm")
    if not 5 <= radius_mm <= 300:
        raise HandloomError("The ball's radius is not plausible", where="--target", why=f"{radius_mm:g} mm; 5 to 300")
    return SphereTarget(radius_mm)


def _charuco(rest: str, text: str) -> CharucoTarget:
    form = f"a board is {CHARUCO_FORM}, columns x rows counted in squares"
    size, *options = (part.strip() for part in rest.split(","))
    match = re.fullmatch(r"(\d{1,3})[xX](\d{1,3})", size)
    values = dict(option.split("=", 1) for option in options if "=" in option)
    rest_words = [option for option in options if "=" not in option]
    if match is None or set(values) != {"square", "marker", "dict"} or rest_words not in ([], ["legacy"]):
        raise _no_target(text, form)
    columns, rows = int(match[1]), int(match[2])
    square, marker = _length(values["square"]), _length(values["marker"])
    if square is None or marker is None:
        raise _no_target(text, f"square and marker are lengths in mm; {form}")
    name = values["dict"].strip().upper().removeprefix("DICT_")
    if name not in DICTIONARIES:
        raise HandloomError(
            f"There is no marker dictionary '{values['dict']}'",
            where="--target",
            why=f"known: {', '.join(DICTIONARIES)}",
        )
    if columns < 3 or rows < 3:
        raise HandloomError(
            "The board has too few squares",
            where="--target",
            why=f"{columns} x {rows}; at least 3 x 3, and 5 x 4 or more work well",
        )
    if not 0 < marker < square or not 4 <= square <= 500:
        raise HandloomError(
            "The board's lengths are not plausible",
            where="--target",
            why=f"squares of {square:g} mm (4 to 500), markers of {marker:g} mm; a marker lies inside its square",
        )
    return CharucoTarget(columns, rows, square, marker, name, bool(rest_words))


def _length(text: str) -> float | None:
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)mm", text.strip())
    return float(match[1]) if match else None
