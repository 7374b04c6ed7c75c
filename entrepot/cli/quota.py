"""``entrepot quota``: what tenants hold."""

from pathlib import Path
from typing import Any

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.flowrun import start, wait_option

DEPLOYMENT = "account_usage/hourly"


@click.group("quota")
def quota_group() -> None:
    """Count and show what tenants hold."""


@quota_group.command("account")
@click.option("--site", "sites", multiple=True, help="Only this site; may be repeated.")
@wait_option
@config_option
@json_option
def account_command(
    *, sites: tuple[str, ...], wait: bool, config_path: Path | None, as_json: bool
) -> None:
    """Count every bucket now, as a Prefect run, and record it in Postgres."""
    from entrepot.config import load

    parameters = {"sites": list(sites)}
    run(start(load(config_path), DEPLOYMENT, parameters=parameters, wait=wait, as_json=as_json))


@quota_group.command("usage")
@click.option("--tenant", "tenant_id", help="Only this tenant.")
@click.option(
    "--as-of",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S"]),
    help="The account that held then (UTC); the latest by default.",
)
@config_option
@json_option
def usage_command(
    *, tenant_id: str | None, as_of: Any, config_path: Path | None, as_json: bool
) -> None:
    """Show usage by tenant, bucket and prefix at every site, in bytes."""
    from dataclasses import asdict
    from datetime import UTC

    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.usage import latest_usage, usage_as_of
    from entrepot.config import load

    async def read() -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for site in load(config_path).sites():
            async with Catalog.open(site.database_url) as catalog:
                usage = (
                    # To the end of the second that is named, which is how accounts are shown.
                    await usage_as_of(catalog, when=as_of.replace(microsecond=999_999, tzinfo=UTC))
                    if as_of
                    else await latest_usage(catalog)
                )
            when = f"{usage.as_of:%Y-%m-%d %H:%M:%S}" if usage else ""
            rows += [
                {"site": site.name, "as_of": when, **asdict(row)}
                for row in (usage.rows if usage else ())
                if tenant_id in (None, row.tenant_id)
            ]
        return rows

    empty = f"nothing counted for tenant {tenant_id}" if tenant_id else "nothing counted"
    answer(run(read()), as_json=as_json, empty=f"{empty}; type: entrepot quota account")
