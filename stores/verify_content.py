"""Does what a recording says make sense: times, units, images that stand still or are empty, joints, twins."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .camera import project
from .errors import HandloomError
from .findings import Finding, Severity
from .lineage import usable_twins
from .recording import Recording

Small = Mapping[str, Mapping[str, NDArray[Any]]]

DEPTH_MM: Final = (40.0, 15_000.0)
"""Median depth of an image; metres taken for millimetres fall below it, millimetres for metres above."""
SPREAD_MM: Final = (20.0, 600.0)
"""Diagonal of the box around a hand's joints: a fist of a child to a stretched hand."""
BASELINE_MM: Final = (10.0, 30_000.0)
"""Largest distance between two cameras of a rig."""
JUMP: Final = 0.3
"""Change of the share of pixels without return from one image to the next."""
OFF_CENTER_PX: Final = 1.0
"""Where a crop's centre may lie beside its middle."""
EMPTY_SHARE: Final = 0.02
"""Rendered crops without a return: more than these are a fault."""
CENTER_RATIO: Final = (0.2, 5.0)
"""Median depth of a crop over the depth of its centre, median of all; metres for millimetres give 0.001."""
FAR_MM: Final = 60.0
"""Median depth between the visible joints of a frame and the surface before or behind them; flesh takes 15."""
FAR_SHARE: Final = 0.02


def check_content(recording: Recording, small: Small, real: Recording | None) -> Iterator[Finding]:
    """Findings of everything but the images: small arrays and the rig."""
    frames = small["frames"]
    if not len(frames["frame_id"]):
        return
    yield from _rows(frames)
    yield from _split(recording)
    yield from _times(recording, frames)
    yield from _cameras(recording)
    if recording.crops is not None:
        yield from _centers(recording, small["crops"])
    labels = small.get("labels")
    if labels is not None and len(labels["joints"]):
        yield from _joints(recording, labels, frames)
    yield from _twins(recording, small, real)


def _rows(frames: Mapping[str, NDArray[Any]]) -> Iterator[Finding]:
    ids, first = np.unique(frames["frame_id"], return_index=True)
    if len(ids) < len(frames["frame_id"]):
        again = np.setdiff1d(np.arange(len(frames["frame_id"])), first)
        yield Finding("error", "frame-id", "frames/frame_id", "rows repeat another's frame_id", _tuple(again))
    for name, most in (("split", 2), ("present", 1)):
        bad = np.flatnonzero((frames[name] > most).reshape(len(frames[name]), -1).any(1))
        if len(bad):
            yield Finding("error", "value", f"frames/{name}", f"values above {most}", _tuple(bad))


def _split(recording: Recording) -> Iterator[Finding]:
    said = recording.attributes.get("split")
    if isinstance(said, dict) and said.get("done") is False:
        shares = ",".join(f"{name}={share:g}" for name, share in said["shares"].items())
        fix = f"handloom store split {recording.path} --by {said['by']} --seed {said['seed']} --shares {shares}"
        yield Finding("warning", "split", "frames/split", "was being set when the writer was killed", fix=fix)


def _times(recording: Recording, frames: Mapping[str, NDArray[Any]]) -> Iterator[Finding]:
    """Times and numbers ascend in each camera, within a sequence."""
    sequence = frames["sequence"]
    for view, camera in enumerate(recording.rig.names):
        rows = np.flatnonzero(frames["present"][:, view])
        follows = sequence[rows[1:]] == sequence[rows[:-1]]
        for name in ("t_device_ns", "t_host_ns", "frame_number"):
            values = frames[name][rows, view]
            known = (values[1:] >= 0) & (values[:-1] >= 0)
            # Two images may reach the host within one tick of its clock.
            back = np.diff(values) < 0 if name == "t_host_ns" else np.diff(values) <= 0
            bad = rows[1:][follows & known & back]
            if len(bad):
                yield Finding("error", "time", f"frames/{name}, {camera}", "does not ascend", _tuple(bad))
            dropped = np.flatnonzero((frames["present"][:, view] == 0) & (frames[name][:, view] != -1))
            if len(dropped):
                where = f"frames/{name}, {camera}"
                yield Finding("warning", "dropped", where, "a dropped image has a time or number", _tuple(dropped))


