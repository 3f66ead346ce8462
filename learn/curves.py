"""Error over the number of labels and over the amount of unlabelled data (Poier et al., WACV 2019, Fig. 4 and 8).

A result is one trained model: an arm, how many labelled frames it saw, what share of the unlabelled ones, a seed,
its mean joint error. A point of a curve is the mean over seeds with Student's 95 % interval; with one seed there is
none, and the point says so by having no bar. The paper's own figures stand beside ours, never in the same axes: they
are NYU's, another data set, and only the shape of the curves can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..stores.documents import read_json_object
from ..stores.errors import HandloomError
from ..stores.page import Picture, Theme, both, chart, legend
from .figures import line_name
from .report import Block, Cell, Gallery, Section, Table, Text

ALL: Final = "all"
REFERENCE: Final = "synthetic-only"
"""The arm without real data: a level, the same for every number of labels."""
CITATION: Final = "NYU, another data set: Poier et al., WACV 2019, Fig. 4"
READ_OFF_MM: Final = 34.0
"""Of real images alone with 1,000 labels: read off the plot, the text has no number."""
PAPER_MM: Final[Mapping[str, Mapping[int, float]]] = {
    "full": {10: 16.38, 100: 12.17, 1000: 10.90, 10_000: 9.86, 72_757: 9.47},
    "+view-prediction": {10: 17.73, 100: 13.73, 1000: 11.43, 10_000: 10.12, 72_757: 10.04},
    "+distribution-matching": {10: 18.94, 100: 13.64, 1000: 11.47, 10_000: 10.36, 72_757: 10.03},
    "real+synthetic": {10: 20.67, 100: 15.74, 1000: 14.93, 10_000: 13.19, 72_757: 13.12},
    "real-only": {1000: READ_OFF_MM, 10_000: 15.90, 72_757: 14.67},
    "preview": {100: 29.35, 1000: 22.83, 10_000: 19.81, 72_757: 17.73},
    REFERENCE: {10: 21.27},
}
"""Mean joint error by arm and number of labels, 14 joints, true centres."""
PAPER_VIEW_MAE: Final[Mapping[int, float]] = {43_640: 0.123, 72_756: 0.107}
"""Error of predicted views by unlabelled frames: the same paper, Table 2."""
_STYLES: Final[Mapping[str, tuple[int | None, str, str]]] = {
    "full": (0, "-", "o"),
    "+view-prediction": (3, "-", "^"),
    "+distribution-matching": (2, "-", "v"),
    "control": (None, "-", "s"),
    "real+synthetic": (4, "-", "D"),
    "real-only": (1, "--", "o"),
    "preview": (5, "--", "^"),
    REFERENCE: (None, ":", ""),
}
"""Of each arm's line: number of the theme's colour (None: grey), dashes, marker."""


@dataclass(frozen=True, slots=True)
class Result:
    """One trained model and its error."""

    arm: str
    labels: str
    """How many labelled real frames it was to see: a number, or 'all'."""
    seed: int
    mean_mm: float
    labelled: int | None = None
    """How many these were; None where 'all' is not known as a number."""
    unlabelled_share: float = 1.0
    """Of the real training frames whose images were used without labels."""

    @property
    def count(self) -> float:
        """Labelled frames as a number; inf where 'all' is not known as one."""
        if self.labels != ALL:
            return float(self.labels)
        return math.inf if self.labelled is None else float(self.labelled)


@dataclass(frozen=True, slots=True)
class Point:
    """Several seeds of the same training."""

    mean_mm: float
    half_width_mm: float
    """Of the 95 % interval of the mean, Student's t over the seeds; NaN with one."""
    seeds: int

    def text(self, *, sign: bool = False) -> str:
        """`24.10 ± 0.95 (5)`, `+1.20 ± 0.95 (5)` with its sign; without the interval where there is none."""
        width = "" if math.isnan(self.half_width_mm) else f" ± {self.half_width_mm:.2f}"
        return f"{self.mean_mm:{'+' if sign else ''}.2f}{width} ({self.seeds})"


