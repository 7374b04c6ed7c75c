"""``entrepot bucket``: which buckets are looked after, and whose they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from entrepot.cli.common import answer, config_option, json_option, open_store, run
from entrepot.cli.sites import chosen, first, open_ground, sites_option

if TYPE_CHECKING:
    from entrepot.catalog.buckets import Bucket
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.objects.facts import Usage

_LOOKS = 3
"""At a bucket that is written to: what is kept and what is counted are two statements."""


@click.group("bucket")
def bucket_group() -> None:
    """Create, adopt, list and show buckets."""


@bucket_group.command("create")
@click.argument("name")
@click.option("--tenant", "tenant_id", required=True, help="Id of the owner.")
@click.option(
    "--site",
    "site_names",
    multiple=True,
    help="At this site, the first by rank by default; may be repeated.",
)
@click.option(
    "--encrypted/--not-encrypted",
    default=None,
    help="Encrypt its objects; encryption.enabled of the settings by default.",
)
@click.option(
    "--compressed/--not-compressed",
    default=None,
    help="Compress what shrinks; caching.compression.enabled of the settings by default.",
)
@config_option
def create_command(
    *,
    name: str,
    tenant_id: str,
    site_names: tuple[str, ...],
    encrypted: bool | None,
    compressed: bool | None,
    config_path: Path | None,
) -> None:
    """Make managed bucket NAME, which is written through entrepot only.

    Again is no error, with the same owner and options.
    """
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tenants import get_tenant
    from entrepot.config import load
    from entrepot.errors import AlreadyExists
    from entrepot.objects.open import open_objects

    config = load(config_path)
    sites = chosen(config, site_names) if site_names else [first(config, None)]
    how = {
        "encrypted": config.encryption.enabled if encrypted is None else encrypted,
        "compressed": config.caching.compression.enabled if compressed is None else compressed,
    }

    async def create() -> None:
        async with Catalog.open(config.database_url()) as control:
            await get_tenant(control, id=tenant_id)
        for site in sites:
            async with open_objects(config, site) as objects:
                made = await objects.create_bucket(name, tenant_id=tenant_id, **how)
            if how != {option: getattr(made, option) for option in how}:
                raise AlreadyExists(
                    "the bucket is there with other options, which stay as they are",
                    hint=f"entrepot bucket show {name}",
                    bucket=name,
                    site=site.name,
                )

    run(create())
    options = [option for option, is_set in how.items() if is_set] or ["stored as it comes"]
    at = ", ".join(site.name for site in sites)
    click.echo(f"bucket {name} belongs to {tenant_id} at {at}: managed, {', '.join(options)}")


@bucket_group.command("adopt")
@click.argument("name")
@click.option("--tenant", "tenant_id", required=True, help="Id of the owner.")
@sites_option
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
    from entrepot.replication.sites import Site, check_bucket
    from entrepot.store.check import check_bucket as check_bucket_name

    check_bucket_name(name)
    config = load(config_path)
    sites = chosen(config, site_names)

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
                rows += [_facts(site.name, bucket) for bucket in await list_buckets(catalog)]
        return rows

    answer(
        run(read()),
        as_json=as_json,
        empty="no bucket yet; type: entrepot bucket create NAME --tenant ID",
    )


@bucket_group.command("show")
@click.argument("name")
@sites_option
@click.option("--recount", is_flag=True, help="Count anew as well; exit 1 where it differs.")
@config_option
@json_option
def show_command(
    *,
    name: str,
    site_names: tuple[str, ...],
    recount: bool,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Show whose bucket NAME is, what becomes of its objects, and what a managed one holds."""
    import json

    from entrepot.catalog.connect import Catalog
    from entrepot.config import load
    from entrepot.errors import BucketNotFound

    async def read() -> list[dict[str, Any]]:
        rows, missing = [], None
        for site in chosen(load(config_path), site_names):
            async with Catalog.open(site.database_url) as catalog:
                try:
                    rows.append(await _shown(catalog, site.name, name, recount=recount))
                except BucketNotFound as error:
                    missing = error
        if missing and not rows:
            missing.hint = "entrepot bucket list"
            raise missing
        return rows

    rows = run(read())
    if as_json:
        click.echo(json.dumps(rows, default=str))
    else:
        click.echo("\n\n".join("\n".join(_lines(row)) for row in rows))
    if not all(row.get("equal", True) for row in rows):
        raise SystemExit(1)


