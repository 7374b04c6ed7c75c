"""The service beside the bare store on a small scale, and what must not count as a result."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bench import data, objects
from bench.data import Dataset
from bench.objects import Bench, Group
from bench.sides import Text
from entrepot.embedded import binaries
from entrepot.errors import IntegrityError

NAMES = (
    *("put-8k", "get-8k", "put-8k-latency", "get-8k-latency"),
    *("put-64m", "get-64m"),
    *("put-64m-encrypted", "get-64m-encrypted", "put-64m-compressed", "get-64m-compressed"),
    "list-100k",
)


@pytest.fixture(scope="module")
def bench(servers_dir: Path) -> Iterator[Bench]:
    root = servers_dir / "bench-objects"
    root.mkdir(mode=0o711)
    with objects.opened(root, runs=1, scale=1, mc=binaries.mc()) as opened:
        yield opened


def invoke(*args: str) -> Result:
    return CliRunner().invoke(objects.main, list(args), catch_exceptions=False)


def test_every_case_on_both_sides() -> None:
    result = invoke("--json", "--runs", "1", "--scale", "0.02", "--stream-mib", "1")
    report = json.loads(result.stdout.splitlines()[-1])
    assert tuple(case["name"] for case in report["cases"]) == NAMES
    for case in report["cases"]:
        assert case["direct"] > 0 and case["ours"] > 0 and case["callers"] > 0
        better = 1 if case["unit"] != "ms" else -1  # a ratio above 1 says that ours is better
        assert case["ratio"] == pytest.approx((case["ours"] / case["direct"]) ** better, rel=0.02)
    assert [each["mib"] for each in report["memory"]["sizes"]] == [1, 2]
    assert all(each["peak_mib"] > 50 for each in report["memory"]["sizes"])
    assert "unknown" not in report["versions"].values()
    console = Console(width=120, record=True, file=io.StringIO())
    objects.show(report, console)
    shown = console.export_text()
    assert "put-64m-compressed" in shown and "Peak of 64 streams" in shown


def test_an_unknown_case_names_the_known_ones() -> None:
    assert "known: 8k" in invoke("--cases", "8kb").output


@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_the_bodies_of_the_compressed_cases_are_compressed(bench: Bench, kind: str) -> None:
    group = Group(Text(1, 4 << 20), callers=1, kind=kind)
    bench.measure("ours", "put", f"packed-{kind}", group)
    [entry] = data.listing(bench.endpoint, f"packed-{kind}")
    assert (entry.size_bytes < group.dataset.size_bytes / 2) == (kind == "compressed")


def test_what_is_missing_is_no_result(bench: Bench) -> None:
    group = Group(Dataset(5, 64), callers=2)
    bench.measure("ours", "put", "missing", group)
    bench.measure("ours", "get", "missing", group)
    more = replace(group, dataset=Dataset(6, 64))
    longer = replace(group, dataset=Dataset(5, 65))
    for verb, other in (("get", more), ("get", longer), ("list", more)):
        with pytest.raises(IntegrityError, match="tool failed"):
            bench.measure("ours", verb, "missing", other)
