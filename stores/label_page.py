"""The labelling page: one HTML file with the depth of all views, on which people put a hand's joints.

It holds what it shows and asks nothing of the network: crops as whole millimetres (packed, not pictures, so that a
click reads the depth and the contrast can be chosen), their K, the rig's poses, and joints to start from: the labels
that are there, a model's pose, or a hand at rest where the hand was found. The scripts beside `label.html.j2` do the
rest. A crop of full frames shows 360 mm in 256 pixels, finer than the stored one; 10 to 50 kB a view.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .crops import take_crop
from .diverse import labelled_rows
from .joints import FINGER_COLORS, Layout, finger_of
from .page import page_environment, write_page
from .recording import Recording

FORMAT: Final = "handloom-labelling"
VERSION: Final = 1
CROP_PX: Final = 256
WINDOW_MM: Final = 360.0
"""Of a crop cut afresh from full frames: a hand of 200 mm, its centre 60 mm off."""
CUBE_MM: Final = 400.0
"""Depth is kept within half of this about the centre; what is nearer or farther is only marked as something."""
BEYOND: Final = 1
LEAST_Z_MM: Final = 60.0
"""A hand nearer to a camera than this is not shown."""
MOST_BONES: Final = 60
"""Labelled frames of a person whose bones are handed over for comparison."""
SCRIPTS: Final = ("label_geometry.js", "label_depth.js", "label.js")
FLESH_MM: Final = (
    19.0, 27.5,  # palm, wrist
    21.5, 14.0, 11.0, 7.5,
    20.5, 13.0, 10.0, 9.0, 6.0,
    21.0, 11.5, 10.0, 9.0, 6.0,
    21.0, 11.5, 9.5, 8.5, 5.5,
    21.5, 12.5, 8.5, 7.5, 4.5,
)  # fmt: skip
"""How far a canonical joint lies behind the skin in front of it, along z, where a camera sees its part of the hand:
medians over 300 rendered hands of the built-in kind, three cameras (`handloom synth run --frames 300 --seed 11
--sensor none`)."""


@dataclass(frozen=True, slots=True)
class Prefill:
    """Joints to start from."""

    joints_mm: NDArray[np.float32]
    """(n, J, 3) in the rig, NaN where there is nothing."""
    source: tuple[str, ...]
    """(n,) 'labels', 'model' or 'rest': joints at rest say nothing and must be placed before they are saved."""


@dataclass(frozen=True, slots=True)
class LabelPage:
    """What was written."""

    path: Path
    frames_file: Path
    """A frame_id a line: what `--labels` of training and `store subset` read."""
    size_bytes: int
    views: int
    """Images on it."""


def write_label_page(
    recording: Recording,
    rows: Sequence[int],
    out: Path,
    *,
    layout: Layout,
    prefill: Prefill,
    overwrite: bool,
    progress: Callable[..., None] | None = None,
) -> LabelPage:
    """Write `out/index.html` and `out/frames.txt`.

    Args:
        recording: located.
        rows: of the frames to label, in the order in which they are shown.
        out: a folder.
        layout: of the joints.
        prefill: a row a frame.
        overwrite: replace a page that is there; what its readers have placed stays in their browsers.
        progress: called with frames done and in all.

    Raises:
        HandloomError: a page is there, or the files cannot be written.
    """
    frames = []
    for done, row in enumerate(rows):
        frames.append(_frame(recording, int(row), prefill.joints_mm[done], prefill.source[done]))
        if progress is not None:
            progress(done + 1, len(rows))
    page = _page(recording, layout, frames, prefill)
    target, listed = out / "index.html", out / "frames.txt"
    write_page(page, target, overwrite=overwrite, what="labelling page")
    write_page("".join(f"{frame['id']}\n" for frame in frames), listed, overwrite=overwrite, what="list of frames")
    count = sum(view is not None for frame in frames for view in frame["views"])
    return LabelPage(target, listed, len(page.encode()), count)


def _page(recording: Recording, layout: Layout, frames: list[dict[str, Any]], prefill: Prefill) -> str:
    environment = page_environment(__package__ or "")
    assert environment.loader is not None
    script = "\n".join(environment.loader.get_source(environment, name)[0] for name in SCRIPTS)
    data = {
        "format": FORMAT,
        "version": VERSION,
        "recording": {"name": recording.path.name, "uuid": recording.uuid, "hand": recording.hand},
        "layout": {
            "name": layout.name,
            "points": layout.points,
            "edges": layout.edges,
            "colors": [FINGER_COLORS[finger_of(point)] for point in layout.points],
            "flesh": _rounded(layout.matrix() @ np.array(FLESH_MM), 1),
        },
        "cameras": [
            {
                "name": camera.name,
                "serial": camera.serial,
                "R": camera.rotation.ravel().tolist(),
                "t": camera.translation.tolist(),
            }
            for camera in recording.rig.cameras
        ],
        "bones": _bones_of(recording, layout),
        "reference": _reference(layout, prefill),
        "frames": frames,
    }
    return environment.get_template("label.html.j2").render(
        title=f"Label {recording.path.name}",
        name=recording.path.name,
        # Inside a script element only its end tag could be misread.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        script=script,
    )


def _frame(recording: Recording, row: int, joints_mm: NDArray[np.float32], source: str) -> dict[str, Any]:
    frames = recording.frames
    assert frames is not None
    said = {name: frames.read_rows(name, [row])[0] for name in ("frame_id", "subject", "sequence")}
    return {
        # As text: a frame_id may be larger than what JavaScript counts exactly.
        "id": str(int(said["frame_id"])),
        "row": row,
        "subject": int(said["subject"]),
        "sequence": int(said["sequence"]),
        "source": source,
        "prefill": [_rounded(p, 3) if np.isfinite(p).all() else None for p in joints_mm],
        "views": _views(recording, row),
    }


def _views(recording: Recording, row: int) -> list[dict[str, Any] | None]:
    """What each camera shows of the hand; None where it gave no image or the hand is not before it."""
    frames, crops = recording.frames, recording.crops
    assert frames is not None
    assert crops is not None
    present = frames.read_rows("present", [row])[0] > 0
    center, source, stored_k = (crops.read_rows(name, [row])[0] for name in ("center", "center_source", "k"))
    palm = palm_of(recording, center, source)
    out: list[dict[str, Any] | None] = []
    for view, camera in enumerate(recording.rig.cameras):
        here = center[view].astype(np.float64) if source[view] else palm and camera.to_camera(palm)
        if not present[view] or here is None or here[2] < LEAST_Z_MM:
            out.append(None)
            continue
        if recording.has_depth:
            depth = frames.read_rows(f"depth/{camera.name}", [row])[0]
            crop, k = take_crop(depth, camera.k, here, crop_px=CROP_PX, window_mm=WINDOW_MM)
        elif source[view]:
            crop, k = crops.read_rows("crop", [row])[0, view], stored_k[view].astype(np.float64)
        else:
            out.append(None)
            continue
        mm = np.rint(crop * np.float64(camera.depth_unit_mm))
        out.append(
            {
                "w": crop.shape[1],
                "h": crop.shape[0],
                "k": _rounded(k, 5),
                "z": round(float(here[2]), 1),
                "depth": packed(np.where((crop > 0) & (np.abs(mm - here[2]) > CUBE_MM / 2), BEYOND, mm)),
            }
        )
    return out


def palm_of(recording: Recording, center_mm: NDArray[Any], source: NDArray[Any]) -> tuple[float, float, float] | None:
    """Where the hand of one frame was found, in the rig's frame: the mean of its views' centres (V, 3)."""
    found = [camera.to_rig(c) for camera, c, s in zip(recording.rig.cameras, center_mm, source, strict=True) if s]
    if not found:
        return None
    x, y, z = np.mean(found, axis=0).tolist()
    return x, y, z


def packed(depth_mm: NDArray[Any]) -> str:
    """Depth (H, W), whole mm below 65,536, as text: differences along rows, low bytes, then high bytes, zlib."""
    values = depth_mm.astype(np.uint16)
    # Level 6 takes 1.4 ms a view, 9 nine times that for a twelfth less.
    step = np.diff(values, axis=1, prepend=np.zeros((len(values), 1), np.uint16))
    planes = np.concatenate([(step & 255).ravel(), (step >> 8).ravel()]).astype(np.uint8)
    return base64.b64encode(zlib.compress(planes.tobytes(), 6)).decode("ascii")


def _bones_of(recording: Recording, layout: Layout) -> dict[str, list[list[float | None]]]:
    """By person, the lengths of all bones in the frames that are labelled already."""
    frames, labels = recording.frames, recording.labels
    if labels is None or recording.layout != layout:
        return {}
    assert frames is not None
    rows = labelled_rows(recording)
    subject = frames.read("subject")[rows]
    out = {}
    for who in np.unique(subject):
        mine = rows[subject == who]
        some = mine[np.linspace(0, len(mine) - 1, min(len(mine), MOST_BONES)).astype(int)]
        lengths = _lengths(layout, labels.read_rows("joints", some.tolist()))
        out[str(int(who))] = [[round(x, 2) if np.isfinite(x) else None for x in row] for row in lengths.tolist()]
    return out


def _reference(layout: Layout, prefill: Prefill) -> list[float | None]:
    """Lengths to compare with before enough frames are done: medians of what the page starts from."""
    lengths = _lengths(layout, prefill.joints_mm)
    return [round(float(np.median(c[np.isfinite(c)])), 2) if np.isfinite(c).any() else None for c in lengths.T]


def _lengths(layout: Layout, joints_mm: NDArray[Any]) -> NDArray[Any]:
    a, b = np.array(layout.edges).T
    return np.asarray(np.linalg.norm(joints_mm[:, a] - joints_mm[:, b], axis=-1))


def _rounded(values: NDArray[Any], digits: int) -> list[float]:
    return [round(float(x), digits) for x in values]
