"""A look at what was synthesised: contact sheet, viewpoints, distributions, provenance; a PNG or one HTML page.

The page holds its pictures and asks nothing of the network (its own content policy forbids it), runs no
script, and is drawn for a light and a dark ground.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import FINGERS, OPENXR26
from ..stores.page import Picture, Theme, both, chart, legend, page_environment, refuse_taken, write_page
from ..stores.recording import Recording
from .config import SynthConfig
from .coverage import coverage, draw_coverage
from .generate import synthesise
from .sheet import FINGER_RGB, draw_sheet, read_shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS: Final = (".html", ".png")
AT_MOST: Final = 20000
"""Rows that the distributions are taken over, evenly spread; more would change no picture."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Values of some kinds, to be drawn as lines."""

    title: str
    unit: str
    values: Mapping[str, NDArray[np.float64]]
    counted: bool = False
    """Whether they are whole numbers, each with a bar of its own."""


def write_preview(
    recording: Recording, out: Path, *, count: int, seed: int, overwrite: bool = False, name: str | None = None
) -> int:
    """Write the contact sheet (`.png`) or the page (`.html`); gives the number of samples shown.

    Args:
        recording: a synthetic one.
        out: the file.
        count: samples on the sheet, drawn evenly from all.
        seed: decides which.
        overwrite: replace a file that is there.
        name: what to call the recording; default its path.

    Raises:
        HandloomError: the recording is not a rendered one or empty, the file exists, has another ending or cannot be
            written.
    """
    check_output(out, overwrite=overwrite)
    if recording.kind != "synthetic" or recording.labels is None or recording.crops is None:
        raise HandloomError("This recording was not rendered", where=str(recording.path), why=f"it is {recording.kind}")
    if not recording.n_frames:
        raise HandloomError("The recording has no frames yet", where=str(recording.path))
    rows = spread(recording.n_frames, count, seed)
    sheet = draw_sheet(read_shown(recording, rows))
    data = _on_white(sheet) if out.suffix == ".png" else _page(recording, rows, sheet, name or str(recording.path))
    write_page(data, out, overwrite=overwrite, what="preview")
    return len(rows)


def preview_of_config(config: SynthConfig, out: Path, *, count: int, overwrite: bool = False) -> int:
    """The same of the first samples that a configuration would give, made in a temporary folder.

    Raises:
        HandloomError: see `write_preview` and `synthesise`.
    """
    few = config.model_copy(update={"frames": min(count, config.frames)})
    with tempfile.TemporaryDirectory(prefix="handloom-preview-") as folder:
        recording = synthesise(few, Path(folder) / "preview.zarr", jobs=1)
        return write_preview(recording, out, count=count, seed=config.seed, overwrite=overwrite, name="Preview")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse what cannot be written, before anything is drawn.

    Raises:
        HandloomError: the ending is another one, or the file exists.
    """
    if out.suffix not in KINDS:
        raise HandloomError("A preview is a .html page or a .png picture", where=str(out))
    refuse_taken(out, overwrite=overwrite, what="preview")


def spread(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """(n,) rows, one drawn at random from each of `count` equal parts of all."""
    count = min(count, total)
    ends = np.linspace(0, total, count + 1).astype(np.int64)
    return np.asarray(np.random.default_rng(seed).integers(ends[:-1], ends[1:]), np.int64)


def distributions(recording: Recording) -> list[Distribution]:
    """Where the hands are, how large, how bent and how much of them is seen, over up to 20,000 rows."""
    crops, labels, layout = recording.crops, recording.labels, recording.layout
    assert crops is not None
    assert labels is not None
    assert layout is not None
    rows = np.unique(np.linspace(0, recording.n_frames - 1, min(recording.n_frames, AT_MOST)).astype(int)).tolist()
    center, seen = crops.read_rows("center", rows), crops.read_rows("center_source", rows) > 0
    visible, joints = labels.read_rows("visible", rows), labels.read_rows("joints", rows).astype(np.float64)
    depth = {name: center[seen[:, v], v, 2].astype(np.float64) for v, name in enumerate(recording.rig.names)}
    count = {name: visible[seen[:, v], v].sum(axis=1) * 1.0 for v, name in enumerate(recording.rig.names)}
    out = [Distribution("Palm's distance", "mm", depth)]
    if layout.points == OPENXR26:
        out.append(Distribution("Length of the hand, wrist to middle tip", "mm", {"": _hand_length(joints)}))
        out.append(Distribution("Bending of a finger, palm to tip", "°", {f: _bend(joints, f) for f in FINGERS}))
    return [*out, Distribution("Joints that a camera sees", f"of {len(layout)}", count, counted=True)]


def _hand_length(joints: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) mm along the bones, so that a fist counts as long as a flat hand."""
    chain = ["wrist", *(name for name in OPENXR26 if name.startswith("middle"))]
    points = joints[:, [OPENXR26.index(name) for name in chain]]
    return np.asarray(np.linalg.norm(np.diff(points, axis=1), axis=-1).sum(axis=1))


