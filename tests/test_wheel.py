"""The wheel and the source archive: everything inside, nothing else, and the loop runs where no checkout is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import handloom

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("tests", "benchmarks", "docs", ".ci", ".dev")
AT_THE_ROOT = {"__init__.py", "__main__.py", "py.typed"}


def tracked() -> list[Path]:
    """The checkout's files, new ones that git would take included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def of_the_package(files: list[Path]) -> set[str]:
    """What a wheel must hold: all that lies in the rooms, and the modules at the root."""
    inside = [file for file in files if file.parts[0] not in ELSEWHERE]
    return {
        f"handloom/{file.as_posix()}"
        for file in inside
        if len(file.parts) > 1 or file.suffix == ".py" or file.name in AT_THE_ROOT
    }


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist of a folder, by the build backend itself."""
    out.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta; print(build_meta.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "absent from the `packages`" not in done.stderr, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's files."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("source")
    for file in tracked():
        if not (ROOT / file).is_symlink():
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", source, tmp_path_factory.mktemp("dist"))


def contents(wheel: Path) -> dict[str, bytes]:
    """The package's files; what describes it is left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    assert wheel.name == f"handloom-{handloom.__version__}-py3-none-any.whl"
    found = contents(wheel)
    assert set(found) == of_the_package(tracked())
    assert {"handloom/stores/palm_net.safetensors", "handloom/py.typed", "handloom/view/templates/view.js"} <= set(
        found
    )
    assert all(data == (ROOT / name.removeprefix("handloom/")).read_bytes() for name, data in found.items())


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        said = archive.read(f"{folder}/METADATA").decode()
        assert archive.read(f"{folder}/entry_points.txt").decode().split() == [
            "[console_scripts]", "handloom", "=", "handloom.cli:main",
        ]  # fmt: skip
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert re.search(r"^Requires-Python: >=3\.11$", said, re.MULTILINE)
    assert "Provides-Extra: realsense" in said
    # Nothing that the package needs at all times may hide behind an extra.
    needed = re.findall(r"^Requires-Dist: ([A-Za-z0-9_-]+)[^;\n]*$", said, re.MULTILINE)
    assert {"numpy", "torch", "onnxruntime", "zarr"} <= set(needed)
    assert "pyrealsense2" not in needed


def test_the_source_archive_gives_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", source, tmp_path / "dist")
    unpacked = tmp_path / "unpacked"
    with tarfile.open(sdist) as archive:
        names = {Path(name).relative_to(Path(name).parts[0]).as_posix() for name in archive.getnames()}
        archive.extractall(unpacked, filter="data")
    assert {"CHANGELOG.md", "constraints.txt", "LICENSE", "README.md", "pyproject.toml", "docs/predict.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", ".dev", ".ci"))]
    again = build("wheel", unpacked / f"handloom-{handloom.__version__}", tmp_path / "again")
    assert contents(again) == contents(wheel)
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())


LOOP = """
from pathlib import Path
import handloom
import handloom.quickstart as quickstart
assert "site-packages" in handloom.__file__, handloom.__file__
few = {
    "synthetic-only": {"pretrain_steps": 2},
    "real-only": {"joint_steps": 2},
    "full": {"pretrain_steps": 0, "joint_steps": 2},
    "crossing": {"vae_steps": 2, "gan_steps": 1, "align_steps": 1, "joint_steps": 2},
}
sizes = quickstart.Sizes(synth_frames=40, capture_frames=24, sequence_frames=6, overrides=few)
if __name__ == "__main__":
    quickstart.run(Path("demo"), seed=0, overwrite=False, say=print, sizes=sizes)
"""


@pytest.mark.slow
def test_the_loop_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own (that borrows this one's packages), an empty folder, without a home to write to."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "-q", str(wheel)], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    borrowed = Path(pytest.__file__).parents[1]
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")  # this one's own .pth files, the checkout's, are not read
    before = {file: file.stat().st_mtime_ns for file in packages.rglob("*")}
    (tmp_path / "empty").mkdir()
    clean = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    clean |= {"HOME": "/proc", "TMPDIR": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    (tmp_path / "tmp").mkdir()

    def run(*words: object) -> str:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=tmp_path / "empty",
            env=clean,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout + done.stderr
        return done.stdout

    command = environment / "bin/handloom"
    assert "this machine is fine" in run(command, "doctor")
    (tmp_path / "tmp/loop.py").write_text(LOOP)
    assert "demo/report.html" in run(python, tmp_path / "tmp/loop.py")
    run(command, "predict", "demo/model.onnx", "demo/capture.zarr", "--fused", "--out", "poses.csv")
    run(command, "report", "demo/runs/full", "--on", "demo/capture.zarr", "--out", "report.html")
    assert "<svg" in (tmp_path / "empty/report.html").read_text()
    made = {path.name for path in (tmp_path / "empty").iterdir() if not path.name.startswith("report")}
    assert made == {"demo", "poses.csv"}
    assert {file: file.stat().st_mtime_ns for file in packages.rglob("*")} == before, "written into site-packages"
