"""One self-contained HTML page: pictures first, tables with intervals, text; light and dark.

The page asks nothing of the network (its own content policy forbids it), so it reads the same over ssh, in a CI
artefact and as an attachment. Its one script sorts tables of three rows and more; without it they stand as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..stores.page import Drawing, Picture, page_environment, write_page
from .metrics import Interval

LONG_ROWS: Final = 30
"""Tables of more rows get a window to scroll in."""
NARROW_CHARACTERS: Final = 26
"""Cells of longer texts may break their lines."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A number with its interval; tables draw a bar of its length."""

    value: float
    interval: Interval | None = None
    digits: int = 2


@dataclass(frozen=True, slots=True)
class Signed:
    """A difference: shown with its sign, sorted by its size."""

    value: float
    unit: str = ""


Cell = str | int | float | Measured | Signed | None


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, separated by empty lines."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Commands or output, as they are."""

    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values, two columns."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; None is shown as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    best: int | None = None
    """The row to set in bold."""

    @property
    def sortable(self) -> bool:
        """Whether there is anything to sort."""
        return len(self.rows) > 2

    @property
    def long(self) -> bool:
        """Whether it scrolls in a window of its own."""
        return len(self.rows) > LONG_ROWS

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "a row has another length"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Pictures, side by side where there is room."""

    pictures: Sequence[Picture | Drawing]


Block = Text | Code | Facts | Table | Gallery | Picture | Drawing


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what follows it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Report:
    """A page."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    introduction: str = ""
    """What a reader must know before the first picture; paragraphs as in `Text`."""
    made_by: str = ""
    """The command and version, for the last line."""
    made_at: datetime | None = None

    @property
    def sortable(self) -> bool:
        """Whether one of its tables is."""
        return any(isinstance(block, Table) and block.sortable for part in self.sections for block in part.blocks)

    @property
    def images(self) -> dict[str, bytes]:
        """What its drawings use, each once."""
        found: dict[str, bytes] = {}
        for part in self.sections:
            for block in part.blocks:
                for picture in block.pictures if isinstance(block, Gallery) else (block,):
                    found |= picture.images if isinstance(picture, Drawing) else {}
        return found

    def html(self) -> str:
        """The whole page."""
        environment = page_environment(__package__ or "")
        environment.filters |= {
            "number": _number,
            "exact": _exact,
            "signed": _signed,
            "kind": lambda block: type(block).__name__,
        }
        environment.globals |= {
            "widest": _widest,
            "percent": _percent,
            "numeric": _numeric,
            "narrow": NARROW_CHARACTERS,
        }
        made_at = (self.made_at or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
        return environment.get_template("report.html.j2").render(report=self, made_at=made_at)

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the page.

        Raises:
            HandloomError: the file exists and `overwrite` is not set, or it cannot be written.
        """
        write_page(self.html(), path, overwrite=overwrite)


def _number(value: Cell, digits: int = 2) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _signed(cell: Signed) -> str:
    return f"{cell.value:+.2f} {cell.unit}".strip() if math.isfinite(cell.value) else "–"


def _numeric(table: Table, column: int) -> bool:
    """Whether a column holds plain numbers, which stand right."""
    cells = [row[column] for row in table.rows if row[column] is not None]
    return bool(cells) and all(isinstance(cell, int | float | Signed) for cell in cells)


def _exact(value: float | None) -> str:
    """What a table is sorted by."""
    return "" if value is None or not math.isfinite(value) else repr(float(value))


def _widest(table: Table, column: int) -> float:
    """The right end of the column's scale: its largest value or interval end."""
    ends = [
        max(cell.value, cell.interval.high if cell.interval else cell.value)
        for cell in (row[column] for row in table.rows)
        if isinstance(cell, Measured) and math.isfinite(cell.value)
    ]
    return max((e for e in ends if math.isfinite(e)), default=1.0)


def _percent(value: float, widest: float) -> str:
    return f"{100 * min(1.0, max(0.0, value / widest)) if widest > 0 and math.isfinite(value) else 0:.1f}%"
