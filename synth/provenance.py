"""What a rendered recording says of how it was made: versions, machine, renderer."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("numpy", "numba", "scipy", "zarr", "pyrender")
"""They may change a frame's last bits; a recording names their versions."""


def versions(names: Iterable[str] = ("handloom", *PACKAGES)) -> dict[str, str]:
    """The installed versions, 'none' for what is not installed."""
    return {name: _version(name) for name in names}


def packages_of(renderer: Any) -> tuple[str, ...]:
    """The packages whose versions count for what is drawn by a renderer: Open3D's, an extra, by itself alone."""
    return (*PACKAGES, "open3d") if renderer == "open3d" else PACKAGES


def _version(name: str) -> str:
    # Open3D comes as one of two wheels.
    for wheel in ("open3d", "open3d-cpu") if name == "open3d" else (name,):
        try:
            return version(wheel)
        except PackageNotFoundError:
            continue
    return "none"


def machine() -> str:
    """Kind of processor: frames are the same to the bit on one family of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{platform.machine()} {next(names, platform.processor())}".strip()


def provenance_of(renderer: str) -> dict[str, Any]:
    """What every rendered recording says of how it was made."""
    return {
        "handloom": versions(["handloom"])["handloom"],
        "packages": versions(packages_of(renderer)),
        "machine": machine(),
        "renderer": renderer,
    }


def changed_versions(provenance: Mapping[str, Any]) -> str:
    """What of the versions that a recording was made with is not installed now, in words; empty: all is."""
    packages = provenance.get("packages")
    before = {"handloom": provenance.get("handloom"), **(packages if isinstance(packages, Mapping) else {})}
    renderer = provenance.get("renderer")
    now = versions(("handloom", *packages_of(renderer)))
    drawing = renderer == "pyrender"
    decisive = [name for name in now if name != "zarr" and (name != "pyrender" or drawing)]
    return "; ".join(
        f"{name} was {before.get(name)}, is {now[name]}" for name in decisive if before.get(name) != now[name]
    )
