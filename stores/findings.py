"""What a check of a recording found, and how it is said within eighty columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
WIDTH: Final = 80
SHOWN_ROWS: Final = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    severity: Severity
    """`error`: data is lost or wrong; `warning`: look at it; `note`: as it is after a crash, say."""
    code: str
    """Short and stable, for programs."""
    where: str
    """Table and array, or the file, from the recording's folder."""
    what: str
    rows: tuple[int, ...] = ()
    """Rows of the table that it concerns, ascending."""
    fix: str = ""

    def lines(self) -> list[str]:
        """For people."""
        head = f"{self.severity}: {self.where}: {self.what}"
        out = textwrap.wrap(head + said_rows(self.rows), WIDTH, subsequent_indent="  ")
        if self.fix:
            out += textwrap.wrap(f"fix: {self.fix}", WIDTH, initial_indent="  ", subsequent_indent="       ")
        return out


def said_rows(rows: Sequence[int]) -> str:
    """Which rows, in words; all of them where they are few."""
    if not rows:
        return ""
    if len(rows) == 1:
        return f" (row {rows[0]})"
    shown = ", ".join(map(str, rows[:SHOWN_ROWS]))
    return f" ({len(rows)} rows: {shown}{', ...' if len(rows) > SHOWN_ROWS else ''})"
