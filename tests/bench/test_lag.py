"""The lag benchmark on a small scale: both sides bring everything, and are told apart."""

import io
import json

from click.testing import CliRunner
from rich.console import Console

from bench import lag


def test_both_sides_are_measured() -> None:
    arguments = ["--json", "--seconds", "1", "--rate", "20", "--look-ms", "5"]
    result = CliRunner().invoke(lag.main, arguments, catch_exceptions=False)
    report = json.loads(result.stdout.splitlines()[-1])
    for found in (report, report["one_writer"]):
        for side in lag.SIDES:
            assert 0 < found[side]["p50_ms"] <= found[side]["p99_ms"]
    assert report["rate_per_s"] > 5
    console = Console(width=120, record=True, file=io.StringIO())
    lag.show(report, console)
    assert "minio p50" in console.export_text()
