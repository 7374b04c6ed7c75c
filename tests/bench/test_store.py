"""The clients side by side on a small scale, and clients that cheat."""

import io
import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from rich.console import Console

from bench import clients, data, store
from bench.data import Dataset
from bench.measure import Endpoint
from bench.servers import site
from entrepot.errors import IntegrityError

TINY = Dataset(count=40, size_bytes=64)
OFFERED = {
    "put 8 KiB": {"ours", "minio", "obstore"},
    "get 8 KiB": {"ours", "minio", "obstore"},
    "put 64 MiB": {"ours", "minio", "obstore"},
    "get 64 MiB": {"ours", "minio", "obstore"},
    "list": {"ours", "minio", "obstore"},
    "versions": {"ours", "minio"},
    "versions, undecoded": {"ours"},
    "versions with metadata": {"minio"},
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with site("benchstore", tmp_path_factory.mktemp("bench")) as server:
        yield server


def test_every_operation_by_every_client_that_offers_it() -> None:
    args = ["--json", "--runs", "1", "--scale", "0.012"]
    result = CliRunner().invoke(store.main, args, catch_exceptions=False)
    report = json.loads(result.stdout.splitlines()[-1])
    found = {each["name"]: each["clients"] for each in report["operations"]}
    assert {name: {c for c in by if by[c]} for name, by in found.items()} == OFFERED
    for name, by_client in found.items():
        for cost in filter(None, by_client.values()):
            assert cost["wall_s"] > 0 and cost["per_s"] > 0 and cost["cpu_us"] > 0
            assert (cost["mb_per_s"] is not None) == ("iB" in name)
            assert (cost["ratio"] is not None) == ("ours" in OFFERED[name])
    assert report["tokens"]["entries"] == 1200
    assert 0 < report["tokens"]["split_us"] < report["tokens"]["decode_us"]
    assert "unknown" not in report["versions"].values()


@pytest.mark.parametrize(
    ("operation", "answer"), [("get", {TINY.key(0): TINY.size_bytes}), ("list", TINY.count - 1)]
)
def test_reading_less_than_all_is_no_result(operation: str, answer: object) -> None:
    with pytest.raises(IntegrityError, match="not everything was read"):
        clients.measured({operation: lambda *_: answer}, operation, "any", TINY)


def test_putting_other_bytes_is_no_result(endpoint: Endpoint) -> None:
    data.create(endpoint, "other")
    data.put(TINY, endpoint, "other", range(TINY.count))
    store.check(endpoint, TINY, "other")
    data.put(TINY, endpoint, "other", [7], salt="other")
    with pytest.raises(IntegrityError, match="not every object"):
        store.check(endpoint, TINY, "other")


def test_figures_are_medians_and_the_table_says_what_is_not_offered() -> None:
    costs = {"ours": [(2.0, 1.0), (4.0, 2.0), (90.0, 3.0)], "minio": [(8.0, 4.0)]}
    found = store.figures("put", Dataset(1000, 8000), costs, moves=True)
    ours, minio = found["clients"]["ours"], found["clients"]["minio"]
    assert (ours["wall_s"], ours["per_s"], ours["mb_per_s"]) == (4, 250, 2)
    assert (ours["cpu_us"], ours["ratio"], minio["ratio"]) == (2000, 1, 2)
    assert found["clients"]["obstore"] is None
    report = {"runs": 3, "operations": [found], "tokens": {"split_us": 0.2, "decode_us": 4}}
    console = Console(width=120, record=True, file=io.StringIO())
    store.show(report, console)
    assert "none" in console.export_text()
