"""``entrepot site``: the endpoints of the platform."""

from pathlib import Path

import click

from entrepot.cli.common import answer, config_option, json_option, open_store, run


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

    async def read() -> list[dict[str, object]]:
        async with Catalog.open(load(config_path).database_url()) as catalog:
            return [
                {
                    "name": site.name,
                    "rank": site.rank,
                    "endpoint": site.endpoint,
                    "region": site.region,
                    "capabilities": sorted(site.capabilities),
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
    """Find out what the endpoint of site NAME can do, in a scratch bucket that is removed."""
    from entrepot.config import load
    from entrepot.errors import InvalidInput
    from entrepot.replication.sites import probe
    from entrepot.store.protocol import Capability

    sites = {site.name: site for site in load(config_path).sites()}
    if name not in sites:
        raise InvalidInput(f"there is no site {name}", hint=f"one of: {', '.join(sites)}")

    async def ask() -> list[dict[str, object]]:
        store = open_store(sites[name])
        try:
            found = await probe(store)
        finally:
            await store.close()
        return [{"capability": str(each), "can": each in found} for each in Capability]

    answer(run(ask()), as_json=as_json, empty="")
