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
    store = RetryStore(
        S3Store(
            endpoint=site.endpoint,
            access_key=site.access_key,
            secret_key=site.secret_key,
            region=site.region,
            max_connections=max_connections,
        )
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        ring = await asyncio.to_thread(open_ring, config)
        stack.push_async_callback(ring.close)
        ground = Ground(
            site.name,
            store,
            await stack.enter_async_context(Catalog.open(site.database_url, pool_size=pool_size)),
            ring,
            frozenset(Capability(name) for name, can in known.capabilities.items() if can),
            limits=limits or Limits(),
        )
        min_size = config.caching.compression.min_size
        yield await stack.enter_async_context(Objects.open(ground, min_size_bytes=min_size))
