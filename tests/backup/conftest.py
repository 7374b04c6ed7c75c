"""One site with a catalog of its own, and vaults in a second MinIO."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.objects.service import Objects
from entrepot.store.protocol import Capability
from entrepot.vault.keys import Cutting
from entrepot.vault.place import VaultPlace
from entrepot.vault.repository import Vault
from tests.objects.worlds import new_bucket_name, objects_of, s3_store

SMALL = Cutting(min_bytes=1024, average_bytes=4096, max_bytes=16384, pack_bytes=64 * 1024)
"""So that a few KB are many chunks and several packs."""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def backup_dsn(postgres: PostgresServer) -> str:
    """A migrated site catalog."""
    dsn = postgres.create_database("backup_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    return dsn


@pytest.fixture(scope="session")
def backup_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backup-keys")
    path.chmod(0o700)
    return path


@pytest_asyncio.fixture
async def objects(
    backup_dsn: str, minio_a: MinioServer, backup_keys: Path
) -> AsyncIterator[Objects]:
    store = s3_store(minio_a)
    try:
        async with objects_of(backup_dsn, store, backup_keys) as objects:
            yield objects
    finally:
        await store.close()


@pytest_asyncio.fixture
async def place(minio_b: MinioServer) -> AsyncIterator[VaultPlace]:
    """An empty bucket for a vault."""
    store = s3_store(minio_b)
    name = new_bucket_name()
    await store.create(name, versioned=False)
    try:
        yield VaultPlace(store, name, "vaults/one/", frozenset(Capability))
    finally:
        await store.close()


@pytest_asyncio.fixture
async def vault(place: VaultPlace, objects: Objects) -> Vault:
    """A new vault that cuts small."""
    return await Vault.create(place, objects.ground.ring, cutting=SMALL)
