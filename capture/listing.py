"""`capture list`: which depth sources this machine offers.

RealSense cameras are asked of the SDK, or of a function that is given: cameras that exist in software only cannot be
found by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .cameras import connected
from .sdk import load_sdk


@dataclass(frozen=True, slots=True)
class Mode:
    """A depth stream that a camera offers."""

    width: int
    height: int
    fps: tuple[int, ...]
    """Ascending."""


@dataclass(frozen=True, slots=True)
class Device:
    """A camera that is plugged in."""

    name: str
    serial: str
    firmware: str
    usb: str
    """As the SDK says it: 3.2, 2.1; empty where it does not."""
    modes: tuple[Mode, ...]
    """The largest first."""
    problem: str = ""
    """What the SDK said where the camera could not be asked."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people, within 80 columns."""
        said = [f"serial {self.serial or '?'}", f"firmware {self.firmware or '?'}"]
        said += [f"USB {self.usb}"] if self.usb else []
        out = [f"{self.name}: {', '.join(said)}"]
        out += [f"  {mode.width} x {mode.height} at {', '.join(map(str, mode.fps))} fps" for mode in self.modes]
        if self.usb.startswith("2"):
            out.append("  note: on USB 2 only small images at low rates come through; use a USB 3 port and cable")
        if self.problem:
            out.append(f"  note: it could not be asked ({self.problem[:50]})")
        return out


def list_devices(query: Callable[[], Iterable[Any]] | None = None) -> list[Device]:
    """The RealSense cameras of this machine, by serial number.

    Args:
        query: gives the `rs.device`s; None asks the SDK.

    Raises:
        HandloomError: the SDK is missing or cannot look, with exit code 3.
    """
    load_sdk()
    try:
        found = list((query or connected)())
    except RuntimeError as error:
        raise HandloomError(
            "The RealSense SDK cannot look for cameras", why=str(error), exit_code=BAD_ENVIRONMENT
        ) from error
    return sorted((_device(one) for one in found), key=lambda device: device.serial)


def _device(device: Any) -> Device:
    rs = load_sdk()

    def info(key: Any) -> str:
        try:
            return str(device.get_info(key)) if device.supports(key) else ""
        except RuntimeError:
            return ""

    problem, profiles = "", []
    try:
        profiles = [profile for sensor in device.query_sensors() for profile in sensor.get_stream_profiles()]
    except RuntimeError as error:
        problem = str(error)
    return Device(
        name=info(rs.camera_info.name) or "RealSense",
        serial=info(rs.camera_info.serial_number),
        firmware=info(rs.camera_info.firmware_version),
        usb=info(rs.camera_info.usb_type_descriptor),
        modes=_modes(profiles),
        problem=problem,
    )


def _modes(profiles: Sequence[Any]) -> tuple[Mode, ...]:
    rs = load_sdk()
    rates: dict[tuple[int, int], set[int]] = {}
    for profile in profiles:
        if profile.stream_type() == rs.stream.depth and profile.format() == rs.format.z16:
            video = profile.as_video_stream_profile()
            rates.setdefault((int(video.width()), int(video.height())), set()).add(int(profile.fps()))
    sizes = sorted(rates, key=lambda size: (size[0] * size[1], size), reverse=True)
    return tuple(Mode(*size, tuple(sorted(rates[size]))) for size in sizes)