def _cameras(recording: Recording) -> Iterator[Finding]:
    cameras = recording.rig.cameras
    eyes = np.array([camera.to_rig(np.zeros(3)) for camera in cameras])
    baseline = float(np.linalg.norm(eyes[:, None] - eyes[None], axis=-1).max())
    if len(cameras) > 1 and not BASELINE_MM[0] <= baseline <= BASELINE_MM[1]:
        what = f"the cameras stand within {baseline:.3g} mm of each other: is t in millimetres?"
        yield Finding("warning", "unit", "zarr.json, rig", what, fix="calibrate again, or give t in mm")


def _centers(recording: Recording, crops: Mapping[str, NDArray[Any]]) -> Iterator[Finding]:
    """A crop's K puts its centre in its middle; what does not was cut elsewhere, or its K was lost on the way."""
    assert recording.crops is not None
    middle = (recording.crops.columns["crop"].shape[-1] - 1) / 2
    for view, camera in enumerate(recording.rig.cameras):
        found = crops["center_source"][:, view] > 0
        with np.errstate(all="ignore"):
            at = project(crops["center"][:, view], crops["k"][:, view])
        off = found & ~(np.abs(at - middle).max(-1) < OFF_CENTER_PX)
        if off.any():
            what = "the centre does not lie in the middle of its crop: centre and K do not belong together"
            yield Finding("error", "center", f"crops/k, {camera.name}", what, _tuple(np.flatnonzero(off)))


def _joints(
    recording: Recording, labels: Mapping[str, NDArray[Any]], frames: Mapping[str, NDArray[Any]]
) -> Iterator[Finding]:
    joints = labels["joints"].astype(np.float64)
    count = min(len(joints), len(frames["present"]))
    whole = np.flatnonzero(np.isfinite(joints).all((1, 2)))
    if len(whole):
        spread = np.linalg.norm(np.ptp(joints[whole], axis=1), axis=-1)
        bad = whole[(spread < SPREAD_MM[0]) | (spread > SPREAD_MM[1])]
        if len(bad):
            what = f"hands {np.median(spread):.3g} mm across (median): are the joints in millimetres?"
            yield Finding("error", "unit", "labels/joints", what, _tuple(bad), "give the labels in mm")
    for view, camera in enumerate(recording.rig.cameras):
        cam = camera.to_camera(joints[:count])
        with np.errstate(all="ignore"):
            u, v = np.moveaxis(project(cam, camera.k), -1, 0)
            inside = (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5) & (cam[..., 2] > 0)
        seen = (labels["visible"][:count, view] > 0) & np.isfinite(cam).all(-1)
        seen &= frames["present"][:count, view, None] > 0
        bad = np.flatnonzero((seen & ~inside).sum(1) > 0.5 * np.maximum(seen.sum(1), 1))
        if len(bad):
            what = f"most joints said to be visible lie outside the image in {len(bad) / count:.1%} of the frames"
            yield Finding("warning", "outside", f"labels/joints, {camera.name}", what, _tuple(bad))


def _twins(recording: Recording, small: Small, real: Recording | None) -> Iterator[Finding]:
    twin, of = small.get("labels", {}).get("twin"), recording.attributes.get("twins_of")
    if twin is None:
        return
    if not isinstance(of, str) or of == recording.uuid:
        yield Finding("error", "twin", "zarr.json", f"twins_of names no other recording: {of!r}")
    elif real is not None:
        assert real.frames is not None
        try:
            ids, here = usable_twins(recording, real).translated(twin)
        except HandloomError as error:
            yield Finding("error", "twin", "zarr.json", f"{error.what}: {error.why}", fix=error.fix)
            return
        lost = np.flatnonzero(~(here & np.isin(ids, real.frames.read("frame_id"))))
        if len(lost) and of == real.uuid:
            yield Finding("error", "twin", "labels/twin", "no such frame_id in the real recording", _tuple(lost))
        elif len(lost):
            what = "the frames they show did not come along into the real recording"
            yield Finding("note", "twin", "labels/twin", what, _tuple(lost))


