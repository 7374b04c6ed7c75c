"""One site for the tests of a session, with a catalog of its own; a bucket for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.objects.service import Objects
from tests.objects.worlds import new_bucket_name, objects_of, s3_store
from tests.replication.stream.worlds import Place, site_of


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def site_dsn(postgres: PostgresServer) -> str:
    """A migrated site catalog."""
    dsn = postgres.create_database("objects_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    return dsn


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys")
    path.chmod(0o700)
    return path


@pytest_asyncio.fixture
async def objects(site_dsn: str, minio_a: MinioServer, keys_dir: Path) -> AsyncIterator[Objects]:
    store = s3_store(minio_a)
    try:
        async with objects_of(site_dsn, store, keys_dir) as objects:
            yield objects
    finally:
        await store.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def other_dsn(postgres: PostgresServer) -> str:
    dsn = postgres.create_database("receive_test")
    await migrate(dsn, kind=CatalogKind.SITE)
    return dsn


@pytest_asyncio.fixture
async def there(other_dsn: str, minio_b: MinioServer, keys_dir: Path) -> AsyncIterator[Objects]:
    """Another site, with the same keys."""
    store = s3_store(minio_b)
    try:
        async with site_of(Place("site-b", other_dsn, store), keys_dir) as objects:
            yield objects
    finally:
        await store.close()


KINDS = {
    "plain": {},
    "encrypted": {"encrypted": True},
    "compressed": {"compressed": True},
    "both": {"encrypted": True, "compressed": True},
}


@pytest_asyncio.fixture(params=list(KINDS))
async def bucket(objects: Objects, request: pytest.FixtureRequest) -> str:
    """A managed bucket of each kind."""
    name = new_bucket_name()
    await objects.create_bucket(name, tenant_id="acme", **KINDS[request.param])
    return name


@pytest_asyncio.fixture
async def plain(objects: Objects) -> str:
    """A managed bucket whose objects lie as they came."""
    name = new_bucket_name()
    await objects.create_bucket(name, tenant_id="acme")
    return name
