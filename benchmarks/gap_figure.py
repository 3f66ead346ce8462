"""The curves of the domain-gap benchmark, from the results that `gap.py` left: figures, tables, one page.

    python benchmarks/gap_figure.py --out gap [--split test] [--overwrite]

Reads gap/seed-*/results/*.json, trains and measures nothing. Writes gap/curves-test.html, which holds all, and the
figures by themselves: gap/labels-test.png, and gap/unlabelled-test.png where the amount of unlabelled data was varied.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from handloom import __version__
from handloom.learn.curves import (
    curve_sections,
    labels_chart,
    labels_table,
    points_of,
    read_results,
    share_chart,
    varied,
    whole,
)
from handloom.learn.report import Report, Section, Text
from handloom.stores.errors import HandloomError
from handloom.stores.page import write_page


def main() -> None:
    """Draw, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder given to gap.py as --out")
    parser.add_argument("--split", choices=["test", "val"], default="test")
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args()
    try:
        write(args.out, args.split, overwrite=args.overwrite)
    except HandloomError as error:
        sys.exit(f"error: {error}")


def write(out: Path, split: str, *, overwrite: bool) -> None:
    """The page and the figures of one folder of results."""
    results, left_out = read_results(out, split=split)
    sections = curve_sections(results)
    seeds = sorted({one.seed for one in results})
    about = (
        f"Domain-gap benchmark on {split} frames, seeds {', '.join(map(str, seeds))}. Source and target are both "
        "rendered: the figures say what a method does with this gap, not with a camera's."
    )
    if left_out:
        about += f"\n\nLeft out, for they change other options: {', '.join(left_out)}."
    page = Report("Error over labels and unlabelled data", [Section("What this is", [Text(about)]), *sections],
                  made_by=f"handloom {__version__} benchmarks/gap_figure.py --split {split}")  # fmt: skip
    page.write(out / f"curves-{split}.html", overwrite=overwrite)
    write_page(labels_chart(whole(results)).light, out / f"labels-{split}.png", overwrite=overwrite, what="figure")
    if shown := varied(results):
        write_page(share_chart(shown).light, out / f"unlabelled-{split}.png", overwrite=overwrite, what="figure")
    table = labels_table(whole(results))
    for row in [table.columns, *table.rows]:
        print(
            "".join(f"{'' if cell is None else cell!s:<{26 if i == 0 else 18}}" for i, cell in enumerate(row)).rstrip()
        )
    print(f"{out / f'curves-{split}.html'}: {len(results)} results, {len(points_of(results))} points")


if __name__ == "__main__":
    main()
