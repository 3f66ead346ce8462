"""From what the user names to a depth source: files, a folder, cameras, or `virtual`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..stores.camera import read_rig
from ..stores.errors import HandloomError
from .source import DepthSource


def open_source(
    names: Sequence[str],
    *,
    rig: Path | None = None,
    frames: int = 300,
    views: int = 3,
    seed: int = 0,
    ball_mm: float | None = None,
) -> DepthSource:
    """The source of that name that waits until it is read on; see `open_live` for those that do not.

    Args:
        names: `virtual`, one plain folder, or RealSense recordings, one a camera in the order of the rig.
        rig: rig.toml of the cameras; a plain folder has its own.
        frames: sets the virtual rig gives.
        views: cameras of the virtual rig where no `rig` is given.
        seed: of the virtual rig.
        ball_mm: radius of a ball that the virtual rig shows instead of a hand.

    Raises:
        HandloomError: nothing of that name can be opened.
    """
    if list(names) == ["virtual"]:
        from .virtual import virtual_rig

        cameras = read_rig(rig) if rig else None
        return virtual_rig(frames=frames, views=views, rig=cameras, seed=seed, ball_mm=ball_mm)
    if "virtual" in names:
        raise HandloomError("'virtual' is a source of its own", fix="name it alone")
    paths = [Path(name) for name in names]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise HandloomError(
            "There is no such source",
            where=str(missing[0]),
            why="a source is a plain folder, a RealSense recording (.db3, .bag) or the word 'realsense' or 'virtual'",
        )
    if len(paths) == 1 and paths[0].is_dir():
        if rig is not None:
            raise HandloomError("A plain folder has its own rig.toml", where=str(paths[0]), fix="leave out --rig")
        from .folder import FolderSource

        return FolderSource(paths[0])
    folders = [path for path in paths if path.is_dir()]
    if folders:
        raise HandloomError(
            "A folder is a source of its own", where=str(folders[0]), fix="record each folder by itself"
        )
    from .realsense import RealsenseFiles

    return RealsenseFiles(paths, rig=read_rig(rig) if rig else None)


def open_live(
    name: Literal["realsense", "virtual"],
    *,
    rig: Path | None,
    fps: int,
    views: int,
    size: tuple[int, int],
    seed: int,
) -> DepthSource:
    """Cameras that are plugged in, or the virtual rig at their pace.

    Args:
        name: which of the two.
        rig: rig.toml of the cameras; needed for the poses of several.
        fps: images a second.
        views: cameras of the virtual rig where no `rig` is given.
        size: columns and rows of its images.
        seed: of the virtual rig.

    Raises:
        HandloomError: the SDK is missing, no camera is there, or one of the rig is not.
    """
    cameras = read_rig(rig) if rig else None
    if name == "virtual":
        from .replay import replayed_rig

        return replayed_rig(views=views, rig=cameras, seed=seed, fps=fps, size=size)
    from .cameras import RealsenseCameras

    return RealsenseCameras(rig=cameras, fps=fps)
