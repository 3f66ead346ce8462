"""Pages are written whole or not at all, and run no script but the one their policy names."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from handloom.stores.errors import HandloomError
from handloom.stores.page import page_environment, write_page

from browser import open_page


def test_a_page_makes_its_folders_and_is_not_overwritten_unasked(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "page.html"
    write_page("one", out, overwrite=False)
    with pytest.raises(HandloomError, match="The preview exists already"):
        write_page("two", out, overwrite=False, what="preview")
    assert out.read_text() == "one"
    write_page("zwölf", out, overwrite=True)
    assert out.read_text(encoding="utf-8") == "zwölf"
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "page.html").write_text("old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(HandloomError) as raised:
        write_page("new", tmp_path / "page.html", overwrite=True)
    assert str(raised.value) == (
        f"The report cannot be written\n  where: {tmp_path / 'page.html'}\n  why:   No space left on device"
    )
    assert raised.value.exit_code == 3
    assert (tmp_path / "page.html").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_folder_is_not_replaced_by_a_page(tmp_path: Path) -> None:
    with pytest.raises(HandloomError, match="a folder lies there") as raised:
        write_page("new", tmp_path, overwrite=True)
    assert raised.value.exit_code == 2


def test_only_the_script_that_the_policy_names_runs(tmp_path: Path) -> None:
    environment = page_environment("handloom.stores")
    template = environment.from_string(
        "{% extends 'page.html.j2' %}{% block policy %}; script-src {{ script | allowed_script | safe }}{% endblock %}"
        "{% block main %}<script>{{ script | safe }}</script><script>document.title = 'other'</script>"
        "<img src='https://example.org/a.png' alt=''>{{ said }}{% endblock %}"
    )
    assert isinstance(environment.undefined(), jinja2.StrictUndefined)
    script = "document.title = 'mine & only <mine>'"
    page = template.render(script=script, said="<script>document.title = 'said'</script>")
    write_page(page, tmp_path / "page.html", overwrite=False)
    with open_page(tmp_path / "page.html") as shown:
        assert shown.evaluate("document.title") == "mine & only <mine>"
        assert len([line for line in shown.problems if "Content Security Policy" in line]) == 2
