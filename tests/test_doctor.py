"""What `handloom doctor` says of machines that lack something, made by taking it away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from handloom import doctor
from handloom import doctor_hardware as hardware
from handloom.cli import main
from handloom.doctor import Check
from handloom.stores import machine
from handloom.stores.camera import Camera, Rig
from handloom.stores.recording import create_recording
from handloom.stores.table import Appender


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library is loaded: each answers as on a machine that has it."""
    answers = {
        "opengl": {"renderer": "llvmpipe", "version": "4.5"},
        "realsense": {"version": "2.59.1", "cameras": []},
        "open3d": {"missing": "open3d"},
        "torch": {"version": "2.13.0", "cuda": None, "gpus": []},
        "onnxruntime": {"version": "1.31.1", "providers": []},
    }
    monkeypatch.setattr(doctor, "probe", answers.__getitem__)


def make(path: Path, *, empty: bool = False) -> Path:
    rig = Rig((Camera("a", 32, 24, (30, 30, 16, 12)),))
    recording = create_recording(path, kind="captured", rig=rig, hand="right", provenance={"source": "test"})
    number = np.arange(4)
    images = np.random.default_rng(0).integers(400, 600, (4, 24, 32)) * (0 if empty else 1)
    times = dict.fromkeys(("t_device_ns", "t_host_ns", "frame_number"), number[:, None])
    ids = {"frame_id": number, "subject": number * 0, "sequence": number * 0, "split": number * 0}
    with Appender(recording.create_frames(depth=True)) as appender:
        appender.append({**times, **ids, "present": np.ones((4, 1)), "depth/a": images})
    return path


@pytest.mark.usefixtures("quiet")
def test_a_machine_and_its_recordings(tmp_path: Path) -> None:
    good, bad = make(tmp_path / "good.zarr"), make(tmp_path / "bad.zarr", empty=True)
    fine = run(good)
    assert fine.exit_code == 0, fine.output
    lines = fine.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert "ok       good.zarr        4 frames, nothing found in a quick check" in lines
    assert "note     Open3D           not installed; --renderer open3d and refinement by ICP" in lines
    assert "                          fix: pip install 'handloom[open3d]'" in lines
    assert lines[-2:] == ["this machine is fine", f"next: handloom store info {good}"]
    found = run(good, bad)
    assert found.exit_code == 1
    assert "problem  bad.zarr         4 frames, 1 error: frames/depth/a: no pixel has a" in found.stdout
    facts = json.loads(run(bad, "--json").stdout)
    assert facts["ok"] is False
    assert facts["recordings"][0]["findings"][0]["code"] == "empty"
    assert {check["name"] for check in facts["machine"]} >= {
        "processor",
        "CPU features",
        "memory",
        "GPU",
        "disk here",
        "OpenGL",
        "RealSense",
        "Python",
        "packages",
        "torch",
    }
    assert run(tmp_path / "none.zarr").exit_code == 2


@pytest.mark.usefixtures("quiet")
def test_what_handloom_cannot_do_without_ends_with_three(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: "2.18.0" if name == "zarr" else real(name))
    done = run(make(tmp_path / "r.zarr"))
    assert done.exit_code == 3
    assert "problem  zarr             2.18.0 is installed, >=3.0.8 asked for\n" in done.stdout
    assert "fix: pip install 'zarr>=3.0.8'\n" in done.stdout
    assert "this machine has 1 problem: see the lines that begin so\n" in done.stdout


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.abort()", "loading it ends the process (SIGABRT)"),
        ("raise OSError('libusb-1.0.so.0: cannot open shared object file')", "OSError: libusb-1.0.so.0: cannot"),
        ("import nothing_of_this_name", "'nothing_of_this_name' is not installed"),
        ("import time; time.sleep(60)", "loading it does not end within 2 s"),
    ],
)
def test_a_library_that_breaks_as_it_loads_is_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, said: str
) -> None:
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "PROBE_S", 2.0 if "sleep" in code else 60.0)
    check = doctor.onnx(doctor.probe("onnxruntime"))
    assert check.state == "problem"
    assert said in check.said
    assert check.fix == "pip install --force-reinstall 'onnxruntime>=1.20'"


