"""`handloom doctor`: does this machine have what the kit needs, and are these recordings sound?

Each check is one line with its remedy. Libraries that may abort or hang as they load are loaded in processes of
their own, all at once (`doctor_probes.py`): two seconds on two cores. `problem` is what Handloom cannot do without,
`note` what some commands need or what costs time.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Final, Literal

from . import __version__
from .stores.verify import Verification, verify

State = Literal["ok", "note", "problem"]
WIDTH: Final = 80
NAME_WIDTH: Final = 17
PROBE_S: Final = 30.0
"""Time after which a library that is being loaded counts as hanging."""
SHARED_MEMORY: Final = Path("/dev/shm")
RING_BYTES: Final = 3 * 30 * 8 * 640 * 480 * 2
"""What the recorder holds between camera and disk: three seconds of eight 640×480 cameras at 30 fps."""
RAW_BYTES_S: Final = 30 * 3 * 640 * 480 * 2
"""Three 640×480 cameras at 30 fps, before compression."""
LEAST_DISK: Final = 1 << 30
LEAST_MEMORY: Final = 3 << 30
SHOWN_FINDINGS: Final = 4


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


def machine() -> list[Check]:
    """All checks of this machine."""
    names = ("opengl", "realsense", "open3d", "torch", "onnxruntime")
    with ThreadPoolExecutor(len(names)) as pool:
        probes = dict(zip(names, pool.map(probe, names), strict=True))
    return [
        processor(),
        memory(),
        *python(),
        pytorch(probes["torch"]),
        onnx(probes["onnxruntime"]),
        kernels(),
        disk("disk here", Path()),
        disk("temporary files", Path(tempfile.gettempdir())),
        shared_memory(),
        opengl(probes["opengl"]),
        realsense(probes["realsense"]),
        open3d(probes["open3d"]),
        *extras(skip=("realsense", "open3d", "dev")),
    ]


def recordings(paths: Sequence[Path], progress: Callable[..., None] | None = None) -> list[Verification]:
    """A quick check of each.

    Raises:
        HandloomError: one is no recording.
    """
    return [verify(path, progress=progress) for path in paths]


def said_of(found: Verification) -> Check:
    """A recording in one line, with the gravest findings and what to do next."""
    from .stores.findings import counted, said_once

    grave = [finding for finding in said_once(found.findings) if finding.severity != "note"]
    if not grave:
        return Check(Path(found.path).name, "ok", f"{found.frames} frames, nothing found in a quick check")
    whats = "; ".join(f"{finding.where}: {finding.what}" for finding in grave[:SHOWN_FINDINGS])
    more = f"; and {len(grave) - SHOWN_FINDINGS} more" if len(grave) > SHOWN_FINDINGS else ""
    said = f"{found.frames} frames, {counted(grave)}: {whats}{more}"
    return Check(Path(found.path).name, "problem", said, f"handloom store verify {found.path} --deep")


def processor() -> Check:
    """Model, cores this process may use, vector instructions."""
    text = _read("/proc/cpuinfo")
    model = next((line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota()
    flags = set(next((line for line in text.splitlines() if line.startswith("flags")), "").split())
    vectors = [name for name in ("avx2", "fma", "avx512f") if name in flags]
    said = f"{model or platform.machine()}, {cores} core{'s' * (cores != 1)}"
    said += f", limited to {quota:.1f}" if quota is not None and quota < cores else ""
    said += f", {' '.join(vectors)}" if vectors else ""
    if flags and "avx2" not in flags:
        return Check("processor", "note", said + "; without AVX2 networks run at half their speed")
    return Check("processor", "ok", said)


def memory() -> Check:
    """What there is, and what is free."""
    values = {line.split(":")[0]: int(line.split()[1]) << 10 for line in _read("/proc/meminfo").splitlines() if line}
    total, free = values.get("MemTotal", 0), values.get("MemAvailable", 0)
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        total, free = min(total, int(limit)), min(free, int(limit))
    if not total:
        return Check("memory", "note", "cannot be told on this system")
    said = f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free"
    if total < LEAST_MEMORY:
        fix = "take smaller units (--unit-frames 64), --jobs 1, and train with --preset quick"
        return Check("memory", "note", f"{said}; long recordings of many cameras want 4", fix)
    return Check("memory", "ok", said)


def python() -> Iterator[Check]:
    """The interpreter and the packages against what Handloom asks for."""
    from packaging.specifiers import SpecifierSet

    here = platform.python_version()
    asked, needed = _asked()
    good = SpecifierSet(asked).contains(here, prereleases=True)
    fix = "" if good else "make a new environment: python3.11 -m venv .venv"
    said = f"{here} in {sys.prefix}" + ("" if good else f"; {asked} is asked for")
    yield Check("Python", "ok" if good else "problem", said, fix)
    core = [one for one in needed[""] if one.marker is None or one.marker.evaluate()]
    wrong = [(one, said) for one in core if (said := _unmet(one))]
    for one, said in wrong:
        yield Check(one.name, "problem", said, f"pip install '{one.name}{one.specifier}'")
    if not wrong:
        yield Check("packages", "ok", f"all {len(core)} that Handloom {__version__} asks for")


def _asked() -> tuple[str, dict[str, list[Any]]]:
    """Python's version and the packages of each extra, '' for all, as the checkout or what is installed says."""
    from packaging.requirements import Requirement

    project = Path(__file__).with_name("pyproject.toml")
    if project.exists():
        said = tomllib.loads(project.read_text())["project"]
        groups = {"": said["dependencies"], **said["optional-dependencies"]}
        return str(said["requires-python"]), {name: [*map(Requirement, lines)] for name, lines in groups.items()}
    about = metadata("handloom")
    needed: dict[str, list[Any]] = {name: [] for name in ("", *(about.get_all("Provides-Extra") or ()))}
    for one in map(Requirement, requires("handloom") or ()):
        extra = next((name for name in needed if name and _only_of(one, name)), "")
        needed[extra].append(one)
    return str(about["Requires-Python"]), needed


