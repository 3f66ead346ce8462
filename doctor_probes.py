"""Imports that may end the process, each run in a process of its own by `doctor.py`.

    python -m handloom.doctor_probes opengl|realsense|open3d|torch|onnxruntime

Each prints one JSON object with what it found. A missing package ends with `{"missing": "..."}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, Final


def opengl() -> dict[str, Any]:
    """An offscreen context made as the renderer makes it."""
    os.environ.setdefault("PYOPENGL_PLATFORM", "egl")
    import pyrender
    from OpenGL.GL import GL_RENDERER, GL_VERSION, glGetString

    context = pyrender.OffscreenRenderer(16, 16)
    try:
        context._platform.make_current()
        return {"renderer": glGetString(GL_RENDERER).decode(), "version": glGetString(GL_VERSION).decode()}
    finally:
        context.delete()


def realsense() -> dict[str, Any]:
    """The SDK's version and the cameras it sees."""
    from .stores.libusb import load_libusb

    load_libusb()
    import pyrealsense2

    info = pyrealsense2.camera_info
    cameras = [
        " ".join(device.get_info(key) for key in (info.name, info.serial_number))
        for device in pyrealsense2.context().query_devices()
    ]
    return {"version": getattr(pyrealsense2, "__version__", ""), "cameras": cameras}


def open3d() -> dict[str, Any]:
    """Its version, once it has been loaded."""
    from .stores.libusb import load_libusb

    load_libusb()
    import open3d as package

    return {"version": package.__version__}


def torch() -> dict[str, Any]:
    """Its build and the GPUs it can use."""
    import torch as package

    gpus = []
    if package.cuda.is_available():
        for i in range(package.cuda.device_count()):
            about = package.cuda.get_device_properties(i)
            kind = "bfloat16" if about.major >= 8 else "no bfloat16: it trains in float32"
            gpus.append(f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {kind}")
    return {"version": package.__version__, "cuda": package.version.cuda, "gpus": gpus}


def onnxruntime() -> dict[str, Any]:
    """Its version and where it can run."""
    from .stores import no_telemetry as no_telemetry  # before onnxruntime

    import onnxruntime as package  # isort: skip

    return {"version": package.__version__, "providers": package.get_available_providers()}


PROBES: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "opengl": opengl,
    "realsense": realsense,
    "open3d": open3d,
    "torch": torch,
    "onnxruntime": onnxruntime,
}


def main(name: str) -> None:
    """Run one probe and print what it found."""
    out = sys.stdout
    sys.stdout = sys.stderr  # libraries that chat as they load
    try:
        found = PROBES[name]()
    except ModuleNotFoundError as error:
        found = {"missing": str(error.name)}
    except Exception as error:  # what a broken installation raises is anybody's guess
        found = {"failed": f"{type(error).__name__}: {error}".splitlines()[0]}
    json.dump(found, out)


if __name__ == "__main__":
    main(sys.argv[1])
