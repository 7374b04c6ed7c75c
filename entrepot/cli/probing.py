"""Probing a site and storing what was seen, as two commands do."""

from typing import TYPE_CHECKING

from entrepot.cli.common import open_store

if TYPE_CHECKING:
    from entrepot.catalog.connect import Catalog
    from entrepot.config import SiteSettings
    from entrepot.replication.probe import Probed


async def probe_and_store(catalog: "Catalog", site: "SiteSettings") -> "Probed":
    """What the endpoint can do, now also in the catalog, as that of this endpoint."""
    from entrepot.catalog.sites import set_capabilities, upsert_site
    from entrepot.clock import SYSTEM_CLOCK
    from entrepot.replication.probe import probe

    store = open_store(site)
    try:
        found = await probe(store)
    finally:
        await store.close()
    await upsert_site(
        catalog, name=site.name, endpoint=site.endpoint, region=site.region, rank=site.rank
    )
    await set_capabilities(
        catalog, name=site.name, capabilities=found.as_json(), probed_at=SYSTEM_CLOCK.now()
    )
    return found
