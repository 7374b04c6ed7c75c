"""Replication lag: from a PUT acknowledged at one site to readable at the other.

    python -m bench.lag [--json] [--rate 100] [--seconds 15] [--sustained MINUTES]

*ours* is a managed bucket written through the service over objects and a stream between the sites,
with a catalog for each on a durable Postgres; *minio* is MinIO's own bucket replication between the
same two servers. They take turns. Written is at a fixed rate, and then by one writer that waits for
each object; the other site is asked for each version by its id until it is there, both sides
equally often (``--look-ms``), which is what the figures are exact to.

``--sustained`` writes 300 objects a second for so many minutes and shows what waits, each second.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import psycopg
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from bench import peers, table
from bench.lag_sides import RULE, SITES, Work, site
from bench.measure import Endpoint, run
from bench.servers import site as server
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_token
from entrepot.codec.keys.local import LocalRoot
from entrepot.embedded import binaries
from entrepot.embedded.postgres import PostgresServer

SIZE_BYTES = 8 * 1024
SUSTAINED_PER_S = 300.0
LOOK_AT = 5
"""At a rate one object of so many is looked for: asking for all took more CPU than replicating."""

SIDES = ("ours", "minio")
BUCKETS = {"ours": "lag-ours", "minio": "lag-minio"}


@dataclass(frozen=True, slots=True)
class Bench:
    """Two servers, a catalog for each, and where files lie."""

    endpoints: list[Endpoint]
    dsns: list[str]
    control: str
    root: Path
    mc: Path

    def work(self, role: str, side: str, bucket: str, **how: Any) -> Work:
        """What a process is told."""
        given = {"rate_per_s": 0.0, "seconds": 0.0, "look_every_s": 0.002} | how
        return Work(
            role=role,
            side=side,
            endpoints=self.endpoints,
            dsns=self.dsns,
            control=self.control,
            keys=str(self.root / "keys"),
            bucket=bucket,
            size_bytes=SIZE_BYTES,
            **given,
        )

    def path(self, work: Work) -> Path:
        """The file that tells it."""
        path = self.root / f"{work.role}-{work.side}.json"
        path.write_text(json.dumps(asdict(work)))
        return path

    def drive(self, side: str, bucket: str, **how: Any) -> dict[str, float]:
        """One measurement in a process of its own."""
        path = self.path(self.work("drive", side, bucket, **how))
        measured = run([sys.executable, "-m", "bench.lag_sides", str(path)], env=os.environ)
        found: dict[str, float] = json.loads(measured.stdout.splitlines()[-1])
        _say(f"{side}: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms")
        return found

    @contextmanager
    def stream(self, bucket: str) -> Iterator[None]:
        """Our stream at work."""
        path = self.path(self.work("stream", "ours", bucket))
        command = [sys.executable, "-m", "bench.lag_sides", str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        try:
            while not self._count("outbox_consumers", bucket):  # what is written now is shipped
                time.sleep(0.1)
            yield
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(timeout=30)

    def waiting(self) -> int:
        """Events in A's outbox."""
        return self._count("outbox", "sustained")

    def _count(self, table: str, bucket: str) -> int:
        query = f"SELECT count(*) FROM {table} JOIN buckets b ON b.id = bucket_id WHERE b.name = %s"
        with psycopg.connect(self.dsns[0].replace("+psycopg", "")) as connection:
            found = connection.execute(query, [bucket]).fetchone()
        return int(found[0]) if found else 0


async def _create(bench: Bench, bucket: str) -> None:
    work = bench.work("create", "ours", bucket)
    for number in range(len(SITES)):
        async with site(work, number) as objects:
            await objects.create_bucket(bucket, tenant_id="bench")


def replicate_by_minio(bench: Bench, bucket: str) -> None:
    """Have MinIO itself replicate a bucket of A's to B."""
    env = peers._mc_env(bench.root, *bench.endpoints)
    target = bench.endpoints[1]
    remote = target.url.replace("//", f"//{target.access_key}:{target.secret_key}@")
    for endpoint in bench.endpoints:
        run([str(bench.mc), "mb", "--with-versioning", f"{endpoint.name}/{bucket}"], env=env)
    place = f"{bench.endpoints[0].name}/{bucket}"
    how = ["--remote-bucket", f"{remote}/{bucket}", "--replicate", "delete,delete-marker"]
    run([str(bench.mc), "replicate", "add", place, *how], env=env)


