"""The package is the folder itself: what is listed, what is linked, what is imported must agree."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import handloom

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("stores", "synth", "capture", "learn", "view")
MAY_IMPORT = {
    "stores": {"stores"},
    "synth": {"synth", "stores"},
    "capture": {"capture", "stores"},
    "learn": {"learn", "stores"},
    "view": {"view", "stores"},
}


def project() -> dict[str, dict[str, object]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_a_listed_package() -> None:
    listed = set(project()["tool"]["setuptools"]["packages"])  # type: ignore[index]
    found = {f"handloom.{p.parent.name}" for p in ROOT.glob("*/__init__.py") if p.parent.name != "tests"}
    assert listed == {"handloom", *found} == {"handloom", *(f"handloom.{room}" for room in ROOMS)}


def test_the_link_for_the_tools_leads_here() -> None:
    assert (ROOT / ".dev/handloom").resolve() == ROOT
    assert Path(handloom.__file__).resolve().parent == ROOT


def test_the_version_is_said_once() -> None:
    assert project()["project"]["version"] == handloom.__version__
    assert f"## {handloom.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_what_is_required_is_pinned() -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in constraints()}
    extras = project()["project"]["optional-dependencies"]
    assert {"realsense", "open3d", "dev"} <= set(extras)  # type: ignore[call-overload]
    for extra in ("", *extras):  # type: ignore[misc]
        assert requirements(extra) <= pinned, extra


def test_what_the_required_require_is_pinned() -> None:
    """The whole closure, as far as it is installed here: what pip would choose by itself may break any day."""
    pinned = {canonicalize_name(line.split("==")[0]) for line in constraints()}
    installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}
    extras = project()["project"]["optional-dependencies"]
    todo = {(name, "") for extra in ("", *extras) for name in requirements(extra)}  # type: ignore[misc]
    seen: set[tuple[str, str]] = set()
    while todo - seen:
        name, extra = (todo - seen).pop()
        seen.add((name, extra))
        # pip comes with Python, and torch brings CUDA's packages where there is a GPU.
        if name not in installed or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        assert name in pinned, f"{name} of constraints.txt"
        for line in installed[name].requires or []:
            requirement = Requirement(line)
            if not requirement.marker or requirement.marker.evaluate({"extra": extra}):
                todo |= {(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)}
    assert len(seen) > 60


def requirements(extra: str) -> set[str]:
    """Names of the packages that an extra, or the package without any, needs on this machine."""
    listed = project()["project"]
    lines = listed["optional-dependencies"][extra] if extra else listed["dependencies"]  # type: ignore[index]
    found = [Requirement(line) for line in lines]  # type: ignore[attr-defined]
    return {canonicalize_name(r.name) for r in found if not r.marker or r.marker.evaluate()}


def constraints() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def imported_rooms(path: Path) -> set[str]:
    """The rooms of ours that a module of one room imports."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 2:
            rooms.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            rooms.add(path.parent.name)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
            assert not any(name.split(".")[0] == "handloom" for name in names), f"{path}: import relatively"
    return rooms & set(ROOMS)


@pytest.mark.parametrize("path", sorted(p for room in ROOMS for p in (ROOT / room).glob("*.py")), ids=str)
def test_imports_flow_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[path.parent.name] | ({"synth"} if path.name == "virtual.py" else set())
    assert imported_rooms(path) <= allowed


HEAVY = (
    "torch", "numba", "zarr", "cv2", "scipy", "matplotlib", "pydantic", "rich", "onnxruntime", "pyrender", "open3d",
    "yaml", "rerun",
)  # fmt: skip


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / ".dev")}
    )
    return set(done.stdout.split())


def test_help_imports_nothing_heavy() -> None:
    assert loaded_by("import handloom.cli") == set()


def test_prediction_does_without_torch() -> None:
    loaded = loaded_by("import handloom.learn.predict, handloom.learn.poses, handloom.learn.tracking")
    assert loaded & {"torch", "pydantic", "rich", "matplotlib", "zarr"} == set()
