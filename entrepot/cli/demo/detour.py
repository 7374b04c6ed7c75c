"""A way from the worker to one site that the demo can cut; its users go straight there.

It needs no root: a TCP proxy stands before the site, and the site's block in Prefect, from which a
flow run learns where a site is, names the proxy while the chapter lasts.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx

from entrepot.embedded.stack import SiteEndpoint, StackInfo
from entrepot.testing.proxy import BreakableProxy


@asynccontextmanager
async def detour(info: StackInfo, site: SiteEndpoint) -> AsyncIterator[BreakableProxy]:
    """While it lasts, runs that begin reach the site by this proxy."""
    place = urlsplit(site.endpoint)
    assert place.hostname and place.port
    user, _, password = info.prefect_auth.get_secret_value().partition(":")
    async with (
        BreakableProxy(place.hostname, place.port) as proxy,
        httpx.AsyncClient(
            base_url=info.prefect_api_url, auth=(user, password), trust_env=False
        ) as prefect,
    ):
        await _point(prefect, site.name, proxy.endpoint)
        try:
            yield proxy
        finally:
            await _point(prefect, site.name, site.endpoint)


async def _point(prefect: httpx.AsyncClient, site: str, endpoint: str) -> None:
    path = f"/block_types/slug/entrepot-site/block_documents/name/{site}"
    found = (await prefect.get(path)).raise_for_status().json()
    change = {"data": {"endpoint": endpoint}, "merge_existing_data": True}
    (await prefect.patch(f"/block_documents/{found['id']}", json=change)).raise_for_status()
