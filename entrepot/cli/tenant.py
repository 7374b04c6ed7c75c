"""``entrepot tenant``: who owns buckets."""

from dataclasses import asdict
from pathlib import Path

import click

from entrepot.cli.common import answer, check_name, config_option, json_option, run


@click.group("tenant")
def tenant_group() -> None:
    """Add and list tenants, the owners of buckets."""


@tenant_group.command("add")
@click.argument("tenant_id")
@click.option("--name", help="What people call the tenant; the id by default.")
@config_option
def add_command(*, tenant_id: str, name: str | None, config_path: Path | None) -> None:
    """Add tenant TENANT_ID, or rename it."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tenants import save_tenant
    from entrepot.config import load

    check_name(tenant_id)

    async def save() -> None:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            await save_tenant(catalog, id=tenant_id, name=name or tenant_id)

    run(save())
    click.echo(f"tenant {tenant_id} is known")


@tenant_group.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show every tenant."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.tenants import list_tenants
    from entrepot.config import load

    async def read() -> list[dict[str, object]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [asdict(tenant) for tenant in await list_tenants(catalog)]

    answer(run(read()), as_json=as_json, empty="no tenant yet; type: entrepot tenant add ID")
