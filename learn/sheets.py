"""Sheets of many small images: crops, skeletons over depth, predicted views, as drawings of the page.

A sheet is SVG: bones and joints are lines, so they are sharp at any size, texts are the page's own, and a crop that
stands in several rows (truth, and every model) lies on the page once, a PNG of few levels at its own size. What is not
hand is transparent. Next to a picture of the same sheet this is a tenth of the bytes, for both grounds at once.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..stores.joints import FINGER_COLORS, FINGERS, Layout, finger_of
from ..stores.page import Drawing

DRAWN_PX: Final = 128
DRAWN_MM: Final = 300.0
"""Side of the crops that skeletons are drawn on, whatever a network sees."""
BACKGROUND: Final = 0.95
"""From here on a crop's value is no hand: +1 in crops, a little less where a network's tanh says so."""
LEVELS: Final = 63
"""Of depth in a drawn crop: 4 mm each for a cube of 250 mm."""
GREYS: Final = (0xC4, 0x55)
"""Near and far behind skeletons, both told from either ground."""
VIRIDIS: Final = ("#fde725", "#a0da39", "#4ac16d", "#1fa187", "#277f8e", "#365c8d", "#46327e", "#440154")
"""Near to far where depth is all there is to see (Smith and van der Walt, 2015): even steps for all eyes."""
COARSE_PX: Final = 96
"""Images of fewer pixels a side keep them visible: they are what a network makes, no photographs."""
_GAP: Final = 6
_TEXT: Final = 15
"""Height of a line of text."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A crop and skeletons on it."""

    crop: NDArray[np.float32]
    """(P, P) in [-1, 1], +1 where there is no hand."""
    joints_px: Mapping[str, NDArray[np.float64]]
    """For each name (truth, a model) (J, 2) pixels of the crop, NaN = unknown."""
    error_mm: Mapping[str, float]
    """For each of these names its mean error, where it has one."""
    title: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One image of a sheet."""

    crop: NDArray[np.float32]
    """(P, P) in [-1, 1], +1 where there is no hand."""
    joints_px: NDArray[np.float64] | None = None
    """(J, 2) pixels of the crop, NaN = unknown."""
    note: str = ""
    """Below it."""


def crop_sheet(rows: Mapping[str, NDArray[np.float32]], *, columns: int = 8, caption: str = "") -> Drawing:
    """Sample crops, one labelled row a domain.

    Args:
        rows: for each label crops (n, P, P) in [-1, 1]; the first `columns` are shown.
        columns: crops in a row.
        caption: below the picture.
    """
    cells = {label: [Cell(crop) for crop in crops[:columns]] for label, crops in rows.items()}
    return _sheet(cells, None, columns=columns, side=124, alt="Sample crops: " + ", ".join(rows), caption=caption)


def skeleton_sheet(samples: Sequence[Sample], names: Sequence[str], layout: Layout, *, caption: str = "") -> Drawing:
    """Skeletons over depth: a row for each name (truth, baseline, ours), a column for each frame.

    Args:
        samples: the frames.
        names: keys of the samples' `joints_px`, top to bottom.
        layout: says which joints are joined.
        caption: below the picture.
    """
    rows = {
        name: [
            Cell(s.crop, s.joints_px.get(name), f"{s.error_mm[name]:.1f} mm" if name in s.error_mm else "")
            for s in samples
        ]
        for name in names
    }
    titles = [sample.title for sample in samples]
    return cell_sheet(rows, layout, titles=titles, alt="Predicted hand skeletons over depth", caption=caption)


def cell_sheet(
    rows: Mapping[str, Sequence[Cell | None]], layout: Layout, *, titles: Sequence[str], alt: str, caption: str = ""
) -> Drawing:
    """Labelled rows of cells, each an image of its own with a skeleton on it.

    Args:
        rows: for each label its cells, one a column; None leaves its place empty.
        layout: says which joints are joined.
        titles: above the columns.
        alt: what the picture shows; the rows' labels are added.
        caption: below the picture.
    """
    alt = f"{alt}: " + ", ".join(rows)
    return _sheet(rows, layout, columns=len(titles), side=168, titles=titles, alt=alt, caption=caption)


def view_sheet(rows: Mapping[str, NDArray[np.float32]], *, caption: str = "") -> Drawing:
    """View prediction: a row each for the input, the true and the predicted second view (n, P, P)."""
    count = max((len(images) for images in rows.values()), default=1)
    return crop_sheet(rows, columns=max(1, count), caption=caption)


def _sheet(
    rows: Mapping[str, Sequence[Cell | None]],
    layout: Layout | None,
    *,
    columns: int,
    side: int,
    titles: Sequence[str] = (),
    alt: str,
    caption: str,
) -> Drawing:
    """Rows under their labels; in grey below skeletons of `layout`, else in colours."""
    pitch = side + _GAP
    images: dict[str, bytes] = {}
    shapes: list[str] = []
    y = 0
    if any(titles):
        shapes += [_text(title, column * pitch + side / 2, _TEXT - 4) for column, title in enumerate(titles)]
        y += _TEXT + 4
    for label, cells in rows.items():
        if label:
            shapes.append(f'<text class="row" x="0" y="{y + _TEXT - 3}">{escape(label)}</text>')
            y += _TEXT + 4
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            data = crop_png(cell.crop, grey=layout is not None)
            name = "i" + hashlib.sha256(data).hexdigest()[:12]
            images[name] = data
            size = cell.crop.shape[-1]
            drawn = [f'<use href="#{name}" transform="scale({size})"{_rendering(size)}/>']
            if cell.joints_px is not None and layout is not None:
                drawn.append(skeleton(cell.joints_px + 0.5, layout, unit=size / side))
            place = f'x="{column * pitch}" y="{y}" width="{side}" height="{side}"'
            shapes.append(
                f'<rect class="cell" {place}/><svg {place} viewBox="0 0 {size} {size}">{"".join(drawn)}</svg>'
            )
            if cell.note:
                shapes.append(_text(cell.note, column * pitch + side / 2, y + side + _TEXT - 3))
        noted = any(cell is not None and cell.note for cell in cells)
        y += side + (_TEXT + 6 if noted else _GAP) + (4 if label else 0)
    width = max(1, columns) * pitch - _GAP
    return Drawing("".join(shapes), width, max(y, 1), alt, caption, images, min_width=min(width, 116 * columns))


def skeleton(joints_px: NDArray[np.float64], layout: Layout, *, unit: float) -> str:
    """Bones and joints as shapes: white below, the fingers' colours above; what is unknown is left out.

    Args:
        joints_px: (J, 2) in the units of the drawing they stand in, NaN = unknown.
        layout: says which joints are joined.
        unit: a pixel of the page in those units.
    """
    known: NDArray[np.bool_] = np.asarray(np.isfinite(joints_px).all(axis=1))
    bones: dict[str, list[str]] = {}
    for a, b in layout.edges:
        if known[a] and known[b]:
            bones.setdefault(finger_of(layout.points[b]), []).append(f"M{_at(joints_px[a])}L{_at(joints_px[b])}")
    dots: dict[str, list[str]] = {}
    for at, point in zip(joints_px[known], np.array(layout.points)[known].tolist(), strict=True):
        dots.setdefault(finger_of(point), []).append(f"M{_at(at)}h0")
    shapes = []
    for lines, under, over in ((bones, 4.2, 2.4), (dots, 6.2, 4.6)):
        if lines:
            below = "".join("".join(parts) for parts in lines.values())
            shapes.append(f'<path d="{below}" stroke="#fff" stroke-width="{under * unit:.2f}"/>')
        shapes += [
            f'<path d="{"".join(lines[f])}" stroke="{FINGER_COLORS[f]}" stroke-width="{over * unit:.2f}"/>'
            for f in ("", *FINGERS)
            if f in lines
        ]
    return f'<g fill="none" stroke-linecap="round">{"".join(shapes)}</g>'


def crop_png(crop: NDArray[np.float32], *, grey: bool) -> bytes:
    """A crop (P, P) as a PNG of few levels, transparent where there is no hand; near is bright."""
    from PIL import Image

    level = np.rint((np.clip(np.nan_to_num(crop, nan=1.0), -1, 1) + 1) / 2 * (LEVELS - 1)).astype(np.uint8)
    image = Image.fromarray(np.where(crop < BACKGROUND, level + 1, 0).astype(np.uint8), "P")
    image.putpalette(bytes(3) + (_greys() if grey else _colors()).tobytes())
    target = io.BytesIO()
    image.save(target, format="PNG", optimize=True, transparency=0)
    return target.getvalue()


def _greys() -> NDArray[np.uint8]:
    near, far = GREYS
    return np.repeat(np.linspace(near, far, LEVELS).round().astype(np.uint8)[:, None], 3, axis=1)


def _colors() -> NDArray[np.uint8]:
    """Colours of the levels; what lies within 0.6 of the middle takes them all, for hands do."""
    ends = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in VIRIDIS], np.float64)
    place = np.clip((np.linspace(-1, 1, LEVELS) + 0.6) / 1.2, 0, 1) * (len(ends) - 1)
    mixed = [np.interp(place, np.arange(len(ends)), channel) for channel in ends.T]
    return np.stack(mixed, axis=1).round().astype(np.uint8)


def _rendering(size: int) -> str:
    return ' style="image-rendering: pixelated"' if size < COARSE_PX else ""


def _at(point: NDArray[np.float64]) -> str:
    return f"{point[0]:.1f} {point[1]:.1f}"


def _text(text: str, x: float, y: float) -> str:
    return f'<text class="note" x="{x:g}" y="{y:g}">{escape(text)}</text>' if text else ""
