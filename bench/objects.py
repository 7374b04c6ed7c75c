"""What the catalog costs: the service over objects beside the bare store that it stands on.

    python -m bench.objects [--json] [--cases …] [--runs 3] [--scale 1] [--stream-mib 64]

*direct* is ``S3Store`` alone, *ours* is ``Objects`` over the same adapter, with a catalog on a
durable Postgres; one MinIO serves both. They take turns (A B A B), each measurement in a process
of its own (``bench.sides``) with the same loop, the same bodies and as many callers at once. A
figure is a median of the runs, a ratio one of medians.

What was put is looked for afterwards by another client; what was read must be all of it. Words:
*work* one measurement; *callers* how many requests are under way at once; *stream* a body that
comes in pieces.
"""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import md5
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import psycopg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from bench import data, peers, table
from bench.data import BASE_MTIME_S, Dataset
from bench.measure import MIB, Endpoint, Measured, run
from bench.reaper import watched
from bench.servers import site
from bench.sides import Text, Work
from bench.store import check
from bench.sweep import MANY, scaled
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_token
from entrepot.embedded import binaries
from entrepot.embedded.postgres import PostgresServer

SIDES = ("direct", "ours")
STREAMS = 64


@dataclass(frozen=True, slots=True)
class Group:
    """A dataset that is put and then got. ``kind`` is that of our bucket."""

    dataset: Dataset
    callers: int
    kind: str = "plain"
    unit: str = "MB/s"

    @property
    def amount(self) -> float:
        """How many of the unit's things there are in it."""
        size_mb = self.dataset.count * self.dataset.size_bytes / 1e6
        return size_mb if self.unit == "MB/s" else self.dataset.count


GROUPS: Mapping[str, Group] = {
    "8k": Group(Dataset(4_000, 8 * 1024), callers=32, unit="requests/s"),
    "64m": Group(Dataset(8, 64 * MIB), callers=4),
    "64m-encrypted": Group(Dataset(8, 64 * MIB), callers=4, kind="encrypted"),
    "64m-compressed": Group(Text(8, 64 * MIB), callers=4, kind="compressed"),
}
CASES = (*GROUPS, "list-100k", "memory")


@dataclass(frozen=True, slots=True)
class Bench:
    """Servers, and what every measurement needs."""

    endpoint: Endpoint
    dsn: str
    root: Path
    runs: int
    scale: float
    drop: Callable[[str], None]

    def measure(
        self, side: str, verb: str, bucket: str, group: Group
    ) -> tuple[dict[str, float], Measured]:
        """One measurement in a new process: what it says, and what the process cost."""
        work = Work(
            endpoint=self.endpoint,
            dsn=self.dsn,
            keys=str(self.root / "keys"),
            side=side,
            verb=verb,
            bucket=bucket,
            dataset=group.dataset,
            kind=group.kind,
            callers=group.callers,
        )
        path = self.root / "work.json"
        path.write_text(json.dumps(asdict(work)))
        command = [sys.executable, "-m", "bench.sides", str(path)]
        measured = run(command, env=os.environ)
        found: dict[str, float] = json.loads(measured.stdout.splitlines()[-1])
        if "wall_s" in found:
            _say(f"{bucket}, {verb}: {found['wall_s']:.2f} s, {found['cpu_s']:.2f} s of CPU")
        return found, measured


Found = Mapping[str, list[dict[str, float]]]
"""What each side said in each run."""


def objects(bench: Bench, name: str, group: Group) -> list[dict[str, Any]]:
    """Putting a dataset and getting it."""
    puts, gets = ({side: list[dict[str, float]]() for side in SIDES} for _ in range(2))
    for number in range(bench.runs):
        for side in SIDES:
            bucket = f"{name}-{side}-{number}"
            puts[side].append(bench.measure(side, "put", bucket, group)[0])
            if side == "direct" or group.kind == "plain":
                check(bench.endpoint, group.dataset, bucket)
            gets[side].append(bench.measure(side, "get", bucket, group)[0])
            bench.drop(bucket)
    both = (("put", puts), ("get", gets))
    found = [_case(f"{verb}-{name}", group, of) for verb, of in both]
    if name == "8k":
        found += [_latency(f"{verb}-{name}-latency", group, of) for verb, of in both]
    return found


