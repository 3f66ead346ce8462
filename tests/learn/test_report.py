"""The page: complete in itself, safe against what names contain, true to the numbers."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from handloom.learn.metrics import Interval, Metrics, measure
from handloom.learn.report import LONG_ROWS, Code, Facts, Gallery, Measured, Report, Section, Signed, Table, Text
from handloom.learn.report_tables import LISTED, metrics_table, parts_section
from handloom.stores.errors import HandloomError
from handloom.stores.page import Drawing, Picture

from browser import open_page

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


def test_drawings_share_their_images_and_their_texts_are_escaped(tmp_path: Path):
    """A crop under five skeletons lies on the page once; two drawings may be of the same one."""
    one = Drawing('<use href="#iab" transform="scale(9)"/>', 90, 40, 'a "crop"', "<caption>", {"iab": PNG})
    two = Drawing('<use href="#iab"/><use href="#icd"/>', 90, 40, "two", "", {"iab": PNG, "icd": PNG + b"x"})
    report = Report("t", [Section("s", [one, Gallery([two, one])])], introduction="first\n\nsecond <b>", made_at=WHEN)
    assert sorted(report.images) == ["iab", "icd"]
    html = report.html()
    assert html.count("data:image/png") == 2
    assert len(re.findall(r'<image id="iab"', html)) == 1
    assert 'aria-label="a &#34;crop&#34;"' in html
    assert "&lt;caption&gt;" in html
    assert "second &lt;b&gt;" in html
    path = tmp_path / "page.html"
    report.write(path)
    with open_page(path) as view:
        assert view.evaluate("document.querySelectorAll('svg.drawn').length") == 3
        assert view.problems == []


def test_many_people_have_a_table_to_scroll_in_and_thousands_of_sequences_are_cut(tmp_path: Path):
    n = 50
    truth = np.zeros((LISTED + 60, 2, 3))
    prediction = truth + np.arange(len(truth))[:, None, None] / 10
    people = np.array([f"P{i % n} <i>" for i in range(len(truth))])
    by = {"subject": people, "sequence": np.arange(len(truth))}
    found = measure(prediction, truth, joint_names=("a", "b"), seed=0, by=by)
    section = parts_section({"ours": found})
    assert section.title == "By joint, subject, sequence"
    joints, subjects, sequences = section.blocks
    assert [len(t.rows) for t in (joints, subjects, sequences)] == [2, n, LISTED]  # type: ignore[union-attr]
    assert not joints.long  # type: ignore[union-attr]
    assert subjects.long  # type: ignore[union-attr]
    assert n > LONG_ROWS
    assert sequences.rows[0][0] == "60", "those with the largest error, in the recording's order"  # type: ignore[union-attr]
    path = tmp_path / "page.html"
    Report("t", [section], made_at=WHEN).write(path)
    with open_page(path) as view:
        height = view.evaluate("document.querySelector('.long').clientHeight")
        assert 300 < height < 700
        assert view.evaluate("document.documentElement.scrollHeight") < 2400
        view.click(".long th:nth-child(1) button")
        assert view.evaluate("document.querySelector('.long tbody tr').cells[0].textContent") == "P0 <i>"
        assert view.problems == []


def test_writing_does_not_overwrite(tmp_path: Path):
    path = tmp_path / "made" / "report.html"
    page().write(path)
    with pytest.raises(HandloomError, match="exists already"):
        page().write(path)
    page().write(path, overwrite=True)
    assert "2026-11-21 08:00 UTC" in path.read_text(encoding="utf-8")


def models_table() -> Table:
    interval = Interval(1.0, 2.0, 5, "sequences")
    rows = [
        ["run 10", Measured(9.5, interval), 3, "80 %"],
        ["run 9", Measured(12.25, interval), None, "9 %"],
        ["run 2", Measured(float("nan")), 1, "–"],
        ["run 1", Measured(10.0), 2, "100 %"],
    ]
    return Table(["model", "error (mm)", "missed", "share"], rows)


def test_tables_sort_by_click_and_by_key(tmp_path: Path):
    path = tmp_path / "report.html"
    Report("t", [Section("s", [models_table(), Table(["x"], [[1], [2]])])], made_at=WHEN).write(path)
    with open_page(path) as view:

        def order(column: int = 0) -> str:
            cells = (
                f"[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[{column}].textContent.trim())"
            )
            return str(view.evaluate(f"{cells}.map(t => t.replace('run ', '')).join(' ')"))

        def click(column: int) -> str:
            view.click(f".sortable th:nth-child({column}) button")
            return order()

        assert order() == "10 9 2 1"
        assert view.evaluate("document.querySelectorAll('table.sortable').length") == 1
        assert click(2) == "10 1 9 2", "by the numbers, not their texts; the unknown one last"
        assert click(2) == "9 1 10 2", "downwards, the unknown one last still"
        assert view.evaluate("document.querySelectorAll('th[aria-sort=descending]').length") == 1
        assert click(2) == "10 9 2 1", "as it was"
        assert click(3) == "2 1 10 9"
        assert click(4) == "9 10 1 2", "9 % before 80 %"
        assert click(1) == "1 2 9 10", "names by the numbers in them"
        view.evaluate("document.querySelector('.sortable th:nth-child(2) button').focus()")
        view.key(" ")
        assert order() == "10 1 9 2", "by the keyboard"
        assert view.problems == []


def test_differences_sort_by_their_size_not_their_text(tmp_path: Path):
    """As texts, `-10.00` came after `+2.00` and before `-3.00`."""
    values = [2.0, -3.0, float("nan"), -10.0]
    rows = [[f"run {i}", Signed(mm, "mm"), mm] for i, mm in enumerate(values)]
    path = tmp_path / "report.html"
    Report("t", [Section("s", [Table(["model", "difference", "plain"], rows)])], made_at=WHEN).write(path)
    assert re.findall(r">([^<>]* mm|–)<", path.read_text()) == [
        "+2.00 mm",
        "-3.00 mm",
        "–",
        "–",
        "-10.00 mm",
    ]
    cells = "[...document.querySelectorAll('.sortable tbody tr')].map(r => r.cells[1].textContent).join(' ')"
    with open_page(path) as view:
        for column in (2, 3):
            view.click(f".sortable th:nth-child({column}) button")
            assert view.evaluate(cells) == "-10.00 mm -3.00 mm +2.00 mm –"
            view.click(f".sortable th:nth-child({column}) button")
            view.click(f".sortable th:nth-child({column}) button")


def test_a_page_without_a_table_worth_sorting_runs_no_script():
    few = Report("t", [Section("s", [Table(["x"], [[1], [2]])])], made_at=WHEN).html()
    assert "<script" not in few
    assert "script-src" not in few
    many = Report("t", [Section("s", [models_table()])], made_at=WHEN).html()
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'\"", many)
    assert 'data-value="12.25"' in many
    assert many.count('data-value=""') == 1
