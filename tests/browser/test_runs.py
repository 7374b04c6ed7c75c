"""What a person sees of our runs in Prefect's UI: the run, its tasks, its artifacts."""

from pathlib import Path

import pytest

from entrepot.testing.browser import Browser, log_in_to_prefect
from tests.browser.png import varied_rows
from tests.running import Running

pytestmark = pytest.mark.browser

ROWS_MIN = 100
"""Rows of a picture that are not of one colour; a blank page or a spinner has fewer."""


def test_a_finished_run_and_its_artifacts_can_be_seen(
    stack: Running, browser: Browser, tmp_path: Path
) -> None:
    buckets = [stack.bucket("seen-one"), stack.bucket("seen-two")]
    for bucket in buckets:
        stack.fill("site-a", bucket, [f"{part}/{n:03d}" for part in "abcdef" for n in range(40)])
    options = [text for bucket in buckets for text in ("--bucket", bucket)]
    stack.entrepot("replicate", "rule", "add", "seen", *options)
    run = stack.replicate("seen")
    origin = stack.info.prefect_ui_url
    log_in_to_prefect(browser, origin, auth_string=stack.info.prefect_auth.get_secret_value())

    browser.open(f"{origin}/runs/flow-run/{run['id']}")
    for text in ("replicate seen", "Completed", "critical", "verified"):
        browser.wait_for_text(text)
    _picture(browser, tmp_path / "replicate-run.png")

    for artifact, text in (("replicate-report", "versions compared"), ("replicate-progress", "")):
        browser.open(f"{origin}/artifacts/key/{artifact}")
        browser.wait_for_text(text or artifact)
        _picture(browser, tmp_path / f"{artifact}.png")
    found = {each["key"]: each["id"] for each in stack.of_run("artifacts", run["id"])}
    browser.open(f"{origin}/artifacts/artifact/{found['replicate-report']}")
    for bucket in buckets:
        browser.wait_for_text(bucket)
    _picture(browser, tmp_path / "replicate-report-table.png")


def test_the_form_describes_every_parameter(
    stack: Running, browser: Browser, tmp_path: Path
) -> None:
    origin = stack.info.prefect_ui_url
    log_in_to_prefect(browser, origin, auth_string=stack.info.prefect_auth.get_secret_value())
    browser.open(f"{origin}/deployments/deployment/{stack.deployment()['id']}/run")
    for text in ("Name of the replication rule to sweep", "copy and mark nothing"):
        browser.wait_for_text(text)
    _picture(browser, tmp_path / "form.png")


def _picture(browser: Browser, path: Path) -> None:
    browser.screenshot(path)
    _, _, rows = varied_rows(path)
    assert rows >= ROWS_MIN, f"{path.name} shows next to nothing: {rows} rows"