def listing(bench: Bench, name: str) -> list[dict[str, Any]]:
    """Listing a bucket page by page; both sides list the same one."""
    group = Group(scaled(MANY, bench.scale), callers=1, unit="keys/s")
    bench.measure("ours", "create", name, group)
    data.seed(group.dataset, [bench.endpoint], [name])
    take_up(bench.dsn, name, group.dataset)
    found = {side: list[dict[str, float]]() for side in SIDES}
    for _ in range(bench.runs):
        for side in SIDES:
            found[side].append(bench.measure(side, "list", name, group)[0])
    bench.drop(name)
    return [_case(name, group, found)]


def take_up(dsn: str, bucket: str, dataset: Dataset) -> None:
    """Give the catalog the rows of a dataset that was seeded into the store."""
    address = dsn.replace("+psycopg", "")
    with psycopg.connect(address, autocommit=True) as connection:
        [bucket_id] = connection.execute(
            "SELECT id FROM buckets WHERE name = %s", [bucket]
        ).fetchone() or [None]
        columns = "bucket_id, key, version_id, stamp_ms, size_bytes, etag"
        with connection.cursor().copy(f"COPY objects ({columns}) FROM STDIN") as copy:
            for index in range(dataset.count):
                place = bucket_id, dataset.key(index), dataset.version_id(index)
                etag = md5(dataset.body(index), usedforsecurity=False).hexdigest()
                stamp_ms = (BASE_MTIME_S + index) * 1000
                copy.write_row((*place, stamp_ms, dataset.size_bytes, etag))
        connection.execute(
            "INSERT INTO versions SELECT bucket_id, key, version_id, stamp_ms, 'site-a', 'seed',"
            " NULL, gen_random_uuid(), false, false, size_bytes, size_bytes, etag, '', '{}'"
            " FROM objects WHERE bucket_id = %s",
            [bucket_id],
        )
        connection.execute("VACUUM ANALYZE objects, versions")  # as autovacuum does before long


def memory(bench: Bench, *, stream_mib: int) -> dict[str, Any]:
    """The peak of one process with 64 puts at once, encrypted and compressed, by their length."""
    sizes = []
    for mib in (stream_mib, 2 * stream_mib):
        group = Group(Text(STREAMS, mib * MIB), callers=STREAMS, kind="both")
        bucket = f"memory-{mib}"
        found, measured = bench.measure("ours", "streams", bucket, group)
        bench.drop(bucket)
        peak_mib = round(measured.peak_mib, 1)
        sizes.append({"mib": mib, "peak_mib": peak_mib, "seconds": round(found["wall_s"], 2)})
    growth = round(sizes[1]["peak_mib"] / sizes[0]["peak_mib"], 3)
    return {"streams": STREAMS, "sizes": sizes, "growth": growth}


def _case(name: str, group: Group, found: Found) -> dict[str, Any]:
    """One entry of ``cases``: the amount over the median of the wall seconds."""
    amount = group.amount
    rates = {side: amount / median(each["wall_s"] for each in found[side]) for side in SIDES}
    return {
        "name": name,
        **{side: round(rates[side], 1) for side in SIDES},
        "ratio": round(rates["ours"] / rates["direct"], 3),
        "unit": group.unit,
        "callers": group.callers,
        "runs": {
            side: [round(amount / each["wall_s"], 1) for each in found[side]] for side in SIDES
        },
        "cpu_s": {side: round(median(each["cpu_s"] for each in found[side]), 3) for side in SIDES},
    }


