"""What `doctor` says of the hardware: processor, memory, GPU, disks, cameras on USB; each with its remedy."""

from __future__ import annotations

import os
import shutil
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from .stores import machine as system

State = Literal["ok", "note", "problem"]
WIDTH: Final = 80
NAME_WIDTH: Final = 17
SHARED_MEMORY: Final = Path("/dev/shm")
RING_BYTES: Final = 3 * 30 * 8 * 640 * 480 * 2
"""What the recorder holds between camera and disk: three seconds of eight 640×480 cameras at 30 fps."""
RAW_BYTES_S: Final = 30 * 3 * 640 * 480 * 2
"""Three 640×480 cameras at 30 fps, before compression."""
LEAST_DISK: Final = 1 << 30
LEAST_MEMORY: Final = 3 << 30
FEATURES: Final = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""Flags that what we run on makes use of; the last two are ARM's."""
PCI: Final = Path("/sys/bus/pci/devices")
USB: Final = Path("/sys/bus/usb/devices")
USB3_MBIT_S: Final = 5000
MAKERS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was looked at, how it is, what to do."""

    name: str
    state: State
    said: str
    fix: str = ""

    def lines(self) -> list[str]:
        """Within 80 columns; a remedy's words stay whole, for it is to be copied."""
        head, indent = f"{self.state:<8} {self.name:<{NAME_WIDTH - 1}} ", " " * (NAME_WIDTH + 9)
        out = textwrap.wrap(self.said, WIDTH, initial_indent=head, subsequent_indent=indent)
        fix = textwrap.wrap(
            f"fix: {self.fix}", WIDTH - len(indent), subsequent_indent="     ", break_long_words=False,
            break_on_hyphens=False,
        )  # fmt: skip
        return [*out, *(indent + line for line in fix if self.fix)]


def processor() -> Check:
    """Model, and the cores that this process may use."""
    here, limit = system.this_machine(), system.core_limit()
    whole = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = f"{here.processor}, {whole} core{'s' * (whole != 1)}"
    said += f", limited to {limit:.1f}" if limit is not None and limit < whole else ""
    if here.cores < 1.5:
        return Check("processor", "note", f"{said}; what is done in two processes takes longer in them", "--jobs 1")
    return Check("processor", "ok", said)


def features() -> Check:
    """What the processor computes with, and what that means here."""
    here = system.this_machine()
    if not here.flags:
        return Check("CPU features", "note", "cannot be told on this system")
    has = [name for name in FEATURES if name in here.flags]
    said = " ".join(has) or "none that matter here"
    if not {"avx2", "asimd"} & here.flags:
        virtual = "hypervisor" in here.flags
        fix = "give the virtual machine its host's processor (QEMU: -cpu host, libvirt: host-passthrough)"
        return Check("CPU features", "note", f"{said}; without AVX2 networks run at half their speed", fix * virtual)
    if here.bfloat16:
        said += "; units for bfloat16: 'train recommend' times them, 'export --openvino' uses them where poses stay"
    else:
        said += "; no units for bfloat16: all is computed in float32, and 'export --openvino' is refused"
    return Check("CPU features", "ok", said)


def memory() -> Check:
    """What there is, and what is free."""
    total, free = system.memory()
    if not total:
        return Check("memory", "note", "cannot be told on this system")
    said = f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free"
    if total < LEAST_MEMORY:
        fix = "take smaller units (--unit-frames 64), --jobs 1, and train with --preset quick"
        return Check("memory", "note", f"{said}; long recordings of many cameras want 4", fix)
    return Check("memory", "ok", said)


def gpu(found: Mapping[str, Any]) -> Check:
    """Whether torch can train on one; `found`: what its probe said."""
    if found.get("gpus"):
        return Check("GPU", "ok", "; ".join(found["gpus"]))
    driver, cards = bool(system.read("/proc/driver/nvidia/version")), dict(graphics_cards())
    if "NVIDIA" not in cards and not driver:
        other = next((f"; the one by {maker} here cannot be used by torch's CUDA" for maker in cards), "")
        return Check("GPU", "ok", f"none by NVIDIA: training takes its time, 'train recommend' says how long{other}")
    if not driver:
        boxed = Path("/.dockerenv").exists()
        fix = "sudo apt install nvidia-driver   (Ubuntu: sudo ubuntu-drivers install), then start anew"
        fix = "docker run --gpus all ..." if boxed else fix
        return Check("GPU", "note", f"one by NVIDIA ({cards['NVIDIA']}) without its driver lies idle", fix)
    if found.get("cuda"):
        fix = "nvidia-smi   (if that fails: update the driver)"
        return Check("GPU", "note", "there is an NVIDIA driver, but no GPU can be used", fix)
    which = f"torch=={str(found['version']).split('+')[0]}" if "version" in found else "torch"
    said = "torch is a build for CPUs, so the NVIDIA GPU lies idle"
    return Check("GPU", "note", said, f"pip install --force-reinstall {which}")