def measure(
    bench: Bench, *, rate: float, seconds: float, runs: int, look_s: float
) -> dict[str, Any]:
    """Both sides in turn: at a rate, and by one writer."""
    asyncio.run(_create(bench, BUCKETS["ours"]))
    replicate_by_minio(bench, BUCKETS["minio"])
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(runs):
        for side in SIDES:
            with bench.stream(BUCKETS[side]) if side == "ours" else _nothing():
                for name, at in (("rate", rate), ("one", 0.0)):
                    how = {"rate_per_s": at, "seconds": seconds, "look_every_s": look_s}
                    how |= {"look_at": LOOK_AT if at else 1}
                    found.setdefault(f"{side}-{name}", []).append(
                        bench.drive(side, BUCKETS[side], **how)
                    )
    report: dict[str, Any] = {side: _median(found[f"{side}-rate"]) for side in SIDES}
    report["rate_per_s"] = round(median(each["rate_per_s"] for each in found["ours-rate"]), 1)
    report["one_writer"] = {side: _median(found[f"{side}-one"]) for side in SIDES}
    return report


def sustained(bench: Bench, *, minutes: float, rate: float = SUSTAINED_PER_S) -> dict[str, Any]:
    """Many writes for long, and what waits while they last; one of ten is looked for at B."""
    asyncio.run(_create(bench, "sustained"))
    depths: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            depths.append(bench.waiting())

    with bench.stream("sustained"):
        watching = threading.Thread(target=watch)
        watching.start()
        how = {"rate_per_s": rate, "seconds": minutes * 60, "look_at": 10, "look_every_s": 0.01}
        try:
            found = bench.drive("ours", "sustained", **how)
        finally:
            ended.set()
            watching.join()
    third = max(1, len(depths) // 3)
    return {
        "rate_per_s": round(found["rate_per_s"], 1),
        "minutes": minutes,
        **_median([found]),
        "waiting": {
            "first_third": round(median(depths[:third]), 1),
            "last_third": round(median(depths[-third:]), 1),
            "most": max(depths),
        },
    }


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(median(each[name] for each in found), 1) for name in ("p50_ms", "p99_ms")}


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def opened(root: Path, *, mc: Path) -> Iterator[Bench]:
    """Servers that are gone at the end; their files lie under ``root``."""
    root.chmod(0o711)  # Postgres runs as another user than root
    (root / "keys").mkdir(mode=0o700)
    LocalRoot.create_file(root / "keys" / "root.key")
    postgres = PostgresServer(root / "postgres", password=SecretStr(new_token()), durable=True)
    try:
        postgres.start()
        dsns = [postgres.create_database(f"bench_{letter}") for letter in "ab"]
        control = postgres.create_database("bench_control")
        for dsn in dsns:
            asyncio.run(migrate(dsn, kind=CatalogKind.SITE))
        asyncio.run(migrate(control, kind=CatalogKind.CONTROL))
        with server("lag-a", root) as a, server("lag-b", root) as b:
            yield Bench([a, b], dsns, control, root, mc)
    finally:
        postgres.stop()


def show(report: Mapping[str, Any], console: Console | None = None) -> None:
    """The table for people."""
    console = console or Console()
    if "ours" in report:
        shown = Table(title="From acknowledged at A to readable at B, 8 KiB, milliseconds")
        for name in ("writers", "ours p50", "p99", "minio p50", "p99"):
            shown.add_column(name, justify="right")
        rate = f"{report['rate_per_s']:g}/s"
        for name, row in ((rate, report), ("one", report["one_writer"])):
            cells = [str(row[side][cut]) for side in SIDES for cut in ("p50_ms", "p99_ms")]
            shown.add_row(name, *cells)
        console.print(shown)
    if "sustained" in report:
        held = report["sustained"]
        console.print(
            f"{held['rate_per_s']:g}/s for {held['minutes']:g} min: p50 {held['p50_ms']} ms, "
            f"p99 {held['p99_ms']} ms; waiting {held['waiting']}"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--rate", default=100.0, type=click.FloatRange(1, 10_000), help="Writes a second.")
@click.option("--seconds", default=15.0, type=click.FloatRange(1, 3600), help="Of each run.")
@click.option("--runs", default=1, type=click.IntRange(1, 100), help="Repetitions.")
@click.option("--look-ms", default=2.0, type=click.FloatRange(0.1, 1000), help="Between looks.")
@click.option("--sustained", "minutes", default=0.0, help="Only this: minutes at 300/s.")
def main(
    *, as_json: bool, rate: float, seconds: float, runs: int, look_ms: float, minutes: float
) -> None:
    """Measure the stream beside MinIO's own bucket replication."""
    mc, minio = binaries.mc(progress=_say), binaries.minio(progress=_say)
    report: dict[str, Any] = {
        "machine": table.machine(),
        "versions": {"server": peers.versions(mc=mc, minio=minio)["minio"]},
        "rule": RULE,
        "size_bytes": SIZE_BYTES,
    }
    root = Path(tempfile.mkdtemp(prefix="entrepot-bench-"))
    try:
        with opened(root, mc=mc) as bench:
            if minutes:
                report["sustained"] = sustained(bench, minutes=minutes)
            else:
                report |= measure(
                    bench, rate=rate, seconds=seconds, runs=runs, look_s=look_ms / 1000
                )
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        print(json.dumps(report))
    else:
        show(report)


if __name__ == "__main__":
    main()
