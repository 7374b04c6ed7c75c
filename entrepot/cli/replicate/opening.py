"""Sites of a rule, opened for a command that looks at them from here, without Prefect."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog
    from entrepot.config import Config, SiteSettings
    from entrepot.objects.service import Objects
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
    async with open_sites(addresses, workers=WORKERS, control=control) as sites:
        yield sites


@asynccontextmanager
async def opened_objects(
    config: "Config", names: Sequence[str], *, managed: str
) -> "AsyncGenerator[dict[str, Objects], None]":
    """The objects of these sites, where the bucket is managed at all of them; none at no site.

    Raises:
        Unsupported: it is managed at some and not at others.
    """
    from entrepot.cli.sites import chosen
    from entrepot.errors import Unsupported
    from entrepot.objects.open import open_objects

    sites = chosen(config, names)
    at = [site for site in sites if await _is_managed(site, managed)]
    if at and len(at) < len(sites):
        raise Unsupported(
            "the bucket is managed at one site and not at another",
            hint="write the bytes anew instead: entrepot object put",
            bucket=managed,
        )
    async with AsyncExitStack() as stack:
        yield {
            site.name: await stack.enter_async_context(open_objects(config, site)) for site in at
        }


async def _is_managed(site: "SiteSettings", bucket: str) -> bool:
    from entrepot.catalog.buckets import get_bucket
    from entrepot.catalog.connect import Catalog
    from entrepot.catalog.states import BucketMode
    from entrepot.errors import NotFound

    async with Catalog.open(site.database_url, pool_size=1) as catalog:
        try:
            return (await get_bucket(catalog, name=bucket)).mode is BucketMode.MANAGED
        except NotFound:
            return False
