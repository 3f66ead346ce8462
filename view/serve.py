"""Rerun's viewer on this machine alone: its window where there is a display, or its web page on the loopback.

Left to itself rerun 0.41 listens on every interface, and its viewers ask servers of theirs for usage statistics,
newer versions, examples and fonts. Here

- everything binds to 127.0.0.1;
- the programs are told that they run in CI, where rerun collects nothing, and that the way out is a proxy on a port
  where nothing listens (`QUIET`);
- the web page is handed out by a small relay whose content policy lets a browser talk to the relay only. It relays the
  data as well, so one port is enough for `ssh -L`, and refuses other host names, which a page of somebody else's could
  point to the loopback.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from ..stores.errors import BAD_ENVIRONMENT, HandloomError
from .rerun_file import load_rerun

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 9090
DEAD_END: Final = f"http://{LOOPBACK}:9"
"""The discard port: what asks for the world finds nobody."""
QUIET: Final = {
    "CI": "1",
    "TELEMETRY_ENABLED": "false",
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), DEAD_END),
    "NO_PROXY": f"{LOOPBACK},localhost",
    "no_proxy": f"{LOOPBACK},localhost",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self'"
)
STARTING_S: Final = 60.0
BLOCK_BYTES: Final = 1 << 16


def display() -> bool:
    """Whether a window can be opened here."""
    if sys.platform in ("win32", "darwin"):
        return not os.environ.get("SSH_CONNECTION")
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_viewer(file: Path) -> None:
    """Show the file in Rerun's window until it is closed.

    Raises:
        HandloomError: the viewer ended with an error, as it does without a graphics driver.
    """
    with _rerun(str(file), "--port", "auto") as (process, said):
        if process.wait():
            raise _failed(process, said, fix="--html F.html makes a page to look at, --serve shows it in a browser")


def serve(file: Path, *, port: int = PORT, say: Callable[[str], None]) -> None:
    """Hand the viewer and the file to browsers of this machine until ctrl-C.

    Args:
        file: a .rrd.
        port: of the page; data come through it as well.
        say: prints a line.

    Raises:
        HandloomError: the port is taken, or the viewer does not start.
    """
    with serving(file, port=port) as address:
        say(f"{address}")
        say(f"  from elsewhere: ssh -L {port}:{LOOPBACK}:{port} THIS_MACHINE, then the same address; ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            say("")


@contextmanager
def serving(file: Path, *, port: int) -> Iterator[str]:
    """The page's address; it is served inside the block (see `serve`)."""
    page, data = _free_port(), _free_port()
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _relay(page, data))
    except OSError as error:
        raise HandloomError(
            f"Port {port} cannot be served", why=error.strerror or str(error), fix=f"--port {port + 1}, say"
        ) from error
    try:
        with _rerun(str(file), "--serve-web", "--web-viewer-port", str(page), "--port", str(data)) as (process, said):
            _wait_for(process, said, (page, data))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            # The real port: 0 asks for any.
            here = f"{LOOPBACK}:{server.server_address[1]}"
            yield f"http://{here}/?url={quote(f'rerun+http://{here}/proxy', safe='')}&hide_welcome_screen=1"
            server.shutdown()
    finally:
        server.server_close()


@contextmanager
def _rerun(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Rerun's own program, bound to the loopback and quiet, and what it says; it ends with the block."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [str(_program()), *arguments, "--bind", LOOPBACK],
            env={**os.environ, **QUIET},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            yield process, said
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _failed(process: subprocess.Popen[bytes], said: IO[bytes], *, fix: str = "") -> HandloomError:
    said.seek(0)
    lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines()]
    error = next((line for line in lines if line.lower().startswith("error")), f"exit code {process.poll()}")
    return HandloomError("Rerun's viewer did not run", why=error[:300], fix=fix, exit_code=BAD_ENVIRONMENT)


def _program() -> Path:
    load_rerun()
    import rerun_cli

    folder = Path(str(rerun_cli.__file__)).parent
    names = ("rerun", "rerun.exe", "Rerun.app/Contents/MacOS/Rerun")
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise HandloomError("rerun-sdk came without its viewer", where=str(folder), exit_code=BAD_ENVIRONMENT)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _wait_for(process: subprocess.Popen[bytes], said: IO[bytes], ports: tuple[int, ...]) -> None:
    deadline = time.monotonic() + STARTING_S
    for port in ports:
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise _failed(process, said)
            try:
                socket.create_connection((LOOPBACK, port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)


def _relay(page: int, data: int) -> type[BaseHTTPRequestHandler]:
    """Handlers that pass files from the viewer's server and calls to its data server, under `POLICY`."""

    class Relay(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on(page, None)

        def do_POST(self) -> None:
            self._pass_on(data, self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def _pass_on(self, port: int, body: bytes | None) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host not in (LOOPBACK, "localhost"):
                self.send_error(403, "This machine only")
                return
            kept = ("accept", "accept-encoding", "content-type", "if-none-match", "user-agent")
            headers = {
                name: value for name, value in self.headers.items() if name.lower() in kept or name.lower()[:2] == "x-"
            }
            upstream = http.client.HTTPConnection(LOOPBACK, port)
            try:
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                self._answer(answer)
            except (OSError, http.client.HTTPException):
                self.close_connection = True  # either side has gone
            finally:
                upstream.close()

        def _answer(self, answer: http.client.HTTPResponse) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            # As it comes: the data's answer lasts as long as the viewer looks.
            while block := answer.read1(BLOCK_BYTES):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the terminal is for the user."""

    return Relay
