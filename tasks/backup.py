"""The steps of a backup, a task each."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from prefect import task

from entrepot.backup.back_up import Backed, back_up
from entrepot.backup.open import open_vault
from entrepot.catalog.buckets import list_buckets
from entrepot.catalog.sites import list_sites
from entrepot.config import load
from entrepot.objects.source import bucket_source
from entrepot.store.protocol import Capability
from tasks.library import catalog, objects, run
from tasks.replication import RETRY, SHORT_S

READS_AT_ONCE: Final = 16


@task(task_run_name="buckets of {site}", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def buckets_of(site: str) -> tuple[str, ...]:
    """The buckets that the site catalog knows, by name."""

    async def read() -> tuple[str, ...]:
        return tuple(sorted(each.name for each in await list_buckets(await catalog(site))))

    return run(read())


@task(task_run_name="vaults", tags=["entrepot"], timeout_seconds=SHORT_S, **RETRY)
def vault_names() -> list[str]:
    """The vaults of the worker's settings."""
    return [each.name for each in load().backup.vaults]


@task(task_run_name="back up {site}", tags=["entrepot"], **RETRY)
def back_up_site(
    site: str, buckets: Sequence[str], *, prefixes: Sequence[str], vaults: Sequence[str]
) -> list[Backed]:
    """A snapshot of some buckets of a site in every vault."""
    return run(_back_up(site, buckets, tuple(prefixes), vaults))


async def _back_up(
    site: str, buckets: Sequence[str], prefixes: tuple[str, ...], vaults: Sequence[str]
) -> list[Backed]:
    config = await asyncio.to_thread(load)
    known = {each.name: each for each in await list_sites(await catalog())}
    ground = (await objects(site)).ground
    sources = [await bucket_source(ground, name, prefixes=prefixes) for name in buckets]
    async with AsyncExitStack() as stack:
        opened = []
        for name in vaults:
            place = known.get(config.vault(name).site)
            can = frozenset(filter(place.can, Capability)) if place else frozenset()
            opened.append(
                await stack.enter_async_context(open_vault(config, name, capabilities=can))
            )
        return await back_up(opened, sources, tags={"site": site}, parallel=READS_AT_ONCE)
