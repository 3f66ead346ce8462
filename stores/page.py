"""What every page of the kit shares: one look for a light and a dark ground, charts, pictures that the page holds.

A page is one HTML file that asks nothing of the network (its own content policy forbids it), so it reads the same over
ssh, in a CI artefact and as an attachment. A page runs at most the one script whose hash its template names: block
`policy` of `templates/page.html.j2`, which templates extend, and the filter `allowed_script`. A report's is `sort.js`
(global `sort_script`), which sorts tables of class `sortable`: a cell's `data-value` is its number, '' if unknown.
Charts are drawn twice, by matplotlib's objects alone, on a transparent ground, and kept in 256 colours: a quarter of
the bytes of the same PNG, and no difference to be seen. Drawings are SVG in the page's own colours, so one serves both
grounds and stays sharp at any size; images they show lie on the page once, however often they are shown. matplotlib and
jinja2 are imported when there is something to draw.
"""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .errors import BAD_ENVIRONMENT, HandloomError

if TYPE_CHECKING:
    from jinja2 import Environment
    from matplotlib.figure import Figure

DPI: Final = 160
CHART_IN: Final = 5.3
"""Width of a chart: two stand side by side on the page."""


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one page."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT: Final = Theme(
    "#1f2328", "#57606a", "#d8dee4", ("#2f6fdb", "#d9652b", "#1f8a5f", "#8a4fd0", "#b8860b", "#c2376b")
)
DARK: Final = Theme("#e6edf3", "#9aa5b1", "#333b45", ("#6ea8fe", "#f08c5a", "#4cc38a", "#b794f6", "#e3b341", "#f178a5"))


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG for the light page and, where it differs, one for the dark page."""

    light: bytes
    dark: bytes | None
    alt: str
    """What a reader who cannot see it should know."""
    width_px: int
    """Width at which it is meant to be seen."""
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """An SVG for both pages: its inks are the page's (`var(--ink)` …), its size is that of its `viewBox`."""

    shapes: str
    """What stands in the svg element; texts escaped."""
    width: int
    height: int
    alt: str
    """What a reader who cannot see it should know."""
    caption: str = ""
    images: Mapping[str, bytes] = field(default_factory=dict)
    """PNGs that the shapes `<use href="#name">`, by name; the page holds those of all its drawings."""
    min_width: int = 0
    """Narrower pages scroll it instead of shrinking it further."""


Draw = Callable[[Theme], "Figure"]


def both(draw: Draw, *, alt: str, caption: str = "", dpi: int = DPI) -> Picture:
    """A figure drawn for the light and for the dark page; large ones of coarse images need fewer pixels."""
    light, dark = draw(LIGHT), draw(DARK)
    return Picture(png(light, dpi), png(dark, dpi), alt, round(light.get_figwidth() * 96), caption)


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG bytes of 256 colours at most, on a transparent ground."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = io.BytesIO()
    with warnings.catch_warnings():
        # A name in letters that the font lacks is drawn as boxes there; the page's own texts have it.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing from font", category=UserWarning)
        FigureCanvasAgg(figure).print_figure(target, format="png", dpi=dpi, facecolor="none")
    return few_colors(target.getvalue())


def few_colors(data: bytes) -> bytes:
    """A PNG in 256 colours at most: a quarter of its bytes, and no difference to be seen in charts."""
    from PIL import Image

    whole = Image.open(io.BytesIO(data)).convert("RGBA")
    few = whole.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    target = io.BytesIO()
    few.save(target, format="PNG", optimize=True)
    return target.getvalue()


def blank_figure(width_in: float, height_in: float) -> Figure:
    """A figure without axes."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained")


def chart(
    theme: Theme, height_in: float, *, width_in: float = CHART_IN, x: str = "", y: str = ""
) -> tuple[Figure, Any]:
    """A figure with one pair of axes, labelled `x` and `y`: a grid, no frame but the ground line."""
    figure = blank_figure(width_in, height_in)
    axes = figure.add_subplot()
    axes.set_facecolor("none")
    axes.grid(visible=True, color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.grid)
    axes.tick_params(colors=theme.muted, labelsize=9, length=0)
    axes.set_xlabel(x, color=theme.muted)
    axes.set_ylabel(y, color=theme.muted)
    return figure, axes


def legend(axes: Any, theme: Theme) -> None:
    """Above the chart, where it covers nothing."""
    labels = axes.get_legend_handles_labels()[1]
    if labels:
        columns = max(1, 62 // (max(map(len, labels)) + 5))
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            ncols=min(columns, len(labels)),
            frameon=False,
            labelcolor=theme.ink,
            fontsize=9,
            handlelength=1.4,
            columnspacing=1.4,
            borderpad=0.2,
        )


def page_environment(package: str) -> Environment:
    """What renders the templates of a package's folder `templates`, which extend the kit's `page.html.j2`."""
    import jinja2

    loaders = [jinja2.PackageLoader(name, "templates") for name in (package, __package__ or "")]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"uri": _data_uri, "allowed_script": _allowed_script}
    environment.globals["sort_script"] = loaders[-1].get_source(environment, "sort.js")[0]
    return environment


def refuse_taken(out: Path, *, overwrite: bool, what: str = "report") -> None:
    """Make sure that a page may be written to `out`, before anything is drawn for it.

    Args:
        out: the file.
        overwrite: whether it may replace a file that is there.
        what: what to call the page.

    Raises:
        HandloomError: the path is taken.
    """
    if out.is_dir():
        raise HandloomError(f"The {what} is a file, and a folder lies there", where=str(out), fix="choose another name")
    if out.exists() and not overwrite:
        raise HandloomError(f"The {what} exists already", where=str(out), fix="--overwrite replaces it")


def write_page(page: str | bytes, out: Path, *, overwrite: bool, what: str = "report") -> None:
    """Write a page, or a picture, whole or not at all; makes the folders it lies in.

    Args:
        page: its text, or a picture's bytes.
        out: the file.
        overwrite: replace a file that is there.
        what: what to call it where it cannot be written.

    Raises:
        HandloomError: the path is taken or cannot be written.
    """
    # It brings Zarr along, which pages without a recording do not need.
    from .durable import write_bytes

    refuse_taken(out, overwrite=overwrite, what=what)
    try:
        write_bytes(out, page.encode("utf-8") if isinstance(page, str) else page)
    except OSError as error:
        raise HandloomError(
            f"The {what} cannot be written", where=str(out), why=error.strerror or str(error), exit_code=BAD_ENVIRONMENT
        ) from error


def _data_uri(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _allowed_script(script: str) -> str:
    """What a content policy calls the script that stands between the tags exactly so; no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode('utf-8')).digest()).decode('ascii')}'"
