"""A headless Chromium for screenshots of pages that want a login, driven over DevTools.

One page, one new and empty profile that goes away with it; nothing of the user's own browser is
read or kept. What is set in local storage is set before the first script of a page runs, which is
how a page finds itself logged in.

Words: *origin* scheme, host and port of a page, as in ``http://127.0.0.1:4200``; *DevTools*
Chromium's own protocol of JSON messages over a WebSocket
(https://chromedevtools.github.io/devtools-protocol/).

    with Browser() as browser:
        log_in_to_prefect(browser, "http://127.0.0.1:4200", auth_string="admin:secret")
        browser.open("http://127.0.0.1:4200/runs")
        browser.wait_for_text("Completed")
        browser.screenshot(Path("runs.png"))

``python -m entrepot.testing.browser URL FILE.png`` does that for one page (see ``scripts/look``).
"""

import argparse
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from entrepot.clock import SYSTEM_CLOCK, Clock
from entrepot.errors import PermanentError, SetupError, Unavailable

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""What distributions call it, most likely first."""

FLAGS = (
    "--headless",
    "--no-sandbox",  # as root in a container there is none to be had
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

START_TIMEOUT_S = 60.0  # a cold start on a busy two-core machine was seen to take 9 s
ANSWER_TIMEOUT_S = 60.0  # one DevTools call, a screenshot of a large page included
POLL_S = 0.1
STILL_S = 0.5  # Prefect's run graph draws itself in steps up to 0.3 s apart
STILL_TIMEOUT_S = 8.0


def find_chromium() -> str | None:
    """Path of the Chromium to use: ``$ENTREPOT_CHROMIUM``, else from PATH, else ``None``."""
    chosen = os.environ.get("ENTREPOT_CHROMIUM")
    names = (chosen,) if chosen else NAMES
    return next((path for path in map(shutil.which, names) if path), None)


class Browser:
    """One page of a headless Chromium, 1440 x 1000 pixels unless told otherwise.

    Raises ``SetupError`` where there is no Chromium or it does not start, ``Unavailable`` when a
    page cannot be reached, does not come to show what is waited for, or the browser dies.
    """

    def __init__(
        self, *, width_px: int = 1440, height_px: int = 1000, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._width_px = width_px
        self._height_px = height_px
        self._clock = clock
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        path = find_chromium()
        if path is None:
            raise SetupError("no Chromium on PATH", hint="scripts/install-chromium")
        self._profile = Path(tempfile.mkdtemp(prefix="entrepot-browser-"))
        self._log = (self._profile / "stderr.log").open("wb")
        self._process = subprocess.Popen(
            [
                path,
                *FLAGS,
                f"--user-data-dir={self._profile / 'data'}",
                f"--window-size={self._width_px},{self._height_px}",
                "--remote-debugging-port=0",  # 0: any free one, on loopback only
                "about:blank",
            ],
            env={**os.environ, "TMPDIR": str(self._profile)},  # its litter goes with it
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,  # a group of its own, to be ended as one
        )
        try:
            self._socket = self._connect()
            self._call("Page.enable")  # without it, scripts for new documents are not run
            # The page gets the whole size; of a window, some would go to tabs and address bar.
            self._call(
                "Emulation.setDeviceMetricsOverride",
                width=self._width_px,
                height=self._height_px,
                deviceScaleFactor=1,
                mobile=False,
            )
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._stop()

    def set_local_storage(self, origin: str, key: str, value: str) -> None:
        """Have ``key`` in the local storage of ``origin`` for every page opened from now on."""
        script = (
            f"if (location.origin === {json.dumps(origin)}) "
            f"localStorage.setItem({json.dumps(key)}, {json.dumps(value)})"
        )
        self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def open(self, url: str) -> None:
        """Go to ``url`` and wait until the page and what it names are loaded."""
        answer = self._call("Page.navigate", url=url)
        if answer.get("errorText"):
            raise Unavailable("page did not open", url=url, reason=answer["errorText"])
        self._wait(
            lambda: bool(self._evaluate("document.readyState === 'complete'")),
            ANSWER_TIMEOUT_S,
            lambda: Unavailable("page did not finish loading", url=url),
        )

    def text(self) -> str:
        """The text that the page shows now."""
        return str(self._evaluate("document.body ? document.body.innerText : ''"))

    def wait_for_text(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Wait until the page shows ``text``; ``Unavailable`` with what it shows instead."""
        self._wait(
            lambda: text in self.text(),
            timeout_s,
            lambda: Unavailable("page does not show the text", text=text, shows=self.text()[:500]),
        )

    def screenshot(self, path: Path) -> None:
        """Write what the window shows to ``path`` as a PNG, once it holds still.

        A page that never does (a spinner, a clock) is taken as it is after ``STILL_TIMEOUT_S``.
        """
        deadline = self._clock.monotonic() + STILL_TIMEOUT_S
        before, picture = b"", self._picture()
        while picture != before and self._clock.monotonic() < deadline:
            time.sleep(STILL_S)
            before, picture = picture, self._picture()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)

    def _picture(self) -> bytes:
        answer = self._call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])

    def _connect(self) -> Connection:
        """DevTools of the first page; Chromium writes its port into a file of the profile."""
        port_file = self._profile / "data" / "DevToolsActivePort"

        def listening() -> bool:
            if self._process.poll() is not None:
                raise self._failed("Chromium ended while starting")
            return port_file.exists() and port_file.read_text().count("\n") >= 1

        self._wait(listening, START_TIMEOUT_S, lambda: self._failed("Chromium did not start"))
        port, browser_path = port_file.read_text().split("\n")[:2]
        address = f"ws://127.0.0.1:{port}"
        with _socket(address + browser_path) as browser:
            targets = self._call("Target.getTargets", socket=browser)["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        return _socket(f"{address}/devtools/page/{page}")

    def _failed(self, message: str) -> SetupError:
        log = (self._profile / "stderr.log").read_text(errors="replace")
        return SetupError(message, hint="scripts/install-chromium", log=log[-500:])

    def _evaluate(self, expression: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def _call(self, method: str, *, socket: Connection | None = None, **params: Any) -> Any:
        """Send one command and wait for its answer; events that arrive meanwhile are dropped."""
        socket = socket or self._socket
        number = next(self._numbers)
        try:
            socket.send(json.dumps({"id": number, "method": method, "params": params}))
            while True:
                message = json.loads(socket.recv(timeout=ANSWER_TIMEOUT_S))
                if message.get("id") == number:
                    break
        except (ConnectionClosed, TimeoutError) as error:
            raise Unavailable("Chromium did not answer", method=method) from error
        if "error" in message:
            raise PermanentError("Chromium refused a command", method=method, **message["error"])
        return message["result"]

    def _wait(
        self, done: Callable[[], bool], timeout_s: float, failure: Callable[[], Exception]
    ) -> None:
        deadline = self._clock.monotonic() + timeout_s
        while not done():
            if self._clock.monotonic() > deadline:
                raise failure()
            time.sleep(POLL_S)

    def _stop(self) -> None:
        """End Chromium with its helper processes; the profile is nobody's afterwards."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        # The helpers end a moment after the signal and may still be writing into the profile.
        for _ in range(50):
            shutil.rmtree(self._profile, ignore_errors=True)
            if not self._profile.exists():
                break
            time.sleep(POLL_S)


def _socket(address: str) -> Connection:
    # A screenshot is one message of some MB; loopback goes past any proxy of the environment.
    return connect(address, max_size=None, proxy=None)


def log_in_to_prefect(browser: Browser, origin: str, *, auth_string: str) -> None:
    """Let Prefect's UI at ``origin`` find its server's auth string (``user:password``).

    Both of its UIs look for it, in base64, under one key of the local storage.
    """
    encoded = base64.b64encode(auth_string.encode()).decode()
    browser.set_local_storage(origin, "prefect-password", encoded)


def main() -> None:
    """Take one screenshot; ``$PREFECT_API_AUTH_STRING``, where set, logs in to Prefect's UI."""
    parser = argparse.ArgumentParser(description="Take a screenshot of a page.")
    parser.add_argument("url")
    parser.add_argument("png", type=Path)
    parser.add_argument("--text", default="", help="wait until the page shows this")
    chosen = parser.parse_args()
    with Browser() as browser:
        if auth_string := os.environ.get("PREFECT_API_AUTH_STRING"):
            parts = urlsplit(chosen.url)
            origin = f"{parts.scheme}://{parts.netloc}"
            log_in_to_prefect(browser, origin, auth_string=auth_string)
        browser.open(chosen.url)
        browser.wait_for_text(chosen.text)
        browser.screenshot(chosen.png)


if __name__ == "__main__":
    main()
