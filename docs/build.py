"""The pages in docs/ and a reference of the Python API, from its docstrings, as a folder of static HTML.

    python docs/build.py build/docs

Needs the extra `docs` (pdoc). Everything lies in the folder: no page asks the network for anything, light and dark
follow the reader's system. What stands in `PUBLIC` is the API: what a user would import. Other modules are ours to
change.
"""

from __future__ import annotations

import argparse
import re
import shutil
import warnings
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parent

PUBLIC: Final[dict[str, tuple[str, ...]]] = {
    "A model in ten lines": ("handloom",),
    "Recordings": (
        "handloom.stores.recording",
        "handloom.stores.camera",
        "handloom.stores.joints",
        "handloom.stores.crops",
        "handloom.stores.locate",
        "handloom.stores.labels",
        "handloom.stores.verify",
        "handloom.stores.edit",
        "handloom.stores.splits",
        "handloom.stores.copying",
        "handloom.stores.folder",
        "handloom.stores.export",
        "handloom.stores.pose_csv",
        "handloom.stores.errors",
    ),
    "Synthesis": (
        "handloom.synth.config",
        "handloom.synth.generate",
        "handloom.synth.preview",
        "handloom.synth.replay",
        "handloom.synth.twin",
        "handloom.synth.noise_fit",
        "handloom.synth.hand",
        "handloom.synth.anatomy",
        "handloom.synth.formats",
        "handloom.synth.pose",
        "handloom.synth.fit",
        "handloom.synth.rigs",
        "handloom.synth.render",
        "handloom.synth.sensor",
    ),
    "Capture": (
        "handloom.capture.source",
        "handloom.capture.open",
        "handloom.capture.record",
        "handloom.capture.virtual",
        "handloom.capture.folder",
        "handloom.capture.realsense",
        "handloom.capture.cameras",
        "handloom.capture.importing",
        "handloom.capture.datasets",
        "handloom.capture.sync",
        "handloom.capture.targets",
        "handloom.capture.calibrate",
        "handloom.capture.locating",
    ),
    "Learning": (
        "handloom.learn.config",
        "handloom.learn.train",
        "handloom.learn.murauer_recipe",
        "handloom.learn.crossing_recipe",
        "handloom.learn.murauer_nets",
        "handloom.learn.murauer_losses",
        "handloom.learn.crossing_nets",
        "handloom.learn.crossing_losses",
        "handloom.learn.estimators",
        "handloom.learn.evaluate",
        "handloom.learn.metrics",
        "handloom.learn.compare",
        "handloom.learn.agreement",
        "handloom.learn.results",
        "handloom.learn.latent",
        "handloom.learn.run_report",
        "handloom.learn.export",
    ),
    "Prediction": (
        "handloom.learn.predict",
        "handloom.learn.tracking",
        "handloom.learn.fusion",
        "handloom.learn.smoothing",
        "handloom.learn.pose_writers",
    ),
    "The whole loop, and looking at it": (
        "handloom.bootstrap",
        "handloom.view.shown",
        "handloom.view.page",
        "handloom.view.rerun_file",
    ),
}
"""By subject, the modules of the reference."""

PAGE_GROUPS: Final = re.compile(r"^(?:\*\*(?P<group>.+)\*\*|(?:- |\d\. )\[[^\]]+\]\((?P<page>[\w-]+)\.md\).*)$", re.M)
"""Lines of the index page that name a group of pages, or a page."""


def build(out: Path) -> list[Path]:
    """Write pages and reference into the folder `out`, replacing what it held; gives the files' paths.

    Raises:
        SystemExit: the extra is missing, or `out` holds something that this did not write.
    """
    try:
        from pdoc import doc, render
    except ImportError:
        raise SystemExit("pdoc is missing: pip install 'handloom[docs]'") from None

    if out.exists():
        if any(out.iterdir()) and not (out / "handloom.html").is_file():
            raise SystemExit(f"{out} holds something else than these pages")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    render.configure(docformat="google", template_directory=DOCS / "templates", footer_text="Handloom")
    render.env.globals |= {"areas": PUBLIC, "pages": page_list(), "dark_code": _dark_code()}
    _load_lazy_names()
    modules = {name: doc.Module.from_name(name) for names in PUBLIC.values() for name in names}
    made: dict[str, str] = {}
    for name, module in modules.items():
        made[f"{name.replace('.', '/')}.html"] = render.html_module(module, modules)
    for page in sorted(DOCS.glob("*.md")):
        made[_html_name(page.stem)] = _page(page, modules)
    made["search.js"] = render.search_index(modules)
    for name, text in made.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for picture in DOCS.glob("*.png"):
        shutil.copy(picture, out)
    return [out / name for name in made]


def _load_lazy_names() -> None:
    """What `import handloom` promises is loaded when it is first used; pdoc looks at what is there."""
    import handloom

    for name in handloom.__all__:
        setattr(handloom, name, getattr(handloom, name))


def page_list() -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of the index page, each with (file, title) of its pages."""
    groups: list[tuple[str, list[tuple[str, str]]]] = [("Tutorials", [])]
    for found in PAGE_GROUPS.finditer((DOCS / "README.md").read_text(encoding="utf-8")):
        if found["group"]:
            groups.append((found["group"], []))
        else:
            groups[-1][1].append((_html_name(found["page"]), _title((DOCS / f"{found['page']}.md").read_text("utf-8"))))
    return groups


def _html_name(stem: str) -> str:
    return "index.html" if stem == "README" else f"{stem}.html"


def _title(text: str) -> str:
    return text.splitlines()[0].lstrip("# ").strip()


def _page(path: Path, modules: Any) -> str:
    """A page of docs/ in the frame of the reference, its links leading to the HTML of the others."""
    from pdoc import render
    from pdoc.render_helpers import to_html

    text = path.read_text(encoding="utf-8")
    # A shown session is highlighted as one: pygments calls it console too.
    html = str(to_html(text))
    html = re.sub(r'href="([\w-]+)\.md(#[^"]*)?"', lambda m: f'href="{_html_name(m[1])}{m[2] or ""}"', html)
    template = render.env.get_template("page.html.jinja2")
    return template.render(title=_title(text), html=html, all_modules=modules, here=_html_name(path.stem))


def _dark_code() -> str:
    """Colours of code for dark screens."""
    from pygments.formatters import HtmlFormatter

    return HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the pages and the reference as static HTML.")
    parser.add_argument("out", type=Path, help="folder to write, build/docs say")
    out = parser.parse_args().out
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = build(out)
    print(f"{out / 'index.html'}: {len(made)} files")


if __name__ == "__main__":
    main()
