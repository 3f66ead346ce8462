"""The reference of the API: what it names has docstrings that say shapes, and it builds."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import open_page

ROOT = Path(__file__).resolve().parents[1]

ARRAY = re.compile(r"NDArray|ndarray|Tensor|\b[FIU](?:8|16|32|64)\b")
SHAPE = re.compile(r"\(\)|\(\s*(?:[\w…·+\-−/ ]+|\.\.\.),[\w…·+\-−/ ,.]*\)|\bH × W\b|\bscalar\b")
"""(n, 3), (T,), (B, J, 3), (..., 3)."""


def _build() -> Any:
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BUILD = _build()
MODULES = [name for names in BUILD.PUBLIC.values() for name in names]


def members(name: str) -> Iterator[tuple[str, Any, Any]]:
    """(full name, object, class that it belongs to) of the public functions, classes and methods of a module."""
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None) or [each for each in vars(module) if not each.startswith("_")]
    for each in names:
        found = getattr(module, each)
        if not inspect.isroutine(found) and not inspect.isclass(found):
            continue
        if not getattr(module, "__all__", None) and found.__module__ != name:
            continue
        yield f"{name}.{each}", found, None
        if inspect.isclass(found):
            for key, value in vars(found).items():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                if not key.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{each}.{key}", function, found


def arrays_of(function: Any) -> list[str]:
    """Parameters, and the result (`return`), that are arrays by their annotation."""
    return [key for key, kind in getattr(function, "__annotations__", {}).items() if ARRAY.search(str(kind))]


@pytest.mark.parametrize("name", MODULES)
def test_what_is_public_says_what_it_is_and_the_shapes_of_its_arrays(name: str) -> None:
    lacking, shapeless = [], []
    for full, found, owner in members(name):
        text = inspect.getdoc(found) or ""
        if not text.strip():
            lacking.append(full)
        elif inspect.isfunction(found) and arrays_of(found):
            said = text + (inspect.getdoc(owner) or "" if owner is not None else "")
            if not SHAPE.search(said):
                shapeless.append(full)
    assert not lacking, f"without a docstring: {', '.join(lacking)}"
    assert not shapeless, f"arrays without a shape, such as (n, 3): {', '.join(shapeless)}"


def test_the_list_of_pages_is_the_index() -> None:
    listed = [file for _, files in BUILD.page_list() for file, _ in files]
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"README"}
    assert sorted(listed) == sorted(f"{page}.html" for page in pages)
    assert listed[:3] == ["tutorial-synthetic.html", "tutorial-rig.html", "tutorial-bootstrap.html"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it, built; pytest turns any warning of pdoc's into an error."""
    pytest.importorskip("pdoc", reason="extra docs is not installed")
    out: Path = tmp_path_factory.mktemp("site") / "docs"
    BUILD.build(out)
    return out


@pytest.mark.slow
def test_it_builds_without_a_warning_and_every_link_inside_leads_somewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) == len(MODULES) + len(list((ROOT / "docs").glob("*.md")))
    texts = {page: re.sub(r"<script>.*?</script>", "", page.read_text("utf-8"), flags=re.DOTALL) for page in pages}
    assert not [page for page, text in texts.items() if "PydanticUndefined" in text]
    identifiers = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    for page, text in texts.items():
        for link in set(re.findall(r'\b(?:href|src)="([^"]+)"', text)):
            if link.startswith(("https://", "data:")):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.is_file(), f"{page.relative_to(site)}: {link}"
            assert not anchor or anchor in identifiers[target], f"{page.relative_to(site)}: {link}"


@pytest.mark.slow
def test_what_lies_there_is_not_removed_unless_it_is_ours(site: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="something else"):
        BUILD.build(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_leaves_the_folder_and_the_search_finds(site: Path, scheme: str) -> None:
    with open_page(site / "tutorial-rig.html", scheme=scheme) as page:
        assert page.evaluate("document.querySelector('main').textContent.length") > 500
        page.evaluate(
            "(() => { const box = document.querySelector('input[type=search]'); box.focus();"
            " box.value = 'load_model'; box.dispatchEvent(new Event('input')); })()"
        )
        page.wait_for("document.querySelector('main').textContent.includes('Open a model that')")
        assert not [line for line in page.console if not line.startswith("info")]  # pdoc says how it searches
        # Pictures and the search's index are files beside the page.
        assert all(url.startswith(site.as_uri()) for url in page.requests)