def _bend(joints: NDArray[np.float64], finger: str) -> NDArray[np.float64]:
    """(n,) degrees, the sum of the angles between a finger's neighbouring bones."""
    points = joints[:, [i for i, name in enumerate(OPENXR26) if name.startswith(finger)]]
    bones = np.diff(points, axis=1)
    bones /= np.linalg.norm(bones, axis=-1, keepdims=True)
    cosine = (bones[:, 1:] * bones[:, :-1]).sum(-1)
    return np.asarray(np.degrees(np.arccos(np.clip(cosine, -1, 1))).sum(axis=1))


def _page(recording: Recording, rows: NDArray[np.int64], sheet: NDArray[np.uint8], name: str) -> bytes:
    shown = "every camera's crop with the skeleton over its depth, near bright; below it the bones' mask, "
    fingers = "thumb red, index orange, middle green, ring blue, little violet, lighter towards the tip"
    sheet_picture = Picture(
        _png(sheet), None, "Contact sheet of synthetic hands", round(sheet.shape[1] / 1.5),
        f"{len(rows)} samples drawn evenly from {recording.n_frames}, each with its row's number: {shown}{fingers}.",
    )  # fmt: skip
    cover = coverage(recording)
    viewpoints = Picture(
        draw_coverage(cover),
        None,
        "Map of the directions the hand is seen from",
        640,
        f"The hand is {cover.summary()}.",
    )
    charts = [_chart(distribution) for distribution in distributions(recording)]
    text = (
        page_environment(__package__ or "")
        .get_template("preview.html.j2")
        .render(
            title=name,
            lead=f"{recording.n_frames} poses of a {recording.hand} hand, each seen by {recording.n_views} cameras",
            sheet=sheet_picture,
            viewpoints=viewpoints,
            charts=charts,
            facts=facts_of(recording),
            config={name: _flat(value) for name, value in (recording.provenance.get("config") or {}).items()},
        )
    )
    return text.encode("utf-8")


def facts_of(recording: Recording) -> dict[str, str]:
    """The provenance but for the configuration, a line a value."""
    cameras = (f"{c.name} {c.width} x {c.height}, f {c.k[0]:.0f} px" for c in recording.rig.cameras)
    said = {name: value for name, value in recording.provenance.items() if name != "config"}
    return {
        "uuid": recording.uuid,
        "cameras": "; ".join(cameras),
        **{name: _flat(value) for name, value in said.items()},
    }


def _flat(value: Any) -> str:
    """Nested values in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items()) or "–"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_flat, value)) or "–"
    return "–" if value is None else str(value)


def _chart(distribution: Distribution) -> Picture:
    """Histograms as outlines, one a kind."""
    known = [values for values in distribution.values.values() if len(values)]
    together = np.concatenate(known) if known else np.zeros(1)
    low, high = float(together.min()), float(together.max())
    edges = np.linspace(low, max(high, low + 1e-6 + 1e-3 * abs(low)), 25)
    if distribution.counted:
        edges = np.arange(low - 0.5, high + 1)

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 2.9, x=f"{distribution.title} ({distribution.unit})", y="share (%)")
        for i, (label, values) in enumerate(distribution.values.items()):
            if len(values):
                heights = 100 * np.histogram(values, edges)[0] / len(values)
                axes.stairs(heights, edges, color=_colour(theme, i, label), linewidth=1.8, label=label)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
        legend(axes, theme)
        return figure

    median = ", ".join(
        f"{label + ' ' if label else ''}{np.median(values):.0f} {distribution.unit}"
        for label, values in distribution.values.items()
        if len(values)
    )
    return both(draw, alt=distribution.title, caption=f"{distribution.title}. Median: {median}.")


def _colour(theme: Theme, i: int, label: str) -> str | tuple[float, ...]:
    """A finger's is that of the sheet."""
    if label in FINGERS:
        return tuple(value / 255 for value in FINGER_RGB[label])
    return theme.series[i % len(theme.series)]


def _png(rgba: NDArray[np.uint8]) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", rgba[..., [2, 1, 0, 3]], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())


def _on_white(rgba: NDArray[np.uint8]) -> bytes:
    """The sheet as an opaque picture with a margin."""
    import cv2

    alpha = rgba[..., 3:].astype(np.float32) / 255
    flat = (rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    framed = np.pad(flat, ((16, 4), (16, 16), (0, 0)), constant_values=255)
    return bytes(cv2.imencode(".png", framed[..., ::-1])[1].tobytes())