def _only_of(one: Any, extra: str) -> bool:
    return one.marker is not None and f'extra == "{extra}"' in str(one.marker)


def _unmet(one: Any) -> str:
    """What is wrong with the installed package, or nothing."""
    try:
        have = version(one.name)
    except PackageNotFoundError:
        return f"is not installed; {one.name}{one.specifier} is asked for"
    return "" if one.specifier.contains(have, prereleases=True) else f"{have} is installed, {one.specifier} asked for"


def pytorch(found: Mapping[str, Any]) -> Check:
    """The build, the GPU, and whether they go together."""
    if "version" not in found:
        return Check("torch", "problem", _broken(found), "pip install --force-reinstall 'torch>=2.6'")
    build = f"CUDA {found['cuda']}" if found["cuda"] else "a build for CPUs"
    said = f"{found['version']}, {build}"
    if found["gpus"]:
        return Check("torch", "ok", f"{said}; {'; '.join(found['gpus'])}")
    if not Path("/proc/driver/nvidia/version").exists():
        return Check("torch", "ok", f"{said}; no NVIDIA GPU: training takes its time")
    if found["cuda"]:
        fix = "nvidia-smi   (if that fails: update the driver)"
        return Check("torch", "note", f"{said}; there is an NVIDIA driver, but no GPU can be used", fix)
    fix = f"pip install --force-reinstall torch=={found['version'].split('+')[0]}"
    return Check("torch", "note", f"{said}, so the NVIDIA GPU lies idle", fix)


def onnx(found: Mapping[str, Any]) -> Check:
    """What `predict` runs on."""
    if "version" not in found:
        return Check("onnxruntime", "problem", _broken(found), "pip install --force-reinstall 'onnxruntime>=1.20'")
    return Check("onnxruntime", "ok", found["version"])


def kernels() -> Check:
    """Where numba keeps what it compiled."""
    from .stores import numba_cache  # noqa: F401  # its import chooses the folder

    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    fix = "export XDG_CACHE_HOME=A_FOLDER_THAT_CAN_BE_WRITTEN"
    if not os.access(folder, os.W_OK):
        return Check("compiled kernels", "problem", f"{folder} cannot be written", "unset NUMBA_CACHE_DIR")
    if folder.is_relative_to(tempfile.gettempdir()):
        return Check("compiled kernels", "note", f"kept in {folder}: compiled anew when that is emptied", fix)
    return Check("compiled kernels", "ok", f"kept in {folder}")


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