def test_an_installed_library_answers() -> None:
    assert doctor.probe("onnxruntime")["version"]


def test_small_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = hardware.shutil.disk_usage
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda path: usage(path)._replace(free=64 << 20))
    assert doctor.shared_memory().lines() == [
        "note     shared memory    67 MB free in /dev/shm; recording eight cameras wants",
        "                          442",
        "                          fix: sudo mount -o remount,size=1G /dev/shm, or in a",
        "                               container: docker run --shm-size=1g",
    ]
    assert doctor.disk("disk here", tmp_path).state == "problem"
    files = {
        "/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
        "/sys/fs/cgroup/memory.max": "2147483648\n",
        "/sys/fs/cgroup/cpu.max": "50000 100000\n",
        "/proc/cpuinfo": "model name : Old\nflags : sse2\n",
        "/sys/module/usbcore/parameters/usbfs_memory_mb": "16\n",
    }
    monkeypatch.setattr(machine, "read", lambda path: files.get(path, ""))
    assert (doctor.memory().state, doctor.memory().said[:18]) == ("note", "2.0 GiB, 2.0 free;")
    assert (doctor.processor().state, doctor.processor().fix) == ("note", "--jobs 1")
    assert "limited to 0.5" in doctor.processor().said
    two = doctor.realsense({"version": "2.59.1", "cameras": ["D435 1", "D435 2"]})
    assert two.fix == "echo 128 | sudo tee /sys/module/usbcore/parameters/usbfs_memory_mb"
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "nowhere"))
    assert doctor.kernels().state == "problem"


def test_every_remedy_of_a_machine_with_nothing_is_said_in_eighty_columns() -> None:
    broken = {"failed": "OSError: " + "libGL.so.1: cannot open shared object file: No such file or directory " * 2}
    checks = [doctor.opengl(broken), doctor.realsense(broken), doctor.open3d(broken), doctor.onnx(broken),
              doctor.pytorch(broken), doctor.realsense({"missing": "pyrealsense2"})]  # fmt: skip
    for check in checks:
        assert check.fix
        assert max(map(len, check.lines())) <= 80
    assert doctor.pytorch({"version": "2.13.0", "cuda": "12.8", "gpus": ["H100, 79 GiB"]}).state == "ok"


