"""A depth source in a process of its own, so that its reader never waits for the disk, nor for Python next door.

The capture process opens the source, copies each image into a slot of shared memory (`ring.py`) and says so through
a pipe; this side copies it out and gives the slot back through another. Where no slot is free, an image of a live
source is dropped and counted by its camera; files and folders wait. Processes are spawned, never forked: an SDK has
threads.

Either process may be killed at any moment. A pipe ends with the process at its other end: this side then raises
after the images that had come, and the capture process ends at once. Ctrl-C goes to all processes of a terminal:
the capture process is started deaf to it and ends when it is told to.
"""

from __future__ import annotations

import os
import pickle
import secrets
import signal
import struct
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from ..stores.camera import Rig
from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .ring import Ring, unlink
from .source import DepthSource, Image, Lossy, Played, Stoppable, check_image

Opener = Callable[[], DepthSource]
"""Opens the source in the capture process; picklable, as a `functools.partial` of a module's function is."""

OPEN_S: Final = 60.0
"""How long a source may take to open: the cameras of a full hub take seconds each."""
STOP_S: Final = 5.0
"""How long a source that was told to stop may stay silent before it is ended."""

_IMAGE: Final = struct.Struct("<HHqqq")
_SLOT: Final = struct.Struct("<H")
_ATTACHED: Final = b"attached"
_STOP: Final = b"stop"


@dataclass(frozen=True, slots=True)
class _Opened:
    """What the capture process says of its source."""

    rig: Rig
    provenance: dict[str, Any]
    clock: str
    live: bool
    n_images: int | None
    hand: Literal["right", "left"]
    slots: int


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """What has passed between the cameras and this process."""

    came: NDArray[np.int64]
    """(V,) images that reached the machine; those dropped here are among them."""
    missed: NDArray[np.int64]
    """(V,) gaps of the cameras' own counters: lost before they reached us."""
    dropped: NDArray[np.int64]
    """(V,) images dropped here for want of room."""
    slots: int
    filled: int
    high_water: int
    """Most slots that were ever full at once."""
    capture_cpu_s: float
    """Of the capture process since its source began, what follows included."""
    source_cpu_s: float
    """What a source that makes its images, as a virtual rig does, took for that."""
    source_late_ms: float
    """How late such a source ever was: a machine with too much to do."""


