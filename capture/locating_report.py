"""The page of `capture locate`: the score over time, and what was found in a few sets, among them the least sure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, project
from ..stores.page import Picture, Theme, both, chart, few_colors, page_environment, write_page
from ..stores.recording import Recording, open_recording

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPREAD, UNSURE = 6, 6
"""Sets drawn: evenly over the recording, and those with the lowest scores, no two within `APART` sets."""
APART: Final = 10
HEIGHT_PX: Final = 200
"""Of each image drawn."""


def write_report(path: Path, out: Path, *, min_score: float, overwrite: bool) -> None:
    """Write the page of a recording whose hand was located.

    Args:
        path: the recording.
        out: the file.
        min_score: below which what was found was not taken for a hand.
        overwrite: replace a file that is there.

    Raises:
        HandloomError: the path is taken or cannot be written.
    """
    write_page(page_of(open_recording(path), min_score=min_score), out, overwrite=overwrite)


def page_of(recording: Recording, *, min_score: float) -> str:
    """The page's HTML."""
    frames, crops = recording.frames, recording.crops
    assert frames is not None
    assert crops is not None
    present = frames.read("present") > 0
    source, score = crops.read("center_source"), crops.read("center_score")
    best = score.max(1)
    unsure = _least(np.where(present.any(1), best, np.inf))
    spread = np.unique(np.linspace(0, len(best) - 1, min(SPREAD, len(best))).astype(int))
    cameras = [
        {
            "name": name,
            "images": int(present[:, v].sum()),
            "found": int((source[:, v] > 0).sum()),
            "unsure": int((score[:, v][present[:, v]] < 0.5).sum()),
            "median": float(np.median(score[:, v][present[:, v]])) if present[:, v].any() else 0.0,
        }
        for v, name in enumerate(recording.rig.names)
    ]
    left_out = int((present & (source == 0)).sum())
    marked = f"{left_out} images have no centre: the hand is not seen there" + (
        f", or what was found scores below {min_score:g}." if min_score else "."
    )
    return (
        page_environment(__package__ or "")
        .get_template("locating.html.j2")
        .render(
            title=f"The hand in {recording.path.name}",
            lead=f"Found in {int((source > 0).sum())} of {int(present.sum())} images of {recording.n_frames} sets, "
            f"without labels; {(best >= 0.5).mean():.1%} of the sets score 0.5 or more.",
            marked=marked,
            course=_course(best, frames.read("sequence")),
            cameras=cameras,
            spread=[_set(recording, int(row)) for row in spread],
            unsure=[_set(recording, int(row)) for row in unsure],
        )
    )


def _least(score: NDArray[np.float32]) -> list[int]:
    """Rows of the lowest scores, apart from each other."""
    chosen: list[int] = []
    for row in np.argsort(score, kind="stable"):
        if len(chosen) == UNSURE or not np.isfinite(score[row]):
            break
        if all(abs(int(row) - other) > APART for other in chosen):
            chosen.append(int(row))
    return chosen


def _course(score: NDArray[np.float32], sequence: NDArray[np.int32]) -> Picture:
    """The score of every set, with the borders of the sequences."""

    def draw(theme: Theme) -> Figure:
        figure, axes = chart(theme, 2.4, width_in=9.6, x="set", y="score")
        for edge in np.flatnonzero(np.diff(sequence)) + 0.5:
            axes.axvline(edge, color=theme.grid, linewidth=1.0)
        axes.plot(np.arange(len(score)), score, ".", markersize=2.5, color=theme.series[0])
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(-0.5, len(score) - 0.5)
        return figure

    return both(draw, alt="Score of every set", caption="Of the surest camera; vertical lines divide sequences.")


def _set(recording: Recording, row: int) -> Picture:
    """All cameras' images of one set side by side, with what was found."""
    import cv2

    frames, crops = recording.frames, recording.crops
    assert frames is not None
    assert crops is not None
    center, source, score = (crops.read(n, row, row + 1)[0] for n in ("center", "center_source", "center_score"))
    present = frames.read("present", row, row + 1)[0] > 0
    window_mm = float(crops.attributes["window_mm"])
    tiles = []
    for view, camera in enumerate(recording.rig.cameras):
        depth = frames.read(f"depth/{camera.name}", row, row + 1)[0] * np.float32(camera.depth_unit_mm)
        tile = _shaded(depth)
        if present[view] and score[view] > 0:
            _mark(tile, camera, center[view], window_mm, sure=bool(source[view]) and score[view] >= 0.5)
        size = (round(camera.width * HEIGHT_PX / camera.height), HEIGHT_PX)
        tiles.append(cv2.resize(tile, size, interpolation=cv2.INTER_AREA))
    image = np.hstack(tiles)
    done, data = cv2.imencode(".png", image)
    assert done
    few = few_colors(data.tobytes())
    told = ", ".join(
        f"{name} {'no image' if not present[v] else f'{score[v]:.2f}' if source[v] else 'not seen'}"
        for v, name in enumerate(recording.rig.names)
    )
    caption = f"Set {row}: {told}"
    return Picture(few, None, f"Depth of set {row} with the hand's place", image.shape[1], caption)


def _shaded(depth_mm: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, 3) grey by the image's own depths, nothing black: a centre that is wrong does not wash the picture out."""
    seen = depth_mm[depth_mm > 0]
    near, far = np.percentile(seen, (2, 95)) if len(seen) else (0.0, 1.0)
    level = np.clip(235 - 190 * (depth_mm - near) / max(far - near, 1.0), 35, 245)
    return np.repeat(np.where(depth_mm > 0, level, 0).astype(np.uint8)[..., None], 3, axis=2)


def _mark(tile: NDArray[np.uint8], camera: Camera, center_mm: Any, window_mm: float, *, sure: bool) -> None:
    """The crop's frame and a cross on the palm: green where it is sure, orange where not."""
    import cv2

    u, v = project(np.asarray(center_mm, np.float64)[None], camera.k)[0]
    half = window_mm / 2 * camera.k[0] / float(center_mm[2])
    color = (95, 195, 75) if sure else (40, 140, 240)
    low, high = (round(u - half), round(v - half)), (round(u + half), round(v + half))
    width = max(1, camera.height // 160)
    cv2.rectangle(tile, low, high, color, width)
    cv2.drawMarker(tile, (round(u), round(v)), color, cv2.MARKER_CROSS, camera.height // 16, width + 1)