@bucket_group.command("drop")
@click.argument("name")
@sites_option
@config_option
def drop_command(*, name: str, site_names: tuple[str, ...], config_path: Path | None) -> None:
    """Remove bucket NAME where it is managed and empty; look after an adopted one no longer.

    What is in an adopted bucket stays where it is.
    """
    from entrepot.config import load
    from entrepot.errors import BucketNotFound
    from entrepot.objects import buckets

    config = load(config_path)
    dropped = []

    async def drop() -> None:
        missing = None
        for site in chosen(config, site_names):
            async with open_ground(config, site) as ground:
                try:
                    await buckets.drop(ground, name)
                except BucketNotFound as error:
                    missing = error
                else:
                    dropped.append(site.name)
        if missing and not dropped:
            missing.hint = "entrepot bucket list"
            raise missing

    run(drop())
    click.echo(f"bucket {name} dropped at {', '.join(dropped)}")


def _facts(site: str, bucket: "Bucket") -> dict[str, object]:
    return {
        "site": site,
        "bucket": bucket.name,
        "tenant": bucket.tenant_id,
        "mode": str(bucket.mode),
        "encrypted": bucket.encrypted,
        "compressed": bucket.compressed,
    }


async def _shown(catalog: "Catalog", site: str, name: str, *, recount: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from entrepot.catalog.buckets import get_bucket
    from entrepot.catalog.objects.read import usage_of
    from entrepot.catalog.states import BucketMode

    bucket = await get_bucket(catalog, name=name)
    row: dict[str, Any] = _facts(site, bucket) | {"since": bucket.adopted_at}
    if bucket.mode is BucketMode.ADOPTED:
        return row | {"usage": None}
    if not recount:
        return row | {"usage": asdict(await usage_of(catalog, bucket_id=bucket.id))}
    kept, counted = await _both_usages(catalog, bucket.id)
    return row | {"usage": asdict(kept), "recounted": asdict(counted), "equal": kept == counted}


async def _both_usages(catalog: "Catalog", bucket_id: int) -> "tuple[Usage, Usage]":
    """Usage as kept and as counted, again where a write may have come in between."""
    from entrepot.catalog.objects.read import recount_usage, usage_of

    for _ in range(_LOOKS):
        kept = await usage_of(catalog, bucket_id=bucket_id)
        counted = await recount_usage(catalog, bucket_id=bucket_id)
        if kept == counted:
            break
    return kept, counted


def _lines(row: dict[str, Any]) -> list[str]:
    """A bucket at a site, for people."""
    from entrepot.units import approximate_size

    options = [name for name in ("encrypted", "compressed") if row[name]]
    lines = [
        f"{row['bucket']} at {row['site']}: {', '.join([row['mode'], *options])}",
        f"  owner           {row['tenant']}, since {row['since']:%Y-%m-%d %H:%M:%S}",
    ]
    if row["usage"] is None:
        return [*lines, "  usage           the store's; type: entrepot quota usage"]
    for name, value in row["usage"].items():
        shown = approximate_size(value) if name.endswith("_bytes") else str(value)
        lines.append(f"  {name.removesuffix('_bytes').replace('_', ' '):14}  {shown}")
    if row.get("equal"):
        lines.append("  counted anew    equal")
    elif "equal" in row:
        told = [f"{name} {n}" for name, n in row["recounted"].items() if n != row["usage"][name]]
        lines.append(f"  counted anew    differs: {', '.join(told)}")
    return lines
