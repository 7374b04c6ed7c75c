"""``entrepot bucket``: which buckets are looked after, and whose they are."""

from pathlib import Path

import click

from entrepot.cli.common import answer, config_option, json_option, open_store, run


@click.group("bucket")
def bucket_group() -> None:
    """Adopt and list buckets."""


@bucket_group.command("adopt")
@click.argument("name")
@click.option("--tenant", "tenant_id", required=True, help="Id of the owner.")
@click.option("--site", "site_names", multiple=True, help="Only at this site; may be repeated.")
@config_option
def adopt_command(
    *, name: str, tenant_id: str, site_names: tuple[str, ...], config_path: Path | None
) -> None:
    """Look after bucket NAME, which exists and is also written by others.

    The bucket must keep versions. Nothing in it is touched.
    """
    from entrepot.catalog.buckets import adopt_bucket
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tenants import get_tenant
    from entrepot.config import load
    from entrepot.errors import InvalidInput
    from entrepot.replication.sites import Site, check_bucket
    from entrepot.store.check import check_bucket as check_bucket_name

    check_bucket_name(name)
    config = load(config_path)
    sites = [site for site in config.sites() if not site_names or site.name in site_names]
    if unknown := sorted(set(site_names) - {site.name for site in sites}):
        raise InvalidInput(f"there is no site {unknown[0]}", hint="entrepot site list")

    async def adopt() -> None:
        async with Catalog.open(config.database_url()) as control:
            await get_tenant(control, id=tenant_id)
        for site in sites:
            store = open_store(site)
            try:
                await check_bucket(
                    Site(name=site.name, rank=site.rank, store=store, capabilities=frozenset()),
                    name,
                )
            finally:
                await store.close()
        for site in sites:
            async with Catalog.open(site.database_url) as catalog:
                await adopt_bucket(catalog, name=name, tenant_id=tenant_id)

    run(adopt())
    click.echo(f"bucket {name} belongs to {tenant_id} at {', '.join(s.name for s in sites)}")


@bucket_group.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show every bucket that is looked after, site by site."""
    from entrepot.catalog.buckets import list_buckets
    from entrepot.catalog.connect import Catalog
    from entrepot.config import load

    async def read() -> list[dict[str, object]]:
        rows: list[dict[str, object]] = []
        for site in load(config_path).sites():
            async with Catalog.open(site.database_url) as catalog:
                rows += [
                    {
                        "site": site.name,
                        "bucket": bucket.name,
                        "tenant": bucket.tenant_id,
                        "mode": str(bucket.mode),
                    }
                    for bucket in await list_buckets(catalog)
                ]
        return rows

    answer(run(read()), as_json=as_json, empty="no bucket yet; type: entrepot bucket adopt NAME")