def opengl(found: Mapping[str, Any]) -> Check:
    """Whether pyrender can draw here."""
    if "renderer" in found:
        return Check("OpenGL", "ok", f"{found['renderer']}, {found['version']}")
    fix = "sudo apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
    return Check("OpenGL", "note", f"only --renderer pyrender needs it: {_broken(found)}", fix)


def realsense(found: Mapping[str, Any]) -> Check:
    """The SDK, libusb, cameras."""
    if "version" in found:
        cameras = found["cameras"]
        said = f"{found['version'] or 'installed'}, {', '.join(cameras) if cameras else 'no camera is plugged in'}"
        usb = _read("/sys/module/usbcore/parameters/usbfs_memory_mb").strip()
        if len(cameras) > 1 and usb.isdigit() and int(usb) < 64 * len(cameras):
            fix = f"echo {64 * len(cameras)} | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb"
            return Check("RealSense", "note", f"{said}; {usb} MB of USB buffers is little for them", fix)
        return Check("RealSense", "ok", said)
    if "missing" in found:
        said = "the SDK is not installed; recording its cameras, .bag and .db3 files needs it"
        return Check("RealSense", "note", said, "pip install 'handloom[realsense]'")
    return Check("RealSense", "note", _broken(found), "pip install --force-reinstall 'handloom[realsense]'")


def open3d(found: Mapping[str, Any]) -> Check:
    """The third renderer and ICP."""
    if "version" in found:
        return Check("Open3D", "ok", found["version"])
    if "missing" in found:
        said = "not installed; --renderer open3d and refinement by ICP need it"
        return Check("Open3D", "note", said, "pip install 'handloom[open3d]'")
    return Check("Open3D", "note", _broken(found), "pip install --force-reinstall 'handloom[open3d]'")


def extras(*, skip: Sequence[str]) -> Iterator[Check]:
    """Whether the optional parts are there, by their packages' versions."""
    for name, group in _asked()[1].items():
        mine = [one for one in group if one.marker is None or one.marker.evaluate({"extra": name})]
        lacking = [one.name for one in mine if _unmet(one)]
        if name in ("", *skip):
            continue
        if lacking:
            said = f"optional, not installed: {', '.join(lacking)}"
            yield Check(f"extra {name}", "note", said, f"pip install 'handloom[{name}]'")
        else:
            yield Check(f"extra {name}", "ok", ", ".join(f"{one.name} {version(one.name)}" for one in mine))


def probe(name: str) -> dict[str, Any]:
    """What one of `doctor_probes` found, in a process of its own: its abort or hanging is a finding."""
    parent = Path(__file__).parent.parent
    path = os.environ.get("PYTHONPATH", "")
    if (parent / "handloom" / "doctor_probes.py").exists():
        path = f"{path}{os.pathsep}{parent}" if path else str(parent)
    command = [sys.executable, "-m", "handloom.doctor_probes", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_S, env={**os.environ, "PYTHONPATH": path},
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"failed": f"loading it does not end within {PROBE_S:.0f} s"}
    if done.returncode < 0:
        return {"failed": f"loading it ends the process ({signal.Signals(-done.returncode).name})"}
    try:
        return dict(json.loads(done.stdout))
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"failed": last[0]}


def _broken(found: Mapping[str, Any]) -> str:
    return (
        f"'{found['missing']}' is not installed" if "missing" in found else str(found.get("failed", "cannot be used"))
    )


def _cpu_quota() -> float | None:
    """Cores that a container's limit leaves."""
    words = _read("/sys/fs/cgroup/cpu.max").split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0].isdigit() else None


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def to_dict(checks: Sequence[Check], found: Sequence[Verification]) -> dict[str, Any]:
    """Plain values."""
    return {
        "ok": all(check.state != "problem" for check in checks) and all(one.clean for one in found),
        "machine": [asdict(check) for check in checks],
        "recordings": [one.to_dict() for one in found],
    }
