"""The objects of a site of the settings, ready for use."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Final

from entrepot.catalog.connect import Catalog
from entrepot.catalog.rules import list_rules
from entrepot.catalog.sites import get_site
from entrepot.codec.keys.open import open_ring
from entrepot.config import Config, SiteSettings
from entrepot.errors import NotFound
from entrepot.metrics import Metrics
from entrepot.objects.ground import Ground, Limits
from entrepot.objects.peers import Opener, Peers
from entrepot.objects.service import Objects
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store

PATIENCE_S: Final = 10.0
"""How long a peer's store may say nothing while a reader waits."""


@asynccontextmanager
async def open_objects(
    config: Config,
    site: SiteSettings,
    *,
    limits: Limits | None = None,
    max_connections: int = 32,
    pool_size: int = 6,
    metrics: Metrics | None = None,
) -> AsyncGenerator[Objects, None]:
    """Connect to a site's store, its catalog and the key ring, and recover what others left.

    What the site can do is read from the control catalog, where a probe put it. ``metrics`` are
    those that the peers' reads are counted in.
    """
    async with (
        Catalog.open(config.database_url(), pool_size=1) as control,
        open_ground(
            config, site, limits=limits, max_connections=max_connections, pool_size=pool_size
        ) as ground,
    ):
        ground.capabilities = await _capabilities(control, site.name)
        await control.close()  # it connects anew if a read misses
        peers = Peers(lambda: list_rules(control), _opener(config, control), metrics=metrics)
        min_size = config.caching.compression.min_size
        async with (
            aclosing(peers),
            Objects.open(ground, min_size_bytes=min_size, peers=peers) as objects,
        ):
            yield objects


async def _capabilities(control: Catalog, name: str) -> frozenset[Capability]:
    known = await get_site(control, name=name)
    return frozenset(filter(known.can, Capability))


def _opener(config: Config, control: Catalog) -> Opener:
    settings = {each.name: each for each in config.sites()}

    @asynccontextmanager
    async def opened(name: str) -> AsyncGenerator[Ground, None]:
        if name not in settings:
            raise NotFound("the site is not in the settings", site=name)
        async with open_ground(
            config, settings[name], max_connections=8, pool_size=2, patience_s=PATIENCE_S
        ) as ground:
            ground.capabilities = await _capabilities(control, name)
            yield ground

    return opened


@asynccontextmanager
async def open_ground(
    config: Config,
    site: SiteSettings,
    *,
    limits: Limits | None = None,
    max_connections: int = 16,
    pool_size: int = 4,
    patience_s: float = 60.0,
) -> AsyncGenerator[Ground, None]:
    """A site for upkeep, to be started: the control catalog is not asked, which may be lost.

    ``patience_s`` is how long the store may say nothing.
    """
    async with AsyncExitStack() as stack:
        store = RetryStore(
            S3Store(
                endpoint=site.endpoint,
                access_key=site.access_key,
                secret_key=site.secret_key,
                region=site.region,
                max_connections=max_connections,
                read_timeout_s=patience_s,
            )
        )
        stack.push_async_callback(store.close)
        ring = await asyncio.to_thread(open_ring, config)
        stack.push_async_callback(ring.close)
        catalog = await stack.enter_async_context(
            Catalog.open(site.database_url, pool_size=pool_size)
        )
        yield Ground(site.name, store, catalog, ring, frozenset(), limits=limits or Limits())
