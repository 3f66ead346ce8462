"""`handloom view` to the letter."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from handloom.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["view", *(str(a) for a in arguments)])


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a display."""
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_a_page_and_what_comes_next(scene: SimpleNamespace, tmp_path: Path) -> None:
    scene.write(tmp_path / "r.zarr")
    out = tmp_path / "r.html"
    done = run(tmp_path / "r.zarr", "--html", out, "--frames", "1:4")
    assert (done.exit_code, done.stderr) == (0, "")
    size = out.stat().st_size / 1e6
    assert done.stdout == (
        f"{out}: 3 frames, {size:.1f} MB, one file for any browser\nnext: scp THIS_MACHINE:{out.resolve()} .\n"
    )
    again = run(tmp_path / "r.zarr", "--html", out)
    assert (again.exit_code, again.stderr) == (
        2, f"error: The page exists already\n  where: {out}\n  fix:   --overwrite replaces it\n"
    )  # fmt: skip


def test_a_file_for_rerun_and_what_comes_next(scene: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra 'view' is not installed")
    scene.write(tmp_path / "r.zarr")
    out = tmp_path / "r.rrd"
    done = run(tmp_path / "r.zarr", "--save", out, "--pred", scene.poses(tmp_path / "p.csv"), "--every", 2, "--crops")
    assert (done.exit_code, done.stderr) == (0, "")
    size = out.stat().st_size / 1e6
    assert done.stdout == (
        f"{out}: 3 frames, 5 images, 1 dropped, {size:.1f} MB\n"
        f"next: handloom view {out}\n  or: handloom view {out} --serve\n"
    )


@pytest.mark.usefixtures("bare")
def test_without_a_display_it_says_what_to_do(scene: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra 'view' is not installed")
    scene.write(tmp_path / "r.zarr")
    (tmp_path / "r.rrd").write_bytes(b"RRF2")
    for what in ("r.zarr", "r.rrd"):
        done = run(tmp_path / what)
        assert (done.exit_code, done.stdout, done.stderr) == (
            3,
            "",
            "error: There is no display for the viewer's window\n"
            "  why:   neither DISPLAY nor WAYLAND_DISPLAY is set\n"
            "  fix:   --html F.html makes a page to copy, --serve shows it in a browser through ssh -L\n",
        )


PROGRAM = """#!/bin/sh
env > "$(dirname "$0")/env.txt"
for word in "$@"; do echo "$word"; done > "$(dirname "$0")/arguments.txt"
test -s "$1" || exit 9
if [ -f "$(dirname "$0")/fail" ]; then echo "Error: no graphics adapter" >&2; exit 1; fi
"""


def test_with_a_display_the_viewer_opens_quietly_on_the_loopback(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the viewer's place: rerun alone listens on every interface and asks its makers' servers."""
    pytest.importorskip("rerun", reason="the extra 'view' is not installed")
    scene.write(tmp_path / "r.zarr")
    program = tmp_path / "rerun"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr("handloom.view.serve._program", lambda: program)
    monkeypatch.setenv("DISPLAY", ":99")
    done = run(tmp_path / "r.zarr")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    file, *arguments = (tmp_path / "arguments.txt").read_text().splitlines()
    assert arguments == ["--port", "auto", "--bind", "127.0.0.1"]
    assert Path(file).name == "r.rrd"
    assert not Path(file).exists(), "it lay in a temporary folder"
    told = dict(line.split("=", 1) for line in (tmp_path / "env.txt").read_text().splitlines() if "=" in line)
    assert (told["CI"], told["HTTPS_PROXY"], told["NO_PROXY"]) == ("1", "http://127.0.0.1:9", "127.0.0.1,localhost")
    (tmp_path / "fail").touch()
    done = run(tmp_path / "r.zarr")
    assert (done.exit_code, done.stderr) == (
        3,
        "error: Rerun's viewer did not run\n"
        "  why:   Error: no graphics adapter\n"
        "  fix:   --html F.html makes a page to look at, --serve shows it in a browser\n",
    )


def test_without_the_extra_it_names_the_pip_command(
    scene: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(tmp_path / "r.zarr")
    monkeypatch.setitem(sys.modules, "rerun", None)
    done = run(tmp_path / "r.zarr", "--save", tmp_path / "r.rrd")
    assert (done.exit_code, done.stderr) == (
        3,
        "error: rerun-sdk is not installed\n"
        "  why:   it comes with the optional extra 'view'\n"
        "  fix:   pip install 'handloom[view]'\n",
    )
    assert run(tmp_path / "r.zarr", "--html", tmp_path / "r.html").exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--save", "a.rrd", "--serve"), "give one of --save, --html and --serve"),
        (("--port", "9000"), "--port is for --serve"),
        (("--serve", "--overwrite"), "--overwrite is for --save and --html"),
    ],
)
def test_options_that_contradict_each_other(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = run(tmp_path / "r.zarr", *options)
    assert done.exit_code == 2
    assert said in done.stderr


def test_options_for_a_recording_do_not_go_with_a_file(tmp_path: Path) -> None:
    done = run(tmp_path / "r.rrd", "--crops")
    assert done.exit_code == 2
    assert "a .rrd is shown as it is" in done.stderr
    pytest.importorskip("rerun", reason="the extra 'view' is not installed")
    done = run(tmp_path / "r.rrd", "--serve")
    assert (done.exit_code, done.stderr) == (2, f"error: There is no Rerun file\n  where: {tmp_path / 'r.rrd'}\n")


def test_help_fits_eighty_columns() -> None:
    text = CliRunner().invoke(main, ["view", "--help"], terminal_width=80).output
    assert max(map(len, text.splitlines())) <= 80
