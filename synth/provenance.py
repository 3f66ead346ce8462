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
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


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
        "packages": versions(PACKAGES),
        "machine": machine(),
        "renderer": renderer,
    }


def changed_versions(provenance: Mapping[str, Any]) -> str:
    """What of the versions that a recording was made with is not installed now, in words; empty: all is."""
    packages = provenance.get("packages")
    before = {"handloom": provenance.get("handloom"), **(packages if isinstance(packages, Mapping) else {})}
    now = versions()
    drawing = provenance.get("renderer") == "pyrender"
    decisive = [name for name in now if name != "zarr" and (name != "pyrender" or drawing)]
    return "; ".join(
        f"{name} was {before.get(name)}, is {now[name]}" for name in decisive if before.get(name) != now[name]
    )
