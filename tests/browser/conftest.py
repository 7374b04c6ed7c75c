"""The browser of these tests, and a plain word where there is none.

Without Chromium these tests cannot run, and the end of the run says so; with
ENTREPOT_REQUIRE_BROWSER=1 (CI sets it) they fail instead.
"""

import os
from collections.abc import Iterator

import pytest

from entrepot.testing.browser import Browser, find_chromium

NOTICE = (
    "The browser tests did NOT run: no Chromium on PATH.",
    "To run them: scripts/install-chromium, or put any Chromium on PATH.",
)


def excused() -> bool:
    """No browser, and nobody insists on one."""
    return find_chromium() is None and os.environ.get("ENTREPOT_REQUIRE_BROWSER") != "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if excused():
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=NOTICE[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if any(NOTICE[0] in str(report.longrepr) for report in skipped):
        terminalreporter.section("browser")
        for line in NOTICE:
            terminalreporter.write_line(line)


@pytest.fixture
def browser() -> Iterator[Browser]:
    """A new Chromium with an empty profile."""
    with Browser() as opened:
        yield opened
