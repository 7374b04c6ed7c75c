"""The harness on a small scale: every case with the peers, and a tool that cheats."""

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from bench import data, sweep, table
from bench.data import Dataset
from bench.measure import Endpoint, Measured
from bench.sweep import Bench
from entrepot.embedded import binaries
from entrepot.errors import IntegrityError

SMALL = Dataset(count=40, size_bytes=64)
NOTHING = Measured(wall_s=0.1, cpu_s=0.1, peak_mib=1, tree_peak_mib=1)


@pytest.fixture(scope="module")
def mc_bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("bench")
    with sweep.opened(["mc"], runs=2, mc=binaries.mc(), root=root) as bench:
        yield bench


def cheating(bench: Bench, tool: Any) -> Bench:
    return Bench(bench.source, bench.target, {"cheat": tool}, runs=1, drop=bench.drop)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(sweep.main, list(args), catch_exceptions=False)


def test_every_case_with_both_peers() -> None:
    result = invoke("--json", "--tools", "mc,rclone", "--scale", "0.005", "--runs", "1")
    report = json.loads(result.stdout.splitlines()[-1])
    assert [case["name"] for case in report["cases"]] == [
        "cold-small",
        "cold-large",
        "warm",
        "changed-1pct",
        "warm-100k",
    ]
    for case in report["cases"]:
        assert set(case["peers"]) == {"mc", "rclone"}
        assert all(seconds > 0 for seconds in case["peers"].values())
        assert case["ours_s"] is None and case["ratio_to_best"] is None
        assert all(tool["cpu_s"] > 0 and tool["peak_mib"] > 1 for tool in case["tools"].values())
    assert set(report["versions"]) == {"mc", "minio", "rclone"}
    assert "unknown" not in report["versions"].values()


def test_an_unknown_case_or_tool_names_the_known_ones() -> None:
    assert "known: cold-small" in invoke("--cases", "cold-snall").output
    assert "known: ours, mc" in invoke("--tools", "cp").output


def test_a_tool_that_did_nothing_cannot_win(mc_bench: Bench) -> None:
    lazy = cheating(mc_bench, lambda _bucket: NOTHING)
    with pytest.raises(IntegrityError, match="not every object is there"):
        sweep.cold(lazy, "lazy-cold", SMALL)
    with pytest.raises(IntegrityError, match="bytes differ"):
        sweep.changed(lazy, "lazy-changed", SMALL)


def test_a_warm_run_that_writes_is_refused(mc_bench: Bench) -> None:
    def rewrite(bucket: str) -> Measured:
        data.put(SMALL, mc_bench.target, bucket, [3])
        return NOTHING

    with pytest.raises(IntegrityError, match="a warm run wrote something"):
        sweep.warm(cheating(mc_bench, rewrite), "rewritten", SMALL)


def test_seeded_sites_are_in_step_in_every_respect(mc_bench: Bench) -> None:
    sites = [mc_bench.source, mc_bench.target]
    mc_bench.create("seeded")
    data.seed(SMALL, sites, ["seeded"])

    def versions(endpoint: Endpoint) -> set[tuple[Any, ...]]:
        found = data.client(endpoint).list_objects("seeded", recursive=True, include_version=True)
        return {(v.object_name, v.version_id, v.last_modified, v.etag, v.size) for v in found}

    assert versions(sites[0]) == versions(sites[1])
    assert {name for name, *_ in versions(sites[0])} == {SMALL.key(i) for i in range(SMALL.count)}
    body = data.client(sites[0]).get_object("seeded", SMALL.key(7)).read()
    assert body == SMALL.body(7)


def test_multipart_copies_are_compared_by_their_bytes(mc_bench: Bench) -> None:
    # mc copies from 64 MiB on in parts, whose ETag is not the digest of the bytes.
    large = Dataset(count=1, size_bytes=64 << 20)
    mc_bench.create("parts")
    data.seed(large, [mc_bench.source], ["parts"])
    mc_bench.measure("mc", "parts")
    (here,), (there,) = data.check(large, mc_bench.source, mc_bench.target, "parts")
    assert "-" in there.etag and "-" not in here.etag
    mc_bench.drop("parts")


def runs(*walls_s: float, **more: Any) -> list[Measured]:
    return [
        Measured(wall_s, cpu_s=1, peak_mib=wall_s, tree_peak_mib=9, **more) for wall_s in walls_s
    ]


def test_figures_are_medians_and_leave_the_fixed_start_out() -> None:
    found: Mapping[str, list[Measured]] = {
        "mc": runs(4, 6, 50),
        "rclone": runs(8, 4, 1),
        "ours": runs(5, 3, 30, fixed_start_s=2, prefect_share=0.05),
    }
    case = table.case("warm", [SMALL], found)
    assert case["peers"] == {"mc": 6, "rclone": 4}
    assert (case["ours_s"], case["ours_fixed_start_s"], case["ours_total_s"]) == (3, 2, 5)
    assert (case["ratio_to_best"], case["ratio_total_to_best"]) == (0.75, 1.25)
    assert (case["ours_peak_mib"], case["prefect_share"]) == (30, 0.05)
    report = {"cases": [case], "runs": 3, "machine": table.machine()}
    console = Console(width=120, record=True, file=io.StringIO())
    table.show(report, console)
    assert "3.00 + 2.00" in console.export_text()
