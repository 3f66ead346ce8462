"""One HTML file to look at a recording over ssh: every camera's depth, skeletons, an orbit of points, a time line.

The page holds its frames and asks nothing of the network (its content policy forbids it, and lets no script run but
its own). Depth is kept as whole millimetres: each row as differences of neighbours, low bytes before high ones,
deflated, which the browser undoes; so the points in space are as exact as the images. A page is at most 10 MB: frames
are taken evenly from those asked for until that is full, and the page says which were left out.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.errors import HandloomError
from ..stores.joints import FINGER_COLORS, Layout
from ..stores.page import page_environment, refuse_taken, write_page
from .colours import camera_color, finger_color
from .shown import Moment, Showing, View, all_errors_mm, moments, who

BUDGET_BYTES: Final = 9_500_000
"""Of the frames; text, script and curves take the rest of 10 MB."""
MOST_FRAMES: Final = 300
WHOLE_PX: Final = 320
"""Longest side at which a whole image is kept."""
CROP_PX: Final = 192
PROBED: Final = 6
"""Frames from which the size of all is estimated."""
MOST_ERRORS: Final = 4000
"""Values of a curve."""


@dataclass(frozen=True, slots=True)
class PageMade:
    """What `write_view_page` wrote."""

    out: Path
    frames: int
    asked: int
    """Frames that could have been shown."""
    size_bytes: int


def write_view_page(
    shown: Showing,
    out: Path,
    *,
    every: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PageMade:
    """Write the page.

    Args:
        shown: what to show; of its rows as many as fit, unless `every` says which.
        out: the file.
        every: the step that `shown` was chosen with, where somebody chose it: then all its rows are shown.
        overwrite: replace a file that is there.
        progress: called with frames done and in all.

    Raises:
        HandloomError: the file exists or cannot be written, rows are damaged, or with `every` there are too many.
    """
    refuse_taken(out, overwrite=overwrite, what="page")
    rows = _fitting(shown, every)
    frames: list[str] = []
    for i, moment in enumerate(moments(shown, rows.tolist())):
        frames.append(json.dumps(_frame(shown, moment), separators=(",", ":")))
        if progress:
            progress(i + 1, len(rows))
    # The estimate errs by a few percent where frames differ; what does not fit is left out evenly as well.
    while sum(map(len, frames)) > BUDGET_BYTES and len(frames) > 1 and every is None:
        kept = _evenly(len(frames), int(len(frames) * 0.95))
        frames, rows = [frames[i] for i in kept], rows[kept]
    page = _page(shown, rows, frames)
    write_page(page, out, overwrite=overwrite, what="page")
    return PageMade(out, len(rows), shown.asked, out.stat().st_size)


def _fitting(shown: Showing, every: int | None) -> NDArray[np.int64]:
    """As many of the rows as fit, evenly; all of them with `every`, or an error."""
    rows = shown.rows
    probed = rows[_evenly(len(rows), PROBED)].tolist()
    size = np.mean([len(json.dumps(_frame(shown, m), separators=(",", ":"))) for m in moments(shown, probed)])
    fitting = max(1, min(int(BUDGET_BYTES / size), MOST_FRAMES))
    if every is None:
        return rows[_evenly(len(rows), fitting)]
    if len(rows) > fitting:
        raise HandloomError(
            "The page would become too large",
            where=f"--every {every}",
            why=f"{len(rows)} frames of about {size / 1e3:.0f} kB; {fitting} fit",
            fix=f"--every {-(-shown.asked // fitting)}, fewer frames with --frames A:B, or --save F.rrd",
        )
    return rows


def _evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """At most so many of `count` places, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, max(wanted, 1))).round().astype(np.int64))


def _frame(shown: Showing, moment: Moment) -> dict[str, Any]:
    most = WHOLE_PX if shown.whole else CROP_PX
    return {
        "row": moment.row,
        "id": moment.frame_id,
        "time": None if moment.time_s is None else round(moment.time_s, 4),
        "views": [None if view is None else _view(view.reduced(most), shown.window_mm) for view in moment.views],
        "dropped": list(moment.dropped),
        "truth": None if moment.truth_mm is None else _rounded(moment.truth_mm),
        "predicted": {name: _rounded(joints) for name, joints in moment.predicted_mm.items()},
        "errors": {
            name: round(error, 2) for name, error in shown.errors_mm(moment.truth_mm, moment.predicted_mm).items()
        },
    }


def _view(view: View, window_mm: float | None) -> dict[str, Any]:
    depth_mm = np.rint(view.depth * np.float64(view.camera.depth_unit_mm)).clip(0, 65535).astype(np.uint16)
    height, width = depth_mm.shape
    near, far = _span(depth_mm, view.center_mm, window_mm)
    return {
        "w": width,
        "h": height,
        "k": [round(float(value), 4) for value in view.k],
        "near": near,
        "far": far,
        "center": None if view.center_mm is None else _rounded(view.center_mm),
        "source": view.center_source,
        "score": round(view.center_score, 2),
        "depth": packed(depth_mm),
    }


def packed(depth_mm: NDArray[np.uint16]) -> str:
    """Base64 of a deflated image (H, W): each row as differences (modulo 2^16), low bytes before all high ones."""
    differences = np.diff(depth_mm, axis=1, prepend=np.uint16(0)).astype("<u2")
    planes = differences.reshape(-1, 1).view(np.uint8)
    return base64.b64encode(zlib.compress(planes.T.tobytes(), 7)).decode("ascii")


