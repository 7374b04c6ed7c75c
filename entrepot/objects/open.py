"""The objects of a site of the settings, ready for use."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from entrepot.catalog.connect import Catalog
from entrepot.catalog.sites import get_site
from entrepot.codec.keys.open import open_ring
from entrepot.config import Config, SiteSettings
from entrepot.objects.ground import Ground, Limits
from entrepot.objects.service import Objects
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store


@asynccontextmanager
async def open_objects(
    config: Config,
    site: SiteSettings,
    *,
    limits: Limits | None = None,
    max_connections: int = 32,
    pool_size: int = 6,
) -> AsyncGenerator[Objects, None]:
    """Connect to a site's store, its catalog and the key ring, and recover what others left.

    What the site can do is read from the control catalog, where a probe put it.
    """
    async with Catalog.open(config.database_url(), pool_size=1) as control:
        known = await get_site(control, name=site.name)
    async with open_ground(
        config, site, limits=limits, max_connections=max_connections, pool_size=pool_size
    ) as ground:
        ground.capabilities = frozenset(filter(known.can, Capability))
        min_size = config.caching.compression.min_size
        async with Objects.open(ground, min_size_bytes=min_size) as objects:
            yield objects


@asynccontextmanager
async def open_ground(
    config: Config,
    site: SiteSettings,
    *,
    limits: Limits | None = None,
    max_connections: int = 16,
    pool_size: int = 4,
) -> AsyncGenerator[Ground, None]:
    """A site for upkeep, to be started: the control catalog is not asked, which may be lost."""
    async with AsyncExitStack() as stack:
        store = RetryStore(
            S3Store(
                endpoint=site.endpoint,
                access_key=site.access_key,
                secret_key=site.secret_key,
                region=site.region,
                max_connections=max_connections,
            )
        )
        stack.push_async_callback(store.close)
        ring = await asyncio.to_thread(open_ring, config)
        stack.push_async_callback(ring.close)
        catalog = await stack.enter_async_context(
            Catalog.open(site.database_url, pool_size=pool_size)
        )
        yield Ground(site.name, store, catalog, ring, frozenset(), limits=limits or Limits())
