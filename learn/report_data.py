"""The numbers of a page for other programs: `page.html` has `page.metrics.jsonl` beside it.

One JSON object a line, each with its `kind`: `evaluation` (a model on a recording, as `eval model --json` has it),
`difference` (two models on the same images), `agreement` (cameras with each other, without labels), and `training`
(a line of a run's log, with the run's name). `pandas.read_json(path, lines=True)` reads it. A number that is none
is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..stores.page import refuse_taken, write_page


class Described(Protocol):
    """Something that says itself in plain values."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""


def data_file(page: Path) -> Path:
    """Where the numbers of a page lie."""
    return page.with_name(f"{page.name.removesuffix('.html')}.metrics.jsonl")


def refuse_taken_page(page: Path, *, overwrite: bool) -> None:
    """Make sure that a page and its numbers may be written.

    Raises:
        HandloomError: something lies at either path.
    """
    refuse_taken(page, overwrite=overwrite)
    refuse_taken(data_file(page), overwrite=overwrite, what="report's file of numbers")


def write_data(
    page: Path,
    *,
    evaluations: Iterable[Described] = (),
    differences: Iterable[Described] = (),
    agreements: Iterable[Described] = (),
    runs: Mapping[str, Path] | None = None,
) -> Path:
    """Write the numbers of a page beside it; what lies there is replaced.

    Args:
        page: the page's path.
        evaluations: of models.
        differences: between them.
        agreements: of the cameras.
        runs: folders of the runs whose logs the page shows, by the names it gives them.

    Returns:
        The file.

    Raises:
        HandloomError: it cannot be written.
    """
    parts = {"evaluation": evaluations, "difference": differences, "agreement": agreements}
    lines = [{"kind": kind} | one.to_dict() for kind, all_of in parts.items() for one in all_of]
    for name, run in (runs or {}).items():
        lines += [{"kind": "training", "run": name} | line for line in log_lines(run)]
    text = "".join(f"{json.dumps(_finite(line), allow_nan=False, default=str)}\n" for line in lines)
    write_page(text, data_file(page), overwrite=True, what="report's file of numbers")
    return data_file(page)


def log_lines(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, whole ones only; none where it has no log."""
    path = run / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else ():
        yield json.loads(line)


def _finite(value: Any) -> Any:
    """JSON has no word for what is not finite."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(key): _finite(part) for key, part in value.items()}
        case list() | tuple():
            return [_finite(part) for part in value]
        case _:
            return value
