"""What a comparison of two sites costs beside listing both at once, with a million keys.

    python -m bench.diff [--json] [--keys 10000,1000000] [--runs 3] [--dir /dev/shm]

Two MinIO servers hold the same keys. ``listing`` reads every page of both at once and looks at
nothing, with our own store: less than that no comparison can cost. ``diff`` is a dry sweep, which
finds what would be copied; ``verify`` the comparison of ``entrepot replicate verify --level
listing``. They take turns, each time in a process of its own; figures are medians, memory is the
highest peak of such a process. At the end every thousandth key is taken from the second site, and
``diff-apart`` must find just these.

The keys are *laid*: a few objects are put in earnest, and each key is a directory with a hard link
to what the server made of one of them. A million keys at two sites take about a minute so, where
puts would take hours. What the servers do to list them is the same.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import uvloop

from bench import data, table
from bench.data import Dataset
from bench.measure import Endpoint
from bench.proof import compared, listed, opened
from bench.reaper import watched
from bench.servers import site
from entrepot.clock import SYSTEM_CLOCK
from entrepot.errors import IntegrityError
from entrepot.replication.proof.record import Level
from entrepot.replication.sites import Site
from entrepot.replication.sweep import Options, Range, sweep
from entrepot.replication.totals import Totals

MOULDS = 64
"""Objects that are put: a file has 65,000 hard links at most where disks are ext4."""

APART_EVERY = 1000
WORKS = ("listing", "diff", "verify")
APART = "diff-apart"


def bucket_of(keys: int) -> str:
    return f"keys-{keys}"


def lay(dataset: Dataset, endpoints: Sequence[Endpoint], root: Path) -> None:
    """Have both sites hold the keys of the dataset; their drives lie under ``root``."""
    bucket = bucket_of(dataset.count)
    for endpoint in endpoints:
        data.create(endpoint, bucket)
    store = data.store(endpoints[0], bucket)
    for number in range(MOULDS):
        store.put(f"moulds/{number}", dataset.body(number), use_multipart=False)
    homes = [_home(root, endpoint, bucket) for endpoint in endpoints]
    moulds = sorted(homes[0].glob("moulds/*/xl.meta"))
    if len(moulds) != MOULDS:
        raise IntegrityError("the server keeps objects in another way", found=len(moulds))
    for index in range(dataset.count):
        for home in homes:
            place = home / dataset.key(index)
            place.mkdir(parents=True)
            os.link(moulds[index % MOULDS], place / "xl.meta")
    shutil.rmtree(homes[0] / "moulds")


def _home(root: Path, endpoint: Endpoint, bucket: str) -> Path:
    [home] = (root / endpoint.name).glob(f"*/{bucket}")
    return home


def part(dataset: Dataset, endpoint: Endpoint, root: Path) -> None:
    """Take every thousandth key from a site."""
    home = _home(root, endpoint, bucket_of(dataset.count))
    for index in range(0, dataset.count, APART_EVERY):
        shutil.rmtree(home / dataset.key(index))


async def swept(sites: Sequence[Site], bucket: str, *, differing: int) -> int:
    """Keys that a dry sweep listed; it must find as many to differ."""

    async def note(last_key: str, since: Totals) -> None:
        del last_key, since

    totals, _ = await sweep(
        sites,
        bucket,
        keys=Range(),
        options=Options(batch_size=1000, workers=16, horizon_ms=lambda: 2**50, dry_run=True),
        guard=lambda: None,
        checkpoint=note,
    )
    if totals.differing != differing:
        raise IntegrityError("the sweep found others", found=totals.differing, wanted=differing)
    return totals.listed


async def done(work: str, sites: Sequence[Site], keys: int) -> int:
    """Keys that one work saw."""
    bucket = bucket_of(keys)
    if work == "listing":
        return await listed(sites, bucket, details=False)
    if work == "verify":
        return await compared(sites, bucket, Level.LISTING)
    return await swept(sites, bucket, differing=-(-keys // APART_EVERY) if work == APART else 0)


async def within(work: str, keys: int, endpoints: Sequence[Endpoint]) -> dict[str, float]:
    """Seconds of one work, and this process's peak."""
    sites = opened(endpoints)
    began = SYSTEM_CLOCK.monotonic()
    try:
        found = await done(work, sites, keys)
    finally:
        for each in sites:
            await each.store.close()
    seconds = SYSTEM_CLOCK.monotonic() - began
    if found != keys:
        raise IntegrityError("not every key was seen", work=work, keys=keys, found=found)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mib": usage.ru_maxrss / 1024}


