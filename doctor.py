"""`handloom doctor`: does this machine have what the kit needs, and are these recordings sound?

Each check is one line with its remedy. Libraries that may abort or hang as they load are loaded in processes of
their own, all at once (`doctor_probes.py`): two seconds on two cores; what the hardware says of itself is in
`doctor_hardware.py`. `problem` is what Handloom cannot do without,
`note` what some commands need or what costs time.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, Final

from . import __version__
from .doctor_hardware import (
    Check,
    broken,
    disk,
    features,
    gpu,
    memory,
    processor,
    realsense,
    shared_memory,
)
from .stores.verify import Verification, verify

PROBE_S: Final = 30.0
"""Time after which a library that is being loaded counts as hanging."""
SHOWN_FINDINGS: Final = 4


def machine() -> list[Check]:
    """All checks of this machine."""
    names = ("opengl", "realsense", "open3d", "torch", "onnxruntime")
    with ThreadPoolExecutor(len(names)) as pool:
        probes = dict(zip(names, pool.map(probe, names), strict=True))
    return [
        processor(),
        features(),
        memory(),
        gpu(probes["torch"]),
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
    """The build."""
    if "version" not in found:
        return Check("torch", "problem", broken(found), "pip install --force-reinstall 'torch>=2.6'")
    build = f"CUDA {found['cuda']}" if found["cuda"] else "a build for CPUs"
    return Check("torch", "ok", f"{found['version']}, {build}")


def onnx(found: Mapping[str, Any]) -> Check:
    """What `predict` runs on."""
    if "version" not in found:
        return Check("onnxruntime", "problem", broken(found), "pip install --force-reinstall 'onnxruntime>=1.20'")
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


def opengl(found: Mapping[str, Any]) -> Check:
    """Whether pyrender can draw here."""
    if "renderer" in found:
        return Check("OpenGL", "ok", f"{found['renderer']}, {found['version']}")
    fix = "sudo apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
    return Check("OpenGL", "note", f"only --renderer pyrender needs it: {broken(found)}", fix)


def open3d(found: Mapping[str, Any]) -> Check:
    """The third renderer and ICP."""
    if "version" in found:
        return Check("Open3D", "ok", found["version"])
    if "missing" in found:
        said = "not installed; --renderer open3d and refinement by ICP need it"
        return Check("Open3D", "note", said, "pip install 'handloom[open3d]'")
    return Check("Open3D", "note", broken(found), "pip install --force-reinstall 'handloom[open3d]'")


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


def to_dict(checks: Sequence[Check], found: Sequence[Verification]) -> dict[str, Any]:
    """Plain values."""
    return {
        "ok": all(check.state != "problem" for check in checks) and all(one.clean for one in found),
        "machine": [asdict(check) for check in checks],
        "recordings": [one.to_dict() for one in found],
    }
