"""A recording and its poses as a Rerun file: images, points in space, skeletons, hand, errors, two time lines.

What lies where (metres, for Rerun's viewer thinks in them; x right, y down, z forward as in the recording):

    rig/cameras/<camera>                its place
    rig/cameras/<camera>/image          its pinhole, in crops one a frame
    rig/cameras/<camera>/image/depth    the image, as it was stored, with its unit
    rig/cameras/<camera>/hand/…         the hand's centre and the cube that a crop shows
    rig/points/<camera>                 what it saw, in the camera's colour
    rig/labels/…, rig/predicted/<who>/… skeletons: bones and joints
    error_mm/<who>                      mean joint error
    about                               what this is

Time lines: `frame`, the row, and `time`, seconds since the first frame where the recording knows them. What a frame
lacks (a dropped image, no label, no hand) is cleared, else the viewer would go on showing the one before.

Rerun's pixels begin at 0, ours have their centre there, so principal points are half a pixel larger. The file is
written frame by frame and takes its name when it is whole; rerun-sdk sends nothing anywhere while it writes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Camera, unproject
from ..stores.errors import BAD_ENVIRONMENT, HandloomError, missing_extra
from ..stores.joints import Layout
from ..stores.page import refuse_taken
from ..stores.pose_csv import FUSED
from .colours import PREDICTED, camera_color, finger_color, rgb
from .shown import Moment, Showing, View, moments, who

if TYPE_CHECKING:
    from rerun import RecordingStream

APPLICATION: Final = "handloom"
MM: Final = 1e-3
"""Metres of a millimetre."""
POINTS: Final = 6000
"""A camera and frame, at most."""
FLUSH_FRAMES: Final = 8
GROUND: Final = (20, 23, 28)
"""Behind space and images, whatever the viewer's theme: the colours were chosen for it."""
CUBE: Final = (240, 228, 66)


@dataclass(frozen=True, slots=True)
class RerunMade:
    """What `write_rerun` wrote."""

    out: Path
    frames: int
    images: int
    dropped: int
    """Images that the cameras did not give."""
    size_bytes: int