def check_images(recording: Recording, rows: list[int], progress: Callable[..., None] | None) -> Iterator[Finding]:
    """Findings of the images of `rows`, read one row at a time.

    Full frames: empty, equal to the one before, sudden loss of returns, implausible depth. Crops: far joints.
    """
    if not rows:
        return
    if recording.has_depth:
        yield from _depth(recording, rows, progress)
    if recording.crops is not None and recording.labels is not None and len(rows):
        yield from _surface(recording, [row for row in rows if row < recording.crops.committed])
    if recording.crops is not None:
        yield from _crops(recording, [row for row in rows if row < recording.crops.committed])


def _depth(recording: Recording, rows: list[int], progress: Callable[..., None] | None) -> Iterator[Finding]:
    frames, names = recording.frames, recording.rig.names
    assert frames is not None
    present, sequence = frames.read("present"), frames.read("sequence")
    count, views = len(rows), len(names)
    ghosts: list[list[int]] = [[] for _ in names]
    crc, share, median = np.zeros((count, views), np.int64), np.ones((count, views)), np.full((count, views), np.nan)
    for i, row in enumerate(rows):
        for view, name in enumerate(names):
            if present[row, view]:
                image = frames.read_rows(f"depth/{name}", [row])[0]
                crc[i, view] = zlib.crc32(image.tobytes())
                share[i, view] = np.mean(image == 0)
                if share[i, view] < 1:
                    median[i, view] = np.median(image[image > 0]) * recording.depth_unit_mm[view]
            elif frames.read_rows(f"depth/{name}", [row]).any():
                ghosts[view].append(row)
        if progress is not None:
            progress(i + 1, count)
    at = np.array(rows, np.int64)
    here = present[at] > 0
    neighbours = np.flatnonzero((np.diff(at) == 1) & (sequence[at[1:]] == sequence[at[:-1]]))
    both = here[neighbours] & here[neighbours + 1]
    same = both & (crc[neighbours] == crc[neighbours + 1]) & (share[neighbours] < 1)
    whole = (same | ~both).all(1) & same.any(1)
    if whole.any():
        what = "every camera shows what it showed the frame before"
        yield Finding("warning", "duplicate", "frames/depth", what, _tuple(at[neighbours + 1][whole]))
    jump = both & (np.abs(share[neighbours + 1] - share[neighbours]) > JUMP) & (share[neighbours + 1] < 1)
    jump &= share[neighbours] < 1
    for view, name in enumerate(names):
        where = f"frames/depth/{name}"
        empty = at[here[:, view] & (share[:, view] == 1)]
        if len(empty):
            what = "no pixel has a return though the image counts as present"
            yield Finding("error", "empty", where, what, _tuple(empty))
        if ghosts[view]:
            yield Finding(
                "warning", "dropped", where, "an image that counts as dropped has pixels", tuple(ghosts[view])
            )
        frozen = at[neighbours + 1][same[:, view] & ~whole]
        if len(frozen):
            what = "stands still while other cameras move"
            yield Finding("error", "frozen", where, what, _tuple(frozen), "look at the camera's cable and firmware")
        if jump[:, view].any():
            what = f"the share of pixels without return jumps by more than {JUMP:.0%}"
            yield Finding("warning", "invalid-share", where, what, _tuple(at[neighbours + 1][jump[:, view]]))
        if np.isfinite(median[:, view]).any():
            depth = float(np.nanmedian(median[:, view]))
            if not DEPTH_MM[0] <= depth <= DEPTH_MM[1]:
                what = f"a median depth of {depth:.3g} mm: is depth_unit_mm right?"
                yield Finding("error", "unit", where, what, fix="give depth_unit_mm in millimetres a step")


