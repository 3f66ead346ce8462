"""What every depth source is: a rig and a stream of images, one at a time, each with its times.

A source is opened by building it, read once through `frames`, and closed; as a context manager it closes itself.
Images come camera by camera roughly in the order in which they arrived; which of them belong together is for
`sync` to find out, not for the source to say. An image owns its memory: it stays valid after the next one.

Files and folders wait until they are read on. A `live` source does not: what is not fetched in time is lost, so it
is read in a process of its own (`apart.py`), and what found no room is counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import HandloomError

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
    def live(self) -> bool:
        """Whether images are lost that are not read in time; files and folders wait."""
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


@runtime_checkable
class Stoppable(Protocol):
    """A source that goes on until it is told to stop, as cameras do."""

    def stop(self) -> None:
        """End soon: `frames` gives what has come and returns. May be called from a signal handler."""
        ...


@runtime_checkable
class Lossy(Protocol):
    """A source with a queue of its own that lets images go when it is full, and counts them."""

    @property
    def let_go(self) -> Sequence[int]:
        """Images let go so far, by camera."""
        ...


@runtime_checkable
class Played(Protocol):
    """A live source that makes its images itself, which costs what cameras would not."""

    @property
    def cpu_ns(self) -> int:
        """Processor time of that so far."""
        ...

    @property
    def late_ms(self) -> float:
        """How late it ever was."""
        ...


def check_image(rig: Rig, image: Image) -> None:
    """Refuse an image that is not one of its camera.

    Raises:
        HandloomError: it has another size or type.
    """
    camera = rig.cameras[image.camera]
    size = (camera.height, camera.width)
    if image.depth.shape != size or image.depth.dtype != np.uint16:
        raise HandloomError(
            f"An image of '{camera.name}' disagrees with the rig",
            where=f"frame {image.frame_number}",
            why=f"{image.depth.shape} {image.depth.dtype}, expected {size} uint16",
        )