def system(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """A machine whose /proc and /sys say this."""
    monkeypatch.setattr(machine, "read", lambda path: files.get(path, ""))


@pytest.mark.parametrize(
    ("flags", "state", "said"),
    [
        ("sse2 hypervisor", "note", "without AVX2 networks run at half their speed"),
        ("avx2 fma", "ok", "avx2 fma; no units for bfloat16: all is computed in float32"),
        ("avx2 fma avx512f amx_bf16", "ok", "avx2 fma avx512f amx_bf16; units for bfloat16: 'train recommend' times"),
        ("", "note", "cannot be told"),
    ],
)
def test_what_the_processor_can_do_and_what_it_means(
    monkeypatch: pytest.MonkeyPatch, flags: str, state: str, said: str
) -> None:
    system(monkeypatch, {"/proc/cpuinfo": f"model name : Some\nflags : {flags}\n"})
    check = doctor.features()
    assert check.state == state
    assert said in check.said
    assert max(map(len, check.lines())) <= 80
    assert ("host-passthrough" in check.fix) == ("hypervisor" in flags)
    system(monkeypatch, {"/proc/cpuinfo": "processor : 0\nFeatures : fp asimd bf16\n"})
    assert doctor.features().said.startswith("asimd bf16; units for bfloat16")


def test_a_gpu_and_what_keeps_it_idle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cpu, cuda = ({"version": "2.13.0+cpu", "cuda": None, "gpus": []}, {"version": "2.13.0", "cuda": "12.8", "gpus": []})
    card = tmp_path / "0000:01:00.0"
    card.mkdir()
    monkeypatch.setattr(hardware, "PCI", tmp_path)
    system(monkeypatch, {})
    assert doctor.gpu({**cuda, "gpus": ["H100, 79 GiB, bfloat16"]}).said == "H100, 79 GiB, bfloat16"
    assert doctor.gpu(cpu).state == "ok"
    assert "training takes its time" in doctor.gpu(cpu).said
    there = {str(card / "vendor"): "0x10de\n", str(card / "class"): "0x030000\n"}
    system(monkeypatch, there)
    idle = doctor.gpu(cpu)
    assert idle.said == "one by NVIDIA (0000:01:00.0) without its driver lies idle"
    assert "nvidia-driver" in idle.fix or "--gpus all" in idle.fix
    system(monkeypatch, {**there, "/proc/driver/nvidia/version": "550"})
    assert doctor.gpu(cpu).fix == "pip install --force-reinstall torch==2.13.0"
    assert doctor.gpu(cuda).fix == "nvidia-smi   (if that fails: update the driver)"
    system(monkeypatch, {str(card / "vendor"): "0x1002\n", str(card / "class"): "0x030000\n"})
    assert "the one by AMD here cannot be used" in doctor.gpu(cpu).said
    assert all(max(map(len, check.lines())) <= 80 for check in (idle, doctor.gpu(cpu), doctor.gpu(cuda)))


def test_a_camera_that_is_plugged_in_and_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "2-1").mkdir()
    (tmp_path / "usb1").mkdir()
    monkeypatch.setattr(hardware, "USB", tmp_path)
    facts = {"idVendor": "8086", "product": "Intel(R) RealSense(TM) Depth Camera 435", "serial": "042", "speed": "5000"}
    system(monkeypatch, {str(tmp_path / "2-1" / name): f"{value}\n" for name, value in facts.items()})
    closed = doctor.realsense({"version": "2.59.1", "cameras": []})
    assert closed.said == "2.59.1; Intel(R) RealSense(TM) Depth Camera 435 042 cannot be opened: no permission"
    assert "99-realsense-libusb.rules" in closed.fix
    bare = doctor.realsense({"missing": "pyrealsense2"})
    assert bare.said.startswith("Intel(R) RealSense(TM) Depth Camera 435 042 is plugged in; the SDK is not installed")
    assert doctor.realsense({"version": "2.59.1", "cameras": ["D435 042"]}).state == "ok"
    facts["speed"] = "480"
    system(monkeypatch, {str(tmp_path / "2-1" / name): f"{value}\n" for name, value in facts.items()})
    slow = doctor.realsense({"version": "2.59.1", "cameras": ["D435 042"]})
    assert "on USB 2 gives few images a second" in slow.said
    assert all(max(map(len, check.lines())) <= 80 for check in (closed, bare, slow))


def test_memory_by_a_container_s_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for free as a whole, however much of it was in use."""
    files = {
        "/proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 15000000 kB\n",
        "/sys/fs/cgroup/memory.max": str(4 << 30),
        "/sys/fs/cgroup/memory.current": str(3 << 30),
        "/sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {1 << 30}\n",
    }
    system(monkeypatch, files)
    assert machine.memory() == (4 << 30, 2 << 30)
    system(monkeypatch, {**files, "/sys/fs/cgroup/memory.max": "max"})
    assert machine.memory() == (16_000_000 << 10, 15_000_000 << 10)
    old = "/sys/fs/cgroup/memory/memory"
    limits = {f"{old}.limit_in_bytes": str(1 << 30), f"{old}.usage_in_bytes": str(1 << 28)}
    system(monkeypatch, {"/proc/meminfo": files["/proc/meminfo"], **limits})
    assert machine.memory() == (1 << 30, 3 << 28)
    quota = {"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}
    system(monkeypatch, quota)
    assert machine.core_limit() == 1.5


def test_a_long_command_is_not_broken_within_a_word() -> None:
    fix = "handloom store verify " + "a_folder_with_a_long_name/" * 4 + "r.zarr --deep"
    lines = Check("r.zarr", "problem", "said", fix).lines()
    assert "a_folder_with_a_long_name/" * 4 + "r.zarr" in "\n".join(lines)
