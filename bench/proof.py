"""What comparing two sites costs beside listing both, and whether its memory grows with the keys.

    python -m bench.proof [--json] [--keys 100000] [--memory-keys 10000,300000] [--runs 3]

``listing`` reads every page of both sites at once and looks at nothing, with our own store: less
than that no comparison can cost. ``verify`` and ``verify-attributes`` compare the two sites, which
were seeded in step; ``listing-details`` reads the pages that the second of them reads. They take
turns; figures are medians. Memory is that of a process which compares two generated sites.
"""

import asyncio
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
from pydantic import SecretStr

from bench import table
from bench.data import Dataset, create, seed
from bench.generated import BUCKET
from bench.measure import Endpoint
from bench.memory import generated_site
from bench.servers import site
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import IntegrityError
from entrepot.replication.proof.record import Level, Profile
from entrepot.replication.proof.verify import Comparison, Proof, verify
from entrepot.replication.sites import Site
from entrepot.store.protocol import Capability
from entrepot.store.s3 import S3Store

Work = Callable[[], Awaitable[int]]


def opened(endpoints: Sequence[Endpoint]) -> list[Site]:
    """Our stores over the sites, with all that a MinIO can do."""
    return [
        Site(
            name=endpoint.name,
            rank=number,
            store=S3Store(
                endpoint=endpoint.url,
                access_key=endpoint.access_key,
                secret_key=SecretStr(endpoint.secret_key),
                region=endpoint.region,
            ),
            capabilities=frozenset(Capability),
        )
        for number, endpoint in enumerate(endpoints)
    ]


async def listed(sites: Sequence[Site], bucket: str, *, details: bool) -> int:
    """Entries of one site; both are read at once."""

    async def read(one: Site) -> int:
        pages = one.store.versions(bucket, details=details)
        return sum([len(page) async for page in pages])

    first, second = await asyncio.gather(*(read(one) for one in sites))
    if first != second:
        raise IntegrityError("the sites hold different numbers", first=first, second=second)
    return first


async def compared(sites: Sequence[Site], bucket: str, level: Level) -> int:
    """Keys of the comparison, which must find the sites identical, with one digest."""
    proof: Proof = await verify(sites, bucket, comparison=Comparison(Profile(level)))
    if not proof.is_identical or proof.digest is None:
        raise IntegrityError("sites that were seeded in step differ", differing=proof.differing)
    return proof.keys


async def measured(endpoints: Sequence[Endpoint], bucket: str, *, keys: int, runs: int) -> Any:
    """Median seconds of each work, in turn."""
    sites = opened(endpoints)
    works: dict[str, Work] = {
        "listing": lambda: listed(sites, bucket, details=False),
        "verify": lambda: compared(sites, bucket, Level.LISTING),
        "listing-details": lambda: listed(sites, bucket, details=True),
        "verify-attributes": lambda: compared(sites, bucket, Level.ATTRIBUTES),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for run in range(runs + 1):  # the first is to warm up
        for name, work in works.items():
            began = SYSTEM_CLOCK.monotonic()
            if (found := await work()) != keys:
                raise IntegrityError("not every key was seen", case=name, keys=keys, found=found)
            if run:
                seconds[name].append(SYSTEM_CLOCK.monotonic() - began)
    for each in sites:
        await each.store.close()
    medians = {name: round(median(each), 2) for name, each in seconds.items()}
    ratio = round(medians["verify"] / medians["listing"], 2)
    return {"keys": keys, "seconds": medians, "ratio_to_listing": ratio}


def peak_mib(keys: int) -> float:
    """Peak of a process of its own that compares two generated sites."""
    with (
        generated_site("generatedsource", keys=keys) as source,
        generated_site("generatedtarget", keys=keys) as target,
    ):
        command = [sys.executable, "-m", "bench.proof", "--within", source.url, target.url]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        return float(done.stdout)


def within(urls: Sequence[str]) -> None:
    """Compare two generated sites and print this process's peak in MiB."""
    endpoints = [Endpoint(f"generated{n}", url, "bench", "bench") for n, url in enumerate(urls)]

    async def work() -> None:
        sites = opened(endpoints)
        await compared(sites, BUCKET, Level.LISTING)
        for each in sites:
            await each.store.close()

    asyncio.run(work())
    click.echo(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--keys", default=100_000, type=click.IntRange(1), help="Keys at each site.")
@click.option("--memory-keys", default="10000,300000", help="Sizes, with commas between.")
@click.option("--runs", default=3, type=click.IntRange(1), help="Repetitions.")
@click.option("--within", "urls", nargs=2, hidden=True)
def main(
    *, as_json: bool, keys: int, memory_keys: str, runs: int, urls: tuple[str, str] | None
) -> None:
    """Measure comparisons of two sites beside two listings."""
    if urls:
        within(urls)
        return
    report: dict[str, Any] = {"machine": table.machine()}
    with (
        tempfile.TemporaryDirectory(prefix="entrepot-bench-") as root,
        site("first", Path(root)) as first,
        site("second", Path(root)) as second,
    ):
        for endpoint in (first, second):
            create(endpoint, BUCKET)
        seed(Dataset(keys, 100), [first, second], [BUCKET])
        report |= asyncio.run(measured([first, second], BUCKET, keys=keys, runs=runs))
    sizes = [int(size) for size in memory_keys.split(",") if size]
    report["peak_mib"] = {str(size): round(peak_mib(size), 1) for size in sizes}
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, seconds in report["seconds"].items():
        click.echo(f"{name:20} {seconds:8.2f} s")
    click.echo(f"verify / listing {report['ratio_to_listing']}")
    for size, peak in report["peak_mib"].items():
        click.echo(f"{size} keys: {peak} MiB")


if __name__ == "__main__":
    main()