def graphics_cards() -> Iterator[tuple[str, str]]:
    """Makers of the graphics cards that are plugged in, and where on the bus."""
    for device in sorted(PCI.glob("*")) if PCI.is_dir() else ():
        maker = MAKERS.get(system.read(str(device / "vendor")).strip())
        if maker and system.read(str(device / "class")).startswith("0x03"):
            yield maker, device.name


def disk(name: str, folder: Path) -> Check:
    """Room, and what a flush takes, on which the recorder waits."""
    folder = folder.resolve()
    if not os.access(folder, os.W_OK):
        return Check(name, "note", f"{folder} cannot be written", "cd to a folder of your own")
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.1f} GB free in {folder}"
    if name == "disk here":
        said += f", {free / RAW_BYTES_S / 60:.0f} minutes of three 640x480 cameras uncompressed"
        said += f"; a flush takes {_flush_ms(folder):.0f} ms"
    if free < LEAST_DISK:
        return Check(name, "problem", said, "make room, or set TMPDIR" if "temp" in name else "make room")
    return Check(name, "ok", said)


def _flush_ms(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0" * 65536)
        start = time.monotonic()
        file.flush()
        os.fsync(file.fileno())
        return (time.monotonic() - start) * 1e3


def shared_memory() -> Check:
    """Room for the recorder's ring; containers give 64 MB where nobody asks for more."""
    if not SHARED_MEMORY.is_dir():
        return Check("shared memory", "note", f"there is no {SHARED_MEMORY}; the recorder uses less of it")
    free = shutil.disk_usage(SHARED_MEMORY).free
    said = f"{free / 1e6:.0f} MB free in {SHARED_MEMORY}"
    if free < RING_BYTES:
        fix = "sudo mount -o remount,size=1G /dev/shm, or in a container: docker run --shm-size=1g"
        return Check("shared memory", "note", f"{said}; recording eight cameras wants {RING_BYTES / 1e6:.0f}", fix)
    return Check("shared memory", "ok", said)


def realsense(found: Mapping[str, Any]) -> Check:
    """The SDK, libusb, cameras."""
    plugged = dict(plugged_in())
    if "version" in found:
        return _cameras(found["version"] or "installed", found["cameras"], plugged)
    there = f"{' and '.join(plugged)} {'is' if len(plugged) == 1 else 'are'} plugged in; " if plugged else ""
    if "missing" in found:
        said = f"{there}the SDK is not installed; recording its cameras, .bag and .db3 files needs it"
        return Check("RealSense", "note", said, "pip install 'handloom[realsense]'")
    return Check("RealSense", "note", there + broken(found), "pip install --force-reinstall 'handloom[realsense]'")


def _cameras(version: str, cameras: list[str], plugged: Mapping[str, int]) -> Check:
    said = f"{version}, {', '.join(cameras) if cameras else 'no camera is plugged in'}"
    if plugged and not cameras:
        fix = (
            "copy config/99-realsense-libusb.rules of librealsense to /etc/udev/rules.d, then sudo udevadm control "
            "--reload && sudo udevadm trigger; in a container: docker run --device /dev/bus/usb ..."
        )
        return Check("RealSense", "note", f"{version}; {' and '.join(plugged)} cannot be opened: no permission", fix)
    slow = [name for name, speed in plugged.items() if 0 < speed < USB3_MBIT_S]
    if slow:
        fix = "a USB 3 port (blue, or marked SS), and a cable for it"
        return Check("RealSense", "note", f"{said}; {' and '.join(slow)} on USB 2 gives few images a second", fix)
    usb = system.read("/sys/module/usbcore/parameters/usbfs_memory_mb").strip()
    if len(cameras) > 1 and usb.isdigit() and int(usb) < 64 * len(cameras):
        fix = f"echo {64 * len(cameras)} | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb"
        return Check("RealSense", "note", f"{said}; {usb} MB of USB buffers is little for them", fix)
    return Check("RealSense", "ok", said)


def plugged_in() -> Iterator[tuple[str, int]]:
    """RealSense cameras on USB, whether the SDK can open them or not, and the port's Mbit/s."""
    for device in sorted(USB.glob("*")) if USB.is_dir() else ():
        name = system.read(str(device / "product")).strip()
        if "RealSense" in name and system.read(str(device / "idVendor")).strip() == "8086":
            speed = system.read(str(device / "speed")).strip()
            serial = system.read(str(device / "serial")).strip()
            yield f"{name} {serial}".strip(), int(speed) if speed.isdigit() else 0


def broken(found: Mapping[str, Any]) -> str:
    """What kept a library from being loaded."""
    missing = f"'{found['missing']}' is not installed" if "missing" in found else ""
    return missing or str(found.get("failed", "cannot be used"))
