"""``entrepot deploy``: catalogs migrated, sites probed, blocks and deployments registered."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from entrepot.cli.common import config_option, run
from entrepot.cli.probing import probe_and_store

if TYPE_CHECKING:
    from entrepot.config import Config


def _say(line: str) -> None:
    click.echo(f"  {line}", err=True)


@click.command("deploy")
@config_option
def deploy_command(*, config_path: Path | None) -> None:
    """Bring config.yaml to Postgres and Prefect; may be run again at any time.

    Migrates the control catalog and each site's, probes what each endpoint can do, and registers
    blocks, the work pool with its queues, and the deployments with their schedules.
    """
    from entrepot.config import load

    deploy(load(config_path))
    click.echo("deployed: replicate/nightly, account_usage/hourly, check_catalog/daily")


def deploy(config: "Config", *, progress: Callable[[str], None] = _say) -> None:
    """All of it, with a line for each step."""
    import os

    from deployments.register import register
    from entrepot.embedded.prefect_server import without_prefect

    found = run(_prepare(config, progress))
    register(config, capabilities=found, env=without_prefect(os.environ), progress=progress)


async def _prepare(config: "Config", progress: Callable[[str], None]) -> dict[str, list[str]]:
    """Migrate every catalog and probe every site; returns each site's capabilities."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.migrate import CatalogKind, migrate

    progress("catalogs")
    await migrate(config.database_url(), kind=CatalogKind.CONTROL)
    for site in config.sites():
        await migrate(site.database_url, kind=CatalogKind.SITE)
    found = {}
    async with Catalog.open(config.database_url()) as catalog:
        for site in config.sites():
            progress(f"site {site.name}")
            probed = await probe_and_store(catalog, site)
            found[site.name] = sorted(map(str, probed.capabilities))
    return found
