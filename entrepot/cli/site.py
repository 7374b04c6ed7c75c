"""``entrepot site``: the endpoints of the platform."""

from pathlib import Path

import click

from entrepot.cli.common import answer, config_option, json_option, run
from entrepot.cli.probing import probe_and_store


@click.group("site")
def site_group() -> None:
    """List and probe sites. They are set in config.yaml under replication.regions."""


@site_group.command("list")
@config_option
@json_option
def list_command(*, config_path: Path | None, as_json: bool) -> None:
    """Show every site with its rank and what its endpoint was probed to do."""
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.sites import list_sites
    from entrepot.config import load
    from entrepot.store.protocol import Capability

    async def read() -> list[dict[str, object]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [
                {
                    "name": site.name,
                    "rank": site.rank,
                    "endpoint": site.endpoint,
                    "region": site.region,
                    "capabilities": sorted(filter(site.can, Capability)),
                    "probed_at": site.probed_at,
                }
                for site in await list_sites(catalog)
            ]

    answer(run(read()), as_json=as_json, empty="no site yet; type: entrepot deploy")


@site_group.command("probe")
@click.argument("name")
@config_option
@json_option
def probe_command(*, name: str, config_path: Path | None, as_json: bool) -> None:
    """Find out what the endpoint of site NAME can do, and store it with what was seen.

    It is tried in scratch buckets that are removed again: write, list, keep versions, write on
    condition, keep ids and times of ours, tags, batches, locks.
    """
    from entrepot.catalog.connect import Catalog
    from entrepot.config import load
    from entrepot.errors import InvalidInput
    from entrepot.replication.probe import Probed

    config = load(config_path)
    sites = {site.name: site for site in config.sites()}
    if name not in sites:
        raise InvalidInput(f"there is no site {name}", hint=f"one of: {', '.join(sites)}")

    async def ask() -> Probed:
        async with Catalog.open(config.database_url()) as catalog:
            return await probe_and_store(catalog, sites[name])

    rows = [
        {"capability": capability, "can": found.can, "saw": found.saw}
        for capability, found in run(ask()).findings.items()
    ]
    answer(rows, as_json=as_json, empty="")
