"""The benchmark of the codec on a small scale."""

import io
import json

from click.testing import CliRunner
from rich.console import Console

from bench import codec

OPERATIONS = {
    *("openssl seal", "seal", "openssl open", "open", "md5", "pack", "unpack"),
    *("write encrypted", "read encrypted", "write compressed", "read compressed"),
    *("write both", "read both"),
}


def test_every_operation_has_a_rate_and_what_openssl_does_too_a_ratio() -> None:
    args = ["--json", "--runs", "1", "--scale", "0.05"]
    result = CliRunner().invoke(codec.main, args, catch_exceptions=False)
    report = json.loads(result.stdout.splitlines()[-1])
    found = {each["name"]: each for each in report["operations"]}
    assert set(found) == OPERATIONS
    assert all(each["mb_per_s"] > 0 for each in found.values())
    assert {name for name in found if found[name]["ratio"]} == {"seal", "open"}
    assert 0.3 < report["saved"] < 0.95
    assert all(report["versions"].values())


def test_the_ratio_is_that_of_medians_and_the_table_shows_it() -> None:
    rates = {"openssl seal": [1.0, 4.0, 100.0], "seal": [3.0, 9.0, 2.0], "md5": [7.0]}
    operations = codec.figures(rates)
    assert [each["ratio"] for each in operations] == [None, 0.75, None]
    out = io.StringIO()
    report = {"runs": 3, "saved": 0.5, "operations": operations}
    codec.show(report, Console(file=out, width=80))
    assert "0.75" in out.getvalue() and "50%" in out.getvalue()
