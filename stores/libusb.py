"""libusb for the wheels that link to it without bringing it: pyrealsense2 and Open3D."""

from __future__ import annotations

import ctypes
from functools import lru_cache


@lru_cache(maxsize=1)
def load_libusb() -> None:
    """Load libusb-1.0 into the process, its symbols global, before a library that needs it is imported.

    Does nothing where the package `libusb-package` is missing: a system-wide libusb serves as well, and
    where there is none, the import that follows says so.
    """
    try:
        import libusb_package

        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
    except (ImportError, OSError):
        pass
