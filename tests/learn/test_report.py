"""The page: complete in itself, safe against what names contain, true to the numbers."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from handloom.learn.metrics import Interval, Metrics, measure
from handloom.learn.report import Code, Facts, Gallery, Measured, Report, Section, Table, Text, metrics_table
from handloom.stores.errors import HandloomError
from handloom.stores.page import Picture

PNG = bytes.fromhex("89504e470d0a1a0a")
WHEN = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)


def metrics(error_mm: float) -> Metrics:
    truth = np.zeros((40, 2, 3))
    prediction = truth + np.array([0.0, 0.0, error_mm])
    prediction[::2, :, 2] += 2.0
    return measure(prediction, truth, joint_names=("a", "b"), seed=0)


def page() -> Report:
    picture = Picture(PNG, PNG + b"dark", "a crop", 400, "what <it> shows")
    table = metrics_table({"<b>bold</b>": metrics(9), "ours": metrics(4)})
    return Report(
        "Tracker & report",
        [
            Section("Numbers", [Text("one\n\ntwo"), table]),
            Section("Pictures", [picture, Gallery([picture, picture])]),
            Section("Rest", [Facts({"machine": "2 cores"}), Code("handloom predict <MODEL>")]),
        ],
        subtitle="small",
        made_by="handloom test",
        made_at=WHEN,
    )


class Page(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "srcset", "href", "action", "poster")]
        if tag not in ("meta", "link", "img", "source"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_asks_nothing_of_the_network():
    html = page().html()
    parsed = Page()
    parsed.feed(html)
    assert parsed.open == []
    assert parsed.tags.count("img") == 3
    assert all(link.startswith(("data:", "#")) for link in parsed.links)
    assert "script" not in parsed.tags
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|url\(|@import", html)


def test_text_is_escaped():
    html = page().html()
    assert "&lt;b&gt;bold&lt;/b&gt;" in html
    assert "what &lt;it&gt; shows" in html
    assert "Tracker &amp; report" in html


def test_numbers_with_intervals_and_the_best_row():
    html = page().html()
    assert re.search(r'<tr class="best">\s*<td>ours</td>', html)
    assert re.search(r"5\.00 <small>± 0\.\d\d</small>", html)
    widths = [float(w) for w in re.findall(r'<i style="width: ([\d.]+)%', html)]
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01), "bars are to scale"


def test_what_is_unknown_is_a_dash():
    table = Table(["a", "b", "c"], [[None, float("nan"), Measured(float("nan"), None)]])
    html = Report("t", [Section("s", [table])], made_at=WHEN).html()
    assert len(re.findall("–", html)) == 3


def test_an_empty_table_and_a_missing_model():
    empty = metrics_table({})
    assert empty.best is None
    nothing = measure(np.full((2, 1, 3), np.nan), np.zeros((2, 1, 3)), joint_names=("a",), seed=0)
    table = metrics_table({"blind": nothing, "ours": metrics(4)}, details=["0", "50"])
    assert table.best == 1
    html = Report("t", [Section("s", [table, empty])], made_at=WHEN).html()
    assert not re.search(r"\bnan\b|\binf\b", html, re.IGNORECASE)


def test_measured_without_an_interval_has_no_whisker():
    html = Report("t", [Section("s", [Table(["x"], [[Measured(3.0)]])])], made_at=WHEN).html()
    assert "±" not in html
    with_one = Table(["x"], [[Measured(3.0, Interval(2.0, 4.0, 5, "sequences"))]])
    assert "± 1.00" in Report("t", [Section("s", [with_one])], made_at=WHEN).html()


def test_writing_does_not_overwrite(tmp_path: Path):
    path = tmp_path / "made" / "report.html"
    page().write(path)
    with pytest.raises(HandloomError, match="exists already"):
        page().write(path)
    page().write(path, overwrite=True)
    assert "2026-11-21 08:00 UTC" in path.read_text(encoding="utf-8")
