"""Errors as text tables of at most 80 characters: by joint, by view, by subject, by sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from .metrics import Metrics, Part

WIDTH: Final = 80
COLUMNS: Final = 3
LISTED: Final = 12
"""Rows of a table at most; the worst are shown where there are more."""
NAME: Final = 26


def breakdown(metrics: Metrics) -> list[str]:
    """The tables below a summary. What has one part only, or none, has no table."""
    joints = {name: f"{value:.2f}" for name, value in zip(metrics.joint_names, metrics.per_joint_mm, strict=True)}
    lines = ["by joint, mm", *columns_of(joints)]
    for what, parts in metrics.parts.items():
        if len(parts) > 1:
            lines += table_of(what, parts)
    return lines


def compared_table(models: Mapping[str, Metrics], title: str) -> list[str]:
    """A row a model, measured on the same images."""
    first = next(iter(models.values()))
    parts = [
        Part(name, m.images, m.missed, m.mean_mm, m.median_mm, m.interval, m.success[m.thresholds_mm.index(40.0)])
        for name, m in models.items()
    ]
    i = first.interval
    return [
        title,
        *table_of("model", parts, listed=len(parts)),
        f"mm; bootstrap over {i.groups} {i.unit}, seed {first.seed}; on the same images",
    ]


def columns_of(values: Mapping[str, str]) -> list[str]:
    """Names and values side by side, read down the columns."""
    per_column = -(-len(values) // COLUMNS)
    cells = [f"{clipped(name.replace('intermediate', 'interm.'), 17):<17}{value:>8}" for name, value in values.items()]
    rows = [cells[row::per_column] for row in range(per_column)]
    return [("  " + " ".join(row)).rstrip() for row in rows]


def table_of(what: str, parts: Sequence[Part], *, listed: int = LISTED) -> list[str]:
    """A row a part; the worst where they are many, and how many are left out."""
    shown = parts
    if len(parts) > listed:
        order = sorted(range(len(parts)), key=lambda i: -_rank(parts[i].mean_mm))
        shown = [parts[i] for i in sorted(order[:listed])]
    lines = [f"{'by ' + what:<28}{'images':>7} {'mean':>7}  {'95 % interval':>15} {'median':>7} {'<= 40 mm':>9}"]
    for part in shown:
        i = part.interval
        between = f"{i.low:.2f} to {i.high:.2f}" if math.isfinite(i.low) else "-"
        lines.append(
            f"  {clipped(part.name, NAME):<26}{part.images:>7} {_number(part.mean_mm):>7}  {between:>15} "
            f"{_number(part.median_mm):>7} {100 * part.within_40mm:>7.1f} %"
        )
    if len(shown) < len(parts):
        lines.append(f"  and {len(parts) - len(shown)} more with smaller errors; --json has them all")
    return lines


def clipped(name: str, width: int) -> str:
    """The end of a name that is too long: paths differ there."""
    return name if len(name) <= width else "..." + name[len(name) - width + 3 :]


def told_apart(paths: Sequence[str]) -> list[str]:
    """The shortest ends of some paths that tell them apart; the paths themselves where none do."""
    parts = [Path(path).parts for path in paths]
    for length in range(1, max((len(p) for p in parts), default=0) + 1):
        ends = [str(Path(*p[-length:])) if p else path for p, path in zip(parts, paths, strict=True)]
        if len(set(ends)) == len(ends):
            return ends
    return list(paths)


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _rank(value: float) -> float:
    return value if math.isfinite(value) else math.inf
