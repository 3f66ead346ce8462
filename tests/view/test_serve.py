"""Rerun's viewer listens on the loopback alone, and neither it nor its page reaches for the world."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from handloom.stores.errors import HandloomError
from handloom.view.rerun_file import write_rerun
from handloom.view.serve import POLICY, display, serving
from handloom.view.shown import showing

from browser import open_page

pytest.importorskip("rerun", reason="the extra 'view' is not installed")


@pytest.fixture
def file(scene: SimpleNamespace, tmp_path: Path) -> Path:
    scene.write(tmp_path / "r.zarr")
    return write_rerun(showing(tmp_path / "r.zarr"), tmp_path / "r.rrd").out


def port_of(address: str) -> int:
    return int(address.split("/")[2].rpartition(":")[2])


def get(port: int, path: str, host: str) -> tuple[int, str | None, bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Security-Policy"), answer.read()


def test_the_page_is_for_this_machine_and_talks_to_it_alone(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    with serving(file, port=0) as address:
        port = port_of(address)
        status, policy, text = get(port, "/", f"127.0.0.1:{port}")
        assert (status, policy) == (200, POLICY)
        assert b"re_viewer" in text
        assert get(port, "/", f"localhost:{port}")[0] == 200
        assert get(port, "/", "rebound.example.org")[0] == 403
        if sys.platform == "linux":
            listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            addresses = {at[1] for at in listening if at[3] == "0A" and int(at[1].split(":")[1], 16) == port}
            assert {at.split(":")[0] for at in addresses} == {"0100007F"}
        with pytest.raises(HandloomError, match=f"Port {port} cannot be served"), serving(file, port=port):
            pass
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
    # Rerun notes what it would send below its user's home.
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_a_browser_shows_the_recording_and_asks_nobody_else(file: Path) -> None:
    with serving(file, port=0) as address, open_page(address) as page:
        here = address.split("/?")[0]
        deadline = time.monotonic() + 60
        while not any("ReadMessages" in url for url in page.requests):
            assert time.monotonic() < deadline, page.requests
            page.evaluate("0")
            time.sleep(0.2)
        others = {url.split("/")[2] for url in page.requests if not url.startswith(here)}
        # The request for its font is in the page's text; the policy stops it, as it does all that follow.
        assert others <= {"fonts.googleapis.com"}
        stopped = [line for line in page.console if "Content Security Policy" in line]
        assert any("fonts.googleapis.com" in line for line in stopped)


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace on this machine")
def test_nothing_connects_anywhere_while_it_writes_and_serves(file: Path, tmp_path: Path) -> None:
    log = tmp_path / "connects.txt"
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys, time; from pathlib import Path\n"
        "from handloom.view.shown import showing; from handloom.view.rerun_file import write_rerun\n"
        "from handloom.view.serve import serving\n"
        "write_rerun(showing(Path(sys.argv[1])), Path(sys.argv[2]))\n"
        "with serving(Path(sys.argv[2]), port=0): time.sleep(2)\n"
    )
    home = tmp_path / "home"
    (home / ".config/rerun").mkdir(parents=True)
    # Not the first session, in which nothing is sent anyway.
    known = {"analytics_enabled": True, "analytics_id": "0" * 32, "metadata": {}}
    paths = {"config_file_path": str(home / ".config/rerun/analytics.json"), "data_dir_path": str(home / "analytics")}
    (home / ".config/rerun/analytics.json").write_text(json.dumps(known | paths))
    traced = subprocess.run(
        ["strace", "-f", "-e", "trace=connect,sendto", "-o", str(log), sys.executable, "-c", code,
         str(tmp_path / "r.zarr"), str(tmp_path / "again.rrd")],
        capture_output=True, text=True,
        env={"PYTHONPATH": str(root / ".dev"), "HOME": str(home), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    if "ptrace" in traced.stderr:
        pytest.skip("strace may not trace here")
    assert traced.returncode == 0, traced.stderr
    inet = [line for line in log.read_text().splitlines() if "AF_INET" in line]
    assert inet, "at least the wait for its ports is seen"
    assert [line for line in inet if "127.0.0.1" not in line] == []


def test_whether_there_is_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not display()
    monkeypatch.setenv("DISPLAY", ":0")
    assert display()
