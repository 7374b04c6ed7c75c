"""Three sites for the tests of a session, each with a MinIO and a catalog; a control catalog."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.embedded.minio import MinioServer
from entrepot.embedded.postgres import PostgresServer
from tests.objects.worlds import s3_store
from tests.replication.stream.worlds import Place, World, site_of

NAMES = ("site-a", "site-b", "site-c")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def dsns(postgres: PostgresServer) -> dict[str, str]:
    """The catalogs of the sites, and ``control``."""
    found = {}
    for name in (*NAMES, "control"):
        found[name] = postgres.create_database(f"stream_{name.replace('-', '_')}")
        kind = CatalogKind.CONTROL if name == "control" else CatalogKind.SITE
        await migrate(found[name], kind=kind)
    return found


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream-keys")
    path.chmod(0o700)
    return path


@pytest_asyncio.fixture
async def world(
    dsns: dict[str, str],
    minio_a: MinioServer,
    minio_b: MinioServer,
    minio_c: MinioServer,
    keys_dir: Path,
) -> AsyncIterator[World]:
    """Three sites, and nothing that waits at any of them."""
    async with AsyncExitStack() as stack:
        sites = {}
        for name, server in zip(NAMES, (minio_a, minio_b, minio_c), strict=True):
            store = s3_store(server)
            stack.push_async_callback(store.close)
            place = Place(name, dsns[name], store)
            sites[name] = await stack.enter_async_context(site_of(place, keys_dir))
        control = await stack.enter_async_context(Catalog.open(dsns["control"]))
        yield World(sites, control, dsns["control"])
