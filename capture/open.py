"""From what the user names to a depth source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..stores.camera import read_rig
from ..stores.errors import HandloomError
from .source import DepthSource


def open_source(names: Sequence[str], *, rig: Path | None = None, frames: int, views: int, seed: int) -> DepthSource:
    """The source of these names: one plain folder, RealSense recordings one a camera, or 'virtual'.

    Args:
        names: paths, or the one word 'virtual'.
        rig: rig.toml with the cameras' poses, for RealSense recordings and the virtual rig.
        frames: sets the virtual rig gives.
        views: cameras of the virtual rig, without `rig`.
        seed: of the virtual rig.

    Raises:
        HandloomError: nothing is there, or it is no source.
    """
    cameras = read_rig(rig) if rig is not None else None
    if list(names) == ["virtual"]:
        from .virtual import virtual_rig

        return virtual_rig(frames=frames, views=views, rig=cameras, seed=seed)
    paths = [Path(name) for name in names]
    for path in paths:
        if not path.exists():
            raise HandloomError("There is no such source", where=str(path))
    if paths[0].is_dir():
        from .folder import FolderSource

        if len(paths) > 1:
            raise HandloomError("Only one folder can be recorded at a time", why=f"{len(paths)} were named")
        return FolderSource(paths[0])
    from .realsense import RealsenseFiles

    return RealsenseFiles(paths, rig=cameras)
