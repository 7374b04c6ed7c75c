"""What the version map spares where an endpoint mints its own version ids.

    python -m bench.minted [--json] [--keys 3000] [--runs 3]

One MinIO, one versitygw, one Postgres. All keys are written at the first, swept to the second, and
swept again and again with nothing to do: without a map, with one, and with one that was lost. What
is counted are requests to versitygw; a sweep that did anything ends the benchmark.
"""

import asyncio
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from bench import table
from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.version_map import VersionMap
from entrepot.clock import SYSTEM_CLOCK, new_bytes
from entrepot.embedded.minio import MinioCredentials, MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.embedded.versity import VersityServer
from entrepot.errors import IntegrityError
from entrepot.replication.sites import Site
from entrepot.replication.sweep import Options, Range, sweep
from entrepot.replication.workers import side_by_side
from entrepot.store.protocol import Capability
from entrepot.store.s3 import S3Store
from entrepot.testing.faulty import FaultyStore

BUCKET = "minted"
WORKERS = 16
MINTED = frozenset(Capability) - {Capability.ORIGIN, Capability.BATCH, Capability.TRAILER}


@asynccontextmanager
async def opened(server: MinioServer | VersityServer) -> AsyncIterator[S3Store]:
    """A client of a server that runs as long, with an empty versioned bucket."""
    server.start()
    store = S3Store(
        endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key
    )
    try:
        await store.create(BUCKET)
        yield store
    finally:
        await store.close()
        server.stop()


async def swept(sites: tuple[Site, ...]) -> tuple[int, float]:
    """How many objects a sweep wrote, and its seconds."""

    async def checkpoint(_last: str, _totals: object) -> None:
        return

    began = SYSTEM_CLOCK.monotonic()
    totals, _ = await sweep(
        sites,
        BUCKET,
        keys=Range(),
        options=Options(batch_size=1000, workers=WORKERS, horizon_ms=lambda: 1 << 53),
        guard=lambda: None,
        checkpoint=checkpoint,
    )
    return totals.copied + totals.failed, SYSTEM_CLOCK.monotonic() - began


async def warm(sites: tuple[Site, ...], store: FaultyStore, keys: int) -> dict[str, Any]:
    """A sweep with nothing to do."""
    before = Counter(store.calls)
    written, seconds = await swept(sites)
    if written:
        raise IntegrityError("a sweep that had nothing to do did something", written=written)
    calls = Counter(store.calls) - before
    return {"keys": keys, "heads": calls["head"], "seconds": round(seconds, 3)}


async def measure(catalog: Catalog, root: Path, *, keys: int, runs: int) -> list[dict[str, Any]]:
    """The cases, each with the median time of its runs."""
    credentials = MinioCredentials("bench", SecretStr(new_bytes(16).hex()))
    async with (
        opened(MinioServer(root / "minio", credentials)) as first,
        opened(VersityServer(root / "versity", credentials)) as second,
    ):
        names = iter(f"d{number % 32:02d}/{number:06d}" for number in range(keys))

        async def put() -> None:
            for name in names:
                await first.put(BUCKET, name, name.encode())

        await side_by_side(put() for _ in range(WORKERS))
        counted = FaultyStore(second, {})
        version_map = VersionMap(catalog, "minted")
        source = Site("minio", 0, first, frozenset(Capability))
        without = Site("minted", 1, counted, MINTED)
        mapped = source, replace(without, version_map=version_map)
        if (await swept(mapped))[0] != keys:
            raise IntegrityError("the first sweep left keys out", keys=keys)
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(runs):
            for case in ("no map", "map", "lost map"):
                if case == "lost map":
                    await version_map.forget(BUCKET, "", "")
                sites = (source, without) if case == "no map" else mapped
                found.setdefault(case, []).append(await warm(sites, counted, keys))
    return [
        {"case": case, **each[0], "seconds": statistics.median(one["seconds"] for one in each)}
        for case, each in found.items()
    ]


async def run(root: Path, *, keys: int, runs: int) -> list[dict[str, Any]]:
    """All of it, with servers that are gone at the end."""
    postgres = PostgresServer(root, password=SecretStr(new_bytes(16).hex()))
    postgres.start()
    try:
        dsn = postgres.create_database("minted")
        await migrate(dsn, kind=CatalogKind.CONTROL)
        async with Catalog.open(dsn) as catalog:
            return await measure(catalog, root, keys=keys, runs=runs)
    finally:
        postgres.stop()


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--keys", default=3000, type=click.IntRange(1))
@click.option("--runs", default=3, type=click.IntRange(1))
def main(*, as_json: bool, keys: int, runs: int) -> None:
    """Count what a sweep that finds nothing asks of an endpoint that mints ids."""
    with tempfile.TemporaryDirectory(prefix="entrepot-bench-") as name:
        root = Path(name)
        root.chmod(0o711)  # Postgres runs as another user than root
        cases = asyncio.run(run(root, keys=keys, runs=runs))
    if as_json:
        print(json.dumps({"cases": cases, "machine": table.machine()}))
        return
    for case in cases:
        print(f"{case['case']:>9}: {case['heads']} HEADs, {case['seconds']:.2f} s")


if __name__ == "__main__":
    main()
