"""A vault of the settings, ready for use; and the store it lies in, where there is none yet."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from entrepot.codec.keys.open import open_ring
from entrepot.codec.keys.ring import KeyRing
from entrepot.config import Config
from entrepot.store.protocol import Capability
from entrepot.store.retry import RetryStore
from entrepot.store.s3 import S3Store
from entrepot.vault.place import VaultPlace
from entrepot.vault.repository import Vault


@asynccontextmanager
async def open_place(
    config: Config,
    name: str,
    *,
    capabilities: frozenset[Capability] = frozenset(),
    max_connections: int = 16,
) -> AsyncGenerator[VaultPlace, None]:
    """Where a vault of the settings lies, by its own credentials. No Postgres is asked.

    ``capabilities`` of the endpoint only make writing quicker.
    """
    said = config.vault(name)
    store = RetryStore(
        S3Store(
            endpoint=said.endpoint,
            access_key=said.access_key,
            secret_key=said.secret_key,
            region=said.region,
            max_connections=max_connections,
        )
    )
    try:
        yield VaultPlace(store, said.bucket, said.prefix, capabilities)
    finally:
        await store.close()


@asynccontextmanager
async def open_ring_of(config: Config) -> AsyncGenerator[KeyRing, None]:
    """The key ring of the settings."""
    ring = await asyncio.to_thread(open_ring, config)
    try:
        yield ring
    finally:
        await ring.close()


@asynccontextmanager
async def open_vault(
    config: Config,
    name: str,
    *,
    capabilities: frozenset[Capability] = frozenset(),
    max_connections: int = 16,
) -> AsyncGenerator[Vault, None]:
    """A vault of the settings, opened with the key ring; ``SetupError`` where there is none."""
    async with (
        open_place(
            config, name, capabilities=capabilities, max_connections=max_connections
        ) as place,
        open_ring_of(config) as ring,
    ):
        yield await Vault.open(place, ring)
