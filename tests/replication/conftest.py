"""A third real MinIO, and worlds of two or three sites over the session's servers."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import SecretStr

from entrepot.catalog.connect import Catalog
from entrepot.catalog.migrate import CatalogKind, migrate
from entrepot.clock import new_token
from entrepot.embedded.minio import MinioCredentials, MinioServer
from entrepot.embedded.postgres import PostgresServer
from entrepot.embedded.versity import VersityServer
from entrepot.replication.policy import Policy
from tests.replication.namespaces import Archipelago, archipelago
from tests.replication.worlds import World

MakeWorld = Callable[..., World]


@pytest.fixture(scope="session")
def minio_c(servers_dir: Path) -> Iterator[MinioServer]:
    """A third running MinIO."""
    server = MinioServer(
        servers_dir / "minio-c", MinioCredentials(new_token(8), SecretStr(new_token(24)))
    )
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def versity(servers_dir: Path) -> Iterator[VersityServer]:
    """A running server that is not MinIO, and chooses version ids and times itself."""
    server = VersityServer(
        servers_dir / "versity", MinioCredentials(new_token(8), SecretStr(new_token(24)))
    )
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="session")
def islands() -> Iterator[Archipelago]:
    """Three MinIO servers, each in a network namespace of its own."""
    with archipelago("site-a", "site-b", "site-c") as found:
        yield found


@pytest.fixture
async def worlds(
    minio_a: MinioServer, minio_b: MinioServer, minio_c: MinioServer
) -> AsyncIterator[MakeWorld]:
    """Makes worlds with a new bucket each, and closes them."""
    made: list[World] = []

    def make(*, sites: int = 2, **more: object) -> World:
        servers = (minio_a, minio_b, minio_c)[:sites]
        made.append(World(servers, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for world in made:
        await world.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control_dsn(postgres: PostgresServer) -> SecretStr:
    dsn = postgres.create_database("replication_test")
    await migrate(dsn, kind=CatalogKind.CONTROL)
    return dsn


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def control(control_dsn: SecretStr) -> AsyncIterator[Catalog]:
    """One control catalog; every test has a bucket, and so a job, of its own."""
    async with Catalog.open(control_dsn, pool_size=8) as catalog:
        yield catalog


@pytest.fixture
def ruled(control: Catalog, worlds: MakeWorld) -> Callable[..., Any]:
    def make(policy: Policy | None = None, **more: Any) -> Any:
        from tests.replication.ruled import Ruled

        made = Ruled(control, worlds(**more))
        made.policy = policy or Policy()
        return made

    return make
