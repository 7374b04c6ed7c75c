"""``entrepot replicate rule``: which buckets are kept equal across which sites."""

from pathlib import Path
from typing import Any

import click

from entrepot.cli.common import answer, check_name, config_option, json_option, run


@click.group("rule")
def rule_group() -> None:
    """Which buckets are kept equal across which sites."""


@rule_group.command("add")
@click.argument("name")
@click.option("--bucket", "buckets", multiple=True, required=True, help="May be repeated.")
@click.option("--site", "sites", multiple=True, help="Two or more; every site by default.")
@click.option("--prefix", default="", help="Only keys that start with this.")
@config_option
def add_command(
    *,
    name: str,
    buckets: tuple[str, ...],
    sites: tuple[str, ...],
    prefix: str,
    config_path: Path | None,
) -> None:
    """Add rule NAME, or change it."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import save_rule
    from entrepot.catalog.sites import list_sites
    from entrepot.config import load
    from entrepot.errors import InvalidInput
    from entrepot.store.check import check_bucket

    check_name(name)
    for bucket in buckets:
        check_bucket(bucket)

    async def save() -> tuple[str, ...]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            known = tuple(site.name for site in await list_sites(catalog))
            if unknown := sorted(set(sites) - set(known)):
                raise InvalidInput(
                    f"there is no site {unknown[0]}", hint=f"one of: {', '.join(known)}"
                )
            rule = await save_rule(
                catalog, name=name, buckets=buckets, sites=sites or known, prefix=prefix
            )
            return rule.sites

    click.echo(f"rule {name}: {', '.join(buckets)} at {', '.join(run(save()))}")


@rule_group.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show every rule."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import list_rules
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [
                {
                    "name": rule.name,
                    "buckets": rule.buckets,
                    "prefix": rule.prefix,
                    "sites": rule.sites,
                    "enabled": rule.enabled,
                }
                for rule in await list_rules(catalog)
            ]

    answer(run(read()), as_json=as_json, empty="no rule yet; type: entrepot replicate rule add")


@rule_group.command("remove")
@click.argument("name")
@config_option
def remove_command(*, name: str, config_path: Path | None) -> None:
    """Forget rule NAME. No object is touched."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.rules import delete_rule
    from entrepot.config import load

    async def remove() -> None:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            await delete_rule(catalog, name=name)

    run(remove())
    click.echo(f"rule {name} is gone; its buckets stay as they are")
