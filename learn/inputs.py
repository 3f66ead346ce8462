"""Depth images from wherever they lie, one at a time, with where their hand is: the input of prediction.

A recording gives its full frames if it kept them, else its crops (a crop is a depth image with its own K),
and the centres it stores; in a plain folder and a single PNG the hand is found here. Nothing heavy is loaded
before an input needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..stores.camera import Camera, Rig
from ..stores.errors import HandloomError
from .cuts import cut_all

if TYPE_CHECKING:
    from ..stores.folder import PlainFolder
    from ..stores.recording import Recording

READ_FRAMES: Final = 16
"""Frames read from a recording at a time."""
LOOKED_AT: Final = 24
"""Images of a camera that are looked at for what stands still."""
NEAREST_MM: Final = 50.0
"""A centre closer to the camera than this is none."""
FARTHEST_MM: Final = 1e5
"""Nor is one farther away."""


@dataclass(frozen=True, slots=True)
class DepthView:
    """One depth image of one camera."""

    frame: int
    """`frame_id` of a recording, number of a folder's frame."""
    view: int
    camera: Camera
    depth: NDArray[Any]
    """(H, W) uint16 in the camera's unit, or floating mm."""
    k: NDArray[np.float64]
    """(4,) of `depth`: the camera's, or a crop's."""
    center_mm: NDArray[np.float64] | None = None
    """(3,) in the camera; None where no hand is known."""
    center_source: str = "none"
    """'truth', 'located' or 'given'."""
    center_score: float = 0.0
    """From 0 to 1."""
    whole: bool = True
    """Whether `depth` is the camera's whole image."""
    t_ns: int | None = None
    """When it was taken, on the clock that all images of the input share; None where that is unknown."""

    @property
    def unit_mm(self) -> float:
        """Millimetres of one step of `depth`."""
        return self.camera.depth_unit_mm if self.depth.dtype.kind == "u" else 1.0


@dataclass(frozen=True, slots=True)
class DepthInput:
    """What `predict` runs over; `views` yields frame by frame, inside a frame camera by camera."""

    rig: Rig
    hand: str | None
    """'right' or 'left' where the input says so."""
    images: int | None
    """How many images it has; None of cameras, which go on."""
    views: Iterator[DepthView]


def cut(view: DepthView, center_mm: ArrayLike, *, input_px: int, cube_mm: float) -> NDArray[np.float32]:
    """The network's input (P, P) in [-1, 1] around a centre (3,) mm; nearest pixel, +1 where no hand is."""
    center = np.asarray(center_mm, np.float64)
    crop: NDArray[np.float32] = cut_all([view], center[None], input_px=input_px, cube_mm=cube_mm)[0, 0]
    return crop


