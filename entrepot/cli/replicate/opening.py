"""Sites of a rule, opened for a command that looks at them from here, without Prefect."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog
    from entrepot.config import Config
    from entrepot.replication.sites import Site

WORKERS = 16


@asynccontextmanager
async def opened_sites(
    config: "Config", control: "Catalog", names: Sequence[str]
) -> "AsyncGenerator[tuple[Site, ...], None]":
    """The sites of these names (all where there are none) by rank, as they were probed.

    Raises:
        InvalidInput: a site is not among the settings.
    """
    from entrepot.catalog.sites import list_sites
    from entrepot.cli.sites import chosen
    from entrepot.replication.run import Address, open_sites
    from entrepot.store.protocol import Capability

    known = {
        site.name: frozenset(filter(site.can, Capability)) for site in await list_sites(control)
    }
    addresses = [
        Address(
            name=site.name,
            rank=site.rank,
            endpoint=site.endpoint,
            region=site.region,
            access_key=site.access_key,
            secret_key=site.secret_key,
            capabilities=known.get(site.name, frozenset()),
        )
        for site in chosen(config, names)
    ]
    async with open_sites(addresses, workers=WORKERS) as sites:
        yield sites