def point_of(values_mm: Sequence[float]) -> Point:
    """Mean and interval of the errors of several seeds."""
    from scipy.stats import t

    values, n = np.asarray(values_mm, np.float64), len(values_mm)
    width = float(t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Point(float(values.mean()), width, n)


def points_of(results: Iterable[Result]) -> dict[tuple[str, str, float], Point]:
    """The points by (arm, labels, unlabelled share); a seed counts once."""
    by: dict[tuple[str, str, float], dict[int, float]] = {}
    for one in results:
        by.setdefault((one.arm, one.labels, one.unlabelled_share), {})[one.seed] = one.mean_mm
    return {key: point_of(list(seeds.values())) for key, seeds in by.items()}


def read_results(folder: Path, *, split: str) -> tuple[list[Result], list[str]]:
    """What `benchmarks/gap.py` left in a folder, and the variants that were left out.

    A variant whose overrides change anything but `unlabelled_share` is another training and no part of the curves.

    Args:
        folder: its `--out`, with seed-*/results/*.json.
        split: 'test' or 'val', the frames it measured on.

    Raises:
        HandloomError: there is none, or one cannot be read.
    """
    found, left_out = [], []
    for path in sorted(folder.glob("seed-*/results/*.json")):
        try:
            row = read_json_object(path)
            if row["split"] != split:
                continue
            changed = dict(str(each).split("=", 1) for each in row.get("overrides", ()))
            varied = changed.pop("unlabelled_share", None)
            share = float(row.get("unlabelled_share", 1.0) if varied is None else varied)
            if changed or (row.get("variant") and varied is None):
                left_out.append(path.stem)
                continue
            labels = str(row["labels"])
            one = Result(str(row["arm"]), labels, int(row["seed"]), float(row["mean_mm"]), _labelled(path, row), share)
            assert math.isfinite(one.mean_mm)
            found.append(one)
        except (OSError, ValueError, KeyError, TypeError, OverflowError, AssertionError) as error:
            raise HandloomError("The result cannot be read", where=str(path), why=repr(error)) from error
    if not found:
        raise HandloomError(
            f"There are no results on {split} frames",
            where=str(folder / "seed-*/results"),
            fix=f"python benchmarks/gap.py --out {folder}",
        )
    return found, sorted(set(left_out))


def _labelled(result: Path, row: Mapping[str, Any]) -> int | None:
    """How many labelled frames the run beside a result lists."""
    if row["labels"] != ALL:
        return int(row["labels"])
    name = result.stem.removesuffix(f"-{row['split']}")
    listed = result.parents[1] / "runs" / name / "labelled_frames.txt"
    return len(listed.read_text(encoding="utf-8").split()) if listed.is_file() else None


def curve_sections(results: Sequence[Result]) -> list[Section]:
    """Figures and tables of error over labels, and over unlabelled data where that was varied."""
    return [
        Section("Error over the number of labels", _over_labels(whole(results))),
        Section("Error over the amount of unlabelled data", _over_unlabelled(results)),
    ]


def whole(results: Iterable[Result]) -> list[Result]:
    """Those that used all unlabelled frames: the curve over labels."""
    return [r for r in results if r.unlabelled_share == 1.0]


def varied(results: Sequence[Result]) -> list[Result]:
    """Those whose unlabelled share was varied, of seeds that have every share: the curve over unlabelled data."""
    shares: dict[tuple[str, str], set[float]] = {}
    for r in results:
        shares.setdefault((r.arm, r.labels), set()).add(r.unlabelled_share)
    have = {(r.arm, r.labels, r.seed, r.unlabelled_share) for r in results}
    return [
        r
        for r in results
        if len(shares[r.arm, r.labels]) > 1
        and all((r.arm, r.labels, r.seed, share) in have for share in shares[r.arm, r.labels])
    ]


def _over_labels(results: Sequence[Result]) -> list[Block]:
    if not results:
        return [Text("No result used all unlabelled frames.")]
    return [
        Gallery(
            [
                labels_chart(results, caption="Here: mean over seeds, bars are 95 % intervals (Student's t)."),
                paper_chart(caption=f"The paper's own curves ({CITATION}; 14 joints, true centres)."),
            ]
        ),
        labels_table(results),
        *([paired] if (paired := difference_table(results)).rows else []),
        paper_table(),
    ]


def _over_unlabelled(results: Sequence[Result]) -> list[Block]:
    shown = varied(results)
    paper = ", ".join(f"{mae:.3f} with {frames:,} frames" for frames, mae in PAPER_VIEW_MAE.items())
    said = f"The paper's error of predicted views fell with more of them: {paper} (NYU, another data set; Table 2)."
    if not shown:
        missing = "No run here was trained on a share of the unlabelled frames; -o unlabelled_share=0.25 trains one."
        return [Text(f"{missing}\n\n{said}")]
    return [share_chart(shown, caption="Bars are 95 % intervals over seeds."), share_table(shown), Text(said)]


def labels_chart(results: Sequence[Result], *, caption: str = "") -> Picture:
    """Error over the number of labels, a line an arm; the arm without real data is a level."""
    points = points_of(results)
    places, ticks = _places(results)
    lines = {
        arm: [(places[n], points[arm, n, s]) for a, n, s in points if a == arm]
        for arm in _arms(a for a, _, _ in points)
    }
    return line_chart(
        lines, ticks, x="labelled real frames", alt="Mean error over the number of labels", caption=caption
    )


def paper_chart(*, caption: str = "") -> Picture:
    """The paper's Fig. 4, from its numbers."""
    lines = {
        arm: [(math.log10(n), Point(mm, math.nan, 1)) for n, mm in by_count.items()]
        for arm, by_count in PAPER_MM.items()
    }
    ticks = {math.log10(n): f"{n:,}" for n in PAPER_MM["full"]}
    return line_chart(
        lines, ticks, x="labelled real frames", alt="The paper's error over the number of labels", caption=caption
    )


def share_chart(results: Sequence[Result], *, caption: str = "") -> Picture:
    """Error over the share of the unlabelled frames, a line for each arm and number of labels."""
    points = points_of(results)
    lines = {
        f"{arm}, n = {labels}": sorted(
            (100 * share, point) for (a, n, share), point in points.items() if (a, n) == (arm, labels)
        )
        for arm, labels in dict.fromkeys((a, n) for a, n, _ in points)
    }
    ticks = {100 * share: f"{100 * share:g} %" for share in sorted({s for _, _, s in points})}
    return line_chart(
        lines, ticks, x="unlabelled real frames used", alt="Mean error over the unlabelled data", caption=caption
    )


def labels_table(results: Sequence[Result]) -> Table:
    """A row an arm, a column a number of labels: mean ± half of the interval (seeds)."""
    points = points_of(results)
    counts = _counts(results)
    known = {r.count for r in results if r.labels == ALL and math.isfinite(r.count)}
    every = f"n = all ({min(known):.0f})" if len(known) == 1 else "n = all"
    rows: list[list[Cell]] = []
    for arm in _arms(a for a, _, _ in points):
        cells = [points.get((arm, n, 1.0)) for n in counts]
        rows.append([arm, *(None if cell is None else cell.text() for cell in cells)])
    columns = ["mean error (mm)", *(every if n == ALL else f"n = {n}" for n in counts)]
    return Table(columns, rows, "Mean over seeds ± half of the 95 % interval (number of seeds).")


def difference_table(results: Sequence[Result]) -> Table:
    """As `labels_table`, the difference from the arm without real data within each seed: seeds differ much more."""
    level = {r.seed: r.mean_mm for r in results if r.arm == REFERENCE}
    paired = [replace(r, mean_mm=r.mean_mm - level[r.seed]) for r in results if r.seed in level and r.arm != REFERENCE]
    points, counts = points_of(paired), _counts(paired)
    rows: list[list[Cell]] = []
    for arm in _arms(a for a, _, _ in points):
        cells = [points.get((arm, n, 1.0)) for n in counts]
        rows.append([arm, *(None if cell is None else cell.text(sign=True) for cell in cells)])
    columns = [f"difference from {REFERENCE} (mm)", *(f"n = {n}" for n in counts)]
    return Table(columns, rows, "Within each seed, negative is better; ± half of the 95 % interval (number of seeds).")


def paper_table() -> Table:
    """The paper's Fig. 4 as numbers."""
    counts = list(PAPER_MM["full"])
    rows: list[list[Cell]] = []
    for arm, by_count in PAPER_MM.items():
        level = next(iter(by_count.values())) if arm == REFERENCE else None
        known = [by_count.get(n, level) for n in counts]
        rows.append([arm, *(None if mm is None else "about 34" if mm == READ_OFF_MM else f"{mm:.2f}" for mm in known)])
    return Table(["the paper's (mm)", *(f"n = {n:,}" for n in counts)], rows, f"{CITATION}.")


def share_table(results: Sequence[Result]) -> Table:
    """A row for each arm and number of labels, a column a share."""
    points = points_of(results)
    shares = sorted({s for _, _, s in points})
    rows: list[list[Cell]] = []
    for arm, labels in dict.fromkeys((a, n) for a, n, _ in points):
        cells = [points.get((arm, labels, share)) for share in shares]
        rows.append([f"{arm}, n = {labels}", *(None if cell is None else cell.text() for cell in cells)])
    columns = ["mean error (mm)", *(f"{100 * share:g} % unlabelled" for share in shares)]
    return Table(columns, rows, "Mean over seeds ± half of the 95 % interval (number of seeds).")


def _counts(results: Iterable[Result]) -> list[str]:
    """The numbers of labels, ascending, 'all' last."""
    return sorted({r.labels for r in results}, key=lambda n: math.inf if n == ALL else float(n))


def _arms(arms: Iterable[str]) -> list[str]:
    """Each once, those of the paper in its order, then the others."""
    found = list(dict.fromkeys(arms))
    return [a for a in _STYLES if a in found] + [a for a in found if a not in _STYLES]


def _places(results: Sequence[Result]) -> tuple[dict[str, float], dict[float, str]]:
    """Where each number of labels lies on a logarithmic axis, 0 a decade before the first, and its tick."""
    counts = {r.labels: r.count for r in results}
    finite = [math.log10(n) for n in counts.values() if 0 < n < math.inf]
    first, last = min(finite, default=1.0), max(finite, default=1.0)
    places = {
        labels: first - 1 if n == 0 else last + 1 if n == math.inf else math.log10(n) for labels, n in counts.items()
    }
    return places, {place: labels for labels, place in places.items()}


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, Point]]], ticks: Mapping[float, str], *, x: str, alt: str, caption: str
) -> Picture:
    """Lines of points with their intervals; the reference is a level, dashed through.

    The means fill the picture: an interval of two seeds is six times as wide as one of five, and would flatten all
    lines to one.

    Args:
        lines: for each name its points and where they stand on the axis, which is linear.
        ticks: the axis' names by place.
        x: below the axis.
        alt: what the picture shows.
        caption: below it.
    """
    span = (max(ticks) - min(ticks)) or 1.0
    means = [v.mean_mm for points in lines.values() for _, v in points]
    spread = (max(means) - min(means)) or 1.0

    def draw(theme: Theme) -> Any:
        figure, axes = chart(theme, 4.3, x=x, y="mean joint error (mm)")
        for number, (name, points) in enumerate(lines.items()):
            index, dashes, marker = _STYLES.get(name, (number, "-", "o"))
            color = theme.muted if index is None else theme.series[index % len(theme.series)]
            if name == REFERENCE:
                ((_, level),) = points
                axes.axhline(level.mean_mm, color=color, linestyle=dashes, linewidth=1.8, label=line_name(name))
                continue
            # Intervals of many arms at one place would cover each other.
            shift = 0.012 * span * (number - (len(lines) - 1) / 2)
            place = [p + shift for p, _ in sorted(points, key=lambda pair: pair[0])]
            values = [point for _, point in sorted(points, key=lambda pair: pair[0])]
            axes.errorbar(
                place,
                [v.mean_mm for v in values],
                yerr=[0.0 if math.isnan(v.half_width_mm) else v.half_width_mm for v in values],
                color=color, linestyle=dashes, marker=marker, markersize=4.5, elinewidth=1.2,
                linewidth=2.4 if name == "full" else 1.5, label=line_name(name), zorder=4 if name == "full" else 3,
            )  # fmt: skip
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xlim(min(ticks) - 0.08 * span, max(ticks) + 0.08 * span)
        ends = [
            v.mean_mm + side * min(0.0 if math.isnan(v.half_width_mm) else v.half_width_mm, 0.25 * spread)
            for points in lines.values() for _, v in points for side in (-1, 1)
        ]  # fmt: skip
        axes.set_ylim(min(ends) - 0.06 * spread, max(ends) + 0.06 * spread)
        legend(axes, theme)
        return figure

    return both(draw, alt=alt, caption=caption)
