"""The browser itself, against a page of three lines."""

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from entrepot.errors import SetupError, Unavailable
from entrepot.testing.browser import Browser, find_chromium
from tests.browser.png import varied_rows

PAGE = b"""<!doctype html><title>t</title><body></body><script>
setTimeout(() => document.body.append("name: " + localStorage.getItem("name")), 300)
</script>"""


class Handler(http.server.BaseHTTPRequestHandler):
    """One page, and an empty one."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"" if self.path == "/blank" else PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def origin() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.browser
def test_page_finds_local_storage_and_is_pictured(
    browser: Browser, origin: str, tmp_path: Path
) -> None:
    browser.set_local_storage(origin, "name", 'a "quoted" name')
    browser.set_local_storage("http://elsewhere.example", "name", "of another page")
    browser.open(origin)
    browser.wait_for_text('name: a "quoted" name')
    browser.screenshot(tmp_path / "new" / "page.png")
    width, height, varied = varied_rows(tmp_path / "new" / "page.png")
    assert (width, height) == (1440, 1000)
    assert 5 < varied < 60  # one line of text

    browser.open(f"{origin}/blank")
    browser.screenshot(tmp_path / "blank.png")
    assert varied_rows(tmp_path / "blank.png")[2] == 0


@pytest.mark.browser
def test_what_a_page_lacks_is_said(browser: Browser, origin: str) -> None:
    browser.open(origin)
    with pytest.raises(Unavailable, match="name: null"):
        browser.wait_for_text("no such words", timeout_s=1)
    with pytest.raises(Unavailable, match="ERR_"):
        browser.open("http://127.0.0.1:1/")


@pytest.mark.browser
def test_dead_browser_is_an_error_and_leaves_nothing(origin: str) -> None:
    with Browser() as browser:
        profile = browser._profile
        browser._process.kill()
        with pytest.raises(Unavailable, match="did not answer"):
            browser.open(origin)
    assert not profile.exists()


def test_no_chromium_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_CHROMIUM", "/nowhere/chromium")
    assert find_chromium() is None
    with pytest.raises(SetupError, match="no Chromium"):
        Browser().__enter__()


def test_program_that_is_no_chromium_is_a_setup_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENTREPOT_CHROMIUM", "false")
    with pytest.raises(SetupError, match="ended while starting"):
        Browser().__enter__()


@pytest.mark.parametrize(("required", "code"), [("0", 0), ("1", 1)])
def test_run_without_chromium_says_so_or_fails(required: str, code: int) -> None:
    """A run of its own over one browser test, on a machine made to have no Chromium."""
    lacking = {"ENTREPOT_CHROMIUM": "/nowhere/chromium", "ENTREPOT_REQUIRE_BROWSER": required}
    one = f"{__file__}::{test_page_finds_local_storage_and_is_pictured.__name__}"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", one],
        env=os.environ | lacking,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == code, result.stdout
    said = "The browser tests did NOT run" if code == 0 else "SetupError: no Chromium on PATH"
    assert said in result.stdout
