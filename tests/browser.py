"""A page in the system's Chromium without a window: what tests of pages drive and what they ask it.

Speaks the DevTools protocol over a pipe (`--remote-debugging-pipe`: JSON, a zero byte after each message), so no
port is opened and no package is needed. A test says `with open_page(path) as page:` and is skipped, with the reason,
where there is no Chromium.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0
KEY_CODES = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32, "Home": 36, "End": 35}


class Page:
    """One page; coordinates are CSS pixels of its window."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self._own: set[str] = set()
        self._loaded = False
        self.console: list[str] = []
        """What the page logged, and its exceptions."""
        self.requests: list[str] = []
        """Addresses that it asked for, but for its own and what it holds itself."""

    @property
    def problems(self) -> list[str]:
        """What a page must not do: log, raise, be refused something by its policy, ask for anything."""
        self.evaluate("0")  # whatever has happened before is reported before the answer
        return [*self.console, *(f"request: {url}" for url in self.requests)]

    def open(self, url: str) -> None:
        """Go there, and wait until it has loaded."""
        self._own.add(url)
        self._loaded = False
        self.call("Page.navigate", url=url)
        deadline = time.monotonic() + PATIENCE_S
        while not self._loaded:
            self._receive(deadline)

    def evaluate(self, script: str) -> Any:
        """The value of an expression, that of a promise when it has one."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise AssertionError(f"{script}: {_exception(said['exceptionDetails'])}")
        return said["result"].get("value")

    def wait_for(self, script: str) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := self.evaluate(script)):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.02)
        return value

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of the first element of a CSS selector, scrolled into sight."""
        found = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e) return null;"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
        )
        assert found, f"the page has no {selector}"
        return found[0], found[1], found[2], found[3]

    def click(self, selector: str) -> None:
        """A click into an element's middle."""
        x, y, width, height = self.box(selector)
        self.drag(x + width / 2, y + height / 2, x + width / 2, y + height / 2)

    def drag(self, x0: float, y0: float, x1: float, y1: float, *, steps: int = 4, modifiers: int = 0) -> None:
        """Press the left button at one place, let go at another; `modifiers` as for `key`."""
        held: dict[str, Any] = {"button": "left", "modifiers": modifiers}
        self._mouse("mouseMoved", x0, y0, buttons=0)
        self._mouse("mousePressed", x0, y0, buttons=1, clickCount=1, **held)
        for i in range(1, steps + 1) if (x0, y0) != (x1, y1) else ():
            self._mouse("mouseMoved", x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps, buttons=1, **held)
        self._mouse("mouseReleased", x1, y1, buttons=0, clickCount=1, **held)

    def wheel(self, x: float, y: float, delta: float) -> None:
        """Turn the wheel; positive is towards the user."""
        self._mouse("mouseWheel", x, y, deltaX=0, deltaY=delta)

    def key(self, name: str, *, modifiers: int = 0) -> None:
        """Press and release a key: a letter, or a name such as `ArrowRight`; 1 is Alt, 2 Ctrl, 8 Shift with it."""
        code = KEY_CODES.get(name, ord(name.upper()) if len(name) == 1 else 0)
        text: dict[str, Any] = {"text": name} if len(name) == 1 and not modifiers & 2 else {}
        text |= {"modifiers": modifiers} if modifiers else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=name, windowsVirtualKeyCode=code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def resize(self, width: int, height: int) -> None:
        """Another window."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def theme(self, scheme: str) -> None:
        """What the user prefers: `light` or `dark`."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._last:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def attach(self) -> None:
        """To a fresh tab, whose events are told from now on."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"Chromium did not answer in {PATIENCE_S:.0f} s"
            data = os.read(self._from, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, said: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self._loaded = True
            case "Runtime.exceptionThrown":
                self.console.append(f"exception: {_exception(said['exceptionDetails'])}")
            case "Runtime.consoleAPICalled":
                self.console.append(f"{said['type']}: {[a.get('value', a.get('description')) for a in said['args']]}")
            case "Log.entryAdded":
                self.console.append(f"{said['entry']['level']}: {said['entry']['text']}")
            case "Network.requestWillBeSent":
                url = said["request"]["url"]
                if url not in self._own and not url.startswith(("data:", "blob:", "about:")):
                    self.requests.append(url)


@contextlib.contextmanager
def open_page(path: Path | str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> Iterator[Page]:
    """A file or an address in a browser of its own, which ends with the block."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory(prefix="handloom-browser-", ignore_cleanup_errors=True) as profile:
        pid, to_browser, from_browser = _start(program, profile)
        try:
            page = Page(to_browser, from_browser)
            page.attach()
            page.resize(width, height)
            page.theme(scheme)
            page.open(path.resolve().as_uri() if isinstance(path, Path) else path)
            yield page
        finally:
            os.close(to_browser)
            os.close(from_browser)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _start(program: str, profile: str) -> tuple[int, int, int]:
    """The browser's process, and the ends of its pipes; it reads its third file and writes its fourth."""
    theirs_read, ours_write = (_high(end) for end in os.pipe())
    ours_read, theirs_write = (_high(end) for end in os.pipe())
    flags = [
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio",
        "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
        "--enable-unsafe-swiftshader", "--use-angle=swiftshader", f"--user-data-dir={profile}",
        "--remote-debugging-pipe", "about:blank",
    ]  # fmt: skip
    actions = [
        (os.POSIX_SPAWN_DUP2, theirs_read, 3),
        (os.POSIX_SPAWN_DUP2, theirs_write, 4),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    pid = os.posix_spawn(program, [program, *flags], os.environ, file_actions=actions, setpgroup=0)
    os.close(theirs_read)
    os.close(theirs_write)
    return pid, ours_write, ours_read


def _high(end: int) -> int:
    """The same end under a number that the child's third and fourth file do not collide with; not inherited."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(end)
    return moved


def _exception(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
