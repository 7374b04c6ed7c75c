"""One flow run in a process of its own, as a worker would start it, for ``bench.ours``.

    python -m bench.flow_run setup < {"control", "sites": [...]}
    python -m bench.flow_run sweep --bucket NAME

``sweep`` ends with one JSON line: ``{"flow_s", "library_s", "copied", "failed"}``.
"""

import asyncio
import json
import sys
from typing import Any

import click
from pydantic import SecretStr

from blocks import CatalogBlock, S3Site
from blocks.catalog import CONTROL
from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.catalog.rules import save_rule
from entrepot.catalog.sites import upsert_site
from entrepot.replication.probe import probe
from entrepot.store.protocol import Capability
from entrepot.store.s3 import S3Store


@click.group()
def main() -> None:
    """Set up, or sweep once."""


@main.command()
def setup() -> None:
    """Catalog and blocks for the sites on stdin."""
    given = json.load(sys.stdin)
    found = asyncio.run(_prepare(given))
    CatalogBlock(dsn=SecretStr(given["control"])).save(CONTROL, overwrite=True)
    for rank, site in enumerate(given["sites"]):
        S3Site(
            endpoint=site["url"],
            region=site["region"],
            rank=rank,
            access_key=site["access_key"],
            secret_key=SecretStr(site["secret_key"]),
            capabilities=found[site["name"]],
        ).save(site["name"], overwrite=True)


async def _prepare(given: dict[str, Any]) -> dict[str, list[str]]:
    await migrate(given["control"], kind=CatalogKind.CONTROL)
    found = {}
    async with Catalog.open(given["control"]) as catalog:
        for rank, site in enumerate(given["sites"]):
            await upsert_site(
                catalog, name=site["name"], endpoint=site["url"], region=site["region"], rank=rank
            )
            found[site["name"]] = sorted(map(str, await _capabilities(site)))
    return found


async def _capabilities(site: dict[str, Any]) -> frozenset[Capability]:
    if site["generated"]:  # a listing without a store behind it cannot be probed
        return frozenset(Capability)
    store = S3Store(
        endpoint=site["url"],
        access_key=site["access_key"],
        secret_key=SecretStr(site["secret_key"]),
        region=site["region"],
    )
    try:
        return (await probe(store)).capabilities
    finally:
        await store.close()


@main.command()
@click.option("--bucket", required=True)
def sweep(*, bucket: str) -> None:
    """Run the flow over one bucket."""
    from blocks.catalog import load_dsn
    from flows.replicate import ReplicateRequest, replicate

    asyncio.run(_rule(load_dsn(), bucket))
    report = replicate(ReplicateRequest(rule=bucket))
    print(
        json.dumps(
            {
                "flow_s": report.seconds,
                "library_s": report.library_s,
                "copied": report.total("copied"),
                "failed": report.total("failed"),
            }
        )
    )


async def _rule(control: SecretStr, bucket: str) -> None:
    from entrepot.catalog.sites import list_sites

    async with Catalog.open(control) as catalog:
        names = [site.name for site in await list_sites(catalog)]
        await save_rule(catalog, name=bucket, buckets=[bucket], sites=names)


if __name__ == "__main__":
    main()
