"""One key at all sites, listed now: for what is guarded by what it was decided from."""

import asyncio
from collections.abc import Sequence

from entrepot.replication.merge import HISTORY_MAX, Histories
from entrepot.replication.sites import Site
from entrepot.store.protocol import Version


async def histories_of(sites: Sequence[Site], bucket: str, key: str) -> Histories:
    """All versions of ``key`` at each site, newest first; the newest ``HISTORY_MAX`` at most."""
    return tuple(await asyncio.gather(*(_history(site, bucket, key) for site in sites)))


async def _history(site: Site, bucket: str, key: str) -> tuple[Version, ...]:
    found: list[Version] = []
    async for page in site.store.versions(bucket, prefix=key):
        for version in page.versions:
            # The key is the first of those that start with it.
            if version.key != key or len(found) >= HISTORY_MAX:
                return tuple(found)
            found.append(version)
    return tuple(found)