def usable(center_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which centres (..., 3) a crop can be cut around."""
    # Comparisons with NaN are false.
    inside = (np.abs(center_mm) < FARTHEST_MM).all(axis=-1) & (center_mm[..., 2] > NEAREST_MM)
    return np.asarray(inside, np.bool_)


def open_input(
    source: Path | Sequence[Path],
    *,
    camera: str | None = None,
    depth_unit_mm: float = 1.0,
    center_mm: tuple[float, float, float] | None = None,
    locate: bool = True,
) -> DepthInput:
    """The depth images at `source`: a recording, a plain folder, or PNGs of one camera.

    Args:
        source: what to read; several PNGs are frames in that order.
        camera: `fx,fy,cx,cy` in pixels; a PNG needs it, the others carry their own.
        depth_unit_mm: mm of one step of a PNG.
        center_mm: where the hand is, in the camera, instead of looking for it; for a PNG.
        locate: look for the hand where the input does not say where it is; not needed where it is tracked.

    Raises:
        HandloomError: there is nothing there, or it is none of these, or an option does not go with it.
    """
    paths = [source] if isinstance(source, Path) else list(source)
    for path in paths:
        if not path.exists():
            raise HandloomError("The input does not exist", where=str(path))
    if len(paths) > 1 or paths[0].is_file():
        return _pngs(paths, camera, depth_unit_mm, center_mm, locate=locate)
    if camera is not None or center_mm is not None:
        raise HandloomError("--camera and --center are for images of one camera", where=str(paths[0]))
    if (paths[0] / "rig.toml").is_file():
        return _folder(paths[0], locate=locate)
    return _recording(paths[0], locate=locate)


def single_image(
    depth: NDArray[Any],
    camera: Camera,
    *,
    frame: int = 0,
    center_mm: ArrayLike | None = None,
    locate: bool = True,
) -> DepthView:
    """One image, its hand found unless `center_mm` (3,) says where it is or it is not to be looked for.

    Raises:
        HandloomError: the depth is no image of this camera, or in metres.
    """
    if not isinstance(camera, Camera):
        raise HandloomError(
            "An image needs its camera", why=f"this is a {type(camera).__name__}", fix="pass a handloom.Camera"
        )
    try:
        depth = np.asarray(depth)
    except ValueError as error:
        raise HandloomError("The depth is no image of this camera", why=str(error)[:100]) from error
    if depth.shape != (camera.height, camera.width) or depth.dtype.kind not in "uf" or depth.dtype == np.uint8:
        why = f"shape {depth.shape}, {depth.dtype}; the camera has {camera.height} rows of {camera.width}"
        raise HandloomError(
            "The depth is no image of this camera",
            why=why + ("; 8 bits hold no depth" if depth.dtype == np.uint8 else ""),
            fix="pass (H, W) uint16 in the camera's depth_unit_mm, or floating millimetres",
        )
    if depth.dtype.kind == "f":
        # No return is written as NaN or infinity as well; what lies beyond 100 m is none either.
        depth = depth.astype(np.float32) if depth.dtype.itemsize < 4 else depth
        depth = np.where((depth > 0) & (depth < FARTHEST_MM), depth, 0).astype(np.float32)
        if 0 < (farthest := depth.max()) < NEAREST_MM:
            raise HandloomError(
                "The depth seems to be in metres",
                why=f"nothing in the image is farther than {farthest:.3g} mm",
                fix="pass millimetres: depth * 1000",
            )
    view = DepthView(frame, 0, camera, depth, np.array(camera.k))
    if center_mm is None:
        return with_centers([view])[0] if locate else view
    try:
        center = np.asarray(center_mm, np.float64)
    except (TypeError, ValueError) as error:
        raise HandloomError("A centre has three numbers", why=str(error)[:100], fix="x, y, z in mm") from error
    if center.shape != (3,):
        raise HandloomError("A centre has three numbers", why=f"its shape is {center.shape}", fix="x, y, z in mm")
    return replace(view, center_mm=center, center_source="given", center_score=1.0)


def parse_camera(text: str, *, width: int, height: int, depth_unit_mm: float) -> Camera:
    """The camera of `fx,fy,cx,cy`.

    Raises:
        HandloomError: these are not four usable numbers.
    """
    try:
        fx, fy, cx, cy = (float(part) for part in text.split(","))
    except ValueError as error:
        raise HandloomError("--camera takes four numbers", where=text, fix="--camera fx,fy,cx,cy, in pixels") from error
    return Camera("camera", width, height, (fx, fy, cx, cy), depth_unit_mm=depth_unit_mm)


def _pngs(
    paths: Sequence[Path],
    camera: str | None,
    depth_unit_mm: float,
    center_mm: tuple[float, float, float] | None,
    *,
    locate: bool,
) -> DepthInput:
    from ..stores.png import read_depth_png

    for path in paths:
        if path.suffix.lower() != ".png" or not path.is_file():
            raise HandloomError(
                "The input is no recording, plain folder or PNG",
                where=str(path),
                why="several inputs are all PNGs of one camera" if len(paths) > 1 else "",
                fix="handloom capture record makes a recording of a camera's own file",
            )
    if camera is None:
        raise HandloomError("An image needs its camera", where=str(paths[0]), fix="--camera fx,fy,cx,cy, in pixels")
    first = read_depth_png(paths[0])
    height, width = first.shape
    model = parse_camera(camera, width=width, height=height, depth_unit_mm=depth_unit_mm)
    numbers = [int(path.stem) if path.stem.isdecimal() else None for path in paths]
    named = None not in numbers and len(set(numbers)) == len(numbers)

    def views() -> Iterator[DepthView]:
        for i, path in enumerate(paths):
            depth = first if i == 0 else read_depth_png(path)
            if depth.shape != first.shape:
                why = f"it has {depth.shape[1]} x {depth.shape[0]} pixels, {paths[0].name} {width} x {height}"
                raise HandloomError("The images are not all of one camera", where=str(path), why=why)
            frame = int(numbers[i] or 0) if named else i
            yield single_image(depth, model, frame=frame, center_mm=center_mm, locate=locate)

    return DepthInput(Rig((model,)), None, len(paths), views())


def _folder(path: Path, *, locate: bool) -> DepthInput:
    from ..stores.folder import FolderImage, read_folder

    folder = read_folder(path)

    def views() -> Iterator[DepthView]:
        frames: dict[int, list[FolderImage]] = {}
        for image in folder.images:
            frames.setdefault(image.frame, []).append(image)
        background = _background(folder) if locate else None
        for frame, images in frames.items():
            shown = []
            for image in images:
                camera = folder.rig.cameras[image.camera]
                depth, k = folder.depth(image), np.array(camera.k)
                shown.append(DepthView(frame, image.camera, camera, depth, k, t_ns=_time(image.t_host_ns)))
            yield from with_centers(shown, background=background) if locate else shown

    hand = folder.meta.get("hand")
    return DepthInput(folder.rig, hand if hand in ("right", "left") else None, len(folder.images), views())


def _background(folder: PlainFolder) -> dict[int, NDArray[np.float32]]:
    """What stands still before each camera, (H, W) mm, from a few frames over the whole time."""
    from ..stores.locate import BACKGROUND_FRAMES, background_of

    found = {}
    for number, camera in enumerate(folder.rig.cameras):
        images = [image for image in folder.images if image.camera == number]
        if len(images) >= BACKGROUND_FRAMES:
            places = np.linspace(0, len(images) - 1, min(len(images), LOOKED_AT)).astype(int)
            depth = np.stack([folder.depth(images[i]) for i in places])
            found[number] = background_of(depth) * np.float32(camera.depth_unit_mm)
    return found


def _recording(path: Path, *, locate: bool) -> DepthInput:
    from concurrent.futures import ThreadPoolExecutor

    from ..stores.recording import open_recording

    recording = open_recording(path)
    frames, crops, rig = recording.frames, recording.crops, recording.rig
    assert frames is not None
    located = crops.committed if crops else 0
    if not recording.has_depth and located < recording.n_frames:
        raise HandloomError(
            "The recording has neither full frames nor crops for all of its rows",
            where=str(path),
            why=f"{located} of {recording.n_frames} rows have crops",
        )
    total = int(frames.read("present").sum())

    def block(start: int) -> list[DepthView]:
        stop = min(start + READ_FRAMES, recording.n_frames)
        return [view for _, view in recording_views(recording, start, stop, locate=locate)]

    def views() -> Iterator[DepthView]:
        # The next block is decoded while this one is looked at: neither blosc nor onnxruntime holds the interpreter.
        with ThreadPoolExecutor(1) as reader:
            starts = range(0, recording.n_frames, READ_FRAMES)
            coming = reader.submit(block, 0)
            for start in starts:
                shown = coming.result()
                if start != starts[-1]:
                    coming = reader.submit(block, start + READ_FRAMES)
                yield from shown

    return DepthInput(rig, recording.hand, total, views())


def recording_views(
    recording: Recording, start: int, stop: int, *, locate: bool = True
) -> Iterator[tuple[int, DepthView]]:
    """(row, image) of rows `start` to `stop`; rows without stored centres have their hand found here.

    Where it is tracked (`locate` false) it is not, and stored centres are left out.
    """
    from ..stores.recording import CENTER_SOURCES

    frames, crops, rig = recording.frames, recording.crops, recording.rig
    assert frames is not None
    located = max(start, min(stop, crops.committed)) if crops else start
    present, frame_id = frames.read("present", start, stop), frames.read("frame_id", start, stop)
    taken_ns = frames.read("t_host_ns", start, stop)
    whole = recording.has_depth
    full = [frames.read(f"depth/{c.name}", start, stop) for c in rig.cameras] if whole else []
    names = ("center", "center_source", "center_score", *(() if whole else ("crop", "k")))
    stored = {name: crops.read(name, start, located) for name in names} if crops and located > start else {}
    for row in range(stop - start):
        found: list[DepthView] = []
        for v in np.flatnonzero(present[row]):
            camera = rig.cameras[v]
            depth = full[v][row] if whole else stored["crop"][row, v]
            k = np.asarray(camera.k if whole else stored["k"][row, v], np.float64)
            t_ns = _time(int(taken_ns[row, v]))
            view = DepthView(int(frame_id[row]), int(v), camera, depth, k, whole=whole, t_ns=t_ns)
            if locate and start + row < located and stored["center_source"][row, v]:
                view = replace(
                    view,
                    center_mm=stored["center"][row, v].astype(np.float64),
                    center_source=CENTER_SOURCES[stored["center_source"][row, v]],
                    center_score=float(stored["center_score"][row, v]),
                )
            found.append(view)
        for view in found if start + row < located or not locate else with_centers(found):
            yield start + row, view


def _time(t_ns: int) -> int | None:
    """A stamp, where there is one: dropped images and synthesis have none."""
    return t_ns if t_ns > 0 else None


def with_centers(
    views: list[DepthView], *, background: Mapping[int, NDArray[np.float32]] | None = None
) -> list[DepthView]:
    """Look for the hand in the images of one frame; `background` (H, W) mm by camera number."""
    from ..stores.locate import find_hand

    if not views:
        return []
    rig = Rig(tuple(view.camera for view in views))
    depth = [view.depth * np.float32(view.unit_mm) for view in views]
    behind = None if background is None else [background.get(view.view) for view in views]
    found = find_hand(depth, rig, background_mm=behind)
    if found is None:
        return views
    return [
        replace(
            view,
            center_mm=view.camera.to_camera(found.palm_mm),
            center_source="located",
            center_score=float(found.score),
        )
        for view in views
    ]