def load_rerun() -> ModuleType:
    """The SDK.

    Raises:
        HandloomError: the extra is not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise missing_extra("rerun-sdk", "view") from error
    found: ModuleType = rerun
    return found


def write_rerun(
    shown: Showing,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RerunMade:
    """Write the frames to show as a .rrd file, with a layout for the viewer.

    Args:
        shown: what to show.
        out: the file.
        overwrite: replace a file that is there.
        progress: called with frames done and in all.

    Raises:
        HandloomError: the extra is missing, the file exists or cannot be written, or a row is damaged.
    """
    rr = load_rerun()
    if out.suffix != ".rrd":
        raise HandloomError("A Rerun file ends in .rrd", where=str(out), fix=f"--save {out.with_suffix('.rrd')}")
    refuse_taken(out, overwrite=overwrite, what="Rerun file")
    beside = out.with_name(f".{out.name}.writing")
    images = dropped = 0
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = rr.RecordingStream(APPLICATION, recording_id=shown.recording.uuid)
        with _written(stream, beside, _blueprint(shown)) as check:
            stream.send_recording_name(shown.recording.path.name)
            _log_static(rr, stream, shown)
            for i, moment in enumerate(moments(shown)):
                _log_moment(rr, stream, shown, moment)
                images += sum(view is not None for view in moment.views)
                dropped += sum(moment.dropped)
                if i % FLUSH_FRAMES == 0:  # else frames would pile up before a slow disk
                    stream.flush()
                    check()
                if progress:
                    progress(i + 1, len(shown.rows))
            stream.flush()
        _check_whole(beside)
        beside.replace(out)
    except OSError as error:
        why = error.strerror or str(error)
        raise HandloomError(
            "The Rerun file cannot be written", where=str(out), why=why, exit_code=BAD_ENVIRONMENT
        ) from error
    finally:
        beside.unlink(missing_ok=True)
    return RerunMade(out, len(shown.rows), images, dropped, out.stat().st_size)


@contextmanager
def _written(stream: RecordingStream, path: Path, blueprint: Any) -> Iterator[Callable[[], None]]:
    """Write what the stream is given inside the block; the block gets a function that raises what has failed.

    Through a pipe, whose other end is ours: rerun 0.41 itself only logs that a disk is full, and its next flush may
    then wait for ever.

    Raises:
        OSError: the file cannot be written.
    """
    failed: list[OSError] = []

    def drain(pipe: Path) -> None:
        with pipe.open("rb") as source:
            try:
                with path.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except OSError as error:
                failed.append(error)
                while source.read(1 << 20):
                    pass

    def check() -> None:
        if failed:
            raise failed[0]

    with tempfile.TemporaryDirectory(prefix="handloom-view-") as folder:
        pipe = Path(folder) / "stream.rrd"
        os.mkfifo(pipe)
        thread = threading.Thread(target=drain, args=(pipe,), daemon=True)
        thread.start()
        stream.save(pipe, default_blueprint=blueprint)
        try:
            yield check
        finally:
            stream.disconnect()
            thread.join()
    check()


def _check_whole(path: Path) -> None:
    """The SDK logs its errors instead of raising them: what it cannot read back, it has not written."""
    from rerun.chunk import RrdReader

    reader = RrdReader(path)
    assert len(reader.store(store=reader.recordings()[0])) > 0


def _log_static(rr: ModuleType, stream: RecordingStream, shown: Showing) -> None:
    stream.log("/", rr.ViewCoordinates.RDF, static=True)
    stream.log("about", rr.TextDocument(_about(shown), media_type="text/markdown"), static=True)
    for view, camera in enumerate(shown.recording.rig.cameras):
        path = f"rig/cameras/{camera.name}"
        origin = camera.to_rig(np.zeros(3)) * MM
        place = rr.Transform3D(
            translation=origin, mat3x3=camera.rotation.T, relation=rr.TransformRelation.ParentFromChild
        )
        stream.log(path, place, static=True)
        if shown.whole:
            stream.log(f"{path}/image", _pinhole(rr, camera, np.array(camera.k), view), static=True)
    for name in shown.poses.cameras if shown.poses and shown.comparable else ():
        line = rr.SeriesLines(colors=[_who_color(shown, name)], names=[who(name)], widths=[2.0])
        stream.log(f"error_mm/{who(name)}", line, static=True)


def _log_moment(rr: ModuleType, stream: RecordingStream, shown: Showing, moment: Moment) -> None:
    stream.reset_time()
    stream.set_time("frame", sequence=moment.row)
    if moment.time_s is not None:
        stream.set_time("time", duration=moment.time_s)
    for v, (camera, view) in enumerate(zip(shown.recording.rig.cameras, moment.views, strict=True)):
        path = f"rig/cameras/{camera.name}"
        if view is None:
            for entity in (f"{path}/image/depth", f"{path}/hand", f"rig/points/{camera.name}"):
                stream.log(entity, rr.Clear(recursive=True))
            continue
        if not shown.whole:
            stream.log(f"{path}/image", _pinhole(rr, camera, view.k, v, view.depth.shape))
        stream.log(f"{path}/image/depth", _depth(rr, view, shown.window_mm))
        _log_hand(rr, stream, f"{path}/hand", view, shown.window_mm)
        points = points_rig_mm(view, shown.window_mm).astype(np.float32) * MM
        cloud = rr.Points3D(points, colors=[rgb(camera_color(v))], radii=[rr.Radius.ui_points(1.5)])
        stream.log(f"rig/points/{camera.name}", cloud)
    _log_skeleton(rr, stream, "rig/labels", moment.truth_mm, shown.truth_layout, predicted=False)
    for name in shown.poses.cameras if shown.poses else ():
        assert shown.poses is not None
        joints = moment.predicted_mm.get(name)
        _log_skeleton(rr, stream, f"rig/predicted/{who(name)}", joints, shown.poses.layout, predicted=True)
    for name, error in shown.errors_mm(moment.truth_mm, moment.predicted_mm).items():
        stream.log(f"error_mm/{who(name)}", rr.Scalars([error]))


def _pinhole(
    rr: ModuleType, camera: Camera, k: NDArray[np.float64], view: int, shape: tuple[int, ...] | None = None
) -> Any:
    height, width = shape or (camera.height, camera.width)
    return rr.Pinhole(
        focal_length=k[:2],
        principal_point=k[2:] + 0.5,
        width=width,
        height=height,
        camera_xyz=rr.ViewCoordinates.RDF,
        image_plane_distance=0.1,
        color=rgb(camera_color(view)),
    )


def _depth(rr: ModuleType, view: View, window_mm: float | None) -> Any:
    unit = view.camera.depth_unit_mm
    span = None
    if view.center_mm is not None and window_mm is not None:
        z = float(view.center_mm[2])
        span = max(0.0, z - window_mm / 4) / unit, (z + window_mm / 4) / unit
    return rr.DepthImage(view.depth, meter=1 / (unit * MM), depth_range=span, colormap="viridis")


def _log_hand(rr: ModuleType, stream: RecordingStream, path: str, view: View, window_mm: float | None) -> None:
    if view.center_mm is None or window_mm is None:
        stream.log(path, rr.Clear(recursive=True))
        return
    center = view.center_mm * MM
    said = view.center_source if view.center_source == "truth" else f"{view.center_source} {view.center_score:.2f}"
    middle = rr.Points3D([center], labels=[said], show_labels=False, colors=[CUBE], radii=[rr.Radius.ui_points(4)])
    cube = rr.Boxes3D(
        centers=[center], half_sizes=[np.full(3, window_mm / 2 * MM)], colors=[CUBE],
        radii=[rr.Radius.ui_points(0.5)], fill_mode="majorwireframe",
    )  # fmt: skip
    stream.log(f"{path}/center", middle)
    stream.log(f"{path}/cube", cube)


def _log_skeleton(
    rr: ModuleType,
    stream: RecordingStream,
    path: str,
    joints_mm: NDArray[np.float32] | None,
    layout: Layout | None,
    *,
    predicted: bool,
) -> None:
    if layout is None:
        return
    joints = np.full((len(layout), 3), np.nan, np.float32) if joints_mm is None else joints_mm
    known = np.asarray(np.isfinite(joints).all(axis=1))
    if not known.any():
        stream.log(path, rr.Clear(recursive=True))
        return
    points = joints * np.float32(MM)
    bones = [(a, b) for a, b in layout.edges if known[a] and known[b]]
    colors = [rgb(PREDICTED if predicted else finger_color(layout.points[b])) for _, b in bones]
    strips = points[np.array(bones, np.int64).reshape(-1, 2)]
    thick = rr.Radius.ui_points(1.2 if predicted else 2.5)
    stream.log(f"{path}/bones", rr.LineStrips3D(strips, colors=colors, radii=[thick]))
    names = [name for name, there in zip(layout.points, known, strict=True) if there]
    dots = rr.Points3D(
        points[known], colors=[rgb(finger_color(name)) for name in names], labels=names, show_labels=False,
        radii=[rr.Radius.ui_points(2.5 if predicted else 4)],
    )  # fmt: skip
    stream.log(f"{path}/joints", dots)


def points_rig_mm(view: View, window_mm: float | None, *, most: int = POINTS) -> NDArray[np.float64]:
    """(n, 3) mm in the rig: the pixels with a return inside the hand's cube, or of the image; every m-th of them."""
    v, u = np.nonzero(view.depth)
    points = unproject(np.stack([u, v], axis=-1), view.depth[v, u] * np.float64(view.camera.depth_unit_mm), view.k)
    if view.center_mm is not None and window_mm is not None:
        points = points[(np.abs(points - view.center_mm) <= window_mm / 2).all(axis=1)]
    return view.camera.to_rig(points[:: max(1, -(-len(points) // most))])


def _who_color(shown: Showing, name: str) -> tuple[int, int, int]:
    return (255, 255, 255) if name == FUSED else rgb(camera_color(shown.recording.rig.names.index(name)))


def _about(shown: Showing) -> str:
    recording = shown.recording
    lines = [
        f"# {recording.path.name}",
        f"{len(shown.rows)} of {recording.n_frames} frames of a {recording.hand} hand, {recording.kind}, "
        f"{recording.n_views} cameras.",
        "3-D is in **metres** (the recording: millimetres), x right, y down, z forward. Depth images are as they were "
        "stored; their `meter` says how many steps are one metre, and 0 is no return.",
        f"Images: {'whole' if shown.whole else 'crops around the hand, each with its own K'}. Points: those inside the "
        f"hand's cube where it is known, up to {POINTS} a camera, each camera in a colour of its own.",
        "Labels are coloured by finger, predicted bones are magenta.",
    ]
    bent = [camera.name for camera in recording.rig.cameras if any(camera.dist)]
    if bent:
        lines.append(f"The lens distortion of {', '.join(bent)} is not undone.")
    if shown.poses is not None and shown.truth_layout is not None and not shown.comparable:
        lines.append(
            f"Labels ({shown.truth_layout.name}) and poses ({shown.poses.layout.name}) are different points: no error."
        )
    return "\n\n".join(lines) + "\n"


def _blueprint(shown: Showing) -> Any:
    """Space beside the images, the errors below where there are any."""
    from rerun import blueprint as rrb

    names = shown.recording.rig.names
    skeletons = ["+ /rig/labels/**", "+ /rig/predicted/fused/**"]
    # The viewer would draw every depth image as points, over those that are there.
    hidden = [f"- /rig/cameras/{name}/image/depth" for name in names]
    space = rrb.Spatial3DView(origin="/rig", contents=["+ /rig/**", *hidden], name="space", background=GROUND)
    images = [
        rrb.Spatial2DView(
            origin=f"/rig/cameras/{name}/image",
            contents=["+ $origin/**", *skeletons, f"+ /rig/predicted/{name}/**"],
            name=name,
            background=GROUND,
        )
        for name in names
    ]
    below = [rrb.TextDocumentView(origin="/about", name="about")]
    if shown.comparable:
        below.insert(0, rrb.TimeSeriesView(origin="/error_mm", name="mean joint error (mm)"))
    return rrb.Blueprint(
        rrb.Vertical(
            rrb.Horizontal(space, rrb.Grid(*images, grid_columns=1 if len(images) < 4 else 2), column_shares=[3, 2]),
            rrb.Horizontal(*below, column_shares=[3, 2] if len(below) == 2 else [1]),
            row_shares=[4, 1],
        ),
        rrb.TimePanel(state="expanded", timeline="time" if shown.clock else "frame"),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
    )