def measured(work: str, keys: int, endpoints: Sequence[Endpoint]) -> dict[str, float]:
    """The same in a process of its own."""
    said = [[each.name, each.url, each.access_key, each.secret_key] for each in endpoints]
    command = [sys.executable, "-m", "bench.diff", "--within", json.dumps([work, keys, said])]
    ended = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(ended.stdout)
    print(f"{keys} keys, {work}: {found['seconds']:.2f} s", file=sys.stderr, flush=True)
    return found


def case(keys: int, endpoints: Sequence[Endpoint], root: Path, *, runs: int) -> dict[str, Any]:
    """All works over so many keys."""
    dataset = Dataset(keys, 100)
    lay(dataset, endpoints, root)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WORKS}
    for _ in range(runs):
        for name in WORKS:
            found[name].append(measured(name, keys, endpoints))
    part(dataset, endpoints[1], root)
    found[APART] = [measured(APART, keys, endpoints) for _ in range(runs)]
    seconds = {name: median(each["seconds"] for each in runs) for name, runs in found.items()}
    return {
        "keys": keys,
        "seconds": {name: round(each, 2) for name, each in seconds.items()},
        "cpu_s": {n: round(median(e["cpu_s"] for e in runs), 2) for n, runs in found.items()},
        "peak_mib": {n: round(max(e["peak_mib"] for e in runs), 1) for n, runs in found.items()},
        "ratio_to_listing": {
            name: round(each / seconds["listing"], 2) for name, each in seconds.items()
        },
    }


def show(cases: Sequence[dict[str, Any]]) -> None:
    click.echo(f"{'keys':>9} {'':12} {'seconds':>8} {'/ listing':>9} {'CPU s':>7} {'peak MiB':>9}")
    for each in cases:
        for name in (*WORKS, APART):
            figures = [each[what][name] for what in ("seconds", "ratio_to_listing", "cpu_s")]
            row = f"{figures[0]:8.2f} {figures[1]:9.2f} {figures[2]:7.2f}"
            click.echo(f"{each['keys']:>9} {name:12} {row} {each['peak_mib'][name]:9.1f}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--keys", default="10000,1000000", help="Sizes, with commas between.")
@click.option("--runs", default=3, type=click.IntRange(1), help="Repetitions.")
@click.option("--dir", "where", help="Where the servers keep their data meanwhile.")
@click.option("--within", "inner", hidden=True)
def main(*, as_json: bool, keys: str, runs: int, where: str | None, inner: str | None) -> None:
    """Measure comparisons of two sites beside two listings."""
    if inner:
        work, size, said = json.loads(inner)
        endpoints = [Endpoint(*each) for each in said]
        click.echo(json.dumps(uvloop.run(within(work, size, endpoints))))
        return
    with (
        tempfile.TemporaryDirectory(prefix="entrepot-bench-", dir=where) as root,
        watched(Path(root)),
        site("first", Path(root)) as first,
        site("second", Path(root)) as second,
    ):
        sizes = [int(size) for size in keys.split(",")]
        cases = [case(size, (first, second), Path(root), runs=runs) for size in sizes]
    if as_json:
        click.echo(json.dumps({"machine": table.machine(), "cases": cases}))
    else:
        show(cases)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: cleans up
    main()
