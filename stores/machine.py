"""What this machine has for us: cores, memory, what its processor can do; a container's limits count.

Read from Linux's own files, so it costs nothing; elsewhere what cannot be read is left at a cautious guess.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

UNKNOWN_MEMORY: Final = 4 * 10**9
"""Taken for the memory where the system does not say."""
LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
USED: Final = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
STATISTICS: Final = ("/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat")
BFLOAT16: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""Flags of processors that multiply bfloat16 faster than float32; the last is ARM's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A computer, as far as a training run cares."""

    processor: str
    cores: float
    """That this process may use; a container may leave it half a one."""
    memory_bytes: int
    free_bytes: int
    """That can be had without swapping."""
    flags: frozenset[str] = frozenset()
    """Of the processor, as Linux names them."""
    load: float = 0.0
    """Processes that wanted to run, mean of the last minute."""

    @property
    def bfloat16(self) -> str:
        """The flag of its units for bfloat16, or nothing."""
        return next((flag for flag in BFLOAT16 if flag in self.flags), "")


def this_machine() -> Machine:
    """The one that this process runs on."""
    text = read("/proc/cpuinfo")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = core_limit()
    total, free = memory()
    return Machine(
        processor=_said(text, "model name") or platform.machine(),
        cores=cores if quota is None else min(cores, quota),
        memory_bytes=total or UNKNOWN_MEMORY,
        free_bytes=free or UNKNOWN_MEMORY,
        flags=frozenset((_said(text, "flags") or _said(text, "Features")).split()),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    )


def core_limit() -> float | None:
    """Cores that a container's limit leaves; None without one."""
    words = read("/sys/fs/cgroup/cpu.max").split()
    if not words:
        words = [read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) != 2 or not all(word.isdigit() for word in words) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1])


def memory() -> tuple[int, int]:
    """Bytes in all, and bytes to be had without swapping; 0 where the system does not say.

    A container's limit counts, less what its processes hold: of its file cache all can be given back.
    """
    lines = (line.split() for line in read("/proc/meminfo").splitlines())
    values = {line[0].rstrip(":"): int(line[1]) << 10 for line in lines if len(line) > 1 and line[1].isdigit()}
    total, free = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    limit = _first(LIMITS)
    if limit is not None and total and limit < total:
        cached = next((n for text in map(read, STATISTICS) if (n := _statistic(text, "inactive_file"))), 0)
        held = max((_first(USED) or 0) - cached, 0)
        total, free = limit, max(min(free, limit - held), 0)
    return total, free


def read(path: str) -> str:
    """A file of the system, nothing where it cannot be read."""
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""


def _first(paths: tuple[str, ...]) -> int | None:
    """The number in the first of these files that holds one."""
    return next((int(text) for path in paths if (text := read(path).strip()).isdigit()), None)


def _statistic(text: str, name: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0)


def _said(text: str, name: str) -> str:
    """The value of the first line of /proc/cpuinfo of this name."""
    return next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.split(":")[0].strip() == name), "")