def _crops(recording: Recording, rows: list[int]) -> Iterator[Finding]:
    """Crops without anything in them, of another unit than their centre, or of another pose shown again."""
    crops = recording.crops
    assert crops is not None
    joints = recording.labels.read("joints") if recording.labels is not None else None
    first: dict[int, int] = {}
    again: list[int] = []
    empty: list[list[int]] = [[] for _ in recording.rig.names]
    ratio: list[list[float]] = [[] for _ in recording.rig.names]
    for row in rows:
        crop, center, source = (crops.read_rows(name, [row])[0] for name in ("crop", "center", "center_source"))
        for view in np.flatnonzero(source).tolist():
            seen = crop[view][crop[view] > 0]
            if not len(seen):
                empty[view].append(row)
            elif center[view, 2] > 0:
                ratio[view].append(float(np.median(seen)) * float(recording.depth_unit_mm[view]) / center[view, 2])
        before = first.setdefault(zlib.crc32(crop.tobytes()), row)
        other = joints is None or max(before, row) >= len(joints) or not np.array_equal(joints[before], joints[row])
        if before != row and crop.any() and other and recording.kind == "synthetic":
            again.append(row)
    if again:
        yield Finding("error", "duplicate", "crops/crop", "shows the picture of another pose again", tuple(again))
    for view, name in enumerate(recording.rig.names):
        if empty[view]:
            what = "no pixel has a return though the hand was found there"
            # A rendered arm that points at a camera hides its hand, nearer than the sensor sees: 4 views of 900.
            few = recording.kind == "synthetic" and len(empty[view]) <= max(1, EMPTY_SHARE * len(rows))
            severity: Severity = "note" if few else "warning"
            yield Finding(severity, "empty", f"crops/crop, {name}", what, tuple(empty[view]))
        if ratio[view] and not CENTER_RATIO[0] <= float(np.median(ratio[view])) <= CENTER_RATIO[1]:
            what = f"the depth is {np.median(ratio[view]):.3g} times that of the centre: is depth_unit_mm right?"
            yield Finding("error", "unit", f"crops/crop, {name}", what, fix="give depth_unit_mm in millimetres a step")


def _surface(recording: Recording, rows: list[int]) -> Iterator[Finding]:
    """Visible joints far before or behind the surface at their pixel."""
    crops, labels = recording.crops, recording.labels
    assert crops is not None
    assert labels is not None
    rows = [row for row in rows if row < labels.committed]
    bad, judged, away = [], 0, []
    for row in rows:
        crop, k, source = (crops.read_rows(name, [row])[0] for name in ("crop", "k", "center_source"))
        joints, visible = (labels.read_rows(name, [row])[0] for name in ("joints", "visible"))
        gaps: list[float] = []
        for view, camera in enumerate(recording.rig.cameras):
            cam = camera.to_camera(joints)[(visible[view] > 0) & np.isfinite(joints).all(1)]
            cam = cam[cam[:, 2] > 1] if source[view] else cam[:0]
            u, v = np.rint(project(cam, k[view])).astype(int).T if len(cam) else np.zeros((2, 0), int)
            ok = (u >= 0) & (v >= 0) & (u < crop.shape[-1]) & (v < crop.shape[-1])
            z = crop[view, v[ok], u[ok]] * float(camera.depth_unit_mm)
            gaps += np.abs(cam[ok, 2] - z)[z > 0].tolist()
        if gaps:
            judged += 1
            away.append(float(np.median(gaps)))
            if away[-1] > FAR_MM:
                bad.append(row)
    if judged and len(bad) > FAR_SHARE * judged:
        what = (
            f"joints are more than {FAR_MM:.0f} mm from the surface (median of the frame) in {len(bad) / judged:.1%} "
        )
        what += f"of the frames, {np.median(away):.0f} mm in half of them"
        yield Finding("warning", "far", "labels/joints", what, tuple(bad), "check that labels and rig belong together")


def _tuple(rows: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(row) for row in rows)
