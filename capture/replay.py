"""The virtual rig at the pace of real cameras: a few sets rendered beforehand, replayed from memory through the SDK.

Rendering hundreds of images a second takes more than the machine that records them has, so load tests of the
recorder, and anyone without cameras who wants to see it work, replay. Every image passes through the SDK's software
device, its sensor and its callback like those of hardware (`cameras.py`); each camera stamps with a clock of its own.
The images repeat, their numbers and stamps do not. What the player itself costs is counted apart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

from ..stores.camera import Rig
from .cameras import RealsenseCameras
from .software import SoftwareCamera
from .source import Image
from .virtual import VirtualConfig, VirtualRig, arc

DISTINCT_SETS: Final = 12
"""Rendered; played forth and back, so that the hand does not jump."""
OFFSET_NS: Final = 7_000_000_000
"""Between the clocks of one camera and the next."""
DRIFT_PPM: Final = 20.0
"""Of the odd cameras."""


class ReplayedRig:
    """A live source without hardware.

    Args:
        config: what is rendered; `fps` is the pace, `seed` and the like as for `VirtualRig`.
        rig: the cameras; an arc of three by default.
        frames: sets to give; goes on until `stop` when left out.

    Raises:
        HandloomError: the SDK is missing.
    """

    live = True
    clock = "hardware_clock"

    def __init__(self, config: VirtualConfig, *, rig: Rig | None = None, frames: int | None = None) -> None:
        self.config = config.model_copy(update={"frames": DISTINCT_SETS, "transport": "direct", "drop": 0.0})
        with VirtualRig(self.config, rig=rig) as virtual:
            self._rig, about = virtual.rig, virtual.provenance
            sets: list[list[Image]] = [[] for _ in range(DISTINCT_SETS)]
            for image in virtual.frames():
                sets[image.frame_number - 1].append(image)
        self._sets = [sorted(images, key=lambda image: image.camera) for images in [*sets, *sets[-2:0:-1]]]
        self._frames = frames
        self._devices = [SoftwareCamera(camera, fps=config.fps, clock=self.clock) for camera in self._rig.cameras]
        self._cameras = RealsenseCameras(
            rig=self._rig, fps=round(config.fps), devices=lambda: [device.device for device in self._devices]
        )
        self._provenance = {
            **about, "transport": "rs.software_device", "replayed_sets": DISTINCT_SETS,
            "sdk": self._cameras.provenance["sdk"],
        }  # fmt: skip
        self._player = threading.Thread(target=self._play, name="virtual-player", daemon=True)
        self._end = threading.Event()
        self._failure: BaseException | None = None
        self._player_ns = 0
        self._late_ms = 0.0

    @property
    def rig(self) -> Rig:
        """The cameras; their serial numbers say that they are virtual."""
        return self._rig

    @property
    def hand(self) -> Literal["right", "left"]:
        """Which hand is seen."""
        return self.config.hand

    @property
    def provenance(self) -> dict[str, Any]:
        """As the virtual rig's, and how many sets take turns."""
        return self._provenance

    @property
    def n_images(self) -> int | None:
        """Where it ends by itself."""
        return None if self._frames is None else self._frames * len(self._rig)

    @property
    def let_go(self) -> Sequence[int]:
        """Images by camera that the reader was too slow for."""
        return self._cameras.let_go

    @property
    def cpu_ns(self) -> int:
        """Processor time of the player without the callbacks, which a real camera's images would cost, too."""
        return max(self._player_ns - self._cameras.receive_ns, 0)

    @property
    def late_ms(self) -> float:
        """How late the player ever was: a machine with too much to do."""
        return self._late_ms

    def frames(self) -> Iterator[Image]:
        """The images as they arrive."""
        self._cameras.start()
        self._player.start()
        yield from self._cameras.frames()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Play no more."""
        self._end.set()
        self._cameras.stop()

    def close(self) -> None:
        """Stop the player and the devices."""
        self.stop()
        if self._player.is_alive():
            self._player.join()
        self._cameras.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _play(self) -> None:
        try:
            began_ns, cpu_ns = time.time_ns(), time.thread_time_ns()
            k = 0
            while not self._end.is_set() and k != self._frames:
                due_ns = round(k * 1e9 / self.config.fps)
                self._end.wait(max(0, began_ns + due_ns - time.time_ns()) / 1e9)
                self._late_ms = max(self._late_ms, (time.time_ns() - began_ns - due_ns) / 1e6)
                for image in self._sets[k % len(self._sets)]:
                    drift = DRIFT_PPM * 1e-6 * (image.camera % 2)
                    stamp = 1_000_000_000 + image.camera * OFFSET_NS + round(due_ns * (1 + drift))
                    sent = Image(image.camera, image.depth, stamp, time.time_ns(), k + 1)
                    self._devices[image.camera].send(sent)
                self._player_ns = time.thread_time_ns() - cpu_ns
                k += 1
        except BaseException as error:  # it must surface where the images are read
            self._failure = error
        finally:
            self._cameras.stop()


def replayed_rig(*, views: int, rig: Rig | None, seed: int, fps: int, size: tuple[int, int]) -> ReplayedRig:
    """What the command line offers: one person before an arc of cameras, or before `rig`, until it is stopped."""
    return ReplayedRig(VirtualConfig(fps=fps, seed=seed), rig=rig or arc(views, size))
