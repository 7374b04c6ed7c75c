"""A site with managed buckets on real servers: MinIO, a migrated Postgres catalog, a key ring."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from entrepot.catalog.connect import Catalog
from entrepot.clock import SYSTEM_CLOCK, Clock, new_id
from entrepot.codec.keys.local import LocalRoot
from entrepot.codec.keys.ring import KeyRing
from entrepot.embedded.minio import MinioServer
from entrepot.objects.ground import Ground, Limits
from entrepot.objects.service import Objects
from entrepot.store.protocol import Capability, Store
from entrepot.store.s3 import S3Store

ALL = frozenset(Capability)
QUICK = Limits(lease_s=2.0, recover_every_s=0.5)
SLOW = Limits(lease_s=600.0, recover_every_s=600.0)
"""Leases that no test outlives: nothing is recovered unless the test asks."""


def s3_store(server: MinioServer) -> S3Store:
    return S3Store(
        endpoint=server.endpoint, access_key=server.access_key, secret_key=server.secret_key
    )


def key_ring(directory: Path) -> KeyRing:
    root = directory / "root.key"
    if not root.exists():
        LocalRoot.create_file(root)
    return KeyRing(directory / "ring", LocalRoot.from_file(root))


@asynccontextmanager
async def ground_of(
    dsn: str,
    store: Store,
    keys: Path,
    *,
    limits: Limits = SLOW,
    clock: Clock = SYSTEM_CLOCK,
) -> AsyncGenerator[Ground, None]:
    """A site that one process works on; several may stand on the same servers."""
    async with Catalog.open(dsn, pool_size=6) as catalog:
        ring = key_ring(keys)
        try:
            yield Ground("site-a", store, catalog, ring, ALL, limits=limits, clock=clock)
        finally:
            await ring.close()


@asynccontextmanager
async def objects_of(
    dsn: str,
    store: Store,
    keys: Path,
    *,
    limits: Limits = SLOW,
    clock: Clock = SYSTEM_CLOCK,
    min_size_bytes: int = 1_000_000,
) -> AsyncGenerator[Objects, None]:
    """The service over such a site."""
    async with (
        ground_of(dsn, store, keys, limits=limits, clock=clock) as ground,
        Objects.open(ground, min_size_bytes=min_size_bytes) as objects,
    ):
        yield objects


def new_bucket_name() -> str:
    return f"test-{new_id().hex[:20]}"


async def pieces(body: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