class SourceApart:
    """The source that `opener` gives, read in another process.

    Args:
        opener: opens it there.
        slots: images that fit between the two processes; see `Ring.create`.

    Raises:
        HandloomError: the source could not be opened, or there is no room in shared memory.
    """

    def __init__(self, opener: Opener, *, slots: int | None = None) -> None:
        self._name = f"handloom-{os.getpid()}-{secrets.token_hex(4)}"
        self._ring: Ring | None = None
        self._taken = 0
        self._stopping_since: float | None = None
        context = get_context("spawn")
        self._up, up = context.Pipe(duplex=False)
        down, self._down = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_serve, args=(opener, self._name, slots, up, down), name="handloom-capture", daemon=True
        )
        # A blocked signal is inherited: ctrl-C on the terminal is for this process alone. The resource tracker's own
        # start would unblock it, so it goes first.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            up.close()
            down.close()
        try:
            self._opened = self._greeting()
            self._ring = Ring.attach(self._name, self._opened.rig, self._opened.slots)
            self._tell(_ATTACHED)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Of the capture process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def rig(self) -> Rig:
        """The source's."""
        return self._opened.rig

    @property
    def provenance(self) -> dict[str, Any]:
        """The source's."""
        return self._opened.provenance

    @property
    def clock(self) -> str:
        """The source's."""
        return self._opened.clock

    @property
    def live(self) -> bool:
        """Whether what finds no room is lost."""
        return self._opened.live

    @property
    def n_images(self) -> int | None:
        """The source's."""
        return self._opened.n_images

    @property
    def hand(self) -> Literal["right", "left"]:
        """The source's; right where it does not know."""
        return self._opened.hand

    @property
    def traffic(self) -> Traffic:
        """As it stands; also after the capture process has died, and after `close`."""
        assert self._ring is not None
        came, missed, no_room, let_go = self._ring.counters.copy()
        sent, high_water, cpu_ns, source_cpu_ns, late_us = self._ring.totals.tolist()
        # To this counter, an image that the source's own queue let go is a gap.
        return Traffic(
            came=came + let_go,
            missed=np.maximum(missed - let_go, 0),
            dropped=no_room + let_go,
            slots=self._ring.slots,
            filled=max(sent - self._taken, 0),
            high_water=high_water,
            capture_cpu_s=cpu_ns / 1e9,
            source_cpu_s=source_cpu_ns / 1e9,
            source_late_ms=late_us / 1e3,
        )

    def frames(self) -> Iterator[Image]:
        """The images as they come.

        Raises:
            HandloomError: the source failed, or the capture process died.
        """
        assert self._ring is not None
        while True:
            message = self._receive()
            if message[:1] != b"i":
                break
            slot, view, t_device_ns, t_host_ns, number = _IMAGE.unpack(message[1:])
            depth = self._ring.read(slot, view)
            self._taken += 1
            self._tell(_SLOT.pack(slot))
            yield Image(view, depth, t_device_ns, t_host_ns, number)
        error = pickle.loads(message[1:])
        if error is not None:
            raise error

    def stop(self) -> None:
        """Have the source end; `frames` gives what has come and returns."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
            self._tell(_STOP)

    def close(self) -> None:
        """End the capture process and free the memory."""
        self._tell(_STOP)
        if self._ring is not None:
            self._process.join(STOP_S)
        self._down.close()  # the capture process ends with it, whatever it is at
        self._process.join(STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._up.close()
        if self._ring is None:
            unlink(self._name)
        else:
            self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, message: bytes) -> None:
        with suppress(OSError):  # it has ended, or died: `_receive` says so
            self._down.send_bytes(message)

    def _greeting(self) -> _Opened:
        if not self._up.poll(OPEN_S):
            raise HandloomError(
                "The source does not open", why=f"no answer in {OPEN_S:.0f} s", exit_code=BAD_ENVIRONMENT
            )
        try:
            value = pickle.loads(self._up.recv_bytes()[1:])
        except EOFError:
            raise self._died() from None
        if isinstance(value, BaseException):
            raise value
        assert isinstance(value, _Opened)
        return value

    def _receive(self) -> bytes:
        try:
            while not self._up.poll(0.5):
                if self._stopping_since is not None and time.monotonic() - self._stopping_since > STOP_S:
                    self._process.kill()
                    return b"e" + pickle.dumps(None)
            return self._up.recv_bytes()
        except EOFError:
            raise self._died() from None

    def _died(self) -> HandloomError:
        self._process.join(STOP_S)
        code = self._process.exitcode
        why = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return HandloomError(
            "The capture process died",
            why=f"it ended with {why}",
            fix="look for the reason in the system's log (dmesg) and start again; a recording goes on with --resume",
            exit_code=BAD_ENVIRONMENT,
        )


# -- in the capture process ------------------------------------------------------------------------------------


class _Orders:
    """What the recorder says, heard by a thread of its own: slots that are free again, and when to stop."""

    def __init__(self, down: Connection, name: str) -> None:
        self.stopping = False
        self._stop: Callable[[], None] | None = None
        self._down, self._name = down, name
        self._free: deque[int] = deque()
        self._attached = threading.Event()
        self._some = threading.Condition()
        threading.Thread(target=self._listen, name="handloom-orders", daemon=True).start()

    @property
    def free(self) -> int:
        """Slots that are free."""
        return len(self._free)

    def begin(self, source: DepthSource, slots: int) -> None:
        """Wait until the recorder sees the memory."""
        self._stop = source.stop if isinstance(source, Stoppable) else None
        self._free.extend(range(slots))
        self._attached.wait()

    def slot(self, *, wait: bool) -> int | None:
        """A free slot; None where there is none, or while waiting the end came."""
        try:
            return self._free.pop()
        except IndexError:
            if not wait:
                return None
        with self._some:
            self._some.wait_for(lambda: self._free or self.stopping)
        return self._free.pop() if self._free else None

    def _listen(self) -> None:
        try:
            while True:
                self._obey(self._down.recv_bytes())
        except (EOFError, OSError):
            # The recorder has closed or was killed: nobody is left to give images to.
            if not self._attached.is_set():
                unlink(self._name)
            os._exit(1)

    def _obey(self, message: bytes) -> None:
        with self._some:
            if message == _ATTACHED:
                self._attached.set()
            elif message == _STOP:
                self.stopping = True
            else:
                self._free.append(*_SLOT.unpack(message))
            self._some.notify_all()
        if self.stopping and self._stop is not None:
            self._stop()


def _serve(opener: Opener, name: str, slots: int | None, up: Connection, down: Connection) -> None:
    """The capture process from its beginning to its end."""
    orders = _Orders(down, name)
    try:
        with opener() as source:
            ring = Ring.create(name, source.rig, slots)
            hand: Literal["right", "left"] = getattr(source, "hand", "right")
            opened = _Opened(
                source.rig, source.provenance, source.clock, source.live, source.n_images, hand, ring.slots
            )  # fmt: skip
            up.send_bytes(b"o" + pickle.dumps(opened))
            orders.begin(source, ring.slots)
            began_ns = time.process_time_ns()
            try:
                _pass_on(source, ring, orders, up, began_ns)
            finally:
                _count(source, ring, began_ns)
        failure = None
    except BaseException as error:  # whatever it is, it must be told
        failure = _portable(error)
    with suppress(OSError):
        up.send_bytes(b"e" + pickle.dumps(failure))
    # Not by the interpreter's own way out, which an SDK's threads can hold up.
    os._exit(0)


def _pass_on(source: DepthSource, ring: Ring, orders: _Orders, up: Connection, began_ns: int) -> None:
    came, missed, no_room, _ = ring.counters
    last = [-1 for _ in came]
    for image in source.frames():
        view, number = image.camera, image.frame_number
        check_image(source.rig, image)
        came[view] += 1
        missed[view] += max(number - last[view] - 1, 0) if last[view] >= 0 else 0
        last[view] = number
        slot = orders.slot(wait=not source.live)
        if slot is None and not source.live:
            return
        if slot is None:
            no_room[view] += 1
        else:
            ring.write(slot, image.depth)
            ring.totals[0] += 1
            ring.totals[1] = max(ring.totals[1], ring.slots - orders.free)
            up.send_bytes(b"i" + _IMAGE.pack(slot, view, image.t_device_ns, image.t_host_ns, number))
        _count(source, ring, began_ns)
        if orders.stopping and not isinstance(source, Stoppable):
            return


def _count(source: DepthSource, ring: Ring, began_ns: int) -> None:
    """Processor times, and what the source's own queue let go."""
    ring.totals[2] = time.process_time_ns() - began_ns
    if isinstance(source, Played):
        ring.totals[3], ring.totals[4] = source.cpu_ns, round(1e3 * source.late_ms)
    if isinstance(source, Lossy):
        ring.counters[3] = source.let_go


def _portable(error: BaseException) -> BaseException:
    """An error that survives the pipe."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        text = "".join(traceback.format_exception(error)).strip()
    else:
        return error
    return RuntimeError(f"in the capture process:\n{text}")
