"""Prefect's own UI with a login: a real server, a real flow run, pictures of both."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from entrepot.testing.browser import Browser, log_in_to_prefect
from tests.browser.png import varied_rows

AUTH_STRING = "admin:of-this-test"

FLOW = """
from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

@task
def count():
    create_table_artifact([{"bucket": "photos", "objects": 12345}], key="usage-table")

@flow(log_prints=False)
def seen_in_the_browser():
    count()
    return flow_run.id

print("run", seen_in_the_browser())
"""


@dataclass(frozen=True)
class Prefect:
    """A running server: where its UI is, and the environment of its clients."""

    origin: str
    environment: dict[str, str]

    def run(self, code: str) -> str:
        """Standard output of ``code`` run as a client."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/api/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    pytest.fail(f"Prefect did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefect]:
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = clean | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{origin}/api",
        "PREFECT_API_AUTH_STRING": AUTH_STRING,
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_AUTH_STRING": AUTH_STRING,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
    }
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until_healthy(origin, server, log)
            yield Prefect(origin, environment)
        finally:
            server.terminate()
            server.wait(timeout=30)


@pytest.mark.browser
def test_run_and_artifact_are_seen_after_login(
    prefect: Prefect, browser: Browser, tmp_path: Path
) -> None:
    found = re.search(r"^run (\S+)$", prefect.run(FLOW), re.MULTILINE)
    assert found
    log_in_to_prefect(browser, prefect.origin, auth_string=AUTH_STRING)
    for page, words in {
        f"runs/flow-run/{found[1]}": ("seen-in-the-browser", "Completed"),
        "artifacts": ("usage-table",),
    }.items():
        browser.open(f"{prefect.origin}/{page}")
        for text in words:
            browser.wait_for_text(text, timeout_s=60)
        picture = tmp_path / f"{page.split('/')[0]}.png"
        browser.screenshot(picture)
        assert varied_rows(picture)[2] > 100


@pytest.mark.browser
def test_wrong_login_sees_nothing(prefect: Prefect, browser: Browser) -> None:
    log_in_to_prefect(browser, prefect.origin, auth_string="admin:wrong")
    browser.open(f"{prefect.origin}/artifacts")
    browser.wait_for_text("Authentication failed", timeout_s=60)
