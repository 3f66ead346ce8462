"""What a check of a recording found, and how it is said within eighty columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

Severity = Literal["error", "warning", "note"]
WIDTH: Final = 80
SHOWN_RUNS: Final = 6
SHOWN_PLACES: Final = 3
ORDER: Final[Mapping[str, int]] = {"error": 0, "warning": 1, "note": 2}


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
    """Which rows, in words, neighbours as a range; all of them where they are few."""
    if not rows:
        return ""
    if len(rows) == 1:
        return f" (row {rows[0]})"
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs[:SHOWN_RUNS])
    return f" ({len(rows)} rows: {shown}{', ...' if len(runs) > SHOWN_RUNS else ''})"


def said_once(findings: Iterable[Finding]) -> list[Finding]:
    """Findings as people want them: the gravest first, and one for all arrays of which the same is to be said."""
    same: dict[tuple[object, ...], list[Finding]] = {}
    for finding in findings:
        key = finding.severity, finding.code, finding.what, finding.rows, finding.fix
        same.setdefault(key, []).append(finding)
    joined = [replace(group[0], where=_places([f.where for f in group])) for group in same.values()]
    return sorted(joined, key=lambda finding: ORDER[finding.severity])


def counted(findings: Iterable[Finding]) -> str:
    """How many of each severity, in words."""
    severities: list[str] = [finding.severity for finding in findings]
    counts = {name: severities.count(name) for name in ORDER}
    said = ", ".join(f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items() if count)
    return said or "nothing found"


def _places(places: Sequence[str]) -> str:
    shown = "; ".join(places[:SHOWN_PLACES])
    return shown + (f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else "")