def _span(depth_mm: NDArray[np.uint16], center_mm: Any, window_mm: float | None) -> tuple[int, int]:
    """Depths at the ends of the colours: about the hand, or what the image has but for its extremes."""
    if center_mm is not None and window_mm is not None:
        # Half the cube: a hand is thinner than its cube, and what lies behind it needs no shades.
        return max(1, round(float(center_mm[2]) - window_mm / 4)), round(float(center_mm[2]) + window_mm / 4)
    seen = depth_mm[depth_mm > 0]
    if not len(seen):
        return 1, 2
    near, far = np.percentile(seen, [1, 99])
    return int(near), max(int(far), int(near) + 1)


def _rounded(points_mm: NDArray[Any]) -> list[Any]:
    """Nested lists to 0.1 mm, None where unknown."""
    flat = [None if not np.isfinite(value) else round(float(value), 1) for value in points_mm.reshape(-1)]
    if points_mm.ndim == 1:
        return flat
    return [None if None in flat[i : i + 3] else flat[i : i + 3] for i in range(0, len(flat), 3)]


def _page(shown: Showing, rows: NDArray[np.int64], frames: list[str]) -> str:
    environment = page_environment(__package__ or "")
    assert environment.loader is not None
    script = environment.loader.get_source(environment, "view.js")[0]
    data = json.dumps(_data(shown), separators=(",", ":"))
    # The frames are text already; none of it may end the element that holds it.
    data = f'{data[:-1]},"frames":[{",".join(frames)}]}}'.replace("<", "\\u003c")
    recording = shown.recording
    return environment.get_template("view.html.j2").render(
        name=recording.path.name or str(recording.path),
        lead=_lead(shown),
        notes=_notes(shown, rows),
        cameras=[(camera.name, camera_color(i)) for i, camera in enumerate(recording.rig.cameras)],
        fingers={(finger or "palm, wrist"): color for finger, color in FINGER_COLORS.items()},
        has_truth=recording.labels is not None,
        has_poses=shown.poses is not None,
        has_cube=shown.window_mm is not None,
        has_errors=shown.comparable,
        script=script,
        data=data,
    )


def _data(shown: Showing) -> dict[str, Any]:
    from matplotlib import colormaps

    lut = colormaps["cividis"](np.arange(256), bytes=True)[:, :3]
    places = _evenly(len(shown.rows), MOST_ERRORS)
    rows = shown.rows[places].tolist()
    errors = all_errors_mm(shown, rows)
    return {
        "cameras": [
            {
                "name": camera.name,
                "color": camera_color(i),
                "r": [value for row in camera.r for value in row],
                "t": list(camera.t),
                "width": camera.width,
                "height": camera.height,
                "k": list(camera.k),
            }
            for i, camera in enumerate(shown.recording.rig.cameras)
        ],
        "truth": _layout(shown.truth_layout),
        "predicted": _layout(shown.poses.layout if shown.poses else None),
        "who": {name: who(name) for name in (shown.poses.cameras if shown.poses else ())},
        "window": shown.window_mm,
        "lut": base64.b64encode(lut.tobytes()).decode("ascii"),
        "errors": {
            "rows": rows if errors else [],
            "values": {
                name: [None if not np.isfinite(value) else round(float(value), 2) for value in values]
                for name, values in errors.items()
            },
        },
    }


def _layout(layout: Layout | None) -> dict[str, Any] | None:
    if layout is None:
        return None
    return {
        "points": list(layout.points),
        "edges": [list(edge) for edge in layout.edges],
        "colors": [finger_color(point) for point in layout.points],
    }


def _lead(shown: Showing) -> str:
    recording = shown.recording
    cameras = f"{recording.n_views} camera{'s' * (recording.n_views != 1)}"
    labels = f"labels: {shown.truth_layout.name}" if shown.truth_layout else "no labels"
    return f"{recording.n_frames} frames of a {recording.hand} hand, {recording.kind}, {cameras}, {labels}"


def _notes(shown: Showing, rows: NDArray[np.int64]) -> list[str]:
    """What the page shows and what it leaves out."""
    recording, asked = shown.recording, shown.asked
    out = []
    if len(rows) == recording.n_frames:
        out.append(f"All {len(rows)} frames of the recording are here.")
    else:
        part = "" if asked == recording.n_frames else f" of the {asked} asked for"
        steps = np.unique(np.diff(rows)).tolist()
        step = f", every {steps[0] if len(steps) == 1 else f'{steps[0]} to {steps[-1]}'} rows" if steps else ""
        out.append(
            f"{len(rows)}{part} of the recording's {recording.n_frames} frames are here, from row {rows[0]} to "
            f"{rows[-1]}{step}; the others are left out (--frames A:B and --every N choose)."
        )
    if shown.whole:
        large = max(max(camera.width, camera.height) for camera in recording.rig.cameras)
        if large > WHOLE_PX:
            out.append(f"Images are reduced to {WHOLE_PX} pixels on the longer side, the nearest pixel of each place.")
    else:
        out.append("The images are the crops around the hand, each with a K of its own.")
    out.append("Depth is rounded to whole millimetres, joints to 0.1 mm; all is in the rig's millimetres.")
    bent = [camera.name for camera in recording.rig.cameras if any(camera.dist)]
    if bent:
        out.append(f"The lens distortion of {', '.join(bent)} is not undone: points off the middle are displaced.")
    if shown.poses is not None:
        if shown.poses.other_frames:
            out.append(f"{shown.poses.other_frames} frames of the poses are not among those shown.")
        if shown.truth_layout is not None and not shown.comparable:
            out.append(
                f"Labels ({shown.truth_layout.name}) and poses ({shown.poses.layout.name}) are different points: "
                "no error is computed."
            )
        elif shown.comparable and len(shown.rows) > MOST_ERRORS:
            out.append(f"The curve shows {MOST_ERRORS} of {len(shown.rows)} frames, evenly taken.")
    return out