def _latency(name: str, group: Group, found: Found) -> dict[str, Any]:
    """Milliseconds of one request: the median in front, the 99th percentile beside it."""
    ms = {
        cut: {side: round(median(each[cut] for each in found[side]), 2) for side in SIDES}
        for cut in ("p50_ms", "p99_ms")
    }
    return {
        "name": name,
        **ms["p50_ms"],
        "ratio": round(ms["p50_ms"]["direct"] / ms["p50_ms"]["ours"], 3),
        "unit": "ms",
        "callers": group.callers,
        **ms,
    }


@contextmanager
def opened(root: Path, *, runs: int, scale: float, mc: Path) -> Iterator[Bench]:
    """Servers that are gone at the end; their files lie under ``root``."""
    root.chmod(0o711)  # Postgres runs as another user than root
    (root / "keys").mkdir(mode=0o700)
    postgres = PostgresServer(root / "postgres", password=SecretStr(new_token()), durable=True)
    try:
        dsn = postgres.start().create_database("bench")
        asyncio.run(migrate(dsn, kind=CatalogKind.SITE))
        with site("benchobjects", root) as endpoint:

            def drop(bucket: str) -> None:
                peers.drop(endpoint, bucket, mc=mc, scratch=root)

            yield Bench(endpoint, dsn, root, runs, scale, drop)
    finally:
        postgres.stop()


def measure(bench: Bench, cases: Sequence[str], *, stream_mib: int) -> dict[str, Any]:
    """Every case that was asked for."""
    report: dict[str, Any] = {"cases": []}
    for name in cases:
        if name in GROUPS:
            group = GROUPS[name]
            less = scaled(group.dataset, bench.scale)
            dataset = replace(group.dataset, count=less.count, size_bytes=less.size_bytes)
            report["cases"] += objects(bench, name, replace(group, dataset=dataset))
        elif name == "memory":
            report["memory"] = memory(bench, stream_mib=stream_mib)
        else:
            report["cases"] += listing(bench, name)
    return report


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """The table for people: one line a case."""
    where = report["machine"]
    shown = Table(
        title=f"Objects, median of {report['runs']} on {where['cores']} cores, Linux "
        f"{where['kernel']}"
    )
    for name in ("case", "callers", "direct", "ours", "unit", "ratio"):
        shown.add_column(name, justify="left" if name in ("case", "unit") else "right")
    for found in report["cases"]:
        cells = [found[name] for name in ("name", "callers", *SIDES, "unit", "ratio")]
        shown.add_row(*map(str, cells))
    console = console or Console()
    console.print(shown)
    if "memory" in report:
        held = report["memory"]
        peaks = ", ".join(f"{each['mib']} MiB: {each['peak_mib']} MiB" for each in held["sizes"])
        console.print(f"Peak of {held['streams']} streams at once of {peaks} ({held['growth']})")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--cases", default=",".join(CASES), callback=table.names(CASES))
@click.option("--runs", default=3, type=click.IntRange(1, 100), help="Repetitions of each case.")
@click.option("--scale", default=1.0, type=click.FloatRange(0.001, 1.0), help="Share of the data.")
@click.option("--stream-mib", default=64, type=click.IntRange(1, 10_000), help="Of each stream.")
def main(
    *,
    as_json: bool,
    cases: tuple[str, ...],
    runs: int,
    scale: float,
    stream_mib: int,
) -> None:
    """Measure the service over objects against the bare store."""
    mc, minio = binaries.mc(progress=_say), binaries.minio(progress=_say)
    clients = {name: version(name) for name in ("aiohttp", "psycopg", "sqlalchemy", "uvloop")}
    report = {
        "runs": runs,
        "scale": scale,
        "machine": table.machine(),
        "versions": clients | {"server": peers.versions(mc=mc, minio=minio)["minio"]},
    }
    root = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    try:
        with watched(root), opened(root, runs=runs, scale=scale, mc=mc) as bench:
            report |= measure(bench, cases, stream_mib=stream_mib)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
