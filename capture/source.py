"""What every depth source is: a rig and a stream of images, one at a time, each with its times.

A source is opened by building it, read once through `frames`, and closed; as a context manager it closes itself.
Images come camera by camera roughly in the order in which they arrived; which of them belong together is for
`sync` to find out, not for the source to say. An image owns its memory: it stays valid after the next one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig

HOST_CLOCKS: Final = ("system_time", "global_time")
"""Clock domains that all cameras of one machine share; stamps of any other domain need a clock fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """One depth image of one camera."""

    camera: int
    """View index in the source's rig."""
    depth: NDArray[np.uint16]
    """(H, W) uint16 steps of the camera's `depth_unit_mm`; 0 = no return."""
    t_device_ns: int
    """The camera's own stamp, in the source's clock domain."""
    t_host_ns: int
    """When the image reached the machine; the camera's stamp where nothing better is known."""
    frame_number: int
    """The camera's counter; a gap is an image lost before it reached us."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a source knows of the instant an image shows, beyond the image."""

    subject: int = 0
    sequence: int = 0
    split: int = 0
    """0 train, 1 val, 2 test."""
    labels: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """`joints` (26, 3) mm in the rig's frame, and `pose`, `root`, `shape` where they exist; empty if unknown."""


@runtime_checkable
class DepthSource(Protocol):
    """Anything that gives depth images: files, folders, cameras, the virtual rig."""

    @property
    def rig(self) -> Rig:
        """The cameras, in the order of `Image.camera`."""
        ...

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the images come from, as plain values; `source` names the kind, `virtual` says if rendered."""
        ...

    @property
    def clock(self) -> str:
        """Domain of `t_device_ns`: `hardware_clock`, `system_time`, `global_time` or `folder`."""
        ...

    @property
    def n_images(self) -> int | None:
        """How many images there will be, where that is known."""
        ...

    def frames(self) -> Iterator[Image]:
        """The images; to be read once."""
        ...

    def close(self) -> None:
        """Let go of devices, files and threads; harmless when repeated."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Annotated(Protocol):
    """A source that knows more of its images than they show, as the virtual rig does."""

    def moment(self, camera: int, frame_number: int) -> Moment:
        """What is known of the image of that camera and number."""
        ...
