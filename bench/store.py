"""S3 clients side by side on one server: ours, the ``minio`` SDK and ``obstore``.

    python -m bench.store [--json] [--runs 3] [--scale 1]

In each repetition the clients take turns (A B C A B C), each measurement in a process of its own
(``bench.clients``), whose start is not in it; each figure is a median. Objects go into a bucket
that no other run saw, where another client looks for them afterwards.

Words: *operation* one request for an object, or one entry of a listing. *CPU* of the client's
process with all its threads; the server's is not in it. *ratio* wall time to that of ours; *none*
not offered by that client. *token* an entry as the endpoint sent it; *split* a page into tokens,
*decode* a token.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from hashlib import md5
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from bench import data, peers, table
from bench.clients import CLIENTS, IN_FLIGHT, timed
from bench.data import Dataset
from bench.measure import MIB, Endpoint
from bench.reaper import watched
from bench.servers import site
from bench.sweep import MANY, scaled
from entrepot.embedded import binaries
from entrepot.errors import IntegrityError
from entrepot.store.s3 import http, listing
from entrepot.store.s3.sign import Credentials

SMALL = Dataset(count=4_000, size_bytes=8 * 1024)
LARGE = Dataset(count=4, size_bytes=64 * MIB)
LISTINGS = ("list", "versions", "versions, undecoded", "versions with metadata")
TOKEN_PAGES = 20
"""Pages whose tokens are timed: decoding 20,000 takes a tenth of a second."""

Costs = Mapping[str, list[tuple[float, float]]]
"""Wall and CPU seconds of each run of each client."""


def run(
    endpoint: Endpoint, client: str, operation: str, bucket: str, dataset: Dataset
) -> tuple[float, float]:
    """Wall and CPU seconds of one measurement."""
    command = [sys.executable, "-m", "bench.clients", client, operation, bucket]
    command += [str(dataset.count), str(dataset.size_bytes)]
    done = subprocess.run(
        command, input=json.dumps(asdict(endpoint)), stdout=subprocess.PIPE, text=True, check=True
    )
    wall_s, cpu_s = json.loads(done.stdout)
    return wall_s, cpu_s


def objects(
    endpoint: Endpoint, dataset: Dataset, *, runs: int, drop: Callable[[str], None]
) -> tuple[Costs, Costs]:
    """Putting the dataset, and getting it."""
    puts: Costs = {name: [] for name in CLIENTS}
    gets: Costs = {name: [] for name in CLIENTS}
    for number in range(runs):
        for name in CLIENTS:
            bucket = f"{name}-{dataset.size_bytes}-{number}"
            data.create(endpoint, bucket)
            puts[name].append(run(endpoint, name, "put", bucket, dataset))
            check(endpoint, dataset, bucket)
            gets[name].append(run(endpoint, name, "get", bucket, dataset))
            drop(bucket)
    return puts, gets


def check(endpoint: Endpoint, dataset: Dataset, bucket: str) -> None:
    """``IntegrityError`` unless the bucket holds the dataset; one PUT makes an MD5 the ETag."""
    found = {entry.key: entry.etag for entry in data.listing(endpoint, bucket)}
    for index in range(dataset.count):
        if found.pop(dataset.key(index), "") != md5(dataset.body(index)).hexdigest():
            raise IntegrityError("not every object is there", bucket=bucket)


def entries(endpoint: Endpoint, bucket: str, kind: str, dataset: Dataset, *, runs: int) -> Costs:
    """One kind of listing of a bucket with that many entries, by the clients that offer it."""
    found: Costs = {name: [] for name, opened in CLIENTS.items() if kind in opened(endpoint)}
    for _ in range(runs):
        for name, costs in found.items():
            costs.append(run(endpoint, name, kind, bucket, dataset))
    return found


def tokens(endpoint: Endpoint, bucket: str, *, runs: int) -> dict[str, Any]:
    """CPU time to split and to decode pages of versions that were captured before."""
    pages = asyncio.run(_captured(endpoint, bucket))
    found = [listing.versions_page(page) for page in pages]
    split: list[float] = []
    decode: list[float] = []
    for _ in range(runs):  # one page is held at a time, as in a sweep
        split.append(timed(lambda: sum(len(listing.versions_page(page)) for page in pages))[1])
        decode.append(timed(lambda: sum(len(page.versions) for page in found))[1])
    count = sum(map(len, found))
    return {
        "entries": count,
        "split_us": round(median(split) / count * 1e6, 3),
        "decode_us": round(median(decode) / count * 1e6, 3),
    }


async def _captured(endpoint: Endpoint, bucket: str) -> list[bytes]:
    credentials = Credentials(endpoint.access_key, SecretStr(endpoint.secret_key), endpoint.region)
    source = http.Endpoint(
        endpoint.url, credentials, max_connections=1, connect_timeout_s=5, read_timeout_s=60
    )
    query, pages = {"versions": "", "encoding-type": "url"}, list[bytes]()
    try:
        while len(pages) < TOKEN_PAGES:
            pages.append(await source.text("GET", bucket, query=query))
            if not listing.is_truncated(pages[-1]):
                break
            page = listing.versions_page(pages[-1])
            query |= listing.next_versions(pages[-1], page)
    finally:
        await source.close()
    return pages


def figures(name: str, dataset: Dataset, costs: Costs, *, moves: bool) -> dict[str, Any]:
    """One entry of ``operations``; only what ``moves`` the bytes of objects has a rate of them."""
    walls_s = {client: median(wall_s for wall_s, _ in runs) for client, runs in costs.items()}
    size_mb = dataset.count * dataset.size_bytes / 1e6
    clients = {
        client: {
            "runs_s": [round(wall_s, 3) for wall_s, _ in costs[client]],
            "wall_s": round(wall_s, 3),
            "per_s": round(dataset.count / wall_s, 1),
            "mb_per_s": round(size_mb / wall_s, 1) if moves else None,
            "cpu_us": round(median(cpu_s for _, cpu_s in costs[client]) / dataset.count * 1e6, 1),
            "ratio": round(wall_s / walls_s["ours"], 2) if "ours" in walls_s else None,
        }
        for client, wall_s in walls_s.items()
    }
    return {
        "name": name,
        "operations": dataset.count,
        "clients": {client: clients.get(client) for client in CLIENTS},
    }


def measure(
    endpoint: Endpoint, *, runs: int, scale: float, drop: Callable[[str], None]
) -> dict[str, Any]:
    """Every operation by every client."""
    found = []
    for size, each in (("8 KiB", SMALL), ("64 MiB", LARGE)):
        _say(f"objects of {size}")
        dataset = scaled(each, scale)
        puts, gets = objects(endpoint, dataset, runs=runs, drop=drop)
        found += [figures(f"put {size}", dataset, puts, moves=True)]
        found += [figures(f"get {size}", dataset, gets, moves=True)]
    many, bucket = scaled(MANY, scale), "listed"
    data.create(endpoint, bucket)
    data.seed(many, [endpoint], [bucket])
    for kind in LISTINGS:
        _say(kind)
        costs = entries(endpoint, bucket, kind, many, runs=runs)
        found += [figures(kind, many, costs, moves=False)]
    return {"operations": found, "tokens": tokens(endpoint, bucket, runs=runs)}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """The table for people: one line an operation and client."""
    took = report["tokens"]
    shown = Table(
        title=f"S3 clients, median of {report['runs']}, objects {IN_FLIGHT} in flight",
        caption=f"our tokens: {took['split_us']} µs to split, {took['decode_us']} µs to decode",
    )
    for name in ("operation", "client", "seconds", "per second", "MB/s", "CPU µs", "ratio"):
        shown.add_column(name, justify="left" if name in ("operation", "client") else "right")
    for operation in report["operations"]:
        for client, found in operation["clients"].items():
            cost = found or {"wall_s": "none"}
            cells = [cost.get(name) for name in ("wall_s", "per_s", "mb_per_s", "cpu_us", "ratio")]
            shown.add_row(operation["name"], client, *("" if x is None else str(x) for x in cells))
        shown.add_section()
    (console or Console()).print(shown)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--runs", default=3, type=click.IntRange(1, 100), help="Repetitions.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 1.0), help="Share of the data.")
def main(*, as_json: bool, runs: int, scale: float) -> None:
    """Measure our S3 client against the minio SDK and obstore."""
    mc, minio = binaries.mc(progress=_say), binaries.minio(progress=_say)
    clients = {name: version(name) for name in ("aiohttp", "minio", "obstore", "uvloop")}
    report = {
        "runs": runs,
        "scale": scale,
        "machine": table.machine(),
        "versions": clients | {"server": peers.versions(mc=mc, minio=minio)["minio"]},
    }
    root = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    try:
        with watched(root), site("benchstore", root) as endpoint:
            report |= measure(
                endpoint,
                runs=runs,
                scale=scale,
                drop=lambda bucket: peers.drop(endpoint, bucket, mc=mc, scratch=root),
            )
    finally:
        shutil.rmtree(root)
    if as_json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
